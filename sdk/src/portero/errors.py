"""One tree of errors, and how an answer of the gateway becomes one.

The gateway answers in the dialect of the path: OpenAI's `{"error": {…}}`, Ollama's
`{"error": "…"}`, Anthropic's `{"type": "error", "error": {…}}`, and OAuth's `{"error": code}` at
its token endpoint. The code is in the header `x-portero-code` of every refusal, so that header
decides. No error ever holds a token, a secret or what was asked.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

Error = TypeVar("Error", bound="PorteroError")


class PorteroError(Exception):
    """Anything this package raises by design.

    Attributes, each None where nobody said it: `status` (int, of HTTP), `code` (str, Portero's
    word), `type` and `param` (str, of the dialect), `request_id` (str, stands in the gateway's
    log), `retry_after` (float, seconds), `should_retry` (bool, the gateway's own word on it).

    >>> PorteroError("No.", status=404, code="not_found", request_id="9c78")
    PorteroError('No. [404 not_found, request 9c78]')
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry

    def __str__(self) -> str:
        words = " ".join(str(word) for word in (self.status, self.code) if word is not None)
        request = f"request {self.request_id}" if self.request_id else ""
        told = ", ".join(word for word in (words, request) if word)
        return f"{self.message} [{told}]" if told else self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ConfigurationError(PorteroError):
    """A value is missing or wrong; the message names each, as an argument and as a variable."""


class LoginError(PorteroError):
    """No token could be had."""


class WrongCredentials(LoginError):
    """The username or the secret is wrong (401). Not tried again for some seconds."""


class WrongLogin(LoginError):
    """The role logs in elsewhere, and the secret is right (403): give `login=`. Or the role asks
    for a client certificate of the user's name, and none was shown.
    """


class TooManyTokens(LoginError):
    """The role has as many active tokens as it may, or guesses were too many (429)."""


class LoginUnavailable(LoginError):
    """The issuer or the gateway could not be reached or was not ready, as long as we waited."""


class TransportError(PorteroError):
    """No answer came: no connection, a broken one, or a time-out.

    `may_have_started` (bool): whether the LLM server may be at work; if not, it is safe to repeat.
    """

    def __init__(self, message: str, *, may_have_started: bool = True, **told: Any) -> None:
        super().__init__(message, **told)
        self.may_have_started = may_have_started


class APIError(PorteroError):
    """The gateway or the LLM server answered with an error; the classes below say which."""


class InvalidRequest(APIError):
    """Body, size, type or method is not acceptable (400, 405, 409, 413, 415, 422)."""


class TokenExpired(APIError):
    """An authentic token whose time is over (401)."""


class TokenRefused(APIError):
    """The token is revoked, unknown or forged (401). `on_revoked="login"` logs in again instead."""


class PermissionDenied(APIError):
    """The role may not use this route (403)."""


class ModelNotFound(APIError):
    """No such model, or not for this caller (404)."""


class NotFound(APIError):
    """No such route, or this Portero does not have it yet (404)."""


class RateLimited(APIError):
    """A limit is used up for now (429); `retry_after` says for how long."""


class QuotaSpent(APIError):
    """The day's or the month's budget is spent (429); waiting a minute does not help."""


class NotReady(APIError):
    """The gateway or every server of the model is away for the moment (503)."""


class UpstreamUnavailable(APIError):
    """The LLM server cannot be reached, or failed (502)."""


class UpstreamTimeout(APIError):
    """The LLM server did not answer in time (504)."""


class StreamCut(PorteroError):
    """A stream ended before its end: `code` says why, `partial` (str) is the text that came.

    `code` is the gateway's, such as `invalid_api_key` for a revoked token, or `connection_lost`.
    """

    def __init__(self, message: str, *, partial: str = "", **told: Any) -> None:
        super().__init__(message, **told)
        self.partial = partial


BY_CODE: Mapping[str, type[APIError]] = {
    "invalid_json": InvalidRequest,
    "invalid_request": InvalidRequest,
    "method_not_allowed": InvalidRequest,
    "request_too_large": InvalidRequest,
    "unsupported_media_type": InvalidRequest,
    "invalid_api_key": TokenRefused,
    "insufficient_permissions": PermissionDenied,
    "model_not_found": ModelNotFound,
    "not_found": NotFound,
    "rate_limit_exceeded": RateLimited,
    "insufficient_quota": QuotaSpent,
    "not_ready": NotReady,
    "capacity": NotReady,
    "upstream_unavailable": UpstreamUnavailable,
    "upstream_timeout": UpstreamTimeout,
}
#: For what an LLM server or a proxy in front answers by itself.
BY_STATUS: Mapping[int, type[APIError]] = {
    400: InvalidRequest,
    401: TokenRefused,
    403: PermissionDenied,
    404: NotFound,
    405: InvalidRequest,
    409: InvalidRequest,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    502: UpstreamUnavailable,
    503: NotReady,
    504: UpstreamTimeout,
}


@dataclass(frozen=True)
class Told:
    """What an answer, or a stream's last event, says of an error, whatever its dialect."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    request_id: str | None = None


def read_body(body: bytes | str) -> Told:
    """What an error's body says; nothing where it is none of the dialects.

    >>> read_body('{"error": "No such model."}').message
    'No such model.'
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return Told()
    return read_content(content)


def read_content(content: object) -> Told:
    """The same of JSON that is read already."""
    if not isinstance(content, dict):
        return Told()
    error = content.get("error")
    if isinstance(error, dict):
        return _read_fields(error, content.get("request_id"))
    if isinstance(error, str) and "error_description" in content:
        return Told(_text(content["error_description"]) or error, error)
    return Told(_text(error) or "")


def _read_fields(error: Mapping[str, object], request_id: object) -> Told:
    """OpenAI's and Anthropic's, which has no code."""
    names = ("code", "type", "param")
    code, kind, param = (_text(error.get(name)) for name in names)
    return Told(_text(error.get("message")) or "", code, kind, param, _text(request_id))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def told_by(headers: Mapping[str, str], body: bytes | str) -> dict[str, Any]:
    """The attributes of an error for an answer with these headers (any case) and this body."""
    told = read_body(body)
    return {
        "code": headers.get("x-portero-code") or told.code,
        "type": told.type,
        "param": told.param,
        "request_id": headers.get("x-request-id") or told.request_id,
        "retry_after": retry_after(headers),
        "should_retry": {"true": True, "false": False}.get(headers.get("x-should-retry", "")),
    }


def redirected(location: str) -> str:
    """What is to be told of an answer that sends elsewhere: only where, as the rest of an address
    may hold anything.

    >>> redirected("https://door.lan/login?next=/v1")
    'redirects to https://door.lan: if the gateway is there, set PORTERO_URL (url=) to that'
    """
    try:
        parts = urlsplit(location)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    if not host:
        return "redirects to another path: is PORTERO_URL (url=) the gateway's own address?"
    where = f"{parts.scheme}://{host}" if parts.scheme else host
    return f"redirects to {where}: if the gateway is there, set PORTERO_URL (url=) to that"


def words_of(status: int, headers: Mapping[str, str], body: bytes | str) -> str:
    """What an answer says of its error, or what there is to say where it says nothing."""
    message = read_body(body).message
    if not message and 300 <= status < 400 and headers.get("location"):
        return f"The answer {redirected(headers['location'])}."
    return message or f"The answer was {status}, and no more is told."


def error_of(status: int, headers: Mapping[str, str], body: bytes | str) -> APIError:
    """The error that an answer is.

    >>> error_of(404, {"x-portero-code": "model_not_found"}, '{"error": "No such model."}')
    ModelNotFound('No such model. [404 model_not_found]')
    """
    told = told_by(headers, body)
    message = words_of(status, headers, body)
    return _class_of(status, told)(message, status=status, **told)


def _class_of(status: int, told: Mapping[str, Any]) -> type[APIError]:
    found = BY_CODE.get(told["code"] or "") or BY_STATUS.get(status, APIError)
    if found is TokenRefused and told["should_retry"]:
        return TokenExpired
    return found


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, where the answer says so in a number; never less than none."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return None


def again(error: Error) -> Error:
    """An error of its own for each that raises it: threads that raise one object would mix their
    tracebacks.
    """
    return copy.copy(error)
