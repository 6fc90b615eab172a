"""How the gateway asks the LLM servers: with a key of theirs, by certificates of a private
authority, for as long as it is told to wait; and what a wrong setting is answered at the start.
"""

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from run.commands import ROOT
from run.set_up import PYTHON
from tests.support.certificates import Authority
from tests.support.deployment import Caller, Deployment, Local, answers, deployed
from tests.support.policies import write_policy
from tests.support.ports import free_ports
from tests.support.upstream import CHAT_ANSWER, Upstream
from tests.support.waiting import wait_for, within

Anew = Callable[..., AbstractContextManager[Deployment]]

#: What nginx, sed and a shell would each make something of.
HOSTILE = "sk-$host ${x} \"quoted\" 'q' \\n \\\\ ; } # | & / @LLM_HOST@ %s %41 é"
LIMITED = {"requests_per_minute": 1000}


def checked(tmp_path: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """`gateway.sh check` with these settings."""
    good = {
        "LLM_UPSTREAM": "http://127.0.0.1:1",
        "ISSUER_URL": "http://127.0.0.1:2",
        "SYNC_KEY": "x" * 40,
        "GATEWAY_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    return subprocess.run(
        ["sh", str(ROOT / "openresty" / "gateway.sh"), "check"],
        env={"PATH": os.environ["PATH"], **good, **settings},
        capture_output=True,
        text=True,
        timeout=20,
    )


def refused(tmp_path: Path, **settings: str) -> str:
    """Why a start with these settings is refused."""
    done = checked(tmp_path, **settings)
    assert done.returncode != 0, settings
    return done.stderr


def private(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.touch(mode)
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


# A key of the LLM servers' own.


def ways_to_ask(caller: Caller) -> Iterator[tuple[str, str, str]]:
    """Token, method and path, one for each location that asks the LLM server."""
    plain = caller.token("AGIATEST01")
    yield plain, "POST", "/v1/chat/completions"
    yield plain, "POST", "/llm/chat/completions"
    yield plain, "GET", "/v1/models"
    yield caller.token("AGNRTEST01"), "POST", "/v1/chat/completions"


@pytest.mark.in_containers_too
def test_the_key_is_sent_from_every_location_and_the_callers_own_from_none_u4(
    anew: Anew, upstream: Upstream, limited_agents: dict[str, str]
) -> None:
    with anew(LLM_API_KEY=HOSTILE, **limited_agents) as running:
        caller = Caller(running)
        for token, method, path in ways_to_ask(caller):
            upstream.seen.clear()
            answer = caller.call(token, path, method, headers={"x-api-key": token})
            assert answer.status_code == 200, (path, answer.text)
            (seen,) = upstream.seen
            sent = seen.head.split(b"\r\nAuthorization: ", 1)[1].split(b"\r\n", 1)[0]
            assert sent == f"Bearer {HOSTILE}".encode(), path
            assert len(seen.values("authorization")) == 1
            assert token.encode() not in seen.head
        upstream.seen.clear()
        assert caller.login("AGNRTEST01").status_code == 200
        assert upstream.seen == []
        for text in (*running.command_lines("gateway"), running.output("gateway")):
            assert "sk-$host" not in text


@pytest.fixture
def limited_agents(runtime: str, tmp_path: Path) -> dict[str, str]:
    """A roles file whose agents are limited, where the runtime's gateway can read one."""
    if runtime != "local":
        return {}
    path = write_policy(
        tmp_path / "policy.yaml", lambda file: file["roles"]["agent_reasoning"].update(LIMITED)
    )
    return {"POLICY_FILE": str(path)}


def test_without_a_key_none_is_sent_u4(caller: Caller, agent: str, upstream: Upstream) -> None:
    caller.call(agent)
    assert upstream.seen[-1].values("authorization") == []


def test_a_key_that_the_server_refuses_is_502_u4(anew: Anew, upstream: Upstream) -> None:
    with anew(LLM_API_KEY="wrong") as running:
        caller = Caller(running)
        upstream.raw_answer = (
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n"
            b"Content-Length: 5\r\n\r\nwrong"
        )
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
            answer = caller.call(caller.token("AGIATEST01"), path, method)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                502,
                "upstream_unavailable",
            )
            assert "WWW-Authenticate" not in answer.headers
            assert "wrong" not in answer.text


def test_a_key_from_a_file_is_in_no_file_that_others_can_read_u4(
    local_upstream: Upstream, tmp_path: Path
) -> None:
    key = "key-of-the-file-0123456789"
    path = private(tmp_path / "key", key.encode())
    with deployed(local_upstream.url, LLM_API_KEY_FILE=path) as running:
        local_upstream.forget()
        assert Caller(running).call(Caller(running).token("AGIATEST01")).status_code == 200
        assert local_upstream.seen[-1].values("authorization") == [f"Bearer {key}"]
        runtime = Path(running.env["GATEWAY_RUNTIME_DIR"])
        holders = [file for file in runtime.rglob("*") if file.is_file() and holds(file, key)]
        assert holders
        assert {file.stat().st_mode & 0o077 for file in holders} == {0}
        assert all(key not in words for words in every_command_line())
        for part in ("issuer", "reconciler"):
            environment = Path(f"/proc/{running.pid(part)}/environ").read_bytes()
            assert b"LLM_API_KEY" not in environment


def holds(file: Path, text: str) -> bool:
    return text.encode() in file.read_bytes()


def every_command_line() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text(errors="replace")
        except OSError:
            continue


def test_a_key_that_is_taken_away_again_is_in_no_file_u4(tmp_path: Path) -> None:
    assert checked(tmp_path, LLM_API_KEY="for-a-while").returncode == 0
    assert [path.name for path in written(tmp_path) if holds(path, "for-a-while")] == [
        "settings.conf"
    ]
    assert checked(tmp_path).returncode == 0
    assert [path.name for path in written(tmp_path) if holds(path, "for-a-while")] == []


def written(tmp_path: Path) -> list[Path]:
    """The files that a check leaves."""
    return [path for path in (tmp_path / "runtime").rglob("*") if path.is_file()]


CONTROLS = [bytes([code]) for code in (*range(32), 127)]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda one: f"{one[0]:#04x}")
@pytest.mark.parametrize("form", [b"a%sb", b"ab%s", b"%sab"], ids=["within", "behind", "before"])
def test_a_key_with_a_control_character_stops_the_start_u4(
    tmp_path: Path, control: bytes, form: bytes
) -> None:
    key = form.replace(b"%s", control)
    path = private(tmp_path / "key", key)
    assert "LLM_API_KEY_FILE: must be one line" in refused(tmp_path, LLM_API_KEY_FILE=path)
    if control != b"\0":
        said = refused(tmp_path, LLM_API_KEY=key.decode())
        assert "LLM_API_KEY: must be one line" in said


