"""Batches: what comes together is committed together, and nobody is answered before both steps."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from issuer.sync import batches
from issuer.sync.batches import Batches
from tests.conftest import wait_until


class Steps:
    """Both steps of a batch, each of which goes on when the test says so."""

    def __init__(self) -> None:
        self.committed: list[list[int]] = []
        self.told: list[list[int]] = []
        self.commit_goes_on = threading.Semaphore(0)
        self.tell_goes_on = threading.Semaphore(0)

    def commit(self, items: Sequence[int]) -> Sequence[int]:
        self.committed.append(list(items))
        assert self.commit_goes_on.acquire(timeout=20)
        if -1 in items:
            raise KeyError("no commit")
        return [item * 10 for item in items]

    def tell(self, committed: Sequence[int]) -> Sequence[str]:
        self.told.append(list(committed))
        assert self.tell_goes_on.acquire(timeout=20)
        if 130 in committed:
            raise LookupError("nobody hears")
        return [str(one) for one in committed]


class Crowd:
    """Callers in threads of their own."""

    def __init__(self, steps: Steps, pool: ThreadPoolExecutor) -> None:
        self.steps = steps
        self.batches: Batches[int, int, str] = Batches(steps.commit, steps.tell)
        self._pool = pool

    def come(self, *items: int) -> "list[Future[str]]":
        """One after the other, so that their order is known."""
        found = []
        for item in items:
            waiting = len(self.batches._waiting)
            commits = len(self.steps.committed)
            found.append(self._pool.submit(self.batches.do, item))
            wait_until(lambda: self._is_in(waiting, commits), "it is in")  # noqa: B023
        return found

    def _is_in(self, waiting: int, commits: int) -> bool:
        return len(self.batches._waiting) > waiting or len(self.steps.committed) > commits


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def crowd(steps: Steps) -> Iterator[Crowd]:
    with ThreadPoolExecutor(16) as pool:
        yield Crowd(steps, pool)
        steps.commit_goes_on.release(100)
        steps.tell_goes_on.release(100)


def results(asked: "list[Future[str]]") -> list[str]:
    return [one.result(20) for one in asked]


def test_one_alone_is_committed_and_told_at_once(crowd: Crowd, steps: Steps) -> None:
    (one,) = crowd.come(1)
    steps.commit_goes_on.release()
    steps.tell_goes_on.release()
    assert one.result(20) == "10"


def test_those_who_come_while_one_commits_are_one_batch_and_each_has_its_own_answer(
    crowd: Crowd, steps: Steps
) -> None:
    first = crowd.come(1)
    others = crowd.come(2, 3, 4)
    assert steps.committed == [[1]]
    steps.commit_goes_on.release(2)
    steps.tell_goes_on.release(2)
    assert results(first + others) == ["10", "20", "30", "40"]
    assert steps.committed == [[1], [2, 3, 4]]


def test_nobody_is_answered_before_the_batch_was_told(crowd: Crowd, steps: Steps) -> None:
    asked = crowd.come(1)
    steps.commit_goes_on.release()
    wait_until(lambda: steps.told == [[10]], "it is committed")
    assert not asked[0].done()
    steps.tell_goes_on.release()
    assert results(asked) == ["10"]


def test_a_batch_that_hangs_while_it_is_told_holds_up_no_other(crowd: Crowd, steps: Steps) -> None:
    hanging = crowd.come(1)
    steps.commit_goes_on.release()
    wait_until(lambda: steps.told == [[10]], "it is being told")
    later = crowd.come(2)
    steps.commit_goes_on.release()
    wait_until(lambda: steps.told == [[10], [20]], "so is the next")
    assert not hanging[0].done()
    steps.tell_goes_on.release(2)
    assert results(hanging + later) == ["10", "20"]


def test_what_comes_while_a_batch_is_told_gathers_for_a_moment(
    crowd: Crowd, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 20)
    first = crowd.come(1)
    steps.commit_goes_on.release()
    wait_until(lambda: steps.told == [[10]], "it is being told")
    others = crowd.come(2, 3)
    assert steps.committed == [[1]]
    steps.commit_goes_on.release()
    steps.tell_goes_on.release(2)
    assert results(first + others) == ["10", "20", "30"]
    assert steps.committed == [[1], [2, 3]]


@pytest.mark.parametrize(("spoils", "error"), [(-1, KeyError), (13, LookupError)])
def test_a_step_that_fails_fails_for_its_batch_alone(
    crowd: Crowd, steps: Steps, spoils: int, error: type[Exception]
) -> None:
    first = crowd.come(1)
    spoilt = crowd.come(2, spoils)
    steps.commit_goes_on.release(10)
    steps.tell_goes_on.release(10)
    assert results(first) == ["10"]
    for one in spoilt:
        with pytest.raises(error):
            one.result(20)
    assert results(crowd.come(5)) == ["50"]


def test_many_threads_lose_nothing() -> None:
    committed: list[int] = []

    def commit(items: Sequence[int]) -> Sequence[int]:
        committed.extend(items)
        return items

    shared: Batches[int, int, int] = Batches(commit, lambda items: [-item for item in items])
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(shared.do, range(3_000)))
    assert found == [-item for item in range(3_000)]
    assert sorted(committed) == list(range(3_000))
