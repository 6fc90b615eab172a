"""The session store in one SQLite file, shared by every process of one machine.

Write-ahead log with `synchronous=FULL`: a commit has been fsynced when it returns. Each thread
has a connection of its own; SQLite's lock orders the writers. It must never be put on a network
file system (https://www.sqlite.org/wal.html).
"""

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from issuer.errors import CapacityReached, StoreUnavailable, TooManyTokens
from issuer.store import (
    KEPT_SECONDS,
    OF_API_KEY,
    Addition,
    ApiKey,
    Selection,
    Session,
    StoredPolicy,
)

T = TypeVar("T")

BUSY_SECONDS = 5.0

_SCHEMA = f"""
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
CREATE INDEX IF NOT EXISTS active_of_subject ON sessions (subject, expires_at, credential)
    WHERE revoked_at IS NULL;
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expires_at);
CREATE INDEX IF NOT EXISTS tokens_by_expiry ON sessions (expires_at)
    WHERE credential <> '{OF_API_KEY}';
CREATE INDEX IF NOT EXISTS keys_of_subject ON sessions (subject, expires_at, revoked_at)
    WHERE credential = '{OF_API_KEY}';
CREATE TABLE IF NOT EXISTS api_keys (
    id TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    models TEXT NOT NULL,
    made_by TEXT NOT NULL,
    last_used_at INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counters VALUES ('position', 0), ('rows', 0), ('policy', 0);
CREATE TABLE IF NOT EXISTS policy (
    serial INTEGER NOT NULL, sources TEXT NOT NULL, compiled TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS identity (epoch TEXT NOT NULL, salt BLOB NOT NULL, copied INTEGER);
"""

_OF_SESSION = [column.name for column in fields(Session) if column.name != "api_key"]
_OF_KEY = [column.name for column in fields(ApiKey)]
_COLUMNS = ", ".join([*_OF_SESSION, *_OF_KEY])
#: Every session, with what an API key has beside it; tokens are not looked for there.
_ROWS = f"sessions LEFT JOIN api_keys ON id = jti AND credential = '{OF_API_KEY}'"
_ROW = attrgetter(*_OF_SESSION)
_PLACES = ", ".join("?" for _ in _OF_SESSION)
_ACTIVE = "revoked_at IS NULL AND expires_at > :now"
_IS_KEY = {True: f"credential = '{OF_API_KEY}'", False: f"credential <> '{OF_API_KEY}'"}


