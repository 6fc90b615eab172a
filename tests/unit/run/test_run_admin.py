"""`make admin`: which stack it reaches, with which settings, and by which words. The engine is a
script that writes down how it was called.
"""

import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from run import admin
from run.commands import ROOT, RunError
from run.containers import Project
from run.data_dir import locked, supervisor_of
from run.plan import read_plan
from run.ready import admin_line, demo_login

BARE = {"PATH": os.environ["PATH"]}
SUPERVISOR = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(handle, fcntl.LOCK_EX)
os.write(handle, b"%d\\n" % os.getpid())
print("locked", flush=True)
sys.stdin.read()
"""
DOCKER = """#!/bin/sh
case "$*" in
  *version*) echo 2.26.1; exit 0 ;;
  *" ps "*) echo "issuer abc"; exit 0 ;;
  ps*) echo "issuer abc"; exit 0 ;;
  *" cat "*) cat "$FOLDER/copy"; exit 0 ;;
esac
printf '%s\\n' "$@" > "$FOLDER/called"
env > "$FOLDER/environment"
exit 2
"""


@contextmanager
def supervised(data: Path, env: Mapping[str, str]) -> Iterator[int]:
    """A process that has the lock of a DATA_DIR, as a running stack's has."""
    (data / "run").mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(data / "run" / "lock")],
        env={**BARE, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def make_admin(data: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """`python -m run admin` in a shell that has no settings."""
    return subprocess.run(
        [sys.executable, "-m", "run", "admin", *words],
        cwd=ROOT,
        env={**BARE, "DATA_DIR": str(data), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_where_no_stack_runs_one_line_says_so_and_nothing_is_made(tmp_path: Path) -> None:
    for data in (tmp_path / "none", tmp_path):
        done = make_admin(data, "revoke", "--all")
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"portero: no stack runs on {data}: start it")
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_free_is_no_stack_though_a_process_id_was_left(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text(f"{os.getpid()}\n")
    assert supervisor_of(tmp_path) is None
    with (tmp_path / "run" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert supervisor_of(tmp_path) == str(os.getpid())


def test_local_processes_are_reached_with_the_issuers_own_settings_and_status(
    tmp_path: Path,
) -> None:
    """The words may have any character, and settings of the caller's count for nothing."""
    users = tmp_path / "users file.env"
    users.write_text("USRSa=one\n")
    with supervised(tmp_path, {"CREDENTIALS_FILE": str(users)}) as pid:
        (tmp_path / "run" / "issuer.pid").write_text(f"{pid}\n")
        done = make_admin(tmp_path, "users", "list", CREDENTIALS_FILE="/another")
        assert (done.stdout, done.returncode) == ("USRSa  user  plain text\n", 0)
        question = ["explain", "ADMNa", "POST", "/v1/chat/completions", "--model"]
        asked = make_admin(tmp_path, ARGS=shlex.join([*question, "it's $HOME; `id` *"]))
        assert (asked.stdout.splitlines()[0], asked.returncode) == ("200 allowed", 0)
        refused = make_admin(tmp_path, "explain", "AGNRa", "POST", "/api/pull")
        assert (refused.stdout.splitlines()[0], refused.returncode) == (
            "403 insufficient_permissions",
            1,
        )


@pytest.mark.parametrize("words", ["--model a$HOME", "--model 'a b'", '--model "a;b"'])
def test_make_hands_the_words_over_as_they_are(tmp_path: Path, words: str) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s" "$ARGS" > "$0.args"\n')
    (tmp_path / "python").chmod(0o755)
    subprocess.run(
        ["make", "admin", f"ARGS={words}", f"PYTHON={tmp_path / 'python'}"], cwd=ROOT, check=True
    )
    assert (tmp_path / "python.args").read_text() == words


def test_without_words_it_tells_which_there_are() -> None:
    assert admin.split("  ") == ["--help"]
    with pytest.raises(RunError, match="ARGS cannot be read"):
        admin.split("it's")


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, str]:
    """The settings of a stack in containers whose engine is a script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "compose.json").write_text(json.dumps({"services": {}}))
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "FOLDER": str(tmp_path),
        "SECRET_KEY": "of the stack alone",
        "DOCKER_HOST": "unix:///its/engine",
    }


def test_containers_are_reached_through_compose_at_the_engine_of_the_stack(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    with supervised(tmp_path, engine):
        done = make_admin(tmp_path, "revoke", "--user", "USRSa b")
    assert (done.returncode, done.stderr) == (2, "")
    called = (tmp_path / "called").read_text().splitlines()
    exec_words = ["exec", "-T", "issuer", "portero-admin", "revoke", "--user", "USRSa b"]
    assert called[called.index("exec") :] == exec_words
    assert called[called.index("-p") + 1].startswith("portero-")
    environment = (tmp_path / "environment").read_text()
    assert "DOCKER_HOST=unix:///its/engine" in environment
    assert "of the stack alone" not in environment


def test_users_that_came_from_a_file_of_this_machine_are_kept_in_it(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    users, copy = tmp_path / "users.env", b"USRSa=one\r\nUSRSb=two\r\n"
    users.write_text("USRSa=one\n")
    users.chmod(0o640)
    (tmp_path / "copy").write_bytes(copy)
    Project(tmp_path, {}).note_handed({"CREDENTIALS_FILE": users.read_text()})
    with supervised(tmp_path, {**engine, "CREDENTIALS_FILE": str(users)}):
        assert make_admin(tmp_path, "users", "add", "USRSb").returncode == 2
    assert (users.read_bytes(), users.stat().st_mode & 0o777) == (copy, 0o640)


#: One that keeps the users: `init --given` puts those that it is handed in their place, and
#: `portero-admin users` adds one.
KEEPING = r"""#!/bin/sh
case "$*" in
  *version*) echo 2.26.1 ;;
  *" ps "*|ps*) echo "issuer abc" ;;
  *" cat "*) cat "$FOLDER/copy" ;;
  *--given*) sed 's/.*"CREDENTIALS_FILE": "\([^"]*\)".*/\1/; s/\\n/\n/g' > "$FOLDER/copy" ;;
  *) echo "USRSnew=x" >> "$FOLDER/copy" ;;
