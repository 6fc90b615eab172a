"""What several tests share: the real roles, a key file, good settings, and gateways that listen.

`GatewayModel` is the sync side of `openresty/lua/portero/{sync,active_tokens,keys}.lua`, in memory.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import settings as hypothesis_settings

from issuer import config
from issuer.keys.key_file import KeyFile
from issuer.policy import roles
from issuer.policy.roles import Roles

SYNC_KEY = "sync-key-of-the-tests-0123456789-abcdefghijk"
SECRET_KEY = "secret-key-of-the-tests-0123456789-" + "abcdefghijklmnopqrstuvwxyz" * 2
DEADLINE_SECONDS = 20.0
TOMBSTONE = -(2**50)

#: One user of every role, by the role's name.
USERS = {
    "agent_reasoning": "AGNRtest1",
    "agent_fast": "AGNFtest1",
    "agi": "AGIAtest1",
    "user": "USRStest1",
    "monitoring": "MNTRtest1",
    "admin": "ADMNtest1",
}


def password(username: str) -> str:
    """The secret of one of `USERS`."""
    return f"right secret of {username}"


# `make test` tries the same examples every time, so that a red run tells of the change that it
# tests; `make fuzz` tries many, and new ones. Neither is a matter of how quick the machine is.
hypothesis_settings.register_profile("test", derandomize=True, deadline=None)
hypothesis_settings.register_profile("fuzz", max_examples=5000, deadline=None)
hypothesis_settings.load_profile("fuzz" if os.environ.get("PORTERO_FUZZ") else "test")


def pytest_configure(config: pytest.Config) -> None:
    # A store's connections end with their threads; only Python 3.13 has a word for that. The
    # first line is for the tests, the second for what is collected after the last of them.
    config.addinivalue_line("filterwarnings", "ignore:unclosed database:ResourceWarning")
    warnings.filterwarnings("ignore", "unclosed database", ResourceWarning)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    waiting = threading.Event()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        waiting.wait(0.005)


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
def listening(answer: Callable[[Message], Reply], port: int = 0) -> Iterator[Listener]:
    """A real listener that answers every message by `answer`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            listener.connections += 1

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            message = Message(self.command, self.path, headers, body)
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

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The other side left before the answer: some tests are about that."""

    with Server(("127.0.0.1", port), Handler) as server:
        listener = Listener(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield listener
        finally:
            server.shutdown()


class GatewayModel:
    """A gateway's active-token set, its keys, and its four sync endpoints."""

    def __init__(self, most: int = 1_000_000, key: str = SYNC_KEY) -> None:
        self.most = most
        self.key = key
        self.restart()

    def restart(self) -> None:
        """Empty, as after a restart."""
        self.newest, self.least, self.position, self.epoch = 0, 0, 0, ""
        self.numbers: dict[str, int] = {}
        self.history, self.serial = "", 0
        #: kid -> algorithm and what verifies.
        self.keys: dict[str, tuple[str, bytes]] = {}

    def active(self) -> set[str]:
        """The tokens it would let pass."""
        return {jti for jti, number in self.numbers.items() if self.least and number >= self.least}

    def receive(self, method: str, path: str, content: Any) -> tuple[int, dict[str, Any]]:
        """Act on a message whose MAC holds."""
        status = 200
        if path == "/sync/apply":
            status = self._entries(content)
            if status == 200 and "position" in content:
                self.position, self.epoch = content["position"], content["epoch"]
        elif path == "/sync/snapshot":
            status = self._snapshot(content)
        elif path == "/sync/keys":
            status = self._keys(content)
        state = {"ready": self.least > 0 and bool(self.keys), "newest": self.newest}
        mark = f"{self.history}:{self.serial}" if self.keys else ""
        return status, state | {"epoch": self.epoch, "position": self.position, "keys": mark}

    def _keys(self, content: Any) -> int:
        if content["history"] == self.history and content["serial"] < self.serial:
            return 409
        try:
            listed = json.loads(unseal(self.key, content["sealed"]))["keys"]
        except (InvalidTag, ValueError):
            return 400
        self.history, self.serial = content["history"], content["serial"]
        self.keys = {one["kid"]: (one["alg"], base64.b64decode(one["key"])) for one in listed}
        return 200

    def _snapshot(self, content: Any) -> int:
        if content["step"] == "begin":
            self.newest += 1
            return 200
        if content["generation"] != self.newest:
            return 409
        if content["step"] == "part":
            return self._entries(content)
        self.position, self.epoch = content["position"], content["epoch"]
        self.least = content["generation"]
        return 200

    def _entries(self, content: Any) -> int:
        for jti, _ in content["revoke"]:
            self.numbers[jti] = TOMBSTONE
        for jti, _ in content["activate"]:
            if jti not in self.numbers and len(self.numbers) >= self.most:
                return 507
            if self.numbers.get(jti, 0) >= 0:
                self.numbers[jti] = self.newest
        return 200

    def answer(self, message: Message) -> Reply:
        """The same over HTTP, for a `listening` gateway."""
        if not is_authentic(message):
            return Reply(401)
        content = json.loads(message.body) if message.body else None
        status, state = self.receive(message.method, message.path, content)
        return Reply(status, json.dumps(state).encode())


def unseal(sync_key: str, sealed: str) -> bytes:
    """What `gateways.seal` has sealed, as a gateway opens it. Raises `InvalidTag`."""
    label = b"portero-keys-1"
    key = hmac.new(sync_key.encode(), label, hashlib.sha256).digest()
    raw = base64.b64decode(sealed, validate=True)
    return AESGCM(key).decrypt(raw[:12], raw[12:], label)


def is_authentic(message: Message, key: str = SYNC_KEY) -> bool:
    """Whether a message bears the MAC that the gateway asks for (docs/sync.md)."""
    sent_at = message.headers.get("x-portero-time", "0")
    head = "\n".join(("portero-sync-1", message.method, message.path, sent_at, ""))
    expected = hmac.new(key.encode(), head.encode() + message.body, hashlib.sha256).hexdigest()
    timely = abs(time.time_ns() - int(sent_at)) < 30 * 10**9
    return timely and hmac.compare_digest(expected, message.headers.get("x-portero-mac", ""))


@pytest.fixture(scope="session")
def all_roles() -> Roles:
    """The roles of the repository's own file."""
    return roles.parse(config.ROLES_FILE.read_text())


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    """A key file with one key, HS256, that signs."""
    made = KeyFile(tmp_path / config.KEY_FILE, "HS256", SECRET_KEY.encode(), lambda: 3600)
    made.prepare(int(time.time()))
    return made


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def hashed_users() -> str:
    """The lines of a credentials file with `USERS`."""
    salt = bcrypt.gensalt(10)
    return "".join(
        f"{name}={bcrypt.hashpw(password(name).encode(), salt).decode()}\n"
        for name in USERS.values()
    )


@pytest.fixture
def environ(tmp_path: Path, hashed_users: str, free_port: int) -> dict[str, str]:
    """Good settings, with a gateway that nobody has started."""
    (tmp_path / "credentials.env").write_text(hashed_users)
    return {
        "SECRET_KEY": SECRET_KEY,
        "SYNC_KEY": SYNC_KEY,
        "CREDENTIALS_FILE": str(tmp_path / "credentials.env"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/sessions.db",
        "GATEWAY_URLS": f"http://127.0.0.1:{free_port}",
    }
