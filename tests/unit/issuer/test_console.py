"""What the console's forms change, say and count, and whom they refuse; by the whole application.
`tests/browser/test_console.py` has the pages as people see them.
"""

import gzip
import html
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from issuer import create_app
from issuer.audit import LOGIN, Actor, Event
from issuer.errors import StoreUnavailable
from issuer.store import OF_API_KEY, Addition, ApiKey, Session, database
from issuer.store.audit import Audit
from issuer.users import credentials
from issuer.web import pages
from issuer.web.console import SHOWN
from tests.conftest import USERS, password
from tests.support.fake_gateway import FakeGateway
from tests.support.listening import Message, Reply, listening

PERSON, ADMIN = USERS["user"], USERS["admin"]
NEW = "USRSnew"


@dataclass
class House:
    """An issuer whose gateway may stop to answer."""

    app: Flask
    client: FlaskClient
    credentials: Path
    database: Path
    down: list[bool] = field(default_factory=list)

    def token(self, user: str, **form: str) -> str:
        form |= {"grant_type": "client_credentials", "client_id": user}
        form |= {"client_secret": password(user)}
        answer = self.client.post("/oauth/token", data=form)
        assert answer.json, answer.text
        return str(answer.json["access_token"])

    def ask(self, token: str, path: str, **form: str) -> TestResponse:
        headers = {"Authorization": f"Bearer {token}"}
        return self.client.open(
            path, method="POST" if form else "GET", data=form or None, headers=headers
        )

    def change(self, token: str, path: str, what: str, which: str = PERSON) -> TestResponse:
        return self.ask(token, path, what=what, which=which, sure="yes")

    def is_valid(self, token: str) -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        return self.client.get("/validate", headers=headers).status_code == 200


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> Iterator[House]:
    monkeypatch.setattr(credentials, "COST", 10)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    gateway, down = FakeGateway(), list[bool]()

    def answer(message: Message) -> Reply:
        return Reply(500) if down else gateway.answer(message)

    with listening(answer) as listener:
        app = create_app(environ | {"GATEWAY_URLS": listener.url})
        yield House(
            app,
            app.test_client(use_cookies=False),
            Path(environ["CREDENTIALS_FILE"]),
            Path(environ["DATABASE_URL"].removeprefix("sqlite:///")),
            down,
        )


@pytest.mark.parametrize(("what", "which"), [("add", NEW), ("renew", PERSON)])
def test_a_narrowed_token_gets_no_secret_which_would_do_more_than_itself(
    house: House, what: str, which: str
) -> None:
    narrowed, before = house.token(ADMIN, scope="console"), house.credentials.read_text()
    for sure in ("", "yes"):
        answer = house.ask(narrowed, "/admin/users", what=what, which=which, sure=sure)
        assert answer.status_code == 403
        assert answer.headers["X-Portero-Code"] == "insufficient_permissions"
    assert house.credentials.read_text() == before
    assert house.change(house.token(ADMIN), "/admin/users", what, which).status_code == 200
    assert house.credentials.read_text() != before


def test_a_narrowed_token_ends_what_a_whole_one_does(house: House) -> None:
    narrowed, theirs = house.token(ADMIN, scope="console"), house.token(PERSON)
    assert house.change(narrowed, "/admin/users", "remove").status_code == 200
    assert not house.is_valid(theirs)


@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize(
    ("path", "what", "text"),
    [
        ("/admin/users", "renew", "console.renewed"),
        ("/admin/users", "remove", "console.removed"),
        ("/admin/sessions", "user", "console.ended"),
    ],
)
def test_a_change_says_how_many_it_ended_and_whether_every_gateway_knows(
    house: House, path: str, what: str, text: str, is_down: bool
) -> None:
    admin, theirs = house.token(ADMIN), house.token(PERSON)
    house.down += [True] * is_down
    answer = house.change(admin, path, what)
    said = pages.texts("en")[f"{text}_pending" if is_down else text]
    assert said.format(which=PERSON, count=1) in answer.text
    assert not house.is_valid(theirs)


def count() -> float:
    return REGISTRY.get_sample_value("portero_revocations_total", {"way": "admin"}) or 0


