"""What responses over a WebSocket used is in the store as the LLM server told it, each once, and is
charged to limits and budgets (docs/policy.md, "WebSocket"; docs/operations.md, "Usage").
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.stack.test_usage import rows, sums, wait_for_sums
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import write_policy
from tests.support.socket_llm import SocketLlm, socket_llm
from tests.support.waiting import wait_for

SPEAKER, FAST, SAVING, USER = "AGIATEST01", "AGNFTEST01", "AGNRTEST01", "USRSTEST01"
REALTIME = "/v1/realtime?model=tiny"
#: As OpenAI's own server tells it.
USAGE = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}
Event = dict[str, Any]


def grant(content: dict[str, Any]) -> None:
    roles = content["roles"]
    for name in ("agi", "agent_fast", "agent_reasoning", "user"):
        roles[name]["routes"].append("realtime")
    roles["agent_fast"]["tokens_per_minute"] = 300
    roles["agent_reasoning"]["tokens_per_day"] = 300


@pytest.fixture(scope="module")
def llm() -> Iterator[SocketLlm]:
    with socket_llm() as running:
        yield running


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_policy(tmp_path_factory.mktemp("policy") / "policy.yaml", grant))


@pytest.fixture(scope="module")
def running(llm: SocketLlm, policy: str) -> Iterator[Local]:
    with deployed(llm.url, POLICY_FILE=policy) as deployment:
        yield deployment


@contextmanager
def opened(running: Local, token: str, path: str = REALTIME) -> Iterator[Connection]:
    url = running.gateway.replace("http", "ws", 1) + path
    headers = {"Authorization": f"Bearer {token}"}
    with connect(url, additional_headers=headers, compression=None) as connection:
        if "realtime" in path:
            assert json.loads(connection.recv(10))["type"] == "session.created"
        yield connection


def refused(running: Local, token: str) -> tuple[int, str]:
    """What a handshake is told."""
    with pytest.raises(InvalidStatus) as found, opened(running, token):
        pass
    response = found.value.response
    return response.status_code, response.headers["x-portero-code"]


def tell(connection: Connection, *events: Event) -> Sequence[Event]:
    """Have the LLM server say these, and hear them."""
    connection.send(json.dumps({"type": "tell", "events": events}))
    return [json.loads(connection.recv(10)) for _ in events]


def done(name: str, kind: str = "response.done", **more: Any) -> Event:
    return {"type": kind, "response": {"id": name, "status": "completed", "usage": USAGE, **more}}


def part(name: str) -> Event:
    return {"type": "response.output_audio.delta", "response_id": name, "delta": "AAAA" * 500}


def test_each_response_is_counted_once_as_the_server_tells_it_and_as_soon_as_it_does(
    running: Local, llm: SocketLlm
) -> None:
    with opened(running, Caller(running).token(SPEAKER)) as connection:
        created = {"type": "response.created", "response": {"id": "r1", "usage": None}}
        events = [created, *[part("r1")] * 20, done("r1"), done("r1", "response.completed")]
        assert tell(connection, *events) == events
        wait_for_sums(running, SPEAKER, (1, 132, 121))
        tell(connection, part("r2"), done("r2"))
        wait_for_sums(running, SPEAKER, (2, 264, 242))
    wait_for(lambda: not llm.open, 5, "the connection has ended")
    wait_for_sums(running, SPEAKER, (2, 264, 242))
    (row,) = rows(running, "--by", "user,credential,model,server")
    assert [row[one] for one in ("user", "credential", "model", "server")] == [
        *(SPEAKER, "token", "tiny", "llm")
    ]
    log = '"model":"tiny","server":"llm","prompt_tokens":264,"completion_tokens":242'
    wait_for(lambda: log in running.output("gateway"), 10, "the access log tells it")


def test_a_connection_that_ends_early_counts_as_far_as_it_was_seen_of_an_api_key_too(
    running: Local, llm: SocketLlm
) -> None:
    caller = Caller(running)
    made = caller.call(
        caller.token(USER), "/account/keys", body={"name": "voice", "days": 1}
    ).json()
    with opened(running, made["key"]) as connection:
        tell(connection, done("r1"), part("r2"), part("r2"), part("r2"))
        connection.socket.close()
    wait_for_sums(running, USER, (2, 132, 124))
    (row,) = (one for one in rows(running) if one["user"] == USER)
    assert row["credential"] == made["id"]


def ended(connection: Connection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as found:
        connection.recv(10)
    assert found.value.rcvd is not None
    return found.value.rcvd.code, found.value.rcvd.reason.partition(":")[0]


def test_tokens_of_a_minute_are_charged_and_end_the_connection_that_uses_the_last(
    running: Local,
) -> None:
    token = Caller(running).token(FAST)
    with opened(running, token) as connection:
        tell(connection, done("r1"))
        tell(connection, done("r2"))
        assert ended(connection) == (1008, "rate_limit_exceeded")
    assert refused(running, token) == (429, "rate_limit_exceeded")


def test_a_budget_is_charged_and_ends_the_connection_that_spends_it(running: Local) -> None:
    caller = Caller(running)
    token = caller.token(SAVING)
    with opened(running, token) as connection, opened(running, token) as other:
        tell(connection, done("r1"))
        tell(other, done("r2"))
        assert ended(other) == (1008, "insufficient_quota")
        tell(connection, part("r3"))
    assert refused(running, token) == (429, "insufficient_quota")
    assert caller.call(token).json()["error"]["code"] == "insufficient_quota"
    wait_for_sums(running, SAVING, (3, 264, 243))


def test_the_server_and_the_real_model_are_named_where_the_policy_names_servers(
    llm: SocketLlm, tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        grant(content)
        server = {"name": "booth", "url": llm.url, "kind": "localai", "models": ["tiny"]}
        content.update(servers=[server], aliases={"gpt-realtime": "tiny"})

    policy = write_policy(tmp_path / "policy.yaml", change)
    with deployed("", POLICY_FILE=str(policy)) as running:
        caller = Caller(running)
        token = caller.token(SPEAKER)
        with opened(running, token, "/v1/realtime?model=gpt-realtime") as connection:
            tell(connection, done("r1"))
        with opened(running, token, "/v1/responses") as connection:
            tell(connection, done("r2", "response.completed", model="tiny"))
        wait_for_sums(running, SPEAKER, (2, 264, 242))
        (row,) = rows(running)
        assert (row["model"], row["server"]) == ("tiny", "booth")


def test_nothing_is_counted_where_use_is_not_and_all_passes(llm: SocketLlm, tmp_path: Path) -> None:
    def without_budgets(content: dict[str, Any]) -> None:
        grant(content)
        del content["roles"]["agent_reasoning"]["tokens_per_day"]

    path = write_policy(tmp_path / "policy.yaml", without_budgets)
    with deployed(llm.url, POLICY_FILE=str(path), USAGE="off") as running:
        caller = Caller(running)
        with opened(running, caller.token(SPEAKER)) as connection:
            events = [part("r1"), done("r1")]
            assert tell(connection, *events) == events
        token = caller.token(FAST)
        with opened(running, token) as connection:
            tell(connection, done("r1"), done("r2"))
            assert ended(connection) == (1008, "rate_limit_exceeded")
        wait_for(lambda: not llm.open, 5, "the connections have ended")
        assert sums(running, SPEAKER) == (0, 0, 0)
