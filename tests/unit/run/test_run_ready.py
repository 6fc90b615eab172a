"""What the user sees while the stack starts, runs and ends."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from run import processes, ready
from run.commands import RunError
from run.llm_servers import Answer
from run.plan import Plan, read_plan
from run.ready import Example, curl_lines, demo_login

LOGIN_ANSWER = '{"token":"aaa.bbb.ccc","token_type":"Bearer","expires_in":1795500000}'


def plan(**env: str) -> Plan:
    return read_plan({"DATA_DIR": "/data", **env}, Path("/here"))


def test_the_first_demo_login_is_the_one_shown(tmp_path: Path) -> None:
    (tmp_path / "demo-logins").write_text("# made once\nAGNR01=a=b:c\nAGNF01=x\n")
    assert demo_login(plan(DATA_DIR=str(tmp_path))) == "AGNR01:a=b:c"


def test_no_demo_login_is_shown_with_credentials_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "demo-logins").write_text("AGNR01=a\n")
    assert demo_login(plan(DATA_DIR=str(tmp_path), CREDENTIALS_FILE="users.env")) is None


def pasted(lines: list[str], tmp_path: Path) -> str:
    """What bash makes of the printed lines, with a curl that shows its arguments."""
    curl = tmp_path / "curl"
    curl.write_text(f"""#!/bin/sh
printf '%s\\n' "$@" >> {shlex.quote(str(tmp_path / "arguments"))}
echo '{LOGIN_ANSWER}'
""")
    curl.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", "\n".join(lines)], env=env, check=True, capture_output=True)
    return (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("secret", ["plain", "it's", 'a"b', "$HOME", "a b", "`id`", "\\"])
def test_the_printed_lines_work_as_pasted(secret: str, tmp_path: Path) -> None:
    lines = curl_lines("http://127.0.0.1:8080", f"AGNR01:{secret}", Example("tiny"))
    words = pasted(lines, tmp_path).splitlines()
    assert f"AGNR01:{secret}" in words
    assert "Authorization: Bearer aaa.bbb.ccc" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"]) == ("tiny", True)


def test_a_model_that_answers_no_chat_is_asked_for_what_it_can_do(tmp_path: Path) -> None:
    lines = curl_lines("http://127.0.0.1:8080", "AGNR01:x", Example("bge", chats=False))
    words = pasted(lines, tmp_path).splitlines()
    assert "http://127.0.0.1:8080/v1/embeddings" in words
    assert json.loads(words[-1])["model"] == "bge"


def test_an_end_is_told_in_the_words_of_the_system() -> None:
    assert processes.exit_words(3) == "exit status 3"
    assert processes.exit_words(-signal.SIGKILL) == "killed by SIGKILL"
    assert processes.exit_words(-250) == "killed by signal 250"


def test_an_end_in_a_container_reads_as_that_of_a_process() -> None:
    words = [processes.exit_words(code) for code in (0, 137, 143, 128, 255)]
    signals = ["killed by SIGKILL", "killed by SIGTERM"]
    assert words == ["exit status 0", *signals, "exit status 128", "exit status 255"]


def test_the_last_lines_are_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("earlier\nnow\n")
    assert processes.last_lines(log, len("earlier\n")) == ["now"]


def test_the_last_lines_stay_few(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("line\n" * 100_000)
    assert len(processes.last_lines(log, 0)) == processes.LAST_LINES


def test_an_answer_of_the_llm_is_an_answer() -> None:
    ready.check_answer(Answer(200, b'{"choices":[{"message":{"content":"Paris"}}]}'))


@pytest.mark.parametrize(
    ("status", "answer"),
    [(401, b"{}"), (200, b"not json"), (200, b'{"choices":[]}'), (200, b"[]"), (200, b"{}")],
)
def test_any_other_answer_ends_the_start(status: int, answer: bytes) -> None:
    with pytest.raises(RunError, match=f"status {status}"):
        ready.check_answer(Answer(status, answer))


def test_a_fault_that_passes_is_waited_for() -> None:
    faults = iter(["refused", "status 503", ""])
    ready.wait_while("no chat came through", lambda: next(faults), plan(), [], 10)


def test_a_fault_that_stays_is_told_when_time_is_over() -> None:
    told = r"^no chat came through after 0 s \(status 503\); logs are in /data/log$"
    with pytest.raises(RunError, match=told):
        ready.wait_while("no chat came through", lambda: "status 503", plan(), [], 0)


def test_a_refused_connection_is_a_fault_that_may_pass() -> None:
    def refused() -> str:
        raise ConnectionRefusedError("refused")

    assert ready.passing_fault(refused) == "refused"


def test_without_a_token_none_is_sent() -> None:
    assert ready.bearer(Answer(200, b"<html>")) == {}
    sent = ready.bearer(Answer(200, LOGIN_ANSWER.encode()))
    assert sent == {"Authorization": "Bearer aaa.bbb.ccc"}
