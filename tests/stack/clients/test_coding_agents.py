"""Claude Code and Codex, unchanged: each runs a turn against the scripted LLM server, set up as
docs/clients.md says, and tells its own right error where it is refused or its stream is cut.

Each runs in a network of its own, from which only the gateway can be reached: what it would tell
its maker, or fetch from there, goes nowhere.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from run.commands import ROOT
from tests.stack.clients import npm
from tests.stack.clients.enclosed import enclosed, gateway_socket, why_not
from tests.stack.clients.situations import REFUSALS, Asked, endless, refused
from tests.support.deployment import USERS, Caller, Local
from tests.support.docs import block
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

PAGE = "docs/clients.md"
DOCUMENTED = "http://127.0.0.1:8080"
TURN_SECONDS = 150
PROMPT = "say pong"
#: The client package's command, as it is where the package is installed.
PORTERO = f"""#!/bin/sh
PYTHONPATH={ROOT / "sdk" / "src"} exec {sys.executable} -m portero "$@"
"""


class Told:
    """What an agent has said on its standard output, one JSON text a line."""

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
        #: For when a test fails.
        self.output = output

    def one(self, kind: str) -> dict[str, Any]:
        """The last line of a kind."""
        of_kind = [line for line in self.lines if line["type"] == kind]
        assert of_kind, self.output
        return of_kind[-1]


def evidence(told: Told, running: Local) -> str:
    """For when a test fails: what both sides have said of it."""
    return f"{told.output}\n{running.output('gateway')[-4000:]}"


@dataclass(frozen=True)
class Home:
    """A person's home and work folder, of the test's own; and the way to the gateway."""

    path: Path
    socket: Path
    gateway: str

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """A file of the person's."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def documented(self, part: str) -> str:
        """A part of the page, for this gateway and a model that is there."""
        text = block(PAGE, part).replace(DOCUMENTED, self.gateway).replace('"MODEL"', '"tiny"')
        return text.replace("/home/you", str(self.path))

    def can_log_in(self, user: str) -> None:
        """The command that prints a token, and what it has kept of a login."""
        self.write("bin/portero", PORTERO, 0o700)
        self.write("secret", USERS[user][0])
        secret = str(self.path / "secret")
        words = ("--url", self.gateway, "--username", user, "--secret-file", secret)
        command = [str(self.path / "bin" / "portero"), "login", *words]
        subprocess.run(command, env={"HOME": str(self.path)}, check=True, capture_output=True)

    @contextmanager
    def running(
        self, command: list[str], settings: Mapping[str, str]
    ) -> Iterator["subprocess.Popen[str]"]:
        """An agent in its own network; ended if it does not end."""
        work = self.path / "work"
        work.mkdir(exist_ok=True)
        port = int(self.gateway.rpartition(":")[2])
        programs = f"{self.path / 'bin'}:{os.environ['PATH']}"
        path = {"PATH": programs, "PYTHONPATH": str(ROOT), "HOME": str(self.path)}
        with subprocess.Popen(
            enclosed(self.socket, port, command),
            cwd=work,
            env={**path, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def home(running: Local, tmp_path: Path) -> Iterator[Home]:
    missing = why_not()
    if missing:
        npm.leave_out(f"the coding agents are not tested: {missing}")
    port = int(running.gateway.rpartition(":")[2])
    with gateway_socket(tmp_path / "gateway", port) as socket:
        yield Home(tmp_path, socket, running.gateway)


@dataclass(frozen=True)
class Agent:
    """A coding agent: its program, how it is set up with a fixed token and with a command, and what
    it says of a refusal.
    """

    program: Callable[[Path], list[str]]
    with_token: Callable[[Home, Asked], dict[str, str]]
    with_command: Callable[[Home], None]
    answer: Callable[[Told], str]
    refusal: Callable[[Told], str]
    #: Status -> what it says of it.
    words: Mapping[int, str]
    #: What it says of a stream that is cut for a reason.
    cut: Callable[[str], str]

    def run(
        self,
        home: Home,
        settings: Mapping[str, str],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Told:
        """One turn."""
        with home.running(self.program(npm.packages()), settings) as process:
            meanwhile()
            output, _ = process.communicate(timeout=TURN_SECONDS)
            return Told(process.returncode, output)


# Claude Code.


def claude(packages: Path) -> list[str]:
    machine = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
    binary = packages / f"node_modules/@anthropic-ai/claude-code-linux-{machine}/claude"
    return [str(binary), "-p", PROMPT, "--output-format", "stream-json", "--verbose"]


def claude_with_token(home: Home, asked: Asked) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": asked.gateway,
        "ANTHROPIC_AUTH_TOKEN": asked.token,
        "ANTHROPIC_MODEL": asked.model,
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Else it asks anew, without a stream, and tells what becomes of that.
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    }


def claude_with_command(home: Home) -> None:
    home.write(".claude/settings.json", home.documented("claude-code"))


# Codex.


def codex(packages: Path) -> list[str]:
    script = packages / "node_modules/@openai/codex/bin/codex.js"
    return ["node", str(script), "exec", "--skip-git-repo-check", "--json", PROMPT]


#: It must not ask its maker for updates, nor tell it anything, where both only wait in vain.
QUIET = "check_for_update_on_startup = false\n[analytics]\nenabled = false\n"


def codex_with_token(home: Home, asked: Asked) -> dict[str, str]:
    provider = {
        "name": "Portero",
        "base_url": f"{asked.gateway}/v1",
        "env_key": "PORTERO_TOKEN",
        "wire_api": "responses",
        "request_max_retries": 0,
        "stream_max_retries": 0,
    }
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in provider.items())
    chosen = f'model = "{asked.model}"\nmodel_provider = "portero"\nweb_search = "disabled"\n'
    home.write(".codex/config.toml", f"{chosen}{QUIET}[model_providers.portero]\n{lines}")
    return {"PORTERO_TOKEN": asked.token}


def codex_with_command(home: Home) -> None:
    first, table, rest = home.documented("codex").partition("[model_providers")
    home.write(".codex/config.toml", first + QUIET + table + rest)


AGENTS = {
    "claude-code": Agent(
        claude,
        claude_with_token,
        claude_with_command,
        answer=lambda told: str(told.one("result")["result"]),
        refusal=lambda told: str(told.one("result")["result"]),
        words={
            401: "401 Invalid or missing token.",
            403: "403 Your role may not use this route.",
            404: "may not exist or you may not have access to it",
            429: "429",
            502: "502 The LLM server cannot be reached.",
            503: "503 Not ready yet",
        },
        cut=lambda reason: reason,
    ),
    "codex": Agent(
        codex,
        codex_with_token,
        codex_with_command,
        answer=lambda told: str(told.one("item.completed")["item"]["text"]),
        refusal=lambda told: str(told.one("turn.failed")["error"]["message"]),
        words={
            401: "401 Unauthorized: Invalid or missing token.",
            403: "403 Forbidden: Your role may not use this route.",
            404: "The model does not exist, or you do not have access to it.",
            429: "429 Too Many Requests",
            502: "502 Bad Gateway: The LLM server cannot be reached.",
            503: "503 Service Unavailable: Not ready yet",
        },
        # It tells no reason, whatever the last event says.
        cut=lambda _: "stream disconnected before completion",
    ),
}
each_agent = pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)


