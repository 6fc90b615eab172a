"""The gateway restarted, and its workers killed: no active token is lost (F8, F9)."""

import os
import re
import signal
import threading
import time

import requests

from tests.promises.conftest import FULL, Figure, of_each_kind, size
from tests.promises.recorder import KINDS
from tests.promises.stores import fill, fill_keys, mint
from tests.support.deployment import Caller, deployed
from tests.support.history import check
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

SAMPLE = 200


def test_f9_a_restarted_gateway_is_full_again_before_it_says_anything_else_than_503(
    upstream: Upstream, figure: Figure
) -> None:
    counts = (10_000, 100_000, 1_000_000) if FULL else (10_000,)
    with deployed(upstream.url) as deployment:
        Caller(deployment).token("AGIATEST01")
        for count in counts:
            deployment.stop("reconciler")
            claims = fill(deployment, count, revoked=100)
            deployment.start("reconciler")
            alive = [mint(deployment, one) for one in claims[: -100 : max(1, count // SAMPLE)]]
            revoked = [mint(deployment, one) for one in claims[-100:]]
            deployment.stop("gateway")
            deployment.start("gateway")
            before, seconds = _until_served(deployment.gateway, alive[-1])
            assert set(before) <= {503}, before
            caller = Caller(deployment)
            assert {caller.call(token).status_code for token in alive} == {200}
            assert {caller.call(token).status_code for token in revoked} == {401}
            figure(
                f"F9 gateway restarted with {count} more active tokens: all valid after",
                f"{seconds:.2f} s of the port answering; before only {sorted(set(before))}",
            )
            if count == 10_000:
                assert seconds < within(1.0)


def test_f9_a_restarted_gateway_has_its_api_keys_again(upstream: Upstream, figure: Figure) -> None:
    count = size(5_000, 100_000)
    with deployed(upstream.url) as deployment:
        caller = Caller(deployment)
        free = _metric(deployment.internal, "portero_api_keys_free_bytes")
        deployment.stop("reconciler")
        keys = fill_keys(deployment, count, revoked=100)
        deployment.stop("gateway")
        deployment.start("gateway")
        deployment.start("reconciler")
        alive, revoked = keys[: -100 : max(1, count // SAMPLE)], keys[-100:]
        before, seconds = _until_served(deployment.gateway, alive[-1])
        assert set(before) <= {503}, before
        assert {caller.call(key).status_code for key in alive} == {200}
        assert {caller.call(key).status_code for key in revoked} == {401}
        used = free - _metric(deployment.internal, "portero_api_keys_free_bytes")
        figure(
            f"F9 gateway restarted with {count} API keys: all valid after; memory a key",
            f"{seconds:.2f} s of the port answering; {used / (count - 100):.0f} bytes, "
            "and one entry among the active tokens",
        )


def _metric(internal: str, name: str) -> float:
    text = requests.get(f"{internal}/metrics", timeout=20).text
    found = re.search(rf"(?m)^{name} (\S+)$", text)
    assert found
    return float(found[1])


def _until_served(gateway: str, token: str) -> tuple[list[int], float]:
    """The statuses before the first 200, and the seconds from the first answer to it."""
    statuses: list[int] = []
    first = 0.0
    bearer = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            status = requests.get(f"{gateway}/v1/models", headers=bearer, timeout=20).status_code
        except requests.RequestException:
            continue
        first = first or time.monotonic()
        if status == 200:
            return statuses, time.monotonic() - first
        statuses.append(status)
    raise AssertionError(f"never served: {statuses[-5:]}")


@of_each_kind()
def test_f8_workers_killed_one_after_another_lose_no_active_token(
    upstream: Upstream, figure: Figure, many_keys: dict[str, str], kind: str
) -> None:
    kills = size(5, 30)
    with deployed(upstream.url, GATEWAY_WORKERS="4", **many_keys) as deployment:
        recorder = KINDS[kind](deployment)
        tokens = [recorder.login() for _ in range(8)]
        gone = tokens.pop()
        assert recorder.revoke(gone) == 204
        stop = threading.Event()

        def use(token: str) -> None:
            while not stop.is_set():
                recorder.use(token)

        clients = [threading.Thread(target=use, args=(token,)) for token in [*tokens, gone]]
        for client in clients:
            client.start()
        for _ in range(kills):
            _kill_a_worker(deployment.workers("gateway"), lambda: deployment.workers("gateway"))
        stop.set()
        for client in clients:
            client.join()
        assert [recorder.use(token) for token in tokens] == [200] * len(tokens)
    assert check(recorder.history) == []
    broken = sum(one.status == 0 for one in recorder.history)
    figure(
        f"F8 {kind}: worker kills, requests, of them broken in flight, active tokens lost",
        f"{kills}, {len(recorder.history)}, {broken}, 0",
    )


def _kill_a_worker(workers: list[int], now: "object") -> None:
    victim = workers[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: victim not in now() and len(now()) == len(workers),  # type: ignore[operator]
        10,
        "another worker has taken its place",
    )
