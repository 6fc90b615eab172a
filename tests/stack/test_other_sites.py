"""Pages of other sites at the login endpoints, and what a page of a named origin may do."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import requests

from tests.support.deployment import BASIC_DOORS, USERS, Caller, Deployment
from tests.support.upstream import Upstream

Anew = Callable[..., AbstractContextManager[Deployment]]
#: Every login endpoint, and a user whose own it is.
WAYS_IN = {
    "/llm/login": "AGNRTEST01",
    "/auth/llm/login": "AGNRTEST01",
    "/agi/login": "AGIATEST01",
    "/auth/agi/login": "AGIATEST01",
    "/login": "USRSTEST01",
    "/auth/login": "USRSTEST01",
    "/admin/login": "ADMNTEST01",
}
NAMED = (
    "https://chat.example",
    "app://obsidian.md",
    "chrome-extension://abc",
    "moz-extension://6e8f2a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6",
    "tauri://localhost",
    "capacitor://localhost",
    "vscode-webview://1abc2def",
    "http://[::1]:3000",
    f"https://{'x' * 63}.{'x' * 63}.{'x' * 63}.example",
)
FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Origin": "garbage"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
)


def log_in(caller: Caller, path: str, headers: dict[str, str]) -> requests.Response:
    user = WAYS_IN[path]
    secret = USERS[user][0]
    url = caller.deployment.gateway + path
    if path.removeprefix("/auth") in BASIC_DOORS:
        return requests.post(url, auth=(user, secret), headers=headers, timeout=10)
    form = {"username": user, "password": secret}
    return requests.post(url, data=form, headers=headers, allow_redirects=False, timeout=10)


@pytest.mark.parametrize("path", WAYS_IN)
def test_no_login_endpoint_serves_a_page_of_another_site_q4(caller: Caller, path: str) -> None:
    for headers in FOREIGN:
        answer = log_in(caller, path, headers)
        assert answer.status_code == 403, headers
        assert answer.json()["error"]["code"] == "insufficient_permissions"
        assert "Set-Cookie" not in answer.headers
    own = caller.deployment.gateway
    for headers in ({}, {"Origin": own}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}):
        assert log_in(caller, path, headers).status_code in (200, 302), headers


def test_an_origin_that_is_sent_twice_is_nobodys_q4(caller: Caller) -> None:
    own = caller.deployment.gateway
    for lines in (
        f"Origin: {own}\r\nOrigin: https://evil.example",
        f"Origin: {own}\r\nOrigin: {own}",
    ):
        head = f"POST /login HTTP/1.1\r\nHost: {own.removeprefix('http://')}\r\n{lines}\r\n"
        answer = caller.raw(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 "), answer


@pytest.fixture(scope="module")
def shown() -> str:
    return "x-title,http-referer,traceparent"


@pytest.fixture
def open_to(anew: Anew) -> Iterator[Caller]:
    """With origins that are named, and the address people reach it by."""
    with anew(CORS_ORIGINS=", ".join(NAMED), PUBLIC_URL="https://portero.example") as running:
        yield Caller(running)


def test_a_page_of_a_named_origin_asks_logs_in_and_chats_o1_o2_q4(
    open_to: Caller, upstream: Upstream, shown: str
) -> None:
    for origin in NAMED:
        sender = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        asked = {
            **sender,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": shown,
            "Access-Control-Request-Private-Network": "true",
        }
        for path in ("/llm/login", "/v1/chat/completions", "/api/chat", "/nowhere"):
            answer = open_to.call(path=path, method="OPTIONS", headers=asked)
            assert answer.status_code == 204, (origin, path)
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
            assert {"authorization", "content-type", shown} <= set(allowed)
            assert "PATCH" in answer.headers["Access-Control-Allow-Methods"].split(", ")
            assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
            for name in ("Origin", "Access-Control-Request-Headers"):
                assert name in answer.headers["Vary"].split(", ")
            assert "Access-Control-Allow-Credentials" not in answer.headers
        login = log_in(open_to, "/agi/login", sender)
        assert (login.status_code, login.headers["Access-Control-Allow-Origin"]) == (200, origin)
        chat = open_to.call(login.json()["token"], headers={**sender, "X-Title": "x"})
        assert (chat.status_code, chat.headers["Access-Control-Allow-Origin"]) == (200, origin)
        assert upstream.seen[-1].values("x-title") == ["x"]


def test_any_other_page_is_answered_as_before_q4_o2(open_to: Caller, shown: str) -> None:
    for path in WAYS_IN:
        for headers in (*FOREIGN, {"Origin": "https://chat.example.evil"}):
            answer = log_in(open_to, path, headers)
            assert answer.status_code == 403, (path, headers)
            assert "Access-Control-Allow-Origin" not in answer.headers
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": shown,
    }
    for path, status in (("/llm/login", 405), ("/v1/chat/completions", 404)):
        answer = open_to.call(path=path, method="OPTIONS", headers=asked)
        assert answer.status_code == status
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_behind_a_public_url_its_pages_are_our_own_and_no_others_q2_q4(open_to: Caller) -> None:
    own, called = "https://portero.example", {"Host": "evil.example"}
    token = log_in(open_to, "/login", {"Origin": own}).cookies["auth_token"]
    cookie = {"Cookie": f"auth_token={token}"}
    assert open_to.call(headers={**cookie, "Origin": own}).status_code == 200
    for headers in (
        {**called, "Origin": "http://evil.example"},
        {"Origin": "http://portero.example"},
    ):
        assert log_in(open_to, "/login", headers).status_code == 403
        assert open_to.call(headers={**cookie, **headers}).status_code == 403
    home = open_to.call(path="/", method="GET", headers={**cookie, **called, "Accept": "text/html"})
    assert f"{own}/v1/chat/completions" in home.text
    assert "evil" not in home.text


def test_a_page_says_where_the_gateway_listens_whatever_it_is_called_q2(caller: Caller) -> None:
    cookie = {"Cookie": f"auth_token={caller.token('USRSTEST01')}"}
    for called in ({}, {"Host": "evil.example"}, {"X-Forwarded-Host": "evil.example"}):
        headers = {**cookie, **called, "Accept": "text/html"}
        home = caller.call(path="/", method="GET", headers=headers)
        assert f"{caller.deployment.gateway}/v1/chat/completions" in home.text
        assert "evil" not in home.text
