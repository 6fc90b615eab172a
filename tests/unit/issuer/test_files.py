"""Files that are replaced whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from issuer import files


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.replace(tmp_path / "new", b"content")
    finally:
        os.umask(before)
    assert ((tmp_path / "new").read_bytes(), mode_of(tmp_path / "new")) == (b"content", 0o600)


def test_a_file_that_is_replaced_keeps_the_mode_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)
    files.replace(path, b"after", path.stat())
    assert (path.read_bytes(), mode_of(path)) == (b"after", 0o640)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
