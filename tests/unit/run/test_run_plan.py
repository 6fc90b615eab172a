"""What `make run` is asked for, and refuses."""

import importlib
import socket
from pathlib import Path

import pytest

from run import __main__ as command_line
from run import plan as ports
from run.commands import RunError
from run.plan import clean_environment, read_plan


def test_ports_and_data_dir_have_the_documented_defaults() -> None:
    asked = read_plan({}, Path("/here"))
    assert asked.ports == {"GATEWAY_PORT": 8080, "INTERNAL_PORT": 8081, "ISSUER_PORT": 9000}
    assert asked.data_dir == Path("/here/var")


def test_a_relative_data_dir_counts_from_where_make_ran() -> None:
    assert read_plan({"DATA_DIR": "a/b"}, Path("/here")).data_dir == Path("/here/a/b")


@pytest.mark.parametrize("text", ["", "80x", "0", "65536", "-1", "8080 ", "²", "1" * 5000])
def test_what_is_no_port_number_is_named_with_its_setting(text: str) -> None:
    with pytest.raises(RunError, match="GATEWAY_PORT is"):
        read_plan({"GATEWAY_PORT": text}, Path("/here"))


def test_every_wrong_port_is_told_at_once() -> None:
    with pytest.raises(RunError) as caught:
        read_plan({"GATEWAY_PORT": "x", "ISSUER_PORT": "y"}, Path("/here"))
    assert len(caught.value.lines) == 2


def test_two_settings_may_not_name_one_port() -> None:
    with pytest.raises(RunError, match="must differ"):
        read_plan({"GATEWAY_PORT": "9000"}, Path("/here"))


def test_an_empty_setting_is_as_good_as_none() -> None:
    assert "LLM_UPSTREAM" not in clean_environment({"LLM_UPSTREAM": ""})


def test_the_parts_see_absolute_paths_and_nothing_of_make() -> None:
    env = clean_environment({"CREDENTIALS_FILE": "users.env", "MAKEFLAGS": "w"})
    assert env["CREDENTIALS_FILE"] == str(Path.cwd() / "users.env")
    assert "MAKEFLAGS" not in env


def test_an_unknown_runtime_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["run"])
    monkeypatch.setenv("RUNTIME", "docker")
    assert command_line.main() == 1
    assert "RUNTIME is 'docker'" in capsys.readouterr().err


def test_an_unknown_task_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["run", "stop"])
    assert command_line.main() == 1
    told = "portero: unknown task 'stop'; there are: admin, install, set-up-tests, uninstall\n"
    assert capsys.readouterr().err == told


def test_every_runtime_and_task_has_its_function() -> None:
    for module, function in (*command_line.RUNTIMES.values(), *command_line.TASKS.values()):
        assert callable(getattr(importlib.import_module(module), function))


def test_the_version_check_stays_readable_for_old_pythons() -> None:
    source = Path(command_line.__file__).read_text()
    compile(source, "run/__main__.py", "exec", dont_inherit=True)
    assert "from run" not in source
    assert "from __future__" not in source


def test_a_taken_port_is_named_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (fault,) = ports.port_faults({"GATEWAY_PORT": port})
    assert f"port {port} is taken" in fault
    assert "make run GATEWAY_PORT=" in fault


def test_a_free_port_is_no_fault() -> None:
    assert ports.port_faults({"GATEWAY_PORT": ports.free_port()}) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("roles: {}\nservers:\n  - {name: a}\n", True),
        ("'servers': []\n", True),
        ('{"roles": {}, "servers": []}', True),
        ('{\n  "servers" : []}', True),
        ("roles: {}\n# servers:\n", False),
        ("roles:\n  servers: {}\n", False),
        ("roles: {}\naliases: {servers: b}\n", False),
        ("", False),
    ],
)
def test_a_policy_that_names_servers_takes_the_bundled_llms_place(
    text: str, names: bool, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    asked = read_plan({"POLICY_FILE": str(tmp_path / "policy.yaml")}, tmp_path)
    assert (asked.policy_with_servers is not None) is names
    assert asked.has_bundled_llm is not names


def test_a_policy_that_cannot_be_read_is_left_to_the_issuer(tmp_path: Path) -> None:
    assert read_plan({"POLICY_FILE": str(tmp_path / "none")}, tmp_path).has_bundled_llm


def test_the_shipped_policy_names_no_servers() -> None:
    assert read_plan({}, Path("/here")).has_bundled_llm


@pytest.mark.parametrize("name", ports.BETWEEN_MACHINES)
def test_what_is_for_several_machines_is_refused_with_the_page_that_tells_of_them(
    name: str,
) -> None:
    with pytest.raises(RunError, match=r"docs/two-machines\.md"):
        read_plan({name: "/etc/portero/x.pem"}, Path("/srv"))
