"""The clients as README.md and docs/clients.md make them: the code there is run, with the real
libraries and a real gateway. They log in once for many requests, and again in time (_p5).
"""

import asyncio
import gc
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
import requests
from langchain_openai import ChatOpenAI

from run.commands import ROOT
from tests.stack.clients import answers, npm
from tests.stack.clients.python_clients import HI
from tests.support.deployment import USERS, Caller, Local, deployed
from tests.support.docs import block, names
from tests.support.policies import write_policy
from tests.support.upstream import Upstream, wait_for

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DOCUMENTED = "http://127.0.0.1:8080"
USER = "AGNRTEST01"
#: A token lives up to a second less, as it tells its time in whole ones: a fifth of this is more.
SHORT_SECONDS = 8


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


@pytest.fixture(scope="module")
def short_lived(local_upstream: Upstream) -> Iterator[Local]:
    with deployed(local_upstream.url, TOKEN_TTL_SECONDS=str(SHORT_SECONDS)) as running:
        yield running


def snippets(running: Local, *parts: tuple[str, str]) -> dict[str, Any]:
    """What the code of some parts of the docs makes, asking this gateway."""
    made: dict[str, Any] = {
        "asyncio": asyncio,
        "ollama": ollama,
        "openai": openai,
        "requests": requests,
        "threading": threading,
        "time": time,
        "ChatOpenAI": ChatOpenAI,
        "USERNAME": USER,
        "SECRET": USERS[USER][0],
        "MODEL": "tiny",
    }
    for page, name in parts:
        exec(block(page, name).replace(DOCUMENTED, running.gateway), made)
    return made


README = ("README.md", "clients")
PYTHON = ("docs/clients.md", "python")


