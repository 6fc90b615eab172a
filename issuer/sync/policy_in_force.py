"""The policy in force: the last good state of its files, durable in the store, then at the
gateways, then here.

In that order, so that a token is never issued by a policy that the gateways do not know yet. Every
process looks at the files; whichever sees a change first makes it durable, and the others take it
from the store, where it also outlasts restarts while the files are faulty. A faulty state is told
once, with its lines, and changes nothing. It must never put a state of the files that is no longer
theirs: what counts is looked at once more while no other process can put one. Nor may a credential
of an LLM server lie in the store, or go to a gateway, but sealed.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from issuer import policy
from issuer.audit import ITSELF, POLICY, REFUSED, SERVER_BACK, SERVER_OUT, Actor, Event
from issuer.errors import Faults, StoreUnavailable
from issuer.policy import Policy, Sources, Terms
from issuer.policy.roles import Roles
from issuer.store import StoredPolicy, TakenOut
from issuer.store.sessions import Sessions
from issuer.sync.gateways import Gateways, PushedPolicy

log = logging.getLogger("portero.policy")

#: Every process sees a faulty file by itself, within so long.
REFUSED_TOGETHER_SECONDS = 10


class PolicyInForce:
    """The policy of one deployment, in one of its processes; safe for threads.

    One that does not take any is for commands: it goes by what the others have taken. Raises
    `Faults` when made where the files are faulty and the store holds no policy yet.
    """

    def __init__(
        self,
        path: Path,
        terms: Terms,
        store: Sessions,
        gateways: Gateways,
        takes: bool = True,
    ) -> None:
        self._path = path
        self._terms = terms
        self._store = store
        self._gateways = gateways
        self._sealing = gateways.credentials
        self._lock = threading.RLock()
        self._judged = self._seen = self._read()
        self._policy, self._stored = self._begin() if takes else self._joined()

    def in_force(self) -> Policy:
        """The policy that counts now, also where another process has taken it a moment ago."""
        try:
            if self._store.policy_serial() != self._stored.serial:
                self._follow()
        except StoreUnavailable as error:
            log.error("%s; the policy that is known stays in force", error)
        return self._policy

    def roles(self) -> Roles:
        """Its roles; the same object for as long as it counts."""
        return self.in_force().roles

    def pushed(self) -> PushedPolicy:
        """What gateways are sent of it."""
        self.in_force()
        return self._pushed(self._stored)

    def _pushed(self, stored: StoredPolicy) -> PushedPolicy:
        compiled = json.loads(stored.compiled)
        for row in compiled.get("servers", ()):
            if row["name"] in stored.taken_out:
                row["taken_out"] = True
        return PushedPolicy(self._store.epoch(), stored.serial, compiled)

    def taken_out(self) -> Mapping[str, TakenOut]:
        """The LLM servers that get no new requests, by their names."""
        self.in_force()
        return self._stored.taken_out

    def take_out(self, name: str, actor: Actor) -> tuple[str, ...]:
        """Give an LLM server no new requests; those that run go on. Durable when this returns, and
        known to every gateway but those it answers. Raises `Faults` where there is none such, or it
        is out already.
        """
        self._must_be_named(name)
        taken = TakenOut(int(time.time()), actor.name)
        if not self._store.take_out(name, taken, Event(actor, SERVER_OUT, name)):
            raise Faults([f"the LLM server {name} is taken out already"])
        return self._told()

    def put_back(self, name: str, actor: Actor) -> tuple[str, ...]:
        """The same, undone."""
        self._must_be_named(name)
        if not self._store.put_back(name, Event(actor, SERVER_BACK, name)):
            raise Faults([f"the LLM server {name} is not taken out"])
        return self._told()

    def _must_be_named(self, name: str) -> None:
        if name not in {one.name for one in self.in_force().servers}:
            raise Faults(["the policy names no LLM server of that name"])
        if not self._stored.serial:
            raise Faults(["no policy is in force yet: start the issuer first"])

    def _told(self) -> tuple[str, ...]:
        """Tell all gateways; those that have not said that they know it."""
        return tuple(ack.url for ack in self._gateways.put_policy(self.pushed()) if not ack.ok)

    @property
    def serial(self) -> int:
        """The number of the policy in force."""
        return self._stored.serial

    def faults(self) -> tuple[str, ...]:
        """What is wrong with the files as they stand, which are not in force then."""
        try:
            self._parsed(self._read())
        except Faults as found:
            return found.faults
        return ()

    def push(self) -> None:
        """Tell the gateways that can be told; the reconciler tells the others."""
        self._gateways.put_policy(self.pushed())

    def look(self) -> None:
        """Take the files' state if it changed, is without a fault, and stands since the last look:
        a file may be read while it is being written.
        """
        self.in_force()
        with self._lock:
            before, self._seen = self._seen, self._read()
            if self._seen == before and self._seen != self._judged:
                self._judge(self._seen)

    def _read(self) -> Sources | Faults:
        try:
            return policy.gather(self._path)
        except Faults as found:
            return found

    def _begin(self) -> tuple[Policy, StoredPolicy]:
        self._refuse_two_answers()
        try:
            found = self._parsed(self._seen)
        except Faults as faulty:
            return self._begin_from_store(faulty)
        stored = self._put(self._seen, found)
        if stored:
            return found, stored
        self._judged = self._seen = self._read()
        return self._begin()

    def _refuse_two_answers(self) -> None:
        """No policy of the store helps here: it is the settings that are wrong."""
        if isinstance(self._seen, Faults):
            return
        if both := policy.beside_servers(self._seen, self._terms):
            raise Faults(both)

    def _joined(self) -> tuple[Policy, StoredPolicy]:
        known = self._store.policy()
        if known is None:
            return self._parsed(self._seen), StoredPolicy(0, "", "{}")
        return self._parsed(self._of_store(known)), known

    def _begin_from_store(self, faulty: Faults) -> tuple[Policy, StoredPolicy]:
        known = self._store.policy()
        if known is None:
            raise faulty
        self._refuse(faulty)
        found = self._parsed(self._of_store(known))
        text = self._text(found)
        stored = self._store.put_policy(
            known.sources,
            text,
            # Another process may have taken a newer one meanwhile.
            still=lambda: self._store.policy_serial() == known.serial,
            by=ITSELF,
        )
        if stored:
            return found, stored
        self._judged = self._seen = self._read()
        return self._begin()

    def _refuse(self, faulty: Faults) -> None:
        """The audit has how many faults there are, and what tells them from others: a fault may
        quote what was written.
        """
        mark = hashlib.sha256(str(faulty).encode()).hexdigest()[:8]
        target = f"{len(faulty.faults)} faults ({mark})"
        event = Event(ITSELF, POLICY, target, REFUSED)
        self._store.audit.record_change(event, REFUSED_TOGETHER_SECONDS)
        faulty.tell(log)

    def _of_store(self, stored: StoredPolicy) -> Sources:
        return Sources.from_json(stored.sources, self._sealing.unseal)

    def _parsed(self, sources: Sources | Faults) -> Policy:
        if isinstance(sources, Faults):
            raise sources
        return policy.parse(sources, self._terms)

    def _judge(self, sources: Sources | Faults) -> None:
        try:
            found = self._parsed(sources)
        except Faults as faulty:
            self._refuse(faulty)
            self._judged = sources
            return
        stored = self._put(sources, found)
        if stored is None:
            return
        self._judged = sources
        if stored.serial != self._stored.serial:
            self._take(found, stored)

    def _put(self, sources: Sources | Faults, found: Policy) -> StoredPolicy | None:
        """Make it durable; None where the files have changed again."""
        assert isinstance(sources, Sources)
        return self._store.put_policy(
            sources.to_json(self._sealing.seal_alike),
            self._text(found),
            still=lambda: self._read() == sources,
            by=ITSELF,
        )

    def _text(self, found: Policy) -> str:
        told = found.for_gateways(self._sealing.seal_alike)
        return json.dumps(told, separators=(",", ":"), sort_keys=True)

    def _follow(self) -> None:
        """Another process has put a policy."""
        with self._lock:
            stored = self._store.policy()
            if stored is None or stored.serial == self._stored.serial:
                return
            try:
                found = self._parsed(self._of_store(stored))
            except Faults as faulty:
                # Its writer is of another version of Portero, with other rules.
                faulty.tell(log)
                found = self._policy
            self._take(found, stored)

    def _take(self, found: Policy, stored: StoredPolicy) -> None:
        """Gateways first; then issue by it."""
        self._gateways.put_policy(self._pushed(stored))
        self._policy, self._stored = found, stored
        log.warning("policy %d is in force", stored.serial)
