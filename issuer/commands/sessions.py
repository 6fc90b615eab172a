"""`sessions`: who has active tokens."""

import argparse
import json
import time

from issuer import config
from issuer.commands.told import Bare, Commands, moment
from issuer.store.sessions import open_sessions


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("sessions", help="who has active tokens")
    words.add_argument("--user", metavar="NAME", help="those of one user")
    words.add_argument("--json", action="store_true", help="one JSON object, times in Unix seconds")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Newest first: jti, user, role, when issued and when it ends."""
    settings = config.read()
    store = open_sessions(settings.database_url)
    every = store.active(int(time.time()), settings.most_active_tokens)
    found = [one for one in every if options.user in (None, one.subject)]
    if options.json:
        print(json.dumps({"sessions": [session.shown for session in found]}))
        return 0
    for one in found:
        times = f"{moment(one.issued_at)}  {moment(one.expires_at)}"
        print(f"{one.jti}  {one.subject}  {one.role}  {times}")
    return 0
