"""The command line of `make run`: refuses an old Python, then hands over to the runtime that
RUNTIME names.

It must stay readable for Pythons older than 3.11 down to the check in `main`, or their users would
see a SyntaxError instead of the one line that helps them: no import of the rest of `run` at the
top.
"""

import importlib
import importlib.util
import os
import sys

OLDEST_PYTHON = (3, 11)

#: RUNTIME -> the module whose `main()` runs the stack and returns the exit status.
RUNTIMES = {"": "run.local", "local": "run.local", "containers": "run.containers"}

#: Words on the command line, other than none at all -> module and function (what `make` needs
#: besides running).
TASKS = {"set-up": ("run.machine", "set_up"), "set-up-tests": ("run.machine", "set_up_tests")}


def main() -> int:
    if sys.version_info < OLDEST_PYTHON:
        return refuse(
            f"Portero needs Python 3.11 or newer, this is {sys.version.split()[0]} "
            f"({sys.executable}). With a newer one beside it: make run PYTHON=python3.12"
        )
    return task(sys.argv[1]) if len(sys.argv) > 1 else stack(os.environ.get("RUNTIME", ""))


def stack(runtime: str) -> int:
    if runtime not in RUNTIMES:
        return refuse(f"RUNTIME is '{runtime}'; it may be local or containers, or left out")
    module = RUNTIMES[runtime]
    if importlib.util.find_spec(module) is None:
        return refuse(f"RUNTIME={runtime} is not in this version; use RUNTIME=local")
    return int(importlib.import_module(module).main())


def task(word: str) -> int:
    if word not in TASKS:
        return refuse(f"unknown task '{word}'; there are: {', '.join(TASKS)}")
    module, function = TASKS[word]
    return int(getattr(importlib.import_module(module), function)())


def refuse(message: str) -> int:
    print(f"portero: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
