"""What is read of a stream that is measured: every event, whatever its pieces, and a lost byte."""

import hashlib
import socket
import time

import pytest

from bench.streaming import DONE, EVENT, HEAD, USAGE, chunk
from bench.streams import Load, Stream, streamed, streaming_upstream


def answer(events: int, lost: int = -1, behind: bytes = b"") -> bytes:
    """A whole answer; of the event `lost` one byte is missing, and `behind` comes after all."""
    digest, sent = hashlib.sha256(), []
    for number in range(events):
        event = EVENT % (b"%d" % number, time.monotonic_ns())
        digest.update(event)
        sent.append(chunk(event.replace(b"delta", b"delt") if number == lost else event))
    end = EVENT % (digest.hexdigest().encode(), 1)
    return HEAD + b"".join([*sent, chunk(end), behind, chunk(DONE), chunk(b"")])


def read(content: bytes, piece: int) -> Stream:
    """What is read of an answer that comes in pieces of this size; its head comes whole."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        stream = Stream(receiver)
        for part in [
            HEAD,
            *(content[at : at + piece] for at in range(len(HEAD), len(content), piece)),
        ]:
            sender.sendall(part)
            stream.read()
    return stream


@pytest.mark.parametrize("piece", [1, 7, 100, 10_000])
def test_every_event_of_a_stream_is_read_whatever_its_pieces(piece: int) -> None:
    stream = read(answer(5), piece)
    assert stream.has_ended
    assert stream.is_whole
    assert len(stream.taken) == 5
    assert all(0 <= delay < 10 for _, delay in stream.taken)


@pytest.mark.parametrize("lost", range(5))
def test_a_stream_that_lost_a_byte_is_not_whole(lost: int) -> None:
    stream = read(answer(5, lost), 100)
    assert stream.has_ended
    assert not stream.is_whole


def test_a_stream_with_an_event_that_only_the_gateway_asked_for_is_not_whole() -> None:
    assert not read(answer(5, behind=chunk(USAGE % (1, 1))), 100).is_whole


def test_the_llm_server_streams_what_a_chat_wishes() -> None:
    with streaming_upstream("0") as port:
        outcome = streamed(f"http://127.0.0.1:{port}", "none", Load(20, 10, 0.01, 2_000))
    assert outcome.broken == 0
    assert len(outcome.delays) == 200
    assert outcome.delays == outcome.delays_within(0, time.monotonic())
    assert outcome.delays_within(0, 1) == []
