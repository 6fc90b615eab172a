"""The form of API keys, what may be asked for, and what one stands for."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from issuer.errors import TokenRefused, Unacceptable
from issuer.policy.roles import ApiKeyRule, Roles
from issuer.store import OF_API_KEY, ApiKey, Session
from issuer.tokens import api_keys

NOW = 1_800_000_000
DAY = 86_400
RULE = ApiKeyRule(most=10, longest_days=90)


def session(owner: str = "USRSalice", days: int = 90) -> Session:
    made = ApiKey("0" * 64, "a key", (), "the tests")
    return Session("A" * 16, owner, "user", NOW, NOW + days * DAY, OF_API_KEY, api_key=made)


def test_a_fresh_key_has_the_one_form_and_nothing_in_common_with_another() -> None:
    keys = [api_keys.new() for _ in range(1_000)]
    form = re.compile(r"sk-portero-([A-Za-z0-9_-]{16})-([A-Za-z0-9_-]{43})", re.ASCII)
    matches = [match for key in keys if (match := form.fullmatch(key))]
    assert len({match[1] for match in matches}) == len({match[2] for match in matches}) == 1_000
    assert [api_keys.id_of(key) for key in keys] == [match[1] for match in matches]
    assert all(map(api_keys.is_one, keys))


def test_a_key_is_known_by_the_digest_of_the_whole() -> None:
    key = api_keys.new()
    known = api_keys.digest(key)
    assert re.fullmatch("[0-9a-f]{64}", known)
    assert api_keys.is_of(key, known)
    for at in range(len(key)):
        other = key[:at] + ("x" if key[at] == "y" else "y") + key[at + 1 :]
        assert not api_keys.is_of(other, known)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key.upper(),
        lambda key: key[:-1] + "=",
        lambda key: key[:-1] + "\u0661",
        lambda key: key.replace("sk-portero-", "sk-"),
        lambda _: "sk-portero-",
        lambda _: "",
    ],
)
def test_what_has_not_the_form_has_no_id(change: Any) -> None:
    with pytest.raises(TokenRefused):
        api_keys.id_of(change(api_keys.new()))


def test_what_may_be_asked_for() -> None:
    for name in ("x", "x" * 100, "Open WebUI, küche", " "):
        api_keys.wanted(name, 1).check(RULE)
    api_keys.wanted("x", 90, ["a", "b*", "*"]).check(RULE)
    assert api_keys.wanted("x", 2).seconds == 2 * DAY
    assert api_keys.wanted("x", 1, ["*"]).models == ()
    assert api_keys.wanted("x", 1, None).models == ()


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\tb"},
        {"name": "\ud800"},
        {"name": None},
        {"days": 0},
        {"days": -1},
        {"days": 91},
        {"days": 1.0},
        {"days": True},
        {"days": "1"},
        {"models": []},
        {"models": "a"},
        {"models": [1]},
        {"models": [""]},
        {"models": ["a*b"]},
        {"models": ["a b"]},
        {"models": ["x" * 257]},
        {"models": ["x"] * 33},
    ],
    ids=str,
)
def test_what_may_not_be_asked_for_is_told_with_what_may(values: Mapping[str, Any]) -> None:
    (field,) = values
    with pytest.raises(Unacceptable, match=field):
        api_keys.wanted(**{"name": "x", "days": 1, **values}).check(RULE)


def test_a_key_stands_for_its_owner_until_its_end(all_roles: Roles) -> None:
    claims = api_keys.claims(session(), all_roles, NOW)
    assert (claims.subject, claims.role, claims.is_api_key) == ("USRSalice", "user", True)
    assert (claims.jti, claims.expires_at, claims.scope) == ("A" * 16, NOW + 90 * DAY, None)
    assert api_keys.claims(session(), all_roles, NOW + 90 * DAY - 1)
    for owner, now in (
        ("USRSalice", NOW + 90 * DAY),
        ("USRSalice", NOW - 1),
        ("ADMNroot", NOW),
        ("XXXXnobody", NOW),
    ):
        with pytest.raises(TokenRefused):
            api_keys.claims(session(owner), all_roles, now)


def test_the_policy_shortens_a_key(all_roles: Roles) -> None:
    shown = api_keys.in_force(session(days=3_650), all_roles, NOW)
    assert shown is not None
    assert shown.expires_at == NOW + 90 * DAY
