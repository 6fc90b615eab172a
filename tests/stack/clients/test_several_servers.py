"""The Python clients and the coding agents against several LLM servers, by an alias: answers and
streams as with one, and their own right exception for what they run into.
"""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stack.clients import npm
from tests.stack.clients.answers import INFERENCE, everything
from tests.stack.clients.enclosed import gateway_socket, why_not
from tests.stack.clients.python_clients import (
    CLIENTS,
    Client,
    anthropic_client,
    ollama_client,
    openai_client,
)
from tests.stack.clients.situations import Asked
from tests.stack.clients.test_coding_agents import (
    AGENTS,
    TURN_SECONDS,
    Agent,
    Home,
)
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

#: These clients leave their connections to the collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: What a coding agent calls its model, whatever there is.
FIXED_NAME = "claude-of-the-house"
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


@dataclass
class Several:
    """A deployment with three servers: two that have the model `tiny`, and one, `tired`, that has a
    model of its own and answers 503.
    """

    running: Local
    box: Upstream
    rack: Upstream

    def asked(self, model: str = FIXED_NAME, user: str = "AGNRTEST01") -> Asked:
        return Asked(self.running.gateway, Caller(self.running).token(user), model)

    @contextmanager
    def endless(self, mood: str = "answer") -> Iterator[None]:
        """Both servers that have the model answer in streams that only end when they are ended."""
        for one in (self.box, self.rack):
            one.mood, one.gap = mood, 0.05
            one.answers.update(everything(["pong"] * 2400))
        try:
            yield
        finally:
            for one in (self.box, self.rack):
                one.mood, one.gap = "answer", 0.02
                one.answers.update(everything(["pong", "pong"]))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    with ExitStack() as started:
        box, rack, tired = (started.enter_context(recording()) for _ in range(3))
        for one in (box, rack):
            one.answers.update(everything(["pong", "pong"]))
        tired.answers.update(everything() | dict.fromkeys(INFERENCE, 503))
        tired.answers["/api/tags"] = {"models": [{"name": "tired", "model": "tired", "size": 1}]}
        rows = [
            {"name": "box", "url": box.url, "kind": "ollama"},
            {"name": "rack", "url": rack.url, "kind": "vllm"},
            {"name": "tired", "url": tired.url, "kind": "localai"},
        ]

        def change(content: dict[str, Any]) -> None:
            content.update(servers=rows, aliases={"claude-*": ["gone", "tiny"]})
            content["roles"]["agent_fast"].update(requests_per_minute=1)

        policy = write_policy(tmp_path_factory.mktemp("policy") / "policy.yaml", change)
        running = started.enter_context(deployed("", POLICY_FILE=str(policy)))
        made = Several(running, box, rack)
        caller, token = Caller(running), Caller(running).token("AGIATEST01")

        def is_known() -> bool:
            listed = caller.call(token, "/v1/models", method="GET").json().get("data", [])
            return {"tiny:latest", "tiny", "tired"} <= {model["id"] for model in listed}

        wait_for(is_known, 10, "all have told their models")
        yield made
    gc.collect()  # while the warnings are this module's


@each_client
def test_a_client_gets_answer_and_stream_by_a_name_that_no_server_has(
    several: Several, client: Client
) -> None:
    assert list(client.streamed(several.asked())) == ["pong", "pong"]
    assert client.plain(several.asked()).startswith("pong")


@pytest.mark.parametrize(
    ("status", "model", "user"),
    [
        (403, FIXED_NAME, "MNTRTEST01"),
        (404, "nowhere", "AGNRTEST01"),
        (503, "tired", "AGNRTEST01"),
    ],
)
@each_client
def test_a_client_raises_its_own_right_exception(
    several: Several, client: Client, status: int, model: str, user: str
) -> None:
    asked = several.asked(model, user)
    with pytest.raises(client.errors[status]) as raised:
        client.plain(asked)
    assert getattr(raised.value, "status_code", None) == status
    with pytest.raises(client.errors[status]):
        list(client.streamed(asked))


