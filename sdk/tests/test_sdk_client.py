"""The thin clients, sync and async: what is sent and comes back, what is waited out, streams."""

import asyncio
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fake_portero import (
    CHAT,
    DONE,
    EXPIRED,
    MODEL,
    NOT_FOUND,
    NOT_READY,
    REFUSED,
    SECRET,
    USERNAME,
    FakePortero,
    Reply,
    chunk,
    refusal,
)
from forked import holds_in_a_child
from set_clock import SetClock

from portero import (
    APIError,
    AsyncPortero,
    Event,
    InvalidRequest,
    NotFound,
    Portero,
    QuotaSpent,
    RateLimited,
    StreamCut,
    TokenExpired,
    TokenRefused,
    TokenSource,
    TransportError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

NewSource = Callable[..., TokenSource]
Asks = Callable[..., Any]
PATH = "/v1/chat/completions"
SLOW = refusal(429, "rate_limit_exceeded", "Too many.", Retry_After="7")
SPENT = refusal(429, "insufficient_quota", "Spent.", x_should_retry="false", Retry_After="1")
AWAY = refusal(502, "upstream_unavailable", "Away.")
LATE = refusal(504, "upstream_timeout", "Late.")


def sync(source: TokenSource, name: str, *words: Any, **options: Any) -> Any:
    with Portero(source) as client:
        return getattr(client, name)(*words, **options)


def asynchronous(source: TokenSource, name: str, *words: Any, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncPortero(source) as client:
            return await getattr(client, name)(*words, **options)

    return asyncio.run(ask())


def streamed(source: TokenSource, leaves_after: int = 99) -> list[str]:
    with Portero(source) as client, client.stream_chat(MODEL, "hi") as stream:
        texts = []
        for text in stream:
            texts.append(text)
            if len(texts) == leaves_after:
                break
        assert stream.text == "".join(texts)
        assert stream.request_id == "request-1"
        return texts


def asynchronously_streamed(source: TokenSource, leaves_after: int = 99) -> list[str]:
    async def ask() -> list[str]:
        texts = []
        async with AsyncPortero(source) as client, client.stream_chat(MODEL, "hi") as stream:
            async for text in stream:
                texts.append(text)
                if len(texts) == leaves_after:
                    break
            assert stream.text == "".join(texts)
            assert stream.request_id == "request-1"
        return texts

    return asyncio.run(ask())


both = pytest.mark.parametrize("asks", [sync, asynchronous], ids=["sync", "async"])
both_streams = pytest.mark.parametrize(
    "streams", [streamed, asynchronously_streamed], ids=["sync", "async"]
)

# name, arguments, method and path, JSON body.
CALLS: list[tuple[str, tuple[Any, ...], str, str, str]] = [
    (
        "chat",
        (MODEL, "hi"),
        "POST",
        PATH,
        '{"model":"tiny","messages":[{"role":"user","content":"hi"}]}',
    ),
    (
        "chat",
        (MODEL, [{"role": "user"}]),
        "POST",
        PATH,
        '{"model":"tiny","messages":[{"role":"user"}]}',
    ),
    ("complete", (MODEL, "hi"), "POST", "/v1/completions", '{"model":"tiny","prompt":"hi"}'),
    ("embed", (MODEL, ["a", "b"]), "POST", "/v1/embeddings", '{"model":"tiny","input":["a","b"]}'),
    ("embed", (MODEL, "a"), "POST", "/v1/embeddings", '{"model":"tiny","input":"a"}'),
    ("models", (), "GET", "/v1/models", ""),
    ("health", (), "GET", "/health", ""),
    (
        "request",
        ("POST", "/v1/chat/completions", {"a": 1}, {"q": "1"}),
        "POST",
        PATH + "?q=1",
        '{"a":1}',
    ),
]


@pytest.mark.parametrize(("name", "words", "method", "path", "body"), CALLS)
@both
def test_each_call_asks_as_the_gateway_is_asked(
    source: TokenSource,
    gateway: FakePortero,
    asks: Asks,
    name: str,
    words: tuple[Any, ...],
    method: str,
    path: str,
    body: str,
) -> None:
    answer = asks(source, name, *words)
    asked = gateway.asked[-1]
    assert (asked.method, asked.path, asked.body.decode()) == (method, path, body)
    assert asked.headers["accept"] == "application/json"
    assert (answer.status, answer.request_id) == (200, "request-1")


NEW_CALLS: list[tuple[str, tuple[Any, ...], str, str]] = [
    ("account", (), "GET", "/account"),
    ("usage", (), "GET", "/account/usage"),
    (
        "usage",
        ("2026-11-01", "2026-11-25", ["model", "day"]),
        "GET",
        "/account/usage?from=2026-11-01&to=2026-11-25&by=model%2Cday",
    ),
    ("keys", (), "GET", "/account/keys"),
    ("create_key", ("notebook", 7, [MODEL]), "POST", "/account/keys"),
    ("create_key", ("notebook", 7), "POST", "/account/keys"),
    ("revoke_key", ("a/b",), "DELETE", "/account/keys/a%2Fb"),
]


@pytest.mark.parametrize(("name", "words", "method", "path"), NEW_CALLS)
@both
def test_a_portero_that_does_not_have_a_call_yet_says_not_found(
    source: TokenSource,
    gateway: FakePortero,
    asks: Asks,
    name: str,
    words: tuple[Any, ...],
    method: str,
    path: str,
) -> None:
    with pytest.raises(NotFound):
        asks(source, name, *words)
    assert (gateway.asked[-1].method, gateway.asked[-1].path) == (method, path)


def test_answers_are_read_and_their_json_is_kept(client: Portero) -> None:
    answer = client.chat(MODEL, "hi", max_tokens=4)
    assert (answer.json, answer.text, answer.usage["total_tokens"]) == (CHAT, "pong", 4)
    assert client.complete(MODEL, "hi").text == "pong"
    assert client.embed(MODEL, ["a", "b"]).vectors == [[0.5, 0.25], [0.25, 0.5]]
    assert client.models().names == [MODEL]


def test_keys_are_rows_in_a_list_or_in_an_object(client: Portero, gateway: FakePortero) -> None:
    row = {"id": "abc", "name": "notebook"}
    gateway.scripted["/account/keys"] = [Reply(200, {"keys": [row]}), Reply(200, [row])]
    assert client.keys().rows == client.keys().rows == [row]


def test_what_is_no_json_is_a_text_and_nothing_is_none(
    client: Portero, gateway: FakePortero
) -> None:
    gateway.scripted["/account/keys/x"] = [Reply(204)]
    assert client.revoke_key("x").json is None
    gateway.scripted["/metrics"] = [Reply(raw=b"portero_ready 1\n")]
    assert client.request("GET", "/metrics").json == "portero_ready 1\n"


def test_what_is_left_of_limits_is_told(client: Portero, gateway: FakePortero) -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m2.5s",
        "x-ratelimit-limit-tokens": "many",
        "x-ratelimit-remaining-tokens": "5",
    }
    gateway.scripted["/v1/models"] = [Reply(200, {"data": []}, headers)]
    limits = client.models().limits
    assert (limits["requests"].remaining, limits["requests"].reset_seconds) == (59, 62.5)
    assert "tokens" not in limits


@pytest.mark.parametrize("path", ["v1/models", "//elsewhere.lan/v1", "http://elsewhere.lan"])
@both
def test_no_other_host_is_asked_by_a_path(source: TokenSource, asks: Asks, path: str) -> None:
    with pytest.raises(InvalidRequest, match="slash"):
        asks(source, "request", "GET", path)


@both
def test_a_path_that_no_url_may_hold_is_told(source: TokenSource, asks: Asks) -> None:
    for path in ("/v1/\n", "/v1/\x00", "/\udcff"):
        with pytest.raises(InvalidRequest, match="quote"):
            asks(source, "request", "GET", path)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://user:canary@door.lan/?a=canary", "redirects to https://door.lan: "),
        ("/login", "redirects to another path"),
    ],
)
@both
def test_a_redirect_says_where_to_and_no_more(
    source: TokenSource, gateway: FakePortero, asks: Asks, location: str, words: str
) -> None:
    gateway.scripted[PATH] = [Reply(302, None, {"Location": location})]
    with pytest.raises(APIError, match=words) as raised:
        asks(source, "chat", MODEL, "hi")
    assert "canary" not in str(raised.value)
    assert raised.value.status == 302


