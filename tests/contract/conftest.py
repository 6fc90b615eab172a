"""Every kind of store there is, for the suites that hold all of them to the same promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgresql import Cluster, cluster


@pytest.fixture(scope="package")
def postgresql() -> Iterator[Cluster]:
    """One for all suites: each test finds its database empty."""
    with cluster() as running:
        yield running


@pytest.fixture(params=("sqlite", "postgresql"))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is, of each kind in turn."""
    if request.param == "postgresql":
        running: Cluster = request.getfixturevalue("postgresql")
        return running.database("one")
    return f"sqlite:///{tmp_path}/sessions.db"
