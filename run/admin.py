"""`make admin`: a command of the issuer, asked of the stack that runs on this DATA_DIR.

The stack needs to leave nothing for it: whoever started it, and its issuer, are running processes,
and what they were told is theirs to read for their own user alone. It must never put a secret on a
command line, nor take a setting from the shell that it is called in.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from run.commands import ROOT
from run.data_dir import supervisor_of
from run.docker import handover
from run.docker.engine import compose_words
from run.docker.project import Project, project_of
from run.edge import guarded
from run.files import read_text, replace
from run.plan import DEFAULT_DATA_DIR, clean_environment, read_plan
from run.terminal import RunError
from run.venv import PYTHON

ISSUER = ("-m", "issuer")
#: Where Linux tells of processes.
PROCESSES = Path("/proc")
#: What may have changed the users: 2 says that a gateway has yet to hear of it.
DONE_STATUSES = (0, 2)


def main() -> int:
    """`python -m run admin WORD…`; make hands the words over in ARGS, in a shell's spelling."""
    return guarded(lambda: run(sys.argv[2:] or split(os.environ.get("ARGS", ""))))


def run(words: Sequence[str]) -> None:
    """Become the command. Raises `RunError` where no stack runs."""
    data_dir = Path.cwd() / (os.environ.get("DATA_DIR") or DEFAULT_DATA_DIR)
    supervisor = supervisor_of(data_dir)
    if supervisor is None:
        raise RunError(
            f"no stack runs on {data_dir}: start it with `make run`, or name the DATA_DIR of the "
            'one that runs: make admin DATA_DIR=... ARGS="..."'
        )
    issuer = read_text(data_dir / "run" / "issuer.pid").strip()
    if issuer:
        os.chdir(ROOT)
        command = [str(PYTHON), *ISSUER, *words]
        os.execve(command[0], command, environment_of(issuer))
    in_container(project_at(data_dir, supervisor), words, supervisor)


def split(text: str) -> list[str]:
    """The words of ARGS; without any, what tells which there are."""
    try:
        return shlex.split(text) or ["--help"]
    except ValueError as error:
        raise RunError(f"ARGS cannot be read: {error}") from None


def environment_of(process: str) -> dict[str, str]:
    """What a process was told when it began."""
    try:
        lines = (PROCESSES / process / "environ").read_bytes().split(b"\0")
    except OSError as error:
        raise RunError(
            f"process {process} of that stack cannot be asked: {error.strerror}; "
            "run this as the user who started it"
        ) from None
    pairs = (os.fsdecode(line).partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}


# --- containers ----------------------------------------------------------------------------------


def environment_of_supervisor(process: str) -> dict[str, str]:
    """What `make run` was told; where no process can be asked (on a Mac), what this shell says, in
    which the engine is the same as a rule.
    """
    return environment_of(process) if PROCESSES.is_dir() else dict(os.environ)


def project_at(data_dir: Path, supervisor: str) -> Project:
    """The compose project as its supervisor knows it: the engine's address is a setting too."""
    env = clean_environment(environment_of_supervisor(supervisor))
    project = project_of(compose_words(env), data_dir, env)
    if env.get("RUNTIME") == "local" or "issuer" not in project.containers("status=running"):
        raise RunError(f"the stack on {data_dir} is not up yet; try again when it says ready")
    return project


def in_container(project: Project, words: Sequence[str], supervisor: str) -> None:
    """The same command beside the issuer, with a terminal where there is one here."""
    terminal = () if sys.stdin.isatty() else ("-T",)
    command = project.command("exec", *terminal, "issuer", "python", *ISSUER, *words)
    os.chdir(ROOT)
    if words[0] != "users":
        os.execvpe(command[0], command, project.env)
    status = subprocess.run(command, env=project.env, check=False).returncode
    if status in DONE_STATUSES:
        take_users_back(project, environment_of_supervisor(supervisor))
    raise SystemExit(status)


def take_users_back(project: Project, env: Mapping[str, str]) -> None:
    """Users that came from a file of this machine come from it at the next start too, so that file
    gets what the command made of its copy.
    """
    path = handover.users_file(read_plan(env, Path.cwd()), env)
    if path is None:
        return
    command = project.command("exec", "-T", "issuer", "cat", handover.PLACES["CREDENTIALS_FILE"])
    copy = subprocess.run(
        command, env=project.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    if copy.returncode:
        raise RunError(f"the users have changed, and could not be read to keep them in {path}")
    if copy.stdout != path.read_bytes():
        replace(path.resolve(), copy.stdout)
