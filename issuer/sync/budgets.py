"""What is spent of budgets, brought to one gateway: what the store has of users and groups.

A life of a gateway that was told everything once is told what has changed. It must never be told
less than the store has: whoever is told late may overspend for that long.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from issuer.policy.budgets import Group
from issuer.store.usage import Usage
from issuer.sync.gateways import Gateway

PART_ROWS = 5_000

Spent = tuple[int, int]
Row = tuple[str, int, int, Sequence[str]]


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


class SpentBudgets:
    """What one gateway was told."""

    def __init__(self, gateway: Gateway, usage: Usage, today: Callable[[], str] = _today) -> None:
        self._gateway = gateway
        self._usage = usage
        self._today = today
        self._life = ("", "")
        self._told: dict[str, Row] = {}

    def bring(self, boot: str, groups: Sequence[Group]) -> None:
        """Tell it what has changed; all of it to a new life, and on a new day."""
        day = self._today()
        number, spent = self._usage.spent(boot, day)
        is_new = self._life != (boot, day)
        if is_new:
            self._told = {}
        rows = _rows(spent, groups)
        changed = [row for name, row in rows.items() if self._told.get(name) != row]
        if not changed and not is_new:
            return
        for start in range(0, max(len(changed), 1), PART_ROWS):
            part = changed[start : start + PART_ROWS]
            is_last = start + PART_ROWS >= len(changed)
            ack = self._gateway.put_spent(
                boot=boot, number=number, day=day, rows=part, complete=is_last
            )
            if not ack.ok:
                self._life = ("", "")
                return
        self._life, self._told = (boot, day), rows


def _rows(spent: Mapping[str, Spent], groups: Sequence[Group]) -> dict[str, Row]:
    rows: dict[str, Row] = {f"u:{user}": (f"u:{user}", *sums, ()) for user, sums in spent.items()}
    for group in groups:
        sums = [spent.get(member, (0, 0)) for member in group.members]
        days, months = sum(day for day, _ in sums), sum(month for _, month in sums)
        rows[f"g:{group.name}"] = (f"g:{group.name}", days, months, group.members)
    return rows
