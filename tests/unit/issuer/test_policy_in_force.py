"""The policy in force: from the files to the store, to the gateways, and into each process."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from issuer.audit import OPERATOR, Actor
from issuer.errors import Faults, StoreUnavailable
from issuer.keys.sealing import CREDENTIALS, Sealing
from issuer.policy import Terms
from issuer.store import StoredPolicy
from issuer.store.sessions import Sessions
from issuer.sync.gateways import Ack, PushedPolicy
from issuer.sync.policy_in_force import PolicyInForce
from tests.policies.llm_servers import PEM
from tests.support.fake_gateway import SYNC_KEY
from tests.support.policies import write_policy
from tests.support.stores import sessions_in

TERMS = Terms("", "portero", 86_400)


class Told:
    """Gateways that note what they are told, and what was in force at the issuer by then."""

    def __init__(self) -> None:
        self.policies: list[PushedPolicy] = []
        self.before: Callable[[], object] = lambda: None
        self.credentials = Sealing(SYNC_KEY.encode(), CREDENTIALS)
        self.answers: list[Ack] = []

    def put_policy(self, known: PushedPolicy) -> list[Ack]:
        self.before()
        self.policies.append(known)
        return self.answers


class House:
    """Processes of one deployment: one store, one file, the same gateways."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "policy.yaml"
        self.store = sessions_in(folder / "sessions.db")
        self.gateways = Told()

    def process(self, terms: Terms = TERMS, takes: bool = True) -> PolicyInForce:
        return PolicyInForce(self.path, terms, self.store, self.gateways, takes)  # type: ignore[arg-type]

    def write(self, ttl_seconds: Any) -> None:
        write_policy(
            self.path, lambda content: content["roles"]["agi"].update(ttl_seconds=ttl_seconds)
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    made.write(100)
    return made


def look(*processes: PolicyInForce) -> None:
    """As often as it takes until a change is taken."""
    for _ in range(2):
        for one in processes:
            one.look()


def ttl_of(one: PolicyInForce) -> int:
    role = one.roles().named("agi")
    assert role is not None
    return role.ttl_seconds


def test_the_files_policy_is_made_durable_before_it_counts(house: House) -> None:
    one = house.process()
    stored = house.store.policy()
    assert stored is not None
    assert (stored.serial, ttl_of(one)) == (1, 100)
    assert json.loads(stored.compiled) == one.in_force().compiled
    assert one.pushed() == PushedPolicy(house.store.epoch(), 1, one.in_force().compiled)


def test_a_change_is_durable_then_at_the_gateways_then_in_force(house: House) -> None:
    one = house.process()
    seen: list[tuple[int, int]] = []
    house.gateways.before = lambda: seen.append((house.store.policy_serial(), ttl_of_now(one)))
    house.write(200)
    look(one)
    assert seen == [(2, 100)]
    assert [told.serial for told in house.gateways.policies] == [2]
    assert ttl_of(one) == 200


def ttl_of_now(one: PolicyInForce) -> int:
    """What the process itself goes by, without a look at the store."""
    role = one._policy.roles.named("agi")
    assert role is not None
    return role.ttl_seconds


def test_a_change_counts_once_two_looks_have_seen_the_same(house: House) -> None:
    one = house.process()
    house.write(200)
    one.look()
    house.write(300)
    one.look()
    assert ttl_of(one) == 100
    one.look()
    assert ttl_of(one) == 300
    assert house.store.policy_serial() == 2


def test_another_process_takes_it_from_the_store_and_tells_the_gateways_first(
    house: House,
) -> None:
    one, other = house.process(), house.process()
    house.write(200)
    look(one)
    house.gateways.policies.clear()
    assert ttl_of(other) == 200
    assert [told.serial for told in house.gateways.policies] == [2]


def test_what_both_have_read_is_put_once(house: House) -> None:
    one, other = house.process(), house.process()
    house.write(200)
    look(one, other)
    assert house.store.policy_serial() == 2
    house.write(100)
    look(other, one)
    assert (house.store.policy_serial(), ttl_of(one), ttl_of(other)) == (3, 100, 100)


def test_a_faulty_file_changes_nothing_and_is_told_once_with_every_fault(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    one = house.process()
    write_policy(
        house.path,
        lambda content: content["roles"]["agi"].update(ttl_seconds=0, login="/nowhere"),
    )
    look(one, one, one)
    assert (ttl_of(one), house.store.policy_serial()) == (100, 1)
    for field in ("ttl_seconds", "login"):
        assert caplog.text.count(f"roles.agi.{field} must be") == 1
    assert caplog.text.count("the former version stays in force") == 2


def test_a_file_that_is_gone_changes_nothing(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    one = house.process()
    house.path.unlink()
    look(one)
    assert (ttl_of(one), house.store.policy_serial()) == (100, 1)
    assert caplog.text.count("the former version stays in force") == 1
    house.write(200)
    look(one)
    assert ttl_of(one) == 200


@pytest.mark.parametrize("text", ["roles: {", "", "- 1"])
def test_a_process_that_begins_with_a_faulty_file_takes_the_last_good_policy(
    house: House, text: str
) -> None:
    house.process()
    house.path.write_text(text)
    one = house.process()
    assert (ttl_of(one), house.store.policy_serial()) == (100, 1)
    house.write(200)
    look(one)
    assert ttl_of(one) == 200


def test_a_process_that_begins_with_a_faulty_file_puts_no_older_policy_over_a_newer_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = house.process()
    good, real = house.path.read_text(), Sessions.policy
    house.path.write_text("")

    def known_until_another_is_put(self: Sessions) -> StoredPolicy | None:
        monkeypatch.setattr(Sessions, "policy", real)
        known = self.policy()
        house.write(200)
        look(other)
        house.path.write_text("")
        return known

    monkeypatch.setattr(Sessions, "policy", known_until_another_is_put)
    one = house.process()
    assert (ttl_of(one), ttl_of(other), house.store.policy_serial()) == (200, 200, 2)
    house.path.write_text(good)
    look(one)
    assert ttl_of(one) == 100


def test_without_a_good_policy_at_all_there_is_no_start(house: House) -> None:
    house.path.write_text("roles: 1")
    with pytest.raises(Faults):
        house.process()
    assert house.store.policy() is None


def test_other_terms_make_another_policy_at_the_next_start(house: House) -> None:
    house.process()
    bounded = house.process(Terms("", "portero", 60))
    assert (ttl_of(bounded), house.store.policy_serial()) == (60, 2)
    house.path.write_text("")
    assert ttl_of(house.process(Terms("", "portero", 50))) == 50
    assert house.store.policy_serial() == 3


def test_a_command_takes_nothing_and_goes_by_what_is_in_force(house: House) -> None:
    house.process()
    house.write(200)
    command = house.process(takes=False)
    assert (ttl_of(command), house.store.policy_serial()) == (100, 1)


def test_a_command_before_the_first_start_goes_by_the_file(house: House) -> None:
    assert ttl_of(house.process(takes=False)) == 100
    assert house.store.policy() is None


def test_a_file_that_changes_again_while_it_is_put_is_not_put(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = house.process()
    real = Sessions.put_policy

    def put_after_a_change(self: Sessions, *words: Any, **more: Any) -> StoredPolicy | None:
        house.write(300)
        return real(house.store, *words, **more)

    house.write(200)
    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "put_policy", put_after_a_change)
        look(one)
    assert (ttl_of(one), house.store.policy_serial()) == (100, 1)
    look(one)
    assert ttl_of(one) == 300


def test_a_store_that_fails_is_asked_again_and_what_is_known_stays_in_force(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = house.process()

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("session store: full")

    house.write(200)
    with monkeypatch.context() as patch:
        patch.setattr(Sessions, "put_policy", fail)
        one.look()
        with pytest.raises(StoreUnavailable):
            one.look()
        patch.setattr(Sessions, "policy_serial", fail)
        assert ttl_of(one) == 100
    look(one)
    assert ttl_of(one) == 200


def test_many_threads_see_one_policy_after_the_other(house: House) -> None:
    one = house.process()
    seen: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(ttl_of(one))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for ttl_seconds in (200, 300):
        house.write(ttl_seconds)
        look(one)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert set(seen) <= {100, 200, 300}
    assert ttl_of(one) == 300


# Files that the policy names.

SERVERS = [
    {"name": "a", "url": "https://a", "kind": "vllm", "credential_file": "key", "ca_file": "ca.pem"}
]


@pytest.fixture
def with_files(house: House) -> House:
    folder = house.path.parent
    (folder / "key").write_text("sk-first\n")
    (folder / "key").chmod(0o600)
    (folder / "ca.pem").write_bytes(PEM)
    write_policy(house.path, lambda content: content.update(servers=SERVERS))
    return house


def credential_of(house: House) -> str:
    """What the last message to the gateways says, opened as they do."""
    sealed = house.gateways.policies[-1].compiled["servers"][0]["credential"]
    return house.gateways.credentials.unseal(sealed)


def test_a_changed_credential_is_a_changed_policy(with_files: House) -> None:
    one = with_files.process()
    one.push()
    assert credential_of(with_files) == "sk-first"
    (with_files.path.parent / "key").write_text("sk-second")
    look(one)
    assert credential_of(with_files) == "sk-second"
    assert with_files.store.policy_serial() == 2


def test_changed_certificates_are_a_changed_policy(with_files: House) -> None:
    one = with_files.process()
    (with_files.path.parent / "ca.pem").write_bytes(PEM + PEM)
    look(one)
    told = with_files.gateways.policies[-1].compiled["servers"][0]["ca"]
    assert told.count("BEGIN CERTIFICATE") == 2


def test_a_credential_file_that_is_gone_changes_nothing_and_is_told_with_its_line(
    with_files: House, caplog: pytest.LogCaptureFixture
) -> None:
    one = with_files.process()
    (with_files.path.parent / "key").unlink()
    look(one)
    assert with_files.store.policy_serial() == 1
    assert caplog.text.count("servers[1].credential_file names a file that cannot be read") == 1


def test_the_last_good_policy_has_its_credential_and_its_certificates_after_a_restart(
    with_files: House,
) -> None:
    with_files.process()
    (with_files.path.parent / "key").unlink()
    (with_files.path.parent / "ca.pem").unlink()
    with_files.process().push()
    assert credential_of(with_files) == "sk-first"
    assert with_files.process(takes=False).in_force().servers[0].credential == "sk-first"


def test_no_credential_lies_in_the_store_in_plain_text(with_files: House) -> None:
    with_files.process()
    for file in with_files.path.parent.glob("sessions.db*"):
        assert b"sk-first" not in file.read_bytes()


def test_processes_that_start_put_the_same_policy_once(with_files: House) -> None:
    for _ in range(3):
        with_files.process()
    assert with_files.store.policy_serial() == 1


def test_an_upstream_beside_servers_stops_the_start_even_with_a_good_policy_in_the_store(
    house: House,
) -> None:
    house.process()
    write_policy(house.path, lambda content: content.update(servers=SERVERS_ALONE))
    with pytest.raises(Faults, match="LLM_UPSTREAM: must not be set beside"):
        house.process(Terms("", "portero", 86_400, has_upstream=True))


# Servers that are taken out.

OPS = Actor(OPERATOR, "ops")


def out_at_gateways(house: House) -> list[str]:
    """The servers that the last message to the gateways gives no requests."""
    rows = house.gateways.policies[-1].compiled["servers"]
    return [row["name"] for row in rows if row.get("taken_out")]


@pytest.fixture
def two_servers(house: House) -> House:
    rows = [{"name": name, "url": f"http://{name}", "kind": "vllm"} for name in ("a", "b")]
    write_policy(house.path, lambda content: content.update(servers=rows))
    return house


def test_a_server_that_is_taken_out_is_durable_and_at_the_gateways_when_it_is_said(
    two_servers: House,
) -> None:
    one, other = two_servers.process(), two_servers.process()
    two_servers.gateways.answers = [Ack("http://here", True), Ack("http://away", False)]
    assert one.take_out("a", OPS) == ("http://away",)
    assert out_at_gateways(two_servers) == ["a"]
    assert two_servers.gateways.policies[-1].serial == 2
    assert {name: taken.by for name, taken in other.taken_out().items()} == {"a": "ops"}
    assert "taken_out" not in one.in_force().compiled["servers"][0]
    assert other.put_back("a", OPS) == ("http://away",)
    assert out_at_gateways(two_servers) == []
    assert one.taken_out() == {}


def test_a_server_stays_out_over_a_change_of_the_file_and_a_restart(two_servers: House) -> None:
    two_servers.process().take_out("b", OPS)
    rows = [{"name": "b", "url": "http://b", "kind": "vllm", "weight": 3}]
    write_policy(two_servers.path, lambda content: content.update(servers=rows))
    again = two_servers.process()
    again.push()
    assert out_at_gateways(two_servers) == ["b"]
    assert two_servers.gateways.policies[-1].compiled["servers"][0]["weight"] == 3
    assert "b" in again.taken_out()


def test_a_command_takes_a_server_out_that_all_follow(two_servers: House) -> None:
    one = two_servers.process()
    two_servers.process(takes=False).take_out("a", OPS)
    assert out_at_gateways(two_servers) == ["a"]
    assert list(one.taken_out()) == ["a"]


def test_what_cannot_be_taken_out_or_put_back_is_refused_and_changes_nothing(
    two_servers: House,
) -> None:
    one = two_servers.process()
    one.take_out("a", OPS)
    for move, name, why in (
        (one.take_out, "c", "names no LLM server"),
        (one.put_back, "c", "names no LLM server"),
        (one.take_out, "a", "is taken out already"),
        (one.put_back, "b", "is not taken out"),
    ):
        with pytest.raises(Faults, match=why):
            move(name, OPS)
    assert (two_servers.store.policy_serial(), list(one.taken_out())) == (2, ["a"])


SERVERS_ALONE = [{"name": "a", "url": "http://a", "kind": "vllm"}]
