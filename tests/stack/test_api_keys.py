"""API keys through a whole deployment: made, used, narrowed, listed and ended, over HTTP alone."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from issuer.sync.gateways import Gateway
from tests.support.deployment import CHAT, Caller, Deployment, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

FORM = re.compile(r"sk-portero-[A-Za-z0-9_-]{16}-[A-Za-z0-9_-]{43}")
AGENT, PERSON, MONITOR, ADMIN = "AGIATEST01", "USRSTEST01", "MNTRTEST01", "ADMNTEST01"


def make(caller: Caller, token: str, **wanted: Any) -> requests.Response:
    """Ask for a key of one's own."""
    body = {"name": "a key", "days": 30, **wanted}
    return caller.call(token, "/account/keys", body=body)


def key_of(caller: Caller, user: str, **wanted: Any) -> dict[str, Any]:
    """A fresh key of a user."""
    answer = make(caller, caller.token(user), **wanted)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture(scope="module")
def local_caller(shared_local: Deployment) -> Caller:
    return Caller(shared_local)


@pytest.fixture(scope="module")
def local_token(local_caller: Caller) -> str:
    return local_caller.token(AGENT)


@pytest.fixture
def made(local_caller: Caller) -> Iterator[dict[str, Any]]:
    """A key of an agent, which ends with the test."""
    told = key_of(local_caller, AGENT)
    yield told
    local_caller.call(local_caller.token(AGENT), f"/account/keys/{told['id']}", method="DELETE")


