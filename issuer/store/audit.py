"""The rows of the audit, in the same database as what they tell of, so that a change and its row
are durable together or not at all.

Each row's hash covers the hash of the row before; the head says which row is the last, and the
anchor which was the last of those whose time was over. So a row that was changed, taken out, put in
or cut off shows. It must never change a row.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy import Row as DatabaseRow

from issuer.audit import ITSELF, LOGIN, PRUNE, Event, Row
from issuer.store.database import Database
from issuer.store.tables import IS_NO_LOGIN, OF_ANOTHER, audit, audit_head

log = logging.getLogger("portero.audit")

KEPT_DAYS = 90
DAY_SECONDS = 86_400
_COLUMNS = [audit.c[one.name] for one in fields(Row)]
_PAGE = 5_000
_SET_HEAD = update(audit_head).values(sequence=bindparam("newest"), hash=bindparam("newest_hash"))


@dataclass(frozen=True)
class Chain:
    """What `verify` found: how many rows there are, and the last one's place and hash; `fault` says
    what is wrong, of the row `bad` if it is one's.
    """

    rows: int
    sequence: int
    hash: str
    bad: int | None = None
    fault: str = ""


class Audit:
    """The rows in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, *events: Event) -> None:
        """Make events durable that are no change of the store's own. Raises `StoreUnavailable`."""
        with self._database.transaction() as connection:
            append(connection, events)

    def record_change(self, event: Event, within_seconds: int) -> None:
        """The same, unless the last row of this event and target says so already, and is no older:
        several processes may see one change.
        """
        same = and_(audit.c.event == event.event, audit.c.target == event.target)
        with self._database.transaction() as connection:
            row = _newest(connection, same)
            is_told = row and row.outcome == event.outcome
            if not (row and is_told and row.time > time.time() - within_seconds):
                append(connection, [event])

    def newest(self, events: Sequence[str], target: str, address: str) -> Row | None:
        """The last row of one of these events about this target, from this address."""
        at = and_(audit.c.target == target, audit.c.address == address)
        same = and_(audit.c.event.in_(events), at)
        return self._database.read(lambda connection: _newest(connection, same))

    def rows(
        self,
        most: int,
        before: int | None = None,
        user: str | None = None,
        event: str | None = None,
        since: int | None = None,
    ) -> Sequence[Row]:
        """A page, the newest first: rows before a place in the sequence, since a time, of one
        event, and of one user, who did it or whom it concerns.
        """
        chosen = [
            *([audit.c.sequence < before] if before is not None else []),
            *([_of_user(user)] if user is not None else []),
            *(_of_event(event) if event is not None else []),
            *([audit.c.time >= since] if since is not None else []),
        ]
        page = select(*_COLUMNS).where(*chosen).order_by(audit.c.sequence.desc()).limit(most)
        return self._database.read(lambda connection: list(map(_row, connection.execute(page))))

    def after(self, sequence: int, most: int = _PAGE) -> Sequence[Row]:
        """A page, the oldest first, of what came after a place."""
        return self._database.read(lambda connection: _after(connection, sequence, most))

    def head(self) -> int:
        """The place of the last row; 0 before there is one."""
        return self._database.read(lambda connection: int(_head(connection).sequence))

    def verify(self) -> Chain:
        """Follow the chain from the anchor to the head, and again where the anchor has moved."""
        head = self._database.read(_head)
        found = self._walked(head)
        is_moved = head.anchor_sequence != self._database.read(_head).anchor_sequence
        return self.verify() if is_moved else found

    def _walked(self, head: DatabaseRow[Any]) -> Chain:
        walk = _Walk(head.anchor_sequence, head.anchor_hash)
        while not walk.fault and (page := self.after(walk.sequence)):
            for row in page:
                # What is added meanwhile is for the next who asks.
                if row.sequence <= head.sequence and not walk.fault:
                    walk.step(row)
            if page[-1].sequence >= head.sequence:
                break
        return walk.found(head.sequence, head.hash)

    def prune(self, now: int, days: int) -> int:
        """Forget the rows of days that are over for so long, and note up to where in a row; answers
        how many.
        """
        oldest = (now // DAY_SECONDS - days) * DAY_SECONDS
        with self._database.transaction() as connection:
            return _prune(connection, oldest)


class Lines:
    """The rows as JSON lines in the log: those that come after it was made, whoever wrote them.
    Safe for threads.
    """

    def __init__(self, rows: Audit) -> None:
        self._rows = rows
        self._told = rows.head()
        self._telling = threading.Lock()

    def tell(self) -> None:
        """A line each, for all that is new. Raises `StoreUnavailable`."""
        with self._telling:
            head = self._rows.head()
            if head < self._told:  # a backup was taken over, which is the last of its rows
                self._told = head - 1
            while page := self._rows.after(self._told):
                for row in page:
                    log.info("%s", json.dumps({**row.shown, "hash": row.hash}))
                    self._told = row.sequence


def append(connection: Connection, events: Sequence[Event]) -> None:
    """Put events at the end of the chain, within the caller's transaction."""
    if not events:
        return
    now, head = int(time.time()), _head(connection)
    sequence, last, rows = head.sequence, head.hash, []
    for event in events:
        sequence += 1
        row = _placed(event, sequence, now)
        last = row.chained(last)
        rows.append({**vars(row), "hash": last})
    connection.execute(insert(audit), rows)
    connection.execute(_SET_HEAD, {"newest": sequence, "newest_hash": last})


def _placed(event: Event, sequence: int, now: int) -> Row:
    actor = event.actor
    return Row(
        sequence=sequence,
        time=now,
        kind=actor.kind,
        name=actor.name,
        address=actor.address,
        event=event.event,
        target=event.target,
        outcome=event.outcome,
        user=event.user,
        times=event.times,
    )


class _Walk:
    """One walk along the chain."""

    def __init__(self, sequence: int, last: str) -> None:
        self.sequence = sequence
        self.fault = ""
        self._anchor = f"{sequence}:{last}"
        self._noted = "0:"
        self._last = last
        self._rows = 0
        self._bad: int | None = None

    def step(self, row: Row) -> None:
        place = self.sequence + 1
        if row.sequence != place:
            self._fail(place, "is not there")
        elif row.chained(self._last) != row.hash:
            self._fail(place, "was changed, or the row before it")
        self.sequence, self._last = row.sequence, row.hash
        self._rows += 1
        if row.event == PRUNE:
            self._noted = row.target

    def found(self, sequence: int, last: str) -> Chain:
        """What came of it, where the head says what the last row is."""
        if not self.fault and self.sequence < sequence:
            self._fail(self.sequence + 1, "is not there")
        elif not self.fault and last != self._last:
            self._fail(self.sequence, "is not the one that the head names")
        elif not self.fault and self._noted != self._anchor:
            self._fail(None, "the oldest rows were taken out, and no row says so")
        return Chain(self._rows, self.sequence, self._last, self._bad, self.fault)

    def _fail(self, bad: int | None, fault: str) -> None:
        if not self.fault:
            self._bad, self.fault = bad, fault if bad is None else f"row {bad} {fault}"


def _prune(connection: Connection, oldest: int) -> int:
    """Whole days go, so that the row that notes it is written once a day at most."""
    kept = connection.scalar(select(func.min(audit.c.sequence)).where(audit.c.time >= oldest))
    head = _head(connection)
    last = head.sequence if kept is None else kept - 1
    row = connection.execute(select(*_COLUMNS).where(audit.c.sequence == last)).first()
    if row is None:
        return 0
    gone = connection.execute(delete(audit).where(audit.c.sequence <= last)).rowcount
    anchor = _row(row)
    connection.execute(
        update(audit_head).values(anchor_sequence=anchor.sequence, anchor_hash=anchor.hash)
    )
    append(connection, [Event(ITSELF, PRUNE, target=f"{anchor.sequence}:{anchor.hash}")])
    return gone


def _head(connection: Connection) -> DatabaseRow[Any]:
    return connection.execute(select(audit_head)).one()


def _newest(connection: Connection, chosen: ColumnElement[bool]) -> Row | None:
    found = select(*_COLUMNS).where(chosen, IS_NO_LOGIN).order_by(audit.c.sequence.desc()).limit(1)
    row = connection.execute(found).first()
    return _row(row) if row else None


def _after(connection: Connection, sequence: int, most: int) -> list[Row]:
    page = select(*_COLUMNS).where(audit.c.sequence > sequence)
    return list(map(_row, connection.execute(page.order_by(audit.c.sequence).limit(most))))


def _row(found: DatabaseRow[Any]) -> Row:
    return Row(**found._mapping)


def _of_user(user: str) -> ColumnElement[bool]:
    """The indexes hold each row under whom it concerns, and under whoever else did it."""
    return or_(audit.c.user == user, and_(audit.c.name == user, OF_ANOTHER))


def _of_event(event: str) -> list[ColumnElement[bool]]:
    return [audit.c.event == event] + ([] if event == LOGIN else [IS_NO_LOGIN])
