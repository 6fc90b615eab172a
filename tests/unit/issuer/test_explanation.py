"""Who may do what, explained: the decisions of the gateway's own code, and the rules and places
they are told with.
"""

from typing import Any

import pytest

from issuer import policy
from issuer.policy import Sources, Terms
from issuer.policy.explanation import Explainer, Explanation

KIND = """\
dialect: ollama
model_names: ollama
routes:
  inference:
    - POST /v1/chat/completions model=body
    - POST /api/chat model=body
    - POST /v1/audio model=form
    - POST /load model=query
  models:
    - GET /v1/models model=listed
    - GET /v1/models/{model} model=path
    - GET /api/version model=none
    - HEAD /api/tags
    - POST /api/show model=body-or-name
  management:
    - POST /api/pull
    - HEAD /api/blobs/{digest}
  health:
    - HEAD / model=none
  page:
    - GET / model=none
    - GET /index.html model=none
"""
TEXT = """\
roles:
  agent:
    code: AGNF
    ttl_seconds: 60
    login: /llm/login
    routes: [inference, models, health]
  admin:
    code: ADMN
    ttl_seconds: 60
    login: /admin/login
    routes: [inference, models, management, page, console, metrics]
    models: [none-of-these]
  person:
    code: USRS
    ttl_seconds: 60
    login: /login
    routes: [page]
users:
  AGNFlimited: {models: ["llama3*", "phi:cloud"]}
  AGNFnone: {models: []}
  AGNFslow: {requests_per_minute: 1}
  ADMNroot: {models: ["*"]}
"""
AGENT, LIMITED, ADMIN = "AGNFany", "AGNFlimited", "ADMNroot"


def explainer(text: str = TEXT, terms: Terms | None = None) -> Explainer:
    return Explainer(policy.parse(Sources(text, {"mine": KIND}), terms or Terms()))


@pytest.fixture(scope="module")
def known() -> Explainer:
    return explainer()


