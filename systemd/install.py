"""`make install`: Portero as services of this machine's systemd, in /usr/local/lib/portero with its
settings in /etc/portero; again, it is the upgrade. `make uninstall` takes it away.

A release is a folder named after its content, and the services follow the link `current`. It must
never overwrite what is in /etc/portero or /var/lib/portero, nor remove it unless it is told to, and
no running gateway is stopped before another one has taken its place.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from run import set_up
from run.commands import ROOT, RunError, call, read_text, say
from run.data_dir import locked
from systemd.upgrade import upgrade

ISSUER, GATEWAY = "portero", "portero-gateway"
#: What operators call, in the checkout and in a release.
ADMIN = "systemd/portero-admin"
#: What of the checkout a release is made of.
PROGRAM = ("issuer", "openresty", "policy", "docs", ADMIN, "requirements.txt")
SOURCES = ROOT / "systemd"
UNITS = (
    "portero.target",
    "portero-issuer.socket",
    "portero-issuer.service",
    "portero-reconciler.service",
    "portero-gateway@.service",
    "portero-backup.service",
    "portero-backup.timer",
)
#: What is enabled and started; what starts again with each release.
STARTED = ("portero-issuer.socket", "portero-backup.timer", "portero.target")
RESTARTED = ("portero-issuer.service", "portero-reconciler.service")
SETTINGS = ("portero.env", "issuer.env", "gateway.env")
#: The internal listeners of a gateway and of the one that takes its place.
PORTS = (8081, 8082)
GATEWAYS = "gateways.env"
KEPT_RELEASES = 2
#: How nginx calls its workers.
WORKER = "nginx: worker process"


@dataclass(frozen=True)
class Places:
    """Where things are, below a root that is `/` but for packages and tests (DESTDIR)."""

    root: Path

    @property
    def lib(self) -> Path:
        """Releases, the environments they run in, and the link to the one in force."""
        return self.root / "usr/local/lib/portero"

    @property
    def etc(self) -> Path:
        """Settings and policy."""
        return self.root / "etc/portero"

    @property
    def units(self) -> Path:
        """systemd's."""
        return self.root / "etc/systemd/system"

    @property
    def command(self) -> Path:
        """What operators call."""
        return self.root / "usr/local/bin/portero-admin"

    @property
    def others(self) -> dict[str, Path]:
        """File of ours -> where the machine looks for it."""
        return {
            "portero.logrotate": self.root / "etc/logrotate.d/portero",
            "portero.sysctl": self.root / "etc/sysctl.d/60-portero.conf",
        }

    @property
    def data(self) -> Path:
        """The store, secrets and users."""
        return self.root / "var/lib/portero"

    @property
    def gateways_data(self) -> Path:
        """The gateway's copy of the one key that both sides have."""
        return self.root / "var/lib/portero-gateway"


def places() -> Places:
    """Those that DESTDIR names."""
    return Places(Path(os.environ.get("DESTDIR") or "/"))


# --- install --------------------------------------------------------------------------------------


def install() -> None:
    """`make install`. Raises `RunError` before anything is changed where it cannot be done."""
    at = places()
    if at.root != Path("/"):
        put_files(at, make_release(at))
        say(f"The files are in {at.root}; nothing was started.")
        return
    prepare()
    with locked(Path("/var/lib"), "Another installation is under way; waiting for it."):
        make_users()
        before = (at.lib / "current").resolve().name
        put_files(at, make_release(at))
        close_settings(at)
        make_secrets(at)
        run("systemctl", "daemon-reload")
        run("sysctl", "--quiet", "--load", str(at.others["portero.sysctl"]), needed=False)
        begin(at, before)
        forget_releases(at)
    told = f"Portero runs: {at.command} doctor; first users: {at.data}/demo-logins"
    say(f"{told}; settings: {at.etc} ({at.lib}/current/docs/service.md).")


def prepare() -> None:
    """All checks, then the packages that are missing."""
    faults = [] if os.geteuid() == 0 else ["make install changes the machine: run it as root"]
    if not Path("/run/systemd/system").is_dir():
        faults.append("systemd does not run this machine; DESTDIR=… puts the files elsewhere")
    if Path(sys.executable).resolve().is_relative_to("/root") or "/home/" in sys.executable:
        faults.append(
            f"{sys.executable} is in a home, which services do not see: "
            "make install PYTHON=/usr/bin/python3"
        )
    packages = [*set_up.gateway_packages(), *set_up.python_packages()]
    if faults := [*faults, *set_up.package_faults(packages)]:
        raise RunError(*faults)
    set_up.install_packages(packages)


def make_release(at: Places) -> Path:
    """The program of this checkout in a folder of its own, whole or not there; an environment of
    Python packages for it, which releases of the same requirements share.
    """
    release = at.lib / "releases" / digest_of(files())
    if release.exists():
        return release
    part = release.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in files():
        (part / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, part / name)
    environment = make_environment(at)
    (part / "venv").symlink_to(os.path.relpath(environment, release))
    (part / ADMIN).chmod(0o755)
    if call([str(environment / "bin/python"), "-m", "compileall", "-q", str(part / "issuer")]):
        raise RunError("the program could not be compiled, the reason is above")
    open_to_all(part)
    part.rename(release)
    return release


