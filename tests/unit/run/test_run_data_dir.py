"""DATA_DIR: whose it is, and what a killed supervisor left in it."""

import os
from pathlib import Path

import pytest

from run.commands import RunError
from run.data_dir import data_dir_in_use, open_lock, runtime_directory, runtime_link


def test_a_second_stack_on_one_data_dir_is_told_who_has_it(tmp_path: Path) -> None:
    second = data_dir_in_use(tmp_path)
    with data_dir_in_use(tmp_path), pytest.raises(RunError, match=str(os.getpid())):
        second.__enter__()


def test_data_dir_can_be_had_again_after_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RunError), data_dir_in_use(tmp_path):
        raise RunError("over")
    with data_dir_in_use(tmp_path):
        assert (tmp_path / "run" / "lock").read_text() == f"{os.getpid()}\n"


def test_pid_files_of_a_killed_supervisor_go(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "llm.pid").write_text("1\n")
    with data_dir_in_use(tmp_path):
        assert not (tmp_path / "run" / "llm.pid").exists()


def test_the_runtime_directory_of_a_killed_supervisor_goes(tmp_path: Path) -> None:
    data_dir, left = tmp_path / "data", tmp_path / "portero-left"
    (left / "tmp").mkdir(parents=True)
    (data_dir / "run").mkdir(parents=True)
    runtime_link(data_dir).symlink_to(left)
    with data_dir_in_use(data_dir):
        assert not left.exists()


def test_the_runtime_directory_lets_the_workers_in_and_goes_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with runtime_directory(tmp_path) as path:
        assert Path(path).stat().st_mode & 0o777 == 0o711
    assert not Path(path).exists()
    assert not runtime_link(tmp_path).is_symlink()


def test_a_new_data_dir_is_closed_to_others(tmp_path: Path) -> None:
    with data_dir_in_use(tmp_path / "new"):
        assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_data_dir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        open_lock(tmp_path / "file" / "data")
