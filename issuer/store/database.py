"""The database that the store lies in: one SQLite file, or PostgreSQL for issuers on several
machines; by SQLAlchemy Core, so that whoever asks need not know which.

A commit is on disk when it returns: SQLite with a write-ahead log and `synchronous=FULL`,
PostgreSQL with `synchronous_commit`, whatever the database is set to. Writers come one after the
other, in the order of their positions. An SQLite file must never be put on a network file system
(https://www.sqlite.org/wal.html).
"""

import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from issuer.errors import StoreUnavailable
from issuer.store import tables

T = TypeVar("T")

BUSY_SECONDS = 5.0
CONNECT_SECONDS = 3
#: As many as an issuer has threads.
_CONNECTIONS, _MORE_CONNECTIONS = 8, 56
SQLITE, POSTGRESQL = "sqlite", "postgresql"


def fault_of_url(text_of_url: str) -> str:
    """What is wrong with a DATABASE_URL, in words without its password; empty where nothing is."""
    if text_of_url.startswith(POSTGRESQL) and text_of_url.count("@") > 1:
        # What is behind the first would pass for host, port or database, which errors name.
        return "has more than one @; write one that is in the password as %40"
    try:
        url = make_url(text_of_url)
    except (ArgumentError, ValueError):
        # A ValueError has the port in it, which may be a password without its @.
        return "must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    if url.drivername == SQLITE:
        return "" if url.database and not url.host else "must be sqlite:///FILE"
    if url.drivername != POSTGRESQL:
        return "must be sqlite:///FILE or postgresql://…"
    return "" if url.database else "must name a database: postgresql://HOST/DATABASE"


class Database:
    """The database at a URL; what is missing there is made, a file with mode 0600.

    Raises `StoreUnavailable` for what cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_file = self._url.drivername == SQLITE
        if self.is_file:
            make_private(self.path)
        self._engine = _engine(self._url)
        # Its connections end with it, and not whenever the collector comes to them.
        weakref.finalize(self, self._engine.dispose)
        # SQLite has those who wait for its own lock sleep, and look again.
        self._writing = threading.Lock() if self.is_file else nullcontext()
        try:
            with self._begun(self._create_lock) as connection:
                tables.create(connection, new_epoch(), secrets.token_bytes(16))
        except RuntimeError as error:
            raise StoreUnavailable(f"session store: {error}") from error

    @property
    def path(self) -> Path:
        """Of the SQLite file."""
        return Path(str(self._url.database))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Ask something."""
        with self._connected() as connection:
            return work(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One write transaction, whole or not at all, and no other at the same time."""
        with self._begun(_lock) as connection:
            yield connection

    def check(self) -> None:
        """Read a whole file once. Raises `StoreUnavailable` if it is damaged; PostgreSQL is asked
        whether it answers.
        """
        question = "PRAGMA quick_check" if self.is_file else "SELECT 'ok'"
        answer = self.read(lambda connection: connection.scalar(text(question)))
        if answer != "ok":
            raise StoreUnavailable(f"session store: {self.path} is damaged: {answer}")

    def copy_to(self, path: Path) -> None:
        """A consistent copy of the file, while others write, marked as one."""
        self._must_be_file("backup")
        make_private(path)
        with closing(sqlite3.connect(path)) as copy:
            self.read(lambda connection: _file(connection).backup(copy))
            copy.execute("UPDATE identity SET copied = 1")
            copy.commit()

    def copy_from(self, path: Path) -> None:
        """Take over such a copy in place of all that is here. Raises `StoreUnavailable`, and then
        nothing was changed.
        """
        self._must_be_file("restore")
        if not path.is_file():
            raise StoreUnavailable(f"session store: {path} is no file")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as copy:
            _check_copy(copy, path)
            self.read(lambda connection: copy.backup(_file(connection)))
        with self._begun(_lock) as connection:
            tables.create(connection, new_epoch(), secrets.token_bytes(16))

    def _must_be_file(self, verb: str) -> None:
        if not self.is_file:
            raise StoreUnavailable(
                f"session store: {verb} is for an SQLite file; PostgreSQL has pg_dump and "
                "pg_restore (docs/postgresql.md)"
            )

    def _create_lock(self, connection: Connection) -> None:
        """Several processes may begin at once."""
        if self.is_file:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('portero'))"))

    @contextmanager
    def _begun(self, lock: Callable[[Connection], None]) -> Iterator[Connection]:
        with self._writing, self._connected() as connection:
            lock(connection)
            try:
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """What fails on the connection is the store that failed."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreUnavailable(f"session store: {_words(error)}") from error


def new_epoch() -> str:
    """A name for a history that begins."""
    return secrets.token_hex(8)


def make_private(path: Path) -> None:
    """A file of mode 0600, where there is none."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"session store: {path}: {error.strerror}") from error


def _lock(connection: Connection) -> None:
    """The one writer. SQLite locks the file; PostgreSQL the row that all writers count in."""
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    counters = tables.counters
    connection.execute(
        select(counters.c.value).where(counters.c.name == "position").with_for_update()
    )


def _engine(url: URL) -> Engine:
    pool = {"pool_size": _CONNECTIONS, "max_overflow": _MORE_CONNECTIONS}
    if url.drivername == SQLITE:
        # Transactions are begun by hand, as Python's own way of it would begin them too late.
        connect = {"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False}
        engine = sqlalchemy.create_engine(
            url, connect_args=connect, poolclass=sqlalchemy.QueuePool, **pool
        )
        sqlalchemy.event.listen(engine, "connect", _make_durable)
        return engine
    milliseconds = int(BUSY_SECONDS * 1000)
    options = f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds}"
    engine = sqlalchemy.create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": options,
            # Of a database that was made with no encoding psycopg would answer bytes.
            "client_encoding": "utf8",
        },
        # A connection that was cut is found before it is used.
        pool_pre_ping=True,
        **pool,
    )
    sqlalchemy.event.listen(engine, "connect", _wait_for_the_disk)
    return engine


def _make_durable(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _wait_for_the_disk(connection: Any, _: object) -> None:
    """One that answers before it has written would lose what was acknowledged. What waits for a
    standby too is left as it is.
    """
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _file(connection: Connection) -> sqlite3.Connection:
    found = connection.connection.dbapi_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def _words(error: Exception) -> str:
    """What the database said, in one line; SQLAlchemy's own words name values and addresses."""
    said = str(getattr(error, "orig", None) or error)
    return " ".join(said.split("\n", 1)[0].split())


def _check_copy(copy: sqlite3.Connection, path: Path) -> None:
    try:
        sound = copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copy.execute("SELECT epoch FROM identity").fetchone()
    except sqlite3.Error:
        sound = False
    if not sound:
        raise StoreUnavailable(f"session store: {path} is no sound backup; nothing was changed")
