"""How a line of the credentials file may be written: by the right password one gets in, or the line
is a fault. Never does the text of what was meant as a hash become a password.
"""

import base64
import itertools
import random
import re
import string
import subprocess
from collections.abc import Callable, Iterator

import bcrypt
import pytest
from werkzeug.security import generate_password_hash

from issuer.errors import Faults
from issuer.policy.roles import Roles
from issuer.users import credentials
from issuer.users.credentials import Credentials

SALT = b"a salt of the tests"
NAME = "USRSalice"
SECRET = "the right secret"
HASH = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(10)).decode()
PAYLOAD = HASH[7:]
ALPHABET = "./" + string.ascii_letters + string.digits
#: As long as a text that says nothing may be.
TELLING = 5

Read = Callable[[str], Credentials]


@pytest.fixture
def read(all_roles: Roles) -> Read:
    return lambda text: credentials.parse(text, all_roles, SALT, lambda _: None)


@pytest.fixture(autouse=True)
def cheap_plain_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "COST", 4)


def parts_of(text: str) -> set[str]:
    """All that is long enough to tell something of a secret."""
    return {text[at : at + TELLING] for at in range(len(text) - TELLING + 1)}


def faults_of(read: Read, text: str) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        read(text)
    return found.value.faults


def outcome(read: Read, text: str, secret: str) -> str:
    """`plain`, or the fingerprint of the user who was read; empty for faults that tell the line and
    nothing of the secret.
    """
    warned: list[str] = []
    try:
        users = credentials.parse(text, None, SALT, warned.append)
    except Faults as found:
        for fault in found.faults:
            assert fault.startswith("credentials line 1: "), fault
            assert not parts_of(secret) & parts_of(fault), fault
        return ""
    return "plain" if warned else users.fingerprint(NAME) or "nobody"


# Ways to write a hash, and to fail at it: hash x escape x quotes x what stands beside it x line.

WHOLE = "whole"
HASHES: dict[str, str] = {
    WHOLE: HASH,
    "cut short by one": HASH[:-1],
    "cut short in the salt": HASH[:18],
    "nothing but its prefix": HASH[:7],
    "too long by one": HASH + "x",
    "twice": HASH + HASH,
    "another alphabet": HASH[:-3] + "+-_",
    "a letter that looks like another": HASH[:20] + "\u0430" + HASH[21:],
    "a capital prefix": "$2B$" + HASH[4:],
    "all capitals": HASH.upper(),
    "$2x$": "$2x$" + HASH[4:],
    "$2$": "$2$" + HASH[4:],
    "no first dollar": HASH[1:],
    "no second dollar": HASH[:3] + HASH[4:],
    "no third dollar": HASH[:6] + HASH[7:],
    "no dollars": HASH.replace("$", ""),
    "no prefix": HASH[4:],
    "no prefix and no cost": PAYLOAD,
    "other marks than dollars": HASH.replace("$", ":"),
    "an impossible salt": HASH[:28] + "z" + HASH[29:],
    "htpasswd": "alice:$2y$05$" + PAYLOAD,
    "a scheme in braces": "{bcrypt}" + HASH,
    "dovecot": "{BLF-CRYPT}" + HASH,
    "a word before it": "bcrypt:" + HASH,
    "django": "bcrypt$" + HASH,
    "django with a digest": "bcrypt_sha256$" + HASH,
    "passlib": "$bcrypt-sha256$v=2,t=2b,r=10$" + PAYLOAD,
    "a second =": "=" + HASH,
    "a semicolon behind it": HASH + ";",
    "a comma behind it": HASH + ",",
}
ESCAPES: dict[str, Callable[[str], str]] = {
    "no": lambda text: text,
    "backslashes": lambda text: text.replace("$", "\\$"),
    "two backslashes": lambda text: text.replace("$", "\\\\$"),
    "doubled": lambda text: text.replace("$", "$$"),
    "four times": lambda text: text.replace("$", "$$$$"),
    "percent": lambda text: text.replace("$", "%24"),
    "html": lambda text: text.replace("$", "&#36;"),
    "json": lambda text: text.replace("$", "\\u0024"),
    "full width": lambda text: text.replace("$", "\uff04"),
}
QUOTES: dict[str, tuple[str, str]] = {
    "no": ("", ""),
    "single": ("'", "'"),
    "double": ('"', '"'),
    "single before": ("'", ""),
    "double behind": ("", '"'),
    "mixed": ("'", '"'),
    "twice": ("''", "''"),
    "both": ("'\"", "\"'"),
    "curly": ("\u201c", "\u201d"),
    "backticks": ("`", "`"),
    "escaped": ('\\"', '\\"'),
    "of a shell": ("$'", "'"),
}
MATCHED = ("no", "single", "double")
INSIDE: dict[str, tuple[str, str]] = {
    "nothing": ("", ""),
    "a blank": ("", " "),
    "a blank before": (" ", ""),
    "a comment": ("", " # alice"),
    "a comment at once": ("", "#alice"),
    "a tab": ("", "\t"),
    "a zero-width space": ("\u200b", ""),
    "a no-break space": ("", "\xa0"),
}
LINES: dict[str, tuple[str, str]] = {
    "plain": (f"{NAME}=", "\n"),
    "blanks": (f"  {NAME} \t= ", " \t \r\n"),
    "a byte order mark": (f"\ufeff{NAME}=", "\r\n"),
    "a comment behind": (f"{NAME}=", " # alice\n"),
    "a no-break space behind": (f"{NAME}=", "\xa0\n"),
    "export": (f"export {NAME}=", "\n"),
    "no line end": (f"{NAME}=", ""),
}
GOOD_LINES = ("plain", "blanks", "a byte order mark", "no line end")


