"""The Python clients that people use, unchanged: each gets its answers, plain and streamed, and
raises its own right exception for each refusal and for a stream that is cut.

One real LLM answers the openai client in `test_make_run.py`; here an LLM server that can be told
what to say speaks every API.
"""

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from tests.stack.clients.answers import everything
from tests.stack.clients.python_clients import (
    CLIENTS,
    HI,
    Client,
    anthropic_client,
    anthropic_plain,
    ollama_client,
    openai_client,
    openai_plain,
    openai_streamed,
)
from tests.stack.clients.situations import REFUSALS, Asked, endless, refused
from tests.support.deployment import Caller, Local
from tests.support.upstream import Upstream

#: These clients leave their connections to the collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # while the warnings are this module's


each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
#: Those that ask again by themselves, and by what they are told.
RETRYING = [one for one in CLIENTS if "ollama" not in one.name]


@each_client
def test_a_client_gets_its_answer(
    running: Local, token: str, said: Upstream, client: Client
) -> None:
    said.answers.update(everything(["pong"]))  # langchain-ollama puts it together from a stream
    assert client.plain(Asked(running.gateway, token)) == "pong"


@each_client
def test_a_client_gets_its_stream(running: Local, token: str, client: Client) -> None:
    assert list(client.streamed(Asked(running.gateway, token))) == ["pong", "pong"]


@pytest.mark.parametrize("status", REFUSALS)
@each_client
def test_a_client_raises_its_own_right_exception_for_each_refusal(
    running: Local, said: Upstream, client: Client, status: int
) -> None:
    asked = refused(running, said, status)
    with pytest.raises(client.errors[status]) as raised:
        client.plain(asked)
    assert status_of(raised.value) == status
    with pytest.raises(client.errors[status]) as raised:
        list(client.streamed(asked))
    assert status_of(raised.value) == status


def status_of(error: Exception) -> object:
    return getattr(error, "status_code", None)


