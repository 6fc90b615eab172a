"""`make run` through containers: Docker Compose builds the images, brings the project of this
DATA_DIR up and waits for its health; here it is told what is the user's own, a death among its
containers ends all of them, and at the end all but the volumes is gone.

It owns DATA_DIR/run/compose.json, which says how `make run` differs from `docker compose up`. No
secret may ever be in a container's environment, on a command line or in an image: keys and users of
the user's own go over the standard input of `init`, which keeps them on the volumes.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from math import inf
from pathlib import Path

from run import local
from run.commands import ROOT, RunError, ask, call, read_text, say, stop_signals
from run.data_dir import data_dir_in_use, locked_at_once
from run.plan import (
    OWN_HOSTS,
    Plan,
    clean_environment,
    policy_file,
    policy_with_servers,
    port_faults,
    read_plan,
)
from run.processes import (
    LAST_LINES,
    STOP_SECONDS,
    Child,
    Service,
    last_lines,
    obituary,
    start,
    stop_all,
    watch,
)
from run.ready import (
    DEMO_LOGINS,
    SERVERS,
    announce,
    first_example,
    in_container,
    wait_until_ready,
)

COMPOSE = ("docker", "compose")
OLDEST_COMPOSE = (2, 20)
INSTALL_COMPOSE = (
    "install the plugin: docker-compose-plugin of Docker's own packages, docker-compose-v2 of "
    "Ubuntu's, docker-compose of Debian's from 13 on"
)
#: What is watched once `init` has ended, beside the bundled LLM.
SERVICES = ("gateway", "issuer", "reconciler")
LLM = "bundled-llm"
#: What reads the policy.
ISSUERS = ("init", "issuer", "reconciler")
#: Its exit status is the container's.
FOLLOW = 'docker logs --follow "$0"; exit "$(docker wait "$0")"'
FLUSH_SECONDS = 5
#: Longest of all: the issuer's health. Only an engine that hangs comes near it.
UP_SECONDS = 180
HAND_OVER_SECONDS = 60
BESIDE_SECONDS = 30
KEYS = ("SECRET_KEY", "SYNC_KEY", "LLM_API_KEY")
#: What Docker's client and compose are not told: secrets, and settings of another project.
KEPT_BACK = (
    *KEYS,
    "DATABASE_URL",
    "COMPOSE_DISABLE_ENV_FILE",
    "COMPOSE_ENV_FILES",
    "COMPOSE_PROFILES",
)
#: Files of the user's own that may change while all runs.
FILES = (
    "CREDENTIALS_FILE",
    "LLM_CA_FILE",
    "TLS_CERTIFICATE",
    "TLS_CERTIFICATE_KEY",
    "TLS_CLIENT_CA",
)
#: Where `init --given` puts what it is handed. The gateway sees the volume `sync` alone.
PLACES = {
    "SECRET_KEY": "/data/given/secret_key",
    "SYNC_KEY": "/sync/given/sync_key",
    "CREDENTIALS_FILE": "/data/given/credentials.env",
    "LLM_API_KEY": "/sync/given/llm_api_key",
    "LLM_CA_FILE": "/sync/given/llm_ca.pem",
    "TLS_CERTIFICATE": "/sync/given/tls_certificate.pem",
    "TLS_CERTIFICATE_KEY": "/sync/given/tls_certificate_key.pem",
    "TLS_CLIENT_CA": "/sync/given/tls_client_ca.pem",
}
#: Where `init` puts what it makes for TLS=self-signed, and what it is told to.
MADE = {"TLS_CERTIFICATE": "/sync/tls/cert.pem", "TLS_CERTIFICATE_KEY": "/sync/tls/key.pem"}
AUTHORITY = "tls/ca.pem"
#: What the issuer is told as it is written; the last, to be refused in its words.
TOLD_AS_IT_IS = ("DATABASE_URL", "ROLES_FILE")
#: What the gateway alone is told of.
GATEWAYS_OWN = ("LLM_API_KEY_FILE", "LLM_CA_FILE", "TLS_CERTIFICATE_KEY", "TLS_CLIENT_CA")
INIT = ("python", "-m", "issuer", "init", "--data-dir", "/data", "--sync-dir", "/sync")
STORE = "sqlite:////data/"
#: This machine, as containers know it.
HOST_NAME = "host.docker.internal"
LOOPBACK = re.compile(r"(https?)://(localhost|127(?:\.\d+){3}|\[::1\])(?::(\d+))?(?![^:/,\s])")
CONNECT_SECONDS = 1.0
QUOTE, COMMENT = re.compile("[\"'}]"), re.compile(r"(^|\s)#.*")
#: A file that a policy names, as far as it can be told without reading YAML.
NAMED_FILE = re.compile(r"""\b(credential_file|ca_file)["']?\s*:\s*["']?([^\s"',}]+)""")
#: As who the issuer runs there.
CONTAINERS_USER = 10001
BRIDGE_FORM = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}} {{end}}"
BRIDGE = ("docker", "network", "inspect", "bridge", "--format", BRIDGE_FORM)


class NotHere(RunError):
    """Containers are not to be had here, local processes may be. Its first line says why."""


def main() -> None:
    """`RUNTIME=containers make run`."""
    run(clean_environment(os.environ), insists=True)


def run_or_local() -> None:
    """`make run`: containers where they are to be had, else local processes, with a word why."""
    env = clean_environment(os.environ)
    try:
        run(env, insists=False)
    except NotHere as error:
        say(f"Local processes instead of containers: {str(error).splitlines()[0]}.")
        local.run(env)


def run(env: Mapping[str, str], insists: bool) -> None:
    """The whole story. Raises `NotHere`, before anything is started, where containers are not to
    be had, or for who does not insist, where local processes are the better choice.
    """
    plan = read_plan(env, Path.cwd())
    check_engine(env)
    if reason := impossible(env) or ("" if insists else out_of_reach(env)):
        raise NotHere(reason)
    with data_dir_in_use(plan.data_dir):
        own = given(plan, env)
        known = {**env, "LLM_UPSTREAM": for_containers(env.get("LLM_UPSTREAM", ""))}
        project = project_of(plan.data_dir, known, plan.has_bundled_llm)
        prepare(plan, project, own, env)
        say("\n".join([*differences(env), "Starting."]))
        with stack(plan, project, own) as parts:
            wait_until_ready(plan, parts)
            beside = partial(in_container, project.run_beside_gateway)
            tell_servers = partial(ask, project.admin(*SERVERS), project.env)
            announce(plan, first_example(plan, known, beside, tell_servers))
            say(f"Users and sessions stay on the volumes of the compose project {project.name}.")
            watch(parts, files_renewed(own_files(plan, env), project))


def check_engine(env: Mapping[str, str]) -> None:
    """Raise where no engine answers, or compose is too old for the compose file."""
    if shutil.which("docker", path=env["PATH"]) is None:
        raise NotHere("there is no `docker` here")
    status, said = ask(["docker", "version", "--format", "{{.Server.Version}}"], env)
    if status:
        last = (said.strip().splitlines() or ["without a word"])[-1].rstrip(".")
        raise NotHere(f"no Docker engine answers ({last})")
    status, said = ask([*COMPOSE, "version", "--short"], env)
    found = re.match(r"v?(\d+)\.(\d+)", said.strip()) if status == 0 else None
    if found is None or (int(found[1]), int(found[2])) < OLDEST_COMPOSE:
        has = f"`docker compose` is {found[0]}" if found else "`docker compose` is not"
        least = ".".join(map(str, OLDEST_COMPOSE))
        raise NotHere(
            f"{has} here, and Portero needs {least} or newer (docker-compose 1.29 does not serve); "
            + INSTALL_COMPOSE
        )


def impossible(env: Mapping[str, str]) -> str:
    """The setting that containers cannot honour, and why; empty when there is none."""
    if "GATEWAY_URLS" in env:
        return "GATEWAY_URLS is set, and the issuer's network in containers leads to one gateway"
    if "DATABASE_URL_FILE" in env or not env.get("DATABASE_URL", STORE).startswith(STORE):
        return f"DATABASE_URL is set, and containers keep sessions on their volume ({STORE}…)"
    if "SYNC_CA_FILE" in env:
        return "SYNC_CA_FILE is set, and the issuer's network in containers leads to one gateway"
    if "TLS_REDIRECT_LISTEN" in env:
        return "TLS_REDIRECT_LISTEN is set, and containers publish the gateway's one port"
    return ""


def differences(env: Mapping[str, str]) -> Iterator[str]:
    """What of the user's wishes reads differently in containers."""
    yield from unseen_by_containers(env)
    asked = env.get("LLM_UPSTREAM", "")
    if LOOPBACK.search(asked):
        yield (
            "LLM_UPSTREAM: in a container localhost is the container, so it asks "
            f"{for_containers(asked)}; on Linux that server must listen beyond loopback (Ollama: "
            "OLLAMA_HOST=0.0.0.0)"
        )
    if "TRUSTED_PROXIES" in env:
        yield (
            "TRUSTED_PROXIES: a front on this machine does not come to containers from 127.0.0.1, "
            "but from their network's own gateway; `docker network inspect` tells its address"
        )
    if unused := [name for name in ("INTERNAL_PORT", "ISSUER_PORT") if name in env]:
        yield f"{' and '.join(unused)}: not used, as containers publish the gateway alone"


