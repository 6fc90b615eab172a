"""`reconcile`: the process that keeps the gateways equal to the store."""

import argparse
import logging
import signal
import threading

from issuer import assemble, config
from issuer.commands.told import Bare, Commands
from issuer.sync.reconciler import Reconciler


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser("reconcile", help="keep the gateways equal to the store")
    words.set_defaults(command=run)


def run(_: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    parts = assemble(config.read(), takes_policy=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Reconciler(
        parts.active,
        parts.gateways,
        parts.credentials,
        parts.keys,
        parts.policy,
        parts.counted,
        parts.settings.audit_days,
    ).run(stop)
    return 0
