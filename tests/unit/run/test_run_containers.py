"""`make run` through containers, before and around them. No engine is asked."""

import io
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from issuer import __main__ as issuer_main
from run import commands, containers, local
from run.commands import RunError
from run.containers import NotHere, Project, check_engine, project_of
from run.data_dir import locked
from run.plan import Plan, policy_file, read_plan
from run.ready import DEMO_LOGINS

PLAN = read_plan({}, Path("/nowhere"))
KEY = "a-key-of-the-users-own-that-is-long-enough"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return read_plan({"DATA_DIR": str(tmp_path)}, tmp_path)


def private(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# --- keys, users and the policy ---


def test_nothing_is_handed_over_when_nothing_is_given(plan: Plan) -> None:
    assert containers.given(plan, {}) == {}
    assert set(map(len, containers.settings_of_parts(PLAN, {}, {}).values())) == {0}


def test_keys_users_and_certificates_are_read_by_value_and_by_file(
    plan: Plan, tmp_path: Path
) -> None:
    env = {
        "SECRET_KEY": KEY,
        "SYNC_KEY_FILE": private(tmp_path / "sync", KEY[::-1]),
        "CREDENTIALS_FILE": private(tmp_path / "users", "AGNR1=é\r\n"),
        "LLM_API_KEY_FILE": private(tmp_path / "llm", 'sk-"$\\é'),
        "LLM_CA_FILE": private(tmp_path / "ca", "a certificate"),
    }
    assert containers.given(plan, env) == {
        "SECRET_KEY": KEY,
        "SYNC_KEY": KEY[::-1],
        "CREDENTIALS_FILE": "AGNR1=é\r\n",
        "LLM_API_KEY": 'sk-"$\\é',
        "LLM_CA_FILE": "a certificate",
    }


def test_users_of_a_run_as_local_processes_are_handed_over(plan: Plan) -> None:
    private(plan.data_dir / "credentials.env", "AGNR1=x\n")
    assert containers.given(plan, {}) == {"CREDENTIALS_FILE": "AGNR1=x\n"}


def test_all_that_is_wrong_with_them_is_told_at_once(plan: Plan, tmp_path: Path) -> None:
    path = Path(private(tmp_path / "sync", KEY))
    path.chmod(0o644)
    (tmp_path / "users").write_bytes(b"\xff")
    env = {
        "SECRET_KEY": KEY,
        "SECRET_KEY_FILE": "/nowhere",
        "SYNC_KEY_FILE": str(path),
        "CREDENTIALS_FILE": str(tmp_path / "users"),
    }
    with pytest.raises(RunError) as caught:
        containers.given(plan, env)
    assert [line.partition(":")[0] for line in caught.value.lines] == [
        "SECRET_KEY",
        "SECRET_KEY_FILE",
        "SYNC_KEY_FILE",
        "CREDENTIALS_FILE",
    ]
    assert KEY not in str(caught.value)


def test_the_parts_are_told_places_and_never_contents() -> None:
    given = {"SECRET_KEY": KEY, "SYNC_KEY": KEY[::-1], "CREDENTIALS_FILE": "AGNR1=secret"}
    told = containers.settings_of_parts(PLAN, given, {})
    assert set(told["gateway"]) == {"SYNC_KEY_FILE"}
    assert set(told["issuer"]) == {
        "SECRET_KEY_FILE",
        "SYNC_KEY_FILE",
        "CREDENTIALS_FILE",
    }
    assert told["issuer"] == told["reconciler"]
    assert all(place.startswith(("/sync/", "/data/")) for place in told["issuer"].values())
    assert all(place.startswith("/sync/") for place in told["gateway"].values())


def test_the_llm_servers_key_and_certificates_are_for_the_gateway_alone_u4_u5() -> None:
    told = containers.settings_of_parts(PLAN, {"LLM_API_KEY": KEY, "LLM_CA_FILE": "PEM"}, {})
    assert told["gateway"] == {
        "LLM_API_KEY_FILE": "/sync/given/llm_api_key",
        "LLM_CA_FILE": "/sync/given/llm_ca.pem",
    }
    assert [part for part, settings in told.items() if settings] == ["gateway"]


def test_a_setting_that_is_no_more_is_refused_as_the_issuer_refuses_it_p6() -> None:
    told = containers.settings_of_parts(PLAN, {}, {"ROLES_FILE": "/etc/roles.json"})
    assert told["issuer"] == {"ROLES_FILE": "/etc/roles.json"}


def test_what_is_handed_over_is_kept_where_the_parts_are_told_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    given = dict.fromkeys(containers.PLACES, KEY)
    monkeypatch.delenv("CREDENTIALS_FILE", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(given)))
    data, sync = tmp_path / "data", tmp_path / "sync"
    init = ["init", "--data-dir", str(data), "--sync-dir", str(sync), "--given"]
    assert issuer_main.main(init) == 0
    for place in containers.PLACES.values():
        assert (tmp_path / place[1:]).read_text() == KEY


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("GATEWAY_URLS", "http://10.0.0.1:8081"),
        ("SYNC_CA_FILE", "/etc/portero/ca.pem"),
        ("DATABASE_URL", "sqlite:////srv/sessions.db"),
        ("DATABASE_URL", "redis://10.0.0.1"),
        ("DATABASE_URL_FILE", "/run/secrets/url"),
    ],
)
def test_what_containers_cannot_honour_is_named(setting: str, value: str) -> None:
    assert setting.removesuffix("_FILE") in containers.impossible({setting: value})


