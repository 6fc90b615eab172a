"""Real nginx and real Caddy in front of the gateway, set up as docs/behind-a-proxy.md says: streams
come event by event, the client's address is the client's, large bodies pass, and a cut is seen.

And a default nginx, which has nothing but a `proxy_pass`.
"""

import datetime
import http.client
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from run.plan import search_path
from tests.support.deployment import CHAT, USERS, Caller, Local, basic, deployed
from tests.support.docs import block
from tests.support.ports import free_ports
from tests.support.upstream import EVENTS, MODELS_ANSWER, Upstream
from tests.support.waiting import wait_for, within

PAGE = "docs/behind-a-proxy.md"
#: Where the tests come from; a loopback address that is neither the front's nor the gateway's.
CLIENT = "127.0.0.9"
FRONT = "127.0.0.1"
SPOOFED = "203.0.113.66"
STREAM = {**CHAT, "stream": True}
LARGE = 20 * 1024 * 1024


@dataclass(frozen=True)
class Stand:
    """A gateway with a front, and the LLM server behind both."""

    deployment: Local
    upstream: Upstream
    port: int
    trust: ssl.SSLContext | None

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """A connection to the front, from the client's address."""
        made: http.client.HTTPConnection
        if self.trust is None:
            made = http.client.HTTPConnection(
                "localhost", self.port, timeout=30, source_address=(CLIENT, 0)
            )
        else:
            made = http.client.HTTPSConnection(
                "localhost", self.port, timeout=30, source_address=(CLIENT, 0), context=self.trust
            )
        try:
            yield made
        finally:
            made.close()

    @contextmanager
    def answer(
        self, path: str, body: object = None, token: str = "", **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request: a POST of JSON, or of a text as it is; without a body a GET."""
        content = body if isinstance(body, str) else json.dumps(body)
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        with self.connection() as connection:
            if body is None:
                connection.request("GET", path, headers=sent)
            else:
                connection.request("POST", path, content, sent)
            yield connection.getresponse()

    def token(self, user: str) -> str:
        """A token, by a login through the front."""
        secret, door = USERS[user]
        with self.answer(door, "", Authorization=basic(user, secret)) as answer:
            assert answer.status == 200, answer.read()
            return str(json.load(answer)["token"])

    def logged_clients(self, path: str) -> list[str]:
        """The clients of a path, as the gateway's access log names them; it is written late."""

        def clients() -> list[str]:
            lines = self.deployment.output("gateway").splitlines()
            entries = [json.loads(line) for line in lines if line.startswith('{"time"')]
            return [entry["client"] for entry in entries if entry["path"] == path]

        named: list[str] = wait_for(clients, 10, "the line is written")
        return named


# The fronts.


@dataclass(frozen=True)
class Certificate:
    """One that was made for these tests; it vouches for itself."""

    path: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        """What a client must have to believe it."""
        return ssl.create_default_context(cafile=str(self.path))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(FRONT))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=2))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    made_at = Certificate(folder / "localhost.pem", folder / "localhost.key")
    made_at.path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    made_at.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made_at.key.chmod(0o600)
    return made_at


def placed(text: str, certificate: Certificate, gateway: str) -> str:
    """A block of the page, for this machine."""
    return (
        text.replace("/etc/ssl/llm.example.pem", str(certificate.path))
        .replace("/etc/ssl/llm.example.key", str(certificate.key))
        .replace("127.0.0.1:8080", gateway.removeprefix("http://"))
    )


