"""The peers' table: shares of plain nginx, and what is added to the mock itself, are those of the
same round, as the machine may be another's in the next; then the median, with least and most.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.load import Sample
from bench.peers.entrants import MOCK, PLAIN
from bench.table import Taken, spread_of

HEAD = (
    "gateway",
    "requests/s",
    "of plain nginx",
    "CPU us a request",
    "p50 ms",
    "p99 ms",
    "added p50 us, one connection",
    "peak MiB",
)
NO_FIGURE = ""
#: A share below it is told more exactly.
SMALL = 0.1


def lines(taken: Mapping[str, Taken], absent: Sequence[str]) -> Iterator[str]:
    """Markdown: what was taken by row, and who is not here: a name, a colon and why."""
    yield _line(HEAD)
    yield "|" + "---|" * len(HEAD)
    for name, mine in taken.items():
        told = _of_the_mock(mine) if name == MOCK else _cells(mine, taken[PLAIN], taken[MOCK])
        yield _line([name, *told])
    for one in absent:
        name, _, why = one.partition(": ")
        yield _line([name, f"not here: {why}", *[NO_FIGURE] * (len(HEAD) - 2)])


def _cells(mine: Taken, plain: Taken, mock: Taken) -> list[str]:
    shares = ratios(mine, plain)
    return [
        spread_of([one.requests_a_second for one in mine.many]),
        spread_of(shares, digits=3 if statistics.median(shares) < SMALL else 2),
        spread_of([one.cpu_microseconds for one in mine.many], digits=1),
        _median(mine, lambda one: one.p50_milliseconds),
        _median(mine, lambda one: one.p99_milliseconds),
        spread_of(added(mine, mock)),
        f"{max(one.peak_mebibytes for one in mine.many):,.0f}",
    ]


def _of_the_mock(mock: Taken) -> list[str]:
    """It has a core with the load, and is compared with nobody."""
    return [
        spread_of([one.requests_a_second for one in mock.many]),
        *[NO_FIGURE] * 2,
        _median(mock, lambda one: one.p50_milliseconds),
        _median(mock, lambda one: one.p99_milliseconds),
        *[NO_FIGURE] * 2,
    ]


def ratios(mine: Taken, base: Taken) -> list[float]:
    """Requests a second as shares of the base's, by round."""
    pairs = zip(mine.many, base.many, strict=True)
    return [one.requests_a_second / other.requests_a_second for one, other in pairs]


def added(mine: Taken, base: Taken) -> list[float]:
    """Microseconds that the median of one connection has over the base's, by round."""
    pairs = zip(mine.one, base.one, strict=True)
    return [(one.p50_milliseconds - other.p50_milliseconds) * 1000 for one, other in pairs]


def _median(taken: Taken, figure: Callable[[Sample], float]) -> str:
    return f"{statistics.median(map(figure, taken.many)):.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
