"""Connections to the LLM server that are kept: given up before the LLM server gives them up, so
that no request meets a server that hangs up just then; and no chat is ever sent twice.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from run.commands import ROOT
from tests.support.deployment import Caller, answers, deployed
from tests.support.ports import free_ports
from tests.support.slow_wire import slow_wire
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

#: uvicorn's own default, and how long a piece is on its way, each way.
KEEP_ALIVE_SECONDS, DELAY_SECONDS = 5.0, 0.01
AT_ONCE = 25
#: Around the moment at which the server hangs up.
SPREAD_SECONDS = 0.03


@contextmanager
def uvicorn() -> Iterator[int]:
    """A real uvicorn with its own defaults; its port."""
    (port,) = free_ports(1)
    words = ("-m", "uvicorn", "tests.support.asgi_llm:application", "--log-level", "warning")
    process = subprocess.Popen([sys.executable, *words, "--port", str(port)], cwd=ROOT)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/seen", 200), 20, "uvicorn serves")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def received(port: int) -> dict[str, int]:
    """Request ID -> how often the server got it."""
    seen: dict[str, int] = requests.get(f"http://127.0.0.1:{port}/seen", timeout=20).json()
    return seen


def at(moment: float) -> None:
    """Wait for a moment of the monotonic clock."""
    threading.Event().wait(max(0.0, moment - time.monotonic()))


def test_a_post_at_the_moment_the_server_hangs_up_is_answered_and_sent_once_u1() -> None:
    with uvicorn() as port, slow_wire(port, DELAY_SECONDS) as wire, deployed(wire.url) as running:
        caller = Caller(running)
        token = caller.token("AGIATEST01")

        def twice(number: int) -> list[requests.Response]:
            first = caller.call(token)
            offset = SPREAD_SECONDS * (2 * number / (AT_ONCE - 1) - 1)
            at(time.monotonic() + KEEP_ALIVE_SECONDS - 2 * DELAY_SECONDS + offset)
            return [first, caller.call(token)]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            pairs = list(pool.map(twice, range(AT_ONCE)))
        first, second = zip(*pairs, strict=True)
        assert [answer.status_code for answer in first] == [200] * AT_ONCE
        assert [answer.status_code for answer in second] == [200] * AT_ONCE
        sent = [answer.headers["x-request-id"] for pair in pairs for answer in pair]
        assert received(port) == dict.fromkeys(sent, 1)


def test_a_connection_is_kept_while_requests_follow_each_other() -> None:
    with (
        uvicorn() as port,
        slow_wire(port, DELAY_SECONDS) as wire,
        deployed(wire.url, GATEWAY_WORKERS="1") as running,
    ):
        caller = Caller(running)
        token = caller.token("AGIATEST01")
        for _ in range(10):
            assert caller.call(token).status_code == 200
        assert wire.connections == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/llm/chat/completions"])
def test_a_chat_is_never_sent_twice_when_its_connection_ends_u1(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    assert caller.call(agent, path).status_code == 200
    upstream.forget()
    upstream.mood = "die"
    answer = caller.call(agent, path)
    assert (answer.status_code, len(upstream.seen)) == (502, 1)
