"""Streams: event by event, cut when their token is revoked, and never with a false end."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import openai
import pytest

from tests.support.deployment import CHAT, Caller, Deployment
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

#: Paths that are sent as they come, and aliases, which another location asks for -> the server's.
STREAMED = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/api/chat": "/api/chat",
    "/llm/chat/completions": "/v1/chat/completions",
    "/llm/api/chat": "/api/chat",
}


def open_stream(caller: Caller, token: str, path: str) -> socket.socket:
    body = json.dumps({**CHAT, "stream": True}).encode()
    host, _, port = caller.deployment.gateway.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        # An answer that is no stream ends the connection too, and is seen.
        "Connection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("path", STREAMED)
def test_each_event_arrives_before_the_next_one_is_sent(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    upstream.send_one_by_one()
    with open_stream(caller, agent, path) as connection:
        upstream.hear_one_by_one(lambda: connection.recv(65536), STREAMED[path])


@pytest.mark.parametrize("path", STREAMED)
def test_the_upstream_sees_the_client_leave_within_a_second(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    upstream.events, upstream.gap = 1000, 0.05
    with open_stream(caller, agent, path) as connection:
        connection.recv(4096)
    left = time.time()
    wait_for(lambda: upstream.departures, 5, "the upstream noticed")
    assert upstream.departures[0] - left < within(1)


def read_to_end(connection: socket.socket) -> tuple[bytes, float]:
    """All that comes, and when the last of it came."""
    received, at = b"", time.time()
    while block := connection.recv(65536):
        received += block
        at = time.time()
    return received, at


def cut_by_logout(caller: Caller, upstream: Upstream, path: str) -> tuple[bytes, float]:
    """What comes of a running stream once its token is revoked, and for how many seconds."""
    upstream.events, upstream.gap = 2000, 0.05
    token = caller.token("AGNRTEST01")
    with open_stream(caller, token, path) as connection:
        connection.recv(4096)
        wait_for(lambda: len(upstream.sent) > 5, 5, "the stream runs")
        assert caller.call(token, "/logout").status_code == 204
        revoked = time.time()
        received, ended = read_to_end(connection)
    return received, ended - revoked


@pytest.mark.parametrize("path", STREAMED)
def test_a_revoked_tokens_stream_is_cut_within_a_second_with_the_dialects_error(
    caller: Caller, upstream: Upstream, path: str
) -> None:
    received, seconds = cut_by_logout(caller, upstream, path)
    error = (
        b'{"error":"The token was revoked."}' if path.endswith("/api/chat") else b"invalid_api_key"
    )
    last_event = received.strip(b"\r\n0").rsplit(
        b"data: " if not path.endswith("/api/chat") else b"\n", 1
    )[-1]
    assert error in last_event
    assert not received.endswith(b"0\r\n\r\n"), "the cut can be seen"
    assert seconds < within(1.2)
    wait_for(lambda: upstream.departures, 2, "the upstream is stopped")


#: What LLM servers have been seen to call a stream, and what they might.
TYPES = [
    "text/event-stream",
    "application/x-ndjson",
    "text/plain; charset=utf-8",
    "application/json",
    "application/octet-stream",
    "audio/mpeg",
    "",
]


@pytest.mark.parametrize("tells_length", [False, True])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_revoked_tokens_stream_is_cut_whatever_it_is_called_s1(
    caller: Caller, upstream: Upstream, path: str, kind: str, tells_length: bool
) -> None:
    upstream.stream_type, upstream.tells_length = kind, tells_length
    received, seconds = cut_by_logout(caller, upstream, path)
    assert seconds < within(1.2)
    assert not received.endswith(b"0\r\n\r\n"), "the cut can be seen"
    wait_for(lambda: upstream.departures, 2, "the upstream is stopped")
    is_told = b"The token was revoked." in received
    said_by_its_path = path == "/api/chat" or kind.startswith(("text/", "application/x-ndjson"))
    # The event that tells the usage is taken out of OpenAI's, which so has no length any more.
    keeps_length = tells_length and path == "/api/chat"
    assert is_told == (not keeps_length and (said_by_its_path or not kind))


@pytest.mark.in_containers_too
def test_a_stream_outlives_its_token_unless_the_role_says_otherwise(
    anew: Callable[..., AbstractContextManager[Deployment]], upstream: Upstream
) -> None:
    upstream.events, upstream.gap = 60, 0.1
    with anew(TOKEN_TTL_SECONDS="2") as deployment:
        caller = Caller(deployment)
        with open_stream(caller, caller.token("AGNRTEST01"), "/v1/chat/completions") as connection:
            received = b""
            while not received.endswith(b"0\r\n\r\n") and (block := connection.recv(65536)):
                received += block
    assert b"[DONE]" in received
    assert received.endswith(b"0\r\n\r\n")


def test_the_openai_client_raises_when_its_stream_is_cut(
    caller: Caller, upstream: Upstream
) -> None:
    upstream.events, upstream.gap = 2000, 0.05
    token = caller.token("AGNRTEST01")
    with openai.OpenAI(base_url=f"{caller.deployment.gateway}/v1", api_key=token) as client:
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        next(stream)
        assert caller.call(token, "/logout").status_code == 204
        with pytest.raises(openai.APIError, match="revoked"):
            for _ in stream:
                pass


@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_whose_server_dies_ends_with_the_dialects_error(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    upstream.mood = "die in stream"
    with open_stream(caller, agent, path) as connection:
        received, _ = read_to_end(connection)
    assert b"The LLM server cannot be reached." in received
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
