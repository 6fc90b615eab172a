"""Who may do what, explained: the gateway's own decision about a question, and the rule and line it
rests on.

The decision is made by the file that judges requests (`openresty/lua/portero/policy/decision.lua`),
on the table that gateways are pushed; here it is only put into words. It must never decide anything
itself, and it must never be asked instead of the gateway.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lupa.luajit21 import LuaRuntime

from issuer.policy import Place, Policy, roles

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
return require("portero.policy.decision")
"""


@dataclass(frozen=True)
class Explanation:
    """What the gateway answers to a caller with a valid token, and why."""

    status: int
    code: str
    rule: str
    place: Place

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
    """The gateway's decider, with a policy loaded."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        # Every text of a policy is ASCII; what is asked goes in, and comes back, byte for byte.
        lua = LuaRuntime(
            encoding="latin-1",
            unpack_returned_tuples=True,
            register_eval=False,
            register_builtins=False,
        )
        self._decision = lua.execute(_LOAD, f"{LUA}/?.lua")
        table = lua.table_from(policy.compiled, recursive=True)
        self._loaded = self._decision.load(table)

    def explain(self, user: str, method: str, target: str, model: str | None = None) -> Explanation:
        """What becomes of this request. The query is no part of what is looked up."""
        path = target.partition("?")[0]
        # No other name is in a token.
        subject = user if roles.is_subject(user) else ""
        words = (method, path, subject, model)
        code, index, role, asked, *_ = self._decision.explain(self._loaded, *map(_sent, words))
        answer = _Answer(
            self._policy,
            user,
            code or _ALLOWED,
            index - 1 if index else None,
            role or "",
            _received(asked),
        )
        # What it is with a path is told by its own code, one for each fault.
        kind = "path" if answer.code.startswith("path_") else answer.code
        status, known_as, rule = _WORDS[kind]
        return Explanation(status, known_as, *(rule(answer) if callable(rule) else (rule, KINDS)))


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
        among = (
            f", and {answer.user} the models {_listed(answer.models)}, of which {answer.model!a} is"
        )
        return answer.at_user("models", rule + among)
    limits = answer.policy.roles.limits_of(answer.user)
    is_limited = limits is not None and not limits.any_model and _is_llm(row)
    more = _WITHOUT_MODEL.get(row.get("model", ""), "") if is_limited else ""
    return answer.at_user("routes", rule + more)


def _is_llm(row: dict[str, Any]) -> bool:
    return row["answered_by"] in ("llm", "discovery")


def _no_model(answer: _Answer, why: str = "the request names none") -> tuple[str, Place]:
    return answer.at_route(f"{answer.user} is limited to some models, and {why}")


def _forbidden(answer: _Answer) -> tuple[str, Place]:
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


_BADLY_WRITTEN = "the path is not written in the one way that a path may be"
_UNLISTED = "no kind in force lists this method and path, or no role may use their class"
#: What the decider says: status and code as the client sees them, and the rule; a text alone where
#: no line is to blame.
_WORDS: dict[str, tuple[int, str, str | Callable[[_Answer], tuple[str, Place]]]] = {
    _ALLOWED: (200, _ALLOWED, _allowed),
    "path": (400, "invalid_request", _BADLY_WRITTEN),
    "not_found": (404, "not_found", _UNLISTED),
    "other_method": (404, "not_found", "the path is there for other methods alone"),
    "slash_at_end": (404, "not_found", "the path is there without the slash at its end"),
    "invalid_api_key": (401, "invalid_api_key", _nobody),
    "insufficient_permissions": (403, "insufficient_permissions", _forbidden),
    "model_missing": (400, "invalid_request", _no_model),
    "response_not_found": (404, "not_found", _not_owned),
    "model_not_found": (404, "model_not_found", _other_model),
}
