"""A machine with systemd as its first process: a container that boots, for what is installed as
services. It must never be given more of the host than a boot needs, and leaves no control group.
"""

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engine import ROOT
from tests.support.containers import SESSION, Docker
from tests.support.waiting import wait_for

RECIPE = """\
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN apt-get update \\
    && apt-get install -y --no-install-recommends systemd systemd-sysv dbus make procps iproute2 \\
        logrotate nginx libnginx-mod-http-lua lua-cjson lua-resty-core lua-resty-lrucache \\
    && apt-get clean && rm -rf /var/lib/apt/lists/* \\
    && systemctl disable nginx.service \\
    && systemctl mask systemd-logind.service getty.target console-getty.service
STOPSIGNAL SIGRTMIN+3
"""
#: systemd wants control groups of version 2, and a part of them for itself. A host that has version
#: 1 in use has an empty tree of version 2 beside it.
BOOT = """\
set -e
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || exec /sbin/init
mkdir -p /mnt/cgroup
mount -t cgroup2 none /mnt/cgroup
mkdir -p "/mnt/cgroup/$0"
echo $$ >"/mnt/cgroup/$0/cgroup.procs"
exec unshare --cgroup --mount sh -c 'umount -R /sys/fs/cgroup; umount /mnt/cgroup
    mount -t cgroup2 none /sys/fs/cgroup; exec /sbin/init'
"""
FORGET = """\
mount -t cgroup2 none /mnt && [ ! -d "/mnt/$0" ] || find "/mnt/$0" -depth -type d -exec rmdir {} +
"""
RIGHTS = (
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined"),
)
BOOT_SECONDS, COMMAND_SECONDS, BUILD_SECONDS = 60, 240, 600
CHECKOUT = (
    "Makefile",
    "requirements.txt",
    "run",
    "issuer",
    "openresty",
    "policy",
    "docs",
    "systemd",
)


class Machine:
    """The container, by what is asked of a shell in it."""

    def __init__(self, docker: Docker, name: str) -> None:
        self._docker = docker
        self.name = name

    def sh(self, command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """A line of shell, as root in the copy of the checkout."""
        words = ("docker", "exec", "--workdir", "/src", self.name, "sh", "-c", command)
        return self._docker.run(*words, check=check, seconds=COMMAND_SECONDS)

    def wait_booted(self) -> None:
        """Until systemd has started all that it starts."""
        asked = "systemctl is-system-running"
        wait_for(
            lambda: self.sh(asked, check=False).stdout.strip() in ("running", "degraded"),
            BOOT_SECONDS,
            "it has booted",
        )

    def boot_again(self) -> None:
        """As a machine that is shut down and started."""
        self._docker("restart", "--time", "60", self.name)
        self.wait_booted()

    @property
    def address(self) -> str:
        """Where the tests find it."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self._docker("inspect", "--format", form, self.name)

    def copy_checkout(self) -> None:
        """What `make install` needs of it, to /src."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in CHECKOUT:
                archive.add(ROOT / name, f"src/{name}", filter=_without_byte_code)
        self._docker.run("docker", "cp", "-", f"{self.name}:/", data=packed.getvalue())


def _without_byte_code(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    return None if "__pycache__" in entry.name else entry


def _image(docker: Docker) -> str:
    base = docker.env.get("PYTHON_IMAGE", "python:3.13.16-slim-bookworm")
    name = "portero-test/machine:" + hashlib.sha256((RECIPE + base).encode()).hexdigest()[:8]
    with tempfile.TemporaryDirectory() as context:
        (Path(context) / "Dockerfile").write_text(RECIPE)
        build = ("docker", "build", "-q", "--build-arg", f"PYTHON_IMAGE={base}", "-t", name)
        docker.run(*build, context, seconds=BUILD_SECONDS)
    return name


@contextmanager
def booted(docker: Docker) -> Iterator[Machine]:
    """A machine that has booted, with a copy of the checkout and nothing installed."""
    name = f"{SESSION}-machine"
    in_memory = ("--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec", "--env", "container=docker")
    words = ("docker", "create", "--name", name, *RIGHTS, *in_memory, _image(docker))
    machine = Machine(docker, name)
    docker.run(*words, "sh", "-c", BOOT, name)
    try:
        machine.copy_checkout()
        docker("start", name)
        machine.wait_booted()
        yield machine
    finally:
        docker("rm", "--force", name)
        forget = ["unshare", "--mount", "sh", "-c", FORGET, name]
        subprocess.run(forget, check=False, capture_output=True)
