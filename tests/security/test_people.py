"""Identity, leaks and browsers (threats I); what no log, store or process list may hold (K3)."""

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from issuer.web import responses
from run.commands import ROOT
from tests.security.house import Client, House
from tests.security.house import house as running_house
from tests.support.deployment import USERS, Local, basic
from tests.support.upstream import recording
from tests.support.waiting import wait_for

#: Whose secrets are followed: one that asks by Basic, one by the form, and one that may do all.
WHO = ("AGNRTEST01", "USRSTEST01", "ADMNTEST01")
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def places() -> Iterator[str]:
    return (f"127.3.{number // 250}.{number % 250 + 1}" for number in count())


@pytest.fixture
def client(house: House, places: Iterator[str]) -> Client:
    return house.client(next(places))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- what is secret ---


@dataclass
class Canaries:
    """Texts that nothing may hold but the places they are meant for."""

    words: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, text: str) -> str:
        self.words[what] = text
        return text

    def found_in(self, content: bytes) -> list[str]:
        return [what for what, text in self.words.items() if text.encode() in content]


def drive(house: House, canaries: Canaries) -> None:
    """Each secret through every path that might keep it: good ones, refused ones, broken ones."""
    client, upstream = house.client("127.0.0.1"), house.upstream
    for user in WHO:
        secret, _ = USERS[user]
        canaries.add(f"the secret of {user}", secret)
        canaries.add(f"Basic of {user}", basic(user, secret).split()[1])
        token = canaries.add(f"a token of {user}", client.token(user))
        canaries.add(f"the signature of {user}", token.rpartition(".")[2])
        wrong = canaries.add(f"a wrong secret for {user}", f"wrong-canary-of-{user.lower()}")
        assert client.log_in(user, wrong).status_code == 401
        prompt = canaries.add(f"a prompt of {user}", f"prompt-canary-of-{user.lower()}")
        chat = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
        for mood in ("answer", "die"):
            upstream.mood = mood
            for path in ("/v1/chat/completions", "/api/chat", "/v1/messages", "/llm/v1/responses"):
                for body in (chat, {**chat, "stream": True}):
                    client.ask("POST", path, headers=bearer(token), json=body)
        upstream.mood = "answer"
        for headers in (
            {"x-api-key": token},
            {"Cookie": f"auth_token={token}"},
            bearer(token + "x"),
        ):
            client.ask("GET", "/v1/models", headers=headers)
            client.ask("GET", "/nowhere", headers=headers)
            client.ask("POST", "/v1/chat/completions", headers=headers, data=prompt)
        client.ask("GET", f"/v1/models?token={token}")
        client.ask("GET", f"/v1/models?access_token={token}", headers=bearer(token))
        client.ask("GET", "/", headers={"Cookie": f"auth_token={token}", **HTML})
        for path in ("/login", "/llm/login"):
            client.ask(
                "POST",
                path,
                data=f"username={user}&password={secret}",
                headers={"Content-Type": "text/plain"},
            )
            client.ask("POST", path, data=json.dumps({"username": user, "password": secret})[:-1])
        requests.post(f"{house.deployment.issuer}/validate", json={"token": token}, timeout=10)
        requests.post(f"{house.deployment.issuer}/validate", data=token, timeout=10)
        drive_oauth(client, canaries, user)
        client.ask("POST", "/logout", headers=bearer(token))
        client.ask("POST", "/logout", headers=bearer(token))
    drive_api_key(client, canaries)


def drive_oauth(client: Client, canaries: Canaries, user: str) -> None:
    """A token by client credentials, asked about and revoked; and the same with a word missing."""
    own = {"client_id": user, "client_secret": USERS[user][0]}
    answer = client.ask("POST", "/oauth/token", data=own | {"grant_type": "client_credentials"})
    token = answer.json().get("access_token", "")
    if token:
        canaries.add(f"an OAuth token of {user}", token)
    for path in ("/oauth/token", "/oauth/introspect", "/oauth/revoke"):
        client.ask("POST", path, data=own | {"token": token})
        client.ask("POST", f"{path}?client_secret={own['client_secret']}", data={"token": token})


