"""Too much at a time (threats D): what is slow or many holds nothing that others need. How long
good requests take meanwhile is `make bench`'s to measure.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.security.house import House
from tests.support.deployment import deployed
from tests.support.upstream import recording
from tests.support.waiting import wait_for

SLOW = 300
CHAT = {"model": "tiny", "messages": []}


@contextmanager
def slow_clients(house: House, begun: bytes, count: int = SLOW) -> Iterator[None]:
    """So many connections that have sent this, and send no more."""
    host, port = house.deployment.gateway.removeprefix("http://").split(":")
    with ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(socket.create_connection((host, int(port)), 10))
            connection.sendall(begun)
        yield


@pytest.mark.parametrize("kind", ["head", "body", "login", "reader"])
def test_d1_slow_clients_hold_a_connection_each_and_nobody_up(house: House, kind: str) -> None:
    client = house.client("127.0.0.1")
    token = client.token("AGIATEST01")
    credential = f"Authorization: Bearer {token}\r\n"
    post = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    login = "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    begun = {
        "head": f"{post}{credential}X-Slow: a",
        "body": f"{post}{credential}Content-Length: 100000\r\n\r\n{{",
        "login": f"{login}Content-Length: 1000\r\n\r\n{{",
        "reader": f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{credential}\r\n" * 20,
    }
    with slow_clients(house, begun[kind].encode()):
        for _ in range(20):
            headers = {"Authorization": f"Bearer {token}"}
            answer = client.ask("POST", "/v1/chat/completions", headers=headers, json=CHAT)
            assert answer.status_code == 200
        assert client.log_in("AGNRTEST01").status_code == 200
        assert client.log_in("USRSTEST01").status_code == 302


def hanging(token: str) -> bytes:
    """A request that the LLM server is asked, and does not answer."""
    credential = f"Authorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}"
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{credential}".encode()


def test_d2_an_address_has_as_many_requests_under_way_as_the_setting_says() -> None:
    most = {"CONNECTIONS_PER_ADDRESS": "3"}
    with recording() as upstream, deployed(upstream.url, **most) as running:
        here = House(running, upstream)
        client, elsewhere = here.client("127.0.0.1"), here.client("127.0.0.2")
        token = client.token("AGIATEST01")
        upstream.mood = "hang"
        with slow_clients(here, hanging(token), 3):
            wait_for(lambda: len(upstream.seen) == 3, what="three are under way")
            upstream.mood = "answer"
            for path in ("/v1/chat/completions", "/llm/login", "/healthz"):
                answer = client.ask("POST", path, headers={"Authorization": f"Bearer {token}"})
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), path
                assert answer.json()["error"]["code"] == "not_ready"
            assert elsewhere.log_in("AGNRTEST01").status_code == 200
        wait_for(lambda: client.log_in("AGNRTEST01").status_code == 200, what="there is room again")


def test_d3_an_llm_server_that_says_nothing_keeps_nobody_from_logging_in(house: House) -> None:
    client = house.client("127.0.0.1")
    token = client.token("AGIATEST01")
    house.upstream.mood = "hang"
    with slow_clients(house, hanging(token), 100):
        wait_for(lambda: len(house.upstream.seen) >= 100, what="all are under way")
        assert client.log_in("AGNRTEST01").status_code == 200
        assert client.log_in("USRSTEST01").status_code == 302
        assert client.ask("GET", "/healthz").status_code == 200
