"""`python -m bench.renewals [SECONDS]`: 10,000 agents with tokens of 60 seconds, who renew them a
little before they end, beside 5,000 judged requests a second.

1,000 users stand for ten agents each, as each one's first login costs a bcrypt before the measuring
begins. Judged are tokens of every age, those of the last second among them, taken anew from the
renewals each second. It tells how many requests and renewals were refused, and how many renewals
came after the token they replace had ended.
"""

import heapq
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.logins import ENDPOINT, WORD, Client, log_in_each, names, percentile, with_users
from bench.servers import tiny_upstream
from tests.support.deployment import basic

USERS, AGENTS_EACH = 1_000, 10
LIFETIME_SECONDS, RENEWED_AFTER_SECONDS = 60, 50
#: Judged are tokens that have longer to go than the sample is used.
LEFT_SECONDS = 4
JUDGED_A_SECOND = 5_000
#: Connections that each ask, wait for so long, and ask again.
PAUSE_MILLISECONDS = 10
SAMPLE = 400
CLIENTS = 16
#: The cheapest hash that is taken: setting up is not what is measured.
COST = 10

#: Like the script of `load.py`, but at a steady rate, and with tokens that are read anew.
SCRIPT = """
local requests, at, read_at = {{}}, 0, 0
local headers = {{ ["Content-Type"] = "application/json" }}
local body = '{{"model":"tiny","messages":[{{"role":"user","content":"hi"}}]}}'
local function read()
    requests, at, read_at = {{}}, 0, os.time()
    for token in io.lines("{tokens}") do
        headers["Authorization"] = "Bearer " .. token
        requests[#requests + 1] = wrk.format("POST", "/v1/chat/completions", headers, body)
    end
end
request = function()
    if os.time() ~= read_at then
        read()
    end
    at = at % #requests + 1
    return requests[at]
end
delay = function()
    return {pause}
end
done = function(summary, latency)
    print(summary.requests, summary.errors.status + summary.errors.timeout,
        latency:percentile(50), latency:percentile(99))
end
"""


class Agents:
    """All agents: whose token is due next, the tokens in use, and what their renewals took."""

    def __init__(self, url: str, listed: Path) -> None:
        self._url = url
        self._listed = listed
        self._users = [basic(name, WORD) for name in names(USERS)]
        self._tokens: dict[int, tuple[str, float]] = {}
        self._due: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.taken: list[float] = []
        self.refused = self.late = 0

    def begin(self) -> None:
        """A token for each; their ends are spread over the lifetime as they come."""
        renewing = [threading.Thread(target=self._renew) for _ in range(CLIENTS)]
        self._threads = [*renewing, threading.Thread(target=self._pace)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No more of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def write_sample(self) -> None:
        """Some of the tokens in use, the newest among them, for the judged requests."""
        soon = time.monotonic() + LEFT_SECONDS
        known = [one for one in list(self._tokens.values()) if one[1] > soon]
        known.sort(key=lambda one: -one[1])
        chosen = known[: SAMPLE // 4] + random.sample(known, min(len(known), SAMPLE))
        beside = self._listed.with_suffix(".new")
        beside.write_text("".join(f"{token}\n" for token, _ in chosen))
        os.replace(beside, self._listed)

    def _pace(self) -> None:
        """Each agent at its time, the first ones as if it had always been so."""
        began, count = time.monotonic(), USERS * AGENTS_EACH
        waiting = [
            (began + number * RENEWED_AFTER_SECONDS / count, number) for number in range(count)
        ]
        heapq.heapify(waiting)
        while not self._stop.is_set():
            at, number = waiting[0]
            self._stop.wait(max(0.0, min(0.1, at - time.monotonic())))
            if at <= time.monotonic():
                self._due.put(number)
                heapq.heapreplace(waiting, (at + RENEWED_AFTER_SECONDS, number))
        for _ in range(CLIENTS):
            self._due.put(None)

    def _renew(self) -> None:
        client = Client(self._url)
        while (number := self._due.get()) is not None:
            began = time.monotonic()
            status, content = client.post(ENDPOINT, self._users[number % USERS])
            now = time.monotonic()
            self.taken.append(now - began)
            before = self._tokens.get(number)
            self.late += before is not None and now > before[1]
            if status == 200:
                self._tokens[number] = json.loads(content)["token"], began + LIFETIME_SECONDS
            else:
                self.refused += 1


def main(words: Sequence[str]) -> int:
    """Set up, measure for so many seconds, and print."""
    seconds = int(words[0]) if words else 600
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        with (
            tiny_upstream(folder) as upstream,
            with_users(upstream, USERS, COST, TOKEN_TTL_SECONDS=str(LIFETIME_SECONDS)) as running,
        ):
            print(f"{USERS} first logins", file=sys.stderr, flush=True)
            log_in_each(running.gateway, names(USERS))
            _measure(running.gateway, folder, seconds)
    return 0


def _measure(url: str, folder: Path, seconds: int) -> None:
    agents = Agents(url, folder / "renewed.tokens")
    agents.begin()
    began = time.monotonic()
    try:
        time.sleep(RENEWED_AFTER_SECONDS + 5)
        agents.write_sample()
        agents.taken.clear()
        began = time.monotonic()
        judged = _judged(url, folder, seconds)
        while judged.poll() is None:
            time.sleep(0.5)
            agents.write_sample()
    finally:
        elapsed = time.monotonic() - began
        agents.end()
    told = (judged.stdout.read() if judged.stdout else "").splitlines()[-1]
    count, refused, p50, p99 = map(float, told.split())
    taken = agents.taken
    print(f"{seconds} s with {USERS * AGENTS_EACH:,} agents, tokens of {LIFETIME_SECONDS} s")
    print(
        f"judged: {count / seconds:,.0f} a second, refused {refused:.0f}, "
        f"p50 {p50 / 1000:.2f} ms, p99 {p99 / 1000:.2f} ms"
    )
    print(
        f"renewals: {len(taken) / elapsed:,.0f} a second, refused {agents.refused}, "
        f"late {agents.late}, p50 {percentile(taken, 50):.1f} ms, "
        f"p99 {percentile(taken, 99):.1f} ms, slowest {max(taken) * 1000:.0f} ms"
    )


def _judged(url: str, folder: Path, seconds: int) -> "subprocess.Popen[str]":
    script = folder / "renewed.lua"
    script.write_text(SCRIPT.format(tokens=folder / "renewed.tokens", pause=PAUSE_MILLISECONDS))
    connections = JUDGED_A_SECOND * (PAUSE_MILLISECONDS + 5) // 1_000
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
