"""Who may do what, explained: the decisions, the rules and places they rest on, faults of packs,
and that the gateway's own policy decides the same.
"""

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from issuer import config
from issuer.errors import Faults
from issuer.policy import decision, model_name, roles
from issuer.policy.decision import Decision, Policy
from run.commands import ROOT

PACKS = {
    "portero": {"page": ["GET / model=none"], "console": ["DELETE /admin/api/sessions/{jti}"]},
    "ollama": {
        "inference": ["POST /v1/chat/completions model=body", "POST /api/chat model=body"],
        "models": [
            "GET /v1/models model=listed",
            "GET /v1/models/{model} model=path",
            "GET /api/version model=none",
            "HEAD /api/tags",
        ],
        "management": ["POST /api/pull", "HEAD /api/blobs/{digest}"],
        "health": ["HEAD / model=none"],
        "page": ["GET / model=none", "GET /index.html model=none"],
    },
}
KINDS = decision.pack_names(None)
AGENT, LIMITED, ADMIN = "AGNFany", "AGNFlimited", "ADMNroot"
USERS = {LIMITED: {"models": ["llama3*", "phi:cloud"]}}


def texts(packs: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps({"routes": routes}, indent=1) for name, routes in packs.items()}


def roles_text(**users: Any) -> str:
    table = json.loads(config.ROLES_FILE.read_text())
    return json.dumps(table | {"users": users}, indent=2)


def made(page_by_llm: bool = False, is_ollama: bool = True) -> Policy:
    lines = decision.parse_packs(texts(PACKS))
    return Policy(roles.parse(roles_text(**USERS)), lines, page_by_llm, is_ollama)


@pytest.fixture(scope="module")
def known() -> Policy:
    return made()


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
        (ADMIN, "POST", "/api/pull", None, 200, "allowed"),
        (ADMIN, "HEAD", "/api/blobs/sha256:00fF", None, 200, "allowed"),
        (ADMIN, "HEAD", "/api/blobs/sha256:xyz", None, 404, "not_found"),
        (ADMIN, "DELETE", "/admin/api/sessions/abc", None, 200, "allowed"),
        (ADMIN, "DELETE", "/llm/admin/api/sessions/abc", None, 404, "not_found"),
        (ADMIN, "DELETE", "/admin/api/sessions/a/b", None, 404, "not_found"),
        (AGENT, "GET", "/v1/chat/completions", None, 404, "not_found"),
        (AGENT, "post", "/v1/chat/completions", None, 404, "not_found"),
        (AGENT, "GET", "/index.html", None, 404, "not_found"),
        (AGENT, "GET", "/api/chat/", None, 404, "not_found"),
        (AGENT, "GET", "//api/chat", None, 400, "invalid_request"),
        (AGENT, "GET", "/api/../chat", None, 400, "invalid_request"),
        (AGENT, "GET", "/api/ch%61t", None, 400, "invalid_request"),
        (AGENT, "GET", "", None, 400, "invalid_request"),
        (AGENT, "GET", "/v1/models/a%2F..%2F..%2Fb", None, 400, "invalid_request"),
        (AGENT, "GET", "/v1/models//models/Qwen%203", None, 200, "allowed"),
        (AGENT, "GET", "/v1/models/x\n", None, 400, "invalid_request"),
        (AGENT, "GET", "/nowhere", None, 404, "not_found"),
        ("ROOTa", "GET", "/nowhere", None, 404, "not_found"),
        ("ROOTa", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("AGNF", "GET", "/v1/models", None, 401, "invalid_api_key"),
        ("AGNFa b", "GET", "/v1/models", None, 401, "invalid_api_key"),
        (LIMITED, "POST", "/api/pull", "llama3", 403, "insufficient_permissions"),
        (LIMITED, "HEAD", "/api/tags", "llama3", 403, "insufficient_permissions"),
        (LIMITED, "HEAD", "/", None, 200, "allowed"),
        (LIMITED, "GET", "/v1/models", None, 200, "allowed"),
        (LIMITED, "GET", "/api/version", None, 200, "allowed"),
        (LIMITED, "POST", "/api/chat", None, 400, "invalid_request"),
        (LIMITED, "POST", "/api/chat", "", 400, "invalid_request"),
        (LIMITED, "POST", "/api/chat", "llama3:8b", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "Llama3:latest", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "phi", 404, "model_not_found"),
        (LIMITED, "POST", "/api/chat", "phi:cloud", 200, "allowed"),
        (LIMITED, "POST", "/api/chat", "llama3:cloud", 404, "model_not_found"),
        (LIMITED, "GET", "/v1/models/llama3", "phi", 200, "allowed"),
        (LIMITED, "GET", "/v1/models/phi%3Acloud", None, 200, "allowed"),
        (LIMITED, "GET", "/v1/models/mistral", "llama3", 404, "model_not_found"),
    ],
)
def test_a_request_is_decided_as_the_pages_say(
    known: Policy, user: str, method: str, target: str, model: str | None, status: int, code: str
) -> None:
    decision = known.decide(user, method, target, model)
    assert (decision.status, decision.code) == (status, code)
    assert decision.is_allowed is (status == 200)