def drive_api_key(client: Client, canaries: Canaries) -> None:
    """A key is made, used in each place, listed, spoiled and ended."""
    owner = bearer(client.token("AGIATEST01"))
    made = client.ask("POST", "/account/keys", headers=owner, json={"name": "of a tool", "days": 1})
    assert made.status_code == 201, made.text
    key = canaries.add("an API key", made.json()["key"])
    canaries.add("the end of an API key", key[-12:])
    prompt = canaries.add("a prompt with an API key", "prompt-canary-of-a-key")
    chat = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
    for headers in (bearer(key), {"x-api-key": key}, {"Cookie": f"auth_token={key}"}):
        client.ask("POST", "/v1/chat/completions", headers=headers, json=chat)
        client.ask("GET", "/account/keys", headers=headers)
        client.ask("POST", "/logout", headers=headers)
    client.ask("GET", f"/v1/models?api_key={key}")
    client.ask("GET", "/v1/models", headers=bearer(key[:-1]))
    admin = bearer(client.token("ADMNTEST01"))
    client.ask("POST", "/oauth/introspect", headers=admin, data={"token": key})
    client.ask("GET", "/account/keys", headers=owner)
    client.ask("DELETE", f"/account/keys/{made.json()['id']}", headers=owner)
    client.ask("GET", "/v1/models", headers=bearer(key))


