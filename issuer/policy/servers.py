"""The LLM servers and the aliases of a policy file: where each server is and of which kind, and
what other names of models stand for.

Pure: a document and the texts of the files it names come in. What one value must be the schema
says. It must never put a URL into a fault, as there may be a password in one, and it never chooses
a server: that is the gateway's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, NamedTuple

from issuer.policy import named_files
from issuer.policy.named_files import FIELDS, NamedFile
from issuer.policy.routes import Kind
from issuer.policy.yaml_document import Document, Fault
from issuer.policy.yaml_document import Path as FieldPath

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_PORT = 65_535
MAX_HOST_CHARACTERS = 253
#: How many folders a gateway has for certificates of single servers (server/authorities.lua).
MAX_AUTHORITIES = 16

#: Of what has the form that the schema asks for.
_URL = re.compile(r"(https?)://(?=[!-~]{1,1000}\Z)([^/]*)(/.*)?\Z", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\Z", re.ASCII | re.IGNORECASE)
_PATH = re.compile(r"(/(?!\.\.?(/|\Z))[A-Za-z0-9._~-]+)*\Z", re.ASCII)
_IN_BRACKETS = re.compile(r"\[([^\]]*)\](?::([0-9]{1,5}))?\Z", re.ASCII)
_PLAIN_HOST = re.compile(r"([^:\[\]]+)(?::([0-9]{1,5}))?\Z", re.ASCII)
#: What a path may end in that is a route's; a base URL is what comes before.
_OF_A_ROUTE = re.compile(
    r"/(v1|v1/.*|api|api/(chat|generate|embed|embeddings|tags|show|ps|version)"
    r"|chat/completions|completions|embeddings|models)\Z"
)


class Url(NamedTuple):
    """A base URL, taken apart; `host` without brackets, `path` without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as a client sends them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True)
class Server:
    """One LLM server. `models`: what of its models counts, None for all; `ca`: PEM, empty for what
    the gateway's machine trusts.
    """

    name: str
    kind: Kind
    url: Url
    weight: int
    max_concurrent: int | None
    models: tuple[str, ...] | None
    credential: str = field(repr=False)
    ca: str = field(repr=False)

    def compiled(self) -> dict[str, Any]:
        """What a gateway is told of it, but for its credential."""
        told = {
            "name": self.name,
            "kind": self.kind.name,
            "dialect": self.kind.dialect,
            "model_names": self.kind.model_names,
            **self.url._asdict(),
            "authority": self.url.authority,
            "weight": self.weight,
            "max_concurrent": self.max_concurrent,
            "models": None if self.models is None else list(self.models),
            "ca": self.ca or None,
        }
        return {name: value for name, value in told.items() if value is not None}


# Faults: what two values must be to each other, and what a text does not show by its form.


def are_named(document: Document) -> bool:
    """Whether the policy has servers of its own."""
    return isinstance(document.value, dict) and "servers" in document.value


def kinds_named(document: Document) -> set[str]:
    """The kinds of its servers, whether there are such or not."""
    named = (entry.get("kind") for _, entry in _entries(document))
    return {kind for kind in named if isinstance(kind, str)}


def files_named(document: Document) -> Iterator[tuple[FieldPath, str, str]]:
    """The files that servers name: where, by which field, and how."""
    for path, entry in _entries(document):
        for of in FIELDS:
            if isinstance(name := entry.get(of), str) and name:
                yield (*path, of), of, name


def rule_faults(
    document: Document, kinds: Sequence[str], found: Mapping[str, NamedFile]
) -> Iterator[Fault]:
    """Every fault between the values of servers and aliases, and in the files they name."""
    yield from _name_faults(document)
    for path, entry in _entries(document):
        yield from _kind_fault(document, (*path, "kind"), entry.get("kind"), kinds)
        yield from _url_faults(document, path, entry)
    for path, of, name in files_named(document):
        if fault := named_files.fault_of(found, of, name):
            yield document.fault(path, fault)
    yield from _authority_faults(document, found)
    yield from _alias_faults(document)


def _authority_faults(document: Document, found: Mapping[str, NamedFile]) -> Iterator[Fault]:
    """More certificates of single servers than a gateway has places for."""
    known: set[str] = set()
    for path, of, name in files_named(document):
        if of == "ca_file" and not named_files.fault_of(found, of, name):
            known.add(named_files.text_of(found, of, name))
            if len(known) > MAX_AUTHORITIES:
                text = (
                    f"is one more than the {MAX_AUTHORITIES} different ones that a gateway has"
                    " room for; put the certificates of several into one file"
                )
                yield document.fault(path, text)
                return


def _entries(document: Document) -> Iterator[tuple[FieldPath, dict[str, Any]]]:
    """The servers that are tables, with their places."""
    content = document.value if isinstance(document.value, dict) else {}
    listed = content.get("servers")
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(entry, dict):
            yield ("servers", index), entry