class SqliteSessions:
    """The store in the file `path`, made with mode 0600 where it is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        # SQLite has those who wait for its own lock sleep, and look again.
        self._writing = threading.Lock()
        _make_private(path)
        with self._transaction() as connection:
            _create(connection)
            if _identity(connection, "copied"):
                _begin_epoch(connection, int(time.time()))

    def add(
        self, session: Session, most_active: int, now: int, most_of_subject: int | None = None
    ) -> None:
        """Make the session durable, with its API key where it is one's.

        `CapacityReached` if `most_active` others are active, `TooManyTokens` if `most_of_subject`
        of the same subject are, counting tokens or keys.
        """
        (refusal,) = self.add_each([Addition(session, most_of_subject)], most_active, now)
        if refusal is not None:
            raise refusal

    def add_each(
        self, additions: Sequence[Addition], most_active: int, now: int
    ) -> Sequence[CapacityReached | TooManyTokens | None]:
        """Add several in one transaction: None for each that is durable now, else why it is not."""
        with self._transaction() as connection:
            return [_add(connection, one, most_active, now) for one in additions]

    def revoke(self, selection: Selection, now: int) -> Sequence[Session]:
        """Revoke what is selected, expired or not; answers all of it, what ends last first."""
        return self.revoke_each([selection], now)[0]

    def revoke_each(self, selections: Sequence[Selection], now: int) -> Sequence[Sequence[Session]]:
        """The same for several, in one transaction."""
        with self._transaction() as connection:
            return [_revoke_selected(connection, one, now) for one in selections]

    def find(self, jti: str) -> Session | None:
        """The session of this `jti`, or None."""
        found = self._select("jti = :jti", jti=jti)
        return found[0] if found else None

    def live_after(self, jti: str, now: int, most: int) -> Sequence[Session]:
        """A page of unexpired sessions, active and revoked, in the order of their `jti`."""
        where = "jti > :jti AND expires_at > :now ORDER BY jti LIMIT :most"
        return self._select(where, jti=jti, now=now, most=most)

    def changes_after(self, position: int, most: int) -> Sequence[Session]:
        """A page of sessions changed after `position`, in the order of their positions."""
        where = "position > :position ORDER BY position LIMIT :most"
        return self._select(where, position=position, most=most)

    def position(self) -> int:
        """The position of the newest change."""
        return self._read(lambda connection: _counter(connection, "position"))

    def active(self, now: int, most: int) -> Sequence[Session]:
        """The newest active tokens' sessions."""
        where = f"{_IS_KEY[False]} AND {_ACTIVE} ORDER BY position DESC LIMIT :most"
        return self._select(where, now=now, most=most)

    def api_keys(self, now: int, subject: str | None = None, most: int = -1) -> Sequence[Session]:
        """The active API keys, of one owner or of all, the newest first; `most` below 0: all."""
        of_owner = "TRUE" if subject is None else "subject = :subject"
        where = (
            f"{_IS_KEY[True]} AND {of_owner} AND {_ACTIVE} ORDER BY issued_at DESC, jti LIMIT :most"
        )
        return self._select(where, now=now, subject=subject, most=most)

    def note_uses(self, uses: Mapping[str, int], least_seconds: int) -> None:
        """Remember when API keys were used last, where that is so much later than what is known."""
        later = f"last_used_at IS NULL OR last_used_at <= ? - {int(least_seconds)}"
        with self._transaction() as connection:
            connection.executemany(
                f"UPDATE api_keys SET last_used_at = ? WHERE id = ? AND ({later})",
                [(used_at, key, used_at) for key, used_at in uses.items()],
            )

    def last_expiry(self) -> int:
        """When the last of all tokens ends, or ended; 0 when there is none."""
        query = f"SELECT max(expires_at) FROM sessions WHERE {_IS_KEY[False]}"
        return self._read(lambda connection: connection.execute(query).fetchone()[0] or 0)

    def count_active(self, now: int) -> int:
        """How many sessions are active."""
        return self._read(lambda connection: _count_active(connection, now))

    def credentials_in_use(self, now: int) -> Sequence[tuple[str, str]]:
        """The distinct (subject, credential) pairs of active sessions."""
        # By itself SQLite would look at all that is kept. Keys are many and live long: their index
        # alone is read.
        distinct = "SELECT DISTINCT subject, credential FROM sessions INDEXED BY"
        query = (
            f"{distinct} tokens_by_expiry WHERE {_IS_KEY[False]} AND {_ACTIVE} UNION ALL "
            f"SELECT DISTINCT subject, '{OF_API_KEY}' FROM sessions INDEXED BY keys_of_subject "
            f"WHERE {_IS_KEY[True]} AND {_ACTIVE}"
        )
        return self._read(lambda connection: connection.execute(query, {"now": now}).fetchall())

    def policy(self) -> StoredPolicy | None:
        """The last good policy, or None before there is one."""
        return self._read(_policy)

    def policy_serial(self) -> int:
        """Its serial number; 0 before there is one."""
        return self._read(lambda connection: _counter(connection, "policy"))

    def put_policy(
        self, sources: str, compiled: str, still: Callable[[], bool] = lambda: True
    ) -> StoredPolicy | None:
        """Make a policy durable under the next serial number; the same again keeps its own.

        `still` is asked while no other can put one: where it says no, nothing is put, and None
        comes back. So what was read from files first is never put after what was read later.
        """
        with self._transaction() as connection:
            known = _policy(connection)
            if not still():
                return None
            if known and (known.sources, known.compiled) == (sources, compiled):
                return known
            put = StoredPolicy(_raise(connection, "policy"), sources, compiled)
            connection.execute("DELETE FROM policy")
            connection.execute(
                "INSERT INTO policy VALUES (?, ?, ?)", (put.serial, sources, compiled)
            )
            return put

    def prune(self, now: int) -> int:
        """Forget sessions whose time is long over; answers how many."""
        with self._transaction() as connection:
            return _forget_expired(connection, now - KEPT_SECONDS)

    def salt(self) -> bytes:
        """Random bytes made with the store, for fingerprints that mean nothing elsewhere."""
        return bytes(self._read(lambda connection: _identity(connection, "salt")))

    def epoch(self) -> str:
        """The name of this store's history."""
        return str(self._read(lambda connection: _identity(connection, "epoch")))

    def begin_epoch(self, now: int) -> int:
        """Trust nothing of what is here: revoke all, and begin a history. Answers how many."""
        with self._transaction() as connection:
            return _begin_epoch(connection, now)

    def check(self) -> None:
        """Read the whole file once. Raises `StoreUnavailable` if it is damaged."""
        answer = self._read(lambda connection: connection.execute("PRAGMA quick_check").fetchone())
        if answer != ("ok",):
            raise StoreUnavailable(f"session store: {self._path} is damaged: {answer[0]}")

    def backup(self, path: Path) -> None:
        """A consistent copy, while others write. Opened as a store it revokes all it holds."""
        _make_private(path)
        with closing(sqlite3.connect(path)) as copy:
            self._read(lambda connection: connection.backup(copy))
            copy.execute("UPDATE identity SET copied = 1")
            copy.commit()

    def restore(self, path: Path) -> int:
        """Take over a backup in place of all that is here. Answers how many it revoked."""
        if not path.is_file():
            raise StoreUnavailable(f"session store: {path} is no file")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as copy:
            _check_backup(copy, path)
            self._read(copy.backup)
        return self.begin_epoch(int(time.time()))

    def _select(self, where: str, **values: object) -> list[Session]:
        query = f"SELECT {_COLUMNS} FROM {_ROWS} WHERE {where}"
        rows = self._read(lambda connection: connection.execute(query, values).fetchall())
        return [_session(row) for row in rows]

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._connected() as connection:
            return work(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, whole or not at all."""
        with self._writing, self._connected() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """What fails on the connection is the store that failed."""
        try:
            yield self._connection()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"session store: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
        return connection


def _make_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"session store: {path}: {error.strerror}") from error


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    if connection.execute("SELECT count(*) FROM identity").fetchone() == (0,):
        connection.execute(
            "INSERT INTO identity VALUES (?, ?, 0)", (_new_epoch(), secrets.token_bytes(16))
        )


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _identity(connection: sqlite3.Connection, column: str) -> Any:
    return connection.execute(f"SELECT {column} FROM identity").fetchone()[0]


def _policy(connection: sqlite3.Connection) -> StoredPolicy | None:
    row = connection.execute("SELECT serial, sources, compiled FROM policy").fetchone()
    return StoredPolicy(*row) if row else None


def _begin_epoch(connection: sqlite3.Connection, now: int) -> int:
    connection.execute("UPDATE identity SET epoch = ?, copied = 0", (_new_epoch(),))
    active = _count_active(connection, now)
    _revoke(connection, "TRUE", {"now": now})
    return active


def _revoke(connection: sqlite3.Connection, where: str, values: dict[str, object]) -> None:
    """Each revocation gets a position of its own, so that no page of changes can split one."""
    query = f"SELECT jti FROM sessions WHERE revoked_at IS NULL AND {where}"
    found = connection.execute(query, values).fetchall()
    last = _raise(connection, "position", len(found))
    connection.executemany(
        "UPDATE sessions SET revoked_at = ?, position = ? WHERE jti = ?",
        [(values["now"], last - index, jti) for index, (jti,) in enumerate(found)],
    )


def _revoke_selected(
    connection: sqlite3.Connection, selection: Selection, now: int
) -> list[Session]:
    chosen = {name: value for name, value in vars(selection).items() if value is not None}
    kinds = [_IS_KEY[chosen.pop("api_keys")]] if "api_keys" in chosen else []
    where = " AND ".join(("TRUE", *kinds, *(f"{name} = :{name}" for name in chosen)))
    values = {"now": now, **chosen}
    _revoke(connection, where, values)
    query = f"SELECT {_COLUMNS} FROM {_ROWS} WHERE {where} ORDER BY expires_at DESC"
    return [_session(row) for row in connection.execute(query, values)]


def _add(
    connection: sqlite3.Connection, addition: Addition, most_active: int, now: int
) -> CapacityReached | TooManyTokens | None:
    """One of a transaction. What is refused leaves no change behind, and harms no other."""
    session = addition.session
    try:
        if _counter(connection, "rows") >= most_active:
            _make_room(connection, most_active, now)
        _check_subject(connection, session, addition.most_of_subject, now)
    except (CapacityReached, TooManyTokens) as refusal:
        return refusal
    position = _raise(connection, "position")
    _raise(connection, "rows")
    _insert(connection, replace(session, revoked_at=None, position=position))
    return None


def _check_backup(copy: sqlite3.Connection, path: Path) -> None:
    try:
        sound = copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copy.execute("SELECT epoch FROM identity").fetchone()
    except sqlite3.Error:
        sound = False
    if not sound:
        raise StoreUnavailable(f"session store: {path} is no sound backup; nothing was changed")


def _session(row: tuple[Any, ...]) -> Session:
    width = len(_OF_SESSION)
    digest, name, models, made_by, last_used_at = row[width:]
    if digest is None:
        return Session(*row[:width])
    key = ApiKey(digest, name, tuple(json.loads(models)), made_by, last_used_at)
    return replace(Session(*row[:width]), api_key=key)


def _insert(connection: sqlite3.Connection, session: Session) -> None:
    columns = ", ".join(_OF_SESSION)
    connection.execute(f"INSERT INTO sessions ({columns}) VALUES ({_PLACES})", _ROW(session))
    key = session.api_key
    if key is not None:
        connection.execute(
            "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?)",
            (session.jti, key.digest, key.name, json.dumps(key.models), key.made_by, None),
        )


def _check_subject(
    connection: sqlite3.Connection, session: Session, most: int | None, now: int
) -> None:
    # Of the index alone: an agent may have thousands.
    of_subject = "sessions INDEXED BY active_of_subject WHERE subject = :subject"
    kind = _IS_KEY[session.api_key is not None]
    query = f"SELECT count(*) FROM {of_subject} AND {kind} AND {_ACTIVE}"
    count = connection.execute(query, {"subject": session.subject, "now": now}).fetchone()[0]
    if most is not None and count >= most:
        raise TooManyTokens


def _counter(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return int(row[0])


def _raise(connection: sqlite3.Connection, name: str, by: int = 1) -> int:
    row = connection.execute(
        "UPDATE counters SET value = value + ? WHERE name = ? RETURNING value", (by, name)
    ).fetchone()
    return int(row[0])


def _make_room(connection: sqlite3.Connection, most_active: int, now: int) -> None:
    """Counting is slow on a large table, so it is done only when the rows could be too many."""
    _forget_expired(connection, now - KEPT_SECONDS)
    if _count_active(connection, now) >= most_active:
        raise CapacityReached


def _count_active(connection: sqlite3.Connection, now: int) -> int:
    query = f"SELECT count(*) FROM sessions WHERE {_ACTIVE}"
    return int(connection.execute(query, {"now": now}).fetchone()[0])


def _forget_expired(connection: sqlite3.Connection, before: int) -> int:
    past = "SELECT jti FROM sessions WHERE expires_at <= ?"
    connection.execute(f"DELETE FROM api_keys WHERE id IN ({past})", (before,))
    gone = connection.execute("DELETE FROM sessions WHERE expires_at <= ?", (before,)).rowcount
    _raise(connection, "rows", -gone)
    return gone