NGINX = """
{user}daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{
}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""
DEFAULT_NGINX = """
server {{
    listen {front};
    location / {{
        proxy_pass {gateway};
    }}
}}
"""


def begun(folder: Path, command: list[str], **settings: str) -> "subprocess.Popen[bytes]":
    """A front that has been started; what it says is in its folder."""
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, env={**os.environ, **settings}, stderr=log)


def run_nginx(folder: Path, site: str) -> "subprocess.Popen[bytes]":
    # Else its workers are somebody who may not enter the tests' folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder, site=site))
    program = shutil.which("nginx", path=search_path(os.environ["PATH"]))
    assert program is not None, "nginx is one of the packages that the tests need"
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    return begun(folder, command)


def documented_nginx(
    folder: Path, port: int, gateway: str, certificate: Certificate
) -> "subprocess.Popen[bytes]":
    site = placed(block(PAGE, "nginx"), certificate, gateway)
    site = site.replace("listen 443 ssl", f"listen {FRONT}:{port} ssl")
    return run_nginx(folder, site.replace("llm.example", "localhost"))


def default_nginx(
    folder: Path, port: int, gateway: str, certificate: Certificate
) -> "subprocess.Popen[bytes]":
    return run_nginx(folder, DEFAULT_NGINX.format(front=f"{FRONT}:{port}", gateway=gateway))


#: It must neither listen on port 80, nor speak to the world, nor change this machine's trust.
CADDY = f"""
{{
    admin off
    auto_https disable_redirects
    skip_install_trust
    default_bind {FRONT}
}}
"""


def documented_caddy(
    folder: Path, port: int, gateway: str, certificate: Certificate
) -> "subprocess.Popen[bytes]":
    site = placed(block(PAGE, "caddy"), certificate, gateway)
    (folder / "Caddyfile").write_text(CADDY + site.replace("llm.example", f"localhost:{port}"))
    program = Path(sys.executable).parent / "caddy"
    command = [str(program), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    homes = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return begun(folder, command, **homes)


Start = Callable[[Path, int, str, Certificate], "subprocess.Popen[bytes]"]


@contextmanager
def stand(
    start: Start,
    folder: Path,
    upstream: Upstream,
    certificate: Certificate,
    settings: Mapping[str, str],
) -> Iterator[Stand]:
    """A gateway with these settings behind a front; `PORT` in them is the front's."""
    (port,) = free_ports(1)
    told = {name: value.replace("PORT", str(port)) for name, value in settings.items()}
    with deployed(upstream.url, **told) as running:
        front = start(folder, port, running.gateway, certificate)
        try:
            wait_for(lambda: listens(port), 20, f"the front listens; see {folder}/log")
            # What is told its address is told of a front with TLS.
            yield Stand(running, upstream, port, certificate.trust() if told else None)
        finally:
            front.terminate()
            front.wait(20)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((FRONT, port), timeout=1):
        return True
    return False


#: What the page says to set.
SETTINGS = {"TRUSTED_PROXIES": FRONT, "PUBLIC_URL": "https://localhost:PORT"}
DOCUMENTED: dict[str, Start] = {"nginx": documented_nginx, "caddy": documented_caddy}


