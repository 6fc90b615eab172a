"""`revoke`: end active tokens and API keys at once, everywhere."""

import argparse

from issuer import assemble, config
from issuer.audit import operator
from issuer.commands.told import Bare, Commands, counted, tell_pending
from issuer.errors import Faults
from issuer.store import Selection


def add_to(commands: Commands, bare: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("revoke", help="revoke tokens and API keys at once, everywhere")
    chosen = words.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--jti", type=bare, metavar="JTI", help="one token, or API key by its ID")
    chosen.add_argument("--user", metavar="NAME", help="every token and API key of a user")
    chosen.add_argument("--role", metavar="ROLE", help="every token and API key of a role")
    chosen.add_argument("--all", action="store_true", help="every token and API key there is")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """0 when every gateway has acknowledged, 2 while one has not. Raises `Faults`."""
    parts = assemble(config.read())
    if options.role and parts.policy.roles().named(options.role) is None:
        raise Faults([f"{options.role} is no role"])
    chosen = Selection(jti=options.jti, subject=options.user, role=options.role)
    done = parts.active.revoke(chosen, operator())
    print(f"{counted(done.sessions)} are revoked")
    return tell_pending(done.pending)