def processes(deployment: Local) -> dict[str, bytes]:
    """The command lines and the environments of all of its processes."""
    found = {}
    for part in ("gateway", "issuer", "reconciler"):
        for pid in [deployment.pid(part), *deployment.workers(part)]:
            for name in ("cmdline", "environ"):
                found[f"{part} {pid} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def kept(deployment: Local) -> dict[str, bytes]:
    """All that was written, but for the files that are there for the secrets."""
    runtime = Path(deployment.env["GATEWAY_RUNTIME_DIR"])
    folders = (deployment.data, runtime, Path(deployment.env["TMPDIR"]))
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    meant = {deployment.data / name for name in ("credentials.env", "secret_key", "sync_key")}
    return {
        str(path): path.read_bytes()
        for path in files
        if path not in meant and ROOT not in path.resolve().parents
    }


def test_i1_k3_no_secret_no_token_and_no_prompt_is_anywhere_it_is_not_meant_for() -> None:
    canaries = Canaries()
    with recording() as upstream, running_house(upstream) as house:
        deployment = house.deployment
        log_all(deployment)
        drive(house, canaries)
        client = house.client("127.0.0.1")
        admin = bearer(client.token("ADMNTEST01"))
        answers = [
            client.ask("GET", path, headers=admin)
            for path in ("/metrics", "/admin/", "/admin/api/sessions")
        ]
        metrics = [
            requests.get(f"{url}/metrics", timeout=10)
            for url in (deployment.internal, deployment.issuer)
        ]
        last = client.ask("GET", "/the-last-of-all").headers["x-request-id"]
        wait_for(lambda: last in deployment.output("gateway"), 5, "the log is written")
        assert {"an API key", "an OAuth token of AGNRTEST01"} < set(canaries.words)
        held = {f"answer {one.url}": one.content for one in [*answers, *metrics]} | kept(deployment)
        assert {
            what: found for what, content in held.items() if (found := canaries.found_in(content))
        } == {}
        canaries.add("the signing secret", deployment.secret_key)
        canaries.add("the sync key", deployment.sync_key)
        listed = processes(deployment)
        assert {
            what: found for what, content in listed.items() if (found := canaries.found_in(content))
        } == {}
        # Prompts are for the LLM server; nothing else is.
        prompts = {what for what in canaries.words if what.startswith("a prompt")}
        arrived = {what for one in upstream.seen for what in canaries.found_in(one.head + one.body)}
        assert arrived == prompts


def log_all(deployment: Local) -> None:
    """Have nginx say all that it says below its own debug level, which writes every header down."""
    public = Path(deployment.env["GATEWAY_RUNTIME_DIR"]) / "public.conf"
    text = public.read_text()
    public.unlink()
    public.write_text(text.replace("error_log stderr error;", "error_log stderr info;"))
    assert "stderr info" in public.read_text()
    old = deployment.workers("gateway")
    os.kill(deployment.pid("gateway"), signal.SIGHUP)
    deployment.wait_for_new_workers("gateway", old)


# --- logs and metrics ---


FORGERIES = (
    'x\r\n{"time":"forged"}',
    "x\x1b[2Jforged",
    'x","user":"forged',
    "x\\u0022forged",
    "x\u2028forged",
)


@pytest.mark.parametrize("text", FORGERIES)
def test_i2_no_line_of_a_log_is_forged_and_no_query_is_in_one(client: Client, text: str) -> None:
    escaped = quote(text, safe="")
    for path in (
        f"/login?next={escaped}&token=query-canary",
        f"/{escaped}?api_key=query-canary",
        "/v1/models?token=query-canary",
    ):
        client.ask("GET", path, headers={"User-Agent": quote(text), "Referer": quote(text)})
    assert client.log_in(f"USRS{text}", "x", "/login").status_code == 401
    assert client.log_in(f"AGNR{text}", "x").status_code == 401
    last = client.ask("GET", f"/{escaped}").headers["x-request-id"]
    wait_for(lambda: last in client.deployment.output("gateway"), 5, "the log is written")
    for part in ("gateway", "issuer"):
        output = client.deployment.output(part)
        assert "query-canary" not in output
        assert "\x1b" not in output
        assert not [
            line for line in output.splitlines() if line.startswith(("forged", '{"time":"forged'))
        ]
    lines = [
        line for line in client.deployment.output("gateway").splitlines() if line.startswith("{")
    ]
    assert all(json.loads(line)["user"] in ("", *USERS) for line in lines)


def series(house: House) -> set[str]:
    texts = (
        requests.get(f"{url}/metrics", timeout=10).text
        for url in (house.deployment.internal, house.deployment.issuer)
    )
    return {
        line.rpartition(" ")[0]
        for text in texts
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_i3_names_paths_and_models_that_nobody_knows_make_no_series(
    house: House, client: Client
) -> None:
    agent = bearer(client.token("AGIATEST01"))

    def ask(number: int) -> None:
        client.ask("GET", f"/nowhere/{number}", headers=agent)
        client.ask(
            "POST",
            "/v1/chat/completions",
            headers=agent,
            json={"model": f"m{number}", "messages": []},
        )
        client.ask("POST", "/llm/login", auth=(f"AGNRNEW{number}", ""))

    def is_counted() -> bool:
        """Each worker adds its counts once a second."""
        told = "".join(series(house))
        return all(one in told for one in counted)

    counted = (
        *('decision="allowed"', 'decision="not_found"'),
        *('role="agi",status="200"', 'status="404"', 'status="401"'),
    )

    ask(0)
    wait_for(is_counted, what="the decisions are counted")
    before = series(house)
    for number in range(1, 15):
        ask(number)
    assert series(house) == before


# --- cookies, forms, pages ---


def test_i4_the_cookie_is_for_this_host_alone_and_no_script_and_goes_as_it_came(
    client: Client,
) -> None:
    set_at_login = client.log_in("USRSTEST01").headers["Set-Cookie"]
    cookie = set_at_login.partition(";")[0]
    gone = client.ask("POST", "/logout", headers={"Cookie": cookie, **HTML}).headers["Set-Cookie"]
    for told, age in ((set_at_login, "Max-Age=900"), (gone, "Max-Age=0")):
        flags = {flag.strip() for flag in told.split(";")[1:]}
        assert {"HttpOnly", "SameSite=Lax", "Path=/", age} <= flags
        assert not [flag for flag in flags if flag.startswith("Domain")]


def test_i5_a_login_is_always_another_token_and_a_logout_counts_at_once(client: Client) -> None:
    tokens = [client.token("USRSTEST01") for _ in range(3)]
    assert len(set(tokens)) == 3
    cookie = {"Cookie": f"auth_token={tokens[0]}"}
    again = client.log_in("USRSTEST01", **cookie)
    assert again.cookies["auth_token"] not in tokens
    other_site = {"Origin": "https://evil.example", **cookie}
    assert client.ask("POST", "/logout", headers=other_site).status_code == 403
    assert (
        client.ask("POST", "/v1/chat/completions", headers=other_site, json={}).status_code == 403
    )
    assert client.ask("GET", "/v1/models", headers=cookie).status_code == 200
    assert client.ask("POST", "/logout", headers=cookie).status_code == 204
    assert client.ask("GET", "/v1/models", headers=cookie).status_code == 401


#: What a browser might take for another host, or another scheme.
BEGINNINGS = (
    "/",
    "//",
    "///",
    "/\\",
    "\\\\",
    "\\/",
    "",
    ".",
    "..",
    "@",
    "/%2f",
    "/%5c",
    "%2f%2f",
    "/.",
    "/\t/",
    "\t//",
    "\n//",
    " //",
    "/;/",
    "http:",
    "https:",
    "http://",
    "https:/",
    "https://x@",
    "javascript:",
    "data:text/html,",
    "ftp://",
    "//x:y@",
    "/\r\n/",
    "\0//",
)
HOSTS = (
    "evil.example",
    "evil.example/",
    "evil.example:443/x",
    "evil%2eexample",
    "\u3002evil.example",
    "[::1]",
    "2130706433",
    "0x7f.1",
    "evil.example#x",
    "evil.example?x",
    "evil.example\\x",
    "evil.example/..//x",
    "x@evil.example",
    "e%0d%0avil.example",
)
MIDDLES = (
    "",
    "/",
    "//",
    "\\",
    "%2f",
    "/..",
    "/../",
    "/./",
    "?",
    "#",
    "&",
    ";",
    "\t",
    "%09",
    "%00",
    "%0d%0aSet-Cookie:x=y",
    "\u202e",
    "/login?next=",
    ".",
    "*",
)


def test_i6_ten_thousand_spellings_of_elsewhere_lead_nowhere_but_here() -> None:
    goals = [
        f"{first}{middle}{host}" for first in BEGINNINGS for middle in MIDDLES for host in HOSTS
    ]
    goals += [
        f"/x{middle}{first}{host}"
        for first in BEGINNINGS
        for middle in MIDDLES[:6]
        for host in HOSTS
    ]
    assert len(goals) > 10_000
    for goal in goals:
        path = responses.local_path(goal)
        assert re.fullmatch(r"/(?![/\\])[A-Za-z0-9._~/?=&%-]*", path), goal
        assert "//" not in path
        assert path in ("/", goal)


@pytest.mark.parametrize(
    "goal", ["//evil.example", "/\\evil.example", "https:evil.example", "/x\r\nSet-Cookie: a=b"]
)
def test_i6_no_login_logout_or_page_leads_away(client: Client, goal: str) -> None:
    form = {"username": "USRSTEST01", "password": USERS["USRSTEST01"][0], "next": goal}
    answer = client.ask(
        "POST", f"/login?next={quote(goal)}", data=form, headers={"Referer": "https://evil.example"}
    )
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert "evil" not in client.ask("GET", f"/login?next={quote(goal)}").text


def test_i7_pages_let_nothing_in_and_nothing_out(client: Client) -> None:
    cookie = {"Cookie": f"auth_token={client.token('ADMNTEST01')}"}
    for path in ("/login", "/admin/login", "/", "/admin/"):
        answer = client.ask("GET", path, headers={**HTML, **cookie})
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status_code == 200
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text)


def test_i8_who_is_unknown_is_told_what_a_wrong_secret_is_told(client: Client) -> None:
    """The same in time is `bench/`'s to measure, and one bcrypt each the unit tests'."""

    def told(user: str, path: str) -> tuple[int, str, dict[str, str]]:
        answer = client.log_in(user, "wrong", path)
        own = ("x-request-id", "date")
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in own}
        return answer.status_code, answer.text, headers

    for path, known in (
        ("/llm/login", "AGNRTEST01"),
        ("/login", "USRSTEST01"),
        ("/admin/login", "ADMNTEST01"),
    ):
        # Unknown, known, of another endpoint, and of no role at all.
        answers = [told(user, path) for user in (known, f"{known}X", "AGIATEST01", "nobody")]
        assert all(answer == answers[0] for answer in answers)
        assert answers[0][0] == 401
