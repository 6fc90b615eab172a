"""An upgrade of the gateway under load, as local processes in a network of their own, where the
kernel may be told to hand waiting connections on (docs/upgrade.md).

    unshare --net python -m tests.support.upgrade [--without-migration]

prints what became of each request, login and stream as JSON. It must never run in the machine's own
network: it changes a setting of it.
"""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from run import processes
from run.commands import ROOT
from run.set_up import VENV
from systemd.upgrade import upgrade
from tests.support.deployment import CHAT, Caller, Local, answers, wait_ready
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

NEW_CONNECTIONS, KEPT_CONNECTIONS, STREAMS = 8, 8, 20
EVENTS, GAP_SECONDS = 120, 0.05
MIGRATION = Path("/proc/sys/net/ipv4/tcp_migrate_req")
USER = "AGIATEST01"


class House:
    """A `systemd.upgrade.Machine` of local processes. The issuer's socket is held here, as systemd
    holds it, so that who comes while it starts again waits.
    """

    def __init__(self, deployment: Local) -> None:
        self.deployment = deployment
        self.gateways: dict[int, processes.Child] = {}
        self._before: dict[int, list[int]] = {}
        self._folder = deployment.data / "gateways"
        self._folder.mkdir()
        place = urlsplit(deployment.issuer)
        self._socket = socket.create_server((place.hostname or "", place.port or 0), backlog=512)
        self._issuer: subprocess.Popen[bytes] | None = None

    def tell(self, ports: Sequence[int]) -> None:
        urls = ",".join(f"http://127.0.0.1:{port}" for port in ports)
        self.deployment.env["GATEWAY_URLS"] = urls
        self._start_issuer()
        if "reconciler" in self.deployment._children:
            self.deployment.stop("reconciler")
        self.deployment.start("reconciler")
        # As systemd waits for a service that says when it is there.
        ready = partial(answers, f"{self.deployment.issuer}/readyz", 200)
        wait_for(ready, 60, "the issuer is ready")

    def _start_issuer(self) -> None:
        self.stop_issuer()
        handed = self._socket.fileno()
        gunicorn = VENV / "bin" / "gunicorn"
        serve = f"{gunicorn} --config issuer/gunicorn.conf.py 'issuer:create_app()'"
        with (self.deployment.data / "log" / "issuer.log").open("ab") as log:
            self._issuer = subprocess.Popen(
                ["sh", "-c", f"LISTEN_FDS=1 LISTEN_PID=$$ exec {serve}"],
                cwd=ROOT,
                env=self.deployment.env,
                stdout=log,
                stderr=log,
                close_fds=False,
                preexec_fn=lambda: os.dup2(handed, 3, inheritable=True) and None,
            )

    def stop_issuer(self) -> None:
        if self._issuer:
            self._issuer.send_signal(signal.SIGTERM)
            self._issuer.wait(20)
            self._issuer = None

    def environment(self, port: int) -> dict[str, str]:
        return {
            **self.deployment.env,
            "INTERNAL_LISTEN": f"127.0.0.1:{port}",
            "GATEWAY_RUNTIME_DIR": str(self._folder / str(port)),
            "GATEWAY_SHARES_PORT": "on",
            "GATEWAY_SHUT_FILE": str(self._folder / f"{port}.shut"),
        }

    def start(self, port: int) -> None:
        service = processes.Service(f"gateway-{port}", ("sh", "openresty/gateway.sh"))
        env = self.environment(port)
        self.gateways[port] = processes.start(service, self.deployment.data, env)

    def stop(self, port: int) -> None:
        process = self.gateways.pop(port).process
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        processes.kill_group(process)

    def set_shut(self, port: int, is_shut: bool) -> None:
        path = self._folder / f"{port}.shut"
        path.touch() if is_shut else path.unlink(missing_ok=True)

    def reload(self, port: int) -> None:
        self._before[port] = self._workers(port)
        subprocess.run(
            ["sh", "openresty/gateway.sh", "reload"],
            cwd=ROOT,
            env=self.environment(port),
            check=True,
            timeout=30,
        )

    def is_ready(self, port: int) -> bool:
        return answers(f"http://127.0.0.1:{port}/readyz", 200)

    def is_drained(self, port: int) -> bool:
        return not set(self._before[port]) & set(self._workers(port))

    def _workers(self, port: int) -> list[int]:
        pid = self.gateways[port].process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def close(self) -> None:
        for port in list(self.gateways):
            self.stop(port)
        self.stop_issuer()
        self._socket.close()
        self.deployment.close()


