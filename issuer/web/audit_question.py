"""What the admin API and the console are asked about the audit, and the page of rows that answers.

What cannot be meant is refused, with all that is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from issuer.audit import EVENTS, Row
from issuer.authority import Authority
from issuer.errors import Unacceptable

MOST_ROWS, ROWS = 1_000, 100
MOST_NAME = 100
_DIGITS = 18
_KNOWN = ("limit", "before", "user", "event")


@dataclass(frozen=True)
class Asked:
    """A page of at most `most` rows before a place in the sequence."""

    most: int
    before: int | None
    user: str | None
    event: str | None


@dataclass(frozen=True)
class Page:
    """Rows, the newest first, and the `before` of the next page; None where there is none."""

    rows: Sequence[Row]
    next: int | None


def answered(authority: Authority, asked: Asked) -> Page:
    """With what was refused up to now. Raises `StoreUnavailable`."""
    authority.refusals.flush()
    rows = authority.active.store.audit.rows(**vars(asked))
    return Page(rows, rows[-1].sequence if len(rows) == asked.most else None)


def asked(given: Mapping[str, str]) -> Asked:
    """What a query means. Raises `Unacceptable`."""
    faults = [f"There are {', '.join(_KNOWN)}."] if given.keys() - set(_KNOWN) else []
    limit, before = given.get("limit", str(ROWS)), given.get("before")
    user, event = given.get("user"), given.get("event")
    if not (_is_whole(limit) and int(limit) <= MOST_ROWS):
        faults.append(f"limit is a whole number from 1 to {MOST_ROWS}.")
    if before is not None and not _is_whole(before):
        faults.append("before is the sequence of a row.")
    if user is not None and not (0 < len(user) <= MOST_NAME and user.isprintable()):
        faults.append("user is a name.")
    if event is not None and event not in EVENTS:
        faults.append(f"event is one of {', '.join(EVENTS)}.")
    if faults:
        raise Unacceptable(" ".join(faults))
    return Asked(int(limit), None if before is None else int(before), user, event)


def _is_whole(text: str) -> bool:
    is_number = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return is_number and int(text) > 0
