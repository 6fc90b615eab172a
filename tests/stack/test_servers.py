"""LLM servers of a policy through the whole stack: from the file by the issuer to the gateway, and
what arrives at each server, which speak as Ollama, vLLM and LocalAI do, or are llama.cpp's own.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests

from run.commands import ROOT
from tests.support.deployment import Caller, Local, deployed, wait_ready
from tests.support.policies import write_policy
from tests.support.ports import free_ports
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

AGENT, ADMIN, PERSON = "AGIATEST01", "ADMNTEST01", "USRSTEST01"
#: A change counts within so long.
COUNTS_SECONDS = 2.0
#: A server is asked for its models every few seconds.
LISTED_SECONDS = 8.0
KEY, OTHER_KEY = "sk-first-of-the-rack", "sk-second-of-the-rack"


def ollama_list(*names: str) -> dict[str, Any]:
    return {"models": [{"name": name, "model": name, "size": 1} for name in names]}


def openai_list(*names: str) -> dict[str, Any]:
    listed = [{"id": name, "object": "model", "created": 1, "owned_by": "x"} for name in names]
    return {"object": "list", "data": listed}


@dataclass
class House:
    """A deployment with three servers."""

    running: Local
    folder: Path
    box: Upstream
    rack: Upstream
    attic: Upstream

    @property
    def caller(self) -> Caller:
        return Caller(self.running)

    @property
    def all(self) -> dict[str, Upstream]:
        return {"box": self.box, "rack": self.rack, "attic": self.attic}

    def chat(self, token: str, model: str, **more: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "ping"}]}
        return self.caller.call(token, body=body, **more)

    def asked(self) -> dict[str, list[str]]:
        """What has arrived of callers at each server; the gateway asks for lists by itself."""
        return {
            name: [seen.line.rpartition(" ")[0] for seen in one.seen if seen.values("x-auth-user")]
            for name, one in self.all.items()
        }

    def forget(self) -> None:
        for one in self.all.values():
            one.seen.clear()

    def write(self, change: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
        """The policy, moved into its place."""

        def whole(content: dict[str, Any]) -> None:
            content.update(servers=self.rows(), aliases=ALIASES)
            change(content)

        new = self.folder / "policy.new"
        write_policy(new, whole)
        new.replace(self.folder / "policy.yaml")

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"name": "box", "url": self.box.url, "kind": "ollama"},
            {
                "name": "rack",
                "url": f"{self.rack.url}/gpu",
                "kind": "vllm",
                "weight": 2,
                "credential_file": "rack.key",
            },
            {"name": "attic", "url": self.attic.url, "kind": "localai"},
        ]


ALIASES = {"fast": "llama3.2:3b", "claude-*": ["gone", "qwen3-coder:30b"]}


@contextmanager
def house(folder: Path) -> Iterator[House]:
    with recording() as box, recording() as rack, recording() as attic:
        box.answers["/api/tags"] = ollama_list("llama3.2:3b", "both:latest")
        rack.answers["/gpu/v1/models"] = openai_list("qwen3-coder:30b")
        attic.answers["/v1/models"] = openai_list("phi-2", "both")
        attic.answers["/api/tags"] = ollama_list("phi-2", "both")
        (folder / "rack.key").write_text(KEY)
        (folder / "rack.key").chmod(0o600)
        built = House(Local.__new__(Local), folder, box, rack, attic)
        built.write()
        with deployed("", POLICY_FILE=str(folder / "policy.yaml")) as running:
            built.running = running
            wait_for(lambda: states(running) == {"up"}, LISTED_SECONDS, "all are up")
            yield built


def states(running: Local) -> set[str]:
    """How the gateway finds its servers."""
    said = running.command("servers", "--json", check=False).stdout
    return {row["state"] for row in json.loads(said)["servers"]}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("policy")) as one:
        yield one


@pytest.fixture
def servers(kept: House) -> House:
    kept.forget()
    return kept


@pytest.mark.parametrize(
    ("model", "server", "sent_as"),
    [
        ("llama3.2:3b", "box", "llama3.2:3b"),
        ("qwen3-coder:30b", "rack", "qwen3-coder:30b"),
        ("phi-2", "attic", "phi-2"),
        ("fast", "box", "llama3.2:3b"),
        ("claude-sonnet-4-5", "rack", "qwen3-coder:30b"),
    ],
)
def test_a_chat_arrives_at_the_server_that_has_its_model_and_nowhere_else(
    servers: House, model: str, server: str, sent_as: str
) -> None:
    token = servers.caller.token(AGENT)
    assert servers.chat(token, model).status_code == 200
    path = "/gpu/v1/chat/completions" if server == "rack" else "/v1/chat/completions"
    expected = {name: [f"POST {path}"] if name == server else [] for name in servers.all}
    assert servers.asked() == expected
    (seen,) = [one for one in servers.all[server].seen if one.line.startswith("POST ")]
    assert json.loads(seen.body)["model"] == sent_as


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true", "/v1/responses"])
def test_every_dialect_finds_its_server_by_model(servers: House, path: str) -> None:
    token = servers.caller.token(AGENT)
    body = {"model": "claude-opus-4", "messages": [], "input": "ping", "max_tokens": 5}
    assert servers.caller.call(token, path, body=body).status_code == 200
    assert servers.asked() == {"box": [], "rack": [f"POST /gpu{path}"], "attic": []}


def test_a_list_is_of_all_servers_with_the_plain_aliases(servers: House) -> None:
    token = servers.caller.token(AGENT)
    listed = servers.caller.call(token, "/v1/models", method="GET").json()["data"]
    names = [model["id"] for model in listed]
    assert len(names) == len(set(names))
    assert {"llama3.2:3b", "qwen3-coder:30b", "phi-2", "fast"} <= set(names)
    assert "claude-*" not in names


def test_a_model_that_no_server_has_is_one_that_is_not_there(servers: House) -> None:
    answer = servers.chat(servers.caller.token(AGENT), "none")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert servers.asked() == {"box": [], "rack": [], "attic": []}


def test_a_route_that_only_some_kinds_have_goes_to_those(servers: House) -> None:
    token = servers.caller.token(AGENT)
    body = {"model": "both", "messages": []}
    for _ in range(6):
        assert servers.caller.call(token, "/api/chat", body=body).status_code == 200
    assert servers.asked()["rack"] == []
    servers.forget()
    body = {"model": "qwen3-coder:30b", "messages": []}
    assert servers.caller.call(token, "/api/chat", body=body).status_code == 404
    assert servers.asked() == {"box": [], "rack": [], "attic": []}


def test_a_servers_credential_goes_to_it_alone_and_a_changed_one_counts_soon(
    servers: House,
) -> None:
    token = servers.caller.token(AGENT)

    def sent_with(model: str) -> list[str]:
        servers.forget()
        servers.chat(token, model)
        return [
            v for one in servers.all.values() for s in one.seen for v in s.values("authorization")
        ]

    assert set(sent_with("qwen3-coder:30b")) == {f"Bearer {KEY}"}
    assert sent_with("phi-2") == []
    (servers.folder / "rack.key").write_text(OTHER_KEY + "\n")
    try:
        wait_for(
            lambda: f"Bearer {OTHER_KEY}" in sent_with("qwen3-coder:30b"),
            COUNTS_SECONDS + 1,
            "it counts",
        )
    finally:
        (servers.folder / "rack.key").write_text(KEY)
    for part in ("gateway", "issuer", "reconciler"):
        said = servers.running.output(part)
        assert KEY not in said
        assert OTHER_KEY not in said
    for file in servers.running.data.glob("sessions.db*"):
        assert KEY.encode() not in file.read_bytes()


def test_explain_names_the_server_and_the_model_behind_an_alias(servers: House) -> None:
    words = ("explain", AGENT, "POST", "/v1/chat/completions", "--model")
    told = servers.running.command(*words, "claude-haiku").stdout
    assert "model  'qwen3-coder:30b', for which 'claude-haiku' stands\n" in told
    assert "server rack (up, 0 requests now)\n" in told
    told = servers.running.command(*words, "phi-2").stdout
    assert "server attic (up, 0 requests now)\n" in told
    none = servers.running.command(*words, "none", check=False)
    assert none.returncode == 1
    assert none.stdout.startswith("404 model_not_found\n")


# Nothing that a client sends chooses a server.

NAMES = ("box", "rack", "attic")
HEADERS = (
    "X-Server", "X-Portero-Server", "X-Backend", "X-Upstream", "X-Llm-Server", "X-Target",
    "X-Forwarded-Host", "X-Forwarded-Server", "X-Original-Url", "X-Rewrite-Url", "Forwarded",
    "X-Auth-Server", "X-Host", "Via", "X-Accel-Redirect", "Route", "Destination",
)  # fmt: skip
FIELDS = (
    "server", "server_name", "backend_url", "url", "base_url", "api_base", "upstream", "url_idx",
    "host", "provider", "route", "node",
)  # fmt: skip
QUERIES = (
    "server", "url_idx", "backend", "host", "provider", "user", "role", "limits", "next",
    "bypass_filter",
)  # fmt: skip


def tries(house: House) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ways to ask for a server, each of which means one that has not the model."""
    body = {"model": "phi-2", "messages": []}
    for header, name in product(HEADERS, NAMES):
        yield f"{header}: {name}", {"headers": {header: name}, "body": body}
    for header, other in product(HEADERS[:8], (house.box, house.rack)):
        yield f"{header}: {other.url}", {"headers": {header: other.url}, "body": body}
    for field, name in product(FIELDS, NAMES):
        yield f"{field}={name} in the body", {"body": {**body, field: name}}
    for field, other in product(FIELDS, (house.box, house.rack)):
        yield f"{field}={other.url} in the body", {"body": {**body, field: other.url}}
    for field, name in product(QUERIES, (*NAMES, "0", "true")):
        path = f"/v1/chat/completions?{field}={name}"
        yield path, {"path": path, "body": body}
    for path in (
        *(f"/{name}/v1/chat/completions" for name in NAMES),
        *(f"/v1/chat/completions/{at}" for at in (0, 1, "rack")),
        *(f"/api/chat/{at}" for at in (0, 1, "rack")),
        *(f"/v1/messages/{at}" for at in (0, 1, "rack")),
        *(f"/servers/{name}/v1/chat/completions" for name in NAMES),
        "/servers/", "/servers", "/servers/rack", "//servers/rack/v1/models",
        "/llm/servers/rack/v1/chat/completions", "/servers/..%2frack/v1/chat/completions",
    ):  # fmt: skip
        yield path, {"path": path, "body": body}
    for host in ("rack.lan", "rack", f"127.0.0.1:{house.rack.port}"):
        yield f"Host: {host}", {"headers": {"Host": host}, "body": body}


