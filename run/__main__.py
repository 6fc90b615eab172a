"""The command line of `make run`: refuses an old Python, then hands over to what RUNTIME or a word
names.

It must stay readable for Pythons older than 3.11 down to the check in `main`, or their users would
see a SyntaxError instead of the one line that helps them: no import of the rest of `run` at the
top.
"""

import importlib
import os
import sys

OLDEST_PYTHON = (3, 11)

#: RUNTIME -> module and function that run the stack.
RUNTIMES = {
    "": ("run.containers", "run_or_local"),
    "containers": ("run.containers", "main"),
    "local": ("run.local", "main"),
}

#: Words on the command line, other than none at all -> module and function (what `make` needs
#: besides running).
TASKS = {
    "admin": ("run.admin", "main"),
    "install": ("systemd.install", "install"),
    "set-up-tests": ("run.set_up", "set_up_tests"),
    "uninstall": ("systemd.install", "uninstall"),
}


def main() -> int:
    """Run the stack, or the task that the command line names; the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        return refuse(
            f"Portero needs Python 3.11 or newer, this is {sys.version.split()[0]} "
            f"({sys.executable}). With a newer one beside it: make run PYTHON=python3.12"
        )
    if len(sys.argv) > 1:
        return do(TASKS, sys.argv[1], "unknown task '{}'; there are: " + ", ".join(TASKS))
    unknown = "RUNTIME is '{}'; it may be local or containers, or left out"
    return do(RUNTIMES, os.environ.get("RUNTIME", ""), unknown)


def do(choices: "dict[str, tuple[str, str]]", name: str, unknown: str) -> int:
    """Call what goes by that name, with its faults and a wish to stop in the words of a shell."""
    if name not in choices:
        return refuse(unknown.format(name))
    module, function = choices[name]
    action = getattr(importlib.import_module(module), function)
    return int(importlib.import_module("run.commands").guarded(action))


def refuse(message: str) -> int:
    """Tell why nothing is done."""
    print(f"portero: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
