"""Fields of a role and of a user: what may stand there, and what may not.

A row is a field, what is written behind its colon, and the words of its fault; none: it is good.
"""

from collections.abc import Iterator

from tests.policies import BASE, Case

SECONDS = "must be a whole number of seconds, 1 to 86400"
MINUTE = "must be a whole number, 1 to 1000000000, or null"
LONG = "must be a whole number, 1 to 1000000000000, or null"
MODEL = "must be a model's name"
QUOTES = "in quotes"

#: Of a role; a field that the base has is written in its place.
OF_A_ROLE = (
    ("code", "AGNF", ""),
    ("code", '"AGNF"', ""),
    ("code", "'AGNF'", ""),
    ("code", '"TRUE"', ""),
    ("code", '"NULL"', ""),
    ("code", "agia", "must be four capital letters"),
    ("code", "AGI", "must be four capital letters"),
    ("code", "AGIAA", "must be four capital letters"),
    ("code", "AGI1", "must be four capital letters"),
    ("code", "ÄGIA", "must be four capital letters"),
    ("code", '"AGIA "', "must be four capital letters"),
    ("code", '"AGIA\\n"', "has a control character (U+000A)"),
    ("code", "1234", "must be four capital letters"),
    ("code", "null", "must be four capital letters"),
    ("code", "true", "must be four capital letters"),
    ("code", "[AGIA]", "must be four capital letters"),
    ("code", "{AGIA: AGIA}", "must be four capital letters"),
    ("code", "NULL", QUOTES),
    ("code", "TRUE", QUOTES),
    ("code", "", "has no value"),
    ("ttl_seconds", "1", ""),
    ("ttl_seconds", "86400", ""),
    ("ttl_seconds", "0", SECONDS),
    ("ttl_seconds", "-1", SECONDS),
    ("ttl_seconds", "86401", SECONDS),
    ("ttl_seconds", "9" * 64, SECONDS),
    ("ttl_seconds", "9" * 65, "is a number of more than 64 digits"),
    ("ttl_seconds", "9" * 5000, "is a number of more than 64 digits"),
    ("ttl_seconds", '"60"', SECONDS),
    ("ttl_seconds", "60s", SECONDS),
    ("ttl_seconds", "1h", SECONDS),
    ("ttl_seconds", "true", SECONDS),
    ("ttl_seconds", "null", SECONDS),
    ("ttl_seconds", "[60]", SECONDS),
    ("ttl_seconds", "60.0", "a whole number in plain digits"),
    ("ttl_seconds", "1.5", "a whole number in plain digits"),
    ("ttl_seconds", "NaN", SECONDS),
    ("login", "/llm/login", ""),
    ("login", "/agi/login", ""),
    ("login", "/login", ""),
    ("login", "/admin/login", ""),
    ("login", "/login/", "must be one of /llm/login"),
    ("login", "/auth/login", "must be one of /llm/login"),
    ("login", "login", "must be one of /llm/login"),
    ("login", "null", "must be one of /llm/login"),
    ("login", "[/login]", "must be one of /llm/login"),
    ("login", '""', "must be one of /llm/login"),
    ("login", '"/login\\n"', "has a control character"),
    ("routes", "[]", ""),
    ("routes", "[inference]", ""),
    ("routes", "[inference, inference]", ""),
    ("routes", "[inference, models, management, health, metrics, page, console]", ""),
    ("routes", "[everything]", "[1] must be one of inference"),
    ("routes", "[models, Inference]", "[2] must be one of inference"),
    ("routes", "[realtime]", ""),
    ("routes", "[websocket]", "[1] must be one of inference"),
    ("routes", "inference", "must be a list of route classes"),
    ("routes", "inference, models", "must be a list of route classes"),
    ("routes", "{inference: true}", "must be a list of route classes"),
    ("routes", "{}", "must be a list of route classes"),
    ("routes", "null", "must be a list of route classes"),
    ("routes", "[models, 1]", "[2] must be one of inference"),
    ("routes", "[models, null]", "[2] must be one of inference"),
    ("routes", "[[models]]", "[1] must be one of inference"),
    ("models", "[]", ""),
    ("models", '["*"]', ""),
    ("models", "[llama3.2, qwen2.5*]", ""),
    ("models", '["llama3.2:3b", hf.co/a/b:Q4_K_M, m@sha256:0]', ""),
    ("models", "[llama3.2:3b, gpt-4o, 3b, 1.2.3, v1, o3]", ""),
    ("models", "['!#$%&()+,-./:;<=>?@[]^_`{|}~']", ""),
    ("models", f"[{'m' * 256}]", ""),
    ("models", f"[{'m' * 257}]", f"[1] {MODEL}"),
    ("models", f'["{"m" * 256}*"]', f"[1] {MODEL}"),
    ("models", '"*"', "must be a list of models' names"),
    ("models", "llama3", "must be a list of models' names"),
    ("models", "null", "must be a list of models' names"),
    ("models", "{}", "must be a list of models' names"),
    ("models", "[llama3, 3]", f"[2] {MODEL}"),
    ("models", "[llama3, null]", f"[2] {MODEL}"),
    ("models", "[llama3, true]", f"[2] {MODEL}"),
    ("models", '[""]', f"[1] {MODEL}"),
    ("models", "[llama*3]", f"[1] {MODEL}"),
    ("models", "[llama**]", f"[1] {MODEL}"),
    ("models", "[llama 3]", f"[1] {MODEL}"),
    ("models", '["llama3 "]', f"[1] {MODEL}"),
    ("models", "['llama\"3']", f"[1] {MODEL}"),
    ("models", "['llama\\3']", f"[1] {MODEL}"),
    ("models", '["llama\\t"]', "[1] has a control character (U+0009)"),
    ("models", '["llama\\x7f"]', "[1] has a control character (U+007F)"),
    ("models", '["llama\\u2028"]', "[1] has a control character (U+2028)"),
    ("models", "[llamä]", f"[1] {MODEL}"),
    ("models", "[3.2]", "[1] is 3.2, which YAML may read as a number"),
    ("models", "[1:30]", "[1] is 1:30, which YAML may read as a number"),
    ("models", "[llama3, ]", ""),
    ("requests_per_minute", "null", ""),
    ("requests_per_minute", "1", ""),
    ("requests_per_minute", "1000000000", ""),
    ("requests_per_minute", "0", MINUTE),
    ("requests_per_minute", "-5", MINUTE),
    ("requests_per_minute", "1000000001", MINUTE),
    ("requests_per_minute", '"100"', MINUTE),
    ("requests_per_minute", "false", MINUTE),
    ("requests_per_minute", "{}", MINUTE),
    ("requests_per_minute", "none", MINUTE),
    ("requests_per_minute", "unlimited", MINUTE),
    ("tokens_per_minute", "null", ""),
    ("tokens_per_minute", "20000", ""),
    ("tokens_per_day", "null", ""),
    ("tokens_per_day", "1000000000000", ""),
    ("tokens_per_day", "0", LONG),
    ("tokens_per_month", "1", ""),
    ("tokens_per_month", "1000000000001", LONG),
    ("tokens_per_month", "1.5", "a whole number in plain digits"),
    ("tokens_per_minute", "0", MINUTE),
    ("tokens_per_minute", "true", MINUTE),
    ("tokens_per_minute", "[]", MINUTE),
    ("tokens_per_minute", "20_000", "a whole number in plain digits"),
    ("tokens_per_minute", "20,000", MINUTE),
    ("tokens_per_minute", "2e4", "a whole number in plain digits"),
    ("concurrent_requests", "1000", ""),
    ("concurrent_requests", "null", ""),
    ("concurrent_requests", "1001", "must be a whole number, 1 to 1000, or null"),
    ("concurrent_requests", "0", "must be a whole number, 1 to 1000, or null"),
    ("concurrent_requests", "2.5", "a whole number in plain digits"),
    ("largest_body_bytes", "1", ""),
    ("largest_body_bytes", "67108864", ""),
    ("largest_body_bytes", "67108865", "must be a whole number of bytes"),
    ("largest_body_bytes", "0", "must be a whole number of bytes"),
    ("largest_body_bytes", "64m", "must be a whole number of bytes"),
    ("largest_body_bytes", "null", "must be a whole number of bytes"),
    ("active_tokens", "1", ""),
    ("active_tokens", "1000000", ""),
    ("active_tokens", "1000001", "must be a whole number, 1 to 1000000"),
    ("active_tokens", "0", "must be a whole number, 1 to 1000000"),
    ("active_tokens", "null", "must be a whole number, 1 to 1000000"),
    ("client_certificate", "true", ""),
    ("client_certificate", "false", ""),
    ("client_certificate", "null", "must be true or false"),
    ("client_certificate", '"true"', "must be true or false"),
    ("client_certificate", "required", "must be true or false"),
    ("stream_policy", "finish", ""),
    ("stream_policy", "cut", ""),
    ("stream_policy", '"cut"', ""),
    ("stream_policy", "1", ""),
    ("stream_policy", "86400", ""),
    ("server_side", "{}", ""),
    ("server_side", "{tools: true}", ""),
    ("server_side", "{tools: false, fetch: true, priority: null}", ""),
    ("server_side", "{priority: 0}", ""),
    ("server_side", "{priority: -1000000}", ""),
    ("server_side", "true", "must be a table of tools, fetch and priority"),
    ("server_side", "[tools]", "must be a table of tools, fetch and priority"),
    ("server_side", "null", "must be a table of tools, fetch and priority"),
    ("inspect_bodies", "true", ""),
    ("inspect_bodies", "false", ""),
    ("inspect_bodies", "null", ""),
    ("inspect_bodies", "1", "must be true, false or null"),
    ("inspect_bodies", "[inference]", "must be true, false or null"),
    ("stream_policy", "0", "must be finish, cut or a whole number"),
    ("stream_policy", "86401", "must be finish, cut or a whole number"),
    ("stream_policy", "stop", "must be finish, cut or a whole number"),
    ("stream_policy", "FINISH", "must be finish, cut or a whole number"),
    ("stream_policy", "true", "must be finish, cut or a whole number"),
    ("stream_policy", "null", "must be finish, cut or a whole number"),
    ("stream_policy", "[cut]", "must be finish, cut or a whole number"),
    ("stream_policy", '"1"', "must be finish, cut or a whole number"),
    ("door", "/login", "is called login now"),
    ("colour", "red", "is not a known field"),
    ("model", "[x]", "is not a known field"),
    ("Code", "AGIA", "is not a known field"),
    ("name", "agi", "is not a known field"),
    ("api_keys", "null", ""),
    ("api_keys", "{}", ""),
    ("api_keys", "{most: 1}", ""),
    ("api_keys", "{longest_days: 3650}", ""),
    ("api_keys", "{most: 1000000, longest_days: 1}", ""),
    ("api_keys", "10", "must be a table of most and longest_days, or null"),
    ("api_keys", "[]", "must be a table of most and longest_days, or null"),
    ("tokens_per_year", "1000", "is not a known field"),
    ("$schema", "x", "is not a known field"),
)

