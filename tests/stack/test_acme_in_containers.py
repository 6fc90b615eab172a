"""`docker compose --profile acme up`, as docs/tls.md has it: a real authority asks the gateway's
container, and what it signs is shown by it. The loop around `acme/renew.sh` by itself.
"""

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509

from tests.engine import COMPOSE, ROOT
from tests.support import docs
from tests.support.acme import Acme, pebble
from tests.support.containers import IMAGES, SERVICES, SESSION, TAG, USER, Docker
from tests.support.ports import free_ports
from tests.support.waiting import wait_for, within

NAME = "door.example"
#: The first renewal, and until the gateway shows it.
ISSUED_SECONDS = 90
DAYS = 90
FILES = ("docker-compose.yml", "docker-compose.production.yml")
#: What a test changes: images, ports of its own in place of 443 and 80, whom to trust, and as many
#: files as this machine allows, which may be one that cannot allow more.
OVERRIDE = """\
services:
{images}
  acme:
    image: portero-test/acme:{tag}
    environment: {{REQUESTS_CA_BUNDLE: /pebble.pem}}
    volumes: ["{authority}:/pebble.pem:ro"]
  gateway:
    image: {gateway}
    ports: !override ["127.0.0.1:{https}:8080", "127.0.0.1:{http}:8000"]
    ulimits: !reset null
"""


class Production:
    """The page's commands, run for a project, ports and a folder of a test's own."""

    def __init__(self, docker: Docker, folder: Path, acme: Acme, http: int) -> None:
        self.docker, self.tls = docker, folder / "tls"
        (self.https,) = free_ports(1)
        files = [*FILES, str(self._write_override(folder, acme, http))]
        self.env = {
            **docker.env,
            "COMPOSE_PROJECT_NAME": f"{SESSION}-acme",
            "ACME_SERVER": acme.directory,
        }
        page = docs.block("docs/tls.md", "acme in containers")
        page = page.replace(":".join(FILES), ":".join(files))
        self.script = page.replace("/etc/portero/tls", str(self.tls))

    def _write_override(self, folder: Path, acme: Acme, http: int) -> Path:
        plain = {service: image for service, image in SERVICES.items() if service != "gateway"}
        path = folder / "override.yml"
        path.write_text(
            OVERRIDE.format(
                images="\n".join(f"  {one}: {{image: {IMAGES[plain[one]]}}}" for one in plain),
                tag=TAG,
                authority=acme.authority,
                gateway=IMAGES["gateway"],
                https=self.https,
                http=http,
            )
        )
        return path

    def start(self) -> None:
        """All that the page prints."""
        self.docker.run("sh", "-euc", self.script, env=self.env, seconds=900)

    def compose(self, *words: str) -> str:
        """What a compose command says of the same project."""
        exports = "".join(f"{line}\n" for line in self.script.splitlines() if "export" in line)
        command = f'{exports}{" ".join(COMPOSE)} --profile acme "$@"'
        return self.docker.run("sh", "-euc", command, "sh", *words, env=self.env).stdout

    def shown(self) -> x509.Certificate:
        """The certificate of the gateway's published port, whoever signed it."""
        text = ssl.get_server_certificate(("127.0.0.1", self.https), timeout=10)
        return x509.load_pem_x509_certificate(text.encode())


@pytest.fixture
def production(docker: Docker, tmp_path: Path) -> Iterator[Production]:
    (http,) = free_ports(1)
    with ExitStack() as at_end:
        acme = at_end.enter_context(pebble(http, DAYS, docker.bridge_address()))
        made = Production(docker, tmp_path, acme, http)
        at_end.callback(made.compose, "down", "--volumes", "--timeout", "0")
        yield made


def test_what_the_page_says_ends_in_a_certificate_of_the_authority_at_the_door(
    production: Production,
) -> None:
    production.start()
    try:
        # Of several workers one may still show the former.
        shown = wait_for(lambda: of_pebble(production.shown()), ISSUED_SECONDS, "it is shown")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{production.compose('logs', 'acme')}") from error
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    key = (production.tls / "key.pem").stat()
    assert (key.st_mode & 0o777, key.st_uid) == (0o600, USER)
    assert {one.name for one in production.tls.iterdir()} == {"cert.pem", "key.pem"}
    assert "a new certificate is in /tls/cert.pem" in production.compose("logs", "acme")
    running = production.compose("ps", "--services", "--status", "running").split()
    assert {"acme", "gateway"} <= set(running)


def of_pebble(certificate: x509.Certificate) -> x509.Certificate | None:
    """The certificate, if it was pebble that signed it."""
    return certificate if "Pebble" in certificate.issuer.rfc4514_string() else None


RENEW = """\
[ -e tried ] || { touch tried; echo "certbot's own words" >&2; exit 1; }
"""
SLEEP = """\
#!/bin/sh
echo "$1" >> pauses
[ "$1" = 3600 ] || exec /bin/sleep "$1"
"""


@pytest.fixture
def loop(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs `acme/always.sh` beside a renewal that fails once; what it waits is written down."""
    shutil.copy(ROOT / "acme" / "always.sh", tmp_path)
    (tmp_path / "renew.sh").write_text(RENEW)
    (tmp_path / "sleep").write_text(SLEEP)
    (tmp_path / "sleep").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(tmp_path / "always.sh")]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=log, start_new_session=True)
    try:
        yield child
    finally:
        # With what it waits by, which outlives it where it is no container's first process.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(5)


def test_a_renewal_that_failed_is_told_and_tried_again_sooner(
    loop: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    pauses = tmp_path / "pauses"
    wait_for(lambda: pauses.exists() and len(pauses.read_text().split()) == 2, 10, "two rounds")
    assert pauses.read_text().split() == ["3600", "43200"]
    log = (tmp_path / "log").read_text()
    assert "certbot's own words" in log
    assert log.count("acme: no certificate was had, what is in force stays; again in 3600") == 1
    assert loop.poll() is None
    loop.terminate()
    assert loop.wait(within(5)) == 0, "it ends at once when it is told to"
