"""Parts that are missing, late or restarted: what the client sees, and that it ends."""

import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import bcrypt
import requests

from tests.support.deployment import PARTS, Caller, Deployment, Local, answers, wait_ready
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within


def test_a_gateway_without_a_snapshot_says_503_and_is_filled_within_two_seconds(
    breakable: Deployment,
) -> None:
    for part in PARTS:
        breakable.stop(part, signal.SIGKILL)
    breakable.start("gateway")
    wait_for(lambda: answers(f"{breakable.gateway}/healthz", 200), 10, "the gateway is up")
    answer = requests.get(f"{breakable.gateway}/readyz", timeout=20)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    breakable.start("issuer")
    wait_for(lambda: answers(f"{breakable.issuer}/readyz", 200), 20, "the issuer is up")
    breakable.start("reconciler")
    started = time.monotonic()
    wait_ready(breakable)
    assert time.monotonic() - started < within(2.0 + 1.0)  # an interpreter starts meanwhile


def test_a_restarted_gateway_knows_the_active_and_the_revoked_again(breakable: Deployment) -> None:
    caller = Caller(breakable)
    kept, revoked = caller.token("AGIATEST01"), caller.token("AGIATEST01")
    assert caller.call(revoked, "/logout").status_code == 204
    breakable.stop("gateway")
    breakable.start("gateway")
    seen = set()

    def is_served() -> bool:
        try:
            status = caller.call(kept).status_code
        except requests.ConnectionError:
            return False
        seen.add(status)
        return status == 200

    wait_for(is_served, 10, "the kept token is served again")
    assert seen <= {200, 503}, "before the snapshot the answer is 503, never 401"
    assert caller.call(revoked).status_code == 401


def test_without_an_issuer_active_tokens_work_and_logins_are_503_at_once(
    breakable: Deployment,
) -> None:
    caller = Caller(breakable)
    token = caller.token("AGIATEST01")
    breakable.stop("issuer")
    breakable.stop("reconciler")
    for user in ("AGNRTEST01", "USRSTEST01"):
        started = time.monotonic()
        answer = caller.login(user)
        assert time.monotonic() - started < within(1.0)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
    assert caller.call(token).status_code == 200


def test_a_login_without_a_gateway_to_tell_is_503(breakable: Deployment) -> None:
    breakable.stop("gateway")
    url = f"{breakable.issuer}/llm/login"
    answer = requests.post(url, auth=("AGNRTEST01", "agent-secret-1"), timeout=10)
    assert answer.status_code == 503


def test_p8_a_user_whose_secret_changes_loses_the_live_tokens(breakable: Deployment) -> None:
    caller = Caller(breakable)
    token, other = caller.token("AGNRTEST01"), caller.token("AGNRTEST02")
    lines = breakable.credentials.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("AGNRTEST01=")]
    breakable.credentials.write_text("".join(kept))
    wait_for(lambda: caller.call(token).status_code == 401, 5, "the token is revoked")
    assert caller.login("AGNRTEST01").status_code == 401
    assert caller.call(other).status_code == 200


def test_a_broken_credentials_file_leaves_the_old_set_in_force(breakable: Deployment) -> None:
    caller = Caller(breakable)
    token = caller.token("AGNRTEST01")
    good = breakable.credentials.read_text()
    breakable.credentials.write_text("XXXXNOROLE=secret\n" + good + good)
    wait_for(lambda: "is no role's code" in breakable.output("reconciler"), 5, "the fault")
    assert caller.call(token).status_code == 200
    assert caller.login("AGNRTEST01").status_code == 200
    assert "is there twice" in breakable.output("reconciler")


def test_a_hash_in_quotes_is_read_and_a_spoiled_one_is_a_fault_while_all_runs_c1(
    breakable: Deployment,
) -> None:
    caller = Caller(breakable)
    name, secret = "AGNRTEST01", "agent-secret-1"
    good = breakable.credentials.read_text()
    (hashed,) = (line[11:] for line in good.splitlines() if line.startswith(f"{name}="))
    others = good.replace(f"{name}={hashed}\n", "").replace("AGNRTEST02=", "AGNRTEST03=")

    def read_again() -> bool:
        return caller.login("AGNRTEST03", "agent-secret-2").status_code == 200

    breakable.credentials.write_text(f"{others}{name}='{hashed}'\n")
    wait_for(read_again, 10, "the file is read again")
    assert caller.login(name, secret).status_code == 200
    escaped = hashed.replace("$", "\\$")
    breakable.credentials.write_text(f'{good}AGNRTEST04="{escaped}"\nAGNRTEST05=a\u200bb\n')
    wait_for(lambda: "ZERO WIDTH SPACE" in breakable.output("reconciler"), 5, "the faults")
    said = breakable.output("reconciler")
    assert "take the backslashes away; the former version stays in force" in said
    assert hashed[7:] not in said
    assert caller.login(name, secret).status_code == 200
    for text in (hashed, f"'{hashed}'", escaped, f'"{escaped}"'):
        assert caller.login(name, text).status_code == 401
        assert caller.login("AGNRTEST04", text).status_code == 401


