"""The promises of docs/promises.md, each provoked on the real stack and checked over its history.

Sizes that fit in `make test`; `make chaos` sets PORTERO_CHAOS=1 and runs the full ones. Every test
adds its figures to a table that is printed at the end.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.promises.recorder import KINDS
from tests.support.policies import write_policy
from tests.support.postgresql import Cluster, cluster
from tests.support.upstream import Upstream, recording

FULL = os.environ.get("PORTERO_CHAOS") == "1"
SEAL_KEY = "seal-key-of-the-tests-0123456789-abcdefgh"
FIGURES: list[tuple[str, str]] = []

Figure = Callable[[str, str], None]


def size(small: int, full: int) -> int:
    """How large a test is, by whether this is `make test` or `make chaos`."""
    return full if FULL else small


@pytest.fixture
def many_keys(tmp_path: Path) -> dict[str, str]:
    """The setting under which one user may have as many API keys as a promise takes."""

    def change(content: dict[str, Any]) -> None:
        content["roles"]["agi"]["api_keys"] = {"most": 1_000_000}

    return {"POLICY_FILE": str(write_policy(tmp_path / "policy.yaml", change))}


def of_each_kind(always: bool = False) -> pytest.MarkDecorator:
    """Tokens and API keys; `make test` asks it of keys where it is cheap, or where it must."""
    kinds = list(KINDS) if always or FULL else ["tokens"]
    return pytest.mark.parametrize("kind", kinds)


def of_each_store() -> pytest.MarkDecorator:
    """Both databases in `make chaos`; the settings come as `store`. `make test` asks the most of
    PostgreSQL in `test_postgresql.py`.
    """
    names = ["SQLite", "PostgreSQL"] if FULL else ["SQLite"]
    return pytest.mark.parametrize("store", names, indirect=True)


@pytest.fixture(scope="package")
def postgresql() -> Iterator[Cluster]:
    """One for all promises: each test finds its database empty."""
    with cluster() as running:
        yield running


@pytest.fixture
def store(request: pytest.FixtureRequest, many_keys: dict[str, str]) -> dict[str, str]:
    """The settings of a store, under which one user may have many API keys."""
    if request.param == "SQLite":
        return many_keys
    running: Cluster = request.getfixturevalue("postgresql")
    return {**many_keys, "DATABASE_URL": running.database("promises"), "SEAL_KEY": SEAL_KEY}


@pytest.fixture
def figure() -> Figure:
    """Adds a row to the table: what was done, and what was seen."""
    return lambda name, value: FIGURES.append((name, value))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A recording LLM server of the test's own."""
    with recording() as one:
        yield one


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not FIGURES:
        return
    terminalreporter.section("promises, full size" if FULL else "promises, sizes of make test")
    for name, value in FIGURES:
        terminalreporter.line(f"{name}: {value}")
