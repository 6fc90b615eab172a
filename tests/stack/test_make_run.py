"""`make run` as a newcomer meets it: a real LLM, two lines to paste, one end for all."""

import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import openai
import pytest
import requests

from run.commands import ROOT, read_text
from run.containers import project_of
from tests.support.containers import Docker
from tests.support.deployment import USERS, credentials_text
from tests.support.policies import write_policy
from tests.support.ports import free_ports
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

READY_SECONDS = 240
STREAM_EVENTS = 3
END_SECONDS = 40
#: A whole answer of the bundled model, on a machine that does other things too.
PASTED_SECONDS = 150


class Run:
    """One `make run`, with ports and data of its own."""

    def __init__(self, data: Path, env: Mapping[str, str]) -> None:
        self.gateway, internal, issuer = free_ports(3)
        self.data = data
        self.project = ""
        self._output = (data / "make-run.log").open("w+")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        self.env = {
            **kept,
            "GATEWAY_PORT": str(self.gateway),
            "INTERNAL_PORT": str(internal),
            "ISSUER_PORT": str(issuer),
            "DATA_DIR": str(data),
            **env,
        }
        self.process = subprocess.Popen(
            ["make", "run"],
            cwd=ROOT,
            env=self.env,
            stdout=self._output,
            stderr=self._output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def output(self) -> str:
        """All it has printed so far."""
        return (self.data / "make-run.log").read_text()

    def wait_ready(self) -> None:
        """Wait for the line that begins `ready`; in containers the project's name follows."""
        wait_for(
            lambda: self.process.poll() is not None or self.has_greeted(),
            READY_SECONDS,
            "make run is ready",
        )
        assert self.process.poll() is None, self.output()
        found = re.search(r"compose project (\S+)\.", self.output())
        self.project = found[1] if found else ""

    def has_greeted(self) -> bool:
        """Whether all of the greeting is there."""
        last = "compose project" if self.env["RUNTIME"] == "containers" else "Ctrl-C stops it all"
        return "\nready " in self.output() and last in self.output()

    def pid(self, part: str) -> int:
        """The process id of a part that is a local process."""
        return int((self.data / "run" / f"{part}.pid").read_text())

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send make a signal and wait for the end of all."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(END_SECONDS)
        self._output.close()


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def start(runtime: str, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a `make run` through the runtime and waits until it is ready."""
    docker = request.getfixturevalue("docker") if runtime == "containers" else None
    with starting(docker) as start:
        yield start


@pytest.fixture
def start_containers(docker: Docker) -> Iterator[Start]:
    """The same, for what can only be seen of containers."""
    with starting(docker) as start:
        yield start


@contextmanager
def begun(data: Path, env: Mapping[str, str]) -> Iterator[Run]:
    """A `make run` that need not come to be ready; it has ended at the end of the block."""
    run = Run(data, env)
    try:
        yield run
    finally:
        run.end()


@contextmanager
def starting(docker: Docker | None) -> Iterator[Start]:
    runtime = {**docker.env, "RUNTIME": "containers"} if docker else {"RUNTIME": "local"}
    runs: list[Run] = []

    def start(data: Path, **env: str) -> Run:
        run = Run(data, {**runtime, **env})
        runs.append(run)
        run.wait_ready()
        return run

    try:
        yield start
    finally:
        for run in runs:
            run.end()
        if docker:
            remove_volumes(docker, {run.project for run in runs if run.project})


def remove_volumes(docker: Docker, projects: set[str]) -> None:
    volumes = [name for project in projects for name in of_project(docker, project)["volume"]]
    if volumes:
        docker("volume", "rm", *volumes)


def of_project(docker: Docker, project: str) -> dict[str, list[str]]:
    """What the engine has of a compose project, running or not."""
    label = f"label=com.docker.compose.project={project}"
    listings = {"container": ["--all"], "network": [], "volume": []}
    return {
        kind: docker(kind, "ls", "--quiet", "--filter", label, *options).split()
        for kind, options in listings.items()
    }


def container(docker: Docker, run: Run, part: str) -> str:
    label = "label=com.docker.compose"
    project, service = f"{label}.project={run.project}", f"{label}.service={part}"
    return docker("ps", "--quiet", "--filter", project, "--filter", service)


@pytest.fixture(scope="module")
def running(runtime: str, request: pytest.FixtureRequest) -> Iterator[Run]:
    """One that no test ends."""
    docker = request.getfixturevalue("docker") if runtime == "containers" else None
    with (
        tempfile.TemporaryDirectory(prefix="portero-run-") as folder,
        starting(docker) as start,
    ):
        yield start(Path(folder))


def curl_lines(run: Run) -> str:
    lines = run.output().partition("\nready ")[2].splitlines()
    commands = [line for line in lines if "curl " in line]
    assert len(commands) == 2, lines
    return "\n".join(commands)


def agent_token(run: Run) -> str:
    name, _, secret = (run.data / "demo-logins").read_text().splitlines()[0].partition("=")
    url = f"http://127.0.0.1:{run.gateway}/llm/login"
    return str(requests.post(url, auth=(name, secret), timeout=10).json()["token"])


def test_the_two_printed_lines_stream_an_answer_when_pasted(running: Run) -> None:
    assert f"ready http://127.0.0.1:{running.gateway}" in running.output()
    pasted = subprocess.run(
        ["bash", "-c", curl_lines(running)], capture_output=True, text=True, timeout=PASTED_SECONDS
    )
    events = re.findall(r"^data: (.*)$", pasted.stdout, re.MULTILINE)
    assert len(events) > STREAM_EVENTS, pasted.stderr
    assert events[-1] == "[DONE]"


def test_the_openai_client_streams_a_real_answer(running: Run) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{running.gateway}/v1", api_key=agent_token(running)
    ) as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > STREAM_EVENTS
    assert len("".join(pieces).split()) > STREAM_EVENTS


def test_the_openai_client_raises_its_own_exception_for_a_bad_token(running: Run) -> None:
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{running.gateway}/v1", api_key="bad") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_plain_requests_get_a_whole_answer(running: Run) -> None:
    answer = requests.post(
        f"http://127.0.0.1:{running.gateway}/llm/chat/completions",
        headers={"Authorization": f"Bearer {agent_token(running)}"},
        json={
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 8,
        },
        timeout=60,
    )
    assert answer.json()["choices"][0]["message"]["content"]


def in_bare_shell(line: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """A line as a person types it, in a shell that knows no setting of the stack's."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        input=given,
        capture_output=True,
        text=True,
        timeout=PASTED_SECONDS,
    )


def make_admin(run: Run, words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    return in_bare_shell(f"make admin DATA_DIR={run.data} ARGS='{words}'", given)


def chat_status(run: Run, token: str) -> int:
    url = f"http://127.0.0.1:{run.gateway}/v1/models"
    sent = {"Authorization": f"Bearer {token}"}
    return requests.get(url, headers=sent, timeout=30).status_code


def test_the_printed_admin_line_revokes_the_demo_user_p4(running: Run) -> None:
    (line,) = re.findall(r"(?m)^make admin .*$", running.output())
    token = agent_token(running)
    assert chat_status(running, token) == 200
    done = in_bare_shell(line)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\d+ unexpired tokens are revoked", done.stdout)
    assert chat_status(running, token) == 401


def test_a_user_of_ones_own_is_added_logs_in_gets_another_secret_and_is_removed_p4(
    running: Run,
) -> None:
    door = f"http://127.0.0.1:{running.gateway}/llm/login"

    def login(secret: str) -> requests.Response:
        return requests.post(door, auth=("AGNRmine", secret), timeout=10)

    assert make_admin(running, "users add AGNRmine", "it is $mine\n").returncode == 0
    token = login("it is $mine").json()["token"]
    listed = make_admin(running, "sessions --user AGNRmine --json")
    assert [row["subject"] for row in json.loads(listed.stdout)["sessions"]] == ["AGNRmine"]
    said = make_admin(running, "users passwd AGNRmine --generate").stdout
    assert chat_status(running, token) == 401
    assert login("it is $mine").status_code == 401
    token = login(said.splitlines()[-1].partition("=")[2]).json()["token"]
    assert "AGNRmine  agent_reasoning  hash" in make_admin(running, "users list").stdout
    assert make_admin(running, "users remove AGNRmine").returncode == 0
    assert chat_status(running, token) == 401
    assert make_admin(running, "users remove AGNRmine").returncode != 0
    question = "explain AGNRmine POST /v1/chat/completions"
    assert make_admin(running, question).stdout.startswith("200 allowed")


@pytest.mark.in_containers_too
def test_a_demo_user_may_be_removed_and_the_next_start_shows_another_p4(
    start: Start, tmp_path: Path
) -> None:
    run = start(tmp_path)
    name = (tmp_path / "demo-logins").read_text().partition("=")[0]
    assert make_admin(run, f"users remove {name}").returncode == 0
    run.end()
    # What has ended is no stack for `make admin`.
    told = make_admin(run, "keys list").stderr.splitlines()[0]
    assert told.startswith(f"portero: no stack runs on {tmp_path}")
    again = start(tmp_path)
    assert f"-u {name}:" not in again.output().rpartition("\nready ")[2]
    assert "[DONE]" in in_bare_shell(curl_lines(again)).stdout


@pytest.mark.in_containers_too
def test_a_policy_of_ones_own_counts_and_counts_again_when_it_changes_p6(
    start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    folder = tmp_path / "policy of ours"
    folder.mkdir()
    folder.chmod(0o755)

    def write(ttl_seconds: int) -> Path:
        def change(policy: dict[str, Any]) -> None:
            policy["roles"]["agent_reasoning"]["ttl_seconds"] = ttl_seconds

        return write_policy(folder / "next", change).replace(folder / "ours.yaml")

    run = start(tmp_path, LLM_UPSTREAM=upstream.url, POLICY_FILE=str(write(44)))
    assert chat_status(run, agent_token(run)) == 200
    assert ttl_of(agent_token(run)) == 44
    write(33)
    wait_for(lambda: ttl_of(agent_token(run)) == 33, 5, "the changed policy counts")
    assert chat_status(run, agent_token(run)) == 200
    run.end()


def ttl_of(token: str) -> int:
    claims = jwt.decode(token, options={"verify_signature": False})
    return int(claims["exp"] - claims["iat"])


@pytest.mark.parametrize(
    "part",
    [pytest.param("gateway", marks=pytest.mark.in_containers_too), "issuer", "reconciler", "llm"],
)
def test_the_death_of_any_part_ends_all_and_is_told(
    start: Start, runtime: str, tmp_path: Path, part: str, request: pytest.FixtureRequest
) -> None:
    run = start(tmp_path)
    docker: Docker | None = None
    if runtime == "containers":
        docker = request.getfixturevalue("docker")
        docker("kill", container(docker, run, part))
    else:
        os.kill(run.pid(part), signal.SIGKILL)
    assert run.process.wait(END_SECONDS) != 0
    assert re.search(rf"{part} ended: killed by SIGKILL; its log is .*{part}\.log", run.output())
    assert not list((tmp_path / "run").glob("*.pid"))
    if docker:
        left = of_project(docker, run.project)
        assert (left["container"], left["network"]) == ([], [])


def test_a_taken_port_is_told_in_one_line(running: Run, runtime: str, tmp_path: Path) -> None:
    answer = subprocess.run(
        ["make", "run"],
        cwd=ROOT,
        env={**running.env, "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode != 0
    assert f"{running.gateway}" in answer.stderr
    assert "GATEWAY_PORT" in answer.stderr


@pytest.mark.in_containers_too
def test_what_the_llm_servers_are_is_told_before_ready_and_the_lines_name_a_model_that_is_there_u3(
    start: Start, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answers["/"] = "Ollama is running"
    (nobody,) = free_ports(1)
    servers = [upstream.url, f"http://{upstream.host}:{nobody}"]
    run = start(tmp_path, LLM_UPSTREAM=",".join(servers), LLM_KIND="vllm", LLM_API_KEY="of-theirs")
    said = run.output().partition("\nready ")[0].splitlines()
    assert [line for line in said if line.startswith("LLM server")] == [
        f"LLM server {servers[0]}: seems to be ollama, but LLM_KIND is vllm: set LLM_KIND=ollama; "
        "1 model: tiny",
        f"LLM server {servers[1]}: cannot be reached: nothing listens there",
    ]
    upstream.forget()
    pasted = subprocess.run(
        ["bash", "-c", curl_lines(run)], capture_output=True, text=True, timeout=60
    )
    assert pasted.stdout.rstrip().endswith("data: [DONE]"), pasted.stderr
    chat = upstream.seen[-1]
    assert (chat.target, json.loads(chat.body)["model"]) == ("/v1/chat/completions", "tiny")
    assert chat.values("authorization") == ["Bearer of-theirs"]
    assert "of-theirs" not in run.output()
    run.end()


def test_a_base_url_that_goes_on_ends_the_start_in_the_gateways_own_words_u3(
    runtime: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    docker = request.getfixturevalue("docker") if runtime == "containers" else None
    settings = {"RUNTIME": runtime, "LLM_UPSTREAM": "http://127.0.0.1:8000/v1"}
    with begun(tmp_path, {**(docker.env if docker else {}), **settings}) as run:
        wait_for(lambda: run.process.poll() is not None, READY_SECONDS, "make run has ended")
    assert "portero: gateway ended: exit status 1; its log is " in run.output()
    assert "LLM_UPSTREAM: number 1 ends in /v1: leave out /v1, a base URL is what" in run.output()
    if docker:
        project = project_of(tmp_path, {}).name
        assert not of_project(docker, project)["container"]
        remove_volumes(docker, {project})


def test_ctrl_c_takes_all_containers_and_leaves_the_users(
    start_containers: Start, docker: Docker, tmp_path: Path
) -> None:
    run = start_containers(tmp_path)
    logins = (tmp_path / "demo-logins").read_text()
    run.end(signal.SIGINT)
    left = of_project(docker, run.project)
    assert (left["container"], left["network"], len(left["volume"])) == ([], [], 2)
    again = start_containers(tmp_path)
    assert again.project == run.project
    assert (tmp_path / "demo-logins").read_text() == logins
    assert agent_token(again)


@pytest.mark.parametrize("words", ["Building images", " Network portero", "Started"])
def test_ctrl_c_at_any_moment_of_the_start_leaves_no_container_p6(
    docker: Docker, tmp_path: Path, words: str
) -> None:
    log = tmp_path / "log" / "compose.log"
    with begun(tmp_path, {**docker.env, "RUNTIME": "containers"}) as run:
        wait_for(lambda: words in run.output() + read_text(log), READY_SECONDS, words)
        run.end(signal.SIGINT)
    project = project_of(tmp_path, {}).name
    left = of_project(docker, project)
    remove_volumes(docker, {project})
    assert (left["container"], left["network"]) == ([], [])
    assert run.output().splitlines()[-2] == "portero: stopped"


@pytest.mark.parametrize("part", ["llm", "reconciler"])
def test_ctrl_c_at_any_moment_of_the_start_leaves_no_process_p6(tmp_path: Path, part: str) -> None:
    with begun(tmp_path, {"RUNTIME": "local"}) as run:
        wait_for(lambda: read_text(tmp_path / "run" / f"{part}.pid"), READY_SECONDS, part)
        pids = [int(path.read_text()) for path in (tmp_path / "run").glob("*.pid")]
        run.end(signal.SIGINT)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert run.output().splitlines()[-2] == "portero: stopped"


def test_what_a_killed_run_left_is_no_obstacle_and_a_hang_up_takes_all_containers(
    start_containers: Start, docker: Docker, tmp_path: Path
) -> None:
    run = start_containers(tmp_path)
    os.kill(int((tmp_path / "run" / "lock").read_text()), signal.SIGKILL)
    assert run.process.wait(END_SECONDS) != 0
    assert of_project(docker, run.project)["container"]
    start_containers(tmp_path, GATEWAY_PORT=str(run.gateway)).end(signal.SIGHUP)
    assert not of_project(docker, run.project)["container"]


def test_keys_and_users_of_ones_own_reach_containers_as_private_files(
    start_containers: Start, docker: Docker, tmp_path: Path
) -> None:
    users, sync_key = tmp_path / "users.env", tmp_path / "sync_key"
    secret_key = secrets.token_urlsafe(32)
    for path, text in ((users, credentials_text()), (sync_key, secrets.token_urlsafe(32))):
        path.touch(0o600)
        path.write_text(text)
    run = start_containers(
        tmp_path,
        SECRET_KEY=secret_key,
        SYNC_KEY_FILE=str(sync_key),
        CREDENTIALS_FILE=str(users),
        TOKEN_TTL_SECONDS="33",
    )
    door = f"http://127.0.0.1:{run.gateway}/llm/login"
    me = ("AGNRTEST01", USERS["AGNRTEST01"][0])
    answer = requests.post(door, auth=me, timeout=10).json()
    assert answer["ttl_seconds"] == 33
    assert jwt.decode(answer["token"], secret_key, ["HS256"], options={"verify_aud": False})
    shown = docker("inspect", *of_project(docker, run.project)["container"])
    assert secret_key not in shown
    assert sync_key.read_text() not in shown
    users.write_text(credentials_text().replace("AGNRTEST01", "AGNRTEST09"))
    wait_for(
        lambda: requests.post(door, auth=me, timeout=10).status_code == 401,
        END_SECONDS,
        "the user that was removed is refused",
    )


def test_the_issuers_image_has_the_command_portero_admin_p4(
    start_containers: Start, docker: Docker, tmp_path: Path
) -> None:
    run = start_containers(tmp_path)
    said = docker("exec", container(docker, run, "issuer"), "portero-admin", "users", "list")
    assert re.search(r"(?m)^AGNR\w+  agent_reasoning  hash$", said)


def test_users_edited_in_containers_are_kept_in_the_file_they_came_from_p4(
    start_containers: Start, tmp_path: Path
) -> None:
    users = tmp_path / "users.env"
    users.write_text(f"# ours\n{credentials_text()}")
    users.chmod(0o600)
    run = start_containers(tmp_path, CREDENTIALS_FILE=str(users))
    assert make_admin(run, "users add AGNRmine", "a secret").returncode == 0
    assert re.search(r"(?m)^AGNRmine=\$2b\$", users.read_text())
    assert users.read_text().startswith(f"# ours\n{credentials_text()}")
    assert make_admin(run, "users remove AGNRmine").returncode == 0
    assert users.read_text() == f"# ours\n{credentials_text()}"
