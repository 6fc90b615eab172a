"""Keys that are none stop the start: told by `config`, by `check`, and by the processes themselves.

Part of threats J27 and J29: a weak key is refused before anybody can forge with it.
"""

import base64
import signal
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from issuer import config, keys
from issuer.errors import Faults
from issuer.keys.key_file import KeyFile
from tests.security.der import der_integer, der_sequence
from tests.security.fuzzer import in_pem
from tests.security.mutations import text_forms
from tests.support.deployment import Local

GOOD_SECRET = b"a good secret of the tests, 0123456789"
DONE_SECONDS = 20


@cache
def rsa_pem(bits: int) -> bytes:
    return in_pem(rsa.generate_private_key(65537, bits))


@cache
def ec_pem(curve: type[ec.EllipticCurve]) -> bytes:
    return in_pem(ec.generate_private_key(curve()))


@cache
def ed25519_pem() -> bytes:
    return in_pem(ed25519.Ed25519PrivateKey.generate())


def exponent_one_pem() -> bytes:
    """PKCS #1 by hand: no library makes a key whose signatures are the messages themselves."""
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    members = (0, numbers.public_numbers.n, 1, 1, numbers.p, numbers.q, 1, 1, numbers.iqmp)
    der = der_sequence(*(der_integer(value) for value in members))
    lines = base64.encodebytes(der)
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + lines + b"-----END RSA PRIVATE KEY-----\n"


def locked_pem() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def public_form(name: str, public: Callable[[], Any]) -> Callable[[], bytes]:
    return lambda: dict(text_forms(public()))[name]


def ssh_rsa() -> Any:
    return rsa.generate_private_key(65537, 2048).public_key()


def p256() -> Any:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


#: Name -> JWT_ALGORITHM, what SECRET_KEY_FILE holds, a word of the reason.
WEAK: dict[str, tuple[str, Callable[[], bytes], str]] = {
    **{
        f"{algorithm}, {name}": (algorithm, lambda secret=secret: secret, reason)  # type: ignore[misc]
        for algorithm in ("HS256", "HS384", "HS512")
        for name, secret, reason in (
            ("31 bytes", b"0123456789abcdefghijklmnopqrstu", "shorter than 32 bytes"),
            ("one byte", b"x", "shorter than 32 bytes"),
            ("a word", b"secret", "shorter than 32 bytes"),
            ("one byte again and again", b"a" * 64, "too easy to guess"),
            ("seven bytes again and again", b"abcdefg" * 10, "too easy to guess"),
            ("zeros", bytes(64), "too easy to guess"),
            ("spaces", b" " * 64, "too easy to guess"),
            ("changeme", b"changeme-changeme-CHANGEME-0123456789", "too easy to guess"),
            ("a newline behind", GOOD_SECRET + b"\n", "ends in a newline"),
            ("a private RSA key", rsa_pem(2048), "is a private key"),
            ("a private EC key", ec_pem(ec.SECP256R1), "is a private key"),
            ("a private Ed25519 key", ed25519_pem(), "is a private key"),
        )
    },
    "HS256, a public key in PEM": ("HS256", public_form("PEM", p256), "SECRET_KEY"),
    "HS256, an ssh-rsa line": ("HS256", public_form("ssh line", ssh_rsa), "SECRET_KEY"),
    "HS256, an ecdsa-sha2 line": ("HS256", public_form("ssh line", p256), "SECRET_KEY"),
    "HS256, a JWK": ("HS256", public_form("JWK", p256), "SECRET_KEY"),
    "HS256, a JWK set": ("HS256", public_form("JWK set", p256), "SECRET_KEY"),
    "HS256, a public key in DER": ("HS256", public_form("DER", p256), "SECRET_KEY"),
    "HS256, PEM behind a comment": (
        "HS256",
        lambda: b"# my key\n" + rsa_pem(2048) + b"#",
        "SECRET_KEY",
    ),
    "RS256, 1024 bits": ("RS256", lambda: rsa_pem(1024), "under 2048 bits"),
    "RS256, 2047 bits": ("RS256", lambda: rsa_pem(2047), "under 2048 bits"),
    "RS256, exponent 1": ("RS256", exponent_one_pem, "SECRET_KEY"),
    "RS256, an Ed25519 key": ("RS256", ed25519_pem, "is not an RSA key"),
    "RS256, a P-256 key": ("RS256", lambda: ec_pem(ec.SECP256R1), "is not an RSA key"),
    "RS256, a public key": ("RS256", public_form("PEM", ssh_rsa), "is not a private key"),
    "RS256, a DSA key": (
        "RS256",
        lambda: in_pem(dsa.generate_private_key(1024)),
        "is not an RSA key",
    ),
    "RS256, cut short": ("RS256", lambda: rsa_pem(2048)[:800], "is not a private key"),
    "ES256, a P-384 key": ("ES256", lambda: ec_pem(ec.SECP384R1), "P-256"),
    "ES256, a P-521 key": ("ES256", lambda: ec_pem(ec.SECP521R1), "P-256"),
    "ES256, a secp256k1 key": ("ES256", lambda: ec_pem(ec.SECP256K1), "P-256"),
    "ES256, a brainpool key": ("ES256", lambda: ec_pem(ec.BrainpoolP256R1), "P-256"),
    "ES256, an RSA key": ("ES256", lambda: rsa_pem(2048), "P-256"),
    "EdDSA, an Ed448 key": (
        "EdDSA",
        lambda: in_pem(ed448.Ed448PrivateKey.generate()),
        "is not an Ed25519 key",
    ),
    "EdDSA, a P-256 key": ("EdDSA", lambda: ec_pem(ec.SECP256R1), "is not an Ed25519 key"),
    "EdDSA, a key with a password": ("EdDSA", locked_pem, "is not a private key"),
    "EdDSA, no key in the PEM": (
        "EdDSA",
        lambda: b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        "is not a private key",
    ),
}

