"""From files to a policy: which files are read, what is compiled, and where each part stands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from issuer import policy
from issuer.errors import Faults
from issuer.policy import Place, Sources, Terms, schema
from tests.policies import BASE

KIND = """\
dialect: openai
model_names: exact
routes:
  inference:
    - POST /v1/mine model=body
"""
PERSON = """\
  user:
    code: USRS
    ttl_seconds: 900
    login: /login
    routes: [page, console]
"""
DEFAULT = Terms()
KINDS = ("llama-server", "localai", "ollama", "vllm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A policy file in a folder of its own."""
    file = tmp_path / "policy.yaml"
    file.write_text(BASE)
    return file


def compiled(text: str = BASE, terms: Terms = DEFAULT, **kinds: str) -> dict[str, Any]:
    return policy.parse(Sources(text, kinds), terms).compiled


def shipped(terms: Terms = DEFAULT) -> policy.Policy:
    return policy.parse(policy.gather(policy.SHIPPED), terms)


#: What everybody may ask about themselves, in the order of the table.
ACCOUNT = [
    "DELETE /account/keys/{id}",
    "GET /account/usage",
    "POST /account/keys/{id}",
    "GET /account/keys",
    "POST /account/keys",
    "GET /account",
]


#: What gateways are told of the keys of a role that says nothing of them.
KEYS = {"longest_seconds": 90 * 86_400, "server_side": {"tools": False, "fetch": False}}


def names(table: dict[str, Any]) -> list[str]:
    return [f"{row['method']} {row['path']}" for row in table["routes"]]


def faults_of(sources: Sources, terms: Terms = DEFAULT) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        policy.parse(sources, terms)
    return found.value.faults


# Files.


def test_the_shipped_kinds_are_found_beside_any_policy(path: Path) -> None:
    assert tuple(sorted(policy.gather(path).kinds)) == KINDS


def test_a_kind_dropped_in_beside_the_policy_is_found(path: Path) -> None:
    (path.parent / "servers").mkdir()
    (path.parent / "servers" / "mine.yaml").write_text(KIND)
    sources = policy.gather(path)
    assert set(sources.kinds) == {*KINDS, "mine"}
    table = policy.parse(sources, Terms(llm_kind="mine")).compiled
    assert names(table) == ["POST /v1/mine", *ACCOUNT]
    assert table["model_names"] == "exact"


def test_a_kind_beside_the_policy_takes_the_place_of_the_shipped_one(path: Path) -> None:
    (path.parent / "servers").mkdir()
    (path.parent / "servers" / "vllm.yaml").write_text(KIND)
    assert policy.gather(path).kinds["vllm"] == KIND


def test_a_policy_that_is_not_there_is_a_fault_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(Faults, match=r"policy\.yaml: cannot read .*/none\.yaml: No such file"):
        policy.gather(tmp_path / "none.yaml")


def test_texts_go_to_the_store_and_come_back() -> None:
    sources = policy.gather(policy.SHIPPED)
    assert Sources.from_json(sources.to_json(str), str) == sources


# Compiled.


def test_a_role_is_told_to_gateways_with_its_limits_where_there_are_any() -> None:
    limits = "    models: [a, b*]\n    requests_per_minute: 5\n    largest_body_bytes: 7\n"
    text = BASE + limits + PERSON
    assert compiled(text)["roles"] == {
        "agi": {
            "code": "AGIA",
            "ttl_seconds": 60,
            "stream_policy": "finish",
            "api_keys": KEYS,
            "limits": {
                "models": ["a", "b*"],
                "requests_per_minute": 5,
                "largest_body_bytes": 7,
                "server_side": {"tools": False, "fetch": False},
            },
        },
        "user": {
            "code": "USRS",
            "ttl_seconds": 900,
            "stream_policy": "finish",
            "api_keys": KEYS,
        },
    }


@pytest.mark.parametrize(("word", "told"), [("true", True), ("false", None)])
def test_gateways_hear_of_client_certificates_where_a_role_asks_for_them_alone(
    word: str, told: bool | None
) -> None:
    roles = compiled(f"{BASE}    client_certificate: {word}\n{PERSON}")["roles"]
    assert roles["agi"].get("client_certificate") is told
    assert "client_certificate" not in roles["user"]


@pytest.mark.parametrize(
    ("rule", "days"), [("{most: 3}", 90), ("{longest_days: 7}", 7), ("{}", 90), ("null", None)]
)
def test_a_role_is_told_with_the_longest_life_of_its_api_keys(rule: str, days: int | None) -> None:
    told = compiled(f"{BASE}    api_keys: {rule}\n")["roles"]["agi"]
    assert told.get("api_keys") == (days and {**KEYS, "longest_seconds": days * 86_400})


def test_a_policy_says_who_issues_tokens_where_that_has_an_address() -> None:
    assert "issuer" not in shipped().compiled
    assert shipped(Terms(issuer="https://llm.lan")).compiled["issuer"] == "https://llm.lan"


