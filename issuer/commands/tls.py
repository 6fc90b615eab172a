"""`tls make`: a certificate for the public listener, of an authority of one's own."""

import argparse
from pathlib import Path

from issuer import certificates, config
from issuer.commands.told import Bare, Commands

#: How a machine comes to trust the authority (docs/tls.md has the others).
_TRUST = """\
{authority} is a new authority. Each machine that shall trust it needs a copy:
  Debian, Ubuntu  cp ca.pem /usr/local/share/ca-certificates/portero.crt && update-ca-certificates
  one curl        curl --cacert ca.pem https://{host}/healthz
  Python          SSL_CERT_FILE=ca.pem
  browsers, and other systems: docs/tls.md"""


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    parser = commands.add_parser("tls", help="make a certificate for a LAN")
    verbs = parser.add_subparsers(required=True, metavar="make")
    make = verbs.add_parser("make", help="sign a certificate; the authority is made once")
    make.add_argument(
        "--host", action="append", required=True, metavar="NAME", help="a name or address; repeat"
    )
    make.add_argument(
        "--folder", type=Path, metavar="DIR", help="default: tls beside the session store"
    )
    make.add_argument(
        "--to", type=Path, metavar="DIR", help="where certificate and key go, if not there"
    )
    make.set_defaults(command=_make)


def _make(options: argparse.Namespace) -> int:
    folder = options.folder or config.data_directory() / "tls"
    made = certificates.make(folder, options.host, options.to)
    print(f"made {made.certificate} and {made.key} for {', '.join(options.host)}")
    if options.to is None:
        print(f"to be used: TLS_CERTIFICATE={made.certificate} TLS_CERTIFICATE_KEY={made.key}")
    if made.is_new_authority:
        print(_TRUST.format(authority=made.authority, host=options.host[0]))
    return 0
