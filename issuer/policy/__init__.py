"""What decides about a request: the policy file and the kinds of LLM servers, read, validated, and
compiled for the gateways.

The issuer alone reads these files. It must never decide about a request itself: that is the
gateway's Lua, which `explanation` runs. Nor does it take a part of a file: a policy is whole, or
there is none.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from issuer.errors import Faults
from issuer.policy import budgets, named_files, roles, routes, schema, server_side, servers
from issuer.policy.named_files import NamedFile
from issuer.policy.own_routes import ACCOUNT
from issuer.policy.roles import Limits, Roles
from issuer.policy.routes import Kind, Place, Route
from issuer.policy.servers import Server
from issuer.policy.yaml_document import MAX_BYTES, Document, Fault, sorted_texts, spell

__all__ = [
    "NAME",
    "Place",
    "Policy",
    "Server",
    "Sources",
    "Terms",
    "beside_servers",
    "files",
    "gather",
    "parse",
]

#: What tokens have for `iss` where the deployment has no address of its own.
ISSUER = "portero"
#: What the policy file is called in faults and places.
NAME = "policy.yaml"
SHIPPED = schema.DIRECTORY / NAME
MAX_COMPILED_BYTES = 3_000_000
_FOLDER = "servers"
_KIND_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z", re.ASCII)


#: Hides a text from who has not the sync key, or shows it again.
Sealer = Callable[[str], str]


@dataclass(frozen=True)
class Sources:
    """The texts that a policy is made of; `kinds` are by their names, and `files` are those that
    the policy names, by the field that does and the name.
    """

    policy: str
    kinds: Mapping[str, str]
    files: Mapping[str, NamedFile] = field(default_factory=dict)

    def to_json(self, seal: Sealer) -> str:
        """As a row of the store holds it: credentials are sealed. Of files without a fault."""
        texts = {key: _sealed(key, one.text, seal) for key, one in self.files.items()}
        named = {"files": texts} if texts else {}
        return json.dumps({"policy": self.policy, "kinds": self.kinds, **named}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, unseal: Sealer) -> "Sources":
        """What `to_json` wrote. A credential that cannot be unsealed has a fault."""
        row = json.loads(text)
        files = {key: _unsealed(key, one, unseal) for key, one in row.pop("files", {}).items()}
        return cls(**row, files=files)


def _is_secret(key: str) -> bool:
    return key.startswith("credential_file ")


def _sealed(key: str, text: str, seal: Sealer) -> str:
    return seal(text) if _is_secret(key) else text


def _unsealed(key: str, text: str, unseal: Sealer) -> NamedFile:
    try:
        return NamedFile(unseal(text) if _is_secret(key) else text)
    except ValueError:
        return NamedFile(fault="was kept under another SYNC_KEY; mend the policy's files")


@dataclass(frozen=True)
class Terms:
    """The settings that a policy is compiled under. No kind: all there are, or those of the
    policy's own servers. `has_upstream`: whether a setting names a pool of LLM servers;
    `has_usage`: whether use is counted. `issuer` is what tokens have for `iss`.
    """

    llm_kind: str = ""
    web_ui: str = "portero"
    ttl_bound_seconds: int | None = None
    has_upstream: bool = False
    has_usage: bool = True
    issuer: str = ISSUER


class Policy:
    """A policy without faults: its roles, its LLM servers if it has any, and what is pushed to
    every gateway. `compiled` is that but for credentials, which `for_gateways` adds sealed.
    """

    def __init__(
        self,
        document: Document,
        known: Roles,
        kinds: Sequence[Kind],
        terms: Terms,
        own_servers: Sequence[Server] = (),
    ) -> None:
        self.roles = known
        self.servers = tuple(own_servers)
        self._document = document
        grants = _grants(known)
        content = document.value if isinstance(document.value, dict) else {}
        looks = server_side.looks_at_bodies(content)
        able = server_side.able(known)
        of_servers = [server.kind for server in own_servers]
        table = list(routes.in_force(kinds, grants, able, terms.web_ui, of_servers))
        self._routes: list[Route] = [route for route, _ in table]
        is_ollama = any(kind.model_names == "ollama" for kind in kinds)
        users = content.get("users", {})
        self.compiled: dict[str, Any] = {
            "roles": {role.name: _compiled_role(role, looks) for role in sorted(known, key=_name)},
            "users": {
                name: _compiled_limits(known.limits_of(name), known.of(name), looks)
                for name in sorted(users)
            },
            "model_names": "ollama" if is_ollama else "exact",
            "routes": [row for _, row in table],
            **self._compiled_servers(grants),
        }
        self.groups = tuple(budgets.groups_of(document)) if content else ()
        if self.groups:
            self.compiled["groups"] = [group.compiled() for group in self.groups]
        #: Whether anybody has a budget, so that gateways must know what is spent.
        self.has_budgets = budgets.first_place(document) is not None
        if terms.issuer != ISSUER:
            self.compiled["issuer"] = terms.issuer

    def _compiled_servers(self, grants: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Nothing without servers: one pool costs a gateway what it did before there were any."""
        if not self.servers:
            return {}
        return {
            "servers": [server.compiled() for server in self.servers],
            "aliases": servers.aliases_of(self._document),
            "management": list(grants.get("management", ())),
        }

    def for_gateways(self, seal: Sealer) -> dict[str, Any]:
        """What is pushed, and kept in the store: `compiled` with each server's credential."""
        if not self.servers:
            return self.compiled
        told = [
            row | ({"credential": seal(server.credential)} if server.credential else {})
            for row, server in zip(self.compiled["servers"], self.servers, strict=True)
        ]
        return self.compiled | {"servers": told}

    def needs_of_route(self, index: int) -> str | None:
        """What a line of `compiled["routes"]` needs beside its class."""
        return self._routes[index].needs

    def place_of_route(self, index: int) -> Place:
        """Where a line of `compiled["routes"]` is written."""
        return self._routes[index].place

    def place_of_servers(self) -> Place:
        """Where the servers begin."""
        return Place(NAME, self._document.line("servers"), "servers")

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
        for route_class in dict.fromkeys((*role.routes, ACCOUNT)):
            grants.setdefault(route_class, []).append(role.name)
    return grants


