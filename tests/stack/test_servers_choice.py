"""One of several LLM servers that a policy names: which one, another one where it fails, never
twice, and nothing a client sends chooses it. The gateway is told its policy as an issuer tells it.
"""

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.certificates import Authority
from tests.support.fleet import Fleet, answering, compiled, fleet, row
from tests.support.ports import free_ports, listen
from tests.support.upstream import Seen, Upstream, recording
from tests.support.waiting import wait_for


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


def posts(server: Upstream) -> list[Seen]:
    """What it got, but for the gateway's own questions, in the order in which it came."""
    got = [seen for seen in server.seen if seen.line.startswith("POST ")]
    return sorted(got, key=lambda seen: seen.at)


def chats(servers: list[Upstream]) -> list[int]:
    """How many chats each of them got."""
    return [len(posts(one)) for one in servers]


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
            assert posts(a)[-1].body == text.replace(b'"%s"' % alias.encode(), b'"tiny"')


def test_an_alias_in_a_form_gives_way_too(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        gateway.put(compiled([row("a", a.port)], [{"name": "fast", "models": ["tiny"]}]))
        headers = {"Authorization": f"Bearer {gateway.token()}"}
        answer = requests.post(
            f"{gateway.deployment.gateway}/v1/audio/transcriptions",
            files={"file": ("fast", b"\0fast" * 100_000)},
            data={"model": "fast"},
            headers=headers,
            timeout=10,
        )
        assert answer.status_code == 200
        body = posts(a)[-1].body
        assert b'name="model"\r\n\r\ntiny\r\n' in body
        assert body.count(b"\0fast") == 100_000


# Failover.


def closed_port() -> int:
    (port,) = free_ports(1)
    return port


#: Where there are two, a server of this weight is asked first.
FIRST = 1000


@pytest.mark.parametrize("length", [0, 2**20, 60 * 2**20])
def test_a_server_that_cannot_be_reached_costs_no_chat(gateway: Fleet, length: int) -> None:
    with recorders("b") as (b,):
        gateway.put(compiled([row("a", closed_port(), weight=FIRST), row("b", b.port)]))
        body = {"model": "tiny", "x": "x" * length}
        assert gateway.caller.call(gateway.token(), body=body).json()["id"] == "b"
        assert [seen.body for seen in posts(b)] == [json.dumps(body).encode()]


def test_a_form_fails_over_too(gateway: Fleet) -> None:
    with recorders("b") as (b,):
        gateway.put(compiled([row("a", closed_port(), weight=FIRST), row("b", b.port)]))
        answer = requests.post(
            f"{gateway.deployment.gateway}/v1/audio/transcriptions",
            files={"file": ("f", b"\0\1" * 2**20)},
            data={"model": "tiny"},
            headers={"Authorization": f"Bearer {gateway.token()}"},
            timeout=10,
        )
        assert answer.status_code == 200
        assert posts(b)[-1].body.count(b"\0\1") == 2**20


def test_a_server_that_says_503_costs_no_chat(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        a.answers["/v1/chat/completions"] = 503
        gateway.put(compiled(rows([a, b])))
        token = gateway.token()
        for _ in range(4):
            assert gateway.caller.call(token).json()["id"] == "b"
        assert 1 <= len(posts(a)) < 4


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
        assert posts(a)[-1].values("authorization") == ["Bearer key-of-a"]
        assert posts(a)[-1].values("host") == [f"127.0.0.1:{a.port}"]
        assert posts(a)[-1].values("x-auth-user") == ["AGIATEST01"]
        assert posts(b)[-1].values("authorization") == []
        assert posts(b)[-1].values("host") == ["rack.lan"]
        assert posts(b)[-1].target == "/base/v1/chat/completions"
        assert "key-of-a" not in gateway.deployment.output("gateway")


# Nothing a client sends chooses a server.

CHOOSERS = {
    "header": ["X-Server", "X-LLM-Server", "X-Upstream", "X-Backend", "X-Forwarded-Server"],
    "query": ["server", "url_idx", "backend", "upstream", "llm_server", "server_base", "host"],
}


def test_n8_n9_nothing_a_client_sends_chooses_a_server(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        secret = row("b", b.port, models=["two"])
        gateway.put(compiled([row("a", a.port, models=["one"]), secret]))
        token = gateway.token()
        values = ["b", "1", "server_2", secret["authority"], f"http://{secret['authority']}"]
        sent = 0
        with requests.Session() as session:
            for value in values:
                for name in CHOOSERS["header"]:
                    headers = {name: value}
                    gateway.caller.call(
                        token, body={"model": "one"}, headers=headers, session=session
                    )
                    sent += 1
                for name in CHOOSERS["query"]:
                    for path in (f"/v1/chat/completions?{name}={value}", f"/health?{name}={value}"):
                        method = "GET" if "health" in path else "POST"
                        body = {"model": "one", name: value} if method == "POST" else None
                        gateway.caller.call(token, path, method, body, session=session)
                        sent += 1
                for path in (
                    f"/servers/{value}/v1/chat/completions",
                    f"/v1/chat/completions/{value}",
                    f"/{value}/v1/chat/completions",
                    f"/v1/messages/{value}",
                    f"//{value}/v1/chat/completions",
                ):
                    answer = gateway.caller.call(
                        token, path, body={"model": "two"}, session=session
                    )
                    assert answer.status_code in (400, 403, 404)
                    sent += 1
                host = {"Host": secret["authority"], "X-Forwarded-Host": secret["authority"]}
                gateway.caller.call(token, body={"model": "one"}, headers=host, session=session)
        assert sent > 100
        assert chats([b]) == [0]
        assert {seen.target.partition("?")[0] for seen in b.seen} <= {"/health", "/v1/models"}
        assert all(seen.values("host") == [f"127.0.0.1:{a.port}"] for seen in a.seen)


def test_who_manages_may_name_a_server_and_nobody_else(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        listed = [row("a", a.port, kind="ollama"), row("b", b.port)]
        gateway.put(compiled(listed))
        admin, agent = gateway.token("ADMNTEST01"), gateway.token()
        pull = {"model": "new"}
        assert gateway.caller.call(admin, "/servers/a/api/pull", body=pull).status_code == 200
        assert posts(a)[-1].line == "POST /api/pull HTTP/1.1"
        told = gateway.caller.call(admin, "/servers/b/health", "GET")
        assert told.status_code == 200
        assert "/health" in [seen.target for seen in b.seen]
        for path in ("/api/pull", "/servers/b/api/pull", "/servers/c/api/pull"):
            assert gateway.caller.call(admin, path, body=pull).status_code == 404
        for name in ("a", "b", "c"):
            answer = gateway.caller.call(agent, f"/servers/{name}/health", "GET")
            assert answer.status_code == 403
            assert gateway.caller.call(None, f"/servers/{name}/health", "GET").status_code == 401


# Certificates.


@contextmanager
def speaking_tls(context: ssl.SSLContext) -> Iterator[int]:
    """A server that speaks TLS and answers every request alike; its port."""
    listener = listen()
    body = b'{"id":"tls"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def serve(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                while connection.recv(65536):
                    connection.sendall(head % len(body) + body)
        except OSError:
            plain.close()

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def test_a_server_is_trusted_by_its_own_authority_and_by_no_other(
    gateway: Fleet, tmp_path: Path
) -> None:
    first, second = Authority("A"), Authority("B")
    context = first.server(tmp_path, "localhost")
    names: list[str] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    with speaking_tls(context) as port:

        def asked(**changes: Any) -> int:
            one = row("a", port, scheme="https", host="localhost", **changes)
            gateway.put(compiled([one]))
            return gateway.caller.call(gateway.token()).status_code

        assert asked() == 502
        assert asked(ca=second.certificate) == 502
        assert asked(ca=first.certificate) == 200
        assert names[-1] == "localhost"
        assert asked(ca=second.certificate) == 502
        assert asked() == 502
        assert asked(ca=second.certificate + first.certificate) == 200
        assert asked(ca=first.certificate) == 200
    with speaking_tls(first.server(tmp_path, "elsewhere.lan")) as port:
        assert asked(ca=first.certificate) == 502


def test_a_server_that_is_not_trusted_costs_no_chat(gateway: Fleet, tmp_path: Path) -> None:
    context = Authority("A").server(tmp_path, "localhost")
    with recorders("b") as (b,), speaking_tls(context) as port:
        listed = [row("a", port, scheme="https", host="localhost"), row("b", b.port)]
        gateway.put(compiled(listed))
        token = gateway.token()
        assert [gateway.caller.call(token).json()["id"] for _ in range(3)] == ["b"] * 3


# `max_concurrent`, and counts.


def in_flight_is(servers: list[Upstream], count: int) -> bool:
    return sum(chats(servers)) == count


def test_a_full_server_keeps_the_others_waiting_and_never_gets_one_more(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.answers.clear()
        a.events, a.gap = 8, 0.05
        gateway.put(compiled([row("a", a.port, max_concurrent=2)]))
        token = gateway.token()
        body = {"model": "tiny", "stream": True}
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: gateway.caller.call(token, body=body), range(10)))
        assert [answer.status_code for answer in answers] == [200] * 10
        starts = [seen.at for seen in posts(a)]
        # Of two at a time each lasts eight gaps: the third begins when the first has ended.
        lasts = a.events * a.gap
        for earlier, later in zip(starts, starts[2:], strict=False):
            assert later - earlier > lasts * 0.8


def test_users_wait_in_turn(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.answers.clear()
        a.events, a.gap = 4, 0.05
        gateway.put(compiled([row("a", a.port, max_concurrent=1)]))
        many, one = gateway.token("AGIATEST01"), gateway.token("USRSTEST01")
        body = {"model": "tiny", "stream": True}
        with ThreadPoolExecutor(9) as pool:
            first = [pool.submit(gateway.caller.call, many, body=body) for _ in range(8)]
            wait_for(lambda: in_flight_is([a], 2), 5, "some have begun")
            last = pool.submit(gateway.caller.call, one, body=body)
            assert [future.result().status_code for future in [*first, last]] == [200] * 9
        users = [seen.values("x-auth-user")[0] for seen in posts(a)]
        assert users.index("USRSTEST01") <= 5, users


def test_who_leaves_while_it_waits_takes_no_place(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.mood = "hang"
        gateway.put(compiled([row("a", a.port, max_concurrent=1)]))
        token = gateway.token()
        with ThreadPoolExecutor(4) as pool:
            held = pool.submit(gateway.caller.call, token, timeout=2)
            wait_for(lambda: in_flight_is([a], 1), 5, "the first has come")
            gone = [pool.submit(gateway.caller.call, token, timeout=0.5) for _ in range(2)]
            for future in [*gone, held]:
                with pytest.raises(requests.Timeout):
                    future.result()
        a.mood = "answer"
        assert gateway.caller.call(token, timeout=20).status_code == 200
        assert sum(chats([a])) == 2


def test_a_reload_keeps_streams_and_their_places(gateway: Fleet) -> None:
    with recorders("a") as (a,):
        a.answers.clear()
        a.events, a.gap = 30, 0.05
        gateway.put(compiled([row("a", a.port, max_concurrent=1)]))
        token = gateway.token()
        body = {"model": "tiny", "stream": True}
        with ThreadPoolExecutor(2) as pool:
            stream = pool.submit(gateway.caller.call, token, body=body)
            wait_for(lambda: in_flight_is([a], 1), 5, "it streams")
            old = set(gateway.deployment.workers("gateway"))
            os.kill(gateway.deployment.pid("gateway"), signal.SIGHUP)
            wait_for(lambda: set(gateway.deployment.workers("gateway")) - old, 10, "new workers")
            next_one = pool.submit(gateway.caller.call, token)
            assert stream.result().text.endswith("data: [DONE]\n\n")
            assert next_one.result().status_code == 200
        first, second = (seen.at for seen in posts(a))
        assert second - first > a.events * a.gap * 0.8


def test_a_change_of_the_policy_leaves_streams_alone(gateway: Fleet) -> None:
    with recorders("a", "b") as (a, b):
        a.answers.clear()
        a.events, a.gap = 20, 0.05
        gateway.put(compiled([row("a", a.port)]))
        token = gateway.token()
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(gateway.caller.call, token, body={"model": "tiny", "stream": True})
            wait_for(lambda: in_flight_is([a], 1), 5, "it streams")
            gateway.put(compiled([row("b", b.port)]))
            assert gateway.caller.call(token).json()["id"] == "b"
            assert stream.result().text.endswith("data: [DONE]\n\n")
        gateway.put(compiled([row("a", a.port, max_concurrent=1)]))
        assert gateway.caller.call(token, body={"model": "tiny", "stream": True}).status_code == 200


def test_kept_connections_of_two_servers_at_one_address_are_never_each_others(
    gateway: Fleet, tmp_path: Path
) -> None:
    authority = Authority("A")
    context = authority.server(tmp_path, "localhost")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    with speaking_tls(context) as port:
        trusted = {"scheme": "https", "ca": authority.certificate}
        one = row("one", port, host="localhost", models=["one"], **trusted)
        two = row("two", port, host="127.0.0.1", models=["two"], **trusted)
        gateway.put(compiled([one, two]))
        token = gateway.token()
        for _ in range(6):
            assert gateway.caller.call(token, body={"model": "one"}).status_code == 200
            # Its certificate is not for this name: over the other's connection nobody would see.
            assert gateway.caller.call(token, body={"model": "two"}).status_code == 502
        # One connection a worker is kept and used again.
        assert 1 <= names.count("localhost") <= 2
