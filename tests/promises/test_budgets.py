"""A budget over two gateways under load stops within its stated overshoot, and after a restart of
everything it still does (docs/policy.md, "Budgets").
"""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from tests.promises.conftest import Figure, size
from tests.stack.test_budgets import kept_of
from tests.support.deployment import CHAT, Caller, Local, answers, deployed, wait_ready
from tests.support.gateways import Second, push_to, second_gateway
from tests.support.policies import write_policy
from tests.support.upstream import CHAT_ANSWER, Upstream
from tests.support.waiting import wait_for, within

USER = "AGIATEST01"
CLIENTS = 8
#: What one chat uses.
EACH = 40
USAGE = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": EACH}
#: What is used within so long may go beyond a budget, and what a loaded machine adds to that.
OVERSHOOT_SECONDS, LATE_SECONDS = 2.0, 1.0
#: How long clients go on asking after all that could be overshot.
BEHIND_SECONDS = 2.0
STATED_SECONDS = OVERSHOOT_SECONDS + LATE_SECONDS


@dataclass(frozen=True)
class Asked:
    """One request, by the clock of the clients."""

    began: float
    ended: float
    status: int
    code: str


def ask_until(gateway: str, token: str, stop: threading.Event) -> list[Asked]:
    """One client: one request behind the other."""
    asked = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        while not stop.is_set():
            began = time.monotonic()
            answer = session.post(f"{gateway}/v1/chat/completions", json=CHAT, timeout=20)
            code = answer.headers.get("x-portero-code", "")
            asked.append(Asked(began, time.monotonic(), answer.status_code, code))
    return asked


@contextmanager
def both_gateways(upstream: Upstream, policy: Path) -> Iterator[tuple[Local, Second]]:
    with deployed(upstream.url, POLICY_FILE=str(policy)) as one, second_gateway(one) as second:
        push_to(one, second.url, second.internal)
        yield one, second


def spend_all(gateways: list[str], token: str, upstream: Upstream, most: int) -> list[Asked]:
    """Have all clients ask until the budget is spent and for long enough behind that; what they
    saw, in the order in which it ended.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            pool.submit(ask_until, gateway, token, stop)
            for _, gateway in zip(range(CLIENTS), itertools.cycle(gateways), strict=False)
        ]
        try:
            wait_for(lambda: len(upstream.seen) * EACH >= most, 600, "the budget is spent")
            behind = time.monotonic() + within(STATED_SECONDS) + BEHIND_SECONDS
            wait_for(lambda: time.monotonic() >= behind, 60, "nothing may pass any more")
        finally:
            stop.set()
        asked = [one for client in clients for one in client.result()]
    return sorted(asked, key=lambda one: one.ended)


def restart_all(one: Local, second: Second) -> None:
    for part in ("reconciler", "gateway", "issuer"):
        one.stop(part)
    second.stop()
    for part in ("gateway", "issuer", "reconciler"):
        one.start(part)
    second.start()
    wait_ready(one)
    wait_for(lambda: answers(f"{second.url}/readyz", 200), 20, "the second gateway is ready")


def is_spent(gateway: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.post(f"{gateway}/v1/chat/completions", json=CHAT, headers=headers, timeout=20)
    return answer.headers.get("x-portero-code") == "insufficient_quota"


def test_a_budget_stops_two_gateways_under_load_within_its_overshoot_and_after_a_restart(
    upstream: Upstream, tmp_path: Path, figure: Figure
) -> None:
    most = size(20_000, 100_000)

    def change(content: dict[str, Any]) -> None:
        content["roles"]["agi"]["tokens_per_day"] = most

    upstream.answers["/v1/chat/completions"] = {**CHAT_ANSWER, "usage": USAGE}
    policy = write_policy(tmp_path / "policy.yaml", change)
    with both_gateways(upstream, policy) as (one, second):
        gateways = [one.gateway, second.url]
        caller = Caller(one)
        asked = spend_all(gateways, caller.token(USER), upstream, most)
        passed = [it for it in asked if it.status == 200]
        refused = [it for it in asked if it.status != 200]
        assert {(it.status, it.code) for it in refused} == {(429, "insufficient_quota")}
        # Nobody is refused before it is spent.
        assert sum(it.began < refused[0].ended for it in passed) * EACH >= most
        spent_at = passed[most // EACH - 1].ended
        late = passed[-1].ended - spent_at
        assert late <= within(STATED_SECONDS)
        used = len(passed) * EACH
        assert used == len(upstream.seen) * EACH
        wait_for(lambda: kept_of(one, USER) == used, 20, "the store has it all")
        restart_all(one, second)
        token, seen = caller.token(USER), len(upstream.seen)
        for gateway in gateways:
            wait_for(partial(is_spent, gateway, token), 10, "it stays spent")
        assert len(upstream.seen) == seen
    figure(
        f"a budget of {most:,} tokens over two gateways, {CLIENTS} clients",
        f"{used - most:,} tokens beyond it, the last of them after {max(late, 0):.2f} s;"
        f" after a restart of everything 0",
    )