def files() -> list[str]:
    """The files of a release, as git has them, or where there is no git all that is there."""
    found = [path for name in PROGRAM for path in _below(ROOT / name)]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def _below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from (one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts)


def digest_of(names: Sequence[str]) -> str:
    """What names a release."""
    found = hashlib.sha256(sys.version.encode())
    for name in names:
        found.update(f"{name}\0".encode() + (ROOT / name).read_bytes())
    return found.hexdigest()[:12]


def make_environment(at: Places) -> Path:
    """A virtual environment without an installer in it. Where PORTERO_VENV names one, that one."""
    if given := os.environ.get("PORTERO_VENV"):
        return Path(given)
    names = hashlib.sha256((ROOT / set_up.PRODUCT).read_bytes() + sys.version.encode())
    folder = at.lib / "venvs" / names.hexdigest()[:12]
    if folder.exists():
        return folder
    part, pip = folder.with_suffix(".part"), ["-m", "pip", "--disable-pip-version-check", "-q"]
    say(f"Making a virtual environment in {folder}")
    made = call([sys.executable, "-m", "venv", "--clear", str(part)])
    python = str(part / "bin/python")
    if made or call([python, *pip, "install", "-r", str(ROOT / set_up.PRODUCT)]):
        raise RunError("the Python packages could not be installed, the reason is above")
    open_to_all(part)
    part.rename(folder)
    return folder


def open_to_all(folder: Path) -> None:
    """Readable by everybody and writable by root alone, whatever the umask is."""
    run("chmod", "-R", "a+rX,go-w", str(folder))


def put_files(at: Places, release: Path) -> None:
    """Units and what belongs to them, each replaced; settings and policy where there are none."""
    for name in UNITS:
        put(SOURCES / name, at.units / name)
    for name, path in at.others.items():
        put(SOURCES / name, path)
    for name in SETTINGS:
        put(SOURCES / name, at.etc / name, anew=False)
    for path in _below(ROOT / "policy"):
        put(path, at.etc / "policy" / path.relative_to(ROOT / "policy"), anew=False)
    if not (at.etc / GATEWAYS).exists():
        name_gateways(at, PORTS[:1])
    link(at.lib / "current", Path("releases") / release.name)
    link(at.command, Path(os.path.relpath(at.lib / "current" / ADMIN, at.command.parent)))


def put(source: Path, place: Path, anew: bool = True) -> None:
    """A file in its place, whole."""
    if place.exists() and not anew:
        return
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    shutil.copyfile(source, part)
    part.chmod(0o644)
    part.rename(place)


def link(place: Path, target: Path) -> None:
    """A link in the place of the former one, at no moment missing."""
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.rename(place)


def make_users() -> None:
    """Of the issuer and of the gateway, who must not read what the issuer does."""
    for name in (ISSUER, GATEWAY):
        if subprocess.run(["id", name], capture_output=True, check=False).returncode:
            shell = "/usr/sbin/nologin"
            run("useradd", "--system", "--user-group", "--no-create-home", "--shell", shell, name)


def make_secrets(at: Places) -> None:
    """Keys and first users, once; the gateway gets a copy of the key of the sync."""
    at.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    run("chown", f"{ISSUER}:{ISSUER}", str(at.data))
    python = str(at.lib / "current/venv/bin/python")
    words = ["-m", "issuer", "init", "--data-dir", str(at.data)]
    become = ["setpriv", f"--reuid={ISSUER}", f"--regid={ISSUER}", "--init-groups"]
    run(*become, "env", "-C", str(at.lib / "current"), python, *words)
    at.gateways_data.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = at.gateways_data / "sync_key"
    run("install", "-m", "0600", str(at.data / "secrets/sync_key"), str(key))
    run("chown", "-R", f"{GATEWAY}:{GATEWAY}", str(at.gateways_data))


def close_settings(at: Places) -> None:
    """What may hold a key is for who needs it: systemd reads them as root."""
    run("chown", f"root:{ISSUER}", str(at.etc / "issuer.env"))
    run("chmod", "0640", str(at.etc / "issuer.env"))
    run("chmod", "0600", str(at.etc / "gateway.env"))


def begin(at: Places, before: str) -> None:
    """Start what does not run; a gateway that runs gives way to one of this release. Where that
    fails all goes on with the release before.
    """
    machine = Systemd(at)
    running = [port for port in PORTS if machine.is_active(port)]
    run("systemctl", "enable", "--quiet", *STARTED, *RESTARTED)
    if not running:
        name_gateways(at, PORTS[:1])
        run("systemctl", "enable", "--quiet", unit(PORTS[0]))
        run("systemctl", "restart", *RESTARTED, unit(PORTS[0]))
        run("systemctl", "start", *STARTED)
        return
    run("systemctl", "start", *STARTED)
    old = running[0]
    new = next(port for port in PORTS if port != old)
    try:
        upgrade(machine, old, new)
    except RunError:
        link(at.lib / "current", Path("releases") / before)
        machine.tell([old])
        raise
    run("systemctl", "disable", "--quiet", unit(old))
    run("systemctl", "enable", "--quiet", unit(new))