# --- the compose project -------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """How compose is called for this stack, and what it is told."""

    data_dir: Path
    env: Mapping[str, str]

    @property
    def name(self) -> str:
        """The same for every run on this DATA_DIR, so that it finds its volumes again."""
        return f"portero-{hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:10]}"

    @property
    def log(self) -> Path:
        """What compose says while it builds, starts and stops."""
        return self.data_dir / "log" / "compose.log"

    @property
    def changes(self) -> Path:
        """The second compose file."""
        return self.data_dir / "run" / "compose.json"

    @property
    def handed(self) -> Path:
        """The SHA-256 of each of the user's files as both sides have it. Whoever gives one over, or
        takes one back, has the lock of its folder meanwhile.
        """
        return self.data_dir / "run" / "handed.json"

    def command(self, *words: str) -> list[str]:
        """A command of compose for this project."""
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(self.changes))
        return [*COMPOSE, "-p", self.name, *files, *words]

    def write_changes(
        self, parts: Mapping[str, Mapping[str, str]], policy: Path, tls_hosts: Sequence[str] = ()
    ) -> None:
        """A death is told instead of mended, images are shared by all stacks of a checkout, and the
        folder with the policy may be another.
        """
        services: dict[str, dict[str, object]] = {
            name: {"image": image, "restart": "no", "environment": dict(parts.get(name, {}))}
            for name, image in image_names().items()
        }
        mount = {"type": "bind", "source": str(policy.parent), "target": "/policy"}
        for name in ISSUERS:
            told = {**parts.get(name, {}), "POLICY_FILE": f"/policy/{policy.name}"}
            services[name].update(environment=told, volumes=[{**mount, "read_only": True}])
        hosts = [word for host in tls_hosts for word in ("--tls-host", host)]
        services["init"]["command"] = [*INIT, "--print-logins", *hosts]
        self.changes.write_text(json.dumps({"services": services}, indent=1) + "\n")

    def tell(self, *words: str, seconds: float = inf, to_the_end: bool = False) -> str:
        """Have compose do something, its words in the log; the reason when that fails."""
        with self.log.open("ab") as log:
            begin = log.tell()
            interrupt = None if to_the_end else os.killpg
            command = self.command(*words)
            status = call(
                command, self.env, None, log.fileno(), seconds, interrupt, may_outlive_us=to_the_end
            )
        if status == 0:
            return ""
        head = f"docker compose {words[0]} failed; all it said is in {self.log}"
        return "\n  | ".join([head, *last_lines(self.log, begin)])

    def take_down(self) -> None:
        """All but the volumes, also a bundled LLM that this run has no use for. Whatever the user
        wants meanwhile: half a stack is in nobody's interest.
        """
        down = ("down", "--remove-orphans", "--timeout", str(STOP_SECONDS))
        with stop_signals.held():
            if failure := self.tell("--profile", LLM, *down, to_the_end=True):
                say(failure)

    def hand_over(self, own: Mapping[str, str]) -> str:
        """Give `init` what is the user's own, which it keeps on the volumes; the reason when that
        fails.
        """
        command = self.command("run", "--rm", "-T", "init", *INIT, "--given")
        status, said = ask(command, self.env, json.dumps(own), HAND_OVER_SECONDS)
        if status:
            head = "keys or users of your own could not be handed over"
            return "\n  | ".join([head, *said.splitlines()[-LAST_LINES:]])
        self.note_handed(own)
        return ""

    def note_handed(self, own: Mapping[str, str]) -> None:
        """These contents, by setting, are now the same on both sides."""
        new = {name: digest(text) for name, text in own.items() if name in FILES}
        self.handed.write_text(json.dumps({**self._known_handed(), **new}) + "\n")

    def is_handed(self, setting: str, text: str) -> bool:
        """Whether a file is as it was when both sides had the same."""
        return self._known_handed().get(setting) == digest(text)

    def _known_handed(self) -> dict[str, str]:
        return dict(json.loads(read_text(self.handed) or "{}"))

    def admin(self, *words: str) -> list[str]:
        """A command of the issuer, beside it."""
        return self.command("exec", "-T", "issuer", "portero-admin", *words)

    def run_beside_gateway(self, program: str, stdin: str) -> tuple[int, str]:
        """Run a Python program that sees the network, and the names, that the gateway sees; its
        standard input may be secret.
        """
        options = ("--rm", "--interactive", "--read-only", "--cap-drop", "ALL")
        network = f"container:{self.containers().get('gateway', 'gateway')}"
        command = ["docker", "run", *options, "--network", network, image_names()["issuer"]]
        return ask([*command, "python", "-I", "-c", program], self.env, stdin, BESIDE_SECONDS)

    def containers(self, *filters: str) -> dict[str, str]:
        """Service -> container, of those that compose has started to stay."""
        wanted = (f"label=com.docker.compose.project={self.name}", *filters)
        command = ["docker", "ps", "--all", "--no-trunc"]
        command += [f"--filter={one}" for one in wanted]
        command += ["--format", '{{.Label "com.docker.compose.service"}} {{.ID}}']
        lines = [line.split() for line in ask(command, self.env)[1].splitlines()]
        return {words[0]: words[1] for words in lines if len(words) == 2}


