"""What is known of a caller's token, and what is to be done at a moment. No I/O, no clock and no
thread of its own: who asks tells the time, and starts the login that it is told to start.

One lock guards it all, and nothing waits while it is held. A `Flight` is one login under way; all
who need its outcome wait for the same one.
"""

import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from portero.errors import LoginError, PorteroError, TokenRefused, WrongCredentials, again
from portero.hidden import Hidden

#: The part of its life after which a token is renewed, less up to this much jitter.
RENEWAL_PART = 0.8
JITTER_PART = 0.05
#: All wait for the new token in the last part of the old one's life, or in its last seconds.
LAST_PART, LAST_SECONDS = 0.1, 2.0
#: The issue time in a token is a floored second: it may live that much less than it says.
FLOORED_SECONDS = 1.0
#: How long a wrong secret is refused without asking again, and any other failed login.
WRONG_SECONDS, FAILED_SECONDS = 5.0, 0.5
#: A token that is refused at this age or younger tells of clocks that disagree.
FRESH_SECONDS = 5.0
#: So many fresh tokens refused in a row, and no more are fetched for a while.
MOST_FRESH_REFUSALS = 3

UNAUTHORIZED = 401
REVOKED = 'The token was revoked, or was never this gateway\'s; on_revoked="login" logs in again.'
SKEWED = (
    "A token fresh from its login was refused: the clocks of issuer and gateway may disagree. "
    "Run `portero doctor`."
)

LOGGED_OUT = "There was a logout while the login was under way."


@dataclass(frozen=True)
class Grant:
    """A token and its life, on the clock from before its login was sent."""

    token: Hidden
    begun: float
    life_seconds: float
    jitter: float = 0.0
    role: str = ""
    subject: str = ""

    @property
    def ends_at(self) -> float:
        """When it is certainly over, or about to be."""
        return self.begun + self.life_seconds

    @property
    def renewed_at(self) -> float:
        """When a new one is to be fetched."""
        return self.begun + self.life_seconds * (RENEWAL_PART - JITTER_PART * self.jitter)

    @property
    def awaited_at(self) -> float:
        """From when on nobody should be given this one any more, if another can be had."""
        return self.ends_at - min(LAST_SECONDS, LAST_PART * self.life_seconds)


def life_of(ttl_seconds: float) -> float:
    """How long a token may be relied on.

    >>> life_of(60)
    59.0
    """
    return max(ttl_seconds - FLOORED_SECONDS, ttl_seconds / 2)


Outcome = Grant | LoginError


class Flight:
    """A login under way. Its future always gets an outcome, and is never cancelled."""

    def __init__(self, is_renewal: bool) -> None:
        self.is_renewal = is_renewal
        self.outcome: Future[Outcome] = Future()
        # From here on a waiter that is cancelled cannot take it from the others.
        self.outcome.set_running_or_notify_cancel()


class Decision(NamedTuple):
    """What to do: use the token, or wait for the flight; and whether to start the flight now."""

    grant: Grant | None
    flight: Flight | None
    starts: bool


