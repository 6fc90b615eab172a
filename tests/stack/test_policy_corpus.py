"""Every file of the corpus, as `check` judges it and as a running deployment takes it: the issuer's
part that takes policies, its store, and a real gateway that is sent them.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from issuer import config
from issuer.errors import Faults
from issuer.policy import Terms
from issuer.store.sessions import Sessions
from issuer.sync.gateways import Gateways
from issuer.sync.policy_in_force import PolicyInForce
from tests.policies import BASE, Case, every_case, write
from tests.support.deployment import Local
from tests.support.stores import sessions_in
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

#: One user the more, so that it is another policy than any of the corpus.
BETWEEN = BASE.encode() + b"users: {AGIAbetween: {requests_per_minute: 7}}\n"


@dataclass
class Running:
    """A deployment, and the folder whose policy it follows."""

    folder: Path
    store: Sessions
    gateways: Gateways
    policy: PolicyInForce

    def put(self, case: Case) -> Path:
        """The files of a case, and no others; looked at until they are judged."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        path = write(case, self.folder)
        for _ in range(2):
            self.policy.look()
        return path

    def mark(self) -> str:
        """The policy that the gateway names."""
        return str(self.gateways.each[0].state().status["policy"])

    def serial(self) -> str:
        return f"{self.store.epoch()}:{self.store.policy_serial()}"


@pytest.fixture(scope="module")
def running(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("corpus") / "policy"
    folder.mkdir()
    path = write(Case("between", BETWEEN), folder)
    deployment = Local(local_upstream.url, {})
    try:
        deployment.start("gateway")
        store = sessions_in(folder.with_name("sessions.db"))
        gateways = Gateways([deployment.internal], deployment.sync_key.encode())
        wait_for(lambda: gateways.each[0].state().ok, 20, "the gateway listens")
        policy = PolicyInForce(path, Terms(), store, gateways)
        policy.push()
        yield Running(folder, store, gateways, policy)
    finally:
        deployment.close()


def is_good(path: Path) -> bool:
    """What `check` says."""
    try:
        config.read_policy({"POLICY_FILE": str(path)})
    except Faults:
        return False
    return True


def wrong(running: Running, case: Case) -> str:
    """What is not as it should be; empty where `check`, issuer, store and gateway agree."""
    before = running.serial()
    path = running.put(case)
    taken, good = running.serial() != before, is_good(path)
    if (taken, good) != (case.faults == (), case.faults == ()):
        return f"{case.name}: check says {good}, and it is taken: {taken}"
    if running.mark() != running.serial():
        return f"{case.name}: not at the gateway"
    if taken:
        running.put(Case("between", BETWEEN))
    return ""


def test_check_and_a_running_deployment_agree_on_every_file_of_the_corpus(
    running: Running,
) -> None:
    corpus = list(every_case())
    assert len(corpus) > 200
    assert running.mark() == running.serial()
    assert [found for case in corpus if (found := wrong(running, case))] == []
