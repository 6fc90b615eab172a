"""Portero as services of systemd, on a machine that boots: installed, given TLS, killed, upgraded,
its log rotated, booted again, and taken away. Here alone the units themselves run.
"""

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.support.containers import Docker
from tests.support.deployment import CHAT
from tests.support.docs import block
from tests.support.machine import Machine, booted
from tests.support.upgrade import Load
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

HOST = "--host door.example"
INSTALL = "make install PYTHON=$(command -v python3)"
GATEWAYS = (8081, 8082)
STREAMS, EVENTS, GAP_SECONDS = 10, 100, 0.15
UNITS = ("issuer.service", "reconciler.service", "issuer.socket", "backup.timer")


@pytest.fixture(scope="module")
def machine(docker: Docker, bridge_upstream: Upstream, authority: Path) -> Iterator[Machine]:
    """With Portero installed, TLS at port 443 as the docs have it, and a recording LLM server."""
    with booted(docker) as made:
        made.sh(
            "mkdir -p /etc/portero && sed 's,^LLM_UPSTREAM=.*,"
            f"LLM_UPSTREAM={bridge_upstream.url},' systemd/portero.env >/etc/portero/portero.env"
        )
        made.sh(INSTALL)
        names = f"--host door.example --host {made.address}"
        made.sh("set -e\n" + block("docs/service.md", "service-tls").replace(HOST, names))
        authority.write_text(made.sh("cat /etc/portero/tls/ca.pem").stdout)
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What every client here trusts."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("REQUESTS_CA_BUNDLE", str(path))
        yield path


def gateway(machine: Machine) -> str:
    return f"https://{machine.address}"


