"""What is wrong with a certificate that shall be shown, or with those that shall be trusted.

The same is asked of the gateway's in `portero/tls/certificate.lua`. It must never put anything of a
key into a message.
"""

import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

_BEGINS = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
_END = b"-----END CERTIFICATE-----"


def of_trusted(path: Path) -> str | None:
    """What is wrong with a file of certificates that shall be trusted; None when nothing is."""
    try:
        certificates = _read(path)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
    if all(one.not_valid_after_utc <= datetime.now(UTC) for one in certificates):
        return f"{path} holds no certificate that has not expired"
    return None


def of_shown(path: Path, key_path: Path) -> tuple[str | None, str | None]:
    """What is wrong with a certificate and with its key, each None when nothing is."""
    certificate, of_certificate = None, None
    try:
        certificate = _read(path)[0]
        of_certificate = _fault_of(certificate)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}", _fault_of_key(key_path, None)
    except ValueError as error:
        of_certificate = str(error)
    named = f"{path} {of_certificate}" if of_certificate else None
    return named, _fault_of_key(key_path, certificate)


def _read(path: Path) -> list[x509.Certificate]:
    text = path.read_bytes()
    begun = [text[match.start() :] for match in _BEGINS.finditer(text)]
    if not begun:
        raise ValueError("holds no certificate in PEM")
    try:
        return [x509.load_pem_x509_certificate(one[: one.index(_END) + len(_END)]) for one in begun]
    except ValueError:
        raise ValueError("holds a certificate that cannot be read") from None


def _fault_of(certificate: x509.Certificate) -> str | None:
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        return "has expired"
    if certificate.not_valid_before_utc > now:
        return "does not hold yet"
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return "is for no name: clients read subjectAltName alone"
    return None


def _fault_of_key(path: Path, certificate: x509.Certificate | None) -> str | None:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return f"{path} can be read by others; chmod 600 it"
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    except (ValueError, TypeError):
        return f"{path} holds no private key in PEM that can be read without a pass phrase"
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    is_its = certificate is None or (
        key.public_key().public_bytes(*spki) == certificate.public_key().public_bytes(*spki)
    )
    return None if is_its else f"{path} is another certificate's key"
