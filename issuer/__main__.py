"""The command line: `python -m issuer init | check | explain | reconcile | revoke | keys | …`.

Every command reads the same settings as the server. None prints a secret unless it is asked to.
"""

import argparse
import json
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from issuer import assemble, config, credentials
from issuer.errors import Faults, PorteroError
from issuer.key_file import SIGNING, VERIFYING
from issuer.keys import ALGORITHMS
from issuer.policy import Place
from issuer.reconciler import Reconciler
from issuer.sessions import Selection
from issuer.sessions.sqlite import SqliteSessions

#: As many as HS512 wants (RFC 7518 §3.2).
SECRET_BYTES = 48
PENDING_STATUS = 2
TROUBLE_STATUS = 2
#: The reconciler looks every second.
PROMOTED_SECONDS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it was done, 1 for a fault, 2 for a revocation still pending."""
    options = _parser().parse_args(_shielded(sys.argv[1:] if arguments is None else arguments))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (PorteroError, OSError) as error:
        lines = "\n  ".join(str(error).splitlines())
        print(f"issuer: {lines}", file=sys.stderr)
        return 1


#: Shields an ID from the parser, and is nowhere in one.
_SHIELD = "="
_DASHED_ID = re.compile(r"-[A-Za-z0-9_-]{15,42}\Z", re.ASCII)


def _shielded(words: Sequence[str]) -> list[str]:
    """One in 64 IDs begins with a dash, and would pass for an option; no option is as long."""
    return [_SHIELD + word if _DASHED_ID.match(word) else word for word in words]


def _bare(word: str) -> str:
    return word.removeprefix(_SHIELD)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m issuer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make secrets and demo credentials, once")
    init.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    init.add_argument("--sync-dir", type=Path, metavar="DIR", help="where the sync key goes")
    init.add_argument("--print-logins", action="store_true", help="print the demo logins")
    init.add_argument(
        "--given",
        action="store_true",
        help="keep keys, users and roles from standard input, as JSON",
    )
    init.set_defaults(command=_init)

    check = commands.add_parser("check", help="read all settings and list every fault")
    check.set_defaults(command=_check)

    explain = commands.add_parser(
        "explain",
        help="whether a user may do something, and the rule and line that say so",
        description="Exit status 0: allowed. 1: refused. 2: the question or a file has a fault.",
    )
    explain.add_argument("user", metavar="USER", help="a username; it need not be there yet")
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("path", metavar="PATH", help="as the client writes it")
    explain.add_argument("--model", metavar="NAME", help="the model that the request names")
    explain.set_defaults(command=_explain)

    reconcile = commands.add_parser("reconcile", help="keep the gateways equal to the store")
    reconcile.set_defaults(command=_reconcile)

    _add_key_commands(commands.add_parser("keys", help="list, add and retire signing keys"))

    backup = commands.add_parser("backup", help="copy the session store while it is in use")
    backup.add_argument("file", type=Path)
    backup.set_defaults(command=_backup)

    restore = commands.add_parser("restore", help="take a backup over; revokes all it holds")
    restore.add_argument("file", type=Path)
    restore.set_defaults(command=_restore)

    revoke = commands.add_parser("revoke", help="revoke active tokens at once, everywhere")
    chosen = revoke.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--jti", type=_bare, metavar="JTI", help="one token")
    chosen.add_argument("--user", metavar="NAME", help="every token of a user")
    chosen.add_argument("--role", metavar="ROLE", help="every token of a role")
    chosen.add_argument("--all", action="store_true", help="every token there is")
    revoke.set_defaults(command=_revoke)
    return parser


def _add_key_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="list | add | retire")
    listing = commands.add_parser("list", help="the keys, oldest to newest")
    listing.set_defaults(command=_list_keys)

    add = commands.add_parser("add", help="a new key, which signs once every gateway has it")
    add.add_argument("--algorithm", choices=tuple(ALGORITHMS), help="default: JWT_ALGORITHM")
    add.set_defaults(command=_add_key)

    retire = commands.add_parser("retire", help="end a key when its last token has ended")
    retire.add_argument("kid", type=_bare)
    retire.add_argument("--now", action="store_true", help="at once, with all its tokens: a leak")
    retire.set_defaults(command=_retire_key)


def _init(options: argparse.Namespace) -> int:
    """Idempotent: what is there already stays as it is."""
    data: Path = options.data_dir
    places = {"secret_key": data / "secrets", "sync_key": options.sync_dir or data / "secrets"}
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, directory in places.items():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(directory / name, lambda: secrets.token_urlsafe(SECRET_BYTES))
    if options.given:
        _keep_given(data / "given", places["sync_key"] / "given")
    logins = data / "demo-logins"
    if not os.environ.get("CREDENTIALS_FILE") or options.print_logins:
        _make_credentials(data / "credentials.env", logins)
    if options.print_logins and logins.exists():
        print("demo logins, for this deployment alone:")
        print(logins.read_text(), end="", flush=True)
    return 0


def _keep_given(data: Path, sync: Path) -> None:
    """What a person brings stands beside what is made here, and replaces none of it. The gateway
    sees the sync directory alone, so what it reads too goes there.
    """
    places = {
        "SECRET_KEY": data / "secret_key",
        "SYNC_KEY": sync / "sync_key",
        "CREDENTIALS_FILE": data / "credentials.env",
        "ROLES_FILE": sync / "roles.json",
        "LLM_API_KEY": sync / "llm_api_key",
        "LLM_CA_FILE": sync / "llm_ca.pem",
    }
    try:
        given = {str(name): str(text) for name, text in json.load(sys.stdin).items()}
    except (ValueError, AttributeError):
        raise Faults(["standard input is no JSON object"]) from None
    if unknown := sorted(given.keys() - places.keys()):
        raise Faults([f"standard input gives {name}, which init does not keep" for name in unknown])
    for name, text in given.items():
        places[name].parent.mkdir(mode=0o700, exist_ok=True)
        credentials.write_new(places[name], text, force=True)
        print(f"kept {places[name]}")


def _make_credentials(path: Path, logins: Path) -> None:
    if path.exists():
        return
    users = credentials.generate([role.code for role in config.read_roles().in_force()], each=1)
    plain = "".join(f"{name}={secret}\n" for name, secret in users)
    credentials.write_new(logins, plain, force=True)
    credentials.write_new(path, credentials.hashed_lines(users))
    print(f"made {path} (hashes) and {logins} (the demo users' secrets)")


def _make(path: Path, content: Callable[[], str]) -> None:
    if path.exists():
        return
    credentials.write_new(path, content())
    print(f"made {path}")


def _check(_: argparse.Namespace) -> int:
    # The roles are read for both, and their faults told once.
    if faults := dict.fromkeys([*_faults_of(_settings), *_faults_of(_users)]):
        raise Faults(faults)
    settings = config.read(os.environ)
    SqliteSessions(settings.database_path).check()
    parts = assemble(settings)
    print(f"settings are good: {len(parts.credentials.in_force())} users")
    return 0


def _explain(options: argparse.Namespace) -> int:
    """As grep has it: 0 for yes, 1 for no, 2 for trouble."""
    try:
        known = config.read_policy()
    except Faults as found:
        print("issuer: " + "\n  ".join(found.faults), file=sys.stderr)
        return TROUBLE_STATUS
    decision = known.policy.decide(options.user, options.method, options.path, options.model)
    print(f"{decision.status} {decision.code}")
    print(f"rule   {decision.rule}")
    print(f"place  {_shown(decision.place, known.files)}")
    return 0 if decision.is_allowed else 1


def _shown(place: Place, files: Mapping[str, Path]) -> str:
    """Where to look, as an editor opens it."""
    path = files.get(place.file, config.ROUTES_DIRECTORY)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{place.line}  {place.path}" if place.line else f"{path}/"


def _settings() -> None:
    config.read(os.environ)


def _users() -> None:
    """The credentials file alone: its faults are told with those of the settings."""
    path = os.environ.get("CREDENTIALS_FILE", "")
    if path:
        credentials.CredentialsFile(Path(path), config.read_roles().in_force, salt=b"")


def _faults_of(read: Callable[[], None]) -> Sequence[str]:
    try:
        read()
    except Faults as found:
        return found.faults
    return ()


def _reconcile(_: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parts = assemble(config.read(os.environ))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Reconciler(parts.active, parts.gateways, parts.credentials, parts.keys).run(stop)
    return 0


def _list_keys(_: argparse.Namespace) -> int:
    for entry in assemble(config.read(os.environ)).keys.read().entries:
        until = f" until {_moment(entry.until)}" if entry.state == VERIFYING else ""
        print(f"{entry.kid}  {entry.algorithm}  {_moment(entry.added_at)}  {entry.state}{until}")
    return 0


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _add_key(options: argparse.Namespace) -> int:
    """Wait for the reconciler to bring it to every gateway; it signs from then on."""
    parts = assemble(config.read(os.environ))
    kid = parts.keys.add(options.algorithm, int(time.time())).kid
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


def _retire_key(options: argparse.Namespace) -> int:
    parts = assemble(config.read(os.environ))
    now = int(time.time())
    entry = parts.keys.read().find(options.kid)
    if options.now and entry is not None and entry.state == SIGNING:
        # Its successor first: no login shall get a token that a gateway cannot verify yet.
        parts.keys.add(entry.algorithm, now)
        parts.gateways.put_keys(parts.keys.read())
    parts.keys.retire(options.kid, options.now, now)
    pending = [ack.url for ack in parts.gateways.put_keys(parts.keys.read()) if not ack.ok]
    print(f"retired {options.kid}" + ("" if options.now else ", when its last token has ended"))
    return _tell_pending(pending)


def _tell_pending(pending: Sequence[str]) -> int:
    for url in pending:
        print(f"not yet acknowledged by {url}; the reconciler will bring it", file=sys.stderr)
    return PENDING_STATUS if pending else 0


def _backup(options: argparse.Namespace) -> int:
    if options.file.exists():
        raise Faults([f"{options.file} is there already"])
    SqliteSessions(config.read(os.environ).database_path).backup(options.file)
    print(f"made {options.file}; restored, it revokes the tokens it holds")
    return 0


def _restore(options: argparse.Namespace) -> int:
    revoked = SqliteSessions(config.read(os.environ).database_path).restore(options.file)
    print(f"restored; {revoked} tokens that were active in the backup are revoked")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    if options.role and config.read(os.environ).roles.in_force().named(options.role) is None:
        raise Faults([f"{options.role} is no role"])
    parts = assemble(config.read(os.environ))
    done = parts.active.revoke(Selection(jti=options.jti, subject=options.user, role=options.role))
    print(f"{len(done.sessions)} unexpired tokens are revoked")
    return _tell_pending(done.pending)


if __name__ == "__main__":
    sys.exit(main())
