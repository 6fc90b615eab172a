"""LLM servers and aliases of a policy: each field, the files they name, and what two of them are to
each other.

A row is a field of one server, what is written behind its colon, and the words of its fault.
"""

from collections.abc import Iterator, Mapping

from tests.policies import BASE, Case
from tests.support.certificates import Authority

SERVER = """\
servers:
  - name: rack
    url: https://rack.lan:8000
    kind: vllm
"""
WITH_ONE = BASE + SERVER
PEM = Authority().certificate.encode()
URL = "must be http://HOST:PORT or https://HOST:PORT"
HOST = "must have a host, as a name or an address, and no port or one of 1 to 65535"
ROUTE = "ends in a route, {}: a base URL is what comes before"
PATH = "has a path that is not written in the one way"
NAME = "must be a name: 1 to 64 of"
MODEL = "must be a model's name, 1 to 256"
TARGET = "must be a model's name, or a list of 1 to 16"
QUOTES = "in quotes"

#: A field that the server has is written in its place.
OF_A_SERVER = (
    ("name", "a", ""),
    ("name", "GPU-box_2.lan", ""),
    ("name", "2080ti", ""),
    ("name", "a" * 64, ""),
    ("name", "a" * 65, NAME),
    ("name", '""', NAME),
    ("name", "null", NAME),
    ("name", "7", NAME),
    ("name", "a/b", NAME),
    ("name", "..", NAME),
    ("name", "-a", NAME),
    ("name", "a b", NAME),
    ("name", "räck", NAME),
    ("name", "[a]", NAME),
    ("name", "no", QUOTES),
    ("name", "1e3", QUOTES),
    ("url", "http://10.0.0.5:11434", ""),
    ("url", "http://10.0.0.5", ""),
    ("url", "http://localhost:11434/", ""),
    ("url", "http://[::1]:11434", ""),
    ("url", "https://[fd00::7]", ""),
    ("url", "http://my_llm-2.lan:80", ""),
    ("url", "https://rack.lan./llm/a_b-c~d.e", ""),
    ("url", "https://RACK.lan:8000/LLM", ""),
    ("url", "https://xn--rck-qla.lan", ""),
    ("url", "10.0.0.5:11434", URL),
    ("url", "rack.lan", URL),
    ("url", "tcp://rack.lan:1", URL),
    ("url", "HTTP://rack.lan", URL),
    ("url", "http:/rack.lan", URL),
    ("url", '"http://rack.lan "', URL),
    ("url", '"http://räck.lan"', URL),
    ("url", "http://rack.lan:80 80", URL),
    ("url", "null", URL),
    ("url", "8080", URL),
    ("url", "[http://rack.lan]", URL),
    ("url", "", "has no value"),
    ("url", "http://", URL),
    ("url", "http:///llm", HOST),
    ("url", "http://:8080", HOST),
    ("url", "http://rack.lan:0", HOST),
    ("url", "http://rack.lan:65536", HOST),
    ("url", '"http://rack.lan:"', HOST),
    ("url", "http://rack.lan:http", HOST),
    ("url", "http://rack.lan:80:80", HOST),
    ("url", "http://-rack.lan", HOST),
    ("url", "http://rack..lan", HOST),
    ("url", "http://*.lan", HOST),
    ("url", "http://10.0.0.5.7", HOST),
    ("url", "http://10.0.0.256", HOST),
    ("url", "http://2130706433", HOST),
    ("url", "http://010.0.0.5", HOST),
    ("url", "http://::1:11434", HOST),
    ("url", "http://[::1", HOST),
    ("url", "http://[10.0.0.5]", HOST),
    ("url", "http://[fe80::1%eth0]", HOST),
    ("url", f"http://{'a.' * 130}lan", HOST),
    ("url", "http://me:secret@rack.lan", "has a user or a password"),
    ("url", "http://rack.lan@evil.lan", "has a user or a password"),
    ("url", "http://rack.lan/?key=secret", "has a query or a fragment"),
    ("url", "http://rack.lan/#top", "has a query or a fragment"),
    ("url", "http://rack.lan?x", "has a query or a fragment"),
    ("url", "http://rack.lan/v1", ROUTE.format("/v1")),
    ("url", "http://rack.lan/v1/", ROUTE.format("/v1")),
    ("url", "http://rack.lan/llm/v1/chat/completions", ROUTE.format("/v1")),
    ("url", "http://rack.lan/api", ROUTE.format("/api")),
    ("url", "http://rack.lan/api/chat", ROUTE.format("/api")),
    ("url", "http://rack.lan/models", ROUTE.format("/models")),
    ("url", "http://rack.lan/a//b", PATH),
    ("url", "http://rack.lan/../b", PATH),
    ("url", "http://rack.lan/a/.", PATH),
    ("url", "http://rack.lan/a%20b", PATH),
    ("url", "http://rack.lan/$uri", PATH),
    ("url", "http://rack.lan/a;b", PATH),
    ("kind", "ollama", ""),
    ("kind", "llama-server", ""),
    ("kind", "localai", ""),
    ("kind", "Ollama", "must be one of llama-server, localai, ollama, vllm"),
    ("kind", "tabby", "must be one of llama-server, localai, ollama, vllm"),
    ("kind", "openai", "must be one of llama-server, localai, ollama, vllm"),
    ("kind", "null", "must be the name of a kind"),
    ("kind", "[vllm]", "must be the name of a kind"),
    ("kind", '""', "must be the name of a kind"),
    ("weight", "1", ""),
    ("weight", "1000", ""),
    ("weight", "0", "must be a whole number, 1 to 1000"),
    ("weight", "1001", "must be a whole number, 1 to 1000"),
    ("weight", "-1", "must be a whole number, 1 to 1000"),
    ("weight", "null", "must be a whole number, 1 to 1000"),
    ("weight", '"2"', "must be a whole number, 1 to 1000"),
    ("weight", "true", "must be a whole number, 1 to 1000"),
    ("weight", "1.5", "a whole number in plain digits"),
    ("weight", "50%", "must be a whole number, 1 to 1000"),
    ("max_concurrent", "1", ""),
    ("max_concurrent", "100000", ""),
    ("max_concurrent", "null", ""),
    ("max_concurrent", "0", "must be a whole number, 1 to 100000, or null"),
    ("max_concurrent", "100001", "must be a whole number, 1 to 100000, or null"),
    ("max_concurrent", "none", "must be a whole number, 1 to 100000, or null"),
    ("models", '["*"]', ""),
    ("models", '["qwen3*", llama3.2:3b]', ""),
    ("models", "[]", "must be a list of 1 to 1000 models' names"),
    ("models", "null", "must be a list of 1 to 1000 models' names"),
    ("models", '"qwen3*"', "must be a list of 1 to 1000 models' names"),
    ("models", "[qwen*3]", f"[1] {MODEL}"),
    ("models", "[a, b c]", f"[2] {MODEL}"),
    ("models", "[3.2]", "[1] is 3.2, which YAML may read as a number"),
    ("credential_file", "null", "must be the name of a file"),
    ("credential_file", '""', "must be the name of a file"),
    ("credential_file", "[key]", "must be the name of a file"),
    ("credential_file", "missing", "names a file that cannot be read: No such file or directory"),
    ("credential_file", ".", "names a file that cannot be read: Is a directory"),
    ("credential_file", "policy.yaml/x", "names a file that cannot be read: Not a directory"),
    ("credential_file", "sk-0123456789abcdef", "names a file that cannot be read: No such"),
    ("ca_file", "missing.pem", "names a file that cannot be read: No such file or directory"),
    ("ca_file", "true", "must be the name of a file"),
    ("credential", "sk-0123456789abcdef", "is not a known field"),
    ("api_key", "sk-0123456789abcdef", "is not a known field"),
    ("max_concurrent_requests", "5", "is not a known field"),
    ("upstream", "http://x", "is not a known field"),
)

