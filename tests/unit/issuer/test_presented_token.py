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
from tests.support.credential_forms import BAD, SEVERAL, TOKENS, every_request

ROOT = Path(__file__).resolve().parents[3]
LUA_PATH = "openresty/lua/?.lua;tests/unit/lua/?.lua;;"

A = "aaa.bbb.ccc"


@pytest.mark.parametrize(
    "name",
    [
        *("QUERY_STRING", "token", "access_token", "Proxy-Authorization", "X-Auth-Token"),
        *("Api-Key", "X-Forwarded-Authorization"),
    ],
)
def test_i2_no_other_place_is_looked_at(name: str) -> None:
    with pytest.raises(TokenRefused):
        presented_token.read({name: A}.get)


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
        # What gunicorn has joined, the issuer reads as one that can be no token.
        assert of_gateway == of_issuer or request.read == SEVERAL, request.name
        for token, by_cookie in (of_gateway, of_issuer):
            told = (request.name, token)
            assert (token in TOKENS) == good, told
            assert (token == "!missing") == (request.read == ""), told
            if good:
                assert (token, by_cookie) == (request.read, request.by_cookie), told
        seen.add(request.read)
    assert seen == {*TOKENS, BAD, SEVERAL, ""}


def test_lines_of_a_header_that_is_there_once_stay_as_they_are_q3() -> None:
    lines = [("COOKIE", "a=1"), ("ACCEPT", "a"), ("ACCEPT", "b"), ("AUTHORIZATION", "x")]
    assert presented_token.one_of_each(lines) is lines
    assert presented_token.one_of_each([*lines, ("COOKIE", "b=2")]) == [
        *lines[1:],
        ("COOKIE", "a=1; b=2"),
    ]
