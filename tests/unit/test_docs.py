"""The docs name everything a user can set, call or watch."""

import json
import re
from pathlib import Path

import pytest

from issuer.errors import WIRE_ERRORS

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
LUA = ROOT / "openresty" / "lua" / "portero"


def settings() -> set[str]:
    """Every name that config.py, config.lua, gateway.sh and gunicorn read from the environment."""
    issuer = (ROOT / "issuer" / "config.py").read_text()
    found = set(re.findall(r'reader\.\w+\(\s*"([A-Z_]+)"', issuer))
    gateway = (LUA / "config.lua").read_text()
    found |= set(re.findall(r'\(env, "([A-Z_]+)"', gateway))
    script = (ROOT / "openresty" / "gateway.sh").read_text()
    found |= set(re.findall(r"\$\{([A-Z_]+):-", script))
    gunicorn = (ROOT / "issuer" / "gunicorn.conf.py").read_text()
    found |= set(re.findall(r'environ\.get\("([A-Z_]+)"', gunicorn))
    return found


def test_settings_are_found_at_all() -> None:
    assert {"SECRET_KEY", "LLM_UPSTREAM", "GATEWAY_LISTEN", "ISSUER_LISTEN"} <= settings()


@pytest.mark.parametrize("name", sorted(settings()))
def test_every_setting_is_in_the_configuration_page(name: str) -> None:
    assert re.search(rf"^## {name}$|^\| `{name}`", CONFIGURATION, re.MULTILINE)


def test_every_message_of_the_sync_is_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    messages = re.findall(r'\["(\w+ /sync/\w+)"\]', (LUA / "sync" / "receiver.lua").read_text())
    assert len(messages) == 4
    for message in messages:
        assert f"`{message}`" in text


def test_every_module_of_the_gateway_is_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("## The gateway's rooms")[2].partition("\n## ")[0]
    listed = re.findall(r"(?m)^\| (`.*?) \|", table)
    named = [name for cell in listed for name in re.findall(r"`([\w/]+)`", cell)]
    modules = [path.relative_to(LUA).with_suffix("").as_posix() for path in LUA.rglob("*.lua")]
    assert sorted(named) == sorted(modules)


def test_every_room_of_the_issuer_is_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("## The issuer's rooms")[2].partition("\n## ")[0]
    listed = re.findall(r"(?m)^\| (`.*?) \|", table)
    named = [name for cell in listed for name in re.findall(r"`(\w+)/?`", cell)]
    rooms = [
        path.stem
        for path in (ROOT / "issuer").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted(named) == sorted(set(rooms) - {"__init__", "gunicorn.conf"})


def test_every_time_out_of_the_docs_is_the_one_that_nginx_is_told() -> None:
    page = (ROOT / "docs" / "llm-servers.md").read_text()
    table = page.partition("## Time-outs")[2].partition("\n## ")[0]
    conf = "".join(path.read_text() for path in (ROOT / "openresty" / "conf").glob("*.conf"))
    rows = re.findall(r"(?m)^\|[^|]*\| (\d+) (s|m)(?:in)? \| `(\w+)` \|", table)
    assert len(rows) == 7
    for number, unit, directive in rows:
        assert re.search(rf"\b{directive} {number}{unit};", conf), directive


def test_the_docs_say_how_long_connections_to_each_kind_are_kept() -> None:
    page = (ROOT / "docs" / "llm-servers.md").read_text()
    rows = page.partition("## Kept connections")[2].partition("\n## ")[0]
    titles = {"ollama": "Ollama", "vllm": "vLLM", "localai": "LocalAI"}
    for path in (ROOT / "openresty" / "conf" / "routes").glob("*.json"):
        pack = json.loads(path.read_text())
        if "idle_seconds" not in pack:
            continue
        (row,) = re.findall(rf"(?m)^\| [^|]*{titles.get(path.stem, path.stem)}.*$", rows)
        idle = pack["idle_seconds"]
        assert ("| never | 60 s |" in row) if idle is None else f"| {idle} s" in row


def test_what_the_docs_quote_of_a_failed_llm_server_is_what_the_gateway_says() -> None:
    page = (ROOT / "docs" / "llm-servers.md").read_text().partition("## When it fails")[2]
    rows = re.findall(r'(?m)^\| (\d+) `(\w+)`(?:, "([^"]+)")? \|', page)
    errors = (LUA / "errors.lua").read_text()
    assert len(rows) > 8
    for status, code, words in rows:
        said = rf"{status}, \"[^}}]*{re.escape(words)}" if words else rf"{code} = {{\s*{status}, "
        assert re.search(said, errors), (status, code, words)


def test_every_promise_names_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "promises.md").read_text()
    named = set(re.findall(r"`(\w+(?:\.py|\.lua))`", text))
    assert len(named) > 5
    there = {path.name for path in (ROOT / "tests").rglob("*") if path.is_file()}
    assert named <= there


def test_every_dependency_is_told_why() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    direct = (ROOT / "requirements.txt").read_text().partition("# Brought by")[0]
    direct += (ROOT / "requirements-dev.txt").read_text()
    direct += (ROOT / "demo" / "requirements.txt").read_text()
    names = re.findall(r"^([a-z0-9-]+)==", direct, re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert re.search(rf"\b{name}\b", text), name


def test_every_npm_dependency_is_told_why_and_pinned_without_a_registry() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    folder = ROOT / "tests" / "stack" / "clients" / "node"
    direct = json.loads((folder / "package.json").read_text())["dependencies"]
    lock = (folder / "package-lock.json").read_text()
    pinned = json.loads(lock)["packages"]
    assert len(direct) > 5
    for name, version in direct.items():
        assert f"`{name}`" in text, name
        assert pinned[f"node_modules/{name}"]["version"] == version, "the lock is another's"
    assert not re.search(r"https?://", lock)


def test_both_sides_word_their_errors_by_the_same_codes() -> None:
    gateway = (LUA / "errors.lua").read_text()
    for code, row in WIRE_ERRORS.items():
        match = re.search(rf"    {code} = {{\s*(\d+), \"(\w+)\"", gateway)
        if match:
            assert (int(match[1]), match[2]) == (row.status, row.type), code
