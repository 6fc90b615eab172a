"""A changed policy: soon, everywhere, whole or not at all, and never lost on its way (F28)."""

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from issuer.sync.gateways import Gateway
from tests.promises.conftest import Figure, size
from tests.promises.test_network import behind_a_link
from tests.stack.test_streams import open_stream
from tests.support.deployment import USERS, Caller, Local, deployed, wait_ready
from tests.support.gateways import two_gateways
from tests.support.policies import write_policy
from tests.support.stores import sessions_in
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

COUNTS_SECONDS = 2.0
AGENT, BYSTANDER = "AGIATEST01", "AGNRTEST01"


def write(path: Path, number: int) -> None:
    """Policies by turns. With an even number the agent may ask for model `a` and no other, with an
    odd one it may ask nothing, and `b` would be its model: so who mixes two of them says so.
    """
    is_even = number % 2 == 0

    def change(content: dict[str, Any]) -> None:
        content["roles"]["agi"].update(
            ttl_seconds=1000 + number,
            routes=["inference", "models"] if is_even else ["models"],
            models=["a"] if is_even else ["b"],
        )

    new = path.with_suffix(".new")
    write_policy(new, change)
    new.replace(path)


class Asking(threading.Thread):
    """Asks one gateway for one model, again and again, and counts what comes back."""

    def __init__(self, gateway: str, token: str, model: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.gateway, self.model, self.statuses = gateway, model, dict[int, int]()
        self._stop_asking, self._bearer = stop, {"Authorization": f"Bearer {token}"}

    def ask(self, session: requests.Session) -> int:
        url = f"{self.gateway}/v1/chat/completions"
        return session.post(
            url, json={"model": self.model}, headers=self._bearer, timeout=10
        ).status_code

    def answers(self, session: requests.Session, status: int) -> bool:
        return self.ask(session) == status

    def run(self) -> None:
        with requests.Session() as session:
            # Load, and not so much of it that the test itself is what is waited for.
            while not self._stop_asking.wait(0.004):
                status = self.ask(session)
                self.statuses[status] = self.statuses.get(status, 0) + 1


def lifetimes(deployment: Local) -> set[int]:
    """What the issuer gives."""
    secret, path = USERS[AGENT]
    url = deployment.issuer + path
    return {
        requests.post(url, auth=(AGENT, secret), timeout=10).json()["ttl_seconds"] for _ in range(4)
    }


def seconds_until_it_counts(gateways: list[str], token: str, number: int) -> float:
    """From now until both gateways go by a policy."""
    began, stop = time.monotonic(), threading.Event()
    wanted = 200 if number % 2 == 0 else 403
    with requests.Session() as session:
        for gateway in gateways:
            one = Asking(gateway, token, "a", stop)
            wait_for(partial(one.answers, session, wanted), 10, "the gateway has it")
    return time.monotonic() - began


def test_f28_changes_count_everywhere_within_two_seconds_and_no_request_sees_a_mixture(
    upstream: Upstream, figure: Figure, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    write(policy, 0)
    changes, seconds = size(20, 200), []
    with (
        two_gateways(upstream, POLICY_FILE=str(policy)) as (deployment, second),
        ExitStack() as stack,
    ):
        gateways = [deployment.gateway, second]
        caller, stop = Caller(deployment), threading.Event()
        token, other = caller.token(AGENT), caller.token(BYSTANDER)
        asking = [Asking(url, token, model, stop) for url in gateways for model in ("a", "b")]
        upstream.events, upstream.gap = 10_000, 0.05
        connection = stack.enter_context(open_stream(caller, other, "/v1/chat/completions"))
        connection.recv(4096)
        upstream.events = 1
        for one in asking:
            one.start()
        for number in range(1, changes + 1):
            write(policy, number)
            seconds.append(seconds_until_it_counts(gateways, token, number))
            # What gateways go by is in the store, where every worker finds it.
            assert lifetimes(deployment) == {1000 + number}
        stop.set()
        for one in asking:
            one.join(20)
        connection.settimeout(5)
        assert b"data:" in connection.recv(65536), "the stream goes on"
    total = sum(sum(one.statuses.values()) for one in asking)
    wrong = [one for one in asking if not set(one.statuses) <= allowed(one.model)]
    figure(
        "F28 changes of the policy, slowest counts after, requests meanwhile, wrongly judged",
        f"{changes}, {max(seconds):.2f} s, {total}, {len(wrong)}",
    )
    assert [(one.model, one.statuses) for one in wrong] == []
    assert max(seconds) < within(COUNTS_SECONDS)


def allowed(model: str) -> set[int]:
    """What one or the other policy answers; 200 for `b`, or 404 for `a`, is a mixture."""
    return {200, 403} if model == "a" else {404, 403}


def has_told(deployment: Local, part: str, faults: Sequence[str]) -> bool:
    return all(one in deployment.output(part) for one in faults)


def test_a_faulty_policy_changes_nothing_and_is_told_with_its_lines(
    upstream: Upstream, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    write(policy, 0)
    with deployed(upstream.url, POLICY_FILE=str(policy)) as deployment:
        caller = Caller(deployment)
        token = caller.token(AGENT)
        policy.write_text(
            "roles:\n"
            "  agi: {code: agia, ttl_seconds: 60, login: /agi/login, routes: [models]}\n"
            "  user: {code: USRS, ttl_seconds: 0, login: /login, routes: [page]}\n"
        )
        faults = (
            "policy.yaml line 2: roles.agi.code must be",
            "policy.yaml line 3: roles.user.ttl_seconds must be",
        )
        for part in ("issuer", "reconciler"):
            wait_for(partial(has_told, deployment, part, faults), 5, f"{part} tells")
        assert caller.call(token, body={"model": "a"}).status_code == 200
        assert lifetimes(deployment) == {1000}


class Watching(threading.Thread):
    """Notes which policies a gateway names, in order."""

    def __init__(self, deployment: Local) -> None:
        super().__init__(daemon=True)
        self.serials: list[int] = []
        self.done = threading.Event()
        self._gateway = Gateway(deployment.internal, deployment.sync_key.encode())

    def run(self) -> None:
        while not self.done.wait(0.02):
            mark = str(self._gateway.state().status.get("policy") or "")
            if mark:
                self.serials.append(int(mark.rpartition(":")[2]))


@pytest.mark.parametrize("killed", ["issuer", "reconciler", "gateway"])
def test_a_policy_that_is_durable_reaches_the_gateway_whoever_is_killed_on_the_way(
    upstream: Upstream, tmp_path: Path, killed: str
) -> None:
    policy = tmp_path / "policy.yaml"
    write(policy, 0)
    with behind_a_link(upstream, POLICY_FILE=str(policy)) as (deployment, link):
        watching = Watching(deployment)
        watching.start()
        store = sessions_in(deployment.data / "sessions.db")
        before = store.policy_serial()
        link.become("hold")
        write(policy, 1)
        wait_for(lambda: store.policy_serial() > before, 5, "the policy is durable")
        deployment.stop(killed, signal.SIGKILL)
        link.become("pass")
        deployment.start(killed)
        wait_for(
            lambda: watching.serials and watching.serials[-1] == store.policy_serial(),
            10,
            "the gateway has it",
        )
        wait_ready(deployment)
        caller = Caller(deployment)
        token = caller.token(AGENT)
        assert caller.call(token, body={"model": "a"}).status_code == 403
        assert caller.call(token, "/v1/models", method="GET").status_code == 200
        watching.done.set()
        watching.join(10)
    assert watching.serials == sorted(watching.serials)
