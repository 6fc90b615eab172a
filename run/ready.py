"""Whether the stack is ready, what its LLM servers were found to be, and what the user reads then:
where it is, and three lines to paste.

Ready is when the gateway says so and, with the bundled LLM, a chat came through.
"""

import base64
import http.client
import json
import re
import shlex
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from run import llm_servers
from run.commands import ROOT, TICK_SECONDS, RunError, read_text, say
from run.llm_servers import Answer, Found, Question, exchange
from run.plan import DEFAULT_DATA_DIR, HOST, SHIPPED_POLICY, Plan, policy_file
from run.processes import Child, check_alive

READY_SECONDS = 60
CHAT_SECONDS = 120
REQUEST_SECONDS = 30
#: What a part that is still starting, or a limit, may answer; any other status will not change.
PASSING_STATUSES = (429, 500, 502, 503, 504)
#: What a demo user gets who was removed, has another secret, or whose role was changed.
NO_LOGIN_STATUSES = (401, 403)
DEMO_MODEL = "smollm2-135m-instruct"
DEMO_QUESTION = "What is the capital of France?"
DEMO_LOGINS = "demo-logins"
LOGIN_TO_FILL_IN = "USERNAME:SECRET"
#: Takes the token out of the login's JSON with what every machine has.
READ_JSON = r"""sed -n 's/.*"token": *"\([^"]*\)".*/\1/p'"""
MAX_SHOWN, MAX_CHARACTERS = 3, 80
#: How a kind of LLM server says what it is known by.
MARK = re.compile(r"""^recognized_by: *\{ *path: *(\S+), *text: *'([^']+)' *\}""", re.MULTILINE)

Asker = Callable[[Question], list[Found]]
#: Runs the issuer's command `SERVERS`, which asks the gateway: exit status and words.
Teller = Callable[[], tuple[int, str]]
#: As long as a server's list may take, and the gateway's next look at it.
SERVERS = ("servers", "--json", "--wait", "8")
#: Begins a connection; takes `timeout`.
Connect = Callable[..., http.client.HTTPConnection]


@dataclass(frozen=True)
class Example:
    """The model that the line to paste names, and whether it answers chats; it embeds where not."""

    model: str
    chats: bool = True


MODEL_TO_FILL_IN = Example("MODEL")


# --- ready or not --------------------------------------------------------------------------------


def wait_for_issuer(plan: Plan, children: Sequence[Child]) -> None:
    """Until logins can be answered. The gateway is told of tokens only after: who waits for it to
    be ready shall be able to log in.
    """
    find_fault = partial(
        listener_fault, partial(http.client.HTTPConnection, HOST, plan.issuer_port)
    )
    wait_while("the issuer is not ready", find_fault, plan, children, READY_SECONDS)


def wait_until_ready(plan: Plan, children: Sequence[Child]) -> None:
    """Until the gateway is ready and, with the bundled LLM and demo users, a chat came through.
    Where the policy names servers, each is told of later, whether it is up or not.
    """
    find_fault = partial(listener_fault, gateway(plan))
    wait_while("the gateway is not ready", find_fault, plan, children, READY_SECONDS)
    if plan.has_bundled_llm and (login := demo_login(plan)):
        find_fault = partial(chat_fault, plan, login)
        wait_while("no chat came through", find_fault, plan, children, CHAT_SECONDS)


def wait_while(
    wrong: str,
    find_fault: Callable[[], str],
    plan: Plan,
    children: Sequence[Child],
    seconds: float,
) -> None:
    """Ask until there is no fault; `RunError` with the last one when the time is over."""
    deadline = time.monotonic() + seconds
    while fault := passing_fault(find_fault):
        check_alive(children)
        if time.monotonic() > deadline:
            where = f"logs are in {plan.data_dir / 'log'}"
            raise RunError(f"{wrong} after {seconds} s ({fault}); {where}")
        time.sleep(TICK_SECONDS)


def passing_fault(find_fault: Callable[[], str]) -> str:
    """A connection that fails is a fault that may pass."""
    try:
        return find_fault()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def gateway(plan: Plan) -> Connect:
    """How the gateway is reached: by TLS with the very certificate that it was given, whatever the
    names in it, or one of the authority made here.
    """
    if plan.trusted is None:
        return partial(http.client.HTTPConnection, HOST, plan.gateway_port)
    context = ssl.create_default_context(cafile=str(plan.trusted))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return partial(http.client.HTTPSConnection, HOST, plan.gateway_port, context=context)


def listener_fault(connect: Connect) -> str:
    """Why what listens there is not ready, as it says."""
    status = ask(connect, "GET", "/readyz").status
    return "" if status == 200 else f"/readyz answers {status}"


def chat_fault(plan: Plan, login: str) -> str:
    """A real login and a real answer of the LLM through the gateway; the fault if it may pass."""
    answer = log_in(plan, login)
    if answer.status in NO_LOGIN_STATUSES:
        return ""  # the demo users are the operator's, and the gateway said that it is ready
    if answer.status == 200:
        body = {**question(DEMO_MODEL), "max_tokens": 4}
        answer = ask(gateway(plan), "POST", "/v1/chat/completions", bearer(answer), body)
    if answer.status in PASSING_STATUSES:
        return f"status {answer.status}"
    check_answer(answer)
    return ""


