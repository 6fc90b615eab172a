"""Minting and strict verification of tokens (RFC 7519, RFC 7515, RFC 8725; docs/http-api.md).

PyJWT does the signatures. What it would let through beside them (padding, duplicate names, times
as text or floats, other encodings) is refused here, by the same grammar as the gateway's
`portero/token/jwt.lua`: the two must agree on every token there is. Nothing of the payload is read
before the signature holds. It must never log, nor put a token or a claim into an error.
"""

import base64
import json
import re
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from issuer.errors import TokenExpired, TokenRefused
from issuer.keys import Key, Keyring
from issuer.policy import ISSUER
from issuer.policy.roles import Role, Roles, is_subject

AUDIENCE = "portero-gateway"
MAX_CHARACTERS = 2048
JTI_BYTES = 16

# An HMAC key has 32 bytes or more, whatever its digest (docs/configuration.md); `issuer/keys` sees
# to it.
warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z", re.ASCII)
_JTI = re.compile(r"[A-Za-z0-9_-]{22}\Z", re.ASCII)

# A flat JSON object (RFC 8259) of plain printable strings and non-negative integers below 10^15:
# all that a token of ours needs, and nothing two parsers could read in two ways.
_SPACE = rb"[ \t\n\r]*"
_STRING = rb'"[ !#-\[\]-~]*"'
_VALUE = rb"%b|0|[1-9][0-9]{0,14}" % _STRING
_MEMBER = rb"%b(%b)%b:%b(%b)%b" % (_SPACE, _STRING, _SPACE, _SPACE, _VALUE, _SPACE)
_MEMBERS = re.compile(_MEMBER)
_OBJECT = re.compile(rb"%b\{%b(?:,%b)*\}%b\Z" % (_SPACE, _MEMBER, _MEMBER, _SPACE))

_HEADER = {"alg": str, "kid": str, "typ": str}
_CLAIMS = {
    "iss": str,
    "aud": str,
    "sub": str,
    "role": str,
    "iat": int,
    "exp": int,
    "jti": str,
}
#: The one claim that need not be there: the classes that a token is narrowed to.
_SCOPE = "scope"
_CLASSES = re.compile(r"[a-z]+(?: [a-z]+)*\Z", re.ASCII)
#: Where `Claims` has what is the bearer's own.
_FIELDS = {"jti": "jti", "sub": "subject", "role": "role", "iat": "issued_at", "exp": "expires_at"}


@dataclass(frozen=True)
class Claims:
    """What a token says, or an API key stands for. Times are whole Unix seconds. `scope` are the
    route classes that a token is narrowed to, None where it is not.
    """

    subject: str
    role: str
    jti: str
    issued_at: int
    expires_at: int
    scope: tuple[str, ...] | None = None
    is_api_key: bool = False

    def may_use(self, roles: Roles, route_class: str) -> bool:
        """Whether the role has this class of routes, and the token was not narrowed to others."""
        is_within = self.scope is None or route_class in self.scope
        return is_within and roles.grants(self.role, route_class)

    def classes(self, roles: Roles) -> list[str]:
        """The classes of routes that it may be used for."""
        role = roles.named(self.role)
        return [one for one in role.routes if self.may_use(roles, one)] if role else []


def is_jti(text: str) -> bool:
    """Whether a text has the one shape of a `jti`."""
    return _JTI.match(text) is not None


def new_claims(subject: str, role: Role, now: int, scope: tuple[str, ...] | None = None) -> Claims:
    """Fresh claims with a `jti` of 128 random bits, valid from `now` for the role's TTL."""
    jti = base64.urlsafe_b64encode(secrets.token_bytes(JTI_BYTES)).rstrip(b"=").decode()
    return Claims(subject, role.name, jti, now, now + role.ttl_seconds, scope)


