"""What a body may ask of the LLM server beside its model, and what it may go on from: threats N10,
N11, N12 and N13.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import openai
import pytest
import requests

from tests.support.deployment import Caller, Deployment, deployed
from tests.support.policies import write_policy
from tests.support.upstream import CHAT_ANSWER, Spoken, Upstream

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "YPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
#: Users by what their role's bodies are: looked at, with a list of models, with everything allowed
#: and a priority, and not looked at.
LOOKED_AT, LIMITED, ALLOWED, FREE = "AGNFTEST01", "AGNRTEST01", "AGIATEST01", "USRSTEST01"
MANAGER = "ADMNTEST01"
JSON = {"Content-Type": "application/json"}


def limit(content: dict[str, Any]) -> None:
    roles = content["roles"]
    roles["agent_fast"]["inspect_bodies"] = True
    roles["agent_reasoning"]["models"] = ["tiny"]
    roles["agi"].update(
        inspect_bodies=True, server_side={"tools": True, "fetch": True, "priority": 7}
    )
    roles["admin"]["inspect_bodies"] = True


@pytest.fixture(scope="module")
def running(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    policy = write_policy(tmp_path_factory.mktemp("policy") / "policy.yaml", limit)
    with deployed(local_upstream.url, POLICY_FILE=str(policy)) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def tokens(running: Deployment) -> dict[str, str]:
    caller = Caller(running)
    return {name: caller.token(name) for name in (LOOKED_AT, LIMITED, ALLOWED, FREE, MANAGER)}


@pytest.fixture
def post(running: Deployment, tokens: dict[str, str]) -> Any:
    def send(user: str, path: str, body: dict[str, Any] | bytes) -> requests.Response:
        return requests.post(
            running.gateway + path,
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={**JSON, "Authorization": f"Bearer {tokens[user]}"},
            timeout=30,
        )

    return send


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "ping"}], **more}


def with_part(part: dict[str, Any]) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": [part]}])


ASKED = {
    "N11 an MCP server": (
        "/v1/responses",
        chat(tools=[{"type": "mcp", "server_url": "http://x/"}]),
    ),
    "N11 a web search": ("/v1/responses", chat(tools=[{"type": "web_search"}])),
    "N11 web_search_options": ("/v1/chat/completions", chat(web_search_options={})),
    "N11 Anthropic's web fetch": ("/v1/messages", chat(tools=[{"type": "web_fetch_20250910"}])),
    "N11 Anthropic's MCP servers": ("/v1/messages", chat(mcp_servers=[{"url": "http://x/"}])),
    "N11 tool_ids": ("/v1/chat/completions", chat(tool_ids=["server:mcp:a"])),
    "N11 tool_servers": ("/v1/chat/completions", chat(tool_servers=[{"url": "http://x/"}])),
    "N11 LocalAI's assistant": (
        "/v1/chat/completions",
        chat(metadata={"localai_assistant": "true"}),
    ),
    "an image": (
        "/v1/chat/completions",
        with_part({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}),
    ),
    "a file of the server": (
        "/v1/chat/completions",
        with_part({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
    ),
    "Anthropic's source": (
        "/v1/messages",
        with_part({"type": "image", "source": {"type": "url", "url": "http://x/"}}),
    ),
    "Ollama's images": (
        "/api/chat",
        chat(messages=[{"role": "user", "content": "a", "images": ["http://x/"]}]),
    ),
    "an image, by a short name": (
        "/llm/chat/completions",
        with_part({"type": "image_url", "image_url": {"url": "http://x/"}}),
    ),
}


@pytest.mark.parametrize("user", [LOOKED_AT, LIMITED, MANAGER])
@pytest.mark.parametrize("what", sorted(ASKED))
def test_n11_what_a_role_may_not_ask_for_is_refused_and_nothing_arrives(
    post: Any, seen: Upstream, what: str, user: str
) -> None:
    path, body = ASKED[what]
    answer = post(user, path, body)
    assert (answer.status_code, answer.headers["x-portero-code"]) == (400, "invalid_request")
    assert "your role may not ask for" in answer.text
    assert "169.254" not in answer.text
    assert seen.seen == []


@pytest.mark.parametrize("what", sorted(ASKED))
def test_a_role_that_may_ask_for_it_has_it_sent_as_it_came(
    post: Any, seen: Upstream, what: str
) -> None:
    path, body = ASKED[what]
    assert post(ALLOWED, path, body).status_code == 200
    sent = json.loads(seen.seen[-1].body)
    assert sent.pop("priority") == 7
    assert sent == body


@pytest.mark.parametrize("what", sorted(ASKED))
def test_a_body_that_nobody_looks_at_is_sent_as_it_came(
    post: Any, seen: Upstream, what: str
) -> None:
    path, body = ASKED[what]
    assert post(FREE, path, body).status_code == 200
    assert json.loads(seen.seen[-1].body) == body


@pytest.mark.parametrize("size", [0, 1_100_000])
def test_n12_a_clients_priority_is_taken_out_or_made_the_roles(
    post: Any, seen: Upstream, size: int
) -> None:
    more = b'"text": "' + b"x" * size + b'"'
    body = b'{ "model": "tiny" , "priority": -1000, ' + more + b"}\n"
    for user, expected in (
        (LOOKED_AT, b'{ "model": "tiny" , ' + more + b"}\n"),
        (LIMITED, b'{ "model": "tiny" , ' + more + b"}\n"),
        (ALLOWED, b'{ "model": "tiny" , "priority": 7, ' + more + b"}\n"),
        (FREE, body),
    ):
        assert post(user, "/v1/chat/completions", body).status_code == 200
        assert seen.seen[-1].body == expected
        assert seen.seen[-1].values("content-length") == [str(len(expected))]


def test_n12_a_role_of_a_priority_has_it_where_a_client_says_nothing(
    post: Any, seen: Upstream
) -> None:
    assert post(ALLOWED, "/v1/chat/completions", b'{"model": "tiny"}').status_code == 200
    assert seen.seen[-1].body == b'{"priority":7,"model": "tiny"}'


def form(*fields: tuple[str, str], file: str = 'name="file"; filename="a.wav"') -> bytes:
    parts = [*((f'name="{name}"', value) for name, value in fields), (file, "RIFF")]
    heads = (f"--X\r\nContent-Disposition: form-data; {head}\r\n\r\n" for head, _ in parts)
    told = (f"{head}{value}\r\n" for head, (_, value) in zip(heads, parts, strict=True))
    return ("".join(told) + "--X--\r\n").encode()


@pytest.mark.parametrize("user", [LOOKED_AT, LIMITED])
@pytest.mark.parametrize(
    "field",
    [
        ("tools", '[{"type":"mcp"}]'),
        ("tool_ids[]", "server:mcp:a"),
        ("MCP_servers", "x"),
        ("file_url", "http://169.254.169.254/"),
        ("file", "file:///etc/passwd"),
        ("image[]", "http://x/"),
    ],
)
def test_n11_no_field_of_a_form_asks_for_what_a_body_may_not(
    running: Deployment, tokens: dict[str, str], seen: Upstream, user: str, field: tuple[str, str]
) -> None:
    answer = requests.post(
        f"{running.gateway}/v1/audio/transcriptions",
        data=form(("model", "tiny"), field),
        headers={
            "Content-Type": "multipart/form-data; boundary=X",
            "Authorization": f"Bearer {tokens[user]}",
        },
        timeout=30,
    )
    assert (answer.status_code, answer.headers["x-portero-code"]) == (400, "invalid_request")
    assert seen.seen == []


@pytest.mark.parametrize("user", [LOOKED_AT, LIMITED])
def test_n12_a_priority_in_a_form_is_taken_out_and_all_else_arrives(
    running: Deployment, tokens: dict[str, str], seen: Upstream, user: str
) -> None:
    answer = requests.post(
        f"{running.gateway}/v1/audio/transcriptions",
        data=form(("priority", "-9"), ("model", "tiny"), ("Priority", "1"), ("language", "es")),
        headers={
            "Content-Type": "multipart/form-data; boundary=X",
            "Authorization": f"Bearer {tokens[user]}",
        },
        timeout=30,
    )
    assert answer.status_code == 200
    assert seen.seen[-1].body == form(("model", "tiny"), ("language", "es"))


def test_n13_what_fetches_a_model_is_for_nobody_as_shipped(post: Any, seen: Upstream) -> None:
    for user in (LOOKED_AT, FREE, MANAGER):
        answer = post(user, "/models/apply", {"url": "http://169.254.169.254/"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            403,
            "insufficient_permissions",
        )
    assert seen.seen == []


def test_the_tools_and_images_of_real_clients_pass(
    running: Deployment, tokens: dict[str, str], seen: Upstream
) -> None:
    seen.answers["/v1/chat/completions"] = CHAT_ANSWER
    client = openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=tokens[LOOKED_AT])
    tool = {
        "type": "function",
        "function": {
            "name": "fetch",
            "parameters": {"type": "object", "properties": {"image_url": {"type": "string"}}},
        },
    }
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    calls = [{"id": "a", "type": "function", "function": {"name": "fetch", "arguments": "{}"}}]
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "see http://x/"}, image]},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": '{"image_url": "http://x/"}'},
    ]
    made = client.chat.completions.create(model="tiny", messages=messages, tools=[tool])  # type: ignore[list-item]
    assert made.choices[0].message.content == "pong"

    claude = anthropic.Anthropic(base_url=running.gateway, api_key=tokens[LOOKED_AT])
    seen.answers["/v1/messages"] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "pong"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    source: Any = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    use: Any = {"type": "tool_use", "id": "a", "name": "WebFetch", "input": {"url": "http://x/"}}
    message = claude.messages.create(
        model="tiny",
        max_tokens=9,
        system=[{"type": "text", "text": "You run tools."}],
        tools=[
            {"name": "WebFetch", "input_schema": {"type": "object", "properties": {}}},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
        ],
        messages=[
            {"role": "user", "content": [{"type": "image", "source": source}]},
            {"role": "assistant", "content": [use]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": "done"}],
            },
        ],
    )
    assert message.content[0].type == "text"


def test_what_is_refused_is_told_in_the_words_of_each_dialect(
    running: Deployment, tokens: dict[str, str], seen: Upstream
) -> None:
    client = openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=tokens[LOOKED_AT])
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input="a", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools"
    claude = anthropic.Anthropic(base_url=running.gateway, api_key=tokens[LOOKED_AT])
    with pytest.raises(anthropic.BadRequestError, match='"source" names an address'):
        claude.messages.create(model="tiny", max_tokens=1, **_with_address())
    assert seen.seen == []


def _with_address() -> dict[str, Any]:
    part = {"type": "image", "source": {"type": "url", "url": "http://x/a.png"}}
    return {"messages": [{"role": "user", "content": [part]}]}


# What goes on from another answer.


def answer_of(identity: str) -> dict[str, Any]:
    """A response as vLLM has it: what the client sent stands in it again."""
    return {
        "id": identity,
        "object": "response",
        "created_at": 1,
        "metadata": {"id": "resp_of_another", "object": "response"},
        "model": "tiny",
        "status": "completed",
        "output": [],
    }


def events_of(identity: str) -> Sequence[str]:
    created = {"type": "response.created", "response": answer_of(identity)}
    return [f"event: response.created\ndata: {json.dumps(created)}\n\n"] * 2


@pytest.fixture
def kept(seen: Upstream, post: Any) -> str:
    """The ID of a response that was made for LOOKED_AT."""
    identity = f"resp_{secrets.token_hex(8)}"
    seen.answers["/v1/responses"] = Spoken(answer_of(identity), events_of(identity))
    assert post(LOOKED_AT, "/v1/responses", chat(input="a")).status_code == 200
    seen.seen.clear()
    return identity


@pytest.mark.parametrize("stream", [False, True])
def test_n10_one_goes_on_from_ones_own_response_however_it_came(
    post: Any, seen: Upstream, stream: bool
) -> None:
    identity = f"resp_{secrets.token_hex(8)}"
    seen.answers["/v1/responses"] = Spoken(answer_of(identity), events_of(identity))
    assert post(LOOKED_AT, "/v1/responses", chat(input="a", stream=stream)).status_code == 200
    body = chat(input="b", previous_response_id=identity)
    assert post(LOOKED_AT, "/v1/responses", body).status_code == 200
    assert json.loads(seen.seen[-1].body) == body


@pytest.mark.parametrize("user", [LIMITED, ALLOWED, MANAGER])
def test_n10_nobody_goes_on_from_anothers_response(
    post: Any, seen: Upstream, kept: str, user: str
) -> None:
    theirs = post(user, "/v1/responses", chat(input="b", previous_response_id=kept))
    never = post(user, "/v1/responses", chat(input="b", previous_response_id="resp_never"))
    for answer in (theirs, never):
        assert (answer.status_code, answer.headers["x-portero-code"]) == (404, "not_found")
        assert answer.json()["error"]["param"] == "previous_response_id"
    assert theirs.content == never.content
    assert seen.seen == []


def test_n10_what_a_client_has_echoed_is_not_its_own(post: Any, seen: Upstream, kept: str) -> None:
    body = chat(input="b", previous_response_id="resp_of_another")
    assert post(LOOKED_AT, "/v1/responses", body).status_code == 404
    assert seen.seen == []


@pytest.mark.parametrize(
    "more",
    [{"conversation": "conv_a"}, {"conversation": {"id": "a"}},
     {"input": [{"type": "item_reference", "id": "msg_a"}]}],
)  # fmt: skip
def test_n10_what_is_tied_to_nobody_is_nobodys(
    post: Any, seen: Upstream, more: dict[str, Any]
) -> None:
    assert post(LOOKED_AT, "/v1/responses", chat(**more)).status_code == 404
    assert seen.seen == []


def test_n10_a_kept_response_is_read_and_ended_by_its_own_caller_alone(
    running: Deployment, tokens: dict[str, str], seen: Upstream, kept: str
) -> None:
    path = f"/v1/responses/{kept}"
    seen.answers[path] = seen.answers[f"{path}/cancel"] = answer_of(kept)

    def statuses(user: str) -> tuple[int, int]:
        headers = {"Authorization": f"Bearer {tokens[user]}"}
        read = requests.get(running.gateway + path, headers=headers, timeout=30)
        ended = requests.post(f"{running.gateway}{path}/cancel", headers=headers, timeout=30)
        return read.status_code, ended.status_code

    for user in (LIMITED, ALLOWED, FREE, MANAGER):
        assert statuses(user) == (404, 404)
    assert seen.seen == []
    assert statuses(LOOKED_AT) == (200, 200)
    assert [one.target for one in seen.seen] == [path, f"{path}/cancel"]
    client = openai.OpenAI(base_url=f"{running.gateway}/v1", api_key=tokens[LOOKED_AT])
    assert client.responses.retrieve(kept).id == kept
    assert client.responses.cancel(kept).id == kept
