"""The docs name everything a user can set, call or watch."""

import ast
import io
import json
import re
import shlex
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from issuer import commands, metrics, policy
from issuer.config import POLICY_FILE
from issuer.errors import WIRE_ERRORS
from issuer.origins import Origins
from issuer.policy import Sources, Terms
from issuer.policy.own_routes import OWN_ROUTES
from issuer.web import application

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
API = (ROOT / "docs" / "http-api.md").read_text()
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


def test_every_message_of_the_sync_is_in_its_page() -> None:
    text = (ROOT / "docs" / "sync.md").read_text()
    messages = re.findall(r'\["(\w+ /sync/\w+)"\]', (LUA / "sync" / "receiver.lua").read_text())
    assert len(messages) == 10
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


def test_connections_are_given_up_before_any_server_of_the_docs_does_it() -> None:
    page = (ROOT / "docs" / "llm-servers.md").read_text()
    table = page.partition("## Kept connections")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| [^|]+ \| (\d+ s|never)", table)
    waits = [int(row.removesuffix(" s")) for row in rows if row != "never"]
    config = (LUA / "config.lua").read_text()
    assert len(rows) == 3
    assert f'"LLM_IDLE_SECONDS", faults, seconds, "{min(waits)}")' in config


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
    dialect = (LUA / "dialect" / "openai.lua").read_text()
    types = dict(re.findall(r'\[(\d{3})\] = "(\w+)"', dialect))
    compared = 0
    for code, row in WIRE_ERRORS.items():
        match = re.search(rf"    {code} = {{\s*(\d+), \"", gateway)
        if match:
            other = "server_error" if row.status >= 500 else "invalid_request_error"
            assert (int(match[1]), types.get(match[1], other)) == (row.status, row.type), code
            compared += 1
    assert compared > 5


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    level = len(title.partition(" ")[0])
    text = page.partition(f"\n{title}\n")[2]
    assert text, title
    return re.split(rf"\n#{{1,{level}}} ", text)[0]


def error_rows(text: str) -> set[tuple[int, str]]:
    """The statuses and codes of a table of errors."""
    return {
        (int(status), code) for status, code in re.findall(r"(?m)^\| (\d+) \| `(\w+)` \|", text)
    }


def test_every_open_path_of_the_gateway_is_in_the_api_page() -> None:
    conf = (ROOT / "openresty" / "conf" / "public.conf").read_text()
    paths = re.findall(r"location = (\S+)", conf)
    assert len(paths) > 10
    page = API.partition("\n## Errors of the gateway\n")[0]
    assert [path for path in paths if not re.search(rf"`[A-Z]+ {re.escape(path)}`", page)] == []


def test_every_method_of_an_open_path_is_in_the_api_page() -> None:
    text = (LUA / "request" / "open_paths.lua").read_text()
    methods: dict[str, str] = {}
    for names, values in re.findall(r"(?m)^local ([A-Z_, ]+) = (\{ Allow = .*)$", text):
        methods |= zip(names.split(", "), re.findall(r'"([A-Z, ]+)"', values), strict=True)
    paths = re.findall(r'\["(/[^"]*)"\] = (\w+)', text)
    assert len(paths) > 10
    page = API.partition("\n## Errors of the gateway\n")[0]
    asked = [f"{method} {path}" for path, kind in paths for method in methods[kind].split(", ")]
    assert [one for one in asked if f"`{one}`" not in page and not one.startswith("HEAD")] == []


def test_every_route_of_porteros_own_is_in_the_api_page() -> None:
    lines = [line.partition(" model=")[0] for of_class in OWN_ROUTES.values() for line in of_class]
    own = section(API, "### Portero's own")
    assert len(lines) > 4
    assert [line for line in lines if f"| `{line}` |" not in own] == []


def issuer_rules() -> Iterator[str]:
    """Method and path of everything that the issuer's own listener answers."""
    settings = SimpleNamespace(
        origins=Origins(), cookie_secure=True, base_url="http://x", traces_as=""
    )
    nobody = cast(Any, SimpleNamespace(used=None, policy=None))
    app = application(nobody, nobody, nobody, cast(Any, settings))
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield f"{method} {path}"


def test_every_rule_of_the_issuer_is_in_the_api_page_and_no_other() -> None:
    listed = section(API, "## The issuer's own listener").partition("\n### ")[0]
    assert sorted(re.findall(r"`([A-Z]+ /[^`]*)`", listed)) == sorted(issuer_rules())


def test_every_error_of_the_gateway_is_in_the_api_page_and_no_other() -> None:
    text = (LUA / "errors.lua").read_text()
    table = text.partition("local ERRORS = {")[2].partition("\n}\n")[0]
    rows = re.findall(r"(?sm)^    (\w+) = \{\s*(\d+),(.*?)\},$(?=\n    \w|\s*\Z)", table)
    groups = re.findall(r'(?m)^add\((\d+), "(\w+)"', text)
    assert len(rows) > 30
    assert len(groups) > 2
    used = {(int(status), code) for status, code in groups}
    for name, status, rest in rows:
        other = re.search(r'code = "(\w+)"', rest)
        used.add((int(status), other[1] if other else name))
    assert error_rows(section(API, "## Errors of the gateway")) == used


