"""Keys: the kid, which are too weak, their stored form, the keyring, and that no secret shows."""

import base64
import hashlib
import json
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519

from issuer import keys
from issuer.errors import Faults
from issuer.keys import Key, Keyring

SECRET = b"a secret of the key tests, at least thirty-two bytes"
HMAC = ("HS256", "HS384", "HS512")
PUBLIC = ("RS256", "ES256", "EdDSA")

#: RFC 7638 section 3.1, and RFC 8037 appendices A.1 to A.3.
RFC7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
    "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic"
    "AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3"
    "XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RFC7638_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
RFC8037_D = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
RFC8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC8037_THUMBPRINT = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@cache
def made(algorithm: str) -> Key:
    return keys.new_key(algorithm)


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def pem(private: Any, form: str = "PKCS8", password: bytes | None = None) -> bytes:
    hidden: Any = serialization.NoEncryption()
    if password is not None:
        hidden = serialization.BestAvailableEncryption(password)
    form_of = getattr(serialization.PrivateFormat, form)
    return bytes(private.private_bytes(serialization.Encoding.PEM, form_of, hidden))


def public_pem(private: Any) -> bytes:
    return bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


# The kid


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    jwk = {"kty": "RSA", "n": RFC7638_N, "e": "AQAB"}
    assert keys.thumbprint(jwk) == RFC7638_THUMBPRINT
    assert keys.thumbprint(dict(reversed(jwk.items()))) == RFC7638_THUMBPRINT