@pytest.mark.parametrize("key", ["", " ", " k", "k "])
def test_a_key_that_http_would_trim_stops_the_start_u4(tmp_path: Path, key: str) -> None:
    path = private(tmp_path / "key", key.encode())
    assert "LLM_API_KEY_FILE: must be a key" in refused(tmp_path, LLM_API_KEY_FILE=path)


def test_all_that_is_wrong_with_a_key_is_told_at_once_and_never_the_key_u4(tmp_path: Path) -> None:
    path = private(tmp_path / "key", b"SEEN", 0o640)
    said = refused(tmp_path, LLM_API_KEY="SEEN", LLM_API_KEY_FILE=path, LLM_TIMEOUT_SECONDS="x")
    for fault in (
        "LLM_API_KEY: set LLM_API_KEY or LLM_API_KEY_FILE, not both",
        f"LLM_API_KEY_FILE: {path} can be read by others; chmod 600 it",
        "LLM_TIMEOUT_SECONDS: must be",
    ):
        assert fault in said
    missing = refused(tmp_path, LLM_API_KEY_FILE=str(tmp_path / "none"))
    assert f"LLM_API_KEY_FILE: cannot read {tmp_path}/none" in missing
    long = refused(tmp_path, LLM_API_KEY="SEEN" * 1001)
    assert "LLM_API_KEY: is longer than 4000 bytes" in long
    assert "SEEN" not in said + long
    assert checked(tmp_path, LLM_API_KEY="k" * 4000).returncode == 0


#: llama.cpp's own server with a key, as `llama-server --api-key` starts it.
REAL = """
import os, signal, sys, xllamacpp
sys.path.insert(0, "demo")
import llm
parameters = llm.server_parameters(llm.find_model(), "127.0.0.1", int(sys.argv[1]))
parameters.api_keys = [os.environ["KEY"]]
server = xllamacpp.Server(parameters)
signal.pause()
"""


