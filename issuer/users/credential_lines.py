"""The lines of the credentials file, as people write them: which user, which secret, and what
spoils either.

Pure. What a person meant as a hash never becomes a password: a text that can only be a hash that
did not arrive whole, or one of another kind, is a fault. Whatever is invisible on a line is named
with its column. It must never put a secret, or a part of one, into a fault.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from issuer.policy.roles import is_subject

#: bcrypt reads no further (and its versions disagree on what to do beyond).
MAX_SECRET_BYTES = 72
COSTS = range(10, 15)

BYTE_ORDER_MARK = "\ufeff"
_BLANKS = " \t"
_QUOTES = "'\""
#: A word processor's. They are never taken off, for nobody can tell which belongs to which.
_CURLY_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a"


class Line(NamedTuple):
    """One user's line. `username` is None where it has not the form of one; `cost` is that of the
    hash, None where the secret is plain text. With faults, neither secret nor cost is of any use.
    """

    number: int
    username: str | None
    secret: str
    cost: int | None
    faults: Sequence[str]

    @property
    def warning(self) -> str | None:
        """What to tell of a good line that is better written in another way."""
        if self.faults or self.cost is not None:
            return None
        doubt = next((text for form, text in _DOUBTS if form.search(self.secret)), "")
        return f"the secret is plain text{doubt}; store a bcrypt hash"


def read(text: str) -> Iterator[Line]:
    """Every line of the file's text that is neither blank nor a comment."""
    for number, line in enumerate(text.removeprefix(BYTE_ORDER_MARK).split("\n"), 1):
        # Blanks around it are not of the line, nor is the CR of a line end of Windows.
        line = line.rstrip(_BLANKS + "\r")
        text_of_line = line.lstrip(_BLANKS)
        if text_of_line.startswith("#"):
            yield from _comment(number, line)
        elif text_of_line:
            yield _line(number, line)


def secret_faults(secret: str) -> list[str]:
    """Why a secret, given in plain, can be nobody's, though its hash alone were written."""
    if _BCRYPT.match(secret):
        return ["the secret is a bcrypt hash already; give the secret itself, it is hashed here"]
    controls = [
        f"{character}, in the secret, is a control character, and HTTP Basic carries none"
        for character in _named(_ANY_CONTROL, secret, 1)
    ]
    return controls or _plain_faults(secret)


# Invisible characters.