def project_of(data_dir: Path, env: Mapping[str, str], has_bundled_llm: bool = True) -> Project:
    """The project of this DATA_DIR. Where LLM_UPSTREAM is set `.env` leaves the bundled LLM out;
    for a policy with servers it is said here.
    """
    told = {name: text for name, text in env.items() if name not in KEPT_BACK}
    return Project(data_dir, told if has_bundled_llm else {**told, "COMPOSE_PROFILES": "no-llm"})


def image_names() -> dict[str, str]:
    """Service of the compose file -> image: one name for all stacks of this checkout, so that a
    stack with another DATA_DIR leaves no images of its own behind.
    """
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    images = {"init": "issuer", "issuer": "issuer", "reconciler": "issuer", "gateway": "gateway"}
    return {name: f"portero-{checkout}-{image}" for name, image in {**images, "llm": "llm"}.items()}


# --- up and down ---------------------------------------------------------------------------------


def prepare(plan: Plan, project: Project, own: Mapping[str, str], env: Mapping[str, str]) -> None:
    """The images, and nothing in the way of the start."""
    hosts = OWN_HOSTS if plan.self_signed else ()
    project.write_changes(settings_of_parts(plan, own, env), policy_file(env), hosts)
    if project.containers():  # of a run that was killed
        project.take_down()
    if faults := port_faults({"GATEWAY_PORT": plan.gateway_port}):
        raise RunError(*faults)
    say(f"Building images; the first time takes minutes, its words are in {project.log}")
    services = ("issuer", "gateway", *(("llm",) if plan.has_bundled_llm else ()))
    if failure := project.tell("build", *services):
        raise NotHere(failure)


