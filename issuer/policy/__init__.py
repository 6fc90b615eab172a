"""What decides about a request: the policy file and the kinds of LLM servers, read, validated, and
compiled for the gateways.

The issuer alone reads these files. It must never decide about a request itself: that is the
gateway's Lua, which `explanation` runs. Nor does it take a part of a file: a policy is whole, or
there is none.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from issuer.errors import Faults
from issuer.policy import roles, routes, schema
from issuer.policy.roles import Limits, Roles
from issuer.policy.routes import Kind, Place, Route
from issuer.policy.yaml_document import MAX_BYTES, Document, Fault, sorted_texts, spell

__all__ = [
    "NAME",
    "Place",
    "Policy",
    "Sources",
    "Terms",
    "files",
    "gather",
    "parse",
]

#: What the policy file is called in faults and places.
NAME = "policy.yaml"
SHIPPED = schema.DIRECTORY / NAME
MAX_COMPILED_BYTES = 3_000_000
_SERVERS = "servers"
_KIND_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z", re.ASCII)


@dataclass(frozen=True)
class Sources:
    """The texts that a policy is made of; `kinds` are by their names."""

    policy: str
    kinds: Mapping[str, str]

    def to_json(self) -> str:
        """As a row of the store holds it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Sources":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Terms:
    """The settings that a policy is compiled under. No kind: all there are."""

    llm_kind: str = ""
    web_ui: str = "portero"
    ttl_bound_seconds: int | None = None


class Policy:
    """A policy without faults: its roles, and what is pushed to every gateway."""

    def __init__(
        self, document: Document, known: Roles, kinds: Sequence[Kind], terms: Terms
    ) -> None:
        self.roles = known
        self._document = document
        grants = _grants(known)
        table = list(routes.in_force(kinds, grants, terms.web_ui))
        self._routes: list[Route] = [route for route, _ in table]
        is_ollama = any(kind.model_names == "ollama" for kind in kinds)
        users = document.value.get("users", {}) if isinstance(document.value, dict) else {}
        self.compiled: dict[str, Any] = {
            "roles": {role.name: _compiled_role(role) for role in sorted(known, key=_name)},
            "users": {name: _compiled_limits(known.limits_of(name)) for name in sorted(users)},
            "model_names": "ollama" if is_ollama else "exact",
            "routes": [row for _, row in table],
        }

    def place_of_route(self, index: int) -> Place:
        """Where a line of `compiled["routes"]` is written."""
        return self._routes[index].place

    def place_of(self, user: str, field: str) -> Place:
        """Where the file says it of this user: in the user's own entry, or in the role's."""
        path = self.roles.path_of(user, field)
        return Place(NAME, self._document.line(*path), spell(path))


def _name(role: roles.Role) -> str:
    return role.name


def _grants(known: Roles) -> dict[str, list[str]]:
    """The names of the roles that may use it, by route class."""
    grants: dict[str, list[str]] = {}
    for role in sorted(known, key=_name):
        for route_class in dict.fromkeys(role.routes):
            grants.setdefault(route_class, []).append(role.name)
    return grants


def _compiled_role(role: roles.Role) -> dict[str, Any]:
    return {
        "code": role.code,
        "ttl_seconds": role.ttl_seconds,
        "stream_policy": role.stream_policy,
        **_compiled_limits(role.limits),
    }


def _compiled_limits(limits: Limits | None) -> dict[str, Any]:
    """What is a limit, and nothing where nothing is: such a caller costs the gateway nothing."""
    if limits is None:
        return {}
    held = {name: value for name, value in vars(limits).items() if value is not None}
    if limits.any_model:
        del held["models"]
    else:
        held["models"] = list(limits.models)
    if limits.largest_body_bytes >= roles.MAX_BODY_BYTES:
        del held["largest_body_bytes"]
    return {"limits": held} if held else {}


# Files.


def files(path: Path) -> dict[str, Path]:
    """Every file that the policy at a path is made of, by what it is called in faults."""
    return {NAME: path, **{routes.file_of(name): one for name, one in _kind_files(path).items()}}


def gather(path: Path) -> Sources:
    """The texts of the policy at a path. Raises `Faults` for what cannot be read."""
    faults = list(_misnamed(path))
    texts = {}
    for name, one in files(path).items():
        try:
            texts[name] = _text(one)
        except OSError as error:
            faults.append(f"{name}: cannot read {one}: {error.strerror}")
    if faults:
        raise Faults(faults)
    kinds = {name: texts[routes.file_of(name)] for name in _kind_files(path)}
    return Sources(texts[NAME], kinds)


def _text(path: Path) -> str:
    """What is no UTF-8 is told with its line by whoever reads the text; so is what is too long."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1).decode("utf-8", "surrogateescape")


def _folders(path: Path) -> list[Path]:
    """The shipped kinds, and those beside the policy file, which take their place."""
    return list(dict.fromkeys((schema.DIRECTORY / _SERVERS, path.parent / _SERVERS)))


def _listed(path: Path) -> Iterator[Path]:
    for folder in _folders(path):
        yield from sorted(one for one in folder.glob("[!.]*") if one.suffix in (".yaml", ".yml"))


def _kind_files(path: Path) -> dict[str, Path]:
    return {
        one.stem: one
        for one in _listed(path)
        if one.suffix == ".yaml" and _KIND_NAME.match(one.stem)
    }


def _misnamed(path: Path) -> Iterator[str]:
    for one in _listed(path):
        if one.suffix == ".yml":
            yield f"servers/{one.name}: is not read; call it {one.stem}.yaml"
        elif not _KIND_NAME.match(one.stem):
            yield f"servers/{one.name}: must be named with a-z 0-9 . _ - alone, and .yaml"


# Reading.


def parse(sources: Sources, terms: Terms) -> Policy:
    """The policy that some texts make. Raises `Faults` with every fault there is."""
    document = Document(NAME, sources.policy)
    faults = list(document.faults)
    if document.is_readable:
        faults += schema.faults_of(document, schema.POLICY)
        faults += roles.rule_faults(document)
    kinds, of_kinds = _kinds(sources.kinds, terms.llm_kind)
    told = [*_unknown_kind(sources, terms), *sorted_texts([*faults, *of_kinds])]
    if told:
        raise Faults(told)
    policy = Policy(document, roles.of_document(document, terms.ttl_bound_seconds), kinds, terms)
    if len(json.dumps(policy.compiled)) > MAX_COMPILED_BYTES:
        raise Faults([f"{NAME}: makes more than {MAX_COMPILED_BYTES} bytes for a gateway to hold"])
    return policy


def _kinds(texts: Mapping[str, str], llm_kind: str) -> tuple[list[Kind], list[Fault]]:
    """The kinds in force; and the faults of all kinds, and between those in force."""
    kinds, faults = [], []
    for name in sorted(texts):
        kind, found = routes.read_kind(name, texts[name])
        faults += found
        if kind and llm_kind in ("", name):
            kinds.append(kind)
    return kinds, [*faults, *routes.contradictions(kinds)]


def _unknown_kind(sources: Sources, terms: Terms) -> Iterator[str]:
    if terms.llm_kind and terms.llm_kind not in sources.kinds:
        yield f"LLM_KIND: must be one of {', '.join(sorted(sources.kinds))}"
