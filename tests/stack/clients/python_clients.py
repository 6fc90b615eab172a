"""The Python clients, each asked in the same two ways: for one answer, and for a stream of pieces.

They are made as their own documentation makes them; only the address, the token and the number of
retries are ours.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.stack.clients.situations import Asked

HI: Any = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Client:
    """One client: what it raises for each status by its own table, and where a stream is cut."""

    name: str
    plain: Callable[[Asked], str]
    streamed: Callable[[Asked], Iterator[str]]
    errors: dict[int, type[Exception]]
    cut: type[Exception]


def stepped(pieces: AsyncIterator[str]) -> Iterator[str]:
    """An asynchronous stream, a piece at a time."""

    async def step() -> str | None:
        return await anext(pieces, None)

    with asyncio.Runner() as runner:
        while (piece := runner.run(step())) is not None:
            yield piece


# OpenAI's.

OPENAI_ERRORS: dict[int, type[Exception]] = {
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
}
OPENAI_CUT = openai.APIError


def openai_client(asked: Asked) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{asked.gateway}/v1", api_key=asked.token, max_retries=asked.retries
    )


def async_openai_client(asked: Asked) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{asked.gateway}/v1", api_key=asked.token, max_retries=asked.retries
    )


def openai_plain(asked: Asked) -> str:
    answer = openai_client(asked).chat.completions.create(model=asked.model, messages=HI)
    return answer.choices[0].message.content or ""


def openai_streamed(asked: Asked) -> Iterator[str]:
    stream = openai_client(asked).chat.completions.create(
        model=asked.model, messages=HI, stream=True
    )
    for event in stream:
        if event.choices[0].delta.content:
            yield event.choices[0].delta.content


def async_openai_plain(asked: Asked) -> str:
    async def ask() -> str:
        async with async_openai_client(asked) as client:
            answer = await client.chat.completions.create(model=asked.model, messages=HI)
            return answer.choices[0].message.content or ""

    return asyncio.run(ask())


async def _async_openai_pieces(asked: Asked) -> AsyncIterator[str]:
    async with async_openai_client(asked) as client:
        stream = await client.chat.completions.create(model=asked.model, messages=HI, stream=True)
        async for event in stream:
            if event.choices[0].delta.content:
                yield event.choices[0].delta.content


def responses_plain(asked: Asked) -> str:
    return openai_client(asked).responses.create(model=asked.model, input="hi").output_text


def responses_streamed(asked: Asked) -> Iterator[str]:
    stream = openai_client(asked).responses.create(model=asked.model, input="hi", stream=True)
    for event in stream:
        if event.type == "response.output_text.delta":
            yield event.delta


def langchain_openai(asked: Asked) -> ChatOpenAI:
    return ChatOpenAI(
        model=asked.model,
        base_url=f"{asked.gateway}/v1",
        api_key=SecretStr(asked.token),
        max_retries=asked.retries,
    )


def langchain_openai_plain(asked: Asked) -> str:
    return str(langchain_openai(asked).invoke("hi").content)


def langchain_openai_streamed(asked: Asked) -> Iterator[str]:
    for event in langchain_openai(asked).stream("hi"):
        if event.content:
            yield str(event.content)


# Anthropic's.

ANTHROPIC_ERRORS: dict[int, type[Exception]] = {
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    429: anthropic.RateLimitError,
    502: anthropic.InternalServerError,
    503: anthropic.InternalServerError,
}
#: Of a stream, whose status was 200, it makes no more than this; its `type` says which.
ANTHROPIC_CUT = anthropic.APIStatusError


def anthropic_client(asked: Asked) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=asked.gateway, auth_token=asked.token, max_retries=asked.retries
    )


def anthropic_plain(asked: Asked) -> str:
    answer = anthropic_client(asked).messages.create(model=asked.model, messages=HI, max_tokens=9)
    return "".join(block.text for block in answer.content if block.type == "text")


def anthropic_streamed(asked: Asked) -> Iterator[str]:
    client = anthropic_client(asked)
    with client.messages.stream(model=asked.model, messages=HI, max_tokens=9) as stream:
        yield from stream.text_stream


def async_anthropic_client(asked: Asked) -> anthropic.AsyncAnthropic:
    # This one as most people have it: with an API key.
    return anthropic.AsyncAnthropic(
        base_url=asked.gateway, api_key=asked.token, max_retries=asked.retries
    )


def async_anthropic_plain(asked: Asked) -> str:
    async def ask() -> str:
        async with async_anthropic_client(asked) as client:
            answer = await client.messages.create(model=asked.model, messages=HI, max_tokens=9)
            return "".join(block.text for block in answer.content if block.type == "text")

    return asyncio.run(ask())


async def _async_anthropic_pieces(asked: Asked) -> AsyncIterator[str]:
    async with (
        async_anthropic_client(asked) as client,
        client.messages.stream(model=asked.model, messages=HI, max_tokens=9) as stream,
    ):
        async for piece in stream.text_stream:
            yield piece


def langchain_anthropic(asked: Asked) -> ChatAnthropic:
    return ChatAnthropic(
        model_name=asked.model,
        base_url=asked.gateway,
        api_key=SecretStr(asked.token),
        max_retries=asked.retries,
        max_tokens_to_sample=9,
        timeout=None,
        stop=None,
    )


def langchain_anthropic_plain(asked: Asked) -> str:
    return str(langchain_anthropic(asked).invoke("hi").text)


def langchain_anthropic_streamed(asked: Asked) -> Iterator[str]:
    for event in langchain_anthropic(asked).stream("hi"):
        if event.text:
            yield str(event.text)


# Ollama's.

OLLAMA_ERRORS: dict[int, type[Exception]] = dict.fromkeys(OPENAI_ERRORS, ollama.ResponseError)
OLLAMA_CUT = ollama.ResponseError


def ollama_client(asked: Asked) -> ollama.Client:
    return ollama.Client(host=asked.gateway, headers={"Authorization": f"Bearer {asked.token}"})


def ollama_plain(asked: Asked) -> str:
    return ollama_client(asked).chat(model=asked.model, messages=HI).message.content or ""


def ollama_streamed(asked: Asked) -> Iterator[str]:
    for event in ollama_client(asked).chat(model=asked.model, messages=HI, stream=True):
        if event.message.content:
            yield event.message.content


def async_ollama_client(asked: Asked) -> ollama.AsyncClient:
    return ollama.AsyncClient(
        host=asked.gateway, headers={"Authorization": f"Bearer {asked.token}"}
    )


def async_ollama_plain(asked: Asked) -> str:
    answer = asyncio.run(async_ollama_client(asked).chat(model=asked.model, messages=HI))
    return answer.message.content or ""


async def _async_ollama_pieces(asked: Asked) -> AsyncIterator[str]:
    client = async_ollama_client(asked)
    async for event in await client.chat(model=asked.model, messages=HI, stream=True):
        if event.message.content:
            yield event.message.content


def langchain_ollama(asked: Asked) -> ChatOllama:
    return ChatOllama(
        model=asked.model,
        base_url=asked.gateway,
        client_kwargs={"headers": {"Authorization": f"Bearer {asked.token}"}},
    )


def langchain_ollama_plain(asked: Asked) -> str:
    return str(langchain_ollama(asked).invoke("hi").content)


def langchain_ollama_streamed(asked: Asked) -> Iterator[str]:
    for event in langchain_ollama(asked).stream("hi"):
        if event.content:
            yield str(event.content)


def _stepping(pieces: Callable[[Asked], AsyncIterator[str]]) -> Callable[[Asked], Iterator[str]]:
    return lambda asked: stepped(pieces(asked))


OPENAI = (OPENAI_ERRORS, OPENAI_CUT)
ANTHROPIC = (ANTHROPIC_ERRORS, ANTHROPIC_CUT)
OLLAMA = (OLLAMA_ERRORS, OLLAMA_CUT)

async_openai_streamed = _stepping(_async_openai_pieces)
async_anthropic_streamed = _stepping(_async_anthropic_pieces)
async_ollama_streamed = _stepping(_async_ollama_pieces)

CLIENTS = [
    Client("openai", openai_plain, openai_streamed, *OPENAI),
    Client("openai, async", async_openai_plain, async_openai_streamed, *OPENAI),
    Client("openai, responses", responses_plain, responses_streamed, *OPENAI),
    Client("langchain-openai", langchain_openai_plain, langchain_openai_streamed, *OPENAI),
    Client("anthropic", anthropic_plain, anthropic_streamed, *ANTHROPIC),
    Client("anthropic, async", async_anthropic_plain, async_anthropic_streamed, *ANTHROPIC),
    Client(
        "langchain-anthropic", langchain_anthropic_plain, langchain_anthropic_streamed, *ANTHROPIC
    ),
    Client("ollama", ollama_plain, ollama_streamed, *OLLAMA),
    Client("ollama, async", async_ollama_plain, async_ollama_streamed, *OLLAMA),
    Client("langchain-ollama", langchain_ollama_plain, langchain_ollama_streamed, *OLLAMA),
]
