"""Debian packages: what is missing on this machine, and its installation by root.

It must never leave a system service or a policy file of its own behind, and never remove a package.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from run.commands import call
from run.files import locked, read_text
from run.signals import stop_signals
from run.terminal import RunError, say
from run.venv import read_stamp

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
TEST_PACKAGES = ("luajit2", "lua-busted", "lua-check", "wrk", "libfaketime")
#: Where nginx and OpenResty lie although an ordinary user's PATH does not say so.
EXTRA_PATH = ("/usr/local/openresty/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_SAVED = Path("/usr/sbin/policy-rc.d.before-portero")
POLICY_TEXT = """#!/bin/sh
# Put here by Portero while it installs packages, so that no service starts.
exit 101
"""


def search_path(path: str) -> str:
    """The PATH with the places where servers live behind it."""
    return os.pathsep.join([path, *EXTRA_PATH] if path else EXTRA_PATH)


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
        needed = missing(packages)
        if needed:
            install_quietly(needed)


def install_quietly(packages: Sequence[str]) -> None:
    """Install, and keep what is new from starting now or at the next boot."""
    say(f"Installing Debian packages: {' '.join(packages)}")
    new_services = missing(["nginx"]) if "nginx" in packages else []
    try:
        with no_service_starts():
            apt_install(packages)
    finally:
        with stop_signals.held():
            for service in new_services:
                disable_at_boot(service)


def apt_install(packages: Sequence[str]) -> None:
    """The package lists are fetched only where they are missing or too old to install from."""
    if apt_runs(["--simulate", *packages], quiet=True) and apt_runs(packages):
        return
    say("Fetching Debian's package lists.")
    apt(["apt-get", "-qq", "update"])
    if not apt_runs(packages):
        command = " ".join(install_command(packages))
        raise RunError(f"apt-get failed, its words are above. To see more: {command}")


def apt_runs(arguments: Sequence[str], quiet: bool = False) -> bool:
    """Whether an installation of these succeeds; nothing is ever removed for it."""
    command = [
        *install_command([]),
        "-qq",
        "--no-remove",
        "-o",
        "DPkg::Lock::Timeout=120",
        *arguments,
    ]
    if quiet:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return apt(command) == 0


def apt(command: Sequence[str]) -> int:
    """What it says of every package is left out, its errors are not. It may outlive us: half an
    installation is worse than one more.
    """
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return call(command, env, output=subprocess.DEVNULL, may_outlive_us=True)


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Debian asks policy-rc.d before it starts a service. The machine's own one is put back,
    whatever happens; after a SIGKILL in between, by the next one that comes here.
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
        ["update-rc.d", service, "disable"],
        ["systemctl", "disable", f"{service}.service"],
    ):
        if shutil.which(command[0], path=search_path(os.environ.get("PATH", ""))):
            subprocess.run(command, capture_output=True, check=False)
