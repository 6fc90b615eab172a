"""The reconciler keeps every gateway equal to the store, whatever happens between two messages."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuer import config
from issuer.errors import StoreUnavailable
from issuer.keys.key_file import SIGNING, VERIFYING, WAITING, KeyFile
from issuer.keys.sealing import CREDENTIALS, Sealing
from issuer.policy import Terms
from issuer.policy.roles import Roles
from issuer.store import KEPT_SECONDS, OF_API_KEY, ApiKey, Selection, Session
from issuer.store.sessions import Sessions
from issuer.store.usage import Question, Usage
from issuer.sync import reconciler
from issuer.sync.active_tokens import ActiveTokens
from issuer.sync.gateways import (
    APPLY,
    KEYS,
    LIMITS,
    POLICY,
    STATUS,
    USAGE,
    USES,
    Ack,
    Changes,
    Gateway,
    Gateways,
)
from issuer.sync.policy_in_force import PolicyInForce
from issuer.sync.reconciler import SKEW_SECONDS, Reconciler, _Projection
from issuer.users.credentials_in_force import CredentialsInForce
from tests.conftest import SECRET_KEY, wait_until
from tests.support.fake_gateway import SYNC_KEY, FakeGateway
from tests.support.stores import sessions_in

NOW = int(time.time())
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()
OTHER_HASH = bcrypt.hashpw(b"another secret", bcrypt.gensalt(10)).decode()


class Killed(BaseException):
    """The reconciler's process ends here."""


class ModelGateway(Gateway):
    """A gateway without a network: its messages go straight to a model."""

    def __init__(self, model: FakeGateway) -> None:
        super().__init__("http://model", model.key.encode())
        self.model = model
        self.sent: list[str] = []
        self.away = False
        self.killed_before: int | None = None

    def _send(self, method: str, path: str, content: Any, timeout: float | None = None) -> Ack:
        names = {
            APPLY: "apply",
            KEYS: "keys",
            POLICY: "policy",
            STATUS: "state",
            USES: "uses",
            USAGE: "usage",
            LIMITS: "limits",
        }
        return self._tell(names.get(path) or content["step"], method, path, content)

    def _tell(self, what: str, method: str, path: str, content: Any) -> Ack:
        if self.killed_before is not None and len(self.sent) >= self.killed_before:
            raise Killed
        self.sent.append(what)
        if self.away:
            return Ack(self.url, ok=False)
        status, state = self.model.receive(method, path, json.loads(json.dumps(content)))
        return Ack(self.url, status == 200, status == 507, state)


class ModelGateways(Gateways):
    """Several of them."""

    def __init__(self, *each: Gateway) -> None:
        self.each = list(each)
        self.credentials = Sealing(SYNC_KEY.encode(), CREDENTIALS)

    def _push(self, send: Callable[[Gateway], Ack]) -> list[Ack]:
        return [send(gateway) for gateway in self.each]


def keys_of(store: Sessions) -> KeyFile:
    """The key file beside a store; made when it is not there."""
    path = store.database.path.with_name(config.KEY_FILE)
    made = KeyFile(path, "HS256", SECRET_KEY.encode(), lambda: 3600)
    if not path.exists():
        made.prepare(NOW)
    return made


def policy_of(store: Sessions) -> PolicyInForce:
    """The shipped policy, in force."""
    terms = Terms("", "portero", 86_400)
    return PolicyInForce(config.POLICY_FILE, terms, store, ModelGateways())


@pytest.fixture
def store(tmp_path: Path) -> Sessions:
    return sessions_in(tmp_path / "sessions.db")


@pytest.fixture
def gateway() -> ModelGateway:
    return ModelGateway(FakeGateway())


def add_key(
    store: Sessions, name: str, subject: str = "USRSalice", models: Sequence[str] = ()
) -> str:
    """An API key of a user; its ID."""
    key_id = name.rjust(16, "A")
    made = ApiKey("0" * 64, name, tuple(models), "the tests")
    row = Session(key_id, subject, "user", NOW, NOW + 9_000, OF_API_KEY, api_key=made)
    store.add(row, 1_000, NOW)
    return key_id