def must_be_read(hashed: str, escape: str, quotes: str, inside: str, line: str) -> bool:
    is_bare = quotes == "no" and inside in ("a blank", "a blank before", "a tab")
    beside = inside == "nothing" or is_bare
    return (hashed, escape) == (WHOLE, "no") and quotes in MATCHED and beside and line in GOOD_LINES


@pytest.mark.parametrize("hashed", HASHES)
def test_what_was_meant_as_a_hash_is_read_as_one_or_is_a_fault_c1(read: Read, hashed: str) -> None:
    right = read(f"{NAME}={HASH}").fingerprint(NAME)
    seen = 0
    for escape, quotes, inside, line in itertools.product(ESCAPES, QUOTES, INSIDE, LINES):
        if escape != "no" and line not in ("plain", "a comment behind"):
            continue
        (opening, closing), (before, behind) = QUOTES[quotes], INSIDE[inside]
        begin, end = LINES[line]
        written = f"{opening}{before}{ESCAPES[escape](HASHES[hashed])}{behind}{closing}"
        text = f"{begin}{written}{end}"
        wanted = right if must_be_read(hashed, escape, quotes, inside, line) else ""
        assert outcome(read, text, PAYLOAD) == wanted, text
        seen += 1
    assert seen > 2000


@pytest.mark.parametrize("quotes", MATCHED)
@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_the_right_password_logs_in_and_nothing_else_does_c1(
    read: Read, prefix: str, quotes: str
) -> None:
    opening, closing = QUOTES[quotes]
    hashed = prefix + HASH[4:]
    users = read(f"\ufeff{NAME}={opening}{hashed}{closing}\r\n")
    assert users.check(NAME, SECRET)
    for text in (hashed, f"{opening}{hashed}{closing} ", f"'{hashed}'", f'"{SECRET}"', hashed[1:]):
        assert not users.check(NAME, text)


