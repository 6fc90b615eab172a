"""Puts the token on requests of httpx2, httpx and requests, and sends once more what was refused.

It must never give the token to another origin, nor what was asked, never read an answer's body, and
never send again what cannot be sent twice.
"""

from collections.abc import AsyncGenerator, Generator, MutableMapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx2

from portero.errors import ConfigurationError, redirected

if TYPE_CHECKING:
    import httpx
    import requests.auth

    from portero.token_source import TokenSource

UNAUTHORIZED = 401
#: What the HTTP core reports before it sends a request's head: http11.…, http2.….
_SENDS = ".send_request_headers.started"


def sign(headers: MutableMapping[str, str], token: str) -> None:
    """Put the token on a request, in place of any other credential."""
    headers.pop("x-api-key", None)
    headers["Authorization"] = f"Bearer {token}"


def unsign(headers: MutableMapping[str, str], token: str) -> None:
    """Take the token off a request that goes elsewhere; credentials of others stay."""
    if headers.get("Authorization") == f"Bearer {token}":
        del headers["Authorization"]


def is_expired(headers: Any) -> bool:
    """Whether a 401 is of an authentic token whose time is over, and not of a revoked one."""
    return bool(headers.get("x-should-retry") == "true")


class _Guard:
    """Lets no redirect leave the gateway. httpx follows redirects below an auth, and would take the
    token along from http to https; its trace is told of each request before the head is sent.
    """

    def __init__(self, source: "TokenSource", others: Any) -> None:
        self._source = source
        self._others = others

    def __call__(self, event: str, told: dict[str, Any]) -> Any:
        """Told of an event. Raises `ConfigurationError`."""
        if event.endswith(_SENDS):
            self._check(told["request"])
        return self._others(event, told) if self._others else None

    def _check(self, request: Any) -> None:
        if request.method == b"CONNECT":  # to a proxy, without the request's headers
            return
        target = request.url.target.decode("ascii", "replace")
        # A proxy is sent the whole URL in place of a path.
        url = _url(request.url) if target.startswith(("/", "*")) else target
        if not self._source.is_for(url):
            raise _leaves(self._source, url)


class _AsyncGuard(_Guard):
    async def __call__(self, event: str, told: dict[str, Any]) -> None:
        """The same where the trace is awaited."""
        if event.endswith(_SENDS):
            self._check(told["request"])
        if self._others:
            await self._others(event, told)


def _url(parts: Any) -> str:
    """Of the HTTP core's URL, whose parts are bytes."""
    host = parts.host.decode("ascii")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme.decode('ascii')}://{f'[{host}]' if ':' in host else host}{port}"


def _leaves(source: "TokenSource", target: str) -> ConfigurationError:
    return ConfigurationError(
        f"{source.url} {redirected(target)}; neither the token nor the request was sent there"
    )


class _Flow:
    """The flow of httpx's two generations, whose names are the same."""

    requires_request_body = False
    requires_response_body = False

    def __init__(self, source: "TokenSource") -> None:
        self._source = source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source!r})"

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        if not self._is_ours(request):
            yield request
            return
        _guard(request, _Guard, self._source)
        token = self._source.token()
        sign(request.headers, token)
        response = yield request
        if self._is_worth_another(token, request, response):
            token = self._source.token()
            sign(request.headers, token)
            response = yield request
            self._note(token, response)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        if not self._is_ours(request):
            yield request
            return
        _guard(request, _AsyncGuard, self._source)
        token = await self._source.atoken()
        sign(request.headers, token)
        response = yield request
        if self._is_worth_another(token, request, response):
            token = await self._source.atoken()
            sign(request.headers, token)
            response = yield request
            self._note(token, response)

    def _is_ours(self, request: Any) -> bool:
        if self._source.is_for(str(request.url)):
            return True
        unsign(request.headers, self._source.held)
        return False

    def _note(self, token: str, response: Any) -> bool:
        """Whether it was refused, and the source thinks that another token is worth a try."""
        if response.status_code != UNAUTHORIZED or not self._source.is_for(str(response.url)):
            return False
        return self._source.refused(token, is_expired(response.headers))

    def _is_worth_another(self, token: str, request: Any, response: Any) -> bool:
        return self._note(token, response) and _can_be_sent_twice(request)


def _guard(request: Any, kind: type[_Guard], source: "TokenSource") -> None:
    others = request.extensions.get("trace")
    if not isinstance(others, _Guard):
        request.extensions["trace"] = kind(source, others)


def _can_be_sent_twice(request: Any) -> bool:
    """What comes from a generator or a file is gone when it was sent; bytes are kept."""
    return hasattr(request, "_content")


class Httpx2Auth(_Flow, httpx2.Auth):
    """See `TokenSource.auth`."""


def httpx_auth(source: "TokenSource") -> "httpx.Auth":
    """See `TokenSource.httpx_auth`."""
    made: httpx.Auth = _httpx_class()(source)
    return made


@cache
def _httpx_class() -> Any:
    import httpx

    return type("HttpxAuth", (_Flow, httpx.Auth), {"__doc__": "See `TokenSource.httpx_auth`."})


def requests_auth(source: "TokenSource") -> "requests.auth.AuthBase":
    """See `TokenSource.requests_auth`."""
    made: requests.auth.AuthBase = _requests_class()(source)
    return made


class _Signer:
    """What requests asks of an auth."""

    def __init__(self, source: "TokenSource") -> None:
        self._source = source

    def __call__(self, request: Any) -> Any:
        if not self._source.is_for(request.url):
            unsign(request.headers, self._source.held)
            return request
        token = self._source.token()
        sign(request.headers, token)

        def after(response: Any, **options: Any) -> Any:
            return self._after(token, response, options)

        request.register_hook("response", after)
        return request

    def _after(self, token: str, response: Any, options: dict[str, Any]) -> Any:
        self._refuse_to_leave(response)
        if response.status_code != UNAUTHORIZED or not self._source.is_for(response.url):
            return response
        is_worth = self._source.refused(token, is_expired(response.headers))
        if not is_worth or not isinstance(response.request.body, (str, bytes, type(None))):
            return response
        request = response.request.copy()
        token = self._source.token()
        sign(request.headers, token)
        response.close()
        answer = response.connection.send(request, **options)
        answer.history.append(response)
        answer.request = request
        self._refuse_to_leave(answer)
        if answer.status_code == UNAUTHORIZED:
            self._source.refused(token, is_expired(answer.headers))
        return answer

    def _refuse_to_leave(self, response: Any) -> None:
        """requests itself would take the token from http to https, and what is asked anywhere; it
        does not say whether it is going to.
        """
        target = response.url
        if response.is_redirect:
            with suppress(ValueError):  # requests makes nothing of such a place either
                target = urljoin(target, response.headers["location"])
        if not self._source.is_for(target):
            response.close()
            raise _leaves(self._source, target)


@cache
def _requests_class() -> Any:
    import requests.auth

    return type("RequestsAuth", (_Signer, requests.auth.AuthBase), {})
