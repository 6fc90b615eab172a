"""`roles.json`: what is read, and every fault named."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError, validators

from issuer.errors import Faults
from issuer.policy import roles
from issuer.policy.roles import Limits, Roles
from run.commands import ROOT
from tests.support import role_files

GOOD: dict[str, Any] = {
    "code": "USRS",
    "ttl_seconds": 900,
    "door": "/login",
    "routes": ["inference", "models"],
    "models": ["*"],
    "requests_per_minute": None,
    "tokens_per_minute": 5000,
    "concurrent_requests": 4,
    "largest_body_bytes": 1000,
    "active_tokens": 10,
    "stream_policy": "finish",
}
SCHEMA = json.loads(role_files.SHIPPED.with_name("roles.schema.json").read_text())


def table(**entries: Any) -> str:
    return json.dumps({"roles": entries})


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        roles.parse(text)
    return found.value.faults


@pytest.mark.parametrize(
    ("name", "code", "ttl_seconds", "door"),
    [
        ("agent_reasoning", "AGNR", 120, "/llm/login"),
        ("agent_fast", "AGNF", 60, "/llm/login"),
        ("agi", "AGIA", 1800, "/agi/login"),
        ("user", "USRS", 900, "/login"),
        ("monitoring", "MNTR", 1200, "/login"),
        ("admin", "ADMN", 3600, "/admin/login"),
    ],
)
def test_the_roles_are_the_documented_ones(
    all_roles: Roles, name: str, code: str, ttl_seconds: int, door: str
) -> None:
    role = all_roles.named(name)
    assert role is not None
    assert (role.code, role.ttl_seconds, role.door) == (code, ttl_seconds, door)
    assert len(list(all_roles)) == 6


@pytest.mark.parametrize(
    ("name", "may", "may_not"),
    [
        ("agent_reasoning", {"inference", "models"}, {"page", "metrics", "management", "console"}),
        ("agent_fast", {"inference", "models"}, {"page", "metrics", "management", "console"}),
        ("agi", {"inference", "models"}, {"page", "metrics", "management", "console"}),
        ("user", {"inference", "models", "page"}, {"metrics", "management", "console"}),
        ("monitoring", {"health", "metrics", "models"}, {"inference", "management", "console"}),
        (
            "admin",
            {"inference", "models", "health", "metrics", "management", "page", "console"},
            set(),
        ),
    ],
)
def test_a_role_may_use_what_is_documented(
    all_roles: Roles, name: str, may: set[str], may_not: set[str]
) -> None:
    role = all_roles.named(name)
    assert role is not None
    assert may <= set(role.routes)
    assert not may_not & set(role.routes)


@pytest.mark.parametrize(
    ("username", "name"),
    [
        ("AGNRXYZ456", "agent_reasoning"),
        ("USRS", "user"),
        ("usrsalice", None),
        ("USR", None),
        ("", None),
        (" USRSa", None),
        ("ROOTa", None),
    ],
)
def test_the_code_that_begins_a_username_decides_its_role(
    all_roles: Roles, username: str, name: str | None
) -> None:
    role = all_roles.of(username)
    assert (role.name if role else None) == name


def test_an_unknown_name_is_no_role(all_roles: Roles) -> None:
    assert all_roles.named("root") is None


@pytest.mark.parametrize(
    ("bound", "expected", "longest"), [(None, 900, 3600), (300, 300, 300), (86_400, 900, 3600)]
)
def test_the_bound_shortens_every_longer_ttl(
    bound: int | None, expected: int, longest: int
) -> None:
    admin = GOOD | {"code": "ADMN", "ttl_seconds": 3600}
    parsed = roles.parse(table(user=GOOD, admin=admin), bound)
    user = parsed.named("user")
    assert user is not None
    assert user.ttl_seconds == expected
    assert parsed.longest_ttl_seconds() == longest


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", '"x"', "{}", '{"roles": 1}', '{"roles": "ab"}', '{"roles": {}}'],
)
def test_a_file_of_another_shape_is_a_fault(text: str) -> None:
    assert all(fault.startswith("roles.json line 1: ") for fault in faults(text))


WRONG_VALUES = [
    (field, value) for field, values in role_files.WRONG.items() for value in values.values()
]


@pytest.mark.parametrize(("field", "value"), WRONG_VALUES)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    found = faults(table(user=GOOD | {field: value}))
    assert found
    for fault in found:
        assert re.match(rf"roles\.json line 1: roles\.user\.{field}(\[\d\])? must be ", fault)


@pytest.mark.parametrize("field", role_files.ROLE_FIELDS)
def test_a_missing_field_is_named_and_what_it_must_be(field: str) -> None:
    entry = {name: value for name, value in GOOD.items() if name != field}
    (fault,) = faults(table(user=entry))
    assert fault.startswith(f"roles.json line 1: roles.user.{field} is missing; it must be ")


def test_all_faults_are_told_together() -> None:
    users = {"USRSa": {"models": "x", "ttl_seconds": 1}, "ROOTa": {}, "USRS": {}}
    entries = {
        "user": GOOD | {"ttl_seconds": 0, "door": "/x", "colour": "red"},
        "twin": GOOD,
        "text": "x",
    }
    found = faults(json.dumps({"roles": entries, "users": users, "more": 1}))
    named = [
        "roles.user.ttl_seconds",
        "roles.user.door",
        "roles.user.colour",
        "roles.text",
        "roles.twin.code is the code of user already",
        "users.USRSa.models",
        "users.USRSa.ttl_seconds",
        "users.ROOTa begins with no role's code",
        "users.USRS is no username",
        "more is not a known field",
    ]
    assert len(found) == len(named)
    assert all(any(part in fault for fault in found) for part in named)


def test_a_fault_has_the_line_it_stands_in() -> None:
    text = role_files.replaced('"ttl_seconds": 60', '"ttl_seconds": "60"')
    number = text.splitlines().index('      "ttl_seconds": "60",') + 1
    (fault,) = faults(text)
    assert fault.startswith(f"roles.json line {number}: roles.agent_fast.ttl_seconds must be ")


# Users with limits of their own.


def with_users(**users: Any) -> Roles:
    return roles.parse(json.dumps({"roles": {"user": GOOD}, "users": users}))


def test_a_user_is_held_to_the_limits_of_the_role() -> None:
    known = with_users()
    assert known.limits_of("USRSalice") == Limits(("*",), None, 5000, 4, 1000)
    assert known.limits_of("USRSalice") == known.of("USRSalice").limits  # type: ignore[union-attr]
    assert known.path_of("USRSalice", "models") == ("roles", "user", "models")


def test_what_is_a_users_own_takes_the_place_of_the_roles() -> None:
    own = {"models": ["llama3*", "phi"], "requests_per_minute": 7, "tokens_per_minute": None}
    known = with_users(USRSalice=own, USRSbob={})
    assert known.limits_of("USRSalice") == Limits(("llama3*", "phi"), 7, None, 4, 1000)
    assert known.limits_of("USRSbob") == Limits(("*",), None, 5000, 4, 1000)
    assert known.path_of("USRSalice", "tokens_per_minute")[0] == "users"
    assert known.path_of("USRSalice", "concurrent_requests")[0] == "roles"


def test_a_name_of_no_role_has_no_limits_because_it_has_no_way_in() -> None:
    assert with_users().limits_of("ROOTa") is None
    assert with_users().path_of("ROOTa", "models") == ("roles",)


@pytest.mark.parametrize(
    ("models", "any_model"), [(["*"], True), ([], False), (["x*"], False), (["*", "x"], False)]
)
def test_a_star_alone_is_no_limit(models: list[str], any_model: bool) -> None:
    limits = with_users(USRSa={"models": models}).limits_of("USRSa")
    assert limits is not None
    assert limits.any_model is any_model


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("USRSa", True),
        ("USRS.a_b-9", True),
        ("USRS" + "x" * 60, True),
        ("USRS" + "x" * 61, False),
        ("USRS", False),
        ("usrsa", False),
        ("USRSa\n", False),
        ("USRS a", False),
        ("USRSé", False),
        ("\uff35\uff33\uff32\uff33a", False),
        ("", False),
    ],
)
def test_a_subject_has_one_shape(name: str, is_one: bool) -> None:
    assert roles.is_subject(name) is is_one


# The file, its schema, and every file that is not quite it.


def ecma_pattern(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    """A schema's `$` is ECMA's, the very end; Python's would pass a newline behind."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError("does not match")


