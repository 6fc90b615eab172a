"""One measurement: `wrk` for a few seconds with tokens from a list, and the CPU it cost."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.servers import LOAD_CORE, Server

CONNECTIONS = 32

#: Each request takes the next token of the file, so that none is seen twice before all were. They
#: are written beforehand: else this script is what is measured.
SCRIPT = """
local headers = {{ ["Content-Type"] = "application/json" }}
local body = '{{"model":"tiny","messages":[{{"role":"user","content":"hi"}}]}}'
local requests, at = {{}}, 0
init = function()
    for token in io.lines("{tokens}") do
        headers["Authorization"] = "Bearer " .. token
        requests[#requests + 1] = wrk.format("POST", "/v1/chat/completions", headers, body)
    end
end
request = function()
    at = at % #requests + 1
    return requests[at]
end
"""


@dataclass(frozen=True)
class Sample:
    """What one run gave."""

    requests_a_second: float
    cpu_microseconds: float
    p50_milliseconds: float
    p99_milliseconds: float


def write_script(folder: Path, name: str, tokens: Sequence[str]) -> Path:
    """A wrk script that sends these tokens in turn."""
    listed = folder / f"{name}.tokens"
    listed.write_text("\n".join(tokens) + "\n")
    script = folder / f"{name}.lua"
    script.write_text(SCRIPT.format(tokens=listed))
    return script


def measure(server: Server, script: Path, seconds: int) -> Sample:
    """Load a server. Raises `AssertionError` if any answer was not 2xx."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    before = server.cpu_microseconds()
    run = subprocess.run(
        ["taskset", "-c", LOAD_CORE, *command, server.url], capture_output=True, text=True
    )
    spent = server.cpu_microseconds() - before
    assert "Non-2xx" not in run.stdout, f"{server.name}: {run.stdout}"
    found = re.search(r"(\d+) requests in", run.stdout)
    assert found, run.stdout + run.stderr
    count = int(found[1])
    return Sample(
        count / seconds,
        spent / count,
        _milliseconds(run.stdout, "50%"),
        _milliseconds(run.stdout, "99%"),
    )


def _milliseconds(text: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)\b", text)
    assert found, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]
