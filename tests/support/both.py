"""`make test`: two pytests side by side, as neither keeps the cores busy by itself. One has
the promises and the stacks in containers, the other what starts nothing and the stacks of local
processes: about as long.

The coverage of both is one table, and the exit status that of the one that failed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

#: Which runtimes the tests in tests/stack go through: a comma list. Not set: both.
RUNTIMES = "PORTERO_TEST_RUNTIMES"


@dataclass(frozen=True)
class Half:
    """What one pytest runs, and through which runtime it goes where there are two."""

    paths: Sequence[str]
    runtime: str
    coverage: str

    def words(self) -> list[str]:
        """The command; the table of coverage comes when both have ended."""
        paths = self.paths if self._is_wanted() else [p for p in self.paths if p != STACKS]
        return [sys.executable, "-m", "pytest", "--cov=issuer", "--cov-report=", *paths]

    def environment(self) -> dict[str, str]:
        """Each keeps its coverage in a file of its own."""
        runtime = self.runtime if self._is_wanted() else os.environ[RUNTIMES]
        return {**os.environ, "COVERAGE_FILE": self.coverage, RUNTIMES: runtime}

    def _is_wanted(self) -> bool:
        chosen = os.environ.get(RUNTIMES, "")
        return not chosen.strip() or self.runtime in chosen

    def told(self, status: int) -> str:
        """How it ended."""
        word = "passed" if status == 0 else f"failed ({status})"
        return f"{' '.join(self.paths)} ({self.runtime}): {word}"


STACKS = "tests/stack"
FIRST = Half(("tests/promises", STACKS), "containers", ".coverage.containers")
BESIDE = Half(
    ("tests/unit", "tests/contract", "tests/security", STACKS), "local", ".coverage.local"
)


def main(first: Half = FIRST, beside: Half = BESIDE) -> int:
    """Run both; what runs beside is told once the other has ended."""
    with tempfile.TemporaryFile("w+") as told:
        other = subprocess.Popen(
            beside.words(), env=beside.environment(), stdout=told, stderr=subprocess.STDOUT
        )
        status = subprocess.run(first.words(), env=first.environment()).returncode
        other.wait()
        told.seek(0)
        print(f"\n{'beside it: ' + ' '.join(beside.paths):=^80}\n{told.read()}", flush=True)
    report([half.coverage for half in (first, beside)])
    print(f"\n{first.told(status)}; {beside.told(other.returncode)}")
    return status or other.returncode


def report(files: Sequence[str]) -> None:
    """One table of what either has covered."""
    coverage = [sys.executable, "-m", "coverage"]
    # One that was broken off has left none, and its own status tells so.
    kept = [name for name in files if os.path.exists(name)]
    subprocess.run([*coverage, "combine", "--quiet", *kept])
    subprocess.run([*coverage, "report", "--show-missing", "--skip-covered"])


if __name__ == "__main__":
    sys.exit(main())
