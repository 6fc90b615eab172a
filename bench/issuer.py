"""`make bench B=issuer`: logins and revocations a second and what one costs, how long a revoked
token is still served, snapshots by size, and what all costs at rest. Takes four minutes.

One gateway of one worker, an issuer and a reconciler, SQLite. `bench.logins` has logins by how many
users there are, in either store, and beside guessing.
"""

import json
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from bench import table
from bench.denial import Poster
from bench.load import run_wrk, write_login_script
from bench.logins import (
    AT_ONCE,
    ENDPOINT,
    FIRST,
    SECONDS,
    WORD,
    Client,
    log_in_each,
    names,
    percentile,
    revocations,
    token_of,
    with_users,
)
from bench.servers import Server, tiny_upstream
from issuer.sync.reconciler import PART_ENTRIES
from tests.promises import stores
from tests.support.deployment import PARTS, Caller, Local, answers, basic, deployed
from tests.support.gateways import another_gateway, push_to
from tests.support.waiting import wait_for

USERS = 100
DENIALS = int(os.environ.get("BENCH_DENIALS", "150"))
SNAPSHOTS = tuple(map(int, os.environ.get("BENCH_TOKENS", "1,10000,100000,1000000").split(",")))
OF_ONE_USER = 10_000
REST_SECONDS, SETTLE_SECONDS = 10, 3
ADMIN = "ADMNTEST01"
SMALL = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'


def main() -> int:
    """Measure and print; 1 where a token was served after its revocation had answered."""
    print(f"\n{table.machine()}\n")
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        with tiny_upstream(folder) as upstream:
            with with_users(upstream, USERS) as running:
                _print_logins(folder, running)
                late = _print_denials(running)
            address = f"http://127.0.0.1:{upstream}"
            with deployed(address, GATEWAY_WORKERS="1") as running:
                _print_snapshots(running)
            with deployed(address, GATEWAY_WORKERS="1") as running:
                _print_revoked_at_once(running)
    return 1 if late else 0


class Costs:
    """CPU of the parts of a deployment from here on, in microseconds."""

    def __init__(self, running: Local, parts: Sequence[str] = PARTS) -> None:
        self._servers = {part: Server(part, "", (running.pid(part),)) for part in parts}
        self._before = {part: one.cpu_microseconds()[0] for part, one in self._servers.items()}

    def so_far(self) -> dict[str, float]:
        """Of each part."""
        return {
            part: one.cpu_microseconds()[0] - self._before[part]
            for part, one in self._servers.items()
        }


def _print_logins(folder: Path, running: Local) -> None:
    users = names(USERS)[:FIRST]
    began = time.monotonic()
    log_in_each(running.gateway, users)
    first = len(users) / (time.monotonic() - began)
    script = write_login_script(folder, ENDPOINT, [basic(name, WORD) for name in users])
    costs = Costs(running)
    rate, p50, p99 = run_wrk(running.gateway, script, AT_ONCE, SECONDS)
    each = {part: cpu / (rate * SECONDS) for part, cpu in costs.so_far().items()}
    print("| what | a second | p50 ms | p99 ms | CPU us each: issuer, gateway |")
    print("|---|---|---|---|---|")
    print(f"| first logins | {first:.1f} | | | |")
    cpu = f"{each['issuer']:,.0f}, {each['gateway']:,.0f}"
    print(f"| repeated logins, {AT_ONCE} at once | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu} |")
    rate, cpus = _revocations(running)
    print(f"| revocations, {AT_ONCE} at once | {rate:,.0f} | | | {cpus} |", flush=True)


def _revocations(running: Local) -> tuple[float, str]:
    """A second, and what each has cost with the login that it needed before."""
    costs = Costs(running)
    rate, count = revocations(running.gateway), 1_000
    each = {part: cpu / count for part, cpu in costs.so_far().items()}
    return rate, f"with a login each: {each['issuer']:,.0f}, {each['gateway']:,.0f}"


@dataclass(frozen=True)
class Denial:
    """Seconds from a revocation being sent: until its answer, until the token was refused, and
    until the last request was sent that was served.
    """

    answered: float
    refused: float
    served: float

    @property
    def is_late(self) -> bool:
        """Whether a request was served that was sent after the revocation had answered."""
        return self.served > self.answered


def denial(revoking: str, asked: str, token: str) -> Denial:
    """Log out at one gateway, and use the token at one until it is refused."""
    poster, place = Poster(asked, token), urlsplit(revoking)
    assert poster.post(SMALL) == 200
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        began = time.monotonic()
        head = f"POST /logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        answered, served = 0.0, began
        while True:
            if not answered and select.select([connection], [], [], 0)[0]:
                answered = _answered(connection)
            sent = time.monotonic()
            if poster.post(SMALL) != 200:
                break
            served = sent
        refused = time.monotonic()
        answered = answered or _answered(connection)
    return Denial(answered - began, refused - began, served - began)