#: What stands in the file `key`, its mode, and the words of its fault.
CREDENTIALS: tuple[tuple[str, bytes, int, str], ...] = (
    ("a credential", b"sk-0123", 0o600, ""),
    ("a credential and a line end", b"sk-0123\n", 0o600, ""),
    ("a credential and a line end of Windows", b"sk-0123\r\n", 0o600, ""),
    ("a credential for a group", b"sk-0123", 0o640, ""),
    ("a credential that may only be read", b"sk-0123", 0o400, ""),
    ("a credential of 4000 characters", b"k" * 4000, 0o600, ""),
    ("a credential of 4001 characters", b"k" * 4001, 0o600, "of more than 4000 characters"),
    ("a credential for everybody", b"sk-0123", 0o644, "names a file that everybody can read"),
    ("a credential to write for everybody", b"sk-0123", 0o602, "that everybody can read"),
    ("no credential", b"", 0o600, "names an empty file"),
    ("a line end alone", b"\n", 0o600, "names an empty file"),
    ("two lines", b"sk-0123\nsk-4567\n", 0o600, "names a file of more than one line"),
    ("two line ends", b"sk-0123\n\n", 0o600, "names a file of more than one line"),
    ("a carriage return", b"sk\r-0123", 0o600, "names a file of more than one line"),
    ("a blank", b"sk 0123", 0o600, "with a blank or a character"),
    ("a blank behind", b"sk-0123 ", 0o600, "with a blank or a character"),
    ("a tab", b"sk\t0123", 0o600, "with a blank or a character"),
    ("a NUL", b"sk\0", 0o600, "with a blank or a character"),
    ("no ASCII", "sk-ä".encode(), 0o600, "with a blank or a character"),
    ("no UTF-8", b"sk-\xff", 0o600, "with a blank or a character"),
    ("the scheme before it", b"Bearer sk-0123", 0o600, "names a file that says Bearer"),
    ("a header", b"Authorization: Bearer x", 0o600, "with a blank or a character"),
    ("a file too large", b"k" * 4097, 0o600, "names a file of more than 4096 bytes"),
)
#: What stands in the file `ca.pem`, and the words of its fault.
AUTHORITIES: tuple[tuple[str, bytes, str], ...] = (
    ("a certificate", PEM, ""),
    ("two certificates", PEM + PEM, ""),
    ("a certificate and words", b"our authority: \xe4\n" + PEM + b"end\n", ""),
    ("no certificate", b"hello\n", "without a certificate in PEM"),
    ("nothing", b"", "without a certificate in PEM"),
    ("a certificate in DER", b"0\x82\x01", "without a certificate in PEM"),
    ("a certificate cut short", PEM[:-30], "with a certificate that cannot be read"),
    ("a certificate that is none", PEM.replace(b"MII", b"AAA", 1), "that cannot be read"),
    ("a good one and one cut short", PEM + PEM[:60], "that cannot be read"),
    (
        "a private key",
        PEM + b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
        "names a file with a private key",
    ),
    ("a file too large", PEM + b" " * 262_144, "names a file of more than 262144 bytes"),
)

