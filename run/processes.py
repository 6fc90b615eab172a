"""The parts as processes of this machine: each in a group of its own, with a log and a pid file.

It must never put a secret on a command line, nor leave a process or a pid file behind.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from run.commands import ROOT
from run.signals import TICK_SECONDS, stop_signals, tied_to_us

STOP_SECONDS = 5


@dataclass(frozen=True)
class Service:
    """One of the processes: its name is that of its log and its pid file."""

    name: str
    command: tuple[str, ...]
    #: Settings that are none of its business.
    withheld: tuple[str, ...] = ()


@dataclass
class Child:
    """A service that was started."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int

    @property
    def name(self) -> str:
        """See `Part`."""
        return self.service.name

    def poll(self) -> int | None:
        """See `Part`."""
        return self.process.poll()


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