def forget_releases(at: Places) -> None:
    """All but the one in force and the one before it, and the environments that neither needs."""
    current = (at.lib / "current").resolve()
    found = sorted((at.lib / "releases").iterdir(), key=lambda path: path.stat().st_mtime)
    kept = [current, *[path for path in reversed(found) if path != current][: KEPT_RELEASES - 1]]
    needed = {(path / "venv").resolve() for path in kept}
    venvs = (at.lib / "venvs").iterdir() if (at.lib / "venvs").exists() else ()
    for path in [*(one for one in found if one not in kept), *(set(venvs) - needed)]:
        shutil.rmtree(path)


# --- systemd --------------------------------------------------------------------------------------


class Systemd:
    """A `systemd.upgrade.Machine`."""

    def __init__(self, at: Places) -> None:
        self._at = at
        self._before: dict[int, set[str]] = {}

    def tell(self, ports: Sequence[int]) -> None:
        """Issuer and reconciler start again, with the code that is in force now."""
        name_gateways(self._at, ports)
        run("systemctl", "restart", "portero-issuer.service", "portero-reconciler.service")

    def start(self, port: int) -> None:
        """See `Machine.start`."""
        run("systemctl", "start", unit(port))

    def stop(self, port: int) -> None:
        """See `Machine.stop`."""
        run("systemctl", "stop", unit(port))

    def set_shut(self, port: int, is_shut: bool) -> None:
        """See `Machine.set_shut`. What is in /run is gone at the next boot."""
        path = self._at.root / f"run/portero/{port}.shut"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        if is_shut:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def reload(self, port: int) -> None:
        """See `Machine.reload`."""
        self._before[port] = self._workers(port)
        run("systemctl", "reload", unit(port))

    def is_ready(self, port: int) -> bool:
        """See `Machine.is_ready`."""
        return answers(f"http://127.0.0.1:{port}/readyz")

    def is_drained(self, port: int) -> bool:
        """See `Machine.is_drained`."""
        return not self._before[port] & self._workers(port)

    def is_active(self, port: int) -> bool:
        """Whether that gateway runs."""
        state = ["systemctl", "is-active", "--quiet", unit(port)]
        return subprocess.run(state, check=False).returncode == 0

    def _workers(self, port: int) -> set[str]:
        shown = ["systemctl", "show", "--property=MainPID", "--value", unit(port)]
        pid = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.strip()
        return workers_of(pid)


def workers_of(pid: str) -> set[str]:
    """The process ids of an nginx's workers. With TLS its watcher of the certificate is a child,
    too, and stays.
    """
    children = read_text(Path(f"/proc/{pid}/task/{pid}/children")).split()
    return {one for one in children if read_text(Path(f"/proc/{one}/cmdline")).startswith(WORKER)}


def unit(port: int) -> str:
    """The gateway whose internal listener has this port."""
    return f"portero-gateway@{port}.service"


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


GATEWAYS_HEAD = """\
# The gateways that issuer and reconciler tell. `make install` names those of this machine; add
# others behind them.
"""
OWN_URL = re.compile(rf"http://127\.0\.0\.1:({'|'.join(map(str, PORTS))})\Z")


def name_gateways(at: Places, ports: Sequence[int]) -> None:
    """These of this machine, and those of others that are in the file already."""
    path = at.etc / GATEWAYS
    value = read_text(path).rpartition("GATEWAY_URLS=")[2].strip()
    others = [url for url in value.split(",") if url and not OWN_URL.match(url)]
    urls = ",".join([*(f"http://127.0.0.1:{port}" for port in ports), *others])
    part = path.with_suffix(".part")
    part.write_text(f"{GATEWAYS_HEAD}GATEWAY_URLS={urls}\n")
    part.chmod(0o644)
    part.rename(path)


def run(*command: str, needed: bool = True) -> None:
    """A command to its end. Raises `RunError` where it must succeed and does not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and needed:
        said = (done.stderr or done.stdout).strip()
        raise RunError(f"`{' '.join(command)}` failed: {said}")


# --- uninstall ------------------------------------------------------------------------------------


def uninstall() -> None:
    """`make uninstall`: what was installed goes; settings and data go with PURGE=1 alone."""
    at, purge = places(), os.environ.get("PURGE") == "1"
    if at.root == Path("/"):
        every = [*STARTED, *RESTARTED, *map(unit, PORTS), "portero-backup.service"]
        run("systemctl", "disable", "--now", "--quiet", *every, needed=False)
    gone = [*(at.units / name for name in UNITS), *at.others.values(), at.command, at.lib]
    gone += [at.etc, at.data, at.gateways_data, at.root / "var/log/portero"] if purge else []
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if at.root == Path("/"):
        run("systemctl", "daemon-reload", needed=False)
        for name in (ISSUER, GATEWAY) if purge else ():
            run("userdel", name, needed=False)
    say("Portero is gone" + ("." if purge else f"; {at.etc} and {at.data} stay (PURGE=1)."))
