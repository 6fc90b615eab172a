"""`usage`: who used how many tokens of which model."""

import argparse
import json
import sys
from datetime import UTC, datetime

from issuer import config, usage
from issuer.commands.told import Bare, Commands
from issuer.errors import Faults, Unacceptable
from issuer.store.sessions import open_sessions
from issuer.store.usage import Usage

FORMATS = ("table", "csv", "json")


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("usage", help="who used how many tokens of which model")
    words.add_argument("--from", metavar="DATE", help="the first day, UTC; default: 30 days ago")
    words.add_argument("--to", metavar="DATE", help="the last day, UTC; default: today")
    words.add_argument(
        "--by", metavar="NAME,…", help="some of day, user, credential, model, server; default: all"
    )
    words.add_argument("--format", choices=FORMATS, default="table")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """A row for each, with its requests, prompt and completion tokens."""
    words = {name: vars(options)[name] for name in ("from", "to", "by") if vars(options)[name]}
    try:
        asked = usage.question(words, datetime.now(UTC).date())
    except Unacceptable as refusal:
        raise Faults([str(refusal)]) from None
    rows = Usage(open_sessions(config.read().database_url).database).asked(asked)
    if options.format == "json":
        print(json.dumps({"usage": rows}))
    elif options.format == "csv":
        sys.stdout.write(usage.as_csv(asked, rows))
    else:
        print(usage.as_table(asked, rows))
    return 0
