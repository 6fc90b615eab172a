"""What every session store promises (`issuer/store/__init__.py`), asked of each there is."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import Connection, TextClause, text

from issuer.audit import ITSELF, SERVER_BACK, SERVER_OUT, Event
from issuer.errors import CapacityReached, StoreUnavailable, TooManyTokens
from issuer.store import (
    KEPT_SECONDS,
    OF_API_KEY,
    Addition,
    ApiKey,
    Ending,
    Selection,
    Session,
    StoredPolicy,
    TakenOut,
)
from issuer.store.sessions import Sessions, open_sessions
from issuer.store.usage import Usage
from tests.support.postgresql import Cluster
from tests.support.stores import sessions_in

NOW = 1_800_000_000
MANY = 1_000_000
ROOT = Path(__file__).resolve().parents[2]
PROCESSES = multiprocessing.get_context("spawn")


@dataclass
class Place:
    """Where one store lives; every `open` is a new client of it."""

    url: str

    def open(self) -> Sessions:
        return open_sessions(self.url)


@pytest.fixture
def place(url: str) -> Place:
    return Place(url)


@pytest.fixture
def store(place: Place) -> Sessions:
    return place.open()


def _scalar(question: TextClause, connection: Connection) -> object:
    return connection.scalar(question)


def session(
    name: object, subject: str = "USRSalice", role: str = "user", ends: int = 900
) -> Session:
    return Session(str(name).rjust(22, "A"), subject, role, NOW, NOW + ends, f"print {subject}")


def key(name: object, subject: str = "USRSalice", ends: int = 900, *models: str) -> Session:
    """The session of an API key."""
    made = ApiKey(f"digest of {name}", f"key {name}", models, "the tests")
    key_id = str(name).rjust(16, "A")
    return Session(key_id, subject, "user", NOW, NOW + ends, OF_API_KEY, api_key=made)


def add(store: Sessions, *names: object) -> None:
    for name in names:
        store.add(session(name), MANY, NOW)


def names(sessions: object) -> list[str]:
    assert isinstance(sessions, list)
    return [one.jti.lstrip("A") for one in sessions]


def in_processes(count: int, work: Callable[..., None], *arguments: object) -> list[BaseProcess]:
    started = [PROCESSES.Process(target=work, args=(number, *arguments)) for number in range(count)]
    for process in started:
        process.start()
    return list(started)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def add_and_die(_: int, place: Place) -> None:
    store = place.open()
    store.add(session("added"), MANY, NOW)
    store.add(session("revoked"), MANY, NOW)
    store.revoke(Selection(jti=session("revoked").jti), NOW)
    os.kill(os.getpid(), signal.SIGKILL)


def add_some(number: int, place: Place, each: int) -> None:
    store = place.open()
    for index in range(each):
        store.add(session(f"p{number}-{index}"), MANY, NOW)


def try_to_add(number: int, place: Place, threads: int, each: int, most: int) -> None:
    store = place.open()

    def work(thread: int) -> None:
        for index in range(each):
            try:
                store.add(session(f"p{number}-{thread}-{index}"), most, NOW)
            except CapacityReached:
                continue

    in_threads(threads, work)


def test_what_was_added_is_found_as_it_was(place: Place, store: Sessions) -> None:
    store.add(session("1"), MANY, NOW)
    expected = Session(**(vars(session("1")) | {"position": 1}))
    assert store.find(session("1").jti) == expected
    assert place.open().find(session("1").jti) == expected
    assert store.find(session("2").jti) is None


def test_a_database_without_an_encoding_keeps_texts_too(postgresql: Cluster) -> None:
    postgresql.sql("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    store = open_sessions(postgresql.database("bytes"))
    store.add(session("1", "USRSJosé"), MANY, NOW)
    found = store.find(session("1").jti)
    assert found
    assert found.subject == "USRSJosé"


@pytest.mark.parametrize(("given", "kept"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_database_that_answers_before_it_has_written_is_told_to_wait(
    postgresql: Cluster, given: str, kept: str
) -> None:
    url = postgresql.database(f"waits_{given}")
    postgresql.sql(f"ALTER DATABASE waits_{given} SET synchronous_commit = {given}")
    store = open_sessions(url)
    shown = store.database.read(lambda one: one.scalar(text("SHOW synchronous_commit")))
    assert shown == kept


def test_a_killed_process_has_lost_nothing_it_was_told_is_done(place: Place) -> None:
    (process,) = in_processes(1, add_and_die, place)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    store = place.open()
    added, revoked = store.find(session("added").jti), store.find(session("revoked").jti)
    assert added is not None
    assert added.is_active(NOW)
    assert revoked is not None
    assert not revoked.is_active(NOW)
    assert store.position() == 3


def test_every_change_raises_the_position_by_one(store: Sessions) -> None:
    assert store.position() == 0
    add(store, 1, 2, 3)
    assert store.position() == 3
    store.revoke(Selection(jti=session(1).jti), NOW)
    assert store.position() == 4
    store.revoke(Selection(), NOW)
    assert store.position() == 6
    assert sorted(one.position for one in store.changes_after(0, 10)) == [4, 5, 6]


def test_what_changes_nothing_keeps_the_position(store: Sessions) -> None:
    add(store, 1)
    store.revoke(Selection(), NOW)
    store.revoke(Selection(), NOW)
    store.revoke(Selection(subject="USRSnobody"), NOW)
    store.prune(NOW)
    with pytest.raises(CapacityReached):
        store.add(session(2), 0, NOW)
    assert store.position() == 2


def test_positions_of_threads_and_processes_rise_by_one_a_change(
    place: Place, store: Sessions
) -> None:
    processes = in_processes(2, add_some, place, 20)
    in_threads(4, lambda number: add(store, *[f"t{number}-{index}" for index in range(10)]))
    for process in processes:
        process.join(30)
    changed = store.changes_after(0, 1000)
    assert [one.position for one in changed] == list(range(1, 81))
    assert len({one.jti for one in changed}) == 80
    assert store.position() == 80


def test_whoever_follows_the_positions_while_others_write_misses_nothing(
    place: Place, store: Sessions
) -> None:
    writers = [
        threading.Thread(target=add, args=(store, *[f"t{number}-{index}" for index in range(15)]))
        for number in range(4)
    ]
    for thread in writers:
        thread.start()
    reader, seen, position = place.open(), [], 0
    while any(thread.is_alive() for thread in writers) or reader.position() > position:
        for one in reader.changes_after(position, 7):
            seen.append(one.jti)
            position = one.position
    assert len(seen) == len(set(seen)) == 60


def test_revoked_is_final(store: Sessions) -> None:
    add(store, 1)
    (revoked,) = store.revoke(Selection(jti=session(1).jti), NOW + 5)
    assert revoked.revoked_at == NOW + 5
    with pytest.raises(StoreUnavailable):
        add(store, 1)
    store.revoke(Selection(), NOW + 9)
    assert store.find(session(1).jti) == revoked
    assert not revoked.is_active(NOW)


def test_a_revocation_answers_all_that_is_selected_also_what_has_expired(
    store: Sessions,
) -> None:
    add(store, 1, 2)
    store.add(session(3, ends=5), MANY, NOW)
    store.revoke(Selection(jti=session(1).jti), NOW)
    answered = names(store.revoke(Selection(), NOW + 5))
    assert sorted(answered[:2]) == ["1", "2"]
    assert answered[2:] == ["3"]
    expired = store.find(session(3).jti)
    assert expired is not None
    assert expired.revoked_at == NOW + 5


def test_a_session_that_was_revoked_by_a_clock_that_was_ahead_stays_revoked(
    store: Sessions,
) -> None:
    store.add(session(1, ends=5), MANY, NOW)
    store.revoke(Selection(), NOW + 3600)
    assert store.active(NOW, 10) == []
    assert names(store.changes_after(1, 10)) == ["1"]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(jti=session("b").jti), {"b"}),
        (Selection(subject="USRSalice"), {"a", "b"}),
        (Selection(role="admin"), {"d"}),
        (Selection(role="user"), {"a", "b", "c"}),
        (Selection(), {"a", "b", "c", "d"}),
        (Selection(jti=session("b").jti, subject="USRSalice", role="user"), {"b"}),
        (Selection(jti=session("b").jti, subject="USRSbob"), set()),
        (Selection(subject="USRSalice", role="admin"), set()),
        (Selection(jti=""), set()),
        (Selection(subject=""), set()),
        (Selection(subject="%"), set()),
        (Selection(subject="' OR 1=1 --"), set()),
    ],
)
def test_all_that_a_selection_names_must_match(
    store: Sessions, selection: Selection, chosen: set[str]
) -> None:
    store.add(session("a"), MANY, NOW)
    store.add(session("b"), MANY, NOW)
    store.add(session("c", "USRSbob"), MANY, NOW)
    store.add(session("d", "ADMNroot", "admin"), MANY, NOW)
    assert set(names(store.revoke(selection, NOW))) == chosen
    assert set(names(store.active(NOW, 10))) == {"a", "b", "c", "d"} - chosen


def test_the_capacity_is_exact_and_room_comes_back(store: Sessions) -> None:
    for number in range(3):
        store.add(session(number, ends=10), 3, NOW)
    with pytest.raises(CapacityReached):
        store.add(session("late"), 3, NOW)
    assert store.find(session("late").jti) is None
    store.revoke(Selection(jti=session(0).jti), NOW)
    store.add(session("in a revoked one's place"), 3, NOW)
    with pytest.raises(CapacityReached):
        store.add(session("late"), 3, NOW + 9)
    store.add(session("in an expired one's place"), 3, NOW + 10)
    assert store.count_active(NOW + 10) == 2


def test_the_last_expiry_is_that_of_the_longest_lived_session(store: Sessions) -> None:
    assert store.last_expiry() == 0
    for name, ends in (("1", 900), ("2", 3600), ("3", 60)):
        store.add(session(name, ends=ends), MANY, NOW)
    assert store.last_expiry() == NOW + 3600


def test_the_capacity_is_exact_whoever_else_adds(place: Place, store: Sessions) -> None:
    processes = in_processes(2, try_to_add, place, 2, 10, 25)
    try_to_add(9, place, 8, 5, 25)
    for process in processes:
        process.join(30)
    assert store.count_active(NOW) == 25
    assert store.position() == 25


def test_s8_one_users_bound_is_exact_and_is_no_other_users(store: Sessions) -> None:
    store.add(session("a", ends=5), MANY, NOW, 2)
    store.add(session("b"), MANY, NOW, 2)
    with pytest.raises(TooManyTokens):
        store.add(session("c"), MANY, NOW, 2)
    assert store.position() == 2
    store.add(session("d", "USRSbob"), MANY, NOW, 2)
    store.add(session("e"), MANY, NOW + 5, 2)
    store.revoke(Selection(jti=session("b").jti), NOW + 5)
    store.add(session("f"), MANY, NOW + 5, 2)
    with pytest.raises(TooManyTokens):
        store.add(session("g"), MANY, NOW + 5, 2)


def test_several_are_added_as_if_one_after_the_other(store: Sessions) -> None:
    additions = [
        Addition(session(1), 1),
        Addition(session(2), 1),
        Addition(session(3, subject="USRSbob")),
        Addition(session(4, subject="USRScarol")),
    ]
    refusals = store.add_each(additions, 2, NOW)
    assert [type(one) for one in refusals] == [
        type(None),
        TooManyTokens,
        type(None),
        CapacityReached,
    ]
    assert names(store.live_after("", NOW, MANY)) == names([session(1), session(3)])
    assert [one.position for one in store.changes_after(0, MANY)] == [1, 2]


def test_several_that_cannot_all_be_added_leave_nothing_half_done(store: Sessions) -> None:
    with pytest.raises(StoreUnavailable):
        store.add_each([Addition(session(1)), Addition(session(1))], MANY, NOW)
    assert (store.position(), store.count_active(NOW)) == (0, 0)
    add(store, 1)
    assert store.position() == 1


def test_several_are_revoked_each_with_its_own_answer(store: Sessions) -> None:
    add(store, 1, 2, 3)
    endings = [Ending(Selection(jti=session(number).jti)) for number in (1, 3, 4)]
    revoked = store.revoke_each(endings, NOW)
    assert list(map(names, revoked)) == [names([session(1)]), names([session(3)]), []]
    assert store.count_active(NOW) == 1


def test_an_epoch_is_kept_until_another_begins_and_revokes_all(
    place: Place, store: Sessions
) -> None:
    first = store.epoch()
    add(store, 1, 2)
    store.add(session(3, ends=5), MANY, NOW)
    assert place.open().epoch() == first
    assert store.begin_epoch(NOW + 5) == 2
    assert place.open().epoch() == store.epoch() != first
    assert store.count_active(NOW + 5) == 0
    assert store.position() == 6


def test_a_clock_that_was_an_hour_ahead_has_forgotten_nothing(store: Sessions) -> None:
    store.add(session(1, ends=-3500), MANY, NOW)
    assert store.prune(NOW + 3600) == 0
    assert names(store.active(NOW - 3600, 10)) == ["1"]


def test_prune_forgets_only_what_is_over(store: Sessions) -> None:
    long_over = NOW + 10 + KEPT_SECONDS
    for name, ends in (("old", 5), ("old and revoked", 6), ("live", 90000), ("revoked", 90000)):
        store.add(session(name, ends=ends), MANY, NOW)
    store.revoke(Selection(jti=session("revoked").jti), NOW)
    store.revoke(Selection(jti=session("old and revoked").jti), NOW)
    assert store.prune(NOW + 4) == 0
    assert store.prune(long_over) == 2
    assert store.prune(long_over) == 0
    assert sorted(names(store.live_after("", long_over, 10))) == ["live", "revoked"]
    revoked = store.find(session("revoked").jti)
    assert revoked is not None
    assert revoked.revoked_at == NOW
    assert store.position() == 6


def test_prune_makes_room_for_no_more_than_it_forgot(store: Sessions) -> None:
    for number in range(3):
        store.add(session(number, ends=5), 3, NOW)
    later = NOW + 10 + KEPT_SECONDS
    assert store.prune(later) == 3
    for number in range(3, 6):
        store.add(session(number), 3, NOW)
    with pytest.raises(CapacityReached):
        store.add(session(6), 3, NOW)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_pages_of_unexpired_sessions_lose_nothing(store: Sessions, most: int) -> None:
    add(store, *range(7))
    store.add(session("over", ends=5), MANY, NOW)
    store.revoke(Selection(jti=session(3).jti), NOW)
    found, last = [], ""
    while page := store.live_after(last, NOW + 5, most):
        assert len(page) <= most
        found += names(page)
        last = page[-1].jti
    assert found == [str(number) for number in range(7)]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_pages_of_changes_lose_nothing(store: Sessions, most: int) -> None:
    add(store, *range(5))
    store.revoke(Selection(jti=session(1).jti), NOW)
    found, position = [], 0
    while page := store.changes_after(position, most):
        assert len(page) <= most
        found += names(page)
        position = page[-1].position
    assert found == ["0", "2", "3", "4", "1"]
    assert position == store.position()


def test_the_newest_active_sessions_come_first(store: Sessions) -> None:
    add(store, 1, 2, 3, 4)
    store.revoke(Selection(jti=session(3).jti), NOW)
    assert names(store.active(NOW, 2)) == ["4", "2"]
    assert store.count_active(NOW) == 3
    assert store.count_active(NOW + 900) == 0


def test_credentials_in_use_are_those_of_active_sessions(store: Sessions) -> None:
    add(store, 1, 2)
    store.add(session(3, "USRSbob"), MANY, NOW)
    store.add(session(4, "USRScarol", ends=5), MANY, NOW)
    store.revoke(Selection(subject="USRSbob"), NOW)
    assert list(store.credentials_in_use(NOW + 5)) == [("USRSalice", "print USRSalice")]


def test_the_salt_is_made_once_and_is_another_stores_never(
    place: Place, store: Sessions, tmp_path: Path
) -> None:
    other = sessions_in(tmp_path / "other.db")
    assert len(store.salt()) >= 16
    assert place.open().salt() == store.salt() != other.salt()


def test_a_failed_change_leaves_nothing_half_done(store: Sessions) -> None:
    add(store, 1)
    with pytest.raises(StoreUnavailable):
        add(store, 1)
    assert (store.position(), store.count_active(NOW)) == (1, 1)
    store.add(session(2), 2, NOW)
    assert store.position() == 2


# What follows is about the one file that SQLite keeps.


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_sqlite_makes_its_files_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = sessions_in(tmp_path / "sessions.db")
        add(store, 1)
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert "sessions.db-wal" in [path.name for path in files]
    assert {mode(path) for path in files} == {0o600}


def test_sqlite_commits_to_the_disk_before_it_answers(tmp_path: Path) -> None:
    store = sessions_in(tmp_path / "sessions.db")
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2)):
        question = partial(_scalar, text(f"PRAGMA {pragma}"))
        assert store.database.read(question) == value


def test_a_backup_is_private_whole_and_revokes_all_it_holds_when_it_is_opened(
    tmp_path: Path,
) -> None:
    store = sessions_in(tmp_path / "sessions.db")
    now = int(time.time())
    for name in ("1", "2"):
        store.add(Session(name, "USRSalice", "user", now, now + 900, "x"), MANY, now)
    store.backup(tmp_path / "backup.db")
    assert mode(tmp_path / "backup.db") == 0o600
    assert store.count_active(now) == 2
    copy = sessions_in(tmp_path / "backup.db")
    assert copy.count_active(now) == 0
    assert len(copy.live_after("", now, 10)) == 2
    assert copy.salt() == store.salt()
    assert copy.epoch() != store.epoch()
    again = sessions_in(tmp_path / "backup.db")
    assert again.epoch() == copy.epoch()


def test_a_restored_store_begins_an_epoch_with_all_it_holds_revoked(tmp_path: Path) -> None:
    store = sessions_in(tmp_path / "sessions.db")
    now = int(time.time())
    store.add(Session("1", "USRSalice", "user", now, now + 900, "x"), MANY, now)
    store.backup(tmp_path / "backup.db")
    store.add(Session("2", "USRSalice", "user", now, now + 900, "x"), MANY, now)
    before = store.epoch()
    assert store.restore(tmp_path / "backup.db") == 1
    assert store.count_active(now) == 0
    assert store.find("2") is None
    assert sessions_in(tmp_path / "sessions.db").epoch() == store.epoch() != before


@pytest.mark.parametrize("content", [None, b"", b"not a database at all " * 100])
def test_what_is_no_backup_changes_nothing(tmp_path: Path, content: bytes | None) -> None:
    store = sessions_in(tmp_path / "sessions.db")
    add(store, 1)
    before = store.epoch()
    if content is not None:
        (tmp_path / "backup.db").write_bytes(content)
    with pytest.raises(StoreUnavailable):
        store.restore(tmp_path / "backup.db")
    assert (store.epoch(), store.count_active(NOW)) == (before, 1)


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    store = sessions_in(path)
    add(store, *range(200))
    store.check()
    store.database.read(lambda one: one.execute(text("PRAGMA wal_checkpoint(TRUNCATE)")))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable):
        sessions_in(path).check()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path / "missing" / "sessions.db", id="missing directory"),
        pytest.param(lambda path: path, id="a directory"),
        pytest.param(lambda path: Path("/proc/sessions.db"), id="a file system of another kind"),
    ],
)
def test_sqlite_in_a_place_that_holds_no_file_is_unavailable(
    tmp_path: Path, spoil: Callable[[Path], Path]
) -> None:
    with pytest.raises(StoreUnavailable):
        sessions_in(spoil(tmp_path))


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(StoreUnavailable):
        sessions_in(path)
    assert path.read_bytes().startswith(b"not a database at all")


AS_NOBODY = """
import os, sys
from pathlib import Path
from issuer.errors import StoreUnavailable
from issuer.store.sessions import Sessions
from tests.support.postgresql import Cluster
from tests.support.stores import sessions_in
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)
try:
    sessions_in(Path("sessions.db"))
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("file_there", [False, True], ids=["directory", "file"])
def test_sqlite_where_it_may_not_write_is_unavailable(tmp_path: Path, file_there: bool) -> None:
    there = tmp_path / "store"
    there.mkdir()
    if file_there:
        add(sessions_in(there / "sessions.db"), 1)
        (there / "sessions.db").chmod(0o444)
    there.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(there)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    there.chmod(0o755)
    assert done.stdout == "session store: sessions.db: Permission denied\n"


