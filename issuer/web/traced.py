"""A span for each request, where traces are wanted (`issuer/traces.py`).

It must never name a span after a path as it came, which may hold a user's name or a token's ID.
"""

from contextlib import ExitStack
from typing import Any

from flask import Flask, Response, g, request

from issuer import traces

#: Asked all the time by what watches the issuer.
_NOT_TRACED = frozenset({"/healthz", "/readyz", "/metrics", "/static/<path:filename>"})
#: What a path that is no endpoint's has for one.
_NO_ROUTE = "none"
#: What a method is called that a client made up (OpenTelemetry's conventions for HTTP).
_METHODS, _OTHER = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}), "_OTHER"


def trace(app: Flask) -> None:
    """Have each request of the application from its beginning to its end."""
    app.before_request(_begin)
    app.after_request(_answered)
    app.teardown_request(_end)


def _begin() -> None:
    route = request.url_rule.rule if request.url_rule else _NO_ROUTE
    if route in _NOT_TRACED:
        return
    g.trace = ExitStack()
    method = request.method if request.method in _METHODS else _OTHER
    named = traces.request(f"{method} {route}", {"traceparent": _one("traceparent")})
    g.span = g.trace.enter_context(named)
    _tell("http.request.method", method)
    _tell("http.route", route)
    _tell("http.request.header.x-request-id", [_one("X-Request-Id")])


def _one(name: str) -> str:
    return request.headers.get(name, "")


def _answered(answer: Response) -> Response:
    _tell("http.response.status_code", answer.status_code)
    if answer.status_code >= 500 and g.get("span"):
        from opentelemetry.trace import StatusCode

        g.span.set_status(StatusCode.ERROR)
    return answer


def _tell(name: str, value: Any) -> None:
    if g.get("span"):
        g.span.set_attribute(name, value)


def _end(_: BaseException | None) -> None:
    if "trace" in g:
        g.trace.close()
