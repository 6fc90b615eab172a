"""The key file beside the session store, or its like in a shared database: the list of keys, oldest
to newest, and its changes.

A key is *waiting* until every gateway has acknowledged it, then *signing*, then *verifying* until
the last token it signed has ended, then gone. The file has mode 0600, changes are whole or not at
all and under a lock, and every process reads it again when it has changed. It must never be
printed, and a `kid` that is gone never comes back.
"""

import base64
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from issuer import files, keys
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

    def waiting(self) -> list[str]:
        """The `kid` of the key that signs next, if there is one."""
        return _in_state(self.entries, WAITING)

    def over(self, now: int) -> list[str]:
        """The `kid` of each key whose last token has ended."""
        return [one.kid for one in self.entries if one.state == VERIFYING and one.until <= now]

    def keyring(self) -> Keyring:
        """The keys in force, for minting and verifying."""
        signing = _in_state(self.entries, SIGNING)
        return Keyring([entry.key() for entry in self.in_force()], *signing[-1:])


class Place(Protocol):
    """Where the list is kept: a file, or a database that several machines share. Its text is whole
    or not there. Raises `OSError` or `StoreUnavailable`.
    """

    def signature(self) -> object:
        """What changes whenever the text does."""

    def read(self) -> str | None:
        """The text; None where there is none yet."""

    def changing(self) -> AbstractContextManager[None]:
        """One process and thread at a time, from reading to replacing."""

    def replace(self, content: bytes) -> None:
        """Another text in its place, durable once `changing` has ended."""


class PrivateFile:
    """A file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def signature(self) -> object:
        """See `Place.signature`."""
        found = os.stat(self._path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> str | None:
        """See `Place.read`."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def changing(self) -> AbstractContextManager[None]:
        """See `Place.changing`."""
        return files.locked(self._path)

    def replace(self, content: bytes) -> None:
        """See `Place.replace`."""
        files.replace(self._path, content)