def random_hash(chance: random.Random) -> str:
    """A text with the form of a hash, of any cost; nobody has its secret."""
    kind, cost = chance.choice("aby"), chance.randint(4, 14)
    salt = "".join(chance.choices(ALPHABET, k=21)) + chance.choice(".Oeu")
    return f"$2{kind}${cost:02}${salt}" + "".join(chance.choices(ALPHABET, k=31))


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_a_shell_leaves_of_a_hash_in_double_quotes_is_a_fault_c1(
    read: Read, shell: str
) -> None:
    chance = random.Random(1)
    hashes = [random_hash(chance) for _ in range(2000)]
    script = "".join(f'printf "%s\\n" "{hashed}"\n' for hashed in hashes)
    done = subprocess.run([shell], input=script, capture_output=True, text=True, check=True)
    left = done.stdout.splitlines()
    assert len(left) == len(hashes)
    for text in left:
        assert outcome(read, f"{NAME}={text}", text) == "", text


def test_what_make_leaves_of_a_hash_is_a_fault_c1(read: Read) -> None:
    chance = random.Random(2)
    hashes = [random_hash(chance) for _ in range(300)]
    lines = "".join(f"$(info {hashed})\n" for hashed in hashes)
    done = subprocess.run(
        ["make", "-f", "-"], input=f"{lines}all:;@:\n", capture_output=True, text=True, check=True
    )
    left = done.stdout.splitlines()
    assert len(left) == len(hashes)
    for text in left:
        assert outcome(read, f"{NAME}={text}", text) == "", text


def made_by(*command: str) -> str:
    """What a program that hashes passwords prints."""
    done = subprocess.run(command, input=SECRET, capture_output=True, text=True, check=True)
    return done.stdout.strip()


