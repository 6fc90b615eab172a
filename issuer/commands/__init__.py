"""The commands of `python -m issuer`, a file a verb, and what their words have in common.

A command parses words, asks one of the other rooms, and prints what came of it. It must never
decide anything itself, nor print a secret unless it is asked to.
"""

import argparse
import re
from collections.abc import Sequence

from issuer.commands import (
    api_keys,
    audit,
    backup,
    check,
    doctor,
    explain,
    init,
    reconcile,
    revoke,
    servers,
    sessions,
    signing_keys,
    tls,
    usage,
    users,
)

#: In the order in which `--help` lists them.
VERBS = (
    init,
    check,
    doctor,
    explain,
    servers,
    reconcile,
    signing_keys,
    backup,
    users,
    api_keys,
    sessions,
    revoke,
    usage,
    audit,
    tls,
)

#: Shields an ID from the parser, and is nowhere in one.
_SHIELD = "="
_DASHED_ID = re.compile(r"-[A-Za-z0-9_-]{15,42}\Z", re.ASCII)


def parser(description: str | None) -> argparse.ArgumentParser:
    """All commands; each sets `command`, a function of the parsed words."""
    whole = argparse.ArgumentParser(prog="python -m issuer", description=description)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for verb in VERBS:
        verb.add_to(commands, bare)
    return whole


def shielded(words: Sequence[str]) -> list[str]:
    """One in 64 IDs begins with a dash, and would pass for an option; no option is as long."""
    return [_SHIELD + word if _DASHED_ID.match(word) else word for word in words]


def bare(word: str) -> str:
    """An ID as it was before `shielded`."""
    return word.removeprefix(_SHIELD)
