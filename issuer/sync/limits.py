"""Limits of a minute, shared by gateways: each is told what the others have counted.

A gateway counts in windows of its own and judges by them at once; here is what each has told last.
Times are this machine's, so gateways' clocks may differ. Nothing of it is kept anywhere: who leads
next is told all again. It must never tell a gateway its own counts as others'.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from issuer.sync.gateways import Gateway

PART_ROWS = 5_000
#: Less is not told: the gateways' windows are over before they have heard of each other.
ENDING_SECONDS = 2.0
#: By how much the end of a window may differ from what was told without being told again.
SAME_END_SECONDS = 0.5

#: What a gateway has counted in a window, or all others have, and when that ends here.
Counted = tuple[int, float]


class MinuteLimits:
    """What all gateways of a deployment have counted; each of them has a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[str, dict[str, Counted]] = {}

    def note(self, url: str, rows: Iterable[Sequence[Any]], now: float) -> None:
        """What one gateway has counted itself takes the place of what it told before; a window that
        it does not tell any more, as when it has lost it, stands until its end.
        """
        told = {str(key): (int(count), now + float(left)) for key, count, left in rows}
        with self._lock:
            before = self._counted.get(url, {})
            kept = {key: window for key, window in before.items() if window[1] > now}
            self._counted[url] = {**kept, **told}

    def of_others(self, url: str, now: float) -> dict[str, Counted]:
        """What all but one have counted, in windows that do not end at once."""
        sums: dict[str, Counted] = {}
        with self._lock:
            others = [windows for other, windows in self._counted.items() if other != url]
        for windows in others:
            for key, (count, end) in windows.items():
                if end - now >= ENDING_SECONDS:
                    before, soonest = sums.get(key, (0, end))
                    sums[key] = (before + count, min(soonest, end))
        return sums


class SharedLimits:
    """One gateway's part."""

    def __init__(
        self, gateway: Gateway, all_of_them: MinuteLimits, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._gateway = gateway
        self._all = all_of_them
        self._now = now
        self._boot = ""
        self._told: dict[str, Counted] = {}

    def share(self, boot: str) -> None:
        """Tell it what is new of the others, and hear what it has counted."""
        if boot != self._boot:
            self._boot, self._told = boot, {}
        others = self._all.of_others(self._gateway.url, self._now())
        changed = [key for key, window in others.items() if self._is_new(key, window)]
        for start in range(0, max(len(changed), 1), PART_ROWS):
            part = changed[start : start + PART_ROWS]
            now = self._now()
            ack = self._gateway.put_limits([self._row(key, others[key], now) for key in part])
            if not ack.ok:
                self._boot = ""
                return
        self._told = others
        self._hear(ack.status)

    def _hear(self, status: Mapping[str, Any]) -> None:
        windows = status.get("windows")
        if isinstance(windows, list):
            self._all.note(self._gateway.url, windows, self._now())

    def _is_new(self, key: str, window: Counted) -> bool:
        count, end = self._told.get(key, (0, 0.0))
        return window[0] != count or abs(window[1] - end) > SAME_END_SECONDS

    def _row(self, key: str, window: Counted, now: float) -> tuple[str, int, float]:
        return key, window[0], round(max(window[1] - now, 0.001), 3)
