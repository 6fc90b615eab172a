"""`make run` before and around the processes: what it asks, refuses, hands on and prints.

Nothing is started, no port is opened to the outside, nothing is installed.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from run import __main__ as command_line
from run import local, machine

LOGIN_ANSWER = '{"token":"aaa.bbb.ccc","token_type":"Bearer","expires_in":1795500000}'


def plan(**env: str) -> local.Plan:
    return local.read_plan({"DATA_DIR": "/data", **env}, Path("/here"))


def settings(**env: str) -> dict[str, str]:
    return local.settings(plan(**env), env, 11435, "/tmp/portero-x")


# --- what is asked for ---


def test_ports_and_data_dir_have_the_contracts_defaults() -> None:
    asked = local.read_plan({}, Path("/here"))
    assert asked.ports == {"GATEWAY_PORT": 8080, "INTERNAL_PORT": 8081, "ISSUER_PORT": 9000}
    assert asked.data_dir == Path("/here/var")


def test_a_relative_data_dir_counts_from_where_make_ran() -> None:
    assert local.read_plan({"DATA_DIR": "a/b"}, Path("/here")).data_dir == Path("/here/a/b")


@pytest.mark.parametrize("text", ["", "80x", "0", "65536", "-1", "8080 ", "²", "1" * 5000])
def test_what_is_no_port_number_is_named_with_its_setting(text: str) -> None:
    with pytest.raises(machine.RunError, match="GATEWAY_PORT is"):
        local.read_plan({"GATEWAY_PORT": text}, Path("/here"))


def test_every_wrong_port_is_told_at_once() -> None:
    with pytest.raises(machine.RunError) as caught:
        local.read_plan({"GATEWAY_PORT": "x", "ISSUER_PORT": "y"}, Path("/here"))
    assert len(caught.value.lines) == 2


def test_two_settings_may_not_name_one_port() -> None:
    with pytest.raises(machine.RunError, match="must differ"):
        local.read_plan({"GATEWAY_PORT": "9000"}, Path("/here"))


def test_an_empty_setting_is_as_good_as_none() -> None:
    assert "LLM_UPSTREAM" not in local.clean_environment({"LLM_UPSTREAM": ""})


def test_the_parts_see_absolute_paths_and_nothing_of_make() -> None:
    env = local.clean_environment({"CREDENTIALS_FILE": "users.env", "MAKEFLAGS": "w"})
    assert env["CREDENTIALS_FILE"] == str(Path.cwd() / "users.env")
    assert "MAKEFLAGS" not in env


def test_an_unknown_runtime_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.stack("docker") == 1
    assert "RUNTIME is 'docker'" in capsys.readouterr().err


def test_the_version_check_stays_readable_for_old_pythons() -> None:
    source = Path(command_line.__file__).read_text()
    compile(source, "run/__main__.py", "exec", dont_inherit=True)
    assert "from run" not in source
    assert "from __future__" not in source


# --- what is handed on ---


def test_secrets_are_handed_on_as_files() -> None:
    handed = settings()
    assert handed["SECRET_KEY_FILE"] == "/data/secrets/secret_key"
    assert handed["SYNC_KEY_FILE"] == "/data/secrets/sync_key"
    assert "SECRET_KEY" not in handed


@pytest.mark.parametrize("given", ["SECRET_KEY", "SECRET_KEY_FILE"])
def test_a_secret_of_the_users_is_the_only_one_handed_on(given: str) -> None:
    handed = settings(**{given: "theirs"})
    assert {name: value for name, value in handed.items() if name.startswith("SECRET_KEY")} == {
        given: "theirs"
    }


@pytest.mark.parametrize(
    "setting", ["CREDENTIALS_FILE", "DATABASE_URL", "GATEWAY_URLS", "LLM_UPSTREAM", "COOKIE_SECURE"]
)
def test_a_setting_of_the_users_wins(setting: str) -> None:
    assert settings(**{setting: "theirs"})[setting] == "theirs"


def test_a_setting_given_by_file_is_not_given_by_value_too() -> None:
    assert "DATABASE_URL" not in settings(DATABASE_URL_FILE="/run/secrets/url")


def test_the_parts_are_wired_to_each_other_on_the_chosen_ports() -> None:
    handed = settings(GATEWAY_PORT="1001", INTERNAL_PORT="1002", ISSUER_PORT="1003")
    assert handed["GATEWAY_LISTEN"] == "127.0.0.1:1001"
    assert handed["GATEWAY_URLS"] == "http://127.0.0.1:1002"
    assert handed["ISSUER_URL"] == f"http://{handed['ISSUER_LISTEN']}"
    assert handed["LLM_UPSTREAM"] == f"http://{handed['LLM_LISTEN']}"
    assert handed["DATABASE_URL"] == "sqlite:////data/sessions.db"


def test_no_command_line_carries_a_secret() -> None:
    words = [word for service in local.services(plan()) for word in service.command]
    assert not [word for word in words if "secret" in word.lower() or "=" in word]


def test_the_bundled_llm_is_left_out_when_there_is_another() -> None:
    own = plan(LLM_UPSTREAM="http://127.0.0.1:11434")
    assert "llm" in {service.name for service in local.services(plan())}
    assert "llm" not in {service.name for service in local.services(own)}


# --- DATA_DIR ---


def test_a_second_stack_on_one_data_dir_is_told_who_has_it(tmp_path: Path) -> None:
    second = local.data_dir_in_use(tmp_path)
    with local.data_dir_in_use(tmp_path), pytest.raises(machine.RunError, match=str(os.getpid())):
        second.__enter__()


def test_data_dir_can_be_had_again_after_a_fault(tmp_path: Path) -> None:
    with pytest.raises(machine.RunError), local.data_dir_in_use(tmp_path):
        raise machine.RunError("over")
    with local.data_dir_in_use(tmp_path):
        assert (tmp_path / "run" / "lock").read_text() == f"{os.getpid()}\n"


def test_pid_files_of_a_killed_supervisor_go(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "llm.pid").write_text("1\n")
    with local.data_dir_in_use(tmp_path):
        assert not (tmp_path / "run" / "llm.pid").exists()


def test_the_runtime_directory_of_a_killed_supervisor_goes(tmp_path: Path) -> None:
    data_dir, left = tmp_path / "data", tmp_path / "portero-left"
    (left / "tmp").mkdir(parents=True)
    (data_dir / "run").mkdir(parents=True)
    local.runtime_link(data_dir).symlink_to(left)
    with local.data_dir_in_use(data_dir):
        assert not left.exists()


def test_the_runtime_directory_lets_the_workers_in_and_goes_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with local.runtime_directory(tmp_path) as path:
        assert Path(path).stat().st_mode & 0o777 == 0o711
    assert not Path(path).exists()
    assert not local.runtime_link(tmp_path).is_symlink()


def test_a_new_data_dir_is_closed_to_others(tmp_path: Path) -> None:
    with local.data_dir_in_use(tmp_path / "new"):
        assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_data_dir_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(machine.RunError, match="cannot be written"):
        local.open_lock(tmp_path / "file" / "data")


# --- what the user sees ---


def test_the_first_demo_login_is_the_one_shown(tmp_path: Path) -> None:
    (tmp_path / "demo-logins").write_text("# made once\nAGNR01=a=b:c\nAGNF01=x\n")
    assert local.demo_login(plan(DATA_DIR=str(tmp_path))) == "AGNR01:a=b:c"


def test_no_demo_login_is_shown_with_credentials_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "demo-logins").write_text("AGNR01=a\n")
    assert local.demo_login(plan(DATA_DIR=str(tmp_path), CREDENTIALS_FILE="users.env")) is None


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
    lines = local.curl_lines("http://127.0.0.1:8080", f"AGNR01:{secret}", "tiny")
    words = pasted(lines, tmp_path).splitlines()
    assert f"AGNR01:{secret}" in words
    assert "Authorization: Bearer aaa.bbb.ccc" in words
    body = json.loads(words[-1])
    assert (body["model"], body["stream"]) == ("tiny", True)


def test_an_end_is_told_in_the_words_of_the_system() -> None:
    assert local.exit_words(3) == "exit status 3"
    assert local.exit_words(-signal.SIGKILL) == "killed by SIGKILL"
    assert local.exit_words(-250) == "killed by signal 250"


def test_the_last_lines_are_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("earlier\nnow\n")
    assert local.last_lines(log, len("earlier\n")) == ["now"]


def test_the_last_lines_stay_few(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("line\n" * 100_000)
    assert len(local.last_lines(log, 0)) == local.LAST_LINES


# --- until it is ready ---


def test_an_answer_of_the_llm_is_an_answer() -> None:
    local.check_answer(200, b'{"choices":[{"message":{"content":"Paris"}}]}')


@pytest.mark.parametrize(
    ("status", "answer"),
    [(401, b"{}"), (200, b"not json"), (200, b'{"choices":[]}'), (200, b"[]")],
)
def test_any_other_answer_ends_the_start(status: int, answer: bytes) -> None:
    with pytest.raises(machine.RunError, match=f"status {status}"):
        local.check_answer(status, answer)


def test_a_fault_that_passes_is_waited_for() -> None:
    faults = iter(["refused", "status 503", ""])
    assert local.wait_while(lambda: next(faults), [], 10) == ""


def test_a_fault_that_stays_is_told_when_time_is_over() -> None:
    assert local.wait_while(lambda: "status 503", [], 0) == "status 503"


def test_a_refused_connection_is_a_fault_that_may_pass() -> None:
    def refused() -> str:
        raise ConnectionRefusedError("refused")

    assert local.passing_fault(refused) == "refused"


def test_a_token_that_is_not_there_reads_as_empty() -> None:
    assert local.token_in(b"<html>") == ""
    assert local.token_in(LOGIN_ANSWER.encode()) == "aaa.bbb.ccc"


# --- the machine ---


def test_a_taken_port_is_named_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (fault,) = machine.port_faults({"GATEWAY_PORT": port})
    assert f"port {port} is taken" in fault
    assert "make run GATEWAY_PORT=" in fault


def test_a_free_port_is_no_fault() -> None:
    assert machine.port_faults({"GATEWAY_PORT": machine.free_port()}) == []


def test_without_root_the_one_line_to_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/bin/apt-get")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (fault,) = machine.package_faults(["nginx", "lua-cjson"])
    assert fault.endswith("apt-get install -y --no-install-recommends nginx lua-cjson")


def test_elsewhere_than_on_debian_openresty_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    (fault,) = machine.package_faults(["nginx"])
    assert "OpenResty" in fault


def test_where_openresty_is_no_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openresty").write_text("#!/bin/sh\n")
    (tmp_path / "openresty").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gateway_packages() == []


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(machine, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(machine, "POLICY_SAVED", tmp_path / "saved")
    return machine.POLICY


def test_no_service_starts_while_packages_are_installed(policy: Path) -> None:
    with machine.no_service_starts():
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_the_machines_own_policy_is_back_even_after_a_fault(policy: Path) -> None:
    policy.write_text("own")
    with pytest.raises(machine.RunError), machine.no_service_starts():
        raise machine.RunError("apt-get failed")
    assert policy.read_text() == "own"
    assert not machine.POLICY_SAVED.exists()


def test_the_machines_own_policy_is_back_after_a_kill_too(policy: Path) -> None:
    policy.write_text(machine.POLICY_TEXT)
    machine.POLICY_SAVED.write_text("own")
    with machine.no_service_starts():
        pass
    assert policy.read_text() == "own"


@pytest.fixture
def venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A checkout with an empty `.venv`; what would be installed is noted."""
    done: list[str] = []
    (tmp_path / ".venv").mkdir()
    (tmp_path / "a.txt").write_text("flask==1\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(machine, "STAMP", tmp_path / ".venv" / "portero.json")
    monkeypatch.setattr(machine, "venv_python", lambda: "3.13.0")
    monkeypatch.setattr(machine, "make_venv", lambda: done.append("venv"))
    monkeypatch.setattr(machine, "pip_install", done.append)
    return done


def test_a_second_start_installs_nothing(venv: list[str]) -> None:
    machine.ensure_venv(["a.txt"])
    machine.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"]


def test_changed_requirements_are_installed_into_the_same_venv(venv: list[str]) -> None:
    machine.ensure_venv(["a.txt"])
    (machine.ROOT / "a.txt").write_text("flask==2\n")
    machine.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt", "a.txt"]


def test_another_python_makes_the_venv_anew(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.ensure_venv(["a.txt"])
    monkeypatch.setattr(machine, "venv_python", lambda: "3.14.0")
    machine.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"] * 2


def test_an_interrupted_installation_makes_the_venv_anew(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str) -> None:
        raise machine.Stop

    with monkeypatch.context() as patched:
        patched.setattr(machine, "pip_install", interrupted)
        with pytest.raises(machine.Stop):
            machine.ensure_venv(["a.txt"])
    machine.ensure_venv(["a.txt"])
    assert venv == ["venv", "venv", "a.txt"]


def test_a_failed_installation_keeps_the_venv(
    venv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(name: str) -> None:
        raise machine.RunError(name)

    with monkeypatch.context() as patched:
        patched.setattr(machine, "pip_install", failed)
        with pytest.raises(machine.RunError):
            machine.ensure_venv(["a.txt"])
    machine.ensure_venv(["a.txt"])
    assert venv == ["venv", "a.txt"]


# --- signals ---


def raise_twice(signals: machine.StopSignals, number: int) -> None:
    signals._on_signal(number, None)
    signals._on_signal(number, None)


def test_a_held_stop_comes_at_the_end_of_the_hold() -> None:
    signals, steps = machine.StopSignals(), []

    def hold() -> None:
        with signals.held():
            signals._on_signal(signal.SIGTERM, None)
            steps.append("after the signal")

    with pytest.raises(machine.Stop):
        hold()
    assert steps == ["after the signal"]


def test_a_stop_comes_once_only() -> None:
    signals = machine.StopSignals()
    with pytest.raises(machine.Stop):
        signals._on_signal(signal.SIGTERM, None)
    signals._on_signal(signal.SIGTERM, None)
    with signals.held():
        pass
    assert signals.caught == signal.SIGTERM


@pytest.mark.parametrize(("number", "insists"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_only_a_second_ctrl_c_insists(number: int, insists: bool) -> None:
    signals = machine.StopSignals()
    with pytest.raises(machine.Stop), signals.held():
        raise_twice(signals, number)
    assert signals.insisted is insists


def test_the_mask_of_handled_signals_is_read_from_proc() -> None:
    status = "Name:\tmake\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000003\n"
    assert machine.caught_signals(status) == 3
    assert machine.caught_signals("") == 0


def test_the_exit_status_of_a_stop_is_the_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = machine.StopSignals()
    monkeypatch.setattr(machine, "signals", signals)
    monkeypatch.setattr(signals, "install", lambda: None)
    assert machine.guarded(lambda: signals._on_signal(signal.SIGTERM, None)) == 143


def test_every_line_of_a_fault_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise machine.RunError("one", "two")

    monkeypatch.setattr(machine.signals, "install", lambda: None)
    assert machine.guarded(fail) == 1
    assert capsys.readouterr().err == "portero: one\nportero: two\n"


def test_a_command_runs_with_its_own_status() -> None:
    assert machine.call([sys.executable, "-c", "raise SystemExit(7)"]) == 7
