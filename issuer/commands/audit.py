"""`audit [verify]`: who did what, and whether all of its rows are there as they were written."""

import argparse
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from issuer import config
from issuer.audit import EVENTS, Row
from issuer.commands.told import Bare, Commands, moment
from issuer.store.audit import Audit
from issuer.store.sessions import open_sessions

_PAGE = 1_000
_AGO = re.compile(r"([0-9]{1,6})([smhd])\Z", re.ASCII)
_TIMES = "90m, 24h, 7d, 2026-11-25 or 2026-11-25T08:00:00Z"
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser(
        "audit",
        help="who did what to whom, when, and what came of it",
        description="The newest first. audit verify: exit status 0 if no row was changed, taken "
        "out or cut off; else 1, with the first that is wrong.",
    )
    words.add_argument("verb", nargs="?", choices=["verify"], help="check the chain of all rows")
    words.add_argument(
        "--since",
        type=since,
        metavar="TIME",
        help=_TIMES,
    )
    words.add_argument("--user", metavar="NAME", help="what this user did, or what concerns it")
    words.add_argument("--event", choices=EVENTS, metavar="EVENT", help=", ".join(EVENTS))
    words.add_argument("--json", action="store_true", help="one JSON object, times in Unix seconds")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """A line a row: time, actor, address, event, target, outcome."""
    audit = open_sessions(config.read().database_url).audit
    if options.verb:
        return _verify(audit)
    rows = _rows(audit, options)
    if options.json:
        _print_json(rows)
        return 0
    for row in rows:
        print(*_columns(row), sep="  ")
    return 0


def since(text: str) -> int:
    """A moment, or how long ago, in whole Unix seconds. Raises `ArgumentTypeError`."""
    if ago := _AGO.match(text):
        return int(time.time()) - int(ago[1]) * _UNITS[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"TIME is {_TIMES}") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _verify(audit: Audit) -> int:
    found = audit.verify()
    if found.fault:
        print(f"not as it was written: {found.fault}")
        return 1
    print(f"{found.rows} rows are as they were written; the last is {found.sequence}, {found.hash}")
    return 0


def _rows(audit: Audit, options: argparse.Namespace) -> Iterator[Row]:
    before = None
    while page := audit.rows(_PAGE, before, options.user, options.event, options.since):
        yield from page
        before = page[-1].sequence


def _print_json(rows: Iterator[Row]) -> None:
    """A row at a time, as there may be many."""
    print('{"audit": [', end="")
    for index, row in enumerate(rows):
        print(",\n" if index else "\n", json.dumps(row.shown), sep="", end="")
    print("]}")


def _columns(row: Row) -> tuple[str, ...]:
    times = f"{row.outcome} x{row.times}" if row.times > 1 else row.outcome
    actor = f"{row.kind}:{row.name or '-'}"
    return moment(row.time), actor, row.address or "-", row.event, row.target or "-", times
