"""Who reads a JSON body behind the gateway: what each finds of all that the gateway judges by.

Python is itself, as vLLM has it. Go's encoding/json (Ollama, LocalAI) and nlohmann's (llama-server)
are told by what makes them differ: how they take bytes that are no UTF-8, half surrogate pairs,
names in another case and names that are there twice. The last two are nobody's: what takes the
first of two names, and what trusts a byte that begins a character and swallows those behind unseen.
A reader raises ValueError for what it refuses.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

#: Names that choose a model beside `model`, or lay something over it.
SECOND = (
    "source", "destination", "from", "adapters", "lora", "backend", "model_base_name", "model_id",
    "lora_name", "lora_path", "adapter", "lora_adapter", "lora_adapters",
)  # fmt: skip
_TEXTS = ("model", "name", "previous_response_id")
_VALUES = ("stream_options", "priority")
#: So many characters the gateway looks at however they are written.
_SHOWN = 16
_INLINE = re.compile(r"data:.*|[\w+/=\r\n-]*", re.IGNORECASE | re.ASCII | re.DOTALL)


class Members(list[tuple[str, Any]]):
    """An object, with every member that stands in it."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _strict(text: str) -> Any:
    return json.loads(text, object_pairs_hook=Members, parse_constant=_refuse)


def _loose(text: str) -> Any:
    return json.loads(text, object_pairs_hook=Members, strict=False)


def _nlohmann(body: bytes) -> Any:
    value = _strict(body.decode())
    json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair anywhere
    return value


_UNSEEN = re.compile(rb"[\xc0-\xdf].|[\xe0-\xef]..|[\xf0-\xff]...", re.DOTALL)


def _swallow(body: bytes) -> bytes:
    return _UNSEEN.sub(b"?", body)


def _fold(name: str) -> str:
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


def _last(members: Members, name: str) -> Any:
    return next((value for one, value in reversed(members) if one == name), None)


def _first(members: Members, name: str) -> Any:
    return next((value for one, value in members if one == name), None)


def _last_folded(members: Members, name: str) -> Any:
    return next((value for one, value in reversed(members) if _fold(one) == name), None)


class Reader(NamedTuple):
    """How bytes become a value, which of a name's values counts, and how the reader sees a text."""

    parse: Callable[[bytes], Any]
    member: Callable[[Members, str], Any]
    sees: Callable[[str], str] = str


READERS = {
    "python": Reader(lambda body: json.loads(body, object_pairs_hook=Members), _last),
    "python, not strict": Reader(lambda body: _loose(body.decode("utf-8", "replace")), _last),
    "go": Reader(lambda body: _strict(body.decode("utf-8", "replace")), _last_folded),
    "nlohmann": Reader(_nlohmann, _last),
    "the first of two": Reader(lambda body: _loose(body.decode("utf-8", "replace")), _first),
    "swallows": Reader(
        lambda body: _loose(_swallow(body).decode("latin-1")),
        _last,
        lambda text: _swallow(text.encode("utf-8", "surrogatepass")).decode("latin-1"),
    ),
}


def found_by(reader: Reader, body: bytes) -> dict[str, Any]:
    """What a reader finds, by the names that `body.lua` has for it."""
    top = reader.parse(body)
    if not isinstance(top, Members):
        raise ValueError("no object")
    found = {name: reader.member(top, name) for name in (*_TEXTS, *_VALUES)}
    for name in _TEXTS:
        found[name] = reader.sees(found[name]) if isinstance(found[name], str) else found[name]
    seconds = (name for name, _ in top if name in SECOND)
    return found | {
        "stream": reader.member(top, "stream") is True,
        "conversation": reader.member(top, "conversation") is not None,
        "second": next((name for name in seconds if reader.member(top, name) is not None), None),
        "tools": _asks_tools(reader, reader.member(top, "tools")),
        "fetch": _asks_fetch(reader, reader.member(top, "messages")),
    }


def differing(reader: Reader, body: bytes, told: dict[str, Any]) -> set[str]:
    """In what a reader differs from what the gateway has told of a body: nothing is right.

    The gateway may see tools and addresses where a reader sees none: it refuses what it cannot
    read.
    """
    found, wanted = found_by(reader, body), _expected(reader, told)
    wrong = {name for name, value in wanted.items() if found[name] != value}
    return wrong - {name for name in ("tools", "fetch") if wanted[name]}


def _expected(reader: Reader, told: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: reader.sees(told[name]) if name in told else None for name in _TEXTS},
        **{name: reader.parse(told[name].encode()) if name in told else None for name in _VALUES},
        **{name: bool(told.get(name)) for name in ("stream", "conversation", "tools", "fetch")},
        "second": told.get("second"),
    }


def _asks_tools(reader: Reader, tools: Any) -> bool:
    if isinstance(tools, Members):
        kind = reader.member(tools, "type")
        return isinstance(kind, str) and kind not in ("function", "custom")
    if isinstance(tools, list):
        return any(_asks_tools(reader, one) for one in tools)
    return isinstance(tools, str)


def _asks_fetch(reader: Reader, part: Any) -> bool:
    if isinstance(part, Members):
        return _is_address(reader, reader.member(part, "image_url")) or _asks_fetch(
            reader, reader.member(part, "content")
        )
    return isinstance(part, list) and any(_asks_fetch(reader, one) for one in part)


def _is_address(reader: Reader, value: Any) -> bool:
    if isinstance(value, Members):
        return _is_address(reader, reader.member(value, "url"))
    if isinstance(value, list):
        return any(_is_address(reader, one) for one in value)
    return isinstance(value, str) and not _INLINE.fullmatch(value[:_SHOWN])
