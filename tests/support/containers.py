"""A Portero in containers for a test: the repository's compose file, with a project name, a port
and volumes of its own. `Containers` has the face of `tests.support.deployment.Local`.

It owns the containers, networks and volumes whose names begin with `SESSION`. It must never touch
another's, nor prune: several sessions may use one engine.
"""

import hashlib
import io
import itertools
import json
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from run import containers as run_containers
from tests.engine import COMPOSE, ROOT, Engine
from tests.support.deployment import (
    PARTS,
    READY_SECONDS,
    answers,
    credentials_text,
    wait_ready,
)
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

#: Every name that this session gives to the engine begins so.
SESSION = f"portero-test-{secrets.token_hex(3)}"
#: Images are kept as the next session's cache, one set a checkout.
TAG = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
IMAGES = {name: f"portero-test/{name}:{TAG}" for name in ("issuer", "gateway", "llm")}
#: Which image a service runs.
SERVICES = {
    "init": "issuer",
    "issuer": "issuer",
    "reconciler": "issuer",
    "gateway": "gateway",
    "llm": "llm",
}
USER = 10001
#: What the compose file takes from its environment, and what changes compose itself.
SETTINGS = (
    "COMPOSE_FILE",
    "COMPOSE_PROFILES",
    "COMPOSE_PROJECT_NAME",
    "COOKIE_SECURE",
    "CORS_ORIGINS",
    "GATEWAY_PORT",
    "GATEWAY_WORKERS",
    "JWT_ALGORITHM",
    "LLM_API_KEY",
    "LLM_API_KEY_FILE",
    "LLM_CA_FILE",
    "LLM_IDLE_SECONDS",
    "LLM_KIND",
    "LLM_TIMEOUT_SECONDS",
    "LLM_UPSTREAM",
    "PUBLIC_URL",
    "POLICY_FILE",
    "SYNC_MAX_STALENESS_SECONDS",
    "TOKEN_CACHE_SIZE",
    "TOKEN_TTL_SECONDS",
    "TRUSTED_PROXIES",
    "USAGE",
    "WEB_UI",
)
BUILD_SECONDS = 900
COMMAND_SECONDS = 120
MAX_SQUATTERS = 8
START_ORDER = ("issuer", "reconciler", "gateway")


class DockerError(AssertionError):
    """A command of the engine failed; the message has its words."""