class Load:
    """Clients until they are told to stop, and what became of what they asked."""

    #: What may become of it in an upgrade. A connection that nobody was asked on may be closed.
    WELL = ("new: answered", "kept: answered", "kept: opened anew", "stream: whole")

    def __init__(
        self,
        gateway: str,
        token: str,
        events: int = EVENTS,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.place = urlsplit(gateway)
        self._trust = trust
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._events = events
        self.longest_login = 0.0
        #: When streams ended that were whole, in Unix seconds.
        self.stream_ends: list[float] = []

    def _count(self, what: str, fault: object = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if fault is not None:
                self.faults.append(f"{what}: {fault!r}")

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.place.hostname or "", self.place.port
        if self._trust:
            return http.client.HTTPSConnection(host, port, timeout=30, context=self._trust)
        return http.client.HTTPConnection(host, port, timeout=30)

    def _ask(self, connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), self._headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def on_new_connections(self) -> None:
        while not self._stop.is_set():
            connection = self._connection()
            try:
                status = self._ask(connection)
                self._count("new: answered" if status == 200 else f"new: {status}")
            except (OSError, http.client.HTTPException) as error:
                self._count("new: failed", error)
            connection.close()

    def on_kept_connections(self) -> None:
        """As every HTTP client: a kept connection that was closed unasked is opened anew, once."""
        connection, is_used = self._connection(), False
        while not self._stop.is_set():
            try:
                status = self._ask(connection)
                self._count("kept: answered" if status == 200 else f"kept: {status}")
                is_used = True
            except (OSError, http.client.HTTPException) as error:
                self._count("kept: opened anew" if is_used else "kept: failed", error)
                connection.close()
                connection, is_used = self._connection(), False
        connection.close()

    def stream(self) -> None:
        """One stream to its end, every event of it."""
        connection = self._connection()
        try:
            body = json.dumps({**CHAT, "stream": True})
            connection.request("POST", "/v1/chat/completions", body, self._headers)
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            return self._count("stream: cut", error)
        finally:
            connection.close()
        events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
        numbers = [json.loads(event)["choices"][0]["delta"]["content"] for event in events]
        is_whole = numbers == [str(n) for n in range(self._events)] and "[DONE]" in text
        self.stream_ends.append(time.time())
        return self._count("stream: whole" if is_whole else "stream: cut", None)

    def log_in(self, deployment: Local) -> None:
        caller = Caller(deployment)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = caller.login(USER)
                status, code = answer.status_code, answer.headers.get("x-portero-code")
                self._count("login: answered" if status == 200 else f"login: {status} {code}")
            except requests.RequestException as error:
                self._count("login: failed", error)
            self.longest_login = max(self.longest_login, time.monotonic() - began)

    def begin(self, work: Callable[[], None], count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=work)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


class Watched:
    """An upgrade's machine that begins streams at the old gateway right before the new one opens.
    One of them loses its token when the old one is shut, and is cut all the same.
    """

    def __init__(self, house: House, load: Load, upstream: Upstream) -> None:
        self._house, self._load, self._upstream = house, load, upstream
        self._caller = Caller(house.deployment)
        self._token = self._caller.token("AGNRTEST01")
        self._doomed: requests.Response | None = None
        self.cut = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._house, name)

    def set_shut(self, port: int, is_shut: bool) -> None:
        if not is_shut and self._doomed is None:
            self._begin_streams()
        self._house.set_shut(port, is_shut)

    def _begin_streams(self) -> None:
        self._upstream.seen.clear()
        self._load.begin(self._load.stream, STREAMS)
        chat = {**CHAT, "stream": True}
        self._doomed = self._caller.call(self._token, body=chat, stream=True)
        wait_for(self._are_running, 20, "the streams run")

    def _are_running(self) -> bool:
        asked = list(self._upstream.seen)
        return sum(b'"stream": true' in one.body for one in asked) > STREAMS

    def is_drained(self, port: int) -> bool:
        assert self._doomed is not None
        if not self.cut:
            assert not self._house.is_drained(port), "no stream outlasted the opening"
            assert self._caller.call(self._token, "/logout").status_code == 204
            self.cut = int(b"The token was revoked" in _rest(self._doomed))
        return self._house.is_drained(port)


def _rest(answer: requests.Response) -> bytes:
    """What comes of a stream until it ends; one that is cut has no proper end."""
    received = b""
    with suppress(requests.RequestException):
        for block in answer.iter_content(None):
            received += block
    return received


def measured(upstream: Upstream, upgrades: int) -> dict[str, object]:
    """So many upgrades, one behind the other, under load."""
    deployment = Local(upstream.url, {"GATEWAY_WORKERS": "2"})
    house = House(deployment)
    load = None
    try:
        ports = [int(deployment.internal.rpartition(":")[2]), 9991]
        house.start(ports[0])
        house.tell(ports[:1])
        wait_ready(deployment)
        load = Load(deployment.gateway, Caller(deployment).token(USER))
        load.begin(load.on_new_connections, NEW_CONNECTIONS)
        load.begin(load.on_kept_connections, KEPT_CONNECTIONS)
        load.begin(partial(load.log_in, deployment), 1)
        seconds, cut = [], 0
        for _ in range(upgrades):
            began, watched = time.monotonic(), Watched(house, load, upstream)
            upgrade(watched, *ports)
            cut += watched.cut
            seconds.append(round(time.monotonic() - began, 1))
            ports.reverse()
        load.end()
        return {
            "counts": dict(load.counts),
            "faults": load.faults[:10],
            "seconds": seconds,
            "cut by a revocation": cut,
            "longest_login": round(load.longest_login, 2),
        }
    finally:
        if load:
            load.end()
        house.close()


def main(words: Sequence[str]) -> None:
    """In the network of a namespace; prints what was measured."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    MIGRATION.write_text("0\n" if "--without-migration" in words else "1\n")
    upgrades = int(next((word for word in words if word.isdigit()), "1"))
    with recording() as upstream:
        upstream.events, upstream.gap = EVENTS, GAP_SECONDS
        print(json.dumps(measured(upstream, upgrades)))


if __name__ == "__main__":
    main(sys.argv[1:])
