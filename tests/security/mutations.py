"""The catalogue of bad tokens, by the numbers of the threats document, section 1.

A family is a number, a name, and tokens made of a good one; all of them are refused, alike, by
every verifier there is. Every forgery is signed with the right key unless its family is about that:
it is refused for what it is. `GOOD` are the positive controls, without which "nothing was accepted"
would mean nothing.
"""

import base64
import codecs
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa

from issuer import keys
from issuer.keys import Key
from issuer.tokens import MAX_CHARACTERS
from tests.security import signatures
from tests.security.forger import (
    ALGORITHMS,
    ALPHABET,
    Forger,
    decode,
    ecdsa,
    encode,
    joined,
    mac,
    raw,
    roomy,
    sign,
    stray_bits,
)

Tokens = Iterator[tuple[str, bytes]]
Make = Callable[[Forger], Tokens]

HMACS = ("HS256", "HS384", "HS512")
PUBLIC = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class Family:
    """Tokens of one kind. `to_the_second`: they are judged for one second of the clock alone."""

    name: str
    make: Make
    algorithms: tuple[str, ...] = ALGORITHMS
    to_the_second: bool = False

    @property
    def number(self) -> str:
        """The number in the threats document."""
        return self.name.split(" ")[0]


BAD: list[Family] = []
GOOD: list[Family] = []
EXPIRED: list[Family] = []


def family(
    name: str,
    into: list[Family] = BAD,
    algorithms: tuple[str, ...] = ALGORITHMS,
    to_the_second: bool = False,
) -> Callable[[Make], Make]:
    """Enter what is decorated into the catalogue."""

    def enter(make: Make) -> Make:
        into.append(Family(name, make, algorithms, to_the_second))
        return make

    return enter


@cache
def stranger(algorithm: str) -> Key:
    """An attacker's own key."""
    return keys.new_key(algorithm)


def _members(table: Mapping[str, Any], but: str = "") -> list[bytes]:
    return [raw({name: table[name]})[1:-1] for name in table if name != but]


def _object(members: list[bytes]) -> bytes:
    return b"{" + b",".join(members) + b"}"


def _twice(table: Mapping[str, Any], name: str, first: object, second: object) -> bytes:
    return _object(
        [raw({name: first})[1:-1], *_members(table, but=name), raw({name: second})[1:-1]]
    )


# J1


@family("J1 no algorithm")
def _(forger: Forger) -> Tokens:
    own = forger.key.algorithm
    names: list[Any] = ["none", "None", "NONE", "nOnE", "", None, ..., 0, 256, True, [own], {}, []]
    signed = {"empty": b"", "kept": forger.signature(), "random": bytes(range(32))}
    for name in names:
        header = forger.header | {"alg": name}
        if name is ...:
            del header["alg"]
        for kind, signature in signed.items():
            yield f"alg {name!r}, signature {kind}", joined(header, forger.claims, signature)
        yield f"alg {name!r}, truly signed", forger.token(header=header)


# J2


