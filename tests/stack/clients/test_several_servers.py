"""The Python clients against several LLM servers, by an alias: answers and streams as with one, and
their own right exception for what only several servers can run into.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.stack.clients.answers import INFERENCE, everything
from tests.stack.clients.python_clients import (
    CLIENTS,
    Client,
    anthropic_client,
    ollama_client,
    openai_client,
)
from tests.stack.clients.situations import Asked
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream, recording, wait_for

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
        policy = write_policy(
            tmp_path_factory.mktemp("policy") / "policy.yaml",
            lambda content: content.update(servers=rows, aliases={"claude-*": ["gone", "tiny"]}),
        )
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


@each_client
def test_a_stream_whose_server_dies_ends_in_an_exception_though_another_has_the_model(
    several: Several, client: Client
) -> None:
    for one in (several.box, several.rack):
        one.mood = "die in stream"
        one.answers.update(everything(["pong"] * 50))
    try:
        with pytest.raises(client.cut, match=r"The LLM server cannot be reached\."):
            list(client.streamed(several.asked()))
    finally:
        for one in (several.box, several.rack):
            one.mood = "answer"
            one.answers.update(everything(["pong", "pong"]))


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
