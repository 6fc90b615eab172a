"""The shipped kinds of LLM servers, and Portero's own routes: that they agree, what each has, and
that nothing dangerous is in them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from issuer.policy.own_routes import OWN_ROUTES

ROOT = Path(__file__).resolve().parents[3]
DIRECTORY = ROOT / "policy" / "servers"
DOCS = (ROOT / "docs" / "routes.md").read_text()
LEFT_OUT = DOCS.partition("\n## Left out\n")[2].partition("\n## ")[0]

OWN = "portero"
LLM_KINDS = ["llama-server", "localai", "ollama", "vllm"]
LLM_CLASSES = {"inference", "models", "management", "health", "page"}
#: What only some kinds have.
MAY_HAVE = {"realtime"}
OWN_CLASSES = {"page", "health", "metrics", "console", "account"}
WORDS = {"body", "body-or-name", "path", "query", "form", "listed", "none", "response", "-"}
LINE = re.compile(
    r"(GET|HEAD|POST|PUT|DELETE) (/[A-Za-z0-9._/{}-]*)"
    r"(?: model=(body|body-or-name|path|query|form|listed|none|response))?(?: needs=fetch)?"
)
PARAMETER = re.compile(r"\{[A-Za-z0-9]+\}")

# A superset of what the gateway lets stand for a parameter.
SEGMENT, SEGMENTS = r"[A-Za-z0-9._:@%-]+", r"[A-Za-z0-9._:@%/-]+"

#: What the routes were before there were files of kinds; none may be lost.
BEFORE_THE_KINDS = {
    "inference": [
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/embeddings",
        "POST /v1/responses",
        "POST /v1/messages",
        "POST /v1/messages/count_tokens",
        "POST /v1/audio/transcriptions",
        "POST /v1/rerank",
        "POST /api/chat",
        "POST /api/generate",
        "POST /api/embed",
        "POST /api/embeddings",
        "POST /chat",
        "POST /completion",
        "POST /tokenize",
        "POST /detokenize",
    ],
    "models": [
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /api/tags",
        "GET /api/ps",
        "GET /api/version",
        "POST /api/show",
    ],
    "health": ["GET /health"],
    "metrics": ["GET /metrics"],
    "management": [
        "POST /api/pull",
        "POST /api/push",
        "POST /api/create",
        "POST /api/copy",
        "DELETE /api/delete",
    ],
    "page": ["GET /"],
    "console": [
        "GET /admin/",
        "GET /admin/api/sessions",
        "DELETE /admin/api/sessions/{jti}",
        "DELETE /admin/api/users/{name}/sessions",
    ],
}

#: What changes a server or shows more than one's own: for those who manage it, or for nobody.
OPERATIONAL = {
    "ollama": [
        "POST /api/pull",
        "POST /api/push",
        "POST /api/create",
        "POST /api/copy",
        "DELETE /api/delete",
        "POST /api/blobs/x",
        "HEAD /api/blobs/x",
        "POST /api/me",
        "POST /api/signout",
        "DELETE /api/user/keys/x",
    ],
    "vllm": [
        "POST /pause",
        "POST /resume",
        "POST /sleep",
        "POST /wake_up",
        "POST /reset_prefix_cache",
        "POST /reset_mm_cache",
        "POST /reset_encoder_cache",
        "POST /scale_elastic_ep",
        "POST /v1/load_lora_adapter",
        "POST /v1/unload_lora_adapter",
        "GET /tokenizer_info",
        "GET /load",
    ],
    "llama-server": [
        "GET /props",
        "POST /props",
        "GET /slots",
        "POST /slots/0",
        "GET /lora-adapters",
        "POST /lora-adapters",
        "POST /models",
        "DELETE /models",
        "POST /models/load",
        "POST /models/unload",
        "GET /models/sse",
    ],
    "localai": [
        "POST /models/apply",
        "POST /models/delete/x",
        "POST /models/reload",
        "GET /models/jobs",
        "POST /backend/load",
        "POST /backend/shutdown",
        "GET /backend/monitor",
        "GET /system",
    ],
}

#: What runs commands, reads or writes files, fetches URLs, changes weights, shows others' prompts,
#: or is the same inference past the server's own key. Under no method, for nobody.
WORST = {
    "ollama": ["/api/experimental/web_search", "/api/experimental/web_fetch"],
    "vllm": [
        "/collective_rpc",
        "/init_weight_transfer_engine",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/weight_checker",
        "/invocations",
        "/inference/v1/generate",
        "/generative_scoring",
        "/pooling",
        "/classify",
        "/score",
        "/rerank",
        "/abort_requests",
        "/server_info",
        "/start_profile",
        "/stop_profile",
        "/docs",
        "/redoc",
        "/openapi.json",
    ],
    "llama-server": [
        "/tools",
        "/cors-proxy",
        "/predict",
        "/slots/{id}",
        "/v1/stream/{conversation}",
        "/v1/streams",
        "/v1/chat/completions/control",
    ],
    "localai": [
        "/api/settings",
        "/api/branding",
        "/api/p2p",
        "/api/p2p/token",
        "/api/nodes",
        "/api/operations",
        "/api/models/install/{id}",
        "/api/models/config/{id}",
        "/models/edit/{name}",
        "/models/import-uri",
        "/backends/apply",
        "/api/backends/install-external",
        "/api/cors-proxy",
        "/v1/mcp/chat/completions",
        "/mcp/v1/chat/completions",
        "/api/agents/actions/{name}/run",
        "/api/agent/jobs/execute",
        "/api/traces",
        "/api/backend-logs",
        "/stores/get",
        "/generated-images/{file}",
        "/v1/engines/{model}/completions",
    ],
}


class Route(NamedTuple):
    kind: str
    of_class: str
    method: str
    path: str
    word: str

    def key(self) -> str:
        """Two lines with the same key are the same route, whatever their parameter is called."""
        return f"{self.method} {PARAMETER.sub('{}', self.path)}"

    def takes(self, path: str) -> bool:
        return pattern_of(self.path).fullmatch(path) is not None


def pattern_of(path: str) -> re.Pattern[str]:
    before, _, rest = path.partition("{")
    name, closed, behind = rest.partition("}")
    parameter = (SEGMENTS if name == "model" else SEGMENT) if closed else ""
    return re.compile(re.escape(before) + parameter + re.escape(behind))


def lines_of(kind: str) -> dict[str, list[str]]:
    if kind == OWN:
        return {name: list(lines) for name, lines in OWN_ROUTES.items()}
    routes: dict[str, list[str]] = yaml.safe_load((DIRECTORY / f"{kind}.yaml").read_text())[
        "routes"
    ]
    return routes


def read_route(kind: str, of_class: str, line: str) -> Route:
    found = LINE.fullmatch(line)
    assert found, line
    return Route(kind, of_class, found[1], found[2], found[3] or "-")


def routes_of(kind: str) -> list[Route]:
    classes = lines_of(kind).items()
    return [read_route(kind, of_class, line) for of_class, lines in classes for line in lines]


KINDS = [*sorted(path.stem for path in DIRECTORY.iterdir()), OWN]
ALL = [route for kind in KINDS for route in routes_of(kind)]
OF_LLM_SERVERS = [route for route in ALL if route.kind != OWN]


def names_of(path: str) -> set[str]:
    """The names a route of an LLM server has outside: docs/http-api.md."""
    lua = (ROOT / "openresty" / "lua" / "portero" / "dialect" / "openai.lua").read_text()
    bare = re.findall(r'\["(/v1/[^"]+)"\] = true', lua)
    assert len(bare) == 5
    names = {path, "/llm" + path}
    if path.startswith("/v1/"):
        names.add("/llm" + path.removeprefix("/v1"))
    if path in bare:
        names.add(path.removeprefix("/v1"))
    return names


def test_there_is_a_kind_for_each_server_that_we_know() -> None:
    assert [*LLM_KINDS, OWN] == KINDS


@pytest.mark.parametrize("kind", LLM_KINDS)
def test_a_kind_has_every_class_that_a_server_may_have_even_where_it_is_empty(kind: str) -> None:
    assert set(lines_of(kind)) - MAY_HAVE == LLM_CLASSES


def test_porteros_own_routes_are_of_its_own_classes_and_no_other() -> None:
    assert set(lines_of(OWN)) == OWN_CLASSES


@pytest.mark.parametrize("route", ALL, ids=lambda route: f"{route.kind}:{route.key()}")
def test_a_path_is_plain_and_has_one_parameter_at_most(route: Route) -> None:
    parameters = PARAMETER.findall(route.path)
    assert len(parameters) <= 1
    plain = PARAMETER.sub("x", route.path)
    assert re.fullmatch(r"/|(/[A-Za-z0-9._-]+)+/?", plain)
    assert not re.search(r"/\.\.?(/|$)", plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_lists_no_route_twice(kind: str) -> None:
    keys = [route.key() for route in routes_of(kind)]
    assert sorted(keys) == sorted(set(keys))


def test_a_route_of_several_kinds_has_one_class_and_one_word() -> None:
    shared = 0
    for route in ALL:
        same = [other for other in ALL if other.key() == route.key()]
        shared += len(same) > 1
        assert {(other.of_class, other.path, other.word) for other in same} == {
            (route.of_class, route.path, route.word)
        }
    assert shared > 20


def test_no_name_outside_could_mean_two_routes() -> None:
    exact: dict[tuple[str, str], str] = {}
    patterns: dict[tuple[str, str], str] = {}
    for route in OF_LLM_SERVERS:
        for name in names_of(route.path):
            kind = patterns if "{" in name else exact
            assert kind.setdefault((route.method, name), route.path) == route.path, name
    for (method, name), path in patterns.items():
        sample = PARAMETER.sub("x", name)
        others = [p for (m, n), p in patterns.items() if m == method and p != path and n != name]
        for other in others:
            assert not any(pattern_of(n).fullmatch(sample) for n in names_of(other)), (name, other)


def test_the_model_is_said_to_be_in_the_path_only_where_the_path_has_it() -> None:
    in_path = [route for route in ALL if route.word == "path"]
    assert {route.key() for route in in_path} == {"GET /v1/models/{}"}
    assert all("{model}" in route.path for route in in_path)


def test_every_server_has_a_models_own_entry_which_the_gateway_looks_up_in_its_list() -> None:
    with_entry = {route.kind for route in ALL if route.key() == "GET /v1/models/{}"}
    with_list = {route.kind for route in ALL if route.key() == "GET /v1/models"}
    assert sorted(with_entry) == sorted(with_list) == LLM_KINDS


def test_a_model_is_looked_for_in_bodies_only_where_there_is_one() -> None:
    for route in ALL:
        if route.word in {"body", "body-or-name", "form"}:
            assert route.method == "POST", route


def test_no_inference_is_said_to_name_no_model() -> None:
    inference = [route for route in ALL if route.of_class == "inference"]
    assert {route.word for route in inference} == {"body", "form", "response", "-"}
    assert {route.path for route in inference if route.word == "-"} == {
        "/v1/text-to-speech/{voice}",
        "/v1/sound-generation",
    }


def test_managing_is_not_for_callers_whose_models_are_limited() -> None:
    assert {route.word for route in ALL if route.of_class == "management"} == {"-"}


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/api/ps"])
def test_a_list_of_models_is_filtered(path: str) -> None:
    words = {route.word for route in ALL if route.path == path and route.method == "GET"}
    assert words == {"listed"}


def test_a_name_may_stand_for_the_model_where_every_server_reads_it_so() -> None:
    named = {route.key() for route in ALL if route.word == "body-or-name"}
    assert named == {"POST /api/show"}


@pytest.mark.parametrize(
    ("of_class", "line"),
    [(of_class, line) for of_class, lines in BEFORE_THE_KINDS.items() for line in lines],
)
def test_what_could_be_reached_before_the_kinds_still_can(of_class: str, line: str) -> None:
    method, path = line.split(" ")
    found = [route for route in ALL if (route.method, route.path) == (method, path)]
    assert {route.of_class for route in found} == {of_class}


def test_metrics_are_porteros_own_and_in_no_kind_of_a_server() -> None:
    assert [route.kind for route in ALL if route.takes("/metrics")] == [OWN]


def test_enough_dangers_are_named() -> None:
    assert sum(map(len, OPERATIONAL.values())) >= 40
    assert sum(map(len, WORST.values())) >= 40
    assert set(OPERATIONAL) == set(WORST) == set(LLM_KINDS)


@pytest.mark.parametrize(
    ("server", "line"),
    [(server, line) for server, lines in OPERATIONAL.items() for line in lines],
)
def test_what_changes_a_server_is_for_those_who_manage_it(server: str, line: str) -> None:
    method, path = line.split(" ")
    found = [route for route in ALL if route.method == method and route.takes(path)]
    assert {route.of_class for route in found} <= {"management"}


@pytest.mark.parametrize(
    ("server", "path"), [(server, path) for server, paths in WORST.items() for path in paths]
)
def test_the_worst_routes_are_in_no_kind(server: str, path: str) -> None:
    plain = PARAMETER.sub("x", path)
    assert [route for route in ALL if route.takes(plain)] == []


@pytest.mark.parametrize(
    ("server", "path"), [(server, path) for server, paths in WORST.items() for path in paths]
)
def test_the_docs_say_why_the_worst_routes_are_left_out(server: str, path: str) -> None:
    title = {"ollama": "Ollama", "vllm": "vLLM", "localai": "LocalAI"}.get(server, server)
    rows = [row for row in LEFT_OUT.splitlines() if f"`{path}`" in row]
    assert any(title in row.split("|")[1] and len(row.split("|")[3]) > 10 for row in rows)


def test_what_the_docs_say_is_left_out_is_in_no_kind() -> None:
    said = re.findall(
        r"`([A-Z]+ )?(/[^`]+)`", "".join(re.findall(r"(?m)^\|[^|]*\|([^|]*)", LEFT_OUT))
    )
    assert len(said) > 90
    for method, path in said:
        plain = PARAMETER.sub("x", path)
        same = [route for route in ALL if not method or route.method == method.strip()]
        assert [route for route in same if route.takes(plain)] == [], path


@pytest.mark.parametrize("kind", KINDS)
def test_the_docs_list_every_route_of_a_kind_and_no_other(kind: str) -> None:
    file = "own_routes.py" if kind == OWN else f"{kind}.yaml"
    section = DOCS.partition(f"(`{file}`)\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([A-Z]+) (/\S*)` \| (\w+) \| (\S+) \|$", section)
    listed = [Route(kind, of_class, method, path, word) for method, path, of_class, word in rows]
    assert listed == routes_of(kind)


def test_the_docs_explain_every_word() -> None:
    assert set(re.findall(r"(?m)^\| `([a-z-]+)` \|", DOCS.partition("\n## ")[0])) == WORDS