#: What an editor may show as the end of a line, though it is none: behind it, a user would be lost.
_LINE_BREAKS = "\v\f\r\x1c-\x1e\x85\u2028\u2029"
#: Blanks other than the space, controls, and what Unicode lets a reader leave out when it shows a
#: text (its property Default_Ignorable_Code_Point), with the two letters that are drawn as nothing.
_INVISIBLE = (
    "\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    "\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_ANY_LINE_BREAK = re.compile(f"[{_LINE_BREAKS}]")
#: RFC 7617 §2.
_ANY_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_ANY_INVISIBLE = re.compile(f"[{_INVISIBLE}]")
#: Unicode has names for no control; these are the ones it lists beside them.
_CONTROLS = {
    "\0": "NULL",
    "\t": "CHARACTER TABULATION",
    "\v": "LINE TABULATION",
    "\f": "FORM FEED",
    "\r": "CARRIAGE RETURN",
    "\x1b": "ESCAPE",
    "\x7f": "DELETE",
    "\x85": "NEXT LINE",
}


def _called(character: str) -> str:
    name = _CONTROLS.get(character) or unicodedata.name(character, "a control character")
    mark = " (a byte order mark)" if character == BYTE_ORDER_MARK else ""
    return f"U+{ord(character):04X} {name}{mark}"


def _named(pattern: "re.Pattern[str]", text: str, from_column: int) -> Iterator[str]:
    """Each character that the pattern finds, once, with the column where it stands first."""
    first: dict[str, int] = {}
    for match in pattern.finditer(text):
        first.setdefault(match[0], from_column + match.start())
    for character, column in first.items():
        yield f"{_called(character)} at column {column}"


def _comment(number: int, line: str) -> Iterator[Line]:
    faults = [
        f"{character} is no line end; end lines with LF or CR LF"
        for character in _named(_ANY_LINE_BREAK, line, 1)
    ]
    if faults:
        yield Line(number, None, "", None, faults)


# A line.


def _line(number: int, line: str) -> Line:
    name, sign, written = (part.strip(_BLANKS) for part in line.partition("="))
    in_name = _name_faults(line, name)
    if in_name and not sign:
        return Line(number, None, "", None, in_name)
    secret, cost, in_secret = _secret(written, len(line) - len(written) + 1)
    return Line(number, None if in_name else name, secret, cost, [*in_name, *in_secret])


def _name_faults(line: str, name: str) -> list[str]:
    if is_subject(name):
        return []
    begin = line.index(name) + 1 if name else 1
    invisible = [
        f"{character}, in the username, is invisible: expected USERNAME=SECRET without it"
        for character in _named(_ANY_INVISIBLE, name, begin)
    ]
    return invisible or [_EXPECTED + next((text for form, text in _NAMES if form.match(line)), "")]


_EXPECTED = (
    "expected USERNAME=SECRET; a username is a role's code and 1 to 60 of "
    "the characters A-Z a-z 0-9 . _ -"
)
#: What a line may be instead.
_NAMES = (
    (re.compile(r"\s*export\s"), ". This file is read by no shell: take `export` away"),
    (re.compile(r"\s*['\"]"), ". Quotes belong around the secret alone, if anywhere"),
    (re.compile(r"[^=:]*:"), ". A line of htpasswd has a colon where this file has ="),
)


def _secret(written: str, column: int) -> tuple[str, int | None, list[str]]:
    """The secret itself, the cost of the hash if it is one, and what is wrong with it."""
    invisible = [
        f"{character}, in the secret, is invisible: take it out, or store a bcrypt hash of the "
        "secret"
        for character in _named(_ANY_INVISIBLE, written, column)
    ]
    if invisible:
        return "", None, invisible
    secret, fault = _without_quotes(written)
    fault = fault or _not_whole(secret)
    if fault:
        return "", None, [fault]
    hashed = _BCRYPT.match(secret)
    if hashed:
        cost = int(hashed[1])
        good = cost in COSTS
        return secret, cost, [] if good else [f"bcrypt cost must be {COSTS[0]} to {COSTS[-1]}"]
    return secret, None, _plain_faults(secret)


def _without_quotes(written: str) -> tuple[str, str | None]:
    """What stands between quotes that match; nothing in it is escaped."""
    first, last = written[:1], written[-1:]
    if first in _QUOTES and first == last and len(written) > 1:
        inner = written[1:-1]
        if first not in inner:
            return inner, None
        return "", (
            "the secret has the quotes around it inside, too: put the other kind around it, or "
            "a comment behind it on a line of its own"
        )
    if (first and first in _QUOTES + _CURLY_QUOTES) or (last and last in _QUOTES + _CURLY_QUOTES):
        return "", (
            "the secret begins or ends with a quote that has no match at its other end: take it "
            "away, or put the whole secret into straight quotes of the other kind"
        )
    return written, None


def _plain_faults(secret: str) -> list[str]:
    size = len(secret.encode())
    if not size:
        return ["the secret is empty"]
    return [f"the secret is longer than {MAX_SECRET_BYTES} bytes"] * (size > MAX_SECRET_BYTES)


# Hashes, and what is left of them.

_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}\Z", re.ASCII)

Forms = Sequence[tuple["re.Pattern[str]", str]]


def _forms(*rows: tuple[str, str]) -> Forms:
    return [(re.compile(form, re.ASCII), text) for form, text in rows]


