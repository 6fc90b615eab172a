"""A Portero for a test: the parts as `make run` starts them, each of which a test may stop, kill
and start again, with users whose secrets the test knows.

`Local` starts processes, `containers.py` the compose file; both have the same face, so that the
same tests drive both. It must never end a process it did not start.
"""

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import bcrypt
import requests

from run import local, processes
from run.commands import ROOT
from run.plan import clean_environment, read_plan
from run.set_up import PYTHON
from tests.support.clocks import CLOCK_OF, Clock
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

#: Users a test may be: name -> (secret, door). Two agents, so that one may be revoked alone.
USERS = {
    "AGNRTEST01": ("agent-secret-1", "/llm/login"),
    "AGNRTEST02": ("agent-secret-2", "/llm/login"),
    "AGNFTEST01": ("fast-secret-1", "/llm/login"),
    "AGIATEST01": ("agi-secret-1", "/agi/login"),
    "USRSTEST01": ("user-secret-1", "/login"),
    "MNTRTEST01": ("monitor-secret-1", "/login"),
    "ADMNTEST01": ("admin-secret-1", "/admin/login"),
}
TTL_SECONDS = {"AGNR": 120, "AGNF": 60, "AGIA": 1800, "USRS": 900, "MNTR": 1200, "ADMN": 3600}
BASIC_DOORS = ("/llm/login", "/agi/login")
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
#: Low, so that tests spend their time on what they test.
TEST_COST = 10
READY_SECONDS = 30


class TextFile(Protocol):
    """A file that a test may read and change, wherever it lies."""

    def read_text(self) -> str:
        """All of it."""

    def write_text(self, text: str, /) -> int:
        """Put this in its place."""