# Patience.


@pytest.mark.parametrize("reply", [NOT_READY, SLOW])
@both
def test_what_may_be_waited_out_is(
    source: TokenSource, gateway: FakePortero, clock: SetClock, asks: Asks, reply: Reply
) -> None:
    gateway.scripted[PATH] = [reply, reply]
    assert asks(source, "chat", MODEL, "hi").text == "pong"
    assert clock.slept == [float(reply.headers["Retry-After"])] * 2


@both
def test_a_wait_that_is_longer_than_the_caller_has_is_not_begun(
    source: TokenSource, gateway: FakePortero, clock: SetClock, asks: Asks
) -> None:
    gateway.scripted[PATH] = [SLOW] * 9
    with pytest.raises(RateLimited):
        asks(source, "chat", MODEL, "hi")
    assert clock.slept == [7.0] * 4


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (SPENT, QuotaSpent),
        (AWAY, UpstreamUnavailable),
        (LATE, UpstreamTimeout),
        (NOT_FOUND, NotFound),
        (Reply(302, None, {"Location": "/login"}), Exception),
    ],
)
@both
def test_what_may_have_begun_or_waits_for_nothing_is_asked_once(
    source: TokenSource,
    gateway: FakePortero,
    clock: SetClock,
    asks: Asks,
    reply: Reply,
    error: type[Exception],
) -> None:
    gateway.scripted[PATH] = [reply]
    with pytest.raises(error):
        asks(source, "chat", MODEL, "hi")
    assert clock.slept == []


