"""What callers may ask about themselves: who am I, and my API keys.

For everybody with a valid token; an API key is told who it is, and makes, lists and ends no keys.
It asks again itself, as it must never trust a header. A key is in one answer alone: the one that
made it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, make_response, request
from werkzeug.exceptions import BadRequest

from issuer import metrics
from issuer.api_keys import ApiKeys, Made
from issuer.authority import Authority
from issuer.errors import Unacceptable
from issuer.policy.roles import ANY_MODEL, Limits, Roles
from issuer.sync.active_tokens import Revocation
from issuer.tokens import Claims
from issuer.tokens import api_keys as forms
from issuer.tokens.api_keys import Wanted
from issuer.web import caller, responses

_FIELDS = {"name", "days", "models"}
_NO_SUCH_KEY = "No such API key."


def blueprint(authority: Authority, api_keys: ApiKeys) -> Blueprint:
    """The endpoints over one authority."""
    routes = Blueprint("account", __name__, url_prefix="/account")

    @routes.get("")
    @caller.asks(authority)
    def who_am_i(claims: Claims, roles: Roles) -> Response:
        return make_response(jsonify(_standing(authority, claims, roles)))

    @routes.get("/keys")
    @_by_owner(authority)
    def keys(claims: Claims) -> Response:
        listed = [one.shown_key for one in api_keys.listed(claims.subject)]
        return make_response(jsonify(keys=listed))

    @routes.post("/keys")
    @_by_owner(authority)
    def make(claims: Claims) -> Response:
        made = api_keys.make(claims.subject, wanted(), claims.subject)
        return made_answer(made)

    @routes.delete("/keys/<key_id>")
    @_by_owner(authority)
    def revoke(claims: Claims, key_id: str) -> Response:
        done = api_keys.revoke(key_id, claims.subject)
        return revoked_answer(done)

    return routes


def _by_owner(authority: Authority) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """For whoever signed in, and for nobody with less than all that the user may do."""

    def decorate(view: Callable[..., Response]) -> Callable[..., Response]:
        @caller.asks(authority)
        def asked(claims: Claims, roles: Roles, **given: str) -> Response:
            if claims.is_api_key or claims.scope is not None:
                return responses.error(
                    "insufficient_permissions", "Sign in for this: an API key makes no keys."
                )
            return view(claims, **given)

        return caller.named_as(view, asked)

    return decorate


def wanted() -> Wanted:
    """The API key that a JSON body asks for. Raises `Unacceptable`, `UnsupportedMediaType`."""
    try:
        body = request.get_json()
    except (BadRequest, RecursionError):
        raise Unacceptable("Send one JSON object in UTF-8, with name and days.") from None
    if not isinstance(body, dict) or not {"name", "days"} <= body.keys() <= _FIELDS:
        raise Unacceptable("Send a JSON object of name, days and, if wanted, models.")
    return forms.wanted(body["name"], body["days"], body.get("models"))


def made_answer(made: Made) -> Response:
    """The one answer that has the key in it."""
    told = {**made.session.shown_key, "key": made.key}
    del told["last_used_at"]
    return make_response(jsonify(told), 201)


def revoked_answer(done: Revocation) -> Response:
    """204 when every gateway has acknowledged, 202 and which have not otherwise."""
    metrics.REVOCATIONS.labels("api_key").inc()
    if not done.sessions:
        return responses.error("not_found", _NO_SUCH_KEY)
    if done.pending:
        return make_response(jsonify(revoked=True, pending=list(done.pending)), 202)
    return make_response("", 204)


def _standing(authority: Authority, claims: Claims, roles: Roles) -> dict[str, Any]:
    role, limits = roles.named(claims.role), roles.limits_of(claims.subject)
    assert role is not None
    assert limits is not None
    return {
        "subject": claims.subject,
        "role": claims.role,
        "credential": claims.jti if claims.is_api_key else "token",
        "routes": [one for one in role.routes if claims.may_use(roles, one)],
        "models": _models(authority, claims, limits),
        "limits": {name: value for name, value in vars(limits).items() if name != "models"},
        "expires_at": claims.expires_at,
    }


def _models(authority: Authority, claims: Claims, limits: Limits) -> list[str]:
    """What the user's list and the API key's both allow."""
    session = authority.active.store.find(claims.jti) if claims.is_api_key else None
    own = session.api_key.models if session and session.api_key else ()
    return list(dict.fromkeys(_common(limits.models, own or ANY_MODEL)))


def _common(first: Sequence[str], second: Sequence[str]) -> Iterator[str]:
    """The patterns of either list that one of the other has whole."""
    for one, other in ((first, second), (second, first)):
        yield from (name for name in one if any(_has(pattern, name) for pattern in other))


def _has(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name
