"""Turns at bcrypt: few at once, few waiting, and no address that keeps another out."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from issuer.errors import TooManyLogins
from issuer.users.turns import Turns, network_of
from tests.conftest import wait_until


class Queue:
    """A queue whose turns end when the test says so; one comes after the other."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._turns = Turns(at_once, waiting)
        self._go_on = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        #: Who has had a turn, in order, and who was turned away.
        self.served: list[str] = []
        self.refused: list[str] = []

    def come(self, *names: str) -> None:
        """Each from the address before its colon; when this returns all wait, or are served."""
        for name in names:
            thread = threading.Thread(target=self._wait, args=(name,))
            self._threads.append(thread)
            before = self._settled()
            thread.start()
            wait_until(partial(self._has_settled, before + 1), f"{name} is in")

    def go_on(self, count: int = 1) -> None:
        """End so many turns."""
        for _ in range(count):
            wanted = len(self.served) + bool(self._waiting())
            self._go_on.release()
            wait_until(partial(self._has_served, wanted), "the next turn")

    def end(self) -> None:
        """Let all go."""
        self._go_on.release(100)
        for thread in self._threads:
            thread.join(20)

    def _waiting(self) -> int:
        return sum(map(len, self._turns._lines.values()))

    def _settled(self) -> int:
        return len(self.served) + len(self.refused) + self._waiting()

    def _has_settled(self, count: int) -> bool:
        return self._settled() >= count

    def _has_served(self, count: int) -> bool:
        return len(self.served) >= count

    def _wait(self, name: str) -> None:
        try:
            with self._turns.turn(name.partition(":")[0]):
                self.served.append(name)
                assert self._go_on.acquire(timeout=20)
        except TooManyLogins:
            self.refused.append(name)


Make = Callable[[int, int], Queue]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Make:
    def made(at_once: int, waiting: int) -> Queue:
        queue = Queue(at_once, waiting)
        request.addfinalizer(queue.end)
        return queue

    return made


def test_p6_no_more_than_so_many_have_a_turn_and_no_more_than_so_many_wait(make: Make) -> None:
    queue = make(2, 3)
    queue.come("a:1", "b:1", "a:2", "b:2", "c:1")
    assert queue.served == ["a:1", "b:1"]
    assert queue.refused == []
    queue.come("a:3")
    assert queue.refused == ["a:3"]
    queue.go_on()
    assert len(queue.served) == 3


def test_addresses_have_their_turns_one_after_the_other(make: Make) -> None:
    queue = make(1, 10)
    queue.come("a:1", "a:2", "a:3", "a:4", "b:1", "c:1", "b:2")
    queue.go_on(6)
    assert queue.served == ["a:1", "a:2", "b:1", "c:1", "a:3", "b:2", "a:4"]


def test_an_address_cannot_fill_the_queue(make: Make) -> None:
    queue = make(1, 4)
    queue.come("a:0", "a:1", "a:2", "a:3", "a:4")
    queue.come("a:5")
    assert queue.refused == ["a:5"], "alone it may wait as often as there are places"
    queue.come("b:1")
    assert queue.refused[1:] == ["a:4"], "its last gives way to another address"
    queue.go_on(2)
    assert queue.served == ["a:0", "a:1", "b:1"]


def test_who_would_have_as_many_waiting_takes_no_place(make: Make) -> None:
    queue = make(1, 2)
    queue.come("a:0", "a:1", "b:1")
    queue.come("a:2", "b:2", "c:1")
    assert queue.refused == ["a:2", "b:2", "c:1"]


def test_without_places_nobody_waits(make: Make) -> None:
    queue = make(1, 0)
    queue.come("a:1", "b:1")
    assert (queue.served, queue.refused) == (["a:1"], ["b:1"])


def test_a_turn_that_fails_is_given_back() -> None:
    turns = Turns(1, 0)
    for _ in range(3):
        with pytest.raises(KeyError), turns.turn("a"):
            raise KeyError
    with turns.turn("a"):
        pass


@pytest.mark.parametrize(
    ("addresses", "network"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], "2001:db8:1:2::/64"),
        (["::1", "::2"], "::/64"),
        (["192.0.2.7", "::ffff:192.0.2.7"], "192.0.2.7"),
        (["unix:", "unix:"], "unix:"),
        ([""], ""),
    ],
)
def test_a_client_is_its_address_or_the_network_it_has(
    addresses: Sequence[str], network: str
) -> None:
    assert {network_of(one) for one in addresses} == {network}
