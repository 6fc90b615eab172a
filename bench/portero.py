"""A Portero to be measured: one worker on a core of its own, and credentials that it knows.

The reconciler, which keeps several of them in order, does not run: it would interrupt the one that
is measured. It must never be given what a login or the sync would not have given.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.servers import GATEWAY_CORE, Server, pin
from issuer import tokens
from issuer.keys import Key, key_file
from issuer.sync.gateways import Changes, Gateway
from tests.promises.stores import insert
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import shipped_policy, write_policy

#: One without limits, one whose requests are counted, one with a list of models alone, for which
#: the body is read, and one with every limit.
USER, COUNTED, LISTED, LIMITED = "AGIATEST01", "AGNRTEST01", "AGNRTEST02", "ADMNTEST01"
#: Higher than any load reaches, so that all is counted and nothing refused.
MANY = 1_000_000_000
COUNTS = {"requests_per_minute": MANY, "concurrent_requests": 1_000}
MODELS = {"models": ["other", "tiny", "llama*"]}
EVERY_LIMIT = {**COUNTS, **MODELS, "tokens_per_minute": MANY}
MESSAGE_ENTRIES = 2_000


def write_limits(folder: Path) -> Path:
    """The policy that is measured, with these four."""

    def limit(content: dict[str, Any]) -> None:
        content["users"] = {COUNTED: COUNTS, LISTED: MODELS, LIMITED: EVERY_LIMIT}
        content["roles"]["agent_reasoning"]["ttl_seconds"] = 1_800

    return write_policy(folder / "policy.yaml", limit)


@contextmanager
def portero(
    folder: Path, upstream: int, algorithm: str = "HS256", **settings: str
) -> Iterator[Local]:
    """A deployment that judges by that policy, and counts no use unless told."""
    given = {
        "GATEWAY_WORKERS": "1",
        "USAGE": "off",
        "JWT_ALGORITHM": algorithm,
        "POLICY_FILE": str(write_limits(folder)),
        **settings,
    }
    with deployed(f"http://127.0.0.1:{upstream}", **given) as running:
        pin(running.pid("gateway"), GATEWAY_CORE)
        Caller(running).token(USER)
        running.stop("reconciler")
        yield running


def server(deployment: Local) -> Server:
    """Its gateway, to be loaded."""
    return Server("portero", deployment.gateway, (deployment.pid("gateway"),))


def active_tokens(deployment: Local, algorithm: str, count: int) -> list[str]:
    """Tokens that the deployment's gateway and store know."""
    role = shipped_policy().roles.of(USER)
    assert role is not None
    key = signing_key(deployment, algorithm)
    now = int(time.time())
    claims = [tokens.new_claims(USER, role, now) for _ in range(count)]
    activate(deployment, claims)
    return [tokens.mint(one, key) for one in claims]


def signing_key(deployment: Local, algorithm: str) -> Key:
    """What its issuer signs with."""
    path = deployment.data / "signing-keys.json"
    return key_file.KeyFile(path, algorithm, b"", lambda: 0).read().in_force()[-1].key()


def activate(deployment: Local, claims: Sequence[tokens.Claims]) -> None:
    """In the gateway, and for the validator in the store, as a login would have."""
    insert(deployment, claims)
    push(deployment, [(one.jti, one.expires_at) for one in claims])


def push(deployment: Local, entries: Sequence[tuple[str, int]]) -> None:
    """By the sync's own messages."""
    gateway = Gateway(deployment.internal, deployment.sync_key.encode())
    for start in range(0, len(entries), MESSAGE_ENTRIES):
        assert gateway.apply(Changes(activate=entries[start : start + MESSAGE_ENTRIES])).ok


def gateway_status(deployment: Local) -> Mapping[str, Any]:
    """What the gateway says of itself to the sync."""
    return Gateway(deployment.internal, deployment.sync_key.encode()).state().status


def api_key(deployment: Local) -> str:
    """One that the deployment's gateway and store know, of the user without limits."""
    caller = Caller(deployment)
    body = {"name": "bench", "days": 1}
    made = caller.call(caller.token(USER), "/account/keys", body=body).json()
    return str(made["key"])
