"""The client package against a real gateway, with the real libraries: load over several lifetimes,
a revocation under load, streams that are cut, and parts that die.

What needs no real gateway is in `sdk/tests`.
"""

import asyncio
import gc
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import ollama
import openai
import portero
import pytest
import requests
from portero import LoginUnavailable, Portero, StreamCut, TokenSource
from portero.clock import Clock

from tests.stack.clients import answers
from tests.stack.clients.conftest import BRIEF_SECONDS
from tests.stack.clients.python_clients import HI, stepped
from tests.stack.clients.situations import endless
from tests.support.deployment import USERS, Local, wait_ready
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LIFETIMES = 3


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


def source_of(running: Local, user: str = "AGIATEST01", **options: Any) -> TokenSource:
    return TokenSource(running.gateway, user, USERS[user][0], **options)


def counted(url: str, pattern: str) -> int:
    """The sum of some of a part's counters."""
    text = requests.get(f"{url}/metrics", timeout=20).text
    return int(sum(map(float, re.findall(rf"(?m)^{pattern} (\S+)$", text))))


def logins(running: Local) -> int:
    return counted(running.issuer, r'portero_logins_total\{.*outcome="ok".*\}')


def refused_tokens(running: Local) -> int:
    """How often a gateway said 401 for a token."""
    return counted(
        running.internal, r'portero_decisions_total\{decision="(?:expired|invalid_api_key)"\}'
    )


# What the stock clients say, as one text and piece by piece.


def by_portero(source: TokenSource) -> Iterator[str]:
    with Portero(source) as client, client.stream_chat("tiny", "hi") as stream:
        yield from stream


def by_openai(source: TokenSource) -> Iterator[str]:
    with portero.openai(source, max_retries=0) as client:
        for event in client.chat.completions.create(model="tiny", messages=HI, stream=True):
            yield event.choices[0].delta.content or ""


def by_async_openai(source: TokenSource) -> Iterator[str]:
    async def pieces() -> Any:
        async with portero.async_openai(source, max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=HI, stream=True)
            async for event in stream:
                yield event.choices[0].delta.content or ""

    return stepped(pieces())


def by_anthropic(source: TokenSource) -> Iterator[str]:
    with (
        portero.anthropic(source, max_retries=0) as client,
        client.messages.stream(model="tiny", messages=HI, max_tokens=9) as stream,
    ):
        yield from stream.text_stream


def by_langchain(source: TokenSource) -> Iterator[str]:
    for event in portero.langchain_chat("tiny", source, max_retries=0).stream("hi"):
        yield str(event.content)


def by_ollama(source: TokenSource) -> Iterator[str]:
    for event in portero.ollama(source).chat(model="tiny", messages=HI, stream=True):
        yield event.message.content or ""


#: Each, and what it raises where a stream is cut.
CLIENTS: dict[str, tuple[Callable[[TokenSource], Iterator[str]], type[Exception]]] = {
    "portero": (by_portero, StreamCut),
    "openai": (by_openai, openai.APIError),
    "openai, async": (by_async_openai, openai.APIError),
    "anthropic": (by_anthropic, anthropic.APIStatusError),
    "langchain": (by_langchain, openai.APIError),
    "ollama": (by_ollama, ollama.ResponseError),
}


def test_all_clients_outlive_three_lifetimes_under_load_without_a_401_on_the_wire(
    brief: Local, said: Upstream
) -> None:
    said.gap = 0.001
    before, refused = logins(brief), refused_tokens(brief)
    source = source_of(brief)
    end = time.monotonic() + LIFETIMES * BRIEF_SECONDS

    def stream_on(streamed: Callable[[TokenSource], Iterator[str]]) -> set[str]:
        told = set()
        while time.monotonic() < end:
            told.add("".join(streamed(source)))
        return told

    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        told = list(threads.map(stream_on, [streamed for streamed, _ in CLIENTS.values()]))
    assert told == [{"pongpong"}] * len(CLIENTS)
    assert len({one for seen in said.seen for one in seen.values("x-auth-token-id")}) >= LIFETIMES
    assert logins(brief) - before <= 3 * LIFETIMES + 1, "no herd"
    assert refused_tokens(brief) == refused


def test_a_token_that_is_revoked_under_50_threads_costs_one_login_and_no_request(
    running: Local, said: Upstream
) -> None:
    source = source_of(running, on_revoked="login")
    before = logins(running)

    def revoke() -> None:
        running.command("revoke", "--user", "AGIATEST01")

    half = threading.Barrier(50, action=revoke)

    def ask(client: Portero) -> set[str]:
        told = {client.chat("tiny", "hi").text for _ in range(2)}
        half.wait(60)
        return told | {client.chat("tiny", "hi").text for _ in range(2)}

    with Portero(source) as client, ThreadPoolExecutor(50) as threads:
        assert list(threads.map(ask, [client] * 50)) == [{"pong"}] * 50
    assert logins(running) - before == 2


