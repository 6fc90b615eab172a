"""Tokens: strict verification. J-numbers are those of the threats document, section 1.

Every forgery here is signed with the right key unless it says otherwise, so that it is refused for
what it is and not for its signature; `test_a_token_put_together_by_hand_is_accepted` proves that.
"""

import base64
import codecs
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer import keys, tokens
from issuer.errors import TokenExpired, TokenRefused
from issuer.keys import Key, Keyring
from issuer.policy import roles
from issuer.policy.roles import Roles
from issuer.tokens import Claims
from tests.support.policies import shipped_policy

NOW = 1_800_000_000
JTI = "AAAAAAAAAAAAAAAAAAAAAA"
ROLES = shipped_policy().roles
KEY = keys.hmac_key("HS256", b"a key of the token tests, sixty-four bytes or so, never used else")
OTHER = keys.hmac_key("HS256", b"another key, in force as well, of at least thirty-two bytes")
KEYRING = Keyring([OTHER, KEY])

HEADER: dict[str, Any] = {"alg": "HS256", "kid": KEY.kid, "typ": "JWT"}
CLAIMS: dict[str, Any] = {
    "iss": "portero",
    "aud": "portero-gateway",
    "sub": "USRSalice",
    "role": "user",
    "iat": NOW - 10,
    "exp": NOW + 100,
    "jti": JTI,
}


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(header: str, payload: str, key: Key = KEY) -> str:
    """The compact form of two segments, truly signed."""
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    mac = hmac.new(key.verifying, f"{header}.{payload}".encode(), digest[key.algorithm]).digest()
    return f"{header}.{payload}.{encode(mac)}"


def text(table: dict[str, Any] | str | bytes) -> bytes:
    if isinstance(table, bytes):
        return table
    return (table if isinstance(table, str) else json.dumps(table)).encode()


def forge(
    header: dict[str, Any] | str | bytes = HEADER,
    claims: dict[str, Any] | str | bytes = CLAIMS,
    key: Key = KEY,
) -> str:
    return sign(encode(text(header)), encode(text(claims)), key)


def with_header(**changes: Any) -> str:
    return forge(header=HEADER | changes)


def with_claims(**changes: Any) -> str:
    return forge(claims=CLAIMS | changes)


def without_claim(name: str) -> str:
    return forge(claims={key: value for key, value in CLAIMS.items() if key != name})


def with_raw_claim(name: str, value: str) -> str:
    """One claim's value replaced by a text that need not be JSON."""
    members = [f'"{key}":{value if key == name else json.dumps(CLAIMS[key])}' for key in CLAIMS]
    return forge(claims="{" + ",".join(members) + "}")


def verify(token: str, now: int = NOW, all_roles: Roles = ROLES) -> Claims:
    return tokens.verify(token, now, KEYRING, all_roles)


def good() -> str:
    role = ROLES.named("user")
    assert role is not None
    return tokens.mint(tokens.new_claims("USRSalice", role, NOW), KEY)


def test_a_token_put_together_by_hand_is_accepted() -> None:
    expected = Claims("USRSalice", "user", JTI, NOW - 10, NOW + 100)
    assert verify(forge()) == expected


EVERY_KEY = {
    **{name: keys.hmac_key(name, KEY.verifying) for name in ("HS256", "HS384", "HS512")},
    **{name: keys.new_key(name) for name in ("RS256", "ES256", "EdDSA")},
}


@pytest.mark.parametrize("algorithm", EVERY_KEY)
@pytest.mark.parametrize("role", list(ROLES), ids=lambda role: role.name)
def test_a_minted_token_is_accepted_from_its_issue_to_the_second_before_its_end(
    algorithm: str, role: roles.Role
) -> None:
    key = EVERY_KEY[algorithm]
    claims = tokens.new_claims(f"{role.code}one", role, NOW)
    token = tokens.mint(claims, key)
    for now in (NOW, NOW + role.ttl_seconds - 1):
        assert tokens.verify(token, now, Keyring([key]), ROLES) == claims
    assert claims.expires_at - claims.issued_at == role.ttl_seconds


