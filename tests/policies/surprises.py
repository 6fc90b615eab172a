"""What YAML and its readers make of words that look like something else, and what only YAML has."""

from collections.abc import Iterator

from tests.policies import BASE, Case

#: Words that stand for themselves in no reader, or not in all: each is a fault that says what to
#: write, wherever it stands. In quotes each is the text it looks like.
AMBIGUOUS = (
    *("yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"),
    *("y", "Y", "n", "N", "True", "TRUE", "False", "FALSE", "Null", "NULL", "~", "=", "<<"),
    *("0x10", "0xFF", "0o7", "010", "08", "0b101", "1_000", "+1", "-0x1", "007"),
    *("1e3", "1E3", "1e+3", "1.0", "1.", ".5", "-.5", "1.5e3", "-1.5", "+12e03", "6.02_2"),
    *(".inf", "-.inf", ".Inf", "+.INF", ".nan", ".NaN"),
    *("12:30", "1:30:00", "190:20:30.15", "2026-01-31", "2026-1-1", "2001-12-14t21:59:43.10-05:00"),
)

#: Words that every reader takes for the text they look like, as models' names.
PLAIN_TEXTS = (
    *("yess", "nO", "tRUE", "none", "nil", "undefined", "inf", "nan", "Infinity"),
    *("1.2.3", "3b", "0xg", "0o8", "1e", "e3", "1-2", "12:3b", "12:99", "v1.0", "2026-01", "_"),
    *("llama3.2:3b", "a#b", "a:b", "x=y", "a<<b", "-x", "?x", ":x", "a'b", "..", "...x"),
)

