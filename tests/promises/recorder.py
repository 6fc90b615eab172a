"""A client that writes down all it does, for the history checker."""

import threading
import time
from dataclasses import dataclass, field

import requests

from tests.support.deployment import CHAT, USERS, Local
from tests.support.forge import parts
from tests.support.history import NO_ANSWER, Operation


@dataclass
class Recorder:
    """Logs in, asks and revokes at `gateway` (a deployment's own unless told otherwise)."""

    deployment: Local
    gateway: str = ""
    history: list[Operation] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.gateway = self.gateway or self.deployment.gateway

    def login(self, user: str = "AGIATEST01") -> str:
        """A token, or "" when the login was not granted. At the issuer: it is what is tested."""
        secret, door = USERS[user]
        began = time.time()
        try:
            answer = self._session().post(
                self.deployment.issuer + door, auth=(user, secret), timeout=10
            )
        except requests.RequestException:
            return ""
        if answer.status_code != 200:
            return ""
        token = str(answer.json()["token"])
        claims = parts(token)[1]
        self.history.append(
            Operation(
                "login", claims["jti"], began, time.time(), 200, expires_at=float(claims["exp"])
            )
        )
        return token

    def use(self, token: str, path: str = "/v1/chat/completions") -> int:
        """One request; its status, or 0 without an answer."""
        began = time.time()
        bearer = {"Authorization": f"Bearer {token}"}
        try:
            answer = self._session().post(
                self.gateway + path, json=CHAT, headers=bearer, timeout=10
            )
            status, headers = answer.status_code, dict(answer.headers)
        except requests.RequestException:
            status, headers = NO_ANSWER, {}
        self.history.append(
            Operation(
                "request",
                parts(token)[1]["jti"],
                began,
                time.time(),
                status,
                retry_after="Retry-After" in headers,
                request_id=headers.get("x-request-id", ""),
            )
        )
        return status

    def revoke(self, token: str) -> int:
        """Log out at the issuer; the status, or 0 without an answer."""
        began = time.time()
        bearer = {"Authorization": f"Bearer {token}"}
        try:
            url = f"{self.deployment.issuer}/logout"
            status = self._session().post(url, headers=bearer, timeout=10).status_code
        except requests.RequestException:
            status = NO_ANSWER
        jti = parts(token)[1]["jti"]
        self.history.append(
            Operation("revoke", jti, began, time.time(), status, pending=status == 202)
        )
        return status

    def _session(self) -> requests.Session:
        """One a thread, kept alive."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        session: requests.Session = self._local.session
        return session
