"""Who may do what, explained: the gateway's own decision about a question, and the rule and line it
rests on.

The decision is made by the file that judges requests (`openresty/lua/portero/policy/decision.lua`),
on the table that gateways are pushed; here it is only put into words. Where the policy names LLM
servers it may be told what a gateway knows of them; without that each is taken to be up and to have
what its `models` let it have. It must never decide anything itself, and it must never be asked
instead of the gateway.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lupa.luajit21 import LuaRuntime

from issuer.policy import Place, Policy, Server, roles
from issuer.policy.routes import BY_LLM

LUA = Path(__file__).resolve().parents[2] / "openresty" / "lua"
#: Where no line is to blame: all kinds of servers, none of which lists it.
KINDS = Place("servers", 0, "")
_ALLOWED = "allowed"
_WITHOUT_MODEL = {
    "listed": "; its answer names no model but those the caller may use",
    "none": "; it names no model",
    "response": "; the response must be the caller's own",
}
#: Dialects write JSON when they answer. Nobody is answered here.
_LOAD = """
package.path = ...
package.preload["cjson.safe"] = function() return {} end
return require("portero.policy.decision"), require("portero.policy.model_name")
"""
#: What a gateway knows of the policy's servers: rows with name, state, models, and in_flight.
Known = Sequence[Mapping[str, Any]]
#: States of servers that are asked where no other is, and those that are not.
_TAKEN_OUT = "taken out"
_AFTER, _OUT = ("unknown", "misconfigured"), ("ejected", "down", _TAKEN_OUT)
#: Where a request may say which model it asks for.
_NAMED = ("body", "body-or-name", "form", "query", "path")


@dataclass(frozen=True)
class Explanation:
    """What the gateway answers to a caller with a valid token, and why; where the policy names LLM
    servers also which of them would be asked, and for which model if an alias was asked for.
    """

    status: int
    code: str
    rule: str
    place: Place
    model: str = ""
    servers: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the request is passed on."""
        return self.code == _ALLOWED


@dataclass(frozen=True)
class _Answer:
    """A question and what the gateway's code says of it. `route` is the place in its table."""

    policy: Policy
    user: str
    code: str
    route: int | None
    role: str
    model: str | None
    servers: Sequence[str] = ()
    real: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.policy.compiled["routes"]
        return rows[self.route] if self.route is not None else {}

    @property
    def name(self) -> str:
        return f"{self.row['method']} {self.row['path']}"

    @property
    def models(self) -> Sequence[str]:
        limits = self.policy.roles.limits_of(self.user)
        return limits.models if limits else ()

    def at_route(self, rule: str) -> tuple[str, Place]:
        assert self.route is not None
        return rule, self.policy.place_of_route(self.route)

    def at_user(self, field: str, rule: str) -> tuple[str, Place]:
        return rule, self.policy.place_of(self.user, field)


