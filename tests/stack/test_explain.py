"""`explain` says what the gateway does: both are asked about every role, route and model of a
table, about other names and other methods of each route, and about what is no route.
"""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import bcrypt
import jwt
import pytest
import requests

from issuer import config
from issuer.policy.explanation import Explainer
from issuer.policy.own_routes import ACCOUNT, OWN_ROUTES
from tests.support.deployment import (
    TEST_COST,
    Caller,
    Deployment,
    Local,
    credentials_text,
    deployed,
)
from tests.support.policies import KINDS, Line, lines, write_policy
from tests.support.upstream import Upstream

#: Users of roles of one's own, and where they log in: pages and console are granted by class.
OWN_USERS = {"OPSXTEST01": "/admin/login", "READTEST01": "/login", "IDLETEST01": "/login"}
SECRET = "of-a-role-of-ones-own"
USERS = (
    *("AGNRTEST01", "AGNRTEST02", "AGNFTEST01", "AGIATEST01", "USRSTEST01", "MNTRTEST01"),
    *("ADMNTEST01", *OWN_USERS),
)
MODELS = ("tiny", "TINY:latest", "library/tiny", "other", "qwen2.5:7b", "qwen:cloud", "")
#: Paths that are no route, or not written in the one way, with any method.
NO_ROUTES = (
    *("/v1/nothing", "/tools", "/validate", "/sync/status", "/llm", "/llm/", "/admin/api"),
    *("/v1//models", "//v1/models", "/v1/./models", "/v1/../v1/models", "/v1/models/..%2Fa"),
    *("/v1/models/a%0A", "/v1/models/t%69ny", "/v1/models/a%00", "/v1/mod%65ls", "/v1/models%2F"),
    *("/llm/admin/", "/llm/metrics", "/llm/models", "/models/tiny", "/llm/v1/models/tiny"),
    *("/admin/api/sessions/", "/admin/api/users//sessions", "/v1/models/;a", "/V1/models"),
)
#: The issuer's answer to a caller whom the gateway has let pass.
#: What the issuer says of a request that was passed on to it, and is no good one.
OF_ISSUER = (
    "No such active session.",
    "No such API key.",
    "with name and days.",
    "This path is asked by other methods",
    "Nothing of that kind is done here.",
    "names no LLM server of that name",
)


#: Portero's own classes that a policy grants; the account is everybody's.
GRANTED = [name for name in OWN_ROUTES if name != ACCOUNT]


def change(content: dict[str, Any]) -> None:
    """Limits for roles and for users; and roles of one's own, with and without pages."""
    roles = content["roles"]
    roles["agent_reasoning"]["models"] = ["tiny", "qwen*"]
    roles["agent_fast"]["routes"] = ["models"]
    roles["agi"]["requests_per_minute"] = 1_000_000
    roles["admin"] |= {"models": ["other"], "routes": [*GRANTED, "management", "inference"]}
    roles["monitoring"]["models"] = []
    role = {"ttl_seconds": 900, "login": "/login"}
    roles["ops"] = {**role, "code": "OPSX", "login": "/admin/login", "routes": ["console", "page"]}
    roles["reader"] = {**role, "code": "READ", "routes": ["models", "page"], "models": ["tiny*"]}
    roles["idle"] = {**role, "code": "IDLE", "routes": []}
    content["users"] = {"AGNRTEST02": {"models": ["*"]}, "USRSTEST01": {"models": ["qwen:cloud"]}}


class Question(NamedTuple):
    """What is asked; `body` and its type are how the request names its model."""

    method: str
    path: str
    model: str
    body: str = ""
    content_type: str = "application/json"


def of_line(line: Line, model: str) -> Question:
    """A request of a route for a model."""
    path = line.path.replace("{model}", model or "tiny") if line.model == "path" else line.example
    if line.model == "query":
        return Question(line.method, f"{path}?{urlencode({'model': model})}", model)
    if line.model == "form":
        form = (
            f"--limit\r\nContent-Disposition: form-data; name=model\r\n\r\n{model}\r\n--limit--\r\n"
        )
        return Question(line.method, path, model, form, "multipart/form-data; boundary=limit")
    if line.method in ("GET", "HEAD") or line.model in ("none", "listed", "response"):
        return Question(line.method, path, model)
    return Question(line.method, path, model, json.dumps({"model": model}))


def other_names(asked: Question) -> Iterator[Question]:
    """The same by other names, and what is nearly the same."""
    path = asked.path
    for name in ("/llm" + path, path.removeprefix("/v1"), "/llm" + path.removeprefix("/v1")):
        yield asked._replace(path=name)
    for name in (path + "/", "/" + path, path + "/.", path.upper(), path.replace("a", "%61")):
        yield asked._replace(path=name)
    for method in ("GET", "POST", "DELETE", "HEAD"):
        if method != asked.method:
            yield Question(method, path, "tiny")


def questions() -> Iterator[Question]:
    """All that every user asks."""
    own = (
        Line("portero", kind, method, path, "none")
        for kind, listed in OWN_ROUTES.items()
        for method, path, _ in (line.split() for line in listed)
    )
    # With Portero's own page there is no page of an LLM server.
    # And a socket's handshake names no model by another method's body.
    left_out = ("page", "realtime")
    for line in (*own, *(one for one in lines(*KINDS) if one.kind not in left_out)):
        models = (
            MODELS if line.model in ("body", "body-or-name", "path", "form", "query") else ("tiny",)
        )
        for model in models:
            yield of_line(line, model)
        yield from other_names(of_line(line, "tiny"))
    for path in NO_ROUTES:
        yield Question("GET", path, "tiny")
        yield Question("POST", path, "tiny", '{"model": "tiny"}')


