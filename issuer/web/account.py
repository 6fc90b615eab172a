"""What callers may ask about themselves: who am I, and my API keys; JSON for programs, a page for
browsers, whose forms make and end keys too.

For everybody with a valid token; an API key is told who it is, and makes, lists and ends no keys.
It asks again itself, as it must never trust a header. A key is in one answer alone: the one that
made it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import Blueprint, Response, jsonify, make_response, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from issuer import metrics, usage
from issuer.api_keys import ApiKeys, Made
from issuer.authority import Authority
from issuer.errors import TooManyApiKeys, Unacceptable
from issuer.policy.roles import ANY_MODEL, Limits, Roles
from issuer.store.usage import Usage
from issuer.sync.active_tokens import Revocation
from issuer.sync.policy_in_force import PolicyInForce
from issuer.tokens import Claims
from issuer.tokens import api_keys as forms
from issuer.tokens.api_keys import Wanted
from issuer.web import caller, pages, responses

_FIELDS = {"name", "days", "models"}
NO_SUCH_KEY = "No such API key."
_FORM = "application/x-www-form-urlencoded"
_MOST_DIGITS = 9


class _Shown(NamedTuple):
    """What the page has to say beside what it always says."""

    status: int = 200
    made: Made | None = None
    said: str = ""
    fault: str = ""
    given: Mapping[str, str] = {}


_NOTHING = _Shown()


def blueprint(
    authority: Authority, api_keys: ApiKeys, used: Usage, policy: PolicyInForce, base_url: str
) -> Blueprint:
    """The endpoints over one authority; `base_url` is where programs find the gateway."""
    routes = Blueprint("account", __name__, url_prefix="/account")

    def standing_of(claims: Claims, roles: Roles) -> dict[str, Any]:
        """Who has budgets is told what is left of them."""
        limits, today = roles.limits_of(claims.subject), datetime.now(UTC).date()
        assert limits is not None
        left = usage.left_of(claims.subject, limits, policy.in_force().groups, used, today)
        more = {"budgets": [vars(one) for one in left]} if left else {}
        return {**_standing(authority, claims, roles), **more}

    def page(claims: Claims, roles: Roles, shown: _Shown = _NOTHING) -> Response:
        standing = standing_of(claims, roles)
        keys = api_keys.listed(claims.subject) if _is_owner(claims) else []
        days = _used_by_day(used, claims.subject)
        return _page(standing, roles, [one.shown_key for one in keys], days, base_url, shown)

    @routes.get("")
    @caller.asks(authority)
    def who_am_i(claims: Claims, roles: Roles) -> Response:
        if responses.wants_page():
            return page(claims, roles)
        return make_response(jsonify(standing_of(claims, roles)))

    _add_keys(routes, authority, api_keys, page)
    return routes


def _add_keys(
    routes: Blueprint, authority: Authority, api_keys: ApiKeys, page: Callable[..., Response]
) -> None:
    @routes.get("/keys")
    @_by_owner(authority)
    def keys(claims: Claims, roles: Roles) -> Response:
        if responses.wants_page():
            return page(claims, roles)
        listed = [one.shown_key for one in api_keys.listed(claims.subject)]
        return make_response(jsonify(keys=listed))

    @routes.post("/keys")
    @_by_owner(authority)
    def make(claims: Claims, roles: Roles) -> Response:
        if _is_form():
            return page(claims, roles, _made_by_form(api_keys, claims))
        made = api_keys.make(claims.subject, wanted(), caller.actor(claims))
        return made_answer(made)

    @routes.post("/keys/<key_id>")
    @_by_owner(authority)
    def revoke_by_form(claims: Claims, roles: Roles, key_id: str) -> Response:
        """What DELETE does, for forms, which have no other method."""
        if not responses.wants_page():
            return responses.error("method_not_allowed", headers={"Allow": "DELETE"})
        done = api_keys.revoke(key_id, caller.actor(claims), claims.subject)
        return page(claims, roles, _revoked_by_form(done))

    @routes.delete("/keys/<key_id>")
    @_by_owner(authority)
    def revoke(claims: Claims, roles: Roles, key_id: str) -> Response:
        done = api_keys.revoke(key_id, caller.actor(claims), claims.subject)
        return revoked_answer(done)


def _is_form() -> bool:
    """A browser's, which is shown a page."""
    return request.mimetype == _FORM and responses.wants_page()