#: What stands behind `aliases:` in the file, in line 11, and its faults.
ALIASES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("none", " {}", ()),
    ("one", " {fast: llama3.2:3b}", ()),
    ("a pattern", ' {"claude-*": [qwen3-coder:30b, llama3.3:70b]}', ()),
    ("a pattern without quotes", " {claude-*: qwen3}", ()),
    ("all other names", ' {"*": qwen3}', ()),
    ("sixteen models", f" {{a: [{', '.join(f'm{i}' for i in range(16))}]}}", ()),
    ("a name of 256 characters", f" {{{'a' * 256}: b}}", ()),
    ("many", f" {{{', '.join(f'a{i}: b' for i in range(256))}}}", ()),
    (
        "too many",
        f" {{{', '.join(f'a{i}: b' for i in range(257))}}}",
        ("11 aliases: must be a table of at most 256 aliases",),
    ),
    ("a list", " [fast]", ("11 aliases: must be a table of at most 256 aliases",)),
    ("null", " null", ("11 aliases: must be a table of at most 256 aliases",)),
    ("a text", " fast", ("11 aliases: must be a table of at most 256 aliases",)),
    ("no value", "", ("11 aliases: has no value",)),
    ("an alias without a value", " {fast: }", ("11 aliases.fast: has no value",)),
    ("null for a model", " {fast: null}", (f"11 aliases.fast: {TARGET}",)),
    ("a number for a model", " {fast: 3}", (f"11 aliases.fast: {TARGET}",)),
    ("a bare number with a point", " {fast: 3.2}", ("11 aliases.fast: is 3.2, which YAML",)),
    ("no model", " {fast: []}", (f"11 aliases.fast: {TARGET}",)),
    (
        "seventeen models",
        f" {{a: [{', '.join(f'm{i}' for i in range(17))}]}}",
        (f"11 aliases.a: {TARGET}",),
    ),
    ("a table of models", " {fast: {a: b}}", (f"11 aliases.fast: {TARGET}",)),
    ("a pattern for a model", ' {fast: "llama*"}', (f"11 aliases.fast: {TARGET}",)),
    ("a pattern in a list", ' {fast: [a, "llama*"]}', (f"11 aliases.fast[2]: {MODEL}",)),
    ("an empty model", ' {fast: ""}', (f"11 aliases.fast: {TARGET}",)),
    ("a model with a blank", " {fast: [a b]}", (f"11 aliases.fast[1]: {MODEL}",)),
    ("an empty name", ' {"": a}', ('11 aliases[""]: is no alias',)),
    ("a name with a blank", " {a b: c}", ("11 *: is no alias",)),
    ("a name of no ASCII", " {schnäll: c}", ("11 *: is no alias",)),
    ("a name of 257 characters", f" {{{'a' * 257}: b}}", ("11 *: is no alias",)),
    ("a pattern in the middle", ' {"claude-*-4": a}', ('11 aliases["claude-*-4"]: is no alias',)),
    ("a pattern in front", ' {"*-4": a}', ('11 aliases["*-4"]: is no alias',)),
    ("a name that YAML may misread", " {yes: a}", ("11 aliases: is yes, which YAML may read",)),
    (
        "an alias of itself",
        " {fast: fast}",
        ("11 aliases.fast: names fast, which is an alias itself",),
    ),
    (
        "an alias of an alias",
        " {fast: quick, quick: a}",
        ("11 aliases.fast: names quick, which is an alias itself",),
    ),
    (
        "an alias among its models",
        " {fast: [a, quick], quick: a}",
        ("11 aliases.fast: names quick, which is an alias itself",),
    ),
    ("a model that a pattern has too", ' {"qwen*": qwen3}', ()),
    ("an alias twice", " {fast: a, fast: b}", ("11 aliases.fast: is there twice",)),
)