@pytest.mark.parametrize(
    ("user", "method", "target", "model", "status", "code"),
    [
        (AGENT, "POST", "/v1/chat/completions", None, 200, "allowed"),
        (AGENT, "POST", "/v1/chat/completions?a=b?c", None, 200, "allowed"),
        (AGENT, "POST", "/llm/v1/chat/completions", None, 200, "allowed"),
        (AGENT, "POST", "/llm/chat/completions", None, 200, "allowed"),
        (AGENT, "POST", "/chat/completions", None, 200, "allowed"),
        (AGENT, "POST", "/llm/api/chat", None, 200, "allowed"),
        (AGENT, "GET", "/models/a%2Fb:c", None, 200, "allowed"),
        (AGENT, "POST", "/api/pull", None, 403, "insufficient_permissions"),
        (AGENT, "GET", "/", None, 403, "insufficient_permissions"),
        (AGENT, "GET", "/admin/", None, 403, "insufficient_permissions"),
        (AGENT, "GET", "/metrics", None, 403, "insufficient_permissions"),
        ("USRSa", "GET", "/", None, 200, "allowed"),
        (ADMIN, "GET", "/metrics", None, 200, "allowed"),
        (ADMIN, "POST", "/api/pull", None, 200, "allowed"),
        (ADMIN, "HEAD", "/api/blobs/sha256:00fF", None, 200, "allowed"),
        (ADMIN, "HEAD", "/api/blobs/sha256:xyz", None, 404, "not_found"),
        (ADMIN, "DELETE", "/admin/api/sessions/abc", None, 200, "allowed"),
        (ADMIN, "DELETE", "/llm/admin/api/sessions/abc", None, 404, "not_found"),
        (ADMIN, "DELETE", "/admin/api/sessions/a/b", None, 404, "not_found"),
        ("ADMNother", "GET", "/admin/", None, 200, "allowed"),
        ("ADMNother", "POST", "/api/pull", None, 403, "insufficient_permissions"),
        (AGENT, "GET", "/v1/chat/completions", None, 404, "not_found"),
        (AGENT, "post", "/v1/chat/completions", None, 404, "not_found"),
        (AGENT, "", "/v1/chat/completions", None, 404, "not_found"),
        (AGENT, "GET", "/index.html", None, 404, "not_found"),
        (AGENT, "POST", "/api/chat/", None, 404, "not_found"),
        (AGENT, "GET", "//api/chat", None, 400, "invalid_request"),
        (AGENT, "GET", "/api/../chat", None, 400, "invalid_request"),
        (AGENT, "GET", "/api/ch%61t", None, 400, "invalid_request"),
        (AGENT, "GET", "", None, 400, "invalid_request"),
        (AGENT, "GET", "/v1/models/a%2F..%2F..%2Fb", None, 400, "invalid_request"),
        (AGENT, "GET", "/v1/models//models/Qwen%203", None, 200, "allowed"),
        (AGENT, "GET", "/v1/models/x\n", None, 400, "invalid_request"),
        (AGENT, "GET", "/v1/models/\udcff\u6a21", None, 200, "allowed"),
        (AGENT, "GET", "/nowhere", None, 404, "not_found"),
        ("ROOTa", "GET", "/nowhere", None, 404, "not_found"),
        ("ROOTa", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("AGNF", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("AGNFa b", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("AGNFslow", "POST", "/api/chat", "phi", 200, "allowed"),
        ("AGNFslow", "HEAD", "/api/tags", None, 200, "allowed"),
        ("AGNFnone", "POST", "/api/chat", "phi", 404, "model_not_found"),
        ("AGNFnone", "GET", "/v1/models", None, 200, "allowed"),
        (LIMITED, "POST", "/api/pull", "llama3", 403, "insufficient_permissions"),
        (LIMITED, "HEAD", "/api/tags", "llama3", 403, "insufficient_permissions"),
        (LIMITED, "HEAD", "/", None, 200, "allowed"),
        (LIMITED, "GET", "/v1/models", None, 200, "allowed"),
        (LIMITED, "GET", "/api/version", None, 200, "allowed"),
        (LIMITED, "POST", "/api/chat", None, 400, "invalid_request"),
        (LIMITED, "POST", "/api/chat", "", 400, "invalid_request"),
        (LIMITED, "POST", "/api/chat", "llama3:8b", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "Llama3:latest", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "library/llama3", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "phi", 404, "model_not_found"),
        (LIMITED, "POST", "/api/chat", "phi:cloud", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "llama3:cloud", 404, "model_not_found"),
        (LIMITED, "POST", "/api/show", "llama3", 200, "allowed"),
        (LIMITED, "POST", "/v1/audio", "llama3", 200, "allowed"),
        (LIMITED, "POST", "/load?model=phi", "phi", 404, "model_not_found"),
        (LIMITED, "GET", "/v1/models/llama3", "phi", 200, "allowed"),
        (LIMITED, "GET", "/v1/models/phi%3Acloud", None, 200, "allowed"),
        (LIMITED, "GET", "/v1/models/mistral", "llama3", 404, "model_not_found"),
    ],
)
def test_a_request_is_decided_as_the_pages_say(
    known: Explainer,
    user: str,
    method: str,
    target: str,
    model: str | None,
    status: int,
    code: str,
) -> None:
    told = known.explain(user, method, target, model)
    assert (told.status, told.code) == (status, code)
    assert told.is_allowed is (status == 200)
    assert told.rule.isprintable()


def test_the_page_is_the_llm_servers_where_web_ui_says_so() -> None:
    upstream = explainer(terms=Terms(web_ui="upstream"))
    assert upstream.explain("USRSa", "GET", "/index.html").is_allowed
    assert upstream.explain("USRSa", "GET", "/llm/").is_allowed
    assert explainer().explain("USRSa", "GET", "/llm/").code == "not_found"


def test_a_name_of_a_model_is_its_characters_where_no_server_is_ollama() -> None:
    exact = Explainer(
        policy.parse(
            Sources(TEXT, {"mine": KIND.replace("names: ollama", "names: exact")}), Terms()
        )
    )
    assert exact.explain(LIMITED, "POST", "/api/chat", "llama3:cloud").is_allowed
    assert exact.explain(LIMITED, "POST", "/api/chat", "LLAMA3").code == "model_not_found"


def test_one_explainer_answers_many_questions_and_remembers_none(known: Explainer) -> None:
    def asked(model: str) -> Explanation:
        return known.explain(LIMITED, "POST", "/api/chat", model)

    assert [asked(name).is_allowed for name in ("phi", "llama3", "phi")] == [False, True, False]


def line_of(told: Explanation) -> str:
    text = TEXT if told.place.file == "policy.yaml" else KIND
    return text.splitlines()[told.place.line - 1].strip()


@pytest.mark.parametrize(
    ("question", "line", "rule"),
    [
        (
            (AGENT, "POST", "/api/pull"),
            "routes: [inference, models, health]",
            "agent may use inference, models, health; POST /api/pull is of class management",
        ),
        (
            (AGENT, "POST", "/chat/completions"),
            "routes: [inference, models, health]",
            "agent may use inference, of which POST /v1/chat/completions is",
        ),
        (
            (LIMITED, "POST", "/api/chat", "phi"),
            'AGNFlimited: {models: ["llama3*", "phi:cloud"]}',
            "AGNFlimited may use the models llama3*, phi:cloud; 'phi' is none of them",
        ),
        (
            (LIMITED, "POST", "/api/chat", "Llama3:8b"),
            'AGNFlimited: {models: ["llama3*", "phi:cloud"]}',
            "agent may use inference, of which POST /api/chat is, and AGNFlimited the models "
            "llama3*, phi:cloud, of which 'Llama3:8b' is",
        ),
        (
            ("ADMNother", "POST", "/api/chat", "phi"),
            "models: [none-of-these]",
            "ADMNother may use the models none-of-these; 'phi' is none of them",
        ),
        (
            ("AGNFnone", "POST", "/api/chat", "phi"),
            "AGNFnone: {models: []}",
            "AGNFnone may use the models nothing; 'phi' is none of them",
        ),
        (
            (LIMITED, "GET", "/v1/models"),
            "routes: [inference, models, health]",
            "agent may use models, of which GET /v1/models is; its answer names no model but those "
            "the caller may use",
        ),
        (
            (LIMITED, "HEAD", "/"),
            "routes: [inference, models, health]",
            "agent may use health, of which HEAD / is; it names no model",
        ),
        (
            ("ROOTa", "POST", "/api/chat"),
            "roles:",
            "a name like this, or of no role's code, has no valid token",
        ),
        (
            (LIMITED, "HEAD", "/api/tags"),
            "- HEAD /api/tags",
            "AGNFlimited is limited to some models, and HEAD /api/tags does not say where its "
            "model is",
        ),
        (
            (LIMITED, "POST", "/api/chat"),
            "- POST /api/chat model=body",
            "AGNFlimited is limited to some models, and the request names none",
        ),
    ],
)
def test_a_rule_is_told_with_the_line_it_rests_on(
    known: Explainer, question: tuple[Any, ...], line: str, rule: str
) -> None:
    told = known.explain(*question)
    assert told.rule == rule
    assert line_of(told) == line


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/nowhere", "no kind in force lists this method and path"),
        ("GET", "/api/chat", "the path is there for other methods alone"),
        ("POST", "/api/chat/", "the path is there without the slash at its end"),
        ("GET", "//", "the path is not written in the one way"),
    ],
)
def test_where_no_line_is_to_blame_the_kinds_are_named(
    known: Explainer, method: str, path: str, rule: str
) -> None:
    told = known.explain(AGENT, method, path)
    assert rule in told.rule
    assert told.place == ("servers", 0, "")


def test_what_is_asked_is_shown_harmlessly(known: Explainer) -> None:
    assert "\x1b" not in known.explain(LIMITED, "POST", "/api/chat", "\x1b[2J").rule
    assert "\x1b" not in known.explain("AGNF\x1b[2J", "POST", "/api/chat").rule
    assert "\x1b" not in known.explain(AGENT, "\x1b", "/\x1b").rule


def test_n13_a_route_that_needs_more_than_its_class_names_what_the_role_does_not_have() -> None:
    kind = KIND.replace("- POST /api/pull\n", "- POST /api/pull needs=fetch\n")
    table = policy.parse(Sources(TEXT, {"mine": kind}), Terms())
    found = Explainer(table).explain(ADMIN, "POST", "/api/pull")
    assert (found.status, found.code) == (403, "insufficient_permissions")
    assert found.rule == "POST /api/pull needs server_side.fetch, which admin does not have"
    assert found.place.path == "roles.admin.server_side"


# LLM servers of the policy.

SERVERS = f"""{TEXT}servers:
  - {{name: box, url: "http://box", kind: mine, models: ["llama3*"]}}
  - {{name: rack, url: "http://rack", kind: mine, weight: 2, models: ["llama3*", big]}}
aliases:
  fast: [gone, llama3.2]
"""
CHAT = "/v1/chat/completions"
UP = {"name": "box", "state": "up", "models": ["llama3.2:latest"], "in_flight": 2}
BUSY = {"name": "rack", "state": "up", "models": ["llama3.2:latest", "big:latest"], "in_flight": 6}


def told_by(*known: dict[str, Any]) -> Explainer:
    """With what a gateway knows of the servers."""
    return Explainer(policy.parse(Sources(SERVERS, {"mine": KIND}), Terms()), known)


def test_without_a_gateway_the_servers_are_those_of_the_policy_and_that_is_said() -> None:
    told = explainer(SERVERS).explain(AGENT, "POST", CHAT, "llama3.2")
    assert told.is_allowed
    assert told.servers == "box or rack; no gateway was asked which are up and have the model"
    assert explainer(SERVERS).explain(AGENT, "POST", CHAT, "big").servers.startswith("rack; no")


def test_an_alias_is_told_with_the_model_that_it_stands_for() -> None:
    told = explainer(SERVERS).explain(LIMITED, "POST", CHAT, "fast")
    assert told.model == "'llama3.2', for which 'fast' stands"
    assert "of which 'llama3.2' is" in told.rule
    assert explainer(SERVERS).explain(LIMITED, "POST", CHAT, "llama3.2").model == ""


@pytest.mark.parametrize(
    ("known", "servers"),
    [
        ((UP, BUSY), "box (up, 2 requests now); else rack (up, 6 requests now)"),
        (
            (UP, {**BUSY, "in_flight": 1}),
            "rack (up, 1 request now); else box (up, 2 requests now)",
        ),
        (
            ({**UP, "state": "down"}, BUSY),
            "rack (up, 6 requests now); else box (down, 2 requests now)",
        ),
        (
            ({**UP, "state": "misconfigured"}, BUSY),
            "rack (up, 6 requests now); else box (misconfigured, 2 requests now)",
        ),
        ((UP,), "box (up, 2 requests now)"),
        (({**UP, "models": ["other"]}, BUSY), "rack (up, 6 requests now)"),
    ],
)
def test_with_a_gateway_the_first_server_is_the_one_that_it_would_ask_now(
    known: tuple[dict[str, Any], ...], servers: str
) -> None:
    assert told_by(*known).explain(AGENT, "POST", CHAT, "llama3.2").servers == servers


def test_a_model_that_no_server_has_is_refused_and_told_so() -> None:
    told = told_by(UP, BUSY).explain(LIMITED, "POST", CHAT, "llama3.3")
    assert (told.status, told.code, told.servers) == (404, "model_not_found", "")
    assert "is none that a server has" in told.rule


def test_a_model_that_a_server_may_have_that_was_not_asked_yet_is_503() -> None:
    told = told_by(UP).explain(AGENT, "POST", CHAT, "big")
    assert (told.status, told.code) == (503, "not_ready")
    assert told.place.path == "servers"


def test_a_model_that_one_may_have_which_refuses_the_gateway_is_502() -> None:
    told = told_by(UP, {"name": "rack", "state": "misconfigured", "models": []})
    assert told.explain(AGENT, "POST", CHAT, "big").status == 502


def test_without_a_model_the_servers_are_told_that_it_chooses_among() -> None:
    told = told_by(UP, BUSY).explain(AGENT, "POST", CHAT)
    assert told.servers == "box or rack, by the model that is asked for (--model)"
    assert told_by(UP, BUSY).explain(AGENT, "GET", "/v1/models").servers == (
        "made of what box and rack list"
    )


@pytest.mark.parametrize(
    ("user", "path", "status", "words"),
    [
        (ADMIN, "/api/pull", 404, "below /servers/NAME/ alone"),
        (ADMIN, "/servers/box/api/pull", 200, "admin may use management"),
        (ADMIN, "/servers/none/api/pull", 404, "no kind in force lists"),
        (AGENT, "/servers/box/api/pull", 403, "may not use management"),
        (AGENT, "/servers/none/api/pull", 403, "may not use management"),
    ],
)
def test_management_is_explained_by_a_servers_name(
    user: str, path: str, status: int, words: str
) -> None:
    told = told_by(UP, BUSY).explain(user, "POST", path, "llama3")
    assert told.status == status
    assert words in told.rule
    assert told.servers == ("box (up, 2 requests now)" if status == 200 else "")


def test_names_of_models_that_no_terminal_shall_see_are_told_in_escapes() -> None:
    known = {**UP, "models": ["\x1b[2J", "llama3.2:latest", "\udcff"]}
    assert told_by(known).explain(AGENT, "POST", CHAT, "llama3.2").servers.startswith("box (up")
