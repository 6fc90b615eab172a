"""`init`: secrets and demo credentials, made once; and what a person brings instead of them."""

import argparse
import json
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from issuer import certificates, config
from issuer.commands.told import Bare, Commands
from issuer.errors import Faults
from issuer.users import credentials, credentials_file

#: As many as HS512 wants (RFC 7518 §3.2).
SECRET_BYTES = 48
#: Of a database beside this, whose password is made here.
WITHOUT_PASSWORD = re.compile(r"postgresql://[\w.-]+@[\w.-]+(:\d+)?/[\w.-]+", re.ASCII)


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("init", help="make secrets and demo credentials, once")
    words.add_argument("--data-dir", type=Path, required=True, metavar="DIR")
    words.add_argument("--sync-dir", type=Path, metavar="DIR", help="where the sync key goes")
    words.add_argument("--print-logins", action="store_true", help="print the demo logins")
    words.add_argument(
        "--tls-host",
        action="append",
        metavar="NAME",
        help="a certificate for this name or address, where the sync key goes; repeat",
    )
    words.add_argument(
        "--database",
        nargs=2,
        metavar=("URL", "DIR"),
        help="a password for postgresql://USER@HOST/NAME, in DIR for the database to read, "
        "secrets/database_url with it, and secrets/seal_key",
    )
    words.add_argument(
        "--given",
        action="store_true",
        help="keep keys and users from standard input, as JSON",
    )
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Idempotent: what is there already stays as it is."""
    data: Path = options.data_dir
    places = {"secret_key": data / "secrets", "sync_key": options.sync_dir or data / "secrets"}
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, directory in places.items():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(directory / name, lambda: secrets.token_urlsafe(SECRET_BYTES))
    if options.database:
        _make_database(data / "secrets", *options.database)
    tls = (options.sync_dir or data) / "tls"
    if options.tls_host and not (tls / "cert.pem").exists():
        # The gateway sees the sync directory, and shall not see what signs its certificates.
        print(f"made {certificates.make(data / 'tls', options.tls_host, tls).certificate}")
    if options.given:
        _keep_given(data / "given", places["sync_key"] / "given")
    logins = data / credentials_file.DEMO_LOGINS
    if config.credentials_file() is None or options.print_logins:
        _make_credentials(data / "credentials.env", logins)
    if options.print_logins and logins.exists():
        print("demo logins, for this deployment alone:")
        print(logins.read_text(), end="", flush=True)
    return 0


def _make_database(keys: Path, url: str, directory: str) -> None:
    """What issuers on one PostgreSQL share. The database sees its password alone, and never what
    seals the keys in it.
    """
    if not WITHOUT_PASSWORD.fullmatch(url):
        raise Faults(["--database must be postgresql://USER@HOST/NAME; its password is made"])
    password = Path(directory) / "password"
    password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (keys / "seal_key", password):
        _make(path, lambda: secrets.token_urlsafe(SECRET_BYTES))
    _make(keys / "database_url", lambda: url.replace("@", f":{password.read_text()}@"))


def _keep_given(data: Path, sync: Path) -> None:
    """What a person brings stands beside what is made here, and replaces none of it. The gateway
    sees the sync directory alone, so what it reads too goes there.
    """
    places = {
        "SECRET_KEY": data / "secret_key",
        "SYNC_KEY": sync / "sync_key",
        "CREDENTIALS_FILE": data / "credentials.env",
        "LLM_API_KEY": sync / "llm_api_key",
        "LLM_CA_FILE": sync / "llm_ca.pem",
        "TLS_CERTIFICATE": sync / "tls_certificate.pem",
        "TLS_CERTIFICATE_KEY": sync / "tls_certificate_key.pem",
        "TLS_CLIENT_CA": sync / "tls_client_ca.pem",
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
    users = credentials.generate([role.code for role in config.read_policy().roles], each=1)
    plain = "".join(f"{name}={secret}\n" for name, secret in users)
    credentials.write_new(logins, plain, force=True)
    credentials.write_new(path, credentials.hashed_lines(users))
    print(f"made {path} (hashes) and {logins} (the demo users' secrets)")


def _make(path: Path, content: Callable[[], str]) -> None:
    if path.exists():
        return
    credentials.write_new(path, content())
    print(f"made {path}")
