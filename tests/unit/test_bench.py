"""What `make bench` measures against has Portero's own lines, and must not fall behind them; what
its figures are made of.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.active_tokens import in_use, own_mebibytes
from bench.issuer import Denial, snapshot_bytes
from bench.load import Sample
from bench.servers import COMMON, PROXY, Server, asking, log_format, own_tls
from bench.table import HEAD, Taken, line
from issuer import certificates
from run.commands import ROOT


@pytest.mark.parametrize("has_tls", [False, True])
def test_nginx_takes_the_configuration_that_portero_is_measured_against(
    tmp_path: Path, has_tls: bool
) -> None:
    made = certificates.make(tmp_path / "tls", ("127.0.0.1",))
    content = PROXY.format(
        folder=tmp_path,
        name="plain",
        log_format=log_format(),
        asking=asking(),
        auth="",
        speaks=" ssl http2" if has_tls else "",
        own_tls=own_tls(made) if has_tls else "",
        port=1,
        upstream=2,
        issuer=3,
    )
    path = tmp_path / "plain.conf"
    path.write_text(COMMON.format(folder=tmp_path, name="plain", content=content))
    done = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-q", "-c", str(path), "-e", "stderr"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


def sample(rate: float, cpu: float, peak: float) -> Sample:
    return Sample(rate, cpu, cpu / 2, 1.5, 3.25, peak)


def test_a_row_tells_medians_with_least_and_most_and_compares_with_its_base() -> None:
    base = Taken([sample(2_000, 10, 20)], [Sample(1, 1, 1, 0.100, 1)])
    rates = ((500, 14.0, 30), (1_500, 12.0, 40), (1_000, 13.0, 90))
    mine = Taken([sample(*one) for one in rates], [Sample(1, 1, 1, p50, 1) for p50 in (0.2, 0.103)])
    cells = [cell.strip() for cell in line("Portero", mine, base).strip("|").split("|")]
    assert cells == [
        *("Portero", "1,000 (500-1,500)", "0.50", "13.0 (12.0-14.0)", "+3.0", "+1.5"),
        *("1.50", "3.25", "+52", "90"),
    ]
    assert len(cells) == HEAD.splitlines()[0].strip("|").count("|") + 1


def test_a_process_is_asked_for_the_most_memory_it_had_since_it_was_told_to_forget() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(64 << 20); del x; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout
        child.stdout.readline()
        server = Server("child", "", (child.pid,))
        peak = server.peak_mebibytes()
        server.forget_peak()
        assert peak > 64 > server.peak_mebibytes() > 1
    finally:
        child.communicate(b"\n", 10)


def test_what_is_one_process_own_is_read_without_what_it_shares() -> None:
    status = "VmRSS:\t  204800 kB\nRssAnon:\t   20480 kB\nRssShmem:\t  184320 kB\n"
    assert own_mebibytes(status) == 20


def test_rows_of_active_tokens_are_compared_where_as_many_are_in_use() -> None:
    assert in_use("1 active, 1 in use") == in_use("1,000,000 active, 1 in use")
    assert in_use("1 active, 1 in use") != in_use("10,000 active, 10,000 in use")


def test_a_denial_is_late_where_a_request_was_served_that_was_sent_after_the_answer() -> None:
    assert Denial(answered=0.002, refused=0.004, served=0.003).is_late
    assert not Denial(answered=0.002, refused=0.004, served=0.002).is_late


def test_a_snapshot_is_as_large_as_the_parts_that_the_reconciler_sends() -> None:
    part = json.dumps(
        {"step": "part", "generation": 1, "activate": [["A" * 22, 1_795_618_118]], "revoke": []},
        separators=(",", ":"),
    )
    assert snapshot_bytes(0) == 0
    assert snapshot_bytes(1) == len(part)
    more = len(part) + len(',["AAAAAAAAAAAAAAAAAAAAAA",1795618118]') * 4_999
    assert snapshot_bytes(10_001) == 2 * more + len(part)


def test_every_measurement_has_a_command_in_a_page_and_every_command_a_measurement() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    named = set(re.findall(r"make bench B=(\w+)", text)) | set(re.findall(r"-m bench\.(\w+)", text))
    bench = ROOT / "bench"
    files = {path: path.stem for path in bench.glob("*.py") if path.stem != "__main__"}
    files |= {path: path.parent.name for path in bench.glob("*/__main__.py")}
    modules = {
        name
        for path, name in files.items()
        if re.search(r"(?m)^def main\(.*\) -> int:", path.read_text())
    }
    assert {"bodies", "streams", "active_tokens", "issuer", "capacity", "peers"} <= modules
    assert named == modules
