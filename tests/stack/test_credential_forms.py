"""Every way to carry a credential, to the gateway, to what the issuer answers behind it, and to
`/validate`: one verdict.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.credential_forms import (
    AUTHORIZATION,
    BAD,
    COOKIE,
    KEY,
    SEVERAL,
    Request,
    every_pair,
)
from tests.support.deployment import Caller, Deployment
from tests.support.upstream import Upstream

#: What the gateway may say to what is read; of two bad ones it depends on how they are bad.
STATUSES = {"{T}": {200}, "{U}": {401}, "": {401}, BAD: {400, 401}, SEVERAL: {400}}
NONE = Request(AUTHORIZATION[0], KEY[0], COOKIE[0])
#: Each form alone.
ALONE = [
    *(NONE.with_(authorization=form) for form in AUTHORIZATION),
    *(NONE.with_(key=form) for form in KEY),
    *(NONE.with_(cookie=form) for form in COOKIE),
]


class Tokens(NamedTuple):
    """What `{T}` and `{U}` stand for."""

    live: str
    other: str


class Wire:
    """A kept connection, on which header lines go as they are."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 80)
        self._socket: socket.socket | None = None
        self._received = b""

    def status(self, line: str, request: Request, tokens: Tokens) -> int:
        """The status of one request; the rest of the answer is read over."""
        lines = [f"{line} HTTP/1.1", "Host: x", "Content-Length: 0"]
        for name, value in request.headers():
            filled = value.replace("{T}", tokens.live).replace("{U}", tokens.other)
            lines.append(f"{name}:{' ' if filled[:1] != chr(9) else ''}{filled}")
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=10)
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = self._until(b"\r\n\r\n").lower()
        self._skip_body(head)
        if b"connection: close" in head:
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        """Begin anew with the next request."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received = None, b""

    def _skip_body(self, head: bytes) -> None:
        if b"transfer-encoding: chunked" in head:
            while size := int(self._until(b"\r\n"), 16):
                self._take(size + 2)
            self._take(2)
            return
        _, _, length = head.partition(b"content-length:")
        self._take(int(length.split()[0]) if length else 0)

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        found, _, self._received = self._received.partition(end)
        return found

    def _take(self, size: int) -> None:
        while len(self._received) < size:
            self._receive()
        self._received = self._received[size:]

    def _receive(self) -> None:
        assert self._socket is not None
        block = self._socket.recv(65536)
        assert block, "the connection ended within an answer"
        self._received += block


@contextmanager
def wires(*urls: str) -> Iterator[Sequence[Wire]]:
    found = [Wire(url) for url in urls]
    try:
        yield found
    finally:
        for wire in found:
            wire.close()


@pytest.fixture
def tokens(caller: Caller) -> Tokens:
    """Those of an admin, who may go everywhere; the other one is authentic, and revoked."""
    live, other = caller.token("ADMNTEST01"), caller.token("ADMNTEST01")
    assert caller.call(other, "/logout").status_code == 204
    return Tokens(live, other)


def wrong(
    deployment: Deployment, tokens: Tokens, line: str, requests: Iterable[Request]
) -> list[tuple[str, int, int]]:
    """The requests whose status is not that of what is read, at the gateway or at `/validate`."""
    found, count = [], 0
    with wires(deployment.gateway, deployment.issuer) as (gateway, issuer):
        for request in requests:
            said = gateway.status(line, request, tokens)
            validated = issuer.status("GET /validate", request, tokens)
            is_good = request.read == "{T}"
            if said not in STATUSES[request.read] or validated != (200 if is_good else 401):
                found.append((request.name, said, validated))
            count += 1
    assert count > 50
    return found


def test_every_pair_of_forms_has_one_verdict_at_the_gateway_and_at_validate_h4_h8_q3(
    deployment: Deployment, tokens: Tokens, upstream: Upstream
) -> None:
    assert wrong(deployment, tokens, "GET /health", every_pair()) == []
    assert len(upstream.seen) == sum(request.read == "{T}" for request in every_pair())


def test_the_issuer_behind_the_gateway_reads_every_form_as_the_gateway_does_h4_h8_q3(
    deployment: Deployment, tokens: Tokens
) -> None:
    assert wrong(deployment, tokens, "GET /admin/api/sessions", ALONE) == []


@pytest.mark.parametrize("side", ["gateway", "issuer"])
def test_logout_reads_every_form_as_the_gateway_does_h4_h8_q3(
    deployment: Deployment, caller: Caller, side: str
) -> None:
    token = ""
    with wires(getattr(deployment, side)) as (wire,):
        for request in ALONE:
            if not token:
                token = caller.token("ADMNTEST01")
            status = wire.status("POST /logout", request, Tokens(token, "x"))
            if request.read == "{T}":
                assert status == 204, request.name
                assert caller.validate(token) == 401
                token = ""
            else:
                assert status in (400, 401), request.name
                assert caller.validate(token) == 200


def test_a_header_of_fifteen_kilobytes_is_read_on_both_sides_q3(
    deployment: Deployment, tokens: Tokens
) -> None:
    long = COOKIE[1]._replace(lines=["x=" + "y" * 15_000, "auth_token={T}"])
    joined = COOKIE[1]._replace(lines=["x=" + "y" * 15_000 + "; auth_token={T}"])
    with wires(deployment.gateway, deployment.issuer) as (gateway, issuer):
        for form in (long, joined):
            request = NONE.with_(cookie=form)
            assert gateway.status("GET /admin/api/sessions", request, tokens) == 200
            assert issuer.status("GET /validate", request, tokens) == 200
