"""A container under watch: its log is followed into DATA_DIR/log, and ends when it does."""

import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from run.docker.engine import ask
from run.signals import tied_to_us
from run.terminal import RunError

STATE = "{{.State.Running}} {{.State.ExitCode}}"
#: Exit statuses above this one stand for signals, up to the highest there is.
BY_SIGNAL, HIGHEST_SIGNAL = 128, 64
FLUSH_SECONDS = 5


class Container:
    """A part that runs in a container."""

    def __init__(self, name: str, container: str, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self.log_start = log.stat().st_size if log.exists() else 0
        self._container = container
        self._env = env
        self._follower = self._follow()

    def poll(self) -> int | None:
        """See `Part`. Asks the engine only when the log has ended."""
        if self._follower.poll() is None:
            return None
        status, said = ask(["docker", "inspect", "--format", STATE, self._container], self._env)
        if status:
            raise RunError(f"{self.name}: its container is gone, or the Docker engine is: {said}")
        running, code = said.split()
        if running == "true":
            self._follower = self._follow("--since", str(int(time.time())))
            return None
        return as_of_a_process(int(code))

    def wait_for_log(self) -> None:
        """Of a container that has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._follower.wait(FLUSH_SECONDS)

    def leave(self) -> None:
        """Follow no longer."""
        self._follower.kill()
        self._follower.wait()

    def _follow(self, *options: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            return subprocess.Popen(
                ["docker", "logs", "--follow", *options, self._container],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                preexec_fn=tied_to_us(signal.SIGKILL),
            )


def as_of_a_process(code: int) -> int:
    """A container's exit status as Popen would give it."""
    by_signal = BY_SIGNAL < code <= BY_SIGNAL + HIGHEST_SIGNAL
    return BY_SIGNAL - code if by_signal else code
