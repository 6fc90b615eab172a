"""The LLM servers as a gateway sees them, for the audit: a row when one goes down or comes up.

What was known before is what the audit says last, so that a new process tells nothing twice. It
must never say anything of a server that a gateway has not asked yet.
"""

from issuer.audit import OK, PORTERO, SERVER_DOWN, SERVER_UP, Actor, Event
from issuer.store.audit import Audit
from issuer.sync.gateways import Gateway
from issuer.sync.policy_in_force import PolicyInForce

_EVENTS = (SERVER_UP, SERVER_DOWN)
#: By a gateway's word, what came of asking; "ejected" is the same server a moment later.
_OUTCOMES = {"up": OK, "down": "down", "ejected": "down", "misconfigured": "misconfigured"}


class ServersSeen:
    """What one gateway says of them."""

    def __init__(self, gateway: Gateway, audit: Audit) -> None:
        self._gateway = gateway
        self._audit = audit
        self._outcomes: dict[str, str] = {}

    def look(self, policy: PolicyInForce) -> None:
        """Ask, where the policy names servers. Raises `StoreUnavailable`."""
        names = {server.name for server in policy.in_force().servers}
        if not names:
            return
        for row in self._gateway.servers() or ():
            name, outcome = str(row.get("name")), _OUTCOMES.get(str(row.get("state")))
            if name in names and outcome:
                self._tell(name, outcome)

    def _tell(self, name: str, outcome: str) -> None:
        if self._outcomes.get(name) == outcome:
            return
        actor = Actor(PORTERO, "portero", address=self._gateway.url)
        before = self._audit.newest(_EVENTS, name, actor.address)
        if before is None or before.outcome != outcome:
            event = SERVER_UP if outcome == OK else SERVER_DOWN
            self._audit.record(Event(actor, event, name, outcome))
        self._outcomes[name] = outcome
