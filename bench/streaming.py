"""`python -m bench.streaming PORT`: an LLM server that streams events as a chat wishes them, each
with the moment it was sent. `bench.streams` measures with it.

A chat says `events=100 gap=0.01 size=20`: so many events, so many seconds apart, with so many
characters of text. Behind them comes the SHA-256 of all that was sent. Of a large body it keeps the
beginning alone. Moments are of the clock that all processes of a machine share.
"""

import asyncio
import hashlib
import re
import socket
import sys
import time
from collections.abc import Sequence

WISH = re.compile(rb"events=(\d+) gap=([\d.]+) size=(\d+)")
WITH_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
KEPT = 64 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chat-1","object":"chat.completion.chunk","created":1,"model":"tiny","choices":'
    b'[{"index":0,"delta":{"content":"%s"},"finish_reason":null}],"sent_at":%d}\n\n'
)
USAGE = (
    b'data: {"id":"chat-1","object":"chat.completion.chunk","created":1,"model":"tiny",'
    b'"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
DONE = b"data: [DONE]\n\n"
MODELS = b'{"object":"list","data":[{"id":"tiny","object":"model","created":1,"owned_by":"bench"}]}'


class Connection(asyncio.Protocol):
    """One kept connection: a request after the other."""

    def __init__(self) -> None:
        self._head, self._received, self._left = b"", b"", 0
        self._has_head = False
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.Protocol`: who listened has gone."""
        if self._streaming:
            self._streaming.cancel()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._has_head:
            self._left -= len(data)
            self._received += data[: max(0, KEPT - len(self._received))]
        else:
            self._received += data
            self._find_head()
        if self._has_head and self._left <= 0:
            head, body, self._received, self._has_head = self._head, self._received, b"", False
            self._answer(head, body)

    def _find_head(self) -> None:
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end:
            length = LENGTH.search(head)
            self._head, self._received, self._has_head = head, body, True
            self._left = int(length[1] if length else 0) - len(body)

    def _answer(self, head: bytes, body: bytes) -> None:
        wish = WISH.search(body)
        if wish:
            has_usage = WITH_USAGE.search(body) is not None
            self._streaming = asyncio.ensure_future(
                self._stream(int(wish[1]), float(wish[2]), int(wish[3]), has_usage)
            )
            return
        text = MODELS if head.split(b" ", 2)[1].endswith(b"/models") else b'{"ok":true}'
        said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        self._transport.write(said % (len(text), text))

    async def _stream(self, events: int, gap: float, size: int, has_usage: bool) -> None:
        digest, due = hashlib.sha256(), time.monotonic()
        self._transport.write(HEAD)
        for number in range(events):
            text = (b"%d " % number).ljust(size, b"x")
            event = EVENT % (text, time.monotonic_ns())
            self._transport.write(chunk(event))
            digest.update(event)
            due += gap
            await asyncio.sleep(max(0.0, due - time.monotonic()) if gap else 0)
            await self._may_write.wait()
        end = EVENT % (digest.hexdigest().encode(), time.monotonic_ns())
        usage = chunk(USAGE % (events, events + 9)) if has_usage else b""
        self._transport.write(chunk(end) + usage + chunk(DONE) + b"0\r\n\r\n")


def chunk(data: bytes) -> bytes:
    """As HTTP/1.1 frames what has no length."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int) -> None:
    """Until the process ends."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    server = await asyncio.get_running_loop().create_server(Connection, sock=listener)
    await server.serve_forever()


def main(words: Sequence[str]) -> None:
    """Listen on the port that is named."""
    asyncio.run(serve(int(words[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
