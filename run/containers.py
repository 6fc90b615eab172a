"""`make run` through containers: builds the images, brings the compose project of this DATA_DIR up,
waits until a chat comes through, and takes all but the volumes down again.

A container that dies is not started again but told, and is the end of all, as with local processes.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from run import base_urls
from run.data_dir import data_dir_in_use
from run.docker import handover, upstreams
from run.docker.engine import NotHere, ask, compose_words
from run.docker.followed import Container
from run.docker.images import have_bases
from run.docker.project import Project, project_of
from run.edge import guarded
from run.findings import first_example, in_container
from run.greeting import DEMO_LOGINS, announce
from run.plan import Plan, clean_environment, read_plan
from run.ports import port_faults
from run.readiness import wait_until_ready
from run.signals import TICK_SECONDS, stop_signals
from run.terminal import RunError, say
from run.watching import check_alive, obituary

#: What is watched once `init` has ended.
SERVICES = ("gateway", "issuer", "reconciler")
#: Of local processes only.
INNER_PORTS = ("INTERNAL_PORT", "ISSUER_PORT")
#: How `init` begins the line above the demo logins.
LOGINS_HEAD = "demo logins"


def main() -> int:
    """`RUNTIME=containers make run`."""
    return guarded(lambda: run(clean_environment(os.environ), insists=True))


def run(env: Mapping[str, str], insists: bool) -> None:
    """The whole story. Raises `NotHere`, before anything is started, where containers are not to
    be had, or for who does not insist, where local processes are the better choice.
    """
    plan = read_plan(env, Path.cwd())
    base_urls.check(env)
    compose = compose_words(env)
    if reason := handover.impossible(env) or ("" if insists else out_of_reach(env)):
        raise NotHere(reason)
    with data_dir_in_use(plan.data_dir):
        given = handover.given(plan, env)
        project = project_of(compose, plan.data_dir, with_upstreams(env))
        if not insists:
            have_bases(project.env, project.log)
        prepare(plan, project, handover.settings_of_parts(given, env))
        explain(env)
        with stack(plan, project, given) as parts:
            wait_until_ready(plan, parts)
            beside = in_container(project.run_beside_gateway)
            announce(plan, first_example(plan, with_upstreams(env), beside))
            say(f"Users and sessions stay on the volumes of the compose project {project.name}.")
            watch(parts, files_renewed(handover.files(plan, env), project))


def out_of_reach(env: Mapping[str, str]) -> str:
    """Why containers would not find the user's LLM server; empty when they might."""
    hidden = upstreams.out_of_reach(env.get("LLM_UPSTREAM", ""), env)
    return f"{hidden} listens on loopback alone, where containers do not come" if hidden else ""


def with_upstreams(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with LLM servers under the names that containers know them by."""
    return {**env, "LLM_UPSTREAM": upstreams.for_containers(env.get("LLM_UPSTREAM", ""))}


def explain(env: Mapping[str, str]) -> None:
    """What of the user's wishes reads differently in containers."""
    asked = env.get("LLM_UPSTREAM", "")
    known = upstreams.for_containers(asked)
    if known.count(upstreams.HOST_NAME) > asked.count(upstreams.HOST_NAME):
        say(
            f"LLM_UPSTREAM: in a container localhost is the container, so it asks {known}; "
            "on Linux that server must listen beyond loopback (Ollama: OLLAMA_HOST=0.0.0.0)"
        )
    if "TRUSTED_PROXIES" in env:
        say(
            "TRUSTED_PROXIES: a front on this machine does not come to containers from 127.0.0.1, "
            "but from their network's own gateway; `docker network inspect` tells its address"
        )
    if unused := [name for name in INNER_PORTS if name in env]:
        say(f"{' and '.join(unused)}: not used, as containers publish the gateway alone")


# --- up and down ---------------------------------------------------------------------------------


def prepare(plan: Plan, project: Project, settings: Mapping[str, Mapping[str, str]]) -> None:
    """The images, and nothing in the way of the start."""
    project.write_changes(plan.own_llm, settings)
    if project.containers():  # of a run that was killed
        take_down(project)
    if faults := port_faults({"GATEWAY_PORT": plan.gateway_port}):
        raise RunError(*faults)
    say(f"Building images; the first time takes minutes, its words are in {project.log}")
    if failure := project.build(plan.own_llm):
        raise NotHere(failure)


@contextmanager
def stack(plan: Plan, project: Project, given: Mapping[str, str]) -> Iterator[list[Container]]:
    """All containers, from the first started to the last removed."""
    say("Starting.")
    with ExitStack() as at_the_end:
        parts: list[Container] = []
        at_the_end.callback(leave, parts)
        at_the_end.callback(take_down, project)
        if given:
            project.hand_over(given)
        if failure := project.up():
            follow(project, list(project.containers("status=exited")), parts)
            raise RunError(death(parts) or failure)
        follow(project, [*SERVICES, *([] if plan.own_llm else ["llm"])], parts)
        if "CREDENTIALS_FILE" not in given:
            keep_demo_logins(plan, project)
        yield parts


def follow(project: Project, services: Sequence[str], parts: list[Container]) -> None:
    """Add the containers of these services to the parts."""
    containers = project.containers()
    with stop_signals.held():  # or one could be followed and not yet among the parts
        for name in services:
            log = project.data_dir / "log" / f"{name}.log"
            parts.append(Container(name, containers.get(name, name), log, project.env))


def leave(parts: Sequence[Container]) -> None:
    """Follow none of them any longer."""
    with stop_signals.held():
        for part in parts:
            part.leave()


def take_down(project: Project) -> None:
    """Whatever the user wants meanwhile: half a stack is in nobody's interest."""
    with stop_signals.held():
        if failure := project.down():
            say(failure)


def death(ended: Sequence[Container]) -> str:
    """The obituary of the first that did not end well; empty when none is to blame."""
    for part in ended:
        part.wait_for_log()
        if status := part.poll():
            return obituary(part, status)
    return ""


# --- users and roles -----------------------------------------------------------------------------


def keep_demo_logins(plan: Plan, project: Project) -> None:
    """What `init` prints goes where local processes would have put it."""
    container = project.containers().get("init", "init")
    lines = ask(["docker", "logs", container], project.env)[1].splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith(LOGINS_HEAD)]
    path = plan.data_dir / DEMO_LOGINS
    path.touch(mode=0o600)
    path.write_text("\n".join([*lines[heads[-1] + 1 :], ""]) if heads else "")


def files_renewed(files: Mapping[str, Path], project: Project) -> Callable[[], None]:
    """To be called again and again: hands each of the user's files over whenever it has changed."""
    seen = {setting: version(path) for setting, path in files.items()}

    def look() -> None:
        for setting, path in files.items():
            now = version(path)
            if now != seen[setting]:
                seen[setting] = now
                renew(setting, path, project)

    return look


def renew(setting: str, path: Path, project: Project) -> None:
    """Hand one file over; what cannot be is told, and what is in force stays in force."""
    faults: list[str] = []
    text = handover.text_of(setting, path, faults)
    try:
        if faults:
            raise RunError(*faults)
        project.hand_over({setting: text})
    except RunError as error:
        say("\n".join(error.lines))


def version(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    try:
        state = path.stat()
    except OSError:
        return (0, 0, 0)
    return (state.st_mtime_ns, state.st_size, state.st_ino)


def watch(parts: Sequence[Container], look: Callable[[], None]) -> None:
    """Return never; raise when a part has ended or the user wants an end."""
    while True:
        check_alive(parts)
        look()
        time.sleep(TICK_SECONDS)
