"""`python -m issuer explain` says what the gateway does: both are asked about every user, route and
model of a table, and about what is no route.
"""

import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import requests

from issuer import config
from issuer.policy.explanation import Explainer
from tests.support.deployment import Caller, Deployment, credentials_text, deployed
from tests.support.policies import KINDS, Line, lines, write_policy
from tests.support.upstream import Upstream

USERS = ("AGNRTEST01", "AGNRTEST02", "AGNFTEST01", "USRSTEST01", "MNTRTEST01", "ADMNTEST01")
MODELS = ("tiny", "TINY:latest", "other", "qwen2.5:7b", "qwen:cloud", "")
NO_ROUTES = (
    "POST /v1/nothing",
    "GET /v1/chat/completions",
    "GET /v1//models",
    "GET /v1/models/a%0A",
    "GET /v1/models/t%69ny",
    "GET /v1/models/..%2Fa",
    "GET /v1/models/a%00",
    "POST /tools",
    "GET /validate",
    "POST /llm/v1/chat/completions",
    "POST /chat/completions",
    "POST /llm/api/chat",
    "GET /llm/models",
    "GET /models/tiny",
    "GET /admin/",
    "GET /metrics",
)


def change(content: dict[str, Any]) -> None:
    content["roles"]["agent_reasoning"]["models"] = ["tiny", "qwen*"]
    content["roles"]["agent_fast"]["routes"] = ["models"]
    content["roles"]["admin"]["models"] = ["other"]
    content["roles"]["monitoring"]["models"] = []
    content["users"] = {"AGNRTEST02": {"models": ["*"]}, "USRSTEST01": {"models": ["qwen:cloud"]}}


@pytest.fixture(scope="module")
def judged(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Explainer]]:
    """A gateway, and what the issuer knows of its policy."""
    roles = write_policy(tmp_path_factory.mktemp("roles") / "policy.yaml", change)
    local_upstream.forget()
    names = (name for name in MODELS if name)
    listed = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in names]
    local_upstream.answers["/v1/models"] = {"object": "list", "data": listed}
    with deployed(local_upstream.url, POLICY_FILE=str(roles)) as running:
        yield running, Explainer(config.read_policy({"POLICY_FILE": str(roles)}))
    local_upstream.forget()


def request_of(line: Line, model: str) -> tuple[str, dict[str, Any]]:
    """The path of a request for a model, and how `requests` sends its body."""
    if line.model == "path" and model:
        return line.path.replace("{model}", model), {}
    if line.model == "query":
        return f"{line.example}?model={model}", {}
    if line.model == "form":
        return line.example, {"files": {"file": ("a.wav", b"x")}, "data": {"model": model}}
    if line.method in ("GET", "HEAD") or line.model in ("none", "listed"):
        return line.example, {}
    return line.example, {"json": {"model": model}}


def gateways(where: Deployment, token: str, method: str, path: str, **body: Any) -> tuple[int, str]:
    """The gateway's decision: what is passed on is allowed, whatever becomes of it."""
    answer = requests.request(
        method,
        where.gateway + path,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
        allow_redirects=False,
        **body,
    )
    if answer.status_code < 400:
        return 200, "allowed"
    if not answer.text:
        return answer.status_code, ""
    error = json.loads(answer.text)["error"]
    return answer.status_code, error["code"] if isinstance(error, dict) else ""


@pytest.mark.parametrize("user", USERS)
def test_explain_says_what_the_gateway_does(
    judged: tuple[Deployment, Explainer], user: str
) -> None:
    running, explainer = judged
    token = Caller(running).token(user)
    differing, compared = [], 0
    for line in (one for one in lines(*KINDS) if one.kind != "page"):
        for model in MODELS:
            path, body = request_of(line, model)
            decision = explainer.explain(user, line.method, path, model or None)
            status, code = gateways(running, token, line.method, path, **body)
            compared += 1
            if (decision.status, code or decision.code) != (status, decision.code):
                differing.append(f"{line.method} {path} {model}: {decision} {status} {code}")
    for text in NO_ROUTES:
        method, path = text.split()
        body = {"json": {"model": "tiny"}} if method == "POST" else {}
        decision = explainer.explain(user, method, path, "tiny")
        status, code = gateways(running, token, method, path, **body)
        compared += 1
        if (decision.status, code or decision.code) != (status, decision.code):
            differing.append(f"{text}: {decision} {status} {code}")
    assert differing == [], "\n".join(differing[:20])
    assert compared > 600


def test_the_command_prints_decision_rule_and_line(
    judged: tuple[Deployment, Explainer],
) -> None:
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


def with_ops(content: dict[str, Any]) -> None:
    """A role of one's own has the console, and the one named admin has it no longer."""
    roles = content["roles"]
    roles["ops"] = {**roles["admin"], "code": "OPSX", "routes": ["console", "page"]}
    roles["admin"]["routes"].remove("console")


@pytest.fixture(scope="module")
def with_operators(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("operators")
    users = folder / "users.env"
    users.write_text(credentials_text() + "OPSXTEST01=of-the-operators\n")
    roles = write_policy(folder / "policy.yaml", with_ops)
    settings = {"POLICY_FILE": str(roles), "CREDENTIALS_FILE": str(users)}
    with deployed(local_upstream.url, **settings) as running:
        yield running


@pytest.mark.parametrize(("user", "status"), [("OPSXTEST01", 200), ("ADMNTEST01", 403)])
def test_the_console_is_for_who_is_granted_it_whatever_the_role_is_called_p3(
    with_operators: Deployment, user: str, status: int
) -> None:
    caller = Caller(with_operators)
    secret = "of-the-operators" if user == "OPSXTEST01" else None
    token = caller.login(user, secret, "/admin/login").cookies["auth_token"]
    page = caller.call(token, "/", "GET").text
    assert ('href="/admin/"' in page, "/admin/login" in page) == (status == 200, True)
    for line in CONSOLE:
        for listener in (with_operators.gateway, with_operators.issuer):
            agent = caller.token("AGNRTEST01")
            claims = jwt.decode(agent, options={"verify_signature": False})
            method, path = line.format(jti=claims["jti"]).split()
            sent = {"Authorization": f"Bearer {token}"}
            answer = requests.request(method, listener + path, headers=sent, timeout=10)
            assert answer.status_code == status, (line, listener)
            is_revoked = method == "DELETE" and status == 200
            assert caller.validate(agent) == (401 if is_revoked else 200)
        said = with_operators.command("explain", user, method, path, check=False)
        assert said.stdout.startswith(f"{status} "), said.stderr
