"""The roles of a policy file: code, lifetime, login endpoint, route classes, models and limits, and
the users whose limits are others than their role's.

Pure: a document that was read comes in. What one value must be the schema says. It never decides
about a request; that is the gateway's.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from issuer.policy import schema
from issuer.policy.yaml_document import Document, Fault, Path

CODE_LENGTH = 4
SECONDS_A_DAY = 86_400
MAX_BODY_BYTES = 64 * 1024 * 1024
#: The list of models that is no limit.
ANY_MODEL = ("*",)

_SUBJECT = re.compile(r"[A-Z]{4}[A-Za-z0-9._-]{1,60}\Z", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What a user is held to. None: no limit."""

    models: tuple[str, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    largest_body_bytes: int
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def any_model(self) -> bool:
        """Whether the models are not limited at all."""
        return self.models == ANY_MODEL


@dataclass(frozen=True)
class ApiKeyRule:
    """What API keys a user may have: how many at a time, and for how long each."""

    most: int
    longest_days: int

    @property
    def longest_seconds(self) -> int:
        """The longest life of a key."""
        return self.longest_days * SECONDS_A_DAY


@dataclass(frozen=True)
class Role:
    """One role. `ttl_seconds` is the longest life of its tokens, `login` the one endpoint where its
    users sign in, `active_tokens` a user's most, `api_keys` None where its users have none, and
    `stream_policy` what a stream outlives its token by: `finish`, `cut`, or seconds. `values` are
    all fields as the file or a default has them, for a field that only one place asks for.
    """

    name: str
    code: str
    ttl_seconds: int
    login: str
    routes: tuple[str, ...]
    limits: Limits
    active_tokens: int
    stream_policy: str | int
    api_keys: ApiKeyRule | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


class Roles:
    """All roles, by name and by the code that begins a username, and the users' own limits."""

    def __init__(self, roles: Mapping[str, Role], users: Mapping[str, Mapping[str, Any]]) -> None:
        self._by_name = dict(roles)
        self._by_code = {role.code: role for role in roles.values()}
        self._users = {name: dict(own) for name, own in users.items()}

    def __iter__(self) -> Iterator[Role]:
        return iter(self._by_name.values())

    def named(self, name: str) -> Role | None:
        """The role of this name, or None."""
        return self._by_name.get(name)

    def of(self, username: str) -> Role | None:
        """The role whose code begins this username, or None."""
        return self._by_code.get(username[:CODE_LENGTH])

    def grants(self, name: str, route_class: str) -> bool:
        """Whether the role of this name may use a class of routes."""
        role = self._by_name.get(name)
        return role is not None and route_class in role.routes

    def is_met_by(self, username: str, certificate: str) -> bool:
        """Whether a client certificate of this name is what this user's role asks for, if it does;
        empty: none was shown.
        """
        role = self.of(username)
        asks = role is not None and role.values.get("client_certificate", False)
        return not asks or certificate == username

    def longest_ttl_seconds(self) -> int:
        """The longest a token of any role can live."""
        return max(role.ttl_seconds for role in self)

    def limits_of(self, username: str) -> Limits | None:
        """What this user is held to: the role's limits, but for those that are the user's own."""
        role = self.of(username)
        if role is None:
            return None
        return replace(role.limits, **self._users.get(username, {}))

    def path_of(self, username: str, field: str) -> Path:
        """Where the file says it of this user: in the user's own entry, or in the role's."""
        role = self.of(username)
        if role is None:
            return ("roles",)
        own = field in self._users.get(username, {})
        return ("users", username, field) if own else ("roles", role.name, field)


def of_document(document: Document, ttl_bound_seconds: int | None) -> Roles:
    """The roles of a policy file without faults; no role's TTL is over the bound."""
    content: Any = document.value
    filled = {
        name: {**schema.defaults(schema.POLICY, "role"), **entry}
        for name, entry in content["roles"].items()
    }
    return Roles(
        {name: _role(name, entry, ttl_bound_seconds) for name, entry in filled.items()},
        {name: _own(entry) for name, entry in content.get("users", {}).items()},
    )


def _role(name: str, entry: Mapping[str, Any], bound: int | None) -> Role:
    ttl = entry["ttl_seconds"]
    limits = {one.name: entry[one.name] for one in fields(Limits)}
    return Role(
        name=name,
        code=entry["code"],
        ttl_seconds=min(ttl, bound) if bound else ttl,
        login=entry["login"],
        routes=tuple(entry["routes"]),
        limits=Limits(**_own(limits)),
        active_tokens=entry["active_tokens"],
        stream_policy=entry["stream_policy"],
        api_keys=_api_keys(entry["api_keys"]),
        values=entry,
    )


def _api_keys(entry: Mapping[str, Any] | None) -> ApiKeyRule | None:
    if entry is None:
        return None
    return ApiKeyRule(**{**schema.defaults(schema.POLICY, "api_keys"), **entry})


def rule_faults(document: Document) -> Iterator[Fault]:
    """What two values of a policy file must be to each other."""
    owners: dict[str, str] = {}
    for name, code in _codes(document).items():
        first = owners.setdefault(code, name)
        if first != name:
            yield document.fault(("roles", name, "code"), f"is the code of {first} already")
    for name in _members(document, "users"):
        if is_subject(name) and name[:CODE_LENGTH] not in owners:
            yield document.fault(("users", name), "begins with no role's code")


def codes_of(document: Document) -> set[str]:
    """The codes of the roles, where they are codes."""
    return set(_codes(document).values())


def is_subject(name: str) -> bool:
    """Whether a username has the one shape that may become a `sub`."""
    return _SUBJECT.match(name) is not None


def _own(limits: Mapping[str, Any]) -> dict[str, Any]:
    models = {"models": tuple(limits["models"])} if "models" in limits else {}
    return {**limits, **models}


def _codes(document: Document) -> dict[str, str]:
    """The codes by their roles, where they are codes."""
    entries = _members(document, "roles").items()
    found = {name: entry.get("code") for name, entry in entries if isinstance(entry, dict)}
    return {name: code for name, code in found.items() if isinstance(code, str)}


def _members(document: Document, name: str) -> dict[str, Any]:
    """The members of one part of the file; none where it is no object."""
    part = document.value.get(name) if isinstance(document.value, dict) else None
    return part if isinstance(part, dict) else {}
