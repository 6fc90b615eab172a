"""The npm packages of `node/package-lock.json`, installed once into `.cache/clients`.

Nothing of them runs at the installation (`--ignore-scripts`), and the lock names no registry. Where
they cannot be had, `AbsentError` says why; who asks skips with it, or fails where
`PORTERO_TEST_CLIENTS=required` says that they must be there.
"""

import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from run.commands import ROOT
from run.data_dir import locked

HERE = Path(__file__).parent / "node"
CACHE = ROOT / ".cache" / "clients"
REQUIRED = "PORTERO_TEST_CLIENTS"
#: What @langchain/openai asks for.
OLDEST_NODE = 20
#: A registry that does not answer holds nobody up for long.
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")
INSTALL_SECONDS = 240


class AbsentError(Exception):
    """The packages are not here, and cannot be had; the text is why."""


def packages() -> Path:
    """The folder that holds `node_modules`, filled. Skips the test where that cannot be."""
    outcome = attempt()
    if isinstance(outcome, AbsentError):
        leave_out(f"the npm clients are not tested: {outcome}")
    return outcome


def leave_out(reason: str) -> NoReturn:
    """Skip a test for want of what it needs, or fail it where that must be there."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@cache
def attempt() -> Path | AbsentError:
    """The folder, or why there is none: a registry that is away is asked once."""
    try:
        return installed()
    except AbsentError as error:
        return error


def installed() -> Path:
    """A folder for each state of the lock, so that a changed one is installed anew."""
    check_node()
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = CACHE / digest
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "Another test run installs the npm packages; waiting for it."):
        if not (folder / "whole").exists():
            install(folder)
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def check_node() -> None:
    """Whether this machine has node and npm at all, and new ones."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise AbsentError(f"there is no {program} here")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    number = re.match(r"v(\d+)", told)
    if number is None or int(number[1]) < OLDEST_NODE:
        raise AbsentError(f"node is {told.strip() or 'mute'}; they need {OLDEST_NODE} or newer")


def install(folder: Path) -> None:
    """Fill the folder; `whole` in it says that this has ended well."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    try:
        done = subprocess.run(
            INSTALL, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise AbsentError(f"npm ci took over {INSTALL_SECONDS} s") from error
    if done.returncode:
        raise AbsentError(f"npm ci failed ({done.returncode}): {last_line(done.stderr)}")
    (folder / "whole").touch()


def last_line(text: str) -> str:
    """npm's own reason, without its log's address."""
    lines = [line for line in text.splitlines() if line.startswith("npm error")]
    return lines[0] if lines else text.strip()[-200:]
