"""The one place where the session store and the gateways change together.

The truth is the store's; the gateways hold a projection of it (`portero/token/active_tokens.lua`).
The order is always store first, durable, then gateways: what was acknowledged is never lost, and
what a push missed the reconciler brings. Logins at the same time share a transaction and a message
(`batches.py`). It must never answer "active" or "revoked" before the store has it on disk.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from issuer import audit, traces
from issuer.audit import Actor, Event
from issuer.errors import CapacityReached, NoGatewayReached, PorteroError
from issuer.store import Addition, Ending, Selection, Session
from issuer.store.sessions import Sessions
from issuer.sync.batches import Batches
from issuer.sync.gateways import Ack, Changes, Gateways

Clock = Callable[[], float]

#: One message stays small enough to be applied within a gateway's time for a push.
PUSH_ENTRIES = 2_000
#: What a trace calls the two steps of a change.
COMMIT, TELL = "commit to the store", "tell the gateways"


@dataclass(frozen=True)
class Revocation:
    """What a revocation did: the unexpired sessions, and the gateways that did not acknowledge."""

    sessions: Sequence[Session]
    pending: Sequence[str]


class ActiveTokens:
    """The active tokens of the deployment."""

    def __init__(
        self,
        store: Sessions,
        gateways: Gateways,
        most_active: int,
        clock: Clock = time.time,
    ) -> None:
        self.store = store
        self._gateways = gateways
        self._most_active = most_active
        self._clock = clock
        self._activations = Batches(self._add, self._tell_added)
        self._revocations = Batches(self._revoke, self._tell_revoked)

    def activate(self, session: Session, most_of_subject: int, by: Actor) -> None:
        """Make a token active: durable, then acknowledged by every gateway that answers.

        Raises `CapacityReached`, `TooManyTokens`, `NoGatewayReached` or `StoreUnavailable`; the
        token is then not active and must not be handed out.
        """
        name = audit.API_KEY_CREATE if session.api_key else audit.LOGIN
        event = Event(by, name, target=session.audited, user=session.subject)
        known = self._activations.do(Addition(session, most_of_subject, event))
        if isinstance(known, _Refused):
            if known.is_stored:
                self.revoke(Selection(jti=session.jti), audit.ITSELF)
            raise known.reason

    def revoke(self, selection: Selection, by: Actor, event: str = audit.REVOKE) -> Revocation:
        """Revoke tokens: durable, then at once on every gateway that answers.

        Expired ones too: a gateway may go by another clock, and a stream may outlive its token.
        """
        ending = Ending(selection, Event(by, event))
        if selection.jti is not None:
            return self._revocations.do(ending)
        # Many may be meant: nobody else shall wait for all of them to be told.
        return self._tell_revoked(self._revoke([ending]))[0]

    def is_active(self, jti: str) -> bool:
        """What the store says, which is what the gateways shall say."""
        session = self.store.find(jti)
        return session is not None and session.is_active(self._now())

    def _add(self, additions: Sequence[Addition]) -> Sequence["Session | _Refused"]:
        with traces.step(COMMIT):
            refusals = self.store.add_each(additions, self._most_active, self._now())
        return [
            one.session if refusal is None else _Refused(refusal, is_stored=False)
            for one, refusal in zip(additions, refusals, strict=True)
        ]

    def _tell_added(self, added: Sequence["Session | _Refused"]) -> Sequence["Session | _Refused"]:
        sessions = [one for one in added if isinstance(one, Session)]
        if not sessions:
            return added
        with traces.step(TELL):
            reason = _refusal(self._gateways.apply(Changes.to(sessions)))
        if reason is None:
            return added
        refused = _Refused(reason, is_stored=True)
        return [one if isinstance(one, _Refused) else refused for one in added]

    def _revoke(self, endings: Sequence[Ending]) -> Sequence[Sequence[Session]]:
        with traces.step(COMMIT):
            return self.store.revoke_each(endings, self._now())

    def _tell_revoked(self, revoked: Sequence[Sequence[Session]]) -> Sequence[Revocation]:
        sessions = [session for some in revoked for session in some]
        pending: set[str] = set()
        for start in range(0, len(sessions), PUSH_ENTRIES):
            with traces.step(TELL):
                acks = self._gateways.apply(Changes.to(sessions[start : start + PUSH_ENTRIES]))
            pending.update(ack.url for ack in acks if not ack.ok)
        now = self._now()
        return [
            Revocation(
                [session for session in some if session.expires_at > now], tuple(sorted(pending))
            )
            for some in revoked
        ]

    def _now(self) -> int:
        return int(self._clock())


@dataclass(frozen=True)
class _Refused:
    """A login that is not granted; if it is in the store already, it must be revoked."""

    reason: PorteroError
    is_stored: bool


def _refusal(acks: Sequence[Ack]) -> CapacityReached | NoGatewayReached | None:
    """A token must work wherever it can be shown: one full gateway is enough to refuse it."""
    if any(ack.full for ack in acks):
        return CapacityReached()
    return None if any(ack.ok for ack in acks) else NoGatewayReached()