def test_a_store_that_breaks_later_is_unavailable_for_every_question(tmp_path: Path) -> None:
    store = sessions_in(tmp_path / "sessions.db")
    add(store, 1)
    store.database.read(lambda one: one.execute(text("DROP TABLE sessions")))
    questions: list[Callable[[], object]] = [
        lambda: store.add(session(2), MANY, NOW),
        lambda: store.revoke(Selection(), NOW),
        lambda: store.find(session(1).jti),
        lambda: store.live_after("", NOW, 1),
        lambda: store.changes_after(0, 1),
        lambda: store.active(NOW, 1),
        lambda: store.count_active(NOW),
        lambda: store.credentials_in_use(NOW),
        lambda: store.prune(NOW),
        lambda: store.begin_epoch(NOW),
    ]
    for ask in questions:
        with pytest.raises(StoreUnavailable):
            ask()


def test_a_policy_is_kept_under_a_serial_number_that_rises_with_each_other_one(
    place: Place,
) -> None:
    store = place.open()
    assert (store.policy(), store.policy_serial()) == (None, 0)
    first = store.put_policy("a", "1")
    assert (first, store.policy_serial()) == (StoredPolicy(1, "a", "1"), 1)
    assert store.put_policy("a", "1") == first
    assert store.put_policy("a", "2") == StoredPolicy(2, "a", "2")
    assert place.open().put_policy("b", "2") == StoredPolicy(3, "b", "2")
    assert store.policy() == StoredPolicy(3, "b", "2")