def test_every_error_of_the_issuer_is_in_the_api_page_and_no_other() -> None:
    used = {(row.status, code) for code, row in WIRE_ERRORS.items()}
    assert error_rows(section(API, "### Errors of the issuer")) == used


#: What others wrote (docs/dependencies.md).
OTHERS = ("markdown-it.js", "purify.js")


def sources() -> list[Path]:
    """Every file of code, tests among it, but for this one."""
    folders = ("issuer", "openresty", "run", "systemd", "acme", "bench", "demo", "tests")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".lua", ".conf", ".sh", ".js", ".mjs", ".html", ".css"}
    assert {path.suffix for path in found} >= {".py", ".lua", ".conf", ".sh"}
    return [
        path
        for path in [*found, ROOT / "Makefile", ROOT / "docker-compose.yml"]
        if (path.suffix in kinds or path.name in ("Dockerfile", "Makefile", "docker-compose.yml"))
        and "node_modules" not in path.parts
        and path.name not in OTHERS
        and path != Path(__file__).resolve()
    ]


@cache
def comments(path: Path) -> str:
    """What a file says beside its code: comments, docstrings, and texts that are a number alone,
    as a table of cases is keyed by them.
    """
    text = path.read_text()
    if path.suffix == ".lua":
        return "\n".join(re.findall(r"--.*", text))
    if path.suffix != ".py":
        return "\n".join(re.findall(r"#.*", text))
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    said = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for token in tokens:
        if token.type == tokenize.STRING and re.match(
            r'r?"""|"[A-Z][0-9]{1,2}["\b ]', token.string
        ):
            said.append(str(ast.literal_eval(token.string)))
    return "\n".join(said)


def cited(letters: str) -> dict[str, str]:
    """Numbers that code cites, as J13 is, ranges undone -> a file that does."""
    found: dict[str, str] = {}
    for path in sources():
        for first, last in re.findall(
            rf"(?<![\w-])([{letters}][1-9]\d?)(?:-([{letters}][1-9]\d?))?(?![\w-])", comments(path)
        ):
            end = int((last or first)[1:])
            for number in range(int(first[1:]), end + 1):
                found[f"{first[0]}{number}"] = path.relative_to(ROOT).as_posix()
    return found


#: How many numbers each group has.
THREATS = {"A": 1, "B": 15, "D": 4, "H": 27, "I": 8, "J": 32, "K": 5, "N": 22, "P": 9, "S": 12}
#: What is told of a number that no test is named after, and why there is none.
UNTESTED = "No test:"


def numbers_with_tests() -> set[str]:
    """Numbers that a test is named after: `test_h8_h9_what_…`, a family of bad tokens, or a spec's
    `it(… -- H25`.
    """
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*"):
        if path.suffix not in (".py", ".lua") or "node_modules" in path.parts:
            continue
        text = path.read_text()
        names = re.findall(r"\ndef test_((?:[a-z]\d+_)+)", text)
        found |= {one.upper() for name in names for one in name.rstrip("_").split("_")}
        found |= set(re.findall(r'@family\("(J\d+) ', text))
        found |= set(re.findall(r'\n *it\(".*-- ([A-Z]\d+)\n', text))
    return found


def test_every_threat_that_code_cites_is_told_and_every_one_told_is_cited() -> None:
    page = (ROOT / "docs" / "threats.md").read_text()
    told = re.findall(r"(?m)^\| ([A-Z]\d+) \|", page)
    assert len(told) == len(set(told))
    named = cited("".join(THREATS))
    assert {number: file for number, file in named.items() if number not in told} == {}
    untested = set(re.findall(rf"(?m)^\| ([A-Z]\d+) \|.*{UNTESTED}", page))
    assert set(told) - set(named) - numbers_with_tests() - untested == set()


def test_every_threat_is_told_and_has_a_test_that_is_named_after_it_or_a_reason() -> None:
    page = (ROOT / "docs" / "threats.md").read_text()
    rows = dict(re.findall(r"(?m)^\| ([A-Z]\d+) (\|.*)$", page))
    every = {f"{group}{one}" for group, most in THREATS.items() for one in range(1, most + 1)}
    assert every - set(rows) == set()
    without = {number for number, row in rows.items() if UNTESTED in row}
    #: Their specs cite them at their head, and so does the page of promises.
    by_file = {number for number in every if number[0] in "BS"}
    assert every - numbers_with_tests() - without - by_file == set()
    assert without & numbers_with_tests() == set()


def test_every_promise_that_code_cites_is_told() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    named = cited("FR")
    assert {"F8", "R1"} <= set(named)
    assert [number for number in named if not re.search(rf"\b{number}\b", page)] == []


