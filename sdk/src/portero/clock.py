"""The only place where this package asks for the time and waits; tests bring their own."""

import asyncio
import time


class Clock:
    """The machine's monotonic clock: setting the time of day changes nothing here.

    >>> Clock().now() <= Clock().now()
    True
    """

    def now(self) -> float:
        """Seconds since some moment of the past."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """The same for a task."""
        await asyncio.sleep(seconds)