def test_a_users_limits_are_merged_with_the_roles_and_may_end_them() -> None:
    text = (
        f"{BASE}    requests_per_minute: 5\nusers:\n  AGIAa: {{models: []}}\n"
        "  AGIAb: {requests_per_minute: null}\n  AGIAc: {}\n"
    )
    assert compiled(text)["users"] == {
        "AGIAa": {
            "limits": {
                "models": [],
                "requests_per_minute": 5,
                "server_side": {"tools": False, "fetch": False},
            }
        },
        "AGIAb": {},
        "AGIAc": {"limits": {"requests_per_minute": 5}},
    }


ASIDE = {"tools": False, "fetch": False}


@pytest.mark.parametrize(
    ("all_of_them", "role", "expected"),
    [
        ("", "", None),
        ("", "inspect_bodies: true", ASIDE),
        ("", "inspect_bodies: null", None),
        ("", "models: [a]", ASIDE),
        ("", "models: [a]\n    inspect_bodies: false", ASIDE),
        ("inspect_bodies: true\n", "", ASIDE),
        ("inspect_bodies: true\n", "inspect_bodies: false", None),
        ("inspect_bodies: false\n", "inspect_bodies: true", ASIDE),
        ("", "server_side: {tools: true, priority: 5}", None),
        (
            "inspect_bodies: true\n",
            "server_side: {tools: true, priority: 5}",
            {"tools": True, "fetch": False, "priority": 5},
        ),
    ],
)
def test_what_a_body_may_ask_is_told_of_those_whose_bodies_are_looked_at(
    all_of_them: str, role: str, expected: dict[str, Any] | None
) -> None:
    table = compiled(f"{BASE}    {role}\n{all_of_them}" if role else BASE + all_of_them)
    assert table["roles"]["agi"].get("limits", {}).get("server_side") == expected


def test_a_user_of_a_limit_of_its_own_is_looked_at_as_its_role_says() -> None:
    text = f"{BASE}    server_side: {{fetch: true}}\nusers:\n  AGIAa: {{models: [a]}}\n"
    table = compiled(text)
    assert "limits" not in table["roles"]["agi"]
    told = table["users"]["AGIAa"]["limits"]["server_side"]
    assert told == {"tools": False, "fetch": True}


def test_n13_a_route_that_fetches_is_for_roles_that_may_have_it_fetch() -> None:
    kind = f"{KIND}    - POST /v1/apply needs=fetch\n"
    without = {row["path"]: row["roles"] for row in compiled(mine=kind)["routes"]}
    assert (without["/v1/apply"], without["/v1/mine"]) == ([], ["agi"])
    able = compiled(f"{BASE}    server_side: {{fetch: true}}\n", mine=kind)
    assert {row["path"]: row["roles"] for row in able["routes"]}["/v1/apply"] == ["agi"]


def test_the_setting_bounds_every_ttl() -> None:
    table = shipped(Terms(ttl_bound_seconds=300)).compiled["roles"]
    assert max(role["ttl_seconds"] for role in table.values()) == 300
    assert table["agent_fast"]["ttl_seconds"] == 60


def test_only_routes_that_some_role_may_use_are_told_and_with_these_roles() -> None:
    text = f"{BASE}{PERSON}"
    rows = {row["path"]: row for row in compiled(text, mine=KIND)["routes"]}
    assert rows["/v1/mine"] == {
        "method": "POST",
        "path": "/v1/mine",
        "class": "inference",
        "model": "body",
        "answered_by": "llm",
        "roles": ["agi"],
    }
    assert rows["/"]["answered_by"] == "issuer"
    assert rows["/admin/"] == {
        "method": "GET",
        "path": "/admin/",
        "class": "console",
        "model": "none",
        "answered_by": "issuer",
        "roles": ["user"],
        "no_api_keys": True,
    }
    assert rows["/account"]["roles"] == ["agi", "user"]
    assert "no_api_keys" not in rows["/account"]
    assert rows["/account/keys"]["no_api_keys"] is True
    assert "/metrics" not in rows


@pytest.mark.parametrize(("web_ui", "answered_by"), [("portero", "issuer"), ("upstream", "llm")])
def test_the_page_is_porteros_or_the_llm_servers(web_ui: str, answered_by: str) -> None:
    table = shipped(Terms(web_ui=web_ui)).compiled
    pages = [row for row in table["routes"] if row["class"] == "page"]
    assert {row["answered_by"] for row in pages} == {answered_by}
    assert ("GET /app" in names(table)) is (web_ui == "upstream")


def test_lists_of_models_are_answered_by_discovery() -> None:
    found = {r["path"] for r in shipped().compiled["routes"] if r["answered_by"] == "discovery"}
    assert found == {"/v1/models", "/v1/models/{model}", "/api/tags", "/api/ps"}


def test_a_route_of_several_kinds_is_told_once_and_the_more_exact_first() -> None:
    found = names(shipped().compiled)
    assert len(found) == len(set(found)) > 80
    first = [name for name in found if " /v1/" in name]
    assert found[: len(first)] == first
    assert found.index("GET /v1/models/capabilities") < found.index("GET /v1/models/{model}")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("", "ollama"), ("ollama", "ollama"), ("vllm", "exact"), ("localai", "exact")],
)
def test_models_are_named_as_ollama_does_where_some_server_may_be_ollama(
    kind: str, expected: str
) -> None:
    assert shipped(Terms(llm_kind=kind)).compiled["model_names"] == expected


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_what_is_told_to_gateways_has_no_null_and_is_always_the_same(kind: str) -> None:
    first = json.dumps(shipped(Terms(llm_kind=kind)).compiled)
    assert "null" not in first
    assert json.dumps(shipped(Terms(llm_kind=kind)).compiled) == first