def _compiled_role(role: roles.Role, looks: bool) -> dict[str, Any]:
    return {
        "code": role.code,
        "ttl_seconds": role.ttl_seconds,
        "stream_policy": role.stream_policy,
        **_compiled_certificate(role),
        **_compiled_api_keys(role),
        **_compiled_limits(role.limits, role, looks),
    }


def _compiled_certificate(role: roles.Role) -> dict[str, Any]:
    """Nothing where none is asked for: no request is asked for one then."""
    return {"client_certificate": True} if role.values["client_certificate"] else {}


def _compiled_api_keys(role: roles.Role) -> dict[str, Any]:
    """Bodies are read of whoever is limited to some models, as a narrowed key is."""
    if role.api_keys is None:
        return {}
    told = {"longest_seconds": role.api_keys.longest_seconds}
    return {"api_keys": {**told, "server_side": server_side.compiled(role)}}


def _compiled_limits(limits: Limits | None, role: roles.Role | None, looks: bool) -> dict[str, Any]:
    """What is a limit, and nothing where nothing is: such a caller costs the gateway nothing."""
    if limits is None or role is None:
        return {}
    held = {name: value for name, value in vars(limits).items() if value is not None}
    if limits.any_model:
        del held["models"]
    else:
        held["models"] = list(limits.models)
    if limits.largest_body_bytes >= roles.MAX_BODY_BYTES:
        del held["largest_body_bytes"]
    if "models" in held or server_side.is_looked_at(role, looks):
        held["server_side"] = server_side.compiled(role)
    return {"limits": held} if held else {}


# Files.


