"""The chat, which is the start page of people who are signed in. It only shows the page: what is
asked goes from the browser through the gateway, as any program's requests do, and is kept nowhere
but there.
"""

from flask import Blueprint, Response

from issuer.authority import Authority
from issuer.policy.roles import Roles
from issuer.tokens import Claims
from issuer.web import caller, pages


def blueprint(authority: Authority, base_url: str) -> Blueprint:
    """The page over one authority; `base_url` is where programs find the gateway."""
    routes = Blueprint("chat", __name__)

    @routes.get("/")
    @caller.asks(authority, "/")
    def home(claims: Claims, roles: Roles) -> Response:
        granted = claims.classes(roles)
        role = roles.named(claims.role)
        return pages.page(
            "chat.html",
            pages.CHAT_POLICY,
            routes=granted,
            may_chat={"inference", "models"} <= set(granted),
            subject=claims.subject,
            login=role.login if role else "/login",
            expires_at=claims.expires_at,
            now=authority.now(),
            base_url=base_url,
        )

    return routes
