"""Who may use what: every role at every route of every pack, over HTTP, and what arrives at the LLM
server (docs/http-api.md, threats B14, H10).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from issuer.policy.own_routes import OWN_ROUTES
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import KINDS, Line, lines, shipped, write_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

USERS = {
    "agent_reasoning": "AGNRTEST01",
    "agent_fast": "AGNFTEST01",
    "agi": "AGIATEST01",
    "user": "USRSTEST01",
    "monitoring": "MNTRTEST01",
    "admin": "ADMNTEST01",
}
BODY = {"model": "tiny"}
#: Method and path of what every kind has.
PORTEROS = {tuple(text.split()[:2]) for texts in OWN_ROUTES.values() for text in texts}


def ask(caller: Caller, token: str, line: Line) -> requests.Response:
    """A request that the route would serve."""
    body: dict[str, Any] | None = None if line.method in ("GET", "HEAD") else BODY
    return caller.call(token, line.example, method=line.method, body=body)


def arrives_as(line: Line) -> str:
    """What the LLM server is asked; a model's own entry is looked up in the list."""
    is_entry = line.model == "path" and line.path.startswith("/v1/models/")
    return "GET /v1/models" if is_entry else f"{line.method} {line.example}"


#: The status, and what arrived at the LLM server.
Judged = tuple[int, list[str]]


def unexpected(caller: Caller, upstream: Upstream, served: list[Line]) -> list[str]:
    """Every pair of role and route that is not judged as roles.json says."""
    found = []
    roles = shipped()["roles"]
    granted = {one for role in roles.values() for one in role["routes"]}
    for role, user in USERS.items():
        token = caller.token(user)
        for line in served:
            upstream.seen.clear()
            status = ask(caller, token, line).status_code
            arrived = [seen.line.rpartition(" ")[0] for seen in upstream.seen]
            # What makes a server fetch is for roles that may (`server_side`); none as shipped.
            may = line.kind in roles[role]["routes"] and line.model != "needs=fetch"
            # A response that is nobody's is not there (test_server_side.py has those that are).
            allowed: Judged = (404, []) if line.model == "response" else (200, [arrives_as(line)])
            # What no role may use is not there either.
            refused: Judged = (403, []) if line.kind in granted else (404, [])
            if (status, arrived) != (allowed if may else refused):
                found.append(f"{role} {line}: {status} {arrived}")
    return found


def test_exactly_the_allowed_pairs_of_role_and_route_arrive(
    caller: Caller, upstream: Upstream
) -> None:
    served = {line[2:4]: line for line in lines(*KINDS) if line.kind != "page"}
    assert len(served) > 80
    assert unexpected(caller, upstream, list(served.values())) == []


def test_the_llm_servers_own_page_is_there_where_it_is_shown_and_only_there(
    local_upstream: Upstream, local_deployment: Local
) -> None:
    pages = [line for line in lines(*KINDS) if line.kind == "page"]
    caller = Caller(local_deployment)
    token = caller.token("USRSTEST01")
    local_upstream.forget()
    for line in pages:
        if line.path != "/":
            assert ask(caller, token, line).status_code == 404, line
    assert local_upstream.seen == []
    with deployed(local_upstream.url, WEB_UI="upstream") as running:
        assert unexpected(Caller(running), local_upstream, pages) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_llm_server_has_its_own_routes_and_no_others(
    local_upstream: Upstream, kind: str
) -> None:
    local_upstream.forget()
    own = {line[2:4]: line for line in lines(kind) if line.kind != "page"}
    known = {*own, *PORTEROS}
    others = [line for line in lines(*KINDS) if line.kind != "page" and line[2:4] not in known]
    with deployed(local_upstream.url, LLM_KIND=kind) as running:
        caller = Caller(running)
        assert unexpected(caller, local_upstream, list(own.values())) == []
        token = caller.token("ADMNTEST01")
        wrong = [
            line for line in others if not is_not_there(caller, token, local_upstream, line, own)
        ]
        assert wrong == []


