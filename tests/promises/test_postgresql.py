"""Two issuers on one PostgreSQL, each part killed in its turn, the database's primary among them:
what was acknowledged is never lost, and what was revoked never comes back (F11, F19).
"""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from run import processes
from tests.promises.conftest import SEAL_KEY, Figure, size
from tests.promises.recorder import Recorder
from tests.support.deployment import Caller, Local, answers, deployed, wait_ready
from tests.support.history import SERVED, check
from tests.support.ports import free_ports
from tests.support.postgresql import cluster, replicated
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

CLIENTS = 4
#: After a kill or a failover logins go on within so long, on a loaded machine.
BACK_SECONDS = 90


@dataclass
class SecondIssuer:
    """Another issuer and its reconciler, on the same database."""

    deployment: Local
    folder: Path
    url: str
    _children: dict[str, processes.Child] = field(default_factory=dict)

    def start(self, part: str) -> None:
        env = {**self.deployment.env, "ISSUER_LISTEN": self.url.removeprefix("http://")}
        service = self.deployment.service(part)
        self._children[part] = processes.start(service, self.folder, env)

    def stop(self, part: str, how: signal.Signals = signal.SIGTERM) -> None:
        child = self._children.pop(part)
        child.process.send_signal(how)
        child.process.wait(15)
        processes.kill_group(child.process)

    def close(self) -> None:
        for part in list(self._children):
            self.stop(part)


@contextmanager
def second_issuer(deployment: Local, folder: Path) -> Iterator[SecondIssuer]:
    (port,) = free_ports(1)
    for name in ("run", "log"):
        (folder / name).mkdir()
    second = SecondIssuer(deployment, folder, f"http://127.0.0.1:{port}")
    try:
        for part in ("issuer", "reconciler"):
            second.start(part)
        wait_for(partial(answers, f"{second.url}/readyz", 200), BACK_SECONDS, "it serves")
        yield second
    finally:
        second.close()


@dataclass
class Load:
    """Clients who log in at either issuer, use, and revoke some, all in one history."""

    recorders: list[Recorder]
    tokens: list[tuple[Recorder, str]] = field(default_factory=list)
    revoked: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        clients = [
            threading.Thread(target=self._work, args=(self.recorders[at % 2], random.Random(at)))
            for at in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            self._stop.set()
            for client in clients:
                client.join()

    def _work(self, recorder: Recorder, dice: random.Random) -> None:
        while not self._stop.is_set():
            token = recorder.login()
            if not token:
                self._stop.wait(0.05)
                continue
            self.tokens.append((recorder, token))
            recorder.use(token)
            if dice.random() < 0.2 and recorder.revoke(token) in SERVED:
                self.revoked += 1

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.tokens) + count
        wait_for(lambda: len(self.tokens) >= wanted, BACK_SECONDS, "logins go on")

    def violations(self) -> list[str]:
        """Every token that was acknowledged is used once more, then all is judged."""
        for recorder, token in self.tokens:
            recorder.use(token)
        return check([one for recorder in self.recorders for one in recorder.history])


@dataclass
class Elsewhere:
    """The deployment, with the issuer of another address: what a recorder asks."""

    deployment: Local
    issuer: str

    @property
    def gateway(self) -> str:
        return self.deployment.gateway


@contextmanager
def two_issuers(
    upstream: Upstream, url: str, folder: Path
) -> Iterator[tuple[Local, SecondIssuer, Load]]:
    with (
        deployed(upstream.url, DATABASE_URL=url, SEAL_KEY=SEAL_KEY) as deployment,
        second_issuer(deployment, folder) as second,
    ):
        elsewhere = Elsewhere(deployment, second.url)
        recorders = [Recorder(deployment), Recorder(elsewhere)]  # type: ignore[arg-type]
        yield deployment, second, Load(recorders)


def test_f11_with_two_issuers_and_each_part_killed_no_acknowledged_token_is_lost(
    upstream: Upstream, figure: Figure, tmp_path: Path
) -> None:
    logins, rounds = size(60, 10_000), size(1, 40)
    with (
        replicated() as (primary, standby),
        two_issuers(upstream, primary.url_with(standby, "portero"), tmp_path) as of,
    ):
        deployment, second, load = of

        def killed(part: str, where: Local | SecondIssuer) -> Callable[[], None]:
            def kill() -> None:
                where.stop(part, signal.SIGKILL)
                where.start(part)

            return kill

        def crash() -> None:
            primary.stop("immediate")
            primary.start()

        kills = [
            *(killed(part, deployment) for part in ("issuer", "reconciler", "gateway")),
            *(killed(part, second) for part in ("issuer", "reconciler")),
            crash,
        ]
        each = max(1, logins // (rounds * len(kills) + 1))
        with load.running():
            for kill in kills * rounds:
                load.wait_for_more(each)
                kill()
            load.wait_for_more(each)
            # For good: the standby is the database from here on.
            primary.stop("immediate")
            standby.promote()
            load.wait_for_more(each)
        wait_ready(deployment, BACK_SECONDS)
        assert load.violations() == []
        assert load.revoked > 0
        figure(
            "F11 PostgreSQL, two issuers: acknowledged, revoked, kills and a failover, violations",
            f"{len(load.tokens)}, {load.revoked}, {len(kills) * rounds}, 0",
        )


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small disk")
def test_f19_where_the_databases_disk_is_full_nothing_acknowledged_is_lost_and_room_heals_it(
    upstream: Upstream, figure: Figure
) -> None:
    with (
        cluster(most_megabytes=150) as database,
        deployed(
            upstream.url, DATABASE_URL=database.database("portero"), SEAL_KEY=SEAL_KEY
        ) as deployment,
    ):
        recorder = Recorder(deployment)
        kept, doomed = recorder.login(), recorder.login()
        assert recorder.revoke(doomed) in SERVED
        fill(database.folder / "filler")
        granted = []

        def is_refused() -> bool:
            token = recorder.login()
            if token:
                granted.append(token)
            return not token

        wait_for(is_refused, BACK_SECONDS, "there is no room for another login")
        assert (recorder.use(kept), recorder.use(doomed)) == (200, 401)
        assert Caller(deployment).login("AGNRTEST01").status_code == 503
        (database.folder / "filler").unlink()
        wait_for(recorder.login, BACK_SECONDS, "there is room")
        assert {recorder.use(token) for token in granted} <= {200}
        assert recorder.use(doomed) == 401
        assert check(recorder.history) == []
        figure("F19 PostgreSQL: logins granted until its disk was full, lost", f"{len(granted)}, 0")
