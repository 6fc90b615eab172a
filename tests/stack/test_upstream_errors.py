"""The LLM server's own errors, in the caller's dialect; and what pages of other origins may do
(docs/http-api.md, threats H23).
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests

from run.commands import ROOT
from tests.support.deployment import Caller, Deployment
from tests.support.upstream import Upstream

Anew = Callable[..., AbstractContextManager[Deployment]]

#: What the LLM server says, and what the caller is told.
TOLD = {
    401: (502, "upstream_unavailable"),
    403: (502, "upstream_unavailable"),
    404: (404, "model_not_found"),
    405: (404, "model_not_found"),
    413: (413, "request_too_large"),
    500: (502, "upstream_unavailable"),
    501: (404, "not_found"),
    502: (502, "upstream_unavailable"),
    503: (503, "not_ready"),
    504: (504, "upstream_timeout"),
}


@pytest.mark.parametrize("status", TOLD)
def test_an_error_of_the_llm_server_is_said_in_openais_words(
    caller: Caller, agent: str, upstream: Upstream, status: int
) -> None:
    upstream.answers["/v1/chat/completions"] = status
    answer = caller.call(agent)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == TOLD[status]
    assert isinstance(error["message"], str)
    assert "CANARY" not in answer.text
    assert answer.headers["x-request-id"]
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("status", TOLD)
def test_an_error_of_the_llm_server_is_said_in_ollamas_words(
    caller: Caller, agent: str, upstream: Upstream, status: int
) -> None:
    upstream.answers["/api/chat"] = status
    answer = caller.call(agent, "/api/chat")
    assert answer.status_code == TOLD[status][0]
    assert set(answer.json()) == {"error"}
    assert isinstance(answer.json()["error"], str)
    assert "CANARY" not in answer.text


def test_a_404_of_a_route_without_a_model_is_not_about_a_model(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.answers["/health"] = 404
    answer = caller.call(agent, "/health", method="GET")
    assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("status", [400, 409, 422, 429])
def test_what_only_the_llm_server_can_say_of_a_request_passes(
    caller: Caller, agent: str, upstream: Upstream, status: int
) -> None:
    upstream.answers["/v1/chat/completions"] = status
    answer = caller.call(agent)
    assert (answer.status_code, answer.json()) == (status, {"error": "CANARY"})


ORIGIN = "https://chat.example"
OTHERS = [
    "https://evil.example",
    "null",
    "https://chat.example.evil.example",
    "https://chat.example:8443",
    "http://chat.example",
    "https://CHAT.example.",
    "https://xchat.example",
]
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def preflight(caller: Caller, origin: str, path: str = "/v1/chat/completions") -> requests.Response:
    return caller.call(path=path, method="OPTIONS", headers={"Origin": origin, **ASKED})


@pytest.mark.in_containers_too
def test_a_page_of_a_configured_origin_may_ask_and_read(anew: Anew, upstream: Upstream) -> None:
    with anew(CORS_ORIGINS=f"{ORIGIN}, http://localhost:3000") as running:
        caller = Caller(running)
        for path in ("/v1/chat/completions", "/api/chat", "/llm/models", "/llm/login", "/logout"):
            asked = preflight(caller, ORIGIN, path)
            assert asked.status_code == 204
            assert asked.headers["Access-Control-Allow-Origin"] == ORIGIN
            allowed = asked.headers["Access-Control-Allow-Headers"].lower()
            for name in ("authorization", "content-type", "x-api-key", "x-stainless-retry-count"):
                assert name in allowed
            assert "POST" in asked.headers["Access-Control-Allow-Methods"]
            assert int(asked.headers["Access-Control-Max-Age"]) > 0
        assert upstream.seen == []
        token = caller.token("AGIATEST01")
        for origin in (ORIGIN, "http://localhost:3000"):
            for given, status in ((token, 200), ("bad", 401), (None, 401)):
                answer = caller.call(given, headers={"Origin": origin})
                assert answer.status_code == status
                assert answer.headers["Access-Control-Allow-Origin"] == origin
                assert "Access-Control-Allow-Credentials" not in answer.headers
                assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]
                assert "Origin" in answer.headers["Vary"]
        refused = caller.call(token, "/api/pull", headers={"Origin": ORIGIN})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (
            403,
            ORIGIN,
        )
        upstream.answers["/v1/chat/completions"] = 500
        failed = caller.call(token, headers={"Origin": ORIGIN})
        assert (failed.status_code, failed.headers["Access-Control-Allow-Origin"]) == (502, ORIGIN)
        upstream.seen.clear()
        for other in OTHERS:
            asked = preflight(caller, other)
            assert asked.status_code == 404
            assert "Access-Control-Allow-Origin" not in asked.headers
            answer = caller.call("bad", headers={"Origin": other})
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert upstream.seen == []


def test_without_a_setting_no_other_origin_may_do_anything(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    asked = preflight(caller, ORIGIN)
    assert asked.status_code == 404
    answer = caller.call(agent, headers={"Origin": ORIGIN})
    for one in (asked, answer):
        assert not [name for name in one.headers if name.lower().startswith("access-control")]


def test_the_llm_servers_own_word_on_origins_goes_nowhere(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.raw_answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\n"
        b"Access-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Headers: *\r\n\r\n{}"
    )
    answer = caller.call(agent, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert upstream.seen[-1].values("origin") == []


@pytest.mark.parametrize("origins", ["*", "chat.example", "https://a b.example/path", "https://"])
def test_an_origin_that_is_none_stops_the_start(tmp_path: Path, origins: str) -> None:
    settings = {"CORS_ORIGINS": origins, "LLM_UPSTREAM": "http://127.0.0.1:1"}
    done = subprocess.run(
        ["sh", str(ROOT / "openresty" / "gateway.sh"), "check"],
        env={"PATH": os.environ["PATH"], "GATEWAY_RUNTIME_DIR": str(tmp_path), **settings},
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.returncode == 1
    assert "CORS_ORIGINS: each must" in done.stderr
