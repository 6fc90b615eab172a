"""One login over HTTP, and one logout. It decides where to log in and reads the answer; when to do
so is not its concern.

It answers errors and does not raise them: whoever waits raises their own, and no traceback leads
into a frame that holds a secret.
"""

import base64
import json
import logging
import random
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from typing import Any

import httpx2

from portero import calls
from portero.calls import MODELS
from portero.configuration import Configuration
from portero.errors import (
    ConfigurationError,
    LoginError,
    LoginUnavailable,
    PorteroError,
    TooManyTokens,
    WrongCredentials,
    WrongLogin,
    told_by,
    words_of,
)
from portero.hidden import Hidden
from portero.token_state import Grant, Outcome, life_of

OAUTH = "/oauth/token"
BASIC = ("/llm/login", "/agi/login", "/auth/llm/login", "/auth/agi/login")
FORM = ("/login", "/admin/login", "/auth/login")
#: The code that a username begins with -> the endpoints to try, in this order. People's token
#: would come in a Set-Cookie, which an HTTP library's log may show; OAuth's comes in a body.
ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    "AGNR": ("/llm/login",),
    "AGNF": ("/llm/login",),
    "AGIA": ("/agi/login",),
    "USRS": (OAUTH, "/login"),
    "MNTR": (OAUTH, "/login"),
    "ADMN": (OAUTH, "/admin/login"),
}
#: Status -> what a refused login is.
REFUSALS: Mapping[int, type[LoginError]] = {
    401: WrongCredentials,
    403: WrongLogin,
    429: TooManyTokens,
    502: LoginUnavailable,
    503: LoginUnavailable,
    504: LoginUnavailable,
}
#: OAuth's codes (RFC 6749 section 5.2) that say more than their status.
OAUTH_CODES: Mapping[str, type[LoginError]] = {
    "invalid_client": WrongCredentials,
    "unauthorized_client": WrongLogin,
}
#: Statuses of refusals that a gateway gives to good tokens alone: by their role, or for the LLM
#: server behind it.
TAKEN = (403, 502, 504)
UNAUTHORIZED = 401
COOKIE = "auth_token"
TIMEOUT_SECONDS = 10.0
_SECONDS = re.compile("[0-9]{1,10}")


class _Quiet(logging.Filter):
    """Keeps out of a log what a thread does while it is quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.thread, "is_quiet", False)


_quiet = _Quiet()
for _name in ("httpcore2.http11", "httpcore2.http2"):
    logging.getLogger(_name).addFilter(_quiet)


@contextmanager
def quiet() -> Iterator[None]:
    """This thread's answers are in no log of the HTTP library: their heads hold a token."""
    _quiet.thread.is_quiet = True
    try:
        yield
    finally:
        _quiet.thread.is_quiet = False


