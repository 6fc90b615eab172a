"""DATA_DIR: one stack at a time, and nothing of a killed one left in the next one's way.

It owns DATA_DIR/run, and a directory for the time of a run that lies outside.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from run.commands import RunError, say


@contextmanager
def data_dir_in_use(data_dir: Path) -> Iterator[None]:
    """One stack for one DATA_DIR. The lock goes with this process, however it ends."""
    handle = open_lock(data_dir)
    try:
        if not try_lock(handle):
            raise RunError(
                f"a stack runs on {data_dir} already (process {pid_in(handle) or 'unknown'}); "
                "stop it, or choose another DATA_DIR and other ports"
            )
        remove_leftovers(data_dir)
        # For whoever finds it taken.
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def supervisor_of(data_dir: Path) -> str | None:
    """The process id of whoever runs a stack on it; None where nobody does."""
    try:
        handle = os.open(data_dir / "run" / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"DATA_DIR {data_dir} cannot be read: {error.strerror}") from None
    try:
        # Free and without a process id most often: a start meanwhile shall not find it taken.
        process = pid_in(handle)
        return process if process.isdigit() and not try_lock(handle) else None
    finally:
        os.close(handle)


def remove_leftovers(data_dir: Path) -> None:
    """Of a stack whose supervisor was killed: the lock was free, so they are nobody else's."""
    for path in (data_dir / "run").glob("*.pid"):
        path.unlink(missing_ok=True)
    link = runtime_link(data_dir)
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def pid_in(handle: int) -> str:
    """The process id in the lock file; empty when there is none."""
    return os.pread(handle, 20, 0).decode(errors="replace").strip()


def open_lock(data_dir: Path) -> int:
    """The lock file, in a DATA_DIR made for it where there is none."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("run", "log"):
            (data_dir / name).mkdir(mode=0o700, exist_ok=True)
        return os.open(data_dir / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(f"DATA_DIR {data_dir} cannot be written: {error.strerror}") from error


def runtime_link(data_dir: Path) -> Path:
    """What names the runtime directory to the next start."""
    return data_dir / "run" / "runtime"


@contextmanager
def runtime_directory(data_dir: Path) -> Iterator[str]:
    """Outside DATA_DIR: the gateway's workers are nobody, and must get in. What the other parts
    make for the time they run goes into its `tmp`, and with it.
    """
    path = Path(tempfile.mkdtemp(prefix="portero-"))
    try:
        runtime_link(data_dir).symlink_to(path)  # so that the next start finds it if we are killed
        path.chmod(0o711)
        (path / "tmp").mkdir(mode=0o700)
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        runtime_link(data_dir).unlink(missing_ok=True)


# --- locks that go with the process that has them ------------------------------------------------


@contextmanager
def locked(folder: Path, while_waiting: str) -> Iterator[None]:
    """One at a time. The lock is on the folder itself, so that no file is left behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            say(while_waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked_at_once(folder: Path) -> Iterator[bool]:
    """Whether we have the same lock now; nobody waits."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Whether we have the lock now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
