"""The signature check alone: by what others have published, and by keys too weak for it."""

from collections.abc import Callable, Iterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from issuer import keys
from tests.security.der import der_bits, der_integer, der_sequence
from tests.security.forger import decode, ecdsa, encode, mac
from tests.security.gateway_verifier import GatewayVerifier, gateway_verifier, key_list
from tests.security.vectors import RFC4231_KEY, RFC4231_MACS, RFC4231_TEXT, VECTORS


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayVerifier]:
    with gateway_verifier() as verifier:
        yield verifier


@pytest.mark.parametrize("name", VECTORS)
def test_a_published_signature_holds_and_with_any_byte_changed_it_does_not(
    gateway: GatewayVerifier, name: str
) -> None:
    algorithm, key, text, signature = VECTORS[name]
    signed, raw = text.encode(), decode(signature.encode())
    assert gateway.holds(algorithm, key, signed, raw) == "true"
    for at in range(0, len(raw), 5):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert gateway.holds(algorithm, key, signed, changed) == "false"
    assert gateway.holds(algorithm, key, signed + b"A", raw) == "false"
    assert gateway.holds(algorithm, key, signed[:-1], raw) == "false"


@pytest.mark.parametrize("name", [name for name in VECTORS if name != "RFC 7520 4.7"])
def test_the_issuers_library_holds_the_same_published_signatures_good(name: str) -> None:
    """But for the one of RFC 7520 4.7: a token without a protected header is none in any form."""
    algorithm, key, text, signature = VECTORS[name]
    checker = key if algorithm.startswith("HS") else serialization.load_der_public_key(key)
    assert jwt.PyJWS([algorithm]).decode(f"{text}.{signature}", checker, [algorithm])  # type: ignore[arg-type]
    changed = ("A" if signature[0] != "A" else "B") + signature[1:]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.PyJWS([algorithm]).decode(f"{text}.{changed}", checker, [algorithm])  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", RFC4231_MACS)
def test_a_mac_of_each_length_is_that_of_rfc_4231(gateway: GatewayVerifier, algorithm: str) -> None:
    good = bytes.fromhex(RFC4231_MACS[algorithm])
    assert gateway.holds(algorithm, RFC4231_KEY, RFC4231_TEXT, good) == "true"
    for other in (good[:-1], good + b"\0", good[1:], b"", good[:32] if len(good) > 32 else b"\0"):
        assert gateway.holds(algorithm, RFC4231_KEY, RFC4231_TEXT, other) == "false"


def public(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed448.Ed448PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def rsa_with_exponent_one() -> bytes:
    """A public key of which everybody has the private half."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    name = bytes.fromhex("06092a864886f70d0101010500")  # rsaEncryption
    numbers = der_sequence(der_integer(modulus), der_integer(1))
    return der_sequence(der_sequence(name), der_bits(numbers))


WEAK: dict[str, tuple[str, Callable[[], bytes]]] = {
    "HS256, 31 bytes": ("HS256", lambda: b"0123456789abcdef0123456789abcde"),
    "HS512, none": ("HS512", lambda: b""),
    "RS256, 1024 bits": (
        "RS256",
        lambda: public(rsa.generate_private_key(65537, 1024).public_key()),
    ),
    "RS256, 2047 bits": (
        "RS256",
        lambda: public(rsa.generate_private_key(65537, 2047).public_key()),
    ),
    "RS256, exponent 1": ("RS256", rsa_with_exponent_one),
    "RS256, a key on P-256": (
        "RS256",
        lambda: public(ec.generate_private_key(ec.SECP256R1()).public_key()),
    ),
    "ES256, a key on P-384": (
        "ES256",
        lambda: public(ec.generate_private_key(ec.SECP384R1()).public_key()),
    ),
    "ES256, a key on P-224": (
        "ES256",
        lambda: public(ec.generate_private_key(ec.SECP224R1()).public_key()),
    ),
    "ES256, a key on secp256k1": (
        "ES256",
        lambda: public(ec.generate_private_key(ec.SECP256K1()).public_key()),
    ),
    "ES256, a key on brainpoolP256r1": (
        "ES256",
        lambda: public(ec.generate_private_key(ec.BrainpoolP256R1()).public_key()),
    ),
    "ES256, an RSA key": (
        "ES256",
        lambda: public(rsa.generate_private_key(65537, 2048).public_key()),
    ),
    "EdDSA, a key on Ed448": (
        "EdDSA",
        lambda: public(ed448.Ed448PrivateKey.generate().public_key()),
    ),
    "EdDSA, no key": ("EdDSA", lambda: b"\x30\x00"),
}


@pytest.mark.parametrize("name", WEAK)
def test_j27_the_gateway_takes_no_key_that_is_weak_or_of_another_kind(
    gateway: GatewayVerifier, name: str
) -> None:
    algorithm, make = WEAK[name]
    assert gateway.holds(algorithm, make(), b"text", bytes(64)) == "unfit"


def test_the_gateway_knows_no_other_algorithm(gateway: GatewayVerifier) -> None:
    for algorithm in ("none", "HS1", "hs256", "RS384", "PS256", "ES384", "Ed25519", "__index"):
        assert gateway.holds(algorithm, b"k" * 32, b"text", bytes(32)) == "unfit"


def test_keys_taken_again_and_again_leave_the_gateways_memory_sound(
    gateway: GatewayVerifier,
) -> None:
    """What unsealing writes beyond its buffers shows when memory moves; the process would end."""
    key = keys.new_key("HS256")
    for serial in range(1, 300):
        assert gateway.put_keys(key_list(key, serial=serial))
    large = [b"a" * size for size in (1 << 10, 1 << 16, 1 << 18, 1 << 20)] * 4
    assert gateway.verdicts(large, 1_800_000_000) == ["refused"] * len(large)
    text = b"still here"
    assert gateway.holds("HS256", key.verifying, text, mac("HS256", key.signing, text)) == "true"


def test_an_ecdsa_signature_with_short_numbers_holds(gateway: GatewayVerifier) -> None:
    """r or s with leading zeros: DER writes them shorter, the token's form does not."""
    private = ec.derive_private_key(7, ec.SECP256R1())
    key = public(private.public_key())
    short = 0
    for number in range(1500):
        text = encode(number.to_bytes(4, "big"))
        signature = ecdsa(private, text)
        if 0 in (signature[0], signature[32]):
            short += 1
            assert gateway.holds("ES256", key, text, signature) == "true"
    assert short
