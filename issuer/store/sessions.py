"""Sessions, API keys and the last good policy in a database, as the package promises.

It must never know which database that is, but where one needs a hint to find a row quickly.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)

from issuer.audit import ALL, API_KEY_REVOKE, DISTRUST, ITSELF, POLICY, REVOKE, Actor, Event
from issuer.errors import CapacityReached, TooManyTokens
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
from issuer.store.audit import Audit, append
from issuer.store.database import SQLITE, Database, new_epoch
from issuer.store.tables import (
    IS_KEY,
    IS_TOKEN,
    api_keys,
    counters,
    identity,
    policy,
    servers_out,
    sessions,
)

_OF_SESSION = [column.name for column in fields(Session) if column.name != "api_key"]
_IS_KEY = {True: IS_KEY, False: IS_TOKEN}
#: Every session, with what an API key has beside it; tokens are not looked for there.
_ROWS = select(
    *(sessions.c[name] for name in _OF_SESSION), *(c for c in api_keys.c if c.name != "id")
).select_from(sessions.outerjoin(api_keys, and_(api_keys.c.id == sessions.c.jti, IS_KEY)))


def _about_key(about: str) -> Sequence[ColumnElement[bool]]:
    of = [sessions.c.subject, api_keys.c.name]
    return [or_(*(one.icontains(about, autoescape=True) for one in of))] if about else []


def _active(now: int) -> ColumnElement[bool]:
    return and_(sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)


class Sessions:
    """The store in a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.audit = Audit(database)
        with database.transaction() as connection:
            if _identity(connection, "copied"):
                append(connection, [Event(ITSELF, DISTRUST, "a copy")])
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
        with self.database.transaction() as connection:
            batch = _Batch(connection, additions, most_active, now)
            answers = [batch.add(one) for one in additions]
            batch.write()
            return answers

    def revoke(self, selection: Selection, now: int) -> Sequence[Session]:
        """Revoke what is selected, expired or not; answers all of it, what ends last first."""
        return self.revoke_each([Ending(selection)], now)[0]

    def revoke_each(self, endings: Sequence[Ending], now: int) -> Sequence[Sequence[Session]]:
        """The same for several, in one transaction."""
        with self.database.transaction() as connection:
            return [_end(connection, one, now) for one in endings]

    def find(self, jti: str) -> Session | None:
        """The session of this `jti`, or None."""
        found = self._select(_ROWS.where(sessions.c.jti == jti))
        return found[0] if found else None

    def live_after(self, jti: str, now: int, most: int) -> Sequence[Session]:
        """A page of unexpired sessions, active and revoked, in the order of their `jti`."""
        rows = _ROWS.where(sessions.c.jti > jti, sessions.c.expires_at > now)
        return self._select(rows.order_by(sessions.c.jti).limit(most))

    def changes_after(self, position: int, most: int) -> Sequence[Session]:
        """A page of sessions changed after `position`, in the order of their positions."""
        rows = _ROWS.where(sessions.c.position > position)
        return self._select(rows.order_by(sessions.c.position).limit(most))

    def position(self) -> int:
        """The position of the newest change."""
        return self.database.read(lambda connection: _counter(connection, "position"))

    def active(self, now: int, most: int, about: str = "") -> Sequence[Session]:
        """The newest active tokens' sessions; of those whose `jti` or role is `about`, or whose
        subject has it in it, where there is one.
        """
        rows = _ROWS.where(IS_TOKEN, _active(now))
        if about:
            named = or_(sessions.c.jti == about, sessions.c.role == about)
            rows = rows.where(or_(named, sessions.c.subject.icontains(about, autoescape=True)))
        return self._select(rows.order_by(sessions.c.position.desc()).limit(most))

    def api_keys(
        self, now: int, subject: str | None = None, most: int | None = None, about: str = ""
    ) -> Sequence[Session]:
        """The active API keys, of one owner or of all, the newest first; at most so many, and of
        those whose owner or name has `about` in it.
        """
        rows = _ROWS.where(IS_KEY, _active(now), *_about_key(about))
        if subject is not None:
            rows = rows.where(sessions.c.subject == subject)
        newest = rows.order_by(sessions.c.issued_at.desc(), sessions.c.jti)
        return self._select(newest.limit(most))

    def count_api_keys(self, now: int, about: str = "") -> int:
        """How many there are of those."""
        keys = _ROWS.where(IS_KEY, _active(now), *_about_key(about))
        count = select(func.count()).select_from(keys.subquery())
        return self.database.read(lambda connection: int(connection.scalar(count) or 0))

    def note_uses(self, uses: Mapping[str, int], least_seconds: int) -> None:
        """Remember when API keys were used last, where that is so much later than what is known."""
        if not uses:
            return
        known = api_keys.c.last_used_at
        used: BindParameter[int] = bindparam("used_at")
        note = (
            update(api_keys)
            .where(api_keys.c.id == bindparam("key"))
            .where(or_(known.is_(None), known <= used - least_seconds))
            .values(last_used_at=used)
        )
        with self.database.transaction() as connection:
            connection.execute(note, [{"key": key, "used_at": at} for key, at in uses.items()])

    def last_expiry(self) -> int:
        """When the last of all tokens ends, or ended; 0 when there is none."""
        last = select(func.max(sessions.c.expires_at)).where(IS_TOKEN)
        return self.database.read(lambda connection: connection.scalar(last) or 0)

    def count_active(self, now: int) -> int:
        """How many sessions are active."""
        return self.database.read(lambda connection: _count_active(connection, now))

    def credentials_in_use(self, now: int) -> Sequence[tuple[str, str]]:
        """The distinct (subject, credential) pairs of active sessions."""
        return self.database.read(lambda connection: _credentials_in_use(connection, now))

    def policy(self) -> StoredPolicy | None:
        """The last good policy, or None before there is one."""
        return self.database.read(_policy)

    def policy_serial(self) -> int:
        """Its serial number; 0 before there is one."""
        return self.database.read(lambda connection: _counter(connection, "policy"))

    def put_policy(
        self,
        sources: str,
        compiled: str,
        still: Callable[[], bool] = lambda: True,
        by: Actor | None = None,
    ) -> StoredPolicy | None:
        """Make a policy durable under the next serial number; the same again keeps its own.

        `still` is asked while no other can put one: where it says no, nothing is put, and None
        comes back. So what was read from files first is never put after what was read later.
        """
        with self.database.transaction() as connection:
            known = _policy(connection)
            if not still():
                return None
            if known and (known.sources, known.compiled) == (sources, compiled):
                return known
            serial = _raise(connection, "policy")
            row = {"serial": serial, "sources": sources, "compiled": compiled}
            connection.execute(delete(policy))
            connection.execute(insert(policy).values(**row))
            append(connection, [Event(by, POLICY, f"policy {serial}")] if by else [])
            return StoredPolicy(serial, sources, compiled, _taken_out(connection))

    def take_out(self, name: str, taken: TakenOut, event: Event) -> bool:
        """An LLM server out of the policy's, durably; False where it is out already."""
        with self.database.transaction() as connection:
            if name in _taken_out(connection):
                return False
            connection.execute(insert(servers_out).values(name=name, **vars(taken)))
            _raise_policy(connection, event)
            return True

    def put_back(self, name: str, event: Event) -> bool:
        """The same, undone; False where it is not out."""
        with self.database.transaction() as connection:
            found = connection.execute(delete(servers_out).where(servers_out.c.name == name))
            if not found.rowcount:
                return False
            _raise_policy(connection, event)
            return True

    def prune(self, now: int) -> int:
        """Forget sessions whose time is long over; answers how many."""
        with self.database.transaction() as connection:
            return _forget_expired(connection, now - KEPT_SECONDS)

    def salt(self) -> bytes:
        """Random bytes made with the store, for fingerprints that mean nothing elsewhere."""
        return bytes(self.database.read(lambda connection: _identity(connection, "salt")))

    def epoch(self) -> str:
        """The name of this store's history."""
        return str(self.database.read(lambda connection: _identity(connection, "epoch")))

    def begin_epoch(self, now: int, event: Event | None = None) -> int:
        """Trust nothing of what is here: revoke all, and begin a history. Answers how many."""
        with self.database.transaction() as connection:
            append(connection, [event] if event else [])
            return _begin_epoch(connection, now)

    def check(self) -> None:
        """Read it once. Raises `StoreUnavailable` if it is damaged."""
        self.database.check()

    def backup(self, path: Path) -> None:
        """A consistent copy, while others write. Opened as a store it revokes all it holds."""
        self.database.copy_to(path)

    def restore(self, path: Path, event: Event | None = None) -> int:
        """Take over a backup in place of all that is here. Answers how many it revoked."""
        self.database.copy_from(path)
        return self.begin_epoch(int(time.time()), event)

    def _select(self, rows: Select[Any]) -> list[Session]:
        return self.database.read(
            lambda connection: [_session(row) for row in connection.execute(rows)]
        )


