"""`make bench B=streams`: what the events of a stream are delayed by, against plain nginx: few
streams, 512 at once, as fast as they come, and beside one body of 64 MiB that is judged. Takes four
minutes.

An event is delayed from the moment it is sent until it is read; the streams of all gateways come
from one LLM server (`streaming.py`), in turn. Each ends with the SHA-256 of its bytes: a stream
that lost one is counted.
"""

import hashlib
import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from math import inf
from pathlib import Path
from urllib.parse import urlsplit

from bench import portero, table, texts
from bench.denial import Poster
from bench.logins import percentile
from bench.portero import LIMITED, USER
from bench.servers import LOAD_CORE, Server, proxy
from bench.table import spread_of
from run.commands import ROOT
from tests.support.deployment import Caller, answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
CHAT = "/v1/chat/completions"
HUGE = 64 << 20
PATIENCE_SECONDS = 60
#: Streams run before the large body comes.
AHEAD_SECONDS = 0.1
SENT_AT = re.compile(rb'"sent_at":(\d+)')
PLAIN = "plain nginx"


@dataclass(frozen=True)
class Load:
    """So many streams at once, each of so many events, so many seconds apart."""

    streams: int
    events: int
    gap: float
    size: int = 24

    def body(self) -> bytes:
        """The chat that asks for it."""
        wish = f"events={self.events} gap={self.gap} size={self.size}"
        message = {"role": "user", "content": wish}
        return json.dumps({"model": "tiny", "stream": True, "messages": [message]}).encode()


FEW = Load(streams=8, events=100, gap=0.01)
MANY = Load(streams=512, events=12, gap=0.25)
FAST = Load(streams=32, events=1_000, gap=0)
BESIDE = Load(streams=8, events=150, gap=0.01)
ONE = Load(streams=1, events=1, gap=0)
FIRST_EVENTS = 60


@dataclass
class Stream:
    """What comes of one stream: chunks are undone, and its events looked at."""

    connection: socket.socket
    #: When each event was sent, and how long it took, in seconds.
    taken: list[tuple[float, float]] = field(default_factory=list)
    asked_at: float = 0.0
    first_at: float = 0.0
    is_whole: bool = False
    has_ended: bool = False
    _raw: bytes = b""
    _text: bytes = b""
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def ask(self, request: bytes) -> None:
        """From here on its first byte is waited for."""
        self.asked_at = time.monotonic()
        self.connection.sendall(request)

    def read(self) -> None:
        """All that is there now."""
        block = self.connection.recv(1 << 18)
        now = time.monotonic_ns()
        self._raw += block
        self._unchunk()
        while b"\n\n" in self._text:
            event, _, self._text = self._text.partition(b"\n\n")
            self._take(event + b"\n\n", now)
        self.has_ended = self.has_ended or not block

    def _unchunk(self) -> None:
        if not self.first_at:
            head, end, self._raw = self._raw.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert end, "a head in two parts"
            self.first_at = time.monotonic()
        while not self.has_ended:
            size, end, rest = self._raw.partition(b"\r\n")
            length = int(size, 16) if end else len(rest) + 1
            if len(rest) < length + 2:
                return
            self._text, self._raw = self._text + rest[:length], rest[length + 2 :]
            self.has_ended = length == 0

    def _take(self, event: bytes, now: int) -> None:
        if event.startswith(b"data: [DONE]"):
            return
        self.is_whole = self._digest.hexdigest().encode() in event
        self._digest.update(event)
        sent = SENT_AT.search(event)
        if sent and not self.is_whole:
            self.taken.append((int(sent[1]) / 1e9, (now - int(sent[1])) / 1e9))


