"""The formulas of docs/capacity.md say what it says."""

import pytest

from bench.capacity import (
    Constants,
    Load,
    Usage,
    active_tokens,
    compared,
    logins_a_second,
    users_over_a_restart,
)


def test_agents_who_renew_early_log_in_as_often_as_that_and_have_more_than_one_token() -> None:
    assert logins_a_second(10_000, 60, 10) == 200
    assert active_tokens(10_000, 60, 10) == 12_000
    assert active_tokens(10_000, 60, 0) == 10_000


@pytest.mark.parametrize(
    ("lifetime", "cores", "seconds", "users"),
    [(60, 2, 0.25, 240), (120, 1, 0.25, 480), (60, 9, 0.25, 1_920)],
)
def test_as_many_users_log_in_anew_within_a_lifetime_as_bcrypt_allows(
    lifetime: float, cores: int, seconds: float, users: float
) -> None:
    assert users_over_a_restart(lifetime, cores, seconds) == users


def test_what_more_will_take_follows_from_rest_logins_alone_and_requests_alone() -> None:
    rest = Usage(issuer=10, reconciler=5, gateway=2, sync=1_000)
    logins = (Load(20, 0), Usage(issuer=50, reconciler=7, gateway=6, sync=11_000))
    requests = (Load(0, 1_000), Usage(issuer=10, reconciler=5, gateway=32, sync=1_000))
    known = Constants.of(rest, logins, requests)
    assert known.login == Usage(2, 0.1, 0.2, 500)
    assert known.request_gateway == 0.03
    said = known.usage(Load(100, 2_000, gateways=2))
    assert said == Usage(210, 20, 82, 2 * (1_000 + 50_000))
    found = Usage(105, 20, 123, 102_000)
    assert compared(said, found) == [
        "210 said, 105 found (0.50)",
        "20 said, 20 found (1.00)",
        "82 said, 123 found (1.50)",
        "102,000 said, 102,000 found (1.00)",
    ]
