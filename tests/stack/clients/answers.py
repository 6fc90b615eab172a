"""What the scripted LLM server says to the clients: the same answer, "pong" or "pong" twice in a
stream, in each API's own shape, with all that a client of that API insists on.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.upstream import CHAT_ANSWER, MODELS_ANSWER, Spoken

PIECES = ("pong", "pong")


def sse(data: Mapping[str, Any], named: bool = True) -> str:
    """One event; APIs that name their events do so by the `type` of the data."""
    name = f"event: {data['type']}\n" if named else ""
    return f"{name}data: {json.dumps(data)}\n\n"


# OpenAI: chat and completions.

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
#: Vercel's ai takes a stream without a reason for its end for one that broke off.
LAST_CHUNK = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = "data: [DONE]\n\n"


def chat(pieces: Sequence[str] = PIECES) -> Spoken:
    """`/v1/chat/completions`."""
    chunks = [*[CHUNK for _ in pieces], LAST_CHUNK]
    return Spoken(CHAT_ANSWER, [*[sse(chunk, named=False) for chunk in chunks], DONE])


def completions(pieces: Sequence[str] = PIECES) -> Spoken:
    """`/v1/completions`."""
    return Spoken(COMPLETION, [*[sse(COMPLETION, named=False) for _ in pieces], DONE])


# OpenAI: responses.


def _response(status: str, text: str) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "tiny",
        "output": [_response_message(status, text)] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 4,
        },
    }


def _response_message(status: str, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def responses(pieces: Sequence[str] = PIECES) -> Spoken:
    """`/v1/responses`."""
    text = "".join(pieces)
    at: dict[str, Any] = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item: dict[str, Any] = {"output_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": _response("in_progress", "")},
        {
            "type": "response.output_item.added",
            **item,
            "item": _response_message("in_progress", ""),
        },
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *[{"type": "response.output_text.delta", **at, "delta": one} for one in pieces],
        {"type": "response.output_text.done", **at, "text": text},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", **item, "item": _response_message("completed", text)},
        {"type": "response.completed", "response": _response("completed", text)},
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return Spoken(_response("completed", "pong"), [sse(event) for event in numbered])


# Anthropic.


def _message(text: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": "end_turn" if text else None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }


def messages(pieces: Sequence[str] = PIECES) -> Spoken:
    """`/v1/messages`."""
    at = {"index": 0}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message("")},
        {"type": "content_block_start", **at, "content_block": {"type": "text", "text": ""}},
        *[
            {"type": "content_block_delta", **at, "delta": {"type": "text_delta", "text": one}}
            for one in pieces
        ],
        {"type": "content_block_stop", **at},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": len(pieces)}},
        {"type": "message_stop"},
    ]
    return Spoken(_message("pong"), [sse(event) for event in events])


# Ollama.


def _ollama(text: str, is_done: bool) -> dict[str, Any]:
    counts = {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 1} if is_done else {}
    return {
        "model": "tiny",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {"role": "assistant", "content": text},
        "response": text,
        "done": is_done,
        **counts,
    }


def ollama(pieces: Sequence[str] = PIECES) -> Spoken:
    """`/api/chat`, and `/api/generate`, which reads the other of the two texts."""
    lines = [*[_ollama(one, is_done=False) for one in pieces], _ollama("", is_done=True)]
    return Spoken(_ollama("pong", is_done=True), [json.dumps(line) + "\n" for line in lines])


OLLAMA_LIST = {"models": [{"name": "tiny:latest", "model": "tiny:latest", "size": 1}]}


def everything(pieces: Sequence[str] = PIECES) -> dict[str, Any]:
    """Path -> what is said there."""
    return {
        "/v1/chat/completions": chat(pieces),
        "/v1/completions": completions(pieces),
        "/v1/responses": responses(pieces),
        "/v1/messages": messages(pieces),
        "/v1/messages/count_tokens": {"input_tokens": 3},
        "/v1/embeddings": EMBEDDINGS,
        "/v1/models": MODELS_ANSWER,
        "/api/chat": ollama(pieces),
        "/api/generate": ollama(pieces),
        "/api/embed": {"model": "tiny", "embeddings": [[0.5, 0.25]]},
        "/api/tags": OLLAMA_LIST,
        "/api/show": {"details": {"family": "llama"}, "model_info": {}},
    }


#: Where a refusal of the LLM server is scripted: what is asked for an answer.
INFERENCE = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat")
