"""Work that many wait for at once, done for all of them together: what comes while one batch is
committed is the next batch.

Whoever comes to an idle one leads: it commits a batch of one. The first of those that came
meanwhile leads the next, once the batch before was told; where telling takes long it does not wait
for that, so that who hangs holds up none but those it was told of. No thread stands by.
It must never answer anyone before the batch with its item was committed and told.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

#: So long the next batch gathers while the one before is told: as long as that should take.
GATHER_SECONDS = 0.005

Item = TypeVar("Item")
Committed = TypeVar("Committed")
Outcome = TypeVar("Outcome")


class Batches(Generic[Item, Committed, Outcome]):
    """`commit` and `tell` get the items of a batch, and answer one thing for each, in order."""

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Committed]],
        tell: Callable[[Sequence[Committed]], Sequence[Outcome]],
    ) -> None:
        self._commit = commit
        self._tell = tell
        self._lock = threading.Lock()
        self._is_committing = False
        self._told_before = threading.Event()
        self._told_before.set()
        self._waiting: list[_Entry[Item, Outcome]] = []

    def do(self, item: Item) -> Outcome:
        """What `tell` says of this item. What either raises, it raises for the whole batch."""
        entry: _Entry[Item, Outcome] = _Entry(item)
        with self._lock:
            self._waiting.append(entry)
            leads, self._is_committing = not self._is_committing, True
        if leads or entry.leads():
            self._lead()
        return entry.outcome()

    def _lead(self) -> None:
        self._told_before.wait(GATHER_SECONDS)
        told = threading.Event()
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._told_before = told
        try:
            self._finish(batch, self._tell(self._committed(batch)))
        except Exception as error:
            for entry in batch:
                entry.fail(error)
            raise
        finally:
            told.set()

    def _committed(self, batch: "Sequence[_Entry[Item, Outcome]]") -> Sequence[Committed]:
        try:
            return self._commit([entry.item for entry in batch])
        finally:
            with self._lock:
                self._is_committing = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].lead()

    def _finish(
        self, batch: "Sequence[_Entry[Item, Outcome]]", outcomes: Sequence[Outcome]
    ) -> None:
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.finish(outcome)


class _Entry(Generic[Item, Outcome]):
    """One item, and the thread that waits for it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self._changed = threading.Event()
        self._leads = False
        self._outcome: list[Outcome] = []
        self._error: Exception | None = None

    def lead(self) -> None:
        self._leads = True
        self._changed.set()

    def finish(self, outcome: Outcome) -> None:
        self._outcome.append(outcome)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()

    def leads(self) -> bool:
        """Wait until there is an outcome, or until this one leads a batch."""
        self._changed.wait()
        return self._leads

    def outcome(self) -> Outcome:
        if self._error is not None:
            raise self._error
        return self._outcome[0]