def mint(claims: Claims, key: Key, issuer: str = ISSUER) -> str:
    """The compact JWS of these claims, signed with `key`."""
    # The `jti` comes first: LuaJIT tells long texts apart by samples of their first half, and
    # the gateway would look for each new token among all that differ later.
    said = {name: getattr(claims, field) for name, field in _FIELDS.items()}
    narrowed = {} if claims.scope is None else {_SCOPE: " ".join(claims.scope)}
    payload = {**said, "iss": issuer, "aud": AUDIENCE, **narrowed}
    return jwt.encode(payload, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})


def verify(token: str, now: int, keyring: Keyring, roles: Roles, issuer: str = ISSUER) -> Claims:
    """The claims of an authentic token in its time; whether it is active is not asked here.

    Raises `TokenExpired` for an authentic token past its `exp`, else `TokenRefused`.
    """
    segments = _segments(token)
    key = _key(_flat_object(_decode(segments[0])), keyring)
    _decode(segments[2])
    payload = _signed_payload(token, key)
    return _claims(_flat_object(payload), now, roles, issuer)


def _segments(token: str) -> tuple[str, str, str]:
    match = _COMPACT.match(token) if len(token) <= MAX_CHARACTERS else None
    if match is None:
        raise TokenRefused("form")
    return match[1], match[2], match[3]


def _decode(segment: str) -> bytes:
    """Canonical base64url (RFC 4648 §3.5): only what encodes back to itself."""
    if len(segment) % 4 == 1:
        raise TokenRefused("encoding")
    raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise TokenRefused("encoding")
    return raw


def _flat_object(raw: bytes) -> dict[str, str | int]:
    if _OBJECT.match(raw) is None:
        raise TokenRefused("json")
    members = [(json.loads(name), json.loads(value)) for name, value in _MEMBERS.findall(raw)]
    table = dict(members)
    if len(table) != len(members):
        raise TokenRefused("duplicate name")
    return table


def _has_exactly(table: Mapping[str, object], shape: Mapping[str, type]) -> bool:
    return table.keys() == shape.keys() and all(
        type(table[name]) is kind for name, kind in shape.items()
    )


def _key(header: Mapping[str, str | int], keyring: Keyring) -> Key:
    if not _has_exactly(header, _HEADER) or header["typ"] != "JWT":
        raise TokenRefused("header")
    key = keyring.find(header["kid"])
    if key is None or key.algorithm != header["alg"]:
        raise TokenRefused("key")
    return key


def _signed_payload(token: str, key: Key) -> bytes:
    try:
        payload = jwt.PyJWS([key.algorithm]).decode(token, key.checker(), [key.algorithm])
    except jwt.PyJWTError:
        raise TokenRefused("signature") from None
    return bytes(payload)


def _claims(table: dict[str, str | int], now: int, roles: Roles, issuer: str) -> Claims:
    scope = _classes(table.pop(_SCOPE)) if _SCOPE in table else None
    if not _has_exactly(table, _CLAIMS):
        raise TokenRefused("claims")
    said: dict[str, Any] = {field: table[name] for name, field in _FIELDS.items()}
    claims = Claims(**said, scope=scope)
    if table["iss"] != issuer or table["aud"] != AUDIENCE or not is_jti(claims.jti):
        raise TokenRefused("claims")
    _check_role(claims, roles)
    _check_times(claims, now)
    return claims


def _classes(scope: str | int) -> tuple[str, ...]:
    """The words of a scope (RFC 6749 §3.3), as a token of ours has them."""
    if not isinstance(scope, str) or _CLASSES.match(scope) is None:
        raise TokenRefused("scope")
    return tuple(scope.split(" "))


def _check_role(claims: Claims, roles: Roles) -> None:
    role = roles.named(claims.role)
    if role is None or not is_subject(claims.subject) or roles.of(claims.subject) is not role:
        raise TokenRefused("role")
    if not 0 < claims.expires_at - claims.issued_at <= role.ttl_seconds:
        raise TokenRefused("lifetime")


def _check_times(claims: Claims, now: int) -> None:
    if claims.issued_at > now:
        raise TokenRefused("not yet issued")
    if claims.expires_at <= now:
        raise TokenExpired("expired")