def test_a_policy_that_is_no_longer_the_files_is_not_put(store: Sessions) -> None:
    store.put_policy("a", "1")
    assert store.put_policy("b", "1", still=lambda: False) is None
    assert store.policy() == StoredPolicy(1, "a", "1")


def test_no_other_policy_is_put_while_one_is_asked_whether_it_still_holds(place: Place) -> None:
    first, second = place.open(), place.open()
    begun, put = threading.Event(), threading.Event()

    def put_another() -> None:
        begun.set()
        second.put_policy("later", "1")
        put.set()

    other = threading.Thread(target=put_another)

    def still() -> bool:
        other.start()
        begun.wait(5)
        return not put.wait(0.2)

    assert first.put_policy("sooner", "1", still=still) == StoredPolicy(1, "sooner", "1")
    other.join(10)
    assert first.policy() == StoredPolicy(2, "later", "1")


def test_a_server_that_is_taken_out_belongs_to_each_policy_until_it_is_put_back(
    place: Place,
) -> None:
    store, other = place.open(), place.open()
    store.put_policy("a", "1")
    taken = TakenOut(NOW, "ADMNTEST01")
    assert store.take_out("rack", taken, Event(ITSELF, SERVER_OUT, "rack"))
    assert other.policy() == StoredPolicy(2, "a", "1", {"rack": taken})
    assert other.put_policy("b", "1") == StoredPolicy(3, "b", "1", {"rack": taken})
    store.begin_epoch(NOW)
    assert store.policy() == StoredPolicy(3, "b", "1", {"rack": taken})
    assert other.put_back("rack", Event(ITSELF, SERVER_BACK, "rack"))
    assert (store.policy(), store.policy_serial()) == (StoredPolicy(4, "b", "1"), 4)
    told = [row.event for row in store.audit.rows(4)]
    assert told == [SERVER_BACK, SERVER_OUT]


