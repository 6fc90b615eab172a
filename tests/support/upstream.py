"""A recording LLM server: keeps the raw bytes of every request, and does what a real one cannot be
asked to do (hang, die, send one event a moment, answer with hostile headers).

It is a fake for what must be provoked; real answers come from the bundled LLM.
"""

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.ports import listen
from tests.support.waiting import within

CHAT_ANSWER = {
    "id": "chat-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "pong"},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
MODELS_ANSWER = {
    "object": "list",
    "data": [{"id": "tiny", "object": "model", "created": 1, "owned_by": "test"}],
}
#: Path -> what an event of its stream is, whole.
EVENTS = {
    "/v1/chat/completions": re.compile(rb"data: \{.*\}\n\n"),
    "/api/chat": re.compile(rb"\{.*\}\n"),
}
#: For so long an event waits to be asked for.
ASKED_SECONDS = 20


@dataclass(frozen=True)
class Seen:
    """One request as it came: `head` is the raw head, `headers` in order, names in lower case."""

    head: bytes
    body: bytes
    at: float

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Spoken:
    """What is answered at a path in both ways: as one JSON text, and as the events of a stream,
    `Upstream.gap` seconds apart, to who asks for one.
    """

    plain: Any
    events: Sequence[str]


@dataclass
class Upstream:
    """Listens on `host`, on a port of its own. Attributes may be set at any time by a test."""

    host: str = "127.0.0.1"
    #: Streams: how many events, and the seconds between them.
    events: int = 5
    gap: float = 0.02
    #: What streams call themselves where it is not their own type; empty for no type at all.
    stream_type: str | None = None
    #: Released for each event that may be sent; `send_one_by_one` sets it.
    asked: threading.Semaphore | None = None
    #: Whether streams tell the length that they would have, and so come without chunks.
    tells_length: bool = False
    #: Sent in place of the usual answer: a whole raw response.
    raw_answer: bytes | None = None
    #: Path -> what is answered there in place of the usual: JSON, a text that streams as it is, or
    #: `Spoken`.
    answers: dict[str, Any] = field(default_factory=dict)
    #: "answer", "hang" (never says a word), "die in stream", and, behind `raw_answer` or without a
    #: word: "die" (closes), "reset" (breaks off).
    mood: str = "answer"
    seen: list[Seen] = field(default_factory=list)
    #: When a client was found gone in the middle of a stream.
    departures: list[float] = field(default_factory=list)
    #: When each event was sent.
    sent: list[float] = field(default_factory=list)
    #: What ended a connection that neither side has closed; for when a test fails.
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = listen(self.host, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def forget(self) -> None:
        """Begin a test with a clean record and the usual manners."""
        self.seen.clear()
        self.departures.clear()
        self.sent.clear()
        self.answers.clear()
        self.events, self.gap, self.raw_answer, self.mood = 5, 0.02, None, "answer"
        self.stream_type, self.tells_length, self.asked = None, False, None

    def send_one_by_one(self) -> None:
        """Have each event wait until the one before it has come whole; see `hear_one_by_one`."""
        self.asked = threading.Semaphore(1)

    def hear_one_by_one(self, read: Callable[[], bytes], path: str) -> None:
        """Read a stream of the path that is sent so: `read` waits in vain for what is held back."""
        assert self.asked
        received = b""
        for number in range(1, self.events + 1):
            while len(EVENTS[path].findall(received)) < number:
                block = read()
                assert block, f"the stream ended before event {number}"
                received += block
            self.asked.release()

    def close(self) -> None:
        """Stop listening and end every connection."""
        with suppress(OSError):
            # Who waits there is woken: close alone would leave the port to it.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def die(self) -> None:
        """As a server that is killed: nothing listens there, and every connection is over."""
        for one in (self._listener, *list(self._connections)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # who waits there is woken, as close alone does not
        self._listener.close()

    def come_back(self) -> None:
        """Listen again, at the same port."""
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # As real servers do: an event must not wait until the one before it is acknowledged.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            reader = connection.makefile("rb")
            while (seen := _read_request(reader)) is not None:
                self.seen.append(seen)
                if not self._answer(connection, seen):
                    return
        except (OSError, ValueError) as error:
            self.faults.append(f"{time.time():.3f} {error!r}")
        finally:
            self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, seen: Seen) -> bool:
        if self.mood == "die":
            connection.sendall(self.raw_answer or b"")
            return False
        if self.mood == "reset":
            connection.sendall(self.raw_answer or b"")
            _break_off(connection)
            return False
        if self.mood == "hang":
            connection.recv(1)
            return False
        if self.raw_answer is not None:
            connection.sendall(self.raw_answer)
            return True
        path = seen.target.partition("?")[0]
        if seen.line.startswith("HEAD "):
            connection.sendall(_json_response({}).partition(b"{")[0])
            return True
        told = self.answers.get(path)
        is_streamed = re.search(rb'"stream"\s*:\s*true', seen.body)
        if isinstance(told, Spoken) and is_streamed:
            return self._send(connection, path, [event.encode() for event in told.events], b"")
        if told is not None:
            plain = told.plain if isinstance(told, Spoken) else told
            connection.sendall(_as_told(plain, path))
            return True
        if is_streamed:
            return self._stream(connection, path)
        answer = MODELS_ANSWER if seen.target.endswith("/models") else CHAT_ANSWER
        connection.sendall(_json_response(answer))
        return True

    def _stream(self, connection: socket.socket, path: str) -> bool:
        ollama = path.startswith("/api/")
        # Made as they are sent: most streams of ten thousand events are left at the first.
        events = map(_ollama_line if ollama else _openai_event, range(self.events))
        return self._send(connection, path, events, b"" if ollama else b"data: [DONE]\n\n")

    def _send(
        self, connection: socket.socket, path: str, events: Iterable[bytes], end: bytes
    ) -> bool:
        framed: Callable[[bytes], bytes] = bytes if self.tells_length else _chunk
        events = list(events) if self.tells_length else events
        length = sum(map(len, [*events, end])) if self.tells_length else None
        connection.sendall(_stream_head(path, self.stream_type, length))
        try:
            for number, event in enumerate(events):
                if self.asked and not self.asked.acquire(timeout=within(ASKED_SECONDS)):
                    raise ConnectionResetError
                self.sent.append(time.time())
                connection.sendall(framed(event))
                if self.mood == "die in stream" and number == 1:
                    return False
                if _is_gone(connection, self.gap):
                    raise ConnectionResetError
            last = framed(end) if end else b""
            connection.sendall(last + (b"" if self.tells_length else b"0\r\n\r\n"))
        except OSError:
            self.departures.append(time.time())
            return False
        return True


def _break_off(connection: socket.socket) -> None:
    """Close with a reset, not with an end: what lies unread at the other side may be lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _is_gone(connection: socket.socket, seconds: float) -> bool:
    """Wait, and notice a peer that leaves meanwhile as a real server would."""
    connection.settimeout(max(seconds, 0.001))
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    finally:
        connection.settimeout(None)


def _read_request(reader: Any) -> Seen | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return None
        head += line
    length = re.search(rb"\r\ncontent-length:\s*(\d+)", head.lower())
    if length:
        body = reader.read(int(length[1]))
    elif b"transfer-encoding: chunked" in head.lower():
        body = _read_chunks(reader)
    else:
        body = b""
    return Seen(head[:-4], body, time.time())


def _read_chunks(reader: Any) -> bytes:
    body = b""
    while size := int(reader.readline().split(b";")[0], 16):
        body += reader.read(size)
        reader.readline()
    reader.readline()
    return body


def _json_response(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


def _as_told(answer: Any, path: str) -> bytes:
    """A status alone, JSON, or the events of a stream."""
    if isinstance(answer, int):
        body = b'{"error": "CANARY"}'
        return (
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (
                answer,
                len(body),
                body,
            )
        )
    if not isinstance(answer, list):
        return _json_response(answer)
    return _stream_head(path) + b"".join(_chunk(event.encode()) for event in answer) + b"0\r\n\r\n"


def _stream_head(path: str, kind: str | None = None, length: int | None = None) -> bytes:
    """In chunks, unless the length is told; a kind that is empty is none at all."""
    if kind is None:
        kind = "application/x-ndjson" if path.startswith("/api/") else "text/event-stream"
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 200 OK\r\n{typed}{framing}\r\n\r\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _openai_event(number: int) -> bytes:
    delta = {
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": str(number)}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


def _ollama_line(number: int) -> bytes:
    return json.dumps({"model": "tiny", "message": {"content": str(number)}}).encode() + b"\n"


@contextmanager
def recording(host: str = "127.0.0.1") -> Iterator[Upstream]:
    """An upstream for the time of a `with`."""
    upstream = Upstream(host)
    try:
        yield upstream
    finally:
        upstream.close()
