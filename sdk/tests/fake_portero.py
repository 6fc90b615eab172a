"""A gateway's public listener in memory: logs in, judges tokens by the clock it is given, answers
chats. What a real one cannot be asked to do can be provoked here.

`tests/stack/clients/test_sdk_contract.py` asks it and a real gateway the same questions; it must
never answer any of them in another way.
"""

import base64
import json
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from tests.support.ports import free_ports

USERNAME, SECRET = "AGNRXYZ456", "canary-secret-53a1"
ROLES = {
    "AGNR": ("agent_reasoning", "/llm/login"),
    "AGNF": ("agent_fast", "/llm/login"),
    "AGIA": ("agi", "/agi/login"),
    "USRS": ("user", "/login"),
    "MNTR": ("monitoring", "/login"),
    "ADMN": ("admin", "/admin/login"),
}
MODEL = "tiny"
TOKEN = "canary-token-"


@dataclass(frozen=True)
class Reply:
    """An answer as it goes out; a stream's pieces go out one by one."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[str, ...] = ()
    #: Whether the connection breaks behind the last piece.
    breaks: bool = False
    #: Whether it breaks before a word is said.
    hangs_up: bool = False
    #: In place of `body`: what is no JSON.
    raw: bytes | None = None


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def refusal(status: int, code: str, message: str, **headers: str) -> Reply:
    """An error in OpenAI's dialect, as the gateway tells it."""
    body = {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, {"x-portero-code": code, **named})


WRONG = refusal(401, "invalid_api_key", "Wrong.", WWW_Authenticate='Basic realm="portero"')
WRONG_CLIENT = Reply(
    401,
    {"error": "invalid_client", "error_description": "Invalid credentials."},
    {"x-portero-code": "invalid_api_key"},
)
ELSEWHERE = refusal(403, "insufficient_permissions", "Your role logs in at another address.")
NOT_FOUND = refusal(404, "not_found", "No such route.")
NOT_READY = refusal(503, "not_ready", "Not ready yet; try again shortly.", Retry_After="1")
CAPACITY = refusal(503, "capacity", "No more tokens may be active.", Retry_After="1")
TOO_MANY = refusal(429, "rate_limit_exceeded", "As many tokens as allowed.", Retry_After="1")
EXPIRED = refusal(401, "invalid_api_key", "token expired", x_should_retry="true")
REFUSED = refusal(401, "invalid_api_key", "Invalid or missing token.")