def test_n8_n9_nothing_that_a_client_sends_reaches_a_server_it_was_not_routed_to(
    servers: House,
) -> None:
    token = servers.caller.token(AGENT)
    every = list(tries(servers))
    assert len(every) >= 200
    wrong = []
    with requests.Session() as session:
        for what, words in every:
            servers.forget()
            status = servers.caller.call(token, session=session, **words).status_code
            asked = servers.asked()
            expected = ["POST /v1/chat/completions"] if status == 200 else []
            arrived = [line.partition("?")[0] for line in asked["attic"]]
            if asked["box"] or asked["rack"] or arrived != expected or status >= 500:
                wrong.append((what, status, asked))
    assert wrong == []


@pytest.mark.parametrize("path", ["/models/apply", "/servers/attic/models/apply"])
def test_n13_what_makes_a_server_fetch_a_url_is_for_nobody_unless_the_policy_says_so(
    servers: House, path: str
) -> None:
    body = {"url": "http://169.254.169.254/"}
    for user in (AGENT, PERSON, ADMIN):
        token = servers.caller.token(user)
        assert servers.caller.call(token, path, body=body).status_code in (403, 404)
    assert servers.asked() == {"box": [], "rack": [], "attic": []}


def test_management_is_reached_by_a_servers_name_alone_and_at_that_server(servers: House) -> None:
    token = servers.caller.token(ADMIN)
    body = {"model": "new:1b"}
    assert servers.caller.call(token, "/api/pull", body=body).status_code == 404
    assert servers.caller.call(token, "/servers/rack/api/pull", body=body).status_code == 404
    assert servers.caller.call(token, "/servers/none/api/pull", body=body).status_code == 404
    assert servers.asked() == {"box": [], "rack": [], "attic": []}
    assert servers.caller.call(token, "/servers/box/api/pull", body=body).status_code == 200
    assert servers.asked() == {"box": ["POST /api/pull"], "rack": [], "attic": []}


