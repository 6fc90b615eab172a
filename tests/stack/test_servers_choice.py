"""One of several LLM servers that a policy names: which one, another one where it fails, never
twice, and nothing a client sends chooses it. The gateway is told its policy as an issuer tells it.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from tests.support.deployment import free_ports
from tests.support.fleet import Fleet, answering, compiled, fleet, row
from tests.support.upstream import Seen, Upstream, recording


@pytest.fixture(scope="module")
def gateway() -> Iterator[Fleet]:
    """One for all tests here; each puts its own policy."""
    with fleet() as running:
        yield running


@contextmanager
def recorders(*names: str) -> Iterator[list[Upstream]]:
    """LLM servers that say who they are."""
    with ExitStack() as stack:
        yield [answering(stack.enter_context(recording()), name) for name in names]


def rows(servers: list[Upstream], **changes: Any) -> list[dict[str, Any]]:
    return [row("abcdef"[at], one.port, **changes) for at, one in enumerate(servers)]


def chats(servers: list[Upstream]) -> list[int]:
    """How many chats each of them got."""
    return [len(posted(one)) for one in servers]


def posted(server: Upstream) -> list[Seen]:
    """The requests that a server got; the gateway asks it for its list meanwhile."""
    return [seen for seen in server.seen if seen.line.startswith("POST ")]


def test_a_chat_goes_to_the_server_that_has_its_model(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        one, two = row("a", a.port, models=["one"]), row("b", b.port, models=["two"])
        gateway.put(compiled([one, two]))
        token = gateway.token()
        for model, name in (("one", "a"), ("two", "b")):
            answer = gateway.caller.call(token, body={"model": model})
            assert (answer.status_code, answer.json()["id"]) == (200, name)
        assert gateway.caller.call(token, body={"model": "none"}).status_code == 404
        assert chats([a, b]) == [1, 1]


def test_short_chats_are_split_by_weight(gateway: Fleet) -> None:
    with recorders("a", "b", "c") as servers:
        listed = rows(servers)
        listed[2]["weight"] = 2
        gateway.put(compiled(listed))
        token = gateway.token()
        with requests.Session() as session:
            for _ in range(80):
                gateway.caller.call(token, session=session)
        assert chats(servers) == pytest.approx([20, 20, 40], abs=2)


def test_an_alias_gives_way_to_the_model_and_nothing_else_changes(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        aliases = [
            {"name": "fast", "models": ["none", "tiny"]},
            {"name": "gpt-*", "models": ["tiny"]},
        ]
        gateway.put(compiled([row("a", a.port)], aliases))
        token = gateway.token()
        for alias in ("fast", "gpt-4o"):
            text = b'{ "messages" : [ ] , "model": "%s","x":"fast \\u00e9"\n}' % alias.encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            url = f"{gateway.deployment.gateway}/v1/chat/completions"
            assert requests.post(url, data=text, headers=headers, timeout=10).status_code == 200
            assert posted(a)[-1].body == text.replace(b'"%s"' % alias.encode(), b'"tiny"')


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions"])
def test_an_alias_in_a_form_gives_way_too(gateway: Fleet, path: str) -> None:
    with recorders("a") as (a,):
        gateway.put(compiled([row("a", a.port)], [{"name": "fast", "models": ["tiny"]}]))
        headers = {"Authorization": f"Bearer {gateway.token()}"}
        answer = requests.post(
            gateway.deployment.gateway + path,
            files={"file": ("fast", b"\0fast" * 100_000)},
            data={"model": "fast"},
            headers=headers,
            timeout=10,
        )
        assert answer.status_code == 200
        body = posted(a)[-1].body
        assert b'name="model"\r\n\r\ntiny\r\n' in body
        assert body.count(b"\0fast") == 100_000


# Failover.


def closed_port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.mark.parametrize("length", [0, 2**20, 40 * 2**20])
def test_a_server_that_cannot_be_reached_costs_no_chat(gateway: Fleet, length: int) -> None:
    with recorders("b") as (b,):
        gateway.put(compiled([row("a", closed_port()), row("b", b.port)]))
        token = gateway.token()
        body = {"model": "tiny", "x": "x" * length}
        for _ in range(4):
            assert gateway.caller.call(token, body=body).json()["id"] == "b"
        sent = [seen.body for seen in posted(b)]
        assert sent == [json.dumps(body).encode()] * 4


def test_a_server_that_says_503_costs_no_chat(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        a.answers["/v1/chat/completions"] = 503
        gateway.put(compiled(rows([a, b])))
        token = gateway.token()
        for _ in range(4):
            assert gateway.caller.call(token).json()["id"] == "b"
        assert 1 <= len(posted(a)) < 4


@pytest.mark.parametrize("mood", ["die", "reset"])
def test_a_chat_that_may_have_begun_is_never_sent_again(gateway: Fleet, mood: str) -> None:
    with recorders("a", "b") as servers:
        gateway.put(compiled(rows(servers)))
        token = gateway.token()
        for one in servers:
            one.mood = mood
        answer = gateway.caller.call(token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert sum(chats(servers)) == 1


def test_none_of_several_that_can_be_reached_is_503_and_the_only_one_502(gateway: Fleet) -> None:
    gateway.put(compiled([row("a", closed_port()), row("b", closed_port())]))
    token = gateway.token()
    answer = gateway.caller.call(token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert answer.headers["Retry-After"] == "1"
    gateway.put(compiled([row("a", closed_port())]))
    answers = [gateway.caller.call(token) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {502}


def test_the_only_server_that_says_503_is_heard(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.answers["/v1/chat/completions"] = 503
        gateway.put(compiled([row("a", a.port)]))
        answer = gateway.caller.call(gateway.token())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["Retry-After"] == "1"


def test_a_server_that_refuses_the_gateway_is_502(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.answers["/v1/chat/completions"] = 401
        gateway.put(compiled([row("a", a.port)]))
        answer = gateway.caller.call(gateway.token())
        assert answer.status_code == 502
        assert "WWW-Authenticate" not in answer.headers


# What each is told.


def test_each_server_gets_its_own_key_name_and_path_and_no_other(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        first = row("a", a.port, models=["one"], credential=gateway.seal("key-of-a"))
        second = row("b", b.port, models=["two"], path="/base", authority="rack.lan")
        b.answers["/base/v1/chat/completions"] = {"id": "b"}
        gateway.put(compiled([first, second]))
        token = gateway.token()
        for model in ("one", "two"):
            assert gateway.caller.call(token, body={"model": model}).status_code == 200
        assert posted(a)[-1].values("authorization") == ["Bearer key-of-a"]
        assert posted(a)[-1].values("host") == [f"127.0.0.1:{a.port}"]
        assert posted(a)[-1].values("x-auth-user") == ["AGIATEST01"]
        assert posted(b)[-1].values("authorization") == []
        assert posted(b)[-1].values("host") == ["rack.lan"]
        assert posted(b)[-1].target == "/base/v1/chat/completions"
        assert "key-of-a" not in gateway.deployment.output("gateway")
