"""The chats that bodies and streams are measured with are what they claim to be."""

import json
import re
from typing import Any

import pytest

from bench import texts


def said(content: Any) -> str:
    """All text of a chat."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


@pytest.mark.parametrize("kind", texts.KINDS)
@pytest.mark.parametrize("size", [4 << 10, 16 << 10, 1 << 20])
def test_a_chat_is_json_of_the_size_that_is_asked_for_and_the_same_in_each_run(
    kind: str, size: int
) -> None:
    chat = texts.chat(kind, size)
    assert abs(len(chat) - size) < 64
    assert json.loads(chat)["messages"][-1]["role"] in ("user", "assistant")
    assert texts.chat(kind, size) == chat


@pytest.mark.parametrize("kind", texts.WRITERS)
def test_a_text_does_not_say_one_sentence_again_and_again(kind: str) -> None:
    messages = json.loads(texts.chat(kind, 64 << 10))["messages"]
    text = "\n".join(said(one["content"]) for one in messages)
    ends = r"[.?!\u3002\uff1f\uff01\n]+"
    sentences = [one for one in re.split(ends, text) if len(one) > 8]
    most = max(map(sentences.count, set(sentences)))
    assert len(sentences) > 200
    assert most < len(sentences) / 20


def test_each_kind_has_what_a_scan_stops_at_in_such_texts() -> None:
    chats = {kind: texts.chat(kind, 64 << 10) for kind in texts.KINDS}
    beyond_ascii = {kind: sum(byte > 127 for byte in chat) for kind, chat in chats.items()}
    escapes = {kind: chat.count(b"\\") for kind, chat in chats.items()}
    assert beyond_ascii["English"] == beyond_ascii["code"] == 0
    assert beyond_ascii["Chinese"] > 40_000 > beyond_ascii["Spanish"] > 2_000
    assert escapes["code"] > 4_000 > escapes["English"] > 200
    assert b'"image_url":{"url":"data:image/png;base64,iVBORw0KGg' in chats[texts.IMAGE]
