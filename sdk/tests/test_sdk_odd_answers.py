"""Answers that are good by their status and otherwise anything: a login page of a proxy, another
server's JSON, nothing at all. They are told as this package's own errors, whatever was asked.
"""

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from fake_portero import CHAT, DONE, MODEL, FakePortero, Reply, chunk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from portero import APIError, AsyncPortero, Portero, StreamCut, TokenSource
from portero.calls import (
    Answer,
    Completion,
    Document,
    Embeddings,
    Keys,
    Models,
    NewKey,
    read,
)
from portero.streams import Reader, text_of

PATH = "/v1/chat/completions"
HTML = b"<html><body>Please log in to the network.</body></html>"

# What is asked, and where.
ASKED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "chat": (PATH, (MODEL, "hi")),
    "complete": ("/v1/completions", (MODEL, "hi")),
    "embed": ("/v1/embeddings", (MODEL, "hi")),
    "models": ("/v1/models", ()),
    "account": ("/account", ()),
    "usage": ("/account/usage", ()),
    "keys": ("/account/keys", ()),
    "create_key": ("/account/keys", ("notebook", 7)),
}
ODD = {
    "html": Reply(raw=HTML, headers={"Content-Type": "text/html"}),
    "html that says it is JSON": Reply(raw=HTML),
    "nothing": Reply(raw=b""),
    "no content": Reply(204),
    "half of it": Reply(raw=json.dumps(CHAT).encode()[:-9]),
    "a number": Reply(200, 5),
    "null": Reply(200, None, raw=b"null"),
    "a text": Reply(200, "ok"),
    "no UTF-8": Reply(raw=b"\xff\xfe{}"),
    "very deep": Reply(raw=b"[" * 100_000),
    "limits that are no numbers": Reply(
        raw=HTML,
        headers={
            "x-ratelimit-limit-requests": "\xb2",
            "x-ratelimit-remaining-requests": "9" * 5000,
        },
    ),
}


def sync(source: TokenSource, name: str, *words: Any) -> Any:
    with Portero(source) as client:
        return getattr(client, name)(*words)


def asynchronous(source: TokenSource, name: str, *words: Any) -> Any:
    async def ask() -> Any:
        async with AsyncPortero(source) as client:
            return await getattr(client, name)(*words)

    return asyncio.run(ask())


@pytest.mark.parametrize("asks", [sync, asynchronous], ids=["sync", "async"])
@pytest.mark.parametrize("name", ASKED)
def test_an_odd_answer_is_an_error_that_says_so(
    source: TokenSource, gateway: FakePortero, asks: Callable[..., Any], name: str
) -> None:
    path, words = ASKED[name]
    for odd in ODD.values():
        gateway.scripted[path] = [odd]
        with pytest.raises(APIError, match="good by its status") as raised:
            asks(source, name, *words)
        error = raised.value
        assert (error.status, error.code) == (odd.status, "unexpected_answer")
        assert error.request_id == "request-1"
        assert "log in to the network" not in str(error)


FIELDS = {"choices", "message", "delta", "content", "text", "usage", "data", "embedding", "index"}
FIELDS |= {"id", "keys", "key", "type", "finish_reason", "error", "code"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(sorted(FIELDS)) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODIES = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            f"x-ratelimit-{word}-{name}"
            for word in ("limit", "remaining", "reset")
            for name in ("requests", "tokens")
        ]
        + ["x-request-id", "retry-after", "x-should-retry"]
    ),
    st.text(alphabet="0123456789.²٣smh-einf", max_size=8),
)
#: Each kind, and all that a caller may look at.
KINDS: dict[type[Answer], tuple[str, ...]] = {
    Answer: ("json",),
    Document: ("json",),
    Completion: ("text", "usage"),
    Embeddings: ("vectors",),
    Models: ("names",),
    Keys: ("rows",),
    NewKey: ("id", "key"),
}


@settings(max_examples=150, deadline=None)
@given(status=st.integers(100, 599), headers=HEADERS, body=BODIES)
@example(200, {}, b'{"choices": [{"message": 5}]}')
@example(200, {}, b'{"choices": [{"message": {"content": {"text": 1}}}]}')
@example(200, {}, b'{"choices": [{"text": 1}], "usage": [1]}')
@example(200, {}, b'{"data": [{"embedding": [1]}, {"index": "a", "embedding": [1]}]}')
@example(200, {}, b'{"data": [{"embedding": "no base64"}]}')
@example(200, {}, b'{"data": [{"id": null}]}')
@example(200, {}, b'{"keys": {"id": 1}}')
def test_any_answer_is_what_was_asked_for_or_an_error(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    for kind, names in KINDS.items():
        answer = read(kind, status, headers, body)
        assert isinstance(answer, APIError) or 200 <= status < 300
        if isinstance(answer, APIError):
            assert answer.status == status
            continue
        for name in names:
            getattr(answer, name)


def test_an_answer_that_somebody_else_made_is_judged_when_it_is_looked_at() -> None:
    for kind, names in KINDS.items():
        for name in names:
            if name != "json":
                with pytest.raises(APIError):
                    getattr(kind("anything"), name)


def test_forms_that_servers_do_answer_with_are_read() -> None:
    parts = [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "Paris."}]
    assert Completion({"choices": [{"message": {"content": parts}}]}).text == "Paris."
    called: dict[str, Any] = {
        "choices": [{"message": {"content": None, "tool_calls": [{}]}}],
        "usage": None,
    }
    assert (Completion(called).text, Completion(called).usage) == ("", {})
    assert Models({"object": "list", "data": None}).names == []
    packed = base64.b64encode(struct.pack("<2f", 0.5, 0.25)).decode()
    assert Embeddings({"data": [{"embedding": packed}]}).vectors == [[0.5, 0.25]]


