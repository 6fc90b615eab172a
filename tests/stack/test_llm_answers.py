"""Every answer that an LLM server could give, or fail to give, behind requests of every size: the
caller gets the gateway's own refusal in its dialect, never nginx's page, never another server's
words or address (docs/http-api.md).
"""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import requests

from tests.support.deployment import CHAT, Caller, Deployment, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

Anew = Callable[..., AbstractContextManager[Deployment]]

#: One path a dialect, and one of another location: aliases are sent on from there.
PATHS = ("/v1/chat/completions", "/v1/messages", "/api/chat", "/llm/chat/completions")
#: The bytes of a body, and whether their number is told. nginx's own bound is 1 MiB.
BODIES = [(0, True), (1024, True), (2**20 + 1, True), (20 * 2**20, True), (1024, False)]
LARGE = [*BODIES, (2**20 + 1, False)]

#: What would tell of the LLM server, in every place that could hold it.
TELLING = (
    "Location: https://canary.internal:8443/CANARY\r\nContent-Location: /CANARY\r\n"
    "Refresh: 0; url=https://canary.internal\r\nLink: <https://canary.internal>; rel=next\r\n"
    "Server: CANARY\r\nSet-Cookie: auth_token=CANARY\r\nX-Powered-By: CANARY\r\nVia: CANARY\r\n"
    "X-Portero-Code: CANARY\r\n"
    'Alt-Svc: h2="canary.internal:443"\r\nWWW-Authenticate: Basic realm="CANARY"\r\n'
)
JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"


def said(status: int, kind: str | None = JSON_TYPE, body: bytes = b'{"error":"CANARY"}') -> bytes:
    """A whole raw answer."""
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"HTTP/1.1 {status} CANARY\r\n{TELLING}{typed}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


HTML_PAGE = b"<html>CANARY</html>"
#: What the LLM server does -> the status and the code that the caller is told.
ANSWERS: dict[str, tuple[bytes | str, int, str]] = {
    "ends without a word": ("die", 502, "upstream_unavailable"),
    "resets without a word": ("reset", 502, "upstream_unavailable"),
    "says what is no HTTP": (b"220 CANARY ESMTP\r\n\r\n", 502, "upstream_unavailable"),
    "answers by an interim status": (said(103), 502, "upstream_unavailable"),
    "answers 999": (said(999), 502, "upstream_unavailable"),
    "sends 20 MiB of head": (
        b"HTTP/1.1 200 OK\r\nX-Canary: " + b"C" * (20 * 2**20) + b"\r\n\r\n",
        502,
        "upstream_unavailable",
    ),
    "answers a page": (said(200, HTML_TYPE, HTML_PAGE), 502, "upstream_unavailable"),
    "answers a page in capitals": (said(200, "TEXT/HTML", HTML_PAGE), 502, "upstream_unavailable"),
    "redirects": (said(301), 502, "upstream_unavailable"),
    "redirects for now": (said(307), 502, "upstream_unavailable"),
    "redirects for ever": (said(308, HTML_TYPE, HTML_PAGE), 502, "upstream_unavailable"),
    "wants a key": (said(401), 502, "upstream_unavailable"),
    "wants another key": (said(403, None), 502, "upstream_unavailable"),
    "wants money": (said(402), 502, "upstream_unavailable"),
    "knows no such model": (said(404), 404, "model_not_found"),
    "refuses by a page": (said(400, HTML_TYPE, HTML_PAGE), 400, "invalid_request"),
    "refuses without a word": (said(400, None, b""), 400, "invalid_request"),
    "is asked too much, by a page": (said(429, HTML_TYPE, HTML_PAGE), 429, "rate_limit_exceeded"),
    "finds it too large": (said(413), 413, "request_too_large"),
    "fails": (said(500), 502, "upstream_unavailable"),
    "fails by a page": (said(500, HTML_TYPE, HTML_PAGE), 502, "upstream_unavailable"),
    "offers no such thing": (said(501), 404, "not_found"),
    "is a gateway itself": (said(502, HTML_TYPE, HTML_PAGE), 502, "upstream_unavailable"),
    "is not ready": (said(503), 503, "not_ready"),
    "is overloaded": (said(529), 503, "not_ready"),
    "waits for another": (said(504), 504, "upstream_timeout"),
}