def test_what_changes_nothing_of_what_is_taken_out_has_no_number_and_no_row(
    store: Sessions,
) -> None:
    store.put_policy("a", "1")
    out, back = (Event(ITSELF, name, "rack") for name in (SERVER_OUT, SERVER_BACK))
    assert not store.put_back("rack", back)
    assert store.take_out("rack", TakenOut(NOW, "first"), out)
    assert not store.take_out("rack", TakenOut(NOW + 1, "second"), out)
    assert store.policy() == StoredPolicy(2, "a", "1", {"rack": TakenOut(NOW, "first")})
    assert len(store.audit.rows(9)) == 1


def test_a_policy_outlasts_a_new_epoch(store: Sessions) -> None:
    store.put_policy("a", "1")
    store.begin_epoch(NOW)
    assert store.policy() == StoredPolicy(1, "a", "1")


def test_active_ones_are_found_by_id_role_and_a_part_of_their_subject(store: Sessions) -> None:
    store.add(session("a", subject="USRS_Ana"), 9, NOW)
    store.add(session("b", subject="USRSBob"), 9, NOW)
    found = {
        about: names(store.active(NOW, 9, about)) for about in ("", "_ana", "RSb", "%", "b", "x")
    }
    assert found == {"": ["b", "a"], "_ana": ["a"], "RSb": ["b"], "%": [], "b": ["b"], "x": []}


