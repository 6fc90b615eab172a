"""Each path in its own dialect, byte by byte: what is refused, what a stream ends with, and which
headers tell the request's ID. What the real clients make of it is in `clients/`.
"""

import json
from typing import Any

import pytest

from tests.support.deployment import CHAT, Caller
from tests.support.upstream import Upstream

#: Every outside name of Anthropic's routes.
MESSAGES = (
    "/v1/messages",
    "/v1/messages?beta=true",
    "/v1/messages/count_tokens?beta=true",
    "/llm/v1/messages",
    "/llm/messages?beta=true",
    "/llm/messages/count_tokens",
)
RESPONSES = ("/v1/responses", "/llm/v1/responses", "/llm/responses?x=1")
STREAM = {**CHAT, "stream": True}
each_messages_path = pytest.mark.parametrize("path", MESSAGES)


def assert_anthropics(answer: Any, status: int, kind: str) -> None:
    body = answer.json()
    assert answer.status_code == status
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == body["request_id"]
    assert set(body) == {"type", "error", "request_id"}
    assert set(body["error"]) == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)


@each_messages_path
def test_what_the_gateway_refuses_at_messages_is_anthropics_by_every_name(
    caller: Caller, agent: str, path: str
) -> None:
    assert_anthropics(caller.call(None, path), 401, "authentication_error")
    monitoring = caller.token("MNTRTEST01")
    assert_anthropics(caller.call(monitoring, path), 403, "permission_error")
    assert_anthropics(caller.call(agent, path, "PUT"), 404, "not_found_error")
    key = {"x-api-key": "another"}
    assert_anthropics(caller.call(agent, path, headers=key), 400, "invalid_request_error")


#: What the LLM server answers, and what Anthropic calls it.
FAILURES = {
    401: (502, "api_error"),
    404: (404, "not_found_error"),
    413: (413, "request_too_large"),
    415: (415, "invalid_request_error"),
    500: (502, "api_error"),
    503: (503, "overloaded_error"),
    504: (504, "api_error"),
    529: (503, "overloaded_error"),
}


@pytest.mark.parametrize("status", FAILURES)
@each_messages_path
def test_what_the_llm_server_fails_with_at_messages_is_anthropics_by_every_name(
    caller: Caller, agent: str, upstream: Upstream, path: str, status: int
) -> None:
    target = path.partition("?")[0].removeprefix("/llm")
    upstream.answers[target if target.startswith("/v1") else "/v1" + target] = status
    assert_anthropics(caller.call(agent, path), *FAILURES[status])


@pytest.mark.parametrize("status", [400, 409, 422, 429])
def test_the_llm_servers_own_words_pass_at_messages(
    caller: Caller, agent: str, upstream: Upstream, status: int
) -> None:
    upstream.answers["/v1/messages"] = status
    answer = caller.call(agent, "/v1/messages")
    assert (answer.status_code, answer.json()) == (status, {"error": "CANARY"})
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


@each_messages_path
def test_an_answer_at_messages_tells_the_requests_id_once_and_never_the_llm_servers(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    upstream.raw_answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nrequest-id: CANARY\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    answer = caller.call(agent, path, headers={"anthropic-version": "1", "anthropic-beta": "b"})
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert upstream.seen[-1].values("anthropic-version") == ["1"]
    assert upstream.seen[-1].values("anthropic-beta") == ["b"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/api/chat"])
def test_no_other_dialect_has_that_header(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    assert "request-id" not in caller.call(agent, path).headers
    assert "request-id" not in caller.call(None, path).headers


def last_event(caller: Caller, token: str, upstream: Upstream, path: str) -> Any:
    """The data of the event that a stream ends with whose server dies; its name is right."""
    upstream.mood = "die in stream"
    body = json.dumps(STREAM)
    received = caller.raw(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    assert not received.endswith(b"0\r\n\r\n"), "the cut can be seen"
    name, data = received.rstrip().rpartition(b"event: ")[2].split(b"\n", 1)
    assert name == b"error"
    return json.loads(data.removeprefix(b"data: "))


@each_messages_path
def test_a_stream_of_messages_ends_with_anthropics_event_by_every_name(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    data = last_event(caller, agent, upstream, path)
    assert (data["type"], data["error"]["type"]) == ("error", "api_error")
    assert data["request_id"]


@pytest.mark.parametrize("path", RESPONSES)
def test_a_stream_of_responses_ends_with_the_event_of_that_api_by_every_name(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    data = last_event(caller, agent, upstream, path)
    error = data["error"]
    assert (data["type"], data["code"], error["code"]) == ("error", *2 * ["upstream_unavailable"])
    assert data["message"] == error["message"] == "The LLM server cannot be reached."


@pytest.mark.parametrize("path", RESPONSES)
def test_what_is_refused_at_responses_is_openais(caller: Caller, path: str) -> None:
    assert caller.call(None, path).json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("user", ["AGIATEST01", "ADMNTEST01"])
@pytest.mark.parametrize("behind", ["", "/cancel", "/input_items", "?stream=true"])
def test_nobody_reads_ends_or_deletes_a_response_by_its_id(
    caller: Caller, upstream: Upstream, method: str, user: str, behind: str
) -> None:
    token = caller.token(user)
    for path in ("/v1/responses/resp_1", "/llm/responses/resp_1", "/v1/conversations/conv_1"):
        answer = caller.call(token, path + behind, method)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert upstream.seen == []


# What Claude Code asks beside its turns.


def test_a_head_of_the_bare_host_is_401_without_a_body(caller: Caller, upstream: Upstream) -> None:
    for headers in ({}, {"Accept": "text/html"}):
        answer = caller.call(None, "/", "HEAD", headers=headers)
        assert (answer.status_code, answer.content) == (401, b"")
    assert upstream.seen == []


def test_a_head_of_the_bare_host_with_a_token_is_the_llm_servers_page_or_not(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    head = b"HTTP/1.1 %s X\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n"
    for told, status in ((b"200", 200), (b"404", 404), (b"405", 404)):
        upstream.raw_answer = head % told
        assert caller.call(agent, "/", "HEAD").status_code == status


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_models_are_listed_as_claude_code_asks_for_them(
    caller: Caller, agent: str, upstream: Upstream, name: str
) -> None:
    credential = f"Bearer {agent}" if name == "Authorization" else agent
    headers = {name: credential, "anthropic-version": "2023-06-01"}
    answer = caller.call(None, "/v1/models?limit=1000", "GET", headers=headers)
    assert [model["id"] for model in answer.json()["data"]] == ["tiny"]
