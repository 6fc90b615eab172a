"""Store and gateways change together: the store first, then the gateways."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from issuer.audit import USER, Actor
from issuer.errors import (
    CapacityReached,
    NoGatewayReached,
    PorteroError,
    StoreUnavailable,
    TooManyTokens,
)
from issuer.store import Selection, Session
from issuer.store.sessions import Sessions
from issuer.sync import active_tokens, batches
from issuer.sync.active_tokens import ActiveTokens
from issuer.sync.gateways import Ack, Changes, Gateways
from tests.conftest import wait_until
from tests.support.stores import sessions_in

NOW = 1_800_000_000
BY = Actor(USER, "ADMNroot", "192.0.2.7")
MAX_OF_SUBJECT = 10
OK, FULL, AWAY = Ack("ok", ok=True), Ack("full", ok=False, full=True), Ack("away", ok=False)


class FakeGateways(Gateways):
    """Answers every push by `acks`, and keeps what was pushed."""

    def __init__(self, *acks: Ack) -> None:
        self.acks = list(acks)
        self.pushed: list[Changes] = []
        self.on_push: Callable[[], None] = lambda: None
        self.tokens: ActiveTokens

    def apply(self, changes: Changes) -> list[Ack]:
        self.on_push()
        self.pushed.append(changes)
        return self.acks


def session(name: str, subject: str = "USRSalice", role: str = "user", ttl: int = 900) -> Session:
    return Session(name.rjust(22, "A"), subject, role, NOW, NOW + ttl, "fingerprint")


@pytest.fixture
def store(tmp_path: Path) -> Sessions:
    return sessions_in(tmp_path / "sessions.db")


def make(store: Sessions, gateways: Gateways, most: int = 100, now: int = NOW) -> ActiveTokens:
    return ActiveTokens(store, gateways, most, lambda: now + 0.9)


def test_a_token_is_in_the_store_before_any_gateway_hears_of_it(store: Sessions) -> None:
    gateways = FakeGateways(OK)
    seen: list[bool] = []
    gateways.on_push = lambda: seen.append(store.find(session("1").jti) is not None)
    make(store, gateways).activate(session("1"), MAX_OF_SUBJECT, BY)
    assert seen == [True]
    assert gateways.pushed == [Changes(activate=[(session("1").jti, NOW + 900)])]


def test_a_revocation_is_in_the_store_before_any_gateway_hears_of_it(
    store: Sessions,
) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    seen: list[bool] = []
    gateways.on_push = lambda: seen.append(tokens.is_active(session("1").jti))
    done = tokens.revoke(Selection(jti=session("1").jti), BY)
    assert seen == [False]
    assert gateways.pushed[-1] == Changes(revoke=[(session("1").jti, NOW + 900)])
    assert [revoked.jti for revoked in done.sessions] == [session("1").jti]
    assert not done.pending


@pytest.mark.parametrize(
    ("acks", "refusal"),
    [
        ([OK], None),
        ([OK, OK], None),
        ([OK, AWAY], None),
        ([AWAY], NoGatewayReached),
        ([AWAY, AWAY], NoGatewayReached),
        ([FULL], CapacityReached),
        ([OK, FULL], CapacityReached),
        ([FULL, AWAY], CapacityReached),
    ],
)
def test_a_token_is_active_unless_one_gateway_is_full_or_none_answers(
    store: Sessions, acks: list[Ack], refusal: type[Exception] | None
) -> None:
    gateways = FakeGateways(*acks)
    tokens = make(store, gateways)
    if refusal is None:
        tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
        assert tokens.is_active(session("1").jti)
        return
    with pytest.raises(refusal):
        tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    assert not tokens.is_active(session("1").jti)
    assert gateways.pushed[-1].revoke == [(session("1").jti, NOW + 900)]
    assert store.count_active(NOW) == 0


def test_at_capacity_no_gateway_hears_of_the_token(store: Sessions) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways, most=2)
    tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    tokens.activate(session("2"), MAX_OF_SUBJECT, BY)
    with pytest.raises(CapacityReached):
        tokens.activate(session("3"), MAX_OF_SUBJECT, BY)
    assert len(gateways.pushed) == 2
    assert store.find(session("3").jti) is None
    assert tokens.is_active(session("1").jti)
    tokens.revoke(Selection(jti=session("1").jti), BY)
    tokens.activate(session("3"), MAX_OF_SUBJECT, BY)


def test_s8_over_the_bound_of_one_user_no_gateway_hears_of_the_token(store: Sessions) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    for name in ("1", "2"):
        tokens.activate(session(name), 2, BY)
    with pytest.raises(TooManyTokens):
        tokens.activate(session("3"), 2, BY)
    assert len(gateways.pushed) == 2
    assert store.find(session("3").jti) is None
    tokens.activate(session("4", "USRSbob"), 2, BY)


def test_without_a_store_nothing_is_pushed(store: Sessions) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    with pytest.raises(StoreUnavailable):
        tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    assert len(gateways.pushed) == 1


@pytest.mark.parametrize(
    ("acks", "pending"),
    [([OK, OK], ()), ([OK, AWAY], ("away",)), ([FULL, AWAY], ("away", "full"))],
)
def test_a_revocation_names_the_gateways_that_have_not_acknowledged_it(
    store: Sessions, acks: list[Ack], pending: tuple[str, ...]
) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    gateways.acks = acks
    assert tokens.revoke(Selection(), BY).pending == pending
    assert not tokens.is_active(session("1").jti)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(jti=session("1").jti), {"1"}),
        (Selection(subject="USRSalice"), {"1", "2"}),
        (Selection(role="admin"), {"3"}),
        (Selection(), {"1", "2", "3"}),
        (Selection(subject="USRSnobody"), set()),
        (Selection(jti=session("1").jti, subject="ADMNroot"), set()),
    ],
)
def test_only_what_is_selected_is_revoked(
    store: Sessions, selection: Selection, names: set[str]
) -> None:
    tokens = make(store, FakeGateways(OK))
    every = [session("1"), session("2"), session("3", "ADMNroot", "admin")]
    for one in every:
        tokens.activate(one, MAX_OF_SUBJECT, BY)
    done = tokens.revoke(selection, BY)
    assert {revoked.jti[-1] for revoked in done.sessions} == names
    assert {one.jti[-1] for one in every if not tokens.is_active(one.jti)} == names


def together(*works: Callable[[], object]) -> list[object]:
    """What each answers or raises, all at the same time."""

    def outcome(work: Callable[[], object]) -> object:
        try:
            return work()
        except PorteroError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(outcome, works))


def hold_up(gateways: FakeGateways, count: int) -> None:
    """The first push takes until so many others wait."""
    waiting: list[bool] = []

    def wait_for_others() -> None:
        if not waiting:
            waiting.append(True)
            wait_until(lambda: len(gateways.tokens._activations._waiting) == count, "all wait")

    gateways.on_push = wait_for_others


def test_logins_at_the_same_time_share_a_message_and_each_has_its_own_outcome(
    store: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 20)
    gateways = FakeGateways(OK)
    gateways.tokens = make(store, gateways, most=4)
    hold_up(gateways, 4)
    subjects = ["USRSalice", "USRSbob", "USRSbob", "USRScarol", "USRSdave"]
    outcomes = together(
        *(
            partial(gateways.tokens.activate, session(str(number), subject), 1, BY)
            for number, subject in enumerate(subjects)
        )
    )
    refused = [type(one) for one in outcomes if one is not None]
    assert sorted(one.__name__ for one in refused) == ["TooManyTokens"]
    assert [len(changes.activate) for changes in gateways.pushed] == [1, 3]
    assert store.count_active(NOW) == 4


def test_of_logins_that_share_a_message_none_is_granted_that_no_gateway_heard_of(
    store: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 20)
    gateways = FakeGateways(AWAY)
    gateways.tokens = make(store, gateways)
    hold_up(gateways, 3)
    logins = [
        partial(gateways.tokens.activate, session(str(n)), MAX_OF_SUBJECT, BY) for n in range(4)
    ]
    assert [type(one) for one in together(*logins)] == [NoGatewayReached] * 4
    assert store.count_active(NOW) == 0
    revoked = {jti for changes in gateways.pushed for jti, *_ in changes.revoke}
    assert revoked == {session(str(number)).jti for number in range(4)}


def test_revocations_at_the_same_time_each_answer_their_own(store: Sessions) -> None:
    tokens = make(store, FakeGateways(OK))
    every = [session(str(number)) for number in range(8)]
    for one in every:
        tokens.activate(one, MAX_OF_SUBJECT, BY)
    outcomes = together(*(partial(tokens.revoke, Selection(jti=one.jti), BY) for one in every))
    assert [[found.jti for found in one.sessions] for one in outcomes] == [  # type: ignore[attr-defined]
        [one.jti] for one in every
    ]
    assert store.count_active(NOW) == 0


def test_a_revocation_of_nothing_tells_nobody(store: Sessions) -> None:
    gateways = FakeGateways(AWAY)
    done = make(store, gateways).revoke(Selection(), BY)
    assert (done.sessions, done.pending, gateways.pushed) == ([], (), [])


def test_a_revocation_again_is_pushed_again(store: Sessions) -> None:
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    tokens.activate(session("1"), MAX_OF_SUBJECT, BY)
    gateways.acks = [AWAY]
    assert tokens.revoke(Selection(), BY).pending == ("away",)
    gateways.acks = [OK]
    assert tokens.revoke(Selection(), BY).pending == ()
    assert gateways.pushed[-1] == gateways.pushed[-2]


def test_an_expired_token_is_revoked_everywhere_too_and_is_not_counted(
    store: Sessions,
) -> None:
    gateways = FakeGateways(OK)
    make(store, gateways).activate(session("1"), MAX_OF_SUBJECT, BY)
    done = make(store, gateways, now=NOW + 900).revoke(Selection(subject="USRSalice"), BY)
    assert done.sessions == []
    assert gateways.pushed[-1] == Changes(revoke=[(session("1").jti, NOW + 900)])


def test_many_revocations_go_out_in_messages_of_bounded_size(
    store: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_tokens, "PUSH_ENTRIES", 2)
    gateways = FakeGateways(OK)
    tokens = make(store, gateways)
    for number in range(5):
        tokens.activate(session(str(number)), MAX_OF_SUBJECT, BY)
    gateways.pushed.clear()
    tokens.revoke(Selection(), BY)
    sent = [jti for changes in gateways.pushed for jti, *_ in changes.revoke]
    assert [len(changes.revoke) for changes in gateways.pushed] == [2, 2, 1]
    assert sorted(sent) == sorted(session(str(number)).jti for number in range(5))


@pytest.mark.parametrize(("late", "active"), [(0, True), (899, True), (900, False), (901, False)])
def test_a_token_is_active_until_its_time_is_over(store: Sessions, late: int, active: bool) -> None:
    make(store, FakeGateways(OK)).activate(session("1"), MAX_OF_SUBJECT, BY)
    tokens = make(store, FakeGateways(OK), now=NOW + late)
    assert tokens.is_active(session("1").jti) is active


def test_j30_a_token_never_issued_is_not_active(store: Sessions) -> None:
    assert not make(store, FakeGateways(OK)).is_active(session("1").jti)
