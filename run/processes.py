"""The parts of a running stack: each a process with a group and a log of its own; of a container it
is whoever follows its log. The death of one is told, and is the end of all.

It must never put a secret on a command line, nor leave a process or a pid file behind.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from run.commands import ROOT, TICK_SECONDS, RunError, stop_signals, tied_to_us

STOP_SECONDS = 5
LAST_LINES = 12
LAST_BYTES = 8192
#: A shell's exit statuses above this one stand for signals.
BY_SIGNAL = 128


@dataclass(frozen=True)
class Service:
    """One of the parts: its name is that of its log, and of its pid file where it has one."""

    name: str
    command: tuple[str, ...]
    #: Settings that are none of its business.
    withheld: tuple[str, ...] = ()
    has_pid_file: bool = True


@dataclass
class Child:
    """A service that was started."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    #: What it said before is of earlier runs.
    log_start: int


def start(service: Service, data_dir: Path, env: Mapping[str, str]) -> Child:
    """In a process group of its own: the terminal's Ctrl-C reaches the supervisor alone, which ends
    it in order. If the supervisor is killed the kernel sends SIGTERM; not SIGKILL, which would
    leave nginx's workers behind.
    """
    log = data_dir / "log" / f"{service.name}.log"
    with log.open("ab") as output:
        log_start = output.tell()
        process = subprocess.Popen(
            service.command,
            cwd=ROOT,
            env={name: text for name, text in env.items() if name not in service.withheld},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=tied_to_us(signal.SIGTERM),
        )
    if service.has_pid_file:
        pid_file(service, data_dir).write_text(f"{process.pid}\n")
    return Child(service, process, log, log_start)


def pid_file(service: Service, data_dir: Path) -> Path:
    """Where its process id is written while it runs."""
    return data_dir / "run" / f"{service.name}.pid"


def stop_all(children: Sequence[Child], data_dir: Path) -> None:
    """SIGTERM to each; at the deadline, or when the user insists, SIGKILL to all that is left."""
    with stop_signals.held():
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while any_alive(children) and time.monotonic() < deadline and not stop_signals.insisted:
            time.sleep(TICK_SECONDS / 2)
        for child in children:
            kill_group(child.process)
            pid_file(child.service, data_dir).unlink(missing_ok=True)


def any_alive(children: Sequence[Child]) -> bool:
    """Whether the first process of any of them still runs."""
    return any(child.process.poll() is None for child in children)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a child and of what it started, and forget it."""
    with suppress(ProcessLookupError):  # the usual case: all of the group is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- their death ---------------------------------------------------------------------------------


def watch(children: Sequence[Child], look: Callable[[], None] = lambda: None) -> None:
    """Return never; raise when a part has ended or the user wants an end."""
    while True:
        check_alive(children)
        look()
        time.sleep(TICK_SECONDS)


def check_alive(children: Sequence[Child]) -> None:
    """One look at all parts, for every waiting loop."""
    stop_signals.look()
    for child in children:
        status = child.process.poll()
        if status is not None:
            raise RunError(obituary(child, status))


def obituary(child: Child, status: int) -> str:
    """Which part has ended, how, and its last words."""
    ended = f"{child.service.name} ended: {exit_words(status)}; its log is {child.log}"
    return "\n  | ".join([ended, *last_lines(child.log, child.log_start)])


def exit_words(status: int) -> str:
    """An exit status, as Popen or as a shell gives it, in the words of the system."""
    try:
        return f"killed by {signal.Signals(-status if status < 0 else status - BY_SIGNAL).name}"
    except ValueError:
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def last_lines(log: Path, start: int) -> list[str]:
    """Of this run, not of an earlier one in the same file."""
    with log.open("rb") as text:
        size = text.seek(0, os.SEEK_END)
        text.seek(max(start, size - LAST_BYTES))
        return text.read().decode(errors="replace").splitlines()[-LAST_LINES:]
