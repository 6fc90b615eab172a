"""The key file beside the session store: the list of keys, oldest to newest, and its changes.

A key is *waiting* until every gateway has acknowledged it, then *signing*, then *verifying* until
the last token it signed has ended, then gone. The file has mode 0600, changes are whole or not at
all and under a lock, and every process reads it again when it has changed. It must never be
printed, and a `kid` that is gone never comes back.
"""

import base64
import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from issuer import keys
from issuer.errors import Faults, StoreUnavailable
from issuer.keys import Key, Keyring

log = logging.getLogger("portero.token.keys")

WAITING, SIGNING, VERIFYING, GONE = "waiting", "signing", "verifying", "gone"
IN_FORCE = (WAITING, SIGNING, VERIFYING)


@dataclass(frozen=True)
class Entry:
    """One key of the list. `until` is when a verifying key goes, in Unix seconds."""

    kid: str
    algorithm: str
    state: str
    added_at: int
    until: int = 0
    secret: str = field(default="", repr=False)

    def key(self) -> Key:
        """The key itself."""
        return keys.read_key(self.algorithm, base64.b64decode(self.secret))


@dataclass(frozen=True)
class KeyList:
    """The whole file. `history` names its unbroken life, `serial` its changes, and `configured`
    the settings that its signing key was last chosen by.
    """

    history: str
    serial: int
    entries: tuple[Entry, ...]
    configured: str = ""

    def in_force(self) -> list[Entry]:
        """Keys whose tokens are accepted, oldest to newest."""
        return [entry for entry in self.entries if entry.state in IN_FORCE]

    def find(self, kid: str) -> Entry | None:
        """The entry of a `kid`, gone ones too."""
        return next((entry for entry in self.entries if entry.kid == kid), None)

    def keyring(self) -> Keyring:
        """The keys in force, for minting and verifying."""
        signing = [entry.kid for entry in self.entries if entry.state == SIGNING]
        return Keyring([entry.key() for entry in self.in_force()], *signing[-1:])


