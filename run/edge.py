"""The edge of every command of `run`: what its shell gets at the end."""

import sys
from collections.abc import Callable

from run.signals import Stop, stop_signals
from run.terminal import RunError, say


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
