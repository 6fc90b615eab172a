"""LLM_UPSTREAM as users write it: what goes on where a base URL should end, by both who read it."""

import itertools
import os
import subprocess

import pytest

from run import base_urls
from run.commands import ROOT
from run.terminal import RunError

PIECES = (
    "",
    "/v1",
    "/v10",
    "/xv1",
    "/v2",
    "/api",
    "/apis",
    "/chat",
    "/generate",
    "/completions",
    "/models",
    "/my-models",
    "/embeddings",
    "/tags",
    "/ollama",
    "/",
)

#: Reads lines of LLM_UPSTREAM, and answers each with the gateway's faults in one line.
JUDGE = """
local config = require("portero.config")
local values = { ISSUER_URL = "http://issuer", SYNC_KEY = ("x"):rep(32) }
for line in io.lines() do
    values.LLM_UPSTREAM = line
    local _, faults = config.read(function(name) return values[name] end, "openresty/conf")
    print(table.concat(faults, "; "))
end
"""


def gateways_faults(upstreams: list[str]) -> list[str]:
    done = subprocess.run(
        ["luajit", "-e", JUDGE],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        input="".join(f"{one}\n" for one in upstreams),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


#: What comes before the path: written well, and not.
BEGINNINGS = (
    "http://llm:8000",
    "https://llm.example",
    "http://my_llm-1:65535",
    "http://[::1]:8000",
    "https://[fe80::1]",
    "http://10.0.0.1",
    "http://l:1",
    "127.0.0.1:8000",
    "llm",
    "ftp://llm",
    "HTTP://llm",
    "http://",
    "http://:80",
    "http:/llm",
    "http://llm:65536",
    "http://llm:0",
    "http://llm:" + "9" * 200,
    "http://llm:",
    "http://llm:1:2",
    "http://llm-",
    "http://-llm",
    "http://u:SEEN@llm:1",
    "http://u@llm",
    "http://[::1",
    "http://::1",
    "http://[x]",
    "http://[]:1",
    "http://[::1]x",
    "http://[::1]:",
    "http://llm?x",
    "http://ll\\m",
    "http://llm;x",
    'http://llm/a"b',
    "http://llm/%41",
    "http://llm/./a",
    "http://llm/a/..",
    "http://llm//",
    "http://llé",
    "http:///llm",
    "http://http://llm",
)


def test_make_run_and_the_gateway_refuse_the_same_base_urls_in_the_same_words_u3() -> None:
    paths = {"".join(pieces) for pieces in itertools.product(PIECES, repeat=3)}
    urls = [f"http://llm:8000{path}" for path in sorted(paths) if "//" not in path]
    urls += [before + path for before in BEGINNINGS for path in ("", "/", "/v1", "/a/b~c/")]
    urls += [f"{one},{two}" for one in BEGINNINGS for two in ("http://b", "https://b/x/", "x")]
    urls += [",", " , ", "http://a http://b", " http://a/x ,, http://b/x/, "]
    assert len(urls) > 2000
    mine = ["; ".join(base_urls.faults(url)) for url in urls]
    assert mine == gateways_faults(urls)
    assert 0 < mine.count("") < len(urls)
    assert "SEEN" not in "".join(mine)


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("http://127.0.0.1:8000/v1", "/v1"),
        ("http://127.0.0.1:8000/v1/", "/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "/v1/chat/completions"),
        ("http://[::1]:11434/api", "/api"),
        ("http://127.0.0.1:11434/api/chat", "/api/chat"),
        ("https://proxy.lan/ollama/v1", "/v1"),
        ("http://127.0.0.1:8000/models", "/models"),
    ],
)
def test_a_base_url_that_goes_on_is_refused_in_one_line_that_says_what_to_leave_out_u3(
    url: str, route: str
) -> None:
    with pytest.raises(RunError) as caught:
        base_urls.check({"LLM_UPSTREAM": f"http://fine:1, {url}"})
    assert caught.value.lines == (
        f"LLM_UPSTREAM: number 2 ends in {route}: leave out {route}, a base URL is what comes "
        "before /v1 and /api",
    )


@pytest.mark.parametrize(
    "upstreams",
    ["http://a:1", "http://a/ollama,http://b/ollama/", "http://a/api/llm http://b/api/llm"],
)
def test_a_base_path_in_front_of_the_routes_is_none_of_their_business_u3(upstreams: str) -> None:
    assert base_urls.faults(upstreams) == []


def test_all_faults_of_a_list_are_told_at_once_and_none_where_there_is_no_list() -> None:
    with pytest.raises(RunError) as caught:
        base_urls.check({"LLM_UPSTREAM": "localhost:8000, http://a/v1, http://b, https://c"})
    assert caught.value.lines == (
        "LLM_UPSTREAM: number 1 is not http://HOST:PORT",
        "LLM_UPSTREAM: number 2 ends in /v1: leave out /v1, a base URL is what comes before /v1 "
        "and /api",
        "LLM_UPSTREAM: all servers must share one scheme and one path",
    )
    base_urls.check({})