@pytest.fixture(autouse=True)
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "PART_ENTRIES", 2)
    monkeypatch.setattr(reconciler, "PERIOD_SECONDS", 0.01)


def add(store: Sessions, *names: str, subject: str = "USRSalice", ends: int = 9_000) -> None:
    for name in names:
        issued = min(NOW, NOW + ends - 1)
        one = Session(name.rjust(22, "A"), subject, "user", issued, NOW + ends, "old fingerprint")
        store.add(one, 1000, NOW)


def revoke(store: Sessions, name: str) -> None:
    store.revoke(Selection(jti=name.rjust(22, "A")), NOW)


def truth(store: Sessions) -> set[str]:
    return {session.jti for session in store.active(int(time.time()), 1000)}


def refresh(store: Sessions, gateway: ModelGateway) -> list[str]:
    """One round of a fresh reconciler; what it sent."""
    gateway.sent.clear()
    _Projection(gateway, store, keys_of(store), policy_of(store)).refresh()
    return list(gateway.sent)


def test_an_empty_gateway_gets_a_snapshot_and_is_ready_at_its_end(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1", "2", "3")
    revoke(store, "2")
    assert refresh(store, gateway) == ["state", "keys", "policy", "begin", "part", "part", "end"]
    assert gateway.model.active() == truth(store)
    assert gateway.model.position == store.position()


def test_an_empty_store_makes_an_empty_gateway_ready(
    store: Sessions, gateway: ModelGateway
) -> None:
    assert refresh(store, gateway) == ["state", "keys", "policy", "begin", "end"]
    assert gateway.model.least == 1


def test_a_gateway_that_has_everything_is_asked_and_told_that_it_is_current(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1")
    refresh(store, gateway)
    assert refresh(store, gateway) == ["state", "apply"]


def test_what_changed_since_is_sent_in_order_and_without_a_snapshot(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1")
    refresh(store, gateway)
    add(store, "2", "3", "4")
    revoke(store, "1")
    revoke(store, "3")
    before = gateway.model.position
    assert refresh(store, gateway) == ["state", "apply", "apply", "apply"]
    assert gateway.model.active() == truth(store)
    assert gateway.model.position == store.position() == before + 5


def test_a_revocation_is_never_undone_by_an_activation_that_comes_late(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1")
    refresh(store, gateway)
    jti = "1".rjust(22, "A")
    gateway.apply(Changes(revoke=[(jti, NOW + 9_000)]))
    gateway.apply(Changes(activate=[(jti, NOW + 9_000)]))
    assert gateway.model.active() == set()


def test_a_gateway_that_has_seen_another_store_gets_a_snapshot(
    store: Sessions, gateway: ModelGateway, tmp_path: Path
) -> None:
    other = sessions_in(tmp_path / "lost.db")
    add(other, "7", "8", "9")
    refresh(other, gateway)
    add(store, "1")
    assert refresh(store, gateway) == ["state", "policy", "begin", "part", "end"]
    assert gateway.model.active() == truth(store) != set()
    assert gateway.model.position == 1


def copy_raw(store: Sessions, path: Path) -> None:
    """As an operator does who knows no `backup`: nothing in it says what it is."""
    with (
        closing(sqlite3.connect(store.database.path)) as live,
        closing(sqlite3.connect(path)) as copy,
    ):
        live.backup(copy)


def test_a_gateway_ahead_of_the_store_shows_that_an_older_file_came_back_and_all_is_revoked(
    store: Sessions, gateway: ModelGateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(store, "1", "2")
    copy_raw(store, tmp_path / "older.db")
    revoke(store, "1")
    refresh(store, gateway)
    older = sessions_in(tmp_path / "older.db")
    assert len(truth(older)) == 2
    refresh(older, gateway)
    assert "older" in caplog.text
    assert refresh(older, gateway) == ["state", "policy", "begin", "part", "end"]
    assert gateway.model.active() == truth(older) == set()
    assert refresh(older, gateway) == ["state", "apply"]


def test_a_restarted_gateway_gets_a_snapshot(store: Sessions, gateway: ModelGateway) -> None:
    add(store, "1")
    refresh(store, gateway)
    gateway.model.restart()
    assert gateway.model.active() == set()
    assert "begin" in refresh(store, gateway)
    assert gateway.model.active() == truth(store)


def test_what_the_store_no_longer_has_is_gone_after_a_snapshot(
    store: Sessions, gateway: ModelGateway
) -> None:
    gateway.apply(Changes(activate=[("Z" * 22, NOW + 9_000)]))
    add(store, "1")
    refresh(store, gateway)
    assert gateway.model.active() == truth(store)


def test_what_has_expired_by_every_gateways_clock_is_in_no_snapshot(
    store: Sessions,
) -> None:
    gateway = ModelGateway(FakeGateway(now=lambda: time.time() - SKEW_SECONDS))
    add(store, "1", ends=-SKEW_SECONDS - 1)
    add(store, "2")
    add(store, "3", ends=int(time.time()) - NOW - SKEW_SECONDS + 10)
    refresh(store, gateway)
    assert gateway.model.active() == {name.rjust(22, "A") for name in "23"}


def test_a_gateway_that_does_not_answer_is_only_asked(
    store: Sessions, gateway: ModelGateway
) -> None:
    gateway.away = True
    assert refresh(store, gateway) == ["state"]


def test_what_is_revoked_while_a_snapshot_runs_stays_revoked(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1", "2", "3")
    tell = gateway._tell

    def revoke_after_the_first_part(what: str, method: str, path: str, content: Any) -> Ack:
        ack = tell(what, method, path, content)
        if what == "part" and store.find("1".rjust(22, "A")) in store.active(NOW, 10):
            revoke(store, "1")
            gateway.apply(Changes(revoke=[("1".rjust(22, "A"), NOW + 9_000)]))
        return ack

    gateway._tell = revoke_after_the_first_part  # type: ignore[method-assign]
    refresh(store, gateway)
    assert gateway.model.active() == truth(store) == {"2".rjust(22, "A"), "3".rjust(22, "A")}


def test_what_is_activated_while_a_snapshot_runs_is_active_at_its_end(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "5", "6")
    tell = gateway._tell

    def add_behind_the_first_part(what: str, method: str, path: str, content: Any) -> Ack:
        ack = tell(what, method, path, content)
        if what == "part" and store.position() == 2:
            add(store, "1")
            gateway.apply(Changes(activate=[("1".rjust(22, "A"), NOW + 9_000)]))
        return ack

    gateway._tell = add_behind_the_first_part  # type: ignore[method-assign]
    refresh(store, gateway)
    assert gateway.model.active() == truth(store)
    assert len(gateway.model.active()) == 3


def test_a_full_gateway_gets_no_end_of_its_snapshot_and_is_not_ready(
    store: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ModelGateway(FakeGateway(most=3))
    add(store, "1", "2", "3", "4", "5")
    assert refresh(store, gateway) == ["state", "keys", "policy", "begin", "part", "part"]
    assert gateway.model.least == 0
    assert "full" in caplog.text


def test_changes_that_do_not_fit_are_sent_again_next_time(store: Sessions) -> None:
    gateway = ModelGateway(FakeGateway(most=2))
    add(store, "1")
    refresh(store, gateway)
    add(store, "2", "3", "4", "5")
    assert refresh(store, gateway) == ["state", "apply"]
    assert gateway.model.position == 1
    gateway.model.most = 10
    refresh(store, gateway)
    assert gateway.model.active() == truth(store)


def test_a_gateway_with_a_newer_policy_than_the_store_shows_that_an_older_file_came_back(
    store: Sessions, gateway: ModelGateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(store, "1")
    refresh(store, gateway)
    copy_raw(store, tmp_path / "older.db")
    known = store.policy()
    assert known is not None
    store.put_policy(known.sources + " ", known.compiled)
    refresh(store, gateway)
    older = sessions_in(tmp_path / "older.db")
    refresh(older, gateway)
    assert "older" in caplog.text
    assert truth(older) == set()
    assert refresh(older, gateway) == ["state", "policy", "begin", "part", "end"]
    assert gateway.model.active() == set()


@pytest.mark.parametrize("ready", [False, True], ids=["snapshot", "changes"])
@pytest.mark.parametrize("messages", range(9))
def test_killed_before_any_message_and_started_again_the_gateway_is_equal(
    store: Sessions, gateway: ModelGateway, messages: int, ready: bool
) -> None:
    add(store, "0")
    if ready:
        refresh(store, gateway)
    add(store, "1", "2", "3", "4", "5")
    revoke(store, "0")
    revoke(store, "4")
    before = gateway.model.active()
    gateway.killed_before = messages
    try:
        refresh(store, gateway)
        was_killed = False
    except Killed:
        was_killed = True
    assert was_killed is (messages < (5 if ready else 8))
    assert ready or gateway.model.active() in (before, truth(store))
    gateway.killed_before = None
    refresh(store, gateway)
    assert gateway.model.active() == truth(store)
    assert gateway.model.position == store.position()


STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(0, 9))
    | st.tuples(st.just("revoke"), st.integers(0, 9))
    | st.tuples(st.just("restart"), st.just(0))
    | st.tuples(st.just("lose"), st.integers(0, 7))
    | st.tuples(st.just("refresh"), st.just(0)),
    max_size=20,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_after_any_history_one_undisturbed_round_makes_the_gateway_equal(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    store = sessions_in(tmp_path_factory.mktemp("history") / "sessions.db")
    gateway = ModelGateway(FakeGateway())
    for step, number in steps:
        if step == "add" and store.find(str(number).rjust(22, "A")) is None:
            add(store, str(number))
        elif step == "revoke":
            revoke(store, str(number))
        elif step == "restart":
            gateway.model.restart()
        elif step in ("lose", "refresh"):
            gateway.killed_before = number if step == "lose" else None
            try:
                refresh(store, gateway)
            except Killed:
                gateway.killed_before = None
    gateway.killed_before = None
    refresh(store, gateway)
    assert gateway.model.active() == truth(store)
    assert gateway.model.position == store.position()


@contextmanager
def running(
    store: Sessions,
    path: Path,
    all_roles: Roles,
    *each: ModelGateway,
    keys: KeyFile | None = None,
) -> Iterator[CredentialsInForce]:
    """A reconciler at work."""
    gateways = ModelGateways(*each)
    credentials = CredentialsInForce(path, lambda: all_roles, store.salt())
    active = ActiveTokens(store, gateways, 1000)
    loop = Reconciler(active, gateways, credentials, keys or keys_of(store), policy_of(store))
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield credentials
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "credentials.env"
    path.write_text(f"USRSalice={HASH}\nUSRSbob={HASH}\n")
    return path


def log_in(store: Sessions, credentials: CredentialsInForce, name: str, subject: str) -> None:
    fingerprint = credentials.in_force().fingerprint(subject) or ""
    session = Session(name.rjust(22, "A"), subject, "user", NOW, NOW + 9_000, fingerprint)
    store.add(session, 1000, NOW)


def test_the_loop_keeps_every_gateway_equal(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    one, two = ModelGateway(FakeGateway()), ModelGateway(FakeGateway())
    with running(store, people, all_roles, one, two) as credentials:
        for number in range(5):
            log_in(store, credentials, str(number), "USRSalice")
            wait_until(lambda: one.model.active() == two.model.active() == truth(store), "equal")
        assert len(truth(store)) == 5
        two.model.restart()
        wait_until(lambda: two.model.active() == truth(store), "equal after a restart")


def test_a_gateway_whose_messages_fail_badly_holds_up_no_other(
    store: Sessions, people: Path, all_roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(ModelGateway):
        def state(self) -> Ack:
            raise RuntimeError("odd")

    good = ModelGateway(FakeGateway())
    with running(store, people, all_roles, Odd(FakeGateway()), good) as credentials:
        log_in(store, credentials, "1", "USRSalice")
        wait_until(lambda: good.model.active() == truth(store) != set(), "the good one is equal")
        wait_until(lambda: caplog.text.count("unexpected") > 1, "the odd one is tried again")


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(f"USRSalice={OTHER_HASH}\nUSRSbob={HASH}\n", id="P8 another secret"),
        pytest.param(f"USRSbob={HASH}\n", id="P8 the user removed"),
    ],
)
def test_changed_credentials_revoke_the_live_tokens_of_that_user_alone(
    store: Sessions, people: Path, all_roles: Roles, after: str
) -> None:
    gateway = ModelGateway(FakeGateway())
    with running(store, people, all_roles, gateway) as credentials:
        log_in(store, credentials, "1", "USRSalice")
        log_in(store, credentials, "2", "USRSalice")
        log_in(store, credentials, "3", "USRSbob")
        wait_until(lambda: len(gateway.model.active()) == 3, "all three are active")
        (people.parent / "new").write_text(after)
        (people.parent / "new").replace(people)
        wait_until(lambda: gateway.model.active() == {"3".rjust(22, "A")}, "two are revoked")
        assert truth(store) == {"3".rjust(22, "A")}


def test_a_faulty_credentials_file_revokes_nobody(
    store: Sessions, people: Path, all_roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ModelGateway(FakeGateway())
    with running(store, people, all_roles, gateway) as credentials:
        log_in(store, credentials, "1", "USRSalice")
        wait_until(lambda: len(gateway.model.active()) == 1, "it is active")
        people.write_text("nonsense\n")
        wait_until(lambda: "the former version stays in force" in caplog.text, "the fault is told")
        asked = len(gateway.sent)
        wait_until(lambda: len(gateway.sent) > asked + 3, "some more rounds")
        assert len(gateway.model.active()) == 1


def test_the_loop_forgets_sessions_whose_time_is_long_over(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    add(store, "1", ends=-2 * KEPT_SECONDS)
    with running(store, people, all_roles, ModelGateway(FakeGateway())):
        wait_until(lambda: store.find("1".rjust(22, "A")) is None, "it is forgotten")


@pytest.mark.parametrize(("ahead", "alive"), [(3600, True), (2 * KEPT_SECONDS, False)])
def test_no_token_stays_alive_whose_session_a_clock_ahead_may_have_forgotten(
    store: Sessions, people: Path, all_roles: Roles, ahead: int, alive: bool
) -> None:
    gateway = ModelGateway(FakeGateway())
    credentials = CredentialsInForce(people, lambda: all_roles, store.salt())
    gateways = ModelGateways(gateway)
    loop = Reconciler(
        ActiveTokens(store, gateways, 1000),
        gateways,
        credentials,
        keys_of(store),
        policy_of(store),
    )
    add(store, "1")
    refresh(store, gateway)
    loop._prune(NOW + ahead)
    loop._prune(NOW - 3600)
    refresh(store, gateway)
    assert bool(gateway.model.active()) is alive
    assert bool(truth(store)) is alive


# Keys


def of_short_tokens(store: Sessions) -> KeyFile:
    """The same key file, for tokens that live a second."""
    return KeyFile(
        store.database.path.with_name(config.KEY_FILE),
        "HS256",
        SECRET_KEY.encode(),
        lambda: 1,
    )


def states(store: Sessions) -> list[str]:
    return [entry.state for entry in keys_of(store).read().entries]


def kids(store: Sessions) -> set[str]:
    return {entry.kid for entry in keys_of(store).read().in_force()}


def test_a_gateway_gets_its_keys_before_any_token(store: Sessions, gateway: ModelGateway) -> None:
    add(store, "1")
    assert refresh(store, gateway)[:2] == ["state", "keys"]
    assert gateway.model.keys.keys() == kids(store)
    assert refresh(store, gateway) == ["state", "apply"]


def test_a_gateway_that_does_not_take_the_keys_gets_no_token(
    store: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ModelGateway(FakeGateway(key="another sync key, which opens nothing of this"))
    add(store, "1")
    gateway.key = SYNC_KEY.encode()
    assert refresh(store, gateway) == ["state", "keys"]
    assert gateway.model.numbers == {}
    assert "keys not applied" in caplog.text


def test_other_keys_are_brought_to_a_gateway_that_has_the_tokens(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1")
    refresh(store, gateway)
    keys_of(store).add(None, NOW)
    add(store, "2")
    assert refresh(store, gateway) == ["state", "keys", "apply"]
    assert gateway.model.keys.keys() == kids(store)
    assert len(gateway.model.keys) == 2


def test_a_gateway_that_was_restarted_gets_keys_and_tokens_again(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1")
    refresh(store, gateway)
    gateway.model.restart()
    assert refresh(store, gateway) == ["state", "keys", "policy", "begin", "part", "end"]
    assert gateway.model.keys.keys() == kids(store)


def test_a_waiting_key_signs_once_every_gateway_has_it(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    one, two = ModelGateway(FakeGateway()), ModelGateway(FakeGateway())
    two.away = True
    with running(store, people, all_roles, one, two):
        added = keys_of(store).add(None, NOW)
        wait_until(lambda: added.kid in one.model.keys, "the one has it")
        asked = len(two.sent)
        wait_until(lambda: len(two.sent) > asked + 5, "some more rounds")
        assert states(store) == [SIGNING, WAITING]
        two.away = False
        wait_until(lambda: states(store) == [VERIFYING, SIGNING], "it signs")
    assert added.kid in two.model.keys


def test_a_waiting_key_does_not_sign_for_what_a_gateway_had_acknowledged_before(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    one, two = ModelGateway(FakeGateway()), ModelGateway(FakeGateway())
    with running(store, people, all_roles, one, two):
        wait_until(lambda: bool(one.model.keys and two.model.keys), "both have the first key")
        two.away = True
        added = keys_of(store).add(None, NOW)
        wait_until(lambda: added.kid in one.model.keys, "the one has it")
        asked = len(two.sent)
        wait_until(lambda: len(two.sent) > asked + 5, "some more rounds")
        assert states(store) == [SIGNING, WAITING]


def test_a_key_whose_last_token_has_ended_goes_from_the_file_and_from_every_gateway(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    gateway = ModelGateway(FakeGateway())
    (old,) = kids(store)
    with running(store, people, all_roles, gateway, keys=of_short_tokens(store)):
        added = keys_of(store).add(None, NOW)
        wait_until(lambda: added.kid in gateway.model.keys, "the gateway has both")
        wait_until(lambda: gateway.model.keys.keys() == {added.kid}, "the old one is gone")
    assert kids(store) == {added.kid}
    assert keys_of(store).read().find(old) is not None


def test_a_reconciler_that_starts_while_a_key_waits_brings_it_and_lets_it_sign(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    gateway = ModelGateway(FakeGateway())
    keys_of(store).add(None, NOW)
    with running(store, people, all_roles, gateway):
        wait_until(lambda: states(store) == [VERIFYING, SIGNING], "it signs")
    assert len(gateway.model.keys) == 2


def test_a_broken_key_file_takes_no_key_from_a_gateway_and_is_told(
    store: Sessions, people: Path, all_roles: Roles, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ModelGateway(FakeGateway())
    with running(store, people, all_roles, gateway):
        wait_until(lambda: bool(gateway.model.keys), "it has its key")
        before = dict(gateway.model.keys)
        path = store.database.path.with_name(config.KEY_FILE)
        whole = path.read_text()
        path.write_text(whole[:-20])
        wait_until(lambda: "key file" in caplog.text, "it is told")
        assert gateway.model.keys == before
        path.write_text(whole)
        keys_of(store).add(None, NOW)
        wait_until(lambda: states(store) == [VERIFYING, SIGNING], "all goes on")


def test_a_key_file_that_is_gone_takes_no_key_from_a_gateway(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    gateway = ModelGateway(FakeGateway())
    path = people.with_name(config.KEY_FILE)
    with running(store, people, all_roles, gateway):
        wait_until(lambda: gateway.model.least > 0, "it is ready")
        before = dict(gateway.model.keys)
        path.unlink()
        asked = len(gateway.sent)
        wait_until(lambda: len(gateway.sent) > asked + 5, "some more rounds")
        assert gateway.model.keys == before
        assert not path.exists()


# API keys.


def test_api_keys_travel_with_the_tokens_and_with_what_must_be_known_of_them(
    store: Sessions, gateway: ModelGateway
) -> None:
    add(store, "1", "2")
    first = add_key(store, "first", models=["tiny"])
    refresh(store, gateway)
    later = add_key(store, "later")
    refresh(store, gateway)
    assert gateway.model.active() == truth(store) | {first, later}
    told = {"digest": "0" * 64, "sub": "USRSalice", "iat": NOW}
    assert gateway.model.api_keys == {first: {**told, "models": ["tiny"]}, later: told}
    store.revoke(Selection(jti=first), NOW)
    refresh(store, gateway)
    assert gateway.model.active() == truth(store) | {later}
    assert gateway.model.numbers[first] < 0


def test_a_message_holds_no_more_keys_than_a_gateway_can_take(
    store: Sessions, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PART_ENTRIES", 100)
    monkeypatch.setattr(reconciler, "PART_MODEL_CHARACTERS", 20)
    refresh(store, gateway)
    keys = {add_key(store, f"k{number}", models=["m" * 9]) for number in range(5)}
    assert refresh(store, gateway) == ["state", "apply", "apply", "apply"]
    assert gateway.model.active() == keys
    gateway.model.restart()
    sent = refresh(store, gateway)
    assert sent == ["state", "keys", "policy", "begin", "part", "part", "part", "end"]
    assert gateway.model.active() == keys


def test_what_was_used_is_in_the_store_once_whatever_is_killed_between(
    store: Sessions, gateway: ModelGateway
) -> None:
    usage = Usage(store.database)

    def refresh_until_killed(at: int | None) -> None:
        projection = _Projection(gateway, store, keys_of(store), policy_of(store), usage)
        gateway.killed_before = None if at is None else len(gateway.sent) + at
        with suppress(Killed):
            projection.refresh()

    refresh_until_killed(None)
    for number in range(1, 6):
        gateway.model.used.append(["2026-01-01", "USRSA", "token", "tiny", "llm", 1, 3, 1])
        for at in (0, 1, 2, 3, None):
            refresh_until_killed(at)
        rows = usage.asked(Question("2026-01-01", "2026-01-01", ("user",)))
        assert rows == [
            {
                "user": "USRSA",
                "requests": number,
                "prompt_tokens": 3 * number,
                "completion_tokens": number,
            }
        ]


def test_who_leads_works_on_while_it_asks_for_the_lease_again_and_no_longer_than_it_had_it(
    store: Sessions,
    people: Path,
    all_roles: Roles,
    gateway: ModelGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateways, now = ModelGateways(gateway), [100.0]
    credentials = CredentialsInForce(people, lambda: all_roles, store.salt())
    active = ActiveTokens(store, gateways, 1000)
    loop = Reconciler(active, gateways, credentials, keys_of(store), policy_of(store))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    done: list[float] = []
    work = loop._if_leading(lambda: done.append(now[0]))

    def ask_slowly(answer: bool | None) -> bool:
        work()
        now[0] += 1
        work()
        if answer is None:
            raise StoreUnavailable("away")
        return answer

    for answer in (True, True, False, True):
        monkeypatch.setattr(loop._lease, "hold", partial(ask_slowly, answer))
        loop._lead()
    # At first it did not lead, and not behind the refusal.
    assert done == [101.0, 102.0, 102.0, 103.0]
    monkeypatch.setattr(loop._lease, "hold", partial(ask_slowly, None))
    done.clear()
    for _ in range(4):
        with suppress(StoreUnavailable):
            loop._lead()
    assert done == [104.0, 105.0, 105.0]


def test_what_is_of_no_use_any_more_is_forgotten_but_for_gateways_that_live(
    store: Sessions, people: Path, all_roles: Roles, gateway: ModelGateway
) -> None:
    usage, gateways = Usage(store.database), ModelGateways(gateway)
    credentials = CredentialsInForce(people, lambda: all_roles, store.salt())
    active = ActiveTokens(store, gateways, 1000)
    loop = Reconciler(active, gateways, credentials, keys_of(store), policy_of(store), usage)
    life = str(gateway.state().status["boot"])
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    for boot in (life, "a life that ended"):
        usage.add(boot, 1, [[day, "USRSalice", "token", "tiny", "llm", 1, 3, 1]])
    loop._projections[0].refresh()
    loop._prune(NOW + 200 * 86_400)
    assert (usage.taken(life), usage.taken("a life that ended")) == (1, 0)
    assert usage.spent(life, day) == (1, {})
    assert len(usage.asked(Question(day, day, ("user",)))) == 1


def test_nothing_is_asked_of_what_was_used_where_nothing_is_counted(
    store: Sessions, gateway: ModelGateway
) -> None:
    refresh(store, gateway)
    assert "usage" not in gateway.sent


def test_gateways_are_told_of_each_others_counts_and_a_single_one_of_nothing(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    one, two = ModelGateway(FakeGateway()), ModelGateway(FakeGateway())
    one.url, two.url = "http://one", "http://two"
    one.model.windows = [("r:USRSalice", 3, 50.0)]
    with running(store, people, all_roles, one, two):
        wait_until(lambda: "r:USRSalice" in two.model.of_others, "the other is told")
        assert two.model.of_others["r:USRSalice"][0] == 3
    assert one.model.of_others == {}
    alone = ModelGateway(FakeGateway())
    with running(store, people, all_roles, alone):
        wait_until(lambda: alone.sent.count("state") > 1, "two rounds")
    assert "limits" not in alone.sent


def test_when_keys_were_used_is_asked_once_a_minute_and_kept(
    store: Sessions, gateway: ModelGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_key(store, "k")
    projection = _Projection(gateway, store, keys_of(store), policy_of(store))
    projection.refresh()
    gateway.model.uses = {key: NOW + 7}
    projection.refresh()
    assert "uses" not in gateway.sent
    later = time.time() + reconciler.USES_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    for _ in range(2):
        projection.refresh()
    assert gateway.sent.count("uses") == 1
    found = store.find(key)
    assert found is not None
    assert found.api_key is not None
    assert found.api_key.last_used_at == NOW + 7


def test_api_keys_outlive_their_owners_secret_and_end_with_the_owner(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    gateway = ModelGateway(FakeGateway())
    with running(store, people, all_roles, gateway) as credentials:
        log_in(store, credentials, "1", "USRSalice")
        alices, bobs = add_key(store, "alices"), add_key(store, "bobs", subject="USRSbob")
        wait_until(lambda: {alices, bobs} <= gateway.model.active(), "they are told")
        people.write_text(f"USRSalice={OTHER_HASH}\nUSRSbob={HASH}\n")
        wait_until(lambda: gateway.model.active() == {alices, bobs}, "the token is revoked")
        people.write_text(f"USRSalice={OTHER_HASH}\n")
        wait_until(lambda: gateway.model.active() == {alices}, "the user is gone, with the key")


def test_api_keys_end_for_good_where_the_role_has_none_any_more(
    store: Sessions, people: Path, all_roles: Roles
) -> None:
    admins = add_key(store, "admins", subject="ADMNroot")
    people.write_text(f"{people.read_text()}ADMNroot={HASH}\n")
    gateway = ModelGateway(FakeGateway())
    alices = add_key(store, "alices")
    with running(store, people, all_roles, gateway):
        wait_until(lambda: gateway.model.active() == {alices}, "admins have no keys as shipped")
        found = store.find(admins)
        assert found is not None
        assert found.revoked_at is not None
