"""The gateway that the client package's tests have in their own process answers as a real one does,
in all that the package goes by.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fake_portero import FakePortero

from tests.stack.clients.conftest import BRIEF_SECONDS
from tests.support.deployment import USERS, Local
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

MODEL = "tiny"


@pytest.fixture(params=["fake", "real"])
def url(request: pytest.FixtureRequest, said: Upstream) -> Iterator[str]:
    """The address of one and of the other; both know the same users."""
    if request.param == "real":
        running: Local = request.getfixturevalue("brief")
        yield running.gateway
        return
    with FakePortero(time.time) as fake:
        fake.secrets = {name: secret for name, (secret, _) in USERS.items()}
        fake.has_oauth = True
        fake.ttl_seconds, fake.skew_seconds = BRIEF_SECONDS, 0.0
        yield fake.url


def log_in(url: str, user: str = "AGIATEST01", path: str = "/agi/login") -> requests.Response:
    return requests.post(url + path, auth=(user, USERS[user][0]), timeout=10)


def ask(url: str, token: str, path: str = "/v1/chat/completions", **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    return requests.post(url + path, json=body, headers=headers, timeout=10, **options)


def told(answer: requests.Response) -> tuple[int, str | None, str | None]:
    """What the package goes by."""
    return answer.status_code, answer.headers.get("x-portero-code"), answer.json()["error"]["code"]


def test_a_basic_login_answers_with_a_token_and_its_life(url: str) -> None:
    before, answer, after = int(time.time()), log_in(url), time.time()
    body = answer.json()
    assert answer.status_code == 200
    assert (body["token_type"], body["role"], body["ttl_seconds"]) == (
        "Bearer",
        "agi",
        BRIEF_SECONDS,
    )
    assert body["expires_in"] == body["expires_at"]
    assert before <= body["expires_at"] - BRIEF_SECONDS <= after


def test_a_form_login_answers_with_a_cookie_and_its_life(url: str) -> None:
    form = {"username": "USRSTEST01", "password": USERS["USRSTEST01"][0]}
    headers = {"Accept": "application/json"}
    answer = requests.post(f"{url}/login", data=form, headers=headers, timeout=10)
    cookie = next(iter(answer.cookies))
    assert (answer.status_code, answer.json(), cookie.name) == (
        200,
        {"redirect": "/"},
        "auth_token",
    )
    assert f"Max-Age={BRIEF_SECONDS}" in answer.headers["Set-Cookie"]


def test_oauth_answers_with_a_token_and_its_life_in_seconds(url: str) -> None:
    answer = oauth(url, "USRSTEST01", USERS["USRSTEST01"][0])
    body = answer.json()
    assert (answer.status_code, body["token_type"], body["expires_in"]) == (
        200,
        "Bearer",
        BRIEF_SECONDS,
    )
    assert "ttl_seconds" not in body
    assert ask(url, body["access_token"]).status_code == 200


def test_oauth_tells_a_wrong_secret(url: str) -> None:
    answer = oauth(url, "USRSTEST01", "wrong")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.json()["error_description"]
    assert answer.headers["x-portero-code"] == "invalid_api_key"


def oauth(url: str, user: str, secret: str) -> requests.Response:
    client = {"client_id": user, "client_secret": secret}
    form = {"grant_type": "client_credentials", **client}
    return requests.post(f"{url}/oauth/token", data=form, timeout=10)


def test_a_wrong_secret_and_a_wrong_endpoint_are_told_apart(url: str) -> None:
    wrong = requests.post(f"{url}/agi/login", auth=("AGIATEST01", "wrong"), timeout=10)
    assert told(wrong) == (401, "invalid_api_key", "invalid_api_key")
    assert wrong.headers["WWW-Authenticate"].startswith("Basic")
    elsewhere = log_in(url, path="/llm/login")
    assert told(elsewhere) == (403, "insufficient_permissions", "insufficient_permissions")


def test_a_token_is_good_until_it_expires_and_that_is_told(url: str) -> None:
    token = log_in(url).json()["token"]
    assert ask(url, token).json()["choices"][0]["message"]["content"] == "pong"
    wait_for(lambda: ask(url, token).status_code == 401, 10, "the token expires")
    expired = ask(url, token)
    assert told(expired) == (401, "invalid_api_key", "invalid_api_key")
    assert expired.headers["x-should-retry"] == "true"


def test_a_revoked_token_is_refused_and_not_told_from_a_forged_one(url: str) -> None:
    token = log_in(url).json()["token"]
    assert ask(url, token, "/logout").status_code == 204
    for bad in (token, "forged"):
        answer = ask(url, bad)
        assert told(answer) == (401, "invalid_api_key", "invalid_api_key")
        assert "x-should-retry" not in answer.headers


def test_what_is_not_there_is_not_found(url: str) -> None:
    assert told(ask(url, log_in(url).json()["token"], "/nowhere")) == (
        404,
        "not_found",
        "not_found",
    )


def test_every_answer_has_a_request_id_and_a_date(url: str) -> None:
    answer = requests.get(f"{url}/readyz", timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert answer.headers["x-request-id"]
    assert answer.headers["Date"]
