"""What `make run` finds out about LLM servers before "ready", held to real little servers."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from run import llm_servers, ready
from run.commands import ROOT
from run.llm_servers import Answer, Found, Question
from run.plan import Plan, read_plan
from run.ready import DEMO_MODEL, MODEL_TO_FILL_IN, Example, example, words
from tests.support.certificates import Authority
from tests.support.ports import free_ports, listen
from tests.support.waiting import within

KEY = 'sk-$"\\ é'


class Little:
    """A server on loopback; `answers` are JSON by path, `seen` what was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[tuple[str, Mapping[str, str]]] = []


Respond = Callable[[str, str, Mapping[str, str]], tuple[int, Mapping[str, str], bytes]]


@contextmanager
def little(respond: Respond, context: ssl.SSLContext | None = None) -> Iterator[Little]:
    """A server that answers method, path and headers by status, headers and body."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.command} {self.path} {body.decode()}".rstrip()
            server.seen.append((asked, dict(self.headers.items())))
            status, headers, content = respond(self.command, self.path, dict(self.headers.items()))
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A handshake that fails, or a client that leaves: some tests are about that."""

        def finish_request(self, request: Any, client_address: Any) -> None:
            if context is None:
                super().finish_request(request, client_address)
                return
            with context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    with Server(("127.0.0.1", free_ports(1)[0]), Handler) as running:
        scheme = "https" if context else "http"
        server = Little(f"{scheme}://localhost:{running.server_address[1]}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()


def speaking(answers: Mapping[str, Any]) -> Respond:
    """JSON by path, under any base path; 404 elsewhere."""

    def respond(method: str, path: str, _: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        for known, content in answers.items():
            if path.endswith(known):
                return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()
        return 404, {}, b'{"error": "no such route"}'

    return respond


def always(status: int, body: bytes = b"{}", **headers: str) -> Respond:
    return lambda *_: (status, headers, body)


MARKS = ready.marks(ROOT / "policy" / "servers")


def found_at(url: str, key: str = "", trusted: str = "") -> Found:
    (found,) = llm_servers.find_all(Question((url,), key, trusted, MARKS))
    assert found.url == url
    return found


def found_of(respond: Respond, key: str = "") -> Found:
    with little(respond) as server:
        return found_at(server.url, key)


def models(*names: str, **more: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]}


# Kinds and models.

OLLAMA = {"/v1/models": models("llama3.2:3b", owned_by="library"), "/": "Ollama is running"}
LOCALAI = {
    "/v1/models": models("phi-4"),
    "/.well-known/localai.json": {"version": "v4", "endpoints": {}},
}
LLAMA_SERVER = {
    "/v1/models": models("smol", owned_by="llamacpp")
    | {"models": [{"name": "smol", "capabilities": ["completion"]}]}
}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (OLLAMA, "ollama"),
        (LOCALAI, "localai"),
        (LLAMA_SERVER, "llama-server"),
        ({"/v1/models": models("Qwen/Qwen3-8B", owned_by="vllm")}, "vllm"),
        ({"/v1/models": models("a", owned_by="someone")}, ""),
    ],
)
def test_the_kind_of_a_server_is_seen_u3(answers: Mapping[str, Any], kind: str) -> None:
    found = found_of(speaking(answers))
    assert (found.fault, found.kind) == ("", kind)
    assert found.models == found.chat == [answers["/v1/models"]["data"][0]["id"]]


def test_a_kind_says_in_its_file_what_it_is_known_by_p6(tmp_path: Path) -> None:
    mark = "recognized_by: {path: /v1/models, text: '\"tabby\"'}"
    (tmp_path / "tabby.yaml").write_text(f"# a kind\ndialect: openai\n{mark}\nroutes: []\n")
    (tmp_path / "silent.yaml").write_text("dialect: openai\n")
    assert ready.marks(tmp_path) == (("tabby", "/v1/models", '"tabby"'),)
    assert ready.marks(tmp_path / "none") == ()


def test_a_kind_of_ones_own_beside_the_policy_is_known_too_and_has_the_place_of_a_shipped_one_p6(
    tmp_path: Path,
) -> None:
    (tmp_path / "servers").mkdir()
    for kind in ("tabby", "vllm"):
        mark = f"recognized_by: {{path: /, text: 'I am {kind}'}}\n"
        (tmp_path / "servers" / f"{kind}.yaml").write_text(mark)
    env = {"LLM_UPSTREAM": "http://a", "POLICY_FILE": str(tmp_path / "policy.yaml")}
    asked = {kind: (path, text) for kind, path, text in ready.to_ask(env).marks}
    assert asked["tabby"] == ("/", "I am tabby")
    assert asked["vllm"] == ("/", "I am vllm")
    assert asked["ollama"] == ("/", "Ollama is running")


