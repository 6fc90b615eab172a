"""`make bench B=capacity`: the formulas of docs/capacity.md, with what a login, a request and a
second at rest cost here, and whether they hold at other loads. Takes three minutes.

It measures at rest, with logins alone and with requests alone; of that it says what more of both at
once, and a second gateway, will cost, and measures that too. It must never tell what it has not
measured as if it had.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from bench import table
from bench.issuer import Costs
from bench.load import chat_of, write_script_of
from bench.logins import ENDPOINT, WORD, Client, log_in_each, names
from bench.servers import LOAD_CORE, tiny_upstream
from tests.support.deployment import PARTS, TEST_COST, Caller, Local, basic, wait_ready
from tests.support.gateways import Second, push_to, second_gateway
from tests.support.link import Link, linked

SECONDS = int(os.environ.get("BENCH_SECONDS", "15"))
USERS, CLIENTS = 40, 12
PAUSE_MILLISECONDS = 10


@dataclass(frozen=True)
class Load:
    """What is asked of a deployment, a second."""

    logins: float
    requests: float
    gateways: int = 1


REST, LOGINS, REQUESTS = Load(0, 0), Load(25, 0), Load(0, 1_000)
#: Where the formulas are asked for what they do not know yet.
POINTS = (Load(50, 500), Load(100, 2_000), Load(25, 0, gateways=2), Load(100, 0, gateways=2))


@dataclass(frozen=True)
class Usage:
    """What a load takes: milliseconds of CPU a second, and bytes a second of the sync."""

    issuer: float
    reconciler: float
    #: Of the first gateway, to which all logins and requests go.
    gateway: float
    #: To all gateways and back.
    sync: float


@dataclass(frozen=True)
class Constants:
    """What one thing takes, as measured: milliseconds of CPU, and bytes a gateway."""

    rest: Usage
    login: Usage
    request_gateway: float

    @classmethod
    def of(
        cls, rest: Usage, logins: tuple[Load, Usage], requests: tuple[Load, Usage]
    ) -> "Constants":
        """From a deployment at rest, with logins alone, and with requests alone."""
        each = (
            (getattr(logins[1], name) - getattr(rest, name)) / logins[0].logins
            for name in Usage.__dataclass_fields__
        )
        request = (requests[1].gateway - rest.gateway) / requests[0].requests
        return cls(rest, Usage(*each), request)

    def usage(self, load: Load) -> Usage:
        """What a load will take (docs/capacity.md). A login is told to every gateway; what that
        costs the issuer is not known from one gateway, so it counts as nothing.
        """
        rest, login = self.rest, self.login
        return Usage(
            rest.issuer + load.logins * login.issuer,
            rest.reconciler * load.gateways + load.logins * login.reconciler,
            rest.gateway + load.logins * login.gateway + load.requests * self.request_gateway,
            load.gateways * (rest.sync + load.logins * login.sync),
        )


def logins_a_second(agents: float, lifetime: float, renewed_before: float) -> float:
    """Of so many agents who renew tokens of so many seconds so many seconds before their end."""
    return agents / (lifetime - renewed_before)


def active_tokens(agents: float, lifetime: float, renewed_before: float) -> float:
    """How many are active at a time: the former one lives on until its end."""
    return logins_a_second(agents, lifetime, renewed_before) * lifetime


def users_over_a_restart(lifetime: float, cores: int, bcrypt_seconds: float) -> float:
    """How many users may have tokens of so many seconds, for all of them to log in anew within one
    lifetime after the issuer was restarted, which remembers no secret then.
    """
    return lifetime * max(1, cores - 1) / bcrypt_seconds


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        upstream = stack.enter_context(tiny_upstream(folder))
        stand = stack.enter_context(_stand(folder, upstream))
        rest, logins, requests = (stand.measured(load) for load in (REST, LOGINS, REQUESTS))
        known = Constants.of(rest[1], logins, requests)
        _print_constants(known)
        for point in POINTS:
            stand.grow(point.gateways)
            load, found = stand.measured(point)
            _print_point(load, known.usage(load), found)
    return 0


class Stand:
    """A deployment whose sync passes links that count its bytes."""

    def __init__(self, folder: Path, running: Local, second: Second, links: list[Link]) -> None:
        self._running, self._second, self._links = running, second, links
        self._gateways = 1
        token = Caller(running).token("AGIATEST01")
        body = json.dumps(chat_of(0)).encode()
        self._script = write_script_of(folder, "capacity", [token], body)
        with self._script.open("a") as script:
            script.write(f"delay = function() return {PAUSE_MILLISECONDS} end\n")

    def grow(self, gateways: int) -> None:
        """The second gateway is told too, from here on. The users log in once again."""
        if gateways == self._gateways:
            return
        self._gateways = gateways
        push_to(self._running, self._second.url, self._links[1].url)
        log_in_each(self._running.gateway, names(USERS))

    def measured(self, load: Load) -> tuple[Load, Usage]:
        """What was asked indeed, and what it took."""
        costs, before = Costs(self._running), self._bytes()
        with self._requests(load.requests) as asked, self._logins(load.logins) as counts:
            time.sleep(SECONDS)
            cpu, passed = costs.so_far(), self._bytes() - before
            logins = sum(counts) / SECONDS
        issuer, reconciler, gateway = (
            cpu[part] / 1000 / SECONDS for part in ("issuer", "reconciler", "gateway")
        )
        used = Usage(issuer, reconciler, gateway, passed / SECONDS)
        return Load(logins, sum(asked) / SECONDS, load.gateways), used

    def _bytes(self) -> int:
        said = (one for link in self._links for one in (*link.recorded, *link.answered))
        return sum(map(len, said))

    @contextmanager
    def _requests(self, rate: float) -> Iterator[list[float]]:
        """Judged requests at a steady rate; how many there were, once it has ended."""
        asked: list[float] = []
        if not rate:
            yield asked
            return
        connections = max(1, round(rate * PAUSE_MILLISECONDS / 1_000))
        command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s"]
        command += ["-s", str(self._script), self._running.gateway]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield asked
            told, _ = process.communicate(timeout=SECONDS)
            asked.append(float(told.splitlines()[-1].split()[0]))
        finally:
            process.kill()
            process.wait(10)

    @contextmanager
    def _logins(self, rate: float) -> Iterator[list[int]]:
        """Repeated logins at a steady rate; how many there were of each client."""
        stop, counts = threading.Event(), [0] * CLIENTS

        def work(number: int) -> None:
            client, due = Client(self._running.gateway), time.monotonic() + number / rate
            user = basic(names(USERS)[number], WORD)
            while not stop.wait(max(0.0, due - time.monotonic())):
                assert client.post(ENDPOINT, user)[0] == 200
                counts[number] += 1
                due += CLIENTS / rate

        numbers = range(CLIENTS if rate else 0)
        workers = [threading.Thread(target=work, args=(number,)) for number in numbers]
        for one in workers:
            one.start()
        try:
            yield counts
        finally:
            stop.set()
            for one in workers:
                one.join()


@contextmanager
def _stand(folder: Path, upstream: int) -> Iterator[Stand]:
    settings = {"GATEWAY_WORKERS": "1", "TOKEN_TTL_SECONDS": "600"}
    running = Local(f"http://127.0.0.1:{upstream}", settings)
    with ExitStack() as stack:
        stack.callback(running.close)
        hashed = bcrypt.hashpw(WORD.encode(), bcrypt.gensalt(TEST_COST)).decode()
        lines = "".join(f"{name}={hashed}\n" for name in names(USERS))
        running.credentials.write_text(running.credentials.read_text() + lines)
        link = stack.enter_context(linked(int(running.internal.rpartition(":")[2])))
        running.env["GATEWAY_URLS"] = link.url
        for part in PARTS:
            running.start(part)
        wait_ready(running)
        second = stack.enter_context(second_gateway(running))
        other = stack.enter_context(linked(int(second.internal.rpartition(":")[2])))
        log_in_each(running.gateway, names(USERS))
        yield Stand(folder, running, second, [link, other])


def _print_constants(known: Constants) -> None:
    print(f"\n{table.machine()}; {SECONDS} s each\n")
    print("| what | issuer, CPU ms | reconciler | gateway | sync, bytes a gateway |")
    print("|---|---|---|---|---|")
    for name, one in (("a second at rest", known.rest), ("a repeated login", known.login)):
        cells = f"{one.issuer:.2f} | {one.reconciler:.2f} | {one.gateway:.3f} | {one.sync:,.0f}"
        print(f"| {name} | {cells} |")
    print(f"| a request | | | {known.request_gateway:.4f} | |\n")
    print(
        "| point | issuer, CPU ms a second | reconciler | gateway | sync, bytes a second |\n"
        "|---|---|---|---|---|",
        flush=True,
    )


def _print_point(load: Load, said: Usage, found: Usage) -> None:
    asked = f"{load.logins:,.0f} logins and {load.requests:,.0f} requests a second"
    gateways = "two gateways" if load.gateways > 1 else "one gateway"
    print(f"| {asked}, {gateways} | {' | '.join(compared(said, found))} |", flush=True)


def compared(said: Usage, found: Usage) -> list[str]:
    """What the formulas said, what was found, and how much of what was said that is."""
    pairs = ((getattr(said, name), getattr(found, name)) for name in Usage.__dataclass_fields__)
    return [f"{one:,.0f} said, {other:,.0f} found ({other / one:.2f})" for one, other in pairs]


if __name__ == "__main__":
    sys.exit(main())
