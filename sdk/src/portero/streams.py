"""A chat's stream: its texts and events as they come, and `StreamCut` where it ends before its end.

`Reader` makes events of bytes and knows nothing of where they come from; the two streams bring the
bytes, of a sync and of an async answer.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2

from portero.calls import UNEXPECTED, text_in
from portero.errors import APIError, StreamCut, read_content

DONE = "[DONE]"
LOST = "connection_lost"
EVENT_STREAM = "text/event-stream"
#: What an HTTP library raises where an answer breaks off.
_BROKEN = (httpx2.HTTPError, httpx2.StreamError)

Told = Callable[[StreamCut], None]
#: Some bytes, none behind the last ones, or why there are no more. An error is not raised where the
#: HTTP library's is caught: frames below hold the token.
Heard = bytes | Exception | None


def no_stream(answer: httpx2.Response) -> APIError | None:
    """The error of a good answer that is no stream of events, seen before any of it is read."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == EVENT_STREAM:
        return None
    return APIError(
        f"The answer is no stream of events, but {kind or 'of no type'}; does the model stream?",
        status=answer.status_code,
        code=UNEXPECTED,
        request_id=answer.headers.get("x-request-id"),
    )


class _Lines:
    """Cuts bytes into lines where server-sent events do, at CR, LF and both. An HTTP library's own
    lines end at U+2028 and others too, which a model may well say.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def whole(self, chunk: bytes) -> list[str]:
        """The lines that have ended with this. A CR at its end may be half of an end."""
        self._parts.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        lines = b"".join(self._parts).splitlines(keepends=True)
        self._parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        return [_text(line) for line in lines]

    def rest(self) -> list[str]:
        """What is left behind the last end."""
        return [_text(line) for line in b"".join(self._parts).splitlines()]


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "replace")


class Reader:
    """Reads the bytes of one stream (server-sent events, whose data is JSON)."""

    def __init__(self, request_id: str, on_cut: Told) -> None:
        self._request_id = request_id
        self._on_cut = on_cut
        self._lines = _Lines()
        self._data: list[str] = []
        self._texts: list[str] = []
        self._is_whole = False
        #: Whether nothing more is to be heard.
        self.is_over = False

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._texts)

    def take(self, heard: Heard) -> Iterator[dict[str, Any]]:
        """The events that are whole with this. Raises `StreamCut`."""
        if isinstance(heard, bytes):
            yield from self._events(self._lines.whole(heard))
            return
        self.is_over = True
        yield from self._events(self._lines.rest())
        yield from self._last()
        if not self._is_whole:
            broken = f"The connection broke ({type(heard).__name__})."
            raise self._cut(broken if heard else "The stream ended before its end.", LOST)

    def _events(self, lines: list[str]) -> Iterator[dict[str, Any]]:
        for line in lines:
            event = self._line(line)
            if event is not None:
                yield event

    def _line(self, line: str) -> dict[str, Any] | None:
        """An event may be of several lines, and an empty one ends it."""
        if not line:
            return self._event()
        name, _, data = line.partition(":")
        if name == "data":
            self._data.append(data.removeprefix(" "))
        return None

    def _last(self) -> Iterator[dict[str, Any]]:
        """An event whose empty line never came is one if it is whole."""
        data = "\n".join(self._data).strip()
        if data == DONE or _parsed(data) is not None:
            yield from self._events([""])

    def _event(self) -> dict[str, Any] | None:
        data, self._data = "\n".join(self._data).strip(), []
        if not data:
            return None
        if data == DONE:
            self._is_whole = True
            return None
        event = _parsed(data)
        if event is None:
            raise self._cut("An event of the stream is no JSON object.", UNEXPECTED)
        if event.get("error"):
            told = read_content(event)
            raise self._cut(told.message or "The stream was cut.", told.code)
        self._note(event)
        return event

    def _note(self, event: dict[str, Any]) -> None:
        choice = _choice(event)
        text = None if choice is None else text_in(choice, "delta")
        if choice is None or text is None:
            raise self._cut("An event of the stream is none of a chat.", UNEXPECTED)
        self._texts.append(text)
        self._is_whole = self._is_whole or bool(choice.get("finish_reason"))

    def _cut(self, message: str, code: str | None) -> StreamCut:
        """The error of a stream that ends here."""
        self.is_over = True
        error = StreamCut(
            message, partial=self.text, code=code, request_id=self._request_id or None
        )
        self._on_cut(error)
        return error


def _parsed(data: str) -> dict[str, Any] | None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _choice(event: dict[str, Any]) -> dict[str, Any] | None:
    """The first of several answers, which come mixed; an empty one where the event tells of none
    of it, and None where it is of no form we know.
    """
    choices = event.get("choices")
    if choices is None:
        return {}
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        return None
    return next((one for one in choices if not one.get("index")), {})


def text_of(event: dict[str, Any]) -> str:
    """The text that an event adds.

    >>> text_of({"choices": [{"delta": {"content": "Par"}}]})
    'Par'
    """
    return text_in(_choice(event) or {}, "delta") or ""


class _Stream:
    """What both streams have in common."""

    def __init__(self, answer: httpx2.Response, on_cut: Told) -> None:
        self._answer = answer
        self.request_id: str = answer.headers.get("x-request-id", "")
        self._reader = Reader(self.request_id, on_cut)

    @property
    def text(self) -> str:
        """All text so far."""
        return self._reader.text


class ChatStream(_Stream):
    """Texts as they come: `for text in stream`. `events()` has all of each event instead. `text` is
    what has come so far, `request_id` stands in the gateway's log.

    >>> with portero.Portero() as client, client.stream_chat(MODEL, "Hello") as stream:
    ...     texts = list(stream)
    """

    def events(self) -> Iterator[dict[str, Any]]:
        """Each event's JSON, unchanged. Raises `StreamCut`.

        >>> with portero.Portero() as client, client.stream_chat(MODEL, "Hello") as stream:
        ...     choices = [event["choices"] for event in stream.events()]
        """
        chunks = self._answer.iter_bytes()
        while not self._reader.is_over:
            yield from self._reader.take(_heard(chunks))

    def __iter__(self) -> Iterator[str]:
        return (text for event in self.events() if (text := text_of(event)))


def _heard(chunks: Iterator[bytes]) -> Heard:
    try:
        return next(chunks, None)
    except _BROKEN as error:
        return error


class AsyncChatStream(_Stream):
    """The same for tasks: `async for text in stream`."""

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Each event's JSON, unchanged. Raises `StreamCut`.

        >>> async def ask():
        ...     async with portero.AsyncPortero() as client:
        ...         async with client.stream_chat(MODEL, "Hello") as stream:
        ...             return [event["choices"] async for event in stream.events()]
        >>> choices = asyncio.run(ask())
        """
        chunks = self._answer.aiter_bytes()
        while not self._reader.is_over:
            for event in self._reader.take(await _aheard(chunks)):
                yield event

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if text := text_of(event):
                yield text


async def _aheard(chunks: AsyncIterator[bytes]) -> Heard:
    try:
        return await anext(chunks, None)
    except _BROKEN as error:
        return error
