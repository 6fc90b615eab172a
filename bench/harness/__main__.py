"""The table of a public benchmark of gateways, for Portero or for any folder with a manifest of its
contract: `python -m bench.harness [FOLDER…]`. bench/README.md says what it takes over from whom.

A mock that answers at once gives what is added and the most requests/s at each bound of the tail;
one that answers after 20 ms, what is carried while requests wait. The gateway has the first core,
load and mock the second.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import run_wrk, write_script
from bench.mock import mock
from bench.servers import GATEWAY_CORE, LOAD_CORE
from bench.table import machine
from run.commands import ROOT

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "2"))
PATH = "/v1/chat/completions"
#: How many connections the sweeps go through, by the milliseconds that the mock takes; fewer than
#: the 1,000 requests at once that a user of Portero's may be given.
SWEEPS = {0: (1, 4, 16, 64, 256), 20: (64, 256, 512, 960)}
#: Bounds of the 99th percentile, in milliseconds; none at last.
BOUNDS = (1.0, 5.0, 10.0, 50.0, 100.0, float("inf"))

HEAD = (
    "| gateway | added p50 us | added p99 us | requests/s, p99 within 1 ms | 5 ms | 10 ms | 50 ms "
    "| 100 ms | no bound | at 20 ms upstream | idle MiB | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Rung:
    """One step of a sweep."""

    requests_a_second: float
    p99_milliseconds: float


@dataclass(frozen=True)
class Alone:
    """Microseconds at one connection."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Outcome:
    """What one gateway, or the mock itself, came to."""

    name: str
    alone: Alone
    rungs: Mapping[int, Sequence[Rung]]
    idle_mebibytes: str = ""
    peak_mebibytes: str = ""


class Manifest:
    """A gateway that runs, by its folder's `gateway.sh`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        told = [self._line() for _ in range(5)]
        self.name, port, path, self.model, self.key = told
        assert path == PATH, f"{self.name}: the load goes to {PATH} alone, not to {path}"
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, word: str) -> str:
        """What a word is answered with."""
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the manifest did not launch; its words are above"
        return line.rstrip("\n")


def main(folders: Sequence[str]) -> int:
    """Measure each folder's gateway, and print the table."""
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with tempfile.TemporaryDirectory(prefix="portero-harness-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # nginx's workers are nobody's
        given = [Path(one).resolve() for one in folders] or [HERE / "portero"]
        direct = measured(folder, None)
        outcomes = [measured(folder, one) for one in given]
    print(f"\n{machine()}; sweeps of {SECONDS} s a step\n\n{HEAD}")
    for one in (direct, *outcomes):
        print(line(one, direct.alone))
    return 0


def measured(folder: Path, manifest: Path | None) -> Outcome:
    """A gateway, or the mock itself."""
    name, alone, idle, peak = "the mock itself", Alone(0, 0), "", ""
    rungs: dict[int, list[Rung]] = {}
    for milliseconds, sweep in SWEEPS.items():
        with mock(folder, milliseconds) as port, launched(manifest, port) as gateway:
            url = gateway.url if gateway else f"http://127.0.0.1:{port}"
            model, key = (gateway.model, gateway.key) if gateway else ("gpt-4o-mini", "none")
            script = write_script(folder, "harness", [key], model=model)
            if gateway and not milliseconds:
                name, idle = gateway.name, gateway.ask("rss")
            if not milliseconds:
                alone = alone_at(url, script)
            rungs[milliseconds] = [step(url, script, connections) for connections in sweep]
            if gateway and not milliseconds:
                peak = gateway.ask("hwm")
    return Outcome(name, alone, rungs, idle, peak)


@contextmanager
def launched(manifest: Path | None, port: int) -> Iterator[Manifest | None]:
    """The gateway before the mock of this port, for as long as its driver has an input."""
    if manifest is None:
        yield None
        return
    env = {**os.environ, "GW_DIR": str(manifest), "MOCK_PORT": str(port), "CORES": GATEWAY_CORE}
    process = subprocess.Popen(
        ["bash", str(HERE / "drive.sh")],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Manifest(process)
    finally:
        process.communicate()


def alone_at(url: str, script: Path) -> Alone:
    """The medians of some rounds at one connection."""
    taken = [run_wrk(url, script, 1, SECONDS) for _ in range(ROUNDS)]
    p50, p99 = (statistics.median(one[column] for one in taken) for column in (1, 2))
    return Alone(p50 * 1000, p99 * 1000)


def step(url: str, script: Path, connections: int) -> Rung:
    """One step of a sweep. Raises `AssertionError` if any answer was not 2xx."""
    print(f"{url}: {connections} connections", file=sys.stderr, flush=True)
    rate, _, p99 = run_wrk(url, script, connections, SECONDS)
    return Rung(rate, p99)


def line(one: Outcome, direct: Alone) -> str:
    """One row as Markdown."""
    added = (f"{one.alone.p50 - direct.p50:,.0f}", f"{one.alone.p99 - direct.p99:,.0f}")
    cells = [one.name, *added, *(most(one.rungs[0], bound) for bound in BOUNDS)]
    cells += [most(one.rungs[20], BOUNDS[-1]), one.idle_mebibytes, one.peak_mebibytes]
    return f"| {' | '.join(cells)} |"


def most(rungs: Sequence[Rung], bound: float) -> str:
    """The most requests/s whose 99th percentile stayed within a bound; empty where none did."""
    within = [one.requests_a_second for one in rungs if one.p99_milliseconds <= bound]
    return f"{max(within):,.0f}" if within else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
