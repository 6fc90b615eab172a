"""Who did what, of a running deployment: by the gateway's door, by a command, and in the log."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.stack.test_servers import LISTED_SECONDS, house
from tests.support.deployment import Caller, Local
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

ASKED = "/admin/api/audit?limit=1000"


def lines(deployment: Local) -> list[dict[str, Any]]:
    """What the issuer's log says in lines of JSON and nothing else."""
    return [
        json.loads(line) for line in deployment.output("issuer").splitlines() if line[:1] == "{"
    ]


def asked(caller: Caller, token: str, more: str) -> list[tuple[str, str, str, str]]:
    answer = caller.call(token, ASKED + more, method="GET")
    assert answer.status_code == 200, answer.text
    return [
        (row["actor"]["kind"], row["address"], row["event"], row["outcome"])
        for row in answer.json()["audit"]
    ]


def test_what_people_and_commands_did_is_told_by_the_api_the_command_and_the_log(
    local_deployment: Local,
) -> None:
    caller, user = Caller(local_deployment), "MNTRTEST01"
    admin = caller.token("ADMNTEST01")
    caller.token(user)
    assert caller.login(user, secret="wrong-secret-in-full").status_code == 401
    assert local_deployment.command("revoke", "--user", user).returncode == 0
    # The first refusal of a minute has a row within a second.
    wait_for(lambda: len(asked(caller, admin, f"&user={user}")) == 3, 5, "all rows are there")
    assert sorted(asked(caller, admin, f"&user={user}")) == [
        ("operator", "", "tokens.revoke", "ok"),
        ("user", "127.0.0.1", "login", "ok"),
        ("user", "127.0.0.1", "login", "wrong_credentials"),
    ]
    wait_for(
        lambda: any(row["event"] == "tokens.revoke" for row in lines(local_deployment)),
        5,
        "the log tells what a command did",
    )
    assert "wrong-secret-in-full" not in local_deployment.output("issuer")
    shown = local_deployment.command("audit", "--user", user)
    assert len(shown.stdout.splitlines()) == 3
    verified = local_deployment.command("audit", "verify")
    assert verified.returncode == 0, verified.stdout
    last = lines(local_deployment)[-1]
    assert f"the last is {last['sequence']}, {last['hash']}" in verified.stdout
    assert caller.call(caller.token(user), ASKED, method="GET").status_code == 403
    assert caller.login(user, secret="wrong-secret-in-full").status_code == 401
    local_deployment.stop("issuer")
    newest = json.loads(local_deployment.command("audit", "--json").stdout)["audit"][0]
    told = [row["sequence"] for row in lines(local_deployment)]
    assert newest["outcome"] == "wrong_credentials"
    assert told == list(range(told[0], newest["sequence"] + 1))


def of_servers(deployment: Local, event: str) -> set[tuple[str, str]]:
    """Which LLM servers there are rows of, and what came of them."""
    told = json.loads(deployment.command("audit", "--json", "--event", event).stdout)["audit"]
    return {(row["target"], row["outcome"]) for row in told if row["actor"]["kind"] == "portero"}


def test_an_llm_server_that_goes_down_is_told_and_the_policy_that_moved_it(tmp_path: Path) -> None:
    with house(tmp_path) as servers:
        told = partial(of_servers, servers.running)
        up = {("box", "ok"), ("rack", "ok"), ("attic", "ok")}
        wait_for(lambda: told("servers.up") == up, LISTED_SECONDS, "all were seen")
        away = f"http://127.0.0.1:{free_ports(1)[0]}"
        servers.write(lambda content: content["servers"][2].update(url=away))
        wait_for(lambda: told("servers.down") == {("attic", "down")}, 15, "it was seen")
        assert ("policy 2", "ok") in told("policy.take")
        assert servers.running.command("audit", "verify").returncode == 0
