"""A clock that stands still until a test sets it, or somebody who goes by it waits."""

import threading

from portero.clock import Clock


class SetClock(Clock):
    """`slept` has every wait, in seconds."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def go(self, seconds: float) -> None:
        """Let time go by."""
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.go(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