esac
"""


def test_what_was_changed_by_hand_and_is_not_in_force_yet_is_what_is_edited(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    (tmp_path / "bin" / "docker").write_text(KEEPING)
    users = tmp_path / "users.env"
    (tmp_path / "copy").write_text("USRSa=one\n")
    users.write_text("USRSa=one\nUSRSb=two\n")
    with supervised(tmp_path, {**engine, "CREDENTIALS_FILE": str(users)}):
        assert make_admin(tmp_path, "users", "add", "USRSnew").returncode == 0
        assert users.read_text() == "USRSa=one\nUSRSb=two\nUSRSnew=x\n"
        (tmp_path / "copy").write_text("USRSof=console\n")
        assert make_admin(tmp_path, "users", "add", "USRSnew").returncode == 0
    assert users.read_text() == "USRSof=console\nUSRSnew=x\n"


def test_an_edit_waits_for_a_hand_over_that_has_begun(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    (tmp_path / "bin" / "docker").write_text(KEEPING)
    users = tmp_path / "users.env"
    users.write_text("USRSa=one\n")
    project = Project(tmp_path, {})
    project.note_handed({"CREDENTIALS_FILE": users.read_text()})
    words = [sys.executable, "-m", "run", "admin", "users", "add", "USRSnew"]
    with supervised(tmp_path, {**engine, "CREDENTIALS_FILE": str(users)}):
        with locked(project.handed.parent, "nobody else"):
            env = {**BARE, "DATA_DIR": str(tmp_path)}
            process = subprocess.Popen(
                words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
            assert process.stdout
            assert b"waiting" in process.stdout.readline()
            (tmp_path / "copy").write_text("USRSa=one\n")
        assert process.wait(60) == 0
        process.stdout.close()
    assert users.read_text() == "USRSa=one\nUSRSnew=x\n"


def test_users_of_the_volume_alone_are_written_nowhere_else(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    with supervised(tmp_path, engine):
        assert make_admin(tmp_path, "users", "list").returncode == 2
    assert not (tmp_path / "credentials.env").exists()


def test_where_no_process_can_be_asked_the_shell_says_where_the_engine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "PROCESSES", tmp_path / "none")
    monkeypatch.setenv("DOCKER_HOST", "unix:///this/engine")
    assert admin.environment_of_supervisor("1")["DOCKER_HOST"] == "unix:///this/engine"


@pytest.mark.parametrize(
    ("data_dir", "line"),
    [
        (str(ROOT / "var"), 'make admin ARGS="sessions"'),
        ("/data of mine", "make admin DATA_DIR='/data of mine' ARGS=\"sessions\""),
    ],
)
def test_the_line_to_paste_names_the_data_dir_where_it_is_another(data_dir: str, line: str) -> None:
    env = {"DATA_DIR": data_dir, "CREDENTIALS_FILE": "users.env"}
    assert admin_line(read_plan(env, ROOT), None) == line


def test_the_line_to_paste_revokes_the_user_of_the_lines_above(tmp_path: Path) -> None:
    (tmp_path / "demo-logins").write_text("AGNR01=a\n")
    plan = read_plan({"DATA_DIR": str(tmp_path)}, ROOT)
    line = admin_line(plan, demo_login(plan))
    assert line == f'make admin DATA_DIR={tmp_path} ARGS="revoke --user AGNR01"'
