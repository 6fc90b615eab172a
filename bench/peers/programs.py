"""The peers' programs, from the packages that `versions.toml` names, in the git-ignored
`.cache/peers`: a folder for each version, filled once, outside of the network that they run in.

npm's scripts do not run, nor is anything started here. What cannot be had is `AbsentError`, in
words of ours that name the package: a client's own words go to the terminal, with its addresses.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from run.commands import ROOT
from run.data_dir import locked
from run.plan import search_path

HERE = Path(__file__).parent
CACHE = ROOT / ".cache" / "peers"
INSTALL_SECONDS = 600
NPM_CI = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
MINOR = "python{}.{}".format(*sys.version_info[:2])


class AbsentError(Exception):
    """A peer is not here; the text is why."""


@dataclass(frozen=True)
class Program:
    """A peer that can be started: its name, its version, and how its command line begins."""

    name: str
    version: str
    command: tuple[str, ...]


@cache
def listed() -> dict[str, dict[str, Any]]:
    """What `versions.toml` says, by peer."""
    return tomllib.loads((HERE / "versions.toml").read_text())


def program(peer: str) -> Program:
    """A peer's program, installed where it is not yet. Raises `AbsentError`."""
    return FINDERS[peer](listed()[peer])


def _haproxy(said: dict[str, Any]) -> Program:
    path = shutil.which("haproxy", path=search_path(""))
    if path is None:
        raise AbsentError(f"Debian's package {said['package']} is not installed")
    told = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stdout
    return Program(said["name"], told.split()[2].partition("-")[0], (path,))


def _envoy(said: dict[str, Any]) -> Program:
    path = _venv(said) / "lib" / MINOR / "site-packages" / "envoy" / "_bin" / "envoy"
    return Program(said["name"], said["version"], (str(path),))


def _caddy(said: dict[str, Any]) -> Program:
    path = Path(sys.executable).with_name("caddy")
    if not path.exists():
        raise AbsentError(f"{said['package']} of {said['from']} is not installed")
    told = subprocess.run([path, "version"], capture_output=True, text=True, check=True).stdout
    return Program(said["name"], told.split()[0].removeprefix("v"), (str(path),))


def _litellm(said: dict[str, Any]) -> Program:
    path = _venv(said) / "bin" / "litellm"
    return Program(said["name"], said["version"], (str(path),))


def _portkey(said: dict[str, Any]) -> Program:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise AbsentError("there is no node with npm here")
    wanted = f"{said['package']}@{said['version']}"
    folder = _filled(wanted, _fill_node_modules, (HERE / "package-lock.json").read_text())
    script = folder / "node_modules" / said["package"] / "build" / "start-server.js"
    return Program(said["name"], said["version"], (node, str(script)))


FINDERS: dict[str, Callable[[dict[str, Any]], Program]] = {
    "haproxy": _haproxy,
    "envoy": _envoy,
    "caddy": _caddy,
    "portkey": _portkey,
    "litellm": _litellm,
}


def _venv(said: dict[str, Any]) -> Path:
    requirements = f"{said['package']}=={said['version']} {said.get('beside', '')}"
    return _filled(requirements.strip(), _fill_venv, MINOR) / "venv"


def _filled(package: str, fill: Callable[[Path, str], None], state: str) -> Path:
    """A folder for each state of what fills it; `whole` in it says that this has ended well."""
    digest = hashlib.sha256(f"{package}\n{state}".encode()).hexdigest()[:12]
    folder = CACHE / digest
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"Another run installs {package}; waiting for it."):
        if not (folder / "whole").exists():
            print(f"installing {package}", file=sys.stderr, flush=True)
            fill(folder, package)
            (folder / "whole").touch()
    return folder


def _fill_venv(folder: Path, requirements: str) -> None:
    _call([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], requirements, folder)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "-qq", "--no-input"]
    _call([*pip, *requirements.split()], requirements, folder)


def _fill_node_modules(folder: Path, package: str) -> None:
    name, _, version = package.rpartition("@")
    wanted = {"name": "portero-peers", "private": True, "dependencies": {name: version}}
    (folder / "package.json").write_text(json.dumps(wanted))
    shutil.copy(HERE / "package-lock.json", folder)
    _call(NPM_CI, package, folder)


def _call(command: list[str] | tuple[str, ...], package: str, folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, stdout=sys.stderr, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise AbsentError(f"{package} was not there within {INSTALL_SECONDS} s") from None
    if done.returncode:
        raise AbsentError(f"{package} could not be installed; the words are above")
