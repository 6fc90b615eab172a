"""The thin clients: one method a thing to ask for, sync and async. What is sent and read is
`calls`'s; here it is carried, with patience for what may be waited out.

An error is made where it is raised, never where an HTTP library's is caught: frames below hold the
token.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, NoReturn, TypeVar

import httpx2

from portero import calls
from portero.adapters import Httpx2Auth
from portero.calls import (
    A,
    Answer,
    Call,
    Completion,
    Document,
    Embeddings,
    Keys,
    Messages,
    Models,
    NewKey,
)
from portero.errors import APIError, PorteroError, StreamCut, TokenRefused, TransportError
from portero.events import Event, Kind, tell
from portero.patience import Patience
from portero.streams import AsyncChatStream, ChatStream, no_stream
from portero.token_source import TokenSource

C = TypeVar("C", httpx2.Client, httpx2.AsyncClient)

MAX_WAIT_SECONDS = 30.0
#: Answers of LLM servers take their time; connections do not.
TIMEOUT_SECONDS, CONNECT_SECONDS = 600.0, 5.0
#: Raised before a byte of a request was sent: it may be sent again.
_UNSENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
)


class _Client(Generic[C]):
    """What both clients have in common."""

    _http_class: type[C]

    def __init__(
        self,
        source: TokenSource | None = None,
        *,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        **configured: Any,
    ) -> None:
        self._owns_source = source is None
        self.source = source if source is not None else TokenSource(**configured)
        if source is not None and configured:
            raise TypeError(f"give a source, or {', '.join(configured)}; not both")
        self._max_wait_seconds = max_wait_seconds
        self._timeout = httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
        self._verify = self.source.configuration.ssl_context()
        self._http: C | None = None
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} holds a secret and cannot be pickled")

    def _client(self) -> C:
        """A child that was forked has connections of its own."""
        if self._http is None or self._process != os.getpid():
            self._process = os.getpid()
            self._http = self._http_class(
                base_url=self.source.url,
                auth=Httpx2Auth(self.source),
                verify=self._verify,
                timeout=self._timeout,
            )
        return self._http

    def _request_of(self, call: Call[A]) -> httpx2.Request:
        return self._client().build_request(call.method, call.path, **call.options)

    def _patience(self) -> Patience:
        return Patience(self._max_wait_seconds, calls.can_wait)

    def _pause(self, patience: Patience, error: PorteroError) -> float:
        """Seconds to wait before the next try. Raises the error where there shall be none."""
        seconds = patience.pause(error)
        if seconds is None:
            raise error
        self._tell("retry", error, seconds)
        return seconds

    def _read(self, kind: type[A], response: httpx2.Response) -> A | APIError:
        read = calls.read(kind, response.status_code, response.headers, response.content)
        if isinstance(read, TokenRefused):
            read.message = self.source.why_refused() or read.message
        return read

    def _tell(self, kind: Kind, error: PorteroError, seconds: float | None = None) -> None:
        told = (error.status, error.code, error.request_id)
        event = Event(kind, self.source.configuration.username, seconds, *told)
        tell([self.source.on_event] if self.source.on_event else [], event)

    def _check_stream(self, response: httpx2.Response) -> None:
        error = no_stream(response)
        if error is not None:
            raise error

    def _note_cut(self, error: StreamCut) -> None:
        self._tell("cut", error)


def _not_answered(error: httpx2.HTTPError) -> TransportError:
    started = not isinstance(error, _UNSENT)
    return TransportError(f"{type(error).__name__}: {error}", may_have_started=started)


class Portero(_Client[httpx2.Client]):
    """Asks the gateway's OpenAI API. Give a `source`, or what `TokenSource` takes.

    `max_wait_seconds`: how long a request that has not begun may wait in all, while the gateway is
    not ready or a limit is used up. `timeout_seconds`: for an answer, or between two pieces of a
    stream. Every method may raise what `portero.APIError` stands for, `TransportError`, and
    `LoginError`. One client serves many threads.

    >>> with portero.Portero() as client:
    ...     text = client.chat(MODEL, "Capital of France?").text
    """

    _http_class = httpx2.Client

    # Asking.

    def chat(self, model: str, messages: Messages, **options: Any) -> Completion:
        """One answer. `messages`: a text, or OpenAI's list. `options` go into the body.

        >>> portero.Portero().chat(MODEL, "Hello", max_tokens=4).status
        200
        """
        return self._send(calls.chat(model, messages, options))

    def complete(self, model: str, prompt: str, **options: Any) -> Completion:
        """The continuation of a text.

        >>> portero.Portero().complete(MODEL, "The capital of", max_tokens=4).status
        200
        """
        return self._send(calls.complete(model, prompt, options))

    def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> Embeddings:
        """A vector for each text.

        >>> len(portero.Portero().embed(MODEL, ["a", "b"]).vectors)
        2
        """
        return self._send(calls.embed(model, texts, options))

    @contextmanager
    def stream_chat(self, model: str, messages: Messages, **options: Any) -> Iterator[ChatStream]:
        """A chat as it comes. Leaving the `with` closes the connection, which stops the LLM server.
        Raises `StreamCut`, with the text so far, where the stream ends before its end, and
        `APIError` where the answer is no stream at all.

        >>> with portero.Portero().stream_chat(MODEL, "Hello") as stream:
        ...     text = "".join(stream)
        """
        call = calls.chat(model, messages, {**options, "stream": True})
        response = self._sent(call, is_streamed=True)
        try:
            self._check_stream(response)
            yield ChatStream(response, self._note_cut)
        finally:
            response.close()

    # Looking.

    def models(self) -> Models:
        """The models that the caller may use.

        >>> MODEL in portero.Portero().models().names
        True
        """
        return self._send(calls.MODELS)

    def health(self) -> Answer:
        """What the LLM server says of its health.

        >>> portero.Portero().health().status
        200
        """
        return self._send(calls.HEALTH)

    def account(self) -> Document:
        """Who am I: subject, role, routes, models, limits, `expires_at` (Unix seconds).

        >>> portero.Portero().account().json["role"]
        'agent_reasoning'
        """
        return self._send(calls.ACCOUNT)

    def usage(
        self,
        first_day: str | None = None,
        last_day: str | None = None,
        by: str | Sequence[str] | None = None,
    ) -> Document:
        """What the caller used: requests and tokens. Days are UTC dates (`2026-11-25`), both
        within; `by` names columns: `user`, `model`, `day`.

        >>> portero.Portero().usage(by="day").status
        200
        """
        return self._send(calls.usage(first_day, last_day, by))

    def keys(self) -> Keys:
        """The caller's API keys.

        >>> portero.Portero().keys().rows
        []
        """
        return self._send(calls.KEYS)

    def create_key(self, name: str, days: int, models: Sequence[str] | None = None) -> NewKey:
        """A new API key, which ends after `days`. Its `key` is told this once.

        >>> key = portero.Portero().create_key("notebook", days=7).key
        """
        return self._send(calls.create_key(name, days, models))

    def revoke_key(self, key_id: str) -> Answer:
        """End an API key, everywhere, before this returns.

        >>> portero.Portero().revoke_key("abcdefgh12345678").status
        204
        """
        return self._send(calls.revoke_key(key_id))

    def request(
        self,
        method: str,
        path: str,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any other request of the gateway; `path` begins with a slash.

        >>> portero.Portero().request("GET", "/v1/models").status
        200
        """
        return self._send(Call(method, calls.local(path), Answer, json, params or {}))

    # Carrying.

    def _send(self, call: Call[A]) -> A:
        response = self._sent(call, is_streamed=False)
        read = self._read(call.kind, response)
        if isinstance(read, PorteroError):
            raise read
        return read

    def _sent(self, call: Call[A], is_streamed: bool) -> httpx2.Response:
        """A good answer; unread if it is streamed. Raises what it is otherwise."""
        patience = self._patience()
        while True:
            outcome = self._once(call, is_streamed)
            if isinstance(outcome, httpx2.Response):
                return outcome
            self.source.clock.sleep(self._pause(patience, outcome))

    def _once(self, call: Call[A], is_streamed: bool) -> httpx2.Response | PorteroError:
        try:
            response = self._client().send(self._request_of(call), stream=is_streamed)
            if response.is_success:
                return response
            response.read()
        except httpx2.HTTPError as error:
            return _not_answered(error)
        read = self._read(call.kind, response)
        assert isinstance(read, PorteroError)
        return read

    # The end.

    def close(self) -> None:
        """Close the connections, and the source if it was made here.

        >>> portero.Portero().close()
        """
        if self._http is not None:
            self._http.close()
            self._http = None
        if self._owns_source:
            self.source.close()

    def __enter__(self) -> "Portero":
        if self._owns_source:
            self.source.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._owns_source:
            self.source.leave()
        self.close()


