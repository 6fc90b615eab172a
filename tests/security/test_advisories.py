"""What went wrong elsewhere (threats N): the inputs of advisories on gateways of this kind."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from itertools import count
from urllib.parse import quote

import pytest
import requests

from tests.security.house import Client, House, raw
from tests.support.deployment import USERS, basic
from tests.support.forge import encode, parts, sign
from tests.support.policies import shipped_policy
from tests.support.waiting import within

CHAT = {"model": "tiny", "messages": []}
#: Elsewhere it ran in the database, for as long as it was told to.
SQL = (
    "x' OR (SELECT pg_sleep(8)) IS NOT NULL --",
    "' OR '1'='1",
    "'||randomblob(900000000)||'",
    "1; DROP TABLE sessions; --",
    '" OR ""="',
    "\\' OR 1=1 -- ",
    "%27%20OR%201=1",
)
MARKUP = (
    "{{7*7}}",
    "{% for x in y %}",
    "${7*7}",
    "#{7*7}",
    "<script>alert(1)</script>",
    '"><img src=x>',
)
QUICK_SECONDS = 3


@pytest.fixture(scope="module")
def places() -> Iterator[str]:
    return (f"127.2.{number // 250}.{number % 250 + 1}" for number in count())


@pytest.fixture
def client(house: House, places: Iterator[str]) -> Client:
    return house.client(next(places))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def whoami(client: Client, house: House, headers: dict[str, str]) -> tuple[int, list[str]]:
    """The status of a chat, and who the LLM server was told that asks."""
    house.upstream.seen.clear()
    status = client.ask("POST", "/v1/chat/completions", headers=headers, json=CHAT).status_code
    return status, [value for one in house.upstream.seen for value in one.values("x-auth-user")]


@pytest.mark.parametrize("text", SQL)
def test_n1_what_a_database_might_read_is_text_everywhere(
    house: House, client: Client, text: str
) -> None:
    admin = bearer(client.token("ADMNTEST01"))
    sessions = "/admin/api/sessions"
    before = {one["jti"] for one in client.ask("GET", sessions, headers=admin).json()["sessions"]}
    began = time.monotonic()
    sent = text.encode().decode("latin-1")
    for headers in (
        {"Authorization": f"Bearer {sent}"},
        {"x-api-key": sent},
        {"Cookie": f"auth_token={sent}"},
    ):
        assert client.ask("GET", "/v1/models", headers=headers).status_code in (400, 401)
    escaped = quote(text, safe="")
    for path in (f"{sessions}/{escaped}", f"/admin/api/users/{escaped}/sessions"):
        assert client.ask("DELETE", path, headers=admin).status_code in (400, 404)
    assert client.log_in(text).status_code == 401
    assert client.log_in(text, path="/login").status_code == 401
    assert time.monotonic() - began < within(QUICK_SECONDS * 3)
    after = {one["jti"] for one in client.ask("GET", sessions, headers=admin).json()["sessions"]}
    assert after == before


@pytest.mark.parametrize(
    "host", ["h/?", "h/#", "h\\x", "evil.example", "x:y@evil.example", "h/?x=/llm/login"]
)
def test_n2_the_host_a_client_names_leads_nowhere(client: Client, host: str) -> None:
    for path in ("/login", "/admin/login", "/llm/login", "/", "/admin"):
        for method in ("GET", "POST"):
            answer = client.ask(method, path, headers={"Host": host, "Accept": "text/html"})
            assert answer.status_code in (200, 302, 308, 400, 401, 404, 405, 415)
            assert "evil" not in answer.text
            assert "evil" not in answer.headers.get("Location", "")
            assert answer.headers.get("Location", "/").startswith("/")


def test_n3_what_begins_alike_is_not_taken_for_each_other(house: House, client: Client) -> None:
    tokens = {user: client.token(user) for user in ("AGNRTEST01", "AGNRTEST02", "AGNFTEST01")}
    assert len({token[:20] for token in tokens.values()}) == 1
    for _ in range(2):
        for user, token in tokens.items():
            assert whoami(client, house, bearer(token)) == (200, [user])
    (one, other), half = list(tokens.values())[:2], len(tokens["AGNRTEST01"]) // 2
    signature = other.rpartition(".")[2]
    for mixed in (one[:half] + other[half:], f"{one.rpartition('.')[0]}.{signature}", one[:20]):
        assert whoami(client, house, bearer(mixed)) == (401, [])


def test_n4_a_good_verdict_is_of_one_route_one_way_and_one_moment(
    house: House, client: Client
) -> None:
    token = client.token("AGNRTEST01")
    for _ in range(3):
        assert whoami(client, house, bearer(token)) == (200, ["AGNRTEST01"])
        for method, path in (("GET", "/metrics"), ("GET", "/admin/"), ("POST", "/api/pull")):
            assert client.ask(method, path, headers=bearer(token), json={}).status_code == 403
        cookie = {"Cookie": f"auth_token={token}", "Origin": "https://evil.example"}
        assert whoami(client, house, cookie) == (403, [])
    assert client.ask("POST", "/logout", headers=bearer(token)).status_code == 204
    assert whoami(client, house, bearer(token)) == (401, [])


def test_n5_a_credential_of_one_kind_is_none_of_another(house: House, client: Client) -> None:
    token = client.token("AGNRTEST01")
    secret = USERS["AGNRTEST01"][0]
    now = str(int(time.time()))
    mac = hmac.new(house.deployment.sync_key.encode(), f"GET\n/\n{now}\n".encode(), hashlib.sha256)
    for wrong in (
        secret,
        mac.hexdigest(),
        house.deployment.sync_key,
        house.deployment.secret_key,
        basic("AGNRTEST01", secret).split()[1],
    ):
        assert whoami(client, house, bearer(wrong)) == (401, [])
    # A token is no password.
    assert client.log_in("AGNRTEST01", token).status_code == 401
    # Neither opens the inside.
    for credential in (token, secret):
        for listener in (house.deployment.internal, house.deployment.gateway):
            url = f"{listener}/sync/apply"
            answer = requests.post(url, headers=bearer(credential), data="{}", timeout=10)
            assert answer.status_code in (401, 404)
    header, claims = parts(token)
    for by in (house.deployment.sync_key, secret):
        assert whoami(client, house, bearer(sign(header, claims, by))) == (401, [])


@pytest.mark.parametrize("text", MARKUP)
def test_n6_what_a_template_might_evaluate_is_text(client: Client, text: str) -> None:
    form = {"username": text, "password": "x", "next": f"/{text}"}
    page = client.ask("POST", "/login", headers={"Accept": "text/html"}, data=form)
    assert page.status_code == 401
    shown = client.ask("GET", f"/login?next=/{quote(text)}")
    for answer in (page, shown):
        assert "49" not in answer.text.replace("2049", "")
        assert "<script>alert" not in answer.text
        assert "<img src=x>" not in answer.text
    admin = client.token("ADMNTEST01")
    headers = {"Cookie": f"auth_token={admin}", "Accept": "text/html"}
    console = client.ask("GET", "/admin/", headers=headers)
    assert console.status_code == 200


def test_n7_a_peer_on_the_loopback_address_is_no_admin(house: House, client: Client) -> None:
    for name in ("X-Real-IP", "X-Forwarded-For", "Forwarded", "X-Client-IP"):
        for value in ("127.0.0.1", "::1", "for=127.0.0.1"):
            for some in (client, house.client("127.0.0.9")):
                for path in ("/metrics", "/admin/api/sessions", "/v1/models"):
                    assert some.ask("GET", path, headers={name: value}).status_code == 401


def test_n8_n9_nothing_in_the_query_or_a_header_stands_for_what_was_judged(
    house: House, client: Client
) -> None:
    token = client.token("AGNRTEST01")
    query = "user=ADMNTEST01&role=admin&limits=none&server=rack&bypass_filter=true&url_idx=1&sub=x"
    headers = bearer(token) | {
        "X-Server": "rack",
        "X-Portero-Server": "rack",
        "X-Upstream": "http://evil",
        "X-Model-Server": "rack",
        "X-Portero-Login": "=61",
    }
    house.upstream.seen.clear()
    answer = client.ask(
        "POST", f"/v1/chat/completions?{query}", headers=headers, json=CHAT | {"user": "ADMNTEST01"}
    )
    assert answer.status_code == 200
    (seen,) = house.upstream.seen
    assert (seen.values("x-auth-user"), seen.values("x-auth-role")) == (
        ["AGNRTEST01"],
        ["agent_reasoning"],
    )
    assert seen.values("host") == [house.upstream.url.removeprefix("http://")]
    for path in ("/metrics", "/admin/api/sessions"):
        assert client.ask("GET", f"{path}?{query}", headers=headers).status_code == 403
    for path in (
        "/api/chat/1",
        "/v1/messages/0",
        "/v1/chat/completions/1",
        "/servers/rack/api/chat",
    ):
        assert client.ask("POST", path, headers=headers, json=CHAT).status_code in (403, 404)
    login = {
        "username": "AGNRTEST01",
        "password": USERS["AGNRTEST01"][0],
        "role": "admin",
        "ttl": "99999",
    }
    assert client.ask("POST", "/admin/login", data=login).status_code == 403
    assert len(house.upstream.seen) == 1


def test_n14_five_parts_are_no_token_whatever_they_hold(house: House, client: Client) -> None:
    token = client.token("AGNRTEST01")
    header, payload, signature = token.split(".")
    jwe = encode(b'{"alg":"dir","enc":"A256GCM","kid":"x"}')
    for five in (
        f"{jwe}..{header}.{payload}.{signature}",
        f"{jwe}.{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}..",
        f"{jwe}....",
        f"{jwe}..{header}.{payload}.",
    ):
        assert whoami(client, house, bearer(five)) == (401, [])
        assert (
            requests.post(
                f"{house.deployment.issuer}/validate", json={"token": five}, timeout=10
            ).status_code
            == 401
        )


def test_n15_no_page_of_another_site_signs_anybody_in(client: Client) -> None:
    sender = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    for user, path in (
        ("USRSTEST01", "/login"),
        ("USRSTEST01", "/auth/login"),
        ("ADMNTEST01", "/admin/login"),
        ("AGNRTEST01", "/llm/login"),
        ("AGIATEST01", "/agi/login"),
    ):
        answer = client.log_in(user, path=path, **sender)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


def cookies_of(token: str) -> dict[str, str]:
    return {
        "cut": token[:-1],
        "half": token[: len(token) // 2],
        "doubled": token + token,
        "quoted": f'"{token}"',
        "8-bit": token[:-1] + "\xff",
        "64 KiB": "a" * 60_000,
        "blank": " ",
        "empty": "",
        "dots": "..",
        "a comma": f"{token},",
        "escaped": token.replace(".", "%2E"),
        "NUL": f"{token}\0",
    }


@pytest.mark.parametrize("name", cookies_of("a.b.c"))
def test_n16_a_cookie_that_is_damaged_is_refused_by_gateway_and_issuer_alike(
    house: House, client: Client, name: str
) -> None:
    value = cookies_of(client.token("USRSTEST01"))[name]
    for listener, path in (
        (house.deployment.gateway, "/v1/models"),
        (house.deployment.issuer, "/validate"),
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        sent = f"{head}Cookie: auth_token={value}\r\n\r\n".encode("latin-1")
        status = raw(listener, sent).split(b" ")[1]
        assert status in (b"400", b"401", b"431"), listener


def test_n17_a_public_key_in_no_form_is_a_secret(house: House, client: Client) -> None:
    """All of its forms are J2's in `test_verdicts.py`; here, that an empty key is none."""
    token = client.token("AGNRTEST01")
    header, claims = parts(token)
    for key in ("", "\0" * 32, json.dumps({"kty": "oct", "k": ""}), " " * 32):
        assert whoami(client, house, bearer(sign(header, claims, key))) == (401, [])


OPEN = ("/login", "/auth/login", "/admin/login", "/healthz", "/readyz", "/static/portero.css")


def test_n18_without_a_credential_nothing_is_served_but_doors_health_and_looks(
    house: House, client: Client
) -> None:
    admin = bearer(client.token("ADMNTEST01"))
    routes = {(row["method"], row["path"]) for row in shipped_policy().compiled["routes"]}
    assert len(routes) > 100
    for method, path in routes:
        asked = path.replace("{model}", "tiny").replace("{", "").replace("}", "").replace("*", "x")
        status = client.ask(method, asked).status_code
        assert status in (400, 401, 404), (method, asked)
    for path in OPEN:
        assert client.ask("GET", path).status_code == 200, path
    assert client.ask("GET", "/admin/api/sessions", headers=admin).status_code == 200
    assert house.upstream.seen == []
