"""`api-keys create | list | revoke`: the keys of tools that can hold only one."""

import argparse
import json

from issuer import assemble, config
from issuer.audit import operator
from issuer.commands.told import Bare, Commands, moment, tell_pending
from issuer.errors import Faults, NotGranted, TooManyApiKeys, Unacceptable, UnknownUser
from issuer.store import Session
from issuer.tokens import api_keys

NEVER = "never"


def add_to(commands: Commands, bare: Bare) -> None:
    """The commands' words."""
    parser = commands.add_parser("api-keys", help="make, list and revoke API keys")
    verbs = parser.add_subparsers(required=True, metavar="create | list | revoke")

    create = verbs.add_parser("create", help="a new key for a user, printed once")
    create.add_argument("user", metavar="USER", help="whose key it is")
    create.add_argument("--name", required=True, help="what it is called in lists")
    create.add_argument("--days", type=int, required=True, help="for how long it is good")
    create.add_argument(
        "--models", metavar="NAME,…", help="all that it may use, as in the policy; default: all"
    )
    create.set_defaults(command=_create)

    listing = verbs.add_parser("list", help="ID, user, name, beginning, end, and last use")
    listing.add_argument("--user", metavar="NAME", help="this user's alone")
    listing.add_argument("--json", action="store_true", help="as the admin API has them")
    listing.set_defaults(command=_list)

    revoke = verbs.add_parser("revoke", help="end a key at once, everywhere")
    revoke.add_argument("id", type=bare, metavar="ID")
    revoke.set_defaults(command=_revoke)


def _create(options: argparse.Namespace) -> int:
    keys = assemble(config.read()).api_keys
    models = options.models.split(",") if options.models is not None else None
    try:
        wanted = api_keys.wanted(options.name, options.days, models)
        made = keys.make(options.user, wanted, operator())
    except UnknownUser:
        raise Faults([f"{options.user} is no user"]) from None
    except TooManyApiKeys:
        raise Faults([f"{options.user} has as many API keys as the role allows"]) from None
    except (NotGranted, Unacceptable) as refusal:
        raise Faults([str(refusal)]) from None
    print(made.key)
    return 0


def _list(options: argparse.Namespace) -> int:
    found = assemble(config.read()).api_keys.listed(options.user)
    if options.json:
        print(json.dumps({"keys": [session.shown_key_to_admins for session in found]}))
        return 0
    for session in found:
        print(*_columns(session), sep="  ")
    return 0


def _columns(session: Session) -> tuple[str, ...]:
    assert session.api_key is not None
    used = session.api_key.last_used_at
    times = (moment(session.issued_at), moment(session.expires_at), moment(used) if used else NEVER)
    return session.jti, session.subject, *times, session.api_key.name


def _revoke(options: argparse.Namespace) -> int:
    done = assemble(config.read()).api_keys.revoke(options.id, operator())
    if not done.sessions:
        raise Faults([f"{options.id} is no API key"])
    print(f"revoked {options.id}")
    return tell_pending(done.pending)
