"""Waiting for a condition with a deadline, and how long a deadline is on a machine that is shared.

Where `make test` runs several pytests side by side it says so, and each waits longer; a test that
runs by itself holds the bound that it names. What must not come too early is never stretched.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

#: How many times as long as alone something may take; `tests.support.both` sets it.
VARIABLE = "PORTERO_TEST_PATIENCE"
PATIENCE = float(os.environ.get(VARIABLE, "1"))
#: Seconds between two looks, the first ones and the later ones: who looks often takes the time of
#: what it waits for.
SHORTEST_PAUSE, LONGEST_PAUSE, GROWTH = 0.01, 0.05, 1.3


def within(seconds: float) -> float:
    """The bound that something has here, of its bound on a machine of its own. In seconds."""
    return seconds * PATIENCE


def wait_for(condition: Callable[[], Any], seconds: float = 10.0, what: str = "condition") -> Any:
    """Wait until the condition holds, and answer what it gave; an error at the deadline."""
    deadline, pause = time.monotonic() + within(seconds), SHORTEST_PAUSE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within(seconds)} s: {what}")
        threading.Event().wait(pause)
        pause = min(pause * GROWTH, LONGEST_PAUSE)
