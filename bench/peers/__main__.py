"""`make bench B=peers`: Portero and its peers in one run, in turn, before the same mock, one worker
each on the same core.

    python -m bench.peers [--litellm] [--check]

First the peers' packages are installed; then the process moves into a network of its own, in which
there is nothing but loopback: what a peer would tell its makers reaches nobody. Each is proven
before anything is measured; `--check` ends there. It runs as root, for that network.
"""

import argparse
import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import mock, table
from bench.load import Sample, measure, write_script
from bench.peers import entrants, programs
from bench.peers.entrants import PLAIN, Entrant, Place
from bench.peers.table import lines
from bench.servers import Server
from bench.table import Row
from tests.stack.clients.enclosed import loopback_up
from tests.support.waiting import wait_for

CLONE_NEWNET = 0x40000000
START_SECONDS = 60


def main(words: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--litellm", action="store_true", help="LiteLLM too: 650 MB to install")
    parser.add_argument("--check", action="store_true", help="prove each, and measure nothing")
    asked = parser.parse_args(words)
    wanted = [one for one in entrants.PEERS if one != "litellm" or asked.litellm]
    _install(wanted)
    enclose()
    with tempfile.TemporaryDirectory(prefix="portero-peers-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)  # nginx's workers are nobody's
        place = Place(folder, stack.enter_context(mock.mock(folder)), stack)
        proven, absent = _proven(place, wanted)
        if not asked.check:
            _measure(folder, proven, absent)
    return 0


def enclose() -> None:
    """Move this process, and all that it starts from now on, into a network of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        sys.exit(f"peers are measured in a network of their own, which needs root: {reason}")
    loopback_up()


def _install(wanted: Sequence[str]) -> None:
    """While there is a network. Who cannot be had is told of in the table."""
    for name in wanted:
        try:
            programs.program(name)
        except programs.AbsentError as error:
            print(f"not here: {name}: {error}", file=sys.stderr)


def _proven(place: Place, wanted: Sequence[str]) -> tuple[list[Entrant], list[str]]:
    found: list[Entrant] = []
    absent: list[str] = []
    for one in (*entrants.own(place), *entrants.peers(place, wanted)):
        if isinstance(one, str):
            absent.append(one)
            print(f"not here: {one}", flush=True)
            continue
        wait_for(partial(entrants.is_up, one), START_SECONDS, f"{one.name} answers")
        found.append(entrants.proven(one))
        refused = ", ".join(one.wrong) or "nothing, as it authenticates nobody"
        print(f"proven: {one.name}: serves; refuses {refused}", flush=True)
    return found, absent


def _measure(folder: Path, measured: Sequence[Entrant], absent: Sequence[str]) -> None:
    rows = []
    for number, one in enumerate(measured):
        script = write_script(folder, f"entrant-{number}", [one.token], more=one.more)
        rows.append(Row(one.name, one.server, script, PLAIN, partial(_load, one)))
    table.take(rows, rounds=1)  # for caches and compilers
    taken = table.take(rows)
    print(f"\n{table.machine()}; {table.told()}\n")
    print("\n".join(lines(taken, absent)))


def _load(entrant: Entrant, server: Server, script: Path, seconds: int, connections: int) -> Sample:
    """As all are loaded. The slow ones have the last load's requests under way when it has ended:
    one connection alone begins when these are answered.
    """
    if connections == 1:
        assert entrants.ask(entrant, entrant.token).ok, entrant.name
    return measure(server, script, seconds, connections)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