def open_sessions(url: str) -> Sessions:
    """The store at a DATABASE_URL. Raises `StoreUnavailable`."""
    return Sessions(Database(url))


# Adding.


class _Batch:
    """Sessions that are added in one transaction: what bounds them is counted once, and raised by
    each. What is refused leaves no change behind, and harms no other.
    """

    def __init__(
        self, connection: Connection, additions: Sequence[Addition], most_active: int, now: int
    ) -> None:
        self._connection = connection
        self._most_active, self._now = most_active, now
        self._position, self._rows = _counters(connection, "position", "rows")
        self._of_subjects = _count_of_subjects(connection, additions, now)
        self._added: list[Session] = []
        self._events: list[Event] = []
        self._is_full = False

    def add(self, addition: Addition) -> CapacityReached | TooManyTokens | None:
        session = addition.session
        if self._rows >= self._most_active and not self._make_room():
            return CapacityReached()
        owner = session.subject, session.api_key is not None
        count, most = self._of_subjects.get(owner, 0), addition.most_of_subject
        if most is not None and count >= most:
            return TooManyTokens()
        self._of_subjects[owner] = count + 1
        self._position += 1
        self._rows += 1
        self._added.append(replace(session, revoked_at=None, position=self._position))
        self._events += [addition.event] if addition.event else []
        return None

    def write(self) -> None:
        if not self._added:
            return
        rows = [{name: getattr(one, name) for name in _OF_SESSION} for one in self._added]
        self._connection.execute(insert(sessions), rows)
        if made := [_key_row(one, one.api_key) for one in self._added if one.api_key]:
            self._connection.execute(insert(api_keys), made)
        raised = {"position": self._position, "rows": self._rows}
        self._connection.execute(
            _SET_COUNTER, [{"counter": name, "raised": value} for name, value in raised.items()]
        )
        append(self._connection, self._events)

    def _make_room(self) -> bool:
        """Counting is slow on a large table, so it is done only when the rows could be too many."""
        if not self._is_full:
            _forget_expired(self._connection, self._now - KEPT_SECONDS)
            (forgotten,) = _counters(self._connection, "rows")
            self._rows = forgotten + len(self._added)
            active = _count_active(self._connection, self._now) + len(self._added)
            self._is_full = active >= self._most_active
        return not self._is_full


