"""One request at a time: what passes, as what it arrives, and what never arrives."""

import json
import time
from collections.abc import Callable, Mapping

import pytest

from tests.support.deployment import Caller, Deployment
from tests.support.forge import encode, parts, sign
from tests.support.upstream import Upstream

JSON = "application/json"


UNSIGNED = encode(b'{"alg":"none","typ":"JWT"}')


def changed(token: str, key: str, **claims: object) -> str:
    """The same token with other claims, under the right key unless told otherwise."""
    header, old = parts(token)
    return sign(header, {**old, **claims}, key)


def expired(token: str, key: str) -> str:
    now = int(time.time())
    return changed(token, key, iat=now - 200, exp=now - 80)


#: From a good token and the signing key.
BAD_TOKENS: dict[str, Callable[[str, str], str]] = {
    "garbage": lambda token, key: "abc",
    "empty": lambda token, key: "",
    "another key": lambda token, key: changed(token, "k" * 40),
    "no algorithm": lambda token, key: f"{UNSIGNED}.{token.split('.')[1]}.",
    "never issued": lambda token, key: changed(token, key, jti="A" * 22),
    "expired": expired,
    "raised role": lambda token, key: changed(token, key, role="admin"),
    "longer life": lambda token, key: changed(token, key, exp=parts(token)[1]["exp"] + 86_400),
    "padded signature": lambda token, key: token + "=",
    "flipped bit": lambda token, key: token[:-2] + ("B" if token[-2] == "A" else "A") + token[-1],
    "four parts": lambda token, key: f"{token}.{token.split('.')[2]}",
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_401_and_never_reaches_the_llm(
    caller: Caller, deployment: Deployment, agent: str, upstream: Upstream, name: str
) -> None:
    token = BAD_TOKENS[name](agent, deployment.secret_key)
    answer = caller.call(token)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="portero"'
    assert answer.headers["Content-Type"] == JSON
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert upstream.seen == []
    assert caller.validate(token) == 401


def test_without_a_token_the_answer_is_the_same_401(caller: Caller, upstream: Upstream) -> None:
    assert caller.call().content == caller.call("abc").content
    assert caller.call().status_code == 401
    assert upstream.seen == []


def test_only_an_authentic_expired_token_says_so_and_may_be_retried(
    caller: Caller, deployment: Deployment, agent: str
) -> None:
    for name, make in BAD_TOKENS.items():
        answer = caller.call(make(agent, deployment.secret_key))
        says_so = answer.json()["error"]["message"] == "token expired"
        assert says_so == (name == "expired")
        assert answer.headers.get("x-should-retry") == ("true" if says_so else None)


ALIASES = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/llm/chat/completions": "/v1/chat/completions",
    "/llm/v1/chat/completions": "/v1/chat/completions",
    "/chat/completions": "/v1/chat/completions",
    "/v1/completions": "/v1/completions",
    "/llm/completions": "/v1/completions",
    "/completions": "/v1/completions",
    "/llm/completion": "/completion",
    "/completion": "/completion",
    "/v1/embeddings": "/v1/embeddings",
    "/llm/embeddings": "/v1/embeddings",
    "/embeddings": "/v1/embeddings",
    "/api/chat": "/api/chat",
    "/llm/api/chat": "/api/chat",
    "/llm/api/generate": "/api/generate",
    "/llm/chat": "/chat",
}
READ_ALIASES = {
    "/v1/models": "/v1/models",
    "/llm/models": "/v1/models",
    "/models": "/v1/models",
    # Looked up in the list: not every LLM server has such a route.
    "/v1/models/tiny": "/v1/models",
    "/models/library%2Ftiny:latest": "/v1/models",
    "/health": "/health",
    "/llm/health": "/health",
    "/api/tags": "/api/tags",
}
CASES = [
    *(("POST", *case) for case in ALIASES.items()),
    *(("GET", *case) for case in READ_ALIASES.items()),
]


@pytest.mark.parametrize(("method", "path", "target"), CASES)
def test_each_path_a_client_may_use_arrives_as_the_llm_servers_own(
    caller: Caller, agent: str, upstream: Upstream, method: str, path: str, target: str
) -> None:
    assert caller.call(agent, path, method).status_code == 200
    assert upstream.seen[-1].line == f"{method} {target} HTTP/1.1"


def test_the_query_arrives_as_it_was_sent(caller: Caller, agent: str, upstream: Upstream) -> None:
    caller.call(agent, "/v1/chat/completions?a=1&b=%20c")
    assert upstream.seen[-1].target == "/v1/chat/completions?a=1&b=%20c"


SPOOFED = {
    "X-Auth-User": "root",
    "x-auth-role": "admin",
    "X-Auth-Token-Id": "x",
    "X-Request-Id": "mine",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Host": "evil",
    "X-Original-URL": "/admin",
    "Forwarded": "for=1",
    "X_Auth_User": "root",
}


