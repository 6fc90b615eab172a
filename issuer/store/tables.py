"""The tables of the store, for every database it may lie in, and how a former one becomes this.

Tables and indexes that are missing are made; what has changed its meaning has a step in `STEPS`. It
must never hold a query.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from issuer.audit import LOGIN
from issuer.store import OF_API_KEY

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("jti", String, primary_key=True),
    Column("subject", String, nullable=False),
    Column("role", String, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("credential", String, nullable=False),
    Column("revoked_at", BigInteger),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
IS_KEY = sessions.c.credential == text(f"'{OF_API_KEY}'")
IS_TOKEN = sessions.c.credential != text(f"'{OF_API_KEY}'")


def _index(name: str, *columns: Column[Any], where: ColumnElement[bool] | None = None) -> Index:
    """For either database; a partial one is smaller than what it leaves out."""
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


_index("sessions_of_subject", sessions.c.subject, sessions.c.expires_at)
_index(
    "active_of_subject",
    sessions.c.subject,
    sessions.c.expires_at,
    sessions.c.credential,
    where=sessions.c.revoked_at.is_(None),
)
_index("sessions_by_expiry", sessions.c.expires_at)
_index("tokens_by_expiry", sessions.c.expires_at, where=IS_TOKEN)
_index(
    "keys_of_subject",
    sessions.c.subject,
    sessions.c.expires_at,
    sessions.c.revoked_at,
    where=IS_KEY,
)
Index("sessions_by_position", sessions.c.position, unique=True)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("name", String, nullable=False),
    Column("models", String, nullable=False),
    Column("made_by", String, nullable=False),
    Column("last_used_at", BigInteger),
    sqlite_with_rowid=False,
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
#: What is counted, from 0.
COUNTED = ("position", "rows", "policy")

policy = Table(
    "policy",
    metadata,
    Column("serial", BigInteger, nullable=False),
    Column("sources", String, nullable=False),
    Column("compiled", String, nullable=False),
)

#: The LLM servers that are taken out, by their names in the policy. What gateways are pushed as one
#: policy is a row of that and these, so the serial number rises with a change of either.
servers_out = Table(
    "servers_out",
    metadata,
    Column("name", String, primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("by", String, nullable=False),
    sqlite_with_rowid=False,
)

#: Sealed texts by their names.
documents = Table(
    "documents",
    metadata,
    Column("name", String, primary_key=True),
    Column("serial", BigInteger, nullable=False),
    Column("content", String, nullable=False),
)

#: Who does for all what one shall do, and until when.
leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", Float, nullable=False),
)

#: What was used; `day` is a UTC date.
usage = Table(
    "usage",
    metadata,
    *(
        Column(name, String, primary_key=True)
        for name in ("day", "user", "credential", "model", "server")
    ),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("requests", "prompt_tokens", "completion_tokens")
    ),
    sqlite_with_rowid=False,
)

#: The tokens of it by user and `period`, a day or a month (`YYYY-MM`).
spent = Table(
    "spent",
    metadata,
    Column("period", String, primary_key=True),
    Column("user", String, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

#: Which of the batches that gateways hand out are in it: the last one of each of their lives, and
#: the UTC date of that.
usage_batches = Table(
    "usage_batches",
    metadata,
    Column("boot", String, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("day", String, nullable=False),
    sqlite_with_rowid=False,
)

#: A row an event; `issuer/audit.py` says what is in it.
audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("address", String, nullable=False),
    Column("event", String, nullable=False),
    Column("target", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("user", String, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("hash", String, nullable=False),
)
#: Most rows are logins, each of the user whom it concerns: they stand in one index alone.
IS_NO_LOGIN = audit.c.event != text(f"'{LOGIN}'")
OF_ANOTHER = audit.c.name != audit.c.user
_index("audit_of_user", audit.c.user, audit.c.sequence)
_index("audit_of_another", audit.c.name, audit.c.sequence, where=OF_ANOTHER)
_index("audit_of_event", audit.c.event, audit.c.sequence, where=IS_NO_LOGIN)

#: One row: the last row of the audit, and the last one that was pruned.
audit_head = Table(
    "audit_head",
    metadata,
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String, nullable=False),
    Column("anchor_sequence", BigInteger, nullable=False),
    Column("anchor_hash", String, nullable=False),
)

#: One row. `copied` is set in a backup, so that whoever opens it knows what it is.
identity = Table(
    "identity",
    metadata,
    Column("epoch", String, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("copied", Integer),
)

#: One row: how many of `STEPS` have been taken.
schema = Table("schema_version", metadata, Column("version", Integer, nullable=False))


def _index_of_active_covers_credentials(connection: Connection) -> None:
    connection.execute(text("DROP INDEX IF EXISTS active_of_subject"))


def _batches_have_a_day(connection: Connection) -> None:
    """None is forgotten sooner for having had none."""
    if not inspect(connection).has_table(usage_batches.name):
        return
    known = {column["name"] for column in inspect(connection).get_columns(usage_batches.name)}
    if "day" not in known:
        today = datetime.now(UTC).date().isoformat()
        added = f"ADD COLUMN day VARCHAR NOT NULL DEFAULT '{today}'"
        connection.execute(text(f"ALTER TABLE usage_batches {added}"))


#: From each version to the next, in order. A step that was released is never changed.
STEPS: Sequence[Callable[[Connection], None]] = (
    _index_of_active_covers_credentials,
    _batches_have_a_day,
)


def create(connection: Connection, epoch: str, salt: bytes) -> None:
    """Make what is missing, and bring what is there up to date, within the caller's transaction.
    `epoch` and `salt` are a new store's. Raises `RuntimeError` for a store of a later Portero.
    """
    is_new = not inspect(connection).has_table(identity.name)
    schema.create(connection, checkfirst=True)
    for step in STEPS[_version(connection, is_new) :]:
        step(connection)
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    connection.execute(schema.update().values(version=len(STEPS)))
    known = set(connection.scalars(select(counters.c.name)))
    missing = [{"name": name, "value": 0} for name in COUNTED if name not in known]
    if missing:
        connection.execute(insert(counters), missing)
    if connection.execute(select(audit_head.c.sequence)).first() is None:
        # Where there are rows and no head, someone took it: no hash is theirs, and that shows.
        last = connection.scalar(select(func.max(audit.c.sequence))) or 0
        none = {"sequence": last, "hash": "", "anchor_sequence": 0, "anchor_hash": ""}
        connection.execute(insert(audit_head).values(**none))
    if connection.execute(select(identity.c.epoch)).first() is None:
        connection.execute(insert(identity).values(epoch=epoch, salt=salt, copied=0))


def _version(connection: Connection, is_new: bool) -> int:
    version = connection.scalar(select(schema.c.version))
    if version is None:
        version = len(STEPS) if is_new else 0
        connection.execute(insert(schema).values(version=version))
    if version > len(STEPS):
        raise RuntimeError("it was made by a later version of Portero; install that, or restore")
    return int(version)
