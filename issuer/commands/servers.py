"""`servers`: the LLM servers of the policy, what each gateway knows of them, and which get no new
requests.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from issuer import config
from issuer.audit import operator
from issuer.commands.told import Bare, Commands, harmless, moment, tell_pending
from issuer.store.sessions import open_sessions
from issuer.sync import servers_told
from issuer.sync.gateways import Gateways, gateways_of
from issuer.sync.policy_in_force import PolicyInForce
from issuer.sync.servers_told import NO_ANSWER, UNKNOWN, Told

TROUBLE_STATUS = 2
MAX_SHOWN = 3
_TICK_SECONDS = 0.1


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser(
        "servers",
        help="the LLM servers of the policy, and what each gateway knows of them",
        description="Exit status 0: all are up. 1: one is not. 2: a gateway did not answer, or has "
        "yet to acknowledge.",
    )
    words.add_argument("--json", action="store_true", help="one JSON object")
    words.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="until each was asked once"
    )
    words.set_defaults(command=run)
    verbs = words.add_subparsers(metavar="take-out | put-back")
    _add_verb(verbs, "take-out", "give a server no new requests; those that run go on", _take_out)
    _add_verb(verbs, "put-back", "give it requests again", _put_back)


Verb = Callable[[argparse.Namespace], int]


def _add_verb(verbs: Commands, name: str, told: str, verb: Verb) -> None:
    words = verbs.add_parser(name, help=told)
    words.add_argument("name", metavar="NAME")
    words.set_defaults(command=verb)


def _take_out(options: argparse.Namespace) -> int:
    """0 when every gateway has acknowledged, 2 while one has not. Raises `Faults`."""
    pending = _in_force()[0].take_out(options.name, operator())
    print(f"{options.name} gets no new requests")
    return tell_pending(pending)


def _put_back(options: argparse.Namespace) -> int:
    """The same, undone."""
    pending = _in_force()[0].put_back(options.name, operator())
    print(f"{options.name} gets requests again")
    return tell_pending(pending)


def _in_force() -> tuple[PolicyInForce, Gateways]:
    settings = config.read()
    gateways = gateways_of(settings)
    store = open_sessions(settings.database_url)
    policy = PolicyInForce(settings.policy_file, settings.terms, store, gateways, takes=False)
    return policy, gateways


def run(options: argparse.Namespace) -> int:
    """A line a server and gateway: name, kind, URL, state, models, and what was wrong last."""
    policy, gateways = _in_force()
    rows = servers_told.rows(policy, partial(_asked, gateways, options.wait))
    if options.json:
        print(json.dumps({"servers": rows}))
    elif rows:
        _show(rows)
    else:
        print("the policy names no servers; LLM_UPSTREAM says where the LLM is", file=sys.stderr)
    return _status(rows)


def _asked(gateways: Gateways, seconds: float) -> Told:
    end = time.monotonic() + seconds
    while True:
        told = servers_told.told(gateways)
        if all(map(_are_known, told.values())) or time.monotonic() >= end:
            return told
        time.sleep(_TICK_SECONDS)


def _are_known(rows: Sequence[Mapping[str, Any]] | None) -> bool:
    return bool(rows) and all(row.get("state") != UNKNOWN for row in rows or ())


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    several = len({row["gateway"] for row in rows}) > 1
    for row in rows:
        wrong = "" if row["state"] == "up" else str(row.get("last_error") or "")
        said = (row["name"], row["kind"], row["url"], row["state"], _listed(row["models"]))
        more = (_said_out(row.get("taken_out")), wrong)
        print(harmless("  ".join(filter(None, (row["gateway"] if several else "", *said, *more)))))


def _said_out(taken: Mapping[str, Any] | None) -> str:
    return f"taken out by {taken['by']} at {moment(taken['since'])}" if taken else ""


def _listed(models: Sequence[str]) -> str:
    shown = [*models[:MAX_SHOWN], *("…" for _ in models[MAX_SHOWN : MAX_SHOWN + 1])]
    return f"{len(models)} model{'' if len(models) == 1 else 's'}" + (
        f": {', '.join(shown)}" if shown else ""
    )


def _status(rows: Sequence[Mapping[str, Any]]) -> int:
    states = {row["state"] for row in rows}
    if NO_ANSWER in states:
        return TROUBLE_STATUS
    return 0 if states <= {"up"} else 1