@dataclass
class Outcome:
    """All streams of one load."""

    streams: list[Stream]
    seconds: float

    @property
    def delays(self) -> list[float]:
        """Of every event, in seconds."""
        return self.delays_within(0, inf)

    def delays_within(self, since: float, until: float) -> list[float]:
        """The same of those that were sent between two moments."""
        every = (one for stream in self.streams for one in stream.taken)
        return [delay for sent, delay in every if since <= sent <= until]

    @property
    def broken(self) -> int:
        """Streams that lack a byte, or have another one."""
        return sum(not one.is_whole for one in self.streams)


@dataclass
class Gateway:
    """One that is measured, as one caller, and what came of it: figures by their names."""

    name: str
    server: Server
    token: str
    limited: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, **figures: float) -> None:
        """Of one round."""
        for name, figure in figures.items():
            self.figures.setdefault(name, []).append(figure)


def main() -> int:
    """Measure and print; 1 where a stream lost a byte."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        gateways = list(_gateways(folder, stack))
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for one in gateways:
                _measure(one)
    _print_tables(gateways)
    return 1 if any(sum(one.figures["broken"]) for one in gateways) else 0


def _gateways(folder: Path, stack: ExitStack) -> Iterator[Gateway]:
    upstream = stack.enter_context(streaming_upstream())
    plain = stack.enter_context(proxy(folder, "plain", upstream, 1))
    running = stack.enter_context(portero.portero(folder, upstream))
    token, limited = (Caller(running).token(user) for user in (USER, LIMITED))
    yield Gateway(PLAIN, plain, token, token)
    yield Gateway("Portero", portero.server(running), token, limited)
    yield Gateway("Portero, every limit", portero.server(running), limited, limited)
    counting = stack.enter_context(portero.portero(folder, upstream, USAGE="on"))
    limited = Caller(counting).token(LIMITED)
    name = "Portero, every limit, usage counted"
    yield Gateway(name, portero.server(counting), limited, limited)


@contextmanager
def streaming_upstream(core: str = LOAD_CORE) -> Iterator[int]:
    """The LLM server that streams, on the core of the load, and its port."""
    (port,) = free_ports(1)
    command = ["taskset", "-c", core, sys.executable, "-m", "bench.streaming", str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        up = partial(answers, f"http://127.0.0.1:{port}/v1/models", 200)
        wait_for(up, 20, "the LLM server that streams is up")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def streamed(url: str, token: str, load: Load) -> Outcome:
    """Ask for all streams, and read them to their ends."""
    place, body = urlsplit(url), load.body()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    streams = []
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        for _ in range(load.streams):
            at = (place.hostname, place.port)
            connection = stack.enter_context(socket.create_connection(at, timeout=10))
            streams.append(Stream(connection))
            ready.register(connection, selectors.EVENT_READ, streams[-1])
        began = time.monotonic()
        for one in streams:
            one.ask(head.encode() + body)
        _read_all(ready, began)
        return Outcome(streams, time.monotonic() - began)


def _read_all(ready: selectors.BaseSelector, began: float) -> None:
    while ready.get_map():
        assert time.monotonic() - began < PATIENCE_SECONDS, "a stream does not end"
        for key, _ in ready.select(1):
            key.data.read()
            if key.data.has_ended:
                ready.unregister(key.fileobj)


def _measure(gateway: Gateway) -> None:
    """One round: each load once."""
    url, token = gateway.server.url, gateway.token
    before = gateway.server.cpu_microseconds()[0]
    few = streamed(url, token, FEW)
    cpu = gateway.server.cpu_microseconds()[0] - before
    first = [_first_event(url, token) for _ in range(FIRST_EVENTS)]
    fast = streamed(url, token, FAST)
    gateway.server.forget_peak()
    idle, many = gateway.server.peak_mebibytes(), streamed(url, token, MANY)
    each = (gateway.server.peak_mebibytes() - idle) * 1024 / MANY.streams
    with _beside_huge(url, gateway.limited) as moments:
        beside = streamed(url, token, BESIDE)
    within = beside.delays_within(*moments)
    gateway.note(
        few_p50=percentile(few.delays, 50) * 1000,
        few_p99=percentile(few.delays, 99) * 1000,
        cpu=cpu / len(few.delays),
        first=statistics.median(first) * 1e6,
        fast=len(fast.delays) / fast.seconds,
        many_p50=percentile(many.delays, 50),
        many_p99=percentile(many.delays, 99),
        events=len(many.delays),
        kibibytes=each,
        broken=sum(one.broken for one in (few, fast, many, beside)),
        beside_p50=percentile(within, 50) * 1000,
        beside_p99=percentile(within, 99) * 1000,
        huge=moments[1] - moments[0],
    )


def _first_event(url: str, token: str) -> float:
    """Seconds from the request to the first byte of an answer that begins at once."""
    (stream,) = streamed(url, token, ONE).streams
    return stream.first_at - stream.asked_at


@contextmanager
def _beside_huge(url: str, token: str) -> Iterator[list[float]]:
    """While one body of 64 MiB is on its way; when it was sent, and when it was answered."""
    moments: list[float] = []
    body = _huge()

    def post() -> None:
        time.sleep(AHEAD_SECONDS)
        moments.append(time.monotonic())
        assert Poster(url, token).post(body) == 200
        moments.append(time.monotonic())

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield moments
    finally:
        thread.join()


@cache
def _huge() -> bytes:
    """A mebibyte of talk, again and again: as much as a body may have."""
    chat = json.loads(texts.chat("English", 1 << 20))
    chat["messages"] *= HUGE // (1 << 20) - 1
    return json.dumps(chat).encode()


def _print_tables(gateways: list[Gateway]) -> None:
    """Two: what an event is delayed by, and what many streams come to."""
    print(f"\n{table.machine()}; medians of {ROUNDS} rounds (least-most)\n")
    print(
        f"{FEW.streams} streams, an event each {FEW.gap * 1000:.0f} ms\n\n"
        "| gateway | delay of an event, p50 us | over plain | p99 us | first byte, p50 us "
        "| over plain | CPU us an event | beside 64 MiB, p50 us | over plain | p99 us "
        "| 64 MiB took s |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    base = {name: statistics.median(taken) for name, taken in gateways[0].figures.items()}
    for one in gateways:
        print(delay_line(one.name, one.figures, base))
    print(
        f"\n| gateway | events/s of {FAST.streams} streams, as fast as they come | of plain "
        f"| {MANY.streams} streams at once, p50 ms | p99 ms | KiB a stream "
        "| events of all rounds | streams that lack a byte |\n|---|---|---|---|---|---|---|---|"
    )
    for one in gateways:
        print(many_line(one.name, one.figures, base))


def delay_line(name: str, taken: dict[str, list[float]], base: dict[str, float]) -> str:
    """A row of the first table."""
    middle = {figure: statistics.median(each) for figure, each in taken.items()}
    cells = (
        name,
        spread_of(taken["few_p50"]),
        f"{middle['few_p50'] - base['few_p50']:+,.0f}",
        f"{middle['few_p99']:,.0f}",
        spread_of(taken["first"]),
        f"{middle['first'] - base['first']:+,.0f}",
        f"{middle['cpu']:,.1f}",
        spread_of(taken["beside_p50"]),
        f"{middle['beside_p50'] - base['beside_p50']:+,.0f}",
        f"{middle['beside_p99']:,.0f}",
        f"{middle['huge']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def many_line(name: str, taken: dict[str, list[float]], base: dict[str, float]) -> str:
    """A row of the second table."""
    middle = {figure: statistics.median(each) for figure, each in taken.items()}
    cells = (
        name,
        spread_of(taken["fast"]),
        f"{middle['fast'] / base['fast']:.2f}",
        f"{middle['many_p50']:.2f}",
        f"{middle['many_p99']:.2f}",
        f"{max(taken['kibibytes']):,.0f}",
        f"{sum(taken['events']):,.0f}",
        f"{sum(taken['broken']):,.0f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