# API keys.


def test_an_api_key_is_a_session_with_what_only_keys_have(place: Place) -> None:
    store = place.open()
    store.add(session("t"), MANY, NOW)
    store.add(key("k", "USRSalice", 900, "a", "b*"), MANY, NOW)
    for opened in (store, place.open()):
        found = opened.find(key("k").jti)
        assert found is not None
        assert found.api_key == key("k", "USRSalice", 900, "a", "b*").api_key
        everything = (opened.live_after("", NOW, 9), opened.changes_after(0, 9))
        for page in everything:
            assert {one.jti: one.api_key is not None for one in page} == {
                session("t").jti: False,
                key("k").jti: True,
            }
        assert names(opened.active(NOW, 9)) == ["t"]
        assert names(opened.api_keys(NOW)) == names(opened.api_keys(NOW, "USRSalice")) == ["k"]
        assert opened.api_keys(NOW, "USRSbob") == opened.api_keys(NOW + 900) == []


def test_tokens_and_api_keys_are_counted_each_by_themselves(store: Sessions) -> None:
    store.add(key(1), MANY, NOW, 1)
    store.add(session(1), MANY, NOW, 1)
    with pytest.raises(TooManyTokens):
        store.add(key(2), MANY, NOW, 1)
    with pytest.raises(TooManyTokens):
        store.add(session(2), MANY, NOW, 1)
    store.add(key(3, "USRSbob"), MANY, NOW, 1)
    with pytest.raises(CapacityReached):
        store.add(key(4, "USRScarol"), 3, NOW, 1)


