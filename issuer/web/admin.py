"""The admin API and console: who has active tokens, and revoking them.

For whose role has the class `console`, as at the gateway, which lets nobody else reach it; it asks
again itself, as it must never trust a header.
"""

from typing import Any

from flask import Blueprint, Response, jsonify, make_response, redirect, render_template, request

from issuer import metrics
from issuer.authority import Authority
from issuer.errors import TokenRefused
from issuer.store import Selection
from issuer.sync.active_tokens import Revocation
from issuer.tokens import presented_token
from issuer.web import responses

CONSOLE = "console"
MAX_LISTED = 1_000


def blueprint(authority: Authority) -> Blueprint:
    """The console and its API over one authority."""
    routes = Blueprint("admin", __name__, url_prefix="/admin")

    @routes.before_request
    def granted_only() -> Response | None:
        roles = authority.roles()
        try:
            presented = presented_token.read(request.headers.get)
            claims = authority.validate(presented.token, roles)
        except TokenRefused:
            if responses.wants_page():
                return make_response(redirect("/admin/login?next=/admin/"))
            return responses.error("invalid_api_key")
        unsafe = request.method not in ("GET", "HEAD")
        from_elsewhere = unsafe and presented.by_cookie and responses.from_another_site()
        if from_elsewhere or not roles.grants(claims.role, CONSOLE):
            return responses.error("insufficient_permissions")
        return None

    @routes.get("/")
    def console() -> Response:
        return make_response(render_template("admin.html", sessions=_listed(authority)))

    @routes.get("/api/sessions")
    def sessions() -> Response:
        return make_response(jsonify(sessions=_listed(authority)))

    @routes.delete("/api/sessions/<jti>")
    def revoke_session(jti: str) -> Response:
        return _revoked(authority.active.revoke(Selection(jti=jti)))

    @routes.delete("/api/users/<name>/sessions")
    def revoke_user(name: str) -> Response:
        return _revoked(authority.active.revoke(Selection(subject=name)))

    return routes


def _listed(authority: Authority) -> list[dict[str, Any]]:
    now = authority.now()
    return [session.shown for session in authority.active.store.active(now, MAX_LISTED)]


def _revoked(done: Revocation) -> Response:
    """200 when every gateway has acknowledged, 202 and which have not otherwise."""
    metrics.REVOCATIONS.labels("admin").inc()
    if not done.sessions:
        return responses.error("not_found", "No such active session.")
    body = {"revoked": [session.jti for session in done.sessions], "pending": list(done.pending)}
    return make_response(jsonify(body), 202 if done.pending else 200)
