"""A network link that a test can spoil: it stands between the issuer and a gateway's sync listener,
forwards connections, and may cut them, hold them, slow them down or lose some of them."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.ports import listen


@dataclass
class Link:
    """Listens on `port`, forwards to `target` on loopback. Attributes may be set at any time."""

    target: int
    #: "pass", "cut" (refused and reset), "hold" (accepted, nothing moves), "swallow" (the same, and
    #: what was sent meanwhile is lost with its connection), "trickle" (a byte a time), "lossy"
    #: (some connections are reset).
    mood: str = "pass"
    #: Before anything is forwarded.
    delay_seconds: float = 0.0
    loss: float = 0.3
    #: What passed towards the gateway, raw, of each connection: several talk at once.
    recorded: list[bytearray] = field(default_factory=list)
    #: What came back.
    answered: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(7)
        self._listener = listen()
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def become(self, mood: str, delay_seconds: float = 0.0) -> None:
        """Change the mood; a cut ends what is open."""
        self.mood, self.delay_seconds = mood, delay_seconds
        if mood == "cut":
            for one in list(self._open):
                _end(one)

    def close(self) -> None:
        """End all."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # who waits there is woken
        self._listener.close()
        for one in list(self._open):
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            lost = self.mood == "lossy" and self._random.random() < self.loss
            if self.mood == "cut" or lost:
                _end(client)
                continue
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            _end(client)
            return
        server.settimeout(None)
        self._open |= {client, server}
        if self._stopped.is_set():  # it was closed meanwhile, and did not see these two
            _end(client)
            _end(server)
            return
        threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()
        self._pump(client, server, True)

    def _pump(self, source: socket.socket, sink: socket.socket, forth: bool) -> None:
        said = bytearray()
        (self.recorded if forth else self.answered).append(said)
        try:
            while block := source.recv(65536):
                said += block
                self._pass(block, sink)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                self._open.discard(one)
                _end(one)

    def _pass(self, block: bytes, sink: socket.socket) -> None:
        """A mood counts for what is on its way too, so a link that is well again is so at once."""
        if self.mood == "swallow":
            self._stopped.wait()
        while self.mood == "hold" and not self._stopped.wait(0.02):
            pass
        if self.delay_seconds:
            self._stopped.wait(self.delay_seconds)
        while block:
            size = 1 if self.mood == "trickle" else len(block)
            sink.sendall(block[:size])
            block = block[size:]
            self._stopped.wait(0.02 if block else 0)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def linked(target: int) -> Iterator[Link]:
    """A link for the time of a `with`."""
    link = Link(target)
    try:
        yield link
    finally:
        link.close()
