"""Every change there is has its row in the audit, with who, from where, to whom and what came of
it; and no row has a secret. `tests/contract/test_audit_chain.py` has the chain.
"""

import argparse
import base64
import io
import json
import logging
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from issuer import __main__ as issuer_main
from issuer import assemble, audit, commands, config, create_app
from issuer.audit import Actor, Event, Row
from issuer.commands import signing_keys
from issuer.commands.audit import since
from issuer.errors import Faults, StoreUnavailable, TooManyApiKeys
from issuer.store.audit import Audit, Lines
from issuer.store.refusals import MOST, Refusals
from issuer.sync import reconciler
from issuer.sync.gateways import Gateway
from issuer.sync.policy_in_force import PolicyInForce
from issuer.sync.reconciler import Reconciler
from issuer.sync.servers_seen import ServersSeen
from issuer.users import credentials
from tests.conftest import SECRET_KEY, USERS, password, wait_until
from tests.support.fake_gateway import SYNC_KEY, FakeGateway
from tests.support.listening import listening

AGENT, PERSON, ADMIN = USERS["agi"], USERS["user"], USERS["admin"]
ADDRESS = "192.0.2.7"
CANARY = "canary-0123456789abcdefghijklmnop"
SHELL = audit.operator()
SERVERS = 'servers: [{name: rack, url: "http://192.0.2.9", kind: vllm}]\n'


@dataclass
class House:
    """An issuer, its command line, and its gateway."""

    app: Flask
    client: FlaskClient
    environ: dict[str, str]
    secrets: list[str] = field(default_factory=list)

    @property
    def audit(self) -> Audit:
        self.app.extensions["portero"].refusals.flush()
        rows: Audit = self.app.extensions["portero"].audit
        return rows

    def rows(self, event: str | None = None) -> list[Row]:
        return list(reversed(self.audit.rows(1_000, event=event)))

    def ask(self, method: str, path: str, token: str = "", **more: Any) -> TestResponse:
        headers = {"X-Real-Ip": ADDRESS, **more.pop("headers", {})}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self.client.open(path, method=method, headers=headers, **more)

    def knock(self, path: str, user: str, secret: str | None = None) -> TestResponse:
        secret = password(user) if secret is None else secret
        if path.endswith(("/llm/login", "/agi/login", "/oauth/token")):
            given = base64.b64encode(f"{user}:{secret}".encode()).decode()
            data = {"grant_type": "client_credentials"} if "oauth" in path else None
            return self.ask("POST", path, headers={"Authorization": f"Basic {given}"}, data=data)
        return self.ask("POST", path, data={"username": user, "password": secret})

    def token(self, user: str) -> str:
        answer = self.knock("/oauth/token", user)
        assert answer.json
        self.secrets.append(answer.json["access_token"])
        return self.secrets[-1]

    def key(self, token: str, path: str = "/account/keys") -> str:
        answer = self.ask("POST", path, token, json={"name": CANARY[:20], "days": 1})
        assert answer.status_code == 201, answer.json
        assert answer.json
        self.secrets.append(answer.json["key"])
        return str(answer.json["id"])

    def command(self, *words: str, status: int = 0) -> None:
        assert issuer_main.main(words) == status

    def jti(self) -> str:
        return self.rows(audit.LOGIN)[-1].target.partition("/")[2]


@pytest.fixture
def house(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path
) -> Iterator[House]:
    monkeypatch.setattr(credentials, "COST", 10)
    monkeypatch.setattr(signing_keys, "PROMOTED_SECONDS", 0)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{CANARY}\n"))
    for name in ("SECRET_KEY_FILE", "SYNC_KEY_FILE", "JWT_ALGORITHM"):
        monkeypatch.delenv(name, raising=False)
    policy = tmp_path / "policy.yaml"
    policy.write_text(config.POLICY_FILE.read_text() + SERVERS)
    monkeypatch.delenv("LLM_UPSTREAM", raising=False)
    with listening(FakeGateway().answer) as listener:
        environ |= {"GATEWAY_URLS": listener.url, "POLICY_FILE": str(policy)}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        app = create_app(environ)
        yield House(app, app.test_client(use_cookies=False), environ)