def files(path: Path) -> dict[str, Path]:
    """The policy file and the kinds, by what they are called in faults."""
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
    return Sources(texts[NAME], kinds, _named(texts[NAME], path.parent))


def _named(text: str, folder: Path) -> dict[str, NamedFile]:
    """The files that the policy names; what cannot be read is told with the line that names it."""
    return {
        named_files.key_of(of, name): named_files.read(folder / name, of)
        for of, name in _names(text)
    }


@lru_cache(maxsize=2)
def _names(text: str) -> tuple[tuple[str, str], ...]:
    """Kept, as the files are looked at several times a second and the policy seldom changes."""
    document = Document(NAME, text)
    return tuple((of, name) for _, of, name in servers.files_named(document))


def _text(path: Path) -> str:
    """What is no UTF-8 is told with its line by whoever reads the text; so is what is too long."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1).decode("utf-8", "surrogateescape")


def _folders(path: Path) -> list[Path]:
    """The shipped kinds, and those beside the policy file, which take their place."""
    return list(dict.fromkeys((schema.DIRECTORY / _FOLDER, path.parent / _FOLDER)))


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
    kinds, of_kinds = _kinds(sources.kinds, _in_force(document, terms))
    faults = [*document.faults, *of_kinds]
    if document.is_readable:
        faults += schema.faults_of(document, schema.POLICY)
        faults += roles.rule_faults(document)
        faults += servers.rule_faults(document, tuple(sources.kinds), sources.files)
        faults += budgets.rule_faults(document, roles.codes_of(document))
    told = [*_settings_faults(document, sources, terms), *sorted_texts(faults)]
    if told:
        raise Faults(told)
    own = servers.of_document(document, kinds, sources.files)
    known = roles.of_document(document, terms.ttl_bound_seconds)
    policy = Policy(document, known, kinds, terms, own)
    if len(json.dumps(policy.compiled)) > MAX_COMPILED_BYTES:
        raise Faults([f"{NAME}: makes more than {MAX_COMPILED_BYTES} bytes for a gateway to hold"])
    return policy


def beside_servers(sources: Sources, terms: Terms) -> list[str]:
    """Settings that a policy rules out: those of one pool, beside servers of its own, and USAGE=off
    beside budgets. No start with both.
    """
    return list(_beside(Document(NAME, sources.policy), terms))


def _in_force(document: Document, terms: Terms) -> Collection[str] | None:
    """The names of the kinds in force; None for all."""
    if servers.are_named(document):
        return servers.kinds_named(document)
    return {terms.llm_kind} if terms.llm_kind else None


def _kinds(
    texts: Mapping[str, str], in_force: Collection[str] | None
) -> tuple[list[Kind], list[Fault]]:
    """The kinds in force; and the faults of all kinds, and between those in force."""
    kinds: list[Kind] = []
    faults: list[Fault] = []
    for name in sorted(texts):
        kind, found = routes.read_kind(name, texts[name])
        faults += found
        if kind and (in_force is None or name in in_force):
            kinds.append(kind)
    return kinds, [*faults, *routes.contradictions(kinds)]


def _settings_faults(document: Document, sources: Sources, terms: Terms) -> Iterator[str]:
    yield from _beside(document, terms)
    kinds = sorted(sources.kinds)
    if terms.llm_kind and terms.llm_kind not in kinds and not servers.are_named(document):
        yield f"LLM_KIND: must be one of {', '.join(kinds)}"


def _beside(document: Document, terms: Terms) -> Iterator[str]:
    budget = None if terms.has_usage else budgets.first_place(document)
    if budget:
        place = f"{NAME} line {document.line(*budget)}: {spell(budget)}"
        yield f"USAGE: must be on, as {place} is a budget"
    given = {"LLM_UPSTREAM": terms.has_upstream, "LLM_KIND": bool(terms.llm_kind)}
    for name in given if servers.are_named(document) else ():
        if given[name]:
            place = f"{NAME} line {document.line('servers')}: servers"
            yield f"{name}: must not be set beside {place}, which say it of each server"
