"""Files that are replaced whole or not at all: whoever reads one meanwhile sees the content before
or the one after. It must never leave a half-written file behind, nor one that others can read
sooner than they may.
"""

import os
import stat
from pathlib import Path

PRIVATE = 0o600


def replace(path: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Put this content in a file's place: private, or with the mode and owner of `like`.

    Durable when it returns. Raises `OSError`, and then the file is what it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                _resemble(file.fileno(), like)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _resemble(descriptor: int, like: os.stat_result) -> None:
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
