"""Roles files, good and bad: the shipped one with one thing changed in each.

The issuer, the gateway and `roles.schema.json` must say the same of every one of them, but for what
a schema cannot say. `good_files` and `bad_files` are texts, so that any reader can be held to them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parents[2] / "openresty" / "conf" / "roles.json"

Table = dict[str, Any]
Change = Callable[[Table], Any]

ROLE_FIELDS = (
    "code",
    "ttl_seconds",
    "door",
    "routes",
    "models",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "largest_body_bytes",
    "active_tokens",
    "stream_policy",
)
USER = "AGNFXYZ456"


def of_role(field: str, value: Any) -> Change:
    """agent_fast with another value."""

    def change(table: Table) -> Table:
        table["roles"]["agent_fast"][field] = value
        return table

    return change


def without(field: str) -> Change:
    """agent_fast without a field."""

    def change(table: Table) -> Table:
        del table["roles"]["agent_fast"][field]
        return table

    return change


def of_user(entry: Any, name: str = USER) -> Change:
    """A user with an entry."""
    return lambda table: table | {"users": {name: entry}}


def with_model(name: Any) -> Change:
    """One model alone for agent_fast."""
    return of_role("models", [name])


def role_named(name: str) -> Change:
    """agent_fast under another name."""

    def change(table: Table) -> Table:
        table["roles"][name] = table["roles"].pop("agent_fast")
        return table

    return change


def top(**members: Any) -> Change:
    """The file with other members."""
    return lambda table: table | members


GOOD: dict[str, Change] = {
    "as it is shipped": lambda table: table,
    "no $schema": lambda table: {"roles": table["roles"]},
    "one role alone": lambda table: {"roles": {"user": table["roles"]["user"]}},
    "no user": top(users={}),
    "a role without routes": of_role("routes", []),
    "all classes": of_role("routes", ["console", "page", "metrics", "health", "management"]),
    "no model at all": of_role("models", []),
    "a model by name": with_model("llama3:8b"),
    "a model of one character": with_model("x"),
    "a model of 256 characters": with_model("m" * 256),
    "beginnings and names": of_role("models", ["qwen*", "hf.co/a/b:Q4_K_M", "*", "m@sha256:0"]),
    "every character a name may hold": with_model("!#$%&'()+,-./:;<=>?@[]^_`{|}~"),
    "the least of everything": lambda table: of_role("ttl_seconds", 1)(
        of_role("largest_body_bytes", 1)(of_role("active_tokens", 1)(table))
    ),
    "the most of everything": lambda table: of_role("ttl_seconds", 86_400)(
        of_role("active_tokens", 1_000_000)(of_role("largest_body_bytes", 67_108_864)(table))
    ),
    "requests a minute": of_role("requests_per_minute", 1),
    "very many requests a minute": of_role("requests_per_minute", 1_000_000_000),
    "tokens a minute": of_role("tokens_per_minute", 1_000_000_000),
    "requests at a time": of_role("concurrent_requests", 1_000),
    "streams that are cut": of_role("stream_policy", "cut"),
    "streams that go on for a second": of_role("stream_policy", 1),
    "streams that go on for a day": of_role("stream_policy", 86_400),
    "a user with nothing of its own": of_user({}),
    "a user with all of its own": of_user(
        {
            "models": ["llama3*"],
            "requests_per_minute": 100,
            "tokens_per_minute": 1,
            "concurrent_requests": 2,
            "largest_body_bytes": 1000,
        }
    ),
    "a user without the role's limits": of_user(
        {
            "models": ["*"],
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "concurrent_requests": None,
        }
    ),
    "a user of every character": of_user({}, "AGNFaZ09._-"),
    "the shortest username": of_user({}, "AGNFx"),
    "the longest username": of_user({}, "AGNF" + "x" * 60),
    "a role of another name": role_named("agent_2"),
    "the longest role's name": role_named("a" * 64),
}

#: Values that are wrong for a field, by field.
WRONG: dict[str, dict[str, Any]] = {
    "code": {
        "in lower case": "agnf",
        "short": "AGN",
        "long": "AGNFF",
        "with a digit": "AGN1",
        "not ASCII": "ÄGNF",
        "with a newline": "AGNF\n",
        "a number": 1234,
        "null": None,
    },
    "ttl_seconds": {
        "zero": 0,
        "below zero": -1,
        "over a day": 86_401,
        "huge": 10**30,
        "broken": 1.5,
        "a text": "60",
        "true": True,
        "null": None,
        "a list": [60],
    },
    "door": {
        "of nowhere": "/door",
        "with a slash": "/login/",
        "an alias": "/auth/login",
        "empty": "",
        "null": None,
        "a list": ["/login"],
    },
    "routes": {
        "of no class": ["inference", "everything"],
        "in capitals": ["Inference"],
        "a text": "inference",
        "null": None,
        "a number inside": ["models", 1],
        "null inside": [None],
        "a list inside": [["models"]],
        "an object": {"inference": True},
        "an empty object": {},
    },
    "models": {
        "a text": "*",
        "null": None,
        "an object": {},
        "a number inside": [1],
        "null inside": ["x", None],
        "an empty name": [""],
        "a star in the midst": ["llama*3"],
        "a star in front": ["*llama"],
        "two stars": ["llama**"],
        "a space": ["llama 3"],
        "a space behind": ["llama3 "],
        "a quote": ['llama"3'],
        "a backslash": ["llama\\3"],
        "a tab": ["llama\t"],
        "a newline behind": ["llama3\n"],
        "a control character": ["llama\u007f"],
        "not ASCII": ["llamä"],
        "a lone surrogate": ["\ud800"],
        "257 characters": ["m" * 257],
        "256 characters and a star": ["m" * 256 + "*"],
    },
    "requests_per_minute": {
        "zero": 0,
        "below zero": -5,
        "over a thousand million": 1_000_000_001,
        "huge": 10**400,
        "broken": 0.5,
        "a text": "100",
        "false": False,
        "an object": {},
    },
    "tokens_per_minute": {
        "zero": 0,
        "below zero": -5,
        "huge": 10**18,
        "broken": 1.25,
        "a text": "no",
        "true": True,
        "a list": [],
    },
    "concurrent_requests": {
        "zero": 0,
        "below zero": -1,
        "1001": 1001,
        "broken": 2.5,
        "a text": "2",
        "true": True,
    },
    "largest_body_bytes": {
        "zero": 0,
        "below zero": -1,
        "over 64 MiB": 67_108_865,
        "broken": 0.1,
        "a text": "64m",
        "true": True,
        "null": None,
    },
    "active_tokens": {
        "zero": 0,
        "below zero": -1,
        "over a million": 1_000_001,
        "broken": 1.5,
        "a text": "10",
        "true": True,
        "null": None,
    },
    "stream_policy": {
        "of another word": "stop",
        "in capitals": "FINISH",
        "zero": 0,
        "below zero": -1,
        "over a day": 86_401,
        "broken": 1.5,
        "true": True,
        "null": None,
        "a list": ["cut"],
    },
}

BAD: dict[str, Change] = {
    **{
        f"{field} {how}": of_role(field, value)
        for field, values in WRONG.items()
        for how, value in values.items()
    },
    **{f"no {field}": without(field) for field in ROLE_FIELDS},
    **{
        f"a user's {field} {how}": of_user({field: value})
        for field in ROLE_FIELDS[4:9]
        for how, value in list(WRONG[field].items())[:3]
    },
    "a user's ttl_seconds": of_user({"ttl_seconds": 60}),
    "a user's routes": of_user({"routes": ["models"]}),
    "a user's code": of_user({"code": "AGNF"}),
    "a user's unknown field": of_user({"model": ["x"]}),
    "a user that is null": of_user(None),
    "a user that is a list": of_user([]),
    "a user that is a text": of_user("AGNF"),
    "a user that is a code alone": of_user({}, "AGNF"),
    "a user without a code": of_user({}, "bob"),
    "a user with a space": of_user({}, "AGNFa b"),
    "a user with a newline behind": of_user({}, "AGNFab\n"),
    "a user with a slash": of_user({}, "AGNFa/b"),
    "a user that is not ASCII": of_user({}, "AGNFä"),
    "a user of 65 characters": of_user({}, "AGNF" + "x" * 61),
    "a user without a name": of_user({}, ""),
    "an unknown field of a role": of_role("colour", "red"),
    "a misspelt field of a role": of_role("models_", ["*"]),
    "an unknown field of the file": top(limits={}),
    "a comment": top(**{"//": "who may do what"}),
    "$schema null": top(**{"$schema": None}),
    "$schema a number": top(**{"$schema": 1}),
    "roles null": top(roles=None),
    "roles a list": top(roles=[]),
    "roles a text": top(roles="agent_fast"),
    "roles empty": top(roles={}),
    "no roles": lambda table: {"users": {}},
    "nothing": lambda table: {},
    "users null": top(users=None),
    "users a list": top(users=[]),
    "users a list of names": top(users=[USER]),
    "users a text": top(users=USER),
    "a role that is null": lambda table: table | {"roles": table["roles"] | {"extra": None}},
    "a role that is a list": lambda table: table | {"roles": table["roles"] | {"extra": []}},
    "a role that is empty": lambda table: table | {"roles": table["roles"] | {"extra": {}}},
    "a role in capitals": role_named("Agent"),
    "a role with a space": role_named("agent fast"),
    "a role with a newline behind": role_named("agent\n"),
    "a role with a quote": role_named('agent"'),
    "a role that is not ASCII": role_named("ägent"),
    "a role without a name": role_named(""),
    "a role of 65 characters": role_named("a" * 65),
    "a list": lambda table: [table],
    "a text": lambda table: "roles",
    "a number": lambda table: 1,
    "null": lambda table: None,
    "true": lambda table: True,
    "a code used twice": of_role("code", "AGNR"),
    "a user of no role": of_user({}, "ROOTalice"),
    "ttl_seconds with a point": of_role("ttl_seconds", 60.0),
    "requests_per_minute with a point": of_role("requests_per_minute", 1.0),
    "concurrent_requests with an exponent": of_role("concurrent_requests", 1e2),
    "a user's tokens_per_minute with a point": of_user({"tokens_per_minute": 5.0}),
}

#: What a schema cannot say: to it 60.0 is a whole number, no two values know of each other, and
#: whoever asks it has read the file already, and taken the last of two of one name.
BEYOND_A_SCHEMA = frozenset(
    {
        "a code used twice",
        "a user of no role",
        "ttl_seconds with a point",
        "requests_per_minute with a point",
        "concurrent_requests with an exponent",
        "a user's tokens_per_minute with a point",
        "a role twice",
        "a field twice",
        "a field twice, once by an escape",
        "users twice",
        "a user twice",
    }
)


def replaced(old: str, new: str) -> str:
    """The shipped text with one thing replaced."""
    text = SHIPPED.read_text()
    assert old in text, old
    return text.replace(old, new, 1)


def texts() -> dict[str, str]:
    """Files that no table makes; all bad."""
    return {
        "no text": "",
        "spaces": " \n",
        "cut short": SHIPPED.read_text()[:-20],
        "more behind": SHIPPED.read_text() + "{}",
        "a comma too many": replaced('"finish"\n', '"finish",\n'),
        "a comma too few": replaced('"/llm/login",', '"/llm/login"'),
        "a comment in JavaScript": replaced("{", "{ // roles"),
        "single quotes": SHIPPED.read_text().replace('"', "'"),
        "a byte order mark": "\ufeff" + SHIPPED.read_text(),
        "a raw newline in a text": replaced('"AGNR"', '"AGN\nR"'),
        "ttl_seconds NaN": replaced("120", "NaN"),
        "ttl_seconds Infinity": replaced("120", "Infinity"),
        "ttl_seconds 1e999": replaced("120", "1e999"),
        "ttl_seconds hexadecimal": replaced("120", "0x78"),
        "ttl_seconds with a zero in front": replaced("120", "0120"),
        "ttl_seconds of very many digits": replaced("120", "9" * 5000),
        "requests_per_minute NaN": replaced("null", "NaN"),
        "nested without end": "[" * 100_000,
        "a role twice": replaced('"agent_fast"', '"agent_reasoning"'),
        "a field twice": replaced('"code": "AGNR",', '"code": "AGNR", "code": "AGNR",'),
        "a field twice, once by an escape": replaced(
            '"code": "AGNR",', '"code": "AGNR", "\\u0063ode": "AGNR",'
        ),
        "users twice": replaced('"users": {}', '"users": {}, "users": {}'),
        "a user twice": replaced('"users": {}', '"users": {"AGNFa": {}, "AGNFa": {}}'),
    }


def good_files() -> dict[str, str]:
    """Every good file, as text."""
    return {name: _text(change) for name, change in GOOD.items()}


def bad_files() -> dict[str, str]:
    """Every bad file, as text."""
    return {**{name: _text(change) for name, change in BAD.items()}, **texts()}


def _text(change: Change) -> str:
    return json.dumps(change(json.loads(SHIPPED.read_text())), indent=2)
