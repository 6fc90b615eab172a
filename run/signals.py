"""How `make run` is told to stop, and how it makes sure that what it started ends with it.

It must never lose a wish to stop, nor let one cut in half what is held together by `held()`.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from run.files import read_text

PR_SET_PDEATHSIG = 1
#: As bits of the kernel's masks.
NOT_PASSED_ON = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)
#: How often a waiting loop looks.
TICK_SECONDS = 0.1


class Stop(BaseException):
    """The user wants an end. Not an Exception: nothing that handles errors may swallow it."""


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into one `Stop`, raised where the main thread is,
    or at the end of `held()`. Later ones are expected (make passes on what its group was sent
    already) and change nothing, except a second Ctrl-C: `insisted` then tells whoever waits to wait
    no longer.
    """

    def __init__(self) -> None:
        self.caught = 0
        self.insisted = False
        self._raised = False
        self._holders = 0
        self._make = Make()

    def install(self) -> None:
        """Take the signals over, once, at the start of a command."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish stands
            signal.signal(signal.SIGHUP, self._on_signal)
        if self._make.found:
            die_with_parent(signal.SIGTERM)

    def look(self) -> None:
        """To be called in every waiting loop: sees what make was told and does not pass on."""
        if not self.caught and self._make.was_told_to_stop():
            self._on_signal(signal.SIGINT, None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a wish to stop waits for the end of the block."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._raise_once()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.insisted = self.insisted or (bool(self.caught) and number == signal.SIGINT)
        self.caught = self.caught or number
        self._raise_once()

    def _raise_once(self) -> None:
        if not self.caught or self._holders or self._raised:
            return
        self._raised = True
        raise Stop


class Make:
    """The make that started us, if one did.

    GNU make passes SIGTERM on, but a SIGINT or SIGHUP sent to make alone it does not: it waits for
    us, for ever. The one trace of it is that make has put the signal's handler back to the default.
    """

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.found = read_text(Path(f"/proc/{self.pid}/comm")).strip() in {"make", "gmake"}
        self._handlers = self._caught_signals()

    def was_told_to_stop(self) -> bool:
        """Whether a handler that it had at our start is gone."""
        return self.found and bool(self._handlers & ~self._caught_signals())

    def _caught_signals(self) -> int:
        return caught_signals(read_text(Path(f"/proc/{self.pid}/status"))) & NOT_PASSED_ON


def caught_signals(status: str) -> int:
    """The mask of signals a process has handlers for, from its /proc/PID/status."""
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return int(masks[0], 16) if masks else 0


def load_prctl() -> Callable[..., int] | None:
    """The C library's prctl."""
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return None  # not Linux: a killed supervisor leaves its children behind there
    return prctl


PRCTL = load_prctl()


def die_with_parent(number: int) -> None:
    """Ask the kernel to send us the signal when the thread that forked us ends, even by SIGKILL."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def tied_to_us(number: int) -> Callable[[], None]:
    """For Popen's preexec_fn. Only in the main thread: the tie is to the thread that forks."""
    parent = os.getpid()

    def tie() -> None:
        die_with_parent(number)
        if os.getppid() != parent:  # it ended between fork and prctl: no signal will come
            os._exit(1)

    return tie


stop_signals = StopSignals()
