"""WebSocket, for class `realtime`: handshakes, frames both ways, and how a connection ends."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.support.deployment import Caller, Deployment, deployed
from tests.support.policies import write_policy
from tests.support.socket_llm import SocketLlm, socket_llm
from tests.support.waiting import wait_for, within

SPEAKER, LIMITED, CUT, ONE, NOBODY = (
    "AGIATEST01",
    "AGNRTEST01",
    "AGNFTEST01",
    "USRSTEST01",
    "MNTRTEST01",
)
LOOKED_AT = "ADMNTEST01"
SHORT_SECONDS = 4
SECRET = "openai-insecure-api-key."


def grant(content: dict[str, Any]) -> None:
    roles = content["roles"]
    for name in ("agi", "agent_reasoning", "agent_fast", "user", "admin"):
        roles[name]["routes"].append("realtime")
    roles["agent_reasoning"]["models"] = ["tiny"]
    roles["agent_fast"].update(ttl_seconds=SHORT_SECONDS, stream_policy="cut")
    roles["user"]["concurrent_requests"] = 1
    roles["admin"]["inspect_bodies"] = True


@pytest.fixture(scope="module")
def llm() -> Iterator[SocketLlm]:
    with socket_llm() as running:
        yield running


@pytest.fixture(scope="module")
def running(llm: SocketLlm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    policy = write_policy(tmp_path_factory.mktemp("policy") / "policy.yaml", grant)
    with deployed(llm.url, POLICY_FILE=str(policy)) as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def _clean(llm: SocketLlm) -> None:
    llm.forget()


@pytest.fixture(scope="module")
def tokens(running: Deployment) -> dict[str, str]:
    caller = Caller(running)
    return {name: caller.token(name) for name in (SPEAKER, LIMITED, ONE, NOBODY, LOOKED_AT)}


def url_of(running: Deployment, path: str = "/v1/realtime?model=tiny") -> str:
    return running.gateway.replace("http", "ws", 1) + path


@contextmanager
def opened(
    running: Deployment, token: str, path: str = "/v1/realtime?model=tiny", **more: Any
) -> Iterator[Connection]:
    """A connection that has been greeted."""
    headers = more.pop("additional_headers", {"Authorization": f"Bearer {token}"})
    with connect(
        url_of(running, path),
        additional_headers=headers,
        max_size=None,
        compression=None,
        **more,
    ) as connection:
        assert json.loads(connection.recv(10))["type"] == "session.created"
        yield connection


def refused(running: Deployment, **more: Any) -> tuple[int, str]:
    path = more.pop("path", "/v1/realtime?model=tiny")
    with pytest.raises(InvalidStatus) as found, connect(url_of(running, path), **more):
        pass
    response = found.value.response
    return response.status_code, response.headers["x-portero-code"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_openais_own_client_talks_to_an_llm_server(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    client = openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=tokens[SPEAKER])
    with client.realtime.connect(model="tiny") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "instructions": "Be short."})
        assert connection.recv().type == "session.updated"
    assert llm.seen[-1].path == "/v1/realtime?model=tiny"


def test_the_llm_server_is_told_who_speaks_and_gets_no_credential(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    token = tokens[SPEAKER]
    offered = ["realtime", SECRET + token, "openai-beta.realtime-v1"]
    spoofed = {"X-Auth-User": "ADMNEVIL", "Cookie": f"auth_token={token}", "Origin": "null"}
    with opened(
        running,
        token,
        subprotocols=offered,
        additional_headers={**spoofed, "Sec-Fetch-Site": "none"},
    ) as connection:
        assert connection.subprotocol == "realtime"
    headers = llm.seen[-1].headers
    assert headers.get_all("X-Auth-User") == [SPEAKER]
    assert headers.get_all("X-Auth-Role") == ["agi"]
    assert headers.get_all("Sec-WebSocket-Protocol") == ["realtime, openai-beta.realtime-v1"]
    assert token not in str(llm.seen[-1])
    assert not {"authorization", "cookie", "origin", "x-api-key"} & {
        k.lower() for k, _ in headers.raw_items()
    }


@pytest.mark.parametrize("way", ["bearer", "x-api-key", "subprotocol", "cookie"])
def test_a_token_comes_in_every_way_that_a_client_has(
    running: Deployment, tokens: dict[str, str], way: str
) -> None:
    token = tokens[SPEAKER]
    headers = {
        "bearer": bearer(token),
        "x-api-key": {"x-api-key": token},
        "cookie": {"Cookie": f"auth_token={token}"},
        "subprotocol": {},
    }[way]
    offered = [f"{SECRET}{token}", "realtime"] if way == "subprotocol" else None
    with opened(running, "", additional_headers=headers, subprotocols=offered) as connection:
        connection.send("hello")
        assert connection.recv(10) == "hello"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_frames_of_every_size_pass_both_ways(
    running: Deployment, tokens: dict[str, str], size: int, kind: str
) -> None:
    message: str | bytes = (
        "é" * (size // 2) if kind == "text" else bytes(range(256)) * (size // 256)
    )
    with opened(running, tokens[SPEAKER]) as connection:
        connection.send(message)
        assert connection.recv(20) == message


def test_fragments_pings_and_pongs_pass_both_ways(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    with opened(running, tokens[SPEAKER]) as connection:
        connection.send(iter(["a", "bc", "def"]))
        assert connection.recv(10) == "abcdef"
        connection.send(json.dumps({"type": "parts", "parts": ["x", "yz"]}))
        assert list(connection.recv_streaming()) == ["x", "yz", ""]
        assert connection.ping().wait(10)
        assert llm.open[-1].ping().wait(10)


def test_a_revoked_tokens_connection_is_closed_on_both_sides_within_a_second(
    running: Deployment, llm: SocketLlm
) -> None:
    caller = Caller(running)
    token = caller.token(SPEAKER)
    with opened(running, token) as connection:
        assert caller.call(token, "/logout").status_code == 204
        revoked = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(within(5))
    assert time.monotonic() - revoked < within(1)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "token revoked")
    wait_for(lambda: (1008, "token revoked") in llm.ends, 2)


def test_a_revocation_comes_between_two_frames_of_a_flow(
    running: Deployment, llm: SocketLlm
) -> None:
    caller = Caller(running)
    token = caller.token(SPEAKER)
    with opened(running, token) as connection:
        connection.send(json.dumps({"type": "flow", "size": 50_000}))
        connection.recv(within(5))
        assert caller.call(token, "/logout").status_code == 204
        with pytest.raises(ConnectionClosed) as closed:
            _read_whole(connection, b"x" * 50_000)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def _read_whole(connection: Connection, message: bytes) -> None:
    while True:
        assert connection.recv(within(5)) == message


def test_an_expired_tokens_connection_is_closed_as_its_role_says(running: Deployment) -> None:
    token = Caller(running).token(CUT)
    with opened(running, token) as connection, pytest.raises(ConnectionClosed) as closed:
        connection.recv(SHORT_SECONDS + 3)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "token expired")


def test_a_client_that_leaves_ends_the_llm_servers_side(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    with opened(running, tokens[SPEAKER]) as connection:
        connection.close(4001, "done")
    wait_for(lambda: (4001, "done") in llm.ends, 5)
    llm.ends.clear()
    with opened(running, tokens[SPEAKER]) as connection:
        connection.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: (1001, "the client is gone") in llm.ends, 5)


def test_an_llm_server_that_leaves_ends_the_clients_side(
    running: Deployment, tokens: dict[str, str]
) -> None:
    for command, expected in (("close", 4002), ("leave", 1011)):
        with opened(running, tokens[SPEAKER]) as connection:
            connection.send(json.dumps({"type": command, "code": 4002}))
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(within(5))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == expected


def test_a_frame_that_a_client_may_not_send_ends_the_connection(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    with opened(running, tokens[SPEAKER]) as connection:
        connection.socket.sendall(b"\x81\x02hi")
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(within(5))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


def test_what_is_no_handshake_is_told_so(running: Deployment, tokens: dict[str, str]) -> None:
    url = f"{running.gateway}/v1/realtime?model=tiny"
    plain = requests.get(url, headers=bearer(tokens[SPEAKER]), timeout=10)
    assert (plain.status_code, plain.headers["Upgrade"]) == (426, "websocket")
    head = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for key in ("", "short", "A" * 24):
        answer = requests.get(
            url, headers={**bearer(tokens[SPEAKER]), **head, "Sec-WebSocket-Key": key}, timeout=10
        )
        assert (answer.status_code, answer.headers["x-portero-code"]) == (400, "invalid_request")


def test_who_may_not_speak_is_refused_before_the_change(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    token = tokens[SPEAKER]
    cases: list[tuple[dict[str, Any], tuple[int, str]]] = [
        ({}, (401, "invalid_api_key")),
        ({"subprotocols": ["realtime", f"{SECRET}x"]}, (401, "invalid_api_key")),
        ({"additional_headers": bearer(tokens[NOBODY])}, (403, "insufficient_permissions")),
        (
            {
                "additional_headers": bearer(tokens[LIMITED]),
                "path": "/v1/realtime?model=other",
            },
            (404, "model_not_found"),
        ),
        (
            {
                "additional_headers": bearer(tokens[LIMITED]),
                "path": "/v1/realtime?model=tiny&Model=other",
            },
            (400, "invalid_request"),
        ),
        (
            {"additional_headers": bearer(token), "subprotocols": [f"{SECRET}x"]},
            (400, "invalid_request"),
        ),
        (
            {
                "additional_headers": {"Cookie": f"auth_token={token}"},
                "origin": "https://evil.example",
            },
            (403, "insufficient_permissions"),
        ),
        (
            {
                "additional_headers": bearer(token),
                "path": "/v1/realtime?model=tiny&localai_assistant=true",
            },
            (400, "invalid_request"),
        ),
    ]
    for more, expected in cases:
        assert refused(running, **more) == expected, more
    assert llm.seen == []


@pytest.mark.parametrize(
    ("user", "event", "why"),
    [
        (LIMITED, {"type": "session.update", "session": {"model": "other"}}, "model_not_found"),
        (LIMITED, {"type": "session.update", "model": "other"}, "model_not_found"),
        (
            LOOKED_AT,
            {"type": "session.update", "session": {"tools": [{"type": "mcp"}]}},
            "invalid_request",
        ),
    ],
)
def test_what_a_client_says_is_judged_where_its_requests_are(
    running: Deployment,
    tokens: dict[str, str],
    llm: SocketLlm,
    user: str,
    event: dict[str, Any],
    why: str,
) -> None:
    with opened(running, tokens[user]) as connection:
        connection.send('{"type":"x","model":"tiny"}')
        assert connection.recv(10) == '{"type":"x","model":"tiny"}'
        connection.send(json.dumps(event))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(within(5))
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason.partition(":")[0]) == (1008, why)
    wait_for(lambda: (1001, "the client was refused") in llm.ends, 5)
    assert len(llm.said) == 1


def test_a_connection_is_a_request_that_runs(running: Deployment, tokens: dict[str, str]) -> None:
    token = tokens[ONE]
    with opened(running, token):
        assert refused(running, additional_headers=bearer(token)) == (429, "rate_limit_exceeded")

    def is_free() -> bool:
        try:
            with opened(running, token):
                return True
        except InvalidStatus:
            return False

    wait_for(is_free, 5)


def test_a_handshake_that_the_llm_server_refuses_is_told_in_porteros_words(
    running: Deployment, tokens: dict[str, str], llm: SocketLlm
) -> None:
    for status, expected in ((404, 404), (401, 502), (500, 502), (503, 503)):
        llm.refuses = status
        assert refused(running, additional_headers=bearer(tokens[SPEAKER]))[0] == expected


def test_the_token_of_a_browser_is_in_no_log(running: Deployment, tokens: dict[str, str]) -> None:
    with opened(running, "", additional_headers={}, subprotocols=[SECRET + tokens[SPEAKER]]):
        pass
    assert tokens[SPEAKER] not in running.output("gateway")
