"""What is said to the user, how the user stops it, and commands that run to their end.

It must never lose a wish to stop, nor let one cut in half what is held together by `held()`; and
what it starts ends with it, even by SIGKILL.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1
#: Signals that make does not pass on, as bits of the kernel's masks.
NOT_PASSED_ON = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)
#: How often a waiting loop looks.
TICK_SECONDS = 0.1
#: How long a question may take that is answered at once.
ANSWER_SECONDS = 10


class RunError(Exception):
    """One or more lines for the user; the stack cannot go on."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Stop(BaseException):
    """The user wants an end. Not an Exception: nothing that handles errors may swallow it."""


def say(line: str) -> None:
    """One line for the user, at once."""
    print(line, flush=True)


def read_text(path: Path) -> str:
    """The text of a file, whatever bytes there are; empty when there is none to be read."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def guarded(action: Callable[[], None]) -> int:
    """The edge of every command: 0 when done, 1 with the faults in words, and when the user stopped
    it what shells say for that signal: 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        stop_signals.install()
        action()
    except Stop:
        say("portero: stopped")
        return 128 + stop_signals.caught
    except RunError as error:
        print("\n".join(f"portero: {line}" for line in error.lines), file=sys.stderr, flush=True)
        return 1
    return 0


# --- signals -------------------------------------------------------------------------------------


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into one `Stop`, raised where the main thread is,
    or at the end of `held()`. Later ones are expected (make passes on what its group was sent
    already) and change nothing, except a second Ctrl-C: `insisted` then tells whoever waits to wait
    no longer.

    GNU make passes SIGTERM on, but a SIGINT or SIGHUP sent to make alone it does not: it waits for
    us, for ever. The one trace of it is that make has put the signal's handler back to the default.
    """

    def __init__(self) -> None:
        self.caught = 0
        self.insisted = False
        self._raised = False
        self._holders = 0
        self._parent = Path(f"/proc/{os.getppid()}/status")
        self._handlers = handlers_of_make(read_text(self._parent))

    def install(self) -> None:
        """Take the signals over, once, at the start of a command."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish stands
            signal.signal(signal.SIGHUP, self._on_signal)
        if self._handlers:
            die_with_parent(signal.SIGTERM)

    def look(self) -> None:
        """To be called in every waiting loop: sees what make was told and does not pass on."""
        gone = self._handlers & ~handlers_of_make(read_text(self._parent))
        if not self.caught and gone & NOT_PASSED_ON:
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


def handlers_of_make(status: str) -> int:
    """The mask of signals that a make has handlers for, from its /proc/PID/status; of another
    program 0.
    """
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return int(told.get("SigCgt", "0"), 16) if told.get("Name") in {"make", "gmake"} else 0


#: None where it is not Linux: a killed supervisor leaves its children behind there.
PRCTL: Callable[..., int] | None = getattr(ctypes.CDLL(None), "prctl", None)


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


# --- commands ------------------------------------------------------------------------------------


def call(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    log: int | None = None,
    seconds: float = inf,
    interrupt: Callable[[int, int], None] | None = os.kill,
    may_outlive_us: bool = False,
) -> int:
    """Run a command of this checkout to its end, in a process group of its own, which keeps the
    terminal's Ctrl-C from it. A wish to stop reaches it once, by `interrupt`: `os.kill` tells the
    command alone, `os.killpg` what it started too. A second one ends it at once, and so does its
    deadline; not what may outlive us, as half of it would be in nobody's interest.
    """
    with stop_signals.held():
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output if log is None else log,
            stderr=log,
            process_group=0,
            preexec_fn=None if may_outlive_us else tied_to_us(signal.SIGKILL),
        )
        deadline, told = time.monotonic() + seconds, False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(TICK_SECONDS)
            stop_signals.look()
            insists = stop_signals.insisted and not may_outlive_us
            if insists or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
            elif stop_signals.caught and interrupt and not told:
                interrupt(process.pid, signal.SIGINT)
                told = True


def ask(
    command: Sequence[str],
    env: Mapping[str, str],
    given: str = "",
    seconds: float | None = None,
) -> tuple[int, str]:
    """Exit status and words of a command that takes moments; `given` is its standard input."""
    limit = seconds or ANSWER_SECONDS
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL, f"no answer in {limit} s"
    return done.returncode, done.stdout
