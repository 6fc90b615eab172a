"""A deployment for the clients: one with limits, and an LLM server that speaks every API."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.clients import answers
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream

#: A client may rely on a second less, as a token's time of issue is a floored one.
BRIEF_SECONDS = 2


def limit(content: dict[str, Any]) -> None:
    """One role that is soon over its limit, one whose bodies are read and counted, and one user who
    may ask for one thing at a time.
    """
    content["roles"]["agent_fast"].update(requests_per_minute=1)
    content["roles"]["agent_reasoning"].update(models=["tiny"], tokens_per_minute=1_000_000)
    content["users"]["AGNRTEST02"] = {"concurrent_requests": 1}


@pytest.fixture(scope="package")
def running(local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The deployment that all clients ask."""
    roles = write_policy(tmp_path_factory.mktemp("roles") / "policy.yaml", limit)
    with deployed(local_upstream.url, POLICY_FILE=str(roles)) as one:
        yield one


@pytest.fixture(scope="package")
def brief(local_upstream: Upstream) -> Iterator[Local]:
    """One whose tokens end soon."""
    with deployed(local_upstream.url, TOKEN_TTL_SECONDS=str(BRIEF_SECONDS)) as one:
        yield one


@pytest.fixture(autouse=True)
def said(local_upstream: Upstream) -> Iterator[Upstream]:
    """The LLM server, which answers in every API."""
    local_upstream.forget()
    local_upstream.answers.update(answers.everything())
    yield local_upstream
    local_upstream.forget()


@pytest.fixture
def token(running: Local) -> str:
    """Of a caller whose models and tokens are limited: what costs most must work with all."""
    return Caller(running).token("AGNRTEST01")
