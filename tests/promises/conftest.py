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
from tests.support.upstream import Upstream, recording

FULL = os.environ.get("PORTERO_CHAOS") == "1"
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