def is_not_there(
    caller: Caller, token: str, upstream: Upstream, line: Line, own: Mapping[Any, Line]
) -> bool:
    """Another server's route is no route, but for one that is a short name of an own one."""
    upstream.seen.clear()
    status = ask(caller, token, line).status_code
    arrived = [tuple(seen.line.split()[:2]) for seen in upstream.seen]
    return (status == 404 or arrived != []) and all(one in own for one in arrived)


# llama-server, vLLM, Ollama and LocalAI would all answer these.
@pytest.mark.parametrize(
    "line",
    [
        "POST /invocations",
        "POST /tools",
        "GET /tools",
        "GET /cors-proxy",
        "POST /collective_rpc",
        "POST /update_weights",
        "POST /pooling",
        "POST /classify",
        "POST /score",
        "POST /inference/v1/generate",
        "GET /docs",
        "GET /openapi.json",
        "POST /start_profile",
        "POST /api/experimental/web_fetch",
        "POST /api/settings",
        "GET /v1/realtime",
        "GET /server_info",
    ],
)
def test_a_dangerous_twin_is_reached_by_nobody(
    caller: Caller, upstream: Upstream, line: str
) -> None:
    method, path = line.split()
    body = None if method == "GET" else BODY
    answer = caller.call(caller.token("ADMNTEST01"), path, method=method, body=body)
    assert answer.status_code == 404
    assert upstream.seen == []


@pytest.mark.parametrize("path", ["/api/pull", "/slots", "/props", "/pause", "/models/load"])
def test_an_operators_route_is_reached_by_admin_alone(
    caller: Caller, upstream: Upstream, path: str
) -> None:
    method = "GET" if path in ("/slots",) else "POST"
    body = None if method == "GET" else BODY
    for role, user in USERS.items():
        answer = caller.call(caller.token(user), path, method=method, body=body)
        assert answer.status_code == (200 if role == "admin" else 403)
    assert len(upstream.seen) == 1


def test_the_shipped_roles_limit_nobody(caller: Caller, upstream: Upstream) -> None:
    body = {"model": "any/model:at-all"}
    answer = caller.call(caller.token("AGNRTEST01"), body=body)
    assert answer.status_code == 200
    assert json.loads(upstream.seen[-1].body) == body
    assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


@contextmanager
def with_own_policy(upstream: Upstream, policy: Path) -> Iterator[tuple[Local, Caller, str]]:
    """A deployment with a policy file of the test's own, a caller, and a token."""
    upstream.forget()
    write_policy(policy, lambda content: None)
    with deployed(upstream.url, POLICY_FILE=str(policy)) as running:
        caller = Caller(running)
        yield running, caller, caller.token("AGNRTEST01")


def test_a_changed_policy_counts_at_the_gateway_and_a_faulty_one_does_not(
    local_upstream: Upstream, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    with with_own_policy(local_upstream, policy) as (running, caller, token):
        assert caller.call(token).status_code == 200
        write_policy(
            policy, lambda content: content["roles"]["agent_reasoning"].update(routes=["models"])
        )
        wait_for(lambda: caller.call(token).status_code == 403, 5, "the new policy")
        policy.write_text("{")
        wait_for(lambda: "policy.yaml line" in running.output("issuer"), 5, "a fault")
        assert caller.call(token).status_code == 403
        assert caller.call(token, "/v1/models", method="GET").status_code == 200


def test_a_kind_of_llm_server_is_one_file_that_is_dropped_in(
    local_upstream: Upstream, tmp_path: Path
) -> None:
    with with_own_policy(local_upstream, tmp_path / "policy.yaml") as (_, caller, token):
        assert caller.call(token, "/v9/think").status_code == 404
        (tmp_path / "servers").mkdir()
        (tmp_path / "servers" / "own.yaml").write_text(
            "dialect: openai\nmodel_names: exact\nroutes:\n"
            "  inference: [POST /v9/think model=body]\n"
        )
        wait_for(lambda: caller.call(token, "/v9/think").status_code == 200, 5, "it is found")
        assert local_upstream.seen[-1].line.startswith("POST /v9/think ")
