"""The parts of a running stack under watch: the death of one is told, and is the end of all."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from run.signals import TICK_SECONDS, stop_signals
from run.terminal import RunError

LAST_LINES = 12
LAST_BYTES = 8192


class Part(Protocol):
    """One of the parts, whatever it runs as. What it said before `log_start` is of earlier runs."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    @property
    def log_start(self) -> int: ...

    def poll(self) -> int | None:
        """None while it runs, then its exit status; below zero the signal that ended it."""


def watch(parts: Sequence[Part]) -> None:
    """Return never; raise when a part has ended or the user wants an end."""
    while True:
        check_alive(parts)
        time.sleep(TICK_SECONDS)


def check_alive(parts: Sequence[Part]) -> None:
    """One look at all parts, for every waiting loop."""
    stop_signals.look()
    for part in parts:
        status = part.poll()
        if status is not None:
            raise RunError(obituary(part, status))


def obituary(part: Part, status: int) -> str:
    """Which part has ended, how, and its last words."""
    ended = f"{part.name} ended: {exit_words(status)}; its log is {part.log}"
    return "\n  | ".join([ended, *last_lines(part.log, part.log_start)])


def exit_words(status: int) -> str:
    """An exit status as Popen gives it, in the words of the system."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def last_lines(log: Path, start: int) -> list[str]:
    """Of this run, not of an earlier one in the same file."""
    with log.open("rb") as text:
        size = text.seek(0, os.SEEK_END)
        text.seek(max(start, size - LAST_BYTES))
        return text.read().decode(errors="replace").splitlines()[-LAST_LINES:]
