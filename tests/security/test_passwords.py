"""Secrets that are guessed (threats P): who guesses waits, and nobody else does."""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from run.commands import ROOT
from tests.security.conftest import Figure, size
from tests.security.house import Client, House
from tests.support.deployment import USERS, answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

#: A user, and every login endpoint that is his.
WAYS_IN = [
    ("AGNRTEST01", "/llm/login"),
    ("AGNRTEST02", "/auth/llm/login"),
    ("AGIATEST01", "/agi/login"),
    ("USRSTEST01", "/login"),
    ("MNTRTEST01", "/auth/login"),
    ("ADMNTEST01", "/admin/login"),
]
FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
OAUTH = ("/oauth/token", "/oauth/revoke", "/oauth/introspect")
HTML = "text/html,application/xhtml+xml"


@pytest.fixture(scope="module")
def places() -> Iterator[str]:
    """Addresses of which each is used once."""
    return (f"127.1.{number // 250}.{number % 250 + 1}" for number in count())


@pytest.fixture
def guesser(house: House, places: Iterator[str]) -> Client:
    return house.client(next(places))


@pytest.fixture
def elsewhere(house: House, places: Iterator[str]) -> Client:
    return house.client(next(places))


def guess(client: Client, user: str, path: str | None = None, times: int = 5) -> None:
    for number in range(times):
        assert client.log_in(user, f"guess {number}", path).status_code == 401