#: What only YAML has. The lines are added to the base; the faults are of the whole.
ADDED = (
    ("an anchor", "users: &all {}\n", ("7 users: has an anchor",)),
    (
        "an anchor and its alias",
        "users:\n  AGIAx: &x {}\n  AGIAy: *x\n",
        ("8 users.AGIAx: has an anchor", "9 users.AGIAy: is an alias"),
    ),
    ("an alias of nothing", "users: *nobody\n", ("7 users: is an alias",)),
    (
        "a merge key",
        "users:\n  AGIAx:\n    <<: {models: []}\n",
        ("9 users.AGIAx: is <<, which YAML may read",),
    ),
    (
        "a merge key of an alias",
        "users:\n  AGIAx:\n    <<: *x\n",
        ("9 users.AGIAx: is <<, which YAML may read",),
    ),
    ("a bare star", "    models: [*]\n", ("7 : a text that begins with * must be in quotes",)),
    (
        "a star with a name behind",
        "    models: [*llama]\n",
        ("7 roles.agi.models[1]: is an alias",),
    ),
    ("a bare ampersand", "    models: [&]\n", ("7 : a text that begins with & must be in quotes",)),
    ("a tag", "    active_tokens: !!int 5\n", ("7 roles.agi.active_tokens: has a tag",)),
    ("a tag of Python", "users: !!python/object/apply:os.system [id]\n", ("7 users: has a tag",)),
    ("a tag of one's own", "users: !mine {}\n", ("7 users: has a tag",)),
    (
        "a bare exclamation mark",
        "    stream_policy: ! cut\n",
        ("7 roles.agi.stream_policy: has a tag",),
    ),
    ("a tag on a name", "!!str users: {}\n", ("7 : has a tag",)),
    ("a list as a name", "? [a, b]\n: 1\n", ("7 : has a name that is no text",)),
    ("a table as a name", "? {a: b}\n: {c: d}\n", ("7 : has a name that is no text",)),
    ("a number as a name", "1: {}\n", ("7 : has a name that is no text",)),
    ("true as a name", "true: {}\n", ("7 : has a name that is no text",)),
    ("null as a name", "null: {}\n", ("7 : has a name that is no text",)),
    ("an empty name", ": {}\n", ("7 : is no YAML",)),
    ("yes as a name", "users:\n  yes: {}\n", ("8 users: is yes, which YAML may read",)),
    ("a name twice", "users: {}\nusers: {}\n", ("8 users: is there twice",)),
    ("a name twice, once in quotes", 'users: {}\n"users": {}\n', ("8 users: is there twice",)),
    (
        "a name twice, once by an escape",
        'users: {}\n"\\u0075sers": {}\n',
        ("8 users: is there twice",),
    ),
    ("a field twice", "    code: AGIA\n", ("7 roles.agi.code: is there twice",)),
    (
        "a user twice",
        "users:\n  AGIAx: {}\n  AGIAy: {}\n  AGIAx: {}\n",
        ("10 users.AGIAx: is there twice",),
    ),
    (
        "a name three times",
        "users: {}\nusers: {}\nusers: {}\n",
        ("8 users: is there twice", "9 users: is there twice"),
    ),
    ("a second document", "---\nroles: {}\n", ("7 : begins a second document",)),
    ("an empty second document", "---\n", ("7 : begins a second document",)),
    ("the end of the document", "...\n", ()),
    ("more behind the end", "...\nusers: {}\n", ("8 : more text behind the end",)),
    ("a tab before a name", "users:\n\tAGIAx: {}\n", ("8 : a line begins with a tab",)),
    ("a tab before a dash", "    models:\n\t- x\n", ("8 : a line begins with a tab",)),
    ("a tab between a colon and its value", "users:\t{}\n", ()),
    ("a tab within a list", "    models: [a,\tb]\n", ()),
    (
        "a tab in a plain text",
        "    models: [a\tb]\n",
        ("7 roles.agi.models[1]: has a control character (U+0009)",),
    ),
    (
        "a text over several lines",
        "    models: [a\n      b]\n",
        ("7 roles.agi.models[1]: must be a model's name",),
    ),
    (
        "a text in a block",
        "    stream_policy: |\n      cut\n",
        ("7 roles.agi.stream_policy: has a control character (U+000A)",),
    ),
    ("a text in a block without its line end", "    stream_policy: |-\n      cut\n", ()),
    ("a folded text", "    stream_policy: >-\n      cut\n", ()),
    ("a list in a block", "    models:\n      - a\n      - b*\n", ()),
    ("a list in a block at its name's own column", "    models:\n    - a\n    - b*\n", ()),
    ("a table in braces", "users: {AGIAx: {models: [a], concurrent_requests: 2}}\n", ()),
    ("a table in braces with a comma behind", "users: {AGIAx: {},}\n", ()),
    ("an empty line and comments", "\n# who\n    # what\nusers: {} # none\n", ()),
    (
        "a hash within a text",
        "    models: [a#b, 'c # d'] # e\n",
        ("7 roles.agi.models[2]: must be a model's name",),
    ),
    (
        "a name without a space behind its colon",
        "    active_tokens:5\n",
        ("7 : a name has no ': ' behind it",),
    ),
    (
        "a text that begins with @",
        "    models: [@me]\n",
        ("7 : a text that begins with @ must be in quotes",),
    ),
    (
        "a text that begins with a backtick",
        "    models: [`x`]\n",
        ("7 : a text that begins with ` must be in quotes",),
    ),
    (
        "a text that begins with a percent sign",
        "    models: [%x]\n",
        ("7 : a text that begins with % must be in quotes",),
    ),
    ("two names in one line", "users: AGIAx: {}\n", ("7 : write a text with ': ' in quotes",)),
    ("a quote that is not closed", '    stream_policy: "cut\n', ("7 : is no YAML",)),
    ("a bracket that is not closed", "    models: [a\n", ("7 : is no YAML",)),
    ("a brace that is not closed", "users: {\n", ("7 : is no YAML",)),
    ("a bracket too many", "    models: []]\n", ("7 : is no YAML",)),
    ("a wrong indentation", "   models: []\n", ("7 : is no YAML",)),
    ("a deeper indentation", "     models: []\n", ("7 : is no YAML",)),
    ("a list where a name is due", "- users\n", ("7 : is no YAML",)),
    ("an escape that is none", '    models: ["\\q"]\n', ("7 : is no YAML",)),
    ("a lone surrogate", '    models: ["\\ud800"]\n', ("7 : is no YAML",)),
    (
        "a NUL by an escape",
        '    models: ["a\\0"]\n',
        ("7 roles.agi.models[1]: has a control character (U+0000)",),
    ),
    ("an emoji", "    models: [\U0001f600]\n", ("7 roles.agi.models[1]: must be a model's name",)),
    ("no value", "users:\n", ("7 users: has no value",)),
    ("a user without a value", "users:\n  AGIAx:\n", ("8 users.AGIAx: has no value",)),
    (
        "an element without a value",
        "    models:\n      -\n",
        ("8 roles.agi.models[1]: has no value",),
    ),
    ("all of it commented out", "users:\n#  AGIAx: {}\n", ("7 users: has no value",)),
    ("null where a table is due", "users: null\n", ("7 users: must be a table of users",)),
    ("a set", "users:\n  ? AGIAx\n", ("8 users.AGIAx: has no value",)),
    ("Windows' line ends", "users:\r\n  AGIAx: {}\r\n", ()),
    (
        "a field twice on Windows",
        "users:\r\n  AGIAx: {}\r\n  AGIAx: {}\r\n",
        ("9 users.AGIAx: is there twice",),
    ),
)


def cases() -> Iterator[Case]:
    """Every word as a model's name, bare and in quotes, and every way of YAML."""
    for word in AMBIGUOUS:
        bare, quoted = (f"{BASE}    models: [{one}]\n" for one in (word, f'"{word}"'))
        fault = f"7 roles.agi.models[1]: is {word}, which YAML may read"
        yield Case(f"bare {word}", bare.encode(), (fault,))
        yield Case(f"{word} in quotes", quoted.encode())
    for word in PLAIN_TEXTS:
        yield Case(f"bare {word}", f"{BASE}    models:\n      - {word}\n".encode())
    for name, added, faults in ADDED:
        yield Case(name, f"{BASE}{added}".encode(), faults)
