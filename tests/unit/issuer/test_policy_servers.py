"""LLM servers and aliases, from the policy's text to what gateways are told of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from issuer import policy
from issuer.errors import Faults
from issuer.policy import Policy, Sources, Terms, servers
from issuer.policy.named_files import NamedFile
from run.commands import ROOT
from tests.policies import BASE
from tests.policies.llm_servers import PEM, SERVER, with_field
from tests.support.policies import KINDS

TWO = """\
servers:
  - {name: workstation, url: "http://10.0.0.5:11434", kind: ollama}
  - name: rack
    url: https://RACK.lan:8000/llm/
    kind: vllm
    weight: 2
    max_concurrent: 8
    models: ["qwen3*"]
    credential_file: rack.key
    ca_file: ca.pem
aliases:
  fast: llama3.2:3b
  "claude-*": [qwen3-coder:30b, llama3.3:70b]
"""
MANAGER = """\
  admin:
    code: ADMN
    ttl_seconds: 900
    login: /admin/login
    routes: [health, page, management, metrics]
"""
NAMED = {
    "credential_file rack.key": NamedFile("sk-0123\n"),
    "ca_file ca.pem": NamedFile("our authority\n" + PEM.decode()),
}


def made(text: str, terms: Terms | None = None) -> Policy:
    sources = Sources(text, policy.gather(policy.SHIPPED).kinds, NAMED)
    return policy.parse(sources, terms or Terms())


def faults_of(text: str, terms: Terms | None = None) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        made(text, terms)
    return found.value.faults


def sealed(text: str) -> str:
    return f"sealed {len(text)}"


def of_kinds(*kinds: str) -> str:
    rows = (f"  - {{name: {one}, url: 'http://{one}', kind: {one}}}\n" for one in kinds)
    return f"{BASE}{MANAGER}servers:\n{''.join(rows)}"


def rows_of(*kinds: str, terms: Terms | None = None) -> dict[str, dict[str, Any]]:
    table = made(of_kinds(*kinds), terms).compiled["routes"]
    return {f"{row['method']} {row['path']}": row for row in table}


def test_what_a_gateway_is_told_of_each_server() -> None:
    assert made(BASE + TWO).for_gateways(sealed)["servers"] == [
        {
            "name": "workstation",
            "kind": "ollama",
            "dialect": "ollama",
            "model_names": "ollama",
            "scheme": "http",
            "host": "10.0.0.5",
            "port": 11434,
            "authority": "10.0.0.5:11434",
            "path": "",
            "weight": 1,
        },
        {
            "name": "rack",
            "kind": "vllm",
            "dialect": "openai",
            "model_names": "exact",
            "scheme": "https",
            "host": "rack.lan",
            "port": 8000,
            "authority": "rack.lan:8000",
            "path": "/llm",
            "weight": 2,
            "max_concurrent": 8,
            "models": ["qwen3*"],
            "ca": PEM.decode(),
            "credential": "sealed 7",
        },
    ]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a", ("http", "a", 80, "a", "")),
        ("http://a:80/", ("http", "a", 80, "a", "")),
        ("https://a", ("https", "a", 443, "a", "")),
        ("https://a:80/x/y", ("https", "a", 80, "a:80", "/x/y")),
        ("http://[::1]:11434", ("http", "::1", 11434, "[::1]:11434", "")),
        ("https://[FD00::7]", ("https", "fd00::7", 443, "[fd00::7]", "")),
    ],
)
def test_a_url_is_told_in_its_parts(url: str, expected: tuple[str, str, int, str, str]) -> None:
    text = BASE + SERVER.replace("https://rack.lan:8000", url)
    (server,) = made(text).compiled["servers"]
    found = (server[part] for part in ("scheme", "host", "port", "authority", "path"))
    assert tuple(found) == expected


def test_aliases_are_lists_in_the_files_order() -> None:
    assert made(BASE + TWO).compiled["aliases"] == [
        {"name": "fast", "models": ["llama3.2:3b"]},
        {"name": "claude-*", "models": ["qwen3-coder:30b", "llama3.3:70b"]},
    ]


def test_a_policy_without_servers_is_told_as_before_there_were_any() -> None:
    told = made(BASE).for_gateways(sealed)
    assert set(told) == {"roles", "users", "model_names", "routes"}
    assert all("servers" not in row and "by_name" not in row for row in told["routes"])


def authorities(*kinds: int) -> tuple[str, dict[str, NamedFile]]:
    """A server for each number, whose file has as many certificates."""
    rows = (
        f"  - {{name: s{at}, url: 'https://s{at}', kind: vllm, ca_file: {kind}.pem}}\n"
        for at, kind in enumerate(kinds)
    )
    files = {f"ca_file {kind}.pem": NamedFile(PEM.decode() * kind) for kind in kinds}
    return f"{BASE}servers:\n{''.join(rows)}", files


def test_as_many_different_authorities_as_a_gateway_has_places_for_and_one_more_is_a_fault() -> (
    None
):
    kinds = policy.gather(policy.SHIPPED).kinds
    text, files = authorities(*range(1, 17), *range(1, 17))
    policy.parse(Sources(text, kinds, files), Terms())
    text, files = authorities(*range(1, 17), 3, 17, 18)
    with pytest.raises(Faults) as found:
        policy.parse(Sources(text, kinds, files), Terms())
    line = text[: text.index("17.pem")].count("\n") + 1
    assert found.value.faults == (
        f"policy.yaml line {line}: servers[18].ca_file is one more than the 16 different ones that"
        " a gateway has room for; put the certificates of several into one file",
    )


def test_a_gateway_has_the_places_for_authorities_that_a_policy_may_use() -> None:
    text = (ROOT / "openresty/lua/portero/server/authorities.lua").read_text()
    assert f"local FOLDERS = {servers.MAX_AUTHORITIES}\n" in text
    for name in ("ask", "server", "socket"):
        conf = (ROOT / f"openresty/conf/{name}_locations.conf").read_text()
        named = re.findall(
            rf"location @{name}_ca_(\d+) .*?VerifyCAPath server_ca/(\d+);", conf, re.S
        )
        places = [str(at) for at in range(1, servers.MAX_AUTHORITIES + 1)]
        assert named == list(zip(places, places, strict=True))
    made_by = re.search(r"for number in ([\d ]+);", (ROOT / "openresty/gateway.sh").read_text())
    assert made_by is not None
    assert made_by[1].split() == places


def test_the_kinds_in_force_are_those_of_the_servers() -> None:
    assert "POST /api/chat" not in rows_of("vllm", "llama-server")
    assert "POST /tokenize" in rows_of("vllm", "llama-server")
    assert made(of_kinds("vllm")).compiled["model_names"] == "exact"
    assert made(of_kinds("vllm", "ollama")).compiled["model_names"] == "ollama"


def test_a_route_names_the_servers_whose_kind_lists_it() -> None:
    rows = rows_of("ollama", "vllm", "llama-server", "localai")
    assert rows["POST /v1/chat/completions"]["servers"] == [0, 1, 2, 3]
    assert rows["POST /v1/score"]["servers"] == [1]
    assert rows["POST /api/chat"]["servers"] == [0, 3]
    assert rows["GET /v1/models"]["servers"] == [0, 1, 2, 3]
    assert rows["GET /api/tags"]["servers"] == [0, 3]
    assert rows["GET /health"]["servers"] == [1, 2]


def test_what_portero_asks_of_an_llm_server_itself_goes_to_all_where_no_kind_lists_it() -> None:
    assert rows_of("vllm", "llama-server")["HEAD /"]["servers"] == [0, 1]
    assert rows_of("vllm", "ollama")["HEAD /"]["servers"] == [1]


def test_what_portero_answers_itself_names_no_server() -> None:
    rows = rows_of("ollama")
    assert "servers" not in rows["GET /"]
    assert "servers" not in rows["GET /metrics"]


def test_management_is_by_a_servers_name_alone_for_the_roles_that_may() -> None:
    table = made(of_kinds("ollama", "vllm")).compiled
    by_name = {row["class"]: row.get("by_name", False) for row in table["routes"]}
    assert {name for name, is_by_name in by_name.items() if is_by_name} == {"management"}
    assert table["management"] == ["admin"]
    assert made(BASE + TWO).compiled["management"] == []


def test_a_page_is_that_of_the_first_server_that_has_one() -> None:
    rows = rows_of("vllm", "llama-server", "localai", terms=Terms(web_ui="upstream"))
    assert rows["GET /"]["servers"] == [1]
    assert rows["GET /bundle.js"]["servers"] == [1]


def test_each_of_the_shipped_kinds_goes_with_each_other() -> None:
    assert len(made(of_kinds(*KINDS)).compiled["servers"]) == len(KINDS)


def test_a_parameter_of_another_name_is_the_same_route(tmp_path: Path) -> None:
    kinds = {
        name: "dialect: openai\nmodel_names: exact\nroutes:\n  inference:\n"
        f"    - POST /x/{{{name}}} model=body\n"
        for name in ("a", "b")
    }
    text = f"{BASE}servers:\n" + "".join(
        f"  - {{name: {name}, url: 'http://{name}', kind: {name}}}\n" for name in kinds
    )
    table = policy.parse(Sources(text, kinds), Terms()).compiled["routes"]
    assert [row["servers"] for row in table if row["path"].startswith("/x/")] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        (Terms(has_upstream=True), ["LLM_UPSTREAM"]),
        (Terms(llm_kind="vllm"), ["LLM_KIND"]),
        (Terms(llm_kind="none", has_upstream=True), ["LLM_UPSTREAM", "LLM_KIND"]),
    ],
)
def test_settings_of_one_pool_beside_servers_are_a_fault_that_names_the_line(
    terms: Terms, names: list[str]
) -> None:
    assert list(faults_of(BASE + TWO, terms)) == [
        f"{name}: must not be set beside policy.yaml line 7: servers, which say it of each server"
        for name in names
    ]
    assert made(BASE, Terms(has_upstream=True))


def test_no_credential_is_in_what_is_compiled_nor_in_a_repr_nor_in_the_stores_row() -> None:
    found = made(BASE + TWO)
    sources = Sources(BASE + TWO, {}, NAMED)
    for told in (json.dumps(found.compiled), repr(found.servers), repr(sources)):
        assert "sk-0123" not in told
    row = sources.to_json(sealed)
    assert "sk-0123" not in row
    assert "sealed 8" in row


def test_sources_with_files_come_back_from_the_store() -> None:
    sources = Sources(BASE + TWO, {"mine": "x"}, NAMED)
    assert Sources.from_json(sources.to_json(lambda t: t[::-1]), lambda t: t[::-1]) == sources


def test_a_credential_that_the_store_keeps_under_another_key_is_a_fault_with_its_line() -> None:
    def refuse(_: str) -> str:
        raise ValueError

    row = Sources(BASE + TWO, policy.gather(policy.SHIPPED).kinds, NAMED).to_json(sealed)
    with pytest.raises(Faults) as found:
        policy.parse(Sources.from_json(row, refuse), Terms())
    assert found.value.faults == (
        "policy.yaml line 15: servers[2].credential_file was kept under another SYNC_KEY; "
        "mend the policy's files",
    )


SECRET = "sk-0123456789-secret"


@pytest.mark.parametrize(
    "written",
    [
        f"credential_file: {SECRET}",
        f"ca_file: {SECRET}",
        f"url: 'https://me:{SECRET}@rack.lan'",
        f"url: '{SECRET}'",
        f"url: 'https://rack.lan/{SECRET}/v1'",
        f"url: 'https://rack.lan/?key={SECRET}'",
        f"name: '{SECRET} '",
        f"kind: {SECRET}",
        f"credential: {SECRET}",
    ],
)
def test_no_fault_tells_what_may_be_a_secret(written: str, tmp_path: Path) -> None:
    field, _, value = written.partition(": ")
    text, line = with_field(field, value)
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(Faults) as found:
        policy.parse(policy.gather(tmp_path / "policy.yaml"), Terms())
    (fault,) = found.value.faults
    assert fault.startswith(f"policy.yaml line {line}: servers[1].{field} ")
    assert SECRET not in fault


@pytest.mark.parametrize("name", ["rack.key", "../keys/rack.key", "ABSOLUTE"])
def test_a_file_is_looked_for_beside_the_policy(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (tmp_path / "keys").mkdir()
    absolute = str(tmp_path / "anywhere.key")
    name = name.replace("ABSOLUTE", absolute)
    (folder / name).write_text("sk-1\n")
    (folder / name).chmod(0o600)
    (folder / "policy.yaml").write_text(f"{BASE}{SERVER}    credential_file: {name}\n")
    found = policy.parse(policy.gather(folder / "policy.yaml"), Terms())
    assert found.servers[0].credential == "sk-1"