@pytest.fixture(scope="module")
def cut_streams(running: Local, local_upstream: Upstream) -> dict[str, Exception | None]:
    """What each client raises when its token is revoked in the middle of its stream."""
    local_upstream.answers.update(answers.everything())
    endless(local_upstream)
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        begun = {name: streamed(source_of(running)) for name, (streamed, _) in CLIENTS.items()}
        for pieces in begun.values():
            assert any(pieces)
        running.command("revoke", "--user", "AGIATEST01")
        return dict(zip(begun, threads.map(error_of, begun.values()), strict=True))


def error_of(pieces: Iterator[str]) -> Exception | None:
    try:
        for _ in pieces:
            pass
    except Exception as error:  # whatever it is: the test judges it
        return error
    return None


@pytest.mark.parametrize("name", CLIENTS)
def test_a_stream_that_is_cut_raises_the_clients_own_right_error(
    cut_streams: dict[str, Exception | None], name: str
) -> None:
    error = cut_streams[name]
    assert isinstance(error, CLIENTS[name][1])
    assert "The token was revoked." in str(error)
    if isinstance(error, StreamCut):
        assert (error.code, error.partial[:4]) == ("invalid_api_key", "pong")
        assert error.request_id


def test_leaving_a_stream_stops_the_llm_server(running: Local, said: Upstream) -> None:
    endless(said)
    with (
        source_of(running, on_revoked="login") as source,
        Portero(source) as client,
        client.stream_chat("tiny", "hi") as stream,
    ):
        assert next(iter(stream)) == "pong"
    wait_for(lambda: said.departures, 10, "the LLM server saw its client leave")


@pytest.mark.parametrize("user", ["USRSTEST01", "MNTRTEST01", "ADMNTEST01"])
def test_people_log_in_and_out(running: Local, said: Upstream, user: str) -> None:
    with source_of(running, user) as source, Portero(source) as client:
        assert client.models().names == ["tiny"]
        assert source.current is not None
        assert source.current.subject == user
        token = source.held
    refused = requests.get(
        f"{running.gateway}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
    assert refused.status_code == 401


def test_a_person_makes_uses_lists_and_ends_an_api_key(running: Local, said: Upstream) -> None:
    with source_of(running, "USRSTEST01") as source, Portero(source) as client:
        assert client.account().json["subject"] == "USRSTEST01"
        made = client.create_key("notebook", 7, ["tiny"])
        assert [row["id"] for row in client.keys().rows] == [made.id]
        with Portero(url=running.gateway, api_key=made.key) as keyed:
            assert keyed.chat("tiny", "hi").text == "pong"
            with pytest.raises(portero.ModelNotFound):
                keyed.chat("other", "hi")
            with pytest.raises(portero.PermissionDenied):
                keyed.keys()
            client.revoke_key(made.id)
            with pytest.raises(portero.TokenRefused):
                keyed.chat("tiny", "hi")
        assert client.keys().rows == []


def test_two_event_loops_in_turn_use_one_source(running: Local, said: Upstream) -> None:
    source = source_of(running, on_revoked="login")

    async def ask() -> set[str]:
        async with portero.AsyncPortero(source) as client:
            asked = [client.chat("tiny", "hi") for _ in range(100)]
            return {answer.text for answer in await asyncio.gather(*asked)}

    assert [asyncio.run(ask()), asyncio.run(ask())] == [{"pong"}] * 2


class Hurried(Clock):
    """Who waits by it has waited at once."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        return time.monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        self._ahead += seconds


def test_a_gateway_that_is_started_again_is_waited_for(brief: Local, said: Upstream) -> None:
    source = source_of(brief, on_revoked="login")
    with Portero(source) as client, ThreadPoolExecutor(1) as other:
        client.models()
        brief.stop("gateway")
        asked = other.submit(client.chat, "tiny", "hi")
        brief.start("gateway")
        assert asked.result(60).text == "pong"
    wait_ready(brief)


def test_an_issuer_that_is_killed_is_missed_when_the_token_ends_and_not_before(
    brief: Local, said: Upstream
) -> None:
    answered = 0

    def ask_on(client: Portero) -> None:
        nonlocal answered
        while True:
            client.chat("tiny", "hi")
            answered += 1

    with Portero(source_of(brief, clock=Hurried())) as client:
        client.models()
        for part in ("reconciler", "issuer"):
            brief.stop(part, signal.SIGKILL)
        with pytest.raises(LoginUnavailable):
            ask_on(client)
    assert answered > 5
    for part in ("issuer", "reconciler"):
        brief.start(part)
    wait_ready(brief)
