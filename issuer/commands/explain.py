"""`explain`: whether a user may do something, and the rule and line that say so."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from issuer import config, policy
from issuer.commands.told import Bare, Commands
from issuer.errors import Faults
from issuer.policy import Place
from issuer.policy.explanation import Explainer
from issuer.sync import servers_told
from issuer.sync.gateways import Gateways

TROUBLE_STATUS = 2


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser(
        "explain",
        help="whether a user may do something, and the rule and line that say so",
        description="Exit status 0: allowed. 1: refused. 2: the question or a file has a fault.",
    )
    words.add_argument("user", metavar="USER", help="a username; it need not be there yet")
    words.add_argument("method", metavar="METHOD")
    words.add_argument("path", metavar="PATH", help="as the client writes it")
    words.add_argument("--model", metavar="NAME", help="the model that the request names")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """As grep has it: 0 for yes, 1 for no, 2 for trouble."""
    try:
        known = config.read_policy()
    except Faults as found:
        print("issuer: " + "\n  ".join(found.faults), file=sys.stderr)
        return TROUBLE_STATUS
    explainer = Explainer(known, _known_servers() if known.servers else None)
    told = explainer.explain(options.user, options.method, options.path, options.model)
    lines = {
        "rule": told.rule,
        "place": _shown(told.place, policy.files(config.policy_file())),
        "model": told.model,
        "server": told.servers,
    }
    print(f"{told.status} {told.code}")
    for name, text in lines.items():
        if text:
            print(f"{name:6} {text}")
    return 0 if told.is_allowed else 1


def _known_servers() -> list[dict[str, Any]] | None:
    """What the first gateway that answers knows of the servers; None where none can be asked."""
    place = config.read_sync()
    if place is None:
        return None
    return servers_told.first(Gateways(*place))


def _shown(place: Place, files: Mapping[str, Path]) -> str:
    """Where to look, as an editor opens it."""
    path = files.get(place.file, Path(place.file))
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}:{place.line}  {place.path}" if place.line else f"{path}  {place.path}".rstrip()
