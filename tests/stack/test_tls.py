"""TLS at the public listener: what it speaks, whose certificate it shows and from when on, and the
plain listener beside it. Over HTTP/2 all is judged as over HTTP/1.1.
"""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.x509.oid import NameOID

from issuer import certificates
from tests.support.certificates import Authority
from tests.support.deployment import CHAT, USERS, Caller, Local, deployed
from tests.support.policies import write_policy
from tests.support.ports import free_ports
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

HOSTS = ("127.0.0.1", "localhost", "door.lan")
#: `gateway.sh` looks every 3 s and once more, and each worker reads every 2 s.
RENEWED_SECONDS = 30


class Door:
    """A deployment behind TLS, and what its clients trust."""

    def __init__(self, folder: Path, upstream: Upstream, **settings: str) -> None:
        self.folder, self.upstream = folder, upstream
        self.made = certificates.make(folder / "tls", HOSTS)
        (self.plain_port,) = free_ports(1)
        self.webroot = Path(tempfile.mkdtemp(prefix="portero-test-webroot-"))
        self.webroot.chmod(0o755)
        self.challenges = self.webroot / ".well-known" / "acme-challenge"
        self.challenges.mkdir(parents=True)
        self.settings = {
            "TLS_CERTIFICATE": str(self.made.certificate),
            "TLS_CERTIFICATE_KEY": str(self.made.key),
            "TLS_REDIRECT_LISTEN": f"127.0.0.1:{self.plain_port}",
            "ACME_WEBROOT": str(self.webroot),
            "COOKIE_SECURE": "true",
            **settings,
        }
        self.running: Local

    @property
    def port(self) -> int:
        return int(self.running.gateway.rpartition(":")[2])

    def context(self, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.made.authority))
        for name, value in versions.items():
            setattr(context, name, value)
        return context

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        return (context or self.context()).wrap_socket(plain, server_hostname="127.0.0.1")

    def serial(self) -> str:
        with self.connect() as connection:
            return str((connection.getpeercert() or {})["serialNumber"])

    def http2(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.running.gateway
        return httpx.Client(
            http2=True, verify=self.context(), base_url=url, headers=headers, timeout=15
        )

    def renew(self) -> str:
        """Another certificate in the files' place; its serial number, once it is in force: each of
        the workers sees by itself that the files have changed.
        """
        before = self.serial()
        certificates.make(self.folder / "tls", HOSTS)

        def shown() -> set[str]:
            serials = {self.serial() for _ in range(12)}
            return serials - {before} if before not in serials else set()

        (serial,) = wait_for(shown, RENEWED_SECONDS, "the new certificate is shown")
        return str(serial)


@contextmanager
def behind_tls(folder: Path, **settings: str) -> Iterator[Door]:
    folder.chmod(0o755)
    with recording() as upstream, pytest.MonkeyPatch.context() as patch:
        door = Door(folder, upstream, **settings)
        patch.setenv("REQUESTS_CA_BUNDLE", str(door.made.authority))
        try:
            with deployed(upstream.url, **door.settings) as running:
                door.running = running
                yield door
        finally:
            shutil.rmtree(door.webroot)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    limited = write_policy(folder / "policy.yaml", _limit_models)
    with behind_tls(folder, POLICY_FILE=str(limited)) as door:
        yield door


def _limit_models(content: dict[str, dict[str, object]]) -> None:
    content["users"]["AGNRTEST01"] = {"models": ["tiny"]}
    content["users"]["AGNRTEST02"] = {"largest_body_bytes": 1000}


@pytest.fixture
def door(shared: Door) -> Iterator[Door]:
    shared.upstream.forget()
    yield shared
    shared.upstream.forget()


@pytest.fixture
def token(door: Door) -> str:
    return Caller(door.running).token("AGIATEST01")


def test_the_console_says_when_the_certificate_ends(door: Door) -> None:
    admin = Caller(door.running).token("ADMNTEST01")
    headers = {"Accept": "application/json"}
    told = Caller(door.running).call(admin, "/admin/", "GET", headers=headers).json()["figures"]
    assert re.fullmatch(r"ends in \d{2,4} days", told["certificate-0"])


# --- what it speaks ---


def test_it_speaks_tls_1_2_and_1_3_and_nothing_older(door: Door) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        with door.connect(door.context(minimum_version=version, maximum_version=version)) as one:
            assert one.version() == name
    old = door.context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.connect(old)


@pytest.mark.parametrize("weak", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"])
def test_it_agrees_on_no_cipher_without_forward_secrecy_and_authentication(
    door: Door, weak: str
) -> None:
    context = door.context(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{weak}:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.connect(context)


def test_it_gives_out_no_session_tickets(door: Door) -> None:
    with door.connect(door.context(maximum_version=ssl.TLSVersion.TLSv1_2)) as connection:
        assert connection.session is not None
        assert not connection.session.has_ticket


def test_it_agrees_on_http2_and_http_1_1_and_nothing_else(door: Door) -> None:
    for offered, agreed in (["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None):
        context = door.context()
        context.set_alpn_protocols(offered)
        with door.connect(context) as connection:
            assert connection.selected_alpn_protocol() == agreed
            assert connection.compression() is None
    context = door.context()
    context.set_alpn_protocols(["spdy/3.1"])
    with pytest.raises((ssl.SSLError, ConnectionError)):
        door.connect(context)


def test_no_client_can_ask_for_another_handshake(door: Door) -> None:
    """Each would cost the gateway far more than the client."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{door.port}", "-tls1_2"]
    command += ["-CAfile", str(door.made.authority)]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert "Secure Renegotiation IS supported" in said
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


def test_it_asks_for_new_keys_with_groups_that_are_strong_alone(door: Door) -> None:
    for group, is_good in (("X25519", True), ("prime256v1", True), ("secp521r1", False)):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{door.port}", "-groups", group]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=20)
        assert (b"Cipher is (NONE)" not in done.stdout) == is_good, group


def test_plain_http_at_the_tls_port_is_refused_in_a_form_that_can_be_read(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), 5) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid_request"' in answer


def test_browsers_are_told_to_come_by_tls_only_and_their_cookie_is_secure(door: Door) -> None:
    refused = Caller(door.running).call("no token")
    assert refused.status_code == 401
    assert refused.headers["Strict-Transport-Security"] == "max-age=63072000"
    answer = Caller(door.running).login("USRSTEST01")
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"
    assert re.search(r"^auth_token=.*; Secure", answer.headers["Set-Cookie"])


def test_the_pages_name_https_and_never_the_host_that_was_asked(door: Door) -> None:
    with door.http2(Caller(door.running).token("USRSTEST01")) as client:
        page = client.get("/", headers={"Accept": "text/html", "Host": "evil.example"}).text
    assert f"https://127.0.0.1:{door.port}" in page
    assert "evil.example" not in page


# --- HTTP/2 ---


def test_a_chat_over_http2_is_judged_and_answered(door: Door, token: str) -> None:
    with door.http2(token) as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        assert client.post("/v1/nothing", json=CHAT).status_code == 404
    with door.http2("not a token") as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 401
    (seen,) = door.upstream.seen
    assert seen.values("x-forwarded-proto") == ["https"]
    assert seen.values("x-auth-user") == ["AGIATEST01"]


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/v1/models/tiny"])
def test_lists_of_models_come_over_http2(door: Door, token: str, path: str) -> None:
    with door.http2(token) as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert "tiny" in answer.text


def test_a_cookie_and_a_key_are_read_over_http2(door: Door) -> None:
    cookie = Caller(door.running).token("USRSTEST01")
    with door.http2() as client:
        client.cookies.set("auth_token", cookie, domain="127.0.0.1")
        assert client.get("/v1/models").status_code == 200
        twice = {"x-api-key": Caller(door.running).token("AGIATEST01")}
        assert client.get("/v1/models", headers=twice).status_code == 400
    with door.http2() as client:
        assert client.get("/v1/models", headers=twice).status_code == 200


def test_a_body_that_is_judged_is_judged_over_http2(door: Door) -> None:
    with door.http2(Caller(door.running).token("AGNRTEST01")) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        other = {**CHAT, "model": "other"}
        assert client.post("/v1/chat/completions", json=other).status_code == 404


def test_a_body_of_unknown_length_is_judged_over_http2_or_asked_for_with_its_length(
    door: Door,
) -> None:
    """Later versions of nginx's Lua read no body over HTTP/2 whose length was not told."""

    def status(user: str, model: str) -> int:
        body = json.dumps({**CHAT, "model": model}).encode()
        with door.http2(Caller(door.running).token(user)) as client:
            answer = client.post(
                "/v1/chat/completions",
                content=iter([body]),
                headers={"Content-Type": "application/json"},
            )
        assert answer.status_code != 411 or "Content-Length" in answer.text
        return answer.status_code

    judged = status("AGNRTEST01", "tiny"), status("AGNRTEST01", "other")
    assert judged in ((200, 404), (411, 411))
    assert status("AGNRTEST02", "x" * 2000) in (413, 411)
    assert status("AGIATEST01", "other") == 200


def test_a_stream_comes_event_by_event_over_http2(door: Door, token: str) -> None:
    door.upstream.send_one_by_one()
    with (
        door.http2(token) as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as stream,
    ):
        blocks = stream.iter_bytes()
        door.upstream.hear_one_by_one(lambda: next(blocks, b""), "/v1/chat/completions")


def test_a_stream_that_is_cut_ends_alone_and_its_connection_serves_on(door: Door) -> None:
    door.upstream.events, door.upstream.gap = 2000, 0.05
    token = Caller(door.running).token("AGNFTEST01")
    received: list[str] = []
    with door.http2() as client:
        bearer = {"Authorization": f"Bearer {token}"}
        body = {**CHAT, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body, headers=bearer) as stream:
            ends = threading.Timer(0.5, lambda: client_logs_out(door, token))
            ends.start()
            with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
                received.extend(stream.iter_text())
            ends.join()
            network = stream.extensions["network_stream"]
        assert "revoked" in "".join(received)
        answer = client.get("/healthz")
        assert answer.status_code == 200
        assert answer.extensions["network_stream"] is network
    wait_for(lambda: door.upstream.departures, 2, "the upstream is stopped")


def client_logs_out(door: Door, token: str) -> None:
    url = f"{door.running.gateway}/logout"
    assert requests.post(url, headers={"Authorization": f"Bearer {token}"}).status_code == 204


# --- the plain listener ---


def plain(door: Door, path: str, host: str, method: str = "GET") -> requests.Response:
    url = f"http://127.0.0.1:{door.plain_port}{path}"
    return requests.request(method, url, headers={"Host": host}, allow_redirects=False, timeout=20)


def test_the_plain_listener_sends_to_https_by_a_name_of_the_certificate(door: Door) -> None:
    for host in ("door.lan", "127.0.0.1", f"localhost:{door.plain_port}"):
        answer = plain(door, "/v1/models?a=b", host, "POST")
        name = host.partition(":")[0]
        assert answer.status_code == 308
        assert answer.headers["Location"] == f"https://{name}:{door.port}/v1/models?a=b"


def test_the_plain_listener_sends_nobody_elsewhere_and_serves_nothing_itself(door: Door) -> None:
    for host in ("evil.example", "door.lan.evil.example", "[::2]"):
        answer = plain(door, "/", host)
        assert answer.status_code == 421
        assert "Location" not in answer.headers
    user, (secret, endpoint) = "AGNRTEST01", USERS["AGNRTEST01"]
    url = f"http://127.0.0.1:{door.plain_port}{endpoint}"
    assert requests.post(url, auth=(user, secret), allow_redirects=False).status_code == 308
    assert not door.upstream.seen


def test_the_plain_listener_serves_the_files_of_a_challenge_and_no_others(door: Door) -> None:
    (door.challenges / "abc_-123").write_text("abc_-123.proof")
    (door.webroot / "secret").write_text("not for you")
    base = "/.well-known/acme-challenge"
    answer = plain(door, f"{base}/abc_-123", "door.lan")
    assert (answer.status_code, answer.text) == (200, "abc_-123.proof")
    for path in (f"{base}/other", f"{base}/../../secret", f"{base}/..%2f..%2fsecret", f"{base}/"):
        answer = plain(door, path, "door.lan")
        assert "not for you" not in answer.text
        assert answer.status_code in (308, 400, 403, 404), path


# --- renewal ---


def test_a_renewed_certificate_is_shown_and_no_stream_is_cut(door: Door, token: str) -> None:
    door.upstream.events, door.upstream.gap = 300, 0.1
    bearer = {"Authorization": f"Bearer {token}"}
    url = f"{door.running.gateway}/v1/chat/completions"
    with requests.post(
        url, json={**CHAT, "stream": True}, headers=bearer, stream=True, timeout=10
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(b"data: ")
        workers = door.running.workers("gateway")
        door.renew()
        assert next(lines) is not None
        assert set(workers) <= set(door.running.workers("gateway")), "no worker was replaced"
    (left,) = re.findall(
        r"^portero_tls_certificate_seconds_left (\d+)$",
        requests.get(f"{door.running.internal}/metrics", timeout=20).text,
        re.MULTILINE,
    )
    assert abs(int(left) - certificates.SERVER_DAYS * 86400) < 600


def test_a_certificate_that_is_wrong_leaves_the_former_in_force_and_is_told(door: Door) -> None:
    made, before = door.made, door.serial()
    certificate, key = made.certificate.read_bytes(), made.key.read_bytes()
    made.certificate.write_text("half a certi")
    wait_for(
        lambda: "holds no certificate in PEM" in door.running.output("gateway"),
        RENEWED_SECONDS,
        "it is told",
    )
    assert door.serial() == before
    other = certificates.make(door.folder / "other", HOSTS)
    made.certificate.write_bytes(certificate)
    made.key.write_bytes(other.key.read_bytes())
    wait_for(
        lambda: "is another certificate's key" in door.running.output("gateway"),
        RENEWED_SECONDS,
        "it is told",
    )
    assert door.serial() == before
    assert "PRIVATE KEY" not in door.running.output("gateway")
    made.key.write_bytes(key)
    assert door.renew() != before


def test_what_watches_the_certificate_ends_with_the_gateway(tmp_path: Path) -> None:
    with behind_tls(tmp_path) as door:
        pid = door.running.pid("gateway")
        group = [one for one in processes_of_group(pid) if one != pid]
        assert group
        door.running.stop("gateway", signal.SIGKILL)
        wait_for(lambda: not processes_of_group(pid), 10, "nothing is left")


def processes_of_group(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


# --- client certificates ---


Attribute = x509.NameAttribute[str]
Part = Attribute | x509.RelativeDistinguishedName
AGENT, OTHER = "AGNRTEST01", "AGNRTEST02"
SPOOFED = {"X-Portero-Client-Certificate": AGENT}


def _ask_for_certificates(content: dict[str, dict[str, dict[str, object]]]) -> None:
    content["roles"]["agent_reasoning"]["client_certificate"] = True


def log_in(door: Door, certificate: str | None, user: str = AGENT) -> requests.Response:
    """A login that says of itself, too, that it has the agent's certificate."""
    secret, path = USERS[user]
    url = door.running.gateway + path
    return requests.post(url, auth=(user, secret), cert=certificate, headers=SPOOFED, timeout=10)


@dataclass
class Certified:
    """A door that asks for client certificates, as `agent_reasoning` does, and who signs them."""

    door: Door
    clients: Authority
    folder: Path
    #: What the login was answered while the gateway asked nobody for a certificate.
    before: requests.Response

    def certificate(self, *parts: Part) -> str:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.pem"
        rows = [
            one
            if isinstance(one, x509.RelativeDistinguishedName)
            else x509.RelativeDistinguishedName([one])
            for one in parts
        ]
        return self.clients.client(path, x509.Name(rows))

    def of(self, name: str) -> str:
        return self.certificate(common(name))


def common(name: str) -> Attribute:
    return x509.NameAttribute(NameOID.COMMON_NAME, name)


def organization(name: str) -> Attribute:
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    folder, given = tmp_path_factory.mktemp("certified"), tmp_path_factory.mktemp("given")
    clients = Authority("of the agents")
    trusted = clients.write(folder / "clients.pem")
    asking = write_policy(folder / "policy.yaml", _ask_for_certificates)
    with behind_tls(folder, POLICY_FILE=str(asking)) as door:
        house = Certified(door, clients, given, log_in(door, None))
        door.running.stop("gateway")
        door.running.env["TLS_CLIENT_CA"] = trusted
        door.running.start("gateway")
        url, own = f"{door.running.gateway}/readyz", house.of("agent.lan")
        wait_for(lambda: is_ready(url, own), 20, "who has a certificate is served")
        yield house


def test_with_a_client_authority_who_has_no_certificate_of_it_is_refused(
    certified: Certified,
) -> None:
    door, own = certified.door, certified.of("agent.lan")
    listed = f"{door.running.gateway}/v1/models"
    assert requests.get(listed, cert=own, timeout=20).status_code == 401
    wait_for(
        lambda: '"client_certificate":"agent.lan"' in door.running.output("gateway"),
        5,
        "the log has its name",
    )
    without = requests.get(f"{door.running.gateway}/readyz", timeout=20)
    assert without.status_code == 400
    assert without.json()["error"]["code"] == "invalid_request"


def assert_asks_for_certificate(answer: requests.Response) -> None:
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_permissions"
    assert "client certificate" in answer.json()["error"]["message"]


def test_a_role_that_asks_for_a_certificate_is_refused_where_the_gateway_asks_for_none(
    certified: Certified,
) -> None:
    assert_asks_for_certificate(certified.before)


def test_p9_the_certificate_must_be_the_users_at_the_login_and_with_each_request(
    certified: Certified,
) -> None:
    own, other = certified.of(AGENT), certified.of(OTHER)
    assert_asks_for_certificate(log_in(certified.door, other))
    token = log_in(certified.door, own).json()["token"]
    caller = Caller(certified.door.running)
    assert caller.call(token, cert=own).status_code == 200
    stolen = caller.call(token, cert=other, headers=SPOOFED)
    assert stolen.status_code == 401
    assert stolen.json() == caller.call("none", cert=other).json()
    free = log_in(certified.door, other, "AGIATEST01").json()["token"]
    assert caller.call(free, cert=own).status_code == 200


#: What a subject has, and the name that it is known by.
SUBJECTS: list[tuple[list[Part], str]] = [
    ([organization("x"), common(AGENT)], AGENT),
    ([common(AGENT), organization("x")], AGENT),
    ([x509.RelativeDistinguishedName([common(AGENT), organization("x")])], AGENT),
    ([common("b"), organization(f"x,CN={AGENT}")], "b"),
    ([organization(f"x,CN={AGENT}"), common("c")], "c"),
    ([organization(f"CN={AGENT}")], ""),
    ([organization(f"x+CN={AGENT}")], ""),
    ([organization(f"x\\,CN={AGENT}")], ""),
    ([common("d"), common(AGENT)], ""),
    ([common(AGENT), common("e")], ""),
    ([common(AGENT), common(AGENT)], ""),
    ([common(f"{AGENT},O=x")], f"{AGENT}\\,O=x"),
    ([common(f"{AGENT}\\")], f"{AGENT}\\\\"),
    ([common(f"{AGENT}é")], f"{AGENT}\\C3\\A9"),
    ([common(f"{AGENT} ")], f"{AGENT}\\ "),
    ([common(AGENT.lower())], AGENT.lower()),
]


def test_p9_a_certificate_has_one_name_whatever_else_its_subject_says(certified: Certified) -> None:
    told = {}
    for parts, name in SUBJECTS:
        answer = log_in(certified.door, certified.certificate(*parts))
        assert answer.status_code == (200 if name == AGENT else 403), parts
        told[answer.headers["x-request-id"]] = name
    logged = certified.door.running.output
    wait_for(lambda: all(one in logged("gateway") for one in told), 5, "all logins are logged")
    rows = [json.loads(line) for line in logged("gateway").splitlines() if line.startswith("{")]
    names = {row["request_id"]: row["client_certificate"] for row in rows if "request_id" in row}
    assert told == {one: names[one] for one in told}


def is_ready(url: str, certificate: str) -> bool:
    try:
        return requests.get(url, cert=certificate, timeout=20).status_code == 200
    except requests.ConnectionError:
        return False
