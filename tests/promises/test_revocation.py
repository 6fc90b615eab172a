"""Revocation: at once on every worker, whoever is using the token, and never taken back (F24)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.promises.conftest import Figure, of_each_kind, of_each_store, size
from tests.promises.recorder import KINDS, Recorder
from tests.support.deployment import Caller, deployed
from tests.support.history import SERVED, Operation, check
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

CLIENTS = 16


@of_each_store()
@of_each_kind(always=True)
def test_f24_sixteen_clients_use_a_token_while_it_is_revoked_and_none_passes_after(
    upstream: Upstream, figure: Figure, store: dict[str, str], kind: str
) -> None:
    rounds = size(40 if kind == "tokens" else 10, 1000)
    with deployed(upstream.url, GATEWAY_WORKERS="4", **store) as deployment:
        recorder = KINDS[kind](deployment)
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in range(rounds):
                _one_round(recorder, clients)
    assert check(recorder.history) == []
    passed = [one for one in recorder.history if one.kind == "request" and one.status in SERVED]
    latest = max(_late(recorder.history), default=0.0)
    figure(
        f"F24 {kind}: rounds, requests passed in all, passed after the revocation answered",
        f"{rounds}, {len(passed)}, {sum(late > 0 for late in _late(recorder.history))}",
    )
    figure(
        f"F24 {kind}: last passed request began before the revocation answered by",
        f"{-latest:.4f} s",
    )


def _one_round(recorder: Recorder, clients: ThreadPoolExecutor) -> None:
    token = recorder.login()
    stop = threading.Event()
    statuses: list[int] = []

    def use() -> None:
        while not stop.is_set():
            statuses.append(recorder.use(token))

    running = [clients.submit(use) for _ in range(CLIENTS)]
    wait_for(lambda: statuses.count(200) >= CLIENTS, 10, "every client got through")
    assert recorder.revoke(token) == 204
    answered = len(statuses)
    wait_for(lambda: len(statuses) >= answered + 3 * CLIENTS, 10, "they went on asking")
    stop.set()
    for one in running:
        one.result()


def _late(history: list[Operation]) -> list[float]:
    """Per token: when its last served request began, after its revocation answered."""
    answered = {one.jti: one.ended for one in history if one.kind == "revoke"}
    return [
        max(
            one.began - ended
            for one in history
            if one.jti == jti and one.kind == "request" and one.status in SERVED
        )
        for jti, ended in answered.items()
    ]


def test_every_way_to_revoke_answers_when_the_gateways_have_acknowledged(
    upstream: Upstream,
) -> None:
    with deployed(upstream.url) as deployment:
        caller = Caller(deployment)
        ways = {
            "--user": "AGNRTEST01",
            "--role": "agent_fast",
        }
        for option, value in ways.items():
            user = value if option == "--user" else "AGNFTEST01"
            token = caller.token(user)
            assert deployment.command("revoke", option, value).returncode == 0
            assert caller.call(token).status_code == 401
        tokens = [caller.token(user) for user in ("AGNRTEST01", "AGNRTEST02", "USRSTEST01")]
        done = deployment.command("revoke", "--all")
        assert "5 unexpired tokens are revoked" in done.stdout
        assert [caller.call(token).status_code for token in tokens] == [401, 401, 401]


def test_a_revocation_that_a_gateway_has_not_acknowledged_says_which(upstream: Upstream) -> None:
    away = "http://127.0.0.1:9"
    with deployed(upstream.url) as deployment:
        deployment.env["GATEWAY_URLS"] += f",{away}"
        for part in ("issuer", "reconciler"):
            deployment.stop(part)
            deployment.start(part)
        recorder = Recorder(deployment)
        token = wait_for(recorder.login, 20, "the issuer is back")
        began = time.monotonic()
        answer = Caller(deployment).call(token, "/logout")
        assert (answer.status_code, answer.json()["pending"]) == (202, [away])
        assert time.monotonic() - began < within(1.0)
        assert recorder.use(token) == 401, "those that acknowledged refuse it already"
