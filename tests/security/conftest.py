"""One deployment an algorithm for all tests that ask it something; figures for the end."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.security.forger import ALGORITHMS
from tests.security.house import House
from tests.security.house import house as running_house
from tests.security.stand import Stand, Trap, stand
from tests.support.upstream import Upstream, recording

#: How many mutated tokens, and bodies; not set: the size of `make test`.
WANTED = os.environ.get("PORTERO_FUZZ", "")
FIGURES: list[str] = []

Figure = Callable[[str], None]


def size(usual: int) -> int:
    """How large a test is: `usual` in `make test`, PORTERO_FUZZ in `make fuzz`."""
    return int(WANTED) if WANTED else usual


def seed() -> int:
    """PORTERO_FUZZ_SEED; else the same in every `make test`, and a new one in every `make fuzz`."""
    given = os.environ.get("PORTERO_FUZZ_SEED")
    if given:
        return int(given)
    return secrets.randbits(32) if WANTED else 5


SEED = seed()


@pytest.fixture(scope="session")
def figure() -> Figure:
    """Adds a line to what is printed at the end."""
    return FIGURES.append


@pytest.fixture(scope="session")
def recorded() -> Iterator[Upstream]:
    with recording() as upstream:
        yield upstream


@pytest.fixture
def upstream(recorded: Upstream) -> Upstream:
    """The recording LLM server, with a clean record."""
    recorded.forget()
    return recorded


@pytest.fixture(scope="session")
def shared_house(recorded: Upstream) -> Iterator[House]:
    with running_house(recorded) as running:
        yield running


@pytest.fixture
def house(shared_house: House, upstream: Upstream) -> House:
    """The one deployment of all that sends no tokens; its LLM server has a clean record."""
    return shared_house


@pytest.fixture(scope="session")
def trap() -> Iterator[Trap]:
    """A listener that no token may bring anybody to."""
    listener = Trap()
    try:
        yield listener
    finally:
        listener.close()


@dataclass
class Stands:
    """The stand of one algorithm at a time: six deployments at once are too many."""

    upstream: Upstream
    trap: Trap
    _open: ExitStack = field(default_factory=ExitStack)
    _stand: Stand | None = None

    def of(self, algorithm: str) -> Stand:
        """The one that runs, or another in its place."""
        if self._stand is None or self._stand.algorithm != algorithm:
            self.close()
            self._stand = self._open.enter_context(stand(algorithm, self.upstream, self.trap.url))
        return self._stand

    def close(self) -> None:
        """End what runs."""
        self._stand = None
        self._open.close()


@pytest.fixture(scope="session")
def stands(recorded: Upstream, trap: Trap) -> Iterator[Stands]:
    made = Stands(recorded, trap)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def verifiers(algorithm: str, stands: Stands) -> Stand:
    """All four verifiers of a deployment of the algorithm that the test is parametrised by."""
    return stands.of(algorithm)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One deployment after another, not six at a time and each twice."""

    def place(item: pytest.Item) -> int:
        callspec = getattr(item, "callspec", None)
        wanted = callspec.params.get("algorithm") if callspec else None
        return ALGORITHMS.index(wanted) if wanted in ALGORITHMS else -1

    ours = [at for at, item in enumerate(items) if "verifiers" in getattr(item, "fixturenames", ())]
    ordered = sorted((items[at] for at in ours), key=place)
    for at, item in zip(ours, ordered, strict=True):
        items[at] = item


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not FIGURES:
        return
    terminalreporter.section(f"mutations, seed {SEED}")
    for line in FIGURES:
        terminalreporter.line(line)