#: Within a role's `server_side`: what is written there, the field at fault, and the words.
IN_SERVER_SIDE = (
    ("{priority: 1000001}", "priority", "must be a whole number"),
    ("{priority: low}", "priority", "must be a whole number"),
    ("{tools: 1}", "tools", "must be true or false"),
    ("{tools: yes}", "tools", "is yes, which YAML may read as another value"),
    ("{fetch: null}", "fetch", "must be true or false"),
    ("{search: true}", "search", "is not a known field"),
)

#: Of a user of that role.
OF_A_USER = (
    ("models", '["*"]', ""),
    ("models", "[]", ""),
    ("models", "[llama3*]", ""),
    ("models", "llama3", "must be a list of models' names"),
    ("models", "null", "must be a list of models' names"),
    ("models", "[a b]", f"[1] {MODEL}"),
    ("requests_per_minute", "null", ""),
    ("requests_per_minute", "7", ""),
    ("requests_per_minute", "0", MINUTE),
    ("tokens_per_minute", "7", ""),
    ("tokens_per_day", "7", ""),
    ("tokens_per_month", "null", ""),
    ("tokens_per_month", "-1", LONG),
    ("tokens_per_minute", "no", "is no, which YAML may read as another value"),
    ("concurrent_requests", "7", ""),
    ("concurrent_requests", "1001", "must be a whole number, 1 to 1000, or null"),
    ("largest_body_bytes", "7", ""),
    ("largest_body_bytes", "null", "must be a whole number of bytes"),
    ("ttl_seconds", "60", "is not a known field"),
    ("code", "AGIA", "is not a known field"),
    ("routes", "[models]", "is not a known field"),
    ("login", "/login", "is not a known field"),
    ("active_tokens", "7", "is not a known field"),
    ("client_certificate", "true", "is not a known field"),
    ("stream_policy", "cut", "is not a known field"),
    ("server_side", "{tools: true}", "is not a known field"),
    ("inspect_bodies", "true", "is not a known field"),
    ("role", "agi", "is not a known field"),
)