@pytest.mark.parametrize("status", REFUSALS)
def test_what_openai_raises_has_code_and_request_id(
    running: Local, said: Upstream, status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        openai_plain(refused(running, said, status))
    assert isinstance(raised.value.code, str)
    assert raised.value.request_id


#: Status -> what Anthropic's own API calls it.
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    502: "api_error",
    503: "overloaded_error",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_what_anthropic_raises_has_its_own_type_and_request_id(
    running: Local, said: Upstream, status: int
) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        anthropic_plain(refused(running, said, status))
    assert raised.value.type == ANTHROPIC_TYPES[status]
    assert raised.value.request_id == raised.value.response.headers["x-request-id"]


@pytest.fixture(scope="module")
def revoked_streams(running: Local, local_upstream: Upstream) -> dict[str, Exception | None]:
    """Client -> what it raised when its token was revoked in the middle of its stream. All at once:
    each cut takes up to a second.
    """
    local_upstream.forget()
    endless(local_upstream)
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        raised = list(threads.map(lambda client: revoked_in_stream(running, client), CLIENTS))
    return {client.name: error for client, error in zip(CLIENTS, raised, strict=True)}


def revoked_in_stream(running: Local, client: Client) -> Exception | None:
    caller = Caller(running)
    token = caller.token("AGNRTEST01")
    pieces = client.streamed(Asked(running.gateway, token))
    assert next(pieces) == "pong"
    assert caller.call(token, "/logout").status_code == 204
    try:
        exhaust(pieces)
    except Exception as error:  # whatever it is: the test judges it
        return error
    return None


@each_client
def test_a_stream_whose_token_is_revoked_ends_in_an_exception_and_never_silently(
    revoked_streams: dict[str, Exception | None], client: Client
) -> None:
    error = revoked_streams[client.name]
    assert isinstance(error, client.cut)
    assert "The token was revoked." in str(error)
    assert type_of(error) in ("authentication_error", "invalid_request_error", None)


@each_client
def test_a_stream_whose_server_dies_ends_in_an_exception_and_never_silently(
    running: Local, token: str, said: Upstream, client: Client
) -> None:
    endless(said)
    said.mood = "die in stream"
    with pytest.raises(client.cut, match=r"The LLM server cannot be reached\.") as raised:
        exhaust(client.streamed(Asked(running.gateway, token)))
    assert type_of(raised.value) in ("api_error", "server_error", None)


def type_of(error: Exception) -> object:
    """The error's type by its own API; Ollama's has none."""
    return getattr(error, "type", None)


def exhaust(pieces: Iterator[str]) -> None:
    for _ in pieces:
        pass


@pytest.mark.parametrize("client", RETRYING, ids=lambda client: client.name)
def test_a_client_that_is_over_its_limit_asks_again_when_it_is_told_to(
    running: Local, said: Upstream, client: Client
) -> None:
    token = Caller(running).token("AGNRTEST02")
    said.gap = 0.22
    # It holds the only place for 0.66 s: who asks again after half a second asks in vain.
    place = openai_streamed(Asked(running.gateway, token))
    next(place)
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as other:
        answer = other.submit(client.plain, Asked(running.gateway, token, retries=1))
        exhaust(place)
        assert answer.result(20) == "pong"
    assert time.monotonic() - begun >= 1.0


# What else these clients ask for.


def test_openai_completes_embeds_and_lists(running: Local, token: str) -> None:
    client = openai_client(Asked(running.gateway, token))
    assert client.completions.create(model="tiny", prompt="hi").choices[0].text == "pong"
    embedded = client.embeddings.create(model="tiny", input="hi", encoding_format="float")
    assert embedded.data[0].embedding == [0.5, 0.25]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_openai_completes_in_a_stream(running: Local, token: str) -> None:
    client = openai_client(Asked(running.gateway, token))
    events = client.completions.create(model="tiny", prompt="hi", stream=True)
    assert [event.choices[0].text for event in events] == ["pong", "pong"]


def test_ollama_generates_embeds_and_lists(running: Local, token: str) -> None:
    client = ollama_client(Asked(running.gateway, token))
    assert client.generate(model="tiny", prompt="hi").response == "pong"
    text = client.generate(model="tiny", prompt="hi", stream=True)
    assert [event.response for event in text if not event.done] == ["pong", "pong"]
    assert client.embed(model="tiny", input="hi").embeddings == [[0.5, 0.25]]
    assert [model.model for model in client.list().models] == ["tiny:latest"]
    assert client.show("tiny").details is not None


def test_anthropic_counts_tokens(running: Local, token: str) -> None:
    client = anthropic_client(Asked(running.gateway, token))
    assert client.messages.count_tokens(model="tiny", messages=HI).input_tokens == 3


def test_anthropic_lists_models(running: Local, token: str) -> None:
    client = anthropic_client(Asked(running.gateway, token))
    assert [model.id for model in client.models.list(limit=1000)] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_anthropics_headers_go_to_the_llm_server_and_its_key_does_not(
    running: Local, token: str, said: Upstream
) -> None:
    client = anthropic.Anthropic(base_url=running.gateway, api_key=token, max_retries=0)
    asked = {"model": "tiny", "messages": HI, "max_tokens": 9}
    answer = client.beta.messages.with_raw_response.create(**asked, betas=["a-beta"])
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert said.seen[-1].values("anthropic-beta") == ["a-beta"]
    assert len(said.seen[-1].values("anthropic-version")) == 1
    assert said.seen[-1].values("x-api-key") == said.seen[-1].values("authorization") == []


def test_langchain_embeds(running: Local, token: str) -> None:
    embeddings = OpenAIEmbeddings(
        model="tiny",
        base_url=f"{running.gateway}/v1",
        api_key=SecretStr(token),
        check_embedding_ctx_length=False,
    )
    assert embeddings.embed_query("hi") == [0.5, 0.25]