FOREIGN: dict[str, Callable[[], str]] = {
    "MD5 crypt": lambda: made_by("openssl", "passwd", "-1", "-stdin"),
    "htpasswd's own MD5": lambda: made_by("openssl", "passwd", "-apr1", "-stdin"),
    "SHA-256 crypt": lambda: made_by("openssl", "passwd", "-5", "-stdin"),
    "SHA-512 crypt": lambda: made_by("openssl", "passwd", "-6", "-stdin"),
    "a line of htpasswd": lambda: "alice:" + made_by("openssl", "passwd", "-apr1", "-stdin"),
    "werkzeug's pbkdf2": lambda: generate_password_hash(SECRET, "pbkdf2:sha256:1000"),
    "werkzeug's scrypt": lambda: generate_password_hash(SECRET, "scrypt:1024:8:1"),
    "yescrypt": lambda: "$y$j9T$" + PAYLOAD,
    "gost yescrypt": lambda: "$gy$j9T$" + PAYLOAD,
    "scrypt": lambda: "$7$CU..../" + PAYLOAD[:30] + "$" + PAYLOAD[30:],
    "passlib's scrypt": lambda: "$scrypt$ln=16,r=8,p=1$" + PAYLOAD,
    "argon2id": lambda: "$argon2id$v=19$m=65536,t=3,p=4$" + PAYLOAD[:30],
    "argon2i": lambda: "$argon2i$v=19$m=512,t=2,p=2$" + PAYLOAD[:30],
    "passlib's pbkdf2": lambda: "$pbkdf2-sha256$29000$" + PAYLOAD[:43],
    "phpass": lambda: "$P$B" + PAYLOAD[:30],
    "phpBB": lambda: "$H$9" + PAYLOAD[:30],
    "drupal": lambda: "$S$D" + PAYLOAD[:51],
    "sun": lambda: "$md5,rounds=904$" + PAYLOAD[:40],
    "NetBSD": lambda: "$sha1$40000$" + PAYLOAD[:40],
    "Cisco 8": lambda: "$8$" + PAYLOAD[:14] + "$" + PAYLOAD[14:53],
    "a cut off SHA-512 crypt": lambda: "$6$" + PAYLOAD[:8] + "$" + PAYLOAD[:10],
    "LDAP's SHA": lambda: "{SHA}" + PAYLOAD[:27] + "=",
    "LDAP's SSHA": lambda: "{SSHA}" + PAYLOAD[:38] + "==",
    "LDAP's crypt": lambda: "{CRYPT}$6$" + PAYLOAD[:8] + "$" + PAYLOAD[:40],
    "dovecot's": lambda: "{SHA512-CRYPT}$6$" + PAYLOAD[:8] + "$" + PAYLOAD[:40],
    "Spring's pbkdf2": lambda: "{pbkdf2@SpringSecurity_v5_8}" + PAYLOAD[:40],
    "Spring's none": lambda: "{noop}" + PAYLOAD[:12],
    "htpasswd's SHA": lambda: "alice:{SHA}" + PAYLOAD[:27] + "=",
    "Django's pbkdf2": lambda: "pbkdf2_sha256$600000$" + PAYLOAD[:22] + "$" + PAYLOAD[:43] + "=",
    "Django's argon2": lambda: "argon2$argon2id$v=19$m=102400,t=2,p=8$" + PAYLOAD[:30],
    "Django's scrypt": lambda: "scrypt$16384$" + PAYLOAD[:22] + "$8$1$" + PAYLOAD,
    "Django's SHA-1": lambda: "sha1$" + PAYLOAD[:8] + "$" + "0a1b2c3d4e" * 4,
    "Django's MD5": lambda: "md5$" + PAYLOAD[:8] + "$" + "0a1b2c3d" * 4,
    "a digest with its name": lambda: "sha256:" + "0a1b2c3d" * 8,
    "PostgreSQL's MD5": lambda: "md5" + "0a1b2c3d" * 4,
    "PostgreSQL's SCRAM": lambda: "SCRAM-SHA-256$4096:" + PAYLOAD[:24] + "$" + PAYLOAD[:44],
    "MySQL's": lambda: "*" + "0A1B2C3D4E" * 4,
    "MSSQL's": lambda: "0x0200" + "0A1B2C3D4E" * 6,
    "SHA-512 crypt without its first dollar": lambda: "6$" + PAYLOAD[:8] + "$" + PAYLOAD[:53],
    "argon2id without its beginning": lambda: "v=19$m=65536,t=3,p=4$" + PAYLOAD[:30],
    "argon2id by a shell": lambda: "=19=65536,t=3,p=4/" + PAYLOAD[:20],
    "Kubernetes' base64": lambda: "JDJiJDEwJ" + PAYLOAD,
}
#: These can be spoiled as a bcrypt hash can.
WITH_DOLLARS = [name for name, make in FOREIGN.items() if name.endswith("crypt")]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_hash_of_another_kind_is_a_fault_in_any_quotes_c1(read: Read, kind: str) -> None:
    hashed = FOREIGN[kind]()
    for opening, closing in QUOTES.values():
        assert outcome(read, f"{NAME}={opening}{hashed}{closing}", hashed[-12:]) == "", kind


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("kind", WITH_DOLLARS)
def test_a_hash_of_another_kind_is_a_fault_with_any_escapes_c1(
    read: Read, kind: str, escape: str
) -> None:
    hashed = ESCAPES[escape](FOREIGN[kind]())
    assert outcome(read, f"{NAME}={hashed}", hashed[-12:]) == ""


@pytest.mark.parametrize(
    "written",
    [
        "${ALICE_HASH}",
        "${ALICE_HASH:-none}",
        "$ALICE_HASH",
        "$(htpasswd -nbB alice secret)",
        "`cat alice.hash`",
        "{{ alice_hash }}",
    ],
)
def test_what_waits_to_be_filled_in_is_a_fault_c1(read: Read, written: str) -> None:
    for text in (written, f"'{written}'", f'"{written}"'):
        (fault,) = faults_of(read, f"{NAME}={text}")
        assert "nothing is filled in here" in fault