class Explainer:
    """The gateway's decider, with a policy loaded, and what a gateway knows of its servers."""

    def __init__(self, policy: Policy, known: Known | None = None) -> None:
        self._policy = policy
        self._known = {str(row["name"]): row for row in known} if known is not None else None
        # Every text of a policy is ASCII; what is asked goes in, and comes back, byte for byte.
        lua = LuaRuntime(
            encoding="latin-1",
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
        )
        self._decision, self._model_name = lua.execute(_LOAD, f"{LUA}/?.lua")
        table = lua.table_from(policy.compiled, recursive=True)
        self._loaded = self._decision.load(table)
        self._view = None if known is None else lua.table_from(self._viewed(), recursive=True)

    def _viewed(self) -> dict[str, dict[str, Any]]:
        """As a gateway's own `server_state.view` has it."""
        assert self._known is not None
        return {
            one.name: self._state(one, self._known.get(one.name)) for one in self._policy.servers
        }

    def _state(self, server: Server, row: Mapping[str, Any] | None) -> dict[str, Any]:
        """One that the gateway has not heard of has not been asked yet."""
        told = row or {}
        state, models = _state_of(told), told.get("models") or ()
        is_ollama = server.kind.model_names == "ollama"
        names = [_sent(str(name)) for name in models]
        return {
            "is_listed": told.get("state", "unknown") != "unknown",
            "is_known": bool(models) or told.get("state") == "up",
            "is_up": state not in _OUT,
            "is_first": state not in (*_AFTER, *_OUT),
            "is_misconfigured": told.get("state") == "misconfigured",
            "models": {self._model_name.canonical(name, is_ollama): name for name in names},
        }

    def explain(self, user: str, method: str, target: str, model: str | None = None) -> Explanation:
        """What becomes of this request. The query is no part of what is looked up."""
        path = target.partition("?")[0]
        # No other name is in a token.
        subject = user if roles.is_subject(user) else ""
        words = (method, path, subject, model)
        code, index, role, asked, names, real = self._decision.explain(
            self._loaded, *map(_sent, words), self._view
        )
        answer = _Answer(
            self._policy,
            user,
            code or _ALLOWED,
            index - 1 if index else None,
            role or "",
            _received(asked),
            [str(name) for name in names.values()],
            _received(real),
        )
        # What it is with a path is told by its own code, one for each fault.
        kind = "path" if answer.code.startswith("path_") else answer.code
        status, known_as, rule = _WORDS[kind]
        text, place = rule(answer) if callable(rule) else (rule, KINDS)
        return Explanation(status, known_as, text, place, *self._way_of(answer))

    def _way_of(self, answer: _Answer) -> tuple[str, str]:
        """For which model, if that is not the one asked for, and to which servers it goes."""
        if answer.code != _ALLOWED or not answer.servers or not _is_llm(answer.row):
            return "", ""
        stands_for = f"{answer.real!a}, for which {answer.model!a} stands" if answer.real else ""
        return stands_for, self._servers_of(answer)

    def _servers_of(self, answer: _Answer) -> str:
        if answer.row["answered_by"] == "discovery":
            return f"made of what {_either(answer.servers, 'and')} list"
        if answer.row.get("model") in _NAMED and answer.model is None and len(answer.servers) > 1:
            return f"{_either(answer.servers)}, by the model that is asked for (--model)"
        if self._known is None:
            return (
                f"{_either(answer.servers)}; no gateway was asked which are up and have the model"
            )
        rows = sorted((self._rank(name), name) for name in answer.servers)
        return "; else ".join(f"{name} ({self._said_of(name)})" for _, name in rows)

    def _rank(self, name: str) -> tuple[float, ...]:
        """In the order in which a gateway would ask them now: well ones first, then the one with
        the fewest requests for its weight.
        """
        row = self._known.get(name, {}) if self._known else {}
        state = _state_of(row)
        (place,) = (at for at, one in enumerate(self._policy.servers) if one.name == name)
        share = (int(row.get("in_flight") or 0) + 1) / self._policy.servers[place].weight
        return (state in _OUT) * 2 + (state in _AFTER), share, place

    def _said_of(self, name: str) -> str:
        row = self._known.get(name, {}) if self._known else {}
        count = int(row.get("in_flight") or 0)
        return f"{_state_of(row)}, {count} request{'' if count == 1 else 's'} now"


def _state_of(row: Mapping[str, Any]) -> str:
    """What decides about it: what an admin has said comes before what it does."""
    return _TAKEN_OUT if row.get("taken_out") else str(row.get("state", "unknown"))


