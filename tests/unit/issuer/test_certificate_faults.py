"""Certificates between the parts: what is wrong with them is told at the start, and a renewed one
that is wrong leaves the former in force.
"""

import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from issuer import certificate_faults, certificates, config, listener_tls
from issuer.certificates import Made
from issuer.errors import Faults
from issuer.listener_tls import ListenerTls
from tests.support.certificates import Authority


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A good certificate, and its authority."""
    return certificates.make(tmp_path / "tls", ("localhost",))


def split(folder: Path, host: str, **how: int) -> tuple[Path, Path]:
    """Another authority's certificate and key, each in a file."""
    Authority().server(folder, host, **how)
    text = (folder / f"{host}.pem").read_text()
    at = text.index("-----BEGIN PRIVATE KEY-----")
    certificate, key = folder / "split.pem", folder / "split-key.pem"
    certificate.write_text(text[:at])
    key.touch(0o600)
    key.write_text(text[at:])
    return certificate, key


def expired(made: Made) -> None:
    certificate, key = split(made.key.parent, "localhost", days=-1)
    certificate.replace(made.certificate)
    key.replace(made.key)


def cut_short(made: Made) -> None:
    made.certificate.write_bytes(made.certificate.read_bytes()[:200])


def nothing(made: Made) -> None:
    made.certificate.write_text("")


def gone(made: Made) -> None:
    made.certificate.unlink()


def for_no_name(made: Made) -> None:
    shutil.copy(made.authority, made.certificate)


def key_of_another(made: Made) -> None:
    other = certificates.make(made.key.parent / "other", ("localhost",))
    other.key.replace(made.key)


def key_for_all(made: Made) -> None:
    made.key.chmod(0o644)


def no_key(made: Made) -> None:
    made.key.write_text("no key")


SPOILED: Mapping[Callable[[Made], None], str] = {
    expired: "ISSUER_TLS_CERTIFICATE: .* has expired",
    cut_short: "ISSUER_TLS_CERTIFICATE: .* holds a certificate that cannot be read",
    nothing: "ISSUER_TLS_CERTIFICATE: .* holds no certificate in PEM",
    gone: "ISSUER_TLS_CERTIFICATE: cannot read",
    for_no_name: "ISSUER_TLS_CERTIFICATE: .* is for no name",
    key_of_another: "ISSUER_TLS_CERTIFICATE_KEY: .* another certificate's key",
    key_for_all: "ISSUER_TLS_CERTIFICATE_KEY: .* can be read by others",
    no_key: "ISSUER_TLS_CERTIFICATE_KEY: .* holds no private key",
}
EACH = pytest.mark.parametrize("spoil", SPOILED, ids=lambda one: one.__name__)


def settings_of(made: Made) -> dict[str, str]:
    return {
        "ISSUER_TLS_CERTIFICATE": str(made.certificate),
        "ISSUER_TLS_CERTIFICATE_KEY": str(made.key),
    }


@EACH
def test_a_bad_certificate_of_the_issuers_listener_stops_the_start(
    environ: dict[str, str], made: Made, spoil: Callable[[Made], None]
) -> None:
    given = environ | settings_of(made)
    config.read(given)
    assert config.read_own_tls(given) == (made.certificate, made.key)
    spoil(made)
    with pytest.raises(Faults, match=SPOILED[spoil]) as found:
        config.read(given)
    assert "PRIVATE KEY-----" not in str(found.value)


@EACH
def test_a_bad_certificate_leaves_the_former_in_force_and_is_told(
    made: Made,
    spoil: Callable[[Made], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener_tls, "LOOK_SECONDS", 0)
    shown = ListenerTls(made.certificate, made.key)
    before = shown.context()
    spoil(made)
    assert shown.context() is before
    assert shown.context() is before
    (record,) = caplog.records
    assert "stays as it was" in record.message
    certificates.make(made.authority.parent, ("localhost",))
    assert shown.context() is not before


def test_a_renewed_certificate_is_shown_to_the_next_connection(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_tls, "LOOK_SECONDS", 0)
    shown = ListenerTls(made.certificate, made.key)
    first = serial_of(shown, made)
    assert serial_of(shown, made) == first
    certificates.make(made.authority.parent, ("localhost",))
    assert serial_of(shown, made) != first


def serial_of(shown: ListenerTls, made: Made) -> str:
    one, other = socket.socketpair()
    client = ssl.create_default_context(cafile=str(made.authority))

    def serve() -> None:
        with shown.context().wrap_socket(other, server_side=True) as server:
            server.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(one, server_hostname="localhost") as connection:
        serial = (connection.getpeercert() or {})["serialNumber"]
        connection.send(b".")
    thread.join()
    return str(serial)


def test_what_shall_be_trusted_is_read_at_the_start(
    environ: dict[str, str], made: Made, tmp_path: Path
) -> None:
    given = environ | {"GATEWAY_URLS": "https://gate.lan:8081", "SYNC_CA_FILE": str(made.authority)}
    assert config.read(given).sync_ca_file == made.authority
    assert config.read_sync(given) == (
        ("https://gate.lan:8081",),
        given["SYNC_KEY"].encode(),
        made.authority,
    )
    old = Authority(days=-1).write(tmp_path / "old.pem")
    for path in (old, str(made.key), "/nowhere/ca.pem"):
        with pytest.raises(Faults, match="SYNC_CA_FILE: .*" + path):
            config.read(given | {"SYNC_CA_FILE": path})
    # An old one beside one that holds is what a change of authorities looks like.
    both = tmp_path / "both.pem"
    both.write_text(Path(old).read_text() + made.authority.read_text())
    assert certificate_faults.of_trusted(both) is None
