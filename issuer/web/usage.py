"""What was used, as callers may ask for it of themselves, and admins of everybody; JSON or CSV."""

from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, make_response, request

from issuer import usage
from issuer.authority import Authority
from issuer.errors import Unacceptable
from issuer.policy.roles import Roles
from issuer.store.usage import Usage
from issuer.tokens import Claims
from issuer.web import caller

_WORDS = {"from", "to", "by", "format"}


def of_caller(used: Usage, authority: Authority) -> Blueprint:
    """`/account/usage`: for everybody with a valid token or API key, their own."""
    routes = Blueprint("own_usage", __name__, url_prefix="/account")

    @routes.get("/usage")
    @caller.asks(authority)
    def own(claims: Claims, roles: Roles) -> Response:
        return _answer(used, claims.subject)

    return routes


def add_to_console(routes: Blueprint, used: Usage) -> None:
    """`/admin/api/usage`, for whom the console's blueprint lets through."""

    @routes.get("/api/usage")
    def everybody() -> Response:
        return _answer(used, None)


def _answer(used: Usage, user: str | None) -> Response:
    """Raises `Unacceptable`, which is a 400."""
    words = {name: values[0] for name, values in request.args.lists() if len(values) == 1}
    if len(words) != len(request.args) or not words.keys() <= _WORDS:
        raise Unacceptable("Ask by from, to, by and format, each once.")
    form = words.get("format", "json")
    if form not in ("json", "csv"):
        raise Unacceptable("format must be json or csv.")
    asked = usage.question(words, datetime.now(UTC).date(), user)
    rows = used.asked(asked)
    if form == "json":
        return make_response(jsonify(usage=rows))
    answer = make_response(usage.as_csv(asked, rows))
    answer.headers["Content-Type"] = "text/csv; charset=utf-8"
    return answer