# What is told of it.


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (f"'{HASH.replace('$', chr(92) + '$')}'", "take the backslashes away"),
        (HASH.replace("$", "$$"), "write each $ once"),
        (HASH.replace("$", "%24"), "write its $ as they are"),
        (f"alice:{HASH}", "only what follows the colon belongs here"),
        ("{bcrypt}" + HASH, "take away what stands in braces before it"),
        (HASH + " # alice", "a comment goes on a line of its own"),
        (f"'{HASH}' # alice", "begins or ends with a quote that has no match"),
        (f'"{HASH} "', "take the blanks in the quotes away"),
        ("$2B$" + HASH[4:], "write its beginning in small letters"),
        ("$2x$" + HASH[4:], "it is of another kind; hash the secret anew"),
        (HASH[:-1], "it is cut short"),
        (HASH + "x", "more follows its 60 characters"),
        (HASH[:-1] + "-", "it has a character that no such hash has at that place"),
        (HASH[1:], "a part of its beginning is missing"),
        (PAYLOAD, "its beginning is missing"),
        ("b0/" + PAYLOAD[:20], "what a shell leaves of one"),
        ("$6$salt$" + PAYLOAD, "it is of another kind"),
        ("${HASH}", "nothing is filled in here"),
    ],
)
def test_the_fault_says_what_to_do_c1(read: Read, written: str, words: str) -> None:
    (fault,) = faults_of(read, f"# users\n{NAME}={written}\n")
    assert fault.startswith("credentials line 2: ")
    assert words in fault


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"export {NAME}={HASH}", "take `export` away"),
        (f"{NAME}:{HASH}", "A line of htpasswd has a colon"),
        (f'"{NAME}"="{HASH}"', "Quotes belong around the secret alone"),
        (f"'{NAME}={HASH}'", "Quotes belong around the secret alone"),
        (f'  "{NAME}": "{HASH}",', "Quotes belong around the secret alone"),
        (PAYLOAD, "expected USERNAME=SECRET"),
        (f"ABCD{PAYLOAD[:20]}=x", ""),
        (f"{HASH}={NAME}", "expected USERNAME=SECRET"),
    ],
)
def test_a_line_of_another_form_is_told_and_nothing_of_its_secret_c1(
    read: Read, line: str, words: str
) -> None:
    for fault in (found := faults_of(read, line)):
        assert fault.startswith("credentials line 1: ")
        assert not parts_of(HASH) & parts_of(fault)
        assert "ABCD" not in fault
    assert words in found[0]


# Plain text.

PLAIN = [
    "agent-secret-1",
    'a"b',
    "it's",
    "pa#ss",
    "#1 at all",
    "a # b",
    "pa$$word",
    "$1000",
    "$ecret",
    "US$100",
    "a$b$c",
    "$$$",
    "100$",
    "C:\\temp\\x",
    "back\\slash",
    "correct horse battery staple",
    "a=b==",
    "gr\u00fc\u00dfe",
    "\u5bc6\u7801\u5bc6\u7801",
    "\U0001f511 key",
    "{braces}",
    "a`b",
    "key:value",
    "sk-portero-secret",
    "3f2b1c-x/y.z",
    "b2b-sales",
    "x" * 72,
    "5f4dcc3b5aa765d61d8327deb882cf99",
    "zGk3+4kV/2bQ0o1C9sQyXw==",
]


@pytest.mark.parametrize("secret", PLAIN)
def test_a_plain_secret_is_read_as_it_stands_with_quotes_around_it_or_none_c1(
    read: Read, secret: str
) -> None:
    ways = [secret] + [f"{quote}{secret}{quote}" for quote in "'\"" if quote not in secret]
    for written in ways:
        users = read(f"{NAME}={written}\r\n")
        assert users.check(NAME, secret), written
        assert not users.check(NAME, f"'{secret}'")
    assert len(ways) > 1


def test_quotes_keep_blanks_and_quotes_of_the_other_kind_c1(read: Read) -> None:
    assert read(f"{NAME}=' two blanks '").check(NAME, " two blanks ")
    assert read(f"""{NAME}='"quoted"'""").check(NAME, '"quoted"')
    assert read(f'{NAME}="it\'s"').check(NAME, "it's")


@pytest.mark.parametrize(
    "written",
    [
        "'",
        '"',
        "'abc",
        'abc"',
        "'abc\"",
        "'a'b'",
        '"a" "b"',
        '"a\\"b"',
        "'a' # b",
        "\u201cabc\u201d",
    ],
)
def test_quotes_that_do_not_match_are_a_fault_c1(read: Read, written: str) -> None:
    (fault,) = faults_of(read, f"{NAME}={written}")
    assert "quote" in fault