class Deployment(Protocol):
    """What a test sees of a running Portero. Addresses may change when a part is started again."""

    secret_key: str
    sync_key: str

    @property
    def gateway(self) -> str:
        """The public listener."""

    @property
    def issuer(self) -> str:
        """The issuer's own listener."""

    @property
    def internal(self) -> str:
        """The gateway's sync listener."""

    @property
    def client_address(self) -> str:
        """The address that the gateway sees the tests come from."""

    @property
    def credentials(self) -> TextFile:
        """The file of the users in force."""

    def start(self, part: str) -> None:
        """Start a part that does not run."""

    def stop(self, part: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a part, and wait until it has ended."""

    def output(self, part: str) -> str:
        """All that a part has written so far."""

    def command(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`python -m issuer …` with this deployment's settings."""

    def command_lines(self, part: str) -> list[str]:
        """A part's processes, as a process list shows them."""


@cache
def credentials_text() -> str:
    """The credentials file of the test users; hashed once a session."""
    return "".join(
        f"{name}={bcrypt.hashpw(secret.encode(), bcrypt.gensalt(TEST_COST)).decode()}\n"
        for name, (secret, _) in USERS.items()
    )


class Local:
    """The parts as local processes, from the same plan as `make run`."""

    client_address = "127.0.0.1"

    def __init__(
        self, llm_upstream: str, settings: Mapping[str, str], own_clocks: bool = False
    ) -> None:
        self.data = Path(tempfile.mkdtemp(prefix="portero-test-"))
        self._runtime = Path(tempfile.mkdtemp(prefix="portero-test-gw-"))
        self._runtime.chmod(0o711)
        (self._runtime / "tmp").mkdir(mode=0o700)
        for folder in ("run", "log"):
            (self.data / folder).mkdir()
        self.secret_key, self.sync_key = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.credentials = self._private_file("credentials.env", credentials_text())
        gateway, internal, issuer = free_ports(3)
        env = clean_environment(
            {
                **os.environ,
                "GATEWAY_PORT": str(gateway),
                "INTERNAL_PORT": str(internal),
                "ISSUER_PORT": str(issuer),
                "DATA_DIR": str(self.data),
                "CREDENTIALS_FILE": str(self.credentials),
                "SECRET_KEY_FILE": str(self._private_file("secret_key", self.secret_key)),
                "SYNC_KEY_FILE": str(self._private_file("sync_key", self.sync_key)),
                "LLM_UPSTREAM": llm_upstream,
                "GATEWAY_WORKERS": "2",
                **settings,
            }
        )
        plan = read_plan(env, self.data)
        self.gateway = plan.url
        self.issuer = f"http://127.0.0.1:{issuer}"
        self.internal = f"http://127.0.0.1:{internal}"
        self.env = local.settings(plan, env, 0, str(self._runtime))
        self._services = {service.name: service for service in local.services(plan)}
        self._children: dict[str, processes.Child] = {}
        #: The machines' clocks, where the parts do not go by the test's own.
        self.clocks = (
            {name: Clock(self._runtime / f"{name}-clock") for name in set(CLOCK_OF.values())}
            if own_clocks
            else {}
        )

    def start(self, part: str) -> None:
        """See `Deployment.start`."""
        env = self._environment(part)
        self._children[part] = processes.start(self._services[part], self.data, env)

    def service(self, part: str) -> processes.Service:
        """How a part is started, for another one of its kind."""
        return self._services[part]

    def stop(self, part: str, how: signal.Signals = signal.SIGTERM) -> None:
        """See `Deployment.stop`. A killed master leaves no worker behind."""
        child = self._children.pop(part)
        child.process.send_signal(how)
        try:
            child.process.wait(15)
        finally:
            processes.kill_group(child.process)

    def pid(self, part: str) -> int:
        """The process id of a part's first process."""
        return self._children[part].process.pid

    def workers(self, part: str) -> list[int]:
        """The process ids of a part's workers."""
        path = f"/proc/{self.pid(part)}/task/{self.pid(part)}/children"
        return [int(word) for word in Path(path).read_text().split()]

    def kill_workers(self, part: str) -> None:
        """As the kernel does when memory is short; others serve when this returns."""
        old = self.workers(part)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        self.wait_for_new_workers(part, old)

    def wait_for_new_workers(self, part: str, old: Sequence[int]) -> None:
        """Until as many others have taken the place of the old ones."""

        def are_new() -> bool:
            now = self.workers(part)
            return len(now) == len(old) and not set(now) & set(old)

        wait_for(are_new, 20, "other workers")
        wait_for(partial(answers, f"{self.issuer}/readyz", 200), 20, "they serve")

    def last_good(self, name: str) -> str:
        """What the issuer's workers keep of a file that they watch; empty while it is replaced."""
        (folder,) = Path(self.env["TMPDIR"]).glob("portero-last-good-*")
        kept = folder / name
        try:
            return kept.read_text()
        except FileNotFoundError:
            return ""

    def output(self, part: str) -> str:
        """See `Deployment.output`."""
        return (self.data / "log" / f"{part}.log").read_text()

    def command(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """See `Deployment.command`."""
        return subprocess.run(
            [str(PYTHON), "-m", "issuer", *words],
            cwd=ROOT,
            env=self._environment("issuer"),
            capture_output=True,
            text=True,
            check=check,
        )

    def command_lines(self, part: str) -> list[str]:
        """See `Deployment.command_lines`."""
        pids = [self.pid(part), *self.workers(part)]
        return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]

    def close(self) -> None:
        """End all that runs and leave nothing behind."""
        for part in list(self._children):
            self.stop(part)
        for folder in (self.data, self._runtime):
            shutil.rmtree(folder, ignore_errors=True)

    def _environment(self, part: str) -> dict[str, str]:
        clock = self.clocks.get(CLOCK_OF[part])
        return {**self.env, **(clock.environment(part) if clock else {})}

    def _private_file(self, name: str, text: str) -> Path:
        path = self.data / name
        path.touch(0o600)
        path.write_text(text)
        return path


PARTS = ("gateway", "issuer", "reconciler")


def deployed(llm_upstream: str, **settings: str) -> AbstractContextManager[Local]:
    """A running deployment of local processes, ready to judge."""
    return _running(Local(llm_upstream, settings))


def deployed_with_clocks(llm_upstream: str, **settings: str) -> AbstractContextManager[Local]:
    """The same, with machines whose clocks a test may set."""
    return _running(Local(llm_upstream, settings, own_clocks=True))


@contextmanager
def _running(deployment: Local) -> Iterator[Local]:
    try:
        for part in PARTS:
            deployment.start(part)
        wait_ready(deployment)
        yield deployment
    finally:
        deployment.close()


def wait_ready(deployment: Deployment, seconds: float = READY_SECONDS) -> None:
    """Wait until both listeners serve and the first snapshot is in."""
    for listener in (deployment.gateway, deployment.issuer):
        url = f"{listener}/readyz"
        wait_for(partial(answers, url, 200), seconds, f"{url} answers 200")


def answers(url: str, wanted: int) -> bool:
    """Whether a GET is answered with this status."""
    try:
        return requests.get(url, timeout=2).status_code == wanted
    except requests.RequestException:
        return False


@dataclass
class Caller:
    """A client of a deployment's gateway, by plain `requests`."""

    deployment: Deployment

    def login(
        self, user: str, secret: str | None = None, door: str | None = None
    ) -> requests.Response:
        """Log in at the user's own door unless told otherwise."""
        right, own = USERS.get(user, ("unknown-secret", "/llm/login"))
        secret, door = right if secret is None else secret, door or own
        url = self.deployment.gateway + door
        if door.removeprefix("/auth") in BASIC_DOORS:
            return requests.post(url, auth=(user, secret), timeout=10)
        form = {"username": user, "password": secret}
        return requests.post(url, data=form, allow_redirects=False, timeout=10)

    def token(self, user: str) -> str:
        """A fresh token."""
        answer = self.login(user)
        if "auth_token" in answer.cookies:
            return str(answer.cookies["auth_token"])
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def call(
        self,
        token: str | None = None,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        **options: Any,
    ) -> requests.Response:
        """One request to the gateway; a chat unless told otherwise. A session's requests share a
        connection.
        """
        sent = {"Authorization": f"Bearer {token}"} if token is not None else {}
        content = CHAT if body is None and method == "POST" else body
        return (session or requests).request(
            method,
            self.deployment.gateway + path,
            json=content,
            headers={**sent, **(headers or {})},
            timeout=options.pop("timeout", 10),
            allow_redirects=False,
            **options,
        )

    def validate(self, token: str) -> int:
        """The issuer's verdict."""
        url = f"{self.deployment.issuer}/validate"
        return requests.post(url, json={"token": token}, timeout=10).status_code

    def raw(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Send bytes as they are; all that comes back until the connection closes or time is up."""
        host, _, port = self.deployment.gateway.removeprefix("http://").rpartition(":")
        received = b""
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            connection.sendall(data)
            try:
                while block := connection.recv(65536):
                    received += block
            except (TimeoutError, ConnectionResetError):
                pass
        return received


def basic(user: str, secret: str) -> str:
    """The value of an Authorization header for HTTP Basic."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()
