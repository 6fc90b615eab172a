"""A gateway's side of the sync (docs/sync.md), in memory: what tests of the issuer push to.

`listening(FakeGateway().answer)` is one over HTTP. `tests/contract/test_sync.py` asks it and a
real gateway the same questions; it must never answer any of them in another way.
"""

import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from issuer import keys, tokens
from issuer.keys import sealing
from issuer.keys.sealing import Sealing
from tests.support.listening import Message, Reply

SYNC_KEY = "sync-key-of-the-tests-0123456789-abcdefghijk"
TOMBSTONE = -(2**50)
WINDOW_SECONDS = 30
MAX_BODY_BYTES = 4 * 2**20
MAX_EPOCH_CHARACTERS = 64
MAX_POSITION = 10**14
#: How long a tombstone outlives its token.
LONGEST_SILENCE_SECONDS = 600
ENTRY_BYTES = 130

State = dict[str, Any]


class FakeGateway:
    """A gateway's active-token set, its keys, and its sync endpoints."""

    def __init__(
        self, most: int = 1_000_000, key: str = SYNC_KEY, now: Callable[[], float] = time.time
    ) -> None:
        self.most = most
        self.key = key
        self._now = now
        self._lock = threading.RLock()
        self._messages: dict[tuple[str, str], Callable[[State], int]] = {
            ("POST", "/sync/keys"): self._put_keys,
            ("POST", "/sync/policy"): self._put_policy,
            ("POST", "/sync/apply"): self._apply,
            ("POST", "/sync/snapshot"): self._snapshot,
            ("GET", "/sync/status"): lambda _: 200,
            ("GET", "/sync/uses"): lambda _: 200,
            ("GET", "/sync/servers"): lambda _: 200,
            ("GET", "/sync/pool"): lambda _: 200,
            ("POST", "/sync/usage"): self._hand_out,
            ("POST", "/sync/spent"): self._put_spent,
            ("POST", "/sync/limits"): self._share_limits,
        }
        self.restart()

    def restart(self) -> None:
        """Empty, as after a restart."""
        self.newest, self.least, self.position, self.epoch = 0, 0, 0, ""
        #: jti -> the generation in which it was written, or a tombstone.
        self.numbers: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        #: ID -> what is known of an API key, and when keys were used last.
        self.api_keys: dict[str, State] = {}
        self.uses: dict[str, int] = {}
        self.history, self.serial = "", 0
        #: kid -> algorithm and what verifies.
        self.keys: dict[str, tuple[str, bytes]] = {}
        #: The policy, and how it is named.
        self.policy: State = {}
        self.policy_name = ("", 0)
        #: What was used and is in no batch yet, and the batch that is handed out.
        self.used: list[list[Any]] = []
        self._batch: State = {}
        self._batch_number = 0
        #: Name of a user or a group -> what was told: tokens of the day, and of the month.
        self.spent: dict[str, tuple[int, int]] = {}
        #: What it has counted itself of limits of a minute, and what it was told of others.
        self.windows: list[tuple[str, int, float]] = []
        self.of_others: dict[str, tuple[int, float]] = {}
        self._seen: set[str] = set()
        self._boot = f"{time.monotonic_ns():016x}"

    def active(self) -> set[str]:
        """The tokens it would let pass."""
        with self._lock:
            self._forget_expired()
            return {
                jti for jti, number in self.numbers.items() if self.least and number >= self.least
            }

    def answer(self, message: Message) -> Reply:
        """What it answers to a message as it came."""
        if len(message.body) > MAX_BODY_BYTES:
            return Reply(413, b"")
        if (message.method, message.path) not in self._messages:
            return Reply(404, b"")
        if not is_authentic(message, self.key, self._now()):
            return Reply(401, b"")
        with self._lock:
            if message.headers["x-portero-mac"] in self._seen:
                return Reply(409, b"")
            self._seen.add(message.headers["x-portero-mac"])
        content = _parsed(message)
        if content is None:
            return Reply(400, b"")
        status, state = self.receive(message.method, message.path, content)
        return Reply(status, json.dumps(state).encode())

    def receive(self, method: str, path: str, content: Any) -> tuple[int, State]:
        """Act on a message that is authentic and has the form; the status, and the state then."""
        with self._lock:
            self._forget_expired()
            status = self._messages[method, path](content or {})
            uses = {"uses": dict(self.uses)} if path == "/sync/uses" else {}
            has_batch = path == "/sync/usage" and status == 200 and self._batch
            usage = {"usage": dict(self._batch)} if has_batch else {}
            shares = path == "/sync/limits" and status == 200 and self.windows
            windows = {"windows": [list(one) for one in self.windows]} if shares else {}
            return status, {**self._state(), **uses, **usage, **windows}

    def _state(self) -> State:
        return {
            "boot": self._boot,
            "ready": self.least > 0 and bool(self.keys) and bool(self.policy),
            "newest": self.newest,
            "least": self.least,
            "epoch": self.epoch,
            "position": self.position,
            "keys": f"{self.history}:{self.serial}" if self.keys else "",
            "policy": "{}:{}".format(*self.policy_name) if self.policy else "",
            "free_bytes": max(0, self.most - len(self.numbers)) * ENTRY_BYTES,
            "capacity_bytes": self.most * ENTRY_BYTES,
        }

    def _hand_out(self, content: State) -> int:
        boot, taken = content.get("boot"), cast(Any, content.get("taken"))
        if not isinstance(boot, str) or not _is_number(taken) or taken < 0:
            return 400
        taken = taken if boot == self._boot else 0
        if taken >= self._batch_number:
            self._batch = {}
            if self.used:
                self._batch_number = int(taken) + 1
                self._batch = {"number": self._batch_number, "rows": self.used}
                self.used = []
        return 200

    def _put_spent(self, content: State) -> int:
        rows, day = content.get("rows"), content.get("day")
        is_good = isinstance(content.get("boot"), str) and _is_count(content.get("number"))
        is_day = isinstance(day, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", day)
        if not (is_good and is_day and isinstance(rows, list) and all(map(_is_spent, rows))):
            return 400
        if content["boot"] != self._boot:
            return 409
        self.spent.update({row[0]: (row[1], row[2]) for row in rows})
        return 200

    def _share_limits(self, content: State) -> int:
        rows = content.get("rows")
        if not isinstance(rows, list) or not all(map(_is_window, rows)):
            return 400
        self.of_others.update({key: (count, left) for key, count, left in rows})
        return 200

    def _forget_expired(self) -> None:
        now = self._now()
        for jti in [jti for jti, end in self._ends.items() if end <= now]:
            del self._ends[jti], self.numbers[jti]

    # Keys

    def _put_keys(self, content: State) -> int:
        history: Any = content.get("history")
        serial: Any = content.get("serial")
        sealed: Any = content.get("sealed")
        if not _is_name(history, serial) or not isinstance(sealed, str):
            return 400
        if history == self.history and serial < self.serial:
            return 409
        found = _verifying(self.key, sealed)
        if not found:
            return 400
        self.history, self.serial, self.keys = history, int(serial), found
        return 200

    # The policy

    def _put_policy(self, content: State) -> int:
        history: Any = content.get("history")
        serial: Any = content.get("serial")
        policy: Any = content.get("policy")
        if not _is_name(history, serial) or not _is_policy(policy):
            return 400
        if history == self.policy_name[0] and serial < self.policy_name[1]:
            return 409
        self.policy, self.policy_name = policy, (history, int(serial))
        return 200

    # Active tokens

    def _apply(self, content: State) -> int:
        if "position" in content and not _has_mark(content):
            return 400
        if not self._write(content):
            return 507
        if "position" in content:
            self.position, self.epoch = int(content["position"]), content["epoch"]
        return 200

    def _snapshot(self, content: State) -> int:
        step = content.get("step")
        if step == "begin":
            self.newest += 1
            return 200
        if step not in ("part", "end"):
            return 400
        if not self._is_newest(content.get("generation")):
            return 409
        if step == "part":
            return 200 if self._write(content) else 507
        if not _has_mark(content):
            return 409
        self.position, self.epoch = int(content["position"]), content["epoch"]
        self.least = self.newest
        return 200

    def _is_newest(self, generation: Any) -> bool:
        return _is_number(generation) and 0 < generation == self.newest

    def _write(self, content: State) -> bool:
        """Write what fits, the revoked first; whether all did."""
        revoked = [self._revoke(jti, end) for jti, end, *_ in content.get("revoke") or ()]
        activated = [self._activate(*entry[:3]) for entry in content.get("activate") or ()]
        return all(revoked) and all(activated)

    def _revoke(self, jti: str, end: float) -> bool:
        if not self._has_room(jti):
            return end <= self._now()
        self.api_keys.pop(jti, None)
        self.numbers[jti] = TOMBSTONE
        self._ends[jti] = max(end, self._now()) + LONGEST_SILENCE_SECONDS
        return True

    def _activate(self, jti: str, end: float, record: Any = None) -> bool:
        if end <= self._now():
            return True
        if not self._has_room(jti):
            return False
        if _is_key_id(jti):
            self.api_keys[jti] = record
        self._ends.setdefault(jti, end)
        if self.numbers.get(jti, 0) >= 0:
            self.numbers[jti] = self.newest
        return True

    def _has_room(self, jti: str) -> bool:
        return jti in self.numbers or len(self.numbers) < self.most


def seal(sync_key: bytes, text: bytes) -> str:
    """A list of keys, sealed as the issuer does."""
    return Sealing(sync_key, sealing.KEYS).seal(text)


def unseal(sync_key: str, sealed: str) -> bytes:
    """What `seal` has sealed, as a gateway opens it. Raises `InvalidTag`."""
    label = b"portero-keys-1"
    key = hmac.new(sync_key.encode(), label, hashlib.sha256).digest()
    raw = base64.b64decode(sealed, validate=True)
    return AESGCM(key).decrypt(raw[:12], raw[12:], label)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_spent(row: Any) -> bool:
    is_row = isinstance(row, list) and len(row) > 2 and isinstance(row[0], str)
    return is_row and _is_count(row[1]) and _is_count(row[2])


def _is_window(row: Any) -> bool:
    is_row = isinstance(row, list) and len(row) == 3 and isinstance(row[0], str)
    is_named = is_row and re.match(r"[rt]:.", row[0]) is not None
    is_time = is_row and isinstance(row[2], int | float) and 0 < row[2] <= 60
    return is_named and is_time and _is_count(row[1])


def mac_of(key: str, method: str, path: str, sent_at: str, body: bytes) -> str:
    """The MAC that the gateway asks for."""
    head = "\n".join(("portero-sync-1", method, path, sent_at, ""))
    return hmac.new(key.encode(), head.encode("latin-1") + body, hashlib.sha256).hexdigest()


def is_authentic(message: Message, key: str = SYNC_KEY, now: float | None = None) -> bool:
    """Whether a message bears its time and the MAC of it."""
    sent_at = message.headers.get("x-portero-time", "")
    mac = message.headers.get("x-portero-mac", "")
    if not re.fullmatch(r"[0-9]+", sent_at):
        return False
    now = time.time() if now is None else now
    expected = mac_of(key, message.method, message.path, sent_at, message.body)
    return abs(now - float(sent_at) / 1e9) <= WINDOW_SECONDS and hmac.compare_digest(
        expected.encode(), mac.encode("latin-1")
    )


def _parsed(message: Message) -> State | None:
    """The content of a message, or None where it has not the form."""
    if message.method == "GET":
        return {}
    try:
        content = json.loads(message.body.decode(errors="surrogateescape"))
    except ValueError:
        return None
    if content == []:
        return {}
    if not isinstance(content, dict):
        return None
    for name in ("activate", "revoke"):
        if not _are_entries(content.get(name, []), name == "activate"):
            return None
    return content


# Lua tells an empty object from an empty list no more than cjson does.


def _are_entries(listed: Any, activated: bool) -> bool:
    is_list = isinstance(listed, list)
    return listed == {} or (is_list and all(_is_entry(entry, activated) for entry in listed))


def _is_entry(entry: Any, activated: bool) -> bool:
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], str):
        return False
    if not _is_whole(entry[1]):
        return False
    if _is_key_id(entry[0]):
        return not activated or (len(entry) > 2 and _is_record(entry[2]))
    return tokens.is_jti(entry[0])