def test_a_store_on_the_volume_can_be_honoured() -> None:
    url = {"DATABASE_URL": "sqlite:////data/other.db"}
    assert containers.impossible(url) == ""
    assert containers.settings_of_parts(PLAN, {}, url)["reconciler"] == url


# --- the project ---


def test_each_data_dir_has_a_project_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    one, same = (project_of(tmp_path / name, {}) for name in (".", "link"))
    other = project_of(tmp_path / "other", {})
    assert one.name == same.name != other.name
    assert one.name.startswith("portero-")


def test_compose_is_told_no_secret() -> None:
    env = {"SECRET_KEY": KEY, "SYNC_KEY": KEY, "LLM_API_KEY": KEY, "WEB_UI": "upstream"}
    assert project_of(Path("/data"), env).env == {"WEB_UI": "upstream"}


def test_a_death_is_not_mended(tmp_path: Path) -> None:
    project = Project(tmp_path, {})
    told = {"gateway": {"SYNC_KEY_FILE": "/sync/given/sync_key"}}
    project.write_changes(told, policy_file({}))
    services = json.loads(project.changes.read_text())["services"]
    assert {service["restart"] for service in services.values()} == {"no"}
    assert services["gateway"]["environment"] == {"SYNC_KEY_FILE": "/sync/given/sync_key"}
    assert services["init"]["image"] == services["issuer"]["image"] != services["llm"]["image"]


def test_a_policy_of_ones_own_is_mounted_as_a_folder_beside_the_issuer_alone_p6(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path, {})
    project.write_changes({}, policy_file({"POLICY_FILE": "/etc/portero/ours.yaml"}))
    services = json.loads(project.changes.read_text())["services"]
    mounted = [name for name, service in services.items() if "volumes" in service]
    assert mounted == ["init", "issuer", "reconciler"]
    for name in mounted:
        assert services[name]["environment"] == {"POLICY_FILE": "/policy/ours.yaml"}
        (mount,) = services[name]["volumes"]
        assert (mount["source"], mount["target"]) == ("/etc/portero", "/policy")
    assert services["gateway"]["environment"] == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Docker sees files of any mode")
def test_a_policy_that_the_issuers_container_could_not_read_is_told_with_a_way_out_p6(
    plan: Plan, tmp_path: Path
) -> None:
    folder = tmp_path / "of ours"
    folder.mkdir(0o700)
    policy = Path(private(folder / "policy.yaml", "roles: {}"))
    (told,) = containers.policy_fault(policy)
    assert told.startswith(f"POLICY_FILE: {policy} must be readable for the issuer's container: ")
    subprocess.run(["sh", "-c", told.rpartition(": ")[2]], check=True)
    assert containers.policy_fault(policy) == []
    with pytest.raises(RunError, match=r"cannot read /nowhere/policy\.yaml"):
        containers.given(plan, {"POLICY_FILE": "/nowhere/policy.yaml"})


