"""`make bench B=active_tokens`: what a request costs where 1, 100,000 and 1,000,000 tokens are
active, and 1 or 10,000 of them in use; what a token takes of memory and of its push; a worker's
memory after 1,000,000 requests against that after 100,000. Takes four minutes.

All tokens come by the sync's own messages, to a gateway each. 10,000 in use are more than a worker
remembers, so each request of theirs verifies one and looks it up.
"""

import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

from bench import portero, table
from bench.load import measure, write_script
from bench.servers import GATEWAY_CORE, nginx, proxy, tiny_upstream
from bench.table import PLAIN, Row, Taken, spread_of
from run.commands import ROOT
from tests.support.deployment import Local, answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
#: Active tokens of a gateway -> how many of them are in use, in a row each.
ACTIVE = {1: (1,), 10_000: (10_000,), 100_000: (1, 10_000), 1_000_000: (1, 10_000)}
IN_USE = 10_000
LOOK_UP = """
    lua_package_path "{root}/openresty/lua/?.lua;;";
    lua_shared_dict portero_active_tokens 192m;
    lua_shared_dict portero_sync 1m;
    access_log off;
    server {{
        listen 127.0.0.1:{port};
        location = /up {{ return 200; }}
        location / {{ content_by_lua_file {root}/bench/look_up.lua; }}
    }}
"""
LIFETIME_SECONDS = 1_800
#: Of the worker's memory: after the first of these requests, and after all of them.
REQUESTS = tuple(map(int, os.environ.get("BENCH_REQUESTS", "100000,1000000").split(",")))
LEG_SECONDS = 2


@dataclass(frozen=True)
class Filled:
    """A gateway with so many active tokens, and what they cost it."""

    active: int
    running: Local
    bytes_each: float
    pushed_seconds: float
    microseconds_each: float


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        upstream = stack.enter_context(tiny_upstream(folder))
        gateways = [_filled(stack, folder, upstream, active) for active in ACTIVE]
        plain = stack.enter_context(proxy(folder, "plain", upstream, 1))
        rows = list(_rows(folder, gateways))
        base = Row(PLAIN, plain, rows[0].script)
        taken = table.take([base, *rows], ROUNDS, alone=False)
        print(f"\n{table.machine()}; {table.told(ROUNDS)}\n")
        _print_requests([base, *rows], taken)
        _print_pushes(gateways)
        _print_look_ups(folder)
        _print_memory(rows[-1], gateways[-1].running)
    return 0


def _filled(stack: ExitStack, folder: Path, upstream: int, active: int) -> Filled:
    """The tokens in use are among them; they come later (`_rows`), as they are minted."""
    print(f"{active} active tokens", file=sys.stderr, flush=True)
    running = stack.enter_context(portero.portero(folder, upstream))
    server = portero.server(running)
    until = int(time.time()) + LIFETIME_SECONDS
    entries = [(secrets.token_urlsafe(16), until) for _ in range(active - min(active, IN_USE))]
    before, cpu = _free_bytes(running), server.cpu_microseconds()[0]
    began = time.monotonic()
    portero.push(running, entries)
    seconds, count = time.monotonic() - began, max(1, len(entries))
    cpu = server.cpu_microseconds()[0] - cpu
    return Filled(active, running, (before - _free_bytes(running)) / count, seconds, cpu / count)


def _free_bytes(running: Local) -> int:
    return int(portero.gateway_status(running)["free_bytes"])


def _rows(folder: Path, gateways: Sequence[Filled]) -> Iterator[Row]:
    for one in gateways:
        minted = portero.active_tokens(one.running, "HS256", min(one.active, IN_USE))
        for used in ACTIVE[one.active]:
            name = f"{one.active:,} active, {used:,} in use"
            script = write_script(folder, f"active-{one.active}-{used}", minted[:used])
            yield Row(name, portero.server(one.running), script)


def _print_requests(rows: Sequence[Row], taken: dict[str, Taken]) -> None:
    print(
        "| tokens | requests/s | CPU us a request | over the fewest active | p50 ms | p99 ms "
        "| peak MiB |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        fewest = next(one.name for one in rows if in_use(one.name) == in_use(row.name))
        print(line(row.name, taken[row.name], taken[fewest]))


def in_use(name: str) -> str:
    """What rows have in common that are compared: how many tokens are in use."""
    return name.rpartition(", ")[2]


def line(name: str, mine: Taken, fewest: Taken) -> str:
    """One row as Markdown."""
    middle, base = mine.of(statistics.median), fewest.of(statistics.median)
    more = middle.cpu_microseconds - base.cpu_microseconds
    cells = (
        name,
        spread_of([one.requests_a_second for one in mine.many]),
        spread_of([one.cpu_microseconds for one in mine.many], 1),
        f"{more:+.1f} ({more / base.cpu_microseconds:+.1%})",
        f"{middle.p50_milliseconds:.2f}",
        f"{middle.p99_milliseconds:.2f}",
        f"{mine.of(max).peak_mebibytes:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _print_pushes(gateways: Sequence[Filled]) -> None:
    print(
        "\n| active tokens | bytes each | pushed in s | gateway's CPU us each |\n|---|---|---|---|"
    )
    for one in gateways:
        if one.active > IN_USE:
            print(
                f"| {one.active:,} | {one.bytes_each:.0f} | {one.pushed_seconds:.1f} "
                f"| {one.microseconds_each:.2f} |"
            )


def _print_look_ups(folder: Path) -> None:
    """By the gateway's own modules, without what surrounds them."""
    (port,) = free_ports(1)
    with nginx(folder, "look-up", LOOK_UP.format(root=ROOT, port=port), GATEWAY_CORE):
        url = f"http://127.0.0.1:{port}/"
        wait_for(partial(answers, f"{url}up", 200), 20, "it looks up")
        print("\n| active | ns a look-up of one token | of 10,000 in turn |\n|---|---|---|")
        for active in ACTIVE:
            told = requests.get(f"{url}?active={active}", timeout=300)
            assert told.status_code == 200, told.text
            one, *many = told.text.split()
            print(f"| {active:,} | {one} | {''.join(many)} |", flush=True)


def _print_memory(row: Row, running: Local) -> None:
    """Of a worker that has just begun to serve: what it has beside what all share."""
    running.kill_workers("gateway")
    (worker,) = running.workers("gateway")
    os.sched_setaffinity(worker, {0})
    count, most, marks = 0, 0.0, []
    for mark in REQUESTS:
        while count < mark:
            taken = measure(row.server, row.script, LEG_SECONDS)
            count += round(taken.requests_a_second * LEG_SECONDS)
            most = max(most, own_mebibytes(Path(f"/proc/{worker}/status").read_text()))
        marks.append((count, most))
    (few, first), (many, last) = marks
    print(
        f"\na worker's own memory at most, {row.name}: {first:.1f} MiB in {few:,} requests, "
        f"{last:.1f} MiB in {many:,} ({last / first - 1:+.1%})"
    )


def own_mebibytes(status: str) -> float:
    """What a process has in memory that is neither a file's nor shared."""
    found = re.search(r"RssAnon:\s*(\d+) kB", status)
    assert found, status
    return int(found[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
