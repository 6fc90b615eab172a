"""What the audit promises (`issuer/store/audit.py`), asked of each database there is."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from issuer.audit import (
    API_KEY_REVOKE,
    DISTRUST,
    ITSELF,
    LOGIN,
    OPERATOR,
    POLICY,
    PRUNE,
    REFUSED,
    RESTORE,
    REVOKE,
    SERVER_DOWN,
    USER,
    USER_ADD,
    Actor,
    Event,
)
from issuer.errors import StoreUnavailable
from issuer.store import OF_API_KEY, Addition, ApiKey, Ending, Selection, Session
from issuer.store.audit import DAY_SECONDS, Lines
from issuer.store.sessions import Sessions, open_sessions

NOW = 1_800_000_000
MANY = 1_000_000
ROOT = Actor(OPERATOR, "root")
ALICE = Actor(USER, "USRSalice", "192.0.2.7")


@pytest.fixture
def store(url: str) -> Sessions:
    return open_sessions(url)


@pytest.fixture
def file(tmp_path: Path) -> Sessions:
    """A store in a file, for what only a file has."""
    return open_sessions(f"sqlite:///{tmp_path}/file.db")


def session(name: str, subject: str = "USRSalice", role: str = "user") -> Session:
    return Session(name.rjust(22, "A"), subject, role, NOW, NOW + 900, "print")


def log_in(store: Sessions, *names: str) -> None:
    event = Event(ALICE, LOGIN, user="USRSalice")
    additions = [Addition(one, None, event) for one in map(session, names)]
    store.add_each(additions, MANY, NOW)


def told(store: Sessions) -> list[tuple[str, str, str]]:
    return [(row.event, row.target, row.outcome) for row in reversed(store.audit.rows(MANY))]


def tamper(store: Sessions, statement: str) -> None:
    with store.database.transaction() as connection:
        connection.execute(text(statement))


def users(store: Sessions, count: int = 5) -> None:
    for number in range(count):
        name = f"USRS{number}"
        store.audit.record(Event(ROOT, USER_ADD, name, user=name))


def test_rows_have_consecutive_places_and_a_chain_that_is_whole(store: Sessions) -> None:
    assert store.audit.verify().rows == 0
    log_in(store, "1", "2", "3")
    users(store, 2)
    rows = list(reversed(store.audit.rows(MANY)))
    assert [row.sequence for row in rows] == [1, 2, 3, 4, 5]
    assert abs(rows[0].time - time.time()) < 60
    found = store.audit.verify()
    assert (found.rows, found.sequence, found.hash, found.fault) == (5, 5, rows[-1].hash, "")


def test_a_row_is_there_if_its_change_is_and_only_then(store: Sessions) -> None:
    log_in(store, "1")
    with pytest.raises(StoreUnavailable):
        log_in(store, "2", "1")
    store.add_each([Addition(session("3"), 1, Event(ALICE, LOGIN))], MANY, NOW)
    assert [row.event for row in store.audit.rows(MANY)] == [LOGIN]
    assert store.audit.verify().fault == ""


@pytest.mark.parametrize(
    ("selection", "event", "target"),
    [
        (Selection(jti=session("1").jti), REVOKE, f"USRSalice/{session('1').jti}"),
        (Selection(jti="K" * 16), API_KEY_REVOKE, f"USRSbob/{'K' * 16}"),
        (Selection(subject="USRSalice"), REVOKE, "USRSalice"),
        (Selection(role="user"), REVOKE, "role user"),
        (Selection(), REVOKE, "*"),
    ],
)
def test_a_revocation_is_one_row_that_names_what_was_found(
    store: Sessions, selection: Selection, event: str, target: str
) -> None:
    log_in(store, "1", "2")
    key = ApiKey("digest", "key", (), "the tests")
    store.add(Session("K" * 16, "USRSbob", "user", NOW, NOW + 900, OF_API_KEY, api_key=key), 9, NOW)
    for _ in range(2):  # the second changes nothing
        store.revoke_each([Ending(selection, Event(ROOT, REVOKE))], NOW)
    assert told(store)[2:] == [(event, target, "ok")]


def test_what_names_nothing_is_not_told_as_it_may_be_a_secret(store: Sessions) -> None:
    for selection in (Selection(jti="a secret"), Selection(subject="a secret")):
        store.revoke_each([Ending(selection, Event(ROOT, REVOKE))], NOW)
    assert told(store) == []


@pytest.mark.parametrize(
    "column", ["time", "kind", "name", "address", "event", "target", "outcome", '"user"', "times"]
)
def test_a_row_that_was_changed_is_found(store: Sessions, column: str) -> None:
    users(store)
    value = "7" if column in ("time", "times") else "'ADMNother'"
    tamper(store, f"UPDATE audit SET {column} = {value} WHERE sequence = 3")
    assert store.audit.verify().bad == 3


@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_row_that_was_taken_out_is_found_wherever_it_was(store: Sessions, place: int) -> None:
    users(store)
    tamper(store, f"DELETE FROM audit WHERE sequence = {place}")
    found = store.audit.verify()
    assert found.bad == place
    assert "is not there" in found.fault


def test_a_cut_tail_is_found_also_behind_what_came_since(store: Sessions) -> None:
    users(store)
    tamper(store, "DELETE FROM audit WHERE sequence > 2")
    assert store.audit.verify().bad == 3
    users(store, 1)
    assert store.audit.verify().bad == 3


def test_a_row_whose_hash_was_made_to_fit_breaks_the_chain_behind_it(store: Sessions) -> None:
    users(store)
    rows = {row.sequence: row for row in store.audit.rows(MANY)}
    forged = type(rows[3])(**{**vars(rows[3]), "name": "nobody"})
    tamper(
        store,
        f"UPDATE audit SET name = 'nobody', hash = '{forged.chained(rows[2].hash)}'"
        " WHERE sequence = 3",
    )
    assert store.audit.verify().bad == 4


def test_rows_changed_with_all_behind_them_do_not_fit_the_head(store: Sessions) -> None:
    users(store, 1)
    row = store.audit.rows(1)[0]
    forged = type(row)(**{**vars(row), "name": "nobody"})
    tamper(store, f"UPDATE audit SET name = 'nobody', hash = '{forged.chained('')}'")
    assert "the head" in store.audit.verify().fault


def test_a_head_that_was_taken_shows_and_keeps_nobody_out(url: str, store: Sessions) -> None:
    users(store)
    tamper(store, "DELETE FROM audit_head")
    again = open_sessions(url)
    assert again.audit.verify().bad == 5
    log_in(again, "1")
    assert again.audit.rows(1)[0].sequence == 6


def test_days_that_are_over_are_pruned_and_the_rest_is_verified(store: Sessions) -> None:
    users(store)
    today = int(time.time())
    assert store.audit.prune(today, 1) == 0
    later = today + 3 * DAY_SECONDS
    assert store.audit.prune(later, 1) == 5
    users(store, 2)
    assert [row[0] for row in told(store)] == [PRUNE, USER_ADD, USER_ADD]
    assert store.audit.verify().fault == ""
    # By a clock of the day before it has nothing to do, and writes nothing.
    assert store.audit.prune(today, 1) == 0
    assert len(told(store)) == 3
    assert store.audit.prune(later, 1) == 3
    assert (store.audit.verify().rows, store.audit.verify().fault) == (1, "")


def test_oldest_rows_that_were_taken_out_by_hand_are_found_though_the_anchor_fits(
    store: Sessions,
) -> None:
    users(store)
    tamper(
        store,
        "UPDATE audit_head SET anchor_sequence = 2,"
        " anchor_hash = (SELECT hash FROM audit WHERE sequence = 2)",
    )
    tamper(store, "DELETE FROM audit WHERE sequence <= 2")
    assert "no row says so" in store.audit.verify().fault


def test_pages_and_filters_give_each_row_once(store: Sessions) -> None:
    log_in(store, *map(str, range(5)))
    users(store, 3)
    store.audit.record(Event(ALICE, REVOKE, "USRS1", user="USRS1"))
    audit = store.audit
    pages, before = [], None
    while page := audit.rows(4, before):
        pages += [row.sequence for row in page]
        before = page[-1].sequence
    assert pages == list(range(9, 0, -1))
    assert [row.sequence for row in audit.rows(MANY, user="USRSalice")] == [9, 5, 4, 3, 2, 1]
    assert [row.sequence for row in audit.rows(MANY, user="USRS1")] == [9, 7]
    assert [row.sequence for row in audit.rows(MANY, user="root")] == [8, 7, 6]
    assert [row.sequence for row in audit.rows(MANY, event=USER_ADD)] == [8, 7, 6]
    assert [row.sequence for row in audit.rows(2, event=LOGIN)] == [5, 4]
    assert [row.sequence for row in audit.rows(MANY, 8, "root", USER_ADD)] == [7, 6]
    assert audit.rows(MANY, since=int(time.time()) + 60) == []


def test_writers_at_the_same_time_leave_a_chain_that_is_whole(url: str) -> None:
    stores = [open_sessions(url) for _ in range(4)]

    def write(number: int) -> None:
        log_in(stores[number % 4], f"{number}a", f"{number}b")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(20)))
    found = stores[0].audit.verify()
    assert (found.rows, found.sequence, found.fault) == (40, 40, "")


def test_what_several_processes_see_is_told_once_and_again_when_it_comes_again(
    url: str, store: Sessions
) -> None:
    event = Event(ITSELF, POLICY, "2 faults (00)", REFUSED)
    for one in (store, open_sessions(url)):
        one.audit.record_change(event, 10)
    assert len(told(store)) == 1
    store.audit.record_change(event, -1)
    assert len(told(store)) == 2


def test_the_newest_row_about_a_server_is_found_by_who_saw_it(store: Sessions) -> None:
    for address in ("http://a", "http://b"):
        store.audit.record(Event(Actor("portero", "portero", address), SERVER_DOWN, "rack", "down"))
    found = store.audit.newest([SERVER_DOWN], "rack", "http://a")
    assert found
    assert found.sequence == 1
    assert store.audit.newest([SERVER_DOWN], "rack", "http://c") is None


def test_a_restored_backup_brings_its_rows_and_says_so(file: Sessions, tmp_path: Path) -> None:
    users(file, 2)
    file.backup(tmp_path / "copy.db")
    users(file, 2)
    file.restore(tmp_path / "copy.db", Event(ROOT, RESTORE, "copy.db"))
    assert [row[0] for row in told(file)] == [USER_ADD, USER_ADD, RESTORE]
    assert file.audit.verify().fault == ""


def test_a_copy_that_is_opened_as_a_store_says_that_it_is_one(
    file: Sessions, tmp_path: Path
) -> None:
    file.backup(tmp_path / "copy.db")
    copy = open_sessions(f"sqlite:///{tmp_path}/copy.db")
    assert told(copy) == [(DISTRUST, "a copy", "ok")]


def test_lines_tell_each_new_row_once_also_after_a_restore(
    file: Sessions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "portero.audit")
    users(file, 1)
    file.backup(tmp_path / "copy.db")
    lines = Lines(file.audit)
    lines.tell()
    assert caplog.messages == []
    users(file, 3)
    lines.tell()
    lines.tell()
    assert len(caplog.messages) == 3
    file.restore(tmp_path / "copy.db", Event(ROOT, RESTORE, "copy.db"))
    lines.tell()
    assert len(caplog.messages) == 4
    assert RESTORE in caplog.messages[3]
