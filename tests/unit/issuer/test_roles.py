"""The roles of a policy: whose name is whose, what each may use, and what a user is held to."""

import pytest

from issuer import policy
from issuer.policy import Sources, Terms, roles
from issuer.policy.roles import Limits, Roles

TEXT = """\
roles:
  user:
    code: USRS
    ttl_seconds: 900
    login: /login
    routes: [inference, models]
    tokens_per_minute: 5000
    concurrent_requests: 4
    largest_body_bytes: 1000
  admin:
    code: ADMN
    ttl_seconds: 3600
    login: /admin/login
    routes: [console]
"""


def made(users: str = "", bound: int | None = None) -> Roles:
    return policy.parse(Sources(TEXT + users, {}), Terms(ttl_bound_seconds=bound)).roles


@pytest.mark.parametrize(
    ("name", "code", "ttl_seconds", "login"),
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
    all_roles: Roles, name: str, code: str, ttl_seconds: int, login: str
) -> None:
    role = all_roles.named(name)
    assert role is not None
    assert (role.code, role.ttl_seconds, role.login) == (code, ttl_seconds, login)
    assert len(list(all_roles)) == 6


EVERYTHING = {"inference", "models", "health", "metrics", "management", "page", "console"}


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("agent_reasoning", {"inference", "models", "health"}),
        ("agent_fast", {"inference", "models", "health"}),
        ("agi", {"inference", "models", "health"}),
        ("user", {"inference", "models", "health", "page"}),
        ("monitoring", {"models", "health", "metrics", "page"}),
        ("admin", EVERYTHING),
    ],
)
def test_a_role_may_use_what_is_documented(all_roles: Roles, name: str, may: set[str]) -> None:
    assert {one for one in EVERYTHING if all_roles.grants(name, one)} == may


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


def test_an_unknown_name_is_no_role_and_may_use_nothing(all_roles: Roles) -> None:
    assert all_roles.named("root") is None
    assert not all_roles.grants("root", "models")


@pytest.mark.parametrize(
    ("bound", "expected", "longest"), [(None, 900, 3600), (300, 300, 300), (86_400, 900, 3600)]
)
def test_the_bound_shortens_every_longer_ttl(
    bound: int | None, expected: int, longest: int
) -> None:
    known = made(bound=bound)
    user = known.named("user")
    assert user is not None
    assert user.ttl_seconds == expected
    assert known.longest_ttl_seconds() == longest


def test_a_user_is_held_to_the_limits_of_the_role() -> None:
    known = made()
    assert known.limits_of("USRSalice") == Limits(("*",), None, 5000, 4, 1000)
    assert known.path_of("USRSalice", "models") == ("roles", "user", "models")


def test_what_is_a_users_own_takes_the_place_of_the_roles() -> None:
    known = made(
        "users:\n"
        '  USRSalice: {models: ["llama3*", phi], requests_per_minute: 7, tokens_per_minute: null}\n'
        "  USRSbob: {}\n"
    )
    assert known.limits_of("USRSalice") == Limits(("llama3*", "phi"), 7, None, 4, 1000)
    assert known.limits_of("USRSbob") == Limits(("*",), None, 5000, 4, 1000)
    assert known.path_of("USRSalice", "tokens_per_minute")[0] == "users"
    assert known.path_of("USRSalice", "concurrent_requests")[0] == "roles"


def test_a_name_of_no_role_has_no_limits_because_it_has_no_way_in() -> None:
    assert made().limits_of("ROOTa") is None
    assert made().path_of("ROOTa", "models") == ("roles",)


@pytest.mark.parametrize(
    ("models", "any_model"), [("['*']", True), ("[]", False), ("[x*]", False), ("['*', x]", False)]
)
def test_a_star_alone_is_no_limit(models: str, any_model: bool) -> None:
    limits = made(f"users:\n  USRSa: {{models: {models}}}\n").limits_of("USRSa")
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