#: What stands behind the base in place of one server, and its faults.
WHOLE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("no server", "servers: []\n", ("7 servers: must be a list of 1 to 64 LLM servers",)),
    ("null", "servers: null\n", ("7 servers: must be a list of 1 to 64 LLM servers",)),
    ("a table", f"{SERVER.replace('- ', '  ')}", ("7 servers: must be a list of 1 to 64",)),
    ("a URL alone", "servers: [http://a]\n", ("7 servers[1]: must be a table of fields",)),
    (
        "an empty server",
        "servers: [{}]\n",
        tuple(f"7 servers[1].{name}: is missing; it must be" for name in ("name", "url", "kind")),
    ),
    (
        "one plain and one with more",
        "servers:\n"
        '  - {name: workstation, url: "http://10.0.0.5:11434", kind: ollama}\n'
        '  - {name: rack, url: "https://rack.lan:8000", kind: vllm, weight: 2, '
        'models: ["qwen3*"]}\n'
        "aliases:\n  fast: llama3.2:3b\n"
        '  "claude-*": [qwen3-coder:30b, llama3.3:70b]\n',
        (),
    ),
    (
        "all four kinds",
        "servers:\n"
        + "".join(
            f"  - {{name: {kind}, url: 'http://{kind}', kind: {kind}}}\n"
            for kind in ("ollama", "vllm", "llama-server", "localai")
        ),
        (),
    ),
    (
        "two of one address",
        "servers:\n"
        "  - {name: a, url: 'http://a', kind: vllm, models: [a]}\n"
        "  - {name: b, url: 'http://a', kind: vllm, models: [b]}\n",
        (),
    ),
    (
        "two of one name",
        "servers:\n"
        "  - {name: a, url: 'http://a', kind: vllm}\n"
        "  - {name: a, url: 'http://b', kind: vllm}\n",
        ("9 servers[2].name: is the name of the server in line 8 already",),
    ),
    (
        "two of one name in one line",
        "servers: [{name: a, url: 'http://a', kind: vllm}, "
        "{name: a, url: 'http://b', kind: vllm}]\n",
        ("7 servers[2].name: is the name of the server in line 7 already",),
    ),
    (
        "64",
        "servers:\n"
        + "".join(f"  - {{name: s{i}, url: 'http://s{i}', kind: vllm}}\n" for i in range(64)),
        (),
    ),
    (
        "65",
        "servers:\n"
        + "".join(f"  - {{name: s{i}, url: 'http://s{i}', kind: vllm}}\n" for i in range(65)),
        ("7 servers: must be a list of 1 to 64 LLM servers",),
    ),
    (
        "several faults at once",
        "servers:\n"
        "  - {name: a b, url: ftp://a, kind: tabby, weight: 0}\n"
        "  - {name: b, url: 'http://b/v1', kind: vllm, credential_file: none, ca_file: none}\n"
        "aliases: {a: 'b*'}\n",
        (
            "8 servers[1].name: must be a name",
            "8 servers[1].url: must be http",
            "8 servers[1].kind: must be one of",
            "8 servers[1].weight: must be a whole number",
            "9 servers[2].url: ends in a route",
            "9 servers[2].ca_file: is for https://",
            "9 servers[2].ca_file: names a file that cannot be read",
            "9 servers[2].credential_file: names a file that cannot be read",
            "10 aliases.a: must be a model's name",
        ),
    ),
    ("aliases without servers", "aliases: {a: b}\n", ("7 aliases: needs servers",)),
    ("no aliases without servers", "aliases: {}\n", ()),
    ("servers twice", SERVER + SERVER, ("11 servers: is there twice",)),
)


