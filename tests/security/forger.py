"""Tokens as an attacker or a careless issuer would make them: any header, any payload, any key.

Nothing here is the product's: what signs is `cryptography` and `hmac`, so that a fault of the
product's own signing cannot hide one of its verifying.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from issuer.keys import Key

ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA")
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
P256_BYTES = 32

_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

#: A header or a payload: an object, or the very bytes.
Part = Mapping[str, Any] | bytes


def encode(raw: bytes) -> bytes:
    """base64url without padding (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def decode(segment: bytes) -> bytes:
    """The bytes of a base64url segment."""
    return base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))


def raw(part: Part) -> bytes:
    """The JSON text of an object; bytes are taken as they are."""
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()


def mac(algorithm: str, secret: bytes, signed: bytes) -> bytes:
    """The MAC of an HMAC algorithm (RFC 7518 section 3.2)."""
    return hmac.new(secret, signed, _DIGESTS[algorithm]).digest()


def ecdsa(private: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """`r || s` with SHA-256 (RFC 7518 section 3.4); the same each time (RFC 6979)."""
    der = private.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(P256_BYTES, "big") + s.to_bytes(P256_BYTES, "big")


def sign(key: Key, signed: bytes) -> bytes:
    """The true signature of a text by a key, under the key's own algorithm."""
    if key.algorithm in _DIGESTS:
        return mac(key.algorithm, key.signing, signed)
    if key.algorithm == "RS256":
        return bytes(key.signing.sign(signed, padding.PKCS1v15(), hashes.SHA256()))
    if key.algorithm == "ES256":
        return ecdsa(key.signing, signed)
    return bytes(key.signing.sign(signed))


def joined(header: Part, payload: Part, signature: bytes) -> bytes:
    """The compact form of three parts."""
    return b".".join((encode(raw(header)), encode(raw(payload)), encode(signature)))


def stray_bits(segment: bytes) -> bytes:
    """A segment that many a decoder takes for the same bytes: its unused last bits are not zero."""
    assert len(segment) % 4, "all bits of this segment are used"
    return segment[:-1] + ALPHABET[ALPHABET.index(segment[-1]) + 1 :][:1]


@dataclass(frozen=True)
class Forger:
    """Who knows a deployment's key and a live token's claims, and what must not be believed.

    `revoked` is the `jti` of a token that was revoked, `trap` a URL that nobody may ask for.
    """

    key: Key = field(repr=False)
    other: Key = field(repr=False)
    claims: Mapping[str, Any]
    revoked: str
    now: int
    trap: str = "http://127.0.0.1:1"

    @property
    def header(self) -> dict[str, Any]:
        """The header of a good token."""
        return self.header_of(self.key)

    @staticmethod
    def header_of(key: Key) -> dict[str, Any]:
        """The header of a good token of a key."""
        return {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}

    def token(
        self, header: Part | None = None, claims: Part | None = None, key: Key | None = None
    ) -> bytes:
        """A token, truly signed; a good one unless told otherwise."""
        head = encode(raw(self.header if header is None else header))
        body = encode(raw(self.claims if claims is None else claims))
        return self.signed(head, body, key)

    def signed(self, head: bytes, body: bytes, key: Key | None = None) -> bytes:
        """Two segments as they are, truly signed."""
        text = head + b"." + body
        return text + b"." + encode(sign(key or self.key, text))

    def with_header(self, **changes: Any) -> bytes:
        """A good token but for some header parameters."""
        return self.token(header=self.header | changes)

    def with_claims(self, **changes: Any) -> bytes:
        """A good token but for some claims."""
        return self.token(claims={**self.claims, **changes})

    def without_claim(self, name: str) -> bytes:
        """A good token that lacks a claim."""
        return self.token(claims={key: self.claims[key] for key in self.claims if key != name})

    def with_raw_claim(self, name: str, value: bytes) -> bytes:
        """A good token in which the JSON of one value is this text, which need not be JSON."""
        members = [
            raw_name(key) + (value if key == name else json.dumps(self.claims[key]).encode())
            for key in self.claims
        ]
        return self.token(claims=b"{" + b",".join(members) + b"}")

    def with_signature(self, signature: bytes) -> bytes:
        """A good token but for its signature."""
        return joined(self.header, self.claims, signature)

    def segments(self) -> list[bytes]:
        """The three segments of a good token, none of which uses all bits of its last character."""
        head, body = roomy(raw(self.header)), roomy(raw(self.claims))
        token = self.signed(head, body)
        return token.split(b".")

    def signing_text(self) -> bytes:
        """What the signature of a good token is over."""
        return self.token().rpartition(b".")[0]

    def signature(self) -> bytes:
        """The signature of a good token."""
        return decode(self.token().rpartition(b".")[2])


def raw_name(name: str) -> bytes:
    """The beginning of a member."""
    return json.dumps(name).encode() + b":"


def roomy(text: bytes) -> bytes:
    """A JSON text encoded; white space is put behind it until its last character has bits left."""
    return next(segment for count in range(3) if len(segment := encode(text + b" " * count)) % 4)
