"""What the package's texts show works: every example in a docstring is run, against a gateway in
this process, and so is the README's code.
"""

import ast
import asyncio
import doctest
import gc
import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_portero import MODEL, SECRET, USERNAME, FakePortero, Reply

import portero

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
MODULES = [f"portero.{found.name}" for found in pkgutil.iter_modules(portero.__path__)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: What newer Porteros have.
NEWER = {
    "/account": Reply(200, {"role": "agent_reasoning"}),
    "/account/usage": Reply(200, []),
    "/account/keys": Reply(200, {"keys": [], "id": "abc", "key": "canary-key"}),
    "/account/keys/abcdefgh12345678": Reply(204),
}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakePortero]:
    with FakePortero(time.monotonic) as running:
        for name, value in {"URL": running.url, "USERNAME": USERNAME, "SECRET": SECRET}.items():
            monkeypatch.setenv(f"PORTERO_{name}", value)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        running.scripted.update({path: [reply] * 9 for path, reply in NEWER.items()})
        yield running


def in_a_loop(source: str) -> str:
    """An example that awaits, as `python -m asyncio` runs it; `client` is an open one."""
    return f"asyncio.run(_with_client(lambda client: {source.strip()}))\n"


async def _with_client(ask: Any) -> Any:
    async with portero.AsyncPortero() as client:
        return await ask(client)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_every_example_of_a_docstring_runs(module: str, gateway: FakePortero) -> None:
    failed = []
    for test in examples(module):
        test.globs.update(
            portero=portero, MODEL=MODEL, asyncio=asyncio, httpx2=httpx2, _with_client=_with_client
        )
        for example in test.examples:
            if example.source.startswith("await "):
                example.source = in_a_loop(example.source.removeprefix("await "))
        told: list[str] = []
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
        failed += told if outcome.failed else []
    assert failed == []


def public() -> Iterator[tuple[str, Any]]:
    """Every public thing, and every public method of each class that is no error."""
    for name in portero.__all__:
        thing = getattr(portero, name)
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for method, function in vars(thing).items():
                if not method.startswith("_") and (
                    inspect.isfunction(function) or isinstance(function, property)
                ):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize(
    ("name", "thing"), list(public()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_everything_public_says_what_it_is(name: str, thing: Any) -> None:
    assert len(inspect.getdoc(thing) or "") > 10
    if inspect.isfunction(thing):
        assert ">>> " in (thing.__doc__ or ""), "a runnable line"
        assert "return" in thing.__annotations__


@pytest.mark.parametrize("number", range(3))
def test_the_readmes_code_runs(number: int, gateway: FakePortero) -> None:
    code = re.findall(r"(?s)```python\n(.*?)```", README)[number]
    code = code.replace('"…"', repr(MODEL))
    ast.parse(code)
    made = {"portero": portero, "httpx2": httpx2, "url": f"{gateway.url}/v1/models"}
    exec(code, made)


def test_the_readme_has_no_more_code_than_is_run() -> None:
    assert README.count("```python") == 3


def test_the_readme_names_every_error_and_setting() -> None:
    for name in portero.__all__:
        thing = getattr(portero, name)
        if inspect.isclass(thing) and issubclass(thing, portero.PorteroError):
            assert re.search(rf"\b{name}\b", README), name
    for name in inspect.signature(portero.TokenSource).parameters:
        assert name == "clock" or f"`{name}`" in README, name