def cases() -> Iterator[Case]:
    """Every row as a file."""
    for field, written, words in OF_A_SERVER:
        text, line = with_field(field, written)
        name = written if len(written) < 60 else f"{len(written)} characters"
        faults = _told(f"{line} servers[1].{field}", words)
        yield Case(f"a server's {field}: {name}", text.encode(), faults)
    for name, content, mode, words in CREDENTIALS:
        yield _naming("credential_file", "key", f"key: {name}", {"key": (content, mode)}, words)
    for name, content, words in AUTHORITIES:
        yield _naming(
            "ca_file", "ca.pem", f"authority: {name}", {"ca.pem": (content, 0o644)}, words
        )
    for name, written, told in ALIASES:
        yield Case(f"aliases: {name}", f"{WITH_ONE}aliases:{written}\n".encode(), told)
    for name, text, told in WHOLE:
        yield Case(f"servers: {name}", (BASE + text).encode(), told)
    yield _plain_with_authority()


def _naming(
    field: str, file: str, name: str, files: Mapping[str, tuple[bytes, int]], words: str
) -> Case:
    text = f"{WITH_ONE}    {field}: {file}\n"
    return Case(name, text.encode(), _told(f"11 servers[1].{field}", words), {}, files)


def _plain_with_authority() -> Case:
    text = f"{WITH_ONE}    ca_file: ca.pem\n".replace("https:", "http:")
    fault = "11 servers[1].ca_file: is for https://, and the url is http://"
    return Case("an authority for http", text.encode(), (fault,), {}, {"ca.pem": (PEM, 0o644)})


def with_field(field: str, written: str) -> tuple[str, int]:
    """One server with a field, and the line it stands in."""
    lines = WITH_ONE.splitlines()
    for index, there in enumerate(lines):
        if index > 6 and there[4:].startswith(f"{field}:"):
            lines[index] = f"{there[:4]}{field}: {written}"
            return "\n".join(lines) + "\n", index + 1
    return "\n".join([*lines, f"    {field}: {written}"]) + "\n", len(lines) + 1


def _told(place: str, words: str) -> tuple[str, ...]:
    if not words:
        return ()
    if words.startswith("["):
        index, _, rest = words.partition(" ")
        return (f"{place}{index}: {rest}",)
    return (f"{place}: {words}",)