@pytest.mark.parametrize("written", ["''", '""', "", "  "])
def test_nothing_in_quotes_is_an_empty_secret_c1(read: Read, written: str) -> None:
    assert faults_of(read, f"{NAME}={written}") == ("credentials line 1: the secret is empty",)


def test_random_plain_secrets_are_not_taken_for_hashes_c1(read: Read) -> None:
    chance = random.Random(3)
    characters = string.ascii_letters + string.digits + "-_"
    for length in (8, 12, 16, 20, 24, 32, 43, 64):
        for _ in range(500):
            secret = "".join(chance.choices(characters, k=length))
            assert outcome(read, f"{NAME}={secret}", secret) == "plain", secret
            assert outcome(read, f"{NAME}='{secret}'", secret) == "plain", secret


def test_random_plain_secrets_in_base64_are_hardly_ever_taken_for_what_a_shell_leaves_c1(
    read: Read,
) -> None:
    chance = random.Random(4)
    taken = 0
    for size in (9, 12, 16, 18, 24, 32, 48):
        for _ in range(1000):
            secret = base64.b64encode(chance.randbytes(size)).decode()
            taken += outcome(read, f"{NAME}={secret}", secret) != "plain"
    assert taken < 20  # in 7,000


def test_what_is_plain_and_was_perhaps_not_meant_so_is_told_c1() -> None:
    warned: list[str] = []
    digest = "5f4dcc3b5aa765d61d8327deb882cf99"
    credentials.parse(f"{NAME}={digest}\nUSRSbob=a # b\nUSRScarol=c", None, SALT, warned.append)
    assert "the form of a hex digest" in warned[0]
    assert "what follows the # is part of it" in warned[1]
    assert warned[2] == "credentials line 3: the secret is plain text; store a bcrypt hash"
    assert all("store a bcrypt hash" in text and digest[:5] not in text for text in warned)


# Invisible characters.

INVISIBLE = {
    "\0": "U+0000 NULL",
    "\x07": "U+0007 a control character",
    "\x1b": "U+001B ESCAPE",
    "\x7f": "U+007F DELETE",
    "\x85": "U+0085 NEXT LINE",
    "\t": "U+0009 CHARACTER TABULATION",
    "\v": "U+000B LINE TABULATION",
    "\f": "U+000C FORM FEED",
    "\r": "U+000D CARRIAGE RETURN",
    "\xa0": "U+00A0 NO-BREAK SPACE",
    "\xad": "U+00AD SOFT HYPHEN",
    "\u034f": "U+034F COMBINING GRAPHEME JOINER",
    "\u061c": "U+061C ARABIC LETTER MARK",
    "\u1680": "U+1680 OGHAM SPACE MARK",
    "\u180e": "U+180E MONGOLIAN VOWEL SEPARATOR",
    "\u2003": "U+2003 EM SPACE",
    "\u2009": "U+2009 THIN SPACE",
    "\u200b": "U+200B ZERO WIDTH SPACE",
    "\u200c": "U+200C ZERO WIDTH NON-JOINER",
    "\u200d": "U+200D ZERO WIDTH JOINER",
    "\u200e": "U+200E LEFT-TO-RIGHT MARK",
    "\u200f": "U+200F RIGHT-TO-LEFT MARK",
    "\u2028": "U+2028 LINE SEPARATOR",
    "\u2029": "U+2029 PARAGRAPH SEPARATOR",
    "\u202a": "U+202A LEFT-TO-RIGHT EMBEDDING",
    "\u202e": "U+202E RIGHT-TO-LEFT OVERRIDE",
    "\u202f": "U+202F NARROW NO-BREAK SPACE",
    "\u205f": "U+205F MEDIUM MATHEMATICAL SPACE",
    "\u2060": "U+2060 WORD JOINER",
    "\u2066": "U+2066 LEFT-TO-RIGHT ISOLATE",
    "\u2069": "U+2069 POP DIRECTIONAL ISOLATE",
    "\u2800": "U+2800 BRAILLE PATTERN BLANK",
    "\u3000": "U+3000 IDEOGRAPHIC SPACE",
    "\u3164": "U+3164 HANGUL FILLER",
    "\ufe0f": "U+FE0F VARIATION SELECTOR-16",
    "\ufeff": "U+FEFF ZERO WIDTH NO-BREAK SPACE (a byte order mark)",
    "\ufffc": "U+FFFC OBJECT REPLACEMENT CHARACTER",
    "\U000e0041": "U+E0041 TAG LATIN CAPITAL LETTER A",
}
SECRETS = {"a hash": HASH, "plain text": "plain-as-day"}
#: A hash in quotes and plain text, with a character in it: the line, the column, and the part.
Places = Iterator[tuple[str, int, str]]


