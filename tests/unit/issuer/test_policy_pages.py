"""What the pages show of policies is what was tried: whole ones, a kind of server, a new field."""

import json
import re
from typing import Any

import pytest

from issuer import policy
from issuer.errors import Faults
from issuer.policy import Policy, Sources, Terms, schema
from issuer.policy.named_files import NamedFile
from tests.policies import BASE
from tests.policies.llm_servers import PEM
from tests.support.docs import ROOT, block

PAGE = (ROOT / "docs" / "policy.md").read_text()
EXAMPLES = re.findall(r"<!-- tested: policy -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)


def made(text: str = BASE, **kinds: str) -> Policy:
    sources = policy.gather(policy.SHIPPED)
    return policy.parse(Sources(text, {**sources.kinds, **kinds}), Terms())


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_policy_of_the_page_is_a_good_one(text: str) -> None:
    table = made(text).compiled
    assert all(user["limits"] for user in table["users"].values())


def test_a_kind_of_server_of_the_page_is_one_file() -> None:
    sources = policy.gather(policy.SHIPPED)
    kinds = {**sources.kinds, "tabby": block("docs/policy.md", "server tabby")}
    assert policy.parse(Sources(sources.policy, kinds), Terms()).compiled["routes"]
    alone = policy.parse(Sources(sources.policy, kinds), Terms(llm_kind="tabby")).compiled
    assert {row["path"] for row in alone["routes"] if row["class"] == "models"} == {
        "/v1/models",
        "/v1/models/{model}",
    }


def test_a_field_of_a_role_is_the_schema_and_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = json.loads(json.dumps(schema.read(schema.POLICY)))
    field = json.loads(f"{{{block('CONTRIBUTING.md', 'field')}}}")
    extended["$defs"]["role"]["properties"].update(field)
    monkeypatch.setattr(schema, "read", {schema.POLICY: extended, schema.SERVER: SERVER}.get)
    use = block("CONTRIBUTING.md", "its user")

    def asked(text: str) -> Any:
        return eval(use, {"role": made(text).roles.named("agi")})

    assert asked(BASE) == "Welcome"
    assert asked(f"{BASE}    greeting: Hello, agent\n") == "Hello, agent"
    with pytest.raises(Faults) as found:
        made(f"{BASE}    greeting: <b>\n")
    assert found.value.faults == (
        "policy.yaml line 7: roles.agi.greeting must be a text of 1 to 80 characters "
        "without < and >",
    )


SERVER = schema.read(schema.SERVER)


def test_every_field_of_a_role_has_a_row_with_its_default_in_the_page() -> None:
    role = schema.read(schema.POLICY)["$defs"]["role"]["properties"]
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \|", PAGE.partition("## A user")[0]))
    fields = {name for name, rule in role.items() if "formerNameOf" not in rule}
    assert set(rows) == fields
    for name, default in schema.defaults(schema.POLICY, "role").items():
        assert rows[name] == f"`{default if isinstance(default, str) else json.dumps(default)}`"


def test_the_bounds_of_a_field_are_those_of_the_page() -> None:
    defs = schema.read(schema.POLICY)["$defs"]
    for name, rule in defs["role"]["properties"].items():
        its = defs[rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        for bound in (its.get("minimum"), its.get("maximum")):
            assert bound is None or re.search(rf"(?m)^\| `{name}` \|.*\b{bound}\b", PAGE), name


# Servers.

OF_SERVERS = PAGE.partition("## LLM servers")[2].partition("\n## ")[0]


def test_the_servers_of_the_page_are_good_ones() -> None:
    text = BASE + block("docs/policy.md", "servers")
    files = {
        "credential_file rack.key": NamedFile("sk-1"),
        "ca_file lan.pem": NamedFile(PEM.decode()),
    }
    kinds = policy.gather(policy.SHIPPED).kinds
    found = policy.parse(Sources(text, kinds, files), Terms())
    assert [server.name for server in found.servers] == ["workstation", "rack"]


def test_every_field_of_a_server_has_a_row_with_its_bounds() -> None:
    fields = schema.read(schema.POLICY)["$defs"]["server"]["properties"]
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| (.*) \|$", OF_SERVERS))
    assert set(rows) == set(fields)
    for name, rule in fields.items():
        for bound in (rule.get("minimum"), rule.get("maximum")):
            assert bound is None or re.search(rf"\b{bound}\b", rows[name]), name
