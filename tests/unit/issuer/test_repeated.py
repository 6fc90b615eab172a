"""Work that is done again and again."""

import threading
from collections.abc import Callable

import pytest

from issuer.errors import StoreUnavailable
from issuer.repeated import repeat
from tests.conftest import wait_until


def running(work: Callable[[], object]) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=repeat, args=(work, 0.01, stop))
    thread.start()
    return thread, stop


def test_work_is_repeated_until_it_is_told_to_stop() -> None:
    done: list[int] = []
    thread, stop = running(lambda: done.append(1))
    wait_until(lambda: len(done) > 2, "the third time")
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("mishap", "told"),
    [
        (ZeroDivisionError(), "unexpected; trying again"),
        (StoreUnavailable("no store"), "no store; trying again"),
    ],
)
def test_it_goes_on_after_a_mishap(
    mishap: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    mishaps, done = [mishap], threading.Event()

    def work() -> None:
        if mishaps:
            raise mishaps.pop()
        done.set()

    thread, stop = running(work)
    try:
        assert done.wait(20)
    finally:
        stop.set()
        thread.join(20)
    assert told in caplog.text