def test_a_policy_too_large_for_a_gateway_is_a_fault() -> None:
    role = "  r{:061d}: {{code: {}, ttl_seconds: 60, login: /login, routes: [inference]}}\n"
    codes = (a + b + c + "X" for a in LETTERS for b in LETTERS for c in LETTERS[:2])
    text = "roles:\n" + "".join(role.format(index, code) for index, code in enumerate(codes))
    found = faults_of(Sources(text, dict(policy.gather(policy.SHIPPED).kinds)))
    assert found == ("policy.yaml: makes more than 3000000 bytes for a gateway to hold",)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_an_unknown_kind_is_a_fault_that_lists_those_there_are() -> None:
    found = faults_of(Sources(BASE, {"b": KIND, "a": KIND}), Terms(llm_kind="x"))
    assert found == ("LLM_KIND: must be one of a, b",)


def test_kinds_that_contradict_each_other_may_be_there_when_one_is_chosen() -> None:
    kinds = {"a": KIND, "b": KIND.replace("body", "query")}
    assert len(faults_of(Sources(BASE, kinds))) == 1
    assert compiled(BASE, Terms(llm_kind="b"), **kinds)["routes"][0]["model"] == "query"


def test_a_faulty_kind_is_told_even_where_another_is_chosen() -> None:
    assert faults_of(Sources(BASE, {"a": KIND, "b": "x"}), Terms(llm_kind="a"))


# Roles and places.


def test_a_role_has_defaults_for_all_that_is_not_there() -> None:
    role = policy.parse(Sources(BASE, {}), Terms()).roles.named("agi")
    assert role is not None
    assert role.login == "/agi/login"
    assert (role.active_tokens, role.stream_policy) == (10_000, "finish")
    assert role.limits.any_model
    assert role.limits.largest_body_bytes == 67_108_864
    assert role.limits.requests_per_minute is None


def test_a_place_is_the_users_own_line_or_the_roles() -> None:
    text = f"{BASE}    models: [a]\nusers:\n  AGIAx:\n    requests_per_minute: 5\n"
    found = policy.parse(Sources(text, {}), Terms())
    assert found.place_of("AGIAx", "requests_per_minute") == Place(
        "policy.yaml", 10, "users.AGIAx.requests_per_minute"
    )
    assert found.place_of("AGIAx", "models") == Place("policy.yaml", 7, "roles.agi.models")
    assert found.place_of("AGIAx", "active_tokens").line == 2
    assert found.place_of("ROOTx", "models") == Place("policy.yaml", 1, "roles")


def test_every_route_has_the_place_it_is_written_in() -> None:
    found = shipped()
    for index, row in enumerate(found.compiled["routes"]):
        place = found.place_of_route(index)
        if place.line:
            text = (policy.SHIPPED.parent / place.file).read_text().splitlines()[place.line - 1]
            assert re.match(rf"    - {row['method']} {re.escape(row['path'])}( |$)", text)
        else:
            assert place.file == "issuer/policy/own_routes.py"


# The schemas, for editors.


@pytest.mark.parametrize("name", [schema.POLICY, schema.SERVER])
def test_a_schema_is_one_and_says_of_every_part_what_it_is_and_how_it_is_wrong(name: str) -> None:
    content = json.loads((schema.DIRECTORY / name).read_text())
    Draft202012Validator.check_schema(content)
    parts = [content, *content["$defs"].values()]
    fields = [one for part in parts for one in part.get("properties", {}).values()]
    for rule in [*parts, *fields]:
        assert "$ref" in rule or "errorMessage" in rule, rule
        assert "$ref" in rule or "description" in rule or part_of_list(rule), rule


def part_of_list(rule: dict[str, Any]) -> bool:
    return rule.get("type") == "array"


def test_every_field_but_the_four_has_a_default() -> None:
    role = schema.read(schema.POLICY)["$defs"]["role"]
    needed = {"code", "ttl_seconds", "login", "routes"}
    assert set(role["required"]) == needed
    fields = {name for name, rule in role["properties"].items() if "formerNameOf" not in rule}
    assert set(schema.defaults(schema.POLICY, "role")) == fields - needed


def test_with_several_servers_bodies_are_looked_at_unless_the_policy_says_otherwise() -> None:
    def told(names: str, more: str = "") -> Any:
        rows = "".join(
            f"  - {{name: {name}, url: 'http://10.0.0.1', kind: mine}}\n" for name in names
        )
        table = compiled(f"{BASE}{more}servers:\n{rows}", mine=KIND)
        return table["roles"]["agi"].get("limits", {}).get("server_side")

    assert told("ab") == ASIDE
    assert told("a") is None
    assert told("ab", "inspect_bodies: false\n") is None
