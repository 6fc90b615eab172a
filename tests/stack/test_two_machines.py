"""Issuer and gateway by TLS to each other: pushes to the internal listener, logins to the issuer.
Whoever has no good certificate is sent nothing, and what the page says runs as it is printed.
"""

import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from issuer import certificates
from run.commands import ROOT
from tests.support import docs
from tests.support.certificates import Authority
from tests.support.deployment import PARTS, Caller, Local, wait_ready
from tests.support.listening import Reply, listening
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

HOST = "localhost"
#: As in test_tls.py.
RENEWED_SECONDS = 30


class Apart:
    """A deployment whose parts trust each other by certificate."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder = folder
        self.of_gateway = certificates.make(folder / "tls", (HOST,), folder / "gateway")
        self.of_issuer = certificates.make(folder / "tls", (HOST,), folder / "issuer")
        self.running = one = Local(upstream.url, {})
        secured = [url.replace("http://127.0.0.1", f"https://{HOST}") for url in self.urls]
        one.internal, one.issuer = secured
        one.env |= {
            "GATEWAY_URLS": one.internal,
            "SYNC_CA_FILE": str(self.of_gateway.authority),
            "INTERNAL_TLS_CERTIFICATE": str(self.of_gateway.certificate),
            "INTERNAL_TLS_CERTIFICATE_KEY": str(self.of_gateway.key),
            "ISSUER_URL": one.issuer,
            "ISSUER_CA_FILE": str(self.of_issuer.authority),
            "ISSUER_TLS_CERTIFICATE": str(self.of_issuer.certificate),
            "ISSUER_TLS_CERTIFICATE_KEY": str(self.of_issuer.key),
        }

    @property
    def urls(self) -> tuple[str, str]:
        return self.running.internal, self.running.issuer

    def serial(self, url: str) -> str:
        """Of the certificate that a listener shows."""
        context = ssl.create_default_context(cafile=str(self.of_gateway.authority))
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with (
            socket.create_connection(address, 5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as connection,
        ):
            # The issuer's thread reads a request, and so ends the handshake.
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            return str((connection.getpeercert() or {})["serialNumber"])


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    folder = tmp_path_factory.mktemp("apart")
    folder.chmod(0o755)
    with recording() as upstream, pytest.MonkeyPatch.context() as patch, ExitStack() as at_end:
        one = Apart(folder, upstream)
        at_end.callback(one.running.close)
        patch.setenv("REQUESTS_CA_BUNDLE", str(one.of_gateway.authority))
        for part in PARTS:
            one.running.start(part)
        wait_ready(one.running)
        yield one


def test_logins_pushes_and_revocations_go_by_tls_both_ways(apart: Apart) -> None:
    caller = Caller(apart.running)
    token = caller.token("AGIATEST01")
    assert caller.call(token).status_code == 200
    revoked = apart.running.command("revoke", "--user", "AGIATEST01")
    assert revoked.returncode == 0, revoked.stderr
    assert caller.call(token).status_code == 401
    metrics = requests.get(f"{apart.running.internal}/metrics", timeout=20).text
    (left,) = re.findall(
        r"^portero_internal_tls_certificate_seconds_left (\d+)$", metrics, re.MULTILINE
    )
    assert abs(int(left) - certificates.SERVER_DAYS * 86400) < 600
    assert "portero_tls_certificate_seconds_left" not in metrics


def test_plain_http_is_answered_by_neither(apart: Apart) -> None:
    plain = [url.replace("https://", "http://") for url in apart.urls]
    answer = requests.get(f"{plain[0]}/sync/status", timeout=20)
    assert answer.status_code == 400
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{plain[1]}/llm/login", auth=("AGNRTEST01", "x"), timeout=20)


def test_a_renewed_certificate_is_shown_and_a_bad_one_is_not_on_either_side(apart: Apart) -> None:
    before = [apart.serial(url) for url in apart.urls]
    for made in (apart.of_gateway, apart.of_issuer):
        certificates.make(apart.folder / "tls", (HOST,), made.key.parent)

    def shown() -> list[str]:
        serials = [apart.serial(url) for url in apart.urls]
        return [] if set(before) & set(serials) else serials

    # Of two workers one may still show the former.
    renewed = wait_for(shown, RENEWED_SECONDS, "both show the new one")
    assert Caller(apart.running).token("AGNRTEST01")

    for made in (apart.of_gateway, apart.of_issuer):
        made.certificate.write_text("half a certi")

    def are_told() -> bool:
        apart.serial(apart.running.issuer)
        told = [apart.running.output(part) for part in ("gateway", "issuer")]
        return all("holds no certificate in PEM" in one for one in told)

    wait_for(are_told, RENEWED_SECONDS, "both tell of it")
    assert [apart.serial(url) for url in apart.urls] == renewed
    assert Caller(apart.running).token("AGNRTEST02")
    for made in (apart.of_gateway, apart.of_issuer):
        certificates.make(apart.folder / "tls", (HOST,), made.key.parent)


def of_another_authority(_: Authority, folder: Path) -> ssl.SSLContext:
    return Authority("somebody else's").server(folder, HOST)


def of_another_name(authority: Authority, folder: Path) -> ssl.SSLContext:
    return authority.server(folder, "other.lan")


def expired(authority: Authority, folder: Path) -> ssl.SSLContext:
    return authority.server(folder, HOST, days=-1)


def plain_http(_: Authority, __: Path) -> None:
    return None


@pytest.mark.parametrize("made", [of_another_authority, of_another_name, expired, plain_http])
def test_a_login_is_not_shown_to_who_is_not_the_issuer(
    apart: Apart, tmp_path: Path, made: Callable[[Authority, Path], ssl.SSLContext | None]
) -> None:
    authority = Authority()
    running = apart.running
    kept = dict(running.env)
    with listening(lambda _: Reply(200, b"{}"), tls=made(authority, tmp_path)) as other:
        running.stop("gateway")
        running.env |= {
            "ISSUER_URL": f"https://{HOST}:{other.url.rpartition(':')[2]}",
            "ISSUER_CA_FILE": authority.write(tmp_path / "ca.pem"),
        }
        try:
            running.start("gateway")
            wait_for(lambda: listens(running.gateway), 20, "the gateway listens")
            answer = Caller(running).login("AGNRTEST01")
            assert answer.status_code == 503
            assert other.connections > 0
            assert other.messages == []
            wait_for(lambda: "SSL" in running.output("gateway"), 5, "it is told")
        finally:
            running.stop("gateway")
            running.env = kept
            running.start("gateway")


def listens(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


# --- the page ---

PAGE = "docs/two-machines.md"
HOSTS = "127.0.0.1 localhost\n10.0.0.5 issuer.lan\n10.0.0.11 gate.lan\n"
#: A network and names of its own, with two machines' addresses; what begins there ends with it.
BEGIN = """set -eu
mount --bind "$FOLDER/hosts" /etc/hosts
mount -t tmpfs none /run
ip link set lo up
ip addr add 10.0.0.5/32 dev lo
ip addr add 10.0.0.11/32 dev lo
"""
ASK = """
for place in issuer.lan:9000 gate.lan:8443; do
    for attempt in $(seq 300); do
        curl -sf --cacert var/authority/ca.pem "https://$place/readyz" >/dev/null && break
        sleep 0.1
    done
done
"""


def test_the_worked_example_runs_as_it_is_printed(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    tmp_path.chmod(0o755)
    for name in ("issuer", "openresty", "policy", ".venv"):
        (clone / name).symlink_to(ROOT / name)
    (tmp_path / "hosts").write_text(HOSTS)
    (tmp_path / "run.sh").write_text(
        "\n".join(
            [
                BEGIN,
                *[docs.block(PAGE, name) for name in ("make", "issuer", "gateway")],
                ASK,
                docs.block(PAGE, "ask"),
            ]
        )
    )
    alone = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        alone.insert(1, "--map-root-user")
    done = subprocess.run(
        [*alone, "sh", str(tmp_path / "run.sh")],
        cwd=clone,
        env={**os.environ, "FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'"subject": ?"AGNR', done.stdout), done.stdout + done.stderr
