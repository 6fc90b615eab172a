"""Streams: event by event, and the LLM server stops when the client leaves."""

import json
import socket
import time

import pytest

from tests.deployment import CHAT, Caller
from tests.upstream import Upstream, wait_for

STREAMED = {"/v1/chat/completions": b"[DONE]", "/api/chat": b'"4"'}


def open_stream(caller: Caller, token: str, path: str) -> socket.socket:
    body = json.dumps({**CHAT, "stream": True}).encode()
    host, _, port = caller.deployment.gateway.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("path", STREAMED)
def test_events_arrive_one_by_one_as_they_are_sent(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    upstream.gap = 0.2
    received, arrivals = b"", []
    with open_stream(caller, agent, path) as connection:
        while STREAMED[path] not in received:
            received += connection.recv(65536)
            arrivals.append(time.time())
    assert len(arrivals) >= 5
    delays = [arrived - sent for sent, arrived in zip(upstream.sent, arrivals, strict=False)]
    assert max(delays) < 0.15, "an event was held back"


def test_the_upstream_sees_the_client_leave_within_a_second(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.events, upstream.gap = 1000, 0.05
    with open_stream(caller, agent, "/v1/chat/completions") as connection:
        connection.recv(4096)
    left = time.time()
    wait_for(lambda: upstream.departures, 5, "the upstream noticed")
    assert upstream.departures[0] - left < 1.0


def test_a_stream_whose_server_dies_has_no_false_end(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.mood = "die in stream"
    received = b""
    with open_stream(caller, agent, "/v1/chat/completions") as connection:
        while block := connection.recv(65536):
            received += block
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
