"""The LLM servers of the policy as gateways tell of them, for whoever shows them: a row for each
server and gateway.

Which are taken out is the issuer's to say, and no gateway's. It must never ask where the policy
names no servers: there is nothing that a gateway could tell.
"""

from collections.abc import Callable, Mapping
from typing import Any

from issuer.sync.gateways import Gateways
from issuer.sync.policy_in_force import PolicyInForce

#: States beside those that a gateway tells.
UNKNOWN, NO_ANSWER = "unknown", "no answer"

#: By the URL of its internal listener, what a gateway says of each server; None: no answer.
Told = Mapping[str, list[dict[str, Any]] | None]


def told(gateways: Gateways) -> Told:
    """What each gateway says now."""
    return {one.url: one.servers() for one in gateways.each}


def first(gateways: Gateways) -> list[dict[str, Any]] | None:
    """What the first gateway that answers knows; None where none does."""
    return next((said for one in gateways.each if (said := one.servers()) is not None), None)


def rows(policy: PolicyInForce, ask: Callable[[], Told]) -> list[dict[str, Any]]:
    """`name`, `kind`, `url`, `gateway`, `state` and `models` of each, with what else the gateway
    says of it; `taken_out`, with `since` and `by`, of one that is.
    """
    servers, taken_out = policy.in_force().servers, policy.taken_out()
    said = ask() if servers else {}
    return [
        {
            "name": one.name,
            "kind": one.kind.name,
            "url": str(one.url),
            **_of(one.name, gateway, said),
            **({"taken_out": vars(out)} if (out := taken_out.get(one.name)) else {}),
        }
        for one in servers
        for gateway in said
    ]


def _of(name: str, gateway: str, said: Told) -> dict[str, Any]:
    """What a gateway says of a server; one that has not the policy yet knows nothing of it."""
    known = said[gateway]
    if known is None:
        return {"gateway": gateway, "state": NO_ANSWER, "models": []}
    found = next((dict(row) for row in known if row.get("name") == name), {})
    found.pop("taken_out", None)
    models = list(found.get("models") or [])
    return {"gateway": gateway, "state": UNKNOWN, **found, "models": models}
