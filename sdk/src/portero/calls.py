"""What the calls of a client are on the wire, and what their answers are: the one place for both
the sync and the async client. No I/O.
"""

import json
import re
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

Messages = str | Sequence[Mapping[str, Any]]
A = TypeVar("A", bound="Answer")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
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


@dataclass(frozen=True)
class Completion(Answer):
    """Of `chat` and `complete`.

    >>> Completion({"choices": [{"message": {"content": "Paris."}}]}).text
    'Paris.'
    """

    @property
    def text(self) -> str:
        """What the model said; empty where it called a tool instead."""
        choice = _first(self.json.get("choices"))
        return str((choice.get("message") or {}).get("content") or choice.get("text") or "")

    @property
    def usage(self) -> Mapping[str, int]:
        """`prompt_tokens`, `completion_tokens`, `total_tokens`, where the LLM server says so."""
        return self.json.get("usage") or {}


@dataclass(frozen=True)
class Embeddings(Answer):
    """Of `embed`.

    >>> Embeddings({"data": [{"index": 0, "embedding": [0.5, 0.25]}]}).vectors
    [[0.5, 0.25]]
    """

    @property
    def vectors(self) -> list[list[float]]:
        """One a text, in the order of the texts; each has the model's number of dimensions."""
        rows = sorted(self.json.get("data") or [], key=lambda row: row.get("index", 0))
        return [row["embedding"] for row in rows]


@dataclass(frozen=True)
class Models(Answer):
    """Of `models`.

    >>> Models({"data": [{"id": "llama3.2:3b"}]}).names
    ['llama3.2:3b']
    """

    @property
    def names(self) -> list[str]:
        """What the caller may ask for."""
        return [row["id"] for row in self.json.get("data") or []]


@dataclass(frozen=True)
class Keys(Answer):
    """Of `keys`: the caller's API keys, without their secrets."""

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """`id`, `name`, `models`, `created_at`, `expires_at`, `last_used_at`."""
        return list(self.json.get("keys") or []) if isinstance(self.json, dict) else self.json


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
) -> Call[Answer]:
    columns = by if by is None or isinstance(by, str) else ",".join(by)
    params = {"from": first_day, "to": last_day, "by": columns}
    given = {name: value for name, value in params.items() if value}
    return Call("GET", "/account/usage", Answer, params=given)


def create_key(name: str, days: int, models: Sequence[str] | None) -> Call[Answer]:
    body: dict[str, Any] = {"name": name, "days": days}
    if models:
        body["models"] = list(models)
    return Call("POST", "/account/keys", Answer, body)


def revoke_key(key_id: str) -> Call[Answer]:
    return Call("DELETE", f"/account/keys/{quote(key_id, safe='')}", Answer)


def local(path: str) -> str:
    """A path of the gateway: no other host is asked, however it is written."""
    if not path.startswith("/") or path.startswith("//"):
        raise InvalidRequest("path must begin with one slash")
    return path


MODELS = Call("GET", "/v1/models", Models)
HEALTH = Call("GET", "/health", Answer)
ACCOUNT = Call("GET", "/account", Answer)
KEYS = Call("GET", "/account/keys", Keys)


def read(kind: type[A], status: int, headers: Mapping[str, str], body: bytes) -> "A | APIError":
    """The answer, or the error that it is."""
    if status >= 300:
        return error_of(status, headers, body)
    return kind(_content(body), status, headers.get("x-request-id", ""), limits_of(headers))


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
        if all(word.isdigit() for word in told):
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


def _first(rows: Any) -> Mapping[str, Any]:
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