def check_answer(answer: Answer) -> None:
    """Raise unless this is an answer of the LLM."""
    with suppress(LookupError, TypeError):
        if answer.status == 200 and answer.json["choices"][0]["message"]["content"]:
            return
    words = answer.body[:200].decode(errors="replace")
    raise RunError(
        f"the first chat with the demo login failed: status {answer.status}, {words!r}",
        "if you changed the generated credentials, name them: make run CREDENTIALS_FILE=...",
    )


def log_in(plan: Plan, login: str) -> Answer:
    """A real login through the gateway."""
    basic = base64.b64encode(login.encode()).decode()
    return ask(gateway(plan), "POST", "/llm/login", {"Authorization": f"Basic {basic}"})


def bearer(login: Answer) -> dict[str, str]:
    """The header that the token of a login's answer goes in."""
    try:
        return {"Authorization": f"Bearer {login.json['token']}"}
    except (LookupError, TypeError):
        return {}  # the gateway will say what it thinks of that


def models_for(plan: Plan, login: str) -> list[str] | None:
    """The models that this user sees through the gateway; None where that cannot be told."""
    try:
        answer = ask(gateway(plan), "GET", "/v1/models", bearer(log_in(plan, login)))
        return [str(one["id"]) for one in answer.json["data"]] if answer.status == 200 else None
    except (*llm_servers.Failure, LookupError, TypeError):
        return None


