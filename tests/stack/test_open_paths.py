"""The open paths, which ask for no token: each in the one way it is written, by its own methods."""

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import requests

from run.commands import ROOT
from tests.support.deployment import BASIC_DOORS, USERS, Caller, basic
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

CONF = (ROOT / "openresty" / "conf" / "public.conf").read_text()
OPEN = re.findall(r"location = (\S+)", CONF)
READ = "GET, HEAD"
#: Path -> the methods it is asked by.
ALLOWED = {
    "/llm/login": "POST",
    "/auth/llm/login": "POST",
    "/agi/login": "POST",
    "/auth/agi/login": "POST",
    "/login": "GET, HEAD, POST",
    "/auth/login": "GET, HEAD, POST",
    "/admin/login": "GET, HEAD, POST",
    "/logout": "GET, HEAD, POST",
    "/oauth/token": "POST",
    "/oauth/revoke": "POST",
    "/oauth/introspect": "POST",
    "/.well-known/oauth-authorization-server": READ,
    "/.well-known/jwks.json": READ,
    "/static/portero.css": READ,
    "/static/portero.svg": READ,
    "/static/answer.js": READ,
    "/static/chat.js": READ,
    "/static/console.js": READ,
    "/static/conversations.js": READ,
    "/static/markdown.js": READ,
    "/static/markdown-it.js": READ,
    "/static/page.js": READ,
    "/static/purify.js": READ,
    "/admin": READ,
    "/healthz": READ,
    "/readyz": READ,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")
HTML = {"Accept": "text/html"}


def test_every_open_path_is_looked_at_here() -> None:
    assert sorted(OPEN) == sorted(ALLOWED)


def spellings(path: str) -> Iterator[str]:
    """Ways to write a path that nginx takes for it, or some server might."""
    for at in range(1, len(path)):
        for form in ("%{:02x}", "%{:02X}"):
            yield path[:at] + form.format(ord(path[at])) + path[at + 1 :]
    for at in (at for at, letter in enumerate(path) if letter == "/"):
        for more in ("/", "//", "/.", "/x/..", "/%2e", "/x/%2e%2e", "/x/.%2E"):
            yield path[:at] + more + path[at:]
    yield "".join(f"%{ord(letter):02x}" if letter != "/" else "/" for letter in path)
    yield from (
        f"{path}{more}" for more in ("#x", "/.", "/x/..", "/%2e", "%2f", "%20", "%3fx", ";x")
    )
    yield f"{path[:2]}%00{path[2:]}"


@pytest.mark.parametrize("path", ALLOWED)
def test_an_open_path_in_another_spelling_is_400_and_never_sent_q1(
    caller: Caller, path: str
) -> None:
    user = "AGIATEST01" if "agi" in path else "AGNRTEST01"
    headers = {"Authorization": basic(user, USERS[user][0])}
    method = "POST" if "POST" in ALLOWED[path] else "GET"
    ids = set()
    for asked in spellings(path):
        for target in (asked, f"http://x{asked}", f"{asked}?next=/"):
            lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            if method == "POST":
                lines.append("Content-Length: 0")
            answer = caller.raw("\r\n".join([*lines, "", ""]).encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 "), (target, answer)
            assert b'"invalid_request"' in body, target
            found = re.search(rb"(?i)\r\nx-request-id: (\w+)", head)
            assert found
            ids.add(found[1].decode())
    if path in ("/healthz", "/readyz"):  # they are not logged
        return

    def logged() -> list[dict[str, object]]:
        lines = caller.deployment.output("gateway").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith('{"time"')]
        return [entry for entry in entries if entry["request_id"] in ids]

    entries = wait_for(lambda: len(found := logged()) >= len(ids) and found, what="the log")
    assert {entry["upstream_seconds"] for entry in entries} == {""}


@pytest.mark.parametrize("path", ALLOWED)
def test_an_open_path_as_it_is_written_is_answered_in_every_form_of_target_q1(
    caller: Caller, path: str
) -> None:
    for target in (
        path,
        f"{path}?",
        f"{path}?a=//b/../%2f",
        f"http://x{path}",
        f"http://x{path}?a",
    ):
        lines = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", "", ""]
        answer = caller.raw("\r\n".join(lines).encode())
        status = int(answer.split(b" ")[1])
        assert status in ((200, 308) if "GET" in ALLOWED[path] else (405,)), (target, answer)


@pytest.mark.parametrize("accept", [{}, HTML], ids=["program", "browser"])
@pytest.mark.parametrize("path", ALLOWED)
def test_another_method_is_405_and_the_methods_there_are_x3(
    caller: Caller, path: str, accept: dict[str, str]
) -> None:
    for method in set(METHODS) - set(ALLOWED[path].split(", ")):
        answer = caller.call(path=path, method=method, body=None, headers=accept)
        assert answer.status_code == 405, method
        assert answer.headers["Allow"] == ALLOWED[path], method
        if method not in ("HEAD",) and not accept:
            assert answer.headers["x-portero-code"] == "method_not_allowed"


@pytest.mark.parametrize("path", [path for path in ALLOWED if path.endswith("login")])
def test_at_the_issuers_own_listener_it_is_the_same_x3_q1(caller: Caller, path: str) -> None:
    host, port = caller.deployment.issuer.removeprefix("http://").split(":")
    headers = {"Authorization": basic("AGIATEST01", USERS["AGIATEST01"][0]), "Content-Length": "0"}

    def status(method: str, target: str) -> tuple[int, str | None]:
        connection = HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["Allow"]
        finally:
            connection.close()

    assert status("PUT", path) == (405, ALLOWED[path])
    for target in (f"/%{ord(path[1]):02x}{path[2:]}", path.replace("/log", "%2flog"), f"/{path}"):
        assert status("POST", target) == (400, None), target
    assert status("POST", f"http://x{path}")[0] in (200, 403, 415)


def test_a_curl_with_a_name_and_no_method_is_told_to_post_x3(caller: Caller) -> None:
    for path in BASIC_DOORS:
        answer = requests.get(
            caller.deployment.gateway + path, auth=("AGNRTEST01", "agent-secret-1"), timeout=10
        )
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_the_console_is_found_without_its_slash_whatever_the_host_is_called_x3(
    caller: Caller,
) -> None:
    for host in ("evil.example", "127.0.0.1:1"):
        answer = caller.call(path="/admin", method="GET", headers={"Host": host, **HTML})
        assert (answer.status_code, answer.headers["Location"]) == (308, "/admin/")


def test_a_form_login_takes_json_too_and_says_so_x3(caller: Caller, upstream: Upstream) -> None:
    secret, _ = USERS["USRSTEST01"]
    url = f"{caller.deployment.gateway}/login"
    given = {"username": "USRSTEST01", "password": secret}
    taken = requests.post(url, json=given, timeout=10, allow_redirects=False)
    assert (taken.status_code, taken.json()) == (200, {"redirect": "/"})
    assert caller.call(taken.cookies["auth_token"]).status_code == 200
    assert requests.post(url, json={**given, "password": "x"}, timeout=10).status_code == 401
    refused = requests.post(url, data="x", headers={"Content-Type": "text/plain"}, timeout=10)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "form" in refused.text
    assert "JSON" in refused.text
