"""Roles that change while the issuer runs: taken without a restart, or refused whole."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from issuer.config import POLICY_FILE
from tests.support.deployment import USERS, Local, answers, deployed, wait_ready
from tests.support.stores import sessions_in
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

TAKEN = "policy 2 is in force"
REFUSED = "the former version stays in force"


FAULTY = (
    POLICY_FILE.read_text()
    .replace("code: AGNR", "code: agnr")
    .replace("login: /agi/login", "login: /agi")
)
FAULTS = ("roles.agent_reasoning.code must be", "roles.agi.login must be")


def with_lifetime(ttl_seconds: str) -> str:
    """The shipped file, with a lifetime of its own for the agents that log in here."""
    before, after = "ttl_seconds: 120\n", f"ttl_seconds: {ttl_seconds}\n"
    return POLICY_FILE.read_text().replace(before, after)


@dataclass
class House:
    """A deployment with a roles file of its own."""

    deployment: Local
    roles: Path

    def change(self, ttl_seconds: str) -> None:
        """The lifetime becomes this text, which may be a faulty one."""
        self.roles.write_text(with_lifetime(ttl_seconds))

    def log_in(self) -> requests.Response:
        """As the agent does, at the issuer itself."""
        secret, door = USERS["AGNRTEST01"]
        url = self.deployment.issuer + door
        return requests.post(url, auth=("AGNRTEST01", secret), timeout=10)

    def lifetimes(self) -> set[int]:
        """What some logins get; two workers answer by turns."""
        return {int(self.log_in().json()["ttl_seconds"]) for _ in range(6)}

    def told(self, text: str, part: str = "issuer") -> int:
        """How often a part has said something."""
        return self.deployment.output(part).count(text)


@pytest.fixture
def house(local_upstream: Upstream, tmp_path: Path) -> Iterator[House]:
    path = tmp_path / "policy.yaml"
    path.write_text(with_lifetime("100"))
    with deployed(local_upstream.url, POLICY_FILE=str(path)) as running:
        yield House(running, path)


def test_changed_roles_count_within_a_second_without_a_restart(house: House) -> None:
    assert house.lifetimes() == {100}
    workers = house.deployment.workers("issuer")
    house.change("50")
    store = sessions_in(house.deployment.data / "sessions.db")
    wait_for(lambda: store.policy_serial() == 2, 3, "they are taken, though nobody asked")
    assert house.lifetimes() == {50}
    wait_for(lambda: house.told(TAKEN, "reconciler") == 1, 3, "the reconciler has them")
    assert house.deployment.workers("issuer") == workers


def test_faulty_roles_leave_the_old_ones_in_force_whoever_begins_meanwhile(house: House) -> None:
    house.change("0")
    wait_for(lambda: house.told(REFUSED) == 1, 2, "the worker tells the fault")
    wait_for(lambda: house.told(REFUSED, "reconciler") == 1, 4, "so does the reconciler")
    assert "roles.agent_reasoning.ttl_seconds must be" in house.deployment.output("issuer")
    assert house.lifetimes() == {100}
    house.deployment.kill_workers("issuer")
    assert house.lifetimes() == {100}


def test_a_hangup_begins_new_workers_with_the_new_roles_and_the_last_good_ones(
    house: House,
) -> None:
    for text, expected in (("70", 70), ('"no number"', 70), ("80", 80)):
        house.change(text)
        workers = house.deployment.workers("issuer")
        os.kill(house.deployment.pid("issuer"), signal.SIGHUP)
        house.deployment.wait_for_new_workers("issuer", workers)
        assert house.lifetimes() == {expected}
    folder = Path(house.deployment.env["TMPDIR"])
    assert len(list(folder.glob("portero-*"))) == 2, "no directory is made anew"


def test_a_user_of_a_role_that_is_gone_has_no_valid_token(house: House) -> None:
    token = house.log_in().json()["token"]
    url = f"{house.deployment.issuer}/validate"

    def verdict() -> int:
        return requests.post(url, json={"token": token}, timeout=10).status_code

    assert verdict() == 200
    text = house.roles.read_text()
    house.roles.write_text(text.replace("AGNR", "AGNX"))
    wait_for(lambda: verdict() == 401, 3, "the policy is taken")
    assert {verdict() for _ in range(4)} == {401}
    assert {house.log_in().status_code for _ in range(4)} == {401}
    house.deployment.kill_workers("issuer")  # the credentials name users of no role now
    assert {house.log_in().status_code for _ in range(4)} == {401}


def test_a_start_with_faulty_roles_tells_every_fault_and_goes_on_with_the_last_good_ones(
    house: House,
) -> None:
    house.roles.write_text(FAULTY)
    house.deployment.stop("issuer")
    house.deployment.start("issuer")
    wait_ready(house.deployment)
    assert house.lifetimes() == {100}
    for fault in FAULTS:
        assert fault in house.deployment.output("issuer")


def test_a_first_start_with_faulty_roles_is_refused_with_every_fault(
    local_upstream: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(FAULTY)
    deployment = Local(local_upstream.url, {"POLICY_FILE": str(path)})
    try:
        deployment.start("issuer")
        wait_for(
            lambda: all(fault in deployment.output("issuer") for fault in FAULTS), 10, "the faults"
        )
        wait_for(lambda: not answers(f"{deployment.issuer}/healthz", 200), 10, "no start")
    finally:
        deployment.close()
