"""The one reader of a caller's token: from `Authorization: Bearer` (RFC 6750 §2.1), `x-api-key`
or the cookie `auth_token`. Never from the query. What is of another scheme is none of ours and is
not counted. It must never prefer one of two that differ, nor fall back from a bad one to a good
one. The gateway's reader of the same rules is `portero/token/presented_token.lua`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from issuer.errors import TokenRefused
from issuer.tokens import api_keys

COOKIE = "auth_token"
#: Around a header's value they are not part of it (RFC 9110 §5.5).
_BLANKS = " \t"
#: A token of RFC 9110 §5.6.2.
_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_BEARER = "bearer"

Lines = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Presented:
    """A token, and whether a browser brought it by itself (so another site may have asked)."""

    token: str
    by_cookie: bool


def read(header: Callable[[str], str | None]) -> Presented:
    """The token among the headers that `header` looks up.

    Raises `TokenRefused` when there is none, or more than one.
    """
    named = [_authorization(header("Authorization")), _key(header("X-Api-Key"))]
    explicit = [token for token in named if token is not None]
    cookies = _cookies(header("Cookie") or "")
    tokens = {*explicit, *cookies}
    if len(tokens) != 1:
        raise TokenRefused("more than one credential" if tokens else "no credential")
    token = tokens.pop()
    if not explicit and api_keys.is_one(token):
        raise TokenRefused("an API key is no session of a browser's")
    return Presented(token, by_cookie=not explicit)


def one_of_each(lines: Lines) -> Lines:
    """A request's header lines, names in capitals, so that WSGI, which joins what is left of a name
    with commas, joins nothing that such a comma would change.

    Lines of a Cookie are one (RFC 9113 §8.2.3). Authorization is no list: two are a bad one, as
    they are to nginx.
    """
    for name, together in _TOGETHER.items():
        values = [value for its_name, value in lines if its_name == name]
        if len(values) > 1:
            others = [line for line in lines if line[0] != name]
            lines = [*others, (name, together(values))]
    return lines


_TOGETHER: dict[str, Callable[[Sequence[str]], str]] = {
    "COOKIE": "; ".join,
    "AUTHORIZATION": lambda _: _BEARER,
}


def _authorization(value: str | None) -> str | None:
    """The token behind the scheme and one space or more (RFC 9110 §11.4); empty where anything else
    stands there, None where the scheme is another. Its form is the verifier's question.
    """
    value = (value or "").strip(_BLANKS)
    scheme = _SCHEME.match(value)
    if scheme is None or scheme[0].lower() != _BEARER:
        return None
    rest = value[scheme.end() :]
    return rest.lstrip(" ") if rest.startswith(" ") else ""


def _key(value: str | None) -> str | None:
    return None if value is None else value.strip(_BLANKS)


def _cookies(header: str) -> list[str]:
    parts = header.strip(_BLANKS).split(";")
    pairs = (part.lstrip(_BLANKS).partition("=") for part in parts)
    return [value for name, sign, value in pairs if sign and name == COOKIE]