def logins(running: Local) -> int:
    """How many have logged in so far, as the issuer counts."""
    text = requests.get(f"{running.issuer}/metrics", timeout=5).text
    counts = re.findall(r'^portero_logins_total\{.*outcome="ok".*\} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, counts)))


def chat_of_openai(made: dict[str, Any]) -> object:
    return made["client"].chat.completions.create(model="tiny", messages=HI)


def chat_of_async_openai(made: dict[str, Any]) -> object:
    async def ask() -> list[object]:
        async with made["async_client"] as client:
            asked = [client.chat.completions.create(model="tiny", messages=HI) for _ in range(5)]
            return list(await asyncio.gather(*asked))

    return asyncio.run(ask())


def chat_of_langchain(made: dict[str, Any]) -> object:
    return made["chat"].invoke("hi")


def chat_of_ollama(made: dict[str, Any]) -> object:
    return made["llama"].chat(model="tiny", messages=HI)


def test_the_readmes_clients_log_in_once_for_many_requests_of_many_threads_p5(
    running: Local, said: Upstream
) -> None:
    made = snippets(running, README)
    before = logins(running)
    asks = [chat_of_openai, chat_of_langchain, chat_of_ollama] * 8
    with ThreadPoolExecutor(len(asks)) as threads:
        assert all(threads.map(lambda ask: ask(made), asks))
    chat_of_async_openai(made)
    assert len(said.seen) == len(asks) + 5
    assert logins(running) - before == 1


def test_the_docs_other_python_clients_log_in_once_for_many_requests_p5(
    running: Local, said: Upstream
) -> None:
    made = snippets(running, README, PYTHON)
    before = logins(running)
    request = {"model": "tiny", "messages": HI, "max_tokens": 9}

    async def ask() -> list[object]:
        async with made["async_claude"] as client:
            return list(
                await asyncio.gather(*[client.messages.create(**request) for _ in range(5)])
            )

    for _ in range(3):
        assert made["claude"].messages.create(**request).content[0].text == "pong"
        assert made["chat"].invoke("hi").content
        assert made["embeddings"].embed_query("hi") == [0.5, 0.25]
    asyncio.run(ask())
    assert len(said.seen) == 14
    assert logins(running) - before == 1


def test_the_readmes_clients_outlive_their_first_token_without_a_refusal_p5(
    short_lived: Local, said: Upstream
) -> None:
    made = snippets(short_lived, README)
    before, begun = logins(short_lived), time.monotonic()

    def used() -> set[str]:
        for ask in (chat_of_openai, chat_of_langchain, chat_of_ollama):
            assert ask(made)
        return {one for seen in said.seen for one in seen.values("x-auth-token-id")}

    wait_for(lambda: len(used()) == 2, SHORT_SECONDS, "a second token, before the first is over")
    assert time.monotonic() - begun >= 0.8 * SHORT_SECONDS
    assert logins(short_lived) - before == 2


def test_a_login_that_fails_is_told_and_tried_again_p5(running: Local) -> None:
    made = snippets(running, README)
    made["token"].auth = (USER, "wrong")
    with pytest.raises(requests.HTTPError, match="401"):
        made["token"]()
    made["token"].auth = (USER, USERS[USER][0])
    assert chat_of_openai(made)


# Node.

ASK_ALL = """
import { generateText } from "ai";
const messages = [{ role: "user", content: "hi" }];
const asks = [
  () => openai.chat.completions.create({ model, messages }),
  () => anthropic.messages.create({ model, messages, max_tokens: 9 }),
  () => ollama.chat({ model, messages }),
  () => generateText({ model: portero(model), prompt: "hi" }),
  () => chat.invoke("hi"),
  () => claude.invoke("hi"),
];
const together = () => Promise.all(asks.map((ask) => ask()));
"""


def node(running: Local, code: str, *arguments: str) -> str:
    """What a script says that begins with the docs' Node code."""
    parts = [block("docs/clients.md", name) for name in ("node", "node-clients")]
    text = "\n".join(parts).replace(DOCUMENTED, running.gateway) + ASK_ALL + code
    script = npm.packages() / f"docs-{os.getpid()}.mjs"
    script.write_text(text)
    try:
        done = subprocess.run(
            ["node", str(script), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PORTERO_USERNAME": USER,
                "PORTERO_SECRET": USERS[USER][0],
                "MODEL": "tiny",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_docs_node_clients_log_in_once_for_many_requests_p5(
    running: Local, said: Upstream
) -> None:
    before = logins(running)
    node(running, "await together(); await together();")
    assert len(said.seen) == 12
    assert logins(running) - before == 1


def test_the_docs_node_token_is_renewed_at_80_percent_of_its_life_p5(
    short_lived: Local, said: Upstream
) -> None:
    before = logins(short_lived)
    told = node(
        short_lived,
        """
        const begun = performance.now();
        const first = await token();
        while (await token() === first) await new Promise((go) => setTimeout(go, 10));
        console.log((performance.now() - begun) / 1000);
        await together();
        """,
    )
    assert 0.8 * SHORT_SECONDS <= float(told) < SHORT_SECONDS
    assert len(said.seen) == 6
    assert logins(short_lived) - before == 2


# Others.


def test_the_docs_curl_line_streams_with_the_command_that_prints_a_token(
    running: Local, tmp_path: Path
) -> None:
    command = tmp_path / "bin" / "portero-token"
    login = tmp_path / ".config" / "portero" / "login"
    for path in (command, login):
        path.parent.mkdir(parents=True)
    command.write_text(
        block("docs/clients.md", "portero-token").replace(DOCUMENTED, running.gateway)
    )
    command.chmod(0o700)
    login.write_text(f'user = "AGIATEST01:{USERS["AGIATEST01"][0]}"\n')
    line = block("docs/clients.md", "curl").replace(DOCUMENTED, running.gateway)
    done = subprocess.run(
        ["sh", "-c", line.replace('"MODEL"', '"tiny"')],
        env={"PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.count("pong") == len(answers.PIECES), done.stderr


def test_the_docs_role_for_tools_with_a_fixed_key_is_one_that_both_sides_take(
    local_upstream: Upstream, tmp_path: Path
) -> None:
    written = json.loads(block("docs/clients.md", "long-lived").replace('"MODEL"', '"tiny"'))

    def add(content: dict[str, Any]) -> None:
        content["roles"].update(written)

    roles = write_policy(tmp_path / "policy.yaml", add)
    with deployed(local_upstream.url, POLICY_FILE=str(roles)) as running:
        credentials = running.credentials
        name, secret = "TOOLTEST01", USERS[USER][0]
        (line,) = [one for one in credentials.read_text().splitlines() if one.startswith(USER)]
        credentials.write_text(credentials.read_text() + line.replace(USER, name) + "\n")
        caller = Caller(running)
        login = wait_for(
            lambda: answered(lambda: caller.login(name, secret, "/llm/login")), 10, "the login"
        ).json()
        assert login["ttl_seconds"] == 86400
        assert caller.call(login["token"]).status_code == 200
        assert caller.call(login["token"], body={"model": "x"}).status_code == 404


def answered(ask: Callable[[], requests.Response]) -> requests.Response | None:
    answer = ask()
    return answer if answer.status_code == 200 else None


def test_every_part_of_the_docs_that_says_so_is_tested() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for page in ("README.md", "docs/clients.md"):
        assert names(page)
        for name in names(page):
            assert f'"{name}"' in tests, f"{page}: {name}"
