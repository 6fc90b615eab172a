"""`check`: read all settings, files and the store, and list every fault. Nothing takes effect."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from issuer import config, policy
from issuer.commands.told import Bare, Commands
from issuer.config import Settings
from issuer.errors import Faults
from issuer.store.sessions import open_sessions
from issuer.users import credentials, credentials_file

T = TypeVar("T")


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("check", help="read all settings and list every fault")
    words.add_argument(
        "--start",
        action="store_true",
        help="as a start judges: a faulty policy is only told where the store has a good one",
    )
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """0 when there is no fault. Raises `Faults`."""
    settings, faults = _read(config.read)
    _, of_policy = _read(config.read_policy)
    users, of_users = _read(_count_users)
    store = open_sessions(settings.database_url) if settings else None
    if options.start and settings and store and store.policy():
        beside = _beside_servers(settings)
        _tell([fault for fault in of_policy if fault not in beside])
        of_policy = beside
    if everything := dict.fromkeys([*faults, *of_policy, *of_users]):
        raise Faults(everything)
    if store:
        store.check()
    print(f"settings are good: {users} users")
    return 0


def _read(read: Callable[[], T]) -> tuple[T | None, Sequence[str]]:
    try:
        return read(), ()
    except Faults as found:
        return None, found.faults


def _beside_servers(settings: Settings) -> Sequence[str]:
    """Settings that no policy of the store makes good: one alone says where LLM servers are."""
    sources, _ = _read(lambda: policy.gather(settings.policy_file))
    return policy.beside_servers(sources, settings.terms) if sources else ()


def _count_users() -> int:
    """How many users the file has. Where the policy is faulty, every role's code is good."""
    path = config.credentials_file()
    if path is None:
        return 0
    return len(credentials.parse(credentials_file.read(path), config.read_roles(), salt=b""))


def _tell(faults: Sequence[str]) -> None:
    for fault in faults:
        print(f"issuer: {fault}; the last good policy stays in force", file=sys.stderr)
