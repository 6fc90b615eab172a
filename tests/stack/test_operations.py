"""Everyday operations of docs/operations.md, by the commands it names, on a running deployment."""

import subprocess
from pathlib import Path

from run.commands import ROOT
from tests.stack.test_streams import open_stream
from tests.support.deployment import Caller, Local
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for


def gateway_script(
    deployment: Local, word: str, **changes: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", "openresty/gateway.sh", word],
        cwd=ROOT,
        env={**deployment.env, **changes},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_reload_keeps_active_tokens_and_drops_no_stream(
    local_deployment: Local, local_upstream: Upstream
) -> None:
    local_upstream.forget()
    local_upstream.events, local_upstream.gap = 40, 0.05
    caller = Caller(local_deployment)
    token = caller.token("AGIATEST01")
    workers = set(local_deployment.workers("gateway"))
    with open_stream(caller, token, "/v1/chat/completions") as connection:
        connection.recv(4096)
        reloaded = gateway_script(local_deployment, "reload")
        assert reloaded.returncode == 0, reloaded.stderr
        wait_for(
            lambda: len(set(local_deployment.workers("gateway")) - workers) >= 2, 10, "new workers"
        )
        assert caller.call(token).status_code == 200
        received = b""
        while b"[DONE]" not in received:
            block = connection.recv(65536)
            assert block, "the stream was dropped"
            received += block
    assert local_upstream.departures == []


def test_a_faulty_configuration_is_told_and_the_old_one_goes_on(
    local_deployment: Local, local_upstream: Upstream
) -> None:
    local_upstream.forget()
    caller = Caller(local_deployment)
    token = caller.token("AGIATEST01")
    workers = local_deployment.workers("gateway")
    for word in ("check", "reload"):
        refused = gateway_script(
            local_deployment, word, LLM_UPSTREAM="ftp://x", GATEWAY_WORKERS="0"
        )
        assert refused.returncode != 0
        assert "LLM_UPSTREAM" in refused.stderr
        assert "GATEWAY_WORKERS" in refused.stderr
    assert local_deployment.workers("gateway") == workers
    assert caller.call(token).status_code == 200
    assert gateway_script(local_deployment, "check").returncode == 0


def test_a_restored_backup_revokes_what_it_holds_on_the_running_gateway(
    local_deployment: Local, tmp_path: Path
) -> None:
    caller = Caller(local_deployment)
    before = caller.token("AGIATEST01")
    assert local_deployment.command("backup", str(tmp_path / "sessions.db")).returncode == 0
    newer = caller.token("AGIATEST01")
    restored = local_deployment.command("restore", str(tmp_path / "sessions.db"))
    assert "1 tokens that were active in the backup are revoked" in restored.stdout
    wait_for(lambda: caller.call(before).status_code == 401, 5, "the backup's token is dead")
    wait_for(lambda: caller.call(newer).status_code == 401, 5, "the newer one is gone")
    assert caller.call(caller.token("AGIATEST01")).status_code == 200


def test_a_user_who_is_added_can_log_in(local_deployment: Local, tmp_path: Path) -> None:
    made = subprocess.run(
        [
            ".venv/bin/python",
            "-m",
            "issuer.credentials",
            "--generate",
            "1",
            "--output",
            str(tmp_path / "more.env"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    name, _, secret = made.stdout.splitlines()[1].partition("=")
    credentials = local_deployment.credentials
    credentials.write_text(credentials.read_text() + (tmp_path / "more.env").read_text())
    caller = Caller(local_deployment)
    answer = caller.login(name, secret=secret, door="/llm/login")
    assert (name[:4], answer.status_code) == ("AGNR", 200)
