"""How long to wait before trying again, and when to stop. Pure: it never waits itself."""

import random
from collections.abc import Callable

from portero.errors import PorteroError

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 5.0


class Patience:
    """Waits that add up to no more than a budget.

    `budget_seconds`: all of them together. `can_wait`: whether an error may be waited out at all.
    What an answer says in Retry-After is kept; else the waits double, each with jitter, so that
    many clients do not come back at once.
    """

    def __init__(
        self,
        budget_seconds: float,
        can_wait: Callable[[PorteroError], bool],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._left = budget_seconds
        self._can_wait = can_wait
        self._chance = chance
        self._next = FIRST_SECONDS

    def spend(self, seconds: float) -> None:
        """Count time that went by otherwise."""
        self._left -= seconds

    def pause(self, error: PorteroError) -> float | None:
        """Seconds to wait before the next try; None when there shall be none."""
        if error.should_retry is False or not self._can_wait(error):
            return None
        seconds = error.retry_after
        if seconds is None:
            seconds = self._next * (0.5 + 0.5 * self._chance())
            self._next = min(2 * self._next, LONGEST_SECONDS)
        if seconds > self._left:
            return None
        self._left -= seconds
        return seconds
