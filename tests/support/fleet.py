"""A gateway without an issuer that is told a policy with LLM servers, as an issuer would tell it.

The servers are recording ones, or whatever a test lists. It must never start an issuer: what a
policy file makes of `servers:` is asked of the whole stack elsewhere.
"""

import base64
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from issuer import keys, tokens
from issuer.keys.sealing import CREDENTIALS, Sealing
from issuer.policy import Policy
from issuer.policy.routes import BY_LLM
from issuer.tokens import Claims
from tests.support import policies
from tests.support.deployment import Caller, Local
from tests.support.fake_gateway import mac_of, seal
from tests.support.policies import shipped_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

SIGNING = keys.new_key("HS256")
SECONDS = 900


def row(name: str, port: int, **changes: Any) -> dict[str, Any]:
    """A server as the issuer compiles one; on this machine, with the model `tiny` unless told."""
    host = changes.get("host", "127.0.0.1")
    return {
        "name": name,
        "kind": "vllm",
        "dialect": "openai",
        "model_names": "ollama" if changes.get("kind") == "ollama" else "exact",
        "scheme": "http",
        "host": host,
        "port": port,
        "authority": f"{host}:{port}",
        "path": "",
        "weight": 1,
        "models": ["tiny"],
        **changes,
    }


def compiled(
    rows: Sequence[Mapping[str, Any]],
    aliases: Sequence[Mapping[str, Any]] = (),
    policy: Policy | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A policy, the shipped one where none is given, with these servers in place of the pool."""
    kinds = [str(one["kind"]) for one in rows]
    having = {
        kind: {(line.method, line.path) for line in policies.lines(kind)} for kind in set(kinds)
    }
    shipped = (policy or shipped_policy()).compiled
    routes = []
    for route in shipped["routes"]:
        its = dict(route)
        if route["answered_by"] in BY_LLM:
            name = (route["method"], route["path"])
            its["servers"] = [at for at, kind in enumerate(kinds) if name in having[kind]]
            if route["class"] == "management":
                its["by_name"] = True
            if not its["servers"]:
                continue
        routes.append(its)
    return {
        **shipped,
        "routes": routes,
        "servers": [dict(one) for one in rows],
        "aliases": [dict(one) for one in aliases],
        "management": ["admin"],
        **changes,
    }


@dataclass
class Fleet:
    """The gateway, and who tells it."""

    deployment: Local
    serial: int = 0
    _session: requests.Session = field(default_factory=requests.Session)

    @property
    def caller(self) -> Caller:
        """A client of the gateway."""
        return Caller(self.deployment)

    def send(self, path: str, content: Any = None) -> int:
        """One message; its status."""
        method, body = ("GET", b"") if content is None else ("POST", json.dumps(content).encode())
        at = str(time.time_ns())
        mac = mac_of(self.deployment.sync_key, method, path, at, body)
        answer = self._session.request(
            method,
            self.deployment.internal + path,
            headers={"X-Portero-Time": at, "X-Portero-Mac": mac},
            data=body,
            timeout=20,
        )
        return answer.status_code

    def put(self, policy: Mapping[str, Any]) -> None:
        """A policy in place of the one before."""
        self.serial += 1
        body = {"history": "h", "serial": self.serial, "policy": policy}
        assert self.send("/sync/policy", body) == 200

    def seal(self, credential: str) -> str:
        """A server's credential, as the issuer seals it."""
        sealing = Sealing(self.deployment.sync_key.encode(), CREDENTIALS)
        return sealing.seal(credential.encode())

    def token(self, user: str = "AGIATEST01") -> str:
        """A good token."""
        role = {"AGIA": "agi", "ADMN": "admin", "USRS": "user", "AGNR": "agent_reasoning"}[user[:4]]
        now = int(time.time())
        lasts = min(SECONDS, 120 if role.startswith("agent") else SECONDS)
        claims = Claims(user, role, secrets.token_urlsafe(16), now, now + lasts)
        assert self.send("/sync/apply", {"activate": [[claims.jti, claims.expires_at]]}) == 200
        return tokens.mint(claims, SIGNING)

    def revoke(self, token: str) -> None:
        """End a token."""
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        assert self.send("/sync/apply", {"revoke": [[claims["jti"], claims["exp"]]]}) == 200

    def begin(self) -> None:
        """Keys and a first snapshot."""
        verifying = base64.b64encode(SIGNING.verifying).decode()
        listed = {"kid": SIGNING.kid, "alg": SIGNING.algorithm, "key": verifying}
        sealed = seal(self.deployment.sync_key.encode(), json.dumps({"keys": [listed]}).encode())
        assert self.send("/sync/keys", {"history": "h", "serial": 1, "sealed": sealed}) == 200
        assert self.send("/sync/snapshot", {"step": "begin"}) == 200
        end = {"step": "end", "generation": 1, "epoch": "e", "position": 1}
        assert self.send("/sync/snapshot", end) == 200

    def listens(self) -> bool:
        """Whether the gateway has started."""
        try:
            return self.send("/sync/status") == 200
        except requests.ConnectionError:
            return False


@contextmanager
def fleet(policy: Mapping[str, Any] | None = None, **settings: str) -> Iterator[Fleet]:
    """A gateway that judges by a policy."""
    deployment = Local("", {"GATEWAY_WORKERS": "2", **settings})
    deployment.env.pop("LLM_UPSTREAM", None)
    try:
        deployment.start("gateway")
        running = Fleet(deployment)
        wait_for(running.listens, 20, "the gateway listens")
        running.begin()
        if policy is not None:
            running.put(policy)
        yield running
    finally:
        deployment.close()


def answering(upstream: Upstream, name: str) -> Upstream:
    """One that says in its answers who it is, and has no list: its `models` are that."""
    for path in ("/v1/models", "/base/v1/models", "/api/tags"):
        upstream.answers[path] = 404
    upstream.answers["/v1/chat/completions"] = {"id": name, "model": name, "choices": []}
    return upstream
