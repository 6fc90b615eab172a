"""The keys that sign and verify tokens: what a key is, how one is made, and which are too weak.

A key decides its algorithm, the token never does (RFC 8725 §3.1). Pure: no files, no clock. A
key's secret must never reach a log, an error or a `repr`.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidKeyError

from issuer.errors import Faults

MIN_SECRET_BYTES = 32
NEW_SECRET_BYTES = 48
MIN_RSA_BITS = 2048
NEW_RSA_BITS = 3072
MIN_RSA_EXPONENT = 3
#: A secret of fewer different bytes is a pattern.
MIN_DIFFERENT_BYTES = 8
PEM = b"-----BEGIN "

_FINGERPRINT_LABEL = b"portero key id"
_FINGERPRINT_BYTES = 12

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Key:
    """One key. `kid` is safe to print; the rest is not, and never is.

    `signing` is what PyJWT signs with: bytes for HMAC, else a private key. `verifying` is what a
    gateway gets: the secret for HMAC, else the public key as SubjectPublicKeyInfo in DER.
    """

    kid: str
    algorithm: str
    signing: Any = field(repr=False)
    verifying: bytes = field(repr=False)

    @property
    def is_public(self) -> bool:
        """Whether whoever holds `verifying` cannot mint with it."""
        return not self.algorithm.startswith("HS")

    def checker(self) -> Any:
        """What PyJWT verifies with."""
        return self.signing.public_key() if self.is_public else self.signing


def _new_secret() -> bytes:
    """64 characters: as many bytes as the longest digest (RFC 7518 §3.2)."""
    return secrets.token_urlsafe(NEW_SECRET_BYTES).encode()


#: JWS algorithm (RFC 7518 §3.1, RFC 8037 §3.1) -> how a new key is made.
ALGORITHMS: dict[str, Callable[[], bytes | PrivateKey]] = {
    "HS256": _new_secret,
    "HS384": _new_secret,
    "HS512": _new_secret,
    "RS256": partial(rsa.generate_private_key, 65537, NEW_RSA_BITS),
    "ES256": partial(ec.generate_private_key, ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def new_key(algorithm: str) -> Key:
    """A fresh key for an algorithm."""
    made = ALGORITHMS[algorithm]()
    return hmac_key(algorithm, made) if isinstance(made, bytes) else _private_key(algorithm, made)


def read_key(algorithm: str, text: bytes) -> Key:
    """A key from its stored or given form: a secret for HMAC, else a private key in PEM.

    Raises `Faults` for one that cannot be read or is too weak.
    """
    if algorithm.startswith("HS"):
        if reasons := weaknesses(text):
            raise Faults(reasons)
        return hmac_key(algorithm, text)
    try:
        private = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Faults(["is not a private key in PEM without a password"]) from None
    if reason := _unfit(algorithm, private):
        raise Faults([reason])
    assert isinstance(private, PrivateKey)
    return _private_key(algorithm, private)


def stored_form(key: Key) -> bytes:
    """What `read_key` reads again. Secret."""
    if not key.is_public:
        return bytes(key.signing)
    return bytes(
        key.signing.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def hmac_key(algorithm: str, secret: bytes) -> Key:
    """An HMAC key. Its `kid` is a MAC under the key itself, so it tells nothing about it."""
    mac = hmac.new(secret, _FINGERPRINT_LABEL, hashlib.sha256).digest()
    return Key(_text(mac[:_FINGERPRINT_BYTES]), algorithm, signing=secret, verifying=secret)


def _private_key(algorithm: str, private: PrivateKey) -> Key:
    public = private.public_key()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Key(thumbprint(_jwk(algorithm, public)), algorithm, signing=private, verifying=der)


def weaknesses(secret: bytes) -> list[str]:
    """Why these bytes are no secret; an empty list when they are good enough."""
    found = []
    if secret[-1:] in (b"\r", b"\n"):
        found.append("ends in a newline; write it without one (printf, not echo)")
    if len(secret) < MIN_SECRET_BYTES:
        found.append(f"is shorter than {MIN_SECRET_BYTES} bytes")
    if len(set(secret)) < MIN_DIFFERENT_BYTES or b"changeme" in secret.lower():
        found.append("is too easy to guess; 'python -m issuer init' makes a good one")
    if _is_public_text(secret):
        found.append("has the form of a public key or certificate, which is no secret")
    return found


def _is_public_text(secret: bytes) -> bool:
    """What PyJWT would not take as a secret either (GHSA-ffqj-6fqr-9h24): PEM, SSH, JWK, DER."""
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError:
        return True
    return False


def _unfit(algorithm: str, private: object) -> str:
    """Why a private key is not one for this algorithm; empty when it is."""
    if algorithm == "RS256":
        if not isinstance(private, rsa.RSAPrivateKey):
            return "is not an RSA key"
        weak = private.key_size < MIN_RSA_BITS
        small = private.public_key().public_numbers().e < MIN_RSA_EXPONENT
        return f"is an RSA key under {MIN_RSA_BITS} bits, or with exponent 1" * (weak or small)
    if algorithm == "ES256":
        fits = isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(
            private.curve, ec.SECP256R1
        )
        return "" if fits else "is not a key on the curve P-256"
    return "" if isinstance(private, ed25519.Ed25519PrivateKey) else "is not an Ed25519 key"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _jwk(algorithm: str, public: Any) -> dict[str, str]:
    """The required members of a public key's JWK (RFC 7518 §6, RFC 8037 §2)."""
    members = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return {name: str(members[name]) for name in members if name != "key_ops"}


def thumbprint(jwk: dict[str, str]) -> str:
    """The JWK thumbprint (RFC 7638 §3): SHA-256 over the required members, in order."""
    text = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    return _text(hashlib.sha256(text.encode()).digest())


def public_jwk(key: Key) -> dict[str, str]:
    """A public key for a JWK set (RFC 7517 §4)."""
    return {
        **_jwk(key.algorithm, key.signing.public_key()),
        "kid": key.kid,
        "alg": key.algorithm,
        "use": "sig",
    }


class Keyring:
    """The keys in force, oldest to newest, and which of them signs."""

    def __init__(self, keys: Sequence[Key], signing_kid: str = "") -> None:
        self._by_kid = {key.kid: key for key in keys}
        self._signing = self._by_kid.get(signing_kid, keys[-1])

    def __iter__(self) -> Any:
        return iter(self._by_kid.values())

    def signing(self) -> Key:
        """The key that signs new tokens."""
        return self._signing

    def find(self, kid: object) -> Key | None:
        """The key of this `kid`, or None; a `kid` is only ever looked up in this table."""
        return self._by_kid.get(kid) if isinstance(kid, str) else None
