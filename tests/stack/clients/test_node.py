"""The Node clients that people use, unchanged: each gets its answers, plain and streamed, and
throws its own right error for each refusal and for a stream that is cut.

`node/ask.mjs` holds them; one process of it answers all that is asked here.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from tests.stack.clients import npm
from tests.stack.clients.situations import REFUSALS, Asked, endless, refused
from tests.support.deployment import Caller, Local
from tests.support.upstream import Upstream

SDK_ERRORS = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    502: "InternalServerError",
    503: "InternalServerError",
}


#: Client -> what it throws for each status.
CLIENTS = {
    "openai": SDK_ERRORS,
    "openai, responses": SDK_ERRORS,
    "anthropic": SDK_ERRORS,
    "ollama": dict.fromkeys(SDK_ERRORS, "ResponseError"),
    "ai": dict.fromkeys(SDK_ERRORS, "AI_APICallError"),
    "@langchain/openai": SDK_ERRORS,
    "@langchain/anthropic": SDK_ERRORS,
}
#: Client -> what it throws for a stream that is cut; "ai" hands on what the stream said.
CUT = {
    "openai": "APIError",
    "openai, responses": "APIError",
    "anthropic": "APIError",
    "ollama": "Error",
    "ai": "Object",
    "@langchain/openai": "APIError",
    "@langchain/anthropic": "APIError",
}
each_client = pytest.mark.parametrize("client", CLIENTS)


class ThrownError(Exception):
    """What a client threw: the names of its class and of all that descends from, status, text."""

    def __init__(self, names: list[str], status: int | None, message: str) -> None:
        super().__init__(message)
        self.names, self.status, self.message = names, status, message


@dataclass
class Node:
    """The process that holds the clients."""

    questions: IO[str]
    told: IO[str]

    def ask(self, client: str, way: str, asked: Asked) -> Iterator[str]:
        """The pieces, as they come. Raises `ThrownError`."""
        question = {"client": client, "way": way, **asked._asdict()}
        self.questions.write(json.dumps(question) + "\n")
        self.questions.flush()
        while not (line := self.line()).get("end"):
            if "error" in line:
                raise ThrownError(**line["error"])
            yield line["piece"]

    def line(self) -> dict[str, Any]:
        """The next line that it says."""
        line = self.told.readline()
        assert line, "node has ended"
        said: dict[str, Any] = json.loads(line)
        return said


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with subprocess.Popen(
        ["node", "ask.mjs"],
        cwd=npm.packages(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Node(process.stdin, process.stdout)
        process.stdin.close()
        assert process.wait(10) == 0


@each_client
def test_a_client_gets_its_answer(running: Local, token: str, node: Node, client: str) -> None:
    assert list(node.ask(client, "plain", Asked(running.gateway, token))) == ["pong"]


@each_client
def test_a_client_gets_its_stream(running: Local, token: str, node: Node, client: str) -> None:
    assert list(node.ask(client, "streamed", Asked(running.gateway, token))) == ["pong", "pong"]


@pytest.mark.parametrize("status", REFUSALS)
@each_client
def test_a_client_throws_its_own_right_error_for_each_refusal(
    running: Local, said: Upstream, node: Node, client: str, status: int
) -> None:
    asked = refused(running, said, status)
    for way in ("plain", "streamed"):
        with pytest.raises(ThrownError) as thrown:
            list(node.ask(client, way, asked))
        assert CLIENTS[client][status] in thrown.value.names
        assert thrown.value.status == status


@each_client
def test_a_stream_whose_token_is_revoked_ends_in_an_error_and_never_silently(
    running: Local, token: str, said: Upstream, node: Node, client: str
) -> None:
    endless(said)
    pieces = node.ask(client, "streamed", Asked(running.gateway, token))
    assert next(pieces) == "pong"
    assert Caller(running).call(token, "/logout").status_code == 204
    with pytest.raises(ThrownError) as thrown:
        list(pieces)
    assert is_told(client, thrown.value, "The token was revoked.")


@each_client
def test_a_stream_whose_server_dies_ends_in_an_error_and_never_silently(
    running: Local, token: str, said: Upstream, node: Node, client: str
) -> None:
    endless(said)
    said.mood = "die in stream"
    with pytest.raises(ThrownError) as thrown:
        list(node.ask(client, "streamed", Asked(running.gateway, token)))
    assert is_told(client, thrown.value, "The LLM server cannot be reached.")


def is_told(client: str, error: ThrownError, reason: str) -> bool:
    """Whether it is the client's own error, which says why."""
    return CUT[client] in error.names and reason in error.message
