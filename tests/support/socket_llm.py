"""A scripted LLM server that speaks WebSocket, by the library that real clients use: it keeps the
heads of handshakes and how connections ended, and does what a client tells it.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

SESSION = {"type": "session.created", "event_id": "event_1", "session": {"type": "realtime"}}


@dataclass
class SocketLlm:
    """What it has seen, and how it answers handshakes: a status refuses them."""

    port: int = 0
    refuses: int | None = None
    seen: list[Request] = field(default_factory=list)
    #: Code and reason of each connection's end, as it came from the other side.
    ends: list[tuple[int | None, str]] = field(default_factory=list)
    #: Every message that came, in order.
    said: list[str | bytes] = field(default_factory=list)
    #: Connections that are open.
    open: list[ServerConnection] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Begin a test with a clean record."""
        self.seen.clear()
        self.ends.clear()
        self.said.clear()
        self.refuses = None

    def look(self, connection: ServerConnection, request: Request) -> Response | None:
        """Note a handshake, and refuse it if a status is set. It lists no models."""
        if "Upgrade" not in request.headers:
            return connection.respond(404, "")
        self.seen.append(request)
        return connection.respond(self.refuses, "CANARY") if self.refuses else None

    def talk(self, connection: ServerConnection) -> None:
        """Say hello as realtime does, then answer what comes: a command of the test, or the same
        again.
        """
        self.open.append(connection)
        try:
            if connection.request and "realtime" in connection.request.path:
                connection.send(json.dumps(SESSION))
            for message in connection:
                self._answer(connection, message)
        except ConnectionClosed:
            pass
        finally:
            self.open.remove(connection)
            close = connection.protocol.close_rcvd
            self.ends.append((close.code, close.reason) if close else (None, ""))

    def _answer(self, connection: ServerConnection, message: str | bytes) -> None:
        self.said.append(message)
        event = json.loads(message) if isinstance(message, str) and message[:1] == "{" else {}
        if event.get("type") == "session.update":
            connection.send(json.dumps({**event, "type": "session.updated", "event_id": "event_2"}))
        elif event.get("type") == "response.create" and "input" in event:
            said = {"object": "response", "id": f"resp_{len(self.said)}_{self.port}"}
            for kind in ("response.created", "response.completed"):
                connection.send(json.dumps({"type": kind, "response": said}))
        elif event.get("type") == "tell":
            for one in event["events"]:
                connection.send(json.dumps(one))
        elif event.get("type") == "parts":
            connection.send(iter(event["parts"]))
        elif event.get("type") == "flow":
            while True:
                connection.send(b"x" * event["size"])
        elif event.get("type") == "leave":
            connection.socket.shutdown(socket.SHUT_RDWR)
        elif event.get("type") == "close":
            connection.close(event["code"], "as told")
        else:
            connection.send(message)


@contextmanager
def socket_llm() -> Iterator[SocketLlm]:
    """Serve on a free port until the block ends."""
    llm = SocketLlm()
    server = serve(
        llm.talk, "127.0.0.1", 0, process_request=llm.look, max_size=None, compression=None
    )
    llm.port = server.socket.getsockname()[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield llm
    finally:
        server.shutdown()
        thread.join(10)