def _is_key_id(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{16}", text) is not None


def _is_record(known: Any) -> bool:
    """Whether it says what must be known of an API key."""
    if not isinstance(known, dict):
        return False
    digest, models = known.get("digest"), known.get("models")
    is_hex = isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest) is not None
    are_texts = models is None or (
        isinstance(models, list) and models and all(isinstance(one, str) for one in models)
    )
    is_owned = isinstance(known.get("sub"), str) and _is_whole(known.get("iat"))
    return is_hex and bool(are_texts) and is_owned


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and abs(value) < 1e300 and value % 1 == 0


def _has_mark(content: State) -> bool:
    """Whether a message says how far it brings a gateway, and in which history."""
    position: Any = content.get("position")
    epoch = content.get("epoch")
    if not _is_whole(position) or not isinstance(epoch, str):
        return False
    return bool(0 <= position < MAX_POSITION) and len(epoch.encode()) <= MAX_EPOCH_CHARACTERS


def _is_name(history: Any, serial: Any) -> bool:
    """Whether they name a list of keys, or a policy."""
    is_good = isinstance(history, str) and "\n" not in history and _is_number(serial)
    return is_good and serial % 1 == 0 and 0 <= serial < 2**53


def _is_policy(content: Any) -> bool:
    """Whether tables can be built of it."""
    if not isinstance(content, dict):
        return False
    roles, users, routes = (content.get(name) for name in ("roles", "users", "routes"))
    return _holds_objects(roles) and _holds_objects(users) and _holds_objects(routes, least=1)


