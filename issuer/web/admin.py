"""The admin API and console: who has active tokens and API keys, making keys, and revoking all of
them.

For whose role has the class `console`, as at the gateway, which lets nobody else reach it; it asks
again itself, as it must never trust a header.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, jsonify, make_response, request

from issuer import metrics
from issuer.api_keys import ApiKeys
from issuer.authority import Authority
from issuer.errors import Faults
from issuer.store import Selection
from issuer.sync.active_tokens import Revocation
from issuer.web import account, audit_question, caller, console, responses, usage

CONSOLE = "console"
MAX_LISTED = 1_000


def blueprint(authority: Authority, api_keys: ApiKeys, house: console.House) -> Blueprint:
    """The console and its API over one authority."""
    routes = Blueprint("admin", __name__, url_prefix="/admin")
    _ask_for_console(routes, authority)
    _add_sessions(routes, authority)
    _add_keys(routes, api_keys)
    _add_servers(routes, house)
    routes.add_url_rule("/api/users", "users", lambda: _users(house))
    usage.add_to_console(routes, house.used)
    routes.add_url_rule("/api/audit", "audit", lambda: _audit_page(authority))
    console.add_to(routes, authority, api_keys, house)
    return routes


def _ask_for_console(routes: Blueprint, authority: Authority) -> None:
    """Before anything here is answered."""

    @routes.before_request
    def granted_only() -> Response | None:
        found = caller.judged(authority, "/admin/login?next=/admin/")
        if isinstance(found, Response):
            return found
        claims, roles = found
        if claims.is_api_key or not claims.may_use(roles, CONSOLE):
            return responses.error("insufficient_permissions")
        g.claims = claims
        return None


def _add_sessions(routes: Blueprint, authority: Authority) -> None:
    @routes.get("/api/sessions")
    def sessions() -> Response:
        return make_response(jsonify(sessions=_listed(authority)))

    @routes.delete("/api/sessions/<jti>")
    def revoke_session(jti: str) -> Response:
        return _revoked(_revoke(authority, Selection(jti=jti, api_keys=False)))

    @routes.delete("/api/users/<name>/sessions")
    def revoke_user(name: str) -> Response:
        return _revoked(_revoke(authority, Selection(subject=name, api_keys=False)))


def _add_keys(routes: Blueprint, api_keys: ApiKeys) -> None:
    @routes.get("/api/keys")
    def keys() -> Response:
        return make_response(jsonify(keys=_listed_keys(api_keys)))

    @routes.get("/api/users/<name>/keys")
    def keys_of(name: str) -> Response:
        return make_response(jsonify(keys=_listed_keys(api_keys, name)))

    @routes.post("/api/users/<name>/keys")
    def make_key(name: str) -> Response:
        caller.refuse_narrowed(g.claims)
        return account.made_answer(api_keys.make(name, account.wanted(), caller.actor(g.claims)))

    @routes.delete("/api/keys/<key_id>")
    def revoke_key(key_id: str) -> Response:
        return _revoked(api_keys.revoke(key_id, caller.actor(g.claims)), account.NO_SUCH_KEY)


def _users(house: console.House) -> Response:
    """All of them; 503 with the faults of the file that says who they are."""
    try:
        found = house.people.listed()
    except Faults as error:
        return responses.error("not_ready", f"The users cannot be read now: {error}")
    told = [{"name": name, "role": role, "secret": kind} for name, role, kind in found]
    return make_response(jsonify(users=told))


def _add_servers(routes: Blueprint, house: console.House) -> None:
    @routes.get("/api/servers")
    def servers() -> Response:
        return make_response(jsonify(servers=console.servers_of(house)))

    @routes.post("/api/servers/<name>/take-out")
    def take_server_out(name: str) -> Response:
        return _moved(name, partial(house.policy.take_out, name, caller.actor(g.claims)))

    @routes.post("/api/servers/<name>/put-back")
    def put_server_back(name: str) -> Response:
        return _moved(name, partial(house.policy.put_back, name, caller.actor(g.claims)))


def _moved(name: str, move: Callable[[], Sequence[str]]) -> Response:
    """200 when every gateway has acknowledged, 202 and which have not otherwise."""
    try:
        pending = list(move())
    except Faults as fault:
        return responses.error("invalid_request", str(fault))
    return make_response(jsonify(server=name, pending=pending), 202 if pending else 200)


def _audit_page(authority: Authority) -> Response:
    page = audit_question.answered(authority, audit_question.asked(request.args))
    return make_response(jsonify(audit=[row.shown for row in page.rows], next=page.next))


def _revoke(authority: Authority, selection: Selection) -> Revocation:
    return authority.active.revoke(selection, caller.actor(g.claims))


def _listed_keys(api_keys: ApiKeys, owner: str | None = None) -> list[dict[str, Any]]:
    return [one.shown_key_to_admins for one in api_keys.listed(owner, MAX_LISTED)]


def _listed(authority: Authority) -> list[dict[str, Any]]:
    now = authority.now()
    return [session.shown for session in authority.active.store.active(now, MAX_LISTED)]


def _revoked(done: Revocation, nothing: str = "No such active session.") -> Response:
    """200 when every gateway has acknowledged, 202 and which have not otherwise."""
    metrics.REVOCATIONS.labels("admin").inc()
    if not done.sessions:
        return responses.error("not_found", nothing)
    body = {"revoked": [session.jti for session in done.sessions], "pending": list(done.pending)}
    return make_response(jsonify(body), 202 if done.pending else 200)
