"""Clients of the real libraries, made by the factories: they ask with the source's token, mend a
refused one below the library's sight, and tell a failed login. With a real gateway they are in
`tests/stack/clients/test_sdk.py`.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import fake_portero
import openai
import pytest
from fake_portero import MODEL, NOT_FOUND, FakePortero, Reply
from set_clock import SetClock

import portero
from portero import ConfigurationError, LoginUnavailable, TokenSource, WrongCredentials

MESSAGES: Any = [{"role": "user", "content": "hi"}]
PATH = "/v1/chat/completions"
#: These clients leave their connections to the collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "pong"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1},
}
OLLAMA = {"model": MODEL, "message": {"role": "assistant", "content": "pong"}, "done": True}
SAID = {"/v1/messages": MESSAGE, "/api/chat": OLLAMA}


def by_openai(source: TokenSource) -> Any:
    with portero.openai(source, max_retries=0) as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES)
        return answer.choices[0].message.content


def by_async_openai(source: TokenSource) -> Any:
    async def ask() -> Any:
        async with portero.async_openai(source, max_retries=0) as client:
            return await client.chat.completions.create(model=MODEL, messages=MESSAGES)

    return asyncio.run(ask()).choices[0].message.content


def by_anthropic(source: TokenSource) -> Any:
    with portero.anthropic(source, max_retries=0) as client:
        answer = client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=9)
    return answer.content[0].text  # type: ignore[union-attr]


def by_async_anthropic(source: TokenSource) -> Any:
    async def ask() -> Any:
        async with portero.async_anthropic(source, max_retries=0) as client:
            return await client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=9)

    return asyncio.run(ask()).content[0].text


def by_langchain(source: TokenSource) -> Any:
    return portero.langchain_chat(MODEL, source, max_retries=0).invoke("hi").content


def by_async_langchain(source: TokenSource) -> Any:
    chat = portero.langchain_chat(MODEL, source, max_retries=0)
    return asyncio.run(chat.ainvoke("hi")).content


def by_ollama(source: TokenSource) -> Any:
    return portero.ollama(source).chat(model=MODEL, messages=MESSAGES).message.content


def by_async_ollama(source: TokenSource) -> Any:
    client = portero.async_ollama(source)
    return asyncio.run(client.chat(model=MODEL, messages=MESSAGES)).message.content


WAYS = [
    by_openai,
    by_async_openai,
    by_anthropic,
    by_async_anthropic,
    by_langchain,
    by_async_langchain,
    by_ollama,
    by_async_ollama,
]
each_way = pytest.mark.parametrize("ask", WAYS, ids=lambda way: way.__name__)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


@pytest.fixture(autouse=True)
def _speaks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, answer in SAID.items():
        monkeypatch.setitem(fake_portero.ANSWERS, path, answer)


@each_way
def test_a_client_asks_with_the_token_and_outlives_it(
    source: TokenSource, gateway: FakePortero, ask: Callable[[TokenSource], Any]
) -> None:
    for number in (1, 2, 3):
        assert ask(source) == "pong"
        assert gateway.asked[-1].headers["authorization"] == f"Bearer canary-token-{number}"
        assert "x-api-key" not in gateway.asked[-1].headers
        gateway.live[f"canary-token-{number}"] = 0
    assert gateway.statuses == {200: 6, 401: 2}


@pytest.mark.parametrize("ask", [by_openai, by_async_openai, by_langchain, by_ollama])
def test_a_login_that_fails_is_raised_as_it_is(
    gateway: FakePortero, clock: SetClock, ask: Callable[[TokenSource], Any]
) -> None:
    source = TokenSource(gateway.url, "AGNRXYZ456", "wrong", clock=clock)
    with pytest.raises(WrongCredentials):
        ask(source)


@pytest.mark.parametrize("ask", [by_anthropic, by_async_anthropic])
def test_anthropics_error_has_the_failed_login_as_its_cause(
    source: TokenSource, gateway: FakePortero, ask: Callable[[TokenSource], Any]
) -> None:
    gateway.scripted["/llm/login"] = [Reply(503, None)] * 99
    with pytest.raises(anthropic.APIConnectionError) as raised:
        ask(source)
    assert isinstance(raised.value.__cause__, LoginUnavailable)


def test_a_refusal_is_the_librarys_own_error(source: TokenSource, gateway: FakePortero) -> None:
    gateway.scripted[PATH] = [NOT_FOUND]
    with pytest.raises(openai.NotFoundError):
        by_openai(source)


def test_embeddings_send_texts(source: TokenSource, gateway: FakePortero) -> None:
    embeddings = portero.langchain_embeddings(MODEL, source)
    assert embeddings.embed_query("hi") == [0.25, 0.5]
    assert b'"hi"' in gateway.asked[-1].body


def test_a_source_is_made_of_the_environment(
    gateway: FakePortero, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTERO_URL", gateway.url)
    monkeypatch.setenv("PORTERO_API_KEY", "canary-key")
    assert portero.openai().base_url == f"{gateway.url}/v1/"


def test_a_library_that_is_not_installed_is_named(
    source: TokenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("portero.factories.import_module", absent)
    with pytest.raises(ConfigurationError, match=r"pip install 'portero\[ollama\]'"):
        portero.ollama(source)
    with pytest.raises(ConfigurationError, match=r"openai is not installed"):
        portero.langchain_chat(MODEL, source)
