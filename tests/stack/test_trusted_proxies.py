"""Behind a front: whose word on the client's address and on TLS counts; nobody else's does."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests

from run.commands import ROOT
from tests.support.deployment import USERS, Caller, Deployment
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

Anew = Callable[..., AbstractContextManager[Deployment]]
#: Where the tests come from in either runtime, and two ranges for fronts that are in front of it.
TRUSTED = "127.0.0.0/8, 10.0.0.0/8,172.16.0.0/12 ,192.168.0.0/16, fd00::/8"
CLIENT = "203.0.113.7"


@pytest.fixture
def trusting(anew: Anew) -> Iterator[Caller]:
    """Behind fronts that are named."""
    with anew(TRUSTED_PROXIES=TRUSTED) as running:
        yield Caller(running)


def sent_on(caller: Caller, token: str, upstream: Upstream, lines: list[str]) -> tuple[str, str]:
    """The address and the scheme that the LLM server is told for a request with these headers."""
    head = [
        "GET /health HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token}",
        "Connection: close",
        *lines,
    ]
    answer = caller.raw("\r\n".join([*head, "", ""]).encode())
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    seen = upstream.seen[-1]
    (address,), (scheme,) = seen.values("x-forwarded-for"), seen.values("x-forwarded-proto")
    assert seen.values("x-real-ip") == [address]
    return address, scheme


#: What a front sends -> what counts; None stands for the front's own address.
ADDRESSES: dict[tuple[str, ...], str | None] = {
    (): None,
    (CLIENT,): CLIENT,
    (f"  {CLIENT}  ",): CLIENT,
    (f"198.51.100.1, {CLIENT}",): CLIENT,
    (f"198.51.100.1,{CLIENT},10.1.2.3, 172.17.0.9",): CLIENT,
    ("198.51.100.1", CLIENT): CLIENT,
    (f"198.51.100.1, {CLIENT}", "10.1.2.3"): CLIENT,
    (f"{CLIENT}:51234",): CLIENT,
    ("2001:db8::7",): "2001:db8::7",
    ("[2001:db8::7]",): None,  # brackets are for a port
    ("[2001:db8::7]:443, fd00::1",): "2001:db8::7",
    ("10.1.2.3, 10.1.2.4",): "10.1.2.3",
    (f"evil, {CLIENT}",): CLIENT,
    (f"{CLIENT}, evil",): None,
    ("unknown",): None,
    ("",): None,
    ("203.0.113.7.evil.example",): None,
    (f"{CLIENT}, 999.1.1.1, 10.1.2.3",): "10.1.2.3",
    (f'{CLIENT}"; drop',): None,
}
#: What a front sends -> the scheme that counts.
SCHEMES: dict[tuple[str, ...], str] = {
    (): "http",
    ("https",): "https",
    ("HTTPS",): "https",
    ("http",): "http",
    ("http, https",): "https",
    ("https, http",): "http",
    ("",): "http",
    ("wss",): "http",
    ("https; x",): "http",
    ("httpsx",): "http",
    ("xhttps",): "http",
}


def lines_of(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"{name}: {value}" for value in values]


def test_a_front_that_is_named_says_who_asks_and_how_f3(
    trusting: Caller, upstream: Upstream
) -> None:
    token, own = trusting.token("AGIATEST01"), trusting.deployment.client_address
    for values, client in ADDRESSES.items():
        lines = lines_of("X-Forwarded-For", values)
        assert sent_on(trusting, token, upstream, lines)[0] == (client or own), values
    for values, scheme in SCHEMES.items():
        lines = lines_of("X-Forwarded-Proto", values)
        assert sent_on(trusting, token, upstream, lines) == (own, scheme), values


@pytest.mark.parametrize("setting", [None, "198.51.100.0/24, 2001:db8::/32"])
def test_nobody_elses_word_counts_f3(
    request: pytest.FixtureRequest, anew: Anew, upstream: Upstream, setting: str | None
) -> None:
    def check(caller: Caller) -> None:
        token, own = caller.token("AGIATEST01"), caller.deployment.client_address
        for values in ADDRESSES:
            lines = [*lines_of("X-Forwarded-For", values), "X-Forwarded-Proto: https"]
            lines += [f"X-Real-Ip: {CLIENT}", f"Forwarded: for={CLIENT};proto=https"]
            assert sent_on(caller, token, upstream, lines) == (own, "http"), values
        assert "Secure" not in cookie_of(caller, {"X-Forwarded-Proto": "https"})

    if setting is None:
        check(Caller(request.getfixturevalue("deployment")))
        return
    with anew(TRUSTED_PROXIES=setting) as running:
        check(Caller(running))


@pytest.mark.parametrize("name", ["X-Forwarded-Ssl", "X-Forwarded-Protocol", "Front-End-Https"])
def test_other_headers_of_fronts_change_nothing_and_break_nothing_f3(
    caller: Caller, upstream: Upstream, name: str
) -> None:
    for value in ("on", "ssl", "https", "garbage"):
        assert "Secure" not in cookie_of(caller, {name: value})
    url, login = caller.deployment.issuer, ("AGIATEST01", USERS["AGIATEST01"][0])
    for proto in ("http", "https"):
        headers = {name: "on", "X-Forwarded-Proto": proto}
        at_issuer = requests.post(f"{url}/agi/login", auth=login, headers=headers, timeout=10)
        assert at_issuer.status_code == 200
    assert caller.call(at_issuer.json()["token"], headers={name: "on"}).status_code == 200
    if name.startswith("X-Forwarded"):
        assert upstream.seen[-1].values(name.lower()) == []


@pytest.mark.in_containers_too
def test_the_access_log_has_the_clients_own_address_f3(trusting: Caller) -> None:
    headers = {"X-Forwarded-For": f"evil, {CLIENT}"}
    request_id = trusting.call("bad", headers=headers).headers["x-request-id"]

    def logged() -> list[str]:
        lines = trusting.deployment.output("gateway").splitlines()
        return [line for line in lines if request_id in line]

    (line,) = wait_for(logged, what="the line in the access log")
    assert f'"client":"{CLIENT}"' in line


def cookie_of(caller: Caller, headers: dict[str, str], path: str = "/login") -> str:
    """The flags of the cookie that a login or a logout sets."""
    secret, _ = USERS["USRSTEST01"]
    answer = requests.post(
        caller.deployment.gateway + path,
        data={"username": "USRSTEST01", "password": secret},
        headers=headers,
        allow_redirects=False,
        timeout=10,
    )
    return answer.headers["Set-Cookie"]


def test_over_tls_the_cookie_is_secure_and_over_plain_http_it_is_as_set_f3(
    trusting: Caller,
) -> None:
    for path in ("/login", "/auth/login", "/logout"):
        assert "; Secure;" in cookie_of(trusting, {"X-Forwarded-Proto": "https"}, path)
        for headers in ({}, {"X-Forwarded-Proto": "http"}):
            assert "Secure" not in cookie_of(trusting, headers, path)


FAULTY = {
    "localhost": [1],
    "10.0.0.0/33": [1],
    "10.0.0.0/8, *, 10.0.0": [2, 3],
    "10.0.0.256,::1/129,1.2.3.4/08,[::1]": [1, 2, 3, 4],
    "10.0.0.0/8 10.1.0.0/16": [1],
    "unix:": [1],
    "all": [1],
    "10.0.0.1; } server { listen 80": [1],
    "1:2:3:4:5:6:7": [1],
    "fe80::1%eth0": [1],
}


def checked(folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """What `gateway.sh check` says of settings, beside good ones."""
    key = folder / "sync_key"
    key.write_text("k" * 40)
    key.chmod(0o600)
    good = {
        "PATH": os.environ["PATH"],
        "GATEWAY_RUNTIME_DIR": str(folder),
        "LLM_UPSTREAM": "http://127.0.0.1:1",
        "ISSUER_URL": "http://127.0.0.1:2",
        "SYNC_KEY_FILE": str(key),
    }
    return subprocess.run(
        ["sh", str(ROOT / "openresty" / "gateway.sh"), "check"],
        env=good | settings,
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize("setting", FAULTY)
def test_all_faults_of_the_list_stop_the_start_at_once_f3(tmp_path: Path, setting: str) -> None:
    done = checked(tmp_path, TRUSTED_PROXIES=setting, GATEWAY_WORKERS="many")
    assert done.returncode == 1
    told = [line.strip() for line in done.stderr.splitlines() if "TRUSTED_PROXIES" in line]
    wanted = [f"TRUSTED_PROXIES: number {number} is no address" for number in FAULTY[setting]]
    assert [line.startswith(start) for line, start in zip(told, wanted, strict=True)] == [
        True for _ in wanted
    ]
    assert "GATEWAY_WORKERS" in done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        "",
        " , ",
        "10.0.0.1",
        "::1,::/0,0.0.0.0/0",
        "::ffff:10.0.0.1",
        TRUSTED,
        f"{TRUSTED},{TRUSTED}",
    ],
)
def test_what_is_an_address_or_a_range_is_taken_f3(tmp_path: Path, setting: str) -> None:
    done = checked(tmp_path, TRUSTED_PROXIES=setting)
    assert (done.returncode, done.stderr) == (0, "")
