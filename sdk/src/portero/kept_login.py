"""What the command keeps between its runs, in files that their owner alone may read: who logs in
where, and a token that all processes share.

A lock makes one login of many processes that start at once. A secret is never kept, only the path
of a file that holds one; and what is kept goes to no other origin than it was kept for. POSIX
alone: the locks are `flock`'s.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from portero.configuration import SECRET_FILE, VARIABLES, normal_url, origin, url_faults
from portero.errors import ConfigurationError
from portero.hidden import Hidden
from portero.token_state import RENEWAL_PART

#: How far two clocks may have drifted apart before an age counts as unknown: the machine was
#: suspended, started anew, or set.
DRIFT_SECONDS = 5.0
#: A token that was good so short a time ago is not asked about again.
CHECKED_SECONDS = 10.0

#: The variables that say who logs in. Who sets one of them means nobody else's.
CREDENTIALS = (
    SECRET_FILE,
    *VARIABLES["username"],
    *VARIABLES["secret"],
    *VARIABLES["api_key"],
)

T = TypeVar("T", "KeptLogin", "KeptToken")


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where the files lie (XDG Base Directory).

    >>> state_folder({"XDG_STATE_HOME": "/home/you/state"})
    PosixPath('/home/you/state/portero')
    """
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~"), ".local", "state")
    return Path(base).expanduser() / "portero"


@dataclass(frozen=True)
class KeptLogin:
    """Who logs in where; `api_key` in place of a secret, `secret_file` a path."""

    url: str = ""
    username: str = ""
    login: str = ""
    secret_file: str = ""
    ca_bundle: str = ""
    api_key: Hidden = field(default=Hidden(), repr=False)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment, and what it leaves open: all of a login, or none of its credentials.

        Raises `ConfigurationError` where it names another origin, and nobody who logs in there.
        """
        told = {name: value for name, value in environ.items() if value}
        has_credentials = any(name in told for name in CREDENTIALS)
        name = next((name for name in VARIABLES["url"] if name in told), None)
        if name is not None and not self.is_for(told[name]):
            if self.url and not has_credentials:
                raise ConfigurationError(self._elsewhere(name, told[name]))
            return told
        kept = {"PORTERO_CA_BUNDLE": self.ca_bundle}
        if name is None:
            kept["PORTERO_URL"] = self.url
        if not has_credentials:
            kept["PORTERO_USERNAME"] = self.username
            kept[SECRET_FILE] = self.secret_file
            kept["PORTERO_API_KEY"] = self.api_key
        return {**{name: value for name, value in kept.items() if value}, **told}

    def is_for(self, url: str) -> bool:
        """Whether a URL is of the origin that this was kept for.

        >>> KeptLogin("https://door.lan").is_for("https://door.lan/v1")
        True
        """
        if not self.url or url_faults(url) or url_faults(self.url):
            return False
        return origin(normal_url(url)) == origin(normal_url(self.url))

    def _elsewhere(self, name: str, url: str) -> str:
        faults = url_faults(url)
        if faults:
            return f"{name}: {faults[0]}"
        return (
            f"{name} names {normal_url(url)}, and the login that is kept is for {self.url}: run "
            f"`portero login --url {normal_url(url)}`, or unset {name}, or set who logs in there: "
            "PORTERO_USERNAME and PORTERO_SECRET, or PORTERO_API_KEY"
        )


@dataclass(frozen=True)
class KeptToken:
    """A token and its age, by both clocks: one that others may set, one that stops in a sleep."""

    token: Hidden = field(repr=False)
    role: str
    life_seconds: float
    begun: float
    begun_at: float
    checked_at: float

    @classmethod
    def new(cls, token: str, role: str, life_seconds: float) -> "KeptToken":
        """One that was just fetched."""
        now = time.time()
        return cls(Hidden(token), role, life_seconds, time.monotonic(), now, now)

    @property
    def seconds_left(self) -> float:
        """How long it lives; 0 where that is not sure."""
        age, age_too = time.monotonic() - self.begun, time.time() - self.begun_at
        if abs(age - age_too) > DRIFT_SECONDS or age < 0:
            return 0.0
        return max(0.0, self.life_seconds - age)

    @property
    def is_young(self) -> bool:
        """Whether it need not be renewed yet."""
        return self.seconds_left > (1 - RENEWAL_PART) * self.life_seconds

    @property
    def was_just_good(self) -> bool:
        """Whether the gateway need not be asked about it."""
        return abs(time.time() - self.checked_at) < CHECKED_SECONDS

    def checked(self) -> "KeptToken":
        """The same, found good now."""
        return replace(self, checked_at=time.time())


class Store:
    """The files.

    >>> Store(state_folder({"HOME": "/home/you"})).login()
    KeptLogin(url='', username='', login='', secret_file='', ca_bundle='')
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def login(self) -> KeptLogin:
        """What is kept; an empty one where nothing is."""
        return _made(KeptLogin, self._read("login")) or KeptLogin()

    def keep_login(self, login: KeptLogin) -> None:
        """Keep this in place of what was."""
        self._write("login", asdict(login))

    def forget_login(self) -> None:
        """Keep none."""
        self._path("login").unlink(missing_ok=True)

    @contextmanager
    def token(self, url: str, username: str) -> Iterator["TokenFile"]:
        """The token of one user, for one process at a time."""
        name = hashlib.sha256(f"{url}\0{username}".encode()).hexdigest()[:16]
        with self._usable():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield TokenFile(self, name)
        finally:
            os.close(lock)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Raises `ConfigurationError` where the files are not ours to read and write."""
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder} cannot be used ({error.strerror}): set XDG_STATE_HOME to a folder "
                "that may be written to"
            ) from None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any]:
        """What a file holds; nothing where it is not there, or is no more what we wrote."""
        with self._usable(), suppress(FileNotFoundError, ValueError, RecursionError):
            content = json.loads(self._path(name).read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        return {}

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Whole or not at all, and never readable for others."""
        with self._usable():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, path = tempfile.mkstemp(dir=self._folder)  # of mode 0600
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(path, self._path(name))


class TokenFile:
    """One user's token, while its lock is held."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name

    def read(self) -> KeptToken | None:
        """What is kept, alive or not."""
        return _made(KeptToken, self._store._read(self._name))

    def write(self, token: KeptToken) -> None:
        """Keep this one."""
        self._store._write(self._name, asdict(token))

    def forget(self) -> None:
        """Keep none."""
        self._store._path(self._name).unlink(missing_ok=True)


def _made(kind: type[T], content: Mapping[str, Any]) -> T | None:
    """Of a file's content; None where it is of another form."""
    values: dict[str, Any] = {}
    for one in fields(kind):
        value = content.get(one.name)
        if type(value) not in ((int, float) if one.type is float else (str,)):
            return None
        values[one.name] = Hidden(value) if one.type is Hidden else value
    return kind(**values) if len(values) == len(content) else None
