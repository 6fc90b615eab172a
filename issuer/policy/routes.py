"""The routes of the kinds of LLM servers, and Portero's own: read, checked against each other, and
put in the order in which a gateway looks for them.

Pure: documents come in. It must never decide about a request.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from issuer.policy import schema
from issuer.policy.own_routes import ACCOUNT, FILE, OWN_ROUTES
from issuer.policy.yaml_document import Document, Fault, spell
from issuer.policy.yaml_document import Path as FieldPath

_LINE = re.compile(r"([A-Z]+) (/\S*)(?: +model=(\S+))?(?: +needs=(\S+))?\Z", re.ASCII)
_PARAMETER = re.compile(r"\{([A-Za-z0-9]+)\}", re.ASCII)
_CANONICAL = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*\Z", re.ASCII)
_OWN = "portero"


class Place(NamedTuple):
    """Where something is written: a file, the line (0: no line in particular), and the path."""

    file: str
    line: int
    path: str


@dataclass(frozen=True)
class Route:
    """One line: `POST /v1/chat/completions model=body`, of a class, in a kind's file. `needs` is
    the field of a role's `server_side` without which the class is not enough.
    """

    method: str
    path: str
    model: str | None
    needs: str | None
    route_class: str
    kind: str
    file: str
    line: int
    field: FieldPath

    @property
    def place(self) -> Place:
        """Where it is written."""
        return Place(self.file, self.line, spell(self.field))

    @property
    def name(self) -> str:
        """As it stands there, without its model."""
        return f"{self.method} {self.path}"

    @property
    def same(self) -> str:
        """Alike for lines that differ in a parameter's name alone."""
        return _PARAMETER.sub("{}", self.name)

    @property
    def meaning(self) -> tuple[str | None, ...]:
        """What must be alike of a route that two kinds have."""
        return self.route_class, self.model, self.needs

    @property
    def is_own(self) -> bool:
        """Whether it is Portero's."""
        return self.kind == _OWN

    def rank(self) -> tuple[object, ...]:
        """Names with /v1 come first, so that they have the short names; then the more exact."""
        length = len(_PARAMETER.sub("", self.path))
        return not self.path.startswith("/v1/"), -length, self.name, not self.is_own


@dataclass(frozen=True)
class Kind:
    """A kind of LLM server: the dialect it speaks, how its models are named, its routes."""

    name: str
    dialect: str
    model_names: str
    routes: tuple[Route, ...]


def file_of(kind: str) -> str:
    """What a kind's file is called in faults and places."""
    return f"servers/{kind}.yaml"


def own() -> tuple[Route, ...]:
    """Portero's own routes."""
    return tuple(
        _route(text, _OWN, FILE, 0, (route_class, index))
        for route_class, texts in OWN_ROUTES.items()
        for index, text in enumerate(texts)
    )


@lru_cache(maxsize=64)
def read_kind(name: str, text: str) -> tuple[Kind | None, tuple[Fault, ...]]:
    """A kind of LLM server, or its faults. A text that was read is remembered: nine tenths of the
    time of reading a policy go into its kinds, and those change least.
    """
    document = Document(file_of(name), text)
    faults = list(document.faults)
    if document.is_readable:
        faults += schema.faults_of(document, schema.SERVER)
        faults += _route_faults(document)
    if faults:
        return None, tuple(faults)
    content: Any = document.value
    routes = [
        _route(line, name, document.file, document.line(*path), path)
        for path, line in _lines(content["routes"])
    ]
    kind = Kind(name, content["dialect"], content["model_names"], tuple(routes))
    return kind, tuple(_twice(document, kind))


def contradictions(kinds: Sequence[Kind]) -> Iterator[Fault]:
    """A route that several kinds in force have, or Portero itself, means the same in all."""
    known: dict[str, Route] = {}
    for route in (*own(), *(route for kind in kinds for route in kind.routes)):
        first = known.setdefault(route.same, route)
        if first.meaning != route.meaning:
            text = f"is {route.name}, which means another thing in {_where(first.place)}"
            yield Fault(route.file, route.line, route.field, text)


def _where(place: Place) -> str:
    return f"{place.file} line {place.line}" if place.line else place.file