@each_agent
def test_an_agent_takes_its_turn_with_a_token(
    running: Local, token: str, home: Home, agent: Agent
) -> None:
    told = agent.run(home, agent.with_token(home, Asked(running.gateway, token)))
    assert (told.status, agent.answer(told)) == (0, "pongpong"), told.output


@each_agent
def test_an_agent_takes_its_turn_with_the_command_that_prints_a_token(
    running: Local, said: Upstream, home: Home, agent: Agent
) -> None:
    home.can_log_in("AGIATEST01")
    agent.with_command(home)
    told = agent.run(home, {})
    assert (told.status, agent.answer(told)) == (0, "pongpong"), told.output
    # With a command, Codex asks for the list of models too.
    asked = next(seen for seen in said.seen if seen.line.startswith("POST "))
    assert asked.values("x-auth-user") == ["AGIATEST01"]
    assert json.loads(asked.body)["model"] == "tiny"


#: Prints a token that is no longer good, and from then on others.
STALE_ONCE = """#!/bin/sh
mkdir "$HOME/asked" 2>/dev/null && exec echo a-token-that-has-expired
exec "$HOME/bin/fresh-portero" "$@"
"""


@each_agent
def test_an_agent_whose_token_has_expired_asks_its_command_again(
    running: Local, said: Upstream, home: Home, agent: Agent
) -> None:
    home.can_log_in("AGIATEST01")
    home.write("bin/fresh-portero", PORTERO, 0o700)
    home.write("bin/portero", STALE_ONCE, 0o700)
    agent.with_command(home)
    told = agent.run(home, {})
    assert (home.path / "asked").is_dir()
    assert (told.status, agent.answer(told)) == (0, "pongpong"), told.output


@pytest.mark.parametrize("status", REFUSALS)
@each_agent
def test_an_agent_tells_its_own_right_error_for_each_refusal(
    running: Local, said: Upstream, home: Home, agent: Agent, status: int
) -> None:
    told = agent.run(home, agent.with_token(home, refused(running, said, status)))
    assert told.status != 0, evidence(told, running)
    assert agent.words[status] in agent.refusal(told), evidence(told, running)


@each_agent
def test_a_turn_whose_token_is_revoked_fails_and_never_ends_silently(
    running: Local, token: str, said: Upstream, home: Home, agent: Agent
) -> None:
    endless(said)

    def revoke() -> None:
        wait_for(lambda: len(said.sent) > 10, TURN_SECONDS, "its stream runs")
        assert Caller(running).call(token, "/logout").status_code == 204

    settings = agent.with_token(home, Asked(running.gateway, token))
    told = agent.run(home, settings, meanwhile=revoke)
    assert told.status != 0, evidence(told, running)
    assert agent.cut("The token was revoked.") in agent.refusal(told), evidence(told, running)


@each_agent
def test_a_turn_whose_server_dies_fails_and_never_ends_silently(
    running: Local, token: str, said: Upstream, home: Home, agent: Agent
) -> None:
    endless(said)
    said.mood = "die in stream"
    told = agent.run(home, agent.with_token(home, Asked(running.gateway, token)))
    assert told.status != 0, evidence(told, running)
    assert agent.cut("The LLM server cannot be reached.") in agent.refusal(told), evidence(
        told, running
    )
