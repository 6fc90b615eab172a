"""The one reader of a caller's token."""

import json
import runpy
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from issuer.errors import TokenRefused
from issuer.tokens import presented_token
from tests.credential_forms import BAD, TOKENS, every_request

ROOT = Path(__file__).resolve().parents[3]
LUA_PATH = "openresty/lua/?.lua;tests/unit/lua/?.lua;;"

A, B = "aaa.bbb.ccc", "ddd.eee.fff"


@pytest.mark.parametrize(
    ("headers", "by_cookie"),
    [
        pytest.param({"Authorization": f"Bearer {A}"}, False, id="bearer"),
        pytest.param({"Authorization": f"bearer {A}"}, False, id="bearer in lower case"),
        pytest.param({"Authorization": f"BEARER {A}"}, False, id="bearer in capitals"),
        pytest.param({"Authorization": f"Bearer  {A}"}, False, id="two spaces _h4"),
        pytest.param({"Authorization": f" Bearer {A} \t"}, False, id="blanks around _h4"),
        pytest.param(
            {"Authorization": "Basic dTpw", "X-Api-Key": A}, False, id="a key beside Basic _h8"
        ),
        pytest.param(
            {"Authorization": "Basic dTpw", "Cookie": f"auth_token={A}"},
            True,
            id="a cookie beside Basic _h8",
        ),
        pytest.param({"X-Api-Key": A}, False, id="x-api-key"),
        pytest.param({"Cookie": f"auth_token={A}"}, True, id="cookie"),
        pytest.param({"Cookie": f"x=1; auth_token={A}; y=2"}, True, id="cookie among others"),
        pytest.param({"Cookie": f"x=1;auth_token={A};y=2"}, True, id="cookies without spaces"),
        pytest.param({"Cookie": f"a=b=c; auth_token={A}"}, True, id="cookie after an odd one"),
        pytest.param(
            {"Authorization": f"Bearer {A}", "X-Api-Key": A, "Cookie": f"auth_token={A}"},
            False,
            id="one token three times",
        ),
        pytest.param({"Cookie": f"auth_token={A}; auth_token={A}"}, True, id="same cookie twice"),
    ],
)
def test_one_token_is_read(headers: dict[str, str], by_cookie: bool) -> None:
    assert presented_token.read(headers.get) == presented_token.Presented(A, by_cookie)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"Cookie": ""}, id="no cookie"),
        pytest.param({"Cookie": f"AUTH_TOKEN={A}"}, id="H4 the name in capitals"),
        pytest.param({"Cookie": f"x=1,auth_token={A}"}, id="H4 after a comma"),
        pytest.param({"Cookie": f"xauth_token={A}"}, id="H4 a longer name"),
        pytest.param({"Cookie": f"auth_token2={A}"}, id="H4 another longer name"),
        pytest.param({"Cookie": f"auth_token ={A}"}, id="a space before the equals sign"),
        pytest.param({"Cookie": f"auth_token={A}; auth_token={B}"}, id="H4 two cookies"),
        pytest.param({"Authorization": f"Bearer {A}", "X-Api-Key": B}, id="bearer and key differ"),
        pytest.param(
            {"Authorization": f"Bearer {A}", "Cookie": f"auth_token={B}"},
            id="H2 bearer and cookie differ",
        ),
        pytest.param({"X-Api-Key": A, "Cookie": f"auth_token={B}"}, id="H2 key and cookie differ"),
        pytest.param(
            {"Authorization": "Bearer", "Cookie": f"auth_token={A}"},
            id="H2 no way back from a bad bearer to a good cookie",
        ),
        pytest.param(
            {"Authorization": f"Bearer\t{A}", "Cookie": f"auth_token={A}"},
            id="H2 no way back from a tab to a good cookie",
        ),
        pytest.param({"X-Api-Key": "", "Cookie": f"auth_token={A}"}, id="H2 nor from an empty key"),
    ],
)
def test_none_and_more_than_one_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(TokenRefused):
        presented_token.read(headers.get)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        f"Bearer\t{A}",
        f"Bearer \t{A}",
        f"Bearer {A} {B}",
        f"Bearer {A},{B}",
        f"Bearer {A}, Bearer {A}",
        f"Bearer: {A}",
        f"Token {A}",
        f"Basic {A}",
        f"Bearer={A}",
        f"Bearer\u00a0{A}",
        A,
        "",
    ],
)
def test_h3_no_other_authorization_gives_a_token_that_could_be_good(value: str) -> None:
    try:
        presented = presented_token.read({"Authorization": value}.get)
    except TokenRefused:
        return
    assert presented.token != A
    assert not presented.by_cookie