def test_a_new_key_is_shown_by_no_repr() -> None:
    made = NewKey({"id": "wPJv", "key": "canary-key"})
    assert made.key == "canary-key"
    assert "canary" not in f"{made!r} {made.key!r}"


# Streams.


def streamed(source: TokenSource) -> list[str]:
    with Portero(source) as client, client.stream_chat(MODEL, "hi") as stream:
        return list(stream)


def asynchronously_streamed(source: TokenSource) -> list[str]:
    async def ask() -> list[str]:
        async with AsyncPortero(source) as client, client.stream_chat(MODEL, "hi") as stream:
            return [text async for text in stream]

    return asyncio.run(ask())


each_stream = pytest.mark.parametrize(
    "streams", [streamed, asynchronously_streamed], ids=["sync", "async"]
)


@each_stream
@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_is_no_stream_is_an_error_at_once(
    source: TokenSource, gateway: FakePortero, streams: Callable[..., Any], name: str
) -> None:
    gateway.scripted[PATH] = [ODD[name]]
    with pytest.raises(APIError, match="no stream of events") as raised:
        streams(source)
    assert (raised.value.code, raised.value.request_id) == ("unexpected_answer", "request-1")


@each_stream
@pytest.mark.parametrize(
    "odd",
    [
        "no json",
        "[1]",
        '{"choices": 5}',
        '{"choices": [5]}',
        '{"choices": [{"delta": "a"}]}',
        '{"choices": [{"delta": {"content": 5}}]}',
        '{"choices": [{"delta": {"content": ["a"]}}]}',
        '{"choices": {"delta": {"content": "a"}}}',
    ],
)
def test_an_odd_event_cuts_the_stream_and_no_text_is_lost_unseen(
    source: TokenSource, gateway: FakePortero, streams: Callable[..., Any], odd: str
) -> None:
    pieces = (chunk("po"), f"data: {odd}\n\n", chunk("ng", "stop"), DONE)
    gateway.scripted[PATH] = [Reply(pieces=pieces)]
    with pytest.raises(StreamCut) as raised:
        streams(source)
    assert (raised.value.partial, raised.value.code) == ("po", "unexpected_answer")


@each_stream
@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "gzip"}, {"Content-Type": "text/event-stream; charset=hex"}],
)
def test_a_stream_in_an_odd_coding_is_read_or_cut(
    source: TokenSource,
    gateway: FakePortero,
    streams: Callable[..., Any],
    headers: dict[str, str],
) -> None:
    gateway.scripted[PATH] = [Reply(pieces=(chunk("pong"), DONE), headers=headers)]
    if "Content-Encoding" not in headers:
        assert streams(source) == ["pong"]
        return
    with pytest.raises(StreamCut, match="DecodingError"):
        streams(source)


SAID = "a\u2028b\x85c\x0bd\x1ce"


def raw_chunk(text: str) -> str:
    """As servers write it that escape no more than they must."""
    choices = [{"index": 0, "delta": {"content": text}}]
    return f"data: {json.dumps({'choices': choices}, ensure_ascii=False)}\n\n"


@settings(max_examples=60, deadline=None)
@given(end=st.sampled_from(["\n", "\r\n", "\r"]), sizes=st.lists(st.integers(1, 30), min_size=1))
def test_a_stream_reads_the_same_however_it_is_cut_into_pieces(end: str, sizes: list[int]) -> None:
    lines = f": hello\nevent: x\n{raw_chunk(SAID)}data: {{\ndata: }}\n\n{chunk('f', 'stop')}{DONE}"
    sent = lines.replace("\n", end).encode()
    reader = Reader("", lambda _: None)
    told: list[dict[str, Any]] = []
    while sent:
        size = sizes[len(sent) % len(sizes)]
        told += reader.take(sent[:size])
        sent = sent[size:]
    told += reader.take(None)
    assert "".join(map(text_of, told)) == reader.text == SAID + "f"


@pytest.mark.parametrize("last", ["data: [DONE]", "data: [DONE]\n", chunk("", "stop").strip()])
def test_the_last_event_needs_no_empty_line(last: str) -> None:
    reader = Reader("", lambda _: None)
    assert list(reader.take(f"{chunk('pong')}{last}".encode()))
    list(reader.take(None))


def test_a_stream_is_lost_that_ends_within_an_event_and_not_one_that_breaks_behind_its_end() -> (
    None
):
    reader = Reader("", lambda _: None)
    list(reader.take(chunk("pong").encode() + b'data: {"cho'))
    with pytest.raises(StreamCut) as raised:
        list(reader.take(None))
    assert (raised.value.code, raised.value.partial) == ("connection_lost", "pong")
    reader = Reader("", lambda _: None)
    list(reader.take(f"{chunk('pong')}{DONE}".encode()))
    assert list(reader.take(OSError())) == []


def test_of_several_answers_the_first_is_the_text() -> None:
    events = [
        {"choices": [{"index": 1, "delta": {"content": "B"}}]},
        {"choices": [{"index": 0, "delta": {"content": "A"}}]},
    ]
    assert [text_of(event) for event in events] == ["", "A"]


EVENTS = JSON.map(json.dumps) | st.text(max_size=20)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(datas=st.lists(EVENTS, max_size=4), noise=st.binary(max_size=20))
def test_any_stream_is_read_or_cut(datas: list[str], noise: bytes) -> None:
    reader = Reader("", lambda _: None)
    with contextlib.suppress(StreamCut):
        for event in reader.take("".join(f"data: {data}\n\n" for data in datas).encode() + noise):
            assert isinstance(text_of(event), str)
        list(reader.take(None))
    assert isinstance(reader.text, str)