class Change(NamedTuple):
    """One way to change something, and its row: event, kind and name of who did it, target."""

    act: Callable[[House], object]
    event: str
    kind: str
    name: str
    target: str
    outcome: str = audit.OK


def login(path: str, user: str) -> Change:
    return Change(lambda h: h.knock(path, user), audit.LOGIN, "user", user, f"{user}/ID")


def by_user(act: Callable[[House], object], event: str, target: str, user: str = PERSON) -> Change:
    return Change(act, event, "user", user, target)


def typed(act: Callable[[House], object], event: str, target: str) -> Change:
    return Change(act, event, "operator", SHELL.name, target)


def retire(house: House) -> None:
    kid = house.app.extensions["portero"].keys.keyring().signing().kid
    house.command("signing-keys", "retire", kid, "--now")


def restore(house: House) -> None:
    house.command("backup", "copy.db")
    house.command("restore", "copy.db")


def revoke_own(house: House) -> TestResponse:
    token = house.token(AGENT)
    return house.ask("POST", "/oauth/revoke", token, data={"token": token})


def delete_key(path: str, user: str) -> Callable[[House], object]:
    def act(house: House) -> TestResponse:
        key_id = house.key(house.token(PERSON))
        return house.ask("DELETE", f"{path}/{key_id}", house.token(user))

    return act


def revoke_by_form(house: House) -> TestResponse:
    token = house.token(PERSON)
    path = f"/account/keys/{house.key(token)}"
    return house.ask("POST", path, token, data={}, headers={"Accept": "text/html"})


def revoke_jti(house: House) -> None:
    house.token(PERSON)
    house.command("revoke", "--jti", house.jti())


def delete_session(house: House) -> TestResponse:
    house.token(PERSON)
    jti = house.jti()
    return house.ask("DELETE", f"/admin/api/sessions/{jti}", house.token(ADMIN))


def revoke_key(house: House) -> None:
    house.command("api-keys", "revoke", house.key(house.token(PERSON)))


def revoke(*words: str) -> Callable[[House], object]:
    def act(house: House) -> None:
        house.token(PERSON)
        house.command("revoke", *words)

    return act


def by_console(page: str, what: str, which: str) -> Callable[[House], object]:
    """The form that the console asks with, answered yes."""

    def act(house: House) -> TestResponse:
        house.token(PERSON)
        form = {"what": what, "which": which, "sure": "yes"}
        return house.ask("POST", f"/admin/{page}", house.token(ADMIN), data=form)

    return act


def key_by_console(house: House) -> TestResponse:
    key_id = house.key(house.token(PERSON))
    form = {"what": "key", "which": key_id, "sure": "yes"}
    return house.ask("POST", "/admin/keys", house.token(ADMIN), data=form)


def move(verb: str) -> Callable[[House], object]:
    """An LLM server, by the admin API."""
    return lambda h: h.ask("POST", f"/admin/api/servers/rack/{verb}", h.token(ADMIN), json={})


def put_back_by_api(house: House) -> None:
    move("take-out")(house)
    move("put-back")(house)


def put_back(house: House) -> None:
    house.command("servers", "take-out", "rack")
    house.command("servers", "put-back", "rack")


