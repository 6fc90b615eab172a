"""`python -m bench.logins`: what a login costs, by how many users there are, and in either store;
logins while others guess; revocations.

All through the gateway, with hashes of the cost that Portero makes. Where a repeated login is
measured its users have logged in before.
"""

import base64
import contextlib
import http.client
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import bcrypt

from bench.load import run_wrk, write_login_script
from bench.servers import tiny_upstream
from issuer.users.credentials import COST
from tests.support.deployment import Local, basic, deployed
from tests.support.postgresql import cluster
from tests.support.waiting import wait_for

T = TypeVar("T")

ENDPOINT, OTHER_ENDPOINT = "/agi/login", "/llm/login"
WORD = "one secret of all"
USERS = (1, 100, 10_000)
#: How many have the other store, too.
IN_POSTGRESQL = 100
#: First logins that are measured of each; a bcrypt takes its time.
FIRST = 40
AT_ONCE = 32
SECONDS = 5
GARBAGE_A_SECOND = 200
#: Connections and addresses of those who guess: a flood that its bcrypts do not slow down.
GUESSERS = 100
GUESSING_ADDRESSES = 10
GARBAGE_SECONDS = 15
#: Of each kind of refused login, with hashes of this cost.
SAMPLES, CHEAP = 200, 10


@dataclass
class Client:
    """Keeps a connection to a gateway; `source` is the address it comes from."""

    url: str
    source: str = "127.0.0.1"
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def post(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Status and content of the answer. Raises `OSError` where there is none."""
        connection = self._connected()
        try:
            connection.request("POST", path, headers={"Authorization": authorization})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            place = urlsplit(self.url)
            self._connection = http.client.HTTPConnection(
                place.hostname or "", place.port, timeout=10, source_address=(self.source, 0)
            )
        return self._connection


def names(count: int) -> list[str]:
    """So many users."""
    return [f"AGIABENCH{number:05d}" for number in range(count)]


@contextlib.contextmanager
def with_users(upstream: int, count: int, cost: int = COST, **settings: str) -> Iterator[Local]:
    """A deployment that knows them. They have one secret, so that one hash is enough."""
    with deployed(f"http://127.0.0.1:{upstream}", GATEWAY_WORKERS="1", **settings) as running:
        hashed = bcrypt.hashpw(WORD.encode(), bcrypt.gensalt(cost)).decode()
        lines = [f"{name}={hashed}\n" for name in names(count)]
        running.credentials.write_text("".join(lines))
        taken = running.last_good
        wait_for(lambda: len(taken("credentials").splitlines()) == count, 30, "users are known")
        yield running


def log_in_each(
    url: str, users: Sequence[str], at_once: int = 8, source: str = "127.0.0.1"
) -> list[float]:
    """Seconds of one login of each; who is sent away comes again, and that counts."""

    def log_in(name: str) -> float:
        began, client = time.monotonic(), Client(url, source)
        while client.post(ENDPOINT, basic(name, WORD))[0] != 200:
            time.sleep(0.1)
        return time.monotonic() - began

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(log_in, users))


def percentile(values: Sequence[float], part: int) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * part // 100)] * 1000


def main() -> int:
    """Measure and print."""
    print(f"\nlogins; hashes of cost {COST}, a bcrypt takes {_bcrypt_milliseconds():.0f} ms\n")
    print("| users | store | first logins/s | repeated logins/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        with tiny_upstream(folder) as upstream:
            for count in USERS:
                with with_users(upstream, count) as running:
                    print(_row(folder, running, count), flush=True)
                    if count == USERS[-1]:
                        _print_rest(running)
                if count == IN_POSTGRESQL:
                    _print_in_postgresql(folder, upstream, count)
            with with_users(upstream, 2, CHEAP) as running:
                _print_alike(running)
    return 0


def _print_in_postgresql(folder: Path, upstream: int, count: int) -> None:
    """The same with the other store, on this machine too."""
    with cluster() as database:
        settings = {"DATABASE_URL": database.database("bench"), "SEAL_KEY": "bench" * 10}
        with with_users(upstream, count, COST, **settings) as running:
            print(_row(folder, running, count, "PostgreSQL"), flush=True)


def _bcrypt_milliseconds() -> float:
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(COST))
    began = time.process_time()
    for _ in range(4):
        bcrypt.checkpw(b"y", hashed)
    return (time.process_time() - began) * 250


def _row(folder: Path, running: Local, count: int, store: str = "SQLite") -> str:
    users = names(count)[:FIRST]
    began = time.monotonic()
    log_in_each(running.gateway, users)
    first = len(users) / (time.monotonic() - began)
    script = write_login_script(folder, ENDPOINT, [basic(name, WORD) for name in users])
    rate, p50, p99 = run_wrk(running.gateway, script, AT_ONCE, SECONDS)
    return f"| {count:,} | {store} | {first:.1f} | {rate:,.0f} | {p50:.1f} | {p99:.1f} |"


def _print_rest(running: Local) -> None:
    alone = _paced_logins(running.gateway, 5)
    with _garbage(running.gateway) as answers:
        time.sleep(2)
        beside = _paced_logins(running.gateway, GARBAGE_SECONDS)
        fresh = _first_logins(running.gateway)
    for what, taken in (
        ("repeated logins, 20 a second, alone", alone),
        (f"the same beside {GARBAGE_A_SECOND} garbage logins a second", beside),
        ("first logins from another address beside the same garbage", fresh),
    ):
        print(f"{what}: p50 {percentile(taken, 50):.1f} ms, p99 {percentile(taken, 99):.1f} ms")
    counts = {status: answers.count(status) for status in sorted(set(answers))}
    print(f"the garbage was answered {counts}")
    print(f"revocations: {revocations(running.gateway):,.0f} a second")


def _print_alike(running: Local) -> None:
    """Medians of what must take the same time, asked in turn. Of the issuer itself, as the gateway
    has those wait who guess.
    """
    remembered, other = names(2)
    client = Client(running.issuer)
    assert client.post(ENDPOINT, basic(remembered, WORD))[0] == 200
    asked = {
        "unknown user": (ENDPOINT, "AGIANOBODY"),
        "wrong secret": (ENDPOINT, other),
        "wrong secret of one who is remembered": (ENDPOINT, remembered),
        "wrong secret at a wrong endpoint": (OTHER_ENDPOINT, other),
    }
    taken: dict[str, list[float]] = {kind: [] for kind in asked}
    for _ in range(SAMPLES):
        for kind, (endpoint, user) in asked.items():
            began = time.monotonic()
            assert client.post(endpoint, basic(user, "wrong"))[0] == 401
            taken[kind].append(time.monotonic() - began)
    first = statistics.median(taken["unknown user"])
    for kind, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{kind}: {middle * 1000:.1f} ms, {(middle / first - 1) * 100:+.1f} %")


def _paced_logins(url: str, seconds: int) -> list[float]:
    client, taken = Client(url), []
    for _ in range(seconds * 20):
        began = time.monotonic()
        status, content = client.post(ENDPOINT, basic(names(1)[0], WORD))
        taken.append(time.monotonic() - began)
        assert status == 200, content
        time.sleep(max(0.0, began + 0.05 - time.monotonic()))
    return taken


def _first_logins(url: str) -> list[float]:
    """One after the other, of users who have not logged in yet."""
    users = names(FIRST + 15)[FIRST:]
    return log_in_each(url, users, at_once=1, source="127.0.0.2")


@contextlib.contextmanager
def _garbage(url: str) -> Iterator[list[int]]:
    """Wrong secrets at a steady rate, whatever the answers; their statuses so far."""
    answers: list[int] = []
    due: queue.Queue[int | None] = queue.Queue()
    stop = threading.Event()

    def guess(number: int) -> None:
        client = Client(url, f"127.0.1.{number % GUESSING_ADDRESSES + 1}")
        wrong = "Basic " + base64.b64encode(b"AGIANOBODY:wrong").decode()
        while due.get() is not None:
            answers.append(client.post(ENDPOINT, wrong)[0])

    def pace() -> None:
        while not stop.wait(1 / GARBAGE_A_SECOND):
            due.put(0)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(GUESSERS)]
    threads.append(threading.Thread(target=pace))
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for _ in range(GUESSERS):
            due.put(None)
        for thread in threads:
            thread.join()


def revocations(url: str) -> float:
    """Logouts a second, many at once."""
    user = basic(names(1)[0], WORD)
    tokens = _each(url, lambda client: token_of(client, user), 1_000)
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    for token in tokens:
        left.put(token)
    began = time.monotonic()
    statuses = _each(url, lambda client: client.post("/logout", f"Bearer {left.get()}")[0], 1_000)
    assert set(statuses) == {204}, set(statuses)
    return len(tokens) / (time.monotonic() - began)


def token_of(client: Client, user: str) -> str:
    """A fresh one."""
    return str(json.loads(client.post(ENDPOINT, user)[1])["token"])


def _each(url: str, work: Callable[[Client], T], count: int) -> list[T]:
    """Do it so often, over as many connections as there are at once."""
    local = threading.local()

    def one(_: int) -> T:
        if not hasattr(local, "client"):
            local.client = Client(url)
        return work(local.client)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(count)))


if __name__ == "__main__":
    sys.exit(main())