def listed_models() -> Iterator[dict[str, Any]]:
    """The LLM server has every model that is looked up: what it lacks is no decision of ours."""
    looked_up = (unquote(asked.path.partition("/models/")[2]) for asked in questions())
    for name in dict.fromkeys((*MODELS, *looked_up)):
        yield {"id": name, "object": "model", "created": 1, "owned_by": "x"}


@pytest.fixture(scope="module")
def judged(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Local, Explainer]]:
    """A gateway, and what the issuer knows of its policy."""
    folder = tmp_path_factory.mktemp("policy")
    path = write_policy(folder / "policy.yaml", change)
    users = folder / "users.env"
    hashed = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(TEST_COST)).decode()
    users.write_text(credentials_text() + "".join(f"{name}={hashed}\n" for name in OWN_USERS))
    users.chmod(0o600)
    local_upstream.forget()
    local_upstream.answers["/v1/models"] = {"object": "list", "data": list(listed_models())}
    settings = {"POLICY_FILE": str(path), "CREDENTIALS_FILE": str(users)}
    with deployed(local_upstream.url, **settings) as running:
        yield running, Explainer(config.read_policy({"POLICY_FILE": str(path)}))
    local_upstream.forget()


def token_of(running: Deployment, user: str) -> str:
    caller = Caller(running)
    if user not in OWN_USERS:
        return caller.token(user)
    return str(caller.login(user, SECRET, OWN_USERS[user]).cookies["auth_token"])


class Gateway:
    """Requests of one user over one connection, each path as it is written."""

    def __init__(self, running: Deployment, user: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(running.gateway).netloc, timeout=10)
        self._token = token_of(running, user)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def decides(self, asked: Question) -> tuple[int, str]:
        """Its decision: what is passed on is allowed, whatever becomes of it."""
        headers = {"Authorization": f"Bearer {self._token}"}
        if asked.body:
            headers["Content-Type"] = asked.content_type
        self._connection.request(asked.method, asked.path, asked.body or None, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status < 400 or any(words in text for words in OF_ISSUER):
            return 200, "allowed"
        return answer.status, answer.headers["x-portero-code"]


@pytest.mark.parametrize("user", USERS)
def test_explain_says_what_the_gateway_does(judged: tuple[Local, Explainer], user: str) -> None:
    running, explainer = judged
    differing, compared = [], set()
    with closing(Gateway(running, user)) as gateway:
        for asked in dict.fromkeys(questions()):
            told = explainer.explain(user, asked.method, asked.path, asked.model)
            status, code = gateway.decides(asked)
            # Allowed, if the response is the caller's own: nobody has one here.
            is_kept = told.rule.endswith("the response must be the caller's own")
            expected = (404, "not_found") if is_kept else (told.status, told.code)
            if expected != (status, code):
                differing.append(f"{asked}: {told} {status} {code}")
            compared.add((asked.method, asked.path, asked.model))
    assert differing == [], "\n".join(differing[:20])
    assert len(compared) > 500


def test_all_kinds_of_decisions_were_asked_for(judged: tuple[Local, Explainer]) -> None:
    _, explainer = judged
    codes = {
        explainer.explain(user, asked.method, asked.path, asked.model).code
        for user in USERS
        for asked in questions()
    }
    assert codes == {
        "allowed",
        "insufficient_permissions",
        "invalid_request",
        "model_not_found",
        "not_found",
    }


def test_the_command_prints_decision_rule_and_line(judged: tuple[Local, Explainer]) -> None:
    running, _ = judged
    said = running.command(
        "explain", "AGNRTEST01", "POST", "/v1/chat/completions", "--model", "other", check=False
    )
    assert said.returncode == 1
    first, rule, place = said.stdout.splitlines()
    assert first == "404 model_not_found"
    assert rule.startswith("rule ")
    assert "policy.yaml:" in place
    assert "roles.agent_reasoning.models" in place
    allowed = running.command("explain", "AGNRTEST01", "POST", "/chat/completions", "--model=tiny")
    assert allowed.stdout.splitlines()[0].startswith("200 ")


CONSOLE = (
    "GET /admin/",
    "GET /admin/api/sessions",
    "DELETE /admin/api/sessions/{jti}",
    "DELETE /admin/api/users/AGNRTEST01/sessions",
)


@pytest.mark.parametrize(("user", "status"), [("OPSXTEST01", 200), ("IDLETEST01", 403)])
def test_the_console_is_for_who_is_granted_it_whatever_the_role_is_called_p3(
    judged: tuple[Local, Explainer], user: str, status: int
) -> None:
    running, _ = judged
    caller, token = Caller(running), token_of(running, user)
    for line in CONSOLE:
        for listener in (running.gateway, running.issuer):
            agent = caller.token("AGNRTEST01")
            claims = jwt.decode(agent, options={"verify_signature": False})
            method, path = line.format(jti=claims["jti"]).split()
            sent = {"Authorization": f"Bearer {token}"}
            answer = requests.request(method, listener + path, headers=sent, timeout=10)
            assert answer.status_code == status, (line, listener)
            is_revoked = method == "DELETE" and status == 200
            assert caller.validate(agent) == (401 if is_revoked else 200)
        said = running.command("explain", user, method, path, check=False)
        assert said.stdout.startswith(f"{status} "), said.stderr