@pytest.mark.parametrize(
    "query", ["QUERY_STRING", "token", "access_token", "Proxy-Authorization", "X-Auth-Token"]
)
def test_i2_no_other_place_is_looked_at(query: str) -> None:
    with pytest.raises(TokenRefused):
        presented_token.read({query: A}.get)


def test_o4_a_space_after_the_cookie_is_part_of_it_as_at_the_gateway() -> None:
    assert presented_token.read({"Cookie": f"auth_token={A} ; x=1"}.get).token != A


# Both sides, one verdict.

Lines = Sequence[tuple[str, str]]


def as_gunicorn_hands_on(lines: Lines) -> Mapping[str, str]:
    """Names in capitals and values without blanks around; what is left of a name is joined."""
    conf = runpy.run_path(str(ROOT / "issuer" / "gunicorn.conf.py"))
    request = SimpleNamespace(headers=[(name.upper(), text.strip(" \t")) for name, text in lines])
    conf["pre_request"](None, request)
    found: dict[str, str] = {}
    for name, value in request.headers:
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def read_by_the_issuer(headers: Mapping[str, str]) -> tuple[str, bool]:
    try:
        presented = presented_token.read(lambda name: headers.get(name.upper()))
    except TokenRefused as refused:
        return ("!missing" if str(refused) == "no credential" else "!several"), False
    return presented.token, presented.by_cookie


def read_by_the_gateway(requests: Sequence[Lines]) -> list[tuple[str, bool]]:
    done = subprocess.run(
        ["luajit", "tests/unit/lua/read_credentials.lua"],
        input="".join(f"{json.dumps(lines)}\n" for lines in requests),
        env={"PATH": "/usr/bin:/bin", "LUA_PATH": LUA_PATH},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [(token, by_cookie) for token, by_cookie in map(json.loads, done.stdout.splitlines())]


def test_both_sides_read_every_way_to_carry_a_credential_alike_h4_h8_q3() -> None:
    requests = list(every_request())
    gateway = read_by_the_gateway([request.headers() for request in requests])
    assert len(gateway) == len(requests) > 10_000
    seen = set()
    for request, of_gateway in zip(requests, gateway, strict=True):
        of_issuer = read_by_the_issuer(as_gunicorn_hands_on(request.headers()))
        good = request.read in TOKENS
        for token, by_cookie in (of_gateway, of_issuer):
            told = (request.name, token)
            assert (token in TOKENS) == good, told
            assert (token == "!missing") == (request.read == ""), told
            if good:
                assert (token, by_cookie) == (request.read, request.by_cookie), told
        seen.add(request.read)
    assert seen == {*TOKENS, BAD, "several", ""}


def test_lines_of_a_header_that_is_there_once_stay_as_they_are_q3() -> None:
    lines = [("COOKIE", "a=1"), ("ACCEPT", "a"), ("ACCEPT", "b"), ("AUTHORIZATION", "x")]
    assert presented_token.one_of_each(lines) is lines
    assert presented_token.one_of_each([*lines, ("COOKIE", "b=2")]) == [
        *lines[1:],
        ("COOKIE", "a=1; b=2"),
    ]
