"""`backup` and `restore`: the session store as one file, taken while it is in use."""

import argparse
from pathlib import Path

from issuer import config
from issuer.audit import BACKUP, RESTORE, Event, operator
from issuer.commands.told import Bare, Commands
from issuer.errors import Faults
from issuer.store.sessions import open_sessions


def add_to(commands: Commands, _: Bare) -> None:
    """The commands' words."""
    backup = commands.add_parser("backup", help="copy the session store while it is in use")
    backup.add_argument("file", type=Path)
    backup.set_defaults(command=_backup)

    restore = commands.add_parser("restore", help="take a backup over; revokes all it holds")
    restore.add_argument("file", type=Path)
    restore.set_defaults(command=_restore)


def _backup(options: argparse.Namespace) -> int:
    if options.file.exists():
        raise Faults([f"{options.file} is there already"])
    store = open_sessions(config.read().database_url)
    store.backup(options.file)
    store.audit.record(Event(operator(), BACKUP, str(options.file.absolute())))
    print(f"made {options.file}; restored, it revokes the tokens it holds")
    return 0


def _restore(options: argparse.Namespace) -> int:
    event = Event(operator(), RESTORE, str(options.file.absolute()))
    revoked = open_sessions(config.read().database_url).restore(options.file, event)
    print(f"restored; {revoked} tokens that were active in the backup are revoked")
    return 0
