"""Requests (threats H), by the oracles of a recording LLM server: what it sees is what was allowed,
one for one, with headers of the gateway's alone.
"""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product

import pytest

from tests.security import malformed
from tests.security.conftest import Figure
from tests.security.house import House, raw
from tests.security.wire import Wire
from tests.support.forge import parts
from tests.support.upstream import Seen

SENTINEL = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
#: How long a request is waited for that is not whole to the gateway.
SILENCE_SECONDS = 0.4
PIPELINED = 100
CHAT, CHAT_LINE = malformed.CHAT.decode(), "POST /v1/chat/completions HTTP/1.1"
HEAD = re.compile(rb"HTTP/1\.1 (\d{3})[^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)
REQUEST_ID = re.compile(rb"(?i)(?:^|\r\n)x-request-id: *(\w+)")


@pytest.fixture
def agent(house: House) -> str:
    return house.client("127.0.0.1").token("AGIATEST01")


def sent(house: House, data: bytes) -> bytes:
    return raw(house.deployment.gateway, data, SILENCE_SECONDS)


@dataclass(frozen=True)
class Reply:
    """One answer of a connection."""

    status: int
    request_id: str
    body: bytes


def answered(received: bytes) -> list[Reply]:
    """The answers of a connection, in order; interim ones are none."""
    received = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    found = list(HEAD.finditer(received))
    ends = [*(one.start() for one in found[1:]), len(received)][: len(found)]
    replies = []
    for one, end in zip(found, ends, strict=True):
        request_id = REQUEST_ID.search(one[2])
        assert request_id, one[0]
        replies.append(Reply(int(one[1]), request_id[1].decode(), received[one.end() : end]))
    return replies


def is_clean(seen: Seen, token: str) -> bool:
    """O3: the gateway's own headers, each once, and nothing of the client's that tells who asks."""
    claims = parts(token)[1]
    own = {"user": claims["sub"], "role": claims["role"], "token-id": claims["jti"]}
    return (
        all(seen.values(f"x-auth-{name}") == [value] for name, value in own.items())
        and len(seen.values("x-request-id")) == 1
        and not any(seen.values(name) for name in ("authorization", "x-api-key", "cookie"))
        and token.encode() not in seen.head
    )


REFUSALS = {400, 401, 403, 404, 405, 413, 414, 415, 501, 505}


def test_h8_h9_what_the_llm_server_sees_is_what_was_allowed_one_for_one(
    house: House, agent: str, figure: Figure
) -> None:
    corpus = malformed.corpus()
    workers = house.deployment.workers("gateway")
    datas = [made.bytes(agent) + SENTINEL for made in corpus.values()]
    with ThreadPoolExecutor(24) as pool:
        replies = [answered(received) for received in pool.map(partial(sent, house), datas)]
    every = [reply for some in replies for reply in some]
    allowed = [one.request_id for one in every if b'"pong"' in one.body]
    figure(
        f"{len(corpus)} malformed or ambiguous requests: {len(allowed)} of them allowed, and "
        f"{len(house.upstream.seen)} seen by the LLM server"
    )
    assert len(corpus) >= 1000
    assert len(allowed) > 20
    assert {one.status for one in every} <= {200, *REFUSALS}
    assert sorted(allowed) == sorted(one.values("x-request-id")[0] for one in house.upstream.seen)
    assert {one.line for one in house.upstream.seen} == {"POST /v1/chat/completions HTTP/1.1"}
    assert all(is_clean(one, agent) for one in house.upstream.seen)
    assert house.deployment.workers("gateway") == workers
    # And the same request that is not bent passes.
    assert [one.status for one in answered(sent(house, malformed.GOOD.bytes(agent)))] == [200]


#: Paths of the table, of the pages, and of what nobody may reach.
BASES = (
    "/v1/chat/completions", "/llm/chat/completions", "/v1/models", "/api/chat", "/models/tiny",
    "/login",
    "/llm/login", "/admin/", "/logout", "/healthz", "/", "/validate",
)  # fmt: skip
#: What is put into a path, at every place of it.
BENDS = (
    "/", "//", "/.", "/./", "/..", "/../", "/../../", "/..;/", ";x=1", "%2e", "%2E%2e", "%2f",
    "%5c", "\\", "%252e", "%252f",
    "%c0%ae", "%c0%af", "%e5%98%8a%e5%98%8dSet-Cookie:%20x", "%00", "%0a",
    "%0d%0aSet-Cookie:%20x=y", "%0d%0a%0d%0a<x>", "%09",
    "%20", "%7f", "%u002e", "%", "%zz", "#", "#/v1/models", "?", "?/../admin/", "@evil.example",
    "//evil.example",
    "/%2f%2fevil.example", "/\\evil.example", "https://evil.example", "%2f%2fevil.example",
    "\xe2\x80\xae", "*",
)  # fmt: skip
#: Where a redirect may lead.
LOCAL = {"/login?next=/", "/admin/login?next=/admin/", "/admin/", "/login", "/"}


def spellings() -> Iterator[str]:
    """Paths in other spellings, and paths that are others."""
    for base, bend in product(BASES, BENDS):
        for at in range(len(base) + 1):
            yield base[:at] + bend + base[at:]
    for bend, other in product(BENDS, repeat=2):
        yield f"/{bend}{other}evil.example/%2e%2e"


def read_by_browser(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n".encode()


def read_by_agent(token: str, path: str) -> bytes:
    credential = f"Authorization: Bearer {token}"
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{credential}\r\n\r\n".encode()


def test_h10_h11_h20_no_spelling_of_a_path_leaves_the_origin_or_the_table(
    house: House, figure: Figure
) -> None:
    """Also I6, for what is no login: where a browser is sent."""
    token = house.client("127.0.0.1").token("ADMNTEST01")
    targets = [f"/{one.lstrip()}" if not one.startswith("/") else one for one in spellings()]
    asked = [read_by_agent(token, one) for one in targets] + [read_by_browser(t) for t in targets]
    workers = house.deployment.workers("gateway")
    answers = []
    with closing(Wire(house.deployment.gateway)) as wire:
        for start in range(0, len(asked), PIPELINED):
            answers += wire.pipeline(asked[start : start + PIPELINED])
    seen = {one.target.partition("?")[0] for one in house.upstream.seen}
    statuses = Counter(answer.status for answer in answers)
    figure(f"{len(asked)} spellings of paths: {dict(statuses)}; the LLM server saw {sorted(seen)}")
    assert len(asked) >= 10_000
    assert statuses.keys() <= {200, 302, 308, 400, 401, 404, 405}
    assert seen <= {"/v1/models", "/models", "/health"}
    assert {one.headers["location"] for one in answers if "location" in one.headers} <= LOCAL
    assert not any("set-cookie" in one.headers for one in answers)
    assert house.deployment.workers("gateway") == workers


def asked(
    house: House, token: str, *headers: str, line: str = CHAT_LINE, body: str = CHAT
) -> Reply:
    """One request with these headers, and its one answer."""
    lines = [line, "Host: x", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    data = ("\r\n".join([*lines, "", ""]) + body).replace("{token}", token).encode("latin-1")
    (reply,) = answered(sent(house, data))
    return reply


BEARER = "Authorization: Bearer {token}"


@pytest.mark.parametrize("others", [("bad", "{token}"), ("{token}", "bad"), ("{token}", "{token}")])
def test_h1_of_two_credentials_in_one_header_none_counts(
    house: House, agent: str, others: tuple[str, str]
) -> None:
    lines = [f"Authorization: Bearer {one}" for one in others]
    assert asked(house, agent, *lines).status == 400
    assert asked(house, agent, *(f"x-api-key: {one}" for one in others)).status == 400
    assert house.upstream.seen == []


def test_h2_of_two_places_a_bad_one_never_falls_back_to_a_good_one(
    house: House, agent: str
) -> None:
    other = house.client("127.0.0.1").token("AGNRTEST01")
    places = (BEARER, "x-api-key: {token}", "Cookie: auth_token={token}")
    for first, second in product(places, repeat=2):
        if first == second:
            continue
        for bad in ("bad", "", other):
            assert asked(house, agent, first, second.replace("{token}", bad)).status == 400
    assert house.upstream.seen == []
    assert asked(house, agent, *places).status == 200


FORMS = {
    "bearer {token}": 200, "BEARER {token}": 200, "Bearer   {token}": 200, "Bearer {token} \t": 200,
    "Bearer\t{token}": 401, "Bearer": 401, "Bearer ": 401, "Bearer {token} y": 401,
    "Bearer {token},y": 401,
    "Bearer: {token}": 401, "Token {token}": 401, "Basic {token}": 401, "{token}": 401,
    "Bearer={token}": 401,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_h3_a_credential_is_a_scheme_and_one_token(house: House, agent: str, form: str) -> None:
    assert asked(house, agent, f"Authorization: {form}").status == FORMS[form]
    assert len(house.upstream.seen) == (FORMS[form] == 200)


COOKIES = {
    "a=b; auth_token={token}; c=d": 200, "auth_token={token}": 200, "a;auth_token={token}": 200,
    "x=1,auth_token={token}": 401, "AUTH_TOKEN={token}": 401, "auth_token =x": 401,
    'auth_token="{token}"': 401,
    "xauth_token={token}": 401, "auth_token={token},x": 401,
    "auth_token={token}; auth_token=x": 400,
    "auth_token=x; auth_token={token}": 400, "auth_token=; auth_token={token}": 400,
}  # fmt: skip


@pytest.mark.parametrize("cookie", COOKIES)
def test_h4_the_cookie_is_what_stands_between_semicolons_under_its_exact_name(
    house: House, agent: str, cookie: str
) -> None:
    assert asked(house, agent, f"Cookie: {cookie}").status == COOKIES[cookie]
    assert len(house.upstream.seen) == (COOKIES[cookie] == 200)


IDENTITY = (
    "X-Auth-User",
    "x-auth-role",
    "X-AUTH-TOKEN-ID",
    "X-Request-Id",
    "X_Auth_User",
    "X-Auth_Role",
)
#: Locations that ask the LLM server, each in its own way.
ASKING = ("GET /health HTTP/1.1", "GET /llm/health HTTP/1.1", "GET /v1/models HTTP/1.1")


@pytest.mark.parametrize("line", [*ASKING, "POST /llm/chat/completions HTTP/1.1", CHAT_LINE])
def test_h5_h6_h7_identity_is_the_gateways_however_many_headers_and_nominations_there_are(
    house: House, agent: str, line: str
) -> None:
    spoofed = [f"{name}: {value}" for name in IDENTITY for value in ("root", "")]
    nominated = ["Connection: X-Auth-User, X-Auth-Role, Authorization", "Keep-Alive: X-Auth-User"]
    more = [f"X-Filler-{number}: x" for number in range(300)]
    body = CHAT if line.startswith("POST") else ""
    data = "\r\n".join([line, "Host: x", *more, BEARER, *nominated, *spoofed,
        "TE: trailers, X-Auth-User", "Proxy-Connection: X-Auth-Role",
        f"Content-Length: {len(body)}",
        "", body])  # fmt: skip
    (reply,) = answered(sent(house, data.replace("{token}", agent).encode()))
    assert reply.status == 200
    (seen,) = house.upstream.seen
    assert is_clean(seen, agent)
    assert not any(b"root" in line.encode() for line in seen.head.decode().split("\r\n"))
    assert not [
        name for name, _ in seen.headers if "_" in name or name in ("te", "proxy-connection")
    ]


def test_h12_the_target_may_name_a_host_and_is_judged_by_its_path(house: House, agent: str) -> None:
    for host in ("h/?", "h/#", "u@h", "a b", "x\\y"):
        line = "GET / HTTP/1.1"
        data = f"{line}\r\nHost: {host}\r\nAccept: text/html\r\nConnection: close\r\n\r\n"
        received = sent(house, data.encode())
        assert answered(received)[0].status in (302, 400)
        assert host.encode() not in received
    for target, status in {
        "http://evil/v1/chat/completions": 200,
        "http://evil/admin/": 403,
    }.items():
        line = f"POST {target} HTTP/1.1" if status == 200 else f"GET {target} HTTP/1.1"
        assert asked(house, agent, BEARER, line=line).status == status
    assert [one.target for one in house.upstream.seen] == ["/v1/chat/completions"]
    assert house.upstream.seen[0].values("host") == [house.upstream.url.removeprefix("http://")]


def test_h13_no_header_and_no_field_changes_a_method(house: House, agent: str) -> None:
    names = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    for name in names:
        reply = asked(house, agent, BEARER, f"{name}: DELETE")
        assert reply.status == 200
    query = CHAT_LINE.replace("completions ", "completions?_method=DELETE ")
    assert asked(house, agent, BEARER, line=query).status == 200
    assert {one.line.split(" ")[0] for one in house.upstream.seen} == {"POST"}
    assert not [name for one in house.upstream.seen for name, _ in one.headers if "method" in name]


def test_h14_h22_without_tls_nobody_is_spoken_to_in_http_2_and_no_tunnel_is_made(
    house: House, agent: str
) -> None:
    assert sent(house, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    upgrades = ["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]  # fmt: skip
    for lines in (upgrades[:2], upgrades[2:]):
        assert asked(house, agent, BEARER, *lines).status == 200
    for one in house.upstream.seen:
        assert one.values("upgrade") == one.values("http2-settings") == []
        assert one.values("connection") == []


def test_h16_a_credential_behind_many_headers_is_found_and_very_many_are_refused(
    house: House, agent: str
) -> None:
    assert asked(house, agent, *(f"X-{n}: x" for n in range(900)), BEARER).status == 200
    assert asked(house, agent, *(f"X-{n}: {'x' * 100}" for n in range(1000)), BEARER).status == 400
    assert asked(house, agent, f"X: {'x' * (1 << 20)}", BEARER).status == 400
    assert asked(house, agent, BEARER, line=f"GET /health?{'x' * 65536} HTTP/1.1").status == 400
    assert len(house.upstream.seen) == 1


def test_h17_what_an_llm_server_says_to_a_proxy_steers_nothing(house: House, agent: str) -> None:
    told = {
        "X-Accel-Redirect": "/llm-server-says",
        "X-Accel-Buffering": "yes",
        "X-Accel-Limit-Rate": "1",
        "Set-Cookie": "auth_token=evil",
        "Server": "secret/1.0",
        "Location": "http://evil.example",
        "Access-Control-Allow-Origin": "*",
        "X-Portero-Code": "none",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    house.upstream.raw_answer = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nhi".encode()
    answer = house.client("127.0.0.1").ask(
        "POST", "/v1/chat/completions", headers={"Authorization": f"Bearer {agent}"}, data=CHAT
    )
    assert answer.content == b"hi"
    for name, value in told.items():
        assert value not in answer.headers.get(name, "")


#: Headers by which one front or another tells where a request comes from, and how.
ADDRESSES = (
    "X-Forwarded-For", "X-Real-Ip", "Forwarded", "CF-Connecting-IP", "CF-Connecting-IPv6",
    "True-Client-IP", "Client-IP",
    "X-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP",
    "X-Envoy-External-Address", "X-Remote-IP",
    "X-Remote-Addr", "X-Originating-IP", "X-Original-Forwarded-For", "X-Azure-ClientIP",
    "X-Azure-SocketIP", "X-Forwarded",
    "X-ProxyUser-Ip", "Proxy-Client-IP", "WL-Proxy-Client-IP", "X-Appengine-User-Ip",
    "X-Forwarded-By", "X-Forwarded-Server",
    "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarded-Uri",
    "X-Forwarded-Prefix", "X-Forwarded-User",
    "X-Forwarded-Path", "X-Forwarded-Scheme", "X-Scheme", "X-Original-URL", "X-Original-Uri",
    "X-Original-Host",
    "X-Rewrite-URL", "X-Host", "X-Forwarded-Client-Cert", "X-Envoy-Original-Path", "Via", "Proxy",
    "Remote-User",
)  # fmt: skip


@pytest.mark.parametrize("line", [*ASKING, CHAT_LINE])
def test_h18_n7_no_header_of_a_client_says_where_it_comes_from(
    house: House, agent: str, line: str
) -> None:
    body = CHAT if line == CHAT_LINE else ""
    for value in ("6.6.6.6", "127.0.0.1", "::1", "for=6.6.6.6;proto=https"):
        house.upstream.seen.clear()
        spoofed = [f"{name}: {value}" for name in ADDRESSES]
        assert asked(house, agent, BEARER, *spoofed, line=line, body=body).status == 200
        (seen,) = house.upstream.seen
        told = {name: seen.values(name.lower()) for name in ADDRESSES if seen.values(name.lower())}
        assert told == {
            "X-Forwarded-For": ["127.0.0.1"],
            "X-Real-Ip": ["127.0.0.1"],
            "X-Forwarded-Proto": ["http"],
        }


@pytest.mark.parametrize(
    "name", ["OpenAI/Python 1.0", "kube-probe/1.30", "GoogleHC/1.0", "ELB-HealthChecker/2.0"]
)
def test_h19_who_a_client_says_it_is_decides_nothing(house: House, name: str) -> None:
    for path in ("/v1/models", "/health", "/metrics", "/admin/"):
        reply = asked(house, "", f"User-Agent: {name}", line=f"GET {path} HTTP/1.1", body="")
        assert reply.status == 401
    assert house.upstream.seen == []


def test_h21_a_body_that_was_announced_is_not_asked_for_where_it_is_refused(
    house: House, agent: str
) -> None:
    head = f"{CHAT_LINE}\r\nHost: x\r\nAuthorization: Bearer bad\r\nExpect: 100-continue\r\n"
    received = sent(house, f"{head}Content-Length: 1073741824\r\n\r\n".encode())
    assert b"100 Continue" not in received
    assert received.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 413 "))
    small = sent(house, f"{head}Content-Length: 1000000\r\n\r\n".encode())
    assert small.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in small.lower()
    assert house.upstream.seen == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_h23_a_preflight_is_no_request_and_no_origin_is_reflected(
    house: House, agent: str, origin: str
) -> None:
    client = house.client("127.0.0.1")
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for path in ("/v1/chat/completions", "/v1/models", "/login", "/admin/"):
        answer = client.ask("OPTIONS", path, headers=headers)
        assert answer.status_code in (401, 404, 405)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    bearer = {"Authorization": f"Bearer {agent}", "Origin": origin}
    answer = client.ask("POST", "/v1/chat/completions", headers=bearer, data=CHAT)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert len(house.upstream.seen) == (answer.status_code == 200)


def test_h24_nothing_that_an_llm_server_answers_is_kept_for_another(
    house: House, agent: str
) -> None:
    house.upstream.raw_answer = (
        b'HTTP/1.1 200 OK\r\nETag: "x"\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nhi'
    )
    other = house.client("127.0.0.1").token("AGNRTEST01")
    for token in (agent, other, agent):
        headers = ("Range: bytes=0-0", 'If-None-Match: "x"')
        reply = asked(house, token, BEARER, *headers, line="GET /health HTTP/1.1", body="")
        assert reply.status == 200
    who = [one.values("x-auth-user") for one in house.upstream.seen]
    assert who == [["AGIATEST01"], ["AGNRTEST01"], ["AGIATEST01"]]
    house.upstream.raw_answer = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert asked(house, agent, BEARER).status == 502


def test_h25_each_request_of_a_connection_is_judged_by_itself(house: House, agent: str) -> None:
    rest = f"Host: x\r\nContent-Length: {len(CHAT)}\r\n\r\n{CHAT}"
    good = f"{CHAT_LINE}\r\nAuthorization: Bearer {agent}\r\n{rest}"
    bare = f"{CHAT_LINE}\r\n{rest}"
    order = [good, bare, good, bare, bare, good]
    replies = answered(sent(house, "".join(order).encode()))
    assert [one.status for one in replies] == [200 if one == good else 401 for one in order]
    ids = [one.request_id for one in replies if one.status == 200]
    assert [one.values("x-request-id")[0] for one in house.upstream.seen] == ids


INTERNAL = (
    "/validate", "/sync/apply", "/sync/status", "/sync/policy", "/refused/",
    "/refused/headers_too_large", "/llm-server-says",
    "/@llm_refused", "/@issuer", "/nginx_status", "/status", "/server-status", "/.git/config",
    "/.env", "/nginx.conf",
    "/settings.conf", "/conf/settings.conf", "/lua/portero/access.lua", "/static/",
    "/static/../portero.css",
)  # fmt: skip


@pytest.mark.parametrize("path", INTERNAL)
def test_h26_what_is_for_the_inside_is_not_there_outside(house: House, path: str) -> None:
    token = house.client("127.0.0.1").token("ADMNTEST01")
    for method in ("GET", "POST"):
        for lines in ([BEARER], []):
            reply = asked(house, token, *lines, line=f"{method} {path} HTTP/1.1", body="")
            assert reply.status in (400, 404)
    assert house.upstream.seen == []