def chunk(text: str, reason: str | None = None) -> str:
    """An event of a chat's stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'c', 'model': MODEL, 'choices': [choice]})}\n\n"


DONE = "data: [DONE]\n\n"
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "pong"}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
COMPLETION = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "pong"}]}
EMBEDDINGS = {
    "object": "list",
    "data": [
        {"object": "embedding", "index": 1, "embedding": [0.25, 0.5]},
        {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]},
    ],
}
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
OPEN = {"/healthz": "ok", "/readyz": "ready"}
ANSWERS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/models": MODELS,
    "/health": {"status": "ok"},
}


class FakePortero:
    """Attributes may be set at any time by a test."""

    def __init__(self, now: Callable[[], float], tls: ssl.SSLContext | None = None) -> None:
        self._now = now
        self._scheme = "https://localhost" if tls else "http://127.0.0.1"
        self._lock = threading.Lock()
        self.secrets = {USERNAME: SECRET}
        self.ttl_seconds = 120
        #: The absolute time of tokens is of another clock than the client's.
        self.skew_seconds = 3600.0
        self.has_oauth = False
        #: Replies to give at a path before the usual ones, or what makes them.
        self.scripted: dict[str, list[Reply | Callable[[], Reply]]] = {}
        self.asked: list[Asked] = []
        self.statuses: Counter[int] = Counter()
        self.live: dict[str, float] = {}
        self.revoked: set[str] = set()
        #: The Date header; empty for the real one.
        self.date = ""
        self.name_token = (TOKEN + "{}").format
        #: When set, logins wait until it is.
        self.gate: threading.Event | None = None
        self.logins = 0
        self._server = _Server(("127.0.0.1", free_ports(1)[0]), _Handler)
        self._server.portero = self
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"{self._scheme}:{self.port}"

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> "FakePortero":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What it answers.

    def reply(self, asked: Asked) -> Reply:
        path = asked.path.partition("?")[0]
        with self._lock:
            self.asked.append(asked)
            waiting = self.scripted.get(path)
            scripted = waiting.pop(0) if waiting else None
        answer = scripted() if callable(scripted) else scripted or self._usual(asked, path)
        with self._lock:
            self.statuses[answer.status] += 1
        return answer

    def _usual(self, asked: Asked, path: str) -> Reply:
        if asked.method == "POST" and path in (*dict(ROLES.values()).values(), "/oauth/token"):
            return self._login(asked, path)
        if path in OPEN:
            return Reply(200, {"status": OPEN[path]})
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        refused = self._verdict(token)
        if refused:
            return refused
        if path == "/logout":
            self.revoked.add(token)
            return Reply(204)
        if path == "/v1/chat/completions" and json.loads(asked.body or b"{}").get("stream"):
            return Reply(pieces=(chunk("pong"), chunk("pong", "stop"), DONE))
        return Reply(200, ANSWERS[path]) if path in ANSWERS else NOT_FOUND

    def _verdict(self, token: str) -> Reply | None:
        with self._lock:
            if token in self.revoked or token not in self.live:
                return REFUSED
            return EXPIRED if self._now() >= self.live[token] else None

    def revoke_all(self) -> None:
        """As an admin does."""
        with self._lock:
            self.revoked |= set(self.live)

    def _login(self, asked: Asked, path: str) -> Reply:
        if self.gate is not None:
            assert self.gate.wait(20), "nobody opened the gate"
        if path == "/oauth/token" and not self.has_oauth:
            return NOT_FOUND
        name, secret = _credentials(asked)
        if self.secrets.get(name) != secret:
            return WRONG_CLIENT if path == "/oauth/token" else WRONG
        role, endpoint = ROLES.get(name[:4], ("tool", path))
        if path not in (endpoint, "/oauth/token"):
            return ELSEWHERE
        return self._granted(path, role)

    def _granted(self, path: str, role: str) -> Reply:
        with self._lock:
            self.logins += 1
            token = self.name_token(self.logins)
            # The time of issue is a floored second.
            self.live[token] = int(self._now()) + self.ttl_seconds
        if path == "/oauth/token":
            body = {"access_token": token, "token_type": "Bearer", "expires_in": self.ttl_seconds}
            return Reply(200, body)
        if path.endswith("llm/login") or path == "/agi/login":
            ends = int(self._now() + self.skew_seconds + self.ttl_seconds)
            body = {"token": token, "token_type": "Bearer", "expires_in": ends, "expires_at": ends}
            return Reply(200, {**body, "ttl_seconds": self.ttl_seconds, "role": role})
        cookie = f"auth_token={token}; Max-Age={self.ttl_seconds}; HttpOnly; Path=/; SameSite=Lax"
        return Reply(200, {"redirect": "/"}, {"Set-Cookie": cookie})


def _credentials(asked: Asked) -> tuple[str, str]:
    given = asked.headers.get("authorization", "")
    if given.startswith("Basic "):
        name, _, secret = base64.b64decode(given[6:]).decode().partition(":")
        return name, secret
    form = parse_qs(asked.body.decode())
    names = ("client_id", "client_secret") if "client_id" in form else ("username", "password")
    name, secret = (form.get(field, [""])[0] for field in names)
    return name, secret


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    portero: FakePortero

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets
    server: _Server

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, b"".join(self._body(headers)))
        self._send(self.server.portero.reply(asked))

    do_GET = do_POST = do_DELETE = do_HEAD = do_CONNECT = _serve  # noqa: N815 - the library's own names

    def _body(self, headers: Mapping[str, str]) -> Iterator[bytes]:
        if "chunked" not in headers.get("transfer-encoding", ""):
            yield self.rfile.read(int(headers.get("content-length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, reply: Reply) -> None:
        if reply.hangs_up:
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        kind = "text/event-stream" if reply.pieces else "application/json"
        headers = {
            "x-request-id": "request-1",
            "Date": self.server.portero.date or self.date_time_string(),
            **({} if reply.status == 204 else {"Content-Type": kind}),
            **reply.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.pieces:
            self._stream(reply)
            return
        body = b"" if reply.body is None else json.dumps(reply.body).encode()
        body = body if reply.raw is None else reply.raw
        if reply.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, reply: Reply) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in reply.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece.encode()), piece.encode()))
        if reply.breaks:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
