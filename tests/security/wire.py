"""Raw HTTP/1.1 over kept-alive connections: bytes as they are, many requests at a time.

No client library sends what these tests must send, nor as fast.
"""

import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """One connection to `url`, made again when the other side has closed it."""

    url: str
    _socket: socket.socket | None = None
    _held: bytes = field(default=b"", repr=False)

    def ask(self, request: bytes) -> Answer:
        """One request, one answer."""
        return self.pipeline([request])[0]

    def pipeline(self, requests: Sequence[bytes]) -> list[Answer]:
        """Send all at once; the answers in order. After an answer that ends the connection, what is
        left is sent again on another.
        """
        answers: list[Answer] = []
        while len(answers) < len(requests):
            answers += self._some(requests[len(answers) :])
        return answers

    def send(self, requests: Sequence[bytes]) -> None:
        """Send, and leave the answers to `receive`."""
        with suppress(ConnectionResetError, BrokenPipeError):  # it may have answered already
            self._connected().sendall(b"".join(requests))

    def receive(self, count: int) -> list[Answer]:
        """As many answers, or fewer where the connection ended."""
        answers: list[Answer] = []
        while len(answers) < count:
            head = self._until(b"\r\n\r\n")
            if head is None:
                break
            answers.append(_answer(head, self._body(head)))
            if _CLOSE.search(head):
                self.close()
                break
        return answers

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._held = None, b""

    def _some(self, requests: Sequence[bytes]) -> list[Answer]:
        kept_alive = self._socket is not None
        self.send(requests)
        answers = self.receive(len(requests))
        assert answers or kept_alive, f"no answer to {requests[0][:200]!r}"
        if not answers:
            self.close()
        return answers

    def _connected(self) -> socket.socket:
        if self._socket is None:
            host, _, port = self.url.removeprefix("http://").rpartition(":")
            self._socket = socket.create_connection((host, int(port)), SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _until(self, end: bytes) -> bytes | None:
        while (at := self._held.find(end)) < 0:
            if not self._more():
                return None
        found, self._held = self._held[: at + len(end)], self._held[at + len(end) :]
        return found

    def _exactly(self, length: int) -> bytes:
        while len(self._held) < length and self._more():
            pass
        found, self._held = self._held[:length], self._held[length:]
        return found

    def _more(self) -> bool:
        if self._socket is None:
            return False
        try:
            block = self._socket.recv(1 << 18)
        except ConnectionResetError:
            block = b""
        self._held += block
        if not block:
            self._socket.close()
            self._socket = None
        return bool(block)

    def _body(self, head: bytes) -> bytes:
        if length := _LENGTH.search(head):
            return self._exactly(int(length[1]))
        body = b""
        while _CHUNKED.search(head):
            line = self._until(b"\r\n")
            size = int(line or b"0", 16)
            body += self._exactly(size + 2)[:size]
            if not size:
                break
        return body


def _answer(head: bytes, body: bytes) -> Answer:
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Answer(int(lines[0].split(" ")[1]), headers, body)
