"""Commands that run to their end, in this checkout, and are not cut in half by a Ctrl-C."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from run.signals import TICK_SECONDS, stop_signals, tied_to_us

ROOT = Path(__file__).resolve().parent.parent


def call(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    may_outlive_us: bool = False,
) -> int:
    """Run a command to its end. A wish to stop reaches it as one Ctrl-C, and it ends in its own
    way: apt-get aborts a download but finishes unpacking. Its own process group keeps the
    terminal's Ctrl-C from its children.
    """
    tie = None if may_outlive_us else tied_to_us(signal.SIGKILL)
    with stop_signals.held():
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            process_group=0,
            preexec_fn=tie,
        )
        return wait_for(process)


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Its exit status. A wish to stop reaches it once, as SIGINT."""
    told = False
    while (status := poll(process)) is None:
        stop_signals.look()
        if stop_signals.caught and not told:
            process.send_signal(signal.SIGINT)
            told = True
    return status


def poll(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit status if it ends within a tick."""
    try:
        return process.wait(TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
