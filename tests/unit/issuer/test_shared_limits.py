"""Limits of a minute that gateways share: what each is told of the others, and when."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from issuer.sync.gateways import Ack, Gateway
from issuer.sync.limits import MinuteLimits, SharedLimits
from tests.support.fake_gateway import FakeGateway

KEY, OTHER = "r:USRSA", "t:USRSB"
Rows = Mapping[str, tuple[int, float]]


class Direct(Gateway):
    """A gateway without a network: what it counts a test says, what it is told is kept."""

    def __init__(self, at: int, now: Callable[[], float]) -> None:
        super().__init__(f"http://{at}", b"key")
        self._now = now
        self._ends: list[tuple[str, int, float]] = []
        self.model = FakeGateway()
        self.messages = 0
        self.is_there = True

    def _send(self, method: str, path: str, content: Any, timeout: float | None = None) -> Ack:
        self.messages += 1
        if not self.is_there:
            return Ack(self.url, ok=False)
        self.model.windows = [(key, count, end - self._now()) for key, count, end in self._ends]
        rows = [list(row) for row in content["rows"]]
        status, state = self.model.receive(method, path, {"rows": rows})
        return Ack(self.url, status == 200, status == 507, state)

    def counts(self, *windows: tuple[str, int, float]) -> None:
        """What it has counted from now on."""
        self._ends = [(key, count, self._now() + left) for key, count, left in windows]

    def told(self) -> Rows:
        """What came since the last look."""
        rows = dict(self.model.of_others)
        self.model.of_others.clear()
        return rows


class Deployment:
    """Three of them."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.each = [Direct(at, lambda: self.now) for at in range(3)]
        self.boots = ["a life"] * 3
        limits = MinuteLimits()
        self._shared = [SharedLimits(one, limits, lambda: self.now) for one in self.each]

    def share(self, *places: int) -> list[Rows]:
        """With some, or a round with all, and another a second later; what each was told."""
        for _ in range(2):
            for at in places or range(3):
                self._shared[at].share(self.boots[at])
            self.now += 1
        return [one.told() for one in self.each]


@pytest.fixture
def all_three() -> Deployment:
    return Deployment()


def test_each_is_told_what_all_others_have_counted_and_nothing_of_its_own(
    all_three: Deployment,
) -> None:
    one, two, _ = all_three.each
    one.counts((KEY, 3, 50.0), (OTHER, 7, 20.0))
    two.counts((KEY, 4, 40.0))
    told = all_three.share()
    assert [{key: row[0] for key, row in rows.items()} for rows in told] == [
        {KEY: 4},
        {KEY: 3, OTHER: 7},
        {KEY: 7, OTHER: 7},
    ]
    # It ends with the one that ends first, a second of which is over.
    assert told[2][KEY][1] == pytest.approx(40, abs=1)


def test_what_has_not_changed_is_not_told_again_but_to_another_life(all_three: Deployment) -> None:
    one, two, _ = all_three.each
    one.counts((KEY, 3, 50.0))
    all_three.share()
    one.counts((KEY, 3, 48.0))
    assert all_three.share() == [{}, {}, {}]
    one.counts((KEY, 4, 46.0))
    assert [rows[KEY][0] for rows in all_three.share()[1:]] == [4, 4]
    one.counts((KEY, 4, 44.0))
    all_three.boots[1] = "another life"
    assert [set(rows) for rows in all_three.share()] == [set(), {KEY}, set()]
    two.is_there = False
    one.counts((KEY, 5, 42.0))
    all_three.share()
    two.is_there = True
    one.counts((KEY, 5, 40.0))
    assert [set(rows) for rows in all_three.share()] == [set(), {KEY}, set()]


def test_what_a_gateway_told_stands_until_its_window_ends_whatever_became_of_it(
    all_three: Deployment,
) -> None:
    one, two, three = all_three.each
    one.counts((KEY, 3, 10.0))
    all_three.share(0)
    one.is_there = False
    two.counts((KEY, 1, 10.0))
    assert all_three.share()[2][KEY][0] == 4
    all_three.now += 10
    two.counts((KEY, 1, 50.0))
    assert all_three.share()[2][KEY][0] == 1
    assert three.messages > 0


def test_a_window_that_ends_within_two_seconds_is_not_told(all_three: Deployment) -> None:
    all_three.each[0].counts((KEY, 3, 1.9))
    assert all_three.share() == [{}, {}, {}]


def test_many_are_told_in_parts(all_three: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("issuer.sync.limits.PART_ROWS", 2)
    one, two, _ = all_three.each
    one.counts(*[(f"r:USRS{number}", 1, 50.0) for number in range(5)])
    all_three.share(0)
    all_three.share(1)
    assert two.messages == 3 + 1
    all_three.share(1)
    assert two.messages == 3 + 1 + 2
