"""Signatures that a careless verifier takes: of RSA, of ECDSA, of Ed25519 (threats J25, J27, J28).

And the ones that are as good as the usual ones, though nobody makes them: whoever can has the key.
"""

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.security.forger import P256_BYTES, Forger, decode, ecdsa, encode

Signatures = Iterator[tuple[str, bytes]]

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
ED25519_BYTES = 32

#: RFC 8017 section 9.2, note 1.
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
SHA512_INFO = bytes.fromhex("3051300d060960864801650304020305000440")
SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")
SHA256_INFO_WITHOUT_NULL = bytes.fromhex("302f300b0609608648016503040201" + "0420")
SHA256_INFO_LONG_LENGTH = bytes.fromhex("308131300d060960864801650304020105000420")

#: Points of a small order, and encodings of them that are not reduced.
SMALL_POINTS = tuple(
    bytes.fromhex(text)
    for text in (
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "ec" + "ff" * 31,
        "00" * 32,
        "00" * 31 + "80",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ed" + "ff" * 30 + "7f",
        "ed" + "ff" * 31,
        "ee" + "ff" * 30 + "7f",
        "ee" + "ff" * 31,
    )
)


def _pair(r: int, s: int, length: int = P256_BYTES) -> bytes:
    return r.to_bytes(length, "big") + s.to_bytes(length, "big")


def of_ecdsa(forger: Forger) -> Signatures:
    """J25."""
    good = ecdsa(forger.key.signing, forger.signing_text())
    r, s = int.from_bytes(good[:P256_BYTES], "big"), int.from_bytes(good[P256_BYTES:], "big")
    n = P256_ORDER
    special = {"0": 0, "1": 1, "n-1": n - 1, "n": n, "n+1": n + 1, "2^256-1": 2**256 - 1}
    for name, value in special.items():
        yield f"r = {name}", _pair(value, s)
        yield f"s = {name}", _pair(r, value)
        yield f"r = s = {name}", _pair(value, value)
    yield "r and s exchanged", _pair(s, r)
    yield "r negated", _pair(n - r, s)
    if r + n < 2**256:
        yield "r not reduced", _pair(r + n, s)
    yield "DER", encode_dss_signature(r, s)
    yield "DER of (r, n-s)", encode_dss_signature(r, n - s)
    yield "63 bytes", good[:-1]
    yield "63 bytes, the first one gone", good[1:]
    yield "65 bytes", good + b"\0"
    yield "65 bytes, a zero before", b"\0" + good
    yield "66 bytes, r and s with a leading zero", _pair(r, s, P256_BYTES + 1)
    yield "96 bytes, as of P-384", _pair(r, s, 48)
    yield "132 bytes, as of P-521", _pair(r, s, 66)
    yield "twice", good + good
    yield "r alone", good[:P256_BYTES]
    yield "one byte", b"\0"
    yield "64 zeros", bytes(64)