@pytest.mark.parametrize("named", EVERY_KEY)
@pytest.mark.parametrize("signer", EVERY_KEY)
def test_j3_a_token_signed_with_one_key_is_refused_under_the_name_of_another(
    signer: str, named: str
) -> None:
    """Whatever algorithm it claims: the key that its `kid` names decides."""
    role = ROLES.named("user")
    assert role is not None
    claims = tokens.new_claims("USRSalice", role, NOW)
    key = replace(EVERY_KEY[named], kid="the key that is named")
    keyring = Keyring([key])
    if signer == named:
        assert tokens.verify(tokens.mint(claims, key), NOW, keyring, ROLES) == claims
        return
    for claimed in (signer, named):
        token = tokens.mint(claims, replace(EVERY_KEY[signer], kid=key.kid))
        head = encode(text({"alg": claimed, "kid": key.kid, "typ": "JWT"}))
        for one in (token, f"{head}.{token.partition('.')[2]}"):
            with pytest.raises(TokenRefused):
                tokens.verify(one, NOW, keyring, ROLES)


def test_a_minted_token_says_exactly_what_is_documented() -> None:
    header, payload, _ = good().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == HEADER
    assert claims.keys() == CLAIMS.keys()
    assert tokens.is_jti(claims["jti"])


@pytest.mark.parametrize("algorithm", EVERY_KEY)
def test_tokens_differ_in_the_half_by_which_the_gateway_tells_them_apart(algorithm: str) -> None:
    all_claims = [Claims("USRSalice", "user", letter * 22, NOW, NOW + 100) for letter in "AB"]
    minted = [f"Bearer {tokens.mint(claims, EVERY_KEY[algorithm])}" for claims in all_claims]
    assert len({header[: len(header) // 2] for header in minted}) == len(minted)


def test_every_token_has_a_jti_of_its_own() -> None:
    role = ROLES.named("user")
    assert role is not None
    made = {tokens.new_claims("USRSalice", role, NOW).jti for _ in range(1000)}
    assert len(made) == 1000


def test_a_token_of_an_older_key_in_force_is_accepted_and_of_a_retired_one_is_not() -> None:
    token = forge(header=HEADER | {"kid": OTHER.kid}, key=OTHER)
    assert verify(token)
    with pytest.raises(TokenRefused):
        tokens.verify(token, NOW, Keyring([KEY]), ROLES)


@pytest.mark.parametrize("late", [0, 1, 3600, 10**9])
def test_an_authentic_token_past_its_time_is_told_from_a_bad_one(late: int) -> None:
    with pytest.raises(TokenExpired):
        verify(forge(), now=CLAIMS["exp"] + late)


def test_a_token_that_is_expired_and_bad_is_only_bad() -> None:
    for token in (forge(key=OTHER), with_claims(jti="short"), with_header(crit=["x"])):
        with pytest.raises(TokenRefused) as refused:
            verify(token, now=NOW + 10_000)
        assert not isinstance(refused.value, TokenExpired)


def unsigned(algorithm: Any, signature: str) -> str:
    head = {key: value for key, value in HEADER.items() if key != "alg"}
    if algorithm is not ...:
        head["alg"] = algorithm
    body = f"{encode(text(head))}.{encode(text(CLAIMS))}"
    kept = forge().rpartition(".")[2]
    return f"{body}.{ {'empty': '', 'kept': kept, 'random': encode(b'x' * 32)}[signature] }"


def family(algorithm: str) -> str:
    """Signed truly under another algorithm with the right secret, and saying so."""
    return forge(HEADER | {"alg": algorithm}, key=replace(KEY, algorithm=algorithm))


def twice(table: dict[str, Any], name: str, first: str, second: str) -> str:
    rest = "".join(f",{json.dumps(key)}:{json.dumps(table[key])}" for key in table if key != name)
    return f'{{"{name}":{first},"{name}":{second}{rest}}}'


def padded(token: str, segment: int, ending: str) -> str:
    parts = token.split(".")
    parts[segment] += ending
    return ".".join(parts)


def signed_over(token: str, segment: int, ending: str) -> str:
    """The segment changed and the whole signed again, as an insider could."""
    parts = token.split(".")
    parts[segment] += ending
    return sign(parts[0], parts[1])


def stray_bits(segment: int) -> str:
    """A segment that decodes to the same bytes by way of another last character."""
    spaces = next(
        " " * count for count in range(3) if len(encode(text(json.dumps(CLAIMS) + " " * count))) % 4
    )
    parts = forge(claims=json.dumps(CLAIMS) + spaces).split(".")
    if segment == 0:
        head = next(
            json.dumps(HEADER) + " " * count
            for count in range(3)
            if len(encode(text(json.dumps(HEADER) + " " * count))) % 4
        )
        parts[0] = encode(text(head))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(parts[segment][-1]) + 1]
    parts[segment] = parts[segment][:-1] + last
    return ".".join(parts) if segment == 2 else sign(parts[0], parts[1])


def extra(segment: int) -> int:
    """How many characters make the segment's length 1 modulo 4, which encodes nothing."""
    return (1 - len(forge().split(".")[segment])) % 4 or 4


DEEP = '{"a":' * 300 + "1" + "}" * 300

NOT_ALGORITHMS: list[Any] = ["none", "None", "NONE", "nOnE", "", None, ..., 0, ["HS256"], {}]
NOT_KIDS: list[Any] = [
    "../../dev/null",
    "/dev/null",
    "' OR 1=1 --",
    "$(id)",
    KEY.kid + "\0",
    "k" * 65_536,
    [KEY.kid],
    1,
    None,
    {},
    "",
    OTHER.kid,
    KEY.kid.lower(),
]

FORGERIES: dict[str, list[str]] = {
    "J1": [
        unsigned(algorithm, kind)
        for algorithm in NOT_ALGORITHMS
        for kind in ("empty", "kept", "random")
    ],
    "J2": [with_header(alg=name) for name in ("RS256", "ES256", "EdDSA", "PS256", "ES256K")],
    "J3": [
        family("HS384"),
        family("HS512"),
        *(
            with_header(alg=name)
            for name in ("HS384", "HS512", "hs256", "HS256 ", " HS256", "Hs256", "HS256\\u0000")
        ),
    ],
    "J4": [
        with_header(**{name: "http://127.0.0.1:1/"})
        for name in ("jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256")
    ],
    "J5": [with_header(kid=kid) for kid in NOT_KIDS],
    "J6": [with_header(crit=crit) for crit in (["x"], [], "exp", [1], ["b64"], ["exp", "exp"])],
    "J7": [
        with_header(b64=False),
        with_header(b64=False, crit=["b64"]),
        forge().replace("." + encode(text(CLAIMS)), "."),
    ],
    "J8": [
        forge(header=twice(HEADER, "alg", '"none"', '"HS256"')),
        forge(header=twice(HEADER, "alg", '"HS256"', '"none"')),
        forge(header=twice(HEADER, "alg", '"HS256"', '"HS256"')),
        forge(header=twice(HEADER, "kid", f'"{KEY.kid}"', f'"{KEY.kid}"')),
        forge(header=json.dumps(HEADER)[:-1] + f',"k\\u0069d":"{KEY.kid}"}}'),
    ],
    "J9": [
        with_header(cty="JWT"),
        f"{forge()}.AAAA.AAAA",
        f"{forge()}.AAAA",
        json.dumps({"payload": forge().split(".")[1], "signatures": []}),
        forge().rpartition(".")[0],
        forge().split(".")[0],
        forge().rpartition(".")[0] + ".",
        "." + forge().partition(".")[2],
        "..",
        ".",
        "",
    ],
    "J10": [
        *(with_header(typ=typ) for typ in ("sync+jwt", "at+jwt", "jwt", "JWT ", "", 1, None)),
        *(
            with_claims(**{name: value})
            for name in ("iss", "aud")
            for value in ("other", "Portero", "portero ", "", ["portero", "portero-gateway"], None)
        ),
    ],
    "J11": [with_header(zip="DEF")],
    "J12": [
        forge(claims=twice(CLAIMS, "exp", str(NOW - 1), str(NOW + 100))),
        forge(claims=twice(CLAIMS, "exp", str(NOW + 100), str(NOW - 1))),
        forge(claims=twice(CLAIMS, "exp", str(NOW + 100), str(NOW + 100))),
        forge(claims=twice(CLAIMS, "role", '"admin"', '"user"')),
        forge(claims=twice(CLAIMS, "jti", f'"{JTI}"', f'"{JTI[:-1]}B"')),
        forge(claims=twice(CLAIMS, "sub", '"ADMNroot"', '"USRSalice"')),
        forge(claims=json.dumps(CLAIMS)[:-1] + ',"rol\\u0065":"admin"}'),
    ],
    "J13": [
        *(
            change(forge(), segment, end)
            for change in (padded, signed_over)
            for segment in (0, 1)
            for end in (
                "=",
                "==",
                "=x",
                "+",
                "/",
                " ",
                "\t",
                "\r",
                "\n",
                "\0",
                "%3D",
                "é",
                "\u0410",
            )
        ),
        *(
            padded(forge(), 2, end)
            for end in ("==", "=x", "+", "/", " ", "\t", "\r", "\n", "\r\n", "\0", "%3D", "é")
        ),
        *(signed_over(forge(), segment, "A" * extra(segment)) for segment in (0, 1)),
        " " + forge(),
        "Bearer " + forge(),
    ],
    "J14": [stray_bits(segment) for segment in (0, 1, 2)],
    "J15": [forge() + "=", forge() + "=="],
    "J16": [
        forge(claims=codecs.BOM_UTF8 + text(CLAIMS)),
        forge(header=codecs.BOM_UTF8 + text(HEADER)),
        *(
            forge(claims=json.dumps(CLAIMS).encode(code))
            for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")
        ),
        forge(claims=text(CLAIMS).replace(b"alice", b"ali\xffce")),
        forge(claims=text(CLAIMS).replace(b"alice", b"ali\xed\xa0\x80")),
        *(
            with_raw_claim(name, f'"{CLAIMS[name]}{add}"')
            for name in ("sub", "role", "jti")
            for add in ("\\u0000", "\\ud800", "\x00", "\\n")
        ),
    ],
    "J17": [
        forge(claims=payload)
        for payload in ('"str"', "1", "null", "[]", "true", "{}", "", " ", "{", "NaN", b"\xff")
    ],
    "J18": [
        with_raw_claim(name, value)
        for name in ("exp", "iat")
        for value in (
            f'"{NOW}"',
            f"{NOW}.0",
            f"{NOW}.5",
            "1.8e9",
            "true",
            "null",
            "[]",
            "{}",
            "-1",
            "-0",
            "9007199254740993",
            "9" * 400,
            "1e400",
            "NaN",
            "Infinity",
            "-Infinity",
            "0x7fffffff",
            "0777",
            f"+{NOW}",
            f"0{NOW}",
            '" 123 "',
            '"9_999_999_999"',
            "9_999_999_999",
            "١٢٣٤٥٦٧٨٩٠",
            '"١٢٣"',
            "1.",
            "",
        )
    ]
    + [with_raw_claim("exp", "0")],
    "J19": [
        without_claim("exp"),
        with_claims(exp=None),
        with_claims(exp=CLAIMS["iat"] + 901),
        with_claims(exp=NOW + 900 + 3600),
        with_claims(exp=NOW + 10**9),
    ],
    "J20": [
        with_claims(iat=NOW + 1, exp=NOW + 100),
        with_claims(iat=NOW + 100, exp=NOW + 50),
        with_claims(iat=NOW + 100, exp=NOW + 100),
        with_claims(iat=-1),
        without_claim("iat"),
        with_claims(nbf=NOW + 100),
        with_claims(nbf=NOW - 100),
    ],
    "J21": [
        without_claim("jti"),
        *(
            with_claims(jti=jti)
            for jti in (
                "",
                1,
                None,
                "A" * 21,
                "A" * 23,
                "A" * 10_240,
                "A" * 21 + "*",
                "../" + "A" * 19,
                "A" * 21 + "\0",
                "A" * 21 + "é",
                "A" * 21 + "=",
                [JTI],
            )
        ),
    ],
    "J22": [
        without_claim("role"),
        without_claim("sub"),
        *(
            with_claims(role=role)
            for role in ("root", "User", "user ", " user", "", ["user"], None, 1, "admin")
        ),
        *(
            with_claims(sub=sub)
            for sub in (
                "USRSa\r\nX-Auth-Role: admin",
                "USRSa\n",
                "USRSa\0",
                "USRSé",
                "USRS",
                "USRS" + "a" * 61,
                "ADMNroot",
                "usrsalice",
                "USRSa b",
                "",
                None,
                1,
                ["USRSalice"],
            )
        ),
    ],
    "J23": [
        *(with_claims(pad="x" * size) for size in (1, 4096, 8192, 9000, 65_536, 1 << 20)),
        *(forge(claims=json.dumps(CLAIMS) + " " * size) for size in (2048, 1 << 20)),
        forge(claims=DEEP),
        forge(header=DEEP),
        forge(claims='{"a":' * 100_000),
        forge(claims={f"c{number}": 1 for number in range(100_000)}),
        "A" * (1 << 20),
        "." * (1 << 20),
    ],
    "J29": [
        forge(key=replace(KEY, verifying=secret))
        for secret in (b"secret", b"changeme", b"your-256-bit-secret", b"", KEY.verifying[:-1])
    ],
}

CASES = [
    pytest.param(token, id=f"{number}-{index}")
    for number, forgeries in FORGERIES.items()
    for index, token in enumerate(forgeries)
]


@pytest.mark.parametrize("token", CASES)
def test_a_forgery_is_refused_like_any_other(token: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        verify(token)
    assert type(refused.value) is TokenRefused


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(with_claims(exp=CLAIMS["iat"] + 900), id="J19-the-whole-ttl"),
        pytest.param(with_claims(iat=NOW), id="J20-issued-this-second"),
        pytest.param(with_claims(exp=NOW + 1), id="J18-ends-next-second"),
        pytest.param(with_claims(sub="USRS" + "a" * 60), id="J22-the-longest-subject"),
        pytest.param(forge(claims=json.dumps(CLAIMS, indent=1)), id="J16-with-spaces"),
        pytest.param(forge(claims=dict(reversed(CLAIMS.items()))), id="J12-in-another-order"),
    ],
)
def test_what_is_just_within_the_rules_is_accepted(token: str) -> None:
    assert verify(token).jti == JTI


def test_a_token_of_the_greatest_length_is_accepted_and_one_character_more_is_not() -> None:
    room = tokens.MAX_CHARACTERS - len(forge(claims=""))
    longest = json.dumps(CLAIMS).ljust(room * 3 // 4)
    accepted = forge(claims=longest)
    assert len(accepted) in (tokens.MAX_CHARACTERS, tokens.MAX_CHARACTERS - 1)
    assert verify(accepted)
    with pytest.raises(TokenRefused):
        verify(forge(claims=longest + "  "))


def test_j22_a_role_whose_code_does_not_begin_the_subject_is_refused() -> None:
    assert verify(with_claims(sub="ADMNroot", role="admin")).role == "admin"
    with pytest.raises(TokenRefused):
        verify(with_claims(sub="USRSalice", role="admin"))


def test_j24_no_bit_of_a_token_may_change() -> None:
    token = good().encode()
    assert verify(token.decode())
    for index in range(len(token)):
        for bit in range(8):
            flipped = bytearray(token)
            flipped[index] ^= 1 << bit
            with pytest.raises(TokenRefused):
                verify(flipped.decode("latin-1"))


def test_j31_a_good_token_before_helps_no_bad_one_after() -> None:
    token = good()
    assert verify(token)
    assert verify(token)
    last = "A" if token[-5] != "A" else "B"
    with pytest.raises(TokenRefused):
        verify(token[:-5] + last + token[-4:])
    assert verify(token)


def test_a_shorter_ttl_of_a_role_ends_its_longer_tokens() -> None:
    shorter = shipped_policy(60).roles
    assert verify(forge())
    with pytest.raises(TokenRefused):
        verify(forge(), all_roles=shorter)


def test_no_error_says_a_word_of_the_token() -> None:
    for token in (FORGERIES["J22"][0], FORGERIES["J13"][0], FORGERIES["J1"][0]):
        with pytest.raises(TokenRefused) as refused:
            verify(token)
        assert not any(part in str(refused.value) for part in (JTI, "alice", token[:20]))
        assert refused.value.__cause__ is None


@given(st.text(max_size=400) | st.text(alphabet="abcXYZ019-_.=", max_size=400))
def test_any_text_is_refused_and_never_an_accident(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(token)


@given(st.binary(max_size=200), st.sampled_from(["header", "claims"]))
def test_any_signed_bytes_are_refused_and_never_an_accident(raw: bytes, part: str) -> None:
    token = forge(header=raw) if part == "header" else forge(claims=raw)
    with pytest.raises(TokenRefused):
        verify(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(CLAIMS)), JSON)
def test_a_claim_of_any_other_value_is_refused_or_still_a_good_one(name: str, value: Any) -> None:
    try:
        claims = verify(with_claims(**{name: value}))
    except TokenRefused:
        return
    assert type(value) is type(CLAIMS[name])
    assert claims.expires_at > NOW >= claims.issued_at