USER_KEYS = f"/admin/api/users/{PERSON}/keys"
#: Every endpoint and command that changes something.
CHANGES = {
    "POST /llm/login": login("/llm/login", USERS["agent_fast"]),
    "POST /auth/llm/login": login("/auth/llm/login", USERS["agent_fast"]),
    "POST /agi/login": login("/agi/login", AGENT),
    "POST /auth/agi/login": login("/auth/agi/login", AGENT),
    "POST /login": login("/login", PERSON),
    "POST /auth/login": login("/auth/login", PERSON),
    "POST /admin/login": login("/admin/login", ADMIN),
    "POST /oauth/token": login("/oauth/token", AGENT),
    "POST /oauth/revoke": by_user(revoke_own, audit.REVOKE, f"{AGENT}/ID", AGENT),
    "POST /logout": by_user(
        lambda h: h.ask("POST", "/logout", h.token(PERSON)), audit.LOGOUT, f"{PERSON}/ID"
    ),
    "POST /account/keys": by_user(
        lambda h: h.key(h.token(PERSON)), audit.API_KEY_CREATE, f"{PERSON}/ID"
    ),
    "DELETE /account/keys/<key_id>": by_user(
        delete_key("/account/keys", PERSON), audit.API_KEY_REVOKE, f"{PERSON}/ID"
    ),
    "POST /account/keys/<key_id>": by_user(revoke_by_form, audit.API_KEY_REVOKE, f"{PERSON}/ID"),
    "POST /admin/sessions": by_user(
        by_console("sessions", "user", PERSON), audit.REVOKE, PERSON, ADMIN
    ),
    "POST /admin/keys": by_user(key_by_console, audit.API_KEY_REVOKE, f"{PERSON}/ID", ADMIN),
    "POST /admin/users": by_user(
        by_console("users", "remove", PERSON), audit.USER_REMOVE, PERSON, ADMIN
    ),
    "POST /admin/servers": by_user(
        by_console("servers", "out", "rack"), audit.SERVER_OUT, "rack", ADMIN
    ),
    "POST /admin/api/servers/<name>/take-out": by_user(
        move("take-out"), audit.SERVER_OUT, "rack", ADMIN
    ),
    "POST /admin/api/servers/<name>/put-back": by_user(
        put_back_by_api, audit.SERVER_BACK, "rack", ADMIN
    ),
    "POST /admin/api/users/<name>/keys": by_user(
        lambda h: h.key(h.token(ADMIN), USER_KEYS), audit.API_KEY_CREATE, f"{PERSON}/ID", ADMIN
    ),
    "DELETE /admin/api/keys/<key_id>": by_user(
        delete_key("/admin/api/keys", ADMIN), audit.API_KEY_REVOKE, f"{PERSON}/ID", ADMIN
    ),
    "DELETE /admin/api/sessions/<jti>": by_user(
        delete_session, audit.REVOKE, f"{PERSON}/ID", ADMIN
    ),
    "DELETE /admin/api/users/<name>/sessions": by_user(
        lambda h: h.ask(
            "DELETE", f"/admin/api/users/{PERSON}/sessions", (h.token(PERSON), h.token(ADMIN))[1]
        ),
        audit.REVOKE,
        PERSON,
        ADMIN,
    ),
    "revoke": typed(revoke("--user", PERSON), audit.REVOKE, PERSON),
    "revoke --jti": typed(revoke_jti, audit.REVOKE, f"{PERSON}/ID"),
    "revoke --role": typed(revoke("--role", "user"), audit.REVOKE, "role user"),
    "revoke --all": typed(revoke("--all"), audit.REVOKE, "*"),
    "users add": typed(lambda h: h.command("users", "add", "USRSnew"), audit.USER_ADD, "USRSnew"),
    "users passwd": typed(
        lambda h: h.command("users", "passwd", PERSON), audit.USER_PASSWD, PERSON
    ),
    "users remove": typed(
        lambda h: h.command("users", "remove", PERSON), audit.USER_REMOVE, PERSON
    ),
    "api-keys create": typed(
        lambda h: h.command("api-keys", "create", PERSON, "--name", "x", "--days", "1"),
        audit.API_KEY_CREATE,
        f"{PERSON}/ID",
    ),
    "api-keys revoke": typed(revoke_key, audit.API_KEY_REVOKE, f"{PERSON}/ID"),
    "signing-keys add": typed(
        lambda h: h.command("signing-keys", "add", status=2), audit.KEY_ADD, "ID"
    ),
    "signing-keys retire": typed(retire, audit.KEY_RETIRE, "ID"),
    "servers take-out": typed(
        lambda h: h.command("servers", "take-out", "rack"), audit.SERVER_OUT, "rack"
    ),
    "servers put-back": typed(put_back, audit.SERVER_BACK, "rack"),
    "backup": typed(lambda h: h.command("backup", "copy.db"), audit.BACKUP, "PATH"),
    "restore": typed(restore, audit.RESTORE, "PATH"),
}
#: What changes nothing, or (`init`, `tls make`) makes files before there is a store. What
#: `reconcile` does by itself has tests below.
NO_CHANGES = {
    *("POST /validate", "POST /oauth/introspect", "POST /admin/policy"),
    *(
        "init",
        "check",
        "doctor",
        "explain",
        "servers",
        "reconcile",
        "sessions",
        "audit",
        "usage",
        "tls make",
    ),
    *("signing-keys list", "users list", "api-keys list"),
}