class TokenState:
    """The state of one caller's token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._flight: Flight | None = None
        self._next_renewal = -math.inf
        self._failures = 0
        self._bar: PorteroError | None = None
        self._barred_until = -math.inf
        self._fresh_refusals = 0

    def forget(self) -> None:
        """Begin anew, in a process that was forked: whoever held the lock is not here any more."""
        TokenState.__init__(self)

    @property
    def grant(self) -> Grant | None:
        """What is held, dead or alive."""
        return self._grant

    @property
    def is_renewing(self) -> bool:
        """Whether a login is under way."""
        return self._flight is not None

    def lives(self, now: float) -> bool:
        """Whether what is held may still be used."""
        grant = self._grant
        return grant is not None and now < grant.ends_at

    def ask(self, now: float, logs_in_again: bool) -> Decision:
        """What to do for somebody who needs a token now. Raises what bars a login."""
        with self._lock:
            grant = self._grant
            if grant is not None and now < grant.awaited_at:
                return Decision(grant, *self._renewal(grant, now))
            if grant is not None and now < min(grant.ends_at, self._next_renewal):
                return Decision(grant, None, False)
            self._raise_bar(now, logs_in_again)
            starts = self._flight is None
            if self._flight is None:
                self._flight = Flight(is_renewal=grant is not None and now < grant.ends_at)
            return Decision(None, self._flight, starts)

    def _renewal(self, grant: Grant, now: float) -> tuple[Flight | None, bool]:
        """The flight to start ahead of the end, if it is time and nobody has."""
        if now < max(grant.renewed_at, self._next_renewal) or self._flight is not None:
            return None, False
        self._flight = Flight(is_renewal=True)
        return self._flight, True

    def _raise_bar(self, now: float, logs_in_again: bool) -> None:
        if self._bar is None or now >= self._barred_until:
            return
        if self._bar.code == "revoked" and logs_in_again:
            return
        raise again(self._bar)

    def land(self, flight: Flight, outcome: Outcome, now: float) -> bool:
        """Take a login's outcome, and give it to all who wait. False if the flight was given up
        meanwhile, by a logout: its token is then nobody's, and to be revoked.
        """
        with self._lock:
            is_wanted = flight is self._flight
            if is_wanted:
                self._flight = None
                outcome = self._landed(outcome, now)
        flight.outcome.set_result(outcome if is_wanted else LoginError(LOGGED_OUT))
        return is_wanted

    def _landed(self, outcome: Outcome, now: float) -> Outcome:
        """What the waiters get: a live token outweighs a failure."""
        if isinstance(outcome, Grant):
            self._grant, self._bar, self._failures = outcome, None, 0
            self._next_renewal = -math.inf
            return outcome
        self._failures += 1
        grant = self._grant
        if grant is not None and now < grant.ends_at:
            pause = min(5.0, 0.05 * grant.life_seconds * 2 ** min(self._failures - 1, 4))
            self._next_renewal = now + pause
            return grant
        is_wrong = isinstance(outcome, WrongCredentials)
        self._bar, self._grant = outcome, None
        self._barred_until = now + (WRONG_SECONDS if is_wrong else FAILED_SECONDS)
        return outcome

    def refuse(self, sent: str, expired: bool, logs_in_again: bool, now: float) -> bool:
        """Take note that the gateway refused a token. Whether it is worth asking for another."""
        with self._lock:
            grant = self._grant
            if grant is None or grant.token != sent:
                return self._bar is None or logs_in_again
            self._grant = None
            is_fresh = now - grant.begun <= min(FRESH_SECONDS, grant.life_seconds / 2)
            self._fresh_refusals = self._fresh_refusals + 1 if is_fresh else 0
            if self._fresh_refusals >= MOST_FRESH_REFUSALS:
                self._fresh_refusals = 0
                self._set_bar(SKEWED, "invalid_api_key", now + WRONG_SECONDS)
                return False
            if expired or logs_in_again:
                return True
            self._set_bar(SKEWED if is_fresh else REVOKED, "revoked", math.inf)
            return False

    def why_refused(self) -> str:
        """More than the gateway may say of a token that it refused, where more is known."""
        with self._lock:
            if self._bar is not None and self._bar.status == UNAUTHORIZED:
                return self._bar.message
            return SKEWED if self._fresh_refusals else ""

    def _set_bar(self, message: str, code: str, until: float) -> None:
        self._bar = TokenRefused(message, status=UNAUTHORIZED, code=code)
        self._barred_until = until

    def invalidate(self, token: str) -> None:
        """Hold this token no longer, and let the next who asks log in."""
        with self._lock:
            if self._grant is not None and self._grant.token == token:
                self._grant = None
            if self._bar is not None and self._bar.code == "revoked":
                self._bar = None

    def give_up(self) -> Grant | None:
        """Forget everything, at a logout; what is to be revoked, if there is anything."""
        with self._lock:
            given = self._grant
            self._grant = self._flight = self._bar = None
            return given