class Docker:
    """The engine's command line, and the images of this checkout."""

    def __init__(self, engine: Engine) -> None:
        self.env = {name: value for name, value in engine.env.items() if name not in SETTINGS}

    def run(
        self,
        *words: str,
        check: bool = True,
        data: bytes = b"",
        env: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command of the machine."""
        done = subprocess.run(
            words, cwd=ROOT, env=env or self.env, input=data, capture_output=True, timeout=seconds
        )
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if check and done.returncode:
            raise DockerError(f"`{' '.join(words)}` failed:\n{(out + err)[-3000:]}")
        return subprocess.CompletedProcess(words, done.returncode, out, err)

    def __call__(self, *words: str) -> str:
        """What a docker command prints."""
        return self.run("docker", *words).stdout.strip()

    def build(self) -> None:
        """The images of this checkout, from its Dockerfiles."""
        with tempfile.TemporaryDirectory() as folder:
            files = write_override(Path(folder), {})
            command = [*COMPOSE, "-p", SESSION, *files, "build", *IMAGES]
            self.run(*command, seconds=BUILD_SECONDS)

    def leftovers(self) -> list[str]:
        """What of this session's is still there."""
        listings = (("ps", "-a", "--format", "{{.Names}}"), ("volume", "ls", "-q"))
        networks = ("network", "ls", "--format", "{{.Name}}")
        names = (name for words in (*listings, networks) for name in self(*words).split())
        return [name for name in names if name.startswith(SESSION)]

    def bridge_address(self) -> str:
        """This machine's address as containers know it: host.docker.internal."""
        return run_containers.bridge_address(self(*run_containers.BRIDGE[1:]))


def write_override(folder: Path, extra: Mapping[str, Any]) -> list[str]:
    """The words that name the compose file and what the tests change of it."""
    images = {service: {"image": IMAGES[image]} for service, image in SERVICES.items()}
    path = folder / "compose.json"
    path.write_text(json.dumps({**extra, "services": {**images, **extra.get("services", {})}}))
    return ["-f", str(ROOT / "docker-compose.yml"), "-f", str(path)]


class InsideFile:
    """A file on a volume, by the issuer's container, which must be running."""

    def __init__(self, containers: "Containers", path: str) -> None:
        self._containers = containers
        self._path = path

    def read_text(self) -> str:
        """What is in it."""
        return self._containers.execute("issuer", "cat", self._path).stdout

    def write_text(self, text: str) -> int:
        """Write it in place, as an editor on the volume would."""
        write = ("sh", "-c", 'cat > "$0"', self._path)
        self._containers.execute("issuer", *write, data=text.encode())
        return len(text)


class Containers:
    """The parts as containers of one compose project, which exists from `create` or `up` on."""

    def __init__(
        self,
        docker: Docker,
        settings: Mapping[str, str],
        extra: Mapping[str, Any] | None = None,
        numbers: Iterator[int] = itertools.count(1),  # noqa: B008 - one for all on purpose
    ) -> None:
        self.docker = docker
        self.project = f"{SESSION}-{next(numbers)}"
        (port,) = free_ports(1)
        self.gateway = f"http://127.0.0.1:{port}"
        self.secret_key, self.sync_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.credentials = InsideFile(self, "/data/credentials.env")
        self._folder = Path(tempfile.mkdtemp(prefix="portero-test-"))
        self._compose = [
            *COMPOSE,
            *("-p", self.project),
            *write_override(self._folder, extra or {}),
        ]
        self._env = {
            **docker.env,
            "GATEWAY_PORT": str(port),
            "GATEWAY_WORKERS": "2",
            **settings,
        }
        self._ids: dict[str, str] = {}

    # Addresses: looked up each time, as a container that was started again may have another.

    @property
    def issuer(self) -> str:
        """The issuer's own listener, on the internal network."""
        return f"http://{self.address('issuer', 'sync')}:9000"

    @property
    def internal(self) -> str:
        """The gateway's sync listener, on the internal network."""
        return f"http://{self.address('gateway', 'sync')}:8081"

    @cached_property
    def client_address(self) -> str:
        """What a client of the published port looks like from inside."""
        form = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        return self.docker("network", "inspect", self.network("front"), "--format", form).split()[0]

    def network(self, name: str) -> str:
        """The engine's name for a network of the compose file."""
        return f"{self.project}_{name}"

    def address(self, service: str, network: str) -> str:
        """A service's address on a network; empty when it has none."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(networks.get(self.network(network), {}).get("IPAddress", ""))

    # The project as a whole.

    def compose(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a compose command prints."""
        return self.docker.run(*self._compose, *words, env=self._env, seconds=seconds).stdout

    def create(self) -> None:
        """Make networks, volumes and the container that has both volumes; start nothing."""
        self.compose("up", "--no-start", "--no-build", "init")

    def up(self) -> None:
        """What a user does."""
        self.compose("up", "-d", "--no-build")
        self._ids.clear()

    def start_all(self) -> None:
        """Start the parts one by one, in compose's order, and wait until they serve."""
        for part in START_ORDER:
            self.start(part)
        self.wait_ready()

    def put_settings(self, service: str) -> None:
        """Put keys and users of the tests' own on the volumes that this service has."""
        self._put(service, "/sync", {"sync_key": self.sync_key})
        self._put(
            service,
            "/data",
            {"credentials.env": credentials_text(), "secrets/secret_key": self.secret_key},
        )

    def _put(self, service: str, folder: str, files: Mapping[str, str]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.uid, entry.gid = len(text), 0o600, USER, USER
                archive.addfile(entry, io.BytesIO(text.encode()))
        target = f"{self.id(service)}:{PurePosixPath(folder)}"
        self.docker.run("docker", "cp", "-", target, data=packed.getvalue())

    def mend(self) -> None:
        """Bring it back to how every test may expect it."""
        for part in PARTS:
            if not self.is_running(part):
                self.start(part)
        if self.credentials.read_text() != credentials_text():
            self.credentials.write_text(credentials_text())
            # Each process looks at the file when it needs it; started again it has this one.
            for part in ("issuer", "reconciler"):
                self.stop(part, signal.SIGKILL)
                self.start(part)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it serves, and until the gateway has found the issuer, whose address may be
        new. The error has the last words of each part.
        """
        try:
            wait_ready(self)
            door = f"{self.gateway}/login"
            wait_for(lambda: answers(door, 200), READY_SECONDS, "the gateway finds the issuer")
        except AssertionError as error:
            last = (f"{part}: {self.output(part)[-1500:]}" for part in PARTS)
            raise AssertionError("\n".join([str(error), *last])) from error

    def close(self) -> None:
        """End all that runs and leave nothing behind."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "0")
        shutil.rmtree(self._folder)

    # One part.

    def start(self, part: str) -> None:
        """See `Deployment.start`. Whatever it depends on is not started with it."""
        if self.id(part):
            self.docker("start", self.id(part))
        else:
            self.compose("up", "-d", "--no-deps", "--no-build", part)

    def stop(self, part: str, how: signal.Signals = signal.SIGTERM) -> None:
        """See `Deployment.stop`. The engine does not start it again by itself."""
        self.docker("kill", "--signal", how.name, self.id(part))
        self.docker("wait", self.id(part))

    def kill(self, part: str) -> None:
        """SIGKILL from outside: the engine sees a process that died, not one it was told to end."""
        pid = str(self.inspect(part)["State"]["Pid"])
        kill = ("python", "-c", "import os, sys; os.kill(int(sys.argv[1]), 9)")
        options = ("--rm", "--pid", "host", "--network", "none", "--user", "0")
        self.docker("run", *options, self._named("killer"), IMAGES["issuer"], *kill, pid)

    def restarts(self, part: str) -> int:
        """How often the engine has started it again by itself."""
        return int(self.inspect(part)["RestartCount"])

    def is_running(self, part: str) -> bool:
        """Whether its first process lives."""
        return bool(self.inspect(part)["State"]["Running"])

    def output(self, part: str) -> str:
        """See `Deployment.output`."""
        done = self.docker.run("docker", "logs", self.id(part))
        return done.stdout + done.stderr

    def command(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """See `Deployment.command`."""
        return self.execute("issuer", "python", "-m", "issuer", *words, check=check)

    def command_lines(self, part: str) -> list[str]:
        """See `Deployment.command_lines`."""
        return self.docker("top", self.id(part), "-eo", "pid,args").splitlines()[1:]

    def execute(
        self, part: str, *words: str, check: bool = True, data: bytes = b""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside a part's container."""
        options = ("-i",) if data else ()
        command = ("docker", "exec", *options, self.id(part), *words)
        return self.docker.run(*command, check=check, data=data)

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a service's container."""
        (found,) = json.loads(self.docker("inspect", self.id(service)))
        return dict(found)

    def id(self, service: str) -> str:
        """The container of a service; empty while there is none."""
        if not self._ids.get(service):
            labels = {"project": self.project, "service": service}
            filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
            self._ids[service] = self.docker("ps", "-aq", "--no-trunc", *filters)
        return self._ids[service]

    # Faults of the network.

    @contextmanager
    def cut(self, part: str, network: str, *aliases: str) -> Iterator[None]:
        """Take a part off a network for a while."""
        name, words = self.network(network), [f"--alias={alias}" for alias in aliases]
        self.docker("network", "disconnect", name, self.id(part))
        try:
            yield
        finally:
            self.docker("network", "connect", *words, name, self.id(part))

    @contextmanager
    def taken(self, network: str, address: str) -> Iterator[None]:
        """Others take free addresses of a network until they have this one."""
        with ExitStack() as at_the_end:
            for _ in range(MAX_SQUATTERS):
                squatter = self._squat(network)
                at_the_end.callback(self.docker, "rm", "-f", squatter)
                form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
                if self.docker("inspect", squatter, "--format", form) == address:
                    break
            yield

    def _squat(self, network: str) -> str:
        options = ("-d", "--init", "--network", self.network(network), self._named("squatter"))
        return self.docker("run", *options, IMAGES["issuer"], "sleep", "600")

    def try_from(self, network: str, script: str, *arguments: str) -> str:
        """What a Python script prints in a new container on a network."""
        # On an internal network the engine leaves unknown names without an answer.
        quick = ("--dns-opt", "timeout:1", "--dns-opt", "attempts:1")
        options = (*quick, "--rm", "--network", self.network(network), self._named("probe"))
        return self.docker("run", *options, IMAGES["issuer"], "python", "-c", script, *arguments)

    def _named(self, kind: str) -> str:
        return f"--name={self.project}-{kind}-{secrets.token_hex(3)}"


@contextmanager
def contained(docker: Docker, llm_port: int, **settings: str) -> Iterator[Containers]:
    """A deployment in containers, ready to judge, whose LLM server listens on this machine."""
    upstream = f"http://host.docker.internal:{llm_port}"
    containers = Containers(docker, {"LLM_UPSTREAM": upstream, **settings})
    try:
        containers.create()
        containers.put_settings("init")
        containers.start_all()
        reach = f"exec 3<>/dev/tcp/host.docker.internal/{llm_port}"
        containers.execute("gateway", "timeout", "5", "bash", "-c", reach)
        yield containers
    finally:
        containers.close()


@contextmanager
def composed(docker: Docker) -> Iterator[Containers]:
    """What `docker compose up` makes of empty volumes, bundled LLM and all."""
    containers = Containers(docker, {})
    try:
        containers.up()
        containers.wait_ready()
        yield containers
    finally:
        containers.close()


@contextmanager
def built_and_composed(docker: Docker) -> Iterator[Containers]:
    """The same, with images that are built on the way."""
    own = {
        service: {"image": f"portero-test/{image}:{TAG}-built"}
        for service, image in SERVICES.items()
    }
    containers = Containers(docker, {}, {"services": own})
    try:
        containers.compose("up", "-d", "--build", seconds=BUILD_SECONDS)
        containers.wait_ready()
        yield containers
    finally:
        containers.close()


@contextmanager
def on_a_small_disk(docker: Docker, kilobytes: int) -> Iterator[Containers]:
    """A deployment whose volume for data has only so much room."""
    options = f"size={kilobytes}k,uid={USER},gid={USER},mode=0700"
    data = {"driver": "local", "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": options}}
    # A tmpfs lives as long as somebody has it mounted.
    holder = {
        "image": IMAGES["issuer"],
        "command": ["sleep", "3600"],
        "init": True,
        "volumes": ["data:/data", "sync:/sync"],
        "networks": ["sync"],
    }
    containers = Containers(
        docker,
        {"LLM_UPSTREAM": "http://host.docker.internal:9"},
        {"services": {"holder": holder}, "volumes": {"data": data}},
    )
    try:
        containers.create()
        containers.start("holder")
        containers.put_settings("holder")
        containers.start_all()
        yield containers
    finally:
        containers.close()
