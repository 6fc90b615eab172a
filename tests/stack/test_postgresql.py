"""The store in a real PostgreSQL: one issuer, several, and none that can reach it."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from run import processes
from tests.support.deployment import Caller, Local, answers, deployed
from tests.support.ports import free_ports
from tests.support.postgresql import Cluster, cluster
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

#: What a loaded machine may add.
LATE_SECONDS = 5
SEAL_KEY = "seal-key-of-the-tests-0123456789-abcdefgh"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def deployment(postgresql: Cluster, local_upstream: Upstream) -> Iterator[Local]:
    url = postgresql.database("portero")
    with deployed(local_upstream.url, DATABASE_URL=url, SEAL_KEY=SEAL_KEY) as running:
        yield running


def test_a_token_lives_and_dies_as_with_any_store(deployment: Local) -> None:
    caller = Caller(deployment)
    token = caller.token("AGNRTEST01")
    assert caller.call(token).status_code == 200
    assert caller.validate(token) == 200
    assert deployment.command("revoke", "--user", "AGNRTEST01").returncode == 0
    assert caller.call(token).status_code == 401
    assert caller.validate(token) == 401
    again = caller.token("AGNRTEST01")
    deployment.stop("gateway")
    deployment.start("gateway")
    wait_for(lambda: answers(f"{deployment.gateway}/readyz", 200), 20, "the gateway is filled")
    assert caller.call(again).status_code == 200
    assert caller.call(token).status_code == 401


def test_no_key_can_be_read_in_the_database(deployment: Local, postgresql: Cluster) -> None:
    Caller(deployment).token("AGNRTEST01")
    (sealed,) = postgresql.sql("SELECT content FROM documents", "portero").split()
    assert "history" not in sealed
    assert deployment.secret_key not in sealed
    assert not (deployment.data / "signing-keys.json").exists()
    wrong = {**deployment.env, "SEAL_KEY": SEAL_KEY[::-1]}
    told = keys_list(deployment, wrong)
    assert told.returncode == 1
    assert "another SEAL_KEY" in told.stderr
    without = {name: text for name, text in deployment.env.items() if name != "SEAL_KEY"}
    assert "SEAL_KEY: is not set" in keys_list(deployment, without).stderr


def keys_list(deployment: Local, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    deployment.env, before = env, deployment.env
    try:
        return deployment.command("signing-keys", "list", check=False)
    finally:
        deployment.env = before


def test_while_the_database_is_away_active_tokens_stay_and_nothing_acknowledged_is_lost(
    deployment: Local, postgresql: Cluster
) -> None:
    caller = Caller(deployment)
    kept, revoked = caller.token("AGIATEST01"), caller.token("AGNRTEST01")
    assert deployment.command("revoke", "--user", "AGNRTEST01").returncode == 0
    postgresql.stop("immediate")
    try:
        assert caller.call(kept).status_code == 200
        refused = caller.login("AGNRTEST01")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert caller.validate(kept) == 503
    finally:
        postgresql.start()
    wait_for(lambda: caller.login("AGNRTEST01").status_code == 200, 20, "logins are answered again")
    assert caller.validate(kept) == 200
    assert caller.validate(revoked) == 401
    assert caller.call(revoked).status_code == 401


@pytest.fixture
def second_issuer(deployment: Local, tmp_path: Path) -> Iterator[str]:
    """Another issuer and its reconciler on the same database; its address."""
    (port,) = free_ports(1)
    for name in ("run", "log"):
        (tmp_path / name).mkdir()
    env = {**deployment.env, "ISSUER_LISTEN": f"127.0.0.1:{port}"}
    children = [
        processes.start(deployment.service(name), tmp_path, env)
        for name in ("issuer", "reconciler")
    ]
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz", 200), 20, "it serves")
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.stop_all(children, tmp_path)


def test_what_one_issuer_grants_and_takes_all_know(deployment: Local, second_issuer: str) -> None:
    caller = Caller(deployment)
    login = requests.post(
        f"{second_issuer}/llm/login", auth=("AGNRTEST01", "agent-secret-1"), timeout=10
    )
    token = login.json()["token"]
    assert caller.call(token).status_code == 200
    assert caller.validate(token) == 200
    bearer = {"Authorization": f"Bearer {token}"}
    assert requests.post(f"{deployment.gateway}/logout", headers=bearer).status_code == 204
    checked = requests.post(f"{second_issuer}/validate", json={"token": token}, timeout=10)
    assert checked.status_code == 401


def test_one_reconciler_leads_and_another_takes_over_within_three_seconds(
    deployment: Local, second_issuer: str, tmp_path: Path
) -> None:
    log = tmp_path / "log" / "reconciler.log"
    wait_for(lambda: "this reconciler leads" in deployment.output("reconciler"), 10, "one leads")
    assert "this reconciler leads" not in log.read_text()
    deployment.stop("reconciler", how=signal.SIGKILL)
    wait_for(lambda: "this reconciler leads" in log.read_text(), 3 + LATE_SECONDS, "another does")