def set_to(upstream: Upstream, answer: bytes | str) -> None:
    upstream.forget()
    if isinstance(answer, str):
        upstream.mood = answer
    else:
        upstream.raw_answer = answer
        # What is no HTTP tells no length: it ends with its connection.
        upstream.mood = "answer" if answer.startswith(b"HTTP/") else "die"


def body_of(size: int, is_told: bool) -> bytes | Iterator[bytes]:
    """A chat of about so many bytes; in chunks where its length is not told."""
    text = json.dumps({**CHAT, "user": "x" * max(0, size - 80)}).encode() if size else b""
    return text if is_told else iter([text])


def ask(
    caller: Caller,
    token: str,
    path: str,
    size: int = 1024,
    is_told: bool = True,
    session: requests.Session | None = None,
) -> requests.Response:
    """One chat with a body of that size; with a size of 0, none."""
    return (session or requests).post(
        caller.deployment.gateway + path,
        data=body_of(size, is_told),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        timeout=30,
        allow_redirects=False,
    )


def assert_refused(
    answer: requests.Response, path: str, status: int, code: str, what: object
) -> None:
    assert answer.status_code == status, what
    assert answer.headers["Content-Type"] == "application/json", what
    error: Any = answer.json()["error"]
    if path.startswith("/api/"):
        assert isinstance(error, str), what
    elif path.startswith("/v1/messages"):
        assert answer.json()["type"] == "error", what
        assert set(error) == {"type", "message"}, what
    else:
        assert error["code"] == code, what
    assert answer.headers["x-portero-code"] == code, what
    told = f"{answer.text}{answer.headers}".lower()
    assert "canary" not in told, what
    assert "<html" not in told, what
    assert ("Retry-After" in answer.headers) == (status in (429, 503)), what
    assert answer.headers["x-request-id"], what


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_refusal_is_the_same_behind_a_body_of_every_size_b1_u2(
    caller: Caller, agent: str, upstream: Upstream, answer: str, path: str
) -> None:
    raw, status, code = ANSWERS[answer]
    with requests.Session() as session:  # a connection that is said to be kept is kept
        for size, is_told in BODIES:
            set_to(upstream, raw)
            got = ask(caller, agent, path, size, is_told, session)
            assert_refused(got, path, status, code, (size, is_told))
            assert len(upstream.seen) == 1, "the LLM server is asked once"


