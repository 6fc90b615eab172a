"""What holds in a forked child. It must never let the child go on as a second run of the tests."""

import os
from collections.abc import Callable


def holds_in_a_child(condition: Callable[[], bool]) -> bool:
    """Whether it does; what it raises there is no."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if condition() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
