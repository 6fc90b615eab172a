"""The same tests through two runtimes: local processes, and containers of the compose file.

Each has one running deployment for all tests that do not break it. What breaks it asks for
`breakable`, what needs settings of its own for `anew`. What only makes sense in one of the two asks
for `local_deployment` or `containers`, and runs once. Containers of its own cost a test 20 s, so
one of each kind of setting is `in_containers_too`; the others run as local processes alone.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests import engine
from tests.support.containers import Containers, Docker, contained
from tests.support.deployment import Caller, Deployment, Local, deployed
from tests.support.upstream import Upstream, recording

RUNTIMES = {"local": "as local processes", "containers": "in containers"}
#: A comma list of those that shall run. Not set: both.
CHOICE = "PORTERO_TEST_RUNTIMES"
#: The first test in containers waits for engine, base images and builds; on a new machine they
#: come from the package registries.
SET_UP_SECONDS = 1800
EVIDENCE_CHARACTERS = 4000

#: What makes a stack for one test alone.
OWN_STACKS = {"anew", "start"}
HERE = Path(__file__).parent


def chosen_runtimes() -> list[str]:
    words = [word.strip() for word in os.environ.get(CHOICE, "").split(",") if word.strip()]
    unknown = set(words) - set(RUNTIMES)
    if unknown:
        raise pytest.UsageError(f"{CHOICE}: {', '.join(sorted(unknown))}? {' or '.join(RUNTIMES)}!")
    return words or list(RUNTIMES)


def runtime_of(item: pytest.Item) -> str:
    """The runtime a stack test runs through; empty for a test of another kind."""
    if HERE not in item.path.parents or not isinstance(item, pytest.Function):
        return ""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    only = "containers" if "docker" in item.fixturenames else "local"
    return str(parameters.get("runtime", only))


def is_for_local(item: pytest.Item) -> bool:
    """Whether this is a test with a stack of its own that need not be seen in containers too."""
    is_own = bool(OWN_STACKS & set(getattr(item, "fixturenames", ())))
    is_of_containers = runtime_of(item) == "containers"
    return is_own and is_of_containers and item.get_closest_marker("in_containers_too") is None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {"", *chosen_runtimes()}
    left_out = [item for item in items if runtime_of(item) not in wanted or is_for_local(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.user_properties.append(("runtime", runtime_of(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    through_containers = (item for item in session.items if runtime_of(item) == "containers")
    for first in list(through_containers)[:1]:
        first.add_marker(pytest.mark.timeout(SET_UP_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran: Counter[object] = Counter()
    failed: Counter[object] = Counter()
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            runtime = dict(getattr(report, "user_properties", ())).get("runtime")
            ran[runtime] += getattr(report, "when", "") == "call"
            failed[runtime] += outcome in ("failed", "error")
    terminalreporter.section("stack tests")
    for runtime, words in RUNTIMES.items():
        text = f"{ran[runtime]} ran {words}"
        if failed[runtime]:
            text += f"; {failed[runtime]} failed, or could not be set up"
        if runtime not in chosen_runtimes():
            text += f" ({CHOICE} leaves them out)"
        terminalreporter.line(text)


# What is told of a test that failed.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the gateway has written, and how the recording LLM server saw it."""
    report = yield
    if report.failed:
        for one in getattr(item, "funcargs", {}).values():
            report.sections += evidence(one)
    return report


def evidence(one: object) -> Iterator[tuple[str, str]]:
    """Titles and texts, of a fixture that has something to say."""
    if isinstance(one, Caller):
        yield "gateway", one.deployment.output("gateway")[-EVIDENCE_CHARACTERS:]
    if isinstance(one, Upstream):
        asked = [f"{seen.at:.3f} {seen.line}" for seen in one.seen]
        yield "LLM server", "\n".join([*one.faults, *asked])[-EVIDENCE_CHARACTERS:]


