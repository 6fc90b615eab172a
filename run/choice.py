"""`make run` without RUNTIME: containers where they are to be had, else local processes."""

import os
from collections.abc import Mapping

from run import containers, local
from run.docker.engine import NotHere
from run.edge import guarded
from run.plan import clean_environment
from run.terminal import say


def main() -> int:
    """`make run`."""
    return guarded(lambda: run(clean_environment(os.environ)))


def run(env: Mapping[str, str]) -> None:
    """One of the two; why not the first is told in one line."""
    try:
        containers.run(env, insists=False)
    except NotHere as error:
        say(f"Local processes instead of containers: {error.reason}.")
        local.run(env)