def _holds_objects(held: Any, least: int = 0) -> bool:
    """Whether it is a list or an object of objects that have so many members."""
    values = held.values() if isinstance(held, dict) else held
    return isinstance(held, dict | list) and all(
        isinstance(value, dict) and len(value) >= least for value in values
    )


def _verifying(sync_key: str, sealed: str) -> dict[str, tuple[str, bytes]] | None:
    """The keys of a sealed list; None where one of them is none."""
    try:
        listed = json.loads(unseal(sync_key, sealed))["keys"]
        found = {one["kid"]: (one["alg"], base64.b64decode(one["key"])) for one in listed}
        return found if all(map(_is_key, found, found.values())) else None
    except (InvalidTag, UnsupportedAlgorithm, ValueError, KeyError, TypeError):
        return None


PUBLIC_KEYS = {
    "RS256": RSAPublicKey,
    "ES256": EllipticCurvePublicKey,
    "EdDSA": Ed25519PublicKey,
}


def _is_key(kid: object, key: tuple[str, bytes]) -> bool:
    algorithm, verifying = key
    if not isinstance(kid, str) or algorithm not in keys.ALGORITHMS:
        return False
    if algorithm in PUBLIC_KEYS:
        return isinstance(load_der_public_key(verifying), PUBLIC_KEYS[algorithm])
    return len(verifying) >= keys.MIN_SECRET_BYTES
