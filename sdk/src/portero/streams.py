"""A chat's stream: its texts and events as they come, and `StreamCut` where it ends before its end.

`Reader` makes events of lines and knows nothing of where they come from; the two streams bring the
lines, of a sync and of an async answer.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2

from portero.errors import StreamCut, read_content

DONE = "[DONE]"
LOST = "connection_lost"

Told = Callable[[StreamCut], None]


class Reader:
    """Reads the lines of one stream (server-sent events, whose data is JSON)."""

    def __init__(self, request_id: str, on_cut: Told) -> None:
        self._request_id = request_id
        self._on_cut = on_cut
        self._texts: list[str] = []
        self._is_whole = False

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._texts)

    def event(self, line: str) -> dict[str, Any] | None:
        """The event of a line, if it has one. Raises `StreamCut` for the gateway's last word."""
        name, _, data = line.partition(":")
        data = data.strip()
        if name != "data" or not data:
            return None
        if data == DONE:
            self._is_whole = True
            return None
        event = _parsed(data)
        if event is not None and event.get("error"):
            told = read_content(event)
            raise self.cut(told.message, told.code)
        self._note(event or {})
        return event

    def end(self) -> None:
        """The answer has ended; `StreamCut` if the stream had not."""
        if not self._is_whole:
            raise self.cut("The stream ended before its end.", LOST)

    def cut(self, message: str, code: str | None) -> StreamCut:
        """The error of a stream that ends here."""
        error = StreamCut(
            message, partial=self.text, code=code, request_id=self._request_id or None
        )
        self._on_cut(error)
        return error

    def lost(self, error: Exception) -> StreamCut:
        """The error of a stream whose connection broke."""
        return self.cut(f"The connection broke ({type(error).__name__}).", LOST)

    def _note(self, event: dict[str, Any]) -> None:
        self._texts.append(text_of(event))
        if any(choice.get("finish_reason") for choice in event.get("choices") or []):
            self._is_whole = True


def _parsed(data: str) -> dict[str, Any] | None:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def text_of(event: dict[str, Any]) -> str:
    """The text that an event adds.

    >>> text_of({"choices": [{"delta": {"content": "Par"}}]})
    'Par'
    """
    choices = event.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


class ChatStream:
    """Texts as they come: `for text in stream`. `events()` has all of each event instead. `text` is
    what has come so far, `request_id` stands in the gateway's log.

    >>> with portero.Portero() as client, client.stream_chat(MODEL, "Hello") as stream:
    ...     texts = list(stream)
    """

    def __init__(self, answer: httpx2.Response, on_cut: Told) -> None:
        self._answer = answer
        self.request_id: str = answer.headers.get("x-request-id", "")
        self._reader = Reader(self.request_id, on_cut)

    @property
    def text(self) -> str:
        """All text so far."""
        return self._reader.text

    def events(self) -> Iterator[dict[str, Any]]:
        """Each event's JSON, unchanged. Raises `StreamCut`.

        >>> with portero.Portero() as client, client.stream_chat(MODEL, "Hello") as stream:
        ...     choices = [event["choices"] for event in stream.events()]
        """
        lines = self._answer.iter_lines()
        while True:
            lost: Exception | None = None
            line = None
            try:
                line = next(lines, None)
            except (httpx2.TransportError, httpx2.StreamError) as error:
                lost = error
            if lost is not None:
                raise self._reader.lost(lost)
            if line is None:
                self._reader.end()
                return
            event = self._reader.event(line)
            if event is not None:
                yield event

    def __iter__(self) -> Iterator[str]:
        return (text for event in self.events() if (text := text_of(event)))


class AsyncChatStream:
    """The same for tasks: `async for text in stream`."""

    def __init__(self, answer: httpx2.Response, on_cut: Told) -> None:
        self._answer = answer
        self.request_id: str = answer.headers.get("x-request-id", "")
        self._reader = Reader(self.request_id, on_cut)

    @property
    def text(self) -> str:
        """All text so far."""
        return self._reader.text

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Each event's JSON, unchanged. Raises `StreamCut`.

        >>> async def ask():
        ...     async with portero.AsyncPortero() as client:
        ...         async with client.stream_chat(MODEL, "Hello") as stream:
        ...             return [event["choices"] async for event in stream.events()]
        >>> choices = asyncio.run(ask())
        """
        lines = self._answer.aiter_lines()
        while True:
            lost: Exception | None = None
            line = None
            try:
                line = await anext(lines, None)
            except (httpx2.TransportError, httpx2.StreamError) as error:
                lost = error
            if lost is not None:
                raise self._reader.lost(lost)
            if line is None:
                self._reader.end()
                return
            event = self._reader.event(line)
            if event is not None:
                yield event

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.events():
            if text := text_of(event):
                yield text
