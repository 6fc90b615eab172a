"""Who may do what: the gateway's decision about a request, and the rule and the line it rests on.

A twin of `portero/policy/route_table.lua` and of what `portero/access.lua` and
`portero/request/request_model.lua` ask of it, in the same order: the two must agree on every
request there is. Pure: the texts of the files come in.
No request is judged here; it explains, and it must never be asked instead of the gateway.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from issuer.errors import Faults
from issuer.policy import model_name
from issuer.policy.placed_json import Document, spell
from issuer.policy.placed_json import Path as JsonPath
from issuer.policy.roles import CLASSES, NAME, Limits, Role, Roles, is_subject
from issuer.policy.shapes import Rule, judge, list_of, one_of, or_null, record, table, whole

KINDS = ("ollama", "vllm", "llama-server", "localai")
OWN = "portero"

#: What the bare host answers to beside /v1, for clients whose base URL has no path.
_BARE_OPENAI = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/models/{model}",
}
_METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD"}
#: Where a route may say that its model stands, and those whose request names none.
_WORDS = {"body", "body-or-name", "path", "query", "form", "listed", "none"}
_WITHOUT_MODEL = {"listed", "none"}

_LINE = re.compile(r"([A-Z]+) (/\S*?)(?:\s+model=(\S+))?\Z", re.ASCII)
_PARAMETER = re.compile(r"\{([A-Za-z0-9]+)\}", re.ASCII)
_SEGMENT = r"[A-Za-z0-9._-]+"
_PARAMETERS = {"model": r"[A-Za-z0-9._:@%/-]+", "digest": r"sha256:[0-9A-Fa-f]+"}
#: A model that is looked up in the LLM server's list, and sent nowhere: any ID that it may have.
_LOOKED_UP = r".+"
_CANONICAL = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*\Z", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where something is written: a file, the line (0: no line in particular), and the path."""

    file: str
    line: int
    path: str


@dataclass(frozen=True)
class Decision:
    """What the gateway answers to a caller with a valid token, and why."""

    status: int
    code: str
    rule: str
    place: Place

    @property
    def is_allowed(self) -> bool:
        """Whether the request is passed on."""
        return self.status == 200


@dataclass(frozen=True)
class Line:
    """One line of a pack."""

    method: str
    path: str
    model: str | None
    kind: str
    pack: str
    place: Place

    @property
    def name(self) -> str:
        """As it stands there, without its model."""
        return f"{self.method} {self.path}"

    @property
    def same(self) -> str:
        """Alike for lines that differ in a parameter's name alone."""
        return _PARAMETER.sub("{}", self.name)

    def rank(self) -> tuple[object, ...]:
        """Names with /v1 come first, so that they have the short names; then the more exact."""
        length = len(_PARAMETER.sub("", self.path))
        return not self.path.startswith("/v1/"), -length, self.name, self.pack != OWN


@dataclass(frozen=True)
class Route:
    """A line in force. `value` is what stood for its parameter, where it has one."""

    line: Line
    is_llm: bool
    value: str | None = None

    @property
    def is_looked_up(self) -> bool:
        """Whether the gateway answers it from the LLM server's list of models."""
        return self.is_llm and self.line.kind == "models" and self.line.model in ("listed", "path")


def pack_names(kind: str | None) -> tuple[str, ...]:
    """The packs in force: Portero's own, and the LLM server's; of an unknown one, all there are."""
    return (OWN, kind) if kind else (OWN, *KINDS)


def file_of(pack: str) -> str:
    """What a pack's file is called in faults and places."""
    return f"routes/{pack}.json"


def is_canonical(path: str) -> bool:
    """Whether a path is written in the one way that could be in the table."""
    return (
        _CANONICAL.match(path) is not None
        and "//" not in path
        and re.search(r"/\.\.?/", path + "/") is None
    )


# Packs, and their faults.


#: How long an LLM server leaves a connection open that nobody uses; null for ever. It is for the
#: gateway, which hangs up before.
MAX_IDLE_SECONDS = 86_400

_PACK = record(
    {
        "idle_seconds": or_null(whole(MAX_IDLE_SECONDS, " of seconds")),
        "routes": table(
            one_of(CLASSES),
            list_of(
                Rule(
                    lambda value: isinstance(value, str) and _is_line(value),
                    "is not METHOD /path, or METHOD /path model=WHERE",
                ),
                "must be a list of METHOD /path",
            ),
            0,
            "must be an object of lists",
        ),
    },
    optional=frozenset({"idle_seconds"}),
)