# A policy whose servers change.


def test_servers_change_within_two_seconds_under_load_and_no_request_is_lost(
    servers: House,
) -> None:
    token = servers.caller.token(AGENT)
    stop, statuses = threading.Event(), []

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                statuses.append(servers.chat(token, "both", session=session).status_code)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for name in ("box", "attic", "box"):
            servers.write(partial(drop, name))
            is_asked = partial(arrives_at, servers, token, name)
            wait_for(partial(negation, is_asked), COUNTS_SECONDS + 1, f"{name} is left out")
            servers.write()
            wait_for(is_asked, LISTED_SECONDS, f"{name} is asked again")
    finally:
        servers.write()
        stop.set()
        for thread in threads:
            thread.join(20)
    assert len(statuses) > 20
    assert set(statuses) == {200}


def drop(name: str, content: dict[str, Any]) -> None:
    content["servers"] = [row for row in content["servers"] if row["name"] != name]


def negation(condition: Callable[[], bool]) -> bool:
    return not condition()


def arrives_at(servers: House, token: str, name: str) -> bool:
    """Whether one of some chats does."""
    one = servers.all[name]
    one.seen.clear()
    for _ in range(20):
        servers.chat(token, "both")
    return any(seen.line.startswith("POST ") for seen in one.seen)


