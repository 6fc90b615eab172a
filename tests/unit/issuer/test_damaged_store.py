"""A damaged or older session store never revives a token (F20)."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from issuer.errors import StoreUnavailable
from issuer.store import Selection, Session
from issuer.store.sessions import Sessions
from tests.support.stores import sessions_in

NOW = int(time.time())
PAGE = 4096
MANY = 10_000


def session(name: str) -> Session:
    return Session(name.rjust(22, "A"), "AGNRTEST01", "agent_reasoning", NOW, NOW + 3600, "f")


def filled(path: Path) -> Sessions:
    store = sessions_in(path)
    for number in range(60):
        store.add(session(f"kept{number}"), MANY, NOW)
        store.add(session(f"gone{number}"), MANY, NOW)
        store.revoke(Selection(jti=session(f"gone{number}").jti), NOW)
    return store


def revived(store: Sessions) -> list[str]:
    found = store.live_after("", NOW, MANY)
    return [one.jti for one in found if "gone" in one.jti and one.is_active(NOW)]


def copy_of_file(store: Sessions, folder: Path) -> bytes:
    """The store's content as one file, without its log beside it."""
    path = folder / "one-file.db"
    store.backup(path)
    return path.read_bytes()


def test_f20_a_truncated_store_is_refused_or_revives_nothing(tmp_path: Path) -> None:
    whole = copy_of_file(filled(tmp_path / "sessions.db"), tmp_path)
    assert len(whole) > 4 * PAGE
    refused = 0
    for size in range(0, len(whole), PAGE):
        path = tmp_path / f"cut-{size}.db"
        path.write_bytes(whole[:size])
        try:
            store = sessions_in(path)
            store.check()
        except StoreUnavailable:
            refused += 1
            continue
        assert revived(store) == []
    assert refused >= len(whole) // PAGE - 1


def test_f20_a_store_of_random_pages_is_refused(tmp_path: Path) -> None:
    whole = bytearray(copy_of_file(filled(tmp_path / "sessions.db"), tmp_path))
    dice = random.Random(20)
    for page in range(0, len(whole), PAGE):
        damaged = bytearray(whole)
        damaged[page : page + PAGE] = dice.randbytes(PAGE)
        path = tmp_path / f"page-{page}.db"
        path.write_bytes(damaged)
        with pytest.raises(StoreUnavailable):
            sessions_in(path).check()


def test_f20_a_restored_backup_revokes_all_it_holds(tmp_path: Path) -> None:
    store = filled(tmp_path / "sessions.db")
    epoch = store.epoch()
    store.backup(tmp_path / "backup.db")
    store.revoke(Selection(jti=session("kept1").jti), NOW)
    store.add(session("newer"), MANY, NOW)
    store.restore(tmp_path / "backup.db")
    assert store.count_active(NOW) == 0
    assert store.find(session("newer").jti) is None
    assert store.epoch() != epoch


def test_f20_a_backup_put_in_place_as_a_file_revokes_all_it_holds(tmp_path: Path) -> None:
    store = filled(tmp_path / "sessions.db")
    store.backup(tmp_path / "backup.db")
    opened = sessions_in(tmp_path / "backup.db")
    assert opened.count_active(NOW) == 0
    assert opened.epoch() != store.epoch()
    again = sessions_in(tmp_path / "backup.db")
    assert again.epoch() == opened.epoch(), "it begins its own history once"


def test_a_restore_of_what_is_no_backup_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "sessions.db")
    (tmp_path / "text.db").write_text("no database" * 1000)
    for name in ("text.db", "missing.db"):
        with pytest.raises(StoreUnavailable):
            store.restore(tmp_path / name)
    assert store.count_active(NOW) == 60


def test_a_backup_can_be_made_while_others_write(tmp_path: Path) -> None:
    store = filled(tmp_path / "sessions.db")
    other = sessions_in(tmp_path / "sessions.db")
    other.add(replace(session("meanwhile")), MANY, NOW)
    store.backup(tmp_path / "backup.db")
    assert sessions_in(tmp_path / "backup.db").find(session("meanwhile").jti) is not None
    assert (tmp_path / "backup.db").stat().st_mode & 0o777 == 0o600