def test_a_route_that_no_role_may_use_does_not_exist() -> None:
    table = json.loads(roles_text())
    table["roles"] = {"agent_fast": table["roles"]["agent_fast"]}
    lines = decision.parse_packs(texts(PACKS))
    alone = Policy(roles.parse(json.dumps(table)), lines, False, True)
    assert alone.decide(AGENT, "POST", "/api/pull").code == "not_found"
    assert alone.decide(AGENT, "POST", "/api/chat").is_allowed


def test_the_page_is_the_llm_servers_where_web_ui_says_so() -> None:
    assert made().decide("USRSa", "GET", "/index.html").code == "not_found"
    assert made(page_by_llm=True).decide("USRSa", "GET", "/index.html").is_allowed
    assert made(page_by_llm=True).decide("USRSa", "GET", "/llm/").is_allowed
    assert made().decide("USRSa", "GET", "/llm/").code == "not_found"


def place_of(decision: Decision, text: str) -> str:
    """The line of a text that a decision names."""
    return text.splitlines()[decision.place.line - 1].strip()


@pytest.mark.parametrize(
    ("user", "path", "model", "line", "rule"),
    [
        (AGENT, "/api/pull", None, '"routes":', "POST /api/pull is of class management"),
        (LIMITED, "/api/chat", "phi", '"models": [', "'phi' is none of them"),
        (LIMITED, "/api/chat", "llama3", '"models": [', "'llama3' by llama3*"),
        (AGENT, "/api/chat", None, '"routes":', "agent_fast may use inference"),
        ("ROOTa", "/api/chat", None, '"roles": {', "no valid token"),
    ],
)
def test_a_rule_is_told_with_the_line_of_the_roles_it_rests_on(
    known: Policy, user: str, path: str, model: str | None, line: str, rule: str
) -> None:
    decision = known.decide(user, "POST", path, model)
    assert decision.place.file == "roles.json"
    assert place_of(decision, roles_text(**USERS)).startswith(line)
    assert rule in decision.rule


def test_a_users_own_limit_is_told_with_the_users_own_line(known: Policy) -> None:
    decision = known.decide(LIMITED, "POST", "/api/chat", "phi")
    assert decision.place.path == f"users.{LIMITED}.models"
    assert decision.place.line > known.decide(AGENT, "POST", "/api/pull").place.line


@pytest.mark.parametrize(
    ("method", "path", "line"),
    [
        ("HEAD", "/api/tags", '"HEAD /api/tags"'),
        ("POST", "/api/chat", '"POST /api/chat model=body"'),
    ],
)
def test_a_refusal_for_the_routes_own_sake_is_told_with_the_line_of_the_pack(
    known: Policy, method: str, path: str, line: str
) -> None:
    decision = known.decide(LIMITED, method, path)
    assert decision.place.file == "routes/ollama.json"
    assert place_of(decision, texts(PACKS)["ollama"]).startswith(line)
    assert "is limited to some models" in decision.rule


def test_a_name_with_control_characters_is_shown_harmlessly(known: Policy) -> None:
    assert "\x1b" not in known.decide(LIMITED, "POST", "/api/chat", "\x1b[2J").rule
    assert "\x1b" not in known.decide("AGNF\x1b[2J", "POST", "/api/chat").rule


# Packs


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("get /x", "is not METHOD /path"),
        ("PATCH /x", "is not METHOD /path"),
        ("GET x", "is not METHOD /path"),
        ("GET  /x", "is not METHOD /path"),
        ("GET /x ", "is not METHOD /path"),
        ("GET /x\n", "is not METHOD /path"),
        ("GET //x", "is not METHOD /path"),
        ("GET /x/../y", "is not METHOD /path"),
        ("GET /{a}/{b}", "is not METHOD /path"),
        ("GET /{a-b}", "is not METHOD /path"),
        ("GET /x%20y", "is not METHOD /path"),
        ("GET /x model=", "is not METHOD /path"),
        ("GET /x model=head", "is not METHOD /path"),
        ("GET /x model=body more", "is not METHOD /path"),
        ("GET /x/{name} model=path", "is not METHOD /path"),
        (1, "is not METHOD /path"),
        (None, "is not METHOD /path"),
        ("POST /api/chat model=body", "is listed twice"),
        ("GET /v1/models/{name} model=path", "is not METHOD /path"),
        ("GET /v1/models/{name} model=none", "is listed twice"),
    ],
)
def test_a_faulty_line_of_a_pack_is_told_with_its_place(line: Any, word: str) -> None:
    packs = json.loads(json.dumps(PACKS))
    packs["ollama"]["models"].append(line)
    with pytest.raises(Faults) as found:
        decision.parse_packs(texts(packs))
    (fault,) = found.value.faults
    assert fault.startswith("routes/ollama.json line ")
    assert ": routes." in fault
    assert word in fault