@pytest.mark.parametrize("path", PATHS[:3])
def test_every_status_there_is_leaves_nothing_of_the_llm_server_u2(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    session = requests.Session()
    for status in (*range(300, 304), *range(305, 600)):
        if status in (400, 409, 422, 429):
            continue
        set_to(upstream, said(status))
        answer = ask(caller, agent, path, session=session)
        assert answer.status_code in (400, 404, 413, 415, 502, 503, 504), status
        error = answer.json()["error"]
        assert isinstance(error, str) == path.startswith("/api/"), status
        assert "canary" not in f"{answer.text}{answer.headers}".lower(), status
    session.close()


@pytest.mark.parametrize("status", [200, 201, 400, 409, 422, 429])
def test_an_answer_that_passes_tells_nothing_of_places_u2(
    caller: Caller, agent: str, upstream: Upstream, status: int
) -> None:
    set_to(upstream, said(status, body=b'{"error":"its own words"}'))
    answer = caller.call(agent)
    assert (answer.status_code, answer.json()) == (status, {"error": "its own words"})
    assert "canary" not in str(answer.headers).lower()


@pytest.mark.parametrize("path", PATHS[:3])
def test_nobody_behind_the_gateway_is_the_same_behind_a_body_of_every_size_b1(
    anew: Anew, upstream: Upstream, path: str
) -> None:
    with anew(LLM_UPSTREAM=f"http://{upstream.host}:9") as deployment:
        caller = Caller(deployment)
        token = caller.token("AGIATEST01")
        for size, is_told in LARGE:
            got = ask(caller, token, path, size, is_told)
            assert_refused(got, path, 502, "upstream_unavailable", (size, is_told))


@pytest.mark.parametrize("answer", ["fails", "redirects", "is not ready", "ends without a word"])
def test_a_caller_with_limits_is_refused_alike_b1(
    limited: Caller, local_upstream: Upstream, answer: str
) -> None:
    raw, status, code = ANSWERS[answer]
    token = limited.token("AGNRTEST01")
    for size, is_told in LARGE[1:]:
        set_to(local_upstream, raw)
        got = ask(limited, token, PATHS[0], size, is_told)
        assert_refused(got, PATHS[0], status, code, (size, is_told))
        assert len(local_upstream.seen) == 1


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_list_of_models_that_cannot_be_had_is_refused_in_our_words(
    caller: Caller, agent: str, upstream: Upstream, answer: str
) -> None:
    raw, status, _ = ANSWERS[answer]
    set_to(upstream, raw)
    got = caller.call(agent, "/v1/models", method="GET")
    assert got.status_code == (status if status in (404, 503, 504) else 502)
    assert isinstance(got.json()["error"], dict)
    assert "canary" not in f"{got.text}{got.headers}".lower()


ENDS_AFTER_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.mark.parametrize("length", ["Content-Length: 400", "Transfer-Encoding: chunked"])
def test_a_server_that_resets_behind_its_head_is_no_success(
    caller: Caller, agent: str, upstream: Upstream, length: str
) -> None:
    upstream.mood = "reset"
    upstream.raw_answer = ENDS_AFTER_HEAD + length.encode() + b"\r\n\r\n"
    try:
        answer = caller.call(agent)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return
    assert answer.status_code == 502 or "upstream_unavailable" in answer.text


def logged_of(deployment: Deployment, answer: requests.Response, mark: str) -> list[str]:
    """The lines of nginx's error log about requests with that mark in their query, once the last of
    them stands in the access log: a container's output comes when it comes.
    """
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: request_id in deployment.output("gateway"), 10, "the request is logged")
    return [line for line in deployment.output("gateway").splitlines() if mark in line]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("wants a key", "set LLM_API_KEY"),
        ("redirects", "Location https://canary.internal:8443/CANARY: set LLM_UPSTREAM"),
        ("answers a page", "does LLM_UPSTREAM name the LLM server?"),
        ("fails", "its own log tells why"),
    ],
)
def test_the_log_says_in_one_line_what_to_do_about_an_llm_server(
    caller: Caller, agent: str, upstream: Upstream, answer: str, words: str
) -> None:
    set_to(upstream, ANSWERS[answer][0])
    mark = f"mark={secrets.token_hex(8)}"
    lines = logged_of(caller.deployment, caller.call(agent, f"{PATHS[0]}?{mark}"), mark)
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert "[error]" in lines[0]
    assert agent not in lines[0]


def test_an_ordinary_large_body_is_no_warning(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    mark = f"mark={secrets.token_hex(8)}"
    for path in PATHS:
        answer = ask(caller, agent, f"{path}?{mark}", 3 * 2**20)
        assert answer.status_code == 200
    assert logged_of(caller.deployment, answer, mark) == []


def test_whoever_is_in_front_is_told_to_pass_events_on_f1(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.raw_answer = said(200, body=b"{}").replace(
        b"Server:", b"X-Accel-Buffering: yes\r\nServer:"
    )
    for token in (agent, None):
        answer = caller.call(token)
        assert answer.headers["X-Accel-Buffering"] == "no"


@pytest.fixture(scope="module")
def limited(local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A caller whose every limit is so large that it only counts."""

    def limit(content: dict[str, Any]) -> None:
        content["roles"]["agent_reasoning"].update(
            models=["tiny"], tokens_per_minute=10**6, concurrent_requests=100
        )

    roles = write_policy(tmp_path_factory.mktemp("roles") / "policy.yaml", limit)
    with deployed(local_upstream.url, POLICY_FILE=str(roles)) as running:
        yield Caller(running)
