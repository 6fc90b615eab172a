"""Kinds of LLM servers: a file in `servers/` beside the policy, its form, and its routes."""

from collections.abc import Iterator, Mapping

from tests.policies import BASE, Case

KIND = """\
dialect: openai
model_names: exact
routes:
  inference:
    - POST /v1/chat/completions model=body
"""
LINE = "must be METHOD /path"
CANONICAL = "has a path that is not written in the one way"

#: A line of class inference beside the one there is, and the words of its fault.
LINES = (
    ("POST /v1/mine model=body", ""),
    ("POST /v1/mine  model=body", ""),
    ("GET /mine", ""),
    ("PUT /mine/{name} model=none", ""),
    ("DELETE /mine/{model} model=path", ""),
    ("HEAD /mine model=query", ""),
    ('"POST /mine model=form"', ""),
    ("POST /mine/", ""),
    ("get /x", LINE),
    ("PATCH /x", LINE),
    ("OPTIONS /x", LINE),
    ("GET x", LINE),
    ("GET", LINE),
    ("GET /x model=", LINE),
    ("GET /x model=head", LINE),
    ("GET /x model=body more", LINE),
    ("GET  /x", LINE),
    ('"GET /x "', LINE),
    ('" GET /x"', LINE),
    ("1", LINE),
    ("null", LINE),
    ("[GET /x]", LINE),
    ("GET: /x", LINE),
    ("GET //x", CANONICAL),
    ("GET /x/../y", CANONICAL),
    ("GET /x/./y", CANONICAL),
    ("GET /x/..", CANONICAL),
    ("GET /x%20y", CANONICAL),
    ("GET /x?y", CANONICAL),
    ("GET /ä", CANONICAL),
    ("GET /{a-b}", CANONICAL),
    ("GET /{}", CANONICAL),
    ("GET /{a}/{b}", "has more than one {parameter}"),
    ("GET /x/{name} model=path", "says model=path, and its path has no {model}"),
    ("GET /x model=path", "says model=path, and its path has no {model}"),
    ("GET /api/tags", "is below /api/, which is Ollama's dialect"),
    ("POST /v1/chat/completions model=body", "is listed twice, first in line 5"),
    ("POST /v1/embeddings model=query", "means another thing in servers/"),
    ("POST /v1/embeddings", "means another thing in servers/"),
    ("GET /v1/models model=listed", "means another thing in servers/"),
    ("GET /metrics model=none", "means another thing in issuer/policy/own_routes.py"),
    (
        "DELETE /admin/api/sessions/{id} model=none",
        "means another thing in issuer/policy/own_routes.py",
    ),
)

#: Whole files of a kind, by what is replaced in the good one.
REPLACED = (
    ("dialect: ollama", "dialect: openai", "dialect: ollama", ()),
    (
        "no dialect",
        "dialect: openai\n",
        "",
        ("1 dialect: is missing; it must be one of ollama, openai",),
    ),
    ("an unknown dialect", "openai", "anthropic", ("1 dialect: must be one of ollama, openai",)),
    (
        "a dialect that is a list",
        "openai",
        "[openai]",
        ("1 dialect: must be one of ollama, openai",),
    ),
    ("names as Ollama has them", "exact", "ollama", ()),
    ("no names of models", "model_names: exact\n", "", ("1 model_names: is missing",)),
    ("unknown names of models", "exact", "fuzzy", ("2 model_names: must be one of ollama, exact",)),
    (
        "an unknown field",
        "dialect: openai",
        "idle_seconds: 5\ndialect: openai",
        ("1 idle_seconds: is not a known field",),
    ),
    ("its description", "dialect: openai", "$schema: ./server.schema.json\ndialect: openai", ()),
    (
        "a class that is none",
        "inference:",
        "everything:",
        ("4 routes.everything: is not a known field",),
    ),
    (
        "a class of Portero's own",
        "inference:",
        "console:",
        ("4 routes.console: is not a known field",),
    ),
    (
        "metrics, which are Portero's own",
        "inference:",
        "metrics:",
        ("4 routes.metrics: is not a known field",),
    ),
    ("an empty class", "inference:", "health: []\n  inference:", ()),
    (
        "a class without a value",
        "inference:",
        "health:\n  inference:",
        ("4 routes.health: has no value",),
    ),
    (
        "a class that is a text",
        "inference:",
        "health: GET /health\n  inference:",
        ("4 routes.health: must be a list of METHOD /path",),
    ),
    (
        "a class twice",
        "inference:",
        "inference: []\n  inference:",
        ("5 routes.inference: is there twice",),
    ),
    ("no routes", KIND[KIND.index("routes:") :], "", ("1 routes: is missing; it must be a table",)),
    (
        "routes that are a list",
        KIND[KIND.index("routes:") :],
        "routes: []\n",
        ("3 routes: must be a table",),
    ),
    ("no route", KIND[KIND.index("routes:") :], "routes: {}\n", ()),
    ("nothing at all", KIND, "", ("1 : is empty",)),
    ("a list", KIND, "[]", ("1 : must be a table with dialect",)),
    ("a tab", "  inference:", "\tinference:", ("4 : a line begins with a tab",)),
    ("an alias", "openai", "*x", ("1 dialect: is an alias",)),
    (
        "a pack of the old form",
        KIND,
        '{"idle_seconds": 5, "routes": {"inference": []}}',
        (
            "1 idle_seconds: is not a known field",
            "1 dialect: is missing",
            "1 model_names: is missing",
        ),
    ),
)