# --- LLM servers on this machine ---


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("http://127.0.0.1:11434", "http://host.docker.internal:11434"),
        ("http://localhost/v1", "http://host.docker.internal/v1"),
        ("https://[::1]:8443", "https://host.docker.internal:8443"),
        (
            "http://10.0.0.1:1, http://127.0.1.1:2",
            "http://10.0.0.1:1,http://host.docker.internal:2",
        ),
        (
            "http://localhost:1 http://[::1]:2",
            "http://host.docker.internal:1,http://host.docker.internal:2",
        ),
        ("http://ollama:11434", "http://ollama:11434"),
        ("", ""),
    ],
)
def test_this_machine_has_another_name_in_containers(written: str, known: str) -> None:
    assert containers.for_containers(written) == known


def out_of_reach(monkeypatch: pytest.MonkeyPatch, bridge: str, listen: str) -> bool:
    monkeypatch.setattr(containers, "ask", lambda *_: (0, f"{bridge} \n"))
    with socket.create_server((listen, 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = containers.out_of_reach({"LLM_UPSTREAM": f"http://10.0.0.1:1,{url}"})
    assert found in ("", f"{url} listens on loopback alone, where containers do not come")
    return bool(found)


@pytest.mark.skipif(sys.platform != "linux", reason="the bridge is Linux's")
def test_a_server_on_loopback_alone_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert out_of_reach(monkeypatch, bridge="127.0.0.2", listen="127.0.0.1")
    assert not out_of_reach(monkeypatch, bridge="127.0.0.2", listen="0.0.0.0")
    assert not out_of_reach(monkeypatch, bridge="", listen="127.0.0.1")


def test_a_server_that_does_not_run_yet_may_be_within_reach(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr(containers, "ask", lambda *_: (0, "127.0.0.2\n"))
    assert containers.out_of_reach({"LLM_UPSTREAM": f"http://127.0.0.1:{free_port}"}) == ""


@pytest.mark.parametrize(
    ("env", "lines"),
    [
        ({}, 0),
        ({"LLM_UPSTREAM": "http://ollama:1, http://vllm:2"}, 0),
        ({"LLM_UPSTREAM": "http://localhost:1"}, 1),
        ({"INTERNAL_PORT": "1", "ISSUER_PORT": "2"}, 1),
        ({"TRUSTED_PROXIES": "127.0.0.1"}, 1),
    ],
)
def test_what_reads_differently_in_containers_is_told_in_a_line(
    env: dict[str, str], lines: int
) -> None:
    assert len(list(containers.differences(env))) == lines


def policy_of(folder: Path, *lines: str) -> dict[str, str]:
    """A policy with servers, as a setting."""
    path = folder / "policy.yaml"
    path.write_text("\n".join(("servers:", "  - name: a", *(f"    {line}" for line in lines))))
    return {"POLICY_FILE": str(path)}


def test_a_policys_server_on_loopback_is_out_of_reach_of_containers(tmp_path: Path) -> None:
    env = policy_of(tmp_path, "url: 'http://localhost:11434'")
    assert "write http://host.docker.internal:11434" in containers.out_of_reach(env)
    assert len(list(containers.differences(env))) == 1
    good = policy_of(tmp_path, "url: http://10.0.0.5:11434 # not http://localhost:11434")
    assert not containers.out_of_reach(good)


@pytest.mark.skipif(sys.platform != "linux", reason="owners are the same in containers of Linux")
@pytest.mark.parametrize(
    ("name", "mode", "is_seen"),
    [("a.key", 0o600, False), ("a.key", 0o644, True), ("../a.key", 0o644, False)],
)
def test_a_policys_file_that_containers_cannot_read_is_told(
    name: str, mode: int, is_seen: bool, tmp_path: Path
) -> None:
    (tmp_path / "policy").mkdir()
    env = policy_of(tmp_path / "policy", f"credential_file: {name}")
    (tmp_path / "policy" / name).write_text("sk-secret")
    (tmp_path / "policy" / name).chmod(mode)
    told = containers.out_of_reach(env)
    assert (told == "") is is_seen
    assert "sk-secret" not in told


def test_a_policys_file_that_is_not_there_is_left_to_the_issuer(tmp_path: Path) -> None:
    assert not containers.out_of_reach(policy_of(tmp_path, "ca_file: none.pem"))


def test_with_servers_in_the_policy_no_llm_is_started_and_the_gateway_has_no_pool(
    tmp_path: Path,
) -> None:
    env = policy_of(tmp_path)
    project = containers.project_of(tmp_path, env, has_bundled_llm=False)
    assert project.env["COMPOSE_PROFILES"] == "no-llm"
    assert "COMPOSE_PROFILES" not in containers.project_of(tmp_path, env).env
    assert containers.settings_of_parts(PLAN, {}, env)["gateway"] == {"LLM_UPSTREAM": ""}


# --- the engine ---


def test_without_docker_there_are_no_containers(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="no `docker`"):
        check_engine({"PATH": str(tmp_path)})


def test_an_engine_that_does_not_answer_is_told_in_its_words(tmp_path: Path) -> None:
    command(tmp_path, "docker", "echo Client; echo Cannot connect. >&2; exit 1")
    with pytest.raises(NotHere) as caught:
        check_engine({"PATH": f"{tmp_path}:/bin"})
    assert str(caught.value) == "no Docker engine answers (Cannot connect)"


def test_an_engine_that_hangs_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ANSWER_SECONDS", 0.2)
    command(tmp_path, "docker", "exec sleep 60")
    with pytest.raises(NotHere, match="no answer in"):
        check_engine({"PATH": f"{tmp_path}:/bin"})


@pytest.mark.parametrize("version", ["2.20.0", "v2.20.3", "2.26.1-4", "5.0.0"])
def test_a_compose_that_knows_what_the_file_says_serves(tmp_path: Path, version: str) -> None:
    command(tmp_path, "docker", f"echo {version}")
    check_engine({"PATH": f"{tmp_path}:/bin"})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("echo v2.19.1", "`docker compose` is v2.19 here"),
        ("echo 'docker: unknown command: docker compose' >&2; exit 1", "`docker compose` is not"),
    ],
)
def test_with_an_older_compose_or_the_old_docker_compose_alone_one_line_says_what_to_install_p6(
    tmp_path: Path, answer: str, told: str
) -> None:
    command(tmp_path, "docker", f'[ "$1" = version ] || {{ {answer}; }}')
    command(tmp_path, "docker-compose", "echo 1.29.2")
    with pytest.raises(NotHere) as caught:
        check_engine({"PATH": f"{tmp_path}:/bin"})
    assert str(caught.value).startswith(told)
    for word in ("2.20 or newer", "1.29", "docker-compose-plugin", "docker-compose-v2"):
        assert word in str(caught.value)


# --- the choice ---


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran, in order; containers are not to be had."""
    done: list[str] = []

    def no_containers(env: object, insists: bool) -> None:
        done.append(f"containers, insists={insists}")
        raise NotHere("the build failed\n  | its last words")

    monkeypatch.setattr(containers, "run", no_containers)
    monkeypatch.setattr(local, "run", lambda env: done.append("local"))
    return done


def test_where_no_containers_are_to_be_had_one_line_says_so(
    started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    containers.run_or_local()
    assert started == ["containers, insists=False", "local"]
    said = capsys.readouterr().out
    assert said == "Local processes instead of containers: the build failed.\n"


def test_any_other_fault_of_containers_is_a_fault(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(env: object, insists: bool) -> None:
        raise RunError("port 8080 is taken")

    monkeypatch.setattr(containers, "run", fail)
    with pytest.raises(RunError, match="taken"):
        containers.run_or_local()
    assert started == []


# --- while they run ---


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path) -> None:
    """A DATA_DIR has it as long as a stack runs."""
    (tmp_path / "run").mkdir(exist_ok=True)


class Recorder(Project):
    """A project that notes what it is handed."""

    given: list[str] = []

    def hand_over(self, given: Mapping[str, str]) -> str:
        self.given.append(json.dumps(given))
        self.note_handed(given)
        return ""


def test_users_and_certificates_are_handed_over_whenever_their_file_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Recorder.given.clear()
    path = Path(private(tmp_path / "users", "AGNR1=a"))
    trusted = Path(private(tmp_path / "ca", "{}"))
    files = {"CREDENTIALS_FILE": path, "LLM_CA_FILE": trusted}
    project = Recorder(tmp_path, {})
    project.note_handed({"CREDENTIALS_FILE": "AGNR1=a", "LLM_CA_FILE": "{}"})
    look = containers.files_renewed(files, project)
    look()
    path.write_text("AGNR1=bb")
    look()
    look()
    path.unlink()
    trusted.write_text("{ }")
    look()
    look()
    assert Recorder.given == ['{"CREDENTIALS_FILE": "AGNR1=bb"}', '{"LLM_CA_FILE": "{ }"}']
    assert capsys.readouterr().out.count("cannot read") == 1


def test_what_make_admin_has_taken_back_is_not_handed_over_again_and_nothing_while_it_is_at_it(
    tmp_path: Path,
) -> None:
    Recorder.given.clear()
    path = Path(private(tmp_path / "users", "AGNR1=a"))
    project = Recorder(tmp_path, {})
    project.hand_over({"CREDENTIALS_FILE": "AGNR1=a"})
    look = containers.files_renewed({"CREDENTIALS_FILE": path}, project)
    look()
    with locked(project.handed.parent, "nobody else"):
        path.write_text("AGNR1=a\nAGNR2=b")
        look()
        project.note_handed({"CREDENTIALS_FILE": path.read_text()})
    look()
    assert len(Recorder.given) == 1
    with locked(project.handed.parent, "nobody else"):
        path.write_text("AGNR1=a")
        look()
        assert len(Recorder.given) == 1
    look()
    assert Recorder.given[1:] == ['{"CREDENTIALS_FILE": "AGNR1=a"}']


def test_what_changed_between_the_start_and_the_first_look_is_handed_over(tmp_path: Path) -> None:
    Recorder.given.clear()
    path = Path(private(tmp_path / "users", "AGNR1=a"))
    project = Recorder(tmp_path, {})
    project.hand_over({"CREDENTIALS_FILE": "AGNR1=a"})
    path.write_text("AGNR1=bb")
    containers.files_renewed({"CREDENTIALS_FILE": path}, project)()
    assert Recorder.given[1:] == ['{"CREDENTIALS_FILE": "AGNR1=bb"}']


def test_what_cannot_be_handed_over_is_told_with_the_last_words_and_is_no_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(private(tmp_path / "users", "AGNR1=a"))
    project = Project(tmp_path, {})
    look = containers.files_renewed({"CREDENTIALS_FILE": path}, project)
    monkeypatch.setattr(containers, "ask", lambda *_: (1, "no space\nis left\n"))
    path.write_text("AGNR1=bb")
    look()
    told = ["keys or users of your own could not be handed over", "  | no space", "  | is left"]
    assert capsys.readouterr().out.splitlines() == told
    monkeypatch.setattr(containers, "ask", lambda *_: (0, ""))
    path.write_text("AGNR1=ccc")
    look()
    assert capsys.readouterr().out == ""


def test_without_files_of_ones_own_nothing_is_looked_at(plan: Plan, tmp_path: Path) -> None:
    Recorder.given.clear()
    assert containers.own_files(plan, {}) == {}
    containers.files_renewed({}, Recorder(tmp_path, {}))()
    assert Recorder.given == []


def test_the_demo_logins_that_init_has_made_are_kept(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, kept = Project(plan.data_dir, {}), plan.data_dir / "demo-logins"
    monkeypatch.setattr(containers, "ask", lambda *_: (0, "AGNR1=a=b\nADMN1=c\n"))
    containers.keep(DEMO_LOGINS, plan, project)
    assert kept.read_text() == "AGNR1=a=b\nADMN1=c\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(containers, "ask", lambda *_: (1, "cat: no such file"))
    containers.keep(DEMO_LOGINS, plan, project)
    assert kept.read_text() == ""


@pytest.mark.parametrize(
    ("said", "address"),
    [
        pytest.param("172.17.0.1 172.17.0.0/16 \n", "172.17.0.1", id="an engine as it is usually"),
        pytest.param(" 172.17.0.0/16 \n", "172.17.0.1", id="one that was never started before"),
        pytest.param("\n", "", id="one without a bridge"),
    ],
)
def test_the_bridges_address_is_found_on_any_engine(said: str, address: str) -> None:
    assert containers.bridge_address(said) == address
