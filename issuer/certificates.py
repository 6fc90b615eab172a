"""A certificate of one's own for a LAN: an authority that is made once, and what it signs.

It must never replace an authority that machines may trust already, and no key it makes can be read
by others.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from issuer import files
from issuer.errors import Faults

AUTHORITY_DAYS = 3650
#: What browsers take at most from public authorities; Apple's also from private ones (825).
SERVER_DAYS = 397
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z",
    re.ASCII,
)
#: Clocks on a LAN differ.
_BEFORE = timedelta(hours=1)


@dataclass(frozen=True)
class Made:
    """Where they are, and whether the authority is a new one, which nobody trusts yet."""

    authority: Path
    certificate: Path
    key: Path
    is_new_authority: bool


def make(folder: Path, hosts: Sequence[str], place: Path | None = None) -> Made:
    """Sign a new certificate for these names and addresses: cert.pem and key.pem in `place`, if
    not in `folder`, where ca.pem and ca-key.pem are, which signs the next one. Raises `Faults` for
    what is no host.
    """
    place = place or folder
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    if wrong := [host for host, name in zip(dict.fromkeys(hosts), names, strict=True) if not name]:
        raise Faults([f"{host!a} is neither a host's name nor an address" for host in wrong])
    for one in (folder, place):
        one.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, authority_key, is_new = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(hosts[0], authority.subject, key, SERVER_DAYS)
    signed = (
        builder.add_extension(x509.SubjectAlternativeName(filter(None, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issued_by(authority_key), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    made = Made(folder / "ca.pem", place / "cert.pem", place / "key.pem", is_new)
    files.replace(made.key, _private(key))
    _write_public(made.certificate, signed)
    return made


def _general_name(host: str) -> x509.GeneralName | None:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        name = host.lower()
        return x509.DNSName(name) if _HOST.match(name.removeprefix("*.")) else None


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, bool]:
    path, key_path = folder / "ca.pem", folder / "ca-key.pem"
    if path.exists() and key_path.exists():
        return *_read_authority(path, key_path), False
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Portero's own authority")])
    usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
    signed = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files.replace(key_path, _private(key))
    _write_public(path, signed)
    return signed, key, True


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _read_authority(
    path: Path, key_path: Path
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Faults([f"{path} and {key_path} are there, and are no authority that was made here"])
    return certificate, key


def _builder(
    name: str | x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    # A common name has 64 characters at most (RFC 5280 appendix A.1); nobody reads it for a host.
    subject = (
        name
        if isinstance(name, x509.Name)
        else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _issued_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_public(path: Path, certificate: x509.Certificate) -> None:
    files.replace(path, certificate.public_bytes(Encoding.PEM))
    path.chmod(0o644)