@both
def test_a_gateway_that_is_being_started_again_is_waited_for(
    source: TokenSource, free_url: str, clock: SetClock, asks: Asks
) -> None:
    away = TokenSource(free_url, api_key="a-key", clock=clock)
    with pytest.raises(TransportError, match="ConnectError") as raised:
        asks(away, "models")
    assert not raised.value.may_have_started
    assert 20 < sum(clock.slept) <= 30


@both
def test_a_connection_that_breaks_while_it_is_answered_is_not_asked_again(
    source: TokenSource, gateway: FakePortero, clock: SetClock, asks: Asks
) -> None:
    gateway.scripted[PATH] = [Reply(hangs_up=True)]
    with pytest.raises(TransportError) as raised:
        asks(source, "chat", MODEL, "hi")
    assert raised.value.may_have_started
    assert clock.slept == []


# Refused tokens.


@both
def test_a_revoked_token_is_refused_and_the_error_says_what_to_do(
    source: TokenSource, gateway: FakePortero, clock: SetClock, asks: Asks
) -> None:
    source.token()
    clock.go(30)
    gateway.revoke_all()
    with pytest.raises(TokenRefused, match='on_revoked="login"'):
        asks(source, "chat", MODEL, "hi")
    assert gateway.logins == 1


@both
def test_a_token_refused_right_after_its_login_names_the_clocks(
    new_source: NewSource, gateway: FakePortero, asks: Asks
) -> None:
    gateway.scripted[PATH] = [REFUSED] * 9
    with pytest.raises(TokenRefused, match="clocks"):
        asks(new_source(on_revoked="login"), "chat", MODEL, "hi")
    assert gateway.logins == 2


@both
def test_a_token_that_is_over_is_renewed_below_the_callers_sight(
    source: TokenSource, gateway: FakePortero, asks: Asks
) -> None:
    source.token()
    gateway.live["canary-token-1"] = 0
    assert asks(source, "chat", MODEL, "hi").text == "pong"
    gateway.scripted[PATH] = [EXPIRED] * 9
    with pytest.raises(TokenExpired):
        asks(source, "chat", MODEL, "hi")
    assert gateway.logins == 3


