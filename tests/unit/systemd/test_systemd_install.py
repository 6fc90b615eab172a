"""What `make install` puts where, below a DESTDIR: nothing is started, and no user is made."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from run.commands import ROOT, RunError, read_text
from systemd import install as service
from systemd.install import PORTS, Places, name_gateways
from tests.conftest import wait_until

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
ENV_FILES = sorted((ROOT / "systemd").glob("*.env"))


@pytest.fixture(autouse=True)
def destination(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment of Python packages is what the tests have; making one takes long."""
    monkeypatch.setenv("DESTDIR", str(tmp_path))
    monkeypatch.setenv("PORTERO_VENV", sys.prefix)
    return tmp_path


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_in_its_place_and_a_release_holds_the_program(destination: Path) -> None:
    service.install()
    units = {f"etc/systemd/system/{name}" for name in service.UNITS}
    put = files_below(destination)
    assert units <= put
    assert {"etc/logrotate.d/portero", "etc/sysctl.d/60-portero.conf"} <= put
    current = destination / "usr/local/lib/portero/current"
    for name in ("issuer/__main__.py", "openresty/gateway.sh", "policy/policy.yaml"):
        assert (current / name).read_bytes() == (ROOT / name).read_bytes()
    command = destination / "usr/local/bin/portero-admin"
    assert command.resolve() == (current / "systemd/portero-admin").resolve()
    assert command.stat().st_mode & 0o111


def test_what_others_could_write_is_written_by_nobody_else(destination: Path) -> None:
    service.install()
    open_to_others = [
        path
        for path in (destination / "usr").rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert open_to_others == []


def test_settings_and_policy_that_are_there_stay_and_units_are_renewed(destination: Path) -> None:
    service.install()
    at = service.places()
    kept = [at.etc / "portero.env", at.etc / "policy/policy.yaml", at.etc / "gateways.env"]
    unit = at.units / "portero-issuer.service"
    for path in (*kept, unit):
        path.write_text("# mine\n")
    service.install()
    assert [path.read_text() for path in kept] == ["# mine\n"] * 3
    assert unit.read_text() == (ROOT / "systemd/portero-issuer.service").read_text()


def test_the_same_program_is_the_same_release(destination: Path) -> None:
    service.install()
    service.install()
    assert len(list((destination / "usr/local/lib/portero/releases").iterdir())) == 1


def test_uninstall_leaves_settings_unless_it_is_told_to_purge(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.install()
    service.uninstall()
    assert {path.partition("/")[0] for path in files_below(destination)} == {"etc"}
    assert all(path.startswith("etc/portero/") for path in files_below(destination))
    monkeypatch.setenv("PURGE", "1")
    service.uninstall()
    assert files_below(destination) == set()


def test_only_workers_keep_an_upgrade_waiting(tmp_path: Path) -> None:
    script = tmp_path / "master.sh"
    script.write_text(
        f"exec -a '{service.WORKER} is shutting down' sleep 60 & sleep 60 & echo started; wait\n"
    )
    command = ["bash", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as master:
        try:
            assert master.stdout is not None
            assert master.stdout.readline() == b"started\n"
            pid = str(master.pid)
            wait_until(lambda: len(service.workers_of(pid)) == 1, "the worker is told apart")
            assert len(read_text(Path(f"/proc/{pid}/task/{pid}/children")).split()) == 2
        finally:
            os.killpg(master.pid, signal.SIGKILL)


def test_gateways_of_other_machines_stay_behind_those_of_this_one(tmp_path: Path) -> None:
    at = Places(tmp_path)
    at.etc.mkdir(parents=True)
    name_gateways(at, PORTS[:1])
    path = at.etc / "gateways.env"
    path.write_text(path.read_text().strip() + ",http://10.0.0.9:8081\n")
    name_gateways(at, PORTS)
    own = "http://127.0.0.1:8081,http://127.0.0.1:8082"
    assert path.read_text().endswith(f"\nGATEWAY_URLS={own},http://10.0.0.9:8081\n")
    name_gateways(at, PORTS[1:])
    told = path.read_text()
    assert told.endswith("\nGATEWAY_URLS=http://127.0.0.1:8082,http://10.0.0.9:8081\n")


def test_releases_but_the_one_in_force_and_the_one_before_are_forgotten(destination: Path) -> None:
    service.install()
    at = service.places()
    for number in range(3):
        (at.lib / "releases" / f"older-{number}").mkdir()
    (at.lib / "venvs" / "of-nobody").mkdir(parents=True)
    service.forget_releases(at)
    left = {path.name for path in (at.lib / "releases").iterdir()}
    assert (at.lib / "current").resolve().name in left
    assert len(left) == 2
    assert list((at.lib / "venvs").iterdir()) == []


def test_without_root_or_systemd_nothing_is_changed_and_it_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DESTDIR", "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _: False)
    monkeypatch.setattr("run.set_up.gateway_packages", list)
    monkeypatch.setattr("run.set_up.python_packages", list)
    with pytest.raises(RunError) as refused:
        service.install()
    assert "run it as root" in str(refused.value)
    assert "systemd does not run this machine" in str(refused.value)


@pytest.mark.parametrize("path", ENV_FILES, ids=lambda path: path.name)
def test_every_line_of_the_settings_is_a_setting_that_is_told_in_the_docs(path: Path) -> None:
    names = re.findall(r"(?m)^#?([A-Z_]+)=", path.read_text())
    assert len(names) > 2
    for name in names:
        documented = name.removesuffix("_FILE")
        pattern = rf"(?m)^## ({name}|{documented})$|^\| `{name}`"
        assert re.search(pattern, CONFIGURATION), name


def test_the_command_is_good_shell() -> None:
    checked = ["sh", "-n", str(ROOT / "systemd/portero-admin")]
    assert subprocess.run(checked, capture_output=True, check=False).returncode == 0