def bad_token(several: Several) -> Asked:
    return several.asked()._replace(token="bad")


def over_limit(several: Several) -> Asked:
    asked = several.asked(user="AGNFTEST01")
    Caller(several.running).call(asked.token)
    return asked


@pytest.mark.parametrize(("status", "asked_with"), [(401, bad_token), (429, over_limit)])
@each_client
def test_a_client_raises_its_own_right_exception_for_its_token_and_its_limit(
    several: Several, client: Client, status: int, asked_with: Callable[[Several], Asked]
) -> None:
    with pytest.raises(client.errors[status]) as raised:
        list(client.streamed(asked_with(several)))
    assert getattr(raised.value, "status_code", None) == status


def cut_of(several: Several, client: Client) -> Exception | None:
    asked = several.asked()
    pieces = client.streamed(asked)
    assert next(pieces) == "pong"
    assert Caller(several.running).call(asked.token, "/logout").status_code == 204
    try:
        list(pieces)
    except Exception as error:  # whatever it is: the test judges it
        return error
    return None


def test_a_stream_whose_token_is_revoked_ends_in_each_clients_own_exception(
    several: Several,
) -> None:
    with several.endless(), ThreadPoolExecutor(len(CLIENTS)) as threads:
        raised = list(threads.map(lambda client: cut_of(several, client), CLIENTS))
    for client, error in zip(CLIENTS, raised, strict=True):
        assert isinstance(error, client.cut), client.name
        assert "The token was revoked." in str(error)


@each_client
def test_a_stream_whose_server_dies_ends_in_an_exception_though_another_has_the_model(
    several: Several, client: Client
) -> None:
    with (
        several.endless("die in stream"),
        pytest.raises(client.cut, match=r"The LLM server cannot be reached\."),
    ):
        list(client.streamed(several.asked()))


@pytest.fixture
def home(several: Several, tmp_path: Path) -> Iterator[Home]:
    missing = why_not()
    if missing:
        npm.leave_out(f"the coding agents are not tested: {missing}")
    port = int(several.running.gateway.rpartition(":")[2])
    with gateway_socket(tmp_path / "gateway", port) as socket:
        yield Home(tmp_path, socket, several.running.gateway)


each_agent = pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)


@each_agent
def test_an_agent_takes_its_turn_by_a_name_that_no_server_has(
    several: Several, home: Home, agent: Agent
) -> None:
    told = agent.run(home, agent.with_token(home, several.asked()))
    assert (told.status, agent.answer(told)) == (0, "pongpong"), told.output


@each_agent
def test_a_turn_whose_token_is_revoked_fails_and_never_ends_silently(
    several: Several, home: Home, agent: Agent
) -> None:
    for one in (several.box, several.rack):
        one.sent.clear()
    asked = several.asked()

    def revoke() -> None:
        wait_for(
            lambda: len(several.box.sent) + len(several.rack.sent) > 10,
            TURN_SECONDS,
            "its stream runs",
        )
        assert Caller(several.running).call(asked.token, "/logout").status_code == 204

    with several.endless():
        told = agent.run(home, agent.with_token(home, asked), meanwhile=revoke)
    assert told.status != 0
    assert agent.cut("The token was revoked.") in agent.refusal(told)


def test_each_client_lists_the_models_of_the_servers_that_speak_its_dialect(
    several: Several,
) -> None:
    asked = several.asked()
    openai_names = {model.id for model in openai_client(asked).models.list()}
    assert {"tiny", "tiny:latest"} <= openai_names
    assert {model.id for model in anthropic_client(asked).models.list()} == openai_names
    ollama_names = {model.model for model in ollama_client(asked).list().models}
    assert "tiny:latest" in ollama_names
    assert "tiny" not in ollama_names