# Streams.


@both_streams
def test_a_stream_yields_its_texts(source: TokenSource, streams: Asks) -> None:
    assert streams(source) == ["pong", "pong"]


def test_a_stream_yields_its_events_unchanged(client: Portero) -> None:
    with client.stream_chat(MODEL, "hi") as stream:
        events = list(stream.events())
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, "stop"]


@both_streams
def test_leaving_a_stream_ends_it(source: TokenSource, streams: Asks) -> None:
    assert streams(source, leaves_after=1) == ["pong"]


ERROR_EVENT = (
    'data: {"error": {"message": "The token was revoked.", "code": "invalid_api_key"}}\n\n'
)


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (Reply(pieces=(chunk("pong"), ERROR_EVENT)), "invalid_api_key", "The token was revoked."),
        (Reply(pieces=(chunk("pong"),)), "connection_lost", "before its end"),
        (Reply(pieces=(chunk("pong"),), breaks=True), "connection_lost", "RemoteProtocolError"),
    ],
)
@both_streams
def test_a_stream_that_is_cut_raises_what_came_and_why(
    new_source: NewSource,
    gateway: FakePortero,
    streams: Asks,
    reply: Reply,
    code: str,
    words: str,
) -> None:
    told: list[Event] = []
    gateway.scripted[PATH] = [reply]
    with pytest.raises(StreamCut, match=words) as raised:
        streams(new_source(on_event=told.append))
    assert (raised.value.code, raised.value.partial) == (code, "pong")
    assert raised.value.request_id == "request-1"
    assert [event.code for event in told if event.kind == "cut"] == [code]


@pytest.mark.parametrize(
    "pieces",
    [
        (": a comment\n\n", "event: ping\n\n", "data: {}\n\n", "data:\n\n", chunk("pong"), DONE),
        (chunk("po"), 'data: {"choices": [], "usage": {}}\n\n', chunk("ng", "stop")),
    ],
)
@both_streams
def test_what_is_no_event_of_a_chat_is_passed_over(
    source: TokenSource, gateway: FakePortero, streams: Asks, pieces: tuple[str, ...]
) -> None:
    gateway.scripted[PATH] = [Reply(pieces=pieces)]
    assert "".join(streams(source)) == "pong"


@both_streams
def test_a_stream_that_has_not_begun_waits_and_one_that_is_refused_says_why(
    source: TokenSource, gateway: FakePortero, streams: Asks
) -> None:
    gateway.scripted[PATH] = [NOT_READY]
    assert streams(source) == ["pong", "pong"]
    gateway.scripted[PATH] = [AWAY]
    with pytest.raises(UpstreamUnavailable):
        streams(source)


# The end.


def test_a_client_that_made_its_source_logs_out_with_it(
    gateway: FakePortero, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTERO_URL", gateway.url)
    monkeypatch.setenv("PORTERO_USERNAME", USERNAME)
    monkeypatch.setenv("PORTERO_SECRET", SECRET)
    with Portero() as client:
        client.models()
    assert len(gateway.revoked) == 1

    async def ask() -> None:
        async with AsyncPortero() as client:
            await client.models()

    asyncio.run(ask())
    assert len(gateway.revoked) == 2


def test_a_client_takes_a_source_or_what_makes_one(source: TokenSource) -> None:
    with pytest.raises(TypeError, match="not both"):
        Portero(source, url="http://127.0.0.1")


def test_a_client_that_was_never_used_closes(source: TokenSource) -> None:
    Portero(source).close()
    asyncio.run(AsyncPortero(source).aclose())


def test_a_client_is_not_pickled_and_shows_no_secret(client: Portero) -> None:
    client.models()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(client)
    assert "canary" not in repr(client)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(client: Portero) -> None:
    client.models()
    assert holds_in_a_child(lambda: client.models().names == [MODEL])
    assert client.models().names == [MODEL]
