"""`signing-keys list | add | retire`: the keys that sign tokens."""

import argparse
import sys
import time

from issuer import Parts, assemble, config
from issuer.audit import KEY_ADD, KEY_RETIRE, Event, operator
from issuer.commands.told import PENDING_STATUS, Bare, Commands, moment, tell_pending
from issuer.keys import ALGORITHMS
from issuer.keys.key_file import SIGNING, VERIFYING

#: The reconciler looks every second.
PROMOTED_SECONDS = 10


def add_to(commands: Commands, bare: Bare) -> None:
    """The commands' words."""
    words = "list, add and retire the keys that sign tokens"
    parser = commands.add_parser("signing-keys", aliases=["keys"], help=words)
    verbs = parser.add_subparsers(required=True, metavar="list | add | retire")
    listing = verbs.add_parser("list", help="the keys, oldest to newest")
    listing.set_defaults(command=_list)

    add = verbs.add_parser("add", help="a new key, which signs once every gateway has it")
    add.add_argument("--algorithm", choices=tuple(ALGORITHMS), help="default: JWT_ALGORITHM")
    add.set_defaults(command=_add)

    retire = verbs.add_parser("retire", help="end a key when its last token has ended")
    retire.add_argument("kid", type=bare)
    retire.add_argument("--now", action="store_true", help="at once, with all its tokens: a leak")
    retire.set_defaults(command=_retire)


def _list(_: argparse.Namespace) -> int:
    for entry in assemble(config.read()).keys.read().entries:
        until = f" until {moment(entry.until)}" if entry.state == VERIFYING else ""
        print(f"{entry.kid}  {entry.algorithm}  {moment(entry.added_at)}  {entry.state}{until}")
    return 0


def _add(options: argparse.Namespace) -> int:
    """Wait for the reconciler to bring it to every gateway; it signs from then on."""
    parts = assemble(config.read())
    kid = parts.keys.add(options.algorithm, int(time.time())).kid
    _note(parts, KEY_ADD, kid)
    print(f"added {kid}; it signs once every gateway has acknowledged it", flush=True)
    deadline = time.monotonic() + PROMOTED_SECONDS
    while time.monotonic() < deadline:
        entry = parts.keys.read().find(kid)
        if entry is not None and entry.state == SIGNING:
            print(f"{kid} signs from now on; the key before verifies until its tokens have ended")
            return 0
        time.sleep(0.1)
    print("some gateway has not acknowledged it yet; it goes on waiting", file=sys.stderr)
    return PENDING_STATUS


def _retire(options: argparse.Namespace) -> int:
    parts = assemble(config.read())
    now = int(time.time())
    entry = parts.keys.read().find(options.kid)
    if options.now and entry is not None and entry.state == SIGNING:
        # Its successor first: no login shall get a token that a gateway cannot verify yet.
        if not parts.keys.read().waiting():
            _note(parts, KEY_ADD, parts.keys.add(entry.algorithm, now).kid)
        parts.gateways.put_keys(parts.keys.read())
    parts.keys.retire(options.kid, options.now, now)
    _note(parts, KEY_RETIRE, options.kid)
    pending = [ack.url for ack in parts.gateways.put_keys(parts.keys.read()) if not ack.ok]
    print(f"retired {options.kid}" + ("" if options.now else ", when its last token has ended"))
    return tell_pending(pending)


def _note(parts: Parts, event: str, kid: str) -> None:
    parts.active.store.audit.record(Event(operator(), event, kid))
