"""Debian packages: what is told when they cannot be installed, and the machine's own policy."""

import subprocess
from pathlib import Path

import pytest

from run import set_up as packages
from run.commands import RunError


def test_without_root_the_one_line_to_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/bin/apt-get")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (fault,) = packages.package_faults(["nginx", "lua-cjson"])
    assert fault.endswith("apt-get install -y --no-install-recommends nginx lua-cjson")


def test_elsewhere_than_on_debian_openresty_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    (fault,) = packages.package_faults(["nginx"])
    assert "OpenResty" in fault


def test_where_openresty_is_no_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openresty").write_text("#!/bin/sh\n")
    (tmp_path / "openresty").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.gateway_packages() == []


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "POLICY_SAVED", tmp_path / "saved")
    return packages.POLICY


def test_no_service_starts_while_packages_are_installed(policy: Path) -> None:
    with packages.no_service_starts([]):
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_the_machines_own_policy_is_back_even_after_a_fault(policy: Path) -> None:
    policy.write_text("own")
    with pytest.raises(RunError), packages.no_service_starts([]):
        raise RunError("apt-get failed")
    assert policy.read_text() == "own"
    assert not packages.POLICY_SAVED.exists()


def test_the_machines_own_policy_is_back_after_a_kill_too(policy: Path) -> None:
    policy.write_text(packages.POLICY_TEXT)
    packages.POLICY_SAVED.write_text("own")
    with packages.no_service_starts([]):
        pass
    assert policy.read_text() == "own"
