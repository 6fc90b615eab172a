"""`make bench B=peers` proves everyone before it measures: each peer's program takes its
configuration, serves the right token, and refuses wrong ones if it authenticates at all. And the
manifest of bench/harness launches a Portero that counts and refuses.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from bench import mock
from bench.harness.__main__ import HERE, PATH, launched
from bench.peers import entrants, programs
from run.commands import ROOT
from tests.stack.clients.enclosed import why_not
from tests.stack.clients.npm import leave_out
from tests.support.ports import free_ports

#: Its packages are 650 MB.
ASKED_FOR = {"litellm"}
#: Rows of each that is measured without being asked for.
ROWS = {"HAProxy": 2, "Envoy": 2, "Caddy": 1, "Portkey": 1}
AUTHENTICATE = ("HAProxy", "Envoy", "Portero", "nginx auth_request")


def test_every_peer_serves_and_refuses_as_it_is_said_to() -> None:
    if why := why_not() or ("" if os.geteuid() == 0 else "this is not root"):
        leave_out(f"peers are not proven: {why}")
    command = [sys.executable, "-m", "bench.peers", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    absent = dict(re.findall(r"(?m)^not here: (.*?): (.*)$", done.stdout))
    names = {programs.listed()[one]["name"] for one in set(entrants.PEERS) - ASKED_FOR}
    if missing := names & absent.keys():
        leave_out(f"peers that cannot be had: {missing}")
    proven = dict(re.findall(r"(?m)^proven: (.*?): serves; refuses (.*)$", done.stdout))
    for name, count in ROWS.items():
        assert sum(row.startswith(name) for row in proven) == count, name
    for row, refused in proven.items():
        authenticates = row.startswith(AUTHENTICATE)
        assert authenticates is ("a token of another key" in refused), row
        assert authenticates or "no authentication" in row or row == entrants.MOCK


def test_the_manifest_launches_a_portero_that_counts_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    for name, port in zip(("GW_PORT", "INTERNAL_PORT", "ISSUER_PORT"), free_ports(3), strict=True):
        monkeypatch.setenv(name, str(port))
    with mock.mock(tmp_path) as port, launched(HERE / "portero", port) as gateway:
        assert gateway
        body = {"model": gateway.model, "messages": [{"role": "user", "content": "hi"}]}

        def ask(key: str) -> requests.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return requests.post(gateway.url + PATH, json=body, headers=headers, timeout=10)

        served = ask(gateway.key)
        assert served.status_code == 200
        assert {"x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"} <= served.headers.keys()
        assert ask(gateway.key[:-1] + "!").status_code == 401
        body["model"] = "another"
        assert ask(gateway.key).status_code == 404
        assert 50 < int(gateway.ask("rss")) <= int(gateway.ask("hwm"))
    with pytest.raises(requests.ConnectionError):
        ask(gateway.key)
