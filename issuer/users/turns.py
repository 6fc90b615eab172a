"""Turns at what costs a core: few at once, few waiting, addresses one after the other.

Where all places are taken, a newcomer takes that of the last of whoever has most waiting, unless
that one has no more than the newcomer would. So an address that floods waits for itself alone: it
never keeps a place from another, nor has two turns in a row. It must never be asked for what costs
nothing.
"""

import ipaddress
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from issuer.errors import TooManyLogins

#: Whoever has IPv6 has as many addresses as this leaves open.
IPV6_PREFIX = 64


class Turns:
    """At most `at_once` have a turn, at most `waiting` wait for one; safe for threads."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._lock = threading.Lock()
        self._free = at_once
        self._places = waiting
        #: Who waits, by address; the first line has the next turn.
        self._lines: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @contextmanager
    def turn(self, address: str) -> Iterator[None]:
        """Wait for a turn, and have it. Raises `TooManyLogins` rather than wait without end."""
        waiter = self._enter(network_of(address))
        if waiter is not None and not waiter.has_turn():
            raise TooManyLogins
        try:
            yield
        finally:
            self._leave()

    def _enter(self, who: str) -> "_Waiter | None":
        """A place in the queue, or None where the turn is now."""
        with self._lock:
            if self._free:  # then nobody waits
                self._free -= 1
                return None
            if not self._places and not self._make_room(who):
                raise TooManyLogins
            self._places -= 1
            waiter = _Waiter()
            self._lines.setdefault(who, deque()).append(waiter)
            return waiter

    def _make_room(self, who: str) -> bool:
        if not self._lines:
            return False
        longest = max(self._lines.values(), key=len)
        if len(longest) < len(self._lines.get(who, ())) + 2:
            return False
        longest.pop().tell(False)
        self._places += 1
        return True

    def _leave(self) -> None:
        with self._lock:
            if not self._lines:
                self._free += 1
                return
            who, line = self._lines.popitem(last=False)
            line.popleft().tell(True)
            self._places += 1
            if line:
                self._lines[who] = line


class _Waiter:
    """One who waits in its own thread."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._has_turn = False

    def tell(self, has_turn: bool) -> None:
        self._has_turn = has_turn
        self._told.set()

    def has_turn(self) -> bool:
        self._told.wait()
        return self._has_turn


def network_of(address: str) -> str:
    """The network that one client has; what is no address is itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), IPV6_PREFIX), strict=False))
