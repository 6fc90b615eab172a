"""The issuer's listener: every door, `/validate`, the admin API, health, metrics, and the headers.

The application is whole, with a store in a file; the gateway is a model that listens for real.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import bcrypt
import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from issuer import config, create_app
from issuer.errors import StoreUnavailable
from issuer.keys.key_file import KeyFile
from issuer.store import Addition, Session
from issuer.store.audit import Lines
from issuer.store.sessions import Sessions
from issuer.web import responses
from tests.conftest import SECRET_KEY, USERS, password
from tests.support.fake_gateway import FakeGateway
from tests.support.listening import Reply, listening
from tests.support.policies import write_policy
from tests.support.stores import sessions_in

BASIC_DOORS = {
    "agent_reasoning": "/llm/login",
    "agent_fast": "/llm/login",
    "agi": "/agi/login",
}
FORM_DOORS = {"user": "/login", "monitoring": "/login", "admin": "/admin/login"}
DOORS = BASIC_DOORS | FORM_DOORS
EVERY_DOOR = ("/llm/login", "/agi/login", "/login", "/admin/login")
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
JSON = {"Accept": "application/json"}
OTHER_SITE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
Headers = dict[str, str]


@dataclass
class House:
    """The issuer with its gateway."""

    app: Flask
    client: FlaskClient
    gateway: FakeGateway
    environ: dict[str, str]

    def log_in(
        self, role: str, door: str | None = None, secret: str | None = None, **more: Headers
    ) -> TestResponse:
        """Knock with the role's own user, in the way of the door."""
        username = USERS[role]
        return self.knock(
            door or DOORS[role], username, password(username) if secret is None else secret, **more
        )

    def knock(
        self, door: str, username: str, secret: str, headers: Headers | None = None
    ) -> TestResponse:
        if door.endswith(("/llm/login", "/agi/login")):
            given = base64.b64encode(f"{username}:{secret}".encode()).decode()
            basic = {"Authorization": f"Basic {given}"} | (headers or {})
            return self.client.post(door, headers=basic)
        form = {"username": username, "password": secret}
        return self.client.post(door, data=form, headers=headers)

    def token(self, role: str) -> str:
        answer = self.log_in(role)
        return str(answer.json["token"]) if answer.json else cookie_of(answer).value

    def is_valid(self, token: str) -> bool:
        answer = self.client.get("/validate", headers=bearer(token))
        assert answer.json == {"valid": answer.status_code == 200}
        return answer.status_code == 200


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def cookie(token: str) -> Headers:
    return {"Cookie": f"auth_token={token}"}


def cookie_of(answer: TestResponse) -> "Morsel[str]":
    (header,) = answer.headers.getlist("Set-Cookie")
    return SimpleCookie(header)["auth_token"]


