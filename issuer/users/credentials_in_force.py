"""The credentials in force: what the file last said without a fault, judged by the roles in force.

A faulty text is refused whole and told; what was in force stays. Every good text is also kept in a
directory that the processes of a listener share, so that one that begins while the file is faulty
begins with what the others have in force. Reading, judging and keeping are under one lock over all
processes, so an older text, which may name a user who was removed since, is never kept after a
newer one. It must never log a part of a text.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from issuer import files
from issuer.errors import Faults
from issuer.policy.roles import Roles
from issuer.users import credentials, credentials_file
from issuer.users.credentials import Credentials

log = logging.getLogger("portero.credentials")


#: A file's time of change is as fine as the kernel's tick: one that changed less than this ago may
#: change once more and look the same.
SETTLED_NANOSECONDS = 100_000_000


class FileState(NamedTuple):
    """What the file system says of a file. No program can set the time of change."""

    device: int
    inode: int
    size: int
    written_at: int
    changed_at: int


def _state(path: Path) -> FileState | None:
    """The state of the file itself, whatever links lead to it; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileState(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


class LastGood:
    """The last good text, private, in a directory that someone else makes and removes. Without one
    nothing is kept.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / "credentials" if directory else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, from reading the file to keeping its text."""
        with ExitStack() as held:
            try:
                if self._path:
                    held.enter_context(files.locked(self._path))
            except OSError as error:
                log.error("cannot lock the last good credentials: %s", error.strerror)
            yield

    def text(self) -> str | None:
        """What was kept, or None."""
        try:
            return self._path.read_bytes().decode() if self._path else None
        except OSError:
            return None

    def keep(self, text: str) -> None:
        """Put this text in the place of the one before, which goes first: no text at all is safer
        than one that may name a user who was removed since.
        """
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
            files.replace(self._path, text.encode())
        except OSError as error:
            log.error("cannot keep the last good credentials: %s", error.strerror)


class CredentialsInForce:
    """The file, watched; safe for threads.

    Raises `Faults` when made from a faulty file, unless a last good text is kept; afterwards faults
    are only logged. What was good once stays so where a role has gone since: its users have no way
    in anyway.
    """

    def __init__(
        self,
        path: Path,
        roles: Callable[[], Roles],
        salt: bytes,
        directory: Path | None = None,
    ) -> None:
        self._path = path
        self._roles = roles
        self._salt = salt
        self._last_good = LastGood(directory)
        self._lock = threading.Lock()
        #: What the last look found, if no change of the file can hide behind its state.
        self._settled: tuple[FileState, Roles, Credentials] | None = None
        #: Is told what was in force and what is, before anyone goes by it.
        self.when_changed: Callable[[Credentials, Credentials], None] = lambda before, now: None
        self._in_force = self._begin()

    def in_force(self, roles: Roles | None = None) -> Credentials:
        """What is in force, judged anew if file or roles are others than at the last call.

        Whoever has just asked for the roles passes them in.
        """
        settled, roles = self._settled, roles or self._roles()
        if settled and settled[0] == _state(self._path) and settled[1] is roles:
            return settled[2]
        with self._lock:
            self._look_again()
            return self._in_force

    def look(self) -> None:
        """Read the file, whatever its state says: a file system may tell less than it should."""
        with self._lock:
            self._look_again()

    def _look_again(self) -> None:
        state = _state(self._path)
        if self._look() != self._judged:
            self._settled = None
            self._judge_again()
        elif state is not None and time.time_ns() - state.changed_at > SETTLED_NANOSECONDS:
            self._settled = state, self._judged[1], self._in_force

    def _begin(self) -> Credentials:
        with self._last_good.locked():
            self._judged = self._look()
            try:
                return self._judge(*self._judged)
            except Faults as found:
                text = self._last_good.text()
                if text is None:
                    raise
                found.tell(log)
                return credentials.parse(text, None, self._salt, lambda _: None)

    def _judge_again(self) -> None:
        with self._last_good.locked():
            state = self._look()
            if self._look() != state:  # it is being written
                return
            self._judged = state
            try:
                now = self._judge(*state)
            except Faults as found:
                found.tell(log)
                return
        self.when_changed(self._in_force, now)
        self._in_force = now
        log.warning("credentials: read again, and in force")

    def _judge(self, text: str | Faults, roles: Roles) -> Credentials:
        if isinstance(text, Faults):
            raise text
        found = credentials.parse(text, roles, self._salt)
        self._last_good.keep(text)
        return found

    def _look(self) -> tuple[str | Faults, Roles]:
        """All that decides what is in force."""
        try:
            return credentials_file.read(self._path), self._roles()
        except Faults as found:
            return found, self._roles()
