"""What a role's requests may ask of an LLM server beside a model, and whose bodies are looked at
for it.

Pure. What counts as asking is the gateway's to know (`request/server_side.lua`).
"""

from collections.abc import Mapping
from typing import Any

from issuer.policy import schema
from issuer.policy.roles import Role, Roles

_FIELD = "server_side"
_ALL = "inspect_bodies"


def compiled(role: Role) -> dict[str, Any]:
    """What a gateway is told of a role: what is not null."""
    values = {**schema.defaults(schema.POLICY, _FIELD), **role.values[_FIELD]}
    return {name: value for name, value in values.items() if value is not None}


def looks_at_bodies(content: Mapping[str, Any]) -> bool:
    """Whether the bodies of all are looked at, by the policy as a whole."""
    told = content.get(_ALL)
    return bool(told) if told is not None else len(content.get("servers") or ()) > 1


def is_looked_at(role: Role, by_default: bool) -> bool:
    """Whether the bodies of this role's users are, though their models be not limited."""
    told = role.values[_ALL]
    return by_default if told is None else bool(told)


def able(known: Roles) -> dict[str, list[str]]:
    """The names of the roles that may use a route which needs it, by what it needs."""
    return {"fetch": [role.name for role in known if compiled(role)["fetch"]]}