def key_id(house: House) -> str:
    headers = {"Authorization": f"Bearer {house.token(PERSON)}"}
    made = house.client.post("/account/keys", json={"name": "x", "days": 1}, headers=headers)
    assert made.json
    return str(made.json["id"])


@pytest.mark.parametrize(
    ("path", "what", "which", "counted"),
    [
        ("/admin/users", "add", NEW, 0),
        ("/admin/users", "add", "nobody", 0),
        ("/admin/users", "renew", NEW, 0),
        ("/admin/users", "renew", PERSON, 1),
        ("/admin/users", "remove", PERSON, 1),
        ("/admin/sessions", "user", PERSON, 1),
        ("/admin/sessions", "session", "JTI", 1),
        ("/admin/keys", "key", "KEY", 1),
    ],
)
def test_what_ends_sessions_is_counted_as_a_revocation_and_nothing_else(
    house: House, path: str, what: str, which: str, counted: int
) -> None:
    admin, theirs = house.token(ADMIN), house.token(PERSON)
    claims: dict[str, Any] = jwt.decode(theirs, options={"verify_signature": False})
    meant = {"JTI": str(claims["jti"]), "KEY": key_id(house)}.get(which, which)
    before = count()
    house.ask(admin, path, what=what, which=meant)
    assert count() == before, "it was asked whether they are sure"
    house.change(admin, path, what, meant)
    assert count() == before + counted


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Somebody writes to the store, and does not come to an end."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


@pytest.mark.parametrize(("what", "which"), [("add", NEW), ("renew", PERSON), ("remove", PERSON)])
def test_while_the_store_cannot_be_written_no_user_is_changed(
    house: House, what: str, which: str
) -> None:
    admin, before = house.token(ADMIN), house.credentials.read_text()
    with held(house.database):
        assert house.change(admin, "/admin/users", what, which).status_code == 503
        assert house.credentials.read_text() == before
    assert house.change(admin, "/admin/users", what, which).status_code == 200
    assert house.credentials.read_text() != before


@pytest.mark.parametrize("what", ["renew", "remove"])
def test_what_was_issued_is_ended_though_it_can_have_no_row(
    house: House, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailable("session store: full")

    admin, theirs = house.token(ADMIN), house.token(PERSON)
    monkeypatch.setattr(Audit, "record", fail)
    assert house.change(admin, "/admin/users", what).status_code == 503
    assert not house.is_valid(theirs)


# What is shown.


def test_the_api_lists_users_in_the_order_of_the_file_and_tells_no_secret(house: House) -> None:
    with house.credentials.open("a") as file:
        file.write("MNTRplain=written-out-in-full\n")
    answer = house.ask(house.token(ADMIN, scope="console"), "/admin/api/users")
    assert answer.status_code == 200
    hashed = [{"name": name, "role": role, "secret": "hash"} for role, name in USERS.items()]
    plain = {"name": "MNTRplain", "role": "monitoring", "secret": "plain text"}
    assert answer.json == {"users": [*hashed, plain]}
    assert house.ask(house.token(PERSON), "/admin/api/users").status_code == 403


def test_of_a_faulty_file_the_api_says_the_faults_and_no_line_of_it(house: House) -> None:
    admin = house.token(ADMIN)
    with house.credentials.open("a") as file:
        file.write("XXXXnobody=written-out-in-full\n")
    answer = house.ask(admin, "/admin/api/users")
    assert answer.json
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "not_ready")
    assert f"line {len(USERS) + 1}" in answer.json["error"]["message"]
    assert "written-out" not in answer.text


def many_users(house: House) -> None:
    (line,) = (one for one in house.credentials.read_text().splitlines() if PERSON in one)
    secret = line.partition("=")[2]
    with house.credentials.open("a") as file:
        file.writelines(f"USRS{number:03}={secret}\n" for number in range(SHOWN))


def many_keys(house: House) -> None:
    store, now = house.app.extensions["portero"].active.store, int(time.time())
    for number in range(SHOWN + len(USERS)):
        key = ApiKey(f"{number:064}", "x", (), ADMIN)
        session = Session(f"{number:016}", PERSON, "user", now, now + 900, OF_API_KEY, api_key=key)
        store.add(session, 1_000, now)


