"""A source's token: one login for all, renewed ahead, refused and revoked tokens, and the end."""

import asyncio
import copy
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_portero import (
    CAPACITY,
    NOT_READY,
    SECRET,
    TOO_MANY,
    USERNAME,
    FakePortero,
    Reply,
)
from forked import holds_in_a_child
from set_clock import SetClock

from portero import (
    ConfigurationError,
    Event,
    LoginError,
    LoginUnavailable,
    TokenRefused,
    TokenSource,
    TooManyTokens,
    WrongCredentials,
    WrongLogin,
)

NewSource = Callable[..., TokenSource]
DEADLINE_SECONDS = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(DEADLINE_SECONDS / 0.005)):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("not in time")


def logged_in(source: TokenSource, gateway: FakePortero, times: int) -> None:
    """Wait for a login that runs behind everybody's back."""
    wait_until(lambda: gateway.logins == times and source.held == f"canary-token-{times}")


# One login for all.


def test_a_token_is_held_and_not_asked_for_again(source: TokenSource, gateway: FakePortero) -> None:
    assert [source.token(), source(), asyncio.run(source.acall())] == ["canary-token-1"] * 3
    assert gateway.logins == 1


def test_100_threads_on_an_expired_token_log_in_once(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    clock.go(119)
    gateway.gate = threading.Event()
    with ThreadPoolExecutor(100) as threads:
        tokens = [threads.submit(source.token) for _ in range(100)]
        wait_until(lambda: len(gateway.asked) == 2)
        gateway.gate.set()
        assert {token.result(DEADLINE_SECONDS) for token in tokens} == {"canary-token-2"}
    assert gateway.logins == 2


def test_100_tasks_and_two_event_loops_in_turn_log_in_once_each(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    async def ask() -> set[str]:
        return set(await asyncio.gather(*[source.atoken() for _ in range(100)]))

    for number in (1, 2):
        assert asyncio.run(ask()) == {f"canary-token-{number}"}
        assert gateway.logins == number
        clock.go(119)


def test_threads_and_tasks_wait_for_the_same_login(
    source: TokenSource, gateway: FakePortero
) -> None:
    gateway.gate = threading.Event()

    async def ask() -> str:
        return await source.atoken()

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(source.token), threads.submit(lambda: asyncio.run(ask()))]
        wait_until(lambda: len(gateway.asked) == 1)
        gateway.gate.set()
        assert {one.result(DEADLINE_SECONDS) for one in asked} == {"canary-token-1"}


def test_a_sync_call_within_a_task_does_not_wait_for_its_own_loop(
    source: TokenSource, gateway: FakePortero
) -> None:
    async def ask() -> tuple[str, str]:
        waiting = asyncio.ensure_future(source.atoken())
        await asyncio.sleep(0)
        return source.token(), await waiting

    assert asyncio.run(ask()) == ("canary-token-1", "canary-token-1")


def test_a_cancelled_task_takes_the_login_from_nobody(
    source: TokenSource, gateway: FakePortero
) -> None:
    gateway.gate = gate = threading.Event()

    async def ask() -> str:
        first, second = (asyncio.ensure_future(source.atoken()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        return await second

    assert asyncio.run(ask()) == "canary-token-1"
    assert gateway.logins == 1


def test_an_error_reaches_all_who_wait_and_each_gets_its_own(new_source: NewSource) -> None:
    source = new_source(secret="wrong")

    async def ask() -> list[object]:
        asked = [source.atoken() for _ in range(20)]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    errors = asyncio.run(ask())
    assert {type(error) for error in errors} == {WrongCredentials}
    assert len({id(error) for error in errors}) == 20


def test_sources_of_one_caller_share_a_token_and_others_do_not(
    new_source: NewSource, gateway: FakePortero
) -> None:
    gateway.secrets["AGNFXYZ456"] = SECRET
    one, same, other = new_source(), new_source(), new_source(username="AGNFXYZ456")
    assert one.token() == same.token() != other.token()


# Its life.


def test_a_token_is_renewed_ahead_while_others_go_on_with_it(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    gateway.gate = threading.Event()
    clock.go(0.8 * 119)
    assert {source.token() for _ in range(50)} == {"canary-token-1"}
    gateway.gate.set()
    logged_in(source, gateway, 2)
    assert source.token() == "canary-token-2"


def test_renewals_of_many_callers_are_spread_over_a_twentieth_of_a_life(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    clock.go(0.7499 * 119)
    assert source.token() == "canary-token-1"
    assert len(gateway.asked) == 1


def test_all_wait_for_the_new_token_in_the_last_two_seconds(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    clock.go(117.5)
    assert source.token() == "canary-token-2"


def test_a_clock_that_is_an_hour_off_changes_nothing(
    source: TokenSource, gateway: FakePortero
) -> None:
    for gateway.skew_seconds in (-3600.0, 3600.0):
        source.invalidate(source.token())
        source.token()
        assert source.current is not None
        assert source.current.seconds_left == 119


def test_a_login_that_fails_ahead_of_the_end_leaves_the_token_and_is_tried_later(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    gateway.scripted["/llm/login"] = [NOT_READY] * 100
    clock.go(0.8 * 119)
    before = len(gateway.asked)
    source.token()
    wait_until(lambda: len(gateway.asked) == before + 1 and source.is_renewing is False)
    assert {source.token() for _ in range(10)} == {"canary-token-1"}
    assert len(gateway.asked) == before + 1
    clock.go(22.5)
    assert source.token() == "canary-token-1"


def test_an_issuer_that_is_away_is_told_when_the_token_has_ended(
    source: TokenSource, gateway: FakePortero, clock: SetClock
) -> None:
    source.token()
    gateway.scripted["/llm/login"] = [NOT_READY] * 100
    clock.go(118.9)
    assert source.token() == "canary-token-1"
    clock.go(0.2)
    with pytest.raises(LoginUnavailable) as raised:
        source.token()
    assert (raised.value.status, raised.value.code) == (503, "not_ready")
    assert 9 <= sum(clock.slept) <= 10


def test_a_token_that_ends_at_once_is_handed_out_once_and_not_fetched_in_a_loop(
    source: TokenSource, gateway: FakePortero
) -> None:
    gateway.ttl_seconds = 1
    assert source.token() == "canary-token-1"
    assert gateway.logins == 1


def test_current_tells_whose_token_is_held_and_not_which(source: TokenSource) -> None:
    assert source.current is None
    source.token()
    assert source.current is not None
    assert (source.current.role, source.current.subject) == ("agent_reasoning", USERNAME)
    assert "canary" not in repr(source.current)


# Logins that fail.


@pytest.mark.parametrize("reply", [NOT_READY, TOO_MANY, Reply(502, None)])
def test_a_login_is_tried_again_as_long_as_it_may_be_waited_out(
    source: TokenSource, gateway: FakePortero, clock: SetClock, reply: Reply
) -> None:
    gateway.scripted["/llm/login"] = [reply, reply]
    assert source.token() == "canary-token-1"
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    ("reply", "error"), [(CAPACITY, LoginUnavailable), (TOO_MANY, TooManyTokens)]
)
def test_a_login_gives_up_after_ten_seconds(
    source: TokenSource,
    gateway: FakePortero,
    clock: SetClock,
    reply: Reply,
    error: type[LoginError],
) -> None:
    gateway.scripted["/llm/login"] = [reply] * 100
    with pytest.raises(error):
        source.token()
    assert sum(clock.slept) == 10


def test_a_gateway_that_is_not_there_is_unavailable(free_url: str, clock: SetClock) -> None:
    source = TokenSource(free_url, USERNAME, SECRET, clock=clock)
    with pytest.raises(LoginUnavailable, match="did not answer"):
        source.token()
    assert 5 < sum(clock.slept) <= 10


def test_a_wrong_secret_is_not_sent_again_for_some_seconds(
    new_source: NewSource, gateway: FakePortero, clock: SetClock
) -> None:
    source = new_source(secret="wrong")
    for _ in range(3):
        with pytest.raises(WrongCredentials):
            source.token()
    assert len(gateway.asked) == 1
    gateway.secrets[USERNAME] = "wrong"
    clock.go(5.1)
    assert source.token()


def test_a_role_that_logs_in_elsewhere_is_told_so(new_source: NewSource) -> None:
    with pytest.raises(WrongLogin, match="another address") as raised:
        new_source(login="/agi/login").token()
    assert raised.value.request_id == "request-1"


@pytest.mark.parametrize(
    "body", ["x", {}, {"token": 5, "ttl_seconds": 9}, {"token": "a b", "ttl_seconds": 9}, ["x"]]
)
def test_an_answer_without_a_token_is_an_error(
    source: TokenSource, gateway: FakePortero, body: object
) -> None:
    gateway.scripted["/llm/login"] = [Reply(200, body)]
    with pytest.raises(LoginError, match="without a token"):
        source.token()


# Where roles log in.


@pytest.mark.parametrize("has_oauth", [False, True])
@pytest.mark.parametrize("code", ["AGNR", "AGNF", "AGIA", "USRS", "MNTR", "ADMN"])
def test_every_role_logs_in_at_its_own_endpoint(
    new_source: NewSource, gateway: FakePortero, code: str, has_oauth: bool
) -> None:
    gateway.has_oauth = has_oauth
    gateway.secrets[f"{code}XYZ456"] = SECRET
    source = new_source(username=f"{code}XYZ456")
    assert source.token() == "canary-token-1"
    source.invalidate("canary-token-1")
    assert source.token() == "canary-token-2"
    tries = {False: 3, True: 2} if code in ("USRS", "MNTR", "ADMN") else {False: 2, True: 2}
    assert len(gateway.asked) == tries[has_oauth]


def test_a_wrong_secret_is_told_by_oauth_too(new_source: NewSource, gateway: FakePortero) -> None:
    gateway.has_oauth = True
    with pytest.raises(WrongCredentials, match="Invalid credentials"):
        new_source(secret="wrong", login="/oauth/token").token()


def test_a_role_of_ones_own_logs_in_where_it_says(
    new_source: NewSource, gateway: FakePortero
) -> None:
    gateway.secrets["TOOL1"] = SECRET
    assert new_source(username="TOOL1", login="/llm/login").token()
    with pytest.raises(ConfigurationError, match="login= is one of"):
        new_source(username="TOOL1", login="/elsewhere")


def test_an_api_key_needs_no_login(gateway: FakePortero) -> None:
    source = TokenSource(gateway.url, api_key="canary-key")
    assert source.token() == "canary-key"
    assert not source.refused("canary-key", expired=False)
    assert gateway.asked == []


# Refused tokens.


def test_an_expired_token_is_replaced_by_one_login(
    source: TokenSource, gateway: FakePortero
) -> None:
    token = source.token()
    assert all(source.refused(token, expired=True) for _ in range(5))
    assert source.token() == "canary-token-2"
    assert source.refused(token, expired=True), "another is held already"
    assert source.token() == "canary-token-2"


def test_a_revoked_token_is_not_replaced_unless_the_caller_wants_it(
    source: TokenSource, new_source: NewSource, gateway: FakePortero, clock: SetClock
) -> None:
    token = source.token()
    clock.go(30)
    assert not source.refused(token, expired=False)
    for _ in range(2):
        with pytest.raises(TokenRefused, match="revoked"):
            source.token()
    assert gateway.logins == 1
    assert new_source(on_revoked="login").token() == source.token() == "canary-token-2"


def test_a_caller_may_say_that_a_revoked_token_is_forgotten(
    source: TokenSource, clock: SetClock
) -> None:
    token = source.token()
    clock.go(30)
    source.refused(token, expired=False)
    source.invalidate(token)
    assert source.token() == "canary-token-2"


def test_fresh_tokens_that_are_refused_are_not_fetched_in_a_loop(
    new_source: NewSource, gateway: FakePortero, clock: SetClock
) -> None:
    source = new_source(on_revoked="login")
    worth = [source.refused(source.token(), expired=True) for _ in range(3)]
    assert worth == [True, True, False]
    with pytest.raises(TokenRefused, match="clocks"):
        source.token()
    assert gateway.logins == 3
    clock.go(5.1)
    assert source.token()


# The end.


def test_the_last_to_leave_logs_out(new_source: NewSource, gateway: FakePortero) -> None:
    first, second = new_source(), new_source()
    with first:
        with second:
            token = second.token()
        assert gateway.revoked == set()
        assert first.token() == token
    assert gateway.revoked == {token}
    with pytest.raises(RuntimeError, match="closed"):
        first.token()


def test_leaving_a_task_logs_out_too(source: TokenSource, gateway: FakePortero) -> None:
    async def ask() -> str:
        async with source:
            return await source.atoken()

    token = asyncio.run(ask())
    assert gateway.revoked == {token}


def test_a_logout_ends_the_login_that_is_under_way(
    source: TokenSource, gateway: FakePortero
) -> None:
    gateway.gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(source.token)
        wait_until(lambda: len(gateway.asked) == 1)
        assert source.logout()
        gateway.gate.set()
        with pytest.raises(LoginError, match="logout"):
            asked.result(DEADLINE_SECONDS)
    wait_until(lambda: gateway.revoked == {"canary-token-1"})


def test_a_logout_that_cannot_be_told_says_so(source: TokenSource, gateway: FakePortero) -> None:
    source.token()
    gateway.scripted["/logout"] = [NOT_READY]
    assert not source.logout()


def test_a_source_is_not_pickled_and_copies_are_the_same(source: TokenSource) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(source)
    assert copy.copy(source) is copy.deepcopy(source) is source


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_logs_in_for_itself(source: TokenSource, gateway: FakePortero) -> None:
    token = source.token()
    assert holds_in_a_child(lambda: source.token() != token and source.logout())
    assert source.token() == token
    assert gateway.revoked == {"canary-token-2"}


# What is told.


def test_events_are_told_and_a_hook_that_fails_harms_nobody(
    new_source: NewSource, gateway: FakePortero, clock: SetClock
) -> None:
    told: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError

    source, other = new_source(on_event=told.append), new_source(on_event=fail)
    gateway.scripted["/llm/login"] = [NOT_READY]
    assert source.token() == other.token()
    wait_until(lambda: [event.kind for event in told] == ["retry", "login"])
    assert (told[0].status, told[0].code, told[0].seconds) == (503, "not_ready", 1.0)
    clock.go(117.5)
    source.token()
    source.logout()
    wait_until(lambda: [event.kind for event in told][2:] == ["renewal", "logout"])


def test_an_unknown_way_with_revoked_tokens_is_refused(new_source: NewSource) -> None:
    with pytest.raises(ConfigurationError, match="on_revoked"):
        new_source(on_revoked="retry")
