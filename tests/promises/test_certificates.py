"""Certificates renewed, and the configuration reloaded, under streams and clients: no request
fails, no stream is cut, none loses or repeats an event (F4, F5 under TLS).

Clients are `wrk`, half on kept connections and half with a new one for each request; streams are
read and checked event by event.
"""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from run.commands import ROOT
from tests.promises.conftest import Figure, size
from tests.stack.test_tls import Door, behind_tls
from tests.support.deployment import Caller
from tests.support.waiting import wait_for

#: A load that outlasts all of it; it is ended before.
LOAD_SECONDS = 3600
EVENTS, GAP_SECONDS = 1_000_000, 0.25
SCRIPT = """
wrk.method = "POST"
wrk.body = '{{"model":"tiny","messages":[]}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {token}"
{more}
done = function(summary)
    local e = summary.errors
    print(summary.requests, e.connect + e.write + e.status + e.timeout, e.read)
end
"""
#: A client that leaves a pause, so that the machine is loaded and not drowned.
PAUSE = "delay = function() return {milliseconds} end"
CLOSE = 'wrk.headers["Connection"] = "close"'


@dataclass
class Streams:
    """Streams that are read to see that nothing is missing, until `over`."""

    door: Door
    token: str
    over: threading.Event = field(default_factory=threading.Event)
    events: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def read(self, number: int) -> None:
        bearer = {"Authorization": f"Bearer {self.token}"}
        body = {"model": "tiny", "messages": [], "stream": True}
        url = f"{self.door.running.gateway}/v1/chat/completions"
        try:
            with requests.post(url, json=body, headers=bearer, stream=True, timeout=30) as stream:
                self._follow(number, stream)
        except requests.RequestException as error:
            self.faults.append(f"stream {number}: {error}")

    def _follow(self, number: int, stream: requests.Response) -> None:
        if stream.status_code != 200:
            self.faults.append(f"stream {number}: {stream.status_code}")
            return
        for line in filter(None, stream.iter_lines(chunk_size=1)):
            words = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
            if int(words) != self.events[number]:
                self.faults.append(f"stream {number}: {words} behind {self.events[number]} events")
                return
            self.events[number] += 1
            if self.over.is_set():
                return
        self.faults.append(f"stream {number} was cut behind {self.events[number]} events")

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        self.events = [0] * count
        threads = [threading.Thread(target=self.read, args=(one,)) for one in range(count)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: all(self.events) or bool(self.faults), 60, "all streams have begun")
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join(60)


@contextmanager
def clients(folder: Path, url: str, token: str, count: int, more: str) -> Iterator[list[int]]:
    """`wrk`; once it has ended, how many requests were answered, how many failed, and how many
    connections ended while there was no answer.
    """
    script = folder / f"{abs(hash(more))}.lua"
    told: list[int] = []
    script.write_text(SCRIPT.format(token=token, more=more))
    command = ["wrk", "-t1", f"-c{count}", f"-d{LOAD_SECONDS}s", "--timeout", "10s"]
    run = subprocess.Popen([*command, "-s", str(script), url], stdout=subprocess.PIPE, text=True)
    try:
        yield told
    finally:
        # It sums up when it is interrupted as when its time is over.
        run.send_signal(2)
        output, _ = run.communicate(timeout=60)
    told += [int(float(word)) for word in output.splitlines()[-1].split()]


@dataclass
class Load:
    """What became of streams and clients."""

    streams: Streams
    kept: list[int]
    fresh: list[int]


@contextmanager
def under_load(folder: Path, door: Door, count: int, each: int) -> Iterator[Load]:
    door.upstream.events, door.upstream.gap = EVENTS, GAP_SECONDS
    token = Caller(door.running).token("AGIATEST01")
    url = f"{door.running.gateway}/v1/chat/completions"
    pause = PAUSE.format(milliseconds=100)
    with ExitStack() as at_end:
        streams = Streams(door, token)
        at_end.enter_context(streams.running(count))
        kept = at_end.enter_context(clients(folder, url, token, each, pause))
        fresh = at_end.enter_context(clients(folder, url, token, each, f"{pause}\n{CLOSE}"))
        yield Load(streams, kept, fresh)


def reload(door: Door) -> None:
    """New workers in the place of the old, which end once their streams have."""
    old = set(door.running.workers("gateway"))
    command = ["sh", "openresty/gateway.sh", "reload"]
    subprocess.run(command, cwd=ROOT, env=door.running.env, check=True, capture_output=True)
    wait_for(
        lambda: len(set(door.running.workers("gateway")) - old) >= 2, 20, "there are new workers"
    )


def renew(door: Door) -> None:
    """Another certificate is shown."""
    door.renew()


@pytest.mark.parametrize(
    ("what", "act", "ends_idle"), [("F4 F5 reloads", reload, True), ("renewals", renew, False)]
)
def test_what_is_new_under_tls_cuts_no_stream_and_fails_no_request(
    tmp_path: Path, figure: Figure, what: str, act: Callable[[Door], None], ends_idle: bool
) -> None:
    """A reload ends kept connections that have no request at the moment; a renewal ends none."""
    count, streams, each = size(1, 20), size(20, 100), size(8, 64)
    with behind_tls(tmp_path, TLS_REDIRECT_LISTEN="", ACME_WEBROOT="") as door:
        with under_load(tmp_path, door, streams, each) as load:
            for _ in range(count):
                act(door)
            followed = [events + 4 for events in load.streams.events]
            wait_for(
                lambda: (
                    bool(load.streams.faults)
                    or all(
                        now >= then for now, then in zip(load.streams.events, followed, strict=True)
                    )
                ),
                30,
                "all streams have gone on",
            )
        assert load.streams.faults == []
        (kept, kept_failed, kept_ended), (fresh, fresh_failed, fresh_ended) = load.kept, load.fresh
        figure(
            f"{what} under TLS, {streams} streams, {each} + {each} clients: times, events, cut; "
            "requests on kept and on new connections, failed; kept connections ended between two",
            f"{count}, {sum(load.streams.events)}, 0; {kept} and {fresh}, "
            f"{kept_failed + fresh_failed}; {kept_ended}",
        )
        assert (kept_failed, fresh_failed, fresh_ended) == (0, 0, 0)
        assert kept_ended <= each * count * ends_idle
        assert min(kept, fresh) > 50