@contextmanager
def real_server_with(key: str) -> Iterator[str]:
    """Its base URL."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [str(PYTHON), "-c", REAL, str(port)], cwd=ROOT, env={**os.environ, "KEY": key}
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{url}/health", 200), 60, "the model is loaded")
        yield url
    finally:
        process.kill()
        process.wait(20)


def test_a_real_server_that_wants_a_key_is_asked_with_it_and_callers_need_none_u4() -> None:
    with real_server_with("sk-a $key") as url:
        for key, status in (("sk-a $key", 200), ("sk-another", 502)):
            with deployed(url, LLM_API_KEY=key, LLM_KIND="llama-server") as running:
                caller = Caller(running)
                token = caller.token("AGIATEST01")
                body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
                chat = caller.call(token, body={**body, "max_tokens": 2}, timeout=60)
                models = caller.call(token, "/v1/models", "GET")
                assert [chat.status_code, models.status_code] == [status, status]


# Certificates of a private authority.


class OverTls(Upstream):
    """The recording server behind TLS; what fails in the handshake is as if it had never come."""

    context: ssl.SSLContext

    def _serve(self, connection: socket.socket) -> None:
        try:
            secured = self.context.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            return
        super()._serve(secured)


@contextmanager
def over_tls(context: ssl.SSLContext) -> Iterator[OverTls]:
    server = OverTls()
    server.context = context
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def trusted(authority: Authority, tmp_path: Path) -> str:
    """The file that trusts the authority, under a name that a shell and nginx might trip over."""
    return authority.write(tmp_path / 'own "ca" & $more; |.pem')


def asked_over_tls(context: ssl.SSLContext, **settings: str) -> tuple[list[int], str]:
    """What a chat and a list of models are answered, and what the gateway's log says."""
    with over_tls(context) as server:
        url = f"https://localhost:{server.port}"
        with deployed(url, **settings) as running:
            caller = Caller(running)
            token = caller.token("AGIATEST01")
            chat = caller.call(token)
            models = caller.call(token, "/v1/models", "GET")
            for answer in (chat, models):
                if answer.status_code != 200:
                    assert answer.json()["error"]["code"] == "upstream_unavailable"
                    assert server.seen == []
            return [chat.status_code, models.status_code], running.output("gateway")


def test_a_server_of_the_private_authority_is_believed_u5(
    authority: Authority, trusted: str, tmp_path: Path
) -> None:
    statuses, log = asked_over_tls(authority.server(tmp_path, "localhost"), LLM_CA_FILE=trusted)
    assert statuses == [200, 200], log


@pytest.mark.parametrize(
    ("host", "days", "words"),
    [
        ("other.example", 30, 'certificate does not match "localhost"'),
        ("localhost", -1, "certificate has expired"),
    ],
    ids=["another name", "expired"],
)
def test_a_wrong_certificate_is_502_and_the_log_says_what_is_wrong_u5(
    authority: Authority, trusted: str, tmp_path: Path, host: str, days: int, words: str
) -> None:
    context = authority.server(tmp_path, host, days)
    statuses, log = asked_over_tls(context, LLM_CA_FILE=trusted)
    assert statuses == [502, 502]
    assert words in log


@pytest.mark.parametrize("stranger_is_trusted", [True, False], ids=["another CA", "the machine's"])
def test_nobody_beside_what_is_named_is_trusted_u5(
    authority: Authority, tmp_path: Path, stranger_is_trusted: bool
) -> None:
    other = Authority("another").write(tmp_path / "other.pem")
    settings = {"LLM_CA_FILE": other} if stranger_is_trusted else {}
    statuses, log = asked_over_tls(authority.server(tmp_path, "localhost"), **settings)
    assert statuses == [502, 502]
    assert "certificate verify error" in log


HTTPS = {"LLM_UPSTREAM": "https://localhost:1"}


def damaged(text: str) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[:3], *lines[4:], ""])


def ca_faults(authority: Authority) -> Sequence[tuple[str, str]]:
    expired = Authority(days=-1).certificate
    return [
        ("", "holds no certificate in PEM"),
        ("no PEM\n", "holds no certificate in PEM"),
        (damaged(authority.certificate), "its certificate number 1 cannot be read"),
        (
            authority.certificate + damaged(authority.certificate),
            "its certificate number 2 cannot be read",
        ),
        (expired, "its certificate has expired"),
        (expired + expired, "all its certificates have expired"),
    ]


