"""One HTTP exchange, whole within its time: the connecting, the asking and the last byte of the
answer.

A time-out of a socket is for each read, so a link that carries a byte now and then would hold an
exchange for as long as it pleases. By https nothing is sent before the other side has shown a
certificate for its name. It must never try again, follow a redirect or go by a proxy.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

#: What an exchange that fails may raise; what is no address at all is a `ValueError`.
FAILURES = (OSError, HTTPException, ValueError)


class _Bounded(socket.socket):
    """A socket whose reads end, all together, at `end`."""

    end = 0.0

    def recv_into(self, *given: Any, **named: Any) -> int:
        self.settimeout(_left(self.end))
        return super().recv_into(*given, **named)


class _BoundedTls(ssl.SSLSocket):
    """The same over TLS, where a large message is sent piece by piece."""

    end = 0.0

    def recv_into(self, *given: Any, **named: Any) -> int:
        self.settimeout(_left(self.end))
        return super().recv_into(*given, **named)

    def send(self, *given: Any, **named: Any) -> int:
        self.settimeout(_left(self.end))
        return super().send(*given, **named)


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """What makes connections to servers that these authorities vouch for by name; None for those
    of the machine. Raises `OSError`.
    """
    context = ssl.create_default_context(cafile=ca_file)
    # What is taken shall not depend on the version of Python; a LAN's authority is seldom made to
    # the letter of RFC 5280.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.sslsocket_class = _BoundedTls
    return context


def showing(certificate: Path) -> ssl.SSLContext:
    """What makes connections to a server of this machine that shows this very certificate, for
    whatever name. Raises `OSError`.
    """
    context = trusting(certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Connection(HTTPConnection):
    """A connection that is kept for further exchanges; for one thread. By TLS where there is a
    `trust`.
    """

    sock: _Bounded | _BoundedTls | None

    def __init__(self, host: str, port: int | None, trust: ssl.SSLContext | None = None) -> None:
        self._trust = trust
        self.default_port = 443 if trust else 80
        super().__init__(host, port)

    def __del__(self) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, to read from no longer than an exchange may take."""
        began = time.monotonic()
        super().connect()
        assert self.sock
        if self._trust:
            plain, self.sock = self.sock, None
            plain.settimeout(_left(began + float(self.timeout or 0)))
            with plain:  # it is empty once TLS has taken its place
                self.sock = self._secured(self._trust, plain)
        else:
            self.sock = _Bounded(fileno=self.sock.detach())

    def _secured(self, trust: ssl.SSLContext, plain: socket.socket) -> _BoundedTls:
        secured = trust.wrap_socket(plain, server_hostname=self.host)
        assert isinstance(secured, _BoundedTls)
        return secured

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


def reason_of(error: Exception) -> str:
    """What a person must know of a failure that no trying again will mend; else nothing."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS fails ({error.reason}); does it speak TLS?"
    return ""


def _left(end: float) -> float:
    """How long until then; never nothing, which would say not to wait at all."""
    return max(end - time.monotonic(), 0.001)
