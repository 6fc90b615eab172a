"""An HTTP server on a free port of loopback whose answers a test decides; it keeps what came."""

import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.support.ports import free_ports


class Message(NamedTuple):
    """What a listener received; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """What a listener answers; `hang_up` ends the connection without announcing it.

    A status of 0 is no answer at all: the connection ends.
    """

    status: int = 200
    content: bytes = b"{}"
    hang_up: bool = False
    location: str = ""


class Listener:
    """An HTTP server on a free port; `messages` is what came, in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[Message] = []
        self.connections = 0


@contextmanager
def listening(
    answer: Callable[[Message], Reply], port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Listener]:
    """A real listener that answers every message by `answer`; by TLS as `localhost`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        #: Head and body are two packets, and the second must not wait for the first one's answer.
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            listener.connections += 1

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            # The path as it was sent: the handler has made one slash of two.
            message = Message(self.command, self.requestline.split(" ")[1], headers, body)
            listener.messages.append(message)
            reply = answer(message)
            if reply.status == 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            if reply.location:
                self.send_header("Location", reply.location)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)
            self.close_connection = reply.hang_up

        do_GET = do_POST = do_PUT = respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def get_request(self) -> tuple[socket.socket, Any]:
            """The handshake is the business of the connection's own thread."""
            plain, address = super().get_request()
            if tls is None:
                return plain, address
            secured = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            return secured, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The other side left before the answer: some tests are about that."""

    with Server(("127.0.0.1", port or free_ports(1)[0]), Handler) as server:
        place = "https://localhost" if tls else "http://127.0.0.1"
        listener = Listener(f"{place}:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield listener
        finally:
            server.shutdown()
