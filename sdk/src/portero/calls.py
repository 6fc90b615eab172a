"""What the calls of a client are on the wire, and what their answers are: the one place for both
the sync and the async client. No I/O.
"""

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from portero.errors import (
    APIError,
    InvalidRequest,
    NotReady,
    PorteroError,
    RateLimited,
    TransportError,
    error_of,
)
from portero.hidden import Hidden

Messages = str | Sequence[Mapping[str, Any]]
A = TypeVar("A", bound="Answer")

#: The code of an answer that is good by its status, and not what was asked for.
UNEXPECTED = "unexpected_answer"

_COUNT = re.compile(r"[0-9]{1,18}")
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|h|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Limit:
    """What is left of a limit for this minute: `remaining` of `limit`, whole again in
    `reset_seconds`.

    >>> Limit(60, 59, 1.0).remaining
    59
    """

    limit: int
    remaining: int
    reset_seconds: float


@dataclass(frozen=True)
class Answer:
    """An answer as it came.

    `json` is the body, unchanged. `status` is of HTTP. `request_id` stands in the gateway's log.
    `limits` has `requests` and `tokens` where the caller is limited by them.

    >>> Answer({"object": "list"}, 200, "9c78").json["object"]
    'list'
    """

    json: Any
    status: int = 200
    request_id: str = ""
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `APIError` where `json` is not what was asked for; here, anything is.

        >>> Answer("metrics 1").check()
        """

    def _read(self, value: Any, *kinds: type, what: str) -> Any:
        """The value, if it is of one of these kinds."""
        if type(value) not in kinds:
            raise self._unexpected(what)
        return value

    def _unexpected(self, what: str) -> APIError:
        """Never with the body in it, which is the model's, or a stranger's."""
        message = f"The answer was good by its status, but {what}; is that a Portero's address?"
        return APIError(
            message, status=self.status, code=UNEXPECTED, request_id=self.request_id or None
        )

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """The objects of a list in the body; some servers write null for an empty one."""
        body = self._read(self.json, dict, what="is no JSON object")
        return self._objects([] if body.get(name, "") is None else body.get(name), name)

    def _objects(self, told: object, name: str) -> list[dict[str, Any]]:
        rows = self._read(told, list, what=f"has no list of {name}")
        return [self._read(row, dict, what=f"its {name} are no objects") for row in rows]


@dataclass(frozen=True)
class Document(Answer):
    """Of `account` and `usage`: `json` is an object, or for `usage` a list.

    >>> Document({"role": "agi"}).json["role"]
    'agi'
    """

    def check(self) -> None:
        """Raise `APIError` where it is neither.

        >>> Document([]).check()
        """
        self._read(self.json, dict, list, what="is no JSON document")


@dataclass(frozen=True)
class Completion(Answer):
    """Of `chat` and `complete`.

    >>> Completion({"choices": [{"message": {"content": "Paris."}}]}).text
    'Paris.'
    """

    @property
    def text(self) -> str:
        """What the model said; empty where it called a tool instead."""
        choices = self._rows("choices")
        text = text_in(choices[0], "message") if choices else ""
        if text is None:
            raise self._unexpected("its text is none")
        return text

    @property
    def usage(self) -> Mapping[str, int]:
        """`prompt_tokens`, `completion_tokens`, `total_tokens`, where the LLM server says so."""
        body = self._read(self.json, dict, what="is no JSON object")
        counts: Mapping[str, int] = self._read(
            body.get("usage") or {}, dict, what="its usage is no object"
        )
        return counts

    def check(self) -> None:
        """Raise `APIError` where it is none.

        >>> Completion({"choices": []}).check()
        """
        _ = self.text, self.usage


@dataclass(frozen=True)
class Embeddings(Answer):
    """Of `embed`.

    >>> Embeddings({"data": [{"index": 0, "embedding": [0.5, 0.25]}]}).vectors
    [[0.5, 0.25]]
    """

    @property
    def vectors(self) -> list[list[float]]:
        """One a text, in the order of the texts; each has the model's number of dimensions."""
        rows = self._rows("data")
        places = [self._read(row.get("index", 0), int, what="an index is none") for row in rows]
        order = sorted(range(len(rows)), key=places.__getitem__)
        return [self._vector(rows[place].get("embedding")) for place in order]

    def _vector(self, told: object) -> list[float]:
        """Numbers, or with `encoding_format="base64"` the bytes of them (float32)."""
        vector = _unpacked(told) if isinstance(told, str) else told
        if not isinstance(vector, list) or not set(map(type, vector)) <= {int, float}:
            raise self._unexpected("an embedding is no list of numbers")
        return vector

    def check(self) -> None:
        """Raise `APIError` where it is none.

        >>> Embeddings({"data": []}).check()
        """
        _ = self.vectors


