"""One gateway in the place of another, without a failed request or a cut stream.

The new one starts beside the old one, shut: it has no public listener yet, and is told all. Once
it is ready it opens at the same address, the old one shuts, and ends when its last stream has. Both
are told what is revoked all the time. It must never shut the old one before the new one has opened:
whatever fails before leaves the old one as it was.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from run.commands import RunError, say

READY_SECONDS = 60
#: nginx ends what is left of a stream after ten minutes (worker_shutdown_timeout).
DRAINED_SECONDS = 11 * 60
TICK_SECONDS = 0.1


class Machine(Protocol):
    """Where gateways run, each by the port of its internal listener."""

    def tell(self, ports: Sequence[int]) -> None:
        """Name these to issuer and reconciler, and no others of this machine."""

    def start(self, port: int) -> None:
        """Start a gateway that does not run."""

    def stop(self, port: int) -> None:
        """End one, and what it still serves."""

    def set_shut(self, port: int, is_shut: bool) -> None:
        """What it shall be at its next start or reload."""

    def reload(self, port: int) -> None:
        """Have one take what was set; what it has begun goes on."""

    def is_ready(self, port: int) -> bool:
        """Whether it has been told all."""

    def is_drained(self, port: int) -> bool:
        """Whether all that it began before its last reload has ended."""


def upgrade(machine: Machine, old: int, new: int) -> None:
    """Put `new` in the place of `old`. Raises `RunError` where it could not be, and then `old` goes
    on as before.
    """
    machine.set_shut(new, True)
    machine.tell([old, new])
    try:
        machine.start(new)
        _wait(lambda: machine.is_ready(new), READY_SECONDS, "the new gateway is not ready")
    except RunError:
        machine.stop(new)
        machine.tell([old])
        raise
    machine.set_shut(new, False)
    machine.reload(new)
    say("The new gateway has opened; the old one shuts, and ends with its last stream.")
    machine.set_shut(old, True)
    machine.reload(old)
    _wait(lambda: machine.is_drained(old), DRAINED_SECONDS, "the old gateway still has streams")
    machine.stop(old)
    machine.set_shut(old, False)
    machine.tell([new])


def _wait(condition: Callable[[], bool], seconds: float, fault: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RunError(f"{fault} after {seconds:.0f} s; its log says why")
        time.sleep(TICK_SECONDS)
