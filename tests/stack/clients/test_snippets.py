"""The clients as README.md and docs/clients.md make them: the code there is run, with the real
libraries and a real gateway. They log in once for many requests, and again in time (_p5).
"""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import portero
import pytest
import requests

from run.commands import ROOT
from tests.stack.clients import answers, npm
from tests.stack.clients.python_clients import HI
from tests.support.deployment import USERS, Caller, Local, deployed
from tests.support.docs import block, names
from tests.support.forge import parts
from tests.support.ports import free_ports
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

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
        "portero": portero,
        "USERNAME": USER,
        "SECRET": USERS[USER][0],
        "MODEL": "tiny",
        "MESSAGES": HI,
    }
    for page, name in parts:
        exec(block(page, name).replace(DOCUMENTED, running.gateway), made)
    return made


README = ("README.md", "clients")
PYTHON = ("docs/clients.md", "python")


def logins(running: Local) -> int:
    """How many have logged in so far, as the issuer counts."""
    text = requests.get(f"{running.issuer}/metrics", timeout=20).text
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


def chat_of_langchain_ollama(made: dict[str, Any]) -> object:
    return made["llama_chat"].invoke("hi").content


def embedded(made: dict[str, Any]) -> object:
    return made["embeddings"].embed_query("hi")


ASKED: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 9}


def chat_of_anthropic(made: dict[str, Any]) -> object:
    return made["claude"].messages.create(**ASKED).content[0].text


def chat_of_async_anthropic(made: dict[str, Any]) -> object:
    async def ask() -> object:
        async with made["async_claude"] as client:
            return await client.messages.create(**ASKED)

    return asyncio.run(ask())


def test_the_readmes_client_answers(running: Local, said: Upstream) -> None:
    made = snippets(running, README)
    assert made["answer"].choices[0].message.content == "pong"
    assert said.seen[-1].values("x-auth-user") == [USER]


def test_the_docs_python_clients_log_in_once_for_many_requests_of_many_threads_p5(
    running: Local, said: Upstream
) -> None:
    made = snippets(running, PYTHON)
    made["source"].logout()  # others of this process may hold a token of the same user
    before = logins(running)
    asks = [
        chat_of_openai,
        chat_of_langchain,
        chat_of_ollama,
        chat_of_langchain_ollama,
        chat_of_anthropic,
        embedded,
    ] * 4
    with ThreadPoolExecutor(len(asks)) as threads:
        assert all(threads.map(lambda ask: ask(made), asks))
    assert chat_of_async_openai(made)
    assert chat_of_async_anthropic(made)
    assert len(said.seen) == len(asks) + 6
    assert logins(running) - before == 1


def test_the_docs_python_clients_outlive_their_first_token_without_a_refusal_p5(
    short_lived: Local, said: Upstream
) -> None:
    made = snippets(short_lived, PYTHON)
    before, begun = logins(short_lived), time.monotonic()

    def used() -> set[str]:
        for ask in (chat_of_openai, chat_of_langchain, chat_of_ollama):
            assert ask(made)
        return {one for seen in said.seen for one in seen.values("x-auth-token-id")}

    wait_for(lambda: len(used()) == 2, SHORT_SECONDS, "a second token, before the first is over")
    # A client may rely on a second less than the lifetime, and renews at 75 to 80 % of that.
    assert time.monotonic() - begun >= 0.75 * (SHORT_SECONDS - 1)
    assert logins(short_lived) - before == 2


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