#: How other programs spell a dollar sign, and what they put before one or around a text.
_DOLLAR = re.compile(r"(?i)%24|&#(?:36|x24);|&dollar;|\\(?:u0024|x24|0?44)|[\uff04\ufe69]")
_ESCAPES = re.compile(rf"\$(?=[{_QUOTES}])|[\\`{_QUOTES}{_CURLY_QUOTES}]")
#: The beginning of a bcrypt hash: whole, wherever it stands, or what is left of it in front.
_BCRYPTS_HEAD = re.compile(
    r"(?i)2[abxy]\$[0-9]{2}(?:\$|[./a-z0-9]{8})"
    r"|(?:^|\s)\$2[abxy]?(?:[0-9]{0,2}\$|$)|^2[abxy]\$[0-9]{0,2}$|^[abxy]?\$[0-9]{2}\$"
)
#: What a person may have put behind a hash.
_COMMENT = re.compile(r"(?<!&)#.*")
_ANOTHER_KIND = "it is of another kind; hash the secret anew"
#: What became of such a hash, by the text as it stands; the first that fits is told.
_SPOILED = _forms(
    (r"\\", "take the backslashes away"),
    (r"(?i)^[a-z]{2}[a-z0-9_-]*\$", _ANOTHER_KIND),
    (r"\$\$", "write each $ once"),
    (_DOLLAR.pattern, "write its $ as they are"),
    (r"^[^$:]+:", "of a line of htpasswd, only what follows the colon belongs here"),
    (r"^\{", "take away what stands in braces before it"),
    (r"^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53} *#", "a comment goes on a line of its own"),
    (r"^\$2[ABXY]", "write its beginning in small letters"),
    (r"^\$2x?\$", _ANOTHER_KIND),
    (r"^ | $", "take the blanks in the quotes away"),
    (r"^\$2[aby]?(\$[0-9]{0,2}(\$[./A-Za-z0-9]{0,52})?)?$", "it is cut short"),
    (r"^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}.", "more follows its 60 characters"),
    (r"^\$2[aby]\$[0-9]{2}\$", "it has a character that no such hash has at that place"),
    (r"", "a part of its beginning is missing, or something stands before it"),
)
_KNOWN = (
    r"(?:[1356789yphs]|gy|(?:sha|md5|apr1|argon2|b?crypt|scrypt|yescrypt|pbkdf2)[a-z0-9,=._-]*)\$"
)
#: The name of a shell or of its script, which it puts in the place of $0.
_SHELL = r"(?:[A-Za-z0-9_./-]{0,40}sh)"
#: Hashes of other kinds, by the names that other programs give them, and such whose beginning is
#: gone, once escapes are undone.
_FOREIGN = _forms(
    (rf"(?i)(?:^|[\s:=}}])\${_KNOWN}", _ANOTHER_KIND),
    (
        r"(?i)^(?:pbkdf2|b?crypt|scrypt|yescrypt|argon2|s?sha|s?md[245]|ntlm|hmac|blake|scram|phpass"
        r"|unsalted|unix)[a-z0-9._-]*[:$]",
        _ANOTHER_KIND,
    ),
    (r"(?:^|:)\{[A-Za-z0-9@._-]{2,40}\}.", _ANOTHER_KIND),
    (r"(?i)^\*[0-9a-f]{40}$|^md5[0-9a-f]{32}$|^0x0[12]00[0-9a-f]{40,}$", _ANOTHER_KIND),
    (r"(?i)^(?:[1567y]|gy|apr1|s?md5)\$[^\s$]{1,40}\$[./a-z0-9$]{16,}", "its first $ is missing"),
    (r"(?:rounds=[0-9]+\$|=[0-9]+,[tr]=[0-9]+,p=[0-9])", _ANOTHER_KIND),
    (r"^JDJ[hi5]JD", "it is in base64; write it as it is"),
    (
        rf"^\W{{0,3}}2?[abxy]?\W{{0,3}}{_SHELL}?[0-9]{{0,2}}\W{{0,3}}{_SHELL}?"
        r"[./A-Za-z0-9]{20,21}[.Oeu][./A-Za-z0-9]{31}$",
        "its beginning is missing, or not as it was",
    ),
)
_BY_A_SHELL = (
    "it looks like what a shell leaves of one whose $ stood in no single quotes; write the whole "
    "hash, or a bcrypt hash of the plain secret that looks so"
)
#: What waits for a program to fill it in.
_UNFILLED = _forms(
    (
        r"^\$\{.*\}$|^\$\(.*\)$|^`.*`$|^\{\{.*\}\}$|^\$[A-Z_][A-Z0-9_]+$",
        "nothing is filled in here; write the hash itself",
    ),
)
#: The form that most other hashes share, and what is left where a program did fill in. Of
#: `$2b$10$` a shell leaves `b0`, as it takes $2 and $1 for its arguments, and what follows, up to
#: the next `.` or `/`, for the name of a variable.
_LEFT_OVER = _forms(
    (r"^\$[^\s$]{1,32}\$", _ANOTHER_KIND),
    (rf"^[abxy](?:[0-4]|{_SHELL}[0-9])(?:\$?[./][./A-Za-z0-9]*)?$", _BY_A_SHELL),
    (
        r"^(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])"
        r"(?:[abxy][0-9]?\$?[./][./A-Za-z0-9]{15,}"
        # Longer than 32, and not of a length that base64 has.
        r"|[./][./A-Za-z0-9]{32}(?:[./A-Za-z0-9]{4}){0,4}[./A-Za-z0-9]{0,2})$",
        _BY_A_SHELL,
    ),
)
#: What is good as plain text, and was perhaps not meant so.
_DOUBTS = _forms(
    (
        r"^(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{56}|[0-9A-Fa-f]{64})$",
        " (it has the form of a hex digest, which is no hash here: this text itself logs in)",
    ),
    (r"\s#", " (what follows the # is part of it)"),
)


def _not_whole(secret: str) -> str | None:
    """Why a text can only be a hash that is not bcrypt, or not whole; None where it may be good."""
    if _BCRYPT.match(secret):
        return None
    reason = _spoiled(secret) or _spoiled(_COMMENT.sub("", secret))
    return reason and f"the hash is not bcrypt ($2a$, $2b$ or $2y$), or not whole: {reason}"


def _spoiled(text: str) -> str | None:
    bare = _ESCAPES.sub("", text).strip()
    undone = re.sub(r"\$+", "$", _ESCAPES.sub("", _DOLLAR.sub("$", text))).strip()
    if _BCRYPTS_HEAD.search(undone):
        return _first(_SPOILED, text)
    return _first(_FOREIGN, undone) or _first(_UNFILLED, text.strip()) or _first(_LEFT_OVER, bare)


def _first(forms: Forms, text: str) -> str | None:
    return next((reason for form, reason in forms if form.search(text)), None)