@pytest.mark.parametrize("model", ["model=query", ""])
def test_a_route_that_two_packs_mean_differently_is_a_fault(model: str) -> None:
    packs = {**PACKS, "vllm": {"inference": [f"POST /api/chat {model}".strip()]}}
    with pytest.raises(Faults, match=r"means another thing in routes/ollama\.json line 5"):
        decision.parse_packs(texts(packs))


def test_a_route_of_two_classes_is_a_fault() -> None:
    packs = {**PACKS, "vllm": {"models": ["POST /api/chat model=body"]}}
    with pytest.raises(Faults, match="means another thing"):
        decision.parse_packs(texts(packs))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"routes": []}', '{"routes": {"x": []}}', '{"routes": {}, "a": 1}']
)
def test_a_pack_of_another_shape_is_a_fault(text: str) -> None:
    with pytest.raises(Faults) as found:
        decision.parse_packs({"ollama": text})
    assert all(fault.startswith("routes/ollama.json line 1: ") for fault in found.value.faults)


#: What a pack may say of its server beside its routes, and what it may not.
IDLE_SECONDS = {
    "1": True,
    "5": True,
    "86400": True,
    "null": True,
    " 5 ": True,
    "0": False,
    "86401": False,
    "1" * 400: False,
    "-5": False,
    "5.0": False,
    "5e0": False,
    "0.5": False,
    '"5"': False,
    "true": False,
    "[]": False,
    "{}": False,
    '5, "idle_seconds": 5': False,
    '5, "requests": 5': False,
}

#: Reads directories, and says of the packs in each what the gateway says at its start.
JUDGE = """
local config = require("portero.config")
local values = {
    LLM_UPSTREAM = "http://llm", ISSUER_URL = "http://issuer", SYNC_KEY = ("x"):rep(32),
}
for directory in io.lines() do
    print(config.read(function(name) return values[name] end, directory) and "good" or "faulty")
end
"""


