"""`doctor`: looks at everything that a deployment stands on, and says what to do."""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from issuer import assemble, config, diagnosis
from issuer.commands.told import Bare, Commands, harmless
from issuer.config import Settings
from issuer.diagnosis import FAULT, OK, WARNING, Finding, Subject
from issuer.errors import Faults, PorteroError
from issuer.users import credentials, credentials_file

#: As monitoring systems of Nagios' kind read them.
STATUSES = {OK: 0, WARNING: 1, FAULT: 2}


def add_to(commands: Commands, _: Bare) -> None:
    """The command's words."""
    words = commands.add_parser(
        "doctor",
        help="look at all that the deployment stands on, and say what to do",
        description="Exit status 0: all is well. 1: a warning. 2: a fault.",
    )
    words.add_argument("--json", action="store_true", help="one JSON object")
    words.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """A line a finding: state, what it is about, what was found, what to do."""
    # What is said below must not be said a second time, by the log.
    logging.disable(logging.CRITICAL)
    try:
        found = list(_findings())
    finally:
        logging.disable(logging.NOTSET)
    state = diagnosis.worst(found)
    if options.json:
        print(json.dumps({"state": state, "findings": [one.shown() for one in found]}))
    else:
        _show(found)
    return STATUSES[state]


def _findings() -> Iterator[Finding]:
    try:
        settings = config.read()
    except Faults as faulty:
        yield from _of("settings", faulty.faults)
        yield from _files(None)
        return
    yield Finding("settings", OK, "without a fault")
    yield from _files(settings)
    yield from diagnosis.modes(*_paths(settings))
    yield from diagnosis.disk(config.data_directory())
    if settings.is_file and not settings.database_file.exists():
        do = "start the issuer, or mend DATABASE_URL"
        yield Finding("store", FAULT, f"{settings.database_file} is not there", do)
        return
    try:
        parts = assemble(settings)
    except PorteroError as error:
        yield from _of("store", str(error).splitlines())
        return
    subject = Subject(
        settings,
        config.issuer_address(),
        parts.active.store,
        parts.keys,
        parts.policy,
        parts.gateways,
    )
    yield from diagnosis.examine(subject, time.time())


def _files(settings: Settings | None) -> Iterator[Finding]:
    """Policy and users, as `check` reads them; a start goes on with the last good ones."""
    for what, read in (("policy", config.read_policy), ("users", _count_users)):
        try:
            told = read()
        except (Faults, OSError) as faulty:
            yield from _of(what, str(faulty).splitlines())
        else:
            yield Finding(what, OK, "without a fault" if what == "policy" else f"{told} of them")


def _of(what: str, faults: Sequence[str]) -> list[Finding]:
    do = "mend it; `portero-admin check` reads it again"
    return diagnosis.of_faults(what, list(dict.fromkeys(faults)), "", do)


def _count_users() -> int:
    path = config.credentials_file()
    if path is None:
        return 0
    return len(credentials.parse(credentials_file.read(path), config.read_roles(), salt=b""))


def _paths(settings: Settings) -> tuple[list[Path], list[Path]]:
    """What its owner alone may read, and what others may not write."""
    folder = config.data_directory()
    private = [settings.credentials_file]
    if settings.is_file:
        private += [settings.database_file, settings.key_file]
    return private, [folder, settings.policy_file, settings.policy_file.absolute().parent]


def _show(found: Sequence[Finding]) -> None:
    width = max(len(one.what) for one in found)
    for one in found:
        do = f": {one.do}" if one.do else ""
        print(harmless(f"{one.state:7}  {one.what:{width}}  {one.told}{do}"))
