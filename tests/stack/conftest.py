"""One running deployment for all tests that do not break it, and one of their own for the rest."""

from collections.abc import Iterator

import pytest

from tests.deployment import Caller, Local, deployed
from tests.upstream import Upstream, recording


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[Upstream]:
    with recording() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def deployment(shared_upstream: Upstream) -> Iterator[Local]:
    with deployed(shared_upstream.url) as running:
        yield running


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    """The recording LLM server, with a clean record."""
    shared_upstream.forget()
    return shared_upstream


@pytest.fixture
def caller(deployment: Local) -> Caller:
    """A client of the shared deployment."""
    return Caller(deployment)


@pytest.fixture(scope="session")
def agent(deployment: Local) -> str:
    """A token of an agent that lives for the whole session (an agi's: 1800 s)."""
    return Caller(deployment).token("AGIATEST01")
