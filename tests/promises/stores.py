"""Session stores filled without logging in: what a test needs thousands of, bcrypt would delay."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from issuer import keys, tokens
from issuer.store import OF_API_KEY
from issuer.tokens import Claims, api_keys
from tests.support.deployment import Local
from tests.support.policies import shipped_policy

USER, ROLE = "AGIATEST01", "agi"
DAY = 86_400


def fill(deployment: Local, count: int, revoked: int = 0) -> Sequence[Claims]:
    """Sessions of an agi in the deployment's store, as if by login; the last `revoked` revoked."""
    role = shipped_policy().roles.named(ROLE)
    assert role is not None
    now = int(time.time())
    claims = [tokens.new_claims(USER, role, now) for _ in range(count)]
    insert(deployment, claims, revoked)
    return claims


def insert(deployment: Local, claims: Sequence[Claims], revoked: int = 0) -> None:
    """These claims as sessions, in one transaction. The user must have logged in once."""
    path = deployment.data / "sessions.db"
    with closing(sqlite3.connect(path, timeout=30)) as store:
        credential = _fingerprint(path, store)
    _insert(deployment, claims, revoked, credential)


def _insert(deployment: Local, claims: Sequence[Claims], revoked: int, credential: str) -> None:
    path = deployment.data / "sessions.db"
    count, now = len(claims), int(time.time())
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as store:
        store.execute("BEGIN IMMEDIATE")
        position = _counter(store, "position")
        store.executemany(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                _row(one, position + index, index > count - revoked, now, credential)
                for index, one in enumerate(claims, 1)
            ],
        )
        for counter in ("position", "rows"):
            store.execute("UPDATE counters SET value = value + ? WHERE name = ?", (count, counter))
        store.execute("COMMIT")


def fill_keys(deployment: Local, count: int, revoked: int = 0) -> Sequence[str]:
    """API keys of an agi in the deployment's store, as if made; the last `revoked` revoked."""
    now = int(time.time())
    keys = [api_keys.new() for _ in range(count)]
    ids = [api_keys.id_of(key) for key in keys]
    claims = [Claims(USER, ROLE, key_id, now, now + DAY) for key_id in ids]
    _insert(deployment, claims, revoked, OF_API_KEY)
    with closing(sqlite3.connect(deployment.data / "sessions.db", timeout=30)) as store, store:
        store.executemany(
            "INSERT INTO api_keys VALUES (?, ?, 'a promise', '[]', 'the tests', NULL)",
            [(key_id, api_keys.digest(key)) for key_id, key in zip(ids, keys, strict=True)],
        )
    return keys


def mint(deployment: Local, claims: Claims) -> str:
    """The token of these claims, as the deployment's issuer would have signed it."""
    return tokens.mint(claims, keys.hmac_key("HS256", deployment.secret_key.encode()))


def _counter(store: sqlite3.Connection, name: str) -> int:
    row = store.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return int(row[0])


_FINGERPRINTS: dict[Path, str] = {}


def _fingerprint(path: Path, store: sqlite3.Connection) -> str:
    """Of the user's secret, as a login would have noted it: taken from one that did."""
    if path not in _FINGERPRINTS:
        row = store.execute("SELECT credential FROM sessions WHERE subject = ?", (USER,)).fetchone()
        assert row, f"{USER} must have logged in once"
        _FINGERPRINTS[path] = row[0]
    return _FINGERPRINTS[path]


def _row(
    one: Claims, position: int, is_revoked: bool, now: int, credential: str
) -> tuple[str, str, str, int, int, str, int | None, int]:
    return (
        one.jti,
        one.subject,
        one.role,
        one.issued_at,
        one.expires_at,
        credential,
        now if is_revoked else None,
        position,
    )
