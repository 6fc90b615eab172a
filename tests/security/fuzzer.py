"""Random mutations of good tokens, the same ones for the same seed.

Most know no key: bytes, segments, signatures, parts of other tokens. A share is JSON that was
changed and signed again by the right key, as a careless issuer might. Of these a few say what is
allowed after all; `says_what_is_allowed` knows them, in its own words.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from issuer import keys
from issuer.keys import Key
from issuer.tokens import MAX_CHARACTERS
from tests.security.forger import ALPHABET, Forger, decode, encode, mac, raw
from tests.security.stand import ROLES
from tests.security.vectors import rfc7520_private_key

SIGNED_AGAIN = 0.2
P256_KEYS = 2**255
_SUBJECT = re.compile(r"[A-Za-z0-9._-]{1,60}")
_JSON = re.compile(rb'[{}:,"]|[0-9]+|[A-Za-z_.-]+|[ \t\r\n]+|.', re.DOTALL)

#: What stands in JSON where it should not, or should in another place.
PIECES = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"0", b"-", b"+", b".", b"e9", b"E1", b"null",
    b"true", b"\0", b"\n", b" ", b"\t", b"\r", b"\x7f", b"\x80", b"\xff", b"\xef\xbb\xbf",
    b"\\u0000",
    b"\\u0065", b"\\/", b"/*x*/", b"//", b'"a":1,', b',"a":1', b',"exp":9999999999',
    b'"alg":"none",',
    b"NaN", b"Infinity", b"0x", b"1e400", b"\xc2\xa0", b"\xe2\x80\xa8", b"'", b"\x0b", b"\x0c",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 10**15, 1.5, 1e308, "", " ", "0", "none", [], {},
    "portero", "portero-gateway", "user", "admin", "agi", "USRSone", "ADMNroot", "AGIATEST01",
    "JWT",
    "HS256", "RS256", "ES256", "EdDSA", ["portero-gateway"], {"a": 1}, "A" * 22, "\u00e9", "\0",
)  # fmt: skip
NAMES = ("alg", "kid", "typ", "iss", "aud", "sub", "role", "iat", "exp", "jti", "nbf", "crit", "")


class Case(NamedTuple):
    """A token, what was done to make it, and whether it says what is allowed."""

    token: bytes
    kind: str
    is_allowed: bool


def seeded_key(algorithm: str, random: Random) -> Key:
    """A key that depends on the seed alone; of RSA there is only one."""
    if algorithm.startswith("HS"):
        return keys.hmac_key(algorithm, base64.urlsafe_b64encode(random.randbytes(48)))
    private: Any = rfc7520_private_key()
    if algorithm == "ES256":
        private = ec.derive_private_key(random.randrange(1, P256_KEYS), ec.SECP256R1())
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
    return keys.read_key(algorithm, in_pem(private))


def in_pem(private: Any) -> bytes:
    """A private key as a file has it."""
    return bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _plain(text: bytes) -> dict[str, Any] | None:
    """A flat JSON object in the plainest words: ASCII, no escapes, no name twice."""
    try:
        if b"\\" in text:
            return None
        pairs = json.loads(text.decode("ascii"), object_pairs_hook=list)
    except ValueError:
        return None
    if not isinstance(pairs, list) or not text.strip(b" \t\r\n").startswith(b"{"):
        return None
    table = dict(pairs)
    return table if len(table) == len(pairs) else None


def says_what_is_allowed(header: bytes, payload: bytes, forger: Forger, now: int) -> bool:
    """Whether a truly signed token with these JSON texts is good (docs/http-api.md)."""
    claims = _plain(payload)
    if _plain(header) != forger.header or claims is None or claims.keys() != forger.claims.keys():
        return False
    fixed = all(claims[name] == forger.claims[name] for name in ("iss", "aud", "jti"))
    if not fixed or type(claims["iat"]) is not int or type(claims["exp"]) is not int:
        return False
    role = ROLES.named(claims["role"]) if isinstance(claims["role"], str) else None
    subject = claims["sub"]
    if role is None or not isinstance(subject, str) or subject[:4] != role.code:
        return False
    in_time = claims["iat"] <= now < claims["exp"]
    lasts = 0 < claims["exp"] - claims["iat"] <= role.ttl_seconds
    return in_time and lasts and _SUBJECT.fullmatch(subject[4:]) is not None


class Fuzzer:
    """Makes cases of a forger's good tokens. `strangers` are tokens of other keys and claims."""

    def __init__(self, forger: Forger, random: Random, strangers: Sequence[bytes] = ()) -> None:
        self._forger = forger
        self._random = random
        self._good = [
            forger.token(),
            forger.token(claims=json.dumps(forger.claims).encode()),
            forger.with_claims(iat=forger.now),
            forger.with_claims(sub=forger.claims["sub"][:4] + "x"),
        ]
        self._known = set(self._good)
        revoked = forger.with_claims(jti=forger.revoked)
        self._pool = [*self._good, *strangers, revoked, forger.token(key=forger.other)]
        self._blind: tuple[Callable[[bytes], bytes], ...] = (
            self._flip, self._flip, self._bytes, self._insert, self._delete, self._swap, self._case,
            self._cut, self._repeat, self._splice, self._splice, self._segment, self._segment,
            self._signature, self._signature, self._unsigned_edit, self._resegment, self._alphabet,
        )  # fmt: skip

    def cases(self, count: int) -> list[Case]:
        """The next cases."""
        return [self._case_of() for _ in range(count)]

    def _case_of(self) -> Case:
        if self._random.random() < SIGNED_AGAIN:
            return self._signed_again()
        token = self._random.choice(self._good)
        change = self._random.choice(self._blind)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            token = change(token)
            change = self._random.choice(self._blind)
        return Case(token, "unsigned", token in self._known)

    # Without a key.

    def _place(self, text: bytes) -> int:
        return self._random.randrange(len(text)) if text else 0

    def _flip(self, token: bytes) -> bytes:
        at = self._place(token)
        flipped = bytearray(token)
        if flipped:
            flipped[at] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _bytes(self, token: bytes) -> bytes:
        at, count = self._place(token), self._random.choice((1, 1, 2, 4, 16))
        return token[:at] + self._random.randbytes(count) + token[at + count :]

    def _insert(self, token: bytes) -> bytes:
        at = self._place(token)
        put = self._random.choice(
            (b"=", b".", b"+", b"/", b" ", b"\0", b"A", b"AAAA", b"%3D", b"-")
        )
        return token[:at] + put + token[at:]

    def _delete(self, token: bytes) -> bytes:
        at, count = self._place(token), self._random.choice((1, 1, 2, 4, 4, 50))
        return token[:at] + token[at + count :]

    def _swap(self, token: bytes) -> bytes:
        one, two = sorted((self._place(token), self._place(token)))
        swapped = bytearray(token)
        if swapped:
            swapped[one], swapped[two] = swapped[two], swapped[one]
        return bytes(swapped)

    def _case(self, token: bytes) -> bytes:
        at = self._place(token)
        return token[:at] + token[at : at + 1].swapcase() + token[at + 1 :]

    def _alphabet(self, token: bytes) -> bytes:
        at = self._place(token)
        other = ALPHABET[self._random.randrange(64)]
        return token[:at] + bytes([other]) + token[at + 1 :]

    def _cut(self, token: bytes) -> bytes:
        at = self._place(token)
        return token[:at] if self._random.random() < 0.5 else token[at:]

    def _repeat(self, token: bytes) -> bytes:
        at = self._place(token)
        piece = token[at : at + self._random.choice((1, 4, 40, 400))]
        return token[:at] + piece * self._random.choice((2, 2, 3, 20)) + token[at + len(piece) :]

    def _splice(self, token: bytes) -> bytes:
        return b".".join(
            (self._random.choice(self._pool).split(b".") + [b""] * 3)[place] for place in range(3)
        )

    def _resegment(self, token: bytes) -> bytes:
        segments = token.split(b".")
        how = self._random.randrange(4)
        if how == 0:
            self._random.shuffle(segments)
        elif how == 1:
            segments.insert(self._place(token) % (len(segments) + 1), b"")
        elif how == 2:
            segments.append(self._random.choice(segments))
        else:
            segments.pop()
        return b".".join(segments)

    def _segment(self, token: bytes) -> bytes:
        """One segment in another encoding of the same, or nearly the same."""
        segments = token.split(b".")
        at = self._random.randrange(len(segments))
        text = segments[at]
        try:
            content = decode(text)
        except ValueError:
            return token + b"="
        segments[at] = self._random.choice(
            (
                text + b"=" * (-len(text) % 4 or 4),
                text + b"=",
                base64.b64encode(content),
                base64.encodebytes(content),
                base64.b32encode(content),
                content.hex().encode(),
                encode(content + b"\0"),
                encode(b"\0" + content),
                encode(text),
                content,
                text[:-1] + ALPHABET[self._random.randrange(64) :][:1],
                text.swapcase(),
                text[::-1],
            )
        )
        return b".".join(segments)

    def _signature(self, token: bytes) -> bytes:
        head, _, signature = token.rpartition(b".")
        try:
            content = decode(signature)
        except ValueError:
            content = b""
        half = len(content) // 2
        changed = self._random.choice(
            (
                self._flip,
                self._flip,
                self._bytes,
                self._swap,
                self._delete,
                lambda text: bytes(len(text)),
                lambda text: text[::-1],
                lambda text: text + b"\0",
                lambda text: b"\0" + text,
                lambda text: text[half:] + text[:half],
                lambda text: text[:half],
                lambda text: text + text,
                lambda text: self._random.randbytes(len(text)),
                lambda _: mac("HS256", b"secret", head),
                lambda _: mac("HS512", self._forger.key.verifying[:-1], head),
            )
        )(content)
        return head + b"." + encode(changed)

    def _unsigned_edit(self, token: bytes) -> bytes:
        segments = token.split(b".")
        at = self._random.randrange(min(2, len(segments)))
        try:
            content = decode(segments[at])
        except ValueError:
            content = b"{}"
        segments[at] = encode(self._edit(content))
        return b".".join(segments)

    # With the right key.

    def _signed_again(self) -> Case:
        forger = self._forger
        header, payload = raw(forger.header), raw(forger.claims)
        changes = self._random.choice((1, 1, 1, 2, 3))
        for _ in range(changes):
            if self._random.random() < 0.25:
                header = self._edit(header)
            else:
                payload = self._edit(payload)
        token = forger.token(header=header, claims=payload)
        allowed = says_what_is_allowed(header, payload, forger, forger.now)
        return Case(token, "signed again", allowed and len(token) <= MAX_CHARACTERS)

    def _edit(self, text: bytes) -> bytes:
        edits = (self._edit_text, self._edit_piece, self._edit_tokens, self._edit_value)
        return self._random.choice((*edits, self._edit_value, self._edit_shape, self._space))(text)

    def _edit_text(self, text: bytes) -> bytes:
        return self._random.choice((self._flip, self._bytes, self._swap, self._delete))(text)

    def _edit_piece(self, text: bytes) -> bytes:
        at = self._place(text)
        return text[:at] + self._random.choice(PIECES) + text[at + self._random.randrange(2) :]

    def _edit_tokens(self, text: bytes) -> bytes:
        found = _JSON.findall(text) or [b""]
        at, other = self._random.randrange(len(found)), self._random.randrange(len(found))
        how = self._random.randrange(4)
        if how == 0:
            found[at], found[other] = found[other], found[at]
        elif how == 1:
            found.insert(at, found[other])
        elif how == 2:
            del found[at]
        else:
            found[at] = self._random.choice(PIECES)
        return b"".join(found)

    def _table(self, text: bytes) -> list[tuple[str, Any]]:
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            pairs = []
        if isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs):
            return pairs or list(self._forger.claims.items())
        return list(self._forger.claims.items())

    def _written(self, pairs: Sequence[tuple[str, Any]]) -> bytes:
        return b"{" + b",".join(raw({name: value})[1:-1] for name, value in pairs) + b"}"

    def _edit_value(self, text: bytes) -> bytes:
        pairs = self._table(text)
        at = self._random.randrange(len(pairs))
        name, value = pairs[at]
        changed = self._random.choice(VALUES)
        if type(value) is int and self._random.random() < 0.6:
            changed = value + self._random.choice(
                (1, -1, 60, -60, 900, -900, 3600, 10**9, -(10**9))
            )
        elif isinstance(value, str) and self._random.random() < 0.6:
            changed = self._random.choice(
                (value[:-1], value + "A", value.upper(), value.lower(), value + " ", value[::-1])
            )
        pairs[at] = (name, changed)
        return self._written(pairs)

    def _edit_shape(self, text: bytes) -> bytes:
        pairs = self._table(text)
        at = self._random.randrange(len(pairs))
        how = self._random.randrange(6)
        if how == 0:
            self._random.shuffle(pairs)
        elif how == 1:
            del pairs[at]
        elif how == 2:
            pairs.insert(at, self._random.choice(pairs))
        elif how == 3:
            pairs.insert(at, (self._random.choice(NAMES), self._random.choice(VALUES)))
        elif how == 4:
            pairs[at] = (self._random.choice(NAMES), pairs[at][1])
        else:
            written = self._written(pairs)
            return self._random.choice((b"[" + written + b"]", b'{"a":' + written + b"}"))
        return self._written(pairs)

    def _space(self, text: bytes) -> bytes:
        """White space where JSON allows some: the one change that changes nothing."""
        found = _JSON.findall(text)
        quoted, places = False, [0, len(found)]
        for at, piece in enumerate(found):
            quoted ^= piece == b'"'
            if not quoted and piece in (b":", b",", b"{"):
                places.append(at + 1)
        at = self._random.choice(places)
        space = self._random.choice((b" ", b"\t", b"\r", b"\n", b" \n "))
        return b"".join(found[:at]) + space + b"".join(found[at:])
