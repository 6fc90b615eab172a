"""Who asks, for the blueprints that the gateway lets through by a token or an API key.

They ask again by this, as a header proves nothing: 401 without a valid credential, 403 where a page
of another site made a browser ask.
"""

import functools
from collections.abc import Callable
from typing import Any

from flask import Response, make_response, redirect, request

from issuer.audit import Actor
from issuer.authority import Authority, actor_of
from issuer.errors import NotGranted, TokenRefused
from issuer.policy.roles import Roles
from issuer.tokens import Claims, presented_token
from issuer.web import responses

View = Callable[..., Response]
Judged = tuple[Claims, Roles]
_SAFE = ("GET", "HEAD")


def judged(authority: Authority, login: str) -> Judged | Response:
    """The caller's claims and the roles that they were judged by, or how the caller is refused.
    `login` is where a browser goes that has to sign in first.
    """
    roles = authority.roles()
    try:
        presented = presented_token.read(request.headers.get)
        claims = authority.validate(presented.token, roles)
    except TokenRefused:
        return _to_login(login)
    unsafe = request.method not in _SAFE
    if unsafe and presented.by_cookie and responses.from_another_site():
        return responses.of_another_site()
    return claims, roles


def asks(authority: Authority, goal: str = "/account") -> Callable[[View], View]:
    """Call the view with the caller's claims and the roles that they were judged by. A browser that
    has to sign in first comes back to `goal`.
    """

    def decorate(view: View) -> View:
        def asked(**given: Any) -> Response:
            found = judged(authority, f"/login?next={goal}")
            if isinstance(found, Response):
                return found
            claims, roles = found
            return view(claims=claims, roles=roles, **given)

        return named_as(view, asked)

    return decorate


def refuse_narrowed(claims: Claims) -> None:
    """Raise `NotGranted` where a secret or a key would do more than the token that it was asked
    for with.
    """
    if claims.scope is not None:
        raise NotGranted("A narrowed token makes no secret and no API key.")


def actor(claims: Claims) -> Actor:
    """Whoever asks, to the audit."""
    return actor_of(claims, responses.client_address())


def named_as(view: View, asked: View) -> View:
    """Flask tells views apart by their names."""
    return functools.wraps(view)(asked)


def _to_login(login: str) -> Response:
    if responses.wants_page():
        return make_response(redirect(login))
    return responses.error("invalid_api_key")