def must_wait(answer: requests.Response, at_most: int = 60) -> None:
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= at_most
    assert answer.headers["x-portero-code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(("user", "path"), WAYS_IN)
def test_p4_five_wrong_secrets_are_followed_by_429_with_the_right_one_too(
    guesser: Client, elsewhere: Client, user: str, path: str
) -> None:
    guess(guesser, user, path)
    answer = guesser.log_in(user, "another", path)
    must_wait(answer, at_most=1)
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    must_wait(guesser.log_in(user, path=path), at_most=1)
    # P5: in the same second he logs in from where he is.
    assert elsewhere.log_in(user, path=path).status_code in (200, 302)


def test_p4_a_browser_is_shown_the_form_and_how_long_to_wait(guesser: Client) -> None:
    guess(guesser, "USRSTEST01")
    answer = guesser.log_in("USRSTEST01", "another", Accept=HTML)
    must_wait(answer)
    assert 'name="password"' in answer.text
    assert "Try again in 1 second;" in answer.text


@pytest.mark.parametrize("path", OAUTH)
def test_p4_oauths_endpoints_are_login_endpoints_by_basic_and_in_the_body(
    guesser: Client, elsewhere: Client, path: str
) -> None:
    form = {"grant_type": "client_credentials", "token": "x"}
    secret = USERS["ADMNTEST01"][0]
    for number in range(4):
        wrong = {"client_id": "ADMNTEST01", "client_secret": f"guess {number}"}
        assert guesser.ask("POST", path, data=form | wrong).status_code == 401
        # Who asks with a token guesses at nothing.
        bearer = {"Authorization": "Bearer x"}
        assert guesser.ask("POST", path, data=form, headers=bearer).status_code == 401
    assert guesser.ask("POST", path, data=form, auth=("ADMNTEST01", "x")).status_code == 401
    answer = guesser.ask("POST", path, data=form, auth=("ADMNTEST01", secret))
    must_wait(answer)
    assert answer.json()["error"] == "temporarily_unavailable"
    assert elsewhere.ask("POST", path, data=form, auth=("ADMNTEST01", secret)).status_code == 200


def test_p4_a_form_is_a_form_behind_a_front_that_asks_for_basic_itself(guesser: Client) -> None:
    basic = {"Authorization": "Basic ZnJvbnQ6eA=="}
    assert guesser.log_in("USRSTEST01", **basic).status_code == 302
    assert guesser.log_in("USRSTEST01", "wrong", **basic).status_code == 401


def test_p4_a_guesser_gets_few_tries_a_minute_however_often_it_comes(guesser: Client) -> None:
    """Its first seconds; `guesses_spec.lua` has the hours."""
    statuses: list[int] = []
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        statuses.append(guesser.log_in("AGNRTEST01", "guess").status_code)
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 7
    again = partial(guesser.log_in, "AGNRTEST01", "guess")
    wait_for(lambda: again().status_code == 401, what="it may try once more")


@pytest.mark.parametrize(("user", "path"), [WAYS_IN[0], WAYS_IN[3]])
def test_p4_a_hundred_guesses_at_once_are_five(guesser: Client, user: str, path: str) -> None:
    with ThreadPoolExecutor(100) as pool:
        answered = pool.map(lambda n: guesser.log_in(user, f"guess {n}", path), range(100))
        statuses = Counter(answer.status_code for answer in answered)
    # More than a second later one more may be tried.
    assert statuses.keys() == {401, 429}
    assert 5 <= statuses[401] <= 7


def test_p4_one_name_in_many_spellings_is_one_name(guesser: Client) -> None:
    user = "USRSTEST01"
    part = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    parts = [part.format("username", user), part.format("password", "e")]
    spelled = f"{user[:3]}%{ord(user[3]):x}{user[4:]}"
    bodies = [
        (FORM, f"username={user}&password=a"),
        (FORM, f"password=b&user%6Eame={spelled}&username=x"),
        ("application/json", f'{{"user\\u006eame":"{user}","password":"c"}}'),
        ("application/json", f'{{"username":"x","password":"d","username":"{user}"}}'),
        (PARTS, "".join(f"--x\r\n{one}" for one in parts) + "--x--"),
    ]
    for kind, body in bodies:
        answer = guesser.ask("POST", "/login", headers={"Content-Type": kind}, data=body)
        assert answer.status_code == 401, (body, answer.text)
    must_wait(guesser.log_in(user))


def test_p4_a_name_that_gateway_and_issuer_read_in_two_ways_is_nobodys(guesser: Client) -> None:
    user, secret = "USRSTEST01", USERS["USRSTEST01"][0]
    as_json = f'{{"username":"{user}","password":"{secret}"}}'
    as_parts = (
        '--x\r\nx: y; name=z\r\nContent-Disposition: form-data; name="username"\r\n\r\n'
        f'{user}\r\n--x\r\nContent-Disposition: form-data; name="password"\r\n\r\n{secret}\r\n--x--'
    )
    kinds = {"application/json": as_json.encode("utf-16"), PARTS: as_parts.encode()}
    for kind, body in kinds.items():
        answer = guesser.ask("POST", "/login", headers={"Content-Type": kind}, data=body)
        assert answer.status_code == 401, kind
    plain = {"application/json": as_json, PARTS: as_parts.replace("x: y; name=z\r\n", "")}
    for kind, text in plain.items():
        answer = guesser.ask("POST", "/login", headers={"Content-Type": kind}, data=text)
        assert answer.status_code in (200, 302), kind


def test_p4_who_tries_one_name_after_another_waits_behind_fifty(
    guesser: Client, elsewhere: Client
) -> None:
    with ThreadPoolExecutor(2) as pool:
        answered = pool.map(lambda n: guesser.log_in(f"AGNRNOBODY{n}", "guess"), range(50))
        assert Counter(answer.status_code for answer in answered) == {401: 50}
    must_wait(guesser.log_in("AGNRNOBODYELSE", "guess"))
    must_wait(guesser.log_in("AGNFTEST01"))
    assert elsewhere.log_in("AGNFTEST01").status_code == 200


def test_p5_a_network_of_ipv6_is_one_guesser_and_its_neighbour_is_another(house: House) -> None:
    for number in range(5):
        guess(house.behind_front(f"2001:db8:0:7::{number + 1}"), "AGNRTEST01", times=1)
    must_wait(house.behind_front("2001:db8:0:7:ffff::1").log_in("AGNRTEST01"))
    assert house.behind_front("2001:db8:0:8::1").log_in("AGNRTEST01").status_code == 200


def test_p5_an_address_that_no_front_told_is_nobodys(guesser: Client) -> None:
    for number in range(5):
        headers = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-Ip": f"203.0.113.{number}"}
        answer = guesser.log_in("AGNRTEST01", "guess", **headers)
        assert answer.status_code == 401
    must_wait(guesser.log_in("AGNRTEST01", **{"X-Forwarded-For": "203.0.113.99"}))


def test_p4_what_is_refused_before_the_secret_is_looked_at_is_no_guess(guesser: Client) -> None:
    for _ in range(10):
        # Who asks without a credential is told which one is wanted, as clients do first.
        assert guesser.ask("POST", "/llm/login").status_code == 401
        other_site = {"Origin": "https://evil.example"}
        assert guesser.log_in("AGNRTEST01", "x", **other_site).status_code == 403
        assert guesser.log_in("AGNRTEST01", path="/agi/login").status_code == 403
    assert guesser.log_in("AGNRTEST01").status_code == 200


def test_n22_a_helper_that_logs_in_far_too_often_is_never_kept_out(guesser: Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answered = pool.map(lambda _: guesser.log_in("AGNFTEST01"), range(40))
        assert Counter(answer.status_code for answer in answered) == {200: 40}


NGINX = """
include /etc/nginx/modules-enabled/*.conf;
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{}}
http {{
    access_log off;
    lua_package_path "{root}/openresty/lua/?.lua;;";
    {dictionaries}
    init_by_lua_block {{ require("portero.quota.guesses").start() }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ content_by_lua_file {root}/tests/security/guess_flood.lua; }}
    }}
}}
"""


@pytest.fixture
def flood(tmp_path: Path) -> Iterator[Callable[[int], dict[str, Any]]]:
    """An nginx that has the gateway's counts of guesses, and nothing else of it."""
    (port,) = free_ports(1)
    declared = (ROOT / "openresty" / "conf" / "nginx.conf").read_text()
    dictionaries = re.findall(r"lua_shared_dict portero_(?:guesses|right_secrets) \w+;", declared)
    assert len(dictionaries) == 2
    text = NGINX.format(root=ROOT, port=port, dictionaries="\n    ".join(dictionaries))
    (tmp_path / "nginx.conf").write_text(text)
    (tmp_path / "modules").symlink_to("/usr/lib/nginx/modules")
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nginx
    words = [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    process = subprocess.Popen(words)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/?count=0", 200), what="nginx serves")
        yield lambda times: dict(requests.get(f"{url}/?count={times}", timeout=600).json())
    finally:
        process.terminate()
        process.wait(10)


def test_p5_a_flood_of_names_and_addresses_moves_no_count_and_takes_no_memory(
    flood: Callable[[int], dict[str, Any]], figure: Figure
) -> None:
    times = size(80_000)
    told = flood(times)
    figure(f"P5 {times} guesses of random users at random addresses: {told}")
    seen, known = told["seen"], told["known"]
    # As many as there is room for, and none that could not be counted.
    assert seen.keys() == {"wrong", "not_ready"}
    assert 60_000 < seen["wrong"] < 70_000
    # Who guesses is known as before, and the user is where he always was.
    assert known["user right"] == times // 1000
    assert known["guesser too_many_guesses"] > 0.9 * times // 1000 - 10
    assert told["after"] < told["before"] + 500