@contextmanager
def stack(plan: Plan, project: Project, own: Mapping[str, str]) -> Iterator[list[Child]]:
    """All containers, from the first started to the last removed."""
    parts: list[Child] = []
    try:
        if own and (failure := project.hand_over(own)):
            raise RunError(failure)
        if failure := project.tell("up", "--wait", "--no-build", seconds=UP_SECONDS):
            follow(project, list(project.containers("status=exited")), parts)
            raise RunError(death(parts) or failure)
        follow(project, [*SERVICES, *(("llm",) if plan.has_bundled_llm else ())], parts)
        if "CREDENTIALS_FILE" not in own:
            keep(DEMO_LOGINS, plan, project)
        if plan.self_signed:
            keep(AUTHORITY, plan, project)
        yield parts
    finally:
        project.take_down()
        stop_all(parts, plan.data_dir)


def follow(project: Project, services: Sequence[str], parts: list[Child]) -> None:
    """Add the followers of these services' containers to the parts."""
    containers = project.containers()
    with stop_signals.held():  # or one could be followed and not yet among the parts
        for name in services:
            command = ("sh", "-c", FOLLOW, containers.get(name, name))
            follower = Service(name, command, has_pid_file=False)
            parts.append(start(follower, project.data_dir, project.env))


def death(ended: Sequence[Child]) -> str:
    """The obituary of the first that did not end well; empty when none is to blame."""
    for part in ended:
        with suppress(subprocess.TimeoutExpired):
            if status := part.process.wait(FLUSH_SECONDS):
                return obituary(part, status)
    return ""


