"""`check`: read all settings, files and the store, and list every fault."""

import argparse
from collections.abc import Callable, Sequence

from issuer import assemble, config
from issuer.commands.told import Bare, Commands
from issuer.errors import Faults
from issuer.store.sqlite import SqliteSessions
from issuer.users.credentials import CredentialsFile


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("check", help="read all settings and list every fault")
    words.set_defaults(command=run)


def run(_: argparse.Namespace) -> int:
    """0 when there is no fault. Raises `Faults`."""
    # The roles are read for both, and their faults told once.
    if faults := dict.fromkeys([*_faults_of(_settings), *_faults_of(_users)]):
        raise Faults(faults)
    settings = config.read()
    SqliteSessions(settings.database_path).check()
    parts = assemble(settings)
    print(f"settings are good: {len(parts.credentials.in_force())} users")
    return 0


def _settings() -> None:
    config.read()


def _users() -> None:
    """The credentials file alone: its faults are told with those of the settings."""
    if path := config.credentials_file():
        CredentialsFile(path, config.read_roles().in_force, salt=b"")


def _faults_of(read: Callable[[], None]) -> Sequence[str]:
    try:
        read()
    except Faults as found:
        return found.faults
    return ()
