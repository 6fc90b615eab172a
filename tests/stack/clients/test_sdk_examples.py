"""Every example of the client package runs against a gateway and the bundled LLM; Ollama's, whose
API that one does not speak, against the scripted server.
"""

import gc
import os
import re
import runpy
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest

from run.commands import ROOT
from run.set_up import PYTHON
from tests.support.deployment import USERS, Caller, Local, answers, deployed
from tests.support.policies import write_policy
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

EXAMPLES = ROOT / "sdk" / "examples"
LOAD_SECONDS = 120

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


class Example(NamedTuple):
    """Who runs it, and what it then prints (a pattern)."""

    user: str
    prints: str


CASES = {
    "quickstart": Example("AGNRTEST01", r"smollm2.*: .*\n\d+ tokens, request \w+"),
    "configuration": Example("AGNRTEST01", r"one token for both: True\nnot accepted: url must"),
    "tokens": Example(
        "AGNRTEST01", r"(?s)login of AGNRTEST01.*agent_reasoning, 1\d\d s.*again: 200"
    ),
    "streaming": Example("AGNRTEST01", r"\w+"),
    "gather": Example("AGNFTEST01", r"(?s)France: .*Spain: .*Japan: "),
    "similarity": Example("AGNRTEST01", r"0\.\d{3} Cats"),
    "openai_client": Example("AGIATEST01", r"\w+.*\n.*\w"),
    "anthropic_client": Example("AGNRTEST01", r"\w+"),
    "langchain_client": Example("AGNRTEST01", r"\d{3} dimensions"),
    "pipeline": Example("AGIATEST01", r"(?s)draft \[\w+\].*critique \[\w+\].*refine \[\w+\]"),
    "api_keys": Example("AGNRTEST01", r"(?s)sk-portero-….*Open WebUI.*dead at once: 401"),
    "person": Example("USRSTEST01", r"\w+"),
    "monitoring": Example("MNTRTEST01", r"(?s)portero_decisions_total\{.*may not infer"),
    "admin": Example("ADMNTEST01", r"ADMNTEST01 \(admin\) until \d+"),
    "errors_and_limits": Example(
        "AGNRTEST01", r"404 model_not_found.*\n400 invalid_.*\n\d+ of 1000 requests"
    ),
    "flask_app": Example("AGNRTEST01", r"\w+"),
    "tracing": Example("AGNRTEST01", r"status 200, request \w+, usage \d+\n\{.*'logout': 1"),
}


@contextmanager
def bundled_llm() -> Iterator[str]:
    """The base URL of the LLM that comes with Portero."""
    (port,) = free_ports(1)
    env = {**os.environ, "LLM_LISTEN": f"127.0.0.1:{port}"}
    server = subprocess.Popen(
        [str(PYTHON), "demo/llm.py"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL
    )
    try:
        health = f"http://127.0.0.1:{port}/health"
        wait_for(partial(answers, health, 200), LOAD_SECONDS, "the model is loaded")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def limit(content: dict[str, Any]) -> None:
    """One role has limits, to be told of what is left of them."""
    content["roles"]["agent_reasoning"].update(models=["smollm2*"], requests_per_minute=1000)


@pytest.fixture(scope="module")
def with_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A deployment in front of it."""
    roles = write_policy(tmp_path_factory.mktemp("roles") / "policy.yaml", limit)
    with bundled_llm() as llm, deployed(llm, POLICY_FILE=str(roles)) as one:
        yield one


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an example as a program, and answers what it printed."""

    def run(gateway: str, name: str, user: str, *words: str) -> str:
        for key, value in {"URL": gateway, "USERNAME": user, "SECRET": USERS[user][0]}.items():
            monkeypatch.setenv(f"PORTERO_{key}", value)
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(path), *words])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", CASES)
def test_an_example_runs_against_the_bundled_llm(
    with_model: Local, run: Callable[..., str], name: str
) -> None:
    told = run(with_model.gateway, name, CASES[name].user)
    assert re.search(CASES[name].prints, told), told


def test_the_admins_example_revokes(with_model: Local, run: Callable[..., str]) -> None:
    token = Caller(with_model).token("USRSTEST01")
    told = run(with_model.gateway, "admin", "ADMNTEST01", "USRSTEST01", "MNTRNOBODY")
    assert re.search(r"USRSTEST01: [1-9] revoked\nMNTRNOBODY is not logged in", told)
    assert Caller(with_model).call(token).status_code == 401


def test_the_ollama_example_runs_where_its_api_is_spoken(
    running: Local, run: Callable[..., str]
) -> None:
    assert "pongpong" in run(running.gateway, "ollama_client", "AGIATEST01")


def test_every_example_is_run_and_listed() -> None:
    listed = set(re.findall(r"(?m)^\| \[(\w+)\.py\]", (EXAMPLES / "README.md").read_text()))
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*CASES, "ollama_client"} == listed
