"""The login endpoints: Basic for agents (RFC 7617), a form for people; and the way out.

Thin: the decisions are `Authority`'s. It must never say whether the user or the secret was wrong.
"""

import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, make_response, redirect, request
from werkzeug.exceptions import BadRequest

from issuer import metrics
from issuer.authority import Authority, Login, Refusal
from issuer.errors import WIRE_ERRORS, TokenRefused, WrongCertificate
from issuer.tokens import presented_token
from issuer.web import pages, responses

BASIC_ENDPOINTS = ("/llm/login", "/agi/login")
FORM_ENDPOINTS = ("/login", "/admin/login")
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
FIELDS = ("username", "password", "next")
#: Other paths of the same endpoints.
ALIASES = {
    "/auth/llm/login": "/llm/login",
    "/auth/agi/login": "/agi/login",
    "/auth/login": "/login",
}

#: A refusal's code, what programs are told where the code does not say it, and what a page has.
_REFUSALS = {
    Refusal.WRONG_CREDENTIALS: ("invalid_api_key", None, "login.wrong"),
    Refusal.WRONG_ENDPOINT: (
        "insufficient_permissions",
        "Your role logs in at another address.",
        "login.elsewhere",
    ),
    Refusal.WRONG_CERTIFICATE: (
        "insufficient_permissions",
        WrongCertificate.message,
        "login.certificate",
    ),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_BASIC_CHALLENGE = {"WWW-Authenticate": responses.BASIC_CHALLENGE}


def blueprint(authority: Authority, cookie_secure: bool) -> Blueprint:
    """All login endpoints."""
    view = _Endpoints(authority, cookie_secure)
    routes = Blueprint("login", __name__)
    for path in (*BASIC_ENDPOINTS, *FORM_ENDPOINTS, *ALIASES):
        endpoint = ALIASES.get(path, path)
        handler = view.basic if endpoint in BASIC_ENDPOINTS else view.form
        routes.add_url_rule(path, path, handler, methods=["POST"], defaults={"endpoint": endpoint})
        if endpoint in FORM_ENDPOINTS:
            routes.add_url_rule(path, f"{path} page", view.page, defaults={"endpoint": endpoint})
    routes.add_url_rule("/logout", "logout", view.logout, methods=["POST"])
    routes.add_url_rule("/logout", "logout page", lambda: pages.page("logout.html"))
    routes.add_url_rule("/admin", "console", lambda: redirect("/admin/", 308))
    return routes


class _Endpoints:
    """The views, over one authority."""

    def __init__(self, authority: Authority, cookie_secure: bool) -> None:
        self._authority = authority
        self._cookie_secure = cookie_secure

    def basic(self, endpoint: str) -> Response:
        """An agent's login: the token in the body."""
        if responses.from_unnamed_site():
            return responses.of_another_site()
        given = request.authorization
        if given is None or given.type != "basic" or given.username is None:
            return responses.error("invalid_api_key", headers=_BASIC_CHALLENGE)
        outcome = self._login(given.username, given.password or "", endpoint)
        if isinstance(outcome, Refusal):
            challenge = _BASIC_CHALLENGE if outcome is Refusal.WRONG_CREDENTIALS else {}
            code, reason, _ = _REFUSALS[outcome]
            return responses.error(code, reason, challenge)
        return make_response(jsonify(_token_answer(outcome)))

    def form(self, endpoint: str) -> Response:
        """A person's login: the token in a cookie, which another site's page cannot make use of."""
        if responses.from_unnamed_site():
            return responses.of_another_site()
        try:
            fields = _fields()
        except (BadRequest, RecursionError):
            return responses.error("invalid_json")
        if wait_seconds := responses.seconds_to_wait():
            return _form_later(wait_seconds, endpoint, fields)
        outcome = self._login(fields.get("username", ""), fields.get("password", ""), endpoint)
        if isinstance(outcome, Refusal):
            return _form_again(outcome, endpoint, fields)
        goal = responses.local_path(fields.get("next") or request.args.get("next"))
        if _wants_json():
            answer = make_response(jsonify({"redirect": goal}))
        else:
            answer = make_response(redirect(goal))
        return self._with_cookie(answer, outcome.token, outcome.ttl_seconds)

    def page(self, endpoint: str) -> Response:
        """The login page."""
        return _login_page(endpoint, goal=request.args.get("next"))

    def logout(self) -> Response:
        """Revoke the caller's token everywhere, then answer."""
        try:
            presented = presented_token.read(request.headers.get)
            if presented.by_cookie and responses.from_another_site():
                return responses.of_another_site()
            pending = self._authority.logout(presented.token, responses.client_address()).pending
        except TokenRefused:
            # A browser leaves the cookie out of another site's form, and would still let it go.
            if responses.from_unnamed_site():
                return responses.of_another_site()
            if responses.wants_page():
                return self._forget(make_response(redirect("/login")))
            return self._forget(responses.error("invalid_api_key"))
        metrics.REVOCATIONS.labels("logout").inc()
        if pending:
            body = {"revoked": True, "pending": list(pending)}
            return self._forget(make_response(jsonify(body), 202))
        if responses.wants_page():
            return self._forget(make_response(redirect("/login")))
        return self._forget(make_response("", 204))

    def _login(self, username: str, secret: str, endpoint: str) -> Login | Refusal:
        address = responses.client_address()
        if responses.reads_another(username):
            self._authority.refused("", address)
            return Refusal.WRONG_CREDENTIALS
        certificate = responses.client_certificate()
        outcome = self._authority.login(username, secret, endpoint, address, certificate)
        metrics.LOGINS.labels(
            endpoint, outcome.value if isinstance(outcome, Refusal) else "ok"
        ).inc()
        return outcome

    def _forget(self, answer: Response) -> Response:
        return self._with_cookie(answer, "", 0)

    def _with_cookie(self, answer: Response, token: str, age_seconds: int) -> Response:
        """`Secure` is switched off for plain HTTP only: over TLS a browser keeps it either way."""
        responses.set_cookie(
            answer, token, age_seconds, self._cookie_secure or responses.over_tls()
        )
        return answer


def _fields() -> Mapping[str, str]:
    """What a login sent, as a form or as a JSON object. Raises `BadRequest` or `RecursionError` for
    JSON that is no such object, and `UnsupportedMediaType` for anything else.
    """
    if request.mimetype in FORM_TYPES:
        return request.form
    body = request.get_json()
    if not (isinstance(body, dict) and all(_is_text(body.get(name, "")) for name in FIELDS)):
        raise BadRequest
    return body


def _is_text(value: object) -> bool:
    """A lone surrogate, which JSON can name, is none."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _wants_json() -> bool:
    """Who sends JSON reads it, unless a browser's page was asked for."""
    return responses.wants_json() or (request.is_json and not responses.wants_page())


def _form_again(refusal: Refusal, endpoint: str, fields: Mapping[str, str]) -> Response:
    code, reason, name = _REFUSALS[refusal]
    if not responses.wants_page():
        return responses.error(code, reason)
    status = WIRE_ERRORS[code].status
    return _again(endpoint, fields, pages.text(name), status, code)


def _form_later(wait_seconds: int, endpoint: str, fields: Mapping[str, str]) -> Response:
    """For a browser that guessed too often, which the gateway has wait: the page alone."""
    text = pages.text("login.wait_one" if wait_seconds == 1 else "login.wait", seconds=wait_seconds)
    answer = _again(endpoint, fields, text, 429, "rate_limit_exceeded")
    answer.headers["Retry-After"] = str(wait_seconds)
    return answer


def _again(endpoint: str, fields: Mapping[str, str], text: str, status: int, code: str) -> Response:
    username = fields.get("username", "")
    answer = _login_page(endpoint, fields.get("next"), username, text, status)
    answer.headers["X-Portero-Code"] = code
    return answer


def _token_answer(login: Login) -> dict[str, Any]:
    return {
        "token": login.token,
        "token_type": "Bearer",
        "expires_in": login.claims.expires_at,
        "expires_at": login.claims.expires_at,
        "ttl_seconds": login.ttl_seconds,
        "role": login.claims.role,
    }


def _login_page(
    endpoint: str,
    goal: str | None,
    username: str = "",
    error: str | None = None,
    status: int = 200,
) -> Response:
    goal = responses.local_path(goal)
    answer = pages.page(
        "login.html",
        endpoint=endpoint,
        next="" if goal == "/" else goal,
        username=username,
        error=error,
        status=status,
    )
    if status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="portero"'
    return answer
