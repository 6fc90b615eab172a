"""Secrets that cross a wire or lie in the store: sealed under a key that comes from SYNC_KEY, or
from SEAL_KEY where machines share a store.

AES-256-GCM under a key of its own for each purpose, so that what was sealed for one is good for no
other; nonce first, in base64. A gateway opens it (`portero/token/crypto.lua`). It must never log a
text, nor say more of what cannot be opened than that.
"""

import base64
import binascii
import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS, CREDENTIALS = b"portero-keys-1", b"portero-credential-1"
SHARED_KEYS = b"portero-shared-keys-1"
NONCE_BYTES = 12

_NONCE_LABEL = b"nonce of "


class Sealing:
    """What is sealed for one purpose."""

    def __init__(self, key: bytes, label: bytes) -> None:
        self._label = label
        self._nonce_key = _derived(key, _NONCE_LABEL + label)
        self._cipher = AESGCM(_derived(key, label))

    def seal(self, text: bytes) -> str:
        """Another one each time."""
        return self._sealed(os.urandom(NONCE_BYTES), text)

    def seal_alike(self, text: str) -> str:
        """The same for the same text, so that what was kept can be compared: the nonce is a MAC of
        the text, and so is never used for another one.
        """
        raw = text.encode("utf-8", "surrogateescape")
        return self._sealed(_derived(self._nonce_key, raw)[:NONCE_BYTES], raw)

    def unseal(self, sealed: str) -> str:
        """What `seal_alike` sealed. Raises `ValueError` for what was not sealed under this key."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            text = self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._label)
        except (InvalidTag, binascii.Error, ValueError):
            raise ValueError("is not sealed under this key") from None
        return text.decode("utf-8", "surrogateescape")

    def _sealed(self, nonce: bytes, text: bytes) -> str:
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, text, self._label)).decode()


def _derived(key: bytes, label: bytes) -> bytes:
    return hmac.new(key, label, hashlib.sha256).digest()