def text_forms(public: Any) -> Iterator[tuple[str, bytes]]:
    """A public key in every form in which somebody may have it lying about."""
    info, der, pem = (
        serialization.PublicFormat.SubjectPublicKeyInfo,
        serialization.Encoding.DER,
        serialization.Encoding.PEM,
    )
    text = public.public_bytes(pem, info)
    yield from _line_endings("PEM", text)
    yield "DER", public.public_bytes(der, info)
    yield "DER in base64", base64.b64encode(public.public_bytes(der, info))
    yield "DER in base64url", encode(public.public_bytes(der, info))
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    yield "ssh line", line
    yield "ssh line with a comment", line + b" portero@gateway"
    yield "ssh line with a newline", line + b"\n"
    kinds = {rsa.RSAPublicKey: "RS256", ec.EllipticCurvePublicKey: "ES256"}
    algorithm = next((kinds[kind] for kind in kinds if isinstance(public, kind)), "EdDSA")
    jwk = keys._jwk(algorithm, public)
    tables: dict[str, dict[str, Any]] = {"JWK": jwk, "JWK set": {"keys": [jwk]}}
    for name, table in tables.items():
        yield name, json.dumps(table).encode()
        yield f"{name}, compact", raw(table)
        yield f"{name}, sorted", json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    yield "thumbprint", keys.thumbprint(jwk).encode()
    if isinstance(public, rsa.RSAPublicKey):
        pkcs1 = public.public_bytes(pem, serialization.PublicFormat.PKCS1)
        yield from _line_endings("PKCS #1 PEM", pkcs1)
        yield "modulus", public.public_numbers().n.to_bytes(public.key_size // 8, "big")
    else:
        point = (
            (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
            if isinstance(public, ec.EllipticCurvePublicKey)
            else (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )
        yield "point", public.public_bytes(*point)


def _line_endings(name: str, pem: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, pem
    yield f"{name} without its last newline", pem.rstrip(b"\n")
    yield f"{name} with CRLF", pem.replace(b"\n", b"\r\n")
    yield f"{name} with CRLF, but for the last", pem.rstrip(b"\n").replace(b"\n", b"\r\n")
    yield f"{name} in one line", pem.replace(b"\n", b"")
    yield f"{name} with a NUL", pem + b"\0"


@family("J2 a public key as the secret", algorithms=PUBLIC)
def _(forger: Forger) -> Tokens:
    for form, secret in text_forms(forger.key.signing.public_key()):
        for algorithm in HMACS:
            confused = keys.hmac_key(algorithm, secret)
            for kid in (forger.key.kid, confused.kid):
                for alg in (algorithm, forger.key.algorithm):
                    header = {"alg": alg, "kid": kid, "typ": "JWT"}
                    token = forger.token(header=header, key=confused)
                    yield f"{form} for {algorithm}, header {alg} {kid}", token


@family("J2 a public key's algorithm with an HMAC key", algorithms=HMACS)
def _(forger: Forger) -> Tokens:
    secret = encode(forger.key.signing).decode()
    for algorithm in PUBLIC:
        own = stranger(algorithm)
        for kid in (forger.key.kid, own.kid, secret):
            for alg in (algorithm, forger.key.algorithm):
                header = {"alg": alg, "kid": kid, "typ": "JWT"}
                yield f"{algorithm} as {alg}, {kid}", forger.token(header=header, key=own)
        yield f"MAC named {algorithm}", forger.with_header(alg=algorithm)
        for form, public in text_forms(own.signing.public_key()):
            confused = keys.hmac_key(forger.key.algorithm, public)
            yield f"{form} of {algorithm}", forger.token(key=replace(confused, kid=forger.key.kid))


# J3


#: Other names of what our own algorithms do.
SAME_SIGNATURE = ("Ed25519", "EdDSA25519", "ES256K of P-256")


@family("J3 another algorithm of the family, truly signed")
def _(forger: Forger) -> Tokens:
    for name, signature in _relatives(forger):
        header = forger.header | {"alg": name.split(" ")[0]}
        text = encode(raw(header)) + b"." + encode(raw(forger.claims))
        yield f"signed and named {name}", text + b"." + encode(signature(text))
        own = forger.signing_text()
        if name not in SAME_SIGNATURE:
            yield f"signed as {name}, not named", own + b"." + encode(signature(own))
        yield f"named {name}, not signed so", forger.token(header=header)


def _relatives(forger: Forger) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    key = forger.key
    if key.algorithm in HMACS:
        for name in HMACS:
            if name != key.algorithm:
                yield name, lambda text, name=name: mac(name, key.signing, text)  # type: ignore[misc]
    elif key.algorithm == "RS256":
        sizes = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
        for bits, digest in sizes.items():
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            yield f"PS{bits}", lambda text, p=pss, d=digest: key.signing.sign(text, p, d)  # type: ignore[misc]
            if bits != "256":
                pkcs = padding.PKCS1v15()
                yield f"RS{bits}", lambda text, p=pkcs, d=digest: key.signing.sign(text, p, d)  # type: ignore[misc]
    elif key.algorithm == "ES256":
        for name, curve, digest in (
            ("ES384", ec.SECP384R1(), hashes.SHA384()),
            ("ES512", ec.SECP521R1(), hashes.SHA512()),
            ("ES256K", ec.SECP256K1(), hashes.SHA256()),
        ):
            private = ec.generate_private_key(curve)
            yield name, lambda text, p=private, d=digest: p.sign(text, ec.ECDSA(d))  # type: ignore[misc]
        yield "ES256K of P-256", lambda text: ecdsa(key.signing, text)
        yield "ES384", lambda text: key.signing.sign(text, ec.ECDSA(hashes.SHA384()))
    else:
        yield "Ed25519", key.signing.sign
        yield "Ed448", ed448.Ed448PrivateKey.generate().sign
        yield "EdDSA25519", key.signing.sign


@family("J3 another spelling of the algorithm")
def _(forger: Forger) -> Tokens:
    own = forger.key.algorithm
    spellings = (
        own.lower(),
        own.upper(),
        own.title(),
        own.swapcase(),
        f"{own} ",
        f" {own}",
        f"{own}\n",
        f"{own}\0",
        f"{own}\u200b",
        own.replace("S", "\u017f"),
        own[:-1],
        f"{own}{own}",
    )
    for place, name in enumerate(spellings):
        if name != own:
            yield f"{name!r}, {place}", forger.with_header(alg=name)
    escaped = f'{{"alg":"\\u{ord(own[0]):04x}{own[1:]}"'.encode()
    yield (
        "escaped",
        forger.token(header=raw(forger.header).replace(raw({"alg": own})[:-1], escaped)),
    )
    for other in (*ALGORITHMS, "RS384", "PS256", "ES384", "dir", "A128KW", "RSA-OAEP"):
        if other != own:
            yield f"named {other}", forger.with_header(alg=other)


# J4


@family("J4 a key in the header")
def _(forger: Forger) -> Tokens:
    mine = stranger("RS256")
    jwk = keys.public_jwk(mine)
    certificate = base64.b64encode(mine.verifying).decode()
    places: dict[str, list[Any]] = {
        "jwk": [jwk, jwk | {"kid": forger.key.kid}, {"kty": "oct", "k": ""}, None],
        "jku": [f"{forger.trap}/jwks.json", "file:///etc/passwd", "/login?next=//evil", ""],
        "x5u": [f"{forger.trap}/x5u.pem", "file:///dev/zero"],
        "x5c": [[certificate], certificate, []],
        "x5t": [encode(bytes(20)).decode()],
        "x5t#S256": [encode(bytes(32)).decode()],
    }
    for name, values in places.items():
        for index, value in enumerate(values):
            yield f"{name} {index}, truly signed", forger.with_header(**{name: value})
            header = forger.header | {name: value}
            own = stranger(forger.key.algorithm)
            yield f"{name} {index}, by another key", forger.token(header=header, key=own)
            header |= {"alg": "RS256", "kid": mine.kid}
            yield f"{name} {index}, by its key", forger.token(header=header, key=mine)


# J5


@family("J5 a kid that is none of ours")
def _(forger: Forger) -> Tokens:
    kid = forger.key.kid
    kids: list[Any] = [
        "../../dev/null",
        "/dev/null",
        "/etc/hostname",
        "' OR 1=1 --",
        "x' UNION SELECT 'secret",
        "$(id)",
        "|id",
        f"{kid}\0",
        f"\0{kid}",
        "k" * 1024,
        "k" * 65_536,
        [kid],
        [],
        {},
        {"kid": kid},
        1,
        0,
        True,
        None,
        "",
        "unknown",
        forger.other.kid,
        kid.swapcase(),
        f"{kid} ",
        f" {kid}",
        f"{kid}=",
        kid[:-1],
        "__index",
        "list",
        "mark",
    ]
    for value in kids:
        name = repr(value)[:40]
        yield f"{name}, truly signed", forger.with_header(kid=value)
        empty = keys.hmac_key("HS256", b"")
        for alg in dict.fromkeys((forger.key.algorithm, "HS256")):
            header = {"alg": alg, "kid": value, "typ": "JWT"}
            yield f"{name}, {alg} with an empty key", forger.token(header=header, key=empty)
    header = forger.header_of(forger.other)
    yield "another key's, and by that key", forger.token(header=header, key=forger.other)
    yield "ours, by another key", forger.token(key=forger.other)
    header = {name: value for name, value in forger.header.items() if name != "kid"}
    yield "none", forger.token(header=header)


# J6, J7


@family("J6 critical header parameters")
def _(forger: Forger) -> Tokens:
    values: list[Any] = [["x"], [], "exp", [1], ["b64"], ["exp", "exp"], None, {}, ["alg"], [""]]
    for crit in values:
        yield f"crit {crit!r}", forger.with_header(crit=crit)
    yield "crit and what it names", forger.with_header(crit=["x"], x=1)


@family("J7 unencoded and detached payloads")
def _(forger: Forger) -> Tokens:
    for value in (False, True, "false", 0):
        yield f"b64 {value!r}", forger.with_header(b64=value)
        yield f"b64 {value!r} and crit", forger.with_header(b64=value, crit=["b64"])
    header = encode(raw(forger.header | {"b64": False, "crit": ["b64"]}))
    text = header + b"." + raw(forger.claims)
    yield "unencoded payload", text + b"." + encode(sign(forger.key, text))
    yield "unencoded payload left out", header + b".." + encode(sign(forger.key, text))
    head, _, signature = forger.token().split(b".")
    yield "detached payload", head + b".." + signature


# J8, J12


@family("J8 duplicate header names")
def _(forger: Forger) -> Tokens:
    own = forger.key.algorithm
    for name, first, second in (
        ("alg", "none", own),
        ("alg", own, "none"),
        ("alg", own, own),
        ("alg", "HS256" if own != "HS256" else "HS512", own),
        ("kid", forger.key.kid, forger.key.kid),
        ("kid", forger.other.kid, forger.key.kid),
        ("kid", forger.key.kid, forger.other.kid),
        ("typ", "JWT", "JWT"),
        ("typ", "at+jwt", "JWT"),
    ):
        yield (
            f"{name} {first} {second}",
            forger.token(header=_twice(forger.header, name, first, second)),
        )
    hidden = raw(forger.header)[:-1] + b',"k\\u0069d":"%s"}' % forger.key.kid.encode()
    yield "kid, once escaped", forger.token(header=hidden)
    yield "an empty name", forger.with_header(**{"": ""})


@family("J12 duplicate claims")
def _(forger: Forger) -> Tokens:
    claims, past, later = forger.claims, forger.now - 1, forger.claims["exp"]
    for name, first, second in (
        ("exp", past, later),
        ("exp", later, past),
        ("exp", later, later),
        ("iat", claims["iat"], claims["iat"]),
        ("role", "admin", claims["role"]),
        ("role", claims["role"], "admin"),
        ("jti", claims["jti"], "A" * 22),
        ("jti", forger.revoked, claims["jti"]),
        ("sub", "ADMNroot", claims["sub"]),
        ("sub", claims["sub"], claims["sub"]),
        ("iss", "portero", "portero"),
        ("aud", "portero-gateway", "portero-gateway"),
    ):
        yield f"{name} {first} {second}", forger.token(claims=_twice(claims, name, first, second))
    yield "role, once escaped", forger.token(claims=raw(claims)[:-1] + b',"rol\\u0065":"admin"}')


# J9


@family("J9 other forms of a token")
def _(forger: Forger) -> Tokens:
    token = forger.token()
    head, body, signature = token.split(b".")
    yield "cty JWT", forger.with_header(cty="JWT")
    yield "nested", joined(forger.header | {"cty": "JWT"}, token, forger.signature())
    yield "nested, truly signed", forger.token(claims=token)
    yield "nested in a string", forger.token(claims=b'"' + token + b'"')
    yield "five parts", token + b".AAAA.AAAA"
    jwe = encode(raw({"alg": "dir", "enc": "A256GCM"}))
    yield "JWE", jwe + b"..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA"
    for count in (0, 1, 3, 7, 100):
        yield f"{count + 3} parts, empty ones", token + b"." * (count or 1)
    yield "four parts", token + b"." + signature
    yield "two parts", head + b"." + body
    yield "two parts and a dot", head + b"." + body + b"."
    yield "one part", head
    yield "no header", b"." + body + b"." + signature
    yield "no payload", head + b".." + signature
    yield "no signature", head + b"." + body + b"."
    yield "parts in another order", b".".join((body, head, signature))
    yield "a dot before", b"." + token
    for text in (b"..", b".", b"...", b"", b"a.b.c", b"null", b"undefined", b"Bearer", b"a", b"-"):
        yield f"{text!r}", text
    flat = {"payload": body.decode(), "protected": head.decode(), "signature": signature.decode()}
    yield "JSON serialisation, flat", raw(flat)
    yield "JSON serialisation", raw({"payload": body.decode(), "signatures": [flat]})
    yield "JSON serialisation, encoded", encode(raw(flat))
    yield "with its scheme", b"Bearer " + token
    yield "in quotes", b'"' + token + b'"'
    yield "two, by a comma", token + b"," + token
    yield "two, by a space", token + b" " + token
    yield "the token encoded", encode(token)


# J10, J11


@family("J10 of another kind or another deployment")
def _(forger: Forger) -> Tokens:
    for typ in ("sync+jwt", "at+jwt", "jwt", "JWT ", " JWT", "", "JOSE", 1, None, ["JWT"], True):
        yield f"typ {typ!r}", forger.with_header(typ=typ)
    header = {name: value for name, value in forger.header.items() if name != "typ"}
    yield "no typ", forger.token(header=header)
    for name, good in {"iss": "portero", "aud": "portero-gateway"}.items():
        others: list[Any] = [
            "other",
            good.title(),
            f"{good} ",
            f"{good}\0",
            "",
            [good],
            None,
            1,
            {},
        ]
        for value in others:
            yield f"{name} {value!r}", forger.with_claims(**{name: value})
        yield f"no {name}", forger.without_claim(name)
    yield "iss and aud exchanged", forger.with_claims(iss="portero-gateway", aud="portero")


@family("J11 compressed payloads")
def _(forger: Forger) -> Tokens:
    header = forger.header | {"zip": "DEF"}
    for name, text in {"claims": raw(forger.claims), "a bomb": bytes(1_000_000)}.items():
        press = zlib.compressobj(9, wbits=-15)
        packed = press.compress(text) + press.flush()
        yield f"{name}, named", forger.token(header=header, claims=packed)
        yield f"{name}, not named", forger.token(claims=packed)
    yield "named only", forger.token(header=header)


# J13, J14, J15

NOT_BASE64URL = (
    b"=",
    b"==",
    b"===",
    b"=garbage",
    b"+",
    b"/",
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b"%3D",
    b"%20",
    b"!",
    b"~",
    "\u0410".encode(),
    "\uff21".encode(),
    "\u2010".encode(),
    "\u200b".encode(),
)


def _changed(segments: list[bytes], index: int, segment: bytes) -> bytes:
    return b".".join(segment if at == index else one for at, one in enumerate(segments))


def _each_way(forger: Forger, index: int, segment: bytes) -> Tokens:
    """The changed segment under the old signature; and, where it is signed, under a new one."""
    segments = forger.segments()
    name = ("header", "payload", "signature")[index]
    yield name, _changed(segments, index, segment)
    if index < 2:
        both = [segment if at == index else one for at, one in enumerate(segments[:2])]
        yield f"{name}, signed so", forger.signed(both[0], both[1])


@family("J13 padding and foreign characters")
def _(forger: Forger) -> Tokens:
    for index, segment in enumerate(forger.segments()):
        for text in NOT_BASE64URL:
            for place in (0, 1, len(segment) // 2, len(segment)):
                put = segment[:place] + text + segment[place:]
                for how, token in _each_way(forger, index, put):
                    yield f"{text!r} at {place} of the {how}", token
        padded = segment + b"=" * (-len(segment) % 4)
        for how, token in _each_way(forger, index, padded) if padded != segment else ():
            yield f"padded {how}", token
        plain = base64.b64encode(decode(segment)).rstrip(b"=")
        if plain != segment:
            yield f"the usual base64, segment {index}", _changed(forger.segments(), index, plain)


@family("J13 the usual base64")
def _(forger: Forger) -> Tokens:
    """Signed so: header and payload with characters that the two alphabets have not in common."""
    claims = raw(forger.claims)
    for space in (b" ", b"\n", b"\t", b"\r"):
        for count in range(1, 12):
            text = claims[:1] + space * count + claims[1:] + b"\xff\xfe\xfb"
            plain = base64.b64encode(text).rstrip(b"=")
            yield f"{space!r} {count}", forger.signed(encode(raw(forger.header)), plain)


@family("J13 a length that encodes nothing")
def _(forger: Forger) -> Tokens:
    for index, segment in enumerate(forger.segments()):
        more = segment + b"A" * ((1 - len(segment)) % 4)
        less = segment[: len(segment) - (len(segment) - 1) % 4]
        for name, text in {"longer": more, "shorter": less}.items():
            for how, token in _each_way(forger, index, text):
                yield f"{name} {how}", token
    for length in (1, 5, 9):
        yield f"signature of {length}", forger.signing_text() + b"." + b"A" * length


@family("J14 unused bits that are not zero")
def _(forger: Forger) -> Tokens:
    for index, segment in enumerate(forger.segments()):
        unused = {0: 0, 2: 15, 3: 3}[len(segment) % 4]  # an RSA signature may use all its bits
        at = ALPHABET.index(segment[-1])
        for value in range(1, unused + 1):
            stray = segment[:-1] + ALPHABET[at + value : at + value + 1]
            for how, token in _each_way(forger, index, stray):
                yield f"bits {value} of the {how}", token


@family("J15 a padded signature")
def _(forger: Forger) -> Tokens:
    token = forger.token()
    for end in (b"=", b"==", b"===", b"====", b"=.", b"=A"):
        yield f"{end!r}", token + end


# J16, J17


@family("J16 other encodings of the payload")
def _(forger: Forger) -> Tokens:
    claims = raw(forger.claims)
    for part, text in {"payload": claims, "header": raw(forger.header)}.items():
        forms = {
            "BOM": codecs.BOM_UTF8 + text,
            "NUL behind": text + b"\0",
            "NUL before": b"\0" + text,
        }
        for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7"):
            if (coded := text.decode().encode(code)) != text:
                forms[code] = coded
        for name, form in forms.items():
            header, payload = (form, None) if part == "header" else (None, form)
            yield f"{part} {name}", forger.token(header=header, claims=payload)
    for name in ("sub", "role", "jti", "iss"):
        value = str(forger.claims[name]).encode()
        for end in (
            b"\xff",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xe2\x82",
            "\u00e9".encode(),
            "\u202e".encode(),
            b"\\u0000",
            b"\\ud800",
            b"\\n",
            b"\\u00e9",
            b"\\/",
            b"\x00",
            b"\x1f",
            b"\x7f",
            b"\n",
        ):
            yield f"{name} and {end!r}", forger.with_raw_claim(name, b'"' + value + end + b'"')
        first = f"\\u{value[0]:04x}".encode()
        yield f"{name} escaped", forger.with_raw_claim(name, b'"' + first + value[1:] + b'"')


@family("J16 more or less than JSON")
def _(forger: Forger) -> Tokens:
    claims = raw(forger.claims)
    for name, text in {
        "trailing comma": claims[:-1] + b",}",
        "leading comma": b"{," + claims[1:],
        "a comment": b"/**/" + claims,
        "a comment within": claims[:1] + b"//\n" + claims[1:],
        "twice": claims + claims,
        "text behind": claims + b"x",
        "a brace more": claims + b"}",
        "a brace less": claims[:-1],
        "a vertical tab": claims[:1] + b"\x0b" + claims[1:],
        "a form feed": claims[:1] + b"\x0c" + claims[1:],
        "a no-break space": claims[:1] + b"\xc2\xa0" + claims[1:],
        "single quotes": claims.replace(b'"', b"'"),
        "names without quotes": claims.replace(b'"iat"', b"iat"),
        "= for :": claims.replace(b'"iat":', b'"iat"='),
        "no colon": claims.replace(b'"iat":', b'"iat" '),
        "no comma": claims.replace(b',"iat"', b' "iat"'),
    }.items():
        yield name, forger.token(claims=text)


@family("J17 a payload that is no object")
def _(forger: Forger) -> Tokens:
    claims = raw(forger.claims)
    for text in (b'"str"', b"1", b"null", b"[]", b"true", b"{}", b"", b" ", b"{", b"}", b"NaN"):
        yield f"{text!r}", forger.token(claims=text)
        yield f"{text!r} as the header", forger.token(header=text)
    yield "in a list", forger.token(claims=b"[" + claims + b"]")
    yield "as a string", forger.token(claims=json.dumps(claims.decode()).encode())
    yield "below a name", forger.token(claims={"claims": forger.claims})
    yield "a byte", forger.token(claims=b"\xff")


# J18, J19, J20


def _odd_times(good: int) -> Iterator[bytes]:
    for text in (
        f'"{good}"',
        f"{good}.0",
        f"{good}.5",
        f"{good}.",
        f"{good}e0",
        f"{good / 10**9}e9",
        f"+{good}",
        f"0{good}",
        f"-{good}",
        f"{good}n",
        f"{good}L",
        f"{good:_}",
        f"{good:,}",
        f"{good:#x}",
        f"{good:#o}",
        f'" {good} "',
        f'"{good:_}"',
        f"[{good}]",
        f'{{"":{good}}}',
        "1.8e9",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "-1",
        "-0",
        "0",
        "1",
        "9007199254740993",
        "9223372036854775808",
        "1000000000000000",
        "9" * 15,
        "9" * 16,
        "9" * 400,
        "1e400",
        "-1e400",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "0x7fffffff",
        "0777",
        "1.",
        ".5",
        "",
        "\u0661\u0662\u0663",
        '"\u0661\u0662\u0663"',
        '"9_999_999_999"',
        '"inf"',
        '"NaN"',
    ):
        yield text.encode()


@family("J18 times that are no plain integers")
def _(forger: Forger) -> Tokens:
    for name in ("exp", "iat"):
        for text in _odd_times(forger.claims[name]):
            yield f"{name} {text[:30]!r}", forger.with_raw_claim(name, text)


@family("J19 a life without end")
def _(forger: Forger) -> Tokens:
    claims, ttl = forger.claims, 1800
    assert claims["exp"] - claims["iat"] <= ttl
    yield "no exp", forger.without_claim("exp")
    yield "exp null", forger.with_claims(exp=None)
    for more in (1, 60, 3600, 86_400, 10**9, 10**12):
        yield f"{more} s too long", forger.with_claims(exp=claims["iat"] + ttl + more)
    yield "one hour and the TTL", forger.with_claims(exp=forger.now + ttl + 3600)


@family("J20 times in the wrong order")
def _(forger: Forger) -> Tokens:
    now = forger.now
    for ahead in (60, 3600, 10**9):
        yield f"iat {ahead} s ahead", forger.with_claims(iat=now + ahead, exp=now + ahead + 60)
    yield "iat after exp", forger.with_claims(iat=now - 10, exp=now - 20)
    yield "iat after exp, both ahead", forger.with_claims(iat=now + 200, exp=now + 100)
    yield "iat = exp, ahead", forger.with_claims(iat=now + 100, exp=now + 100)
    yield "iat = exp, past", forger.with_claims(iat=now - 100, exp=now - 100)
    yield "iat negative", forger.with_claims(iat=-1)
    yield "no iat", forger.without_claim("iat")
    for nbf in (now + 100, now - 100, 0, "0", None):
        yield f"nbf {nbf}", forger.with_claims(nbf=nbf)


@family("J20 issued in a second", to_the_second=True)
def _(forger: Forger) -> Tokens:
    yield "iat = now + 1", forger.with_claims(iat=forger.now + 1, exp=forger.now + 100)


# J21, J22


@family("J21 a jti of another shape")
def _(forger: Forger) -> Tokens:
    jti = forger.claims["jti"]
    yield "no jti", forger.without_claim("jti")
    values: list[Any] = ["", 1, 0, None, True, [jti], {}, jti[:-1], f"{jti}A", "A" * 10_240]
    values += [jti.swapcase(), "*", f"{jti[:-1]}*", f"../{jti[3:]}", f"{jti[:-1]}\0", f"{jti}\0"]
    values += [f"{jti[:-1]}=", f"{jti[:-1]} ", f" {jti}", f"{jti[:-1]}\u00e9", jti[::-1], "boot"]
    for value in values:
        yield f"{value!r:.40}", forger.with_claims(jti=value)


@family("J22 a role or subject that is not its own")
def _(forger: Forger) -> Tokens:
    role, sub = forger.claims["role"], forger.claims["sub"]
    yield "no role", forger.without_claim("role")
    yield "no sub", forger.without_claim("sub")
    roles: list[Any] = [
        "root",
        role.title(),
        role.upper(),
        f"{role} ",
        f" {role}",
        "",
        [role],
        None,
    ]
    roles += [1, True, {}, "admin", "user", "monitoring", f"{role}\0", "__index", "roles"]
    for value in roles:
        yield f"role {value!r}", forger.with_claims(role=value)
    subs: list[Any] = [f"{sub}\r\nX-Auth-Role: admin", f"{sub}\n", f"{sub}\0", f"{sub}\u00e9"]
    subs += [f"{sub} ", f" {sub}", sub.lower(), sub[:4], "", None, 1, True, [sub], {}]
    subs += [sub[:4] + "a" * 61, sub[:4] + "a" * 1000, "ADMNTEST01", "ADMN", "XXXXTEST01"]
    subs += [sub[:4] + text for text in ("a b", "a/b", "a:b", "a@b", "a+b", "../x", "%41", "a=b")]
    for value in subs:
        yield f"sub {value!r:.40}", forger.with_claims(sub=value)
    yield "admin in full", forger.with_claims(role="admin", sub=sub)
    yield "admin's sub", forger.with_claims(sub="ADMNTEST01", role=role)


# J23


@family("J23 large tokens")
def _(forger: Forger) -> Tokens:
    claims = raw(forger.claims)
    for size in (1, 2048, 4096, 8192, 9000, 65_536, 1 << 20):
        yield f"{size} more of a claim", forger.with_claims(pad="x" * size)
    for size in (2048, 4096, 15_000, 65_536):
        yield f"{size} more of white space", forger.token(claims=claims + b" " * size)
        yield f"{size} more of the header", forger.token(header=raw(forger.header) + b" " * size)
        yield f"{size} more of the signature", forger.with_signature(bytes(size))
    room = MAX_CHARACTERS - len(forger.token(claims=b""))
    yield "one too long", forger.token(claims=claims.ljust(room * 3 // 4 + 2))
    for depth in (10, 400, 100_000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        yield f"{depth} deep", forger.token(claims=deep)
        yield f"{depth} lists deep", forger.token(claims=b"[" * depth + b"]" * depth)
        yield f"header {depth} deep", forger.token(header=deep)
    yield "not closed", forger.token(claims=b'{"a":' * 300)
    for count in (100, 100_000):
        yield f"{count} claims", forger.token(claims={f"c{number}": 1 for number in range(count)})
        yield f"{count} claims more", forger.with_claims(**{f"c{one}": 1 for one in range(count)})
    yield "text", b"A" * 4096
    yield "much text", b"A" * (1 << 20)
    yield "dots", b"." * 4096
    yield "many dots", b"." * (1 << 20)


# J24


@family("J24 every byte flipped")
def _(forger: Forger) -> Tokens:
    token = forger.token()
    for index, byte in enumerate(token):
        flipped = bytes([byte ^ (1 << index % 8)])
        yield f"byte {index}", token[:index] + flipped + token[index + 1 :]


@family("J24 every byte another of the alphabet")
def _(forger: Forger) -> Tokens:
    token = forger.token()
    for index, byte in enumerate(token):
        other = ALPHABET[(ALPHABET.find(byte) + 1 + index % 62) % 64]
        if other != byte:
            yield f"byte {index}", token[:index] + bytes([other]) + token[index + 1 :]


@family("J24 cut short or drawn out")
def _(forger: Forger) -> Tokens:
    token = forger.token()
    for length in range(0, len(token), 7):
        yield f"the first {length}", token[:length]
        yield f"without the first {length + 1}", token[length + 1 :]
    for byte in (b"A", b"_", b".", b"\xff"):
        yield f"and {byte!r}", token + byte
        yield f"after {byte!r}", byte + token
    yield "signature of zeros", forger.with_signature(bytes(len(forger.signature())))
    yield "signature twice", forger.with_signature(forger.signature() * 2)
    yield "signature reversed", forger.with_signature(forger.signature()[::-1])


# J25, J27, J28


@family("J25 strange ECDSA signatures", algorithms=("ES256",))
def _(forger: Forger) -> Tokens:
    for name, signature in (*signatures.of_ecdsa(forger), *signatures.on_another_curve(forger)):
        yield name, forger.with_signature(signature)


@family("J27 strange RSA signatures", algorithms=("RS256",))
def _(forger: Forger) -> Tokens:
    for name, signature in signatures.of_rsa(forger):
        yield name, forger.with_signature(signature)
    yield "its leading zero left out", signatures.without_its_zero(forger)


@family("J28 strange Ed25519 signatures", algorithms=("EdDSA",))
def _(forger: Forger) -> Tokens:
    for name, signature in signatures.of_ed25519(forger):
        yield name, forger.with_signature(signature)


# J26, J30, J31


@family("J26 a revoked token in other clothes")
def _(forger: Forger) -> Tokens:
    revoked = replace(forger, claims={**forger.claims, "jti": forger.revoked})
    yield "as it was", revoked.token()
    yield "padded", revoked.token() + b"="
    yield "white space", revoked.token(claims=raw(revoked.claims) + b" ")
    yield "members in another order", revoked.token(claims=dict(list(revoked.claims.items())[::-1]))
    yield "a shorter life", revoked.with_claims(exp=revoked.claims["exp"] - 1)
    segments = revoked.segments()
    for index, segment in enumerate(segments):
        if len(segment) % 4:
            yield f"stray bits {index}", _changed(segments, index, stray_bits(segment))
    if forger.key.algorithm == "ES256":
        yield "the twin signature", revoked.with_signature(signatures.ecdsa_twin(revoked))


@family("J30 well signed, and never issued")
def _(forger: Forger) -> Tokens:
    for jti in ("A" * 22, "_" * 22, forger.claims["jti"][::-1]):
        yield jti, forger.with_claims(jti=jti)
    for name, user in {"admin": "ADMNTEST01", "user": "USRSTEST01"}.items():
        claims = {**forger.claims, "role": name, "sub": user, "jti": "A" * 22}
        claims["exp"] = claims["iat"] + 900
        yield f"for {user}", forger.token(claims=claims)


# J29

PUBLIC_SECRETS = (
    "secret",
    "Secret",
    "SECRET",
    "secretkey",
    "secret-key",
    "secret_key",
    "SECRET_KEY",
    "mysecret",
    "my-secret",
    "my_secret_key",
    "supersecret",
    "super-secret-key",
    "topsecret",
    "jwt",
    "jwtsecret",
    "jwt-secret",
    "jwt_secret_key",
    "your-256-bit-secret",
    "your-384-bit-secret",
    "your-512-bit-secret",
    "a-string-secret-at-least-256-bits-long",
    "changeme",
    "changeit",
    "password",
    "Passw0rd",
    "123456",
    "12345678901234567890123456789012",
    "0123456789abcdef0123456789abcdef",
    "qwertyuiopasdfghjklzxcvbnm123456",
    "key",
    "test",
    "dev",
    "default",
    "portero",
    "portero-secret",
    "token",
    "hmac",
    "null",
    "undefined",
    "[object Object]",
    "AllYourBase",
    "GQDstcKsx0NHjPOuXOYg5MbeJ1XT0uFiwDVvVBrk",
    "shhhhh",
    "s3cr3t",
    "",
    "\0",
    "\0" * 32,
    "\0" * 64,
    "A" * 32,
    " ",
    "\n",
)


@family("J29 forged with a public secret")
def _(forger: Forger) -> Tokens:
    for secret in PUBLIC_SECRETS:
        for algorithm in HMACS:
            forged = keys.hmac_key(algorithm, secret.encode())
            for kid in dict.fromkeys((forger.key.kid, forged.kid)):
                header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
                yield f"{secret!r} {algorithm} {kid}", forger.token(header=header, key=forged)
    if forger.key.algorithm in HMACS:
        own = bytes(forger.key.signing)
        for name, near in {
            "one byte less": own[:-1],
            "a newline more": own + b"\n",
            "a NUL between": b"\0" + own,
            "decoded": base64.urlsafe_b64decode(own + b"=" * (-len(own) % 4)),
            "another case": own.swapcase(),
        }.items():
            forged = keys.hmac_key(forger.key.algorithm, near)
            yield f"the secret, {name}", forger.token(key=forged)


# Positive controls, and what is only too late.


@family("J12 members in another order", into=GOOD)
def _(forger: Forger) -> Tokens:
    claims = list(forger.claims.items())
    yield "reversed", forger.token(claims=dict(claims[::-1]))
    for turn in range(1, len(claims)):
        yield f"turned by {turn}", forger.token(claims=dict(claims[turn:] + claims[:turn]))
    header = dict(reversed(forger.header.items()))
    yield "header reversed", forger.token(header=header)


@family("J16 white space of JSON", into=GOOD)
def _(forger: Forger) -> Tokens:
    yield "indented", forger.token(claims=json.dumps(forger.claims, indent=2).encode())
    yield "usual", forger.token(claims=json.dumps(forger.claims).encode())
    yield "header indented", forger.token(header=json.dumps(forger.header, indent="\t").encode())
    for space in (b" ", b"\t", b"\r", b"\n", b" \r\n\t"):
        claims = raw(forger.claims)
        yield f"{space!r} before and behind", forger.token(claims=space + claims + space)
        claims = claims.replace(b":", space + b":" + space).replace(b",", space + b"," + space)
        yield f"{space!r} everywhere", forger.token(claims=claims)


@family("J24 a good token unchanged", into=GOOD)
def _(forger: Forger) -> Tokens:
    yield "compact", forger.token()
    yield "made by the issuer", b".".join(forger.segments())


@family("J14 segments of every length", into=GOOD)
def _(forger: Forger) -> Tokens:
    for count in range(4):
        yield f"payload {count}", forger.token(claims=raw(forger.claims) + b" " * count)
        yield f"header {count}", forger.token(header=raw(forger.header) + b" " * count)
    for part in (forger.header, forger.claims):
        assert len(roomy(raw(part))) % 4


@family("J20 issued this second", into=GOOD)
def _(forger: Forger) -> Tokens:
    yield "iat = now", forger.with_claims(iat=forger.now)


@family("J19 a life as long as allowed or shorter", into=GOOD)
def _(forger: Forger) -> Tokens:
    claims = forger.claims
    yield "the whole TTL", forger.with_claims(exp=claims["iat"] + 1800)
    yield "a minute", forger.with_claims(iat=forger.now, exp=forger.now + 60)


@family("J19 one more second", into=GOOD, to_the_second=True)
def _(forger: Forger) -> Tokens:
    yield "exp = now + 1", forger.with_claims(exp=forger.now + 1, iat=forger.now)


@family("J22 other subjects of the role", into=GOOD)
def _(forger: Forger) -> Tokens:
    code = forger.claims["sub"][:4]
    for rest in ("x", "0", "-", ".", "_", "a" * 60, "A.b-c_9"):
        yield rest, forger.with_claims(sub=code + rest)


@family("J23 as large as allowed", into=GOOD)
def _(forger: Forger) -> Tokens:
    room = MAX_CHARACTERS - len(forger.token(claims=b""))
    token = forger.token(claims=raw(forger.claims).ljust(room * 3 // 4))
    assert len(token) in (MAX_CHARACTERS - 1, MAX_CHARACTERS)
    yield f"{len(token)} characters", token


@family("J25 the twin of a signature", into=GOOD, algorithms=("ES256",))
def _(forger: Forger) -> Tokens:
    yield "(r, n-s)", forger.with_signature(signatures.ecdsa_twin(forger))


@family("J28 a signature without a nonce", into=GOOD, algorithms=("EdDSA",))
def _(forger: Forger) -> Tokens:
    yield "R = 1", forger.with_signature(signatures.ed25519_without_nonce(forger))


@family("J19 authentic and past its end", into=EXPIRED)
def _(forger: Forger) -> Tokens:
    now = forger.now
    for ago in (0, 1, 60, 86_400):
        yield f"since {ago} s", forger.with_claims(iat=now - ago - 100, exp=now - ago)
    yield "never issued", forger.with_claims(iat=now - 100, exp=now - 1, jti="A" * 22)
    yield "revoked", forger.with_claims(iat=now - 100, exp=now - 1, jti=forger.revoked)
    yield "oldest", forger.with_claims(iat=0, exp=1)
