"""`revoke`: end active tokens at once, everywhere."""

import argparse

from issuer import assemble, config
from issuer.commands.told import Bare, Commands, tell_pending
from issuer.errors import Faults
from issuer.store import Selection


def add_to(commands: Commands, bare: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("revoke", help="revoke active tokens at once, everywhere")
    chosen = words.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--jti", type=bare, metavar="JTI", help="one token")
    chosen.add_argument("--user", metavar="NAME", help="every token of a user")
    chosen.add_argument("--role", metavar="ROLE", help="every token of a role")
    chosen.add_argument("--all", action="store_true", help="every token there is")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """0 when every gateway has acknowledged, 2 while one has not. Raises `Faults`."""
    parts = assemble(config.read())
    if options.role and parts.policy.roles().named(options.role) is None:
        raise Faults([f"{options.role} is no role"])
    chosen = Selection(jti=options.jti, subject=options.user, role=options.role)
    done = parts.active.revoke(chosen)
    print(f"{len(done.sessions)} unexpired tokens are revoked")
    return tell_pending(done.pending)