def _count_of_subjects(
    connection: Connection, additions: Sequence[Addition], now: int
) -> dict[tuple[str, bool], int]:
    """How many each of these has that are active: tokens (False) and API keys (True)."""
    subjects = {one.session.subject for one in additions if one.most_of_subject is not None}
    if not subjects:
        return {}
    # Of the index alone: an agent may have thousands.
    hint = " INDEXED BY active_of_subject" if connection.dialect.name == SQLITE else ""
    query = text(
        f"SELECT subject, {IS_KEY} AS is_key, count(*) FROM sessions{hint}"
        " WHERE subject IN :subjects AND revoked_at IS NULL AND expires_at > :now"
        " GROUP BY subject, is_key"
    ).bindparams(bindparam("subjects", sorted(subjects), expanding=True), now=now)
    return {(row[0], bool(row[1])): int(row[2]) for row in connection.execute(query)}


def _key_row(session: Session, key: ApiKey) -> dict[str, object]:
    return {
        "id": session.jti,
        "digest": key.digest,
        "name": key.name,
        "models": json.dumps(key.models),
        "made_by": key.made_by,
    }


# Revoking.


def _begin_epoch(connection: Connection, now: int) -> int:
    connection.execute(update(identity).values(epoch=new_epoch(), copied=0))
    active = _count_active(connection, now)
    _revoke(connection, true(), now)
    return active


def _revoke(connection: Connection, chosen: ColumnElement[bool], now: int) -> int:
    """Each revocation gets a position of its own, so that no page of changes can split one. Answers
    how many there were.
    """
    unrevoked = select(sessions.c.jti).where(sessions.c.revoked_at.is_(None), chosen)
    found = connection.scalars(unrevoked).all()
    if not found:
        return 0
    last = _raise(connection, "position", len(found))
    rows = [{"id": jti, "place": last - index} for index, jti in enumerate(found)]
    connection.execute(
        update(sessions)
        .where(sessions.c.jti == bindparam("id"))
        .values(revoked_at=now, position=bindparam("place")),
        rows,
    )
    return len(rows)


