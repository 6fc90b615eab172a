"""The link between issuer and gateway spoiled, recorded and played again (F14, F15, F27)."""

import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.promises.conftest import Figure, of_each_kind, of_each_store, size
from tests.promises.recorder import KINDS, Recorder
from tests.support.deployment import Caller, Local, deployed, wait_ready
from tests.support.gateways import another_gateway, push_to, two_gateways
from tests.support.history import check
from tests.support.link import Link, linked
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

HEALED_SECONDS = 2.0 + 1.0  # docs/promises.md, and what a loaded machine takes for itself
NUMBER = re.compile(r"^portero_sync_position (\d+)$", re.MULTILINE)


@contextmanager
def behind_a_link(upstream: Upstream, **settings: str) -> Iterator[tuple[Local, Link]]:
    """A deployment whose issuer reaches its gateway through a link."""
    deployment = Local(upstream.url, settings)
    internal = int(deployment.internal.rpartition(":")[2])
    try:
        with linked(internal) as link:
            deployment.env["GATEWAY_URLS"] = link.url
            for part in ("gateway", "issuer", "reconciler"):
                deployment.start(part)
            wait_ready(deployment)
            yield deployment, link
    finally:
        deployment.close()


def position(internal: str) -> int:
    found = NUMBER.search(requests.get(f"{internal}/metrics", timeout=20).text)
    assert found
    return int(found[1])


MOODS = {
    "cut": ("cut", 0.0),
    "30 % lost": ("lossy", 0.0),
    "2 s late": ("pass", 2.0),
    "half open": ("hold", 0.0),
    "half open and lost": ("swallow", 0.0),
    "a byte a time": ("trickle", 0.0),
}


@of_each_store()
@of_each_kind()
@pytest.mark.parametrize("name", MOODS)
def test_f14_a_spoiled_link_breaks_no_promise_and_heals_within_seconds(
    upstream: Upstream, figure: Figure, store: dict[str, str], name: str, kind: str
) -> None:
    mood, delay = MOODS[name]
    duration = size(3, 60)
    with behind_a_link(upstream, **store) as (deployment, link):
        recorder = KINDS[kind](deployment)
        kept, doomed = [recorder.login() for _ in range(3)], recorder.login()
        link.become(mood, delay)
        until = time.monotonic() + duration
        granted = [recorder.login()]
        revoked = recorder.revoke(doomed)
        while time.monotonic() < until:
            assert {recorder.use(token) for token in kept} == {200}
            granted.append(recorder.login())
        link.become("pass")
        healed = time.monotonic()
        wait_for(lambda: recorder.use(doomed) == 401, HEALED_SECONDS, "the revocation arrived")
        seconds = time.monotonic() - healed
        truth = deployment.command("revoke", "--user", "NOBODY")  # touches nothing, proves access
        assert truth.returncode == 0
        for token in filter(None, granted):
            assert recorder.use(token) == 200
    # A revocation that was not acknowledged is bound by the healing, which the test waited for.
    assert revoked in (202, 204)
    bound = duration + within(HEALED_SECONDS)
    assert check(recorder.history, pending_bound_seconds=bound) == []
    figure(
        f"F14 {kind}, {name}, {duration} s: a revocation made meanwhile answered",
        f"{revoked}, and held {seconds:.2f} s after healing at the latest",
    )


def test_f15_recorded_messages_played_again_change_nothing(
    upstream: Upstream, figure: Figure
) -> None:
    with behind_a_link(upstream) as (deployment, link):
        recorder = Recorder(deployment)
        tokens = [recorder.login() for _ in range(size(10, 100))]
        for token in tokens[::2]:
            assert recorder.revoke(token) == 204
        wait_for(lambda: position(deployment.internal) >= len(tokens), 5, "all is applied")
        messages = [one for said in link.recorded for one in _messages(bytes(said))]
        deployment.stop("reconciler")
        before = position(deployment.internal)
        random.Random(15).shuffle(messages)
        statuses = [_play(deployment.internal, message) for message in messages]
        dice = random.Random(15)
        for _ in range(len(messages)):
            statuses.append(_play(deployment.internal, _spliced(messages, dice)))
        assert set(statuses) <= {401, 409}
        assert position(deployment.internal) == before
        assert [recorder.use(token) for token in tokens] == [401, 200] * (len(tokens) // 2)
    assert check(recorder.history) == []
    figure("F15 messages played again or spliced, accepted", f"{len(statuses)}, 0")


def _messages(recorded: bytes) -> list[bytes]:
    """The single requests of a recorded connection."""
    found = []
    while recorded:
        head, separator, rest = recorded.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        size_of_body = int(length[1]) if length else 0
        found.append(head + separator + rest[:size_of_body])
        recorded = rest[size_of_body:]
    return found


def _spliced(messages: list[bytes], dice: random.Random) -> bytes:
    """The head of one message over the body of another."""
    head = dice.choice(messages).partition(b"\r\n\r\n")[0]
    body = dice.choice(messages).partition(b"\r\n\r\n")[2]
    head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % (len(body) + 1), head)
    return head + b"\r\n\r\n" + body + b" "


def _play(internal: str, message: bytes) -> int:
    host, _, port = internal.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(message)
        return int(connection.recv(65536).split(b" ")[1])


@of_each_store()
@of_each_kind()
def test_f27_a_partitioned_gateway_obeys_its_staleness_and_the_other_is_not_affected(
    upstream: Upstream, figure: Figure, store: dict[str, str], kind: str
) -> None:
    staleness = 2
    settings = {"SYNC_MAX_STALENESS_SECONDS": str(staleness), **store}
    with (
        deployed(upstream.url, **settings) as deployment,
        another_gateway(deployment) as (second, internal),
        linked(internal) as link,
    ):
        push_to(deployment, second, link.url)
        first, other = KINDS[kind](deployment), KINDS[kind](deployment, second)
        token, doomed = first.login(), first.login()
        assert (first.use(token), other.use(token)) == (200, 200)

        link.become("hold")
        began = time.monotonic()
        fresh = first.login()
        login_seconds = time.monotonic() - began
        assert first.revoke(doomed) == 202
        wait_for(lambda: other.use(token) == 503, staleness + 2, "the staleness is obeyed")
        assert other.use(doomed) == 503
        assert (first.use(token), first.use(doomed), first.use(fresh)) == (200, 401, 200)

        link.become("pass")
        wait_for(lambda: other.use(token) == 200, 8, "the partition has healed")
        assert (other.use(doomed), other.use(fresh)) == (401, 200)
    assert check(first.history) == []
    figure(f"F27 {kind}: a login while one of two gateways hangs takes", f"{login_seconds:.2f} s")
    assert login_seconds < within(0.25 + 0.5)  # and one bcrypt


def test_with_one_gateway_down_logins_go_on_and_it_catches_up(upstream: Upstream) -> None:
    with two_gateways(upstream) as (deployment, _):
        deployment.stop("gateway")
        token = Recorder(deployment).login()
        assert token
        deployment.start("gateway")
        wait_ready(deployment)
        assert Caller(deployment).call(token).status_code == 200
