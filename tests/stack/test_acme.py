"""Certificates of an ACME authority, by certbot through the gateway's own challenge path: issued,
installed, renewed, kept while they are good; and what was in force stays so where that fails.
"""

import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from run.commands import ROOT
from tests.stack.test_tls import RENEWED_SECONDS, Door, behind_tls
from tests.support import docs
from tests.support.acme import RENEWED_DAYS, Acme, pebble
from tests.support.waiting import wait_for

NAME = "door.example"


class House:
    """A gateway with a certificate of its own making, and who has another one made for it."""

    def __init__(self, door: Door, acme: Acme, folder: Path) -> None:
        self.door, self.acme, self.folder = door, acme, folder

    def renew(self, **changes: str) -> "subprocess.CompletedProcess[str]":
        """`acme/renew.sh`, as a timer runs it."""
        env = {
            "PATH": os.environ["PATH"],
            "ACME_HOST": NAME,
            "ACME_EMAIL": "somebody@door.example",
            "ACME_SERVER": self.acme.directory,
            "ACME_FOLDER": str(self.folder),
            "ACME_WEBROOT": str(self.door.webroot),
            "TLS_CERTIFICATE": str(self.door.made.certificate),
            "TLS_CERTIFICATE_KEY": str(self.door.made.key),
            "REQUESTS_CA_BUNDLE": str(self.acme.authority),
            **changes,
        }
        command = ["sh", str(ROOT / "acme" / "renew.sh")]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    def shown(self) -> x509.Certificate:
        """The certificate that the gateway shows, whoever signed it."""
        context = self.door.context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.door.connect(context) as connection:
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")

    def shows_its_file(self) -> bool:
        """Whether that is the one on disk."""
        text = self.door.made.certificate.read_bytes()
        return self.shown() == x509.load_pem_x509_certificate(text)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("acme")
    # What it signs ends so soon that it is to be renewed at once.
    with (
        behind_tls(folder) as door,
        pebble(door.plain_port, RENEWED_DAYS - 10) as acme,
    ):
        yield House(door, acme, folder / "certbot")


def test_a_certificate_is_issued_through_the_gateway_installed_and_renewed(house: House) -> None:
    made = house.door.made
    owner = made.key.stat().st_uid
    first = house.renew()
    assert first.returncode == 0, first.stdout + first.stderr
    # Of two workers one may still show the former.
    shown = wait_for(lambda: of_pebble(house.shown()), RENEWED_SECONDS, "it is shown")
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]
    assert (made.key.stat().st_mode & 0o777, made.key.stat().st_uid) == (0o600, owner)
    assert not list(house.door.challenges.iterdir()), "nothing of a challenge is left"

    second = house.renew()
    assert second.returncode == 0, second.stdout + second.stderr
    wait_for(
        lambda: of_pebble(house.shown()) not in (None, shown),
        RENEWED_SECONDS,
        "the renewed one is shown",
    )


def of_pebble(certificate: x509.Certificate) -> x509.Certificate | None:
    """The certificate, if it was pebble that signed it."""
    return certificate if "Pebble" in certificate.issuer.rfc4514_string() else None


def test_a_certificate_with_days_to_go_is_kept(house: House) -> None:
    assert house.renew().returncode == 0
    renewal = house.folder / "config" / "renewal" / "portero.conf"
    before, text = house.door.made.certificate.read_bytes(), renewal.read_text()
    renewal.write_text(f"renew_before_expiry = {RENEWED_DAYS - 20} days\n{text}")
    kept = house.renew()
    renewal.write_text(text)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "not yet due" in kept.stdout
    assert house.door.made.certificate.read_bytes() == before


def test_an_authority_that_refuses_or_is_away_leaves_what_is_in_force(house: House) -> None:
    certificate, key = house.door.made.certificate, house.door.made.key
    before = certificate.read_bytes(), key.read_bytes()
    elsewhere = house.folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    refused = house.renew(ACME_WEBROOT=str(elsewhere))
    assert refused.returncode != 0
    assert re.search(NAME, refused.stdout + refused.stderr)
    assert house.renew(ACME_SERVER="https://localhost:1/dir").returncode != 0
    assert (certificate.read_bytes(), key.read_bytes()) == before
    wait_for(house.shows_its_file, RENEWED_SECONDS, "what is installed is shown")


@pytest.mark.parametrize("name", ["ACME_HOST", "ACME_WEBROOT", "TLS_CERTIFICATE"])
def test_what_is_not_told_is_named(house: House, name: str) -> None:
    done = house.renew(**{name: ""})
    assert done.returncode != 0
    assert name in done.stderr


UNITS = sorted(path.name for path in (ROOT / "acme").glob("portero-acme.*"))


def test_the_page_names_every_unit_and_the_script_reads_what_its_file_tells() -> None:
    page = docs.block("docs/tls.md", "acme")
    assert UNITS == ["portero-acme.service", "portero-acme.timer"]
    assert all(f"acme/{unit}" in page for unit in UNITS)
    told = set(re.findall(r"(?m)^([A-Z_]+)=", page))
    script = (ROOT / "acme" / "renew.sh").read_text()
    assert told == set(re.findall(r"\$\{([A-Z_]+)", script)) - {"ACME_SERVER", "ACME_FOLDER"}