def test_a_key_is_made_used_listed_and_revoked(caller: Caller, upstream: Upstream) -> None:
    token = caller.token(AGENT)
    made = make(caller, token).json()
    key = made["key"]
    assert FORM.fullmatch(key)
    assert key.startswith(f"sk-portero-{made['id']}-")
    assert made.keys() == {"id", "key", "name", "models", "created_at", "expires_at"}
    assert made["expires_at"] - made["created_at"] == 30 * 86_400
    assert caller.call(key).status_code == 200
    assert upstream.seen[-1].values("x-auth-user") == [AGENT]
    assert upstream.seen[-1].values("x-auth-token-id") == [made["id"]]
    assert upstream.seen[-1].values("authorization") == []
    assert caller.validate(key) == 200
    listed = caller.call(token, "/account/keys", method="GET").json()["keys"]
    (mine,) = [one for one in listed if one["id"] == made["id"]]
    told = {name: value for name, value in made.items() if name != "key"}
    assert mine == {**told, "last_used_at": None}
    gone = caller.call(token, f"/account/keys/{made['id']}", method="DELETE")
    assert (gone.status_code, gone.text) == (204, "")
    refused = caller.call(key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refused.json()["error"]["message"] == "Invalid or missing token."
    assert "x-should-retry" not in refused.headers
    assert caller.validate(key) == 401


def test_a_key_counts_wherever_a_bearer_token_does_and_is_no_cookie(
    local_caller: Caller, local_upstream: Upstream, made: dict[str, Any]
) -> None:
    key = made["key"]
    assert local_caller.call(headers={"x-api-key": key}).status_code == 200
    assert local_caller.call(headers={"Authorization": f"bearer  {key}"}).status_code == 200
    seen = len(local_upstream.seen)
    assert local_caller.call(headers={"Cookie": f"auth_token={key}"}).status_code == 401
    assert local_caller.call(path=f"/v1/models?api_key={key}", method="GET").status_code == 400
    other = local_caller.token(AGENT)
    assert local_caller.call(key, headers={"x-api-key": other}).status_code == 400
    url = f"{local_caller.deployment.issuer}/validate"
    by_cookie = requests.get(url, headers={"Cookie": f"auth_token={key}"}, timeout=10)
    assert by_cookie.status_code == 401
    assert len(local_upstream.seen) == seen


def test_a_key_makes_no_keys_does_not_log_out_and_is_nobody_at_the_console(
    local_caller: Caller, made: dict[str, Any]
) -> None:
    key = made["key"]
    refused = [
        local_caller.call(key, "/account/keys", method="GET"),
        make(local_caller, key),
        local_caller.call(key, f"/account/keys/{made['id']}", method="DELETE"),
        local_caller.call(key, "/logout"),
        local_caller.call(key, "/admin/api/sessions", method="GET"),
    ]
    assert [(one.status_code, one.json()["error"]["code"]) for one in refused] == [
        (403, "insufficient_permissions")
    ] * len(refused)
    assert local_caller.call(key).status_code == 200
    who = local_caller.call(key, "/account", method="GET").json()
    assert (who["subject"], who["role"], who["credential"]) == (AGENT, "agi", made["id"])
    assert who["expires_at"] == made["expires_at"]


def test_a_gateway_tells_when_keys_were_used(
    local_caller: Caller, local_upstream: Upstream, made: dict[str, Any]
) -> None:
    """And no key that was not: the reconciler asks for it once a minute."""
    other = key_of(local_caller, PERSON)
    before = int(time.time())
    assert local_caller.call(made["key"]).status_code == 200
    running = local_caller.deployment
    gateway = Gateway(running.internal, running.sync_key.encode())
    used = wait_for(lambda: gateway.uses().status["uses"].get(made["id"]), 10, "it is told")
    assert before <= used <= time.time()
    assert other["id"] not in gateway.uses().status["uses"]


def test_an_account_tells_who_asks(local_caller: Caller) -> None:
    token = local_caller.token(PERSON)
    who = local_caller.call(token, "/account", method="GET").json()
    assert who["expires_at"] > time.time()
    assert {name: who[name] for name in ("subject", "role", "routes", "models")} == {
        "subject": PERSON,
        "role": "user",
        "routes": ["inference", "models", "health", "page"],
        "models": ["*"],
    }
    assert local_caller.call(path="/account", method="GET").status_code == 401


def test_a_key_is_narrowed_to_its_models(local_caller: Caller, local_upstream: Upstream) -> None:
    told = key_of(local_caller, AGENT, models=["small*", "tiny"])
    key = told["key"]
    assert told["models"] == ["small*", "tiny"]
    assert local_caller.call(key, body={**CHAT, "model": "tiny"}).status_code == 200
    assert local_caller.call(key, body={**CHAT, "model": "small-1"}).status_code == 200
    refused = local_caller.call(key, body={**CHAT, "model": "large"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    listed = local_caller.call(key, "/v1/models", method="GET").json()["data"]
    every = local_caller.call(local_caller.token(AGENT), "/v1/models", method="GET").json()["data"]
    assert {one["id"] for one in listed} == {
        one["id"] for one in every if one["id"].startswith("small") or one["id"] == "tiny"
    }
    assert local_caller.call(key, "/account", method="GET").json()["models"] == ["small*", "tiny"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"days": 1},
        {"name": "", "days": 1},
        {"name": "x" * 101, "days": 1},
        {"name": "a\nb", "days": 1},
        {"name": 7, "days": 1},
        {"name": "x", "days": 0},
        {"name": "x", "days": 91},
        {"name": "x", "days": 1.5},
        {"name": "x", "days": True},
        {"name": "x", "days": "1"},
        {"name": "x", "days": 1, "models": []},
        {"name": "x", "days": 1, "models": "tiny"},
        {"name": "x", "days": 1, "models": ["a*b"]},
        {"name": "x", "days": 1, "models": [f"m{number}" for number in range(33)]},
        {"name": "x", "days": 1, "owner": ADMIN},
        ["x", 1],
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_what_no_key_may_be_is_400_and_says_what_would_be_good(
    local_caller: Caller, local_token: str, body: Any
) -> None:
    refused = local_caller.call(local_token, "/account/keys", body=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "invalid_request"), refused.text
    assert re.search("name|days|models", error["message"])


def test_nobody_ends_or_sees_a_key_of_another(local_caller: Caller, local_token: str) -> None:
    told = key_of(local_caller, PERSON)
    other = local_caller.call(local_token, f"/account/keys/{told['id']}", method="DELETE")
    unknown = local_caller.call(local_token, "/account/keys/AAAAAAAAAAAAAAAA", method="DELETE")
    assert other.status_code == unknown.status_code == 404
    assert other.json() == unknown.json()
    assert local_caller.call(told["key"]).status_code == 200
    mine = local_caller.call(local_token, "/account/keys", method="GET").json()["keys"]
    assert told["id"] not in {one["id"] for one in mine}


def test_a_page_of_another_site_makes_no_key(local_caller: Caller) -> None:
    cookie = {"Cookie": f"auth_token={local_caller.token(PERSON)}"}
    body = {"name": "x", "days": 1}
    there = {**cookie, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    refused = local_caller.call(path="/account/keys", body=body, headers=there)
    assert refused.status_code == 403
    here = {**cookie, "Origin": local_caller.deployment.gateway, "Sec-Fetch-Site": "same-origin"}
    assert local_caller.call(path="/account/keys", body=body, headers=here).status_code == 201


def test_an_admin_makes_lists_and_ends_keys_of_others_and_has_none(local_caller: Caller) -> None:
    admin = local_caller.token(ADMIN)
    refused = make(local_caller, admin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        403,
        "insufficient_permissions",
    )
    path, body = f"/admin/api/users/{MONITOR}/keys", {"name": "Prometheus", "days": 90}
    made = local_caller.call(admin, path, body=body)
    assert made.status_code == 201
    key = made.json()["key"]
    assert local_caller.call(key, "/metrics", method="GET").status_code == 200
    assert local_caller.call(key).status_code == 403
    (listed,) = local_caller.call(admin, path, method="GET").json()["keys"]
    assert (listed["user"], listed["made_by"], listed["name"]) == (MONITOR, ADMIN, "Prometheus")
    unknown = local_caller.call(admin, "/admin/api/users/MNTRNOBODY/keys", body=body)
    assert unknown.status_code == 404
    own = local_caller.call(admin, f"/admin/api/users/{ADMIN}/keys", body=body)
    assert own.status_code == 403
    ended = local_caller.call(admin, f"/admin/api/keys/{listed['id']}", method="DELETE")
    assert ended.json() == {"revoked": [listed["id"]], "pending": []}
    assert local_caller.call(key, "/metrics", method="GET").status_code == 401
    missing = local_caller.call(admin, "/admin/api/keys/AAAAAAAAAAAAAAAA", method="DELETE")
    assert missing.status_code == 404
    asked = local_caller.call(local_caller.token(PERSON), path, body=body)
    assert asked.status_code == 403


def test_the_command_line_makes_lists_and_revokes_keys(local_caller: Caller) -> None:
    command = local_caller.deployment.command
    words = ("--name", "n8n", "--days", "7", "--models", "tiny")
    key = command("api-keys", "create", "AGNRTEST02", *words).stdout.strip()
    assert FORM.fullmatch(key)
    assert local_caller.call(key, body={**CHAT, "model": "tiny"}).status_code == 200
    assert local_caller.call(key, body={**CHAT, "model": "large"}).status_code == 404
    (line,) = command("api-keys", "list", "--user", "AGNRTEST02").stdout.splitlines()
    assert line.startswith(key[11:27])
    assert line.endswith("never  n8n")
    listed = json.loads(command("api-keys", "list", "--json").stdout)["keys"]
    assert [one["models"] for one in listed if one["id"] == key[11:27]] == [["tiny"]]
    assert "sk-portero" not in json.dumps(listed)
    assert command("api-keys", "revoke", key[11:27]).returncode == 0
    assert local_caller.call(key, body={**CHAT, "model": "tiny"}).status_code == 401
    for wrong, said in (
        (("create", "AGNRNOBODY", "--name", "x", "--days", "1"), "is no user"),
        (("create", ADMIN, "--name", "x", "--days", "1"), "have no API keys"),
        (("create", AGENT, "--name", "x", "--days", "91"), "1 to 90"),
        (("revoke", "AAAAAAAAAAAAAAAA"), "is no API key"),
    ):
        refused = command("api-keys", *wrong, check=False)
        assert refused.returncode != 0
        assert said in refused.stderr


def test_one_key_too_many_is_429_that_no_client_tries_again(local_caller: Caller) -> None:
    token = local_caller.token("AGNFTEST01")
    made = [make(local_caller, token).status_code for _ in range(10)]
    assert made == [201] * 10
    refused = make(local_caller, token)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "Retry-After" not in refused.headers
    first = local_caller.call(token, "/account/keys", method="GET").json()["keys"][0]
    local_caller.call(token, f"/account/keys/{first['id']}", method="DELETE")
    assert make(local_caller, token).status_code == 201
    # Tokens are counted by themselves.
    assert local_caller.login("AGNFTEST01").status_code == 200


def test_a_running_stream_ends_with_its_key(local_caller: Caller, local_upstream: Upstream) -> None:
    told = key_of(local_caller, AGENT)
    local_upstream.events, local_upstream.gap = 1000, 0.05
    body = {**CHAT, "stream": True}
    with closing(local_caller.call(told["key"], body=body, stream=True)) as answer:
        assert answer.status_code == 200
        chunks = answer.iter_content(None)
        next(chunks)
        local_caller.call(local_caller.token(AGENT), f"/account/keys/{told['id']}", method="DELETE")
        rest = _until_it_breaks_off(chunks)
    assert b"The token was revoked." in rest


def _until_it_breaks_off(chunks: Iterator[bytes]) -> bytes:
    """What still comes; fails where the stream has an end, or goes on."""
    began, found = time.monotonic(), b""
    try:
        for chunk in chunks:
            found += chunk
            assert time.monotonic() - began < within(10)
    except requests.exceptions.ChunkedEncodingError:
        return found
    raise AssertionError("the stream has come to its end")


def test_a_key_follows_its_owner_and_the_policy(local_upstream: Upstream, tmp_path: Path) -> None:
    """Narrower, shorter, none at all: within the time of a policy, and no key is made anew."""
    path = write_policy(tmp_path / "policy.yaml", lambda _: None)
    with deployed(local_upstream.url, POLICY_FILE=str(path)) as running:
        caller = Caller(running)
        told, other = key_of(caller, AGENT, days=90), key_of(caller, PERSON)
        key = told["key"]

        def status(model: str = "tiny") -> tuple[int, int]:
            body = {**CHAT, "model": model}
            return caller.call(key, body=body).status_code, caller.validate(key)

        assert status() == (200, 200)
        _change(path, "agi", models=["small*"])
        wait_for(lambda: status() == (404, 200), what="the owner's models count for the key")
        assert status("small-1") == (200, 200)
        _change(path, "agi", routes=["models"])
        wait_for(lambda: status() == (403, 200), what="the owner's classes count for the key")
        _change(path, "agi", api_keys={"longest_days": 30})

        def end() -> int:
            return int(caller.call(key, "/account", method="GET").json()["expires_at"])

        wait_for(lambda: end() == told["created_at"] + 30 * 86_400, what="a shorter life")
        _change(path, "agi", api_keys=None)
        wait_for(lambda: status() == (401, 401), what="no keys at all")
        refused = make(caller, caller.token(AGENT))
        assert refused.status_code == 403
        assert caller.call(other["key"]).status_code == 200
        # Those that there were are over for good.
        listed = running.command("api-keys", "list", "--json").stdout
        wait_for(lambda: "revoking the API keys of" in running.output("reconciler"))
        _change(path, "agi")
        wait_for(lambda: make(caller, caller.token(AGENT)).status_code == 201)
        assert status() == (401, 401)
        assert told["id"] not in listed
        # What the secret is, is nothing to a key; the user is.
        running.command("users", "passwd", PERSON, "--generate")
        assert caller.call(other["key"]).status_code == 200
        running.command("users", "remove", PERSON)
        assert caller.call(other["key"]).status_code == 401
        assert caller.validate(other["key"]) == 401


def _change(path: Path, role: str, **fields: Any) -> None:
    write_policy(path, lambda content: content["roles"][role].update(fields))
