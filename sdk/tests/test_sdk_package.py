"""The wheel: what is in it, and that it works in an empty virtual environment of each Python that
is here.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parents[1]
VERSIONS = [f"3.{minor}" for minor in range(10, 15)]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
SHOWN = "import portero; print(portero.__version__, portero.TokenSource.__doc__[:7])"


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pythons() -> dict[str, str]:
    """Version -> program: the oldest, our own and the newest that are here."""
    own = "{}.{}".format(*sys.version_info)
    homes = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*"))
    found = {own: sys.executable}
    for version in VERSIONS:
        name = f"python{version}"
        kept = [str(home / "bin" / name) for home in homes if (home / "bin" / name).exists()]
        program = next(iter(kept), shutil.which(name))
        if program and "shims" not in program:
            found.setdefault(version, program)
    wanted = {own, *sorted(found, key=VERSIONS.index)[:: max(1, len(found) - 1)]}
    return {version: found[version] for version in wanted}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, SDK)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_no_test(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    ours = {path.name for path in (SDK / "src" / "portero").iterdir() if path.is_file()}
    packed = {Path(name).name for name in names if name.startswith("portero/")}
    assert packed == ours
    assert "py.typed" in packed
    assert not [name for name in names if "test" in name or "example" in name]


def test_the_wheel_needs_one_http_library(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("METADATA")]
        lines = opened.read(name).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:")]
    assert [line for line in needed if "extra ==" not in line] == ["Requires-Dist: httpx2>=2.0,<3"]
    assert "Requires-Python: >=3.10" in lines


@pytest.mark.parametrize("version", pythons())
def test_it_installs_into_an_empty_environment(wheel: Path, tmp_path: Path, version: str) -> None:
    run(pythons()[version], "-m", "venv", "--without-pip", tmp_path)
    python = tmp_path / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-compile", wheel)
    assert run(python, "-W", "error", "-c", SHOWN).split() == ["0.1.0", "Logs", "in"]
