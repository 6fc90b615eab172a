"""The clients that people use, unchanged: openai, ollama and langchain-openai get their answers,
plain and streamed, and raise their own right exception for each refusal.

One real LLM answers the openai client in `test_make_run.py`; here an upstream that can be told what
to say speaks both dialects.
"""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.deployment import Caller, Local, deployed
from tests.stack.policies import write_roles
from tests.upstream import CHAT_ANSWER, MODELS_ANSWER, Upstream

#: These clients leave their connections to the collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "delta": {"content": "pong"}, "finish_reason": None}],
}
COMPLETION = {
    "id": "c",
    "object": "text_completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "text": "pong", "finish_reason": "stop", "logprobs": None}],
    "usage": CHAT_ANSWER["usage"],
}
EMBEDDINGS = {
    "object": "list",
    "model": "tiny",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
OLLAMA_CHAT = {
    "model": "tiny",
    "created_at": "2026-01-01T00:00:00Z",
    "message": {"role": "assistant", "content": "pong"},
    "done": True,
    "prompt_eval_count": 3,
    "eval_count": 1,
}
OLLAMA_TEXT = {**OLLAMA_CHAT, "response": "pong"}
OLLAMA_LIST = {"models": [{"name": "tiny:latest", "model": "tiny:latest", "size": 1}]}
HI: Any = [{"role": "user", "content": "hi"}]


def limit(content: dict[str, Any]) -> None:
    content["roles"]["agent_fast"].update(requests_per_minute=1)
    content["roles"]["agent_reasoning"].update(models=["tiny"], tokens_per_minute=1_000_000)


@pytest.fixture(scope="module")
def running(local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    roles = write_roles(tmp_path_factory.mktemp("roles") / "roles.json", limit)
    with deployed(local_upstream.url, ROLES_FILE=str(roles)) as one:
        yield one


@pytest.fixture(autouse=True)
def said(local_upstream: Upstream) -> Iterator[Upstream]:
    """The LLM server's answers."""
    local_upstream.forget()
    local_upstream.answers.update(
        {
            "/v1/chat/completions": CHAT_ANSWER,
            "/v1/completions": COMPLETION,
            "/v1/embeddings": EMBEDDINGS,
            "/v1/models": MODELS_ANSWER,
            "/api/chat": OLLAMA_CHAT,
            "/api/generate": OLLAMA_TEXT,
            "/api/embed": {"model": "tiny", "embeddings": [[0.5, 0.25]]},
            "/api/tags": OLLAMA_LIST,
            "/api/show": {"details": {"family": "llama"}, "model_info": {}},
        }
    )
    yield local_upstream
    local_upstream.forget()
    gc.collect()  # while the warnings are this module's


@pytest.fixture(scope="module")
def token(running: Local) -> str:
    """Of a caller whose models and tokens are limited: what costs most must work with all."""
    return Caller(running).token("AGNRTEST01")


def stream(said: Upstream, path: str, event: dict[str, Any]) -> None:
    """Answer there with two events."""
    text = json.dumps(event)
    is_ollama = path.startswith("/api/")
    ends = [] if is_ollama else ["data: [DONE]\n\n"]
    said.answers[path] = [f"{text}\n" if is_ollama else f"data: {text}\n\n"] * 2 + ends


def openai_client(running: Local, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=token, max_retries=0)


def ollama_client(running: Local, token: str) -> ollama.Client:
    return ollama.Client(host=running.gateway, headers={"Authorization": f"Bearer {token}"})


def langchain_chat(running: Local, token: str, model: str = "tiny") -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=f"{running.gateway}/v1", api_key=SecretStr(token), max_retries=0
    )


def test_openai_chats(running: Local, token: str) -> None:
    answer = openai_client(running, token).chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.content == "pong"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 4


def test_openai_chats_in_a_stream(running: Local, token: str, said: Upstream) -> None:
    stream(said, "/v1/chat/completions", CHUNK)
    events = openai_client(running, token).chat.completions.create(
        model="tiny", messages=HI, stream=True
    )
    assert [event.choices[0].delta.content for event in events] == ["pong", "pong"]


def test_openai_completes_embeds_and_lists(running: Local, token: str) -> None:
    client = openai_client(running, token)
    assert client.completions.create(model="tiny", prompt="hi").choices[0].text == "pong"
    embedded = client.embeddings.create(model="tiny", input="hi", encoding_format="float")
    assert embedded.data[0].embedding == [0.5, 0.25]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_openai_completes_in_a_stream(running: Local, token: str, said: Upstream) -> None:
    stream(said, "/v1/completions", COMPLETION)
    events = openai_client(running, token).completions.create(
        model="tiny", prompt="hi", stream=True
    )
    assert [event.choices[0].text for event in events] == ["pong", "pong"]


def test_ollama_chats_generates_embeds_and_lists(running: Local, token: str) -> None:
    client = ollama_client(running, token)
    assert client.chat(model="tiny", messages=HI).message.content == "pong"
    assert client.generate(model="tiny", prompt="hi").response == "pong"
    assert client.embed(model="tiny", input="hi").embeddings == [[0.5, 0.25]]
    assert [model.model for model in client.list().models] == ["tiny:latest"]
    assert client.show("tiny").details is not None


def test_ollama_chats_and_generates_in_a_stream(running: Local, token: str, said: Upstream) -> None:
    client = ollama_client(running, token)
    stream(said, "/api/chat", OLLAMA_CHAT)
    chat = client.chat(model="tiny", messages=HI, stream=True)
    assert [event.message.content for event in chat] == ["pong", "pong"]
    stream(said, "/api/generate", OLLAMA_TEXT)
    text = client.generate(model="tiny", prompt="hi", stream=True)
    assert [event.response for event in text] == ["pong", "pong"]


def test_langchain_chats_plain_and_in_a_stream(running: Local, token: str, said: Upstream) -> None:
    chat = langchain_chat(running, token)
    assert chat.invoke("hi").content == "pong"
    stream(said, "/v1/chat/completions", CHUNK)
    assert [event.content for event in chat.stream("hi") if event.content] == ["pong", "pong"]


def test_langchain_embeds(running: Local, token: str) -> None:
    embeddings = OpenAIEmbeddings(
        model="tiny",
        base_url=f"{running.gateway}/v1",
        api_key=SecretStr(token),
        check_embedding_ctx_length=False,
    )
    assert embeddings.embed_query("hi") == [0.5, 0.25]


Ask = Callable[[Local, str, str], object]


def ask_openai(running: Local, token: str, model: str) -> object:
    return openai_client(running, token).chat.completions.create(model=model, messages=HI)


def ask_openai_in_a_stream(running: Local, token: str, model: str) -> object:
    return list(
        openai_client(running, token).chat.completions.create(model=model, messages=HI, stream=True)
    )


def ask_langchain(running: Local, token: str, model: str) -> object:
    return langchain_chat(running, token, model).invoke("hi")


def provoke(running: Local, said: Upstream, status: int, ask: Ask) -> None:
    """Have a client meet a refusal of this status."""
    caller = Caller(running)
    if status == 401:
        ask(running, "bad", "tiny")
    if status == 403:
        ask(running, caller.token("MNTRTEST01"), "tiny")
    if status == 404:
        ask(running, caller.token("AGNRTEST01"), "other")
    if status == 429:
        used_up = caller.token("AGNFTEST01")
        caller.call(used_up)
        ask(running, used_up, "tiny")
    said.answers["/v1/chat/completions"] = said.answers["/api/chat"] = 503
    ask(running, caller.token("AGNRTEST01"), "tiny")


OPENAI_ERRORS: dict[int, type[openai.APIStatusError]] = {
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("status", OPENAI_ERRORS)
@pytest.mark.parametrize("ask", [ask_openai, ask_openai_in_a_stream, ask_langchain])
def test_openai_and_langchain_raise_their_own_right_exception(
    running: Local, said: Upstream, status: int, ask: Ask
) -> None:
    with pytest.raises(OPENAI_ERRORS[status]) as raised:
        provoke(running, said, status, ask)
    assert raised.value.status_code == status
    assert isinstance(raised.value.code, str)
    assert raised.value.request_id


@pytest.mark.parametrize("status", OPENAI_ERRORS)
def test_ollama_raises_its_own_right_exception(running: Local, said: Upstream, status: int) -> None:
    def ask(where: Local, token: str, model: str) -> object:
        return ollama_client(where, token).chat(model=model, messages=HI)

    with pytest.raises(ollama.ResponseError) as raised:
        provoke(running, said, status, ask)
    assert raised.value.status_code == status
    assert raised.value.error


def test_a_key_that_is_a_function_is_a_login_for_every_attempt(
    running: Local, tmp_path: Path
) -> None:
    logins = []

    def log_in() -> str:
        logins.append(Caller(running).token("AGIATEST01"))
        return logins[-1]

    client = openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=log_in)
    for _ in range(2):
        client.chat.completions.create(model="tiny", messages=HI)
    assert len(logins) == 2
