"""OAuth's endpoints through a whole deployment: by plain HTTP, and by libraries that people use."""

import base64
import os
from typing import Any

import jwt
import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

from tests.support.deployment import CHAT, USERS, Caller, Deployment, deployed
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

GRANT = {"grant_type": "client_credentials"}
AGENT, PERSON, MONITOR, ADMIN = "AGIATEST01", "USRSTEST01", "MNTRTEST01", "ADMNTEST01"


@pytest.fixture(scope="module")
def local_caller(shared_local: Deployment) -> Caller:
    return Caller(shared_local)


def post(caller: Caller, path: str, auth: Any = None, **form: str) -> requests.Response:
    """A form, as OAuth has it."""
    url = caller.deployment.gateway + path
    return requests.post(url, data=form, auth=auth, timeout=10, allow_redirects=False)


def who(user: str) -> tuple[str, str]:
    return user, USERS[user][0]


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def test_a_client_fetches_a_token_that_works(caller: Caller, upstream: Upstream) -> None:
    answer = post(caller, "/oauth/token", who(AGENT), **GRANT)
    assert answer.status_code == 200
    told = answer.json()
    assert (told.keys(), told["token_type"], told["expires_in"]) == (
        {"access_token", "token_type", "expires_in"},
        "Bearer",
        1800,
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert caller.call(told["access_token"]).status_code == 200
    assert claims_of(told["access_token"])["iss"] == "portero"
    gone = post(caller, "/oauth/revoke", who(AGENT), token=told["access_token"])
    assert gone.status_code == 200
    assert caller.call(told["access_token"]).status_code == 401
    assert caller.validate(told["access_token"]) == 401


@pytest.mark.parametrize("user", [AGENT, "AGNRTEST01", PERSON, MONITOR, ADMIN])
def test_every_role_fetches_tokens_by_basic_and_in_the_body(
    local_caller: Caller, user: str
) -> None:
    by_basic = post(local_caller, "/oauth/token", who(user), **GRANT)
    name, secret = who(user)
    in_body = post(local_caller, "/oauth/token", client_id=name, client_secret=secret, **GRANT)
    for answer in (by_basic, in_body):
        claims = claims_of(answer.json()["access_token"])
        assert claims["sub"] == user
        assert answer.json()["expires_in"] == claims["exp"] - claims["iat"]
        assert "scope" not in claims


def test_a_secret_is_taken_as_it_is_and_encoded_as_the_rfc_asks(local_caller: Caller) -> None:
    odd = "a+b %41&ü"
    env_text = local_caller.deployment.credentials.read_text()
    try:
        local_caller.deployment.credentials.write_text(f"{env_text}AGIAODD01={odd}\n")
        for secret in (odd, "a%2Bb+%2541%26%C3%BC"):
            given = base64.b64encode(f"AGIAODD01:{secret}".encode()).decode()
            url = f"{local_caller.deployment.gateway}/oauth/token"
            headers = {"Authorization": f"Basic {given}"}

            def is_granted(url: str = url, headers: dict[str, str] = headers) -> bool:
                return requests.post(url, data=GRANT, headers=headers, timeout=10).ok

            wait_for(is_granted, 10, "the user is known")
    finally:
        local_caller.deployment.credentials.write_text(env_text)


def test_a_scope_narrows_a_token_on_both_sides(
    local_caller: Caller, local_upstream: Upstream
) -> None:
    seen = len(local_upstream.seen)
    answer = post(local_caller, "/oauth/token", who(AGENT), scope="models health", **GRANT)
    assert answer.json()["scope"] == "models health"
    token = answer.json()["access_token"]
    assert claims_of(token)["scope"] == "models health"
    assert local_caller.validate(token) == 200
    assert local_caller.call(token, "/v1/models", method="GET").status_code == 200
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/account/keys", {"name": "x", "days": 1}),
    ):
        refused = local_caller.call(token, path, body=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (403, "insufficient_permissions")
    assert not [one for one in local_upstream.seen[seen:] if "chat" in one.target]
    console = post(local_caller, "/oauth/token", who(ADMIN), scope="console models", **GRANT)
    narrowed = console.json()["access_token"]
    assert local_caller.call(narrowed, "/admin/api/sessions", method="GET").status_code == 200
    path = f"/admin/api/users/{AGENT}/keys"
    made = local_caller.call(narrowed, path, body={"name": "x", "days": 1})
    assert made.status_code == 403
    direct = requests.post(
        local_caller.deployment.issuer + path,
        json={"name": "x", "days": 1},
        headers={"Authorization": f"Bearer {narrowed}"},
        timeout=10,
    )
    assert direct.status_code == 403


REFUSED: dict[str, tuple[Any, dict[str, Any], int, str]] = {
    "a wrong secret": ((AGENT, "wrong"), GRANT, 401, "invalid_client"),
    "an unknown user": (("AGIANOBODY", "x"), GRANT, 401, "invalid_client"),
    "nobody": (None, GRANT, 401, "invalid_client"),
    "no secret": (None, {"client_id": AGENT, **GRANT}, 401, "invalid_client"),
    "a wrong secret in the body": (
        None,
        {"client_id": AGENT, "client_secret": "wrong", **GRANT},
        401,
        "invalid_client",
    ),
    "a secret in two ways": (
        who(AGENT),
        {"client_id": AGENT, "client_secret": who(AGENT)[1], **GRANT},
        400,
        "invalid_request",
    ),
    "another client_id": (who(AGENT), {"client_id": PERSON, **GRANT}, 400, "invalid_request"),
    "no grant": (who(AGENT), {}, 400, "invalid_request"),
    "another grant": (who(AGENT), {"grant_type": "password"}, 400, "unsupported_grant_type"),
    "a grant twice": (
        who(AGENT),
        {"grant_type": ["client_credentials"] * 2},
        400,
        "invalid_request",
    ),
    "a class of another role": (who(AGENT), {"scope": "console", **GRANT}, 400, "invalid_scope"),
    "a scope of spaces": (who(AGENT), {"scope": " ", **GRANT}, 400, "invalid_scope"),
    "a class that is none": (
        who(AGENT),
        {"scope": "models everything", **GRANT},
        400,
        "invalid_scope",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_error_is_one_of_the_rfc_with_its_status_and_is_not_stored(
    local_caller: Caller, what: str
) -> None:
    auth, form, status, error = REFUSED[what]
    answer = post(local_caller, "/oauth/token", auth, **(form or {"x": "y"}))
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json().keys() == {"error", "error_description"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["x-portero-code"] == (
        "invalid_api_key" if status == 401 else "invalid_request"
    )
    assert answer.headers.get("WWW-Authenticate", "").startswith("Basic ") is (status == 401)


def test_parameters_count_in_a_form_alone(local_caller: Caller) -> None:
    url = f"{local_caller.deployment.gateway}/oauth/token"
    name, secret = who(AGENT)
    in_query = requests.post(
        f"{url}?client_id={name}&client_secret={secret}", data=GRANT, timeout=10
    )
    as_json = requests.post(url, json=GRANT, auth=who(AGENT), timeout=10)
    for answer in (in_query, as_json):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert requests.get(url, timeout=10).status_code == 405


def test_a_token_is_revoked_by_its_own_user_alone(local_caller: Caller) -> None:
    token = local_caller.token(AGENT)
    other = post(local_caller, "/oauth/revoke", who(PERSON), token=token)
    assert (other.status_code, other.json()["error"]) == (400, "unauthorized_client")
    nobody = post(local_caller, "/oauth/revoke", token=token)
    assert (nobody.status_code, nobody.json()["error"]) == (401, "invalid_client")
    assert local_caller.call(token).status_code == 200
    url = f"{local_caller.deployment.gateway}/oauth/revoke"
    bearer = {"Authorization": f"Bearer {token}"}
    own = requests.post(url, data={"token": token}, headers=bearer, timeout=10)
    assert own.status_code == 200
    assert local_caller.call(token).status_code == 401
    again = post(local_caller, "/oauth/revoke", who(AGENT), token=token)
    assert (again.status_code, again.json()) == (200, {}), "what is not valid is gone already"


def test_an_api_key_is_introspected_and_revoked_like_a_token(local_caller: Caller) -> None:
    body = {"name": "x", "days": 1}
    made = local_caller.call(local_caller.token(AGENT), "/account/keys", body=body).json()
    told = post(local_caller, "/oauth/introspect", who(MONITOR), token=made["key"]).json()
    assert (told["active"], told["jti"], told["exp"]) == (True, made["id"], made["expires_at"])
    assert (told["sub"], told["scope"]) == (AGENT, "inference models health")
    assert post(local_caller, "/oauth/revoke", who(AGENT), token=made["key"]).status_code == 200
    assert local_caller.call(made["key"]).status_code == 401
    gone = post(local_caller, "/oauth/introspect", who(MONITOR), token=made["key"])
    assert gone.json() == {"active": False}


def test_tokens_are_introspected_for_who_may_and_by_basic_and_bearer(
    local_caller: Caller,
) -> None:
    token = local_caller.token(AGENT)
    claims = claims_of(token)
    url = f"{local_caller.deployment.gateway}/oauth/introspect"
    for user in (MONITOR, ADMIN):
        by_basic = post(local_caller, "/oauth/introspect", who(user), token=token)
        bearer = {"Authorization": f"Bearer {local_caller.token(user)}"}
        by_bearer = requests.post(url, data={"token": token}, headers=bearer, timeout=10)
        for told in (by_basic.json(), by_bearer.json()):
            assert told["active"] is True
            assert {name: told[name] for name in claims} == claims
            assert (told["client_id"], told["token_type"]) == (AGENT, "Bearer")
    for bad in ("x", token[:-2] + "AA", "sk-portero-x"):
        answer = post(local_caller, "/oauth/introspect", who(MONITOR), token=bad)
        assert answer.json() == {"active": False}
    refused = post(local_caller, "/oauth/introspect", who(AGENT), token=token)
    assert (refused.status_code, refused.json()["error"]) == (403, "insufficient_scope")
    assert post(local_caller, "/oauth/introspect", token=token).status_code == 401
    missing = post(local_caller, "/oauth/introspect", who(MONITOR))
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")


def test_the_metadata_names_what_is_there_whatever_the_host_is_called(
    local_caller: Caller,
) -> None:
    base = local_caller.deployment.gateway
    url = f"{base}/.well-known/oauth-authorization-server"
    told = requests.get(url, headers={"Host": "evil.example"}, timeout=10).json()
    assert told["issuer"] == base
    assert told["grant_types_supported"] == ["client_credentials"]
    assert told["response_types_supported"] == []
    for name in ("token", "revocation", "introspection"):
        assert told[f"{name}_endpoint"].startswith(f"{base}/oauth/")
        assert requests.post(told[f"{name}_endpoint"], timeout=10).status_code in (400, 401)
    assert requests.get(told["jwks_uri"], timeout=10).json() == {"keys": []}


def test_public_url_is_the_issuer_and_the_public_keys_verify(local_upstream: Upstream) -> None:
    public = "https://llm.example"
    with deployed(
        local_upstream.url, PUBLIC_URL=public, JWT_ALGORITHM="ES256", COOKIE_SECURE="true"
    ) as running:
        caller = Caller(running)
        token = post(caller, "/oauth/token", who(AGENT), **GRANT).json()["access_token"]
        told = requests.get(
            f"{running.gateway}/.well-known/oauth-authorization-server", timeout=10
        ).json()
        assert told["issuer"] == public
        assert told["jwks_uri"] == f"{public}/.well-known/jwks.json"
        (key,) = requests.get(f"{running.gateway}/.well-known/jwks.json", timeout=10).json()["keys"]
        assert "d" not in key
        claims = jwt.decode(
            token,
            jwt.PyJWK(key).key,
            algorithms=["ES256"],
            issuer=public,
            audience="portero-gateway",
        )
        assert claims["sub"] == AGENT
        assert caller.call(token).status_code == 200
        assert caller.validate(token) == 200
        told = post(caller, "/oauth/introspect", who(MONITOR), token=token).json()
        assert told["iss"] == public


# The libraries that people use.


def test_authlibs_session_needs_nothing_but_the_endpoints(local_caller: Caller) -> None:
    base = local_caller.deployment.gateway
    for method in ("client_secret_basic", "client_secret_post"):
        name, secret = who(AGENT)
        session = AuthlibSession(
            name, secret, scope="inference models", token_endpoint_auth_method=method
        )
        token = session.fetch_token(f"{base}/oauth/token", grant_type="client_credentials")
        assert token["scope"] == "inference models"
        assert session.post(f"{base}/v1/chat/completions", json=CHAT).status_code == 200
        answer = session.revoke_token(f"{base}/oauth/revoke", token=token["access_token"])
        assert answer.status_code == 200
        assert local_caller.call(token["access_token"]).status_code == 401
        session.close()


def test_requests_oauthlibs_session_needs_nothing_but_the_endpoints(
    local_caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It insists on TLS, which a front or the gateway itself ends elsewhere."""
    monkeypatch.setitem(os.environ, "OAUTHLIB_INSECURE_TRANSPORT", "1")
    base = local_caller.deployment.gateway
    name, secret = who(AGENT)
    with OAuth2Session(client=BackendApplicationClient(client_id=name)) as session:
        session.fetch_token(f"{base}/oauth/token", client_id=name, client_secret=secret)
        assert session.post(f"{base}/v1/chat/completions", json=CHAT).status_code == 200