def ask(
    connect: Connect,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> Answer:
    """Not through urllib: it would send this to the proxy that the environment names."""
    connection = connect(timeout=REQUEST_SECONDS)
    sent = {"Content-Type": "application/json", **(headers or {})}
    return exchange(connection, method, path, sent, json.dumps(body) if body else None)


# --- LLM servers ---------------------------------------------------------------------------------


def first_example(
    plan: Plan, env: Mapping[str, str], ask_all: Asker, tell_servers: Teller
) -> Example:
    """What a first call may name, after all servers were asked and told of; the bundled LLM is no
    secret. None of it stops the start: a server may come later.
    """
    if plan.has_bundled_llm:
        return Example(DEMO_MODEL)
    if plan.policy_with_servers:
        found = found_by_gateway(*tell_servers())
    else:
        found = ask_all(to_ask(env))
        for one in found:
            say(f"LLM server {one.url}: {words(one, env.get('LLM_KIND', ''))}")
    login = demo_login(plan)
    has_models = any(one.models for one in found)
    allowed = models_for(plan, login) if login and has_models else None
    return example(found, allowed) or MODEL_TO_FILL_IN


def found_by_gateway(status: int, said: str) -> list[Found]:
    """What the gateway knows of the servers that the policy names, told a line each."""
    try:
        rows = json.loads(said)["servers"]
        found = [found_in(row) for row in rows]
    except (ValueError, LookupError, TypeError):
        say(f"the LLM servers could not be asked for (exit status {status}): {plain(said)}")
        return []
    for row, one in zip(rows, found, strict=True):
        what = plain(one.fault, 2 * MAX_CHARACTERS) if one.fault else listed_words(one)
        say(f"LLM server {row['name']} ({row['kind']}, {one.url}): {row['state']}; {what}")
    return found


def found_in(row: Mapping[str, Any]) -> Found:
    """One server as the gateway tells of it."""
    models = [name for name in row["models"] if isinstance(name, str)]
    chat = [name for name in models if llm_servers.can_chat(name, None)]
    fault = "" if row["state"] == "up" else str(row.get("last_error") or "not asked yet")
    return Found(str(row["url"]), fault, str(row["kind"]), models, chat)


def to_ask(env: Mapping[str, str]) -> Question:
    """What is asked, as the gateway was told to ask."""
    urls = tuple(env["LLM_UPSTREAM"].replace(",", " ").split())
    path = env.get("LLM_API_KEY_FILE")
    key = read_text(Path(path)) if path else env.get("LLM_API_KEY", "")
    trusted = read_text(Path(env["LLM_CA_FILE"])) if "LLM_CA_FILE" in env else ""
    policies = (SHIPPED_POLICY, policy_file(env))
    return Question(urls, key, trusted, marks(*(one.parent / "servers" for one in policies)))


def marks(*folders: Path) -> tuple[tuple[str, str, str], ...]:
    """What each kind of LLM server is known by, as its file says; the last one of a name counts."""
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    found = ((kind, MARK.search(read_text(path))) for kind, path in files.items())
    return tuple((kind, mark[1], mark[2]) for kind, mark in found if mark)


def in_container(run: Callable[[str, str], tuple[int, str]], asked: Question) -> list[Found]:
    """Asks where the gateway's container is: `run` takes a program and its standard input, and
    answers its exit status and words.
    """
    status, said = run(read_text(Path(llm_servers.__file__)), json.dumps(asdict(asked)))
    with suppress(ValueError, LookupError, TypeError):
        found = [Found(**one) for one in json.loads(said.strip().splitlines()[-1])]
        if status == 0 and [one.url for one in found] == list(asked.urls):
            return found
    reason = f"could not be asked from the gateway's network (exit status {status})"
    return [Found(url, reason) for url in asked.urls]


def words(found: Found, wanted_kind: str) -> str:
    """What one server was found to be."""
    if found.fault:
        return plain(found.fault, 2 * MAX_CHARACTERS)
    return f"{kind_words(found.kind, wanted_kind)}; {listed_words(found)}"


def listed_words(found: Found) -> str:
    """How many models it has, and the first of them."""
    count = len(found.models)
    names = ", ".join(plain(name) for name in found.models[:MAX_SHOWN])
    more = ", …" if count > MAX_SHOWN else ""
    only = "" if found.chat else " (none for chats)"
    listed = f"{count} model{'' if count == 1 else 's'}: {names}{more}{only}"
    return listed if count else "it has no model yet"


def kind_words(kind: str, wanted: str) -> str:
    """Which kind it seems to be, and whether that is what it was called."""
    if not kind:
        return "reached, of a kind of its own"
    if wanted and kind != wanted:
        return f"seems to be {kind}, but LLM_KIND is {wanted}: set LLM_KIND={kind}"
    return kind if wanted else f"seems to be {kind} (LLM_KIND={kind} would open its routes alone)"


def plain(text: str, most: int = MAX_CHARACTERS) -> str:
    """What a server said, harmless on a terminal."""
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def example(found: Sequence[Found], allowed: Sequence[str] | None) -> Example | None:
    """A model that is there; None where none is. `allowed` are those that the caller may use, where
    that is known.
    """
    chat = [name for one in found for name in one.chat]
    models = [name for one in found for name in one.models]
    for name in (*chat, *models):
        if (allowed is None or name in allowed) and name == plain(name, len(name)):
            return Example(name, name in chat)
    return None


# --- the greeting --------------------------------------------------------------------------------


def announce(plan: Plan, example: Example) -> None:
    """Print the line `ready …` and the three lines to paste."""
    login = demo_login(plan)
    url = public_url(plan)
    trust = f" --cacert {shlex.quote(str(plan.trusted))}" if plan.self_signed else ""
    lines = [
        "",
        f"ready {url}",
        "",
        *curl_lines(url, login or LOGIN_TO_FILL_IN, example, trust),
        admin_line(plan, login),
        "",
        f"Logs are in {plan.data_dir / 'log'}. Ctrl-C stops it all.",
    ]
    say("\n".join(lines))


def public_url(plan: Plan) -> str:
    """Where the gateway is, by a name that its certificate has."""
    if plan.trusted is None or plan.self_signed:
        return plan.url
    connection = gateway(plan)(timeout=REQUEST_SECONDS)
    with closing(connection):
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        certificate: Mapping[str, Any] = connection.sock.getpeercert() or {}
    hosts = [name for _, name in certificate.get("subjectAltName", ()) if "*" not in name]
    host = next((one for one in (HOST, "localhost") if one in hosts), (hosts or [HOST])[0])
    return f"https://{host}:{plan.gateway_port}"


def curl_lines(url: str, login: str, example: Example, trust: str = "") -> list[str]:
    """One login and one streamed chat, for a shell; or what a model without chats is for."""
    path = "/v1/chat/completions" if example.chats else "/v1/embeddings"
    body: dict[str, object] = {"model": example.model, "input": DEMO_QUESTION}
    if example.chats:
        body = {**question(example.model), "stream": True}
    return [
        f"TOKEN=$(curl -sS{trust} -u {shlex.quote(login)} -X POST {url}/llm/login | {READ_JSON})",
        f'curl -sSN{trust} {url}{path} -H "Authorization: Bearer $TOKEN"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}",
    ]


def admin_line(plan: Plan, login: str | None) -> str:
    """A command for this stack, which ends what the lines above have begun."""
    words = f"revoke --user {login.partition(':')[0]}" if login else "sessions"
    elsewhere = plan.data_dir != ROOT / DEFAULT_DATA_DIR
    where = f"DATA_DIR={shlex.quote(str(plan.data_dir))} " if elsewhere else ""
    return f'make admin {where}ARGS="{words}"'


def question(model: str) -> dict[str, object]:
    """The body of the demo chat."""
    return {"model": model, "messages": [{"role": "user", "content": DEMO_QUESTION}]}


def demo_login(plan: Plan) -> str | None:
    """The first demo login as USERNAME:SECRET; None when the credentials are the user's own."""
    if plan.own_credentials:
        return None
    lines = read_text(plan.data_dir / DEMO_LOGINS).splitlines()
    logins = [line.strip() for line in lines if "=" in line and not line.lstrip().startswith("#")]
    return logins[0].replace("=", ":", 1) if logins else None