class Login:
    """Logs one caller in and out.

    >>> Login(Configuration("http://127.0.0.1:8080", "AGIAXYZ456")).endpoints()
    ('/agi/login',)
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._verify = configuration.ssl_context()
        self._endpoints = self.endpoints()

    def endpoints(self) -> tuple[str, ...]:
        """Where to log in, best first. Raises `ConfigurationError` for another `login`."""
        login, username = self._configuration.login, self._configuration.username
        if login and login not in (OAUTH, *BASIC, *FORM):
            raise ConfigurationError(f"login= is one of {', '.join((*BASIC, *FORM, OAUTH))}")
        return (login,) if login else ENDPOINTS.get(username[:4], (OAUTH,))

    def attempt(self, now: float, timeout_seconds: float = TIMEOUT_SECONDS) -> Outcome:
        """Log in once. `now` is the time that the token's life is counted from."""
        for endpoint in self._endpoints:
            outcome = self._at(endpoint, now, timeout_seconds)
            if isinstance(outcome, Grant):
                self._endpoints = (endpoint,)
            if isinstance(outcome, Grant) or outcome.status != 404:
                return outcome
        return outcome

    def revoke(self, token: str, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
        """Whether the token is dead now, or was before."""
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        answer = self._sent("POST", "/logout", headers, {}, timeout_seconds)
        return isinstance(answer, httpx2.Response) and answer.status_code in (202, 204, 401)

    def refusal(self, token: str, timeout_seconds: float = TIMEOUT_SECONDS) -> LoginError | None:
        """Why the gateway does not take a token, None where it does; `LoginUnavailable` where it
        could not be asked, which says nothing of the token.
        """
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        answer = self._sent("GET", MODELS.path, headers, {}, timeout_seconds)
        if isinstance(answer, LoginError):
            return answer
        status, is_porteros = answer.status_code, "x-portero-code" in answer.headers
        read = calls.read(MODELS.kind, status, answer.headers, answer.content)
        if not isinstance(read, PorteroError) or (is_porteros and status in TAKEN):
            return None
        kind = LoginError if status == UNAUTHORIZED else LoginUnavailable
        message = f"{MODELS.path}: {read.message}"
        return kind(message, status=status, code=read.code, request_id=read.request_id)

    def _at(self, endpoint: str, now: float, timeout_seconds: float) -> Outcome:
        answer = self._sent("POST", endpoint, *self._asked(endpoint), timeout_seconds)
        if isinstance(answer, LoginError):
            return answer
        if answer.status_code != 200:
            return _refusal(answer, endpoint)
        found = _from_cookie(answer) if endpoint in FORM else _from_body(answer)
        if found is None:
            return LoginError(
                f"{endpoint} answered 200 without a token; is a Portero there?", status=200
            )
        token, ttl_seconds, role = found
        jitter = random.random()  # noqa: S311 - it spreads load, and guards nothing
        username = self._configuration.username
        return Grant(token, now, life_of(ttl_seconds), jitter, role, username)

    def _asked(self, endpoint: str) -> tuple[dict[str, str], dict[str, str]]:
        """Headers and form fields of a login."""
        username, secret = self._configuration.username, self._configuration.secret
        headers = {"Accept": "application/json"}
        if endpoint in FORM:
            return headers, {"username": username, "password": str(secret)}
        if endpoint == OAUTH:  # in the body: clients and servers differ on how Basic is escaped
            client = {"client_id": username, "client_secret": str(secret)}
            return headers, {"grant_type": "client_credentials", **client}
        packed = base64.b64encode(f"{username}:{secret}".encode()).decode()
        return {**headers, "Authorization": f"Basic {packed}"}, {}

    def _sent(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        fields: Mapping[str, str],
        timeout_seconds: float,
    ) -> httpx2.Response | LoginUnavailable:
        """A connection of its own each time: logins are rare, and a forked child shares none."""
        url = self._configuration.url + path
        # Not raised from where it is caught: frames below hold what was sent.
        try:
            with quiet(), httpx2.Client(verify=self._verify, timeout=timeout_seconds) as client:
                answer: httpx2.Response = client.request(
                    method, url, headers=headers, data=fields or None
                )
                return answer
        except httpx2.HTTPError as error:
            reason = f"{type(error).__name__}: {error}"
        return LoginUnavailable(f"{path} at {self._configuration.url} did not answer ({reason})")


def _refusal(answer: httpx2.Response, endpoint: str) -> LoginError:
    told = told_by(answer.headers, answer.content)
    found = OAUTH_CODES.get(told["code"] or "") or REFUSALS.get(answer.status_code, LoginError)
    message = words_of(answer.status_code, answer.headers, answer.content)
    return found(f"{endpoint}: {message}", status=answer.status_code, **told)


Found = tuple[Hidden, float, str]


def _from_body(answer: httpx2.Response) -> Found | None:
    """`expires_in` is an absolute time at the Basic endpoints, and seconds at OAuth's: those that
    have `ttl_seconds` mean that.
    """
    try:
        body = json.loads(answer.content)
        token = body.get("token") or body["access_token"]
        ttl_seconds = body.get("ttl_seconds") or body["expires_in"]
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    return _checked(token, ttl_seconds, body.get("role"))


def _from_cookie(answer: httpx2.Response) -> Found | None:
    for line in answer.headers.get_list("set-cookie"):
        try:
            cookie = SimpleCookie(line).get(COOKIE)
        except CookieError:
            continue
        if cookie is not None and _SECONDS.fullmatch(cookie["max-age"]):
            return _checked(cookie.value, int(cookie["max-age"]), None)
    return None


def _checked(token: object, ttl_seconds: Any, role: object) -> Found | None:
    """Nothing that would break a header, or a sum, goes any further."""
    is_number = isinstance(ttl_seconds, (int, float)) and not isinstance(ttl_seconds, bool)
    if not (
        isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token
    ):
        return None
    if not token or not is_number or not 0 < ttl_seconds < 1e9:
        return None
    told = role if isinstance(role, str) else role_in(token)
    return Hidden(token), float(ttl_seconds), told


def role_in(token: str) -> str:
    """The role that a token says, to show it to people: nothing here trusts it."""
    try:
        payload = token.split(".")[1]
        role = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["role"]
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return role if isinstance(role, str) else ""
