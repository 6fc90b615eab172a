"""The store: the truth about every token issued, and the last good policy. A *session* is the row
of one `jti`.

What any store promises (and `tests/contract/test_session_stores.py` asks of each):

- `add` and `revoke` are durable when they return: on disk, not only in a cache.
- Every change gets a position of its own, rising in the order of the commits, so that whoever has
  seen position N has only to ask for what came after N.
- Revocation is final: nothing makes a revoked session active again.
- An *epoch* names one unbroken history. A copy made by `backup` begins a new one when it is opened,
  with all its sessions revoked: what happened after the copy was made is not known to it.
- The policy has a serial number that only rises, within one epoch; it is put whole or not at all.
- A failure is `StoreUnavailable`, and then nothing half-done remains.

Times are whole Unix seconds and come in as arguments. A session outlives its token in the store:
the clock may be wrong that says it has expired, and a stream may outlive its token too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

#: So long is a session kept behind its token's end: a clock that is an hour wrong, to one side and
#: then to the other, forgets no live one.
KEPT_SECONDS = 7_260


@dataclass(frozen=True)
class Session:
    """One issued token. `credential` fingerprints the secret it was issued for."""

    jti: str
    subject: str
    role: str
    issued_at: int
    expires_at: int
    credential: str
    revoked_at: int | None = None
    position: int = 0

    def is_active(self, now: int) -> bool:
        """Whether the token may still be used."""
        return self.revoked_at is None and self.expires_at > now


@dataclass(frozen=True)
class StoredPolicy:
    """The last good policy: what it was read from, and what gateways are sent, both as JSON."""

    serial: int
    sources: str
    compiled: str


@dataclass(frozen=True)
class Selection:
    """Which sessions are meant: all fields that are set must match; none set means all."""

    jti: str | None = None
    subject: str | None = None
    role: str | None = None
    credential: str | None = None


class SessionStore(Protocol):
    """See the module's opening for what every implementation promises."""

    def add(
        self, session: Session, most_active: int, now: int, most_of_subject: int | None = None
    ) -> None:
        """Make the session durable.

        `CapacityReached` if `most_active` others are active, `TooManyTokens` if `most_of_subject`
        of the same subject are.
        """

    def revoke(self, selection: Selection, now: int) -> Sequence[Session]:
        """Revoke what is selected, expired or not; answers all of it, what ends last first."""

    def find(self, jti: str) -> Session | None:
        """The session of this `jti`, or None."""

    def live_after(self, jti: str, now: int, most: int) -> Sequence[Session]:
        """A page of unexpired sessions, active and revoked, in the order of their `jti`."""

    def changes_after(self, position: int, most: int) -> Sequence[Session]:
        """A page of sessions changed after `position`, in the order of their positions."""

    def position(self) -> int:
        """The position of the newest change."""

    def active(self, now: int, most: int) -> Sequence[Session]:
        """The newest active sessions."""

    def last_expiry(self) -> int:
        """When the last of all sessions ends, or ended; 0 when there is none."""

    def count_active(self, now: int) -> int:
        """How many sessions are active."""

    def credentials_in_use(self, now: int) -> Sequence[tuple[str, str]]:
        """The distinct (subject, credential) pairs of active sessions."""

    def policy(self) -> StoredPolicy | None:
        """The last good policy, or None before there is one."""

    def policy_serial(self) -> int:
        """Its serial number; 0 before there is one."""

    def put_policy(
        self, sources: str, compiled: str, still: Callable[[], bool] = lambda: True
    ) -> StoredPolicy | None:
        """Make a policy durable under the next serial number; the same again keeps its own.

        `still` is asked while no other can put one: where it says no, nothing is put, and None
        comes back. So what was read from files first is never put after what was read later.
        """

    def epoch(self) -> str:
        """The name of this store's history."""

    def begin_epoch(self, now: int) -> int:
        """Trust nothing of what is here: revoke all, and begin a history. Answers how many."""

    def prune(self, now: int) -> int:
        """Forget sessions whose time is long over; answers how many."""

    def salt(self) -> bytes:
        """Random bytes made with the store, for fingerprints that mean nothing elsewhere."""