#: Names of roles.
ROLE_NAMES = (
    ("a", True),
    ("agent_2", True),
    ("a" * 64, True),
    ('"no"', True),
    ("a" * 65, False),
    ("Agent", False),
    ("agent-fast", False),
    ("agent fast", False),
    ("2agent", False),
    ("_agent", False),
    ("ägent", False),
    ('""', False),
    ("agent.fast", False),
)

#: Names of users.
USER_NAMES = (
    ("AGIAx", True),
    ("AGIAaZ09._-", True),
    ('"AGIA1"', True),
    ("AGIA" + "x" * 60, True),
    ("AGIA" + "x" * 61, False),
    ("AGIA", False),
    ("agiax", False),
    ("bob", False),
    ("AGIAa b", False),
    ("AGIAa/b", False),
    ("AGIAä", False),
    ('""', False),
)


def cases() -> Iterator[Case]:
    """Every row as a file."""
    for field, written, words in OF_A_ROLE:
        text, line = _with_field(field, written)
        faults = _told(f"{line} roles.agi.{field}", words)
        yield Case(
            f"a role's {field}: {written if len(written) < 40 else f'{len(written)} characters'}",
            text.encode(),
            faults,
        )
    for written, field, words in IN_SERVER_SIDE:
        text, line = _with_field("server_side", written)
        faults = _told(f"{line} roles.agi.server_side.{field}", words)
        yield Case(f"a role's server_side: {written}", text.encode(), faults)
    for field, written, words in OF_A_USER:
        text = f"{BASE}users:\n  AGIAx:\n    {field}: {written}\n"
        faults = _told(f"9 users.AGIAx.{field}", words)
        yield Case(
            f"a user's {field}: {written if len(written) < 40 else f'{len(written)} characters'}",
            text.encode(),
            faults,
        )
    for name, is_good in ROLE_NAMES:
        text = BASE.replace("agi:", f"{name}:", 1)
        yield Case(f"a role named {name}", text.encode(), _named(2, "is no role's name", is_good))
    for name, is_good in USER_NAMES:
        text = f"{BASE}users:\n  {name}: {{}}\n"
        yield Case(f"a user named {name}", text.encode(), _named(8, "is no username", is_good))


def _with_field(field: str, written: str) -> tuple[str, int]:
    """The base with a field, and the line it stands in."""
    lines = BASE.splitlines()
    line = f"    {field}: {written}"
    for index, there in enumerate(lines):
        if there.startswith(f"    {field}:"):
            lines[index] = line
            return "\n".join(lines) + "\n", index + 1
    return "\n".join([*lines, line]) + "\n", len(lines) + 1


def _told(place: str, words: str) -> tuple[str, ...]:
    if not words:
        return ()
    separator = "" if words.startswith("[") else ": "
    return (f"{place}{separator}{words.replace('] ', ']: ', 1) if not separator else words}",)


def _named(line: int, words: str, is_good: bool) -> tuple[str, ...]:
    return () if is_good else (f"{line} *: {words}",)
