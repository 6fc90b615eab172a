"""A client that writes down all it does, for the history checker."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from issuer.tokens import api_keys
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
        self._note_login(self._id(token), began, float(parts(token)[1]["exp"]))
        return token

    def _note_login(self, jti: str, began: float, expires_at: float) -> None:
        self.history.append(Operation("login", jti, began, time.time(), 200, expires_at=expires_at))

    def _id(self, token: str) -> str:
        return str(parts(token)[1]["jti"])

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
                self._id(token),
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
        self._note_revocation(self._id(token), began, status)
        return status

    def _note_revocation(self, jti: str, began: float, status: int) -> None:
        self.history.append(
            Operation("revoke", jti, began, time.time(), status, pending=status == 202)
        )

    def _session(self) -> requests.Session:
        """One a thread, kept alive."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        session: requests.Session = self._local.session
        return session


@dataclass
class KeyRecorder(Recorder):
    """The same of API keys: what `login` answers is one, and `revoke` deletes it. The token that
    asks for them is no part of the history.
    """

    _owner: str = ""

    def login(self, user: str = "AGIATEST01") -> str:
        """A key, or "" when none was made."""
        began = time.time()
        answer = self._ask(user, "POST", "", {"name": "a promise", "days": 1})
        if answer is None or answer.status_code != 201:
            return ""
        made = answer.json()
        self._note_login(made["id"], began, float(made["expires_at"]))
        return str(made["key"])

    def revoke(self, token: str) -> int:
        """Delete the key at the issuer; the status, or 0 without an answer."""
        began = time.time()
        answer = self._ask("AGIATEST01", "DELETE", f"/{self._id(token)}", None)
        status = NO_ANSWER if answer is None else answer.status_code
        self._note_revocation(self._id(token), began, status)
        return status

    def _id(self, token: str) -> str:
        return api_keys.id_of(token)

    def _ask(self, user: str, method: str, path: str, body: Any) -> requests.Response | None:
        secret, door = USERS[user]
        issuer, session = self.deployment.issuer, self._session()
        try:
            if not self._owner:
                answer = session.post(issuer + door, auth=(user, secret), timeout=10)
                self._owner = answer.json().get("token", "")
            headers = {"Authorization": f"Bearer {self._owner}"}
            return session.request(
                method, f"{issuer}/account/keys{path}", json=body, headers=headers, timeout=10
            )
        except requests.RequestException:
            return None


#: What a promise is asked of, by its name.
KINDS: dict[str, type[Recorder]] = {"tokens": Recorder, "API keys": KeyRecorder}
