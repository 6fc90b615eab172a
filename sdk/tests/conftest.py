"""A gateway in this process, a clock that tests set, and a source that asks both."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_portero import SECRET, USERNAME, FakePortero
from set_clock import SetClock
from tests.support.ports import free_ports

from portero import Portero, TokenSource


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own environment counts."""
    for name in ("URL", "USERNAME", "SECRET", "SECRET_FILE", "API_KEY", "CA_BUNDLE"):
        monkeypatch.delenv(f"PORTERO_{name}", raising=False)
    for name in ("LLM_BASE_URL", "LLM_USERNAME", "LLM_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, and no terminal."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path / "portero"


@pytest.fixture
def clock() -> SetClock:
    """Time goes by when a test says so, and while somebody waits."""
    return SetClock()


@pytest.fixture
def gateway(clock: SetClock) -> Iterator[FakePortero]:
    """Listens on a port of its own."""
    with FakePortero(clock.now) as running:
        yield running


@pytest.fixture
def free_url() -> str:
    """Nobody listens there."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def new_source(gateway: FakePortero, clock: SetClock) -> Callable[..., TokenSource]:
    """Makes sources of the one user that this gateway knows."""

    def make(**options: Any) -> TokenSource:
        given = {"username": USERNAME, "secret": SECRET, **options}
        return TokenSource(gateway.url, clock=clock, **given)

    return make


@pytest.fixture
def source(new_source: Callable[..., TokenSource]) -> TokenSource:
    """One of them."""
    return new_source()


@pytest.fixture
def client(source: TokenSource) -> Iterator[Portero]:
    """A client that asks with it."""
    with Portero(source) as one:
        yield one
