"""`make test`: what starts nothing, or a stack of its own for a moment, runs beside what has whole
stacks of both runtimes, in a pytest of its own: neither keeps the machine's cores busy by itself.

The coverage of both is one table, and the exit status that of the one that failed.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

#: Of the stack tests, those that know local processes alone.
OWN_STACKS = ("tests/stack/clients", "tests/stack/test_behind_a_proxy.py")
ALONE = ("tests/unit", "tests/contract", "tests/security", *OWN_STACKS)
STACKS = ("tests/promises", "tests/stack", *(f"--ignore={path}" for path in OWN_STACKS))
COVERAGE = (".coverage.alone", ".coverage.stacks")


def main(chosen: Sequence[str] = STACKS) -> int:
    """Run both; what runs beside is told once the other has ended."""
    with tempfile.TemporaryFile("w+") as told:
        beside = subprocess.Popen(
            pytest(ALONE), env=environment(COVERAGE[0]), stdout=told, stderr=subprocess.STDOUT
        )
        status = subprocess.run(pytest(chosen), env=environment(COVERAGE[1])).returncode
        beside.wait()
        told.seek(0)
        print(f"\n{'beside it: ' + ' '.join(ALONE):=^80}\n{told.read()}", flush=True)
    report()
    print(f"\n{' '.join(ALONE)}: {word(beside.returncode)}; {' '.join(chosen)}: {word(status)}")
    return status or beside.returncode


def pytest(paths: Sequence[str]) -> list[str]:
    """The command; the table of coverage comes when both have ended."""
    return [sys.executable, "-m", "pytest", "--cov=issuer", "--cov-report=", *paths]


def environment(data_file: str) -> Mapping[str, str]:
    """Each pytest keeps its coverage in a file of its own."""
    return {**os.environ, "COVERAGE_FILE": data_file}


def report() -> None:
    """One table of what either has covered."""
    coverage = [sys.executable, "-m", "coverage"]
    # One that was broken off has left none, and its own status tells so.
    kept = [name for name in COVERAGE if os.path.exists(name)]
    subprocess.run([*coverage, "combine", "--quiet", *kept])
    subprocess.run([*coverage, "report", "--show-missing", "--skip-covered"])


def word(status: int) -> str:
    """How one ended."""
    return "passed" if status == 0 else f"failed ({status})"


if __name__ == "__main__":
    sys.exit(main())