def test_a_faulty_change_of_servers_leaves_those_before_and_is_told_with_its_line(
    servers: House,
) -> None:
    token = servers.caller.token(AGENT)
    wait_for(lambda: servers.chat(token, "llama3.2:3b").status_code == 200, 5, "all are back")
    servers.write(lambda content: content["servers"][0].update(url="http://127.0.0.1/v1"))
    try:
        wait_for(
            lambda: "servers[1].url ends in a route, /v1" in servers.running.output("issuer"),
            COUNTS_SECONDS + 3,
            "the fault is told",
        )
        assert servers.chat(token, "llama3.2:3b").status_code == 200
        checked = servers.running.command("check", check=False)
        assert checked.returncode == 1
        assert "servers[1].url ends in a route" in checked.stderr
    finally:
        servers.write()


@pytest.fixture
def move(servers: House) -> Iterator[Callable[..., requests.Response]]:
    """Takes a server out or puts it back, as an admin's program does; all are back at the end."""
    admin, out = servers.caller.token(ADMIN), set[str]()

    def moved(name: str, verb: str, token: str = admin) -> requests.Response:
        path = f"/admin/api/servers/{name}/{verb}"
        answer = servers.caller.call(token, path, body={})
        (out.add if verb == "take-out" else out.discard)(name)
        return answer

    yield moved
    for name in tuple(out):
        moved(name, "put-back")


Move = Callable[[str, str], requests.Response]


def test_a_server_that_is_taken_out_gets_no_new_requests_and_ends_those_that_run(
    servers: House, move: Move
) -> None:
    token = servers.caller.token(AGENT)
    servers.box.events, servers.box.gap = 10_000, 0.05
    body = {"model": "llama3.2:3b", "messages": [], "stream": True}
    with servers.caller.call(token, body=body, stream=True) as streaming:
        lines = streaming.iter_lines()
        assert next(lines)
        assert move("box", "take-out").json() == {"server": "box", "pending": []}
        for _ in range(20):
            assert servers.chat(token, "both").status_code == 200
        assert len(servers.asked()["attic"]) == 20
        refused = servers.chat(token, "llama3.2:3b")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "llama3.2:3b" not in listed(servers, token)
        assert len(servers.asked()["box"]) == 1
        for _ in range(5):
            assert next(line for line in lines if line)
    assert move("box", "put-back").status_code == 200
    servers.box.events, servers.box.gap = 5, 0.02
    assert servers.chat(token, "llama3.2:3b").status_code == 200
    assert "llama3.2:3b" in listed(servers, token)


def listed(servers: House, token: str) -> set[str]:
    answer = servers.caller.call(token, "/v1/models", method="GET")
    return {model["id"] for model in answer.json()["data"]}


