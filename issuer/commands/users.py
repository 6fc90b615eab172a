"""`users add | list | passwd | remove`: the credentials file, edited in place."""

import argparse
import getpass
import sys
from functools import partial
from pathlib import Path

from issuer import assemble, config
from issuer.audit import USER_ADD, USER_PASSWD, USER_REMOVE, Event, operator
from issuer.commands.told import Bare, Commands, counted, tell_pending
from issuer.config import Settings
from issuer.errors import Faults
from issuer.store import Selection
from issuer.store.sessions import open_sessions
from issuer.users import credentials, credentials_file
from issuer.users.credentials_file import Edit

_WHENCE = """The secret comes from a prompt; where standard input is no terminal, it is its first
line. Its hash alone is written."""
_TOLD = {USER_PASSWD: "has another secret", USER_REMOVE: "is removed"}


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
    path, settings = _path(), _settings()
    roles = config.read_policy().roles
    credentials_file.check_name(options.name, roles)
    # Told before anybody has to type a secret twice, and judged again when it is written.
    credentials_file.added(credentials_file.read(path), options.name, "")
    secret = _secret(options)
    change = partial(credentials_file.added, name=options.name, hashed=credentials.hashed(secret))
    credentials_file.edit(path, roles, change)
    _note(settings, USER_ADD, options.name)
    role = roles.of(options.name)
    print(f"added {options.name}, role {role.name if role else ''}")
    _show(options, secret)
    return 0


def _passwd(options: argparse.Namespace) -> int:
    settings = _settings()
    path = settings.credentials_file
    credentials_file.changed(credentials_file.read(path), options.name, "")
    secret = _secret(options)
    change = partial(credentials_file.changed, name=options.name, hashed=credentials.hashed(secret))
    selection = Selection(subject=options.name, api_keys=False)
    status = _edit_and_revoke(settings, selection, change, USER_PASSWD)
    _show(options, secret)
    return status


def _remove(options: argparse.Namespace) -> int:
    change = partial(credentials_file.removed, name=options.name)
    selection = Selection(subject=options.name)
    return _edit_and_revoke(_settings(), selection, change, USER_REMOVE)


def _edit_and_revoke(settings: Settings, ended: Selection, change: Edit, event: str) -> int:
    """The file first, so that nobody logs in with the old secret after the revocation."""
    name = ended.subject or ""
    credentials_file.edit(settings.credentials_file, config.read_policy().roles, change)
    credentials_file.forget_demo_login(settings.credentials_file, name)
    _note(settings, event, name)
    done = assemble(settings).active.revoke(ended, operator())
    print(f"{name} {_TOLD[event]}; {counted(done.sessions)} are revoked")
    return tell_pending(done.pending)


def _note(settings: Settings, event: str, name: str) -> None:
    note = Event(operator(), event, name, user=name)
    open_sessions(settings.database_url).audit.record(note)


def _settings() -> Settings:
    """With a store that can be written, so that nothing is left half done."""
    settings = config.read()
    open_sessions(settings.database_url).check()
    return settings


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
