"""A Docker engine and base images for the tests: what the machine has, else ones of our own.

It owns the directory RUN, the git-ignored `.cache/engine` and `.cache/images`, and every daemon,
container, network and volume of an engine that it started itself; all of those are gone when its
last user leaves, the cache stays. It must never stop, empty or reconfigure an engine that was
there before it, and never end a process by name.

    with engine() as docker:
        subprocess.run([*COMPOSE, "up", "-d", "--build"], env=docker.env, check=True)

By hand: `python -m tests.engine up` (prints what to export), `python -m tests.engine down`.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
DATA = CACHE / "engine"
IMAGES = CACHE / "images"

# One engine of ours a machine, whichever checkout starts it: a second daemon would rewrite the
# first one's packet filter. /run keeps the socket's path short and is root's own.
RUN = Path("/run/portero-engine")
SOCKET = RUN / "docker.sock"
PID_FILE = RUN / "docker.pid"
LEASE = RUN / "lease"
CLIENT = RUN / "client"
KEEP = RUN / "keep"
NETWORK_BEFORE = RUN / "network-before.json"
LOCK = Path("/run/portero-engine.lock")

PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
}
COMPOSE = ["docker", "compose"]
#: Debian 12 has no compose plugin; it is taken out of the stand-ins' release, in a container, whose
#: packages are checked as always.
PLUGIN = CACHE / "compose" / "docker-compose"
PLUGIN_HOME = "/usr/libexec/docker/cli-plugins/docker-compose"
FETCH_PLUGIN = f"""\
set -e
apt-get update -qq
cd /tmp
apt-get download -qq docker-compose
dpkg -x docker-compose_*.deb /tmp/unpacked
cat /tmp/unpacked{PLUGIN_HOME}
"""
#: What names base images, and how.
NAMING = {
    "openresty/Dockerfile": r"^ARG (\w+_IMAGE)=(\S+)",
    "issuer/Dockerfile": r"^ARG (\w+_IMAGE)=(\S+)",
    "demo/Dockerfile": r"^ARG (\w+_IMAGE)=(\S+)",
    "acme/Dockerfile": r"^ARG (\w+_IMAGE)=(\S+)",
    "docker-compose.scale.yml": r"^ +image: \$\{(\w+_IMAGE):-(\S+)\}",
}
SUITE = "trixie"
DEBIAN = f"portero-stand-in/debian:{SUITE}"
HOST_CA = "/usr/local/share/portero-host-ca.pem"
HOST_SETTINGS = (
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_DEFAULT_TIMEOUT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")

START_SECONDS = 60
STOP_SECONDS = 30
PULL_SECONDS = 180
TIMED_OUT = 124
KEEP_STAGES = "until=168h"

OPENRESTY_STAND_IN = """\
FROM {base}
RUN apt-get update \\
    && apt-get install -y --no-install-recommends ca-certificates gettext-base nginx \\
        libnginx-mod-http-lua lua-cjson lua-resty-core lua-resty-lrucache \\
    && apt-get clean && rm -rf /var/lib/apt/lists/* \\
    && mkdir -p /usr/local/openresty/bin /usr/local/openresty/nginx/sbin \\
    && ln -s /usr/sbin/nginx /usr/local/openresty/nginx/sbin/nginx \\
    && ln -s /usr/local/openresty/nginx/sbin/nginx /usr/local/openresty/bin/openresty \\
    && ln -s /usr/local/openresty/bin/openresty /usr/bin/openresty
COPY host-ca.pem {ca}
ENV PATH="$PATH:/usr/local/openresty/nginx/sbin:/usr/local/openresty/bin" {settings}
STOPSIGNAL SIGQUIT
CMD ["/usr/bin/openresty", "-g", "daemon off;"]
"""

PYTHON_STAND_IN = """\
FROM {base}
RUN apt-get update \\
    && apt-get install -y --no-install-recommends ca-certificates \\
        python3 python3-pip python3-venv \\
    && apt-get clean && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED \\
    && ln -s /usr/bin/python3 /usr/local/bin/python \\
    && ln -s /usr/bin/python3 /usr/local/bin/python3 \\
    && ln -s /usr/bin/pip /usr/local/bin/pip
COPY host-ca.pem {ca}
ENV {settings}
CMD ["python3"]
"""

#: As much of the official image's face as docker-compose.scale.yml looks at. Unpacked, as the
#: package would bring a compiler of 300 MB along that nothing here needs, and make a cluster.
POSTGRES_STAND_IN = """\
FROM {base}
RUN apt-get update \\
    && apt-get install -y --no-install-recommends libicu76 liblz4-1 libpq5 \\
        libreadline8t64 libxslt1.1 tzdata \\
    && apt-get download postgresql-17 postgresql-client-17 \\
    && for package in postgresql-*.deb; do dpkg -x $package /; done \\
    && apt-get clean && rm -rf /var/lib/apt/lists/* postgresql-*.deb \\
    && echo 'somebody:x:10001:10001::/:/bin/false' >> /etc/passwd \\
    && install -d -m 1777 /var/lib/postgresql/data && install -d -m 3777 /var/run/postgresql \\
    && printf '%s\\n' '#!/bin/sh' 'set -e' 'if [ ! -s "$PGDATA/PG_VERSION" ]; then' \\
        '    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE"' \\
        '    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"' \\
        '    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres' \\
        'fi' 'exec "$@"' > /usr/local/bin/docker-entrypoint.sh \\
    && chmod 0755 /usr/local/bin/docker-entrypoint.sh \\
    && echo "listen_addresses = '*'" >> /usr/share/postgresql/17/postgresql.conf.sample
ENV PATH="$PATH:/usr/lib/postgresql/17/bin" PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
CMD ["postgres"]
"""

STAND_INS = {
    "OPENRESTY_IMAGE": OPENRESTY_STAND_IN,
    "PYTHON_IMAGE": PYTHON_STAND_IN,
    "POSTGRES_IMAGE": POSTGRES_STAND_IN,
}


class NoEngineError(RuntimeError):
    """No engine answers and none can be started here; the message says what would help."""


@dataclass(frozen=True)
class Engine:
    """How to talk to the engine: pass `env` to every docker and compose command."""

    env: dict[str, str]
    build_args: dict[str, str]
    started_here: bool
    steps: dict[str, float] = field(default_factory=dict)


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine that answers already, or one of our own for as long as the block runs."""
    if _answers(os.environ):
        with _alone():
            prepared = _prepare(os.environ, started_here=False, steps={})
        yield prepared
        return
    _require_root()
    with _alone():
        lease, prepared = _enter()
    try:
        yield prepared
    finally:
        with _alone():
            _leave(lease)


def up() -> Engine:
    """Starts our own engine and leaves it running until `down`."""
    _require_root()
    with _alone():
        lease, prepared = _enter()
        KEEP.touch()
        os.close(lease)
    return prepared


def down() -> None:
    """Stops our own engine, unless a test run is still using it."""
    if not RUN.exists():
        return
    with _alone():
        KEEP.unlink(missing_ok=True)
        _leave(_open_lease())


# Who uses the engine. Every user holds a shared lock on LEASE; the one that can make its own
# exclusive is the last and stops the daemon. A user that was killed loses its lock with its
# life, so the next run's last user cleans up after it.


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    # Who is not root starts no engine, so for them a lock of the checkout is enough.
    lock = LOCK if os.geteuid() == 0 else CACHE / LOCK.name
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _open_lease() -> int:
    RUN.mkdir(mode=0o700, exist_ok=True)
    lease = os.open(LEASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lease, fcntl.LOCK_SH)
    return lease


def _enter() -> tuple[int, Engine]:
    lease = _open_lease()
    steps: dict[str, float] = {}
    env = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
    try:
        if not _answers(env):
            with _timed("packages", steps):
                _install(_missing_packages())
            with _timed("daemon", steps):
                _start_daemon(env)
        return lease, _prepare(env, started_here=True, steps=steps)
    except BaseException:
        _leave(lease)
        raise


def _leave(lease: int) -> None:
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        if not KEEP.exists():
            _stop_daemon()
    finally:
        os.close(lease)


# The daemon.


def _require_root() -> None:
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers, and only root can start one here")


def _answers(env: Mapping[str, str]) -> bool:
    if shutil.which("docker") is None:
        return False
    probe = ["docker", "version", "--format", "{{.Server.Version}}"]
    return _run(probe, env, check=False, seconds=10) == 0


def _missing_packages() -> list[str]:
    return [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]


def _install(packages: Sequence[str]) -> None:
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoEngineError(f"not installed here, and needed: {' '.join(packages)}")
    print(f"engine: installing {' '.join(packages)}", file=sys.stderr)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services_started():
        _run(["apt-get", "update", "-qq"], env)
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env)
    if "docker.io" in packages:
        _disable_services(env)


@contextmanager
def _no_services_started() -> Iterator[None]:
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _disable_services(env: Mapping[str, str]) -> None:
    """Debian enables a service as it installs it; nobody asked for a daemon at the next boot."""
    units = ("docker.service", "docker.socket", "containerd.service")
    if shutil.which("systemctl"):
        _run(["systemctl", "disable", *units], env, check=False)
    if shutil.which("update-rc.d"):
        _run(["update-rc.d", "docker", "disable"], env, check=False)


def _start_daemon(env: Mapping[str, str]) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    _remember_network()
    # A file of our own, or the daemon reads the machine's /etc/docker/daemon.json as well.
    config = RUN / "daemon.json"
    config.write_text(json.dumps({"mtu": _uplink_mtu(), "log-level": "warn"}))
    command = ["dockerd", "--config-file", str(config), "--host", f"unix://{SOCKET}"]
    command += ["--data-root", str(DATA / "data"), "--exec-root", str(RUN / "exec")]
    command += ["--pidfile", str(PID_FILE)]
    log = DATA / "dockerd.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C must reach the tests first, which then stop it in order.
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    if not _wait(lambda: _answers(env) or daemon.poll() is not None, START_SECONDS):
        daemon.kill()
        daemon.wait()
    if daemon.poll() is not None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise NoEngineError(f"dockerd did not come up; the end of {log}:\n{tail}")
    # From here on the pid file stands for it: whoever stops it may be another process, and this
    # object must not complain, as it is forgotten, that its process still runs.
    daemon.returncode = 0


def _stop_daemon() -> None:
    env = {**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"}
    if _answers(env):
        _remove_all(env, ["ps", "-aq"], ["rm", "-fv"])
        _remove_all(env, ["network", "ls", "-q", "--filter", "type=custom"], ["network", "rm"])
        _remove_all(env, ["volume", "ls", "-q"], ["volume", "rm", "-f"])
        # Images without a name are the stages of earlier builds, and next time's cache.
        for kind in ("image", "builder"):
            _run(["docker", kind, "prune", "-f", "--filter", KEEP_STAGES], env, check=False)
    pid = _daemon_pid()
    if pid is not None:
        _end(pid)
    _restore_network()
    _remove_run()


def _remove_run() -> None:
    """A daemon that ends in haste leaves its containers' network namespaces mounted in here."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    ours = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{RUN}/")]
    for mount in reversed(ours):
        _run(["umount", "--lazy", mount], os.environ, check=False)
    shutil.rmtree(RUN, ignore_errors=True)


def _remove_all(env: Mapping[str, str], listing: Sequence[str], remove: Sequence[str]) -> None:
    names = _output(["docker", *listing], env).split()
    if names:
        _run(["docker", *remove, *names], env, check=False)


def _daemon_pid() -> int | None:
    """The daemon's pid, if that process still is the daemon that we started."""
    try:
        pid = int(PID_FILE.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(PID_FILE).encode() in words else None


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if _wait(lambda: _gone(pid), STOP_SECONDS):
            return


def _gone(pid: int) -> bool:
    # Where the daemon is our own child it stays a zombie, and looks alive, until it is reaped.
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not Path(f"/proc/{pid}").exists()


# The host's network. The daemon turns forwarding on, makes a bridge and chains, and leaves them.


def _remember_network() -> None:
    if NETWORK_BEFORE.exists():  # left by a run that was killed: the older truth is the true one
        return
    before = {
        "ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
        "forward_policy": _forward_policy(),
        "docker_chains": "DOCKER" in _output(["iptables-save"], os.environ),
        "docker0": Path("/sys/class/net/docker0").exists(),
    }
    NETWORK_BEFORE.write_text(json.dumps(before))


def _restore_network() -> None:
    if not NETWORK_BEFORE.exists():
        return
    before = json.loads(NETWORK_BEFORE.read_text())
    if not before["docker0"]:
        _run(["ip", "link", "delete", "docker0"], os.environ, check=False)
    if not before["docker_chains"]:
        for table in ("filter", "nat"):
            _remove_docker_chains(table)
        _run(["iptables", "-P", "FORWARD", before["forward_policy"]], os.environ, check=False)
    Path("/proc/sys/net/ipv4/ip_forward").write_text(before["ip_forward"])


def _forward_policy() -> str:
    found = re.search(r"^:FORWARD (\w+)", _output(["iptables-save"], os.environ), re.MULTILINE)
    return found.group(1) if found else "ACCEPT"


def _remove_docker_chains(table: str) -> None:
    saved = _output(["iptables-save", "-t", table], os.environ).splitlines()
    chains = [line.split()[0][1:] for line in saved if line.startswith(":DOCKER")]
    rules = [line.split() for line in saved if line.startswith("-A ")]
    ours = [rule for rule in rules if "docker0" in rule or not set(chains).isdisjoint(rule)]
    for rule in ours:
        _run(["iptables", "-t", table, "-D", *rule[1:]], os.environ, check=False)
    for chain in chains:
        _run(["iptables", "-t", table, "-X", chain], os.environ, check=False)


def _uplink_mtu() -> int:
    """A bridge wider than the way out loses large packets where path discovery is filtered."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        interface, destination = line.split()[:2]
        if int(destination, 16) == int(ipaddress.IPv4Address(0)):
            return int(Path(f"/sys/class/net/{interface}/mtu").read_text())
    return 1500


# The base images: the ones that the Dockerfiles name, where they can be had, else stand-ins.


def _prepare(env: Mapping[str, str], *, started_here: bool, steps: dict[str, float]) -> Engine:
    build_args = _base_images(env, steps)
    if started_here:
        env = _with_plugin(env, steps)
    if not _has_compose(env):
        raise NoEngineError("the engine that answers here has no `docker compose`; install it")
    return Engine({**env, **build_args}, build_args, started_here, steps)


def _has_compose(env: Mapping[str, str]) -> bool:
    return _run([*COMPOSE, "version"], env, check=False) == 0


def _with_plugin(env: Mapping[str, str], steps: dict[str, float]) -> Mapping[str, str]:
    """The environment in which `docker compose` answers. The machine's own folders stay as they
    are: docker is pointed at one of ours, which has the user's settings.
    """
    if _has_compose(env):
        return env
    if not PLUGIN.exists():
        _make_debian(env, steps)
        with _timed("compose plugin", steps):
            _fetch_plugin(env)
    plugins = CLIENT / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    settings = Path(env.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    links = {plugins / PLUGIN.name: PLUGIN, CLIENT / settings.name: settings.resolve()}
    for link, target in links.items():
        link.unlink(missing_ok=True)
        if target.exists():
            link.symlink_to(target)
    return {**env, "DOCKER_CONFIG": str(CLIENT)}


def _fetch_plugin(env: Mapping[str, str]) -> None:
    command = ["docker", "run", "--rm", DEBIAN, "sh", "-c", FETCH_PLUGIN]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    if done.returncode:
        raise NoEngineError(f"no compose plugin:\n{done.stderr.decode(errors='replace')[-3000:]}")
    PLUGIN.parent.mkdir(parents=True, exist_ok=True)
    part = PLUGIN.with_suffix(".part")
    part.write_bytes(done.stdout)
    part.chmod(0o755)
    part.rename(PLUGIN)  # whole or not at all: a later run takes it as it is


def _base_images(env: Mapping[str, str], steps: dict[str, float]) -> dict[str, str]:
    """Build arguments that name the stand-ins; empty where the official images are to be had."""
    given = {name: env[name] for name in STAND_INS if env.get(name)}
    if len(given) == len(STAND_INS):
        return given
    official = _official_images()
    if all(_has_image(env, image) for image in official.values()):
        return {}
    stand_ins = {name: _stand_in_name(name, recipe) for name, recipe in STAND_INS.items()}
    if all(_has_image(env, image) for image in stand_ins.values()):
        return stand_ins
    with _timed("pull", steps):
        if all(_pull(env, image) for image in official.values()):
            return {}
    _make_stand_ins(env, stand_ins, steps)
    return stand_ins


def _official_images() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, form in NAMING.items():
        found.update(re.findall(form, (ROOT / name).read_text(), re.MULTILINE))
    return found


def _has_image(env: Mapping[str, str], image: str) -> bool:
    return _run(["docker", "image", "inspect", image], env, check=False) == 0


def _pull(env: Mapping[str, str], image: str) -> bool:
    return _run(["docker", "pull", "-q", image], env, check=False, seconds=PULL_SECONDS) == 0


def _make_stand_ins(
    env: Mapping[str, str], images: Mapping[str, str], steps: dict[str, float]
) -> None:
    _make_debian(env, steps)
    for name, image in images.items():
        with _timed(image.partition(":")[0], steps):
            _build_stand_in(env, _stand_in_recipe(STAND_INS[name], DEBIAN), image)
            _forget_older(env, image)


def _make_debian(env: Mapping[str, str], steps: dict[str, float]) -> None:
    """The image that everything of ours begins with."""
    if _has_image(env, DEBIAN):
        return
    tarball = IMAGES / f"{SUITE}-minbase.tar"
    if not tarball.exists():
        with _timed("debootstrap", steps):
            _bootstrap(tarball)
    with _timed("import", steps):
        _run(["docker", "import", str(tarball), DEBIAN], env)


def _forget_older(env: Mapping[str, str], image: str) -> None:
    listing = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", image.split(":", 1)[0]]
    older = [name for name in _output(listing, env).split() if name != image]
    if older:
        _run(["docker", "rmi", *older], env, check=False)


def _bootstrap(tarball: Path) -> None:
    if shutil.which("debootstrap") is None:
        _install(["debootstrap"])
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tarball.parent) as scratch:
        tree, packed = Path(scratch) / "root", Path(scratch) / "root.tar"
        # In a mount namespace of its own: what debootstrap mounts inside the tree must be gone
        # before the tree is removed, however it ends.
        bootstrap = ["unshare", "--mount", "debootstrap", "--variant=minbase", SUITE, str(tree)]
        _run(bootstrap, os.environ)
        (tree / "etc/apt/apt.conf.d/90host").write_text(_host_apt_settings())
        leave_out = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./dev/*")
        excludes = [f"--exclude={pattern}" for pattern in leave_out]
        _run(["tar", "-C", str(tree), *excludes, "-cf", str(packed), "."], os.environ)
        packed.rename(tarball)  # whole or not at all: a later run takes it as it is


def _host_apt_settings() -> str:
    """How this machine reaches its package mirror: proxies, and whether dates can be trusted."""
    wanted = re.compile(r"^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date|Retries)\b.*;$")
    dump = _output(["apt-config", "dump"], os.environ).splitlines()
    return "".join(f"{line}\n" for line in dump if wanted.match(line))


def _build_stand_in(env: Mapping[str, str], recipe: str, image: str) -> None:
    with tempfile.TemporaryDirectory() as context:
        (Path(context) / "Dockerfile").write_text(recipe)
        (Path(context) / "host-ca.pem").write_bytes(_host_certificates())
        _run(["docker", "build", "-q", "-t", image, context], env)


def _stand_in_recipe(template: str, base: str) -> str:
    settings = {"PIP_CERT": HOST_CA, "SSL_CERT_FILE": HOST_CA}
    settings.update({name: os.environ[name] for name in HOST_SETTINGS if name in os.environ})
    words = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    return template.format(base=base, ca=HOST_CA, settings=words)


def _stand_in_name(name: str, template: str) -> str:
    """Named by its content, so that a new certificate or recipe makes a new image."""
    content = _stand_in_recipe(template, SUITE).encode() + _host_certificates()
    kind = name.removesuffix("_IMAGE").lower()
    return f"portero-stand-in/{kind}:{hashlib.sha256(content).hexdigest()[:12]}"


def _host_certificates() -> bytes:
    candidates = (os.environ.get("SSL_CERT_FILE", ""), *CA_BUNDLES)
    existing = [Path(name) for name in candidates if name and Path(name).is_file()]
    return existing[0].read_bytes() if existing else b""


# Processes and time.


def _run(
    command: Sequence[str], env: Mapping[str, str], *, check: bool = True, seconds: float = 600
) -> int:
    """Runs a command in silence; where it must succeed and does not, its words are the error."""
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        status, said = TIMED_OUT, f"no end after {expired.timeout} s"
    else:
        status, said = done.returncode, done.stdout
    if check and status != 0:
        raise NoEngineError(f"`{' '.join(command)}` failed:\n{said[-3000:]}")
    return status


def _output(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stdout


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def _timed(step: str, steps: dict[str, float]) -> Iterator[None]:
    begin = time.monotonic()
    yield
    steps[step] = round(time.monotonic() - begin, 2)
    print(f"engine: {step} {steps[step]:.1f} s", file=sys.stderr)


def main(words: Sequence[str]) -> int:
    """The command line: `up` prints the lines to export, `down` stops the engine again."""
    if list(words) == ["down"]:
        down()
        return 0
    if list(words) != ["up"]:
        print("usage: python -m tests.engine up|down", file=sys.stderr)
        return 2
    running = up()
    for name in ("DOCKER_HOST", "DOCKER_CONFIG", *running.build_args):
        if name in running.env:
            print(f"export {name}={running.env[name]}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NoEngineError as error:
        sys.exit(str(error))
