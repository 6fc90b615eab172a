"""The one place where the session store and the gateways change together.

The truth is the store's; the gateways hold a projection of it (`portero/token/active_tokens.lua`).
The order is always store first, durable, then gateways: what was acknowledged is never lost, and
what a push missed the reconciler brings. It must never answer "active" or "revoked" before the
store has it on disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from issuer.errors import CapacityReached, NoGatewayReached
from issuer.store import Selection, Session
from issuer.store.sqlite import SqliteSessions
from issuer.sync.gateways import Ack, Changes, Gateways

Clock = Callable[[], float]

#: One message stays small enough to be applied within a gateway's time for a push.
PUSH_ENTRIES = 2_000


@dataclass(frozen=True)
class Revocation:
    """What a revocation did: the unexpired sessions, and the gateways that did not acknowledge."""

    sessions: Sequence[Session]
    pending: Sequence[str]


class ActiveTokens:
    """The active tokens of the deployment."""

    def __init__(
        self,
        store: SqliteSessions,
        gateways: Gateways,
        most_active: int,
        clock: Clock = time.time,
    ) -> None:
        self.store = store
        self._gateways = gateways
        self._most_active = most_active
        self._clock = clock

    def activate(self, session: Session, most_of_subject: int) -> None:
        """Make a token active: durable, then acknowledged by every gateway that answers.

        Raises `CapacityReached`, `TooManyTokens`, `NoGatewayReached` or `StoreUnavailable`; the
        token is then not active and must not be handed out.
        """
        self.store.add(session, self._most_active, self._now(), most_of_subject)
        acks = self._gateways.apply(Changes.to([session]))
        refusal = _refusal(acks)
        if refusal is not None:
            self.revoke(Selection(jti=session.jti))
            raise refusal

    def revoke(self, selection: Selection) -> Revocation:
        """Revoke tokens: durable, then at once on every gateway that answers.

        Expired ones too: a gateway may go by another clock, and a stream may outlive its token.
        """
        now = self._now()
        sessions = self.store.revoke(selection, now)
        pending: set[str] = set()
        for start in range(0, len(sessions), PUSH_ENTRIES):
            acks = self._gateways.apply(Changes.to(sessions[start : start + PUSH_ENTRIES]))
            pending.update(ack.url for ack in acks if not ack.ok)
        unexpired = [session for session in sessions if session.expires_at > now]
        return Revocation(unexpired, tuple(sorted(pending)))

    def is_active(self, jti: str) -> bool:
        """What the store says, which is what the gateways shall say."""
        session = self.store.find(jti)
        return session is not None and session.is_active(self._now())

    def _now(self) -> int:
        return int(self._clock())


def _refusal(acks: Sequence[Ack]) -> CapacityReached | NoGatewayReached | None:
    """A token must work wherever it can be shown: one full gateway is enough to refuse it."""
    if any(ack.full for ack in acks):
        return CapacityReached()
    return None if any(ack.ok for ack in acks) else NoGatewayReached()
