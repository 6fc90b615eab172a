"""The command `portero`, run in this process and, where it matters, in others."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_portero import (
    DONE,
    MODEL,
    NOT_READY,
    SECRET,
    USERNAME,
    FakePortero,
    Reply,
    chunk,
    refusal,
)

from portero.command import Session, main
from portero.kept_login import KeptLogin, KeptToken, Store, TokenFile

SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def gateway() -> Iterator[FakePortero]:
    """By the clock that the command goes by."""
    with FakePortero(time.monotonic) as running:
        yield running


@pytest.fixture
def configured(gateway: FakePortero, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment has all that a login needs."""
    monkeypatch.setenv("PORTERO_URL", gateway.url)
    monkeypatch.setenv("PORTERO_USERNAME", USERNAME)
    monkeypatch.setenv("PORTERO_SECRET", SECRET)
    return home


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What a person types, line by line."""
    return lambda *lines: monkeypatch.setattr(
        "sys.stdin", io.StringIO("".join(f"{x}\n" for x in lines))
    )


Shown = pytest.CaptureFixture[str]


def shown(capsys: Shown, *words: str, status: int = 0) -> str:
    """What a command prints on standard output, or on the other one where it fails."""
    capsys.readouterr()
    assert main(words) == status
    told = capsys.readouterr()
    return told.out if status == 0 else told.err


def files(home: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in home.iterdir()}


# login


def test_a_login_asks_for_what_is_missing_and_keeps_no_secret(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Callable[..., None]
) -> None:
    typed(gateway.url, USERNAME, SECRET)
    assert "the token lives 119 s" in shown(capsys, "login")
    assert shown(capsys, "token") == "canary-token-1\n"
    assert SECRET not in str(files(home))
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}
    assert home.stat().st_mode & 0o777 == 0o700


def test_at_a_terminal_the_secret_is_not_shown(
    configured: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PORTERO_SECRET")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: SECRET)
    assert "is logged in" in shown(capsys, "login")


def test_without_a_secret_the_token_is_printed_to_its_end_and_then_a_login_is_asked_for(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Callable[..., None]
) -> None:
    typed(SECRET)
    shown(capsys, "login", "--url", gateway.url, "--username", USERNAME)
    aged(home, gateway, 100)
    assert shown(capsys, "token") == "canary-token-1\n"
    aged(home, gateway, 20)
    assert "run `portero login`" in shown(capsys, "token", status=1)
    assert "run `portero login`" in shown(capsys, "token", "--renew", status=1)


def aged(home: Path, gateway: FakePortero, seconds: float) -> None:
    """Make what is kept older."""
    with Store(home).token(gateway.url, USERNAME) as file:
        kept = file.read()
        assert kept is not None
        file.write(
            replace(
                kept,
                begun=kept.begun - seconds,
                begun_at=kept.begun_at - seconds,
                checked_at=kept.checked_at - seconds,
            )
        )


def test_with_a_secrets_file_the_command_logs_in_again_by_itself(
    gateway: FakePortero, home: Path, capsys: Shown, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    words = ("--url", gateway.url, "--username", USERNAME, "--secret-file", str(secret))
    shown(capsys, "login", *words)
    aged(home, gateway, 100)
    assert shown(capsys, "token") == "canary-token-2\n"
    assert shown(capsys, "token", "--renew") == "canary-token-3\n"


def test_an_api_key_is_kept_once_it_was_found_good(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Callable[..., None]
) -> None:
    typed("canary-key")
    assert "not good" in shown(capsys, "login", "--api-key", "--url", gateway.url, status=1)
    gateway.live["canary-key"] = time.monotonic() + 60
    typed("canary-key")
    assert "canary" not in shown(capsys, "login", "--api-key", "--url", gateway.url)
    assert shown(capsys, "token") == "canary-key\n"
    assert shown(capsys, "models") == f"{MODEL}\n"
    assert "an API key is at hand" in shown(capsys, "doctor")


def test_a_login_at_an_endpoint_of_its_own_is_kept(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Callable[..., None], tmp_path: Path
) -> None:
    gateway.secrets["TOOL1"] = SECRET
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    words = ("--url", gateway.url, "--username", "TOOL1", "--secret-file", str(secret))
    shown(capsys, "login", "--login", "/llm/login", *words)
    assert shown(capsys, "token", "--renew") == "canary-token-2\n"
    assert gateway.asked[-1].path == "/llm/login"


# token


def test_a_token_is_shared_and_renewed_when_it_is_old(
    gateway: FakePortero, configured: Path, capsys: Shown
) -> None:
    assert shown(capsys, "token") == shown(capsys, "token") == "canary-token-1\n"
    aged(configured, gateway, 50)
    assert shown(capsys, "token") == "canary-token-1\n"
    aged(configured, gateway, 50)
    assert shown(capsys, "token") == "canary-token-2\n"


def test_a_token_that_was_revoked_meanwhile_is_not_printed(
    gateway: FakePortero, configured: Path, capsys: Shown
) -> None:
    shown(capsys, "token")
    gateway.revoke_all()
    aged(configured, gateway, 15)
    assert shown(capsys, "token") == "canary-token-2\n"


def test_a_token_whose_age_is_not_sure_is_fetched_anew(
    gateway: FakePortero, configured: Path, capsys: Shown
) -> None:
    shown(capsys, "token")
    with Store(configured).token(gateway.url, USERNAME) as file:
        kept = file.read()
        assert kept is not None
        file.write(replace(kept, begun_at=kept.begun_at - 60))
    assert shown(capsys, "token") == "canary-token-2\n"


ODD_TOKEN = {
    "token": 5,
    "role": [],
    "life_seconds": "9",
    "begun": {},
    "begun_at": 0,
    "checked_at": 0,
}
DAMAGED = ["", "no json", "[]", '{"another": "form"}', json.dumps(ODD_TOKEN), "[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_kept_file_that_is_damaged_counts_for_nothing(
    gateway: FakePortero, configured: Path, capsys: Shown, content: str
) -> None:
    shown(capsys, "token")
    (path,) = configured.glob("*.json")
    path.write_text(content)
    assert shown(capsys, "token") == "canary-token-2\n"


@pytest.mark.parametrize("content", [*DAMAGED, '{"url": 5}', '{"url": null, "username": []}'])
def test_a_kept_login_that_is_damaged_counts_for_nothing(
    home: Path, capsys: Shown, content: str
) -> None:
    home.mkdir()
    (home / "login.json").write_text(content)
    assert "url is missing" in shown(capsys, "token", status=2)


@pytest.mark.parametrize("words", [("token",), ("login",), ("models",), ("logout",)], ids=" ".join)
def test_a_state_folder_that_cannot_be_used_is_told(
    configured: Path, capsys: Shown, words: tuple[str, ...]
) -> None:
    configured.write_text("no folder")
    told = shown(capsys, *words, status=2)
    assert str(configured) in told
    assert "XDG_STATE_HOME" in told


def test_50_that_start_at_once_log_in_once(gateway: FakePortero, configured: Path) -> None:
    start = threading.Barrier(50)

    def run(_: int) -> str:
        start.wait(20)
        return Session(os.environ).live_token()[1]

    with ThreadPoolExecutor(50) as threads:
        assert set(threads.map(run, range(50))) == {"canary-token-1"}
    assert gateway.logins == 1


def test_processes_that_start_at_once_log_in_once_and_show_no_secret(
    gateway: FakePortero, configured: Path
) -> None:
    gateway.gate = threading.Event()
    command = [sys.executable, "-m", "portero", "token"]
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    while not gateway.asked:
        threading.Event().wait(0.01)
    lines = [Path(f"/proc/{one.pid}/cmdline") for one in started]
    assert "canary" not in "".join(path.read_text() for path in lines if path.exists())
    gateway.gate.set()
    assert {one.communicate(timeout=60)[0] for one in started} == {"canary-token-1\n"}
    assert gateway.logins == 1


# What is asked.


def test_models_and_whoami_are_told(configured: Path, capsys: Shown, gateway: FakePortero) -> None:
    assert shown(capsys, "models") == f"{MODEL}\n"
    assert json.loads(shown(capsys, "whoami"))["subject"] == USERNAME
    gateway.scripted["/account"] = [Reply(200, {"subject": "x"})]
    assert json.loads(shown(capsys, "whoami")) == {"subject": "x"}


def test_a_chat_is_printed_as_it_comes(
    configured: Path, capsys: Shown, gateway: FakePortero, typed: Callable[..., None]
) -> None:
    assert shown(capsys, "chat", MODEL, "say", "pong") == "pongpong\n"
    assert b'"say pong"' in gateway.asked[-1].body
    typed("from a pipe")
    assert shown(capsys, "chat", MODEL) == "pongpong\n"
    assert b'"from a pipe\\n"' in gateway.asked[-1].body


def test_a_chat_that_is_cut_says_so(configured: Path, capsys: Shown, gateway: FakePortero) -> None:
    gateway.scripted["/v1/chat/completions"] = [Reply(pieces=(chunk("po"),))]
    assert "connection_lost" in shown(capsys, "chat", MODEL, "hi", status=1)


def test_keys_are_made_listed_and_revoked(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    row = {"id": "abc", "name": "notebook"}
    gateway.scripted["/account/keys"] = [
        Reply(201, {**row, "key": "canary-key"}),
        Reply(200, {"keys": [row]}),
    ]
    gateway.scripted["/account/keys/abc"] = [Reply(204)]
    words = ("--days", "7", "--model", MODEL)
    assert shown(capsys, "keys", "create", "notebook", *words) == "canary-key\n"
    assert json.loads(gateway.asked[-1].body) == {"name": "notebook", "days": 7, "models": [MODEL]}
    assert json.loads(shown(capsys, "keys", "list")) == [row]
    assert shown(capsys, "keys", "revoke", "abc") == ""
    assert gateway.asked[-1].method == "DELETE"


def test_usage_is_told_or_said_to_be_missing(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    assert "not_found" in shown(capsys, "usage", status=1)
    gateway.scripted["/account/usage"] = [Reply(200, [{"requests": 3}])]
    assert json.loads(shown(capsys, "usage", "--from", "2026-11-01", "--by", "day")) == [
        {"requests": 3}
    ]
    assert gateway.asked[-1].path == "/account/usage?from=2026-11-01&by=day"


# logout


def test_a_logout_revokes_and_keeps_nothing(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    shown(capsys, "token")
    assert shown(capsys, "logout") == ""
    assert gateway.revoked == {"canary-token-1"}
    assert [path.suffix for path in configured.iterdir()] == [".lock"]
    assert shown(capsys, "logout") == ""


def test_a_logout_that_could_not_be_told_says_so(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    shown(capsys, "token")
    gateway.scripted["/logout"] = [NOT_READY]
    assert "ends by itself" in shown(capsys, "logout", status=3)


# doctor


def test_a_doctor_finds_nothing_to_do(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    told = shown(capsys, "doctor")
    assert [line[:3] for line in told.splitlines() if not line.startswith(" ")] == ["ok "] * 5
    assert MODEL in told


def jwt(issued_at: float) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"iat": issued_at}).encode()).decode()
    return f"a.{payload.rstrip('=')}.c"


def test_a_doctor_measures_clocks(
    configured: Path, capsys: Shown, gateway: FakePortero, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "date", "Wed, 25 Nov 2020 20:00:00 GMT")
    monkeypatch.setattr(gateway, "name_token", lambda number: jwt(time.time()))
    capsys.readouterr()
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "s ahead of the gateway" in told
    assert "NO  clocks: the issuer is" in told
    assert "NTP" in told


def test_a_doctor_makes_do_without_a_date(
    configured: Path, capsys: Shown, gateway: FakePortero
) -> None:
    gateway.date = "yesterday"
    assert "ok  clock" in shown(capsys, "doctor")


@pytest.mark.parametrize(
    ("path", "replies", "status", "words"),
    [
        ("/readyz", [NOT_READY], 3, "NO  ready: not yet"),
        ("/llm/login", [refusal(401, "invalid_api_key", "Wrong.")], 1, "NO  login: "),
        ("/v1/models", [refusal(403, "insufficient_permissions", "No.")], 1, "NO  models: No."),
        ("/v1/models", [Reply(200, {"data": []})], 1, "NO  models: none"),
    ],
)
def test_a_doctor_says_what_is_wrong_and_what_to_do(
    configured: Path,
    capsys: Shown,
    gateway: FakePortero,
    path: str,
    replies: list[Any],
    status: int,
    words: str,
) -> None:
    gateway.scripted[path] = replies
    assert main(["doctor"]) == status
    told = capsys.readouterr().out
    assert words in told
    assert "\n    " in told


def test_a_doctor_of_a_gateway_that_is_away_says_so(
    configured: Path, capsys: Shown, free_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTERO_URL", free_url)
    assert main(["doctor"]) == 3
    assert "PORTERO_URL" in capsys.readouterr().out


# Statuses and words.


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (refusal(404, "model_not_found", "No."), 1),
        (refusal(502, "upstream_unavailable", "Away."), 3),
        (refusal(504, "upstream_timeout", "Late."), 3),
    ],
)
def test_the_exit_status_tells_refused_from_unavailable(
    configured: Path, capsys: Shown, gateway: FakePortero, reply: Reply, status: int
) -> None:
    gateway.scripted["/v1/models"] = [reply]
    shown(capsys, "models", status=status)


def test_what_is_missing_is_usage(home: Path, capsys: Shown) -> None:
    assert "PORTERO_URL" in shown(capsys, "token", status=2)
    for words in ((), ("nothing",), ("chat",), ("tok",)):
        with pytest.raises(SystemExit) as raised:
            main(words)
        assert raised.value.code == 2


def test_no_word_of_the_command_takes_a_secret(capsys: Shown) -> None:
    for word in ("--secret", "--password", "--token"):
        with pytest.raises(SystemExit):
            main(["login", word, "canary"])


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError])
def test_a_person_who_breaks_off_sees_no_traceback(
    configured: Path, monkeypatch: pytest.MonkeyPatch, key: type[BaseException]
) -> None:
    def leave(*_: object) -> None:
        raise key

    monkeypatch.setattr("portero.command.Session.live_token", leave)
    assert main(["token"]) == 130


def test_a_pipe_that_closes_ends_the_command_in_silence(
    gateway: FakePortero, configured: Path
) -> None:
    gateway.scripted["/v1/chat/completions"] = [
        Reply(pieces=(*[chunk("pong" * 100)] * 999, chunk("", "stop"), DONE))
    ]
    command = f"{sys.executable} -m portero chat tiny hi | head -c 4; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        ["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "pong", "")


def test_the_environments_own_login_is_not_mixed_with_the_kept_one(
    gateway: FakePortero, home: Path
) -> None:
    kept = KeptLogin(gateway.url, "AGNFXYZ456", secret_file="/kept", ca_bundle="/ca")
    assert kept.environment({})["PORTERO_SECRET_FILE"] == "/kept"
    assert kept.environment({"LLM_BASE_URL": f"{gateway.url}/v1"})["PORTERO_SECRET_FILE"] == "/kept"
    theirs = kept.environment({"PORTERO_USERNAME": USERNAME, "LLM_BASE_URL": gateway.url})
    assert "PORTERO_SECRET_FILE" not in theirs
    assert "PORTERO_URL" not in theirs
    assert theirs["PORTERO_CA_BUNDLE"] == "/ca"
    elsewhere = {"PORTERO_USERNAME": USERNAME, "LLM_BASE_URL": "http://127.0.0.1"}
    assert kept.environment(elsewhere) == elsewhere


def test_nothing_that_is_kept_shows_itself() -> None:
    assert "canary" not in repr(KeptToken.new("canary", "agi", 60.0))
    assert TokenFile.__doc__