PAPERS = re.compile(
    r"contract('s)? (section|table|asks|says)|\bthe contract\b|\bdesign(\.md)?, "
    r"|\bpeers \d|\bcases [A-Z]\d|\.\./shared|/work/",
    re.IGNORECASE,
)


def test_no_code_cites_a_paper_that_is_not_here() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), match[0])
        for path in sources()
        for match in re.finditer(PAPERS, re.sub(r"\s+", " ", path.read_text()))
    ]
    assert found == []


def test_every_page_that_code_cites_is_here() -> None:
    pages = {
        name for path in sources() for name in re.findall(r"\bdocs/[\w/.-]+?\.md\b", comments(path))
    }
    assert "docs/sync.md" in pages
    assert [name for name in pages if not (ROOT / name).is_file()] == []


def pages() -> list[Path]:
    """Every page, the ones at the root among them."""
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_page_is_behind_the_door() -> None:
    door = ROOT / "docs" / "README.md"
    linked = {
        (door.parent / name).resolve() for name in re.findall(r"\]\(([^)#]+)", door.read_text())
    }
    assert [
        path.name for path in pages() if path not in linked | {door, ROOT / "CHANGELOG.md"}
    ] == []
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text())
    for name, place in links:
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), name
        titles = re.findall(r"(?m)^#+ (.*)$", page.read_text()) if place else []
        named = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not place or place in named, (name, place)


@pytest.mark.parametrize(
    "name",
    sorted(
        re.findall(r'"(portero_\w+)"', (LUA / "metrics.lua").read_text())
        + [f"{one._name}_total" for one in (metrics.LOGINS, metrics.REVOCATIONS, metrics.REFUSALS)]
        + ["portero_sessions_active"]
    ),
)
def test_every_metric_is_in_the_api_page(name: str) -> None:
    assert f"| `{name}` |" in section(API, "## Metrics")


def verbs() -> list[str]:
    """Every command, as it is typed."""
    whole = commands.parser("").format_help()
    return re.findall(r"(?m)^    ([a-z-]+)\b", whole)


def test_commands_are_found_at_all() -> None:
    assert {"init", "check", "users", "restore"} <= set(verbs())


@pytest.mark.parametrize("verb", verbs())
def test_every_command_is_in_a_page(verb: str) -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    assert re.search(rf'(-m issuer|portero-admin|ARGS=")\s*{verb}\b', text)


def test_the_kind_that_contributing_shows_is_a_good_one_and_one_file() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("<!-- tested: kind -->\n")[2]
    kind = text.partition("```yaml\n")[2].partition("```")[0]
    shipped = policy.gather(POLICY_FILE)
    sources = Sources(shipped.policy, {**shipped.kinds, "tabby": kind})
    routes = policy.parse(sources, Terms("tabby")).compiled["routes"]
    classes = {route["class"] for route in routes if route["answered_by"] in ("llm", "discovery")}
    assert classes == {"inference", "models", "health"}
    assert policy.parse(sources, Terms())


def test_what_contributing_names_is_there() -> None:
    text = re.sub(r"(?s)<!-- tested.*?```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text())
    named = set(re.findall(r"`([\w./-]+\.(?:py|lua|sh|json|ya?ml|md|conf)|[\w/-]+/)`", text))
    folders = ("issuer", "openresty", "policy", "run", "tests", "docs")
    everything = [path.as_posix() for folder in folders for path in (ROOT / folder).rglob("*")]
    everything += [path.as_posix() for path in ROOT.glob("*")]
    named = {name for name in named if "tabby" not in name}
    assert len(named) > 20
    assert [
        name
        for name in named
        if not any(path.endswith(f"/{name.strip('/')}") for path in everything)
    ] == []


def test_the_forge_runs_what_a_person_runs() -> None:
    flow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    assert len(re.findall(r"(?m)\bmake test$", flow)) == 2
    assert all(re.search(r"@v\d+\.\d+\.\d+$", use) for use in re.findall(r"uses: (\S+)", flow))


def admin_commands() -> list[str]:
    """Every command that a page prints for `make admin`."""
    found = [
        text
        for page in pages()
        for text in re.findall(r'make admin ARGS="([^"…]+)"', page.read_text())
    ]
    return sorted(set(found))


def test_commands_for_make_admin_are_found_at_all() -> None:
    assert len(admin_commands()) > 10


@pytest.mark.parametrize("command", admin_commands())
def test_every_command_for_make_admin_is_one_that_the_issuer_knows_p4(command: str) -> None:
    words = shlex.split(command)
    assert callable(commands.parser(None).parse_args(words).command)


def test_the_pictures_of_the_readme_are_there_and_small() -> None:
    named = re.findall(r"!\[[^\]]{10,}\]\(([^)]+\.png)\)", (ROOT / "README.md").read_text())
    assert len(named) == 2
    for name in named:
        picture = (ROOT / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 150_000, name