def words_of(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Every command that there is, by its words."""
    nested = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    if not any(one.required for one in nested):
        yield before
    for actions in nested:
        for name, inner in {v: k for k, v in reversed(actions.choices.items())}.items():
            yield from words_of(name, f"{before} {inner}".strip())


def test_every_endpoint_and_command_is_in_the_table(house: House) -> None:
    rules = house.app.url_map.iter_rules()
    unsafe = ("POST", "PUT", "PATCH", "DELETE")
    asked = {
        f"{one} {rule.rule}" for rule in rules for one in (rule.methods or ()) if one in unsafe
    }
    asked |= set(words_of(commands.parser(None)))
    assert asked - NO_CHANGES - CHANGES.keys() == set()
    assert NO_CHANGES - asked == set()


@pytest.mark.parametrize("name", CHANGES)
def test_a1_each_change_has_its_row(
    house: House,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    change = CHANGES[name]
    monkeypatch.chdir(tmp_path)
    caplog.set_level(0)
    lines = Lines(house.audit)
    change.act(house)
    row = house.rows(change.event)[-1]
    lines.tell()
    assert (row.kind, row.name, row.outcome) == (change.kind, change.name, change.outcome)
    assert row.address == (ADDRESS if change.kind == "user" else "")
    head = row.target.partition("/")[0]
    form = {"ID": row.target, "PATH": f"{tmp_path}/copy.db"}
    assert row.target == change.target.replace("/ID", row.target.removeprefix(head)).replace(
        change.target, form.get(change.target, change.target)
    )
    assert house.audit.verify().fault == ""
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    secrets = [*house.secrets, *map(password, USERS.values()), SECRET_KEY, SYNC_KEY, CANARY]
    secrets += [line for line in printed if line.startswith("sk-portero-")]
    told = json.dumps([one.shown for one in house.rows()]) + caplog.text
    assert not any(secret in told for secret in secrets)


def test_refused_logins_are_rows_of_the_user_and_never_of_a_name_that_is_nobodys(
    house: House,
) -> None:
    house.knock("/login", PERSON, CANARY)
    house.knock("/login", AGENT)
    house.knock("/oauth/token", AGENT, CANARY)
    house.knock("/login", CANARY, "x")
    told = [(row.name, row.target, row.address, row.outcome) for row in house.rows(audit.LOGIN)]
    assert told == [
        (PERSON, PERSON, ADDRESS, "wrong_credentials"),
        (AGENT, AGENT, ADDRESS, "wrong_endpoint"),
        (AGENT, AGENT, ADDRESS, "wrong_credentials"),
        ("", "", ADDRESS, "wrong_credentials"),
    ]
    assert CANARY not in str(house.rows())


@pytest.mark.parametrize("scope", [" ", "console", "inference everything"])
def test_a_login_whose_scope_is_not_granted_is_a_row_and_counted(house: House, scope: str) -> None:
    def count() -> float:
        labels = {"endpoint": "/oauth/token", "outcome": "invalid_scope"}
        return REGISTRY.get_sample_value("portero_logins_total", labels) or 0

    before = count()
    form = {"grant_type": "client_credentials", "scope": scope}
    secret = {"client_id": AGENT, "client_secret": password(AGENT)}
    answer = house.ask("POST", "/oauth/token", data=form | secret)
    assert answer.json
    assert (answer.status_code, answer.json["error"]) == (400, "invalid_scope")
    (row,) = house.rows(audit.LOGIN)
    assert (row.name, row.target, row.outcome) == (AGENT, AGENT, "invalid_scope")
    assert count() == before + 1


def test_a_flood_of_refused_logins_is_few_rows(house: House) -> None:
    for number in range(10):
        house.knock("/login", f"USRSnobody{number}", "x")
        house.knock("/login", PERSON, "x")
    house.app.extensions["portero"].refusals.close()
    rows = house.rows(audit.LOGIN)
    assert len(rows) <= 6  # a minute may end meanwhile
    assert sum(row.times for row in rows if row.name == PERSON) == 10
    assert sum(row.times for row in rows if not row.name) == 10


def test_a_login_that_no_gateway_acknowledges_is_told_as_such(house: House, free_port: int) -> None:
    app = create_app({**house.environ, "GATEWAY_URLS": f"http://127.0.0.1:{free_port}"})
    lonely = House(app, app.test_client(use_cookies=False), house.environ)
    assert lonely.knock("/login", PERSON).status_code == 503
    told = [(row.event, row.kind, row.outcome) for row in lonely.rows()][-3:]
    assert told == [
        (audit.LOGIN, "user", "ok"),
        (audit.REVOKE, "portero", "ok"),
        (audit.LOGIN, "user", "no_gateway_reached"),
    ]


def test_a_refused_api_key_is_a_row_with_the_reason(house: House) -> None:
    token = house.token(ADMIN)
    body = {"name": "x", "days": 1}
    assert house.ask("POST", f"/admin/api/users/{ADMIN}/keys", token, json=body).status_code == 403
    assert house.ask("POST", f"/admin/api/users/{CANARY}/keys", token, json=body).status_code == 404
    told = [(row.name, row.target, row.outcome) for row in house.rows(audit.API_KEY_CREATE)]
    assert told == [(ADMIN, ADMIN, "not_granted"), (ADMIN, "", "unknown_user")]


def test_an_api_key_that_ends_itself_is_the_actor_and_its_owner_is_found(house: House) -> None:
    key_id = house.key(house.token(PERSON))
    key = house.secrets[-1]
    assert house.ask("POST", "/oauth/revoke", key, data={"token": key}).status_code == 200
    row = house.rows(audit.API_KEY_REVOKE)[-1]
    assert (row.kind, row.name, row.target) == ("api_key", key_id, f"{PERSON}/{key_id}")
    assert row in house.audit.rows(9, user=PERSON)


def test_a_policy_that_is_taken_and_one_that_is_refused_are_rows_without_its_texts(
    house: House,
) -> None:
    policy: PolicyInForce = house.app.extensions["portero"].policy
    path = Path(house.environ["POLICY_FILE"])

    def put(text: str) -> None:
        path.write_text(text)
        for _ in range(2):
            policy.look()

    good = path.read_text()
    put(f"{CANARY}: 1\n{good}")
    put(good.replace("ttl_seconds: 900", "ttl_seconds: 901"))
    rows = house.rows(audit.POLICY)
    assert [row.outcome for row in rows] == ["ok", "refused", "ok"]
    assert [row.target.split(" (")[0] for row in rows] == ["policy 1", "1 faults", "policy 2"]
    assert {(row.kind, row.name) for row in rows} == {("portero", "portero")}
    assert CANARY not in str(rows)


def test_what_the_reconciler_does_by_itself_has_rows(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "PERIOD_SECONDS", 0.01)
    house.command("signing-keys", "add", status=2)
    house.token(PERSON)
    parts = assemble(config.read(), takes_policy=True)
    loop = Reconciler(parts.active, parts.gateways, parts.credentials, parts.keys, parts.policy)
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: bool(house.rows(audit.KEY_PROMOTE)), "the key signs")
        path = Path(house.environ["CREDENTIALS_FILE"])
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(PERSON)))
        wait_until(lambda: bool(house.rows(audit.REVOKE)), "the token is revoked")
    finally:
        stop.set()
        thread.join(20)
    row = house.rows(audit.REVOKE)[-1]
    assert (row.kind, row.target, row.outcome) == ("portero", PERSON, "ok")
    assert house.rows(audit.KEY_PROMOTE)[-1].target == house.rows(audit.KEY_ADD)[-1].target


def test_a_server_that_goes_down_and_comes_back_is_told_once_each(house: House) -> None:
    states = ["unknown", "up", "up", "down", "ejected", "misconfigured", "up"]
    told = iter([None, *([{"name": "rack", "state": state}] for state in states)])

    class Told(Gateway):
        def servers(self) -> list[dict[str, Any]] | None:
            rows = next(told)
            return rows and [*rows, {"name": CANARY, "state": "up"}]

    class Servers:
        name = "rack"
        servers = property(lambda self: [self])

        def in_force(self) -> "Servers":
            return self

    policy = cast(PolicyInForce, Servers())
    seen = ServersSeen(Told("http://g:8081", b""), house.audit)
    for _ in range(4):
        seen.look(policy)
    seen = ServersSeen(Told("http://g:8081", b""), house.audit)  # another process knows the rows
    for _ in range(4):
        seen.look(policy)
    rows = house.rows(audit.SERVER_UP) + house.rows(audit.SERVER_DOWN)
    rows.sort(key=lambda row: row.sequence)
    assert [(row.event, row.target, row.outcome) for row in rows] == [
        (audit.SERVER_UP, "rack", "ok"),
        (audit.SERVER_DOWN, "rack", "down"),
        (audit.SERVER_DOWN, "rack", "misconfigured"),
        (audit.SERVER_UP, "rack", "ok"),
    ]
    assert {row.address for row in rows} == {"http://g:8081"}


def test_each_row_from_a_workers_beginning_to_its_end_is_a_line_in_the_log(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "portero.audit")
    log = logging.getLogger("portero.audit")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    conf = runpy.run_path(str(config.POLICY_FILE.parents[1] / "issuer" / "gunicorn.conf.py"))
    before = house.audit.head()
    policy = Path(house.environ["POLICY_FILE"])
    policy.write_text(policy.read_text().replace("ttl_seconds: 900", "ttl_seconds: 901"))
    app = create_app(house.environ)
    worker = House(app, app.test_client(use_cookies=False), house.environ)
    worker.knock("/login", PERSON, CANARY)
    capsys.readouterr()
    conf["worker_exit"](None, SimpleNamespace(wsgi=app))
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [row["event"] for row in told] == [audit.POLICY, audit.LOGIN]
    assert [row["sequence"] for row in told] == [before + 1, house.audit.head()]
    assert told[-1]["hash"] == house.rows()[-1].hash


# Asking for rows.


def test_the_api_gives_pages_to_admins_alone(house: House) -> None:
    assert house.ask("GET", "/admin/api/audit").status_code == 401
    assert house.ask("GET", "/admin/api/audit", house.token(PERSON)).status_code == 403
    token = house.token(ADMIN)
    for number in range(5):
        house.audit.record(Event(SHELL, audit.USER_ADD, f"USRS{number}", user=f"USRS{number}"))
    first = house.ask("GET", "/admin/api/audit?limit=3&event=users.add", token).json
    assert first
    assert [row["target"] for row in first["audit"]] == ["USRS4", "USRS3", "USRS2"]
    assert first["audit"][0] == {
        "sequence": first["audit"][0]["sequence"],
        "time": first["audit"][0]["time"],
        "actor": {"kind": "operator", "name": SHELL.name},
        "address": "",
        "event": "users.add",
        "target": "USRS4",
        "outcome": "ok",
    }
    rest = f"/admin/api/audit?limit=3&event=users.add&before={first['next']}"
    second = house.ask("GET", rest, token).json
    assert second
    assert [row["target"] for row in second["audit"]] == ["USRS1", "USRS0"]
    assert second["next"] is None
    of_user = house.ask("GET", f"/admin/api/audit?user={PERSON}", token).json
    assert of_user
    assert [row["event"] for row in of_user["audit"]] == ["login"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=%D9%A1", "limit"),
        ("before=0", "before"),
        ("before=1e3", "before"),
        ("before=" + "9" * 30, "before"),
        ("user=", "user"),
        ("user=a%00b", "user"),
        ("user=" + "x" * 101, "user"),
        ("event=logins", "event"),
        ("other=1", "limit, before, user, event"),
    ],
)
def test_what_the_api_cannot_mean_is_400_and_says_what_may_be_asked(
    house: House, query: str, field: str
) -> None:
    answer = house.ask("GET", f"/admin/api/audit?{query}", house.token(ADMIN))
    assert answer.status_code == 400
    assert answer.json
    assert field in answer.json["error"]["message"]


def test_the_command_shows_rows_the_newest_first_in_lines_and_in_json(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.token(PERSON)
    house.knock("/login", PERSON, CANARY)
    house.audit.record()
    capsys.readouterr()
    house.command("audit", "--user", PERSON, "--event", "login", "--since", "1h")
    first, second = capsys.readouterr().out.splitlines()
    assert f"user:{PERSON}  {ADDRESS}  login  {PERSON}  wrong_credentials" in first
    assert f"login  {PERSON}/" in second
    house.command("audit", "--json", "--user", PERSON)
    told = json.loads(capsys.readouterr().out)["audit"]
    assert [row["outcome"] for row in told] == ["wrong_credentials", "ok"]
    house.command("audit", "--json", "--since", "2999-01-01")
    assert json.loads(capsys.readouterr().out) == {"audit": []}


def test_verify_says_which_row_is_the_first_that_is_wrong(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    house.token(PERSON)
    house.token(PERSON)
    house.command("audit", "verify")
    assert "are as they were written" in capsys.readouterr().out
    store = house.app.extensions["portero"].active.store
    with store.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM audit WHERE sequence = 2")
    house.command("audit", "verify", status=1)
    assert "row 2 is not there" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "yesterday", "1w", "2026-13-01", "-1d", "1000000000d"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="TIME is"):
        since(text)


@given(st.text() | st.datetimes().map(str) | st.from_regex(r"[0-9]{1,7}[a-z]", fullmatch=True))
def test_every_text_is_a_time_or_refused(text: str) -> None:
    with suppress(argparse.ArgumentTypeError):
        assert isinstance(since(text), int)


def test_times_may_be_given_as_a_day_as_a_moment_and_as_how_long_ago() -> None:
    assert since("2026-11-25") == since("2026-11-25T00:00:00Z") == 1_795_564_800
    assert since("2026-11-25T02:00:00+02:00") == 1_795_564_800
    assert abs(since("7d") - since("168h")) <= 1


# Refusals.


class Kept:
    """Keeps what it is given; away where it shall be."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    def record(self, *events: Event) -> None:
        if self.away:
            raise StoreUnavailable
        self.events += events


def refusal(user: str = PERSON, address: str = ADDRESS) -> Event:
    return Event(Actor(audit.USER, user, address), audit.LOGIN, user, "wrong_credentials", user)


def test_the_first_refusal_is_told_at_once_and_the_others_of_its_minute_together() -> None:
    kept, now = Kept(), [0.0]
    refusals = Refusals(cast(Audit, kept), clock=lambda: now[0])
    for _ in range(3):
        refusals.note(refusal())
        refusals.flush()
    assert [event.times for event in kept.events] == [1]
    now[0] = 60.0
    refusals.flush()
    assert [event.times for event in kept.events] == [1, 2]
    refusals.note(refusal())
    refusals.close()
    assert [event.times for event in kept.events] == [1, 2, 1]


def test_more_different_refusals_than_are_kept_are_counted_without_names() -> None:
    kept = Kept()
    refusals = Refusals(cast(Audit, kept), clock=lambda: 0.0)
    for number in range(MOST + 50):
        refusals.note(refusal(f"USRS{number}", f"192.0.2.{number % 256}"))
    refusals.close()
    assert len(kept.events) == MOST + 1
    assert kept.events[-1] == Event(
        Actor(audit.USER, ""), audit.LOGIN, "", "wrong_credentials", "", times=50
    )


def test_refusals_wait_for_a_store_that_is_away() -> None:
    kept = Kept()
    refusals = Refusals(cast(Audit, kept), clock=lambda: 0.0)
    kept.away = True
    for _ in range(2):
        refusals.note(refusal())
        with pytest.raises(StoreUnavailable):
            refusals.flush()
    kept.away = False
    refusals.close()
    assert sum(event.times for event in kept.events) == 2


def test_the_shell_is_named_by_the_system_and_not_by_a_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGNAME", CANARY)
    monkeypatch.setenv("USER", CANARY)
    assert audit.operator().name != CANARY


def test_an_outcome_is_the_name_of_the_error() -> None:
    assert audit.outcome_of(TooManyApiKeys()) == "too_many_api_keys"
    assert audit.outcome_of(Faults([])) == "faults"