def test_every_kind_that_is_shipped_says_what_it_is_known_by_p6() -> None:
    files = sorted((ROOT / "policy" / "servers").glob("*.yaml"))
    assert [(kind, {"path": path, "text": text}) for kind, path, text in MARKS] == [
        (path.stem, yaml.safe_load(path.read_text())["recognized_by"]) for path in files
    ]


def test_a_llama_server_that_shows_its_list_but_wants_a_key_is_told_of_u3_u4() -> None:
    def respond(
        method: str, path: str, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        is_open = path == "/v1/models" or headers.get("Authorization") == "Bearer theirs"
        return speaking(LLAMA_SERVER)(method, path, headers) if is_open else (401, {}, b"{}")

    assert found_of(respond).fault == "wants a key: set LLM_API_KEY (401)"
    assert found_of(respond, key="x").fault == "refuses the key of LLM_API_KEY (401)"
    assert found_of(respond, key="theirs").models == ["smol"]


@pytest.mark.parametrize("data", [[], None])
def test_a_server_without_a_model_is_one_u3(data: list[object] | None) -> None:
    found = found_of(speaking(OLLAMA | {"/v1/models": {"object": "list", "data": data}}))
    assert (found.fault, found.kind, found.models) == ("", "ollama", [])
    assert words(found, "ollama") == "ollama; it has no model yet"


def test_a_base_path_and_the_key_are_asked_with_as_the_gateway_does_u3_u4() -> None:
    with little(speaking(OLLAMA)) as server:
        found = found_at(f"{server.url}/ollama/", key=KEY)
        assert found.kind == "ollama"
        assert server.seen[0][0] == "GET /ollama/v1/models"
        for asked, headers in server.seen:
            assert asked.split()[1].startswith("/ollama/")
            assert headers["Authorization"].encode("latin-1") == f"Bearer {KEY}".encode()
            assert headers["Host"] == server.url.removeprefix("http://")


# Embedding models.


def test_what_a_model_can_do_is_what_it_says_it_can_do_u3() -> None:
    said = [
        {"name": "granite", "capabilities": ["embedding"]},
        {"name": "my-embed-chat", "capabilities": ["completion"]},
    ]
    listed = models("granite", "my-embed-chat", "nomic-embed-text") | {"models": said}
    found = found_of(speaking({"/v1/models": listed}))
    assert found.models == ["granite", "my-embed-chat", "nomic-embed-text"]
    assert found.chat == ["my-embed-chat"]


@pytest.mark.parametrize(
    ("name", "chats"),
    [
        ("BAAI/bge-m3", False),
        ("intfloat/e5-mistral-7b-instruct", False),
        ("nomic-embed-text:latest", False),
        ("Qwen/Qwen3-Reranker-0.6B", False),
        ("whisper-large-v3", False),
        ("all-MiniLM-L6-v2", False),
        ("llama3.2:3b", True),
        ("Qwen/Qwen3-8B", True),
        ("mixtral:8x7b", True),
    ],
)
def test_a_model_that_says_nothing_is_told_by_its_name(name: str, chats: bool) -> None:
    assert llm_servers.can_chat(name, None) is chats
    found = found_of(speaking({"/v1/models": models(name, owned_by="vllm")}))
    assert found.chat == ([name] if chats else [])


def test_a_server_that_only_embeds_is_said_to_and_its_model_is_shown() -> None:
    found = Found("http://a", "", "vllm", ("bge",), ())
    assert words(found, "vllm") == "vllm; 1 model: bge (none for chats)"
    assert example([found], None) == Example("bge", chats=False)


# Servers that are none, or not for us.


@pytest.mark.parametrize(
    ("respond", "key", "fault"),
    [
        (always(401), "", "wants a key: set LLM_API_KEY (401)"),
        (always(403), "", "wants a key: set LLM_API_KEY (403)"),
        (always(401), KEY, "refuses the key of LLM_API_KEY (401)"),
        (
            always(307, Location="https://llm.lan/v1/models"),
            "",
            "sends one on (307) to https://llm.lan/v1/models: set LLM_UPSTREAM to where that leads",
        ),
        (always(404), "", "has no list of models (404 at /v1/models): is it an LLM server's base"),
        (always(405), "", "has no list of models (405 at /v1/models): is it an LLM server's base"),
        (always(503), "", "is not ready (503); it may be loading its model"),
        (always(500), "", "answers 500 at /v1/models"),
        (
            always(200, b"<!doctype html>", **{"Content-Type": "text/html"}),
            "",
            "answers with a web page (200), not as an LLM server",
        ),
        (always(200, b"\n <html>"), "", "answers with a web page (200), not as an LLM server"),
        (always(400, b"<html>The plain HTTP"), "", "answers with a web page (400)"),
        (always(200, b"pong"), "", "answers what is no list of models at /v1/models"),
        (always(200, b"[]"), "", "answers what is no list of models at /v1/models"),
        (always(200, b'{"a": 1}'), "", "answers what is no list of models at /v1/models"),
        (always(200, b"\xff{"), "", "answers what is no list of models at /v1/models"),
        (always(200, b"{}", **{"Content-Length": "9"}), "", "cannot be reached: its answer breaks"),
    ],
)
def test_what_is_wrong_with_a_server_is_told_u3(respond: Respond, key: str, fault: str) -> None:
    found = found_of(respond, key=key)
    assert found.fault.startswith(fault), found.fault
    assert KEY not in found.fault
    assert (found.models, found.kind) == ([], "")


def test_a_port_where_nobody_listens_is_told_u3(free_port: int) -> None:
    fault = found_at(f"http://127.0.0.1:{free_port}").fault
    assert fault == "cannot be reached: nothing listens there"


def test_a_name_that_nobody_knows_is_told_u3(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    fault = found_at("http://llm.nowhere:8000").fault
    assert fault == "cannot be reached: the name llm.nowhere is not known"


@contextmanager
def raw(speak: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server of bytes; what it accepts it speaks to."""
    listener = listen()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                speak(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def test_a_server_of_another_protocol_is_told_u3() -> None:
    with raw(lambda one: one.sendall(b"SSH-2.0-OpenSSH\r\n")) as url:
        fault = found_at(url).fault
        assert fault == "cannot be reached: what answers there speaks no HTTP; is it https://?"
        plain = found_at(url.replace("http:", "https:")).fault
        assert plain == "cannot be reached: it speaks no TLS; is it http://?"
    with raw(lambda one: one.recv(65536)) as url:
        assert "speaks no HTTP" in found_at(url).fault


def test_a_server_that_says_nothing_is_not_waited_for_u3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_servers, "PIECE_SECONDS", 0.2)
    silent = threading.Event()
    with raw(lambda one: silent.wait(5)) as url:
        assert found_at(url).fault == "cannot be reached: no answer in 0.2 s"
    silent.set()


def test_a_server_that_trickles_for_ever_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_servers, "MAX_SECONDS", 0.5)
    stop = threading.Event()

    def trickle(one: socket.socket) -> None:
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            one.sendall(b"x")

    began = time.monotonic()
    with raw(trickle) as url:
        (one, two) = llm_servers.find_all(Question((url, url)))
        stop.set()
    assert one.fault == two.fault == "cannot be reached: no whole answer in 0.5 s"
    assert time.monotonic() - began < within(3)


# TLS.


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("host", "days", "is_trusted", "fault"),
    [
        ("localhost", 30, True, ""),
        ("localhost", -1, True, "its certificate has expired"),
        ("other.lan", 30, True, "its certificate is for another name (other.lan)"),
        (
            "localhost",
            30,
            False,
            "the authority of its certificate is not trusted: name it in LLM_CA_FILE",
        ),
    ],
)
def test_what_is_wrong_with_a_certificate_is_told_u3_u5(
    authority: Authority, tmp_path: Path, host: str, days: int, is_trusted: bool, fault: str
) -> None:
    trusted = f"# Főtanúsítvány\n{authority.certificate}" if is_trusted else ""
    with little(speaking(OLLAMA), authority.server(tmp_path, host, days)) as server:
        found = found_at(server.url, trusted=trusted)
    assert found.fault == (f"cannot be reached: {fault}" if fault else "")
    assert found.kind == ("" if fault else "ollama")


@pytest.mark.parametrize(
    ("certificate", "name", "fault"),
    [
        ({"subjectAltName": (("DNS", "llm.lan"),)}, "llm.lan", ""),
        ({"subjectAltName": (("DNS", "*.lan"),)}, "llm.lan", ""),
        ({"subjectAltName": (("DNS", "*.lan"),)}, "a.llm.lan", "another name"),
        ({"subjectAltName": (("DNS", "10.0.0.5"),)}, "10.0.0.5", ""),
        ({"subjectAltName": (("IP Address", "10.0.0.5"),)}, "10.0.0.5", "looks for names alone"),
        ({"subject": ((("commonName", "llm.lan"),),)}, "llm.lan", ""),
        (
            {
                "subject": ((("commonName", "10.0.0.5"),),),
                "subjectAltName": (("IP Address", "10.0.0.5"),),
            },
            "10.0.0.5",
            "",
        ),
        (
            {"subject": ((("commonName", "llm.lan"),),), "subjectAltName": (("DNS", "x"),)},
            "llm.lan",
            "another name",
        ),
        ({}, "llm.lan", "another name"),
    ],
)
def test_names_are_compared_as_nginx_compares_them_u5(
    certificate: Mapping[str, Any], name: str, fault: str
) -> None:
    if not fault:
        llm_servers.check_name(name, certificate)
        return
    with pytest.raises(llm_servers.WrongNameError, match=fault):
        llm_servers.check_name(name, certificate)


# In words.


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (Found("u", "", "ollama", ("a",), ("a",)), "ollama", "ollama; 1 model: a"),
        (
            Found("u", "", "vllm", ("a", "b", "c", "d"), ("a",)),
            "ollama",
            "seems to be vllm, but LLM_KIND is ollama: set LLM_KIND=vllm; 4 models: a, b, c, …",
        ),
        (
            Found("u", "", "vllm", ("a", "b"), ("a",)),
            "",
            "seems to be vllm (LLM_KIND=vllm would open its routes alone); 2 models: a, b",
        ),
        (Found("u", "", "", ("a",), ("a",)), "vllm", "reached, of a kind of its own; 1 model: a"),
        (Found("u", "is not ready (503)"), "", "is not ready (503)"),
        (Found("u", "sends one on to \x1b[2J\n"), "", "sends one on to ?[2J?"),
        (Found("u", "", "", ("\x1b]0;\x07" + "a" * 99,), ("a",)), "", None),
    ],
)
def test_each_server_is_one_line_that_is_harmless_on_a_terminal_u3(
    found: Found, wanted: str, said: str | None
) -> None:
    line = words(found, wanted)
    assert line.isprintable()
    assert len(line) < 200
    if said is not None:
        assert line == said


def test_the_model_shown_is_one_that_the_caller_may_use_and_can_be_pasted_u3() -> None:
    found = [
        Found("a", "is not ready (503)"),
        Found("b", "", "vllm", ("bge", "evil\n", "first", "second"), ("evil\n", "first", "second")),
    ]
    assert example(found, None) == Example("first")
    assert example(found, ["second", "bge"]) == Example("second")
    assert example(found, ["bge"]) == Example("bge", chats=False)
    assert example(found, []) is None
    assert example([found[0]], None) is None


# The whole of it.


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "demo-logins").write_text("AGNR01=secret\n")
    return read_plan({"DATA_DIR": str(tmp_path), "LLM_UPSTREAM": "http://a"}, tmp_path)


def untold() -> tuple[int, str]:
    raise AssertionError("the gateway is asked where a policy names the servers alone")


def test_every_server_of_the_list_is_asked_and_told_of_u3(
    plan: Plan, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "models_for", lambda *_: ["llama3.2:3b"])
    with little(speaking(OLLAMA)) as server:
        env = {"LLM_UPSTREAM": f"{server.url}, http://127.0.0.1:{free_port}", "LLM_KIND": "ollama"}
        shown = ready.first_example(plan, env, llm_servers.find_all, untold)
    assert shown == Example("llama3.2:3b")
    assert capsys.readouterr().out.splitlines() == [
        f"LLM server {server.url}: ollama; 1 model: llama3.2:3b",
        f"LLM server http://127.0.0.1:{free_port}: cannot be reached: nothing listens there",
    ]


def test_where_no_server_is_there_the_model_is_left_to_fill_in_u3(plan: Plan) -> None:
    def nobody(question: Question) -> list[Found]:
        return [Found(url, "cannot be reached: x") for url in question.urls]

    env = {"LLM_UPSTREAM": "http://a"}
    assert ready.first_example(plan, env, nobody, untold) == MODEL_TO_FILL_IN


def test_the_bundled_llm_needs_no_finding(tmp_path: Path) -> None:
    own = read_plan({"DATA_DIR": str(tmp_path)}, tmp_path)
    assert ready.first_example(own, {}, llm_servers.find_all, untold) == Example(DEMO_MODEL)


def test_the_key_and_the_certificates_are_read_from_their_files_u4_u5(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k\xff")
    (tmp_path / "ca").write_text("PEM")
    asked = ready.to_ask(
        {
            "LLM_UPSTREAM": "http://a, http://b",
            "LLM_API_KEY_FILE": str(tmp_path / "key"),
            "LLM_CA_FILE": str(tmp_path / "ca"),
        }
    )
    assert asked.urls == ("http://a", "http://b")
    assert llm_servers.as_header(asked.key) == "k\xff"
    assert asked.trusted == "PEM"
    none = ready.to_ask({"LLM_UPSTREAM": "http://a", "LLM_API_KEY_FILE": "/nowhere"})
    assert none == Question(("http://a",), marks=MARKS)


def beside(program: str, given: str) -> tuple[int, str]:
    """As a container would run it: nothing of this checkout is there."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd="/",
        env={},
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, f"WARNING: of the engine\n{done.stdout}{done.stderr}"


def test_it_also_asks_from_where_this_checkout_is_not_u3(free_port: int) -> None:
    with little(speaking(OLLAMA)) as server:
        question = Question((server.url, f"http://127.0.0.1:{free_port}"), KEY)
        assert ready.in_container(beside, question) == llm_servers.find_all(question)
        assert {headers["Authorization"] for _, headers in server.seen} == {
            "Bearer " + llm_servers.as_header(KEY)
        }


@pytest.mark.parametrize("said", [(1, "no such image"), (0, ""), (0, "{}"), (0, "[1]"), (-9, "")])
def test_where_it_cannot_ask_it_says_so_u3(said: tuple[int, str]) -> None:
    (found,) = ready.in_container(lambda *_: said, Question(("http://a",), KEY))
    assert found.fault.startswith("could not be asked from the gateway's network")


def test_a_list_of_models_that_cannot_be_had_is_none(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([Answer(200, b'{"token": "t"}'), Answer(200, b'{"data": [{"id": "a"}]}')])
    monkeypatch.setattr(ready, "ask", lambda *_: next(answers))
    assert ready.models_for(plan, "AGNR01:secret") == ["a"]
    monkeypatch.setattr(ready, "ask", lambda *_: Answer(502, b"{}"))
    assert ready.models_for(plan, "AGNR01:secret") is None
    monkeypatch.setattr(ready, "ask", lambda *_: Answer(200, b'{"token": "t"}'))
    assert ready.models_for(plan, "AGNR01:secret") is None


# Servers of the policy.

ROWS = [
    {
        "name": "rack",
        "kind": "vllm",
        "url": "https://rack.lan:8000",
        "state": "up",
        "models": ["bge-m3", "qwen3-coder:30b"],
    },
    {
        "name": "attic",
        "kind": "ollama",
        "url": "http://10.0.0.5:11434",
        "state": "down",
        "models": [],
        "last_error": "its list of models: connection refused\n",
    },
    {"name": "new", "kind": "ollama", "url": "http://new", "state": "unknown", "models": []},
]


@pytest.fixture
def with_servers(tmp_path: Path) -> Plan:
    (tmp_path / "demo-logins").write_text("AGNR01=secret\n")
    policy = tmp_path / "policy.yaml"
    policy.write_text("servers:\n  - {name: rack}\n")
    return read_plan({"DATA_DIR": str(tmp_path), "POLICY_FILE": str(policy)}, tmp_path)


def nobody_asked(question: Question) -> list[Found]:
    raise AssertionError(question)


def test_servers_of_the_policy_are_told_of_as_the_gateway_found_them(
    with_servers: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "models_for", lambda *_: ["bge-m3", "qwen3-coder:30b"])
    said = json.dumps({"servers": ROWS})
    shown = ready.first_example(with_servers, {}, nobody_asked, lambda: (1, said))
    assert shown == Example("qwen3-coder:30b")
    assert capsys.readouterr().out.splitlines() == [
        "LLM server rack (vllm, https://rack.lan:8000): up; 2 models: bge-m3, qwen3-coder:30b",
        "LLM server attic (ollama, http://10.0.0.5:11434): down; "
        "its list of models: connection refused?",
        "LLM server new (ollama, http://new): unknown; not asked yet",
    ]


@pytest.mark.parametrize("said", ["", "no answer in 20 s", "{}", '{"servers": [1]}', "[]"])
def test_a_gateway_that_tells_nothing_of_its_servers_does_not_stop_the_start(
    said: str, with_servers: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ready.first_example(with_servers, {}, nobody_asked, lambda: (2, said))
    assert shown == MODEL_TO_FILL_IN
    assert "could not be asked for (exit status 2)" in capsys.readouterr().out