def _is_owner(claims: Claims) -> bool:
    return not claims.is_api_key and claims.scope is None


def _made_by_form(api_keys: ApiKeys, claims: Claims) -> _Shown:
    """The same as by JSON; what cannot be made is said beside the form, with what it held."""
    given = request.form.to_dict()
    try:
        made = api_keys.make(claims.subject, _wanted_by(given), caller.actor(claims))
    except Unacceptable as error:
        return _Shown(400, fault=pages.text("keys.unacceptable", why=error), given=given)
    except TooManyApiKeys:
        return _Shown(429, fault=pages.text("keys.too_many"), given=given)
    return _Shown(201, made=made)


def _wanted_by(form: Mapping[str, str]) -> Wanted:
    days = form.get("days", "").strip()
    models = [one.strip() for one in form.get("models", "").split(",") if one.strip()]
    is_whole = days.isascii() and days.isdigit() and len(days) < _MOST_DIGITS
    return forms.wanted(
        form.get("name", "").strip(), int(days) if is_whole else days, models or None
    )


def _revoked_by_form(done: Revocation) -> _Shown:
    metrics.REVOCATIONS.labels("api_key").inc()
    if not done.sessions:
        return _Shown(404, fault=pages.text("keys.unknown"))
    return _Shown(said=pages.text("keys.revoked_pending" if done.pending else "keys.revoked"))


def _page(
    standing: Mapping[str, Any],
    roles: Roles,
    keys: Sequence[Mapping[str, Any]],
    days: Sequence[Mapping[str, Any]],
    base_url: str,
    shown: _Shown,
) -> Response:
    role = roles.named(standing["role"])
    assert role is not None
    rule = role.api_keys if standing["credential"] == "token" else None
    limits = [(name, most) for name, most in standing["limits"].items() if _is_limit(most)]
    return pages.page(
        "account.html",
        pages.SCRIPTED_POLICY,
        shown.status,
        **{**standing, "limits": limits},
        endpoint=role.login,
        keys=keys,
        used=days,
        most_used=max((one["tokens"] for one in days), default=0),
        has_keys=rule is not None,
        longest_days=rule.longest_days if rule else 0,
        base_url=base_url,
        only_model=_plain(standing["models"]),
        made=shown.made and {"key": shown.made.key, **shown.made.session.shown_key},
        said=shown.said,
        fault=shown.fault,
        given=shown.given,
    )


def _used_by_day(used: Usage, user: str) -> list[dict[str, Any]]:
    """A row a day (UTC) and model of the last thirty days, the newest first, tokens summed."""
    asked = usage.question({"by": "day,model"}, datetime.now(UTC).date(), user)
    return [
        {**row, "tokens": row["prompt_tokens"] + row["completion_tokens"]}
        for row in sorted(used.asked(asked), key=lambda row: str(row["day"]), reverse=True)
    ]


def _is_limit(most: object) -> bool:
    return type(most) is int


def _plain(models: Sequence[str]) -> str:
    """A model that the caller may use and that is written out; empty where there is none."""
    return next((one for one in models if not one.endswith("*")), "")


def _by_owner(authority: Authority) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """For whoever signed in, and for nobody with less than all that the user may do."""

    def decorate(view: Callable[..., Response]) -> Callable[..., Response]:
        @caller.asks(authority)
        def asked(claims: Claims, roles: Roles, **given: str) -> Response:
            if not _is_owner(claims):
                return responses.error(
                    "insufficient_permissions", "Sign in for this: an API key makes no keys."
                )
            return view(claims, roles, **given)

        return caller.named_as(view, asked)

    return decorate


def wanted() -> Wanted:
    """The API key that a JSON body asks for. Raises `Unacceptable`."""
    try:
        body = request.get_json()
    except (BadRequest, UnsupportedMediaType, RecursionError):
        text = "Send one JSON object in UTF-8, as application/json, with name and days."
        raise Unacceptable(text) from None
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
        return responses.error("not_found", NO_SUCH_KEY)
    if done.pending:
        return make_response(jsonify(revoked=True, pending=list(done.pending)), 202)
    return make_response("", 204)


def _standing(authority: Authority, claims: Claims, roles: Roles) -> dict[str, Any]:
    limits = roles.limits_of(claims.subject)
    assert limits is not None
    return {
        "subject": claims.subject,
        "role": claims.role,
        "credential": claims.jti if claims.is_api_key else "token",
        "routes": claims.classes(roles),
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
