"""A real PostgreSQL of the tests' own: a cluster in a folder, on a free port of loopback, which
ends with whoever started it.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports

#: Root may not run it; Debian's package makes this user.
USER = "postgres"
PROGRAMS = Path("/usr/lib/postgresql")
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = 16MB
max_connections = 200
"""


@dataclass
class Cluster:
    """A running cluster. `log` is what it has said."""

    folder: Path
    port: int

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def database(self, name: str) -> str:
        """The URL of an empty database of this name. (One for each test would be a gigabyte.)"""
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.sql(f"CREATE DATABASE {name}")
        self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def url_with(self, standby: "Cluster", name: str) -> str:
        """The same, on whichever of the two takes writes (libpq, "Multiple Hosts")."""
        self.database(name)
        hosts = "&".join(f"host=127.0.0.1:{one.port}" for one in (self, standby))
        return f"postgresql://{USER}@/{name}?{hosts}&target_session_attrs=read-write"

    def promote(self) -> None:
        """A standby takes writes from here on."""
        self._control("promote", "-w")

    def follow(self, primary: "Cluster") -> None:
        """Become a copy of a primary that streams from it; the primary waits for its word."""
        where = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", USER)
        _run(
            "pg_basebackup",
            *where,
            "-D",
            str(self.folder / "data"),
            "-R",
            "--no-sync",
            "-c",
            "fast",
        )
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nsynchronous_standby_names = ''\n")
        self.start()
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.sql("SELECT pg_reload_conf()")

    def sql(self, statement: str, database: str = USER) -> str:
        """What psql says of a statement."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database)
        command = ["psql", *where, "-XAtqc", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def start(self) -> None:
        self._control("start", "-w", "-l", str(self.log))

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash."""
        self._control("stop", "-w", "-m", mode)

    def initialize(self) -> None:
        _run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "--no-sync")
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"{SETTINGS}port = {self.port}\n")

    def _control(self, *words: str) -> None:
        _run("pg_ctl", "-D", str(self.folder / "data"), *words)


@contextmanager
def _place() -> Iterator[Cluster]:
    """Where a cluster may be; what runs there at the end is ended."""
    folder = Path(tempfile.mkdtemp(prefix="portero-test-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    (port,) = free_ports(1)
    one = Cluster(folder, port)
    try:
        yield one
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            one.stop("immediate")
        shutil.rmtree(folder)


@contextmanager
def cluster(most_megabytes: int = 0) -> Iterator[Cluster]:
    """A cluster that runs, on a small disk of its own where that is told. Durability is
    PostgreSQL's own; it is not switched off here.
    """
    with _place() as one, _disk(one.folder, most_megabytes):
        one.initialize()
        one.start()
        yield one


@contextmanager
def _disk(folder: Path, most_megabytes: int) -> Iterator[None]:
    """A file system in memory; the cluster there must have ended before it goes."""
    if not most_megabytes:
        yield
        return
    options = f"size={most_megabytes}m,uid={pwd.getpwnam(USER).pw_uid},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "portero", str(folder)], check=True)
    try:
        yield
    finally:
        one = Cluster(folder, 0)
        if (folder / "data" / "postmaster.pid").exists():
            one.stop("immediate")
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def replicated() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary that answers when its standby has a commit too, and that standby."""
    with cluster() as primary, _place() as standby:
        standby.follow(primary)
        yield primary, standby


def _run(program: str, *words: str) -> None:
    (newest,) = sorted(PROGRAMS.glob(f"*/bin/{program}"))[-1:] or [Path(program)]
    owner = pwd.getpwnam(USER) if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(newest), *words],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
    )
    assert done.returncode == 0, done.stdout + done.stderr
