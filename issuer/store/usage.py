"""What was used, in the database: a row a day, user, credential, model and server.

A gateway hands its counts out in numbered batches, the same one until it hears that it is here. So
rows and number are written in one transaction, and it must never add a batch a second time.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from issuer.store.database import SQLITE, Database
from issuer.store.tables import spent, usage, usage_batches

Insert = sqlite.Insert | postgresql.Insert

#: What a row is about, and what it counts, in the order in which a gateway tells them.
KEYS = ("day", "user", "credential", "model", "server")
COUNTS = ("requests", "prompt_tokens", "completion_tokens")
#: The characters of a date that are its month.
MONTH = 7
#: Days that clocks and late batches may be behind; a day or month is over for so long before what
#: was spent in it is forgotten.
SPENT_DAYS = 3
#: A gateway that nobody can reach may come back with what it had counted.
LIFE_DAYS = 90


@dataclass(frozen=True)
class Question:
    """Which days (UTC, `YYYY-MM-DD`, both within), told apart by which of `KEYS`, whose."""

    first: str
    last: str
    by: tuple[str, ...]
    user: str | None = None


class Usage:
    """What every caller has used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def taken(self, boot: str) -> int:
        """The number of the last batch that is here of one life of a gateway; 0 for none."""
        return self._database.read(lambda connection: _taken(connection, boot))

    def add(self, boot: str, number: int, rows: Iterable[Sequence[Any]]) -> bool:
        """Add a batch; whether it was not here yet. A row has `KEYS`, then `COUNTS`."""
        with self._database.transaction() as connection:
            if number <= _taken(connection, boot):
                return False
            named = [dict(zip(KEYS + COUNTS, row, strict=True)) for row in rows]
            _add(connection, usage, named, COUNTS)
            sums = [
                {"period": period, "user": user, "tokens": tokens}
                for (period, user), tokens in _spent(named).items()
            ]
            _add(connection, spent, sums, ("tokens",))
            put = _insert(connection, usage_batches)
            day = datetime.now(UTC).date().isoformat()
            batch = [{"boot": boot, "number": number, "day": day}]
            _put(connection, put, batch, {name: put.excluded[name] for name in ("number", "day")})
            return True

    def prune(self, now: int, alive: Collection[str]) -> int:
        """Forget what is spent of days and months that are over, and where lives of gateways have
        come to that handed out nothing for `LIFE_DAYS` and are not among `alive`; answers how many
        rows. What was used is kept.
        """
        today = datetime.fromtimestamp(now, UTC).date()
        day = (today - timedelta(days=SPENT_DAYS)).isoformat()
        month = (today.replace(day=1) - timedelta(days=SPENT_DAYS)).isoformat()[:MONTH]
        length = func.length(spent.c.period)
        of_days = and_(length > MONTH, spent.c.period < day)
        of_months = and_(length == MONTH, spent.c.period < month)
        its_end = (today - timedelta(days=LIFE_DAYS)).isoformat()
        ended = and_(usage_batches.c.day < its_end, usage_batches.c.boot.not_in(list(alive)))
        with self._database.transaction() as connection:
            rows = connection.execute(delete(spent).where(or_(of_days, of_months))).rowcount
            return rows + connection.execute(delete(usage_batches).where(ended)).rowcount

    def spent(self, boot: str, day: str) -> tuple[int, dict[str, tuple[int, int]]]:
        """Which batch of this life is in it, and by user the tokens of that day and its month."""

        def read(connection: Connection) -> tuple[int, dict[str, tuple[int, int]]]:
            # First: what is added between the two is then told a second time, by the gateway.
            taken = _taken(connection, boot)
            return taken, _tokens(connection, day)

        return self._database.read(read)

    def spent_by(self, users: Collection[str], day: str) -> dict[str, tuple[int, int]]:
        """The same of some users alone, who have used anything."""
        return self._database.read(lambda connection: _tokens(connection, day, users))

    def asked(self, question: Question) -> list[dict[str, Any]]:
        """The sums, in the order of what they are told apart by."""
        found = _sums(question)
        return self._database.read(
            lambda connection: [_told(row._asdict()) for row in connection.execute(found)]
        )

    def page(self, question: Question, most: int) -> tuple[list[dict[str, Any]], int]:
        """The first of them, and how many there are: nobody reads a hundred thousand."""
        first, every = _sums(question).limit(most), _chosen(question).distinct()
        count = select(func.count()).select_from(every.subquery())

        def read(connection: Connection) -> tuple[list[dict[str, Any]], int]:
            rows = [_told(row._asdict()) for row in connection.execute(first)]
            is_all = len(rows) < most
            return rows, len(rows) if is_all else int(connection.scalar(count) or 0)

        return self._database.read(read)


def _chosen(question: Question) -> Select[Any]:
    rows = select(*(usage.c[name] for name in question.by))
    rows = rows.where(usage.c.day.between(question.first, question.last))
    return rows if question.user is None else rows.where(usage.c.user == question.user)


def _sums(question: Question) -> Select[Any]:
    by = [usage.c[name] for name in question.by]
    sums = [func.sum(usage.c[name]).label(name) for name in COUNTS]
    return _chosen(question).add_columns(*sums).group_by(*by).order_by(*by)


def _spent(rows: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Tokens by period and user."""
    sums: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for period in (row["day"], row["day"][:MONTH]):
            sums[period, row["user"]] += row["prompt_tokens"] + row["completion_tokens"]
    return sums


def _tokens(
    connection: Connection, day: str, users: Collection[str] | None = None
) -> dict[str, tuple[int, int]]:
    """By user the tokens of a day and its month."""
    month = day[:MONTH]
    rows = select(spent).where(spent.c.period.in_((day, month)))
    if users is not None:
        rows = rows.where(spent.c.user.in_(users))
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(rows):
        found.setdefault(row.user, {})[row.period] = int(row.tokens)
    return {user: (of.get(day, 0), of.get(month, 0)) for user, of in found.items()}


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sum of integers is no integer to every database."""
    return {name: int(value) if name in COUNTS else value for name, value in row.items()}


def _taken(connection: Connection, boot: str) -> int:
    number = select(usage_batches.c.number).where(usage_batches.c.boot == boot)
    return int(connection.scalar(number) or 0)


def _add(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], counts: Sequence[str]
) -> None:
    """New rows, or their counts added to those that are there."""
    put = _insert(connection, table)
    _put(connection, put, rows, {name: table.c[name] + put.excluded[name] for name in counts})


def _insert(connection: Connection, table: Table) -> Insert:
    return sqlite.insert(table) if connection.dialect.name == SQLITE else postgresql.insert(table)


def _put(
    connection: Connection,
    put: Insert,
    rows: Sequence[Mapping[str, Any]],
    changes: Mapping[str, Any],
) -> None:
    """All at once: others wait for this transaction."""
    if rows:
        keys = list(put.table.primary_key)
        known = put.on_conflict_do_update(index_elements=keys, set_=dict(changes))
        connection.execute(known, rows)