def _name_faults(document: Document) -> Iterator[Fault]:
    lines: dict[str, int] = {}
    for path, entry in _entries(document):
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        if name in lines:
            text = f"is the name of the server in line {lines[name]} already"
            yield document.fault((*path, "name"), text)
        lines.setdefault(name, document.line(*path, "name"))


def _kind_fault(
    document: Document, path: FieldPath, kind: object, kinds: Sequence[str]
) -> Iterator[Fault]:
    if isinstance(kind, str) and kind and kind not in kinds:
        yield document.fault(path, f"must be one of {', '.join(sorted(kinds))}")


def _url_faults(document: Document, path: FieldPath, entry: Mapping[str, Any]) -> Iterator[Fault]:
    text = entry.get("url")
    match = _URL.match(text) if isinstance(text, str) else None
    if match is None:
        return
    if reason := _url_reason(match):
        yield document.fault((*path, "url"), reason)
    if "ca_file" in entry and match[1] == "http":
        yield document.fault((*path, "ca_file"), "is for https://, and the url is http://")


def _url_reason(match: re.Match[str]) -> str:
    """Why it is no base URL; empty when it is one."""
    authority, path = match[2], (match[3] or "").rstrip("/")
    if "@" in authority:
        return "has a user or a password; a server's credential stands in its credential_file"
    if re.search(r"[?#]", match[0]):
        return "has a query or a fragment, which no base URL has"
    if _host_and_port(match[1], authority) is None:
        return "must have a host, as a name or an address, and no port or one of 1 to 65535"
    if route := _OF_A_ROUTE.search(path):
        known = f"/{route[1].partition('/')[0]}"
        return f"ends in a route, {known}: a base URL is what comes before /v1 and /api"
    if not _PATH.match(path):
        return "has a path that is not written in the one way that a path may be"
    return ""


def _host_and_port(scheme: str, authority: str) -> tuple[str, int] | None:
    """None where it is none of these: a name, an address, and a port that may be left out."""
    match = _IN_BRACKETS.match(authority) or _PLAIN_HOST.match(authority)
    if match is None:
        return None
    port = int(match[2] or DEFAULT_PORTS[scheme])
    is_host = _is_address(match[1]) if authority.startswith("[") else _is_name(match[1])
    return (match[1].lower(), port) if is_host and 1 <= port <= MAX_PORT else None


def _is_address(text: str) -> bool:
    """Whether it is one of IPv6, without a zone."""
    try:
        return bool(str(IPv6Address(text))) and "%" not in text
    except AddressValueError:
        return False


def _is_name(text: str) -> bool:
    """Whether it is a name, or an address of IPv4: what ends in a number is nothing else."""
    labels = text.removesuffix(".").split(".")
    if labels[-1].isdigit():
        try:
            return bool(str(IPv4Address(text)))
        except AddressValueError:
            return False
    return len(text) <= MAX_HOST_CHARACTERS and all(_LABEL.match(one) for one in labels)


def _alias_faults(document: Document) -> Iterator[Fault]:
    content = document.value if isinstance(document.value, dict) else {}
    aliases = content.get("aliases")
    if not isinstance(aliases, dict):
        return
    if aliases and not are_named(document):
        yield document.fault(("aliases",), "needs servers: list there what LLM_UPSTREAM names")
    for name, target in aliases.items():
        for model in _targets(target):
            if model in aliases and not model.endswith("*"):
                text = f"names {model}, which is an alias itself; name the model it stands for"
                yield document.fault(("aliases", name), text)


def _targets(target: object) -> list[str]:
    listed = target if isinstance(target, list) else [target]
    return [one for one in listed if isinstance(one, str)]


# What gateways are told.


def of_document(
    document: Document, kinds: Sequence[Kind], found: Mapping[str, NamedFile]
) -> tuple[Server, ...]:
    """The servers of a policy file without faults, in its order."""
    by_name = {kind.name: kind for kind in kinds}
    return tuple(_server(entry, by_name, found) for _, entry in _entries(document))


def _server(
    entry: Mapping[str, Any], kinds: Mapping[str, Kind], found: Mapping[str, NamedFile]
) -> Server:
    texts = {of: named_files.text_of(found, of, entry[of]) for of in FIELDS if of in entry}
    return Server(
        name=entry["name"],
        kind=kinds[entry["kind"]],
        url=_url(entry["url"]),
        weight=entry.get("weight", 1),
        max_concurrent=entry.get("max_concurrent"),
        models=tuple(entry["models"]) if "models" in entry else None,
        credential=texts.get("credential_file", ""),
        ca=texts.get("ca_file", ""),
    )


def _url(text: str) -> Url:
    match = _URL.match(text)
    place = match and _host_and_port(match[1], match[2])
    assert match
    assert place
    return Url(match[1], *place, (match[3] or "").rstrip("/"))


def aliases_of(document: Document) -> list[dict[str, Any]]:
    """The aliases of a policy file without faults, in its order; each stands for a list."""
    content: Any = document.value
    table = content.get("aliases", {}).items()
    return [{"name": name, "models": _targets(target)} for name, target in table]
