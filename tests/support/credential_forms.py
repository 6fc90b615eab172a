"""How a credential may be carried, and what both sides read: forms of each carrier, and every
combination of them. `{T}` stands for one token, `{U}` for another.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

#: A credential that is there, and can be no token.
BAD = "bad"
#: More of it than may be there, though each alone might be good.
SEVERAL = "several"
TOKENS = ("{T}", "{U}")


class Form(NamedTuple):
    """Header lines of one carrier, and what is read: None, a text, or SEVERAL."""

    name: str
    lines: Sequence[str]
    reads: str | None


def _form(name: str, reads: str | None, *lines: str) -> Form:
    return Form(name, lines, reads)


AUTHORIZATION = (
    _form("none", None),
    _form("usual", "{T}", "Bearer {T}"),
    _form("in small letters", "{T}", "bearer {T}"),
    _form("in capitals", "{T}", "BEARER {T}"),
    _form("mixed", "{T}", "bEaReR {T}"),
    _form("two spaces", "{T}", "Bearer  {T}"),
    _form("many spaces", "{T}", "bearer" + " " * 40 + "{T}"),
    _form("blanks around", "{T}", " \tBearer {T} \t "),
    _form("a tab at its end", "{T}", "Bearer {T}\t"),
    _form("another token", "{U}", "Bearer {U}"),
    _form("the scheme alone", BAD, "Bearer"),
    _form("the scheme and a space", BAD, "Bearer "),
    _form("a tab behind the scheme", BAD, "Bearer\t{T}"),
    _form("a space and a tab", BAD, "Bearer \t{T}"),
    _form("a no-break space", BAD, "Bearer\xa0{T}"),
    _form("a colon", BAD, "Bearer: {T}"),
    _form("an equals sign", BAD, "Bearer={T}"),
    _form("quoted", BAD, 'Bearer "{T}"'),
    _form("two tokens", BAD, "Bearer {T} {T}"),
    _form("a list of tokens", BAD, "Bearer {T},{T}"),
    _form("a list of credentials", BAD, "Bearer {T}, Bearer {T}"),
    _form("a parameter", BAD, "Bearer token={T}"),
    _form("padding", BAD, "Bearer {T}="),
    _form("twice the scheme", BAD, "Bearer Bearer {T}"),
    _form("Basic", None, "Basic dTpw"),
    _form("Basic with a token", None, "basic {T}"),
    _form("Basic and a list", None, "Basic dTpw, Bearer {T}"),
    _form("Digest", None, 'Digest username="u", realm="r", uri="/", response="00"'),
    _form("Negotiate", None, "Negotiate YII="),
    _form("AWS", None, "AWS4-HMAC-SHA256 Credential=a/b, Signature=c"),
    _form("Token", None, "Token {T}"),
    _form("a longer scheme", None, "Bearers {T}"),
    _form("a scheme that goes on", None, "Bearer-{T}"),
    _form("the bare token", None, "{T}"),
    _form("no scheme", None, "=Bearer {T}"),
    _form("empty", None, ""),
    _form("twice", SEVERAL, "Bearer {T}", "Bearer {T}"),
    _form("two that differ", SEVERAL, "Bearer {T}", "Bearer {U}"),
    _form("Basic beside it", SEVERAL, "Basic dTpw", "Bearer {T}"),
    _form("Basic behind it", SEVERAL, "Bearer {T}", "Basic dTpw"),
    _form("twice another", SEVERAL, "Basic dTpw", "Negotiate YII="),
)
KEY = (
    _form("none", None),
    _form("usual", "{T}", "{T}"),
    _form("blanks around", "{T}", "\t {T}\t "),
    _form("another token", "{U}", "{U}"),
    _form("empty", BAD, ""),
    _form("blanks alone", BAD, "\t"),
    _form("a scheme", BAD, "Bearer {T}"),
    _form("a list", BAD, "{T},{T}"),
    _form("twice", SEVERAL, "{T}", "{T}"),
    _form("two that differ", SEVERAL, "{T}", "{U}"),
    _form("an empty one first", SEVERAL, "", "{T}"),
)
COOKIE = (
    _form("none", None),
    _form("usual", "{T}", "auth_token={T}"),
    _form("among others", "{T}", "x=1; auth_token={T}; y=2"),
    _form("without spaces", "{T}", "x=1;auth_token={T};y=2"),
    _form("empty parts", "{T}", ";; ;auth_token={T};"),
    _form("blanks around", "{T}", "\tauth_token={T} \t"),
    _form("in a second line", "{T}", "x=1", "auth_token={T}"),
    _form("in a first line", "{T}", "auth_token={T}", "x=1"),
    _form("in one of four", "{T}", "a=1,2", "b=3", "auth_token={T}; c=4", "d=5"),
    _form("tabs at the ends of lines", "{T}", "x=1\t", "auth_token={T} \t", "\ty=2"),
    _form("twice", "{T}", "auth_token={T}; auth_token={T}"),
    _form("twice, in two lines", "{T}", "auth_token={T}", "auth_token={T}"),
    _form("another token", "{U}", "auth_token={U}"),
    _form("two that differ", SEVERAL, "auth_token={T}; auth_token={U}"),
    _form("two that differ, in two lines", SEVERAL, "auth_token={T}", "auth_token={U}"),
    _form(
        "three, the last of which differs",
        SEVERAL,
        "; ".join(["auth_token={T}"] * 2 + ["auth_token={U}"]),
    ),
    _form("a bad one and a good one", SEVERAL, "auth_token=; auth_token={T}"),
    _form("empty", BAD, "auth_token="),
    _form("quoted", BAD, 'auth_token="{T}"'),
    _form("a space behind it", BAD, "auth_token={T} ; x=1"),
    _form("a tab behind it", BAD, "auth_token={T}\t; x=1"),
    _form("another equals sign", BAD, "auth_token={T}={U}"),
    _form("a comma behind it", BAD, "auth_token={T},x=1"),
    _form("behind a comma", None, "x=1,auth_token={T}"),
    _form("behind a comma and a space", None, "x=1, auth_token={T}"),
    _form("of another case", None, "AUTH_TOKEN={T}; Auth_Token={T}"),
    _form("of a name with a prefix", None, "__Host-auth_token={T}"),
    _form("of a longer name", None, "xauth_token={T}; auth_tokens={T}"),
    _form("a space in its name", None, "auth_token ={T}"),
    _form("in another's value", None, "x=auth_token={T}"),
    _form("without a value", None, "auth_token"),
    _form("no cookie", None, ""),
)
CARRIERS = {"Authorization": AUTHORIZATION, "X-Api-Key": KEY, "Cookie": COOKIE}


@dataclass(frozen=True)
class Request:
    """A form of each carrier, together."""

    authorization: Form
    key: Form
    cookie: Form

    @property
    def name(self) -> str:
        """For a human."""
        return f"{self.authorization.name} / {self.key.name} / {self.cookie.name}"

    def with_(self, **forms: Form) -> "Request":
        """The same with another form of a carrier."""
        return replace(self, **forms)

    def headers(self) -> list[tuple[str, str]]:
        """Header lines, in the order in which they are sent."""
        forms = (self.authorization, self.key, self.cookie)
        return [
            (name, line) for name, form in zip(CARRIERS, forms, strict=True) for line in form.lines
        ]

    @property
    def read(self) -> str:
        """`{T}`, `{U}`, BAD, SEVERAL, or empty where there is no credential. Two that are bad may
        be bad in two ways: they count as BAD.
        """
        found = {form.reads for form in (self.authorization, self.key, self.cookie)} - {None}
        return SEVERAL if len(found) > 1 else next((text for text in found if text), "")

    @property
    def by_cookie(self) -> bool:
        """Whether nothing but a cookie names a token."""
        return self.authorization.reads is None and self.key.reads is None


def every_request() -> Iterator[Request]:
    """Every combination of three."""
    return itertools.starmap(Request, itertools.product(AUTHORIZATION, KEY, COOKIE))


def every_pair() -> Iterator[Request]:
    """Every combination of two carriers, the third without anything."""
    for request in every_request():
        if any(not form.lines for form in (request.authorization, request.key, request.cookie)):
            yield request