def test_how_long_signing_keys_are_needed_is_no_matter_of_api_keys(store: Sessions) -> None:
    store.add(key("k", "USRSalice", 90 * 86_400), MANY, NOW)
    assert store.last_expiry() == 0
    add(store, 1)
    assert store.last_expiry() == NOW + 900


@pytest.mark.parametrize(
    ("selection", "revoked"),
    [
        (Selection(subject="USRSalice"), {"t", "k"}),
        (Selection(subject="USRSalice", api_keys=False), {"t"}),
        (Selection(subject="USRSalice", api_keys=True), {"k"}),
        (Selection(jti=key("k").jti), {"k"}),
        (Selection(jti=key("k").jti, api_keys=False), set()),
        (Selection(jti=key("k").jti, subject="USRSbob", api_keys=True), set()),
        (Selection(credential=OF_API_KEY), {"k", "o"}),
        (Selection(), {"t", "k", "o"}),
    ],
    ids=str,
)
def test_a_revocation_means_tokens_or_api_keys_or_both(
    store: Sessions, selection: Selection, revoked: set[str]
) -> None:
    store.add(session("t"), MANY, NOW)
    store.add(key("k"), MANY, NOW)
    store.add(key("o", "USRSbob"), MANY, NOW)
    assert set(names(store.revoke(selection, NOW))) == revoked
    left = {"t", "k", "o"} - revoked
    assert set(names([*store.active(NOW, 9), *store.api_keys(NOW)])) == left