def _either(names: Sequence[str], word: str = "or") -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sent(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _received(text: str | None) -> str | None:
    return None if text is None else text.encode("latin-1").decode("utf-8", "surrogateescape")


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "nothing"


# The rules, in words.


def _allowed(answer: _Answer) -> tuple[str, Place]:
    row = answer.row
    rule = f"{answer.role} may use {row['class']}, of which {answer.name} is"
    if answer.model is not None:
        model = answer.real or answer.model
        among = f", and {answer.user} the models {_listed(answer.models)}, of which {model!a} is"
        return answer.at_user("models", rule + among)
    limits = answer.policy.roles.limits_of(answer.user)
    is_limited = limits is not None and not limits.any_model and _is_llm(row)
    more = _WITHOUT_MODEL.get(row.get("model", ""), "") if is_limited else ""
    return answer.at_user("routes", rule + more)


def _is_llm(row: dict[str, Any]) -> bool:
    return row["answered_by"] in BY_LLM


def _no_model(answer: _Answer, why: str = "the request names none") -> tuple[str, Place]:
    return answer.at_route(f"{answer.user} is limited to some models, and {why}")


def _forbidden(answer: _Answer) -> tuple[str, Place]:
    if answer.route is None:
        rule = f"{answer.role} may not use management, nor so an LLM server by its name"
        return answer.at_user("routes", rule)
    if answer.role in answer.row["roles"]:
        return _no_model(answer, f"{answer.name} does not say where its model is")
    assert answer.route is not None
    role = answer.policy.roles.named(answer.role)
    needs = answer.policy.needs_of_route(answer.route)
    if role is not None and needs and answer.row["class"] in role.routes:
        return answer.at_user(
            "server_side",
            f"{answer.name} needs server_side.{needs}, which {answer.role} does not have",
        )
    classes = _listed(role.routes if role else ())
    return answer.at_user(
        "routes",
        f"{answer.role} may use {classes}; {answer.name} is of class {answer.row['class']}",
    )


def _other_model(answer: _Answer) -> tuple[str, Place]:
    models = _listed(answer.models)
    if answer.policy.servers:
        rule = f"of the models {models}, which {answer.user} may use, {answer.model!a} is none "
        return answer.at_user("models", f"{rule}that a server has")
    return answer.at_user(
        "models", f"{answer.user} may use the models {models}; {answer.model!a} is none of them"
    )


def _nobody(answer: _Answer) -> tuple[str, Place]:
    rule = "a name like this, or of no role's code, has no valid token"
    return rule, answer.policy.place_of("", "routes")


def _not_owned(answer: _Answer) -> tuple[str, Place]:
    return answer.at_user(
        "inspect_bodies",
        f"nobody looks at the bodies of {answer.user}, so no response is known to be its own",
    )


def _unlisted(answer: _Answer) -> tuple[str, Place]:
    if any("by_name" in row for row in answer.policy.compiled["routes"]):
        return f"{_UNLISTED}; routes of class management are below /servers/NAME/ alone", KINDS
    return _UNLISTED, KINDS


def _not_asked_yet(answer: _Answer) -> tuple[str, Place]:
    rule = f"no server that was asked has {answer.model!a}, and one was not asked yet"
    return rule, answer.policy.place_of_servers()


def _misconfigured(answer: _Answer) -> tuple[str, Place]:
    rule = f"no server that tells has {answer.model!a}, and one refuses the key that it is sent"
    return rule, answer.policy.place_of_servers()


_BADLY_WRITTEN = "the path is not written in the one way that a path may be"
_UNLISTED = "no kind in force lists this method and path, or no role may use their class"
#: What the decider says: status and code as the client sees them, and the rule; a text alone where
#: no line is to blame.
_WORDS: dict[str, tuple[int, str, str | Callable[[_Answer], tuple[str, Place]]]] = {
    _ALLOWED: (200, _ALLOWED, _allowed),
    "path": (400, "invalid_request", _BADLY_WRITTEN),
    "not_found": (404, "not_found", _unlisted),
    "other_method": (404, "not_found", "the path is there for other methods alone"),
    "slash_at_end": (404, "not_found", "the path is there without the slash at its end"),
    "invalid_api_key": (401, "invalid_api_key", _nobody),
    "insufficient_permissions": (403, "insufficient_permissions", _forbidden),
    "model_missing": (400, "invalid_request", _no_model),
    "response_not_found": (404, "not_found", _not_owned),
    "model_not_found": (404, "model_not_found", _other_model),
    "not_ready": (503, "not_ready", _not_asked_yet),
    "upstream_refused": (502, "upstream_unavailable", _misconfigured),
}
