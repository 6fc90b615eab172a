"""Whom Portero is measured beside: what their table is made of, and that none is a comparison that
is none.
"""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import mock
from bench.harness.__main__ import Alone, Outcome, Rung, most
from bench.harness.__main__ import line as harness_line
from bench.load import Sample
from bench.peers import entrants, programs
from bench.peers.entrants import MOCK, PLAIN, Entrant
from bench.peers.table import HEAD, lines
from bench.servers import Server
from bench.table import Taken
from tests.support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
VALUES = {"PORT": "1", "UPSTREAM": "2", "FOLDER": "/nowhere"}


def taken(rates: list[float], alone: list[float], cpu: float = 10, peak: float = 20) -> Taken:
    many = [Sample(rate, cpu, 1, 1.5, 3.25, peak) for rate in rates]
    return Taken(many, [Sample(1, 1, 1, p50, 1) for p50 in alone])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_shares_and_what_is_added_are_those_of_the_same_round() -> None:
    rows = {
        MOCK: taken([9_000, 9_000, 9_000], [0.010, 0.030, 0.020]),
        PLAIN: taken([2_000, 1_000, 500], [0.050, 0.070, 0.060]),
        "Portero": taken([1_000, 900, 400], [0.060, 0.080, 0.070], cpu=12.5, peak=70),
        "a slow one": taken([20, 1, 1], [1.010, 1.030, 1.020], cpu=5_000),
    }
    head, _, mocked, plain, mine, slow, absent = map(cells, lines(rows, ["Other: no node here"]))
    assert tuple(head) == HEAD
    assert mocked == ["the mock itself", "9,000 (9,000-9,000)", "", "", "1.50", "3.25", "", ""]
    assert plain[2] == "1.00 (1.00-1.00)"
    assert mine == [
        *("Portero", "900 (400-1,000)", "0.80 (0.50-0.90)", "12.5 (12.5-12.5)"),
        *("1.50", "3.25", "50 (50-50)", "70"),
    ]
    assert slow[2] == "0.002 (0.001-0.010)"
    assert absent == ["Other", "not here: no node here", *[""] * (len(HEAD) - 2)]


@contextmanager
def answering(refuses: bool) -> Iterator[Server]:
    """A server that answers as the mock does, to all or to who has the right token."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            is_right = self.headers["Authorization"] == "Bearer right"
            body = mock.ANSWER.encode()
            self.send_response(200 if is_right or not refuses else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"AGIATEST01 {self.headers['Authorization']}".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server("fake", f"http://127.0.0.1:{server.server_port}", ())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_who_lets_a_wrong_token_through_is_not_measured() -> None:
    wrong = {"no token": "", "another": "wrong"}
    with answering(refuses=True) as server:
        entrants.proven(Entrant("honest", server, "right", wrong))
    with (
        answering(refuses=False) as server,
        pytest.raises(AssertionError, match="open answers 200 to no token"),
    ):
        entrants.proven(Entrant("open", server, "right", wrong))


def test_who_does_not_serve_the_right_token_is_not_measured() -> None:
    with answering(refuses=True) as server, pytest.raises(AssertionError, match="closed: 401"):
        entrants.proven(Entrant("closed", server, "wrong"))


def test_who_shows_the_llm_server_the_token_is_not_measured_as_one_that_does_not() -> None:
    with answering(refuses=True) as server, pytest.raises(AssertionError, match="Bearer right"):
        entrants.proven(Entrant("telling", server, "right", tells=True))


def test_a_limit_that_is_not_in_force_is_not_measured() -> None:
    with (
        answering(refuses=True) as server,
        pytest.raises(AssertionError, match="does not show"),
    ):
        entrants.proven(Entrant("free", server, "right", shows=["x-ratelimit-limit-requests"]))


def test_a_token_in_a_peers_row_is_never_shown() -> None:
    row = Entrant("one", Server("one", "", ()), "the-token", {"another": "another-token"})
    assert "token" not in repr(row).replace("another-token", "the-token")


def test_who_cannot_be_had_is_told_of_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> programs.Program:
        raise programs.AbsentError("there is no node with npm here")

    for name in entrants.PEERS:
        monkeypatch.setitem(programs.FINDERS, name, away)
    with ExitStack() as stack:
        told = list(entrants.peers(entrants.Place(tmp_path, 1, stack), ["portkey", "envoy"]))
    assert len(told) == len(entrants.PEERS)
    assert "Portkey: there is no node with npm here" in told
    assert "LiteLLM proxy: asked for with --litellm, as it installs 650 MB" in told


@pytest.mark.parametrize("beyond", [True, False])
def test_haproxy_takes_its_configuration(tmp_path: Path, beyond: bool) -> None:
    path = tmp_path / "haproxy.cfg"
    values = {**VALUES, "SECRET": "x" * 64}
    path.write_text(entrants.configuration("haproxy.cfg", values, beyond))
    command = [*programs.program("haproxy").command, "-c", "-q", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert ("log stdout" in path.read_text()) is beyond


def test_caddy_takes_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "Caddyfile"
    path.write_text(entrants.configuration("Caddyfile", {**VALUES, "FOLDER": str(tmp_path)}))
    command = [*programs.program("caddy").command, "validate", "--adapter", "caddyfile"]
    done = subprocess.run(
        [*command, "--config", str(path)], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr


def test_lines_beyond_verifying_are_told_apart_in_envoys_configuration_too() -> None:
    values = {**VALUES, "JWKS": "{}"}
    alone = entrants.configuration("envoy.yaml", values, beyond=False)
    both = entrants.configuration("envoy.yaml", values)
    assert "jwt_authn" in alone
    assert not re.search("access_log|claim_to_headers", alone)
    assert re.search("(?s)access_log.*claim_to_headers", both)


def test_a_configuration_that_lacks_a_value_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="asks for a value"):
        entrants.configuration("haproxy.cfg", VALUES)


def test_every_peer_is_pinned_with_a_reason_and_told_of_in_the_docs() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert list(programs.listed()) == list(entrants.PEERS) == list(programs.FINDERS)
    for said in programs.listed().values():
        assert said["why"]
        assert said["from"] not in ("pypi", "npm") or re.fullmatch(r"[\d.]+", said["version"])
        assert f"{said['package'].partition('[')[0]}" in text, said["name"]


def test_what_npm_brings_is_locked_without_a_registry() -> None:
    lock = (programs.HERE / "package-lock.json").read_text()
    said = programs.listed()["portkey"]
    wanted = {said["package"]: said["version"]}
    assert json.loads(lock)["packages"][""]["dependencies"] == wanted
    assert not re.search(r"https?://", lock)


def test_the_most_that_is_carried_counts_only_where_the_tail_is_within_the_bound() -> None:
    rungs = [Rung(1_000, 0.5), Rung(9_000, 4.0), Rung(8_000, 20.0)]
    bounds = (0.1, 1.0, 5.0, 100.0, float("inf"))
    assert [most(rungs, bound) for bound in bounds] == ["", "1,000", "9,000", "9,000", "9,000"]


def test_the_harness_tells_what_is_added_to_the_mock_itself() -> None:
    rungs = {0: [Rung(5_000, 0.9), Rung(30_000, 8.0)], 20: [Rung(20_000, 40.0)]}
    one = Outcome("Portero", Alone(90.0, 150.0), rungs, "200", "210")
    assert cells(harness_line(one, Alone(40.0, 60.0))) == [
        *("Portero", "50", "90", "5,000", "5,000", "30,000", "30,000", "30,000", "30,000"),
        *("20,000", "200", "210"),
    ]
