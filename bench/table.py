"""A table of servers under load: all in turn, several rounds, and of each figure the median with
the least and the most.

A row names the row that it is compared with, its base; ratios hold across machines, seconds do not.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from bench.load import CONNECTIONS, Sample, measure
from bench.servers import Server

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "1"))
#: One connection has its turn in each so many rounds: its median settles sooner.
ALONE_EACH = 3
PLAIN = "plain nginx, no auth"

HEAD = (
    "| gateway | requests/s | of base | CPU us a request | over base | of it in user mode "
    "| p50 ms | p99 ms | added p50 us, one connection | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """A server under one kind of load; `base` names the row that it is compared with."""

    name: str
    server: Server
    script: Path
    base: str = PLAIN
    load: Callable[[Server, Path, int, int], Sample] = measure


@dataclass
class Taken:
    """What was measured of one row: with many connections, and with one."""

    many: list[Sample] = field(default_factory=list)
    one: list[Sample] = field(default_factory=list)

    def of(self, choose: Callable[[Iterable[float]], float]) -> Sample:
        """The least, the median or the most of each column, with many connections."""
        return of_each(choose, self.many)

    @property
    def alone_microseconds(self) -> float:
        """The median of the medians with one connection."""
        return statistics.median(one.p50_milliseconds for one in self.one) * 1000


def of_each(choose: Callable[[Iterable[float]], float], taken: Sequence[Sample]) -> Sample:
    """A sample of the columns of several."""
    columns = zip(*(astuple(one) for one in taken), strict=True)
    return Sample(*map(choose, columns))


def take(rows: Sequence[Row], rounds: int = ROUNDS, alone: bool = True) -> dict[str, Taken]:
    """Load all servers in turn; with one connection too unless told otherwise."""
    taken = {row.name: Taken() for row in rows}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for row in rows:
            mine = taken[row.name]
            mine.many.append(row.load(row.server, row.script, SECONDS, CONNECTIONS))
            if alone and number % ALONE_EACH == 0:
                mine.one.append(row.load(row.server, row.script, SECONDS, 1))
    return taken


def print_rows(rows: Sequence[Row], taken: dict[str, Taken]) -> None:
    """All columns, as Markdown."""
    print(f"\n{machine()}; {told()}\n\n{HEAD}")
    for row in rows:
        print(line(row.name, taken[row.name], taken[row.base]))


def line(name: str, mine: Taken, base: Taken) -> str:
    """One row as Markdown."""
    least, middle, most = (mine.of(one) for one in (min, statistics.median, max))
    its = base.of(statistics.median)
    cells = (
        name,
        spread([one.requests_a_second for one in (middle, least, most)]),
        f"{middle.requests_a_second / its.requests_a_second:.2f}",
        spread([one.cpu_microseconds for one in (middle, least, most)], digits=1),
        f"{middle.cpu_microseconds - its.cpu_microseconds:+,.1f}",
        f"{middle.user_microseconds - its.user_microseconds:+,.1f}",
        f"{middle.p50_milliseconds:.2f}",
        f"{middle.p99_milliseconds:.2f}",
        f"{mine.alone_microseconds - base.alone_microseconds:+,.0f}",
        f"{most.peak_mebibytes:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def spread(figures: Sequence[float], digits: int = 0) -> str:
    """A median with the least and the most."""
    middle, least, most = (f"{one:,.{digits}f}" for one in figures)
    return f"{middle} ({least}-{most})"


def spread_of(taken: Sequence[float], digits: int = 0) -> str:
    """The same of all that was taken."""
    return spread([statistics.median(taken), min(taken), max(taken)], digits)


def told(rounds: int = ROUNDS) -> str:
    """What the figures are."""
    return f"medians of {rounds} rounds of {SECONDS} s (least-most)"


def machine() -> str:
    """What it was measured on."""
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
    return f"{os.cpu_count()} cores, {version.partition(': ')[2]}, one worker"
