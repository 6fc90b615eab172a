"""The roles of `roles.json`, as the issuer needs them: code, lifetime, door, route classes.

Pure: the file's text comes in, a `Roles` or a list of faults comes out. It never decides about a
request's route; that is the gateway's policy.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from issuer.errors import Faults

DOORS = ("/llm/login", "/agi/login", "/login", "/admin/login")
CODE_LENGTH = 4


@dataclass(frozen=True)
class Role:
    """One role. `ttl_seconds` is the longest life of its tokens, `active_tokens` a user's most."""

    name: str
    code: str
    ttl_seconds: int
    door: str
    routes: tuple[str, ...]
    active_tokens: int


class Roles:
    """All roles, by name and by the code that begins a username."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._by_name = dict(roles)
        self._by_code = {role.code: role for role in roles.values()}

    def __iter__(self) -> Iterator[Role]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Role | None:
        """The role of this name, or None."""
        return self._by_name.get(name)

    def of(self, username: str) -> Role | None:
        """The role whose code begins this username, or None."""
        return self._by_code.get(username[:CODE_LENGTH])

    def longest_ttl_seconds(self) -> int:
        """The longest a token of any role can live."""
        return max(role.ttl_seconds for role in self)


def parse(text: str, ttl_bound_seconds: int | None = None) -> Roles:
    """Read `roles.json`; every role's TTL is bounded by `ttl_bound_seconds`. Raises `Faults`."""
    try:
        entries = json.loads(text)["roles"]
        entries.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Faults(['roles.json: must be {"roles": {NAME: {…}}}']) from None
    faults = [fault for name, entry in entries.items() for fault in _faults(name, entry)]
    faults += _duplicate_codes(entries)
    if faults or not entries:
        raise Faults(faults or ["roles.json: names no role"])
    return Roles({name: _role(name, entry, ttl_bound_seconds) for name, entry in entries.items()})


def _role(name: str, entry: Mapping[str, Any], bound: int | None) -> Role:
    ttl = entry["ttl_seconds"]
    return Role(
        name=name,
        code=entry["code"],
        ttl_seconds=min(ttl, bound) if bound else ttl,
        door=entry["door"],
        routes=tuple(entry["routes"]),
        active_tokens=entry["active_tokens"],
    )


def _is_code(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) == CODE_LENGTH
        and value.isascii()
        and value.isalpha()
        and value.isupper()
    )


def _is_routes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_stream_policy(value: object) -> bool:
    return value in ("finish", "cut") or (type(value) is int and value >= 1)


#: Per field: what is accepted, and how a fault says it.
_FIELDS = {
    "code": (_is_code, "must be four capital letters"),
    "ttl_seconds": (
        lambda value: type(value) is int and 1 <= value <= 86_400,
        "must be a whole number of seconds, 1 to 86400",
    ),
    "door": (lambda value: value in DOORS, f"must be one of {', '.join(DOORS)}"),
    "routes": (_is_routes, "must be a list of route class names"),
    "active_tokens": (
        lambda value: type(value) is int and 1 <= value <= 1_000_000,
        "must be a whole number, 1 to 1000000",
    ),
    "stream_policy": (_is_stream_policy, 'must be "finish", "cut" or a number of seconds'),
}


def _faults(name: str, entry: object) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"roles.json: roles.{name} must be an object"]
    found = [
        f"roles.json: roles.{name}.{field} {rule}"
        for field, (accepts, rule) in _FIELDS.items()
        if not accepts(entry.get(field))
    ]
    unknown = sorted(set(entry) - set(_FIELDS))
    return found + [f"roles.json: roles.{name}.{field} is not a known field" for field in unknown]


def _duplicate_codes(entries: Mapping[str, Any]) -> list[str]:
    codes = [entry.get("code") for entry in entries.values() if isinstance(entry, Mapping)]
    twice = sorted({str(code) for code in codes if code and codes.count(code) > 1})
    return [f"roles.json: code {code} is used by more than one role" for code in twice]
