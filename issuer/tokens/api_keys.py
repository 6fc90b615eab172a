"""API keys (docs/http-api.md): their form, what may be asked for, and what one stands for.

`sk-portero-`, an ID of 16 characters, `-`, and a secret of 43, which are 256 random bits; so a
plain SHA-256 of the whole is as good as a slow one, and is all that is kept. A key is its owner's:
role and limits are those that the policy gives the owner at each request. Nothing here may keep or
log a key. The gateway's twin is `portero/token/api_keys.lua`: the two must agree on every text.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace

from issuer.errors import TokenRefused, Unacceptable
from issuer.policy.roles import ANY_MODEL, SECONDS_A_DAY, ApiKeyRule, Roles
from issuer.store import Session
from issuer.tokens import Claims

PREFIX = "sk-portero-"
ID_BYTES = 12
SECRET_BYTES = 32
MAX_NAME_CHARACTERS = 100
#: What every gateway keeps of each key is bounded by these two.
MAX_MODELS = 32
MAX_MODEL_CHARACTERS = 256

_FORM = re.compile(r"sk-portero-([A-Za-z0-9_-]{16})-[A-Za-z0-9_-]{43}\Z", re.ASCII)
_MODEL = re.compile(r"[!#-)+-\[\]-~]{0,255}[!#-\[\]-~]\Z", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What is asked for when a key is made. No models: all that the owner may use."""

    name: str
    days: int
    models: tuple[str, ...] = ()

    @property
    def seconds(self) -> int:
        """How long it shall be good."""
        return self.days * SECONDS_A_DAY

    def check(self, rule: ApiKeyRule) -> None:
        """Raise `Unacceptable` for what no key of this role may be."""
        if not (0 < len(self.name) <= MAX_NAME_CHARACTERS and self.name.isprintable()):
            raise Unacceptable(f"name must be 1 to {MAX_NAME_CHARACTERS} printable characters.")
        if not 0 < self.days <= rule.longest_days:
            raise Unacceptable(f"days must be a whole number, 1 to {rule.longest_days}.")
        if len(self.models) > MAX_MODELS or not all(map(_MODEL.match, self.models)):
            raise Unacceptable(
                f"models must be a list of 1 to {MAX_MODELS} names of models, with a * at the end "
                "alone; leave it out for all that the owner may use."
            )


def wanted(name: object, days: object, models: object = None) -> Wanted:
    """What is asked for, from values of any kind. Raises `Unacceptable`."""
    if not isinstance(name, str):
        raise Unacceptable("name must be a text.")
    if type(days) is not int:
        raise Unacceptable("days must be a whole number.")
    if models is None:
        return Wanted(name, days)
    if not isinstance(models, list) or not all(isinstance(one, str) for one in models):
        raise Unacceptable("models must be a list of names of models.")
    if not models:
        raise Unacceptable("models must name at least one model; leave it out for all.")
    narrowed = tuple(models) if tuple(models) != ANY_MODEL else ()
    return Wanted(name, days, narrowed)


def new() -> str:
    """A fresh key."""
    return f"{PREFIX}{_random(ID_BYTES)}-{_random(SECRET_BYTES)}"


def _random(count: int) -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(count)).rstrip(b"=").decode()


def is_one(text: str) -> bool:
    """Whether a text has the beginning of an API key, as no token has."""
    return text.startswith(PREFIX)


def id_of(key: str) -> str:
    """The ID of a key. Raises `TokenRefused` for what has not the form of one."""
    match = _FORM.match(key)
    if match is None:
        raise TokenRefused("form")
    return match[1]


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_of(key: str, known: str) -> bool:
    """Whether a key has this digest, compared in constant time."""
    return hmac.compare_digest(digest(key), known)


def in_force(session: Session, roles: Roles, now: int) -> Session | None:
    """The key's session as the policy has it now, which may shorten it; None where it is over, or
    its owner's role has no keys.
    """
    role = roles.of(session.subject)
    if role is None or role.api_keys is None:
        return None
    end = min(session.expires_at, session.issued_at + role.api_keys.longest_seconds)
    is_on = session.issued_at <= now < end
    return replace(session, role=role.name, expires_at=end) if is_on else None


def claims(session: Session, roles: Roles, now: int) -> Claims:
    """What a key stands for. Raises `TokenRefused` where it stands for nothing."""
    standing = in_force(session, roles, now)
    if standing is None:
        raise TokenRefused("API key")
    return Claims(
        standing.subject,
        standing.role,
        standing.jti,
        standing.issued_at,
        standing.expires_at,
        is_api_key=True,
    )