def jti_of(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


def code_of(answer: TestResponse) -> str:
    assert answer.json is not None
    assert answer.json["error"].keys() == {"message", "type", "param", "code"}
    return str(answer.json["error"]["code"])


@pytest.fixture
def house(environ: dict[str, str]) -> Iterator[House]:
    model = FakeGateway()
    with listening(model.answer) as listener:
        environ["GATEWAY_URLS"] = listener.url
        app = create_app(environ)
        yield House(app, app.test_client(use_cookies=False), model, environ)


@contextmanager
def issuing(environ: dict[str, str], **settings: str) -> Iterator[House]:
    """A house of other settings."""
    model = FakeGateway()
    with listening(model.answer) as listener:
        changed = environ | settings | {"GATEWAY_URLS": listener.url}
        app = create_app(changed)
        yield House(app, app.test_client(use_cookies=False), model, changed)


def keys_of(house: House) -> KeyFile:
    """The key file of a house, as another process opens it."""
    settings = config.read(house.environ)
    return KeyFile(settings.key_file, settings.algorithm, settings.secret_key, lambda: 3600)


@pytest.fixture
def lonely(environ: dict[str, str]) -> House:
    """An issuer whose gateway is down."""
    app = create_app(environ)
    return House(app, app.test_client(use_cookies=False), FakeGateway(), environ)


@pytest.fixture
def bcrypts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cost of every bcrypt that is computed from here on."""
    costs: list[int] = []
    real = bcrypt.checkpw

    def counting(secret: bytes, hashed: bytes) -> bool:
        costs.append(int(hashed[4:6]))
        return real(secret, hashed)

    monkeypatch.setattr("bcrypt.checkpw", counting)
    return costs


# The doors


@pytest.mark.parametrize("prefix", ["", "/auth"])
@pytest.mark.parametrize("role", BASIC_DOORS)
def test_an_agent_gets_its_token_at_its_door(house: House, role: str, prefix: str) -> None:
    answer = house.log_in(role, prefix + BASIC_DOORS[role])
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    assert answer.json is not None
    claims = jwt.decode(
        answer.json["token"], SECRET_KEY, algorithms=["HS256"], audience="portero-gateway"
    )
    assert answer.json == {
        "token": answer.json["token"],
        "token_type": "Bearer",
        "expires_in": claims["exp"],
        "expires_at": claims["exp"],
        "ttl_seconds": claims["exp"] - claims["iat"],
        "role": role,
    }
    assert (claims["sub"], claims["role"]) == (USERS[role], role)
    assert house.gateway.numbers.keys() == {claims["jti"]}
    assert house.is_valid(answer.json["token"])


@pytest.mark.parametrize(
    ("role", "door", "ttl"),
    [
        ("user", "/login", 900),
        ("user", "/auth/login", 900),
        ("monitoring", "/login", 1200),
        ("monitoring", "/auth/login", 1200),
        ("admin", "/admin/login", 3600),
    ],
)
def test_a_person_gets_a_cookie_at_their_door(house: House, role: str, door: str, ttl: int) -> None:
    answer = house.log_in(role, door)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    given = cookie_of(answer)
    assert house.is_valid(given.value)
    assert given["max-age"] == str(ttl)
    assert (given["path"], given["samesite"], given["domain"]) == ("/", "Lax", "")
    assert given["httponly"]
    assert given["secure"]
    assert house.gateway.numbers.keys() == {jti_of(given.value)}


def test_i4_only_the_switch_takes_secure_from_the_cookie(environ: dict[str, str]) -> None:
    with listening(FakeGateway().answer) as listener:
        app = create_app(environ | {"GATEWAY_URLS": listener.url, "COOKIE_SECURE": "false"})
        house = House(app, app.test_client(use_cookies=False), FakeGateway(), environ)
        given = cookie_of(house.log_in("user"))
    assert not given["secure"]
    assert given["httponly"]


@pytest.mark.parametrize("setting", ["true", "false"])
def test_i4_over_tls_the_cookie_is_secure_whatever_is_set_f3(
    environ: dict[str, str], setting: str
) -> None:
    with issuing(environ, COOKIE_SECURE=setting) as house:
        over_tls = {"X-Forwarded-Proto": "https"}
        given = cookie_of(house.log_in("user", headers=over_tls))
        taken = cookie_of(house.client.post("/logout", headers=cookie(given.value) | over_tls))
    assert given["secure"]
    assert taken["secure"]


@pytest.mark.parametrize(("wanted", "goal"), [("", "/"), ("/admin/", "/admin/")])
def test_a_program_at_a_form_door_gets_json_and_the_cookie(
    house: House, wanted: str, goal: str
) -> None:
    answer = house.log_in("user", f"/login?next={wanted}", headers=JSON)
    assert (answer.status_code, answer.json) == (200, {"redirect": goal})
    assert house.is_valid(cookie_of(answer).value)


@pytest.mark.parametrize("by", ["form", "query", "form for JSON"])
@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/x\r\nSet-Cookie: a=b",
    ],
)
def test_i6_no_login_leads_away_from_this_host(house: House, wanted: str, by: str) -> None:
    """The long list of payloads is in `test_responses.py`; here, that each way goes through it."""
    form = {"username": USERS["user"], "password": password(USERS["user"])}
    if by == "query":
        answer = house.client.post("/login", data=form, query_string={"next": wanted})
    else:
        headers = JSON if by == "form for JSON" else {}
        answer = house.client.post("/login", data=form | {"next": wanted}, headers=headers)
    goal = answer.json["redirect"] if answer.json else answer.headers["Location"]
    assert goal == "/"
    assert len(answer.headers.getlist("Set-Cookie")) == 1


@pytest.mark.parametrize(
    ("path", "offered"), [("/v1/models", 'value="/v1/models"'), ("//evil.example", None)]
)
def test_the_login_page_keeps_a_local_goal_and_drops_any_other(
    house: House, path: str, offered: str | None
) -> None:
    page = house.client.get("/login", query_string={"next": path}).text
    assert "evil" not in page
    assert ('name="next"' in page) is (offered is not None)
    assert offered is None or offered in page


@pytest.mark.parametrize("role", ["agi", "user"])
def test_p4_a_name_that_the_gateway_read_otherwise_is_nobodys(
    house: House, role: str, bcrypts: list[int]
) -> None:
    own = f"={USERS[role].encode().hex()}"
    for told in ("-", "=", f"{own}00", own[:-2], "=zz", ""):
        answer = house.log_in(role, headers={responses.LOGIN_HEADER: told})
        assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key"), told
    assert not bcrypts
    assert house.log_in(role, headers={responses.LOGIN_HEADER: own}).status_code in (200, 302)


@pytest.mark.parametrize("door", ["/login", "/admin/login"])
def test_p4_a_browser_that_guessed_too_often_is_shown_the_form_and_nothing_is_checked(
    house: House, door: str, bcrypts: list[int]
) -> None:
    headers = BROWSER | {responses.LOGIN_HEADER: "wait 32"}
    answer = house.knock(door, "<b>USRS", "x", headers=headers)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "32"
    assert answer.headers["X-Portero-Code"] == "rate_limit_exceeded"
    assert "Try again in 32 seconds" in answer.text
    assert 'value="&lt;b&gt;USRS"' in answer.text
    assert not bcrypts


def test_i5_every_login_makes_a_fresh_token(house: House) -> None:
    first = house.token("user")
    again = house.log_in("user", headers=cookie(first))
    assert jti_of(cookie_of(again).value) != jti_of(first)


@pytest.mark.parametrize("headers", [OTHER_SITE, {"Origin": "null"}])
@pytest.mark.parametrize("role", FORM_DOORS)
def test_i5_another_site_logs_nobody_in(
    house: House, role: str, headers: Headers, bcrypts: list[int]
) -> None:
    answer = house.log_in(role, headers=headers)
    assert (answer.status_code, code_of(answer)) == (403, "insufficient_permissions")
    assert "Set-Cookie" not in answer.headers
    assert not bcrypts


FOREIGN: list[Headers] = [
    OTHER_SITE,
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost,http://localhost"},
    {"Origin": "garbage"},
    {"Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "garbage"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
]
OWN: list[Headers] = [
    {"Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none"},
]
EVERY_WAY_IN = {
    "/auth" * alias + door: role
    for role, door in DOORS.items()
    for alias in range(2)
    if (alias, door) != (1, "/admin/login")
}


@pytest.mark.parametrize("door", EVERY_WAY_IN)
def test_i5_no_login_endpoint_serves_another_sites_page_q4(
    house: House, door: str, bcrypts: list[int]
) -> None:
    for headers in FOREIGN:
        answer = house.log_in(EVERY_WAY_IN[door], door, headers=headers)
        assert (answer.status_code, code_of(answer)) == (403, "insufficient_permissions"), headers
        assert "Set-Cookie" not in answer.headers
    assert not bcrypts
    for headers in OWN:
        answer = house.log_in(EVERY_WAY_IN[door], door, headers=headers)
        assert answer.status_code in (200, 302), headers


def test_a_page_of_an_origin_that_is_named_may_log_in_q4(environ: dict[str, str]) -> None:
    named = "https://chat.example,app://obsidian.md"
    with issuing(environ, CORS_ORIGINS=named) as house:
        for door, role in EVERY_WAY_IN.items():
            for origin in named.split(","):
                headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
                assert house.log_in(role, door, headers=headers).status_code in (200, 302)
            for headers in FOREIGN:
                assert house.log_in(role, door, headers=headers).status_code == 403, headers
        token = house.token("user")
        sent = {**cookie(token), "Origin": "https://chat.example", "Sec-Fetch-Site": "cross-site"}
        assert house.client.post("/logout", headers=sent).status_code == 403


def test_with_a_public_url_our_own_origin_is_that_one_alone_q4_q2(environ: dict[str, str]) -> None:
    with issuing(environ, PUBLIC_URL="https://portero.example") as house:
        for headers, status in (
            ({"Origin": "https://portero.example"}, 200),
            ({"Origin": "https://portero.example:443", "Host": "127.0.0.1:8080"}, 200),
            ({"Origin": "http://portero.example"}, 403),
            ({"Origin": "http://evil.example:8080", "Host": "evil.example:8080"}, 403),
        ):
            assert house.log_in("agi", headers=headers).status_code == status, headers


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"GATEWAY_LISTEN": "127.0.0.1:8090"}, "http://127.0.0.1:8090"),
        ({"PUBLIC_URL": "https://portero.example"}, "https://portero.example"),
    ],
)
@pytest.mark.parametrize("role", ["user", "admin", "monitoring", "agi"])
def test_no_page_takes_the_host_from_who_asks_q2(
    environ: dict[str, str], role: str, setting: dict[str, str], url: str
) -> None:
    evil = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil.example",
        "X-Original-Host": "evil.example",
        "Forwarded": "host=evil.example",
    }
    with issuing(environ, **setting) as house:
        signed_in = cookie(house.token(role))
        home = house.client.get("/", headers=signed_in | evil | BROWSER)
        assert f"{url}/v1" in home.text
        found = [home]
        for path, methods in methods_by_path(house.app).items():
            for method in methods:
                for headers in (evil, evil | BROWSER, evil | BROWSER | signed_in):
                    found.append(house.client.open(path, method=method, headers=headers))
        for answer in found:
            assert "evil" not in answer.text
            assert "evil" not in str(answer.headers)
            assert not answer.headers.get("Location", "/").startswith(("//", "http"))


@pytest.mark.parametrize(
    ("role", "door"),
    [(role, door) for role in USERS for door in EVERY_DOOR if door != DOORS[role]],
)
def test_p7_a_right_secret_at_a_wrong_endpoint_is_403(house: House, role: str, door: str) -> None:
    answer = house.log_in(role, door)
    assert (answer.status_code, code_of(answer)) == (403, "insufficient_permissions")
    assert "Set-Cookie" not in answer.headers
    assert not house.gateway.numbers


@pytest.mark.parametrize("door", EVERY_DOOR)
def test_a_wrong_secret_is_401_at_every_door(house: House, door: str) -> None:
    answer = house.log_in("admin", door, secret="wrong")
    scheme = "Basic" if door in BASIC_DOORS.values() else "Bearer"
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith(f'{scheme} realm="portero"')
    assert "Set-Cookie" not in answer.headers
    assert not house.gateway.numbers


# Client certificates


def ask_for_certificates(content: dict[str, Any]) -> None:
    for role in content["roles"].values():
        role["client_certificate"] = True


@pytest.fixture
def certified(environ: dict[str, str], tmp_path: Path) -> Iterator[House]:
    """Where every role asks for a client certificate."""
    asking = write_policy(tmp_path / "asking.yaml", ask_for_certificates)
    with issuing(environ, POLICY_FILE=str(asking)) as house:
        yield house


def shown(name: str) -> Headers:
    """What the gateway says of a client that has shown a certificate of this name."""
    return {responses.CERTIFICATE_HEADER: name}


@pytest.mark.parametrize("role", USERS)
def test_a_role_that_asks_for_a_certificate_logs_in_with_that_of_its_name(
    certified: House, role: str
) -> None:
    assert certified.log_in(role, headers=shown(USERS[role])).status_code in (200, 302)


def certificates_of_others(username: str) -> list[Headers]:
    others = [username.lower(), f"{username}\\,O=x", username[:-1], f"{username}x", "agent.lan"]
    return [{}, shown(""), *map(shown, others)]


@pytest.mark.parametrize("accept", [BROWSER, JSON], ids=["page", "json"])
@pytest.mark.parametrize("role", USERS)
def test_p9_with_another_certificate_or_none_every_secret_is_refused_alike_and_not_looked_at(
    certified: House, bcrypts: list[int], role: str, accept: Headers
) -> None:
    username, unknown = USERS[role], USERS[role][:4] + "unknown"
    answers = [
        (certified.knock(DOORS[role], name, secret, headers=accept | certificate), name)
        for name in (username, unknown)
        for secret in (password(username), "wrong", "")
        for certificate in certificates_of_others(name)
    ]
    assert len({repr(whole(answer, name)) for answer, name in answers}) == 1
    answer = answers[0][0]
    assert answer.status_code == 403
    assert answer.headers["X-Portero-Code"] == "insufficient_permissions"
    assert "client certificate" in answer.text
    assert not bcrypts
    assert not certified.gateway.numbers


def test_a_login_with_another_certificate_is_a_row_of_the_audit_and_counted(
    certified: House,
) -> None:
    certified.log_in("agi", headers=shown("agent.lan"))
    certified.knock("/agi/login", USERS["agi"][:4] + "unknown", "x", headers=shown("agent.lan"))
    kept = certified.app.extensions["portero"]
    kept.refusals.flush()
    rows = kept.audit.rows(10, event="login")
    assert {(row.user, row.outcome) for row in rows} == {
        (USERS["agi"], "wrong_certificate"),
        ("", "wrong_certificate"),
    }
    counted = 'portero_logins_total{endpoint="/agi/login",outcome="wrong_certificate"}'
    assert counted in certified.client.get("/metrics").text


def test_a_right_certificate_stands_for_no_secret_and_for_no_endpoint(certified: House) -> None:
    own = shown(USERS["agi"])
    assert certified.log_in("agi", secret="wrong", headers=own).status_code == 401
    assert certified.log_in("agi", "/llm/login", headers=own).status_code == 403


def test_a_role_that_asks_for_no_certificate_logs_in_with_any(house: House) -> None:
    for certificate in certificates_of_others(USERS["agi"]):
        assert house.log_in("agi", headers=certificate).status_code == 200


def oauth(house: House, path: str, headers: Headers, **form: str) -> TestResponse:
    return house.client.post(path, data=form, headers=headers)


def test_programs_get_a_token_by_oauth_with_the_certificate_of_their_name_alone(
    certified: House, bcrypts: list[int]
) -> None:
    name = USERS["agi"]
    form = {"grant_type": "client_credentials", "client_id": name, "client_secret": password(name)}
    for secret in (password(name), "wrong"):
        for certificate in certificates_of_others(name):
            answer = oauth(
                certified, "/oauth/token", certificate, **form | {"client_secret": secret}
            )
            assert answer.json
            assert (answer.status_code, answer.json["error"]) == (400, "unauthorized_client")
    assert not bcrypts
    counted = 'portero_logins_total{endpoint="/oauth/token",outcome="wrong_certificate"}'
    assert counted in certified.client.get("/metrics").text
    assert oauth(certified, "/oauth/token", shown(name), **form).status_code == 200


@pytest.mark.parametrize("path", ["/oauth/revoke", "/oauth/introspect"])
def test_a_token_or_secret_asks_about_tokens_with_the_certificate_of_its_name_alone(
    certified: House, path: str
) -> None:
    name = USERS["admin"]
    token = cookie_of(certified.log_in("admin", headers=shown(name))).value
    secret = {"client_id": name, "client_secret": password(name)}
    for certificate in certificates_of_others(name):
        by_token = oauth(certified, path, bearer(token) | certificate, token="x")
        by_secret = oauth(certified, path, certificate, token="x", **secret)
        assert (by_token.status_code, by_secret.status_code) == (401, 400)
    assert oauth(certified, path, bearer(token) | shown(name), token="x").status_code == 200
    assert oauth(certified, path, shown(name), token="x", **secret).status_code == 200


def whole(answer: TestResponse, username: str) -> tuple[int, list[tuple[str, str]], str]:
    """Everything of an answer but the name that was typed, and what its length changes."""
    headers = [item for item in answer.headers.items() if item[0] != "Content-Length"]
    return answer.status_code, headers, answer.text.replace(username, "NAME")


@pytest.mark.parametrize("accept", [BROWSER, JSON], ids=["page", "json"])
@pytest.mark.parametrize("door", EVERY_DOOR)
def test_i8_an_unknown_user_and_a_wrong_secret_are_answered_alike_at_the_same_cost(
    house: House, bcrypts: list[int], door: str, accept: Headers
) -> None:
    role = next(role for role in DOORS if DOORS[role] == door)
    known = USERS[role]
    attempts = [
        (known, "wrong"),
        (known, ""),
        (known, password(known) + "\0" + "x" * 73),
        (known[:4] + "unknown", password(known)),
        ("ROOTunknown", "wrong"),
        (USERS["admin" if role != "admin" else "user"], "wrong"),
    ]
    wholes = {
        repr(whole(house.knock(door, name, secret, headers=accept), name))
        for name, secret in attempts
    }
    assert len(wholes) == 1
    assert bcrypts == [10] * len(attempts)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic dQ==",
        "Basic /w==",
        "Basic Og==",
        "Basic Kjoq",
        "Basic dTpwAA==",
        "Basic " + "QUJD" * 20_000,
        "basic",
        "Bearer x",
        "Digest username=x",
        "Negotiate x",
    ],
)
def test_p2_odd_basic_credentials_are_401_with_a_challenge(house: House, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    answer = house.client.post("/llm/login", headers=headers)
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/x-www-form-urlencoded"),
        (b"username=USRStest1", "application/x-www-form-urlencoded"),
        (b"username=%ff&password=%00", "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
        (b'{"username": "USRStest1", "password": "wrong"}', "application/json"),
        (b'{"username": "USRStest1", "password": "\\u0000"}', "application/json"),
        (b"--x--", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data"),
    ],
)
def test_p2_odd_forms_are_401(house: House, body: bytes, kind: str) -> None:
    answer = house.client.post("/login", data=body, content_type=kind)
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")


@pytest.mark.parametrize("accept", [{}, JSON, {"Accept": "*/*"}], ids=str)
@pytest.mark.parametrize(("role", "door"), FORM_DOORS.items())
def test_a_login_as_json_is_answered_as_json_with_the_cookie_x3(
    house: House, role: str, door: str, accept: Headers
) -> None:
    body = {"username": USERS[role], "password": password(USERS[role]), "next": "/v1/models"}
    answer = house.client.post(door, json=body, headers=accept)
    assert (answer.status_code, answer.json) == (200, {"redirect": "/v1/models"})
    assert house.is_valid(cookie_of(answer).value)
    as_page = house.client.post(door, json=body, headers=BROWSER)
    assert (as_page.status_code, as_page.headers["Location"]) == (302, "/v1/models")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"username": 1, "password": "x"}',
        b'{"username": "x", "password": null}',
        b'{"username": "x", "password": ["x"]}',
        b'{"username": "\\ud800", "password": "x"}',
        b'{"username": "x", "password": "x", "next": {}}',
        b'{"username": "x\xff", "password": "x"}',
        b"[" * 60_000,
    ],
)
def test_json_that_is_no_login_is_400_and_says_what_one_is_x3(house: House, body: bytes) -> None:
    answer = house.client.post("/login", data=body, content_type="application/json")
    assert (answer.status_code, code_of(answer)) == (400, "invalid_json")
    assert "username and password" in answer.text


@pytest.mark.parametrize("door", ["/login", "/auth/login", "/admin/login"])
@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/xml", "application/octet-stream", "multipart/mixed"],
)
def test_a_login_that_is_neither_form_nor_json_is_415_and_names_both_x3(
    house: House, door: str, kind: str | None, bcrypts: list[int]
) -> None:
    answer = house.client.post(door, data=b"username=x&password=y", content_type=kind)
    assert (answer.status_code, code_of(answer)) == (415, "unsupported_media_type")
    for word in ("form", "JSON", "application/x-www-form-urlencoded", "application/json"):
        assert word in answer.text
    assert not bcrypts


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")


def methods_by_path(app: Flask) -> dict[str, set[str]]:
    """All that the application answers; a word stands for what a rule leaves open."""
    found: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]*>", "x", rule.rule)
        found.setdefault(path, set()).update(rule.methods or ())
    return found


@pytest.mark.parametrize("accept", [BROWSER, JSON], ids=["page", "json"])
def test_every_path_answers_another_method_with_405_and_its_own_ones_x3(
    house: House, bcrypts: list[int], accept: Headers
) -> None:
    paths = methods_by_path(house.app)
    assert paths.keys() >= {*EVERY_DOOR, "/auth/llm/login", "/logout", "/validate", "/admin"}
    assert paths["/llm/login"] == {"POST"}
    for path, methods in paths.items():
        for method in set(METHODS) - methods:
            answer = house.client.open(path, method=method, headers=accept)
            assert answer.status_code == 405, (method, path)
            assert answer.headers["Allow"] == ", ".join(sorted(methods)), (method, path)
    assert not bcrypts


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_console_without_its_slash_is_308_on_this_host_x3(house: House, method: str) -> None:
    answer = house.client.open("/admin", method=method, headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "/admin/")
    assert "evil" not in answer.text


def spellings(path: str) -> set[str]:
    """Other ways to write a path that some server would take for it."""
    found = {f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}" for at in range(1, len(path))}
    found |= {f"{path[:at]}%{ord(path[at]):02X}{path[at + 1 :]}" for at in range(1, len(path))}
    for at in (at for at, letter in enumerate(path) if letter == "/"):
        for more in ("/", "/.", "/x/..", "//", "/%2e"):
            found.add(path[:at] + more + path[at:])
    return found | {f"{path}#x"}


def test_a_path_in_another_spelling_is_answered_by_nobody_q1(
    house: House, bcrypts: list[int]
) -> None:
    user, secret = USERS["agi"], password(USERS["agi"])
    for path in methods_by_path(house.app):
        for asked in spellings(path):
            environ = {"RAW_URI": f"{asked}?x=/y", "PATH_INFO": unquote(asked)}
            answer = house.client.post(path, auth=(user, secret), environ_overrides=environ)
            # Dots are not resolved here, nor slashes merged: those are other paths, and what is in
            # the place of a parameter is one of its values, which nobody asks for without a token.
            refused = (400,) if "%" in asked else (400, 401, 404, 405)
            assert answer.status_code in refused, asked
    assert not bcrypts


def test_a_target_that_names_the_host_too_is_judged_by_its_path_q1(house: House) -> None:
    user = USERS["agi"]
    for target, status in (
        ("http://portero.example/agi/login", 200),
        ("HTTP://portero.example/agi/login?x", 200),
        ("http://portero.example//agi/login", 400),
        ("http://portero.example/agi%2flogin", 400),
    ):
        answer = house.client.post(
            "/agi/login", auth=(user, password(user)), environ_overrides={"RAW_URI": target}
        )
        assert answer.status_code == status, target


def test_k5_a_form_that_is_no_login_is_413(house: House) -> None:
    answer = house.client.post("/login", data={"username": "x" * 70_000})
    assert (answer.status_code, code_of(answer)) == (413, "request_too_large")


@pytest.mark.parametrize("door", ["/llm/login", "/agi/login", "/auth/llm/login", "/auth/agi/login"])
def test_p7_basic_on_get_is_refused(house: House, door: str, bcrypts: list[int]) -> None:
    answer = house.client.get(door, auth=(USERS["agi"], password(USERS["agi"])))
    assert (answer.status_code, code_of(answer)) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    assert not bcrypts


def test_a_full_gateway_is_503_and_the_token_is_dead(house: House) -> None:
    house.gateway.most = 0
    answer = house.log_in("agi")
    assert (answer.status_code, code_of(answer)) == (503, "capacity")
    assert answer.headers["Retry-After"] == "1"
    house.gateway.most = 10
    assert house.log_in("agi").status_code == 200


def test_without_a_gateway_a_login_is_503_and_leaves_no_active_token(lonely: House) -> None:
    answer = lonely.log_in("agi")
    assert (answer.status_code, code_of(answer)) == (503, "not_ready")
    assert answer.headers["Retry-After"] == "1"
    assert store_of(lonely).count_active(0) == 0


def test_over_the_capacity_a_login_is_503_and_nobody_is_put_out(environ: dict[str, str]) -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        app = create_app(environ | {"GATEWAY_URLS": listener.url, "TOKEN_CACHE_SIZE": "1"})
        house = House(app, app.test_client(use_cookies=False), model, environ)
        first = house.token("agi")
        answer = house.log_in("user")
        assert (answer.status_code, code_of(answer)) == (503, "capacity")
        assert "Set-Cookie" not in answer.headers
        assert house.is_valid(first)


def test_s8_over_the_bound_of_one_user_a_login_is_429(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = house.token("agi")
    real = Sessions.add_each

    def one_a_user(
        store: Sessions, additions: Sequence[Addition], most: int, now: int
    ) -> Sequence[object]:
        return real(store, [replace(one, most_of_subject=1) for one in additions], most, now)

    monkeypatch.setattr(Sessions, "add_each", one_a_user)
    answer = house.log_in("agi")
    assert (answer.status_code, code_of(answer)) == (429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"]
    assert house.is_valid(first)
    assert house.log_in("user").status_code == 302


def store_of(house: House) -> Sessions:
    return sessions_in(Path(house.environ["DATABASE_URL"].removeprefix("sqlite:///")))


@pytest.mark.parametrize(
    ("role", "text"), [("user", "That name and password"), ("admin", "logs in at another address")]
)
def test_a_browser_is_shown_the_form_again(house: House, role: str, text: str) -> None:
    secret = password(USERS[role]) if role == "admin" else "wrong"
    answer = house.log_in(role, "/login", secret=secret, headers=BROWSER)
    assert answer.status_code == (403 if role == "admin" else 401)
    assert answer.mimetype == "text/html"
    assert text in answer.text
    assert 'type="password"' in answer.text
    assert secret not in answer.text


def test_i7_a_name_that_is_markup_is_shown_as_text(house: House) -> None:
    name = '"><script>alert(1)</script>'
    page = house.knock("/login", name, "wrong", headers=BROWSER).text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


# The way out


@pytest.mark.parametrize("present", [bearer, cookie, lambda token: {"x-api-key": token}])
def test_logout_revokes_everywhere_before_it_answers(
    house: House, present: Callable[[str], Headers]
) -> None:
    token, other = house.token("user"), house.token("user")
    answer = house.client.post("/logout", headers=present(token))
    assert (answer.status_code, answer.data) == (204, b"")
    assert house.gateway.numbers[jti_of(token)] < 0
    assert not house.is_valid(token)
    assert house.is_valid(other)


def test_logout_sends_a_browser_to_the_login_page(house: House) -> None:
    token = house.token("user")
    answer = house.client.post("/logout", headers=cookie(token) | BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
    assert not house.is_valid(token)


def test_logout_says_202_while_a_gateway_has_not_acknowledged_it(environ: dict[str, str]) -> None:
    model = FakeGateway()
    with listening(lambda message: Reply(500) if down else model.answer(message)) as listener:
        down = False
        app = create_app(environ | {"GATEWAY_URLS": listener.url})
        house = House(app, app.test_client(use_cookies=False), model, environ)
        token = house.token("agi")
        down = True
        answer = house.client.post("/logout", headers=bearer(token))
        assert answer.status_code == 202
        assert answer.json == {"revoked": True, "pending": [listener.url]}
        assert not house.is_valid(token)


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 204), (BROWSER, 302)], ids=["program", "browser"]
)
def test_i4_logout_deletes_the_cookie_as_it_was_set(
    house: House, headers: Headers, status: int
) -> None:
    given = cookie_of(house.log_in("user"))
    answer = house.client.post("/logout", headers=cookie(given.value) | headers)
    assert answer.status_code == status
    gone = cookie_of(answer)
    assert (gone.value, gone["max-age"]) == ("", "0")
    for name in ("path", "samesite", "httponly", "secure", "domain"):
        assert gone[name] == given[name]


@pytest.mark.parametrize("token", ["", "x", "a.b.c"])
def test_logout_without_a_good_token_is_401_and_deletes_the_cookie(
    house: House, token: str
) -> None:
    answer = house.client.post("/logout", headers=cookie(token) if token else {})
    assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")
    assert cookie_of(answer)["max-age"] == "0"
    page = house.client.post("/logout", headers=BROWSER)
    assert (page.status_code, page.headers["Location"]) == (302, "/login")


def test_i5_another_site_logs_nobody_out(house: House) -> None:
    token = house.token("user")
    answer = house.client.post("/logout", headers=cookie(token) | OTHER_SITE)
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers
    assert house.is_valid(token)


def test_i5_another_site_takes_no_cookie_away_either_q4(house: House) -> None:
    for headers in FOREIGN:
        for given in ({}, bearer("bad")):
            answer = house.client.post("/logout", headers=headers | given)
            assert (answer.status_code, code_of(answer)) == (403, "insufficient_permissions")
            assert "Set-Cookie" not in answer.headers
    own = house.client.post("/logout", headers={"Origin": "http://localhost"})
    assert cookie_of(own)["max-age"] == "0"


def test_logout_by_get_is_a_page_with_the_button_and_does_nothing(house: House) -> None:
    token = house.token("user")
    page = house.client.get("/logout", headers=cookie(token))
    assert page.status_code == 200
    assert '<form method="post" action="/logout">' in page.text
    assert house.is_valid(token)


# /validate

PRESENTATIONS: dict[str, Callable[[FlaskClient, str], TestResponse]] = {
    "JSON body": lambda client, token: client.post("/validate", json={"token": token}),
    "JSON body without its type": lambda client, token: client.post(
        "/validate", data=f'{{"token": "{token}"}}'
    ),
    "GET with Bearer": lambda client, token: client.get("/validate", headers=bearer(token)),
    "POST with Bearer": lambda client, token: client.post("/validate", headers=bearer(token)),
    "GET with the cookie": lambda client, token: client.get("/validate", headers=cookie(token)),
    "POST with the cookie": lambda client, token: client.post("/validate", headers=cookie(token)),
    "GET with x-api-key": lambda client, token: client.get(
        "/validate", headers={"x-api-key": token}
    ),
}


@pytest.mark.parametrize("present", PRESENTATIONS.values(), ids=PRESENTATIONS.keys())
def test_validate_tells_a_good_token_from_a_bad_one_in_every_form(
    house: House, present: Callable[[FlaskClient, str], TestResponse]
) -> None:
    token = house.token("agi")
    good = present(house.client, token)
    assert (good.status_code, good.json) == (200, {"valid": True})
    bad = present(house.client, token[:-3] + "AAA")
    assert (bad.status_code, bad.json) == (401, {"valid": False})
    assert bad.headers["WWW-Authenticate"] == 'Bearer realm="portero"'
    assert good.headers["Cache-Control"] == bad.headers["Cache-Control"] == "no-store"


def test_j31_a_good_token_before_helps_no_bad_one_after(house: House) -> None:
    token = house.token("agi")
    last = "A" if token[-5] != "A" else "B"
    verdicts = [house.is_valid(one) for one in (token, token, token[:-5] + last + token[-4:])]
    assert verdicts == [True, True, False]


def test_j26_no_variant_of_a_revoked_token_is_valid(house: House) -> None:
    token = house.token("agi")
    assert house.is_valid(token)
    house.client.post("/logout", headers=bearer(token))
    for variant in (token, token + "=", token + "==", " " + token, token + "\n", token[:-1] + "_"):
        answer = house.client.post("/validate", json={"token": variant})
        assert answer.status_code == 401


def test_j30_a_well_signed_token_that_was_never_issued_is_not_valid(house: House) -> None:
    token = house.token("agi")
    key = SECRET_KEY
    claims = jwt.decode(token, key, algorithms=["HS256"], audience="portero-gateway")
    head = {"kid": jwt.get_unverified_header(token)["kid"]}
    assert house.is_valid(jwt.encode(claims, key, "HS256", head))
    assert not house.is_valid(jwt.encode(claims | {"jti": "A" * 22}, key, "HS256", head))


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"{}",
        b'{"token": null}',
        b'{"token": 1}',
        b'{"token": ["x"]}',
        b'{"token": ""}',
        b'{"token": "\\ud800"}',
        b'{"token": "\\u0000"}',
        b"\xff\xfe",
        b"token=x",
        b"1" * 5000,
        pytest.param(
            b"[" * 60_000,
            id="deep",
        ),
    ],
)
def test_any_other_body_is_401_even_beside_a_good_token(house: House, body: bytes) -> None:
    token = house.token("agi")
    answer = house.client.post("/validate", data=body, headers=bearer(token))
    assert (answer.status_code, answer.json) == (401, {"valid": False})


@pytest.mark.parametrize(
    "query", ["?token={}", "?access_token={}", "?auth_token={}", "?api_key={}"]
)
def test_i2_a_token_in_the_query_is_none(house: House, query: str) -> None:
    assert house.client.get("/validate" + query.format(house.token("agi"))).status_code == 401


def test_h2_two_tokens_are_refused_though_both_are_good(house: House) -> None:
    one, two = house.token("agi"), house.token("agi")
    assert house.client.get("/validate", headers=bearer(one) | cookie(one)).status_code == 200
    assert house.client.get("/validate", headers=bearer(one) | cookie(two)).status_code == 401


# The admin API and console


def test_an_admin_sees_who_has_active_tokens(house: House) -> None:
    admin, agent = house.token("admin"), house.token("agi")
    answer = house.client.get("/admin/api/sessions", headers=bearer(admin))
    assert answer.status_code == 200
    assert answer.json is not None
    listed = {row["jti"]: row for row in answer.json["sessions"]}
    assert listed.keys() == {jti_of(admin), jti_of(agent)}
    row = listed[jti_of(agent)]
    assert (row["subject"], row["role"]) == (USERS["agi"], "agi")
    assert row["expires_at"] - row["issued_at"] == 1800
    assert row.keys() == {"jti", "subject", "role", "issued_at", "expires_at"}
    console = house.client.get("/admin/sessions", headers=cookie(admin) | BROWSER)
    assert console.status_code == 200
    assert jti_of(agent) in console.text
    assert agent not in console.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/"),
        ("GET", "/admin/api/sessions"),
        ("DELETE", "/admin/api/sessions/" + "A" * 22),
        ("DELETE", f"/admin/api/users/{USERS['agi']}/sessions"),
    ],
)
def test_nobody_else_reaches_the_admin_api(house: House, method: str, path: str) -> None:
    for role in ("agi", "user", "monitoring", "agent_fast"):
        answer = house.client.open(path, method=method, headers=bearer(house.token(role)))
        assert (answer.status_code, code_of(answer)) == (403, "insufficient_permissions")
    spoofed = {"X-Auth-User": USERS["admin"], "X-Auth-Role": "admin"}
    for headers in ({}, spoofed, bearer("x"), bearer("a.b.c")):
        answer = house.client.open(path, method=method, headers=headers)
        assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key")
    page = house.client.open(path, method=method, headers=BROWSER)
    assert (page.status_code, page.headers["Location"]) == (302, "/admin/login?next=/admin/")
    assert store_of(house).count_active(0) == 4


def test_an_admin_revokes_one_token(house: House) -> None:
    admin, one, two = house.token("admin"), house.token("agi"), house.token("agi")
    path = f"/admin/api/sessions/{jti_of(one)}"
    answer = house.client.delete(path, headers=bearer(admin))
    assert answer.status_code == 200
    assert answer.json == {"revoked": [jti_of(one)], "pending": []}
    assert [house.is_valid(token) for token in (admin, one, two)] == [True, False, True]
    assert house.gateway.numbers[jti_of(one)] < 0


def test_an_admin_revokes_all_tokens_of_a_user(house: House) -> None:
    admin, one, two = house.token("admin"), house.token("agi"), house.token("agi")
    path = f"/admin/api/users/{USERS['agi']}/sessions"
    answer = house.client.delete(path, headers=bearer(admin))
    assert answer.json is not None
    assert sorted(answer.json["revoked"]) == sorted([jti_of(one), jti_of(two)])
    assert [house.is_valid(token) for token in (admin, one, two)] == [True, False, False]


@pytest.mark.parametrize(
    "path", ["/admin/api/sessions/" + "A" * 22, "/admin/api/users/USRSnobody/sessions"]
)
def test_revoking_what_there_is_not_is_404(house: House, path: str) -> None:
    answer = house.client.delete(path, headers=bearer(house.token("admin")))
    assert (answer.status_code, code_of(answer)) == (404, "not_found")


def test_a_revocation_that_a_gateway_has_not_acknowledged_is_202(environ: dict[str, str]) -> None:
    model = FakeGateway()
    with listening(lambda message: Reply(500) if down else model.answer(message)) as listener:
        down = False
        app = create_app(environ | {"GATEWAY_URLS": listener.url})
        house = House(app, app.test_client(use_cookies=False), model, environ)
        admin, agent = house.token("admin"), house.token("agi")
        down = True
        path = f"/admin/api/sessions/{jti_of(agent)}"
        answer = house.client.delete(path, headers=bearer(admin))
        assert answer.status_code == 202
        assert answer.json == {"revoked": [jti_of(agent)], "pending": [listener.url]}
        assert not house.is_valid(agent)


def test_i5_another_site_revokes_nothing_with_an_admins_cookie(house: House) -> None:
    admin, agent = house.token("admin"), house.token("agi")
    path = f"/admin/api/sessions/{jti_of(agent)}"
    answer = house.client.delete(path, headers=cookie(admin) | OTHER_SITE)
    assert answer.status_code == 403
    assert answer.json is not None
    assert answer.json["error"]["message"] == responses.OTHER_SITE
    assert house.is_valid(agent)
    same = house.client.delete(path, headers=cookie(admin) | {"Sec-Fetch-Site": "same-origin"})
    assert same.status_code == 200


def test_h12_no_redirect_is_built_from_the_host_header(house: House) -> None:
    answer = house.client.get("/admin", headers={"Host": "evil.example"})
    assert "evil.example" not in answer.headers.get("Location", "")


# The page behind the doors


def test_the_start_page_shows_who_is_signed_in(house: House) -> None:
    page = house.client.get("/", headers=cookie(house.token("user")) | BROWSER)
    assert page.status_code == 200
    assert USERS["user"] in page.text
    assert "/logout" in page.text


def test_the_start_page_sends_everybody_else_to_the_login_page(house: House) -> None:
    token = house.token("user")
    house.client.post("/logout", headers=bearer(token))
    for headers in ({}, cookie("x"), cookie(token)):
        answer = house.client.get("/", headers=headers | BROWSER)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/")


# Health, metrics, errors, headers


@pytest.mark.parametrize(
    ("path", "body"), [("/healthz", {"status": "ok"}), ("/readyz", {"status": "ready"})]
)
def test_health_is_open_and_tells_no_detail(lonely: House, path: str, body: dict[str, str]) -> None:
    answer = lonely.client.get(path)
    assert (answer.status_code, answer.json) == (200, body)


def test_without_its_store_the_issuer_lives_but_is_not_ready(
    lonely: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Sessions) -> int:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(Sessions, "position", broken)
    assert lonely.client.get("/healthz").status_code == 200
    answer = lonely.client.get("/readyz")
    assert (answer.status_code, code_of(answer)) == (503, "not_ready")
    assert answer.headers["Retry-After"] == "1"
    assert "disk" not in answer.text


def sample(text: str, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_logins_by_door_and_outcome_and_name_nobody(house: House) -> None:
    def count() -> list[float]:
        text = house.client.get("/metrics").text
        lines = (
            'portero_logins_total{endpoint="/agi/login",outcome="ok"}',
            'portero_logins_total{endpoint="/agi/login",outcome="wrong_credentials"}',
            'portero_logins_total{endpoint="/agi/login",outcome="wrong_endpoint"}',
            'portero_revocations_total{way="logout"}',
        )
        return [sample(text, line) for line in lines]

    before = count()
    token = house.token("agi")
    house.log_in("agi", secret="wrong")
    house.log_in("user", "/agi/login")
    house.client.post("/logout", headers=bearer(house.token("agi")))
    assert [now - then for now, then in zip(count(), before, strict=True)] == [2, 1, 1, 1]
    answer = house.client.get("/metrics")
    assert answer.mimetype == "text/plain"
    assert sample(answer.text, "portero_sessions_active") == 1
    assert not any(part in answer.text for part in (token, jti_of(token), *USERS.values()))


def test_i3_unknown_paths_and_users_make_no_new_series(house: House) -> None:
    house.log_in("agi", secret="wrong")
    before = house.client.get("/metrics").text.count("\n")
    for number in range(5):
        house.client.get(f"/no/such/path/{number}")
        house.knock("/agi/login", f"AGIAunknown{number}", "wrong")
    assert house.client.get("/metrics").text.count("\n") == before


@pytest.mark.parametrize(
    "path", ["/nowhere", "/admin/nowhere", "/auth/admin/login", "/sync/apply", "/llm", "/.env"]
)
def test_there_is_nothing_anywhere_else(lonely: House, path: str) -> None:
    for method in ("GET", "POST"):
        answer = lonely.client.open(path, method=method)
        assert (answer.status_code, code_of(answer)) == (404, "not_found")


def test_k5_an_accident_is_500_without_a_word_about_it(
    lonely: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def accident(_: Sessions) -> int:
        raise RuntimeError("a detail")

    monkeypatch.setattr(Sessions, "position", accident)
    for headers in (BROWSER, JSON):
        answer = lonely.client.get("/readyz", headers=headers)
        assert answer.status_code == 500
        assert "detail" not in answer.text
        assert "Traceback" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "a detail" in caplog.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/login"),
        ("GET", "/auth/login"),
        ("GET", "/admin/login"),
        ("POST", "/login"),
        ("POST", "/llm/login"),
        ("POST", "/logout"),
        ("GET", "/"),
        ("GET", "/admin/"),
        ("GET", "/validate"),
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
    ],
)
@pytest.mark.parametrize("accept", [BROWSER, JSON], ids=["page", "json"])
def test_i7_every_answer_bears_the_security_headers(
    lonely: House, method: str, path: str, accept: Headers
) -> None:
    answer = lonely.client.open(path, method=method, headers=accept)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"].startswith("no-referrer")
    for name in responses.SECURITY_HEADERS:
        assert len(answer.headers.getlist(name)) == 1


@pytest.mark.parametrize("path", ["/login", "/admin/login"])
def test_i7_pages_have_nothing_inline_and_nothing_from_elsewhere(lonely: House, path: str) -> None:
    page = lonely.client.get(path).text
    assert not re.search(r"<style|<script|\son\w+=|\sstyle=|javascript:", page)
    assert not re.search(r'(src|href|action)="(?![/#])', page)


def test_i1_no_secret_and_no_token_is_ever_logged(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    parts = house.app.extensions["portero"]
    lines = Lines(parts.audit)
    token = house.token("user")
    house.log_in("user", secret="a wrong secret")
    house.client.post("/logout", headers=cookie(token))
    house.client.get("/validate", headers=bearer(token))
    parts.refusals.flush()
    lines.tell()
    assert jti_of(token) in caplog.text
    said = (token, token.rpartition(".")[2], password(USERS["user"]), "a wrong secret", SECRET_KEY)
    assert not any(secret in caplog.text for secret in said)


def test_i2_a_name_with_line_ends_forges_no_line_in_the_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    parts = house.app.extensions["portero"]
    lines = Lines(parts.audit)
    house.knock("/login", "x\r\n2026-01-01 INFO ADMNroot logged in\x1b[2J", "wrong")
    parts.refusals.flush()
    lines.tell()
    assert "wrong_credentials" in caplog.text
    assert "\x1b" not in caplog.text
    assert not any(line.startswith("2026-01-01") for line in caplog.text.splitlines())


# Keys

PUBLIC = ("RS256", "ES256", "EdDSA")


def jwks(house: House) -> list[dict[str, str]]:
    answer = house.client.get("/.well-known/jwks.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.json is not None
    assert answer.json.keys() == {"keys"}
    return list(answer.json["keys"])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_deployment_with_a_shared_secret_publishes_no_key(
    environ: dict[str, str], algorithm: str
) -> None:
    with issuing(environ, JWT_ALGORITHM=algorithm) as house:
        assert jwks(house) == []
        keys_of(house).add(None, 0)
        assert jwks(house) == []


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_minted_token_is_verified_by_the_key_that_is_published(
    environ: dict[str, str], algorithm: str
) -> None:
    with issuing(environ, JWT_ALGORITHM=algorithm) as house:
        token = house.token("agi")
        (published,) = jwks(house)
        key = jwt.PyJWK(published)
        assert jwt.get_unverified_header(token) == {
            "alg": algorithm,
            "kid": key.key_id,
            "typ": "JWT",
        }
        claims = jwt.decode(token, key, [algorithm], audience="portero-gateway")
        assert claims["sub"] == USERS["agi"]
        assert house.is_valid(token)
        assert house.gateway.keys.keys() == {key.key_id}


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_only_public_members_are_published(environ: dict[str, str], algorithm: str) -> None:
    with issuing(environ, JWT_ALGORITHM=algorithm) as house:
        (published,) = jwks(house)
        text = house.client.get("/.well-known/jwks.json").text
        stored = keys_of(house).read().entries[0].secret
    members = {"RSA": {"n", "e"}, "EC": {"crv", "x", "y"}, "OKP": {"crv", "x"}}
    assert published.keys() == {"kty", "kid", "alg", "use"} | members[published["kty"]]
    assert stored not in text


def test_every_public_key_in_force_is_published_from_the_moment_it_waits(
    environ: dict[str, str],
) -> None:
    with issuing(environ, JWT_ALGORITHM="EdDSA") as house:
        file = keys_of(house)
        old, new = file.read().entries[0].kid, file.add("ES256", 0).kid
        file_of_secret = [key["kid"] for key in jwks(house)]
        assert file_of_secret == [old, new]
        file.promote(new, 0)
        assert [key["kid"] for key in jwks(house)] == [old, new]
        file.retire(old, True, 0)
        assert [key["kid"] for key in jwks(house)] == [new]


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
def test_keys_that_another_process_turns_are_followed_at_the_next_login(
    environ: dict[str, str], algorithm: str
) -> None:
    with issuing(environ, JWT_ALGORITHM=algorithm) as house:
        file, before = keys_of(house), house.token("agi")
        new = file.add(None, 0).kid
        assert jwt.get_unverified_header(house.token("agi"))["kid"] != new
        file.promote(new, 0)
        after = house.token("agi")
        assert jwt.get_unverified_header(after)["kid"] == new
        assert house.is_valid(before)
        assert house.is_valid(after)
        file.expire(3600)
        assert not house.is_valid(before)
        assert house.is_valid(after)


def test_a_key_that_is_retired_at_once_takes_its_tokens_with_it(house: House) -> None:
    leaked = house.token("agi")
    file = keys_of(house)
    file.retire(file.read().entries[0].kid, True, 0)
    assert not house.is_valid(leaked)
    assert house.client.post("/logout", headers=bearer(leaked)).status_code == 401
    assert house.is_valid(house.token("agi"))


def test_the_gateways_have_the_keys_before_the_first_login(house: House) -> None:
    assert house.gateway.keys.keys() == {entry.kid for entry in keys_of(house).read().entries}
    assert house.gateway.numbers == {}


def test_a_changed_secret_key_reaches_the_gateways_at_the_start(house: House) -> None:
    before = house.token("agi")
    changed = "another-secret-key-of-the-tests-0123456789-abcdefghijklm"
    app = create_app(house.environ | {"SECRET_KEY": changed})
    again = House(app, app.test_client(use_cookies=False), house.gateway, house.environ)
    after = again.token("agi")
    assert house.gateway.keys.keys() == {jwt.get_unverified_header(after)["kid"]}
    assert not again.is_valid(before)
    assert again.is_valid(after)


def test_of_a_broken_key_file_the_former_keys_stay_in_force(house: House) -> None:
    path = config.read(house.environ).key_file
    token, whole = house.token("agi"), path.read_text()
    path.write_text(whole[:-10])
    assert house.is_valid(token)
    assert house.is_valid(house.token("agi"))
    path.write_text(whole)
    assert house.is_valid(token)


# Roles that change while the issuer runs.


@pytest.fixture
def roles_file(environ: dict[str, str], tmp_path: Path) -> Path:
    """A policy file of the test's own, which `house` reads."""
    path = write_policy(tmp_path / "policy.yaml", lambda _: None)
    environ["POLICY_FILE"] = str(path)
    return path


def change_roles(path: Path, house: House, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the file, and have the issuer look at it as often as it takes."""
    table = json.loads(path.read_text())
    change(table["roles"])
    path.write_text(json.dumps(table))
    take(house)


def take(house: House) -> None:
    for _ in range(2):
        house.app.extensions["portero"].policy.look()


def test_a_role_whose_lifetime_changes_has_it_at_the_next_login(
    roles_file: Path, house: House
) -> None:
    longer = house.token("agent_fast")
    change_roles(roles_file, house, lambda roles: roles["agent_fast"].update(ttl_seconds=30))
    answer = house.log_in("agent_fast").json
    assert answer is not None
    assert answer["ttl_seconds"] == 30
    assert not house.is_valid(longer)  # it would live longer than the role allows


def test_the_bound_holds_for_roles_that_changed_too(
    roles_file: Path, environ: dict[str, str]
) -> None:
    with issuing(environ, TOKEN_TTL_SECONDS="45") as house:
        change_roles(roles_file, house, lambda roles: roles["agent_fast"].update(ttl_seconds=4000))
        answer = house.log_in("agent_fast").json
        assert answer is not None
        assert answer["ttl_seconds"] == 45


def test_a_user_whose_role_is_gone_has_no_valid_token_and_no_way_in(
    roles_file: Path, house: House
) -> None:
    token, other = house.token("agent_fast"), house.token("agi")
    change_roles(roles_file, house, lambda roles: roles.pop("agent_fast"))
    assert not house.is_valid(token)
    assert house.is_valid(other)
    assert house.log_in("agent_fast").status_code == 401
    assert house.client.post("/logout", headers=bearer(token)).status_code == 401


def test_a_role_of_another_code_takes_the_tokens_of_the_old_one(
    roles_file: Path, house: House
) -> None:
    token = house.token("agent_fast")
    change_roles(roles_file, house, lambda roles: roles["agent_fast"].update(code="AGNX"))
    assert not house.is_valid(token)


def test_a_faulty_roles_file_leaves_the_old_one_in_force_and_every_fault_is_told(
    roles_file: Path, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    token = house.token("agent_fast")
    wrong = {"ttl_seconds": 0, "login": "/nowhere"}
    change_roles(roles_file, house, lambda roles: roles["agent_fast"].update(wrong))
    assert house.is_valid(token)
    assert house.log_in("agent_fast").status_code == 200
    for field in ("ttl_seconds", "login"):
        assert f"policy.yaml line 1: roles.agent_fast.{field} must be" in caplog.text
    assert caplog.text.count("the former version stays in force") == 2


def test_one_request_sees_one_version_of_the_roles(
    roles_file: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role goes between the two questions that the account page asks of it."""
    token = house.token("user")
    real = Sessions.find

    def find_and_change(self: Sessions, jti: str) -> Session | None:
        change_roles(roles_file, house, lambda roles: roles.pop("user"))
        return real(self, jti)

    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "find", find_and_change)
        page = house.client.get("/account", headers=cookie(token) | BROWSER)
    assert page.status_code == 200
    assert page.text.count("<li>") >= 3  # what the role may use
    assert house.client.get("/", headers=cookie(token) | BROWSER).status_code == 302


def test_users_of_a_role_that_is_new_come_in_once_both_files_have_them(
    roles_file: Path, house: House
) -> None:
    users = Path(house.environ["CREDENTIALS_FILE"])
    secret = bcrypt.hashpw(b"night", bcrypt.gensalt(10)).decode()
    users.write_text(users.read_text() + f"NGHTowl={secret}\n")
    assert house.knock("/llm/login", "NGHTowl", "night").status_code == 401
    assert house.log_in("agi").status_code == 200
    change_roles(
        roles_file, house, lambda roles: roles.update(night=roles["agent_fast"] | {"code": "NGHT"})
    )
    assert house.knock("/llm/login", "NGHTowl", "night").status_code == 200


def test_a_key_verifies_for_tokens_of_roles_that_lived_longer_before(
    roles_file: Path, house: House
) -> None:
    """The roles get short lives, the key is turned, and the roles get their long lives again."""
    token = house.token("admin")
    parts = house.app.extensions["portero"]

    def at_most(seconds: int) -> Callable[[dict[str, Any]], object]:
        return lambda roles: [one.update(ttl_seconds=seconds) for one in roles.values()]

    before = roles_file.read_text()
    change_roles(roles_file, house, at_most(1))
    now = int(time.time())
    parts.keys.promote(parts.keys.add(None, now).kid, now)
    roles_file.write_text(before)
    take(house)
    assert parts.keys.expire(now + 3500) is False
    assert house.is_valid(token)
    assert parts.keys.expire(now + 3602) is True
