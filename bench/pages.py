"""`python -m bench.pages`: how long the console's pages take where there is much to show: 10,000
sessions, 1,000 users, 1,000 API keys, 100,000 rows of the audit and of usage. Each is to answer in
less than 200 ms; beside it stands what the issuer computes for one.
"""

import os
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

from issuer.audit import LOGIN, USER, Actor, Event
from issuer.store.sessions import Sessions, open_sessions
from issuer.store.usage import Usage
from tests.promises import stores
from tests.support.deployment import Caller, Local, credentials_text, deployed
from tests.support.upstream import recording

SESSIONS, USERS, ROWS = 10_000, 1_000, 100_000
MOST_MS = 200
TIMES = 15
ADMIN = "ADMNTEST01"
PAGES = (
    "/admin/",
    "/admin/sessions",
    "/admin/sessions?filter=AGIATEST01",
    "/admin/sessions?filter=nobody",
    "/admin/users",
    "/admin/users?filter=AGIAu099",
    "/admin/keys",
    "/admin/keys?filter=nobody",
    "/admin/servers",
    "/admin/usage",
    "/admin/usage?by=day",
    "/admin/usage?by=user",
    "/admin/audit",
    "/admin/audit?filter=AGIAu0500",
    "/admin/audit?event=login",
    "/admin/audit?filter=nobody",
    "/admin/audit?before=50000",
    "/admin/policy",
)


def main() -> int:
    """Measure and print; 1 where a page is slower."""
    with recording() as llm, deployed(llm.url) as running:
        admin = Caller(running).token(ADMIN)
        fill(running)
        slow = [page for page in PAGES if _measure(running, admin, page) > MOST_MS]
    return 1 if slow else 0


def fill(running: Local) -> None:
    """As much as there may be."""
    print("filling the store", file=sys.stderr, flush=True)
    Caller(running).token(stores.USER)
    stores.fill(running, SESSIONS)
    stores.fill_keys(running, USERS)
    store = open_sessions(f"sqlite:///{running.data / 'sessions.db'}")
    _fill_audit(store)
    _fill_usage(Usage(store.database))
    _fill_users(running)


def _fill_audit(store: Sessions) -> None:
    for start in range(0, ROWS, 5_000):
        store.audit.record(*map(_event, range(start, start + 5_000)))


def _event(number: int) -> Event:
    user = f"AGIAu{number % USERS:04}"
    return Event(Actor(USER, user, "192.0.2.1"), LOGIN, f"{user}/{number:022}", user=user)


def _fill_usage(usage: Usage) -> None:
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=number)).isoformat() for number in range(25)]
    names = product(days, range(USERS), ("small", "large", "coder", "vision"))
    rows = [
        [day, f"AGIAu{user:04}", "token", model, "llm", 3, 400, 9] for day, user, model in names
    ]
    usage.add("bench", 1, rows)


def _fill_users(running: Local) -> None:
    hashed = credentials_text().split("\n", 1)[0].partition("=")[2]
    lines = "".join(f"AGIAu{number:04}={hashed}\n" for number in range(USERS))
    file = running.credentials
    file.write_text(file.read_text() + lines)


def _cpu_ms(running: Local) -> float:
    """What the issuer's workers have computed so far: no other process of the machine is in it."""
    ticks = 0
    for pid in running.workers("issuer"):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def _measure(running: Local, admin: str, page: str) -> float:
    caller, taken, size = Caller(running), [], 0
    before = _cpu_ms(running)
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = caller.call(admin, page, "GET", headers={"Accept": "text/html"})
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (page, answer.status_code)
        size = len(answer.content)
    median, cpu = statistics.median(taken), (_cpu_ms(running) - before) / TIMES
    told = f"{median:7.1f} ms ({min(taken):.1f} to {max(taken):.1f})"
    told += f", computing {cpu:.0f} ms, {size / 1024:.0f} KiB"
    print(f"{page:36} {told}{'  SLOW' if median > MOST_MS else ''}", flush=True)
    return median


if __name__ == "__main__":
    raise SystemExit(main())
