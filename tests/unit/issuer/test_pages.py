"""The texts of the pages, what they are served with, and the libraries that others wrote."""

import hashlib
import re
from pathlib import Path

import pytest

from issuer.web import pages

ROOT = Path(__file__).resolve().parents[3]
WEB = ROOT / "issuer" / "web"
STATIC = WEB / "static"
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()
LOCATIONS = (ROOT / "openresty" / "conf" / "public.conf").read_text()
SCRIPTS = sorted(STATIC.glob("*.js"))


def gaps(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_the_same_texts_with_the_same_gaps() -> None:
    english, spanish = (pages.texts(language) for language in pages.LANGUAGES)
    assert list(english) == list(spanish)
    for name, text in english.items():
        assert gaps(spanish[name]) == gaps(text), name
        assert spanish[name].strip(), name


def test_every_text_that_a_page_asks_for_is_there() -> None:
    asked = set()
    for path in (WEB / "templates").glob("*.html"):
        asked |= set(re.findall(r"""\bt\(['"]([\w.]+)['"]""", path.read_text()))
        asked |= set(re.findall(r"""\bway\("[^"]*", ['"]([\w.]+)['"]""", path.read_text()))
    said = set(re.findall(r'say\("(\w+)"', (STATIC / "chat.js").read_text()))
    asked |= {f"chat.{name}" for name in said}
    assert len(asked) > 60
    assert asked - pages.texts("en").keys() == set()


@pytest.mark.parametrize("name", ["markdown-it.js", "purify.js"])
def test_what_others_wrote_is_as_they_published_it(name: str) -> None:
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    assert f"`{digest}`" in DEPENDENCIES
    assert name in (STATIC / "LICENSES.txt").read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_an_open_path(path: Path) -> None:
    assert f"location = /static/{path.name} " in LOCATIONS


@pytest.mark.parametrize("policy", [pages.SCRIPTED_POLICY, pages.CHAT_POLICY])
def test_the_policy_of_a_page_with_scripts_runs_and_asks_nothing_from_elsewhere(
    policy: str,
) -> None:
    rules = dict(one.split(" ", 1) for one in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == rules["form-action"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy


def test_what_the_overview_calls_errors_are_all_refusals_with_a_status_of_5xx() -> None:
    source = (WEB.parents[1] / "openresty/lua/portero/errors.lua").read_text()
    table = source.partition("local ERRORS = {")[2].partition("\n}\n")[0]
    script = (STATIC / "console.js").read_text()
    listed = script.partition("const ERRORS = [")[2].partition("]")[0]
    codes = re.findall(r"(\w+) = \{\s*5\d\d,", table)
    assert "upstream_unavailable" in codes
    assert re.findall(r'"(\w+)"', listed) == codes
