"""`users add | list | passwd | remove`: the credentials file, edited in place."""

import argparse
import getpass
import sys
from pathlib import Path

from issuer import config
from issuer.audit import operator
from issuer.commands.told import Bare, Commands, counted, tell_pending
from issuer.errors import Faults
from issuer.people import People
from issuer.store.sessions import open_sessions
from issuer.sync.active_tokens import ActiveTokens, Revocation
from issuer.sync.gateways import gateways_of
from issuer.users import credentials, credentials_file

_WHENCE = """The secret comes from a prompt; where standard input is no terminal, it is its first
line. Its hash alone is written."""


def add_to(commands: Commands, _: Bare) -> None:
    """The commands' words."""
    parser = commands.add_parser("users", help="add, list and remove users, change a secret")
    verbs = parser.add_subparsers(required=True, metavar="add | list | passwd | remove")
    listing = verbs.add_parser("list", help="name, role, and how the secret is kept")
    listing.set_defaults(command=_list)
    for word, command, text in (
        ("add", _add, "a new user; the name begins with its role's code"),
        ("passwd", _passwd, "another secret; what was issued for the old one is revoked at once"),
        ("remove", _remove, "the user, with all active tokens and API keys, at once"),
    ):
        verb = verbs.add_parser(word, help=text, description=None if word == "remove" else _WHENCE)
        verb.add_argument("name", metavar="NAME")
        verb.set_defaults(command=command)
        if command != _remove:
            verb.add_argument("--generate", action="store_true", help="make one, and print it once")


def _list(_: argparse.Namespace) -> int:
    roles = config.read_policy().roles
    text = credentials_file.read(_path())
    for user in credentials_file.listed(text, roles):
        print(*user, sep="  ")
    return 0


def _add(options: argparse.Namespace) -> int:
    secret = _people().add(options.name, operator(), lambda: _secret(options))
    role = config.read_policy().roles.of(options.name)
    print(f"added {options.name}, role {role.name if role else ''}")
    _show(options, secret)
    return 0


def _passwd(options: argparse.Namespace) -> int:
    secret, done = _people().renew(options.name, operator(), lambda: _secret(options))
    status = _tell(f"{options.name} has another secret", done)
    _show(options, secret)
    return status


def _remove(options: argparse.Namespace) -> int:
    done = _people().remove(options.name, operator())
    return _tell(f"{options.name} is removed", done)


def _tell(what: str, done: Revocation) -> int:
    print(f"{what}; {counted(done.sessions)} are revoked")
    return tell_pending(done.pending)


def _people() -> People:
    """By the policy file as it stands, and though the credentials file is faulty, which a command
    may mend.
    """
    settings = config.read()
    store = open_sessions(settings.database_url)
    gateways = gateways_of(settings)
    active = ActiveTokens(store, gateways, settings.most_active_tokens)
    return People(settings.credentials_file, lambda: config.read_policy().roles, active)


def _path() -> Path:
    path = config.credentials_file()
    if path is None:
        raise Faults(["CREDENTIALS_FILE: is not set; it names the file of the users"])
    return path


def _secret(options: argparse.Namespace) -> str:
    if options.generate:
        return credentials.new_secret()
    return _typed() if sys.stdin.isatty() else _first_line()


def _typed() -> str:
    try:
        secret = getpass.getpass("New secret: ")
        again = getpass.getpass("The same again: ")
    except EOFError:
        raise Faults(["no secret was given; nothing is changed"]) from None
    if secret != again:
        raise Faults(["the two secrets differ; nothing is changed"])
    return secret


def _first_line() -> str:
    try:
        line = sys.stdin.readline().encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise Faults(["the secret on standard input is not UTF-8"]) from None
    secret = line.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise Faults(["no secret on standard input; give it there as one line, or --generate"])
    return secret


def _show(options: argparse.Namespace, secret: str) -> None:
    if options.generate:
        print(f"{options.name}={secret}")
