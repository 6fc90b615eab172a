"""`make test`: four pytests side by side, as none keeps a core busy by itself: the stacks of local
processes; those in containers and the pages; the promises and threats; and a row of several, among
them the clients and the longest of the local stacks. They take about as long as each other. What
counts seconds of whole containers comes behind; what starts nothing has the time that it leaves.

Coverage is measured where the code runs in the tests' own process; of a stack it would count the
tests alone. The exit status is that of the first that failed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import IO

from tests.support.waiting import VARIABLE as PATIENCE

#: Which runtimes the tests in tests/stack go through: a comma list. Not set: both.
RUNTIMES = "PORTERO_TEST_RUNTIMES"
#: How many times as long as alone something may take in a pytest that runs beside others.
BESIDE_OTHERS = 4


@dataclass(frozen=True)
class Part:
    """What one pytest runs, through which runtime it goes where there are two, and the file of its
    coverage, if that is measured.
    """

    paths: Sequence[str]
    runtime: str
    coverage: str = ""
    patience: int = BESIDE_OTHERS
    #: How far behind all else that runs, as `nice` has it.
    niceness: int = 0

    def words(self) -> list[str]:
        """The command; the table of coverage comes when all have ended."""
        measured = (*map("--cov={}".format, MEASURED), "--cov-report=") if self.coverage else ()
        pytest = (sys.executable, "-m", "pytest", "--durations=25")
        return ["nice", f"-n{self.niceness}", *pytest, *measured, *self.wanted()]

    def wanted(self) -> Sequence[str]:
        """What there is to run; stacks go through their runtime alone."""
        return self.paths if self._is_wanted() else [p for p in self.paths if STACKS not in p]

    def environment(self) -> dict[str, str]:
        """Each keeps its coverage in a file of its own."""
        runtime = self.runtime if self._is_wanted() else os.environ[RUNTIMES]
        return {
            **os.environ,
            **({"COVERAGE_FILE": self.coverage} if self.coverage else {}),
            RUNTIMES: runtime,
            PATIENCE: str(self.patience),
        }

    def _is_wanted(self) -> bool:
        chosen = os.environ.get(RUNTIMES, "")
        return not chosen.strip() or self.runtime in chosen

    def told(self, ended: "Ended") -> str:
        """How it ended, and after how long: what to move where they drift apart."""
        word = "passed" if ended.status == 0 else f"failed ({ended.status})"
        return f"{' '.join(self.paths)} ({self.runtime}): {word} after {ended.seconds:.0f} s"


@dataclass(frozen=True)
class Ended:
    """The exit status of a part, and how long it took."""

    status: int
    seconds: float


STACKS = "tests/stack"
CLIENT = "sdk/tests"
#: What the tests must cover, and the part of it of which they must cover so much.
MEASURED = ("issuer", "sdk/src")
CLIENT_SOURCES, CLIENT_PERCENT = "sdk/src/*", 95
ALONE = f"{STACKS}/test_containers.py"
#: Of local processes alone.
CLIENTS = f"{STACKS}/clients"
#: Of local processes too: the longest files.
LONGEST = (f"{STACKS}/test_make_run.py", f"{STACKS}/test_limits.py")
#: Taken out of the other rows, for the one that has time for it.
ELSEWHERE = tuple(f"{STACKS}/test_{name}.py" for name in ("peers", "policy_corpus", "tls"))
#: With the client package they take about as long as all others.
ISSUER = "tests/unit/issuer"
ASIDE = (
    "tests/unit/run",
    f"{ISSUER}/test_login_endpoints.py",
    f"{ISSUER}/test_command_line.py",
    f"{ISSUER}/test_users_command.py",
    f"{ISSUER}/test_presented_token.py",
)
#: They start nothing.
OTHERS = ("tests/unit", *map("--ignore={}".format, ASIDE))
NOT_LOCAL = tuple(f"--ignore={path}" for path in (ALONE, CLIENTS, *LONGEST, *ELSEWHERE))
#: The rows run side by side, and the parts of a row one after the other. Where something stands is
#: a matter of time alone: all rows shall take as long.
PARTS = (
    (Part(("tests/browser", STACKS, f"--ignore={ALONE}"), "containers"),),
    (Part((STACKS, *NOT_LOCAL), "local"),),
    (
        Part((*ASIDE, CLIENT), "local", ".coverage.aside"),
        Part((CLIENTS,), "local"),
        Part(LONGEST, "local"),
        Part((*ELSEWHERE, "tests/contract"), "local"),
    ),
    (Part(("tests/promises", "tests/security"), "local"),),
)
#: What counts seconds of whole containers, and what has the time that they leave.
LAST = (
    (Part((ALONE,), "containers", patience=1),),
    (Part(OTHERS, "local", ".coverage.unit", niceness=19),),
)
#: It installs the package for each version of Python, which is `make test`'s to do.
INSTALLING = f"--ignore={CLIENT}/test_sdk_package.py"
UNIT = (
    (Part((*ASIDE, CLIENT, INSTALLING), ""),),
    (Part(OTHERS, ""),),
)


Rows = Sequence[Sequence[Part]]


def main(stages: Sequence[Rows] = (PARTS, LAST)) -> int:
    """Run all; what runs beside the first is told once that has ended."""
    wanted = [_wanted(rows) for rows in stages]
    parts = [*chain(*chain(*wanted))]
    ended = [*chain(*map(_side_by_side, filter(None, wanted)))]
    covered = report([part.coverage for part in parts if part.coverage])
    print("\n" + _told(parts, ended))
    return next(filter(None, [*(one.status for one in ended), covered]), 0)


def _wanted(rows: Rows) -> Rows:
    chosen = ([part for part in row if part.wanted()] for row in rows)
    return [row for row in chosen if row]


def unit() -> int:
    """`make unit`, on both cores too."""
    ended = _side_by_side(UNIT)
    print("\n" + _told([*chain(*UNIT)], ended))
    return next(filter(None, (one.status for one in ended)), 0)


def _told(parts: Sequence[Part], ended: Sequence[Ended]) -> str:
    return "; ".join(part.told(one) for part, one in zip(parts, ended, strict=True))


def _run(part: Part, output: IO[str] | None = None) -> Ended:
    began = time.monotonic()
    run = subprocess.run(
        part.words(), env=part.environment(), stdout=output, stderr=output and subprocess.STDOUT
    )
    return Ended(run.returncode, time.monotonic() - began)


def _run_row(row: Sequence[Part], output: IO[str] | None = None) -> list[Ended]:
    return [_run(part, output) for part in row]


def _side_by_side(rows: Rows) -> list[Ended]:
    first, *others = rows
    with ExitStack() as stack, ThreadPoolExecutor(len(rows)) as pool:
        told = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in others]
        running = [pool.submit(_run_row, *one) for one in zip(others, told, strict=True)]
        ended = [*_run_row(first), *chain(*(one.result() for one in running))]
        for row, output in zip(others, told, strict=True):
            output.seek(0)
            names = " ".join(path for part in row for path in part.paths)
            print(f"\n{'beside it: ' + names:=^80}\n{output.read()}", flush=True)
    return ended


def report(files: Sequence[str]) -> int:
    """One table of what all have covered. Not 0 where the client package is covered too little."""
    coverage = [sys.executable, "-m", "coverage"]
    # One that was broken off has left none, and its own status tells so.
    kept = [name for name in files if os.path.exists(name)]
    subprocess.run([*coverage, "combine", "--quiet", *kept])
    subprocess.run([*coverage, "report", "--show-missing", "--skip-covered"])
    least = (f"--include={CLIENT_SOURCES}", f"--fail-under={CLIENT_PERCENT}", "--format=total")
    print("\nof the client package, in percent: ", end="", flush=True)
    return subprocess.run([*coverage, "report", *least]).returncode


if __name__ == "__main__":
    sys.exit(unit() if sys.argv[1:] == ["unit"] else main())