def keep(name: str, plan: Plan, project: Project) -> None:
    """What `init` has made goes where local processes would have put it."""
    command = project.command("exec", "-T", "issuer", "cat", f"/data/{name}")
    status, said = ask(command, project.env)
    path = plan.data_dir / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("" if status else said)


# --- what is the user's own ----------------------------------------------------------------------


def given(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """What to hand over, by setting; `RunError` with every fault."""
    faults: list[str] = []
    found = {name: given_key(name, env, faults) for name in KEYS}
    for setting, path in own_files(plan, env).items():
        found[setting] = text_of(setting, path, faults)
    faults += policy_fault(policy_file(env))
    if faults:
        raise RunError(*faults)
    return {name: text for name, text in found.items() if text}


def policy_fault(path: Path) -> list[str]:
    """Why the issuer's container, which runs as another user, could not read the policy: told here,
    as it would know the file by another name. Only on Linux do these modes count there.
    """
    try:
        modes = path.parent.stat().st_mode & 0o5, path.stat().st_mode & 0o4
    except OSError as error:
        return [f"POLICY_FILE: cannot read {path}: {error.strerror}"]
    if modes == (0o5, 0o4) or not sys.platform.startswith("linux"):
        return []
    names = shlex.join(["chmod", "a+rX", str(path.parent), str(path)])
    return [f"POLICY_FILE: {path} must be readable for the issuer's container: {names}"]


def given_key(name: str, env: Mapping[str, str], faults: list[str]) -> str:
    """A key by value or by file, refused where the issuer itself would refuse it."""
    value, path = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and path:
        faults.append(f"{name}: set {name} or {name}_FILE, not both")
    return text_of(f"{name}_FILE", Path(path), faults, private=True) if path else value


def own_files(plan: Plan, env: Mapping[str, str]) -> dict[str, Path]:
    """The user's own files, by setting; users also where a run as local processes made them."""
    made = plan.data_dir / "credentials.env"
    found = {"CREDENTIALS_FILE": made} if made.exists() else {}
    return {**found, **{name: Path(env[name]) for name in FILES if name in env}}


def text_of(setting: str, path: Path, faults: list[str], private: bool = False) -> str:
    """The content of the file that a setting names."""
    try:
        if private and stat.S_IMODE(path.stat().st_mode) & 0o077:
            faults.append(f"{setting}: {path} can be read by others; chmod 600 it")
        return path.read_bytes().decode()
    except OSError as error:
        faults.append(f"{setting}: cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{setting}: {path} is not UTF-8 text")
    return ""


def settings_of_parts(
    plan: Plan, own: Mapping[str, str], env: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Service -> what its environment has besides the compose file's: places, never contents."""
    places = {name: place for name, place in PLACES.items() if name in own}
    places |= MADE if plan.self_signed else {}
    told = {f"{name}_FILE" if name in KEYS else name: place for name, place in places.items()}
    told |= {name: env[name] for name in TOLD_AS_IT_IS if name in env}
    issuer = {name: place for name, place in told.items() if name not in GATEWAYS_OWN}
    if plan.trusted and "COOKIE_SECURE" not in env:
        issuer["COOKIE_SECURE"] = "true"
    gateway = {name: place for name, place in told.items() if place.startswith("/sync/")}
    if policy_with_servers(policy_file(env)) and "LLM_UPSTREAM" not in env:
        gateway["LLM_UPSTREAM"] = ""
    return {"issuer": issuer, "reconciler": issuer, "gateway": gateway}


def files_renewed(files: Mapping[str, Path], project: Project) -> Callable[[], None]:
    """To be called again and again: hands each of the user's files over whenever it has changed."""
    seen: dict[str, tuple[int, int, int]] = {}

    def look() -> None:
        for setting, path in files.items():
            now = version(path)
            if now != seen.get(setting) and renew(setting, path, project):
                seen[setting] = now

    return look


def renew(setting: str, path: Path, project: Project) -> bool:
    """Hand one file over, unless both sides have it already; what cannot be is told, and what is in
    force stays in force. False where `make admin` is at it: who is asked for a secret there may
    take long.
    """
    with locked_at_once(project.handed.parent) as is_ours:
        if not is_ours:
            return False
        if fault := hand_file_over(setting, path, project):
            say(fault)
        return True


def hand_file_over(setting: str, path: Path, project: Project) -> str:
    """The same for who has the lock; the reason when it fails."""
    faults: list[str] = []
    text = text_of(setting, path, faults)
    if faults or project.is_handed(setting, text):
        return "\n".join(faults)
    return project.hand_over({setting: text})


def digest(text: str) -> str:
    """By which two contents are told apart."""
    return hashlib.sha256(text.encode()).hexdigest()


def version(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    try:
        state = path.stat()
    except OSError:
        return (0, 0, 0)
    return (state.st_mtime_ns, state.st_size, state.st_ino)


# --- LLM servers on this machine -----------------------------------------------------------------


def for_containers(upstreams: str) -> str:
    """LLM_UPSTREAM with this machine's name in there instead of localhost."""
    renamed = LOOPBACK.sub(lambda one: one[0].replace(one[2], HOST_NAME, 1), upstreams)
    return ",".join(renamed.replace(",", " ").split())


def unseen_by_containers(env: Mapping[str, str]) -> Iterator[str]:
    """What a policy with servers names that containers know under another name, or not at all."""
    path = policy_with_servers(policy_file(env))
    text = COMMENT.sub("", read_text(path)) if path else ""
    if found := LOOPBACK.search(QUOTE.sub(" ", text)):
        yield (
            f"{path}: {found[0]} is the container itself in a container; write "
            f"{for_containers(found[0])}, and let that server listen beyond loopback"
        )
    for setting, name in NAMED_FILE.findall(text):
        if path and not is_seen(path.parent / name, path.parent):
            yield (
                f"{path}: the file of {setting} must be in the policy's folder, and readable for "
                f"user {CONTAINERS_USER}, as who the issuer runs: chown {CONTAINERS_USER} FILE"
            )


def is_seen(file: Path, folder: Path) -> bool:
    """Whether the issuer's container finds a file that a policy names, and may read it. Only on
    Linux are a file's owner and mode the same there.
    """
    try:
        state = file.stat()
    except OSError:
        return True  # the issuer will tell that it is not there
    is_mounted = file.resolve().is_relative_to(folder.resolve())
    may_read = state.st_uid == CONTAINERS_USER or bool(state.st_mode & stat.S_IROTH)
    return is_mounted and (may_read or not sys.platform.startswith("linux"))


def out_of_reach(env: Mapping[str, str]) -> str:
    """Why containers would not find what the user names: a file of the policy's, or an LLM server
    that listens on loopback alone; empty when they might. Only on Linux is the bridge's address one
    of this machine.
    """
    if unseen := next(unseen_by_containers(env), ""):
        return unseen
    on_loopback = list(LOOPBACK.finditer(env.get("LLM_UPSTREAM", "")))
    linux = sys.platform.startswith("linux")
    bridge = bridge_address(ask(BRIDGE, env)[1]) if on_loopback and linux else ""
    for one in on_loopback if bridge else ():
        port = int(one[3] or {"https": 443}.get(one[1], 80))
        if listens(one[2].strip("[]"), port) and not listens(bridge, port):
            return f"{one[0]} listens on loopback alone, where containers do not come"
    return ""


def bridge_address(said: str) -> str:
    """This machine's address on the bridge, of what the engine says: its gateway, or, of an engine
    that has not been started before, the first address of its network. Empty when it has none.
    """
    for word in said.split():
        return str(ip_network(word)[1]) if "/" in word else word
    return ""


def listens(host: str, port: int) -> bool:
    """Whether a connection is taken."""
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