def _lines(routes: object) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Every line that is one, with its place."""
    tables = routes if isinstance(routes, Mapping) else {}
    for route_class, listed in tables.items():
        for index, line in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(line, str) and _LINE.match(line):
                yield ("routes", route_class, index), line


def _route(text: str, kind: str, file: str, line: int, field: FieldPath) -> Route:
    match = _LINE.match(text)
    assert match is not None
    return Route(match[1], match[2], match[3], match[4], str(field[-2]), kind, file, line, field)


def _route_faults(document: Document) -> Iterator[Fault]:
    """What a pattern does not say of a line."""
    content = document.value if isinstance(document.value, dict) else {}
    for path, line in _lines(content.get("routes")):
        route = _route(line, "", document.file, 0, path)
        for text in _reasons(route, content.get("dialect")):
            yield document.fault(path, text)


def _reasons(route: Route, dialect: object) -> Iterator[str]:
    if len(_PARAMETER.findall(route.path)) > 1:
        yield "has more than one {parameter}"
    elif not is_canonical(_PARAMETER.sub("x", route.path)):
        yield "has a path that is not written in the one way that a path may be"
    if route.model == "path" and "{model}" not in route.path:
        yield "says model=path, and its path has no {model}"
    if route.model == "response" and "{response}" not in route.path:
        yield "says model=response, and its path has no {response}"
    if dialect == "openai" and route.path.startswith("/api/"):
        yield "is below /api/, which is Ollama's dialect; the file says dialect: openai"


def is_canonical(path: str) -> bool:
    """Whether a path is written in the one way that could be in the table."""
    return (
        _CANONICAL.match(path) is not None
        and "//" not in path
        and re.search(r"/\.\.?/", path + "/") is None
    )


def _twice(document: Document, kind: Kind) -> Iterator[Fault]:
    known: dict[str, Route] = {}
    for route in kind.routes:
        first = known.setdefault(route.same, route)
        if first is not route:
            yield document.fault(route.field, f"is listed twice, first in line {first.line}")


# The table that is pushed.

#: Whose answer comes from an LLM server.
BY_LLM = ("llm", "discovery", "socket")
#: Who answers a class otherwise than the LLM server by itself.
_ANSWERED_BY = {
    "console": "issuer",
    "metrics": "gateway",
    ACCOUNT: "issuer",
    "realtime": "socket",
}
#: Where a route of class models says that its model stands, and its answer is made from a list.
_LOOKED_UP = ("listed", "path")


def in_force(
    kinds: Sequence[Kind],
    grants: Mapping[str, Sequence[str]],
    able: Mapping[str, Sequence[str]],
    web_ui: str,
    of_servers: Sequence[Kind] = (),
) -> Iterator[tuple[Route, dict[str, Any]]]:
    """Every route whose class some role may use, in order, and what a gateway is told of it.
    `grants` are the names of the roles by route class, `able` those by what a route may need beside
    it, `of_servers` the kinds of the policy's own servers, in their order. A class that no role may
    use does not exist.
    """
    told: set[str] = set()
    every = (*own(), *(route for kind in kinds for route in kind.routes))
    listed = _listed_by(of_servers)
    for route in sorted(every, key=Route.rank):
        answered_by = _answerer(route, web_ui)
        if answered_by and route.route_class in grants and route.name not in told:
            told.add(route.name)
            may = [
                name
                for name in grants[route.route_class]
                if route.needs is None or name in able[route.needs]
            ]
            row = _row(route, answered_by, may)
            is_own = answered_by not in BY_LLM
            yield route, row if is_own or not of_servers else row | _place_of(route, listed)


def _listed_by(of_servers: Sequence[Kind]) -> dict[str, list[int]]:
    """Route -> the servers whose kind lists it, counted from 0; nothing -> all of them."""
    listed: dict[str, list[int]] = {"": list(range(len(of_servers)))}
    for index, kind in enumerate(of_servers):
        for same in dict.fromkeys(route.same for route in kind.routes):
            listed.setdefault(same, []).append(index)
    return listed


def _place_of(route: Route, listed: Mapping[str, list[int]]) -> dict[str, Any]:
    """Which servers a route may go to, and whether under a server's name alone. Its page is one
    server's, the first that has one: the parts of a page of two servers do not fit together.
    """
    servers = listed.get(route.same) or listed[""]
    if route.route_class == "page":
        return {"servers": servers[:1]}
    return {"servers": servers, **({"by_name": True} if route.route_class == "management" else {})}


def _row(route: Route, answered_by: str, roles: Sequence[str]) -> dict[str, Any]:
    row = {
        "method": route.method,
        "path": route.path,
        "class": route.route_class,
        "answered_by": answered_by,
        "roles": list(roles),
    }
    more = {"model": route.model} if route.model else {}
    return row | more | ({"no_api_keys": True} if _refuses_api_keys(route) else {})


def _refuses_api_keys(route: Route) -> bool:
    """A key makes no keys, and is nobody at the console."""
    return route.is_own and (
        route.route_class == "console" or route.path.startswith("/account/keys")
    )


def _answerer(route: Route, web_ui: str) -> str | None:
    """None where it is not in force: the page at / is Portero's or the LLM server's."""
    if route.route_class == "page":
        by_llm = web_ui == "upstream"
        return ("llm" if by_llm else "issuer") if route.is_own or by_llm else None
    if route.route_class == "models" and route.model in _LOOKED_UP:
        return "discovery"
    return _ANSWERED_BY.get(route.route_class, "llm")