def is_ready(machine: Machine) -> bool:
    try:
        return requests.get(f"{gateway(machine)}/readyz", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def wait_served(machine: Machine) -> None:
    wait_for(partial(is_ready, machine), 60, "the gateway is ready")


def token(machine: Machine) -> str:
    logins = machine.sh("cat /var/lib/portero/demo-logins").stdout.splitlines()
    name, _, secret = next(line for line in logins if line.startswith("AGIA")).partition("=")
    answer = requests.post(f"{gateway(machine)}/agi/login", auth=(name, secret), timeout=10)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def chat(machine: Machine, bearer: str) -> int:
    url, sent = f"{gateway(machine)}/v1/chat/completions", {"Authorization": f"Bearer {bearer}"}
    return requests.post(url, json=CHAT, headers=sent, timeout=10).status_code


def active(machine: Machine) -> list[int]:
    states = [
        machine.sh(f"systemctl is-active portero-gateway@{port}", check=False).stdout.strip()
        for port in GATEWAYS
    ]
    return [port for port, state in zip(GATEWAYS, states, strict=True) if state == "active"]


def test_systemd_finds_no_fault_in_any_unit(machine: Machine) -> None:
    names = [f"portero-{name}" for name in (*UNITS, "backup.service", "gateway@8081.service")]
    done = machine.sh(f"systemd-analyze verify portero.target {' '.join(names)}", check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_service_is_more_exposed_than_the_docs_say(machine: Machine) -> None:
    names = ("issuer.service", "reconciler.service", "gateway@8081.service", "backup.service")
    for name in names:
        done = machine.sh(f"systemd-analyze security --threshold=20 portero-{name}", check=False)
        assert done.returncode == 0, done.stdout[-500:]


def test_what_is_installed_is_well_and_serves_at_low_ports(machine: Machine) -> None:
    wait_served(machine)
    assert chat(machine, token(machine)) == 200
    plain = requests.get(f"http://{machine.address}/x", allow_redirects=False, timeout=20)
    assert (plain.status_code, plain.headers["location"]) == (308, f"{gateway(machine)}/x")
    told = json.loads(machine.sh("portero-admin doctor --json", check=False).stdout)
    found = [one for one in told["findings"] if one["what"] != "disk" and one["state"] != "ok"]
    assert found == []
    who = machine.sh("ps -eo user:20,args | grep -E '[n]ginx|[g]unicorn|[r]econcile'").stdout
    assert {line.split()[0] for line in who.splitlines()} == {"portero", "portero-gateway"}
    assert machine.sh("cat /proc/sys/net/ipv4/tcp_migrate_req").stdout == "1\n"


def test_the_gateways_user_reads_nothing_that_signs(machine: Machine) -> None:
    become = "setpriv --reuid=portero-gateway --regid=portero-gateway --init-groups"
    for path in (
        *(f"/var/lib/portero/{name}" for name in ("signing-keys.json", "sessions.db")),
        *("/var/lib/portero/secrets/secret_key", "/etc/portero/tls/ca-key.pem"),
    ):
        done = machine.sh(f"{become} cat {path}", check=False)
        assert "Permission denied" in done.stderr, path


def test_what_is_killed_comes_back_and_the_token_with_it(machine: Machine) -> None:
    wait_served(machine)
    bearer = token(machine)
    units = f"portero-issuer portero-reconciler portero-gateway@{active(machine)[0]}"
    shown = f"systemctl show --property=MainPID --value {units}"
    before = set(machine.sh(shown).stdout.split())
    machine.sh(f"systemctl kill --signal=KILL {units}")

    def are_back() -> bool:
        now = set(machine.sh(shown).stdout.split())
        return len(now) == 3 and not now & {*before, "0"}

    wait_for(are_back, 30, "all are back")
    wait_served(machine)
    wait_for(lambda: chat(machine, bearer) == 200, 20, "the token is good")


def test_a_renewed_certificate_is_shown_without_a_reload(machine: Machine) -> None:
    wait_served(machine)
    shown = ssl.get_server_certificate((machine.address, 443))
    lines = block("docs/service.md", "service-tls").splitlines()
    names = f"--host door.example --host {machine.address}"
    machine.sh("\n".join(["set -e", *lines[:4]]).replace(HOST, names))
    wait_for(lambda: ssl.get_server_certificate((machine.address, 443)) != shown, 30, "the new one")


def test_a_rotated_log_is_written_anew(machine: Machine) -> None:
    wait_served(machine)
    chat(machine, token(machine))
    log = "/var/log/portero/access.log"
    wait_for(lambda: machine.sh(f"cat {log}").stdout, 10, "there is a line")
    machine.sh("logrotate --force /etc/logrotate.d/portero")
    requests.get(f"{gateway(machine)}/after-the-rotation", timeout=20)
    wait_for(lambda: "/after-the-rotation" in machine.sh(f"cat {log}").stdout, 10, "the new line")
    assert "/after-the-rotation" not in machine.sh(f"cat {log}.1").stdout


def test_the_backup_of_the_timer_is_a_store(machine: Machine) -> None:
    machine.sh("systemctl start portero-backup.service")
    made = machine.sh("ls /var/lib/portero/backups").stdout.split()
    assert len(made) == 1
    head = machine.sh(f"head -c 15 /var/lib/portero/backups/{made[0]}").stdout
    assert head == "SQLite format 3"


@contextmanager
def loaded(machine: Machine, authority: Path) -> Iterator[Load]:
    trust = ssl.create_default_context(cafile=authority)
    load = Load(gateway(machine), token(machine), EVENTS, trust)
    load.begin(load.on_new_connections, 2)
    load.begin(load.on_kept_connections, 2)
    try:
        yield load
    finally:
        load.end()


@pytest.fixture
def slow_upstream(bridge_upstream: Upstream) -> Iterator[Upstream]:
    bridge_upstream.forget()
    bridge_upstream.events, bridge_upstream.gap = EVENTS, GAP_SECONDS
    yield bridge_upstream
    bridge_upstream.forget()


@pytest.mark.usefixtures("slow_upstream")
def test_installed_again_it_is_upgraded_without_a_failed_request_or_a_cut_stream(
    machine: Machine, authority: Path
) -> None:
    wait_served(machine)
    before, release = active(machine), machine.sh("readlink /usr/local/lib/portero/current").stdout
    machine.sh("echo '# of another release' >>issuer/errors.py")
    with loaded(machine, authority) as load, ThreadPoolExecutor(1) as beside:
        installed = beside.submit(machine.sh, INSTALL)
        wait_for(lambda: len(active(machine)) == 2 or installed.done(), 120, "two gateways run")
        load.begin(load.stream, STREAMS)
        installed.result()
    failed = {what: count for what, count in load.counts.items() if what not in Load.WELL}
    assert failed == {}, load.faults
    assert load.counts["stream: whole"] == STREAMS
    assert load.counts["new: answered"] > 100
    assert active(machine) == [port for port in GATEWAYS if port not in before]
    assert machine.sh("readlink /usr/local/lib/portero/current").stdout != release
    told = machine.sh(f"journalctl --unit portero-gateway@{before[0]} --output short-unix").stdout
    shut_at = [float(line.split()[0]) for line in told.splitlines() if "Reloaded" in line][-1]
    assert max(load.stream_ends) > shut_at, "no stream outlasted the old gateway's listener"


def test_after_a_boot_all_is_there_as_it_was(machine: Machine) -> None:
    bearer, running = token(machine), active(machine)
    machine.boot_again()
    wait_served(machine)
    assert active(machine) == running
    wait_for(lambda: chat(machine, bearer) == 200, 20, "the token is good")


def test_uninstalled_it_leaves_settings_and_data_and_nothing_else(machine: Machine) -> None:
    machine.sh("make uninstall PYTHON=$(command -v python3)")
    assert machine.sh("systemctl list-units --all --plain --no-legend 'portero*'").stdout == ""
    left = machine.sh("ls -d /usr/local/lib/portero /usr/local/bin/portero-admin", check=False)
    assert left.stdout == ""
    assert machine.sh("ls /var/lib/portero/sessions.db /etc/portero/portero.env").returncode == 0
    machine.sh("make uninstall PURGE=1 PYTHON=$(command -v python3)")
    assert machine.sh("ls -d /etc/portero /var/lib/portero*", check=False).stdout == ""