class KeyFile:
    """The list, watched: `keyring` is what the file last said."""

    def __init__(
        self, path: Path, algorithm: str, given: bytes, longest_life_seconds: Callable[[], int]
    ) -> None:
        self._path = path
        self._algorithm = algorithm
        self._given = given
        self._longest_life_seconds = longest_life_seconds
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._keyring: Keyring | None = None

    def prepare(self, now: int) -> None:
        """See that there is a key that signs, and that it is the one the settings ask for.

        The first one is the given SECRET_KEY, where that is a key of the algorithm; else it is
        made. Settings that were changed since replace the keys before, at once; a key that was
        ever in the list does not come back so. Raises `Faults`.
        """
        given = self._given_key()
        configured = f"{self._algorithm}:{given.kid if given else ''}"
        with self._changing() as change:
            known = change.list
            signs = any(entry.state == SIGNING for entry in known.entries)
            if signs and known.configured == configured:
                return
            if given is not None and known.find(given.kid) is None:
                change.to(_replaced(known, given, now), configured)
            elif signs and known.configured.startswith(f"{self._algorithm}:"):
                change.to(known.entries, configured)
            else:
                change.to(_replaced(known, keys.new_key(self._algorithm), now), configured)

    def keyring(self) -> Keyring:
        """The keys in force, re-read if the file has changed. Raises `StoreUnavailable`.

        Of a file that has become unreadable what it said before stays in force.
        """
        with self._lock:
            try:
                signature = self._signature()
                if signature != self._seen:
                    self._keyring = self.read().keyring()
                    self._seen = signature
            except StoreUnavailable as error:
                if self._keyring is None:
                    raise
                log.error("%s; the former keys stay in force", error)
            assert self._keyring is not None
            return self._keyring

    def read(self) -> KeyList:
        """The file as it is now. Raises `StoreUnavailable` unless all its keys can be used."""
        try:
            known = _parse(self._path.read_text())
            known.keyring()
        except FileNotFoundError:
            raise StoreUnavailable(f"key file: {self._path} is not there yet") from None
        except (OSError, ValueError, LookupError, TypeError, Faults) as error:
            raise StoreUnavailable(f"key file: {self._path}: {type(error).__name__}") from None
        return known

    def add(self, algorithm: str | None, now: int) -> Entry:
        """A new key that waits for the gateways. Raises `Faults` while another one waits."""
        with self._changing() as change:
            if any(entry.state == WAITING for entry in change.list.entries):
                raise Faults(["a new key is waiting for the gateways already"])
            entry = _entry(keys.new_key(algorithm or self._algorithm), WAITING, now)
            change.to([*change.list.entries, entry])
            return entry

    def promote(self, kid: str, now: int) -> None:
        """The waiting key signs from now on; the one before verifies what it has signed."""
        until = now + self._longest_life_seconds()
        with self._changing() as change:
            found = change.list.find(kid)
            if found is None or found.state != WAITING:
                return
            change.to(_promoted(change.list.entries, kid, until))

    def expire(self, now: int) -> bool:
        """Drop keys whose last token has ended; answers whether there were any."""
        with self._changing() as change:
            over = [
                entry.kid
                for entry in change.list.entries
                if entry.state == VERIFYING and entry.until <= now
            ]
            if over:
                change.to(_without(change.list.entries, over))
            return bool(over)

    def retire(self, kid: str, at_once: bool, now: int) -> None:
        """End a key: after the longest TTL, or at once. A signing key is replaced first.

        Raises `Faults` for an unknown key, or for a signing one that shall go in its time.
        """
        with self._changing() as change:
            entry = change.list.find(kid)
            if entry is None or entry.state == GONE:
                raise Faults([f"{kid} is no key in force"])
            if not at_once:
                change.to(self._retiring(change.list.entries, entry, now))
                return
            entries = _without(change.list.entries, [kid])
            if entry.state == SIGNING:
                entries = _succeeded(entries, _entry(keys.new_key(entry.algorithm), SIGNING, now))
            change.to(entries)

    def _retiring(self, entries: Sequence[Entry], entry: Entry, now: int) -> Sequence[Entry]:
        """A verifying key never gets more time than it had; one that never signed needs none."""
        if entry.state == SIGNING:
            raise Faults([f"{entry.kid} signs; 'keys add' replaces it, or retire it --now"])
        if entry.state == WAITING:
            return _without(entries, [entry.kid])
        ended = replace(entry, until=min(entry.until, now + self._longest_life_seconds()))
        return [ended if one.kid == entry.kid else one for one in entries]

    def _given_key(self) -> Key | None:
        """SECRET_KEY as a key: always for HMAC, else where it is PEM."""
        if self._algorithm.startswith("HS") or self._given.startswith(keys.PEM):
            return keys.read_key(self._algorithm, self._given)
        return None

    def _signature(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise StoreUnavailable(f"key file: {self._path}: {error.strerror}") from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _changing(self) -> Iterator["_Change"]:
        """One change at a time, over all processes."""
        lock = self._path.with_name(f".{self._path.name}.lock")
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"key file: {lock}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield _Change(self._read_or_begin(), self._write)
        finally:
            os.close(handle)

    def _read_or_begin(self) -> KeyList:
        if not self._path.exists():
            return KeyList(secrets.token_hex(8), 0, ())
        return self.read()

    def _write(self, changed: KeyList) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(changed), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            raise StoreUnavailable(f"key file: {self._path}: {error.strerror}") from error


class _Change:
    """The list within a lock, and the way to replace it."""

    def __init__(self, known: KeyList, write: Callable[[KeyList], None]) -> None:
        self.list = known
        self._write = write

    def to(self, entries: Sequence[Entry], configured: str | None = None) -> None:
        """Write another list."""
        changed = replace(
            self.list,
            serial=self.list.serial + 1,
            entries=tuple(entries),
            configured=self.list.configured if configured is None else configured,
        )
        self._write(changed)


def _parse(text: str) -> KeyList:
    table = json.loads(text)
    entries = tuple(Entry(**entry) for entry in table["entries"])
    return KeyList(
        str(table["history"]), int(table["serial"]), entries, str(table.get("configured", ""))
    )


def _entry(key: Key, state: str, now: int) -> Entry:
    secret = base64.b64encode(keys.stored_form(key)).decode()
    return Entry(key.kid, key.algorithm, state, added_at=now, secret=secret)


def _without(entries: Sequence[Entry], kids: Sequence[str]) -> list[Entry]:
    return [
        replace(entry, state=GONE, secret="") if entry.kid in kids else entry for entry in entries
    ]


def _replaced(known: KeyList, key: Key, now: int) -> list[Entry]:
    """This key alone: the operator has changed the key or the algorithm by hand."""
    return [
        *_without(known.entries, [entry.kid for entry in known.in_force()]),
        _entry(key, SIGNING, now),
    ]


def _succeeded(entries: Sequence[Entry], made: Entry) -> list[Entry]:
    """The key that waits already signs now: the gateways may have it. Else the one just made."""
    waiting = [entry.kid for entry in entries if entry.state == WAITING]
    if not waiting:
        return [*entries, made]
    return [replace(one, state=SIGNING) if one.kid in waiting else one for one in entries]


def _promoted(entries: Sequence[Entry], kid: str, until: int) -> list[Entry]:
    def after(entry: Entry) -> Entry:
        if entry.kid == kid:
            return replace(entry, state=SIGNING)
        return replace(entry, state=VERIFYING, until=until) if entry.state == SIGNING else entry

    return [after(entry) for entry in entries]
