"""Who may log in, as a credentials file says it, checked by bcrypt.

`python -m issuer.credentials --generate 5` makes one; how a line is written is the matter of
`issuer/users/credential_lines.py`. A faulty file is refused whole, and every fault is told with its
line. It must never put a secret, or a part of one, into a message.
"""

import functools
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

from issuer import files, metrics
from issuer.errors import Faults
from issuer.policy.roles import Roles
from issuer.users import credential_lines
from issuer.users.credential_lines import COSTS as COSTS
from issuer.users.credential_lines import MAX_SECRET_BYTES, Line
from issuer.users.remembered import Remembered
from issuer.users.turns import Turns

log = logging.getLogger("portero.credentials")

COST = 12
SECRET_BYTES = 18
#: Enough that no two of many generated names are alike.
NAME_BYTES = 5


@dataclass(frozen=True)
class Credential:
    """One user's secret: a bcrypt hash, or plain text where the operator insisted."""

    secret: bytes = field(repr=False)
    cost: int
    plain: bool


class Credentials:
    """A set of users as one reading of the file gave it."""

    def __init__(self, users: Mapping[str, Credential], salt: bytes) -> None:
        self._users = dict(users)
        self._salt = salt
        self._costs = sorted(user.cost for user in users.values()) or [COST]
        for cost in set(self._costs):
            _nobody(cost)

    def __len__(self) -> int:
        return len(self._users)

    def check(self, username: str, secret: str) -> bool:
        """Whether this is the user's secret; one bcrypt of the same cost, whatever the answer."""
        offered = _bytes(secret)
        user = self._users.get(username)
        fits = 0 < len(offered) <= MAX_SECRET_BYTES and b"\0" not in offered
        matches = bcrypt.checkpw(offered if fits else b"-", self._hash_for(username, user))
        if user is not None and user.plain:
            matches = hmac.compare_digest(_digest(offered), _digest(user.secret))
        return user is not None and fits and matches

    def stored(self, username: str) -> bytes:
        """What the file says of this user's secret; nothing of an unknown user."""
        user = self._users.get(username)
        return user.secret if user else b""

    def gone_in(self, later: "Credentials") -> Iterator[tuple[str, bytes]]:
        """Names and stored secrets of users whom a later set has not, or with another secret."""
        for username, user in self._users.items():
            if later._users.get(username) != user:
                yield username, user.secret

    def fingerprint(self, username: str) -> str | None:
        """Tells one secret of a user from the next, and nothing else; None if unknown."""
        user = self._users.get(username)
        if user is None:
            return None
        text = username.encode() + b"\0" + user.secret
        return hmac.new(self._salt, text, hashlib.sha256).hexdigest()[:24]

    def _hash_for(self, username: str, user: Credential | None) -> bytes:
        if user is not None and not user.plain:
            return user.secret
        return _nobody(user.cost if user else self._cost_of_unknown(username))

    def _cost_of_unknown(self, username: str) -> int:
        """Always the same for one name, and spread over names as the costs of real users are."""
        digest = hmac.new(self._salt, username.encode("utf-8", "replace"), hashlib.sha256).digest()
        return self._costs[int.from_bytes(digest[:4], "big") % len(self._costs)]


def _bytes(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


@functools.cache
def _nobody(cost: int) -> bytes:
    """A hash no one has the secret of: an unknown user costs what a known one does."""
    return bcrypt.hashpw(secrets.token_bytes(32), bcrypt.gensalt(cost))


def parse(
    text: str, roles: Roles | None, salt: bytes, warn: Callable[[str], None] = log.warning
) -> Credentials:
    """Read the file's text. Raises `Faults` with every faulty line.

    Without roles every code is good: for a text that was judged before.
    """
    users: dict[str, Credential] = {}
    faults: list[str] = []
    for line in credential_lines.read(text):
        place = f"credentials line {line.number}"
        reasons = [*_name_faults(line.username, users, roles), *line.faults]
        faults += [f"{place}: {reason}" for reason in reasons]
        if reasons or line.username is None:
            continue
        users[line.username] = _credential(line)
        if line.warning:
            warn(f"{place}: {line.warning}")
    if not users and not faults:
        faults.append("credentials: the file names no user")
    if faults:
        raise Faults(faults)
    return Credentials(users, salt)


def _credential(line: Line) -> Credential:
    cost = COST if line.cost is None else line.cost
    return Credential(line.secret.encode(), cost, plain=line.cost is None)


def _name_faults(
    username: str | None, seen: Mapping[str, Credential], roles: Roles | None
) -> list[str]:
    """What is wrong with a name of the right form. Where a line is broken or turned round it may be
    a secret's: only one that was a user's before is told.
    """
    if username is None:
        return []
    if username in seen:
        return [f"{username} is there twice"]
    known = roles is None or roles.of(username) is not None
    return [] if known else ["what the username begins with is no role's code"]


class Doorkeeper:
    """Checks secrets: at once where one was right before, else by bcrypt in turn (threats P6), as
    each costs a core 0.1-0.3 s.
    """

    def __init__(self, remembered: Remembered, turns: Turns) -> None:
        self._remembered = remembered
        self._turns = turns

    def check(self, credentials: Credentials, username: str, secret: str, address: str) -> bool:
        """Whether the secret is right. `address` is the client's; raises `TooManyLogins`."""
        stored, offered = credentials.stored(username), _bytes(secret)
        if self._remembered.has(username, stored, offered):
            metrics.SECRETS.labels("remembered").inc()
            return True
        with self._turns.turn(address):
            metrics.SECRETS.labels("bcrypt").inc()
            is_right = credentials.check(username, secret)
        if is_right:
            self._remembered.keep(username, stored, offered)
        return is_right

    def forget(self, before: Credentials, now: Credentials) -> None:
        """Other credentials are in force: drop what no longer holds."""
        self._remembered.drop(before.gone_in(now))


def generate(roles: Iterable[str], each: int) -> list[tuple[str, str]]:
    """`each` new users for every role code, with random secrets, in plain."""
    return [
        (
            f"{code}{secrets.token_hex(NAME_BYTES).upper()}",
            new_secret(),
        )
        for code in roles
        for _ in range(each)
    ]


def hashed(secret: str) -> str:
    """A bcrypt hash of a secret. Raises `Faults` for one that can be nobody's."""
    if faults := credential_lines.secret_faults(secret):
        raise Faults(faults)
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(COST)).decode()


def new_secret() -> str:
    """A random secret that nobody guesses."""
    return secrets.token_urlsafe(SECRET_BYTES)


def hashed_lines(users: Sequence[tuple[str, str]]) -> str:
    """The text of a credentials file that holds hashes only."""
    lines = [f"{name}={hashed(secret)}" for name, secret in users]
    return "\n".join(["# Portero credentials: USERNAME=BCRYPT-HASH", *lines, ""])


def write_new(path: Path, text: str, force: bool = False) -> None:
    """Write a file of mode 0600, whole or not at all. Raises `Faults` if it is there already."""
    if path.exists() and not force:
        raise Faults([f"{path} is there already; --force replaces it"])
    files.replace(path, text.encode())
