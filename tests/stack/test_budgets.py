"""Budgets: tokens a day and a month, of users and of groups, over several gateways and through
restarts (docs/policy.md, "Budgets").
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.deployment import Caller, Local, wait_ready
from tests.support.gateways import two_gateways
from tests.support.policies import write_policy
from tests.support.upstream import CHAT_ANSWER, Upstream, recording
from tests.support.waiting import wait_for, within

#: Requests that an agent of the other kind has in a minute.
A_MINUTE = 30
FAST = "AGNFTEST01"
AGENT, OTHER, USER = "AGNRTEST01", "AGNRTEST02", "USRSTEST01"
#: What one chat uses here.
EACH = 40
USAGE = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": EACH}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with recording() as one:
        one.answers["/v1/chat/completions"] = {**CHAT_ANSWER, "usage": USAGE}
        yield one


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """Budgets, and requests a minute."""

    def change(content: dict[str, Any]) -> None:
        content["roles"]["agent_reasoning"]["tokens_per_day"] = 5 * EACH
        content["roles"]["agent_fast"]["requests_per_minute"] = A_MINUTE
        content["groups"] = [
            {"name": "team", "members": [USER, "AGIATEST01"], "tokens_per_month": 3 * EACH}
        ]

    return str(write_policy(tmp_path / "policy.yaml", change))


def is_refused(caller: Caller, token: str) -> bool:
    return caller.call(token).status_code == 429


def test_a_spent_budget_is_429_that_says_not_to_try_again_over_two_gateways_and_restarts(
    upstream: Upstream, policy: str
) -> None:
    with two_gateways(upstream, POLICY_FILE=policy) as (one, second):
        callers = Caller(one), Caller(cast(Any, SimpleNamespace(gateway=second)))
        token = callers[0].token(AGENT)
        statuses = [callers[at % 2].call(token).status_code for at in range(40)]
        # Two seconds of traffic at most are beyond it.
        assert statuses.index(429) >= 5
        assert statuses.count(200) < 40
        for caller in callers:
            wait_for(partial(is_refused, caller, token), 5, "each gateway knows")
        used = len(upstream.seen)
        refused = callers[1].call(token)
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-portero-code"] == "insufficient_quota"
        assert int(refused.headers["Retry-After"]) <= 86_400
        assert callers[0].call(callers[0].token(OTHER)).status_code == 200
        assert callers[0].call(token, "/v1/models", "GET").status_code == 200
        shared_by_a_group(callers[0], callers[1])
        requests_of_a_minute_are_shared(*callers)
        # What a gateway counted within two seconds of its end is lost.
        wait_for(lambda: kept_of(one, AGENT) == used * EACH, 10, "the store has it all")
        for part in ("reconciler", "gateway", "issuer"):
            one.stop(part)
        for part in ("gateway", "issuer", "reconciler"):
            one.start(part)
        wait_ready(one)
        seen = len(upstream.seen)
        token = callers[0].token(AGENT)
        assert callers[0].call(token).status_code in (429, 503)
        wait_for(partial(is_refused, callers[0], token), 5, "it is spent still")
        assert len(upstream.seen) == seen


def kept_of(running: Local, user: str) -> int:
    """A user's tokens in the store."""
    told = running.command("usage", "--by", "user", "--format", "json").stdout
    rows = [row for row in json.loads(told)["usage"] if row["user"] == user]
    return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def shared_by_a_group(one: Caller, two: Caller) -> None:
    """What a member uses is used by all, at either gateway."""
    mine, theirs = one.token(USER), one.token("AGIATEST01")
    for caller in (one, two, one):
        assert caller.call(mine).status_code == 200
    for caller in (one, two):
        wait_for(partial(is_refused, caller, theirs), 5, "it is shared")


def requests_of_a_minute_are_shared(one: Caller, two: Caller) -> None:
    """What is asked at one gateway is missing at the other within two seconds."""
    token = one.token(FAST)
    passed = [one.call(token).status_code for _ in range(A_MINUTE + 2)]
    assert passed == [200] * A_MINUTE + [429] * 2
    told = time.monotonic()
    wait_for(partial(is_refused, two, token), 5, "the other gateway knows")
    assert time.monotonic() - told < within(4)
    refused = two.call(token)
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_budgets_with_usage_off_stop_the_start_with_one_line(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "policy.yaml",
        lambda content: content["roles"]["user"].update(tokens_per_month=1),
    )
    deployment = Local("http://127.0.0.1:1", {"USAGE": "off", "POLICY_FILE": str(path)})
    try:
        done = deployment.command("check", check=False)
    finally:
        deployment.close()
    assert done.returncode == 1
    assert "USAGE: must be on, as policy.yaml line " in done.stderr + done.stdout
