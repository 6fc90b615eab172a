"""Tokens as an attacker or a careless issuer would make them: any header, payload and key."""

import base64
import hashlib
import hmac
import json
from typing import Any


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(segment: str) -> bytes:
    """The bytes of a base64url segment."""
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a token, unverified."""
    header, payload, _ = token.split(".")
    return json.loads(decode(header)), json.loads(decode(payload))


def sign(header: object, payload: object, key: str) -> str:
    """An HS256 token; header and payload may be bytes that are taken as they are."""
    signed = ".".join(encode(_raw(part)) for part in (header, payload))
    mac = hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode(mac)}"


def _raw(part: object) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