def _is_line(text: str) -> bool:
    match = _LINE.match(text)
    if match is None:
        return False
    method, path, word = match.groups()
    return (
        method in _METHODS
        and len(_PARAMETER.findall(path)) <= 1
        and is_canonical(_PARAMETER.sub("x", path))
        and (word is None or word in _WORDS)
        and (word != "path" or "{model}" in path)
    )


def parse_packs(texts: Mapping[str, str]) -> list[Line]:
    """Every line of some packs, by the packs' names. Raises `Faults`."""
    lines: list[Line] = []
    faults: list[str] = []
    for pack, text in texts.items():
        try:
            lines += _lines(pack, text)
        except Faults as found:
            faults += found.faults
    faults += _contradictions(lines)
    if faults:
        raise Faults(faults)
    return lines


def _lines(pack: str, text: str) -> list[Line]:
    document = Document(file_of(pack), text)
    if faults := [*document.twice, *judge(document, _PACK)]:
        raise Faults(faults)
    return [
        _line(document, pack, kind, index, text)
        for kind, listed in document.value["routes"].items()
        for index, text in enumerate(listed)
    ]


def _line(document: Document, pack: str, kind: str, index: int, text: str) -> Line:
    match = _LINE.match(text)
    assert match is not None
    path: JsonPath = ("routes", kind, index)
    place = Place(file_of(pack), document.line(*path), spell(path))
    return Line(match[1], match[2], match[3], kind, pack, place)


def _contradictions(lines: Sequence[Line]) -> Iterator[str]:
    """A route that several packs have means the same in all of them."""
    known: dict[str, Line] = {}
    for line in lines:
        first = known.setdefault(line.same, line)
        place = f"{line.place.file} line {line.place.line}: {line.place.path}"
        there = f"{first.place.file} line {first.place.line}"
        if first is not line and first.pack == line.pack:
            yield f"{place}: {line.name} is listed twice, first in {there}"
        elif (first.kind, first.model) != (line.kind, line.model):
            yield f"{place}: {line.name} means another thing in {there}"


# The table of routes.


class Policy:
    """The roles and the packs, compiled; they have no faults."""

    def __init__(
        self, roles: Roles, lines: Sequence[Line], page_by_llm: bool, is_ollama: bool
    ) -> None:
        self._roles = roles
        self._is_ollama = is_ollama
        self._exact: dict[tuple[str, str], Route] = {}
        self._patterns: list[tuple[str, str, re.Pattern[str], Route]] = []
        used = {kind for role in roles for kind in role.routes}
        for line in sorted(lines, key=Line.rank):
            by_llm = _is_llm(line, page_by_llm)
            # What no role may reach does not exist.
            if by_llm is not None and line.kind in used:
                self._add(Route(line, by_llm))

    def _add(self, route: Route) -> None:
        for name in _outside_names(route.line.path, route.is_llm):
            pattern = _pattern(name, route.is_looked_up)
            if pattern:
                before = name.partition("{")[0]
                self._patterns.append((route.line.method, before, pattern, route))
            else:
                self._exact.setdefault((route.line.method, name), route)

    def find(self, method: str, path: str) -> Route | None:
        """The route of a request, or None."""
        if found := self._exact.get((method, path)):
            return found
        for its_method, before, pattern, route in self._patterns:
            match = pattern.match(path) if its_method == method else None
            if match is None:
                continue
            if _is_id(match[1], before) if route.is_looked_up else _is_plain(match[1]):
                return Route(route.line, route.is_llm, match[1])
        return None

    def decide(self, user: str, method: str, target: str, model: str | None = None) -> Decision:
        """What becomes of this request. The query is no part of what is looked up."""
        path = target.partition("?")[0]
        route = self.find(method, path)
        if route is None:
            return _unknown(path)
        role = self._roles.of(user)
        limits = self._roles.limits_of(user)
        if role is None or limits is None or not is_subject(user):
            rule = "a name like this, or of no role's code, has no valid token"
            return Decision(401, "invalid_api_key", rule, self._place(("roles",)))
        if route.line.kind not in role.routes:
            rule = (
                f"{role.name} may use {_listed(role.routes)}; "
                f"{route.line.name} is of class {route.line.kind}"
            )
            return self._refused(403, "insufficient_permissions", rule, user, "routes")
        if limits.any_model or not route.is_llm:
            return self._allowed(user, role, route, "")
        return self._decide_model(user, role, limits, route, model)

    def _decide_model(
        self, user: str, role: Role, limits: Limits, route: Route, model: str | None
    ) -> Decision:
        line = route.line
        if line.model is None:
            rule = (
                f"{user} is limited to some models, and {line.name} does not say where its model is"
            )
            return Decision(403, "insufficient_permissions", rule, line.place)
        if line.model in _WITHOUT_MODEL:
            return self._allowed(user, role, route, f"; {_without_model(line.model)}")
        asked = unescape(route.value or "") if line.model == "path" else model
        if not asked:
            rule = f"{user} is limited to some models, and the request names none"
            return Decision(400, "invalid_request", rule, line.place)
        entry = model_name.allowed_by(limits.models, asked, self._is_ollama)
        if entry is None:
            rule = f"{user} may use the models {_listed(limits.models)}; {asked!a} is none of them"
            return self._refused(404, "model_not_found", rule, user, "models")
        return self._allowed(user, role, route, f", and the model {asked!a} by {entry}", "models")

    def _allowed(
        self, user: str, role: Role, route: Route, more: str, field: str = "routes"
    ) -> Decision:
        line = route.line
        rule = f"{role.name} may use {line.kind}, of which {line.name} is{more}"
        return self._refused(200, "allowed", rule, user, field)

    def _refused(self, status: int, code: str, rule: str, user: str, field: str) -> Decision:
        """A decision that rests on what the roles file says of this user."""
        return Decision(status, code, rule, self._place(self._roles.path_of(user, field)))

    def _place(self, path: JsonPath) -> Place:
        return Place(NAME, self._roles.line(path), spell(path))


