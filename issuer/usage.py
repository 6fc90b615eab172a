"""What is asked of usage, and how the answer is written: JSON, CSV or a table; and what is left
of a caller's budgets.

A question that is not good is `Unacceptable`, and its text says what would be. It must never answer
about more than one user where one was named.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from issuer.errors import Unacceptable
from issuer.policy.budgets import Group
from issuer.policy.roles import Limits
from issuer.store.usage import COUNTS, KEYS, Question, Usage

#: How far back it goes where nobody says from when, today within.
DAYS = 30
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)
#: What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@")

Rows = Sequence[Mapping[str, Any]]


def question(words: Mapping[str, str], today: date, user: str | None = None) -> Question:
    """Of `from`, `to` and `by`, each of which may be missing. Raises `Unacceptable`."""
    last = _day(words, "to", today)
    back = min(timedelta(days=DAYS - 1), last - date.min)
    first = _day(words, "from", last - back)
    if first > last:
        raise Unacceptable("from must not be later than to.")
    return Question(first.isoformat(), last.isoformat(), _by(words.get("by")), user)


def _day(words: Mapping[str, str], name: str, default: date) -> date:
    text = words.get(name)
    if text is None:
        return default
    try:
        if _DATE.match(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise Unacceptable(f"{name} must be a date of UTC, such as {default.isoformat()}.")


def _by(text: str | None) -> tuple[str, ...]:
    if text is None:
        return KEYS
    names = tuple(text.split(","))
    if not set(names) <= set(KEYS) or len(set(names)) != len(names):
        raise Unacceptable(f"by must be one or more of {', '.join(KEYS)}, with commas between.")
    return names


@dataclass(frozen=True)
class Left:
    """What is left of a budget: so many tokens of `most` in this day or month of UTC; the caller's
    own, or that of a group.
    """

    period: str
    most: int
    left: int
    group: str | None = None


def left_of(
    user: str, limits: Limits, groups: Sequence[Group], used: Usage, today: date
) -> list[Left]:
    """Of every budget that a user is held to."""
    own = Group("", (user,), limits.tokens_per_day, limits.tokens_per_month)
    budgets = [own, *(group for group in groups if user in group.members)]
    held = [one for one in budgets if one.tokens_per_day or one.tokens_per_month]
    spent = used.spent_by({name for one in held for name in one.members}, today.isoformat())
    return [left for one in held for left in _left(one, spent)]


def _left(budget: Group, spent: Mapping[str, tuple[int, int]]) -> list[Left]:
    sums = [spent.get(member, (0, 0)) for member in budget.members]
    known = (
        ("day", budget.tokens_per_day, sum(day for day, _ in sums)),
        ("month", budget.tokens_per_month, sum(month for _, month in sums)),
    )
    return [
        Left(period, most, max(0, most - used), budget.name or None)
        for period, most, used in known
        if most is not None
    ]


def as_csv(asked: Question, rows: Rows) -> str:
    """A line of names, then one a row (RFC 4180). Models are named by callers, and made no formula
    of a spreadsheet's.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*asked.by, *COUNTS])
    for row in rows:
        writer.writerow([_plain(row[name]) for name in (*asked.by, *COUNTS)])
    return out.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if str(value).startswith(_FORMULA) else value


def as_table(asked: Question, rows: Rows) -> str:
    """The same for people: names above, counts to the right."""
    names = [*asked.by, *COUNTS]
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
    return "\n".join(_line(line, widths, len(asked.by)) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], texts: int) -> str:
    placed = [
        cell.ljust(width) if place < texts else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(placed)