extended: Any = validators.extend
VALIDATOR = extended(Draft202012Validator, {"pattern": ecma_pattern})(SCHEMA)


def schema_accepts(text: str) -> bool:
    try:
        return bool(VALIDATOR.is_valid(json.loads(text)))
    except (ValueError, RecursionError):
        return False


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(role_files.SHIPPED.read_text())["$schema"] == "./roles.schema.json"


def test_the_schema_describes_every_field() -> None:
    parts = SCHEMA["$defs"]
    fields = [parts["role"]["properties"], parts["user"]["properties"], SCHEMA["properties"]]
    for name, field in [one for properties in fields for one in properties.items()]:
        target = parts[field["$ref"].rpartition("/")[2]] if "$ref" in field else field
        assert len(target["description"]) > 20, name


@pytest.mark.parametrize("name", role_files.good_files())
def test_the_parser_and_the_schema_accept_a_good_file(name: str) -> None:
    text = role_files.good_files()[name]
    assert roles.parse(text).longest_ttl_seconds() > 0
    assert schema_accepts(text)


@pytest.mark.parametrize("name", role_files.bad_files())
def test_the_parser_and_the_schema_refuse_a_bad_file(name: str) -> None:
    text = role_files.bad_files()[name]
    assert all(re.match(r"roles\.json line \d+: ", fault) for fault in faults(text))
    assert schema_accepts(text) is (name in role_files.BEYOND_A_SCHEMA)


def in_hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex()


def test_the_gateway_accepts_and_refuses_the_same_files() -> None:
    files = {**role_files.good_files(), **role_files.bad_files()}
    done = subprocess.run(
        ["luajit", "tests/unit/lua/judge_roles.lua"],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        input="".join(
            f"{text.encode('utf-8', 'surrogatepass').hex()}\n" for text in files.values()
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    verdicts = dict(zip(files, done.stdout.split(), strict=True))
    refused = {name for name, faults in verdicts.items() if faults != "0"}
    assert refused == role_files.bad_files().keys()


def test_there_are_many_such_files_and_no_two_of_a_name() -> None:
    assert len(role_files.bad_files()) > 60
    assert not role_files.good_files().keys() & role_files.bad_files().keys()
    assert role_files.bad_files().keys() >= role_files.BEYOND_A_SCHEMA