@pytest.fixture(scope="module", params=DOCUMENTED)
def shared_stand(
    request: pytest.FixtureRequest,
    local_upstream: Upstream,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp(request.param)
    with stand(DOCUMENTED[request.param], folder, local_upstream, certificate, SETTINGS) as made:
        yield made


@pytest.fixture
def documented(shared_stand: Stand) -> Iterator[Stand]:
    """Each front of the page in turn, with the settings of the page."""
    shared_stand.upstream.forget()
    yield shared_stand
    shared_stand.upstream.forget()


@pytest.fixture(scope="module")
def shared_bare(
    local_upstream: Upstream, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("bare")
    with stand(default_nginx, folder, local_upstream, certificate, {}) as made:
        yield made


@pytest.fixture
def bare(shared_bare: Stand) -> Iterator[Stand]:
    """A default nginx, and a gateway that was not told of it."""
    shared_bare.upstream.forget()
    yield shared_bare
    shared_bare.upstream.forget()


# What passes.


def assert_event_by_event(one: Stand, path: str) -> None:
    """Each of eight events must be here before the next one is sent."""
    one.upstream.events = 8
    one.upstream.send_one_by_one()
    with one.answer(path, STREAM, one.token("AGIATEST01")) as answer:
        assert answer.status == 200
        one.upstream.hear_one_by_one(lambda: answer.read1(65536), path)


@pytest.mark.parametrize("path", EVENTS)
def test_events_pass_the_front_one_by_one_f1(documented: Stand, path: str) -> None:
    assert_event_by_event(documented, path)


@pytest.mark.parametrize("path", EVENTS)
def test_events_pass_a_default_nginx_one_by_one_f1(bare: Stand, path: str) -> None:
    assert_event_by_event(bare, path)


def test_a_large_body_passes(documented: Stand) -> None:
    body = {**CHAT, "padding": "x" * LARGE}
    with documented.answer("/v1/chat/completions", body, documented.token("AGIATEST01")) as answer:
        assert answer.status == 200
    assert len(documented.upstream.seen[-1].body) == len(json.dumps(body))


def test_a_body_that_is_too_large_is_refused_in_the_clients_dialect(
    documented: Stand, certificate: Certificate, tmp_path: Path
) -> None:
    body, head = tmp_path / "body", tmp_path / "head"
    body.write_bytes(b"x" * (64 * 1024 * 1024 + 1))
    head.write_text(f"Authorization: Bearer {documented.token('AGIATEST01')}\n")
    url = f"https://localhost:{documented.port}/v1/chat/completions"
    # curl hears an answer that comes before it has sent all; of HTTP/2, Debian 12's at times not.
    curl = ["curl", "-sS", "-4", "--http1.1", "--cacert", str(certificate.path)]
    curl += ["-w", "%{stderr}%{http_code}"]
    headers = ["-H", f"@{head}", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*curl, *headers, "-X", "POST", "-T", str(body), url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == "413"
    assert json.loads(done.stdout)["error"]["code"] == "request_too_large"


def test_a_refusal_of_portero_passes_as_it_is(documented: Stand) -> None:
    with documented.answer("/v1/chat/completions", CHAT, "bad") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert json.load(answer)["error"]["code"] == "invalid_api_key"
        assert answer.headers["x-request-id"]


def test_a_model_whose_name_has_a_slash_is_found_h3(documented: Stand) -> None:
    named = {"id": "org/tiny", "object": "model", "created": 1, "owned_by": "test"}
    documented.upstream.answers["/v1/models"] = {**MODELS_ANSWER, "data": [named]}
    token = documented.token("AGIATEST01")
    with documented.answer("/v1/models/org%2Ftiny", None, token) as answer:
        assert answer.status == 200
        assert json.load(answer)["id"] == "org/tiny"


# Who asks.


def test_the_clients_address_is_in_the_access_log_and_no_other_that_it_names_f3(
    documented: Stand,
) -> None:
    token = documented.token("AGIATEST01")
    path = "/v1/models/spoofed"
    said = {"X_Forwarded_For": SPOOFED, "X_Real_Ip": SPOOFED, "Forwarded": f"for={SPOOFED}"}
    for header, value in said.items():
        with documented.answer(path, None, token, **{header: value}) as answer:
            assert answer.status == 404
    wait_for(lambda: len(documented.logged_clients(path)) == 3, 10, "all lines are written")
    assert set(documented.logged_clients(path)) == {CLIENT}
    with documented.answer("/api/chat", CHAT, token, X_Forwarded_For=SPOOFED) as answer:
        assert answer.status == 200
    seen = documented.upstream.seen[-1]
    assert seen.values("x-forwarded-for") == seen.values("x-real-ip") == [CLIENT]
    assert seen.values("x-forwarded-proto") == ["https"]


def test_behind_a_front_that_was_not_named_no_word_of_a_client_counts_f3(bare: Stand) -> None:
    token, path = bare.token("AGIATEST01"), "/v1/models/spoofed"
    with bare.answer(path, None, token, X_Forwarded_For=SPOOFED) as answer:
        assert answer.status == 404
    assert bare.logged_clients(path) == [FRONT]


def test_a_person_who_logs_in_through_https_gets_a_secure_cookie_f3(documented: Stand) -> None:
    origin = f"https://localhost:{documented.port}"
    form = "username=USRSTEST01&password=" + USERS["USRSTEST01"][0]
    kind = "application/x-www-form-urlencoded"
    with documented.answer("/login", form, Content_Type=kind, Origin=origin) as answer:
        assert answer.status == 302, answer.read()
        cookie = answer.headers["Set-Cookie"]
    assert "; Secure" in cookie
    with documented.answer("/", None, Cookie=cookie.partition(";")[0]) as answer:
        assert answer.status == 200


# How it ends.


def revoke_in_stream(one: Stand, path: str) -> tuple[bytes, bool]:
    """What comes of a stream whose token is revoked; and whether the client can see that it was
    cut.
    """
    one.upstream.events, one.upstream.gap = 2000, 0.05
    token, received, is_cut = one.token("AGIATEST01"), b"", False
    with one.answer(path, STREAM, token) as answer:
        received += answer.read1(65536)
        assert Caller(one.deployment).call(token, "/logout").status_code == 204
        revoked = time.monotonic()
        try:
            while piece := answer.read1(65536):
                received += piece
        except http.client.IncompleteRead:
            is_cut = True
    assert time.monotonic() - revoked < within(5)
    wait_for(lambda: one.upstream.departures, 5, "the LLM server is stopped")
    return received, is_cut


@pytest.mark.parametrize("path", EVENTS)
def test_a_revoked_tokens_stream_is_cut_through_the_front(documented: Stand, path: str) -> None:
    received, is_cut = revoke_in_stream(documented, path)
    assert b"The token was revoked." in received
    assert is_cut


@pytest.mark.parametrize("path", EVENTS)
def test_a_revoked_tokens_stream_ends_in_an_error_through_a_default_nginx(
    bare: Stand, path: str
) -> None:
    received, _ = revoke_in_stream(bare, path)
    assert b"The token was revoked." in received
