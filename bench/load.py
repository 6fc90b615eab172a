"""One measurement: `wrk` for a few seconds with tokens from a list, and the CPU it cost."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.servers import LOAD_CORE, Server

CONNECTIONS = 32
NO_MORE: Mapping[str, str] = MappingProxyType({})
#: What people say to a model: words, quotes, a line's end, and letters that are not ASCII.
TEXT = (
    'Please read the following and tell me in one sentence what it says: "the gateway judges '
    'every request by itself".\n Ist das schön? ' + "It was a bright cold day in April. " * 20
)

#: How each script below ends: its requests in turn, and what they came to.
IN_TURN = """
request = function()
    at = at % #requests + 1
    return requests[at]
end
done = function(summary, latency)
    print(summary.requests, summary.errors.status, latency:percentile(50), latency:percentile(99))
end
"""

#: Each request takes the next token of the file, so that none is seen twice before all were. They
#: are written beforehand: else this script is what is measured.
SCRIPT = """
local headers = {{ ["Content-Type"] = "application/json"{more} }}
local body = io.open("{body}"):read("*a")
local requests, at = {{}}, 0
init = function()
    for token in io.lines("{tokens}") do
        headers["Authorization"] = "Bearer " .. token
        requests[#requests + 1] = wrk.format("POST", "/v1/chat/completions", headers, body)
    end
end
"""


LOGIN_SCRIPT = """
local requests, at = {{}}, 0
init = function()
    for authorization in io.lines("{lines}") do
        local headers = {{ ["Authorization"] = authorization }}
        requests[#requests + 1] = wrk.format("POST", "{endpoint}", headers)
    end
end
"""


@dataclass(frozen=True)
class Sample:
    """What one run gave."""

    requests_a_second: float
    cpu_microseconds: float
    user_microseconds: float
    p50_milliseconds: float
    p99_milliseconds: float
    peak_mebibytes: float = 0.0


def write_script(
    folder: Path,
    name: str,
    tokens: Sequence[str],
    size: int = 0,
    model: str = "tiny",
    more: Mapping[str, str] = NO_MORE,
) -> Path:
    """A wrk script that sends these tokens in turn, with a chat of about `size` bytes and `more`
    headers.
    """
    body = json.dumps({**chat_of(size), "model": model}).encode()
    return write_script_of(folder, name, tokens, body, more)


def write_script_of(
    folder: Path,
    name: str,
    tokens: Sequence[str],
    body: bytes,
    more: Mapping[str, str] = NO_MORE,
) -> Path:
    """The same, with this body."""
    listed, chat = folder / f"{name}.tokens", folder / f"{name}.body"
    listed.write_text("\n".join(tokens) + "\n")
    chat.write_bytes(body)
    script = folder / f"{name}.lua"
    headers = "".join(f', ["{name}"] = "{value}"' for name, value in more.items())
    script.write_text(SCRIPT.format(tokens=listed, body=chat, more=headers) + IN_TURN)
    return script


def write_login_script(folder: Path, endpoint: str, authorizations: Sequence[str]) -> Path:
    """A wrk script that logs these users in, in turn."""
    lines, script = folder / "logins.lines", folder / "logins.lua"
    lines.write_text("\n".join(authorizations) + "\n")
    script.write_text(LOGIN_SCRIPT.format(lines=lines, endpoint=endpoint) + IN_TURN)
    return script


def run_wrk(url: str, script: Path, connections: int, seconds: int) -> tuple[float, float, float]:
    """Requests a second, and the 50th and 99th percentile of their milliseconds. Raises
    `AssertionError` if any answer was not 2xx.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    count, refused, p50, p99 = map(float, run.stdout.splitlines()[-1].split())
    assert refused == 0, f"{script.stem}: {run.stdout}"
    return count / seconds, p50 / 1000, p99 / 1000


#: By protocol: what `h2load` is told, and how many requests a connection has under way at most.
H2LOAD: dict[str, tuple[tuple[str, ...], int]] = {"HTTP/1.1": (("--h1",), 1), "HTTP/2": ((), 4)}


def measure_tls(
    server: Server, token: Path, seconds: int, connections: int, protocol: str
) -> Sample:
    """The same over TLS, by `h2load`: `token` is a file with a token. As many requests are under
    way, whatever the protocol. Raises `AssertionError` if any answer was not 2xx. It takes headers
    as words alone; the token ends with the deployment.
    """
    log, body = token.with_suffix(".log"), token.with_suffix(".json")
    log.unlink(missing_ok=True)
    body.write_text(json.dumps(chat_of(0)))
    words, streams = H2LOAD[protocol]
    streams = min(streams, connections)
    command = ["h2load", *words, f"-c{connections // streams}", f"-m{streams}", "-t1"]
    command += [f"-D{seconds}", f"--log-file={log}"]
    command += ["-d", str(body), "-H", f"authorization: Bearer {token.read_text()}"]
    command += ["-H", "content-type: application/json", f"{server.url}/v1/chat/completions"]
    told, cpu, user, peak = _while_loaded(server, command)
    assert re.search(r"(?m)^TLS Protocol: TLSv1\.3$", told), told
    answers = [line.split("\t") for line in log.read_text().splitlines()]
    assert {status for _, status, _ in answers} == {"200"}, told
    taken = sorted(int(microseconds) for _, _, microseconds in answers)
    count = len(taken)
    p50, p99 = taken[count // 2] / 1000, taken[count * 99 // 100] / 1000
    return Sample(count / seconds, cpu / count, user / count, p50, p99, peak)


def chat_of(size: int) -> dict[str, Any]:
    """A conversation, a line of text after the other, of at most so many bytes as JSON."""
    line = {"role": "user", "content": TEXT}
    count = (size - 100) // (len(json.dumps(line)) + 2)
    return {"model": "tiny", "messages": [line] * count or [{"role": "user", "content": "hi"}]}


def measure(server: Server, script: Path, seconds: int, connections: int = CONNECTIONS) -> Sample:
    """Load a server. Raises `AssertionError` if any answer was not 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), server.url]
    told, cpu, user, peak = _while_loaded(server, command)
    count, refused, p50, p99 = map(float, told.splitlines()[-1].split())
    assert count, f"{server.name}, {script.stem}: nothing was answered in {seconds} s"
    assert refused == 0, f"{server.name}, {script.stem}: {told}"
    return Sample(count / seconds, cpu / count, user / count, p50 / 1000, p99 / 1000, peak)


def _while_loaded(server: Server, command: Sequence[str]) -> tuple[str, float, float, float]:
    """What a load says, and what it cost the server: microseconds of CPU, those of them in user
    mode, and its peak of memory in MiB.
    """
    server.forget_peak()
    before = server.cpu_microseconds()
    run = subprocess.run(["taskset", "-c", LOAD_CORE, *command], capture_output=True, text=True)
    cpu, user = (a - b for a, b in zip(server.cpu_microseconds(), before, strict=True))
    assert run.returncode == 0, run.stderr
    return run.stdout, cpu, user, server.peak_mebibytes()
