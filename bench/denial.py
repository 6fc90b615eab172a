"""`python -m bench.denial`: what good callers notice of those who send too much (threats D).

Small chats at a steady rate, alone, beside a flood of tokens that nobody signed, and beside a body
of 64 MiB whose model is looked for, and one such after the other; the gateway has one worker, so
all share one event loop. The same beside such bodies through plain nginx, which looks at none.
"""

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import chat_of
from bench.logins import percentile
from bench.servers import GATEWAY_CORE, pin, proxy, tiny_upstream
from tests.support.deployment import Caller, deployed

SECONDS = 15
CHATS_A_SECOND, CALLERS = 100, 10
FORGED_A_SECOND, FORGERS = 1_000, 20
HUGE = 64 * 1024 * 1024
CHAT = "/v1/chat/completions"
#: Whose models are limited: for him the whole body is read.
LIMITED = "ADMNTEST01"


class Poster:
    """Keeps one connection, and posts chats over it as one caller."""

    def __init__(self, url: str, token: str) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, body: bytes) -> int:
        """The status of the answer, which is read whole. Raises `OSError` where there is none."""
        self._connection.request("POST", CHAT, body, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        with tiny_upstream(folder) as upstream:
            address = f"http://127.0.0.1:{upstream}"
            with deployed(address, GATEWAY_WORKERS="1") as running:
                pin(running.pid("gateway"), GATEWAY_CORE)
                _measure(running.gateway, Caller(running).token(LIMITED))
            with proxy(folder, "plain", upstream, 1) as plain:
                _measure_huge("plain nginx", plain.url, "none")
    return 0


def _measure(url: str, token: str) -> None:
    # The last character of a signature may have bits that decide nothing; the first has none.
    head, _, signature = token.rpartition(".")
    forged = f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    small = json.dumps(chat_of(0)).encode()
    alone = _chats(url, token, small)
    with _beside(lambda: _paced(url, forged, small, 401), FORGERS) as count:
        flooded = _chats(url, token, small)
    _print("alone", alone, alone)
    _print(f"beside {sum(count) / SECONDS:,.0f} forged tokens a second", flooded, alone)
    _measure_huge("Portero", url, token)


def _measure_huge(gateway: str, url: str, token: str) -> None:
    small, huge = (json.dumps(chat_of(size)).encode() for size in (0, HUGE))
    alone = _chats(url, token, small)
    with _beside(lambda: _once(url, token, huge), 1):
        with_one = _chats(url, token, small)
    with _beside(lambda: _as_it_goes(url, token, huge), 1) as count:
        crowded = _chats(url, token, small)
    _print(f"{gateway}, alone", alone, alone)
    _print(f"{gateway}, beside one body of 64 MiB", with_one, alone)
    _print(f"{gateway}, beside {sum(count)} bodies of 64 MiB one after the other", crowded, alone)


def _print(what: str, taken: Sequence[float], alone: Sequence[float]) -> None:
    p50, p99 = percentile(taken, 50), percentile(taken, 99)
    more = (p99 / percentile(alone, 99) - 1) * 100
    rate = f"{CHATS_A_SECOND} chats a second"
    print(f"{rate}, {what}: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({more:+.0f} %)", flush=True)


def _chats(url: str, token: str, body: bytes) -> list[float]:
    """Seconds of each, at a steady rate over all callers."""
    pause = CALLERS / CHATS_A_SECOND

    def call(number: int) -> list[float]:
        poster, taken = Poster(url, token), []
        due = time.monotonic() + pause * number / CALLERS
        until = due + SECONDS
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            assert poster.post(body) == 200
            taken.append(time.monotonic() - began)
            due += pause
        return taken

    with ThreadPoolExecutor(CALLERS) as pool:
        return [one for each in pool.map(call, range(CALLERS)) for one in each]


@contextmanager
def _beside(work: Callable[[], Callable[[], None]], threads: int) -> Iterator[list[int]]:
    """So many threads that do something again and again; how often each has."""
    stop, counts = threading.Event(), [0] * threads

    def run(number: int) -> None:
        act = work()
        while not stop.is_set():
            act()
            counts[number] += 1

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in running:
            thread.join()


def _paced(url: str, token: str, body: bytes, expected: int) -> Callable[[], None]:
    """Its share of the flood. A refusal ends the connection where the body was not read."""
    poster = Poster(url, token)

    def act() -> None:
        began = time.monotonic()
        assert poster.post(body) == expected
        time.sleep(max(0.0, began + FORGERS / FORGED_A_SECOND - time.monotonic()))

    return act


def _once(url: str, token: str, body: bytes) -> Callable[[], None]:
    poster, bodies = Poster(url, token), [body]

    def act() -> None:
        if bodies:
            assert poster.post(bodies.pop()) == 200
        time.sleep(0.01)

    return act


def _as_it_goes(url: str, token: str, body: bytes) -> Callable[[], None]:
    poster = Poster(url, token)

    def act() -> None:
        assert poster.post(body) == 200

    return act


if __name__ == "__main__":
    sys.exit(main())
