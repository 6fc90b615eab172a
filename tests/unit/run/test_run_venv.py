"""When the virtual environment is filled, and when it is made anew. Nothing is installed."""

from pathlib import Path

import pytest

from run import set_up as venv_module
from run.commands import RunError, Stop


@pytest.fixture
def venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A checkout with an empty `.venv`; what would be installed is noted."""
    done: list[str] = []
    (tmp_path / ".venv").mkdir()
    (tmp_path / "a.txt").write_text("flask==1\n")
    monkeypatch.setattr(venv_module, "ROOT", tmp_path)
    monkeypatch.setattr(venv_module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(venv_module, "STAMP", tmp_path / ".venv" / "portero.json")
    monkeypatch.setattr(venv_module, "venv_python", lambda: "3.13.0")
    monkeypatch.setattr(venv_module, "make_venv", lambda: done.append("venv"))
    monkeypatch.setattr(venv_module, "pip_install", done.append)
    return done


def test_a_second_start_installs_nothing(venv: list[str]) -> None:
    venv_module.ensure_venv(["a.txt"])
    venv_module.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"]


def test_changed_requirements_are_installed_into_the_same_venv(venv: list[str]) -> None:
    venv_module.ensure_venv(["a.txt"])
    (venv_module.VENV.parent / "a.txt").write_text("flask==2\n")
    venv_module.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt", "a.txt"]


def test_another_python_makes_the_venv_anew(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv_module.ensure_venv(["a.txt"])
    monkeypatch.setattr(venv_module, "venv_python", lambda: "3.14.0")
    venv_module.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"] * 2


def test_an_interrupted_installation_makes_the_venv_anew(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(venv_module, "pip_install", interrupted)
        with pytest.raises(Stop):
            venv_module.ensure_venv(["a.txt"])
    venv_module.ensure_venv(["a.txt"])
    assert venv == ["venv", "venv", "a.txt"]


def test_a_failed_installation_keeps_the_venv(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(name: str) -> None:
        raise RunError(name)

    with monkeypatch.context() as patched:
        patched.setattr(venv_module, "pip_install", failed)
        with pytest.raises(RunError):
            venv_module.ensure_venv(["a.txt"])
    venv_module.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"]


def test_a_venv_behind_a_link_is_never_emptied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    (tmp_path / ".venv").symlink_to(theirs)
    monkeypatch.setattr(venv_module, "VENV", tmp_path / ".venv")
    with pytest.raises(RunError, match=f"is a link to {theirs}"):
        venv_module.make_venv()
    assert (theirs / "kept").exists()
