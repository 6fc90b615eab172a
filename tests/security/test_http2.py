"""HTTP/2 (threats H14, H15), where TLS is: what only its frames can say is refused, and is no
request to the LLM server.
"""

import socket
import ssl
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest

from issuer import certificates
from tests.support.deployment import Caller, Local, deployed
from tests.support.upstream import Upstream, recording

Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Local, Upstream, str]]:
    folder = tmp_path_factory.mktemp("tls")
    folder.chmod(0o755)
    made = certificates.make(folder / "tls", ("127.0.0.1",))
    settings = {"TLS_CERTIFICATE": str(made.certificate), "TLS_CERTIFICATE_KEY": str(made.key)}
    with recording() as upstream, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(made.authority))
        with deployed(upstream.url, COOKIE_SECURE="true", **settings) as running:
            yield running, upstream, Caller(running).token("AGIATEST01")


class Connection:
    """One connection that checks nothing of what it sends."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("https://").split(":")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host, int(port)), 10)
        self._socket = context.wrap_socket(plain, server_hostname=host)
        unchecked = h2.config.H2Configuration(
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            header_encoding="utf-8",
        )
        self.frames = h2.connection.H2Connection(unchecked)
        self.frames.initiate_connection()

    def flush(self) -> None:
        self._socket.sendall(self.frames.data_to_send())

    def ask(self, headers: Headers, body: bytes | None = None) -> int:
        """The status of the answer; 0 where the stream or the connection was ended."""
        stream = self.frames.get_next_available_stream_id()
        self.frames.send_headers(stream, headers, end_stream=body is None)
        if body is not None:
            self.frames.send_data(stream, body, end_stream=True)
        self.flush()
        return self._status(stream)

    def _status(self, stream: int) -> int:
        ended = (h2.events.StreamReset, h2.events.ConnectionTerminated)
        while block := self._socket.recv(1 << 16):
            for event in self.frames.receive_data(block):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                    return int((event.headers or [])[0][1])
                if isinstance(event, ended):
                    return 0
        return 0

    def close(self) -> None:
        self._socket.close()


CHAT = b'{"model":"tiny","messages":[]}'


def head(token: str, *more: tuple[str, str], path: str = "/v1/chat/completions") -> Headers:
    own = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", path)]
    return [*own, ("authorization", f"Bearer {token}"), ("content-type", "application/json"), *more]


BENT: dict[str, tuple[tuple[str, str], ...]] = {
    "a length that is too long": (("content-length", "100"),),
    "a length that is too short": (("content-length", "3"),),
    "two lengths": (("content-length", "30"), ("content-length", "31")),
    "capitals": (("X-Auth-Role", "admin"),),
    "a line end in a value": (("x-a", "b\r\nx-auth-role: admin"),),
    "a line end in a name": (("x-a\r\nx-auth-role", "admin"),),
    "NUL": (("x-a", "b\0c"),),
    "two credentials": (("authorization", "Bearer x"),),
    "two authorities": ((":authority", "y"),),
    "two paths": ((":path", "/admin/"),),
    "another host": (("host", "evil.example"),),
    "a second cookie": (("cookie", "auth_token=x"),),
}
HARMLESS: dict[str, tuple[tuple[str, str], ...]] = {
    "transfer-encoding": (("transfer-encoding", "chunked"),),
    "connection": (("connection", "close, x-auth-user"),),
    "upgrade": (("upgrade", "websocket"),),
    "te": (("te", "trailers"),),
    "identity": (("x-auth-user", "root"), ("x-auth-role", "admin")),
}


@pytest.mark.parametrize("what", BENT | HARMLESS)
def test_h14_what_only_frames_can_say_is_refused_or_without_effect(
    served: tuple[Local, Upstream, str], what: str
) -> None:
    running, upstream, token = served
    upstream.forget()
    workers = running.workers("gateway")
    connection = Connection(running.gateway)
    status = connection.ask(head(token, *(BENT | HARMLESS)[what]), CHAT)
    connection.close()
    if what in BENT and what != "another host":
        assert status in (0, 400, 401)
        assert upstream.seen == []
    else:
        assert status in (0, 200, 400)
        assert len(upstream.seen) == (status == 200)
    for one in upstream.seen:
        assert one.values("x-auth-role") == ["agi"]
        assert not any(one.values(name) for name in ("te", "upgrade", "transfer-encoding"))
    assert running.workers("gateway") == workers


@pytest.mark.parametrize(
    "path", ["/v1/../admin/", "//v1/models", "/v1/chat completions", "/x\r\ny: z", "*", ""]
)
def test_h14_a_path_is_judged_as_over_http_1(
    served: tuple[Local, Upstream, str], path: str
) -> None:
    running, upstream, token = served
    upstream.forget()
    connection = Connection(running.gateway)
    assert connection.ask(head(token, path=path), CHAT) in (0, 400, 404)
    connection.close()
    assert upstream.seen == []


def test_h15_streams_that_are_reset_by_the_thousand_hold_nobody_up(
    served: tuple[Local, Upstream, str],
) -> None:
    running, _, token = served
    workers = running.workers("gateway")
    for _ in range(3):
        connection = Connection(running.gateway)
        try:
            for _ in range(1000):
                stream = connection.frames.get_next_available_stream_id()
                connection.frames.send_headers(stream, head(token))
                connection.frames.reset_stream(stream)
            connection.flush()
        except OSError:
            pass  # it had enough
        connection.close()
    connection = Connection(running.gateway)
    assert connection.ask(head(token), CHAT) == 200
    connection.close()
    assert running.workers("gateway") == workers