@pytest.fixture
def shell(running: Local, tmp_path: Path) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Runs a line of the docs where the client package is installed and somebody is logged in."""
    secret, command = tmp_path / "secret", tmp_path / "bin" / "portero"
    secret.write_text(USERS["AGIATEST01"][0])
    command.parent.mkdir()
    source = ROOT / "sdk" / "src"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={source} exec {sys.executable} -m portero "$@"\n')
    command.chmod(0o700)
    env = {"PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(line: str) -> "subprocess.CompletedProcess[str]":
        text = line.replace(DOCUMENTED, running.gateway).replace("MODEL", "tiny")
        return subprocess.run(
            ["sh", "-c", text], env=env, capture_output=True, text=True, timeout=60
        )

    words = f"--url {running.gateway} --username AGIATEST01 --secret-file {secret}"
    done = run(f"portero login {words}")
    assert done.returncode == 0, done.stderr
    return run


Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


def test_the_docs_curl_line_streams_with_the_command_that_prints_a_token(shell: Shell) -> None:
    done = shell(block("docs/clients.md", "curl"))
    assert done.stdout.count("pong") == len(answers.PIECES), done.stderr


def test_the_docs_api_key_is_made_listed_and_good(running: Local, shell: Shell) -> None:
    create, listed = re.findall(r"(?m)^\$ (.*)$", block("docs/clients.md", "api-key"))
    key = shell(create).stdout.strip()
    assert key.startswith("sk-portero-")
    (row,) = json.loads(shell(listed).stdout)
    assert (row["name"], row["models"]) == ("Open WebUI", ["tiny"])
    assert Caller(running).call(key).status_code == 200
    assert Caller(running).call(key, body={"model": "other"}).status_code == 404


def test_the_docs_script_prints_a_token_without_python(running: Local, tmp_path: Path) -> None:
    login = tmp_path / ".config" / "portero" / "login"
    login.parent.mkdir(parents=True)
    login.write_text(f'user = "AGIATEST01:{USERS["AGIATEST01"][0]}"\n')
    script = block("docs/clients.md", "portero-token").replace(DOCUMENTED, running.gateway)
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert Caller(running).call(done.stdout.strip()).status_code == 200


@pytest.fixture
def api_key(running: Local) -> Iterator[str]:
    """A key of the user of these tests."""
    caller = Caller(running)
    body = {"name": "a tool", "days": 30}
    made = caller.call(caller.token(USER), "/account/keys", body=body).json()
    yield made["key"]
    caller.call(caller.token(USER), f"/account/keys/{made['id']}", method="DELETE")


def test_stock_clients_need_nothing_but_an_api_key(
    running: Local, said: Upstream, api_key: str
) -> None:
    made: dict[str, Any] = {"KEY": api_key, "MODEL": "tiny"}
    exec(block("docs/clients.md", "api-key-clients").replace(DOCUMENTED, running.gateway), made)
    before = logins(running)
    answer = made["gpt"].chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.content == "pong"
    pieces = made["gpt"].chat.completions.create(model="tiny", messages=HI, stream=True)
    assert [one.choices[0].delta.content for one in pieces if one.choices[0].delta.content]
    message = made["claude"].messages.create(model="tiny", messages=HI, max_tokens=9)
    assert message.content[0].text == "pong"
    assert made["llama"].chat(model="tiny", messages=HI).message.content == "pong"
    assert made["chain"].invoke("hi").content == "pong"
    assert [seen.values("x-auth-token-id") for seen in said.seen] == [[api_key[11:27]]] * 5
    assert logins(running) == before


def test_a_real_prometheus_scrapes_with_nothing_but_an_api_key(
    running: Local, tmp_path: Path
) -> None:
    caller, monitor = Caller(running), "MNTRTEST01"
    body = {"name": "Prometheus", "days": 90}
    key = caller.call(caller.token(monitor), "/account/keys", body=body).json()["key"]
    (tmp_path / "portero.key").write_text(key)
    (port,) = free_ports(1)
    config = block("docs/clients.md", "prometheus").replace(
        "127.0.0.1:8080", running.gateway.removeprefix("http://")
    )
    config = config.replace("/etc/prometheus/portero.key", str(tmp_path / "portero.key"))
    (tmp_path / "prometheus.yml").write_text(f"global:\n  scrape_interval: 1s\n{config}")
    words = [
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    process = subprocess.Popen(["prometheus", *words])
    try:
        query = f"http://127.0.0.1:{port}/api/v1/query"

        def ready() -> bool:
            try:
                answer = requests.get(query, params={"query": "portero_ready"}, timeout=20)
            except requests.ConnectionError:
                return False
            found = answer.json()["data"]["result"] if answer.ok else []
            return [one["value"][1] for one in found] == ["1"]

        wait_for(ready, 30, "Prometheus has Portero's metrics")
    finally:
        process.terminate()
        process.wait(20)


def test_the_docs_oauth_session_gets_its_token_by_itself(running: Local) -> None:
    made = snippets(running, ("docs/clients.md", "authlib"))
    try:
        assert made["models"]["data"]
        scope = parts(made["session"].token["access_token"])[1]["scope"]
        assert scope == "inference models"
    finally:
        made["session"].close()


def test_every_part_of_the_docs_that_says_so_is_tested() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for page in ("README.md", "docs/clients.md"):
        assert names(page)
        for name in names(page):
            assert f'"{name}"' in tests, f"{page}: {name}"