def test_both_sides_judge_alike_what_a_pack_says_of_idle_connections_u1(tmp_path: Path) -> None:
    packs = {name: (config.ROUTES_DIRECTORY / f"{name}.json").read_text() for name in KINDS}
    mine = []
    for index, text in enumerate(IDLE_SECONDS):
        changed = packs | {"vllm": packs["vllm"].replace('": 5,', f'": {text},')}
        folder = tmp_path / str(index)
        (folder / "routes").mkdir(parents=True)
        (folder / "roles.json").write_text(config.ROLES_FILE.read_text())
        for name, pack in changed.items():
            (folder / "routes" / f"{name}.json").write_text(pack)
        try:
            decision.parse_packs(changed)
            mine.append("good")
        except Faults:
            mine.append("faulty")
    theirs = subprocess.run(
        ["luajit", "-e", JUDGE],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        input="".join(f"{tmp_path / str(index)}\n" for index in range(len(IDLE_SECONDS))),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert mine == theirs == ["good" if good else "faulty" for good in IDLE_SECONDS.values()]


def test_the_faults_of_all_packs_are_told_together() -> None:
    with pytest.raises(Faults) as found:
        decision.parse_packs({"portero": "{", "ollama": "[]", "vllm": '{"routes": {}}'})
    assert len(found.value.faults) == 2


# Names of models


@pytest.mark.parametrize(
    ("pattern", "name", "is_ollama", "allowed"),
    [
        ("llama3", "LLAMA3:latest", True, True),
        ("llama3", "registry.ollama.ai/library/llama3", True, True),
        ("Llama3:LATEST", "library/llama3", True, True),
        ("llama3", "llama3:8b", True, False),
        ("llama3", "LLAMA3", False, False),
        ("llama3", "llama3:latest", False, False),
        ("llama*", "llama@sha256:00", True, False),
        ("llama*", "llama:cloud", True, False),
        ("llama*", "llama:8b-cloud", True, False),
        ("llama*", "llama:local", True, False),
        ("llama*", "llama:cloudy", True, True),
        ("llama*", "llama:cloud", False, True),
        ("llama@sha256:00", "llama@sha256:00", True, True),
        ("library/*", "llama3", True, True),
        ("library/*", "me/llama3", True, False),
        ("registry.ollama.ai/*", "me/llama3", True, True),
        ("registry.ollama.ai/*", "host/me/llama3", True, False),
        ("hf.co/*", "hf.co/a/b:Q4", True, True),
        ("*", "a/b/c", True, True),
        ("x*", "", False, False),
    ],
)
def test_an_entry_allows_the_names_it_means(
    pattern: str, name: str, is_ollama: bool, allowed: bool
) -> None:
    found = model_name.allowed_by([pattern, "nobody-has-this"], name, is_ollama)
    assert found == (pattern if allowed else None)


def test_a_star_alone_allows_any_model_and_an_empty_list_none() -> None:
    assert model_name.allowed_by(["*"], "x:cloud", True) == "*"
    assert model_name.allowed_by([], "x", True) is None


# The gateway's own policy


class Requests:
    """Requests about the routes there are: as they stand, by their other names, and not quite."""

    USERS = (AGENT, LIMITED, ADMIN, "USRSa", "MNTRa", "AGIAnone", "ROOTa", "AGNF")
    VALUES = (
        "x",
        "a%2Fb",
        "a/b",
        "a%3Ab",
        "..",
        "a%2f..",
        "a%2F..%2Fb",
        "../models/x",
        "..%2F..%2Fv1%2Fmodels%2Fx",
        "../../models",
        "./x",
        "%41",
        "sha256:00ff",
        "a b",
        "/phi:cloud/",
        "ph%69%3acloud",
        "C:\\x (1).gguf",
        "%E6%A8%A1\u6a21",
        "%ff%C3",
        "a%00",
        "a%0A",
        "a\x7f",
        "a%",
        "%%2F3Ax",
        "a#b",
        "phi:cloud",
    )
    MODELS = ("", "llama3", "Llama3:8b", "phi", "phi:cloud", "library/llama3:latest", "a@sha256:0")

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lines = [
            line.split()[:2]
            for pack in decision.pack_names(None)
            for listed in json.loads((config.ROUTES_DIRECTORY / f"{pack}.json").read_text())[
                "routes"
            ].values()
            for line in listed
        ]

    def some(self, count: int) -> Iterator[tuple[str, str, str, str]]:
        for _ in range(count):
            method, path = self._random.choice(self._lines)
            if self._random.random() < 0.1:
                method = self._random.choice(["GET", "POST", "HEAD", "OPTIONS", "get", ""])
            yield self._pick(self.USERS), method, self._path(path), self._pick(self.MODELS)

    def _pick(self, words: tuple[str, ...]) -> str:
        return self._random.choice(words)

    def _path(self, path: str) -> str:
        before, brace, rest = path.partition("{")
        path = before + self._pick(self.VALUES) + rest.partition("}")[2] if brace else path
        if self._random.random() < 0.4:
            path = path.removeprefix("/v1")
        if self._random.random() < 0.4:
            path = "/llm" + path
        if self._random.random() < 0.3:
            at = self._random.randrange(len(path) + 1)
            path = (
                path[:at]
                + self._pick(("/", "?", ".", "%2F", "x", "é", "//", "\n", ";"))
                + path[at:]
            )
        return path


def gateways_decisions(
    asked: list[tuple[str, str, str, str]], roles_file: Path, kind: str, page_by: str
) -> list[str]:
    """What the gateway's own Lua says."""
    lines = [" ".join(word.encode().hex() for word in one) for one in asked]
    done = subprocess.run(
        ["luajit", "tests/unit/lua/decide.lua", str(roles_file), kind, page_by],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["-", *decision.KINDS])
@pytest.mark.parametrize("web_ui", ["portero", "upstream"])
def test_the_gateway_decides_the_same(tmp_path: Path, kind: str, web_ui: str) -> None:
    path = tmp_path / "roles.json"
    path.write_text(roles_text(**USERS, AGIAnone={"models": []}, USRSa={"models": ["*", "x"]}))
    settings = {"ROLES_FILE": str(path), "WEB_UI": web_ui, "LLM_KIND": kind.strip("-")}
    known = config.read_policy(settings).policy
    asked = list(Requests(seed=len(kind)).some(3000))
    theirs = gateways_decisions(asked, path, kind, "llm" if web_ui == "upstream" else "issuer")
    ours = [known.decide(*one) for one in asked]
    assert len(theirs) == len(ours)
    differing = {
        (one, f"{mine.status} {mine.code}", gateways)
        for one, mine, gateways in zip(asked, ours, theirs, strict=True)
        if f"{mine.status} {mine.code}" != gateways
    }
    assert not differing
    assert len({one.code for one in ours}) == 6, "all kinds of decisions were asked for"