def _end(connection: Connection, ending: Ending, now: int) -> list[Session]:
    chosen = and_(true(), *_conditions(ending.selection))
    changed = _revoke(connection, chosen, now)
    rows = _ROWS.where(chosen).order_by(sessions.c.expires_at.desc())
    found = [_session(row) for row in connection.execute(rows)]
    if ending.event and changed:
        append(connection, [_told(ending.event, ending.selection, found)])
    return found


def _told(event: Event, selection: Selection, found: Sequence[Session]) -> Event:
    """What is said of what was found; what nothing was found by is never told."""
    one = found[0]
    if selection.jti is not None:
        name = API_KEY_REVOKE if event.event == REVOKE and one.api_key else event.event
        return replace(event, event=name, target=one.audited, user=one.subject)
    if selection.subject is not None:
        return replace(event, target=one.subject, user=one.subject)
    return replace(event, target=f"role {one.role}" if selection.role else ALL)


def _conditions(selection: Selection) -> list[ColumnElement[bool]]:
    chosen = {name: value for name, value in vars(selection).items() if value is not None}
    kinds = [_IS_KEY[chosen.pop("api_keys")]] if "api_keys" in chosen else []
    return [*kinds, *(sessions.c[name] == value for name, value in chosen.items())]


# Rows.


def _session(row: Row[Any]) -> Session:
    width = len(_OF_SESSION)
    digest, name, models, made_by, last_used_at = row[width:]
    if digest is None:
        return Session(*row[:width])
    key = ApiKey(digest, name, tuple(json.loads(models)), made_by, last_used_at)
    return replace(Session(*row[:width]), api_key=key)


def _identity(connection: Connection, column: str) -> Any:
    return connection.scalar(select(identity.c[column]))


def _policy(connection: Connection) -> StoredPolicy | None:
    """What is taken out is read last: between two reads it can only be newer than its number, and
    goes again with the next.
    """
    row = connection.execute(select(policy)).first()
    if row is None:
        return None
    return StoredPolicy(row.serial, row.sources, row.compiled, _taken_out(connection))


def _taken_out(connection: Connection) -> dict[str, TakenOut]:
    rows = connection.execute(select(servers_out))
    return {row.name: TakenOut(row.since, row.by) for row in rows}


def _raise_policy(connection: Connection, event: Event) -> None:
    connection.execute(update(policy).values(serial=_raise(connection, "policy")))
    append(connection, [event])


_SET_COUNTER = (
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=bindparam("raised"))
)


def _counters(connection: Connection, *names: str) -> list[int]:
    rows = select(counters).where(counters.c.name.in_(names))
    values = {row.name: int(row.value) for row in connection.execute(rows)}
    return [values[name] for name in names]


def _counter(connection: Connection, name: str) -> int:
    return _counters(connection, name)[0]


def _raise(connection: Connection, name: str, by: int = 1) -> int:
    raised = (
        update(counters)
        .where(counters.c.name == name)
        .values(value=counters.c.value + by)
        .returning(counters.c.value)
    )
    return int(connection.execute(raised).scalar_one())


def _credentials_in_use(connection: Connection, now: int) -> list[tuple[str, str]]:
    # By itself SQLite would look at all that is kept. Keys are many and live long: their index
    # alone is read.
    of_tokens, of_keys = (
        f" INDEXED BY {name}" if connection.dialect.name == SQLITE else ""
        for name in ("tokens_by_expiry", "keys_of_subject")
    )
    pairs, active = "SELECT DISTINCT subject,", "revoked_at IS NULL AND expires_at > :now"
    query = text(
        f"{pairs} credential FROM sessions{of_tokens} WHERE {IS_TOKEN} AND {active}"
        f" UNION ALL {pairs} '{OF_API_KEY}' FROM sessions{of_keys}"
        f" WHERE {IS_KEY} AND {active}"
    )
    return [(row[0], row[1]) for row in connection.execute(query, {"now": now})]


def _count_active(connection: Connection, now: int) -> int:
    return int(connection.scalar(select(func.count()).where(_active(now))) or 0)


def _forget_expired(connection: Connection, before: int) -> int:
    past = sessions.c.expires_at <= before
    connection.execute(
        delete(api_keys).where(api_keys.c.id.in_(select(sessions.c.jti).where(past)))
    )
    gone = connection.execute(delete(sessions).where(past)).rowcount
    _raise(connection, "rows", -gone)
    return gone
