"""One deployment for the threats of requests, people, passwords and settings, and clients that come
to it from addresses of their own: those of the loopback network, of which one is a front's.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.support.deployment import BASIC_DOORS, USERS, Local, deployed
from tests.support.upstream import Upstream

#: The one front that is trusted; clients behind it have the address that it tells.
FRONT = "127.0.0.9"


class _From(HTTPAdapter):
    """Connections from one address."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__(pool_maxsize=200)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **options)


@dataclass
class Client:
    """Who asks from one address."""

    deployment: Local
    address: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.mount("http://", _From(self.address))

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request; a redirect is not followed."""
        headers = {**self.headers, **options.pop("headers", {})}
        url = self.deployment.gateway + path
        return self._session.request(
            method, url, headers=headers, timeout=30, allow_redirects=False, **options
        )

    def log_in(
        self, user: str, secret: str | None = None, path: str | None = None, **headers: str
    ) -> requests.Response:
        """A login at the user's own endpoint, with the right secret, unless told otherwise."""
        right, own = USERS.get(user, ("unknown", "/llm/login"))
        path, secret = path or own, right if secret is None else secret
        if path.removeprefix("/auth") in BASIC_DOORS:
            return self.ask("POST", path, auth=(user.encode(), secret.encode()), headers=headers)
        form = {"username": user, "password": secret}
        return self.ask("POST", path, data=form, headers=headers)

    def token(self, user: str) -> str:
        """A fresh token of the user's."""
        answer = self.log_in(user)
        cookie = answer.cookies.get("auth_token")
        self._session.cookies.clear()
        return str(cookie or answer.json()["token"])


@dataclass
class House:
    """The deployment, and its LLM server."""

    deployment: Local
    upstream: Upstream

    def client(self, address: str, **headers: str) -> Client:
        """Somebody at an address of the loopback network."""
        return Client(self.deployment, address, headers)

    def behind_front(self, address: str) -> Client:
        """Somebody at any address, behind the front that is trusted."""
        return Client(self.deployment, FRONT, {"X-Forwarded-For": address})


@contextmanager
def house(upstream: Upstream) -> Iterator[House]:
    """A running deployment."""
    with deployed(upstream.url, TRUSTED_PROXIES=FRONT) as running:
        yield House(running, upstream)


def raw(url: str, data: bytes, seconds: float = 5.0) -> bytes:
    """Bytes as they are; all that comes back until the connection ends or is silent for so long."""
    host, port = url.removeprefix("http://").split(":")
    received = b""
    connection = socket.create_connection((host, int(port)), timeout=10)
    with connection, suppress(TimeoutError, ConnectionError):
        connection.sendall(data)
        connection.settimeout(seconds)
        while block := connection.recv(1 << 16):
            received += block
    return received