def test_workers_that_begin_while_the_credentials_file_is_broken_know_the_former_users(
    local_deployment: Local,
) -> None:
    caller = Caller(local_deployment)
    good = local_deployment.credentials.read_text()
    local_deployment.credentials.write_text(good.replace("AGNRTEST01=", "AGNRTEST01"))
    wait_for(
        lambda: "credentials line" in local_deployment.output("issuer"), 5, "the fault is told"
    )
    told = local_deployment.output("issuer").count("stays in force")
    local_deployment.kill_workers("issuer")
    assert caller.login("AGNRTEST01").status_code == 200
    assert caller.login("USRSTEST01").status_code == 302
    wait_for(
        lambda: local_deployment.output("issuer").count("stays in force") > told,
        5,
        "the new worker tells the fault",
    )
    local_deployment.credentials.write_text("AGNRTEST02=another-secret\n")
    wait_for(lambda: caller.login("AGNRTEST01").status_code == 401, 5, "the repaired file counts")


def test_a_user_who_was_removed_does_not_come_back_with_a_broken_file(
    local_deployment: Local,
) -> None:
    caller = Caller(local_deployment)
    lines = local_deployment.credentials.read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith("AGNRTEST01="))
    local_deployment.credentials.write_text(kept)
    # Nobody logs in meanwhile: the workers look by themselves.
    wait_for(lambda: local_deployment.last_good("credentials") == kept, 5, "the file is taken")
    local_deployment.credentials.write_text("nonsense\n")
    local_deployment.kill_workers("issuer")
    assert caller.login("AGNRTEST01").status_code == 401
    assert caller.login("AGNRTEST02").status_code == 200


def checked(deployment: Local) -> tuple[int, int]:
    """How many secrets were remembered, and how many cost a bcrypt."""
    text = requests.get(f"{deployment.issuer}/metrics", timeout=20).text
    counts = dict(re.findall(r'portero_secrets_checked_total\{way="(\w+)"\} (\d+)', text))
    return int(counts.get("remembered", 0)), int(counts.get("bcrypt", 0))


def test_a_secret_that_was_right_once_is_hashed_no_more_whatever_becomes_of_the_worker(
    local_deployment: Local,
) -> None:
    caller = Caller(local_deployment)
    assert [caller.login("AGNRTEST01").status_code for _ in range(3)] == [200] * 3
    assert checked(local_deployment) == (2, 1)
    local_deployment.kill_workers("issuer")
    assert caller.login("AGNRTEST01").status_code == 200
    workers = local_deployment.workers("issuer")
    os.kill(local_deployment.pid("issuer"), signal.SIGHUP)
    local_deployment.wait_for_new_workers("issuer", workers)
    assert caller.login("AGNRTEST01").status_code == 200
    assert checked(local_deployment) == (4, 1)
    assert caller.login("AGNRTEST01", secret="wrong").status_code == 401
    text = local_deployment.credentials.read_text()
    other = bcrypt.hashpw(b"another secret", bcrypt.gensalt(10)).decode()
    own = next(line for line in text.splitlines() if line.startswith("AGNRTEST01="))
    local_deployment.credentials.write_text(text.replace(own, f"AGNRTEST01={other}"))
    assert caller.login("AGNRTEST01").status_code == 401
    assert caller.login("AGNRTEST01", secret="another secret").status_code == 200
    local_deployment.credentials.write_text(text.replace(own, "# nobody"))
    assert caller.login("AGNRTEST01", secret="another secret").status_code == 401
    assert checked(local_deployment) == (4, 5)


def test_the_issuer_leaves_no_copy_of_the_users_behind(local_deployment: Local) -> None:
    folder = Path(local_deployment.env["TMPDIR"])
    (kept,) = folder.glob("portero-last-good-*")
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    local_deployment.stop("issuer")
    assert not list(folder.glob("portero-*"))


def test_no_secret_and_no_token_is_in_a_log_or_a_process_list(
    breakable: Deployment, upstream: Upstream
) -> None:
    caller = Caller(breakable)
    tokens = [caller.token(user) for user in ("AGNRTEST01", "USRSTEST01", "ADMNTEST01")]
    for token in tokens:
        caller.call(token)
        caller.call(path=f"/v1/models?token={token}", method="GET")
        caller.call(token + "x")
        caller.call(token, "/nowhere")
    upstream.mood = "die"
    for token in tokens:
        caller.call(token)
        caller.call(token, "/logout")
    caller.login("AGNRTEST01", secret="a-wrong-secret-typed")
    requests.post(f"{breakable.internal}/sync/apply", data="{}", timeout=20)
    caller.call(path="/the-last-of-all", method="GET")
    wait_for(lambda: "/the-last-of-all" in breakable.output("gateway"), 5, "the log is written")
    signatures = [token.rpartition(".")[2] for token in tokens]
    words = [
        *tokens,
        *signatures,
        breakable.secret_key,
        breakable.sync_key,
        "agent-secret-1",
        "user-secret-1",
        "admin-secret-1",
        "a-wrong-secret-typed",
    ]
    for part in ("gateway", "issuer", "reconciler"):
        text = breakable.output(part)
        lines = breakable.command_lines(part)
        assert lines
        for word in words:
            assert word not in text, part
            assert not any(word in line for line in lines), part


def test_a_session_is_in_the_store_for_every_process_once_the_login_answered(
    local_deployment: Local,
) -> None:
    caller = Caller(local_deployment)
    path = str(local_deployment.data / "sessions.db")
    for _ in range(5):
        caller.token("AGNRTEST01")
        local_deployment.command("check")  # opens and closes the store, as a neighbour would
    with closing(sqlite3.connect(path)) as store:
        assert store.execute("SELECT count(*) FROM sessions").fetchone() == (5,)
    for pid in local_deployment.workers("issuer"):
        held = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [name for name in held if path in name and "deleted" in name]
