"""WebSocket where the policy names LLM servers: which one, another one where it is not ready, what
a client may say there, and what ends it. The gateway is told its policy as an issuer tells it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from issuer.policy import Policy
from tests.support.fleet import Fleet, compiled, fleet, row
from tests.support.policies import changed_policy
from tests.support.ports import free_ports
from tests.support.socket_llm import SocketLlm, socket_llm
from tests.support.waiting import wait_for, within

AGENT, LIMITED, OTHER = "AGIATEST01", "USRSTEST01", "ADMNTEST01"
ALIASES = [
    {"name": "gpt-realtime", "models": ["voice"]},
    {"name": "gpt-fast", "models": ["small"]},
]


def grant(content: dict[str, Any]) -> None:
    for name in ("agi", "user", "admin"):
        content["roles"][name]["routes"].append("realtime")
        content["roles"][name]["inspect_bodies"] = True
    content["roles"]["user"]["models"] = ["voice", "small"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Fleet]:
    with fleet() as running:
        yield running


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return changed_policy(tmp_path_factory.mktemp("policy"), grant)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[SocketLlm, SocketLlm]]:
    with socket_llm() as voice, socket_llm() as small:
        yield voice, small


@pytest.fixture
def servers(
    gateway: Fleet, granted: Policy, both: tuple[SocketLlm, SocketLlm]
) -> tuple[SocketLlm, SocketLlm]:
    """One that has `voice`, and one that has `small`; each has `big` and `helper` too."""
    for one in both:
        one.forget()
    listed = [
        row("voice", both[0].port, kind="localai", models=["voice", "big", "helper"]),
        row("small", both[1].port, kind="localai", models=["small", "big"]),
    ]
    gateway.put(compiled(listed, ALIASES, granted))
    return both


@contextmanager
def opened(
    gateway: Fleet, path: str = "/v1/realtime?model=voice", user: str = AGENT, token: str = ""
) -> Iterator[Connection]:
    """A connection that has been greeted, where its handshake says which server."""
    url = gateway.deployment.gateway.replace("http", "ws", 1) + path
    headers = {"Authorization": f"Bearer {token or gateway.token(user)}"}
    with connect(url, additional_headers=headers, max_size=None, compression=None) as connection:
        if "realtime" in path:
            assert json.loads(connection.recv(10))["type"] == "session.created"
        yield connection


def say(connection: Connection, **event: Any) -> None:
    connection.send(json.dumps(event))


def _hear_all(connection: Connection) -> None:
    while True:
        connection.recv(within(5))


def closed(connection: Connection) -> tuple[int, str]:
    """How the gateway ends it, whatever the LLM server has said before."""
    with pytest.raises(ConnectionClosed) as found:
        _hear_all(connection)
    assert found.value.rcvd is not None
    return found.value.rcvd.code, found.value.rcvd.reason


def test_a_socket_goes_to_the_server_that_has_its_model_by_its_real_name(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    client = openai.OpenAI(
        base_url=f"{gateway.deployment.gateway}/v1", api_key=gateway.token(AGENT)
    )
    with client.realtime.connect(model="gpt-realtime") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "model": "gpt-realtime"})
        assert connection.recv().type == "session.updated"
    assert [one.path for one in servers[0].seen] == ["/v1/realtime?model=voice"]
    assert servers[0].seen[0].headers.get_all("X-Auth-User") == [AGENT]
    assert json.loads(servers[0].said[0])["session"] == {"type": "realtime", "model": "voice"}
    with opened(gateway, "/v1/realtime?model=small") as connection:
        say(connection, type="input_audio_buffer.append", audio="AAAA")
        connection.recv(within(5))
    assert len(servers[0].seen) == len(servers[1].seen) == 1


def test_n8_n9_nothing_beside_the_model_chooses_a_server(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    voice, small = servers
    other = f"127.0.0.1:{small.port}"
    names = (
        "X-Server",
        "X-Backend",
        "X-Upstream",
        "X-Portero-Target",
        "X-Portero-Server",
        "Location",
    )
    token = gateway.token()
    url = gateway.deployment.gateway.replace("http", "ws", 1) + "/v1/realtime?model=voice"
    for name in names:
        for value in ("small", other, "/v1/realtime?model=small"):
            headers = [("Authorization", f"Bearer {token}"), (name, value)]
            with connect(url, additional_headers=headers, compression=None) as connection:
                connection.recv(10)
    for query in ("server=small", "url_idx=1", "host=small", f"upstream={other}", "model=small"):
        for path in (f"/v1/realtime?model=voice&{query}", f"/v1/responses?{query}"):
            with pytest.raises(InvalidStatus), opened(gateway, path, token=token):
                pass
    for path in ("/servers/small/v1/realtime?model=small", "/sockets/small/v1/realtime?model=big"):
        with pytest.raises(InvalidStatus), opened(gateway, path, token=token):
            pass
    assert small.seen == []
    assert {one.path for one in voice.seen} == {"/v1/realtime?model=voice"}


def test_the_first_message_says_which_server_where_the_handshake_does_not(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    with opened(gateway, "/v1/responses") as connection:
        assert connection.ping().wait(10)
        say(connection, type="response.create", model="gpt-fast", input="hi")
        kinds = [json.loads(connection.recv(10))["type"] for _ in range(2)]
        assert kinds == ["response.created", "response.completed"]
        # It stays there; what that server has may be named, and nothing else.
        say(connection, type="response.create", model="big", tools=[])
        assert json.loads(connection.recv(10))["model"] == "big"
        say(connection, type="response.create", model="voice", input="hi")
        assert closed(connection)[0] == 1008
    assert [json.loads(said)["model"] for said in servers[1].said] == ["small", "big"]
    assert servers[0].seen == []


FETCHED = {"type": "input_image", "image_url": "http://169.254.169.254/"}
ITEM = {"type": "message", "role": "user", "content": [FETCHED]}
REFUSED: dict[str, dict[str, Any]] = {
    "another model": {"type": "session.update", "session": {"model": "big"}},
    "another model at the top": {"type": "session.update", "model": "big"},
    "another model in a response": {"type": "response.create", "response": {"model": "big"}},
    "a transcription's model": {
        "type": "session.update",
        "session": {"audio": {"input": {"transcription": {"model": "elsewhere"}}}},
    },
    "an older transcription's model": {
        "type": "transcription_session.update",
        "session": {"input_audio_transcription": {"model": "elsewhere"}},
    },
    "an adapter": {"type": "session.update", "lora": "x"},
    "n11 a server's tools": {
        "type": "session.update",
        "session": {"tools": [{"type": "mcp", "server_url": "http://10.0.0.1/"}]},
    },
    "n11 a server's tools in a response": {
        "type": "response.create",
        "response": {"tools": [{"type": "web_search"}]},
    },
    "n11 LocalAI's servers": {
        "type": "response.create",
        "response": {"metadata": {"mcp_servers": "x"}},
    },
    "n13 an address in an item": {"type": "conversation.item.create", "item": ITEM},
    "n13 an address in a response": {"type": "response.create", "response": {"input": [ITEM]}},
    "n10 a conversation": {"type": "response.create", "response": {"conversation": "conv_1"}},
    "n10 a conversation by its ID": {
        "type": "response.create",
        "response": {"conversation": {"id": "conv_1"}},
    },
    "n10 another response": {
        "type": "response.create",
        "response": {"previous_response_id": "resp_1"},
    },
    "n10 another response at the top": {
        "type": "response.create",
        "previous_response_id": "resp_1",
    },
}
#: What no reader of ours may read otherwise than a server does.
ODD = {
    "a name in other letters": '{"type":"session.update","session":{"Model":"big"}}',
    "a name twice": '{"type":"session.update","session":{"model":"voice","model":"big"}}',
    "two sessions": '{"type":"session.update","session":{},"session":{"model":"big"}}',
    "an escape": '{"type":"session.update","session":{"mod\\u0065l":"big"}}',
    "no JSON": '{"type":"session.update","session":{"model":"big"},}',
    "two objects": '{"type":"x"}{"type":"session.update","session":{"model":"big"}}',
    "a list": '[{"type":"session.update","session":{"model":"big"}}]',
}


@pytest.mark.parametrize("user", [AGENT, LIMITED])
def test_n10_n11_n13_what_a_body_may_not_ask_no_event_may(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm], user: str
) -> None:
    said = {name: json.dumps(event) for name, event in REFUSED.items()} | ODD
    for name, text in said.items():
        with opened(gateway, user=user) as connection:
            connection.send(text)
            assert closed(connection)[0] == 1008, name
    assert servers[0].said == servers[1].said == []


def test_no_cut_of_a_message_hides_what_it_asks(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    text = json.dumps(REFUSED["another model"])
    for cuts in ([9], [40, 41], list(range(1, len(text)))):
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        with opened(gateway) as connection:
            connection.send(iter(pieces))
            code, reason = closed(connection)
        assert (code, reason.partition(":")[0]) == (1008, "model_not_found")
    assert servers[0].said == []


def test_what_is_no_text_and_what_is_too_long_ends_the_connection(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    hidden = json.dumps(REFUSED["another model"]).encode()
    for message, code in ((hidden, 1003), ("x" * (16 * 2**20 + 1), 1009)):
        with opened(gateway) as connection:
            connection.send(message)
            assert closed(connection)[0] == code
    with opened(gateway) as connection:
        connection.socket.sendall(b"\xc1\x80\0\0\0\0")  # as if compressed
        assert closed(connection)[0] == 1002
    assert servers[0].said == []


def test_what_a_client_may_say_arrives_as_it_said_it(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    said = [
        '{"type": "session.update",  "session": {"tools": [{"type": "function", "name": "f"}]}}',
        '{"type":"session.update","session":{"model":"voice","instructions":"\\"model\\":\\"b\\""}}',
        '{"type":"response.create","response":{"conversation":"none","input":[{"type":'
        '"item_reference","id":"item_1"}]}}',
        '{"type":"session.update","session":{"input_audio_transcription":{"model":"helper"}}}',
        json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 2_000_000}),
        json.dumps({"type": "conversation.item.create", "item": {"type": "message", "content": [
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}}),
    ]  # fmt: skip
    with opened(gateway) as connection:
        for text in said:
            connection.send(text)
            connection.recv(10)
        connection.send(iter(['{"type":', '"x"}']))
        assert connection.recv(10) == '{"type":"x"}'
        assert connection.ping().wait(10)
    assert servers[0].said == [*said, '{"type":"x"}']


def test_n12_a_priority_is_the_roles_and_never_the_clients(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    with opened(gateway) as connection:
        connection.send('{"type":"x","priority":-1000,"a":1}')
        assert connection.recv(10) == '{"type":"x","a":1}'


def test_n10_one_goes_on_from_ones_own_response_and_nobody_else_does(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    ask = {"type": "response.create", "model": "big", "input": "hi"}
    with opened(gateway, "/v1/responses") as connection:
        say(connection, **ask)
        made = json.loads(connection.recv(10))["response"]["id"]
        connection.recv(10)
        say(connection, **ask, previous_response_id=made)
        connection.recv(10)
    used = next(one for one in servers if one.seen)
    for _ in range(4):
        with opened(gateway, "/v1/responses") as connection:
            say(connection, **ask, previous_response_id=made)
            assert connection.recv(10)
    assert len(used.seen) == 5
    with opened(gateway, "/v1/responses", user=OTHER) as connection:
        say(connection, **ask, previous_response_id=made)
        assert closed(connection) == (
            1008,
            "not_found: You have no such response to go on from; send what was said before in"
            " the input.",
        )
    assert len(used.seen) == 5


def test_a_server_that_gives_no_connection_is_passed_over_before_anything_is_said(
    gateway: Fleet, granted: Policy, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    voice, small = servers
    away = row("away", free_ports(1)[0], kind="localai", models=["big"])
    busy = row("voice", voice.port, kind="localai", models=["big"])
    good = row("small", small.port, kind="localai", models=["big"])
    gateway.put(compiled([away, busy, good], (), granted))
    voice.refuses = 503
    for path in ("/v1/realtime?model=big", "/v1/responses"):
        for _ in range(3):
            with opened(gateway, path) as connection:
                say(connection, type="response.create", model="big", tools=[])
                assert connection.recv(10)
    assert len(small.seen) == 6
    # One that has begun to speak is never left for another.
    with opened(gateway, "/v1/realtime?model=big") as connection:
        say(connection, type="leave")
        assert closed(connection)[0] == 1011
    assert len(small.seen) == 7


def test_where_no_server_gives_a_connection_the_client_is_told_when_it_can_be(
    gateway: Fleet, granted: Policy, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    for one in servers:
        one.refuses = 503
    with pytest.raises(InvalidStatus) as found, opened(gateway, "/v1/realtime?model=big"):
        pass
    response = found.value.response
    assert (response.status_code, response.headers["x-portero-code"]) == (503, "not_ready")
    assert response.headers["Retry-After"]
    with opened(gateway, "/v1/responses") as connection:
        say(connection, type="response.create", model="big", input="hi")
        code, reason = closed(connection)
    assert (code, reason.partition(":")[0]) == (1013, "not_ready")
    with pytest.raises(InvalidStatus) as found, opened(gateway, "/v1/realtime?model=none"):
        pass
    assert found.value.response.status_code == 404


def test_a_connection_holds_a_place_of_its_server_until_it_ends(
    gateway: Fleet, granted: Policy, servers: tuple[SocketLlm, SocketLlm]
) -> None:
    voice, small = servers
    listed = [
        row("one", voice.port, kind="localai", models=["big"], max_concurrent=1),
        row("two", small.port, kind="localai", models=["big"], max_concurrent=1),
    ]
    gateway.put(compiled(listed, (), granted))
    got = threading.Event()

    def third() -> None:
        with opened(gateway, "/v1/realtime?model=big"):
            got.set()

    waiting = threading.Thread(target=third)
    with opened(gateway, "/v1/realtime?model=big"):
        with opened(gateway, "/v1/realtime?model=big"):
            assert len(voice.seen) == len(small.seen) == 1
            waiting.start()
            assert not got.wait(0.5)
        assert got.wait(within(5))
    waiting.join(10)
    wait_for(lambda: not voice.open and not small.open, 5, "both sides are closed")


@pytest.mark.parametrize("path", ["/v1/realtime?model=voice", "/v1/responses"])
def test_a_revoked_tokens_connection_is_closed_whether_it_has_a_server_yet_or_not(
    gateway: Fleet, servers: tuple[SocketLlm, SocketLlm], path: str
) -> None:
    token = gateway.token()
    with opened(gateway, path, token=token) as connection:
        gateway.revoke(token)
        with pytest.raises(ConnectionClosed) as found:
            connection.recv(within(1))
    assert found.value.rcvd is not None
    assert (found.value.rcvd.code, found.value.rcvd.reason) == (1008, "token revoked")
