"""The doors, through the gateway: who gets in where, for how long, and what is handed out."""

import time

import pytest

from tests.support.deployment import BASIC_DOORS, TTL_SECONDS, USERS, Caller, basic
from tests.support.forge import parts

DOORS = ("/llm/login", "/agi/login", "/login", "/admin/login")
WRONG_DOORS = [(user, door) for user, (_, own) in USERS.items() for door in DOORS if door != own]


@pytest.mark.parametrize("user", USERS)
def test_every_role_logs_in_at_its_door_for_exactly_its_ttl(caller: Caller, user: str) -> None:
    _, claims = parts(caller.token(user))
    assert claims["exp"] - claims["iat"] == TTL_SECONDS[user[:4]]
    assert claims["sub"] == user


@pytest.mark.parametrize(("user", "door"), WRONG_DOORS)
def test_a_right_secret_at_a_wrong_door_is_403(caller: Caller, user: str, door: str) -> None:
    assert caller.login(user, door=door).status_code == 403


@pytest.mark.parametrize("user", [*USERS, "AGNRNOBODY", "USRSNOBODY", "XXXXNOBODY", ""])
def test_a_wrong_secret_is_401_and_says_no_more(caller: Caller, user: str) -> None:
    door = USERS.get(user, ("", "/llm/login"))[1]
    answer = caller.login(user, secret="wrong", door=door)
    # Another one each time: who guesses at one name waits.
    expected = caller.login(f"AGNRNOBODY{user}", secret="wrong", door=door)
    assert answer.status_code == 401
    assert answer.content == expected.content
    assert answer.headers["WWW-Authenticate"] == expected.headers["WWW-Authenticate"]


@pytest.mark.parametrize("door", ["/llm/login", "/auth/llm/login"])
def test_a_basic_login_answers_the_token_and_its_absolute_end(caller: Caller, door: str) -> None:
    before = int(time.time())
    answer = caller.login("AGNRTEST01", door=door)
    body = answer.json()
    assert body.keys() >= {"token", "token_type", "expires_in", "expires_at", "ttl_seconds", "role"}
    assert (body["token_type"], body["role"]) == ("Bearer", "agent_reasoning")
    assert body["ttl_seconds"] == 120
    assert body["expires_in"] == body["expires_at"]
    assert before + 120 <= body["expires_in"] <= int(time.time()) + 120
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("door", ["/login", "/auth/login"])
def test_a_form_login_sets_a_guarded_cookie_and_goes_home(caller: Caller, door: str) -> None:
    answer = caller.login("USRSTEST01", door=door)
    flags = answer.headers["Set-Cookie"]
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/"
    for flag in ("auth_token=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=900"):
        assert flag in flags
    assert "Domain" not in flags


def test_a_form_login_for_a_program_answers_json_and_the_cookie(caller: Caller) -> None:
    answer = caller.call(
        path="/login",
        headers={"Accept": "application/json"},
        body=None,
        method="POST",
    )
    assert answer.status_code == 401


def test_the_basic_doors_challenge_for_basic_and_no_other_path_does(caller: Caller) -> None:
    for door in BASIC_DOORS:
        challenge = caller.call(path=door).headers["WWW-Authenticate"]
        assert challenge.startswith("Basic ")
    assert caller.call().headers["WWW-Authenticate"] == 'Bearer realm="portero"'


@pytest.mark.parametrize("form", ["Basic {}", "basic {}", "BASIC  {}", "bAsIc    {} \t"])
def test_basic_is_read_in_every_form_that_rfc_9110_allows_h4(caller: Caller, form: str) -> None:
    value = form.format(basic("AGNRTEST01", "agent-secret-1").removeprefix("Basic "))
    assert caller.call(path="/llm/login", headers={"Authorization": value}).status_code == 200


def test_a_login_page_is_shown_and_asks_for_a_name_and_a_password(caller: Caller) -> None:
    answer = caller.call(path="/login", method="GET")
    assert answer.status_code == 200
    assert 'name="username"' in answer.text
    assert 'name="password"' in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_login_form_from_another_site_is_refused(caller: Caller) -> None:
    answer = caller.call(
        path="/login", headers={"Origin": "https://evil.example"}, body=None, method="POST"
    )
    assert answer.status_code == 403


def test_logout_ends_the_token_before_it_answers(caller: Caller) -> None:
    token = caller.token("AGNRTEST01")
    assert caller.call(token).status_code == 200
    answer = caller.call(token, "/logout")
    assert answer.status_code == 204
    assert "auth_token=;" in answer.headers["Set-Cookie"]
    assert caller.call(token).status_code == 401
    assert caller.validate(token) == 401


def test_logout_sends_a_browser_to_the_login_page(caller: Caller) -> None:
    token = caller.token("USRSTEST01")
    cookie = {"Cookie": f"auth_token={token}", "Accept": "text/html"}
    answer = caller.call(path="/logout", headers=cookie)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login")
    assert caller.call(token).status_code == 401


def test_a_signed_in_person_sees_their_page_and_others_the_login(caller: Caller) -> None:
    html = {"Accept": "text/html"}
    away = caller.call(path="/", method="GET", headers=html)
    assert (away.status_code, away.headers["Location"]) == (302, "/login?next=/")
    cookie = {"Cookie": f"auth_token={caller.token('USRSTEST01')}", **html}
    home = caller.call(path="/", method="GET", headers=cookie)
    assert home.status_code == 200
    assert "USRSTEST01" in home.text


def test_an_admin_lists_and_revokes_sessions_and_nobody_else_may(caller: Caller) -> None:
    admin, agent = caller.token("ADMNTEST01"), caller.token("AGNRTEST02")
    jti = parts(agent)[1]["jti"]
    assert caller.call(agent, "/admin/api/sessions", "GET").status_code == 403
    listed = caller.call(admin, "/admin/api/sessions", "GET").json()["sessions"]
    assert jti in {session["jti"] for session in listed}
    gone = caller.call(admin, f"/admin/api/sessions/{jti}", "DELETE")
    assert (gone.status_code, gone.json()) == (200, {"pending": [], "revoked": [jti]})
    assert caller.call(agent).status_code == 401
    assert caller.call(admin, f"/admin/api/sessions/{'A' * 22}", "DELETE").status_code == 404
