"""Files that are replaced whole or not at all: whoever reads one meanwhile sees the content before
or the one after. It must never leave a half-written file behind, nor one that others can read
sooner than they may.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process and thread at a time, from reading a file to replacing it. Raises `OSError`.

    The lock is on the folder: the file itself is another one after each change.
    """
    handle = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Put this content in a file's place: private, or with the mode and owner of `like`.

    Durable when it returns. Raises `OSError`, and then the file is what it was.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                _resemble(file.fileno(), like)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _resemble(descriptor: int, like: os.stat_result) -> None:
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