@dataclass(frozen=True)
class Models(Answer):
    """Of `models`.

    >>> Models({"data": [{"id": "llama3.2:3b"}]}).names
    ['llama3.2:3b']
    """

    @property
    def names(self) -> list[str]:
        """What the caller may ask for."""
        rows = self._rows("data")
        return [self._read(row.get("id"), str, what="a model has no ID") for row in rows]

    def check(self) -> None:
        """Raise `APIError` where it is none.

        >>> Models({"data": []}).check()
        """
        _ = self.names


@dataclass(frozen=True)
class Keys(Answer):
    """Of `keys`: the caller's API keys, without their secrets.

    >>> Keys({"keys": [{"id": "wPJv-2m3B0gR7hQz"}]}).rows[0]["id"]
    'wPJv-2m3B0gR7hQz'
    """

    @property
    def rows(self) -> list[dict[str, Any]]:
        """`id`, `name`, `models`, `created_at`, `expires_at`, `last_used_at`."""
        is_list = isinstance(self.json, list)
        return self._objects(self.json, "keys") if is_list else self._rows("keys")

    def check(self) -> None:
        """Raise `APIError` where it is none.

        >>> Keys({"keys": []}).check()
        """
        _ = self.rows


@dataclass(frozen=True)
class NewKey(Answer):
    """Of `create_key`: `json` has `id`, `name`, `models`, `created_at`, `expires_at` too.

    >>> NewKey({"id": "wPJv", "key": "sk-portero-wPJv-x8F3"}).id
    'wPJv'
    """

    json: Any = field(repr=False)

    @property
    def id(self) -> str:
        """By which `revoke_key` knows it."""
        return self._text("id")

    @property
    def key(self) -> str:
        """The API key itself, which is told this once."""
        return Hidden(self._text("key"))

    def check(self) -> None:
        """Raise `APIError` where it is none.

        >>> NewKey({"id": "wPJv", "key": "sk-portero-wPJv-x8F3"}).check()
        """
        _ = self.id, self.key

    def _text(self, name: str) -> str:
        body = self._read(self.json, dict, what="is no JSON object")
        return str(self._read(body.get(name), str, what=f"has no {name} of an API key"))


@dataclass(frozen=True)
class Call(Generic[A]):
    """A request, and the kind of its answer."""

    method: str
    path: str
    kind: type[A]
    body: Mapping[str, Any] | None = None
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """What an HTTP client is told beside method and path."""
        told: dict[str, Any] = {"headers": {"Accept": "application/json"}}
        if self.body is not None:
            told["json"] = self.body
        if self.params:
            told["params"] = self.params
        return told


def chat(model: str, messages: Messages, options: Mapping[str, Any]) -> Call[Completion]:
    """A text alone is one message of the user."""
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body = {"model": model, "messages": said, **options}
    return Call("POST", "/v1/chat/completions", Completion, body)


def complete(model: str, prompt: str, options: Mapping[str, Any]) -> Call[Completion]:
    return Call(
        "POST", "/v1/completions", Completion, {"model": model, "prompt": prompt, **options}
    )


