"""The Docker engine and its compose: whether they are here, and how they are told and asked.

Every command ends in its own way or at its deadline; none carries a secret.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from run.commands import ROOT, poll
from run.signals import stop_signals, tied_to_us
from run.terminal import RunError

#: How long a question may take that an engine answers at once.
ANSWER_SECONDS = 10
COMPOSES = (("docker", "compose"), ("docker-compose",))


class NotHere(RunError):
    """Containers are not to be had here, local processes may be."""

    @property
    def reason(self) -> str:
        """In one line."""
        return self.lines[0].splitlines()[0]


def compose_words(env: Mapping[str, str]) -> tuple[str, ...]:
    """How compose is called where an engine answers."""
    if shutil.which("docker", path=env["PATH"]) is None:
        raise NotHere("there is no `docker` here")
    status, said = ask(["docker", "version", "--format", "{{.Server.Version}}"], env)
    if status:
        raise NotHere(f"no Docker engine answers ({last_line(said)})")
    for words in COMPOSES:
        if shutil.which(words[0], path=env["PATH"]) and ask([*words, "version"], env)[0] == 0:
            return words
    raise NotHere("Docker is here without its compose")


def last_line(said: str) -> str:
    """The last of what a command said, without a full stop."""
    lines = said.strip().splitlines()
    return lines[-1].rstrip(".") if lines else "without a word"


def ask(
    command: Sequence[str],
    env: Mapping[str, str],
    given: str = "",
    seconds: float | None = None,
) -> tuple[int, str]:
    """Exit status and words of a command that takes moments; `given` is its standard input."""
    limit = seconds or ANSWER_SECONDS
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL, f"no answer in {limit} s"
    return done.returncode, done.stdout


def tell(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    seconds: float | None = None,
    to_the_end: bool = False,
) -> int:
    """Run a command that takes its time, its words in a log, and give its exit status. A wish to
    stop reaches it and what it started like the terminal's Ctrl-C, and a second one ends it at
    once; with `to_the_end` neither does, and it may outlive us.
    """
    with stop_signals.held(), log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=None if to_the_end else tied_to_us(signal.SIGKILL),
        )
        return wait_for_group(process, seconds, to_the_end)


def wait_for_group(
    process: "subprocess.Popen[bytes]", seconds: float | None, to_the_end: bool
) -> int:
    """Its exit status, after what the user or the deadline wants has been passed on."""
    deadline = None if seconds is None else time.monotonic() + seconds
    told = False
    while (status := poll(process)) is None:
        stop_signals.look()
        late = deadline is not None and time.monotonic() > deadline
        if late or (stop_signals.insisted and not to_the_end):
            os.killpg(process.pid, signal.SIGKILL)
        elif stop_signals.caught and not told and not to_the_end:
            os.killpg(process.pid, signal.SIGINT)
            told = True
    return status