def test_a_file_that_could_trust_nobody_stops_the_start_u5(
    authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    for text, fault in ca_faults(authority):
        path.write_text(text)
        for command in ("check", "start"):
            done = subprocess.run(
                ["sh", str(ROOT / "openresty" / "gateway.sh"), command],
                env={
                    "PATH": os.environ["PATH"],
                    "ISSUER_URL": "http://127.0.0.1:2",
                    "SYNC_KEY": "x" * 40,
                    "GATEWAY_RUNTIME_DIR": str(tmp_path / "runtime"),
                    "LLM_CA_FILE": str(path),
                    **HTTPS,
                },
                capture_output=True,
                text=True,
                timeout=20,
            )
            assert done.returncode != 0
            assert f"LLM_CA_FILE: {path}: {fault}" in done.stderr


def test_a_file_that_is_not_there_or_of_no_use_stops_the_start_u5(
    authority: Authority, tmp_path: Path
) -> None:
    none = str(tmp_path / "none")
    assert f"LLM_CA_FILE: {none}: No such file" in refused(tmp_path, LLM_CA_FILE=none, **HTTPS)
    folder = refused(tmp_path, LLM_CA_FILE=str(tmp_path), **HTTPS)
    assert f"LLM_CA_FILE: {tmp_path}: Is a directory" in folder
    path = authority.write(tmp_path / "ca.pem")
    assert "LLM_CA_FILE: is for https://" in refused(tmp_path, LLM_CA_FILE=path)
    assert checked(tmp_path, LLM_CA_FILE=path, **HTTPS).returncode == 0


def test_an_old_certificate_beside_one_in_force_is_no_fault_u5(
    authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(Authority(days=-1).certificate + authority.certificate)
    assert checked(tmp_path, LLM_CA_FILE=str(path), **HTTPS).returncode == 0


# How long an LLM server may be silent.


@pytest.fixture(scope="module")
def impatient(local_upstream: Upstream) -> Iterator[Local]:
    with deployed(local_upstream.url, LLM_TIMEOUT_SECONDS="1") as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models")]
)
def test_a_silent_server_is_504_when_its_time_is_over_u6(
    impatient: Local, local_upstream: Upstream, method: str, path: str
) -> None:
    local_upstream.forget()
    caller = Caller(impatient)
    token = caller.token("AGIATEST01")
    local_upstream.mood = "hang"
    began = time.monotonic()
    answer = caller.call(token, path, method)
    elapsed = time.monotonic() - began
    local_upstream.forget()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert 0.9 < elapsed < within(3)


def test_a_stream_that_moves_is_not_ended_u6(impatient: Local, local_upstream: Upstream) -> None:
    local_upstream.forget()
    local_upstream.events, local_upstream.gap = 6, 0.6
    caller = Caller(impatient)
    began = time.monotonic()
    answer = caller.call(
        caller.token("AGIATEST01"), body={"model": "tiny", "messages": [], "stream": True}
    )
    local_upstream.forget()
    assert time.monotonic() - began > 2
    assert answer.text.rstrip().endswith("data: [DONE]")


def test_a_stream_that_stands_still_is_ended_u6(impatient: Local, local_upstream: Upstream) -> None:
    local_upstream.forget()
    local_upstream.events, local_upstream.gap = 2, 60.0
    caller = Caller(impatient)
    token = caller.token("AGIATEST01")
    began = time.monotonic()
    text = b""
    body = {"model": "tiny", "messages": [], "stream": True}
    with caller.call(token, body=body, stream=True) as answer:
        try:
            for piece in answer.iter_content(None):
                text += piece
        except OSError:
            pass
    assert time.monotonic() - began < within(4)
    assert b"upstream_unavailable" in text
    wait_for(lambda: local_upstream.departures, 10, "the LLM server is told")
    local_upstream.forget()


@pytest.mark.parametrize(
    "value", ["0", "86401", "-1", "1.5", "1m", "x", "0x10", "9" * 30, " 5", "5s"]
)
def test_a_timeout_that_is_none_stops_the_start_u6(tmp_path: Path, value: str) -> None:
    fault = "LLM_TIMEOUT_SECONDS: must be a whole number from 1 to 86400"
    assert fault in refused(tmp_path, LLM_TIMEOUT_SECONDS=value)


@pytest.mark.parametrize("value", ["1", "600", "86400"])
def test_a_timeout_within_the_bounds_is_taken_as_it_is_u6(tmp_path: Path, value: str) -> None:
    assert checked(tmp_path, LLM_TIMEOUT_SECONDS=value).returncode == 0
    text = (tmp_path / "runtime" / "check" / "settings.conf").read_text()
    for direction in ("read", "send"):
        assert f"proxy_{direction}_timeout {value}s;" in text


def test_the_usual_answer_is_the_upstreams_own(impatient: Local, local_upstream: Upstream) -> None:
    local_upstream.forget()
    caller = Caller(impatient)
    assert caller.call(caller.token("AGIATEST01")).json() == CHAT_ANSWER