STRONG: dict[str, tuple[str, Callable[[], bytes]]] = {
    "HS256, 32 bytes": ("HS256", lambda: b"0123456789abcdefghijklmnopqrstuv"),
    "HS512, more": ("HS512", lambda: GOOD_SECRET * 3),
    "RS256, 2048 bits": ("RS256", lambda: rsa_pem(2048)),
    "ES256, a P-256 key": ("ES256", lambda: ec_pem(ec.SECP256R1)),
    "EdDSA, an Ed25519 key": ("EdDSA", ed25519_pem),
}


def settings_with(
    environ: dict[str, str], folder: Path, algorithm: str, text: bytes
) -> dict[str, str]:
    """Good settings, but for the key."""
    file = folder / "secret_key"
    file.touch(0o600)
    file.write_bytes(text)
    kept = {name: value for name, value in environ.items() if name != "SECRET_KEY"}
    return {**kept, "JWT_ALGORITHM": algorithm, "SECRET_KEY_FILE": str(file)}


@pytest.mark.parametrize("name", WEAK)
def test_j27_j29_a_key_that_is_weak_or_of_another_kind_is_a_fault_of_the_settings(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    algorithm, make, reason = WEAK[name]
    text = make()
    with pytest.raises(Faults) as found:
        config.read(settings_with(environ, tmp_path, algorithm, text))
    assert any(reason in fault for fault in found.value.faults), found.value.faults
    assert not any(text.decode("latin-1") in fault for fault in found.value.faults)


@pytest.mark.parametrize("name", STRONG)
def test_a_strong_key_of_the_right_kind_signs(
    name: str, environ: dict[str, str], tmp_path: Path
) -> None:
    algorithm, make = STRONG[name]
    text = make()
    settings = config.read(settings_with(environ, tmp_path, algorithm, text))
    file = KeyFile(settings.key_file, algorithm, settings.secret_key, lambda: 3600)
    file.prepare(1_800_000_000)
    assert file.keyring().signing().kid == keys.read_key(algorithm, text).kid


REAL = (
    "HS256, 31 bytes",
    "HS512, zeros",
    "HS256, a private RSA key",
    "RS256, 1024 bits",
    "RS256, an Ed25519 key",
    "ES256, a P-384 key",
    "EdDSA, an Ed448 key",
)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("part", ["issuer", "reconciler"])
def test_a_process_that_is_given_a_weak_key_ends_and_says_why(name: str, part: str) -> None:
    algorithm, make, reason = WEAK[name]
    deployment = Local("http://127.0.0.1:1", {"JWT_ALGORITHM": algorithm})
    try:
        Path(deployment.env["SECRET_KEY_FILE"]).write_bytes(make())
        deployment.start(part)
        child = deployment._children[part].process
        assert child.wait(DONE_SECONDS) not in (0, -signal.SIGKILL)
        output = deployment.output(part)
        assert reason in output
        assert "SECRET_KEY" in output
        assert "Traceback" not in output
    finally:
        deployment.close()


def test_check_tells_a_weak_key_and_a_weak_sync_key_together(
    environ: dict[str, str], tmp_path: Path
) -> None:
    weak = settings_with(environ, tmp_path, "RS256", rsa_pem(1024))
    with pytest.raises(Faults) as found:
        config.read({**weak, "SYNC_KEY": "short"})
    assert [fault.split(":")[0] for fault in found.value.faults] == [
        "SECRET_KEY",
        "SYNC_KEY",
        "SYNC_KEY",
    ]


def test_the_command_that_checks_refuses_a_weak_key() -> None:
    deployment = Local("http://127.0.0.1:1", {"JWT_ALGORITHM": "RS256"})
    try:
        Path(deployment.env["SECRET_KEY_FILE"]).write_bytes(rsa_pem(1024))
        done: subprocess.CompletedProcess[str] = deployment.command("check", check=False)
        assert done.returncode != 0
        assert "under 2048 bits" in done.stderr
    finally:
        deployment.close()