def places(character: str, secret: str) -> Places:
    start = len(NAME) + 2
    for quote in ("", "'", '"'):
        at = start + len(quote)
        yield f"{NAME}={quote}{character}{secret}{quote}", at, "secret"
        yield f"{NAME}={quote}{secret[:5]}{character}{secret[5:]}{quote}", at + 5, "secret"
        end = at + len(secret)
        yield f"{NAME}={quote}{secret}{character}{quote}", end, "secret"
        yield f"{NAME}={quote}{secret}{quote}{character}", end + len(quote), "secret"
    yield f"{character}{NAME}={secret}", 1, "username"
    yield f"{NAME[:6]}{character}{NAME[6:]}={secret}", 7, "username"
    yield f"{NAME}{character}={secret}", len(NAME) + 1, "username"


def is_a_blank_around(line: str, character: str, column: int) -> bool:
    """Whether it stands where a blank, or the CR of a line end, belongs to nothing."""
    if character == "\t":
        return column in (1, len(line), len(NAME) + 1, len(NAME) + 2)
    return character == "\r" and column == len(line)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("character", INVISIBLE, ids=INVISIBLE.values())
def test_an_invisible_character_is_named_with_its_place_c1(
    read: Read, character: str, kind: str
) -> None:
    told = 0
    for line, column, part in places(character, SECRETS[kind]):
        text = f"# users\n{line}\n"
        if is_a_blank_around(line, character, column):
            assert read(text).fingerprint(NAME) == read(f"{NAME}={SECRETS[kind]}").fingerprint(NAME)
            continue
        (fault,) = faults_of(read, text)
        named = f"credentials line 2: {INVISIBLE[character]} at column {column}, in the {part}, "
        assert fault.startswith(named), (line, fault)
        assert not parts_of(SECRETS[kind]) & parts_of(fault)
        told += 1
    assert told >= 8


def test_a_character_that_is_there_often_is_named_once_c1(read: Read) -> None:
    (fault,) = faults_of(read, f"{NAME}=a\u200bb\u200bc\u200b")
    assert "at column 12," in fault
    two = faults_of(read, f"{NAME}=a\u200bb\u202ec\u200b")
    assert [re.findall("U[+](....)", fault) for fault in two] == [["200B"], ["202E"]]


@pytest.mark.parametrize("character", ["\r", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_a_user_cannot_hide_in_a_comment_behind_what_only_looks_like_a_line_end_c1(
    read: Read, character: str
) -> None:
    text = f"{NAME}={HASH}\n# bob{character}USRSbob={HASH}\n"
    (fault,) = faults_of(read, text)
    assert fault.startswith(f"credentials line 2: {INVISIBLE[character]} at column 6 ")


def test_a_comment_may_hold_what_no_line_of_a_user_may_c1(read: Read) -> None:
    assert len(read(f"# l\u2019\xe9quipe\xa0: \U0001f469\u200d\U0001f4bb\t!\n{NAME}={HASH}")) == 1


def test_a_line_of_blanks_that_are_none_is_a_fault_c1(read: Read) -> None:
    (fault,) = faults_of(read, f"{NAME}={HASH}\n \xa0\n")
    assert "U+00A0 NO-BREAK SPACE at column 2, in the username" in fault
