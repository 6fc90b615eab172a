"""Certificates for tests: an authority of one's own, and what it signs, good or not."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ends: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - 30 * DAY)
        .not_valid_after(ends)
    )


def _write_pair(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Authority:
    """Signs servers' certificates; `certificate` is what must be trusted, in PEM."""

    def __init__(self, name: str = "an authority of the tests", days: int = 30) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        own = _builder(self._name, self._name, self._key, _now() + days * DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        signed = own.sign(self._key, hashes.SHA256())
        self.certificate = signed.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, folder: Path, host: str, days: int = 30) -> ssl.SSLContext:
        """What a TLS server of this name needs; expired where `days` is below zero."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_named(host), self._name, key, _now() + days * DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = folder / f"{host}.pem"
        _write_pair(path, certificate, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client(self, path: Path, subject: x509.Name) -> str:
        """A client's certificate and key of this subject in one file; its path."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._name, key, _now() + DAY)
        _write_pair(path, builder.sign(self._key, hashes.SHA256()), key)
        return str(path)

    def write(self, path: Path) -> str:
        """The certificate as a file; its path."""
        path.write_text(self.certificate)
        return str(path)
