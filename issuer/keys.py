"""The keys that sign and verify tokens: a list, oldest to newest; the newest signs.

A key decides its algorithm, the token never does (RFC 8725 §3.1). A key's text or bytes must
never reach a log, an error or a `repr`.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

#: JWS algorithm (RFC 7518 §3.1) by its digest.
ALGORITHMS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}

_FINGERPRINT_LABEL = b"portero key id"
_FINGERPRINT_BYTES = 12


@dataclass(frozen=True)
class Key:
    """One key in force. `kid` is safe to print; `secret` is not and never is."""

    kid: str
    algorithm: str
    secret: bytes = field(repr=False)


def hmac_key(algorithm: str, secret: bytes) -> Key:
    """An HMAC key. Its `kid` is a MAC under the key itself, so it tells nothing about it."""
    mac = hmac.new(secret, _FINGERPRINT_LABEL, hashlib.sha256).digest()
    kid = base64.urlsafe_b64encode(mac[:_FINGERPRINT_BYTES]).decode()
    return Key(kid=kid, algorithm=algorithm, secret=secret)


class Keyring:
    """The keys in force."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)
        self._by_kid = {key.kid: key for key in keys}

    def signing(self) -> Key:
        """The newest key."""
        return self._keys[-1]

    def find(self, kid: object) -> Key | None:
        """The key of this `kid`, or None; a `kid` is only ever looked up in this table."""
        return self._by_kid.get(kid) if isinstance(kid, str) else None