def test_an_api_keys_last_use_is_written_once_in_so_many_seconds(store: Sessions) -> None:
    store.add(key("k"), MANY, NOW)
    key_id = key("k").jti

    def last_used() -> int | None:
        found = store.find(key_id)
        assert found is not None
        assert found.api_key is not None
        return found.api_key.last_used_at

    assert last_used() is None
    for used_at, kept in ((5, 5), (3, 5), (64, 5), (65, 65), (64, 65)):
        store.note_uses({key_id: NOW + used_at, "unknown": NOW}, 60)
        assert last_used() == NOW + kept


def test_an_api_key_is_forgotten_with_its_session(place: Place) -> None:
    store = place.open()
    store.add(key("k"), MANY, NOW)
    assert store.prune(NOW + 900 + KEPT_SECONDS) == 1
    left = text("SELECT count(*) FROM api_keys")
    assert store.database.read(lambda connection: connection.scalar(left)) == 0


def test_the_users_of_api_keys_are_among_those_whose_credentials_are_asked_for(
    store: Sessions,
) -> None:
    store.add(session("t"), MANY, NOW)
    store.add(key("k", "USRSbob"), MANY, NOW)
    assert sorted(store.credentials_in_use(NOW)) == [
        ("USRSalice", "print USRSalice"),
        ("USRSbob", OF_API_KEY),
    ]


