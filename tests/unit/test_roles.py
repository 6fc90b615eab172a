"""`roles.json`: what is read, and every fault named."""

import json
from typing import Any

import pytest

from issuer import roles
from issuer.errors import Faults
from issuer.roles import Roles

GOOD: dict[str, Any] = {
    "code": "USRS",
    "ttl_seconds": 900,
    "door": "/login",
    "routes": ["inference", "models"],
    "active_tokens": 10,
    "stream_policy": "finish",
}


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
def test_the_roles_are_those_of_the_contract(
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
def test_a_role_may_use_what_the_contract_says(
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
    assert all(fault.startswith("roles.json: ") for fault in faults(text))


WRONG_VALUES: dict[str, list[Any]] = {
    "code": ["usrs", "USR", "USRSS", "US1S", "\u00dcSRS", "", 1, None, []],
    "ttl_seconds": [0, -1, 86_401, 1.5, "900", True, None, []],
    "door": ["/", "/login/", "login", "", None, 1, []],
    "routes": ["inference", None, [1], {}, 1],
    "active_tokens": [0, -1, 1_000_001, 1.5, "10", True, None],
    "stream_policy": ["stop", 0, -1, 1.5, True, None, []],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_VALUES.items() for value in values],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    (fault,) = faults(table(user=GOOD | {field: value}))
    assert fault.startswith(f"roles.json: roles.user.{field} must be ")


def test_all_faults_are_told_together() -> None:
    found = faults(
        table(
            user=GOOD | {"ttl_seconds": 0, "door": "/x", "colour": "red"},
            twin=GOOD,
            text="x",
            empty={},
        )
    )
    named = [
        "roles.user.ttl_seconds",
        "roles.user.door",
        "roles.user.colour",
        "roles.text",
        "roles.empty.code",
        "roles.empty.ttl_seconds",
        "roles.empty.door",
        "roles.empty.routes",
        "roles.empty.active_tokens",
        "roles.empty.stream_policy",
        "code USRS",
    ]
    assert len(found) == len(named)
    assert all(any(part in fault for fault in found) for part in named)