def _root(number: int) -> int:
    """The cube root, rounded up."""
    low, high = 0, 1 << (number.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**3 < number else (low, middle)
    return low


def _blocks(digest: bytes, sha1: bytes, sha512: bytes, length: int) -> Iterator[tuple[str, bytes]]:
    """What a lax verifier takes for PKCS #1 v1.5 (RFC 8017 section 8.2.2)."""

    def padded(info: bytes, first: bytes = b"\0\1", fill: bytes = b"\xff") -> bytes:
        return first + fill * (length - 3 - len(info)) + b"\0" + info

    def with_garbage(count: int, info: bytes) -> bytes:
        start = b"\0\1" + b"\xff" * count + b"\0" + info
        return start + b"\xa5" * (length - len(start))

    info = SHA256_INFO + digest
    yield "garbage behind the digest", with_garbage(8, info)
    yield "garbage behind the digest, no padding", with_garbage(0, info)
    yield "digest info without NULL", padded(SHA256_INFO_WITHOUT_NULL + digest)
    yield "digest info with a long length", padded(SHA256_INFO_LONG_LENGTH + digest)
    yield "no digest info", padded(digest)
    yield "an empty digest", padded(SHA256_INFO[:-1] + b"\0")
    yield "block type 2", padded(info, first=b"\0\2")
    yield "block type 0", padded(info, first=b"\0\0", fill=b"\0")
    yield "padding that is not ff", padded(info, fill=b"\xfe")
    yield "SHA-1", padded(SHA1_INFO + sha1)
    yield "SHA-512", padded(SHA512_INFO + sha512)
    yield "SHA-512's name over SHA-256's digest", padded(SHA512_INFO + digest + digest)


def of_rsa(forger: Forger) -> Signatures:
    """J27."""
    text = forger.signing_text()
    numbers = forger.key.signing.private_numbers()
    n, d, length = numbers.public_numbers.n, numbers.d, forger.key.signing.key_size // 8
    good = forger.signature()
    value = int.from_bytes(good, "big")
    for name, special in {"0": 0, "1": 1, "n-1": n - 1, "n": n, "n+1": n + 1}.items():
        yield f"signature = {name}", special.to_bytes(length, "big")
    yield "not reduced", (value + n).to_bytes(length + 1, "big")
    yield "negated", (n - value).to_bytes(length, "big")
    yield "a leading zero", b"\0" + good
    yield "a trailing zero", good + b"\0"
    yield "the last byte gone", good[:-1]
    yield "reversed", good[::-1]
    yield "all zero, one byte", b"\0"
    digest = hashlib.sha256(text).digest()
    sha1, sha512 = hashlib.sha1(text).digest(), hashlib.sha512(text).digest()
    for name, block in _blocks(digest, sha1, sha512, length):
        signed = pow(int.from_bytes(block, "big"), d, n)
        yield f"signed by the key: {name}", signed.to_bytes(length, "big")
        yield f"the block itself: {name}", block
    start = b"\0\1\xff\xff\xff\xff\xff\xff\xff\xff\0" + SHA256_INFO + digest
    cube = _root(int.from_bytes(start.ljust(length, b"\0"), "big"))
    yield "a cube root, as if e were 3", cube.to_bytes(length, "big")
    for salt in (0, 32, padding.PSS.MAX_LENGTH):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        yield f"PSS, salt {salt!r}", forger.key.signing.sign(text, pss, hashes.SHA256())


def without_its_zero(forger: Forger) -> bytes:
    """J27: a token whose signature begins with a zero byte that is left out."""
    for count in range(100_000):
        token = forger.token(claims=b" " * (count % 300) + b"\t" * (count // 300) + _claims(forger))
        head, _, signature = token.rpartition(b".")
        if decode(signature)[:1] == b"\0":
            return head + b"." + encode(decode(signature)[1:])
    raise AssertionError("no signature begins with a zero")


def _claims(forger: Forger) -> bytes:
    return decode(forger.token().split(b".")[1])


def _little(value: int) -> bytes:
    return value.to_bytes(ED25519_BYTES, "little")


def of_ed25519(forger: Forger) -> Signatures:
    """J28."""
    good = forger.signature()
    point, scalar = good[:ED25519_BYTES], int.from_bytes(good[ED25519_BYTES:], "little")
    order = ED25519_ORDER
    for times in (1, 2, 8, 15):
        if scalar + times * order < 2**256:
            yield f"S + {times} L", point + _little(scalar + times * order)
    for name, value in {"0": 0, "L": order, "L-1": order - 1, "2^256-1": 2**256 - 1}.items():
        yield f"S = {name}", point + _little(value)
    yield "S negated", point + _little(order - scalar)
    for index, small in enumerate(SMALL_POINTS):
        yield f"R of a small order, {index}", small + good[ED25519_BYTES:]
        yield f"R of a small order and S = 0, {index}", small + bytes(ED25519_BYTES)
    yield "R with its sign changed", point[:-1] + bytes([point[-1] ^ 0x80]) + good[32:]
    yield "S and R exchanged", good[ED25519_BYTES:] + point
    text = forger.signing_text()
    yield "of Ed448", ed448.Ed448PrivateKey.generate().sign(text)
    yield "63 bytes", good[:-1]
    yield "65 bytes", good + b"\0"
    yield "64 zeros", bytes(64)
    yield "of the text's digest", forger.key.signing.sign(hashlib.sha512(text).digest())


def ecdsa_twin(forger: Forger) -> bytes:
    """(r, n-s): as good as (r, s), and nobody needs a key to make it of that one (J26)."""
    good = forger.signature()
    s = int.from_bytes(good[P256_BYTES:], "big")
    return good[:P256_BYTES] + (P256_ORDER - s).to_bytes(P256_BYTES, "big")


def ed25519_without_nonce(forger: Forger) -> bytes:
    """R is the neutral point: the equation of RFC 8032 section 5.1.7 holds, by the private key."""
    private = forger.key.signing
    seed = private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    clamped = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    clamped = clamped & ((1 << 254) - 8) | (1 << 254)
    point = SMALL_POINTS[0]
    challenge = hashlib.sha512(point + public + forger.signing_text()).digest()
    return point + _little(int.from_bytes(challenge, "little") * clamped % ED25519_ORDER)


def on_another_curve(forger: Forger) -> Signatures:
    """J3, J25: by keys of other curves."""
    text = forger.signing_text()
    for curve in (ec.SECP256K1(), ec.SECP384R1()):
        der = ec.generate_private_key(curve).sign(text, ec.ECDSA(hashes.SHA256()))
        yield f"of {curve.name}, DER", der
