"""`make bench B=bodies`: what it costs to read a body for what is limited, by its size and by what
is said in it. Takes four minutes.

Each body is sent by three callers of Portero: one without limits, whose body nobody reads, one with
a list of models, whose body is read whole and scanned, and one with every limit. Beside them plain
nginx, once a size.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import portero, table, texts
from bench.load import write_script_of
from bench.portero import LIMITED, LISTED, USER
from bench.servers import Server, proxy, tiny_upstream
from bench.table import Row, Taken, spread_of
from tests.support.deployment import Caller

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
SIZES = {"4 KiB": 4 << 10, "16 KiB": 16 << 10, "1 MiB": 1 << 20}
HEAD = (
    "| body | without limits, requests/s | of plain | models limited | of without | every limit "
    "| of without | CPU us: without, models, every | models, us a MiB more "
    "| p99 ms: without, models | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)
CALLERS = {"free": USER, "models": LISTED, "every limit": LIMITED}


@dataclass(frozen=True)
class Body:
    """One kind of text in one size, and the rows that send it: without limits, with a list of
    models, with every limit.
    """

    kind: str
    size: str
    plain: Row
    rows: tuple[Row, ...]


def main() -> int:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        bodies = list(_bodies(folder, stack))
        rows = {row.name: row for one in bodies for row in (one.plain, *one.rows)}
        taken = table.take(list(rows.values()), ROUNDS, alone=False)
    print(f"\n{table.machine()}; {table.told(ROUNDS)}\n\n{HEAD}")
    for body in bodies:
        its = [taken[row.name] for row in body.rows]
        print(line(f"{body.kind}, {body.size}", SIZES[body.size], taken[body.plain.name], its))
    return 0


def _bodies(folder: Path, stack: ExitStack) -> Iterator[Body]:
    upstream = stack.enter_context(tiny_upstream(folder))
    plain = stack.enter_context(proxy(folder, "plain", upstream, 1))
    running = stack.enter_context(portero.portero(folder, upstream))
    gateway = portero.server(running)
    tokens = {who: Caller(running).token(user) for who, user in CALLERS.items()}

    def row(who: str, server: Server, token: str, kind: str, size: str) -> Row:
        name = f"{who}, {kind}, {size}"
        body = texts.chat(kind, SIZES[size])
        script = write_script_of(folder, name.replace(" ", "-"), [token], body)
        return Row(name, server, script)

    for size in SIZES:
        base = row("plain", plain, tokens["free"], texts.KINDS[0], size)
        for kind in texts.KINDS:
            mine = (row(who, gateway, token, kind, size) for who, token in tokens.items())
            yield Body(kind, size, base, tuple(mine))


def line(name: str, size: int, plain: Taken, taken: Sequence[Taken]) -> str:
    """One row as Markdown: without limits, with a list of models, with every limit."""
    free, models, every = taken
    middle = [one.of(statistics.median) for one in taken]
    more = (middle[1].cpu_microseconds - middle[0].cpu_microseconds) * (1 << 20) / size
    cells = (
        name,
        spread_of([one.requests_a_second for one in free.many]),
        share(free, plain),
        f"{middle[1].requests_a_second:,.0f}",
        share(models, free),
        f"{middle[2].requests_a_second:,.0f}",
        share(every, free),
        ", ".join(f"{one.cpu_microseconds:,.1f}" for one in middle),
        f"{more:,.0f}",
        ", ".join(f"{one.p99_milliseconds:.2f}" for one in middle[:2]),
        f"{max(one.of(max).peak_mebibytes for one in taken):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def share(mine: Taken, base: Taken) -> str:
    """Requests a second as a share of the base's, round by round, as the two follow each other."""
    pairs = zip(mine.many, base.many, strict=True)
    shares = [one.requests_a_second / other.requests_a_second for one, other in pairs]
    return spread_of(shares, 2)


if __name__ == "__main__":
    sys.exit(main())