# The engine.


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """An engine with the images of this checkout; nothing of ours is left on it."""
    with ExitStack() as at_the_end:
        reason = ""
        try:
            prepared = at_the_end.enter_context(engine.engine())
        except engine.NoEngineError as error:
            reason = f"no containers: {error}"
        if reason:
            pytest.fail(reason, pytrace=False)
        client = Docker(prepared)
        client.build()
        yield client
        assert client.leftovers() == []
    assert not prepared.started_here or not engine.RUN.exists() or is_wanted(), "a daemon is left"


def is_wanted() -> bool:
    """Whether somebody else uses the engine that we started, or wants to keep it."""
    if engine.KEEP.exists():
        return True
    if not engine.LEASE.exists():
        return False
    with engine.LEASE.open() as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# One deployment a runtime.


@pytest.fixture(scope="session")
def local_upstream() -> Iterator[Upstream]:
    with recording() as upstream:
        yield upstream


@pytest.fixture
def seen(local_upstream: Upstream) -> Iterator[Upstream]:
    """The recording LLM server of local processes, with a clean record."""
    local_upstream.forget()
    yield local_upstream
    local_upstream.forget()


@pytest.fixture(scope="session")
def bridge_upstream(docker: Docker) -> Iterator[Upstream]:
    """On the one address of this machine that containers reach, and no other."""
    with recording(docker.bridge_address()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def shared_local(local_upstream: Upstream) -> Iterator[Local]:
    with deployed(local_upstream.url) as running:
        yield running


@pytest.fixture(scope="session")
def shared_containers(docker: Docker, bridge_upstream: Upstream) -> Iterator[Containers]:
    with contained(docker, bridge_upstream.port) as running:
        yield running


@pytest.fixture(scope="session", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Whoever depends on this runs twice."""
    return str(request.param)


@pytest.fixture(scope="session")
def shared_upstream(runtime: str, request: pytest.FixtureRequest) -> Upstream:
    name = "local_upstream" if runtime == "local" else "bridge_upstream"
    upstream: Upstream = request.getfixturevalue(name)
    return upstream


@pytest.fixture(scope="session")
def deployment(runtime: str, request: pytest.FixtureRequest) -> Deployment:
    running: Deployment = request.getfixturevalue(f"shared_{runtime}")
    return running


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Iterator[Upstream]:
    """The recording LLM server, with a clean record; the next test finds it in its usual mood."""
    shared_upstream.forget()
    yield shared_upstream
    shared_upstream.forget()


@pytest.fixture
def caller(deployment: Deployment) -> Caller:
    """A client of the shared deployment."""
    return Caller(deployment)


@pytest.fixture(scope="session")
def agent(deployment: Deployment) -> str:
    """A token of an agent that lives for the whole session (an agi's: 1800 s)."""
    return Caller(deployment).token("AGIATEST01")


# Deployments for tests that break them.


@pytest.fixture
def breakable(
    runtime: str, upstream: Upstream, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    """A ready deployment whose parts may be ended: local processes of the test's own, but the
    shared containers, which take long to start; they are mended afterwards.
    """
    if runtime == "local":
        with deployed(upstream.url) as own:
            yield own
        return
    shared: Containers = request.getfixturevalue("shared_containers")
    try:
        yield shared
    finally:
        shared.mend()


@pytest.fixture
def anew(
    runtime: str, upstream: Upstream, request: pytest.FixtureRequest
) -> Callable[..., AbstractContextManager[Deployment]]:
    """Makes a deployment with settings of its own."""
    if runtime == "local":
        return partial(deployed, upstream.url)
    return partial(contained, request.getfixturevalue("docker"), upstream.port)


@pytest.fixture
def local_deployment(local_upstream: Upstream) -> Iterator[Local]:
    """For what can only be seen of local processes: a deployment of the test's own."""
    with deployed(local_upstream.url) as own:
        yield own


@pytest.fixture
def containers(
    docker: Docker, shared_containers: Containers, bridge_upstream: Upstream
) -> Iterator[Containers]:
    """For what can only be seen of containers: the shared ones, mended afterwards."""
    bridge_upstream.forget()
    try:
        yield shared_containers
    finally:
        shared_containers.mend()
