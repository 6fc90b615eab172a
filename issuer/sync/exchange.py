"""One HTTP exchange, whole within its time: the connecting, the asking and the last byte of the
answer.

A time-out of a socket is for each read, so a link that carries a byte now and then would hold an
exchange for as long as it pleases. It must never try again, follow a redirect or go by a proxy.
"""

import socket
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

#: What an exchange that fails may raise; what is no address at all is a `ValueError`.
FAILURES = (OSError, HTTPException, ValueError)


class _Bounded(socket.socket):
    """A socket whose reads end, all together, at `end`."""

    end = 0.0

    def recv_into(self, *given: Any, **named: Any) -> int:
        self.settimeout(_left(self.end))
        return super().recv_into(*given, **named)


class Connection(HTTPConnection):
    """A connection that is kept for further exchanges; for one thread."""

    sock: _Bounded | None

    def __del__(self) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, to read from no longer than an exchange may take."""
        super().connect()
        assert self.sock
        self.sock = _Bounded(fileno=self.sock.detach())

    def exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], end: float
    ) -> tuple[int, bytes]:
        """The status and the content of the answer; raises one of `FAILURES` at `end`."""
        try:
            self.timeout = _left(end)
            if self.sock is None:
                self.connect()
            assert self.sock
            self.sock.end = end
            self.sock.settimeout(_left(end))
            self.request(method, path, body or None, headers)
            answer = self.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self.close()
            raise


def _left(end: float) -> float:
    """How long until then; never nothing, which would say not to wait at all."""
    return max(end - time.monotonic(), 0.001)