def _answered(connection: socket.socket) -> float:
    assert connection.recv(4096).startswith(b"HTTP/1.1 204")
    return time.monotonic()


def _print_denials(running: Local) -> int:
    """Of one gateway, and of two where the other one is asked; how many came late."""
    print(
        "\n| push to deny | refused after ms, p50 | p99 | revocation answered after ms, p50 | p99 |"
    )
    print("|---|---|---|---|---|")
    late = _print_denial("one gateway", running, running.gateway)
    with another_gateway(running) as (second, internal):
        push_to(running, second, f"http://127.0.0.1:{internal}")
        late += _print_denial("two, and the other one is asked", running, second)
    return late


def _print_denial(name: str, running: Local, asked: str) -> int:
    client, user = Client(running.gateway), basic(names(1)[0], WORD)
    taken = [denial(running.gateway, asked, token_of(client, user)) for _ in range(DENIALS)]
    late = sum(one.is_late for one in taken)
    refused, answered = ([one.refused for one in taken], [one.answered for one in taken])
    cells = [f"{percentile(each, part):.2f}" for each in (refused, answered) for part in (50, 99)]
    print(f"| {name}, {DENIALS} times, {late} late | {' | '.join(cells)} |", flush=True)
    return late


def _print_snapshots(running: Local) -> None:
    Caller(running).token(stores.USER)
    print(
        "\n| active tokens | snapshot MiB | ready after s | CPU s: reconciler, gateway "
        "| at rest, CPU ms a second: issuer, reconciler, gateway | memory MiB: the same |\n"
        "|---|---|---|---|---|---|"
    )
    there = 1
    for count in SNAPSHOTS:
        running.stop("reconciler")
        stores.fill(running, count - there)
        there = count
        seconds, costs = _restarted(running)
        rest, memory = _at_rest(running)
        print(
            f"| {count:,} | {snapshot_bytes(count) / (1 << 20):,.2f} | {seconds:.2f} "
            f"| {costs['reconciler'] / 1e6:.2f}, {costs['gateway'] / 1e6:.2f} "
            f"| {listed(rest)} | {listed(memory)} |",
            flush=True,
        )


def listed(figures: dict[str, float]) -> str:
    """Of issuer, reconciler and gateway, in this order."""
    return ", ".join(f"{figures[part]:,.1f}" for part in ("issuer", "reconciler", "gateway"))


def _restarted(running: Local) -> tuple[float, dict[str, float]]:
    """The gateway begins empty, and the reconciler finds it: seconds until it is ready."""
    running.stop("gateway")
    running.start("reconciler")
    time.sleep(SETTLE_SECONDS)
    running.start("gateway")
    url = f"{running.gateway}/readyz"
    wait_for(partial(_is_there, url), 20, "the gateway listens")
    began, costs = time.monotonic(), Costs(running)
    wait_for(partial(answers, url, 200), 120, "it has its snapshot")
    return time.monotonic() - began, costs.so_far()


def _is_there(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code in (200, 503)
    except requests.RequestException:
        return False


def _at_rest(running: Local) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of CPU a second, and MiB, where nobody asks for anything."""
    time.sleep(SETTLE_SECONDS)
    costs = Costs(running)
    time.sleep(REST_SECONDS)
    rest = {part: cpu / 1000 / REST_SECONDS for part, cpu in costs.so_far().items()}
    memory = {part: Server(part, "", (running.pid(part),)).peak_mebibytes() for part in PARTS}
    return rest, memory


def snapshot_bytes(count: int) -> int:
    """What the parts of a snapshot of so many tokens come to, as they are sent."""
    entry = ("A" * 22, 1_795_618_118)
    whole, rest = divmod(count, PART_ENTRIES)
    sizes = [PART_ENTRIES] * whole + [rest] * bool(rest)
    parts = (
        {"step": "part", "generation": 1, "activate": [entry] * size, "revoke": []}
        for size in sizes
    )
    return sum(len(json.dumps(part, separators=(",", ":"))) for part in parts)


def _print_revoked_at_once(running: Local) -> None:
    caller = Caller(running)
    admin = caller.token(ADMIN)
    caller.token(stores.USER)
    stores.fill(running, OF_ONE_USER)
    time.sleep(SETTLE_SECONDS)
    path = f"/admin/api/users/{stores.USER}/sessions"
    began = time.monotonic()
    answer = caller.call(admin, path, "DELETE", timeout=120)
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    count = len(answer.json()["revoked"])
    print(f"\nrevoking all {count:,} tokens of one user: {seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
