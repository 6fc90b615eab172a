"""The one reader of a caller's token: from `Authorization: Bearer` (RFC 6750 §2.1), `x-api-key`
or the cookie `auth_token`. Never from the query. It must never prefer one of two that differ.

The gateway's reader of the same rules is `portero/credential.lua`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from issuer.errors import TokenRefused

COOKIE = "auth_token"
_BEARER = re.compile(r"bearer ([^\s,]+)\Z", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Presented:
    """A token, and whether a browser brought it by itself (so another site may have asked)."""

    token: str
    by_cookie: bool


def read(header: Callable[[str], str | None]) -> Presented:
    """The token among the headers that `header` looks up.

    Raises `TokenRefused` when there is none, or more than one.
    """
    named = [_authorization(header("Authorization")), header("X-Api-Key")]
    explicit = [token for token in named if token is not None]
    cookies = _cookies(header("Cookie") or "")
    tokens = {*explicit, *cookies}
    if len(tokens) != 1:
        raise TokenRefused("more than one credential" if tokens else "no credential")
    return Presented(tokens.pop(), by_cookie=not explicit)


def _authorization(value: str | None) -> str | None:
    if value is None:
        return None
    match = _BEARER.match(value)
    return match[1] if match else ""


def _cookies(header: str) -> list[str]:
    pairs = (part.lstrip(" \t").partition("=") for part in header.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]
