"""What was refused, for the audit: counted before it is written, so that whoever floods an endpoint
writes no flood of rows.

Refusals of the same user, address, event and outcome are one row within a minute: the first is
written at the next `flush`, the others together when the minute is over. Of more different ones
than `MOST` within a minute the rest are counted without user and address. What was not written yet
dies with the process. It must never have a caller wait for the store: by the time that took, one
could tell a name that is a user's from one that is not.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from issuer.audit import Actor, Event
from issuer.errors import StoreUnavailable
from issuer.store.audit import Audit

MOST = 200
#: As many wait for a store that is away.
MOST_KEPT = 10 * MOST
MINUTE_SECONDS = 60


@dataclass
class _Count:
    times: int = 0
    is_told: bool = False


class Refusals:
    """The refusals of one process; safe for threads. One that does not gather writes at once."""

    def __init__(
        self, audit: Audit, gathers: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._audit = audit
        self._gathers = gathers
        self._clock = clock
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._minute = 0
        self._counts: dict[Event, _Count] = {}
        self._over: list[Event] = []

    def note(self, event: Event) -> None:
        """One more of these."""
        if not self._gathers:
            self._audit.record(event)
            return
        with self._lock:
            self._begin_minute()
            if event not in self._counts and len(self._counts) >= MOST:
                event = replace(event, actor=Actor(event.actor.kind, ""), target="", user="")
            self._counts.setdefault(event, _Count()).times += 1

    def flush(self) -> None:
        """Write what is due. Raises `StoreUnavailable`, and then it is due again."""
        with self._flushing:
            due = self._due()
            try:
                if due:
                    self._audit.record(*due)
            except StoreUnavailable:
                with self._lock:
                    self._over = [*due, *self._over][:MOST_KEPT]
                raise

    def close(self) -> None:
        """Write all there is. Raises `StoreUnavailable`."""
        with self._lock:
            self._end_minute()
        self.flush()

    def _due(self) -> list[Event]:
        """What is over, and the first of each of this minute."""
        with self._lock:
            self._begin_minute()
            due, self._over = self._over, []
            for one, count in self._counts.items():
                if not count.is_told:
                    due.append(replace(one, times=count.times))
                    count.times, count.is_told = 0, True
            return due

    def _begin_minute(self) -> None:
        minute = int(self._clock()) // MINUTE_SECONDS
        if minute != self._minute:
            self._end_minute()
            self._minute = minute

    def _end_minute(self) -> None:
        self._over += [
            replace(one, times=count.times) for one, count in self._counts.items() if count.times
        ]
        self._counts = {}
