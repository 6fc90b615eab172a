"""Whole files: their form, their bounds, JSON, and what two values are to each other."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.policies import BASE, Case

ROLE = {"code": "AGIA", "ttl_seconds": 60, "login": "/agi/login", "routes": ["models"]}
JSON = {
    "$schema": "./policy.schema.json",
    "roles": {"agi": ROLE},
    "users": {"AGIAx": {"models": ["*"]}},
}
SECOND = "  two:\n    code: {}\n    ttl_seconds: 60\n    login: /login\n    routes: []\n"
SHIPPED = Path(__file__).resolve().parents[2] / "policy" / "policy.yaml"
FAULTY = """\
roles:
  agi:
    code: agi
    ttl_seconds: 0x10
    login: /x
    routes: [y, everything]
    colour: red
users:
  bob: {}
  AGIAx: {models: a}
more: 1
"""
NEEDED = ("code", "ttl_seconds", "login", "routes")

#: Texts, and their faults.
TEXTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("the smallest policy", BASE, ()),
    ("an empty file", "", ("1 : is empty",)),
    ("an empty line", "\n\n", ("1 : is empty",)),
    ("comments alone", "# nothing\n", ("1 : is empty",)),
    ("three dashes alone", "---\n", ("* : has no value",)),
    ("null", "null\n", ("1 : must be a table with roles",)),
    ("a text", "roles\n", ("1 : must be a table with roles",)),
    ("a number", "1\n", ("1 : must be a table with roles",)),
    ("true", "true\n", ("1 : must be a table with roles",)),
    ("a list", f"- {json.dumps(JSON)}\n", ("1 : must be a table with roles",)),
    ("nothing", "{}\n", ("1 roles: is missing; it must be a table that names a role",)),
    ("users alone", "users: {}\n", ("1 roles: is missing",)),
    ("no role", "roles: {}\n", ("1 roles: must be a table that names a role",)),
    ("roles null", "roles: null\n", ("1 roles: must be a table that names a role",)),
    ("roles a list", "roles: [agi]\n", ("1 roles: must be a table that names a role",)),
    ("roles a text", "roles: agi\n", ("1 roles: must be a table that names a role",)),
    ("a role null", "roles:\n  agi: null\n", ("2 roles.agi: must be a table of fields",)),
    ("a role a text", "roles:\n  agi: AGIA\n", ("2 roles.agi: must be a table of fields",)),
    ("a role a list", "roles:\n  agi: [AGIA]\n", ("2 roles.agi: must be a table of fields",)),
    (
        "a role without fields",
        "roles:\n  agi: {}\n",
        tuple(f"2 roles.agi.{name}: is missing" for name in NEEDED),
    ),
    ("users null", f"{BASE}users: null\n", ("7 users: must be a table of users",)),
    ("users a list", f"{BASE}users: [AGIAx]\n", ("7 users: must be a table of users",)),
    ("users a text", f"{BASE}users: AGIAx\n", ("7 users: must be a table of users",)),
    (
        "a user null",
        f"{BASE}users:\n  AGIAx: null\n",
        ("8 users.AGIAx: must be a table of limits",),
    ),
    (
        "a user a list",
        f"{BASE}users:\n  AGIAx: []\n",
        ("8 users.AGIAx: must be a table of limits",),
    ),
    (
        "a user of no role",
        f"{BASE}users:\n  ROOTx: {{}}\n",
        ("8 users.ROOTx: begins with no role's code",),
    ),
    ("a user of a role that is there", f"{BASE}users:\n  AGIAx: {{}}\n", ()),
    ("a user of the second role", f"{BASE}{SECOND.format('TWOS')}users:\n  TWOSx: {{}}\n", ()),
    (
        "a code used twice",
        BASE + SECOND.format("AGIA"),
        ("8 roles.two.code: is the code of agi already",),
    ),
    ("a code of its own each", BASE + SECOND.format("TWOS"), ()),
    ("$schema", f"$schema: ./policy.schema.json\n{BASE}", ()),
    ("$schema null", f"{BASE}$schema: null\n", ("7 $schema: must be a text",)),
    ("$schema a number", f"{BASE}$schema: 1\n", ("7 $schema: must be a text",)),
    ("an unknown field", f"{BASE}limits: {{}}\n", ("7 limits: is not a known field",)),
    ("no groups", f"{BASE}groups: []\n", ()),
    ("a field at the wrong depth", f"{BASE}models: []\n", ("7 models: is not a known field",)),
    ("three dashes in front", f"---\n{BASE}", ()),
    ("a version in front", f"%YAML 1.2\n---\n{BASE}", ()),
    ("a version that is none", f"%YAML 2.0\n---\n{BASE}", ("1 : is no YAML",)),
    ("all in one line", f"{json.dumps(JSON)}\n", ()),
    ("JSON without spaces", json.dumps(JSON, separators=(",", ":")), ()),
    ("JSON with indentation", json.dumps(JSON, indent=2), ()),
    ("JSON with tabs", json.dumps(JSON, indent="\t"), ()),
    ("JSON with a space before each colon", json.dumps(JSON, separators=(",", " : ")), ()),
    ("JSON with a line end before each colon", json.dumps(JSON, separators=(",", "\n:\n")), ()),
    ("JSON with escapes", json.dumps(JSON).replace("agi", "\\u0061\\u0067i"), ()),
    ("JSON with escaped slashes", json.dumps(JSON).replace("/", "\\/"), ()),
    (
        "JSON with a field twice",
        '{"roles":\n{"agi":\n{"code":"AGIA","code":"AGIA",\n"ttl_seconds":60,"login":"/login","routes":[]}}}',
        ("3 roles.agi.code: is there twice",),
    ),
    (
        "JSON with a point",
        json.dumps(JSON).replace("60", "60.0"),
        ("1 roles.agi.ttl_seconds: is 60.0",),
    ),
    (
        "JSON with an exponent",
        json.dumps(JSON).replace("60", "6e1"),
        ("1 roles.agi.ttl_seconds: is 6e1",),
    ),
    (
        "JSON with NaN",
        json.dumps(JSON).replace("60", "NaN"),
        ("1 roles.agi.ttl_seconds: must be a whole number",),
    ),
    ("a bracket alone", "{", ("1 : is no YAML",)),
    ("JSON cut short", json.dumps(JSON)[:-3], ("* : is no YAML",)),
    ("two of JSON", json.dumps(JSON) * 2, ("1 : is no YAML",)),
    ("a comment of JavaScript", "{ // roles\n" + json.dumps(JSON)[1:], ("* *: ", "2 : is no YAML")),
    (
        "the old form",
        json.dumps({"roles": {"agi": {**ROLE, "door": "/login"}}}, indent=1).replace(
            '   "login": "/agi/login",\n', ""
        ),
        ("9 roles.agi.door: is called login now",),
    ),
    ("lists without end", "[" * 200_000, ("1 : is nested deeper than 16 levels",)),
    ("tables without end", "{" * 200_000, ("1 : has a name", "1 : is nested deeper than 16")),
    ("dashes without end", "- " * 200_000, ("1 : is nested deeper than 16 levels",)),
    ("tables in a list without end", '[{"a":' * 100_000, ("1 : is nested deeper than 16 levels",)),
    ("names without end", "? " * 200_000, ("1 : has a name", "1 : is nested deeper than 16")),
    ("more than a megabyte", f"{BASE}#{'x' * 1_048_576}\n", ("1 : is larger than 1048576 bytes",)),
    ("nearly a megabyte", f"{BASE}#{'x' * 1_048_000}\n", ()),
    (
        "several faults at once",
        FAULTY,
        (
            "3 roles.agi.code: must be four capital letters",
            "4 roles.agi.ttl_seconds: is 0x10",
            "5 roles.agi.login: must be one of",
            "6 roles.agi.routes[1]: is y",
            "6 roles.agi.routes[2]: must be one of",
            "7 roles.agi.colour: is not a known field",
            "9 users.bob: is no username",
            "10 users.AGIAx: begins with no role's code",
            "10 users.AGIAx.models: must be a list",
            "11 more: is not a known field",
        ),
    ),
)

#: Bytes, for what is no text of UTF-8.
BYTES: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    ("a byte order mark", b"\xef\xbb\xbf" + BASE.encode(), ()),
    (
        "a byte order mark within",
        BASE.encode() + b"\xef\xbb\xbfusers: {}\n",
        ("7 : has a control character",),
    ),
    ("UTF-16", BASE.encode("utf-16"), ("1 : is UTF-16",)),
    ("UTF-16 without its mark", BASE.encode("utf-16-le"), ("1 : is UTF-16",)),
    ("Latin-1", BASE.encode() + "# ä\n".encode("latin-1"), ("7 : is not UTF-8",)),
    (
        "Latin-1 in two lines",
        BASE.encode() + "# ä\n# ö\n".encode("latin-1"),
        ("7 : is not UTF-8", "8 : is not UTF-8"),
    ),
    ("a surrogate in UTF-8", BASE.encode() + b"# \xed\xa0\x80\n", ("7 : is not UTF-8",)),
    ("an overlong slash", BASE.encode() + b"# \xc0\xaf\n", ("7 : is not UTF-8",)),
    ("UTF-8 in a comment", BASE.encode() + "# ä € \U0001f600\n".encode(), ()),
    ("a NUL", BASE.encode() + b"users: {}\0\n", ("7 : has a control character",)),
    ("a bell", BASE.encode() + b"# \a\n", ("7 : has a control character",)),
    ("a delete", BASE.encode() + b"# \x7f\n", ("7 : has a control character",)),
    ("an escape sequence", BASE.encode() + b"# \x1b[2J\n", ("7 : has a control character",)),
    ("a line separator", BASE.encode() + "# \u2028\n".encode(), ("7 : has a control character",)),
    ("a next line", BASE.encode() + "# \x85\n".encode(), ("7 : has a control character",)),
    ("old Macintosh's line ends", BASE.replace("\n", "\r").encode(), ()),
)


def cases() -> Iterator[Case]:
    """Every file, the shipped one, and one without each field that is needed."""
    yield Case("the shipped policy", SHIPPED.read_bytes())
    for name, text, faults in TEXTS:
        yield Case(name, text.encode(), faults)
    for name, raw, faults in BYTES:
        yield Case(name, raw, faults)
    for field in NEEDED:
        lines = [line for line in BASE.splitlines() if not line.startswith(f"    {field}:")]
        fault = f"2 roles.agi.{field}: is missing; it must be"
        yield Case(f"no {field}", "\n".join(lines).encode(), (fault,))