def test_the_kid_of_an_ed25519_key_is_the_thumbprint_of_rfc_8037() -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(raw(RFC8037_D))
    key = keys.read_key("EdDSA", pem(private))
    assert key.kid == RFC8037_THUMBPRINT
    assert keys.public_jwk(key)["x"] == RFC8037_X


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_the_kid_of_a_public_key_is_the_thumbprint_of_what_is_published(algorithm: str) -> None:
    jwk = keys.public_jwk(made(algorithm))
    required = {"RSA": ("e", "n"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}[jwk["kty"]]
    members = {name: jwk[name] for name in sorted((*required, "kty"))}
    text = json.dumps(members, separators=(",", ":")).encode()
    assert jwk["kid"] == made(algorithm).kid == text_of(hashlib.sha256(text).digest())


def test_a_coordinate_that_begins_with_zeros_keeps_its_length() -> None:
    """About one key in 128 has one; the search is fast."""
    for _ in range(5_000):
        key = keys._private_key("ES256", ec.generate_private_key(ec.SECP256R1()))
        jwk = keys.public_jwk(key)
        assert len(raw(jwk["x"])) == len(raw(jwk["y"])) == 32
        if 0 in (raw(jwk["x"])[0], raw(jwk["y"])[0]):
            return
    raise AssertionError("no such key was found")


def test_the_kid_is_the_same_for_the_same_secret_and_another_for_another() -> None:
    kids = {keys.hmac_key("HS256", SECRET + bytes([number])).kid for number in range(100)}
    assert len(kids) == 100
    assert keys.hmac_key("HS256", SECRET) == keys.hmac_key("HS256", SECRET)


def test_the_kid_of_a_secret_is_that_which_the_gateways_specs_know() -> None:
    assert keys.hmac_key("HS256", b"s" * 32).kid == "gbmzKQfefUOaaGol"
    assert keys.hmac_key("HS512", b"00000000000000000000000000000010").kid == "kpYKX_vt4OpG-qka"


def test_the_kid_is_plain_text_that_needs_no_escape() -> None:
    for key in [keys.hmac_key("HS256", SECRET), *(made(algorithm) for algorithm in PUBLIC)]:
        assert len(key.kid) in (16, 43)
        assert key.kid.replace("-", "").replace("_", "").isalnum()
        assert key.kid.isascii()


def test_the_kid_of_a_secret_is_no_hash_of_it_that_others_could_make() -> None:
    kid = raw(keys.hmac_key("HS256", SECRET).kid)
    for name in ("md5", "sha1", "sha256", "sha384", "sha512"):
        assert not hashlib.new(name, SECRET).digest().startswith(kid)


# Which are too weak


@pytest.mark.parametrize(
    ("secret", "word"),
    [
        (b"", "shorter than 32"),
        (b"only thirty-one bytes, no more.", "shorter than 32"),
        (b"a" * 64, "too easy"),
        (b"abcdefg" * 9, "too easy"),
        (b"ChangeMe-ChangeMe-0123456789-abcdef", "too easy"),
        (SECRET + b"\n", "newline"),
        (SECRET + b"\r", "newline"),
        (SECRET + b"\r\n", "newline"),
    ],
)
def test_k1_a_weak_secret_is_no_key_of_any_hmac(secret: bytes, word: str) -> None:
    for algorithm in HMAC:
        with pytest.raises(Faults) as found:
            keys.read_key(algorithm, secret)
        assert any(word in fault for fault in found.value.faults)
        assert not secret or all(secret.decode() not in fault for fault in found.value.faults)


def test_a_secret_of_32_bytes_is_enough_for_every_hmac_and_may_be_any_bytes() -> None:
    for algorithm in HMAC:
        for secret in (bytes(range(32)), b"\xff\x00" + bytes(range(60))):
            assert keys.read_key(algorithm, secret).signing == secret


RSA_1024 = rsa.generate_private_key(65537, 1024)
RSA_2048 = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

#: Name -> what is given, and the algorithms it is a key of.
GIVEN: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "RSA 2048": (pem(RSA_2048), ("RS256",)),
    "RSA 2048 in PKCS #1": (pem(RSA_2048, "TraditionalOpenSSL"), ("RS256",)),
    "RSA 2048 with exponent 3": (pem(rsa.generate_private_key(3, 2048)), ("RS256",)),
    "RSA 1024": (pem(RSA_1024), ()),
    "RSA 2040": (pem(rsa.generate_private_key(65537, 2040)), ()),
    "P-256": (pem(P256), ("ES256",)),
    "P-256 in SEC 1": (pem(P256, "TraditionalOpenSSL"), ("ES256",)),
    "P-384": (pem(ec.generate_private_key(ec.SECP384R1())), ()),
    "P-224": (pem(ec.generate_private_key(ec.SECP224R1())), ()),
    "secp256k1": (pem(ec.generate_private_key(ec.SECP256K1())), ()),
    "brainpoolP256r1": (pem(ec.generate_private_key(ec.BrainpoolP256R1())), ()),
    "Ed25519": (pem(ED25519), ("EdDSA",)),
    "Ed25519 with a password": (pem(ED25519, password=b"a password"), ()),
    "Ed448": (pem(ed448.Ed448PrivateKey.generate()), ()),
    "X25519": (pem(x25519.X25519PrivateKey.generate()), ()),
    "a public RSA key": (public_pem(RSA_2048), ()),
    "a public Ed25519 key": (public_pem(ED25519), ()),
    "a cut key": (pem(ED25519)[:70], ()),
    "a secret": (SECRET, ()),
    "nothing": (b"", ()),
    "a PEM of nothing": (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", ()),
    "bytes that are no text": (b"-----BEGIN PRIVATE KEY-----\n\xff\xfe\n", ()),
}


@pytest.mark.parametrize("algorithm", PUBLIC)
@pytest.mark.parametrize("name", GIVEN)
def test_k1_only_a_strong_private_key_of_the_algorithm_is_taken(name: str, algorithm: str) -> None:
    given, fit = GIVEN[name]
    if algorithm in fit:
        assert keys.read_key(algorithm, given).algorithm == algorithm
        return
    with pytest.raises(Faults) as found:
        keys.read_key(algorithm, given)
    (fault,) = found.value.faults
    assert fault.startswith("is ")
    assert not any(line and line in fault for line in given.decode("latin-1").splitlines()[1:-1])


# What a key is made of


def test_every_algorithm_can_have_a_new_key() -> None:
    assert tuple(keys.ALGORITHMS) == HMAC + PUBLIC


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_new_secret_is_as_long_as_rfc_7518_section_3_2_asks_for(
    algorithm: str, least: int
) -> None:
    assert len(keys.new_key(algorithm).verifying) >= least


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_a_key_comes_back_from_its_stored_form_as_it_was(algorithm: str) -> None:
    key = made(algorithm)
    again = keys.read_key(algorithm, keys.stored_form(key))
    assert (again.kid, again.algorithm, again.verifying) == (key.kid, algorithm, key.verifying)
    token = jwt.encode({"a": "b"}, again.signing, algorithm=algorithm)
    assert jwt.decode(token, key.checker(), [algorithm]) == {"a": "b"}
    assert keys.stored_form(again) == keys.stored_form(key)


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_new_keys_are_strong_and_all_different(algorithm: str) -> None:
    others = [made(algorithm), keys.new_key(algorithm)]
    assert len({key.kid for key in others}) == 2
    assert keys.read_key(algorithm, keys.stored_form(others[1]))


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_only_the_holder_of_a_secret_or_a_private_key_can_mint(algorithm: str) -> None:
    key = made(algorithm)
    assert key.is_public is (algorithm in PUBLIC)
    if not key.is_public:
        assert key.verifying == key.signing
        return
    public = serialization.load_der_public_key(key.verifying)
    with pytest.raises((TypeError, ValueError)):
        serialization.load_der_private_key(key.verifying, None)
    with pytest.raises((TypeError, AttributeError, jwt.PyJWTError)):
        jwt.encode({}, public, algorithm=algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_published_key_has_no_private_member(algorithm: str) -> None:
    jwk = keys.public_jwk(made(algorithm))
    assert jwk.keys() <= {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
    assert (jwk["alg"], jwk["use"]) == (algorithm, "sig")
    assert jwt.PyJWK(jwk).key_id == made(algorithm).kid


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_no_secret_shows_in_a_repr_or_a_kid(algorithm: str) -> None:
    key = made(algorithm)
    shown = f"{key!r} {key} {Keyring([key])!r} {key.kid}"
    stored = keys.stored_form(key)
    for secret in (stored, key.verifying):
        assert secret.hex() not in shown
        assert base64.b64encode(secret).decode() not in shown
        assert repr(secret)[2:-1] not in shown
    assert not any(line in shown for line in stored.decode().splitlines() if len(line) > 20)


# The keyring


def test_the_newest_key_signs_unless_another_is_named() -> None:
    old, new = (keys.hmac_key("HS256", SECRET + end) for end in (b"1", b"2"))
    assert Keyring([old, new]).signing() is new
    assert Keyring([old, new], old.kid).signing() is old
    assert Keyring([old, new], new.kid).signing() is new


def test_every_key_in_force_is_found_by_its_kid() -> None:
    three = [keys.hmac_key("HS256", SECRET), made("ES256"), made("EdDSA")]
    keyring = Keyring(three)
    assert list(keyring) == three
    for key in three:
        assert keyring.find(key.kid) is key


@pytest.mark.parametrize("kid", ["", "x", "../../dev/null", "\0", None, 1, 1.5, True, [], {}, b"x"])
def test_j5_anything_else_finds_no_key(kid: Any) -> None:
    assert Keyring([keys.hmac_key("HS256", SECRET)]).find(kid) is None
