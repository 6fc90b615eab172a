"""The files that a policy names: credentials for LLM servers, and certificates they are known by.

They are read with the policy, and a change of one counts as a change of the policy. It must never
put a content, or a name that may be one, into a fault: who writes a key in the place of its file
shall not find it in a log.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

MAX_BYTES = {"credential_file": 4_096, "ca_file": 262_144}
FIELDS = tuple(MAX_BYTES)
MAX_CREDENTIAL_CHARACTERS = 4_000

_CERTIFICATE = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.ASCII | re.DOTALL
)
_PRINTABLE = re.compile(r"[!-~]+\Z", re.ASCII)


@dataclass(frozen=True)
class NamedFile:
    """A file as it was found: its text, or why it has none."""

    text: str = field(default="", repr=False)
    fault: str = ""


def read(path: Path, of: str) -> NamedFile:
    """The file that a field of a server names."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            raw = file.read(MAX_BYTES[of] + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        return NamedFile(fault=f"names a file that cannot be read: {reason}")
    if of == "credential_file" and mode & stat.S_IRWXO:
        return NamedFile(fault="names a file that everybody can read; chmod 600 it")
    if len(raw) > MAX_BYTES[of]:
        return NamedFile(fault=f"names a file of more than {MAX_BYTES[of]} bytes")
    return NamedFile(raw.decode("utf-8", "surrogateescape"))


def credential_of(text: str) -> str:
    """The credential in a file: what stands there without the line end that an editor puts."""
    return text.removesuffix("\n").removesuffix("\r")


def certificates_of(text: str) -> str:
    """The certificates in a file, and none of the words that may stand beside them."""
    return "".join(f"{one}\n" for one in _CERTIFICATE.findall(text))


def _credential_fault(text: str) -> str:
    credential = credential_of(text)
    if not credential:
        return "names an empty file"
    if "\n" in credential or "\r" in credential:
        return "names a file of more than one line; the credential stands there alone"
    if re.match(r"bearer\s", credential, re.IGNORECASE):
        return "names a file that says Bearer; leave that out, it is sent by itself"
    if not _PRINTABLE.match(credential):
        return "names a file with a blank or a character that is not printable ASCII"
    if len(credential) > MAX_CREDENTIAL_CHARACTERS:
        return f"names a credential of more than {MAX_CREDENTIAL_CHARACTERS} characters"
    return ""


def _certificates_fault(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        return "names a file with a private key; certificates alone belong there"
    begun = text.count("-----BEGIN CERTIFICATE-----")
    if not begun:
        return "names a file without a certificate in PEM"
    try:
        found = x509.load_pem_x509_certificates(certificates_of(text).encode())
    except ValueError:
        found = []
    return "" if len(found) == begun else "names a file with a certificate that cannot be read"


_TEXTS = {"credential_file": credential_of, "ca_file": certificates_of}
_FAULTS = {"credential_file": _credential_fault, "ca_file": _certificates_fault}


def key_of(of: str, name: str) -> str:
    """What a file is found by: its field, and its name as the policy has it."""
    return f"{of} {name}"


def fault_of(found: Mapping[str, NamedFile], of: str, name: str) -> str:
    """What is wrong with the file of this name; empty when nothing is."""
    one = found.get(key_of(of, name), NamedFile(fault="names a file that was not read"))
    return one.fault or _FAULTS[of](one.text)


def text_of(found: Mapping[str, NamedFile], of: str, name: str) -> str:
    """What of a file without a fault is used."""
    return _TEXTS[of](found[key_of(of, name)].text)