class KeyFile:
    """The list, watched: `keyring` is what its place last said."""

    def __init__(
        self,
        place: Place | Path,
        algorithm: str,
        given: bytes,
        longest_life_seconds: Callable[[], int],
    ) -> None:
        self._place: Place = PrivateFile(place) if isinstance(place, Path) else place
        self._algorithm = algorithm
        self._given = given
        self._longest_life_seconds = longest_life_seconds
        self._lock = threading.Lock()
        self._seen: object = None
        self._keyring: Keyring | None = None

    def prepare(self, now: int) -> str | None:
        """See that there is a key that signs, and that it is the one the settings ask for. Answers
        which one is new.

        The first one is the given SECRET_KEY, where that is a key of the algorithm; else it is
        made. Settings that were changed since replace the keys before, at once; a key that was
        ever in the list does not come back so. Raises `Faults`.
        """
        given = self._given_key()
        configured = f"{self._algorithm}:{given.kid if given else ''}"
        with self._changing() as known:
            signs = _in_state(known.entries, SIGNING)
            if signs and known.configured == configured:
                return None
            is_new = given is not None and known.find(given.kid) is None
            if not is_new and signs and known.configured.startswith(f"{self._algorithm}:"):
                self._put(known, known.entries, configured)
                return None
            key = given if given is not None and is_new else keys.new_key(self._algorithm)
            self._put(known, _replaced(known, key, now), configured)
            return key.kid

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
        known = self._known()
        if known is None:
            raise StoreUnavailable(f"key file: {self._place} is not there yet")
        return known

    def _known(self) -> KeyList | None:
        """The list; None where there is none yet."""
        try:
            text = self._place.read()
            if text is None:
                return None
            known = _parse(text)
            known.keyring()
        except (OSError, ValueError, LookupError, TypeError, Faults) as error:
            raise StoreUnavailable(f"key file: {self._place}: {type(error).__name__}") from None
        return known

    def add(self, algorithm: str | None, now: int) -> Entry:
        """A new key that waits for the gateways. Raises `Faults` while another one waits."""
        with self._changing() as known:
            if known.waiting():
                raise Faults(["a new key is waiting for the gateways already"])
            entry = _entry(keys.new_key(algorithm or self._algorithm), WAITING, now)
            self._put(known, [*known.entries, entry])
            return entry

    def promote(self, kid: str, now: int) -> None:
        """The waiting key signs from now on; the one before verifies what it has signed."""
        until = now + self._longest_life_seconds()
        with self._changing() as known:
            found = known.find(kid)
            if found is not None and found.state == WAITING:
                self._put(known, _promoted(known.entries, kid, until))

    def expire(self, now: int) -> bool:
        """Drop keys whose last token has ended; answers whether there were any."""
        with self._changing() as known:
            over = known.over(now)
            if over:
                self._put(known, _without(known.entries, over))
            return bool(over)

    def retire(self, kid: str, at_once: bool, now: int) -> None:
        """End a key: after the longest TTL, or at once. A signing key is replaced first.

        Raises `Faults` for an unknown key, or for a signing one that shall go in its time.
        """
        with self._changing() as known:
            entry = known.find(kid)
            if entry is None or entry.state == GONE:
                raise Faults([f"{kid} is no key in force"])
            if not at_once:
                self._put(known, self._retiring(known.entries, entry, now))
                return
            entries = _without(known.entries, [kid])
            if entry.state == SIGNING:
                entries = _succeeded(entries, _entry(keys.new_key(entry.algorithm), SIGNING, now))
            self._put(known, entries)

    def _retiring(self, entries: Sequence[Entry], entry: Entry, now: int) -> Sequence[Entry]:
        """A verifying key never gets more time than it had; one that never signed needs none."""
        if entry.state == SIGNING:
            raise Faults([f"{entry.kid} signs; 'signing-keys add' replaces it, or retire it --now"])
        if entry.state == WAITING:
            return _without(entries, [entry.kid])
        until = min(entry.until, now + self._longest_life_seconds())
        return _changed(entries, [entry.kid], until=until)

    def _given_key(self) -> Key | None:
        """SECRET_KEY as a key: always for HMAC, else where it is PEM."""
        if self._algorithm.startswith("HS") or self._given.startswith(keys.PEM):
            return keys.read_key(self._algorithm, self._given)
        return None

    def _signature(self) -> object:
        try:
            return self._place.signature()
        except OSError as error:
            raise StoreUnavailable(f"key file: {self._place}: {error.strerror}") from error

    @contextmanager
    def _changing(self) -> Iterator[KeyList]:
        """The list; one change of it at a time, over all processes."""
        try:
            with self._place.changing():
                yield self._known() or KeyList(secrets.token_hex(8), 0, ())
        except OSError as error:
            raise StoreUnavailable(f"key file: {self._place}: {error.strerror}") from error

    def _put(self, known: KeyList, entries: Sequence[Entry], configured: str | None = None) -> None:
        """Other keys in the place of those that are known."""
        changed = replace(
            known,
            serial=known.serial + 1,
            entries=tuple(entries),
            configured=known.configured if configured is None else configured,
        )
        self._place.replace(json.dumps(asdict(changed), indent=1).encode())


def _parse(text: str) -> KeyList:
    table = json.loads(text)
    entries = tuple(Entry(**entry) for entry in table["entries"])
    return KeyList(
        str(table["history"]), int(table["serial"]), entries, str(table.get("configured", ""))
    )


def _entry(key: Key, state: str, now: int) -> Entry:
    secret = base64.b64encode(keys.stored_form(key)).decode()
    return Entry(key.kid, key.algorithm, state, added_at=now, secret=secret)


def _changed(entries: Sequence[Entry], kids: Sequence[str], **values: Any) -> list[Entry]:
    return [replace(entry, **values) if entry.kid in kids else entry for entry in entries]


def _without(entries: Sequence[Entry], kids: Sequence[str]) -> list[Entry]:
    return _changed(entries, kids, state=GONE, secret="")


def _in_state(entries: Sequence[Entry], state: str) -> list[str]:
    return [entry.kid for entry in entries if entry.state == state]


def _replaced(known: KeyList, key: Key, now: int) -> list[Entry]:
    """This key alone: the operator has changed the key or the algorithm by hand."""
    gone = _without(known.entries, [entry.kid for entry in known.in_force()])
    return [*gone, _entry(key, SIGNING, now)]


def _succeeded(entries: Sequence[Entry], made: Entry) -> list[Entry]:
    """The key that waits already signs now: the gateways may have it. Else the one just made."""
    waiting = _in_state(entries, WAITING)
    return _changed(entries, waiting, state=SIGNING) if waiting else [*entries, made]


def _promoted(entries: Sequence[Entry], kid: str, until: int) -> list[Entry]:
    before = _in_state(entries, SIGNING)
    return _changed(_changed(entries, before, state=VERIFYING, until=until), [kid], state=SIGNING)