class AsyncPortero(_Client[httpx2.AsyncClient]):
    """`Portero` for asyncio: the same methods, awaited. One client serves one event loop. The
    examples below are as `python -m asyncio` takes them, with `client = portero.AsyncPortero()`.

    >>> async def ask():
    ...     async with portero.AsyncPortero() as client:
    ...         return (await client.chat(MODEL, "Hello")).text
    >>> text = asyncio.run(ask())
    """

    _http_class = httpx2.AsyncClient

    async def chat(self, model: str, messages: Messages, **options: Any) -> Completion:
        """See `Portero.chat`.

        >>> await client.chat(MODEL, "Hello", max_tokens=4)
        Completion(json=...
        """
        return await self._send(calls.chat(model, messages, options))

    async def complete(self, model: str, prompt: str, **options: Any) -> Completion:
        """See `Portero.complete`.

        >>> await client.complete(MODEL, "The capital of")
        Completion(json=...
        """
        return await self._send(calls.complete(model, prompt, options))

    async def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> Embeddings:
        """See `Portero.embed`.

        >>> await client.embed(MODEL, ["a", "b"])
        Embeddings(json=...
        """
        return await self._send(calls.embed(model, texts, options))

    @asynccontextmanager
    async def stream_chat(
        self, model: str, messages: Messages, **options: Any
    ) -> AsyncIterator[AsyncChatStream]:
        """See `Portero.stream_chat`.

        >>> async def ask():
        ...     async with portero.AsyncPortero() as client:
        ...         async with client.stream_chat(MODEL, "Hello") as stream:
        ...             return "".join([text async for text in stream])
        >>> text = asyncio.run(ask())
        """
        call = calls.chat(model, messages, {**options, "stream": True})
        response = await self._sent(call, is_streamed=True)
        try:
            self._check_stream(response)
            yield AsyncChatStream(response, self._note_cut)
        finally:
            await response.aclose()

    async def models(self) -> Models:
        """See `Portero.models`.

        >>> await client.models()
        Models(json=...
        """
        return await self._send(calls.MODELS)

    async def health(self) -> Answer:
        """See `Portero.health`.

        >>> await client.health()
        Answer(json=...
        """
        return await self._send(calls.HEALTH)

    async def account(self) -> Document:
        """See `Portero.account`.

        >>> await client.account()
        Document(json=...
        """
        return await self._send(calls.ACCOUNT)

    async def usage(
        self,
        first_day: str | None = None,
        last_day: str | None = None,
        by: str | Sequence[str] | None = None,
    ) -> Document:
        """See `Portero.usage`.

        >>> await client.usage(by="day")
        Document(json=...
        """
        return await self._send(calls.usage(first_day, last_day, by))

    async def keys(self) -> Keys:
        """See `Portero.keys`.

        >>> await client.keys()
        Keys(json=...
        """
        return await self._send(calls.KEYS)

    async def create_key(self, name: str, days: int, models: Sequence[str] | None = None) -> NewKey:
        """See `Portero.create_key`.

        >>> await client.create_key("notebook", days=7)
        NewKey(status=...
        """
        return await self._send(calls.create_key(name, days, models))

    async def revoke_key(self, key_id: str) -> Answer:
        """See `Portero.revoke_key`.

        >>> await client.revoke_key("abcdefgh12345678")
        Answer(json=None...
        """
        return await self._send(calls.revoke_key(key_id))

    async def request(
        self,
        method: str,
        path: str,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """See `Portero.request`.

        >>> await client.request("GET", "/v1/models")
        Answer(json=...
        """
        return await self._send(Call(method, calls.local(path), Answer, json, params or {}))

    async def _send(self, call: Call[A]) -> A:
        response = await self._sent(call, is_streamed=False)
        read = self._read(call.kind, response)
        if isinstance(read, PorteroError):
            raise read
        return read

    async def _sent(self, call: Call[A], is_streamed: bool) -> httpx2.Response:
        patience = self._patience()
        while True:
            outcome = await self._once(call, is_streamed)
            if isinstance(outcome, httpx2.Response):
                return outcome
            await self.source.clock.asleep(self._pause(patience, outcome))

    async def _once(self, call: Call[A], is_streamed: bool) -> httpx2.Response | PorteroError:
        try:
            response = await self._client().send(self._request_of(call), stream=is_streamed)
            if response.is_success:
                return response
            await response.aread()
        except httpx2.HTTPError as error:
            return _not_answered(error)
        read = self._read(call.kind, response)
        assert isinstance(read, PorteroError)
        return read

    async def aclose(self) -> None:
        """Close the connections, and the source if it was made here.

        >>> await client.aclose()
        """
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        if self._owns_source:
            await asyncio.to_thread(self.source.close)

    async def __aenter__(self) -> "AsyncPortero":
        if self._owns_source:
            self.source.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_source:
            self.source.leave()
        await self.aclose()
