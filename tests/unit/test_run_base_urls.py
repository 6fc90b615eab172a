"""LLM_UPSTREAM as users write it: what goes on where a base URL should end, by both who read it."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from run import base_urls
from run.commands import ROOT
from run.plan import read_plan
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


def test_make_run_and_the_gateway_refuse_the_same_base_urls_in_the_same_words_u3() -> None:
    paths = {"".join(pieces) for pieces in itertools.product(PIECES, repeat=3)}
    urls = [f"http://llm:8000{path}" for path in sorted(paths) if "//" not in path]
    assert len(urls) > 2000
    mine = ["; ".join(base_urls.faults(url)) for url in urls]
    assert mine == gateways_faults(urls)
    assert 0 < mine.count("") < len(urls)


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
        read_plan({"LLM_UPSTREAM": f"http://fine:1, {url}"}, Path("/here"))
    assert caught.value.lines == (
        f"LLM_UPSTREAM: number 2 ends in {route}: leave out {route}, a base URL is what comes "
        "before /v1 and /api",
    )


@pytest.mark.parametrize(
    "upstreams",
    ["http://a:1", "http://a/ollama,https://b/llm/", "http://a/api/llm http://b", "", "http://[x"],
)
def test_a_base_path_in_front_of_the_routes_is_none_of_their_business_u3(upstreams: str) -> None:
    assert base_urls.faults(upstreams) == []


def test_all_faults_of_a_plan_are_told_at_once() -> None:
    with pytest.raises(RunError) as caught:
        read_plan({"GATEWAY_PORT": "x", "LLM_UPSTREAM": "http://a/v1"}, Path("/here"))
    assert len(caught.value.lines) == 2