def _unknown(path: str) -> Decision:
    place = Place("routes/", 0, "")
    if not is_canonical(path):
        rule = "the path is not written in the one way that a path may be"
        return Decision(400, "invalid_request", rule, place)
    rule = "no pack in force lists this method and path, or no role may use their class"
    return Decision(404, "not_found", rule, place)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "nothing"


def _without_model(word: str) -> str:
    if word == "listed":
        return "its answer names no model but those the caller may use"
    return "it names no model"


def _is_llm(line: Line, page_by_llm: bool) -> bool | None:
    """Whether the LLM server answers a line; None where it is not in force: the page at / is
    Portero's or the LLM server's.
    """
    if line.kind == "page":
        return page_by_llm if line.pack == OWN or page_by_llm else None
    return line.kind not in ("console", "metrics")


def _outside_names(path: str, is_llm: bool) -> list[str]:
    if not is_llm:
        return [path]
    names = [path, f"/llm{path}"]
    if path.startswith("/v1/"):
        short = path.removeprefix("/v1")
        names += [f"/llm{short}", short] if path in _BARE_OPENAI else [f"/llm{short}"]
    return names


def _pattern(name: str, is_looked_up: bool) -> re.Pattern[str] | None:
    found = _PARAMETER.search(name)
    if found is None:
        return None
    before, behind = re.escape(name[: found.start()]), re.escape(name[found.end() :])
    value = _LOOKED_UP if is_looked_up else _PARAMETERS.get(found[1], _SEGMENT)
    return re.compile(f"{before}({value}){behind}\\Z", re.ASCII | re.DOTALL)


def unescape(value: str) -> str:
    """What escapes stand for, once; bytes that are no UTF-8 are surrogates."""
    return unquote_to_bytes(_bytes(value)).decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_plain(value: str) -> bool:
    """Whether a parameter that is sent can be read in one way only: no hidden character, no dot or
    empty segment, not even behind an escaped slash.
    """
    rest = re.sub("%2[fF]|%3[aA]", "", value)
    return "%" not in rest and re.search(r"/\.?\.?/", f"/{unescape(value)}/") is None


def _is_id(value: str, before: str) -> bool:
    """Whether a parameter that is looked up may be an ID: no control character, no escape that
    stands for nothing, and dot segments only where the path stays one of this route.
    """
    name = unescape(value)
    rest = re.sub("%[0-9A-Fa-f]{2}", "", value)
    if re.search("[%#]", rest) or re.search(r"[\x00-\x1f\x7f]", name):
        return False
    if re.search(r"/\.\.?/", f"/{name}/") is None:
        return True
    path = _resolved(before + name)
    return path is not None and len(path) > len(before) and path.startswith(before)


def _resolved(path: str) -> str | None:
    """A path whose dot segments are resolved; None where it leads out of all."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if not kept:
                return None
            kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    return f"/{'/'.join(kept)}/"
