"""OAuth 2.0 for programs (docs/http-api.md): client credentials (RFC 6749 section 4.4), revocation
(RFC 7009), introspection (RFC 7662) and metadata (RFC 8414). A user is a client: its name is the
client_id, its secret the client_secret.

Thin: the decisions are `Authority`'s. It must never say whether the name or the secret was wrong,
nor take a secret from the query.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from flask import Blueprint, Response, jsonify, make_response, request

from issuer import metrics
from issuer.audit import OK, Actor
from issuer.authority import Authority, Known, Login, Refusal
from issuer.errors import (
    WIRE_ERRORS,
    TokenRefused,
    TooManyTokens,
    Unavailable,
    WrongCertificate,
)
from issuer.policy.roles import Roles
from issuer.store import Selection
from issuer.tokens import AUDIENCE, Claims
from issuer.web import caller, responses

TOKEN, REVOKE, INTROSPECT = "/oauth/token", "/oauth/revoke", "/oauth/introspect"
METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/.well-known/jwks.json"
GRANT = "client_credentials"
FORM = "application/x-www-form-urlencoded"
#: How a client may say who it is (RFC 7591 section 2).
METHODS = ["client_secret_basic", "client_secret_post"]
INVALID_SCOPE = "invalid_scope"
#: Classes of which one lets a caller ask about tokens of others.
INTROSPECTING = ("metrics", "console")

_CHALLENGES = {
    401: responses.BASIC_CHALLENGE,
    403: 'Bearer realm="portero", error="insufficient_scope"',
}


class OAuthError(Exception):
    """An error of RFC 6749 section 5.2, and Portero's own word for it."""

    def __init__(self, error: str, description: str, status: int = 400, code: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.code = code or "invalid_request"


class _Client(NamedTuple):
    """A name and a secret, in every spelling that they may have been sent in."""

    spellings: tuple[tuple[str, str], ...]


def _invalid_client() -> OAuthError:
    return OAuthError("invalid_client", "Invalid credentials.", 401, "invalid_api_key")


def blueprint(authority: Authority, base_url: str) -> Blueprint:
    """The endpoints over one authority, which is found at `base_url`."""
    view = _Endpoints(authority, base_url)
    routes = Blueprint("oauth", __name__)
    routes.add_url_rule(TOKEN, "token", view.token, methods=["POST"])
    routes.add_url_rule(REVOKE, "revoke", view.revoke, methods=["POST"])
    routes.add_url_rule(INTROSPECT, "introspect", view.introspect, methods=["POST"])
    routes.add_url_rule(METADATA, "metadata", view.metadata)
    routes.register_error_handler(OAuthError, _refused)
    routes.register_error_handler(TooManyTokens, _too_many)
    routes.register_error_handler(WrongCertificate, _wrong_certificate)
    routes.register_error_handler(Unavailable, _unavailable)
    return routes


class _Endpoints:
    """The views, over one authority."""

    def __init__(self, authority: Authority, base_url: str) -> None:
        self._authority = authority
        self._base_url = base_url

    def token(self) -> Response:
        """A token for the client itself, narrowed to `scope` where it asks for one."""
        form = _form()
        client = _client(form)
        if client is None:
            raise _invalid_client()
        if "grant_type" not in form:
            raise OAuthError("invalid_request", "grant_type is missing.")
        if form["grant_type"] != GRANT:
            raise OAuthError("unsupported_grant_type", f"grant_type must be {GRANT}.")
        scope = tuple(dict.fromkeys(form["scope"].split())) if "scope" in form else None
        login = self._login(client, scope)
        answer = {
            "access_token": login.token,
            "token_type": "Bearer",
            "expires_in": login.ttl_seconds,
        }
        if scope is not None:
            answer["scope"] = " ".join(scope)
        return _answer(answer)

    def revoke(self) -> Response:
        """End a token or an API key of the caller's own; one that is not valid is gone already."""
        form = _form()
        by, _ = self._caller(form)
        found = self._found(_token_of(form))
        if found is None:
            return _answer({})
        if found.subject != by.user:
            raise OAuthError("unauthorized_client", "The token was issued to another client.")
        selection = Selection(jti=found.jti, api_keys=found.is_api_key)
        pending = self._authority.active.revoke(selection, by).pending
        metrics.REVOCATIONS.labels("oauth").inc()
        if pending:
            return _answer({"revoked": True, "pending": list(pending)}, 202)
        return _answer({})

    def introspect(self) -> Response:
        """What a token, or an API key, of anybody stands for at this moment."""
        form = _form()
        _, may_introspect = self._caller(form)
        if not may_introspect:
            raise OAuthError(
                "insufficient_scope", "Your role may not ask.", 403, "insufficient_permissions"
            )
        claims = self._found(_token_of(form))
        if claims is None:
            return _answer({"active": False})
        return _answer({"active": True, **self._told(claims)})

    def metadata(self) -> Response:
        """Where everything is (RFC 8414 section 2)."""
        roles = self._authority.roles()
        told: dict[str, Any] = {
            "issuer": self._base_url,
            "token_endpoint": self._base_url + TOKEN,
            "revocation_endpoint": self._base_url + REVOKE,
            "introspection_endpoint": self._base_url + INTROSPECT,
            "jwks_uri": self._base_url + JWKS,
            "grant_types_supported": [GRANT],
            "response_types_supported": [],
            "scopes_supported": sorted({one for role in roles for one in role.routes}),
        }
        for endpoint in ("token", "revocation", "introspection"):
            told[f"{endpoint}_endpoint_auth_methods_supported"] = METHODS
        return make_response(jsonify(told))

    def _login(self, client: _Client, scope: tuple[str, ...] | None) -> Login:
        try:
            known = self._known(client)
        except WrongCertificate:
            metrics.LOGINS.labels(TOKEN, Refusal.WRONG_CERTIFICATE.value).inc()
            raise
        outcome = _outcome(known, scope)
        metrics.LOGINS.labels(TOKEN, outcome).inc()
        if known is None:
            raise _invalid_client()
        if outcome != OK:
            self._authority.refused(known.username, known.address, outcome)
            raise OAuthError(outcome, "scope must be route classes that your role has.")
        return self._authority.issue(known, scope)

    def _known(self, client: _Client) -> Known | None:
        address, certificate = responses.client_address(), responses.client_certificate()
        for name, secret in client.spellings:
            if responses.reads_another(name):
                continue
            if known := self._authority.authenticate(name, secret, address, certificate):
                return known
        self._authority.refused(client.spellings[0][0], address)
        return None

    def _caller(self, form: Mapping[str, str]) -> tuple[Actor, bool]:
        """Who asks, by name and secret or by a token or key of its own, and whether it may ask
        about others'. Raises `OAuthError`.
        """
        roles = self._authority.roles()
        given = request.authorization
        if given is not None and given.type == "bearer":
            claims = self._found(given.token or "", roles)
            certificate = responses.client_certificate()
            if claims is None or not roles.is_met_by(claims.subject, certificate):
                raise _invalid_client()
            return caller.actor(claims), _may_introspect(claims, roles)
        client = _client(form)
        known = self._known(client) if client else None
        if known is None:
            raise _invalid_client()
        return known.actor, any(one in known.role.routes for one in INTROSPECTING)

    def _found(self, token: str, roles: Roles | None = None) -> Claims | None:
        try:
            return self._authority.validate(token, roles)
        except TokenRefused:
            return None

    def _told(self, claims: Claims) -> dict[str, Any]:
        return {
            "scope": " ".join(dict.fromkeys(claims.classes(self._authority.roles()))),
            "client_id": claims.subject,
            "username": claims.subject,
            "token_type": "Bearer",
            "exp": claims.expires_at,
            "iat": claims.issued_at,
            "sub": claims.subject,
            "aud": AUDIENCE,
            "iss": self._authority.issuer,
            "jti": claims.jti,
            "role": claims.role,
        }


def _outcome(known: Known | None, scope: tuple[str, ...] | None) -> str:
    """What the metrics have of a login. A scope that names no class asks for nothing at all."""
    if known is None:
        return Refusal.WRONG_CREDENTIALS.value
    if scope is None:
        return OK
    return OK if scope and set(scope) <= set(known.role.routes) else INVALID_SCOPE


def _may_introspect(claims: Claims, roles: Roles) -> bool:
    """An API key is nobody at the console."""
    classes = INTROSPECTING[:1] if claims.is_api_key else INTROSPECTING
    return any(claims.may_use(roles, one) for one in classes)


def _form() -> dict[str, str]:
    """The parameters of a request: from a form alone, none twice, and none that is empty (RFC 6749
    section 3.2). Raises `OAuthError`.
    """
    if responses.from_unnamed_site():
        code = "insufficient_permissions"
        raise OAuthError("invalid_request", responses.OTHER_SITE, 403, code)
    if request.args:
        raise OAuthError("invalid_request", "Send the parameters in the body, as a form.")
    if request.mimetype != FORM:
        raise OAuthError("invalid_request", f"Send a form, {FORM}.")
    twice = [name for name, values in request.form.lists() if len(values) > 1]
    if twice:
        raise OAuthError("invalid_request", "A parameter is there twice.")
    return {name: value for name, value in request.form.items() if value}


def _token_of(form: Mapping[str, str]) -> str:
    if "token" not in form:
        raise OAuthError("invalid_request", "token is missing.")
    return form["token"]


def _client(form: Mapping[str, str]) -> _Client | None:
    """Name and secret, by HTTP Basic or in the body, never by both (RFC 6749 section 2.3); None
    where there are none. Raises `OAuthError`.
    """
    given = request.authorization
    in_body = "client_secret" in form
    if given is None:
        if not in_body:
            return None
        return _Client(((form.get("client_id", ""), form["client_secret"]),))
    if in_body:
        raise OAuthError("invalid_request", "Send the secret in one way: by Basic or in the body.")
    if given.type != "basic" or given.username is None:
        return None
    name, secret = given.username, given.password or ""
    if form.get("client_id", name) != name:
        raise OAuthError("invalid_request", "client_id is another than that of Basic.")
    return _Client(tuple(dict.fromkeys(_spellings(name, secret))))


def _spellings(name: str, secret: str) -> Iterator[tuple[str, str]]:
    """As it is, which is what most clients send, and as RFC 6749 section 2.3.1 asks: encoded as a
    form's values are.
    """
    yield name, secret
    yield unquote_plus(name), unquote_plus(secret)


def _answer(content: Mapping[str, Any], status: int = 200) -> Response:
    answer = make_response(jsonify(content), status)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Pragma"] = "no-cache"
    return answer


def _refused(refusal: OAuthError) -> Response:
    body = {"error": refusal.error, "error_description": refusal.description}
    answer = _answer(body, refusal.status)
    answer.headers["X-Portero-Code"] = refusal.code
    if refusal.status in _CHALLENGES:
        answer.headers["WWW-Authenticate"] = _CHALLENGES[refusal.status]
    return answer


def _wrong_certificate(refusal: WrongCertificate) -> Response:
    """No 401, which the gateway would count as a guess: the secret was not looked at."""
    return _refused(OAuthError("unauthorized_client", refusal.message))


def _later(status: int, code: str, description: str) -> Response:
    """Not of section 5.2, which knows of nothing that passes; its word is that of section 4.1."""
    metrics.REFUSALS.labels(code).inc()
    answer = _refused(OAuthError("temporarily_unavailable", description, status, code))
    answer.headers["Retry-After"] = responses.RETRY_SECONDS
    return answer


def _too_many(_: TooManyTokens) -> Response:
    code = "rate_limit_exceeded"
    return _later(429, code, WIRE_ERRORS[code].message)


def _unavailable(error: Unavailable) -> Response:
    return _later(503, error.code, error.message)