def test_a_server_stays_out_over_another_policy_and_a_restart_and_is_told_with_by_whom(
    servers: House, move: Move
) -> None:
    running = servers.running
    move("box", "take-out")
    servers.write(lambda content: content["aliases"].update(other="phi-2"))
    token = servers.caller.token(AGENT)
    wait_for(lambda: "other" in listed(servers, token), 5, "the policy counts")
    running.stop("gateway")
    running.start("gateway")
    wait_ready(running)
    wait_for(lambda: states(running) == {"up"}, LISTED_SECONDS, "all were asked")
    assert servers.chat(token, "llama3.2:3b").status_code == 503
    shown = running.command("servers", check=False).stdout.splitlines()
    assert [f"taken out by {ADMIN} at " in line for line in shown] == [True, False, False]
    told = running.command("explain", AGENT, "POST", "/v1/chat/completions", "--model", "both")
    assert "attic (up, 0 requests now); else box (taken out, 0 requests now)" in told.stdout
    running.command("servers", "put-back", "box")
    assert servers.chat(token, "llama3.2:3b").status_code == 200
    rows = running.command("audit", "--json").stdout
    moves = [
        (row["event"], row["actor"]["name"], row["target"])
        for row in json.loads(rows)["audit"]
        if row["event"] in ("servers.take_out", "servers.put_back")
    ]
    assert moves[0][::2] == ("servers.put_back", "box")
    assert moves[1] == ("servers.take_out", ADMIN, "box")
    servers.write()


def test_only_an_admin_moves_a_server_and_only_one_that_there_is(
    servers: House, move: Callable[..., requests.Response]
) -> None:
    assert move("box", "take-out", servers.caller.token(AGENT)).status_code == 403
    for name, verb, why in (
        ("nobody", "take-out", "names no LLM server"),
        ("box", "put-back", "is not taken out"),
    ):
        answer = move(name, verb)
        assert answer.status_code == 400
        assert why in answer.json()["error"]["message"]
    assert servers.chat(servers.caller.token(AGENT), "llama3.2:3b").status_code == 200


def test_an_upstream_beside_servers_stops_the_start_with_one_clear_line(servers: House) -> None:
    beside: Mapping[str, str] = {**servers.running.env, "LLM_UPSTREAM": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "issuer", "reconcile"],
        cwd=ROOT,
        env=dict(beside),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.count("LLM_UPSTREAM: must not be set beside policy.yaml line") == 1


# Real ones.

LLAMA = """
import sys
from demo import llm
llm.MODEL_ALIAS = sys.argv[1]
sys.exit(llm.main())
"""


@contextmanager
def llama(model: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """llama.cpp's own server, with the bundled model under a name of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA, model],
        cwd=ROOT,
        env={"LLM_LISTEN": f"127.0.0.1:{port}", "PATH": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def test_two_llama_servers_with_different_models_answer_each_for_its_own(tmp_path: Path) -> None:
    ports = {"little": free_ports(1)[0], "large": free_ports(1)[0]}
    rows = [
        {"name": name, "url": f"http://127.0.0.1:{port}", "kind": "llama-server"}
        for name, port in ports.items()
    ]
    policy = write_policy(tmp_path / "policy.yaml", lambda content: content.update(servers=rows))
    with ExitStack() as started:
        real = {name: started.enter_context(llama(name, port)) for name, port in ports.items()}
        running = started.enter_context(deployed("", POLICY_FILE=str(policy)))
        wait_for(lambda: states(running) == {"up"}, 60, "both have loaded")
        caller = Caller(running)
        token = caller.token(AGENT)
        for name in ports:
            body = {
                "model": name,
                "messages": [{"role": "user", "content": "Say hi."}],
                "max_tokens": 4,
            }
            answer = caller.call(token, body=body, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == name
        listed = caller.call(token, "/v1/models", method="GET").json()["data"]
        assert {model["id"] for model in listed} == {"little", "large"}
        real["large"].kill()
        body = {"model": "large", "messages": []}
        wait_for(lambda: caller.call(token, body=body).status_code in (502, 503), 10, "one is away")
        body = {"model": "little", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        assert caller.call(token, body=body, timeout=60).status_code == 200
