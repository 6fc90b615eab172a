"""The house stays as docs/architecture.md draws it."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "issuer").rglob("*.py"))
MAX_LINES = 60

FLASK = {
    "issuer/web/__init__.py",
    "issuer/web/account.py",
    "issuer/web/admin.py",
    "issuer/web/caller.py",
    "issuer/web/chat.py",
    "issuer/web/console.py",
    "issuer/web/responses.py",
    "issuer/web/health.py",
    "issuer/web/login.py",
    "issuer/web/oauth.py",
    "issuer/web/pages.py",
    "issuer/web/traced.py",
    "issuer/web/usage.py",
    "issuer/web/validate.py",
}
STORE = {
    f"issuer/store/{name}.py"
    for name in ("audit", "database", "documents", "leases", "sessions", "tables", "usage")
}
#: Who alone may import what.
OWNERS = {
    "flask": FLASK,
    "werkzeug": FLASK,
    "http": {"issuer/sync/exchange.py"},
    "socket": {"issuer/sync/exchange.py"},
    "sqlite3": {"issuer/store/database.py"},
    "sqlalchemy": STORE,
    "jwt": {"issuer/tokens/__init__.py", "issuer/keys/__init__.py"},
    "bcrypt": {"issuer/users/credentials.py"},
    "prometheus_client": {"issuer/metrics.py"},
}
#: prometheus_client and gunicorn are told by the environment, and asked about it.
READ_THE_ENVIRONMENT = {
    "issuer/config.py",
    "issuer/__init__.py",
    "issuer/gunicorn.conf.py",
    "issuer/metrics.py",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=name_of)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods; not what is inside a function."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body, f"{node.name}.")


def test_there_is_something_to_look_at() -> None:
    assert {"issuer/tokens/__init__.py", "issuer/store/database.py"} <= {
        name_of(path) for path in FILES
    }


def test_arrows_point_down() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@EVERY_FILE
def test_a_library_is_imported_by_its_owner_alone(path: Path) -> None:
    strangers = {
        library
        for library, owners in OWNERS.items()
        if library in imported(tree_of(path)) and name_of(path) not in owners
    }
    assert not strangers


@EVERY_FILE
def test_the_environment_is_read_in_few_places(path: Path) -> None:
    read = [
        node.attr
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    ]
    assert not read or name_of(path) in READ_THE_ENVIRONMENT
    assert not re.search(r"from os import .*(environ|getenv)", path.read_text())


@EVERY_FILE
def test_all_that_is_public_says_what_it_is_for(path: Path) -> None:
    tree = tree_of(path)
    silent = [name for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert ast.get_docstring(tree)
    assert not silent


@EVERY_FILE
def test_no_function_is_long(path: Path) -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function)
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


@EVERY_FILE
def test_a_file_is_named_for_what_it_owns(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "base", "misc"}


@EVERY_FILE
def test_nothing_is_caught_and_forgotten(path: Path) -> None:
    """A bare `except`, or one of everything, may stand only where it logs or raises again."""
    careless = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(
            isinstance(inner, ast.Raise) or ast.unparse(inner).startswith("log.")
            for inner in ast.walk(node)
            if isinstance(inner, ast.Raise | ast.Call)
        )
    ]
    assert not careless


def sentences(path: Path) -> Iterator[str]:
    """The texts of three words and more that are no docstrings."""
    tree = ast.parse(path.read_text())
    said = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in said:
            text = one.value.strip()
            if len(text.split()) > 2:
                yield text


def test_what_callers_are_told_is_written_in_one_place() -> None:
    spoken = [path for path in FILES if path.parent.name == "web" or path.name == "errors.py"]
    told = [(text, path.name) for path in spoken for text in set(sentences(path))]
    counts = Counter(text for text, _ in told)
    assert len(counts) > 40
    assert [one for one in told if counts[one[0]] > 1] == []


def test_a_command_starts_without_a_web_framework() -> None:
    asks = "import issuer.__main__, sys; print({'flask', 'werkzeug'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
