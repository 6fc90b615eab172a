"""`make admin`: a command of the issuer, asked of the stack that runs on this DATA_DIR.

The stack needs to leave nothing for it: whoever started it, and its issuer, are running processes,
and what they were told is theirs to read for their own user alone. It must never put a secret on a
command line, nor take a setting from the shell that it is called in.
"""

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from run import containers
from run.commands import ROOT, RunError, read_text
from run.containers import Project, check_engine, project_of
from run.data_dir import locked, supervisor_of
from run.plan import DEFAULT_DATA_DIR, clean_environment, read_plan
from run.set_up import PYTHON

#: Where Linux tells of processes.
PROCESSES = Path("/proc")
#: What may have changed the users: 2 says that a gateway has yet to hear of it.
DONE_STATUSES = (0, 2)


def main() -> None:
    """`python -m run admin WORD…`; make hands the words over in ARGS, in a shell's spelling.
    Becomes the command. Raises `RunError` where no stack runs.
    """
    words = sys.argv[2:] or split(os.environ.get("ARGS", ""))
    data_dir = Path.cwd() / (os.environ.get("DATA_DIR") or DEFAULT_DATA_DIR)
    supervisor = supervisor_of(data_dir)
    if supervisor is None:
        raise RunError(
            f"no stack runs on {data_dir}: start it with `make run`, or name the DATA_DIR of the "
            'one that runs: make admin DATA_DIR=... ARGS="..."'
        )
    issuer = read_text(data_dir / "run" / "issuer.pid").strip()
    if not issuer:
        env = clean_environment(environment_of_supervisor(supervisor))
        in_container(data_dir, env, words)
    os.chdir(ROOT)
    command = [str(PYTHON), "-m", "issuer", *words]
    os.execve(command[0], command, environment_of(issuer))


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


def in_container(data_dir: Path, env: Mapping[str, str], words: Sequence[str]) -> None:
    """The same command beside the issuer, with a terminal where there is one here. The engine's
    address is a setting of the supervisor's, too.
    """
    project = project_of(data_dir, env)
    check_engine(project.env)
    if env.get("RUNTIME") == "local" or "issuer" not in project.containers("status=running"):
        raise RunError(f"the stack on {data_dir} is not up yet; try again when it says ready")
    terminal = () if sys.stdin.isatty() else ("-T",)
    command = project.command("exec", *terminal, "issuer", "portero-admin", *words)
    if words[0] != "users":
        os.execvpe(command[0], command, project.env)
    # A hand-over that had begun before would put the users of then in the place of those of now.
    with locked(
        project.handed.parent, "Others edit the users, or hand them over; waiting for that."
    ):
        hand_users_over(project, env)
        status = subprocess.run(command, env=project.env, check=False).returncode
        if status in DONE_STATUSES:
            take_users_back(project, env)
    raise SystemExit(status)


def own_users(env: Mapping[str, str]) -> Path | None:
    """The file of this machine that the users came from."""
    return containers.own_files(read_plan(env, Path.cwd()), env).get("CREDENTIALS_FILE")


def hand_users_over(project: Project, env: Mapping[str, str]) -> None:
    """What was changed in the user's own file, and is not in force yet, is the beginning."""
    path = own_users(env)
    fault = containers.hand_file_over("CREDENTIALS_FILE", path, project) if path else ""
    if fault:
        raise RunError(fault)


def take_users_back(project: Project, env: Mapping[str, str]) -> None:
    """Users that came from a file of this machine come from it at the next start too, so that file
    gets what the command made of its copy.
    """
    path = own_users(env)
    if path is None:
        return
    copy = subprocess.run(
        project.command("exec", "-T", "issuer", "cat", containers.PLACES["CREDENTIALS_FILE"]),
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if copy.returncode:
        raise RunError(f"the users have changed, and could not be read to keep them in {path}")
    if copy.stdout != path.read_bytes():
        replace(path.resolve(), copy.stdout)
    project.note_handed({"CREDENTIALS_FILE": copy.stdout.decode()})


def replace(path: Path, content: bytes) -> None:
    """Another content for a file, whole or not at all, with its mode and owner."""
    state = path.stat()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(file.fileno(), state.st_uid, state.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(state.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
