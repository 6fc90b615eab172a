"""Which secrets were right before: one that matched its hash once costs no bcrypt again until it
changes.

Kept is a MAC over user, stored secret and offered secret, under a random key, in a table of fixed
size. Table and key are memory that the issuer's master makes before it forks a worker, so that a
worker that takes the place of another knows what that one knew; they end with the master. Whoever
has another stored secret has another place in the table, so a changed user's former secret is right
no longer from the moment the change is read; its place is emptied then, too.

Processes write without a lock: an entry that is half of one and half of another is nobody's. It
must never hold a secret, and is never written to a file.
"""

import hashlib
import hmac
import mmap
import os
from collections.abc import Iterable

#: The memory: the key in a part of its own, then buckets of entries, each a tag and a MAC.
SIZE_BYTES = 8 * 1024 * 1024
KEY_BYTES = 32
_HEAD_BYTES = 4096
_TAG_BYTES = 8
_MAC_BYTES = 24
_ENTRY_BYTES = _TAG_BYTES + _MAC_BYTES
_IN_BUCKET = 8
_BUCKET_BYTES = _IN_BUCKET * _ENTRY_BYTES
_EMPTY = bytes(_ENTRY_BYTES)


class Remembered:
    """The table in the memory behind `descriptor`, or in memory of its own.

    It holds 262,016 secrets; where a bucket is full a newcomer takes the place of another, which
    costs a bcrypt once more.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, SIZE_BYTES)
        if descriptor is None:
            self._memory[:KEY_BYTES] = os.urandom(KEY_BYTES)
        self._key = self._memory[:KEY_BYTES]
        self._buckets = (SIZE_BYTES - _HEAD_BYTES) // _BUCKET_BYTES

    def has(self, username: str, stored: bytes, offered: bytes) -> bool:
        """Whether this secret matched this user's stored one before."""
        bucket, tag = self._place(username, stored)
        at = self._find(bucket, tag)
        known = self._memory[at + _TAG_BYTES : at + _ENTRY_BYTES] if at else bytes(_MAC_BYTES)
        return hmac.compare_digest(known, self._mac(username, stored, offered)) and at is not None

    def keep(self, username: str, stored: bytes, offered: bytes) -> None:
        """It matches. A user has one entry."""
        bucket, tag = self._place(username, stored)
        mac = self._mac(username, stored, offered)
        at = self._find(bucket, tag) or self._find(bucket, bytes(_TAG_BYTES))
        if at is None:
            at = bucket + mac[0] % _IN_BUCKET * _ENTRY_BYTES
        self._memory[at : at + _ENTRY_BYTES] = tag + mac

    def drop(self, users: Iterable[tuple[str, bytes]]) -> None:
        """These names and stored secrets are no longer."""
        for username, stored in users:
            at = self._find(*self._place(username, stored))
            if at is not None:
                self._memory[at : at + _ENTRY_BYTES] = _EMPTY

    def _place(self, username: str, stored: bytes) -> tuple[int, bytes]:
        """Where the bucket begins, and the tag of the entry in it."""
        digest = self._digest(b"place", _joined(username, stored))
        bucket = int.from_bytes(digest[:8], "big") % self._buckets
        # No tag is that of an empty entry.
        tag = digest[8 : 8 + _TAG_BYTES - 1] + b"\1"
        return _HEAD_BYTES + bucket * _BUCKET_BYTES, tag

    def _find(self, bucket: int, tag: bytes) -> int | None:
        entries = range(bucket, bucket + _BUCKET_BYTES, _ENTRY_BYTES)
        return next((at for at in entries if self._memory[at : at + _TAG_BYTES] == tag), None)

    def _mac(self, username: str, stored: bytes, offered: bytes) -> bytes:
        return self._digest(b"secret", _joined(username, stored) + offered)[:_MAC_BYTES]

    def _digest(self, purpose: bytes, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._key, person=purpose, digest_size=32).digest()


def _joined(username: str, stored: bytes) -> bytes:
    """Each with its length, so that no two pairs are one text."""
    name = username.encode("utf-8", "surrogatepass")
    return b"%d:%b%d:%b" % (len(name), name, len(stored), stored)