#: Names of files.
NAMES = (
    ("mine.yaml", ()),
    ("my-server_2.1.yaml", ()),
    (".mine.yaml", ()),
    (".mine.yaml.swp", ()),
    ("mine.yaml~", ()),
    ("mine.json", ()),
    ("README.md", ()),
    ("mine.yml", ("servers/mine.yml: call it mine.yaml",)),
    ("Mine.yaml", ("servers/Mine.yaml: must be named with a-z 0-9",)),
    ("my server.yaml", ("servers/my server.yaml: must be named with a-z 0-9",)),
    ("-mine.yaml", ("servers/-mine.yaml: must be named with a-z 0-9",)),
    ("m" * 65 + ".yaml", (f"servers/{'m' * 65}.yaml: must be named with a-z 0-9",)),
)

MANY: tuple[tuple[str, Mapping[str, str], tuple[str, ...]], ...] = (
    ("two new kinds that agree", {"a.yaml": KIND, "b.yaml": KIND}, ()),
    (
        "two new kinds that do not",
        {
            "a.yaml": f"{KIND}    - POST /x model=body\n",
            "b.yaml": f"{KIND}    - POST /x model=form\n",
        },
        ("servers/b.yaml 6 routes.inference[2]: means another thing in servers/a.yaml line 6",),
    ),
    (
        "a class that differs",
        {
            "a.yaml": f"{KIND}    - POST /x model=body\n",
            "b.yaml": f"{KIND}  models:\n    - POST /x model=body\n",
        },
        ("servers/b.yaml 7 routes.models[1]: means another thing in servers/a.yaml line 6",),
    ),
    (
        "a parameter of another name",
        {
            "a.yaml": f"{KIND}    - POST /x/{{one}} model=body\n",
            "b.yaml": f"{KIND}    - POST /x/{{two}} model=form\n",
        },
        ("servers/b.yaml 6 routes.inference[2]: means another thing in servers/a.yaml line 6",),
    ),
    ("a kind in the place of a shipped one", {"ollama.yaml": KIND}, ()),
    (
        "a faulty kind in the place of a shipped one",
        {"ollama.yaml": "{}"},
        tuple(
            f"servers/ollama.yaml 1 {name}: is missing"
            for name in ("dialect", "model_names", "routes")
        ),
    ),
    (
        "faults of two kinds at once",
        {"a.yaml": KIND.replace("exact", "x"), "b.yaml": KIND.replace("openai", "z")},
        (
            "servers/a.yaml 2 model_names: must be one of",
            "servers/b.yaml 1 dialect: must be one of",
        ),
    ),
)


def cases() -> Iterator[Case]:
    """Every kind beside a good policy, and one beside a faulty one."""
    for line, words in LINES:
        faults: tuple[str, ...] = (
            (f"servers/mine.yaml 6 routes.inference[2]: {words}",) if words else ()
        )
        yield _case(f"a kind with the route {line}", {"mine.yaml": f"{KIND}    - {line}\n"}, faults)
    for name, old, new, told in REPLACED:
        assert old in KIND, name
        faults = tuple(f"servers/mine.yaml {fault}" for fault in told)
        yield _case(f"a kind with {name}", {"mine.yaml": KIND.replace(old, new)}, faults)
    for file, faults in NAMES:
        yield _case(f"a file {file[:30]}", {file: KIND}, faults)
    for name, files, faults in MANY:
        yield _case(name, files, faults)
    both = ("7 more: is not a known field", "servers/mine.yaml 1 dialect: must be one of")
    text = f"{BASE}more: 1\n".encode()
    yield Case(
        "faults of a policy and of a kind", text, both, {"mine.yaml": KIND.replace("openai", "x")}
    )


def _case(name: str, files: Mapping[str, str], faults: tuple[str, ...]) -> Case:
    return Case(name, BASE.encode(), faults, files)