def embed(model: str, texts: str | Sequence[str], options: Mapping[str, Any]) -> Call[Embeddings]:
    given = texts if isinstance(texts, str) else list(texts)
    return Call("POST", "/v1/embeddings", Embeddings, {"model": model, "input": given, **options})


def usage(
    first_day: str | None, last_day: str | None, by: str | Sequence[str] | None
) -> Call[Document]:
    columns = by if by is None or isinstance(by, str) else ",".join(by)
    params = {"from": first_day, "to": last_day, "by": columns}
    given = {name: value for name, value in params.items() if value}
    return Call("GET", "/account/usage", Document, params=given)


def create_key(name: str, days: int, models: Sequence[str] | None) -> Call[NewKey]:
    body: dict[str, Any] = {"name": name, "days": days}
    if models:
        body["models"] = list(models)
    return Call("POST", "/account/keys", NewKey, body)


def revoke_key(key_id: str) -> Call[Answer]:
    return Call("DELETE", f"/account/keys/{quote(key_id, safe='')}", Answer)


def local(path: str) -> str:
    """A path of the gateway: no other host is asked, however it is written."""
    if not path.startswith("/") or path.startswith("//"):
        raise InvalidRequest("path must begin with one slash")
    if not path.isprintable():
        raise InvalidRequest("path holds what no URL may hold; quote it (urllib.parse.quote)")
    return path


MODELS = Call("GET", "/v1/models", Models)
HEALTH = Call("GET", "/health", Answer)
ACCOUNT = Call("GET", "/account", Document)
KEYS = Call("GET", "/account/keys", Keys)


def read(kind: type[A], status: int, headers: Mapping[str, str], body: bytes) -> "A | APIError":
    """The answer, or the error that it is: by its status, or as it is not what was asked for."""
    if not 200 <= status < 300:
        return error_of(status, headers, body)
    answer = kind(_content(body), status, headers.get("x-request-id", ""), limits_of(headers))
    try:
        answer.check()
    except APIError as error:
        return error
    return answer


def _content(body: bytes) -> Any:
    """JSON as it is, another text as a text, nothing as None."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def limits_of(headers: Mapping[str, str]) -> dict[str, Limit]:
    """What `x-ratelimit-*` say.

    >>> limits_of({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
    ...            "x-ratelimit-reset-requests": "1s"})
    {'requests': Limit(limit=60, remaining=59, reset_seconds=1.0)}
    """
    found = {}
    for name in ("requests", "tokens"):
        told = [headers.get(f"x-ratelimit-{word}-{name}", "") for word in ("limit", "remaining")]
        if all(_COUNT.fullmatch(word) for word in told):
            reset = _seconds(headers.get(f"x-ratelimit-reset-{name}", ""))
            found[name] = Limit(int(told[0]), int(told[1]), reset)
    return found


def _seconds(text: str) -> float:
    """Of a duration such as 1m2.5s or 300ms."""
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def can_wait(error: PorteroError) -> bool:
    """Whether a request may be sent again later: nothing of it has begun."""
    if isinstance(error, TransportError):
        return not error.may_have_started
    return isinstance(error, (NotReady, RateLimited))


def text_in(choice: Mapping[str, Any], name: str) -> str | None:
    """The text of a choice, whose message is called so; None where it is of no form we know.

    >>> text_in({"delta": {"content": "Par"}}, "delta")
    'Par'
    """
    message = choice.get(name)
    if not isinstance(message, dict | None):
        return None
    content = (message or {}).get("content")
    return _joined(choice.get("text") if content is None else content)


def _joined(content: object) -> str | None:
    """A text, none, or the parts that newer models answer with, of which some are texts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _unpacked(text: str) -> list[float] | None:
    try:
        packed = base64.b64decode(text, validate=True)
        return [number for (number,) in struct.iter_unpack("<f", packed)]
    except (ValueError, struct.error):
        return None