#: One of each location that asks the LLM server: lists are asked for in a subrequest.
ASKING = [("POST", "/v1/chat/completions"), ("POST", "/llm/chat/completions")]
ASKING += [("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("GET", "/health")]


@pytest.mark.parametrize("value", ["root", ""])
@pytest.mark.parametrize(("method", "path"), ASKING)
def test_identity_arrives_once_and_is_never_the_clients_copy(
    caller: Caller,
    deployment: Deployment,
    agent: str,
    upstream: Upstream,
    method: str,
    path: str,
    value: str,
) -> None:
    many = {f"X-Filler-{number}": "x" for number in range(98)}
    spoofed = SPOOFED if value else dict.fromkeys(SPOOFED, "")
    answer = caller.call(agent, path, method, headers={**many, **spoofed})
    seen = upstream.seen[-1]
    assert seen.values("x-auth-user") == ["AGIATEST01"]
    assert seen.values("x-auth-role") == ["agi"]
    assert seen.values("x-auth-token-id") == [parts(agent)[1]["jti"]]
    assert seen.values("x-request-id") == [answer.headers["x-request-id"]]
    assert seen.values("x-forwarded-for") == [deployment.client_address]
    for name in ("x-forwarded-host", "x-original-url", "forwarded", "x_auth_user"):
        assert seen.values(name) == []


WAYS: dict[str, Mapping[str, str]] = {
    "bearer": {"Authorization": "Bearer {}"},
    "lower-case bearer": {"Authorization": "bearer {}"},
    "two spaces _h4": {"Authorization": "Bearer  {}"},
    "api key": {"x-api-key": "{}"},
    "api key beside Basic _h8": {"x-api-key": "{}", "Authorization": "Basic dTpw"},
    "cookie beside Basic _h8": {"Cookie": "auth_token={}", "Authorization": "Basic dTpw"},
    "cookie": {"Cookie": "a=b; auth_token={}; c=d"},
    "all three alike": {
        "Authorization": "Bearer {}",
        "x-api-key": "{}",
        "Cookie": "auth_token={}",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_a_token_is_taken_from_each_place_and_goes_no_further(
    caller: Caller, agent: str, upstream: Upstream, way: str
) -> None:
    headers = {name: value.format(agent) for name, value in WAYS[way].items()}
    assert caller.call(headers=headers).status_code == 200
    seen = upstream.seen[-1]
    assert agent.encode() not in seen.head
    for name in ("authorization", "x-api-key", "cookie"):
        assert seen.values(name) == []


def test_two_credentials_that_differ_are_refused_even_if_both_are_good(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    other = caller.token("AGNRTEST01")
    pairs = [
        {"Authorization": f"Bearer {agent}", "x-api-key": other},
        {"Authorization": f"Bearer {agent}", "Cookie": f"auth_token={other}"},
        {"x-api-key": agent, "Cookie": f"auth_token={other}"},
        {"Cookie": f"auth_token={agent}; auth_token={other}"},
        {"Authorization": f"Bearer {agent}", "x-api-key": "bad"},
    ]
    for headers in pairs:
        answer = caller.call(headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert upstream.seen == []


BAD_SCHEMES = ("{}", "Bearer", "Bearer ", "Bearer: {}", "Bearer\t{}", "Bearer {} x", "Token {}")


@pytest.mark.parametrize("scheme", BAD_SCHEMES)
def test_an_authorization_of_another_form_is_401(
    caller: Caller, agent: str, upstream: Upstream, scheme: str
) -> None:
    assert caller.call(headers={"Authorization": scheme.format(agent)}).status_code == 401
    assert upstream.seen == []


def test_a_token_behind_a_comma_is_no_cookie(caller: Caller, agent: str) -> None:
    assert caller.call(headers={"Cookie": f"x=1,auth_token={agent}"}).status_code == 401
    assert caller.call(headers={"Cookie": f"AUTH_TOKEN={agent}"}).status_code == 401


@pytest.mark.parametrize("query", ["token", "access_token", "auth_token", "api_key"])
def test_a_token_in_the_query_is_refused(
    caller: Caller, agent: str, upstream: Upstream, query: str
) -> None:
    path = f"/v1/chat/completions?{query}={agent}"
    assert caller.call(agent, path).status_code == 400
    assert caller.call(path=path).status_code == 400
    assert upstream.seen == []


def test_a_cookie_that_another_site_sent_is_refused(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    own = caller.deployment.gateway
    cookie = {"Cookie": f"auth_token={agent}"}
    for extra in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": own},
    ):
        assert caller.call(headers={**cookie, **extra}).status_code == 403
    assert upstream.seen == []
    assert caller.call(headers={**cookie, "Origin": own}).status_code == 200
    assert caller.call(headers={**cookie, "Sec-Fetch-Site": "same-origin"}).status_code == 200


NOT_FOUND = (
    "/validate",
    "/sync/apply",
    "/sync/status",
    "/.env",
    "/.git/config",
    "/nginx.conf",
    "/v1/files",
    "/llm",
    "/llm/",
    "/v1/chat/completions/",
    "/V1/chat/completions",
    "/api/pull/x",
    "/tools",
    "/cors-proxy",
    "/invocations",
)


@pytest.mark.parametrize("path", NOT_FOUND)
def test_what_no_role_may_reach_does_not_exist(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    for token in (None, agent):
        for method in ("GET", "POST"):
            assert caller.call(token, path, method).status_code == 404
    assert upstream.seen == []


NOT_CANONICAL = (
    "/v1/../validate",
    "/v1/%2e%2e/admin/",
    "//v1/models",
    "/v1//models",
    "/v1/./models",
    "/v1/models%2f",
    "/llm%2fhealth",
    "/v1/models/../../admin/",
    "/v1/models/a%2f..%2f..%2fx",
    "/health%00",
    "/x%0d%0aX-Auth-Role:%20admin",
    "/v1/chat/completions#x",
    "/%252e",
    "/v1/chat\\completions",
)


@pytest.mark.parametrize("path", NOT_CANONICAL)
def test_a_path_that_is_not_canonical_is_400_and_never_sent(
    caller: Caller, agent: str, upstream: Upstream, path: str
) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent}\r\n"
    answer = caller.raw(f"{head}Connection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] == b"400", answer
    assert b"x-auth-role" not in answer.lower().split(b"\r\n\r\n")[0]
    assert upstream.seen == []


def test_a_models_name_that_is_sent_is_judged_as_it_is_sent_h3(
    caller: Caller, upstream: Upstream
) -> None:
    admin = caller.token("ADMNTEST01")
    for name, status in (("a%2Fb:c", 200), ("/a", 400), ("a%20b", 400), ("a/../b", 400)):
        upstream.seen.clear()
        line = f"POST /models/delete/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        answer = caller.raw(
            f"{line}Authorization: Bearer {admin}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert answer.split()[1] == str(status).encode(), name
        targets = [one.target for one in upstream.seen]
        assert targets == [f"/models/delete/{name}"] * (status == 200)


ROLES = {
    # path, method -> the users that may
    ("/v1/chat/completions", "POST"): "AGNR AGNF AGIA USRS ADMN",
    ("/v1/models", "GET"): "AGNR AGNF AGIA USRS MNTR ADMN",
    ("/health", "GET"): "AGNR AGNF AGIA USRS MNTR ADMN",
    ("/metrics", "GET"): "MNTR ADMN",
    ("/api/pull", "POST"): "ADMN",
    ("/", "GET"): "USRS MNTR ADMN",
    ("/admin/api/sessions", "GET"): "ADMN",
}
CODES = ("AGNR", "AGNF", "AGIA", "USRS", "MNTR", "ADMN")


@pytest.mark.parametrize("code", CODES)
def test_each_role_reaches_its_routes_and_no_others(
    caller: Caller, upstream: Upstream, code: str
) -> None:
    token = caller.token(f"{code}TEST01")
    for (path, method), codes in ROLES.items():
        expected = 200 if code in codes else 403
        answer = caller.call(token, path, method)
        assert answer.status_code == expected, (path, method)
        if expected == 403:
            assert "Your role may not use this route." in answer.text


def test_errors_under_api_are_in_ollamas_words(caller: Caller) -> None:
    for path in ("/api/chat", "/llm/api/chat"):
        assert caller.call(path=path).json() == {"error": "Invalid or missing token."}


@pytest.mark.parametrize("line", ["GET /v1/models", "GET /v1/models HTTP/1.2"])
def test_other_versions_of_http_are_not_forwarded(
    caller: Caller, agent: str, upstream: Upstream, line: str
) -> None:
    caller.raw(f"{line}\r\nHost: x\r\nAuthorization: Bearer {agent}\r\n\r\n".encode(), 1.0)
    assert upstream.seen == []


def test_a_body_over_the_limit_is_413_before_it_is_read(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {agent}\r\nContent-Length: {65 * 1024 * 1024}\r\n\r\n"
    )
    answer = caller.raw(head.encode(), 2.0)
    assert answer.split(b" ")[1] == b"413"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
    assert upstream.seen == []


def test_a_large_body_arrives_whole(caller: Caller, agent: str, upstream: Upstream) -> None:
    content = {"model": "tiny", "prompt": "x" * 3_000_000}
    assert caller.call(agent, "/v1/completions", body=content).status_code == 200
    assert json.loads(upstream.seen[-1].body) == content


def test_expect_100_with_a_bad_token_is_refused_without_asking_for_the_body(
    caller: Caller, upstream: Upstream
) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
        "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = caller.raw(head.encode(), 2.0)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert upstream.seen == []


def test_an_upstreams_accel_headers_and_cookies_stop_at_the_gateway(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.raw_answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Accel-Redirect: /healthz\r\n"
        b"Set-Cookie: auth_token=evil\r\n\r\nhi"
    )
    answer = caller.call(agent)
    assert answer.content == b"hi"
    assert "Set-Cookie" not in answer.headers


def test_an_llm_server_that_is_away_or_dies_is_502(
    caller: Caller, agent: str, upstream: Upstream
) -> None:
    upstream.mood = "die"
    answer = caller.call(agent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")


def test_metrics_of_both_sides_can_be_read(caller: Caller, deployment: Deployment) -> None:
    gateway = caller.call(caller.token("MNTRTEST01"), "/metrics", "GET").text
    assert 'portero_decisions_total{decision="allowed"}' in gateway
    assert "portero_ready 1" in gateway