def much_usage(house: House) -> None:
    day = datetime.now(UTC).date().isoformat()
    rows = [
        [day, f"USRS{number:03}", "token", "tiny", "llm", 1, 3, 2]
        for number in range(SHOWN + len(USERS))
    ]
    house.app.extensions["portero"].usage.add("life", 1, rows)


@pytest.mark.parametrize(
    ("page", "fill", "text"),
    [
        ("users", many_users, "console.cut"),
        ("keys", many_keys, "console.cut"),
        ("usage", much_usage, "console.cut_usage"),
    ],
)
def test_a_page_that_does_not_show_all_says_so(
    house: House, page: str, fill: Callable[[House], None], text: str
) -> None:
    admin, count = house.token(ADMIN), SHOWN + len(USERS)
    said = pages.texts("en")[text]
    assert said.partition("{")[0] not in house.ask(admin, f"/admin/{page}").text
    fill(house)
    shown = html.unescape(house.ask(admin, f"/admin/{page}").text)
    assert said.format(shown=SHOWN, count=count) in shown


SESSIONS = 10_000


def many_sessions(house: House) -> None:
    """The first is somebody else's, and of another role."""
    store, now = house.app.extensions["portero"].active.store, int(time.time())
    additions = [
        Addition(Session(f"{number:022}", "USRS%dd", "user", now, now + 900, "other"))
        for number in range(1, SESSIONS)
    ]
    first = Addition(Session("0" * 22, "AGIA_first", "agi", now, now + 900, "other"))
    store.add_each([first, *additions], 2 * SESSIONS, now)


def many_rows(house: House) -> None:
    actor = Actor("user", "AGIA_first", "192.0.2.1")
    events = [Event(actor, LOGIN, f"AGIA_first/{number}") for number in range(2_000)]
    house.app.extensions["portero"].audit.record(*events)


@pytest.mark.parametrize(
    ("page", "fill"),
    [
        ("sessions", many_sessions),
        ("users", many_users),
        ("keys", many_keys),
        ("usage", much_usage),
        ("audit", many_rows),
    ],
)
def test_a_page_is_as_long_as_it_gets_however_much_there_is(
    house: House, page: str, fill: Callable[[House], None]
) -> None:
    admin = house.token(ADMIN)
    fill(house)
    shown = house.ask(admin, f"/admin/{page}").text
    assert 50 < shown.count("<tr>") <= SHOWN + 1
    assert len(gzip.compress(shown.encode())) < 30 * 1024


@pytest.mark.parametrize("asked", ["agia_FIRST", "0" * 22, "agi"])
def test_a_filter_finds_a_session_behind_thousands_that_are_newer(house: House, asked: str) -> None:
    admin = house.token(ADMIN)
    many_sessions(house)
    assert "AGIA_first" not in house.ask(admin, "/admin/sessions").text
    shown = house.ask(admin, f"/admin/sessions?filter={asked}").text
    assert shown.count('<th scope="row"') == 1
    assert "AGIA_first" in shown


def test_what_is_special_to_the_database_is_a_letter_to_a_filter(house: House) -> None:
    admin = house.token(ADMIN)
    many_sessions(house)
    for asked, count in (("%25d", SHOWN), ("%25", SHOWN), ("S%25d", SHOWN), ("A_f", 1), ("R_", 0)):
        shown = house.ask(admin, f"/admin/sessions?filter={asked}").text
        assert shown.count('<th scope="row"') == count, asked


def test_a_filter_of_keys_goes_by_owner_and_name_behind_thousands(house: House) -> None:
    admin = house.token(ADMIN)
    many_keys(house)
    store, old = house.app.extensions["portero"].active.store, int(time.time()) - 60
    key = ApiKey("f" * 64, "Old laptop", (), ADMIN)
    store.add(
        Session("f" * 16, PERSON, "user", old, old + 900, OF_API_KEY, api_key=key), 1_000, old
    )
    assert "Old laptop" not in house.ask(admin, "/admin/keys").text
    shown = house.ask(admin, "/admin/keys?filter=old lap").text
    assert shown.count('<th scope="row"') == 1
    assert "Old laptop" in shown
