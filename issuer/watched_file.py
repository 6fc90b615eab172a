"""A file that is watched: in force is what it last said without a fault.

A faulty text is refused whole and told; what was in force stays. Every good text is also kept in a
directory that the processes of a listener share, so that one that begins while the file is faulty
begins with what the others have in force. It must never log a part of a text.

Races. A file that changes while it is read is not judged: the next look reads it again. One that
changed within the last second is read again although it looks the same, for one tick of the clock
may hold two changes of one size. Reading, judging and keeping are under one lock over all
processes, so an older text is never kept after a newer one.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from issuer.errors import Faults, PorteroError

T = TypeVar("T")

log = logging.getLogger("portero.watched")

#: How often a process looks by itself, and how long a change counts as fresh.
PERIOD_SECONDS = 0.2
FRESH_NANOSECONDS = 10**9


@dataclass(frozen=True)
class _Look:
    """What tells one state of the file, and of what it is judged by, from another."""

    file: tuple[int, ...] | None
    beside: object
    fresh: bool = field(compare=False)


class LastGood:
    """The last good text of one file, mode 0600 in a directory that someone else makes and removes.

    Without a directory nothing is kept.
    """

    def __init__(self, directory: Path | None, name: str) -> None:
        self._path = directory / name if directory else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, from reading the file to keeping its text."""
        if self._path is None:
            yield
            return
        try:
            handle = os.open(
                self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            log.error("cannot lock the last good %s: %s", self._path.name, error.strerror)
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def text(self) -> str | None:
        """What was kept, or None."""
        try:
            return self._path.read_bytes().decode("utf-8") if self._path else None
        except OSError:
            return None

    def keep(self, text: str) -> None:
        """Put this text in the place of the one before, whole or not at all."""
        if self._path is None:
            return
        temporary = self._path.with_suffix(".new")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self._path)
        except OSError as error:
            log.error("cannot keep the last good %s: %s", self._path.name, error.strerror)
            _remove(temporary, self._path)


def _remove(*paths: Path) -> None:
    """No text at all is safer than one that may name a user who was removed since."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.error("cannot remove %s: %s", path, error.strerror)


class Watched(Generic[T]):
    """The file, watched; safe for threads.

    `parse` judges a text, and raises `Faults`. `again` reads one that was judged before, by default
    the same. What `beside` answers, a text is judged by as well: another answer, another judgement.
    Raises `Faults` when made from a faulty file, unless a last good text is kept; afterwards faults
    are only logged.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        parse: Callable[[str], T],
        *,
        directory: Path | None = None,
        again: Callable[[str], T] | None = None,
        beside: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = path
        self._name = name
        self._parse = parse
        self._again = again or parse
        self._beside = beside
        self._last_good = LastGood(directory, name)
        self._lock = threading.Lock()
        self._in_force = self._begin()

    def in_force(self) -> T:
        """What is in force, read again if the file changed since the last call."""
        with self._lock:
            look = self._look()
            if look != self._seen or self._seen.fresh:
                self._read_again(look)
            return self._in_force

    def _begin(self) -> T:
        with self._last_good.locked():
            self._seen = self._look()
            self._content = self._read()
            try:
                return self._judged()
            except Faults as found:
                text = self._last_good.text()
                if text is None:
                    raise
                self._tell(found)
                return self._again(text)

    def _read_again(self, look: _Look) -> None:
        with self._last_good.locked():
            content = self._read()
            if self._look() != look:
                return
            is_same = content == self._content and look.beside is self._seen.beside
            self._seen, self._content = look, content
            if is_same:
                return
            try:
                self._in_force = self._judged()
            except Faults as found:
                self._tell(found)
                return
        log.warning("%s: read again, and in force", self._name)

    def _judged(self) -> T:
        text = self._text()
        value = self._parse(text)
        self._last_good.keep(text)
        return value

    def _tell(self, found: Faults) -> None:
        for fault in found.faults:
            log.error("%s; the former version stays in force", fault)

    def _read(self) -> bytes | str:
        """The file's bytes, or why there are none."""
        try:
            return self._path.read_bytes()
        except OSError as error:
            return error.strerror or type(error).__name__

    def _text(self) -> str:
        try:
            if isinstance(self._content, bytes):
                return self._content.decode("utf-8").replace("\r\n", "\n")
            reason = self._content
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            reason = f"it is not UTF-8 (line {line}); save it as UTF-8"
        raise Faults([f"{self._name}: cannot read {self._path}: {reason}"])

    def _look(self) -> _Look:
        beside = self._beside()
        try:
            found = os.stat(self._path)
        except OSError:
            return _Look(None, beside, fresh=False)
        state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return _Look(state, beside, fresh=time.time_ns() - found.st_ctime_ns < FRESH_NANOSECONDS)


def keep_looking(looks: Sequence[Callable[[], object]], stop: threading.Event) -> threading.Thread:
    """Look at files in a thread of its own: a change counts soon, also where nobody asks."""

    def look() -> None:
        while not stop.wait(PERIOD_SECONDS):
            for one in looks:
                try:
                    one()
                except PorteroError as error:
                    log.error("%s; trying again", error)
                except Exception:
                    log.exception("unexpected; trying again")

    thread = threading.Thread(target=look, name="watched", daemon=True)
    thread.start()
    return thread