#: As Portero made it before there were API keys.
FORMER_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    jti TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    credential TEXT NOT NULL,
    revoked_at INTEGER,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS sessions_by_position ON sessions (position);
CREATE INDEX IF NOT EXISTS sessions_of_subject ON sessions (subject, expires_at);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('position', 0), ('rows', 0), ('policy', 0);
CREATE TABLE IF NOT EXISTS policy (
    serial INTEGER NOT NULL, sources TEXT NOT NULL, compiled TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (epoch TEXT NOT NULL, salt BLOB NOT NULL, copied INTEGER);
INSERT INTO identity VALUES ('former', x'00', 0);
INSERT INTO sessions VALUES ('former', 'USRSalice', 'user', {now}, {ends}, 'print', NULL, 1);
UPDATE counters SET value = 1 WHERE name <> 'policy';
"""


def test_a_store_that_a_former_portero_made_is_taken_over_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with closing(sqlite3.connect(path)) as former:
        former.executescript(FORMER_SCHEMA.format(now=NOW, ends=NOW + 900))
    store = sessions_in(path)
    assert store.epoch() == "former"
    assert store.position() == 1
    found = store.find("former")
    assert found is not None
    assert found.is_active(NOW)
    store.add(key("k"), MANY, NOW)
    assert [one.position for one in store.changes_after(0, 9)] == [1, 2]
    assert sessions_in(path).find("former") == found


def test_a_store_whose_batches_of_usage_had_no_day_yet_keeps_what_is_taken(place: Place) -> None:
    usage = Usage(place.open().database)
    usage.add("life", 3, [])
    with place.open().database.transaction() as connection:
        connection.execute(text("ALTER TABLE usage_batches DROP COLUMN day"))
        connection.execute(text("UPDATE schema_version SET version = 1"))
    again = Usage(place.open().database)
    again.prune(int(time.time()) + 80 * 86_400, set())
    assert (again.taken("life"), again.add("life", 4, [])) == (3, True)


def test_a_store_that_a_later_portero_made_is_left_alone(place: Place) -> None:
    later = text("UPDATE schema_version SET version = version + 1")
    with place.open().database.transaction() as connection:
        connection.execute(later)
    with pytest.raises(StoreUnavailable, match="a later version of Portero"):
        place.open()
