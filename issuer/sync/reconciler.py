"""The reconciler: one process a deployment that keeps every gateway equal to the store.

Every second it asks each gateway how far it has come and sends what is missing, in order; a
gateway that starts empty gets a snapshot. It also revokes the tokens of users whose credentials
changed, and forgets sessions whose time is over. All it sends is idempotent, so it may be killed
at any moment. It must never send what the store has not made durable.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from issuer.audit import DISTRUST, ITSELF, KEY_ADD, KEY_EXPIRE, KEY_PROMOTE, Event
from issuer.errors import StoreUnavailable
from issuer.keys.key_file import WAITING, KeyFile
from issuer.repeated import repeat
from issuer.store import KEPT_SECONDS, OF_API_KEY, Selection, Session
from issuer.store.audit import KEPT_DAYS
from issuer.store.leases import Lease
from issuer.store.sessions import Sessions
from issuer.store.usage import Usage
from issuer.sync.active_tokens import ActiveTokens
from issuer.sync.budgets import SpentBudgets
from issuer.sync.gateways import Ack, Changes, Gateway, Gateways, mark_of
from issuer.sync.limits import MinuteLimits, SharedLimits
from issuer.sync.policy_in_force import PolicyInForce
from issuer.sync.servers_seen import ServersSeen
from issuer.users.credentials_in_force import CredentialsInForce

log = logging.getLogger("portero.reconciler")

PERIOD_SECONDS = 1.0
PRUNE_SECONDS = 60
PART_ENTRIES = 5_000
#: What the models of a message's API keys may add to it: far less than a gateway takes (4 MiB).
PART_MODEL_CHARACTERS = 1_000_000
#: Longer than a round of work takes; another reconciler takes over so long after the leader's end.
LEASE_SECONDS = 2.5
#: How often gateways are asked when API keys were used, and a key's last use is written.
USES_SECONDS = 60
#: A gateway takes messages up to 30 s away from its clock, and judges by its clock alone: a token
#: that ended so long ago may be alive by the clock of one that can be told of it.
SKEW_SECONDS = 31


class Reconciler:
    """The loop. `run` returns when `stop` is set."""

    def __init__(
        self,
        tokens: ActiveTokens,
        gateways: Gateways,
        credentials: CredentialsInForce,
        keys: KeyFile,
        policy: PolicyInForce,
        usage: Usage | None = None,
        audit_days: int = KEPT_DAYS,
    ) -> None:
        self._tokens = tokens
        self._store = tokens.store
        self._credentials = credentials
        self._keys = keys
        self._policy = policy
        limits = MinuteLimits() if len(gateways.each) > 1 else None
        self._projections = [
            _Projection(one, tokens.store, keys, policy, usage, limits) for one in gateways.each
        ]
        self._lease = Lease(tokens.store.database, "reconciler", LEASE_SECONDS)
        #: By the monotonic clock.
        self._leads_until = 0.0
        self._audit_days = audit_days
        self._usage = usage
        self._pruned_at = 0
        self._changed_before: set[tuple[str, str]] = set()

    def run(self, stop: threading.Event) -> None:
        """Serve each gateway in a thread of its own: a slow one delays no other."""
        if made := self._keys.prepare(int(time.time())):
            self._store.audit.record(Event(ITSELF, KEY_ADD, made))
        led = [self._tidy, *(one.refresh for one in self._projections)]
        works = [self._lead, self._policy.look, *map(self._if_leading, led)]
        with ThreadPoolExecutor(len(works)) as pool:
            for work in works:
                pool.submit(repeat, work, PERIOD_SECONDS, stop)
            stop.wait()
        with suppress(StoreUnavailable):
            self._lease.release()

    def _lead(self) -> None:
        """One reconciler of all issuers' does the work; the others stand by. Who leads goes on with
        it while it asks for the lease again, which may take a while, but never beyond its end.
        """
        led, asked_at = self._leads(), time.monotonic()
        self._leads_until = asked_at + LEASE_SECONDS if self._lease.hold() else 0.0
        if led != self._leads():
            log.info("this reconciler %s", "stands by" if led else "leads")

    def _leads(self) -> bool:
        return time.monotonic() < self._leads_until

    def _if_leading(self, work: Callable[[], None]) -> Callable[[], None]:
        def led() -> None:
            if self._leads():
                work()

        return led

    def _tidy(self) -> None:
        now = int(time.time())
        self._revoke_changed_credentials(now)
        self._turn_keys(now)
        if abs(now - self._pruned_at) >= PRUNE_SECONDS:
            self._prune(now)

    def _prune(self, now: int) -> None:
        """Where the clock was so far ahead that live sessions may be forgotten, no one could revoke
        their tokens: none is trusted then.
        """
        if now < self._pruned_at - KEPT_SECONDS:
            event = Event(ITSELF, DISTRUST, "the clock was set back")
            revoked = self._store.begin_epoch(now, event)
            log.critical("the clock was set back by hours; %d active tokens are revoked", revoked)
        self._store.prune(now)
        self._store.audit.prune(now, self._audit_days)
        if self._usage:
            self._usage.prune(now, {one.boot for one in self._projections})
        self._pruned_at = now

    def _revoke_changed_credentials(self, now: int) -> None:
        """A user removed, or whose secret changed, loses the live tokens of the old one; API keys
        end with the user, or when the role has none any more.
        """
        changed = {
            (subject, credential)
            for subject, credential in self._store.credentials_in_use(now)
            if not self._stands(subject, credential)
        }
        # Twice in a row: a file may be read while it is being written.
        for subject, credential in changed & self._changed_before:
            what = "API keys" if credential == OF_API_KEY else "tokens"
            log.warning("revoking the %s of %s: its credentials changed", what, subject)
            self._tokens.revoke(Selection(subject=subject, credential=credential), ITSELF)
        self._changed_before = changed

    def _stands(self, subject: str, credential: str) -> bool:
        """Whether what was issued to a user for this may stay."""
        fingerprint = self._credentials.in_force().fingerprint(subject)
        if credential != OF_API_KEY:
            return fingerprint == credential
        role = self._policy.roles().of(subject)
        return fingerprint is not None and role is not None and role.api_keys is not None

    def _turn_keys(self, now: int) -> None:
        """A waiting key signs once every gateway has it; one whose tokens have ended goes."""
        known = self._keys.read()
        waiting = [entry.kid for entry in known.entries if entry.state == WAITING]
        if waiting and all(one.keys == mark_of(known) for one in self._projections):
            self._keys.promote(waiting[0], now)
            self._store.audit.record(Event(ITSELF, KEY_PROMOTE, waiting[0]))
            log.warning("key %s signs from now on", waiting[0])
        if over := known.over(now):
            self._keys.expire(now)
            self._store.audit.record(*(Event(ITSELF, KEY_EXPIRE, kid) for kid in over))


def _fitting(sessions: Sequence[Session]) -> Sequence[Session]:
    """As many of the first as one message may hold: API keys may name many models."""
    room = PART_MODEL_CHARACTERS
    for index, session in enumerate(sessions):
        room -= sum(map(len, session.api_key.models)) if session.api_key else 0
        if room < 0:
            return sessions[:index]
    return sessions


class _Projection:
    """One gateway's copy of the store's active tokens."""

    def __init__(
        self,
        gateway: Gateway,
        store: Sessions,
        keys: KeyFile,
        policy: PolicyInForce,
        usage: Usage | None = None,
        limits: MinuteLimits | None = None,
    ) -> None:
        #: The mark of the key list that the gateway has acknowledged.
        self.keys = ""
        #: The life of the gateway that was reached last.
        self.boot = ""
        self._gateway = gateway
        self._store = store
        self._key_file = keys
        self._policy = policy
        self._usage = usage
        self._servers = ServersSeen(gateway, store.audit)
        self._spent = SpentBudgets(gateway, usage) if usage else None
        self._limits = SharedLimits(gateway, limits) if limits else None
        self._told: tuple[bool, str] | None = None
        self._asked_at = int(time.time())

    def refresh(self) -> None:
        """Bring the gateway up to the store, and what was used there to the store."""
        ack = self._gateway.state()
        self._tell(ack)
        self._bring(ack)
        if not ack.ok:
            return
        self.boot = str(ack.status.get("boot"))
        if self._limits:
            self._limits.share(self.boot)
        if self._usage:
            self._fetch_usage(self._usage, self.boot)

    def _fetch_usage(self, usage: Usage, boot: str) -> None:
        """What comes is in the store before the gateway is told so, by the next fetch."""
        ack = self._gateway.usage(boot, usage.taken(boot))
        batch = ack.status.get("usage")
        if ack.ok and batch:
            usage.add(str(ack.status["boot"]), int(batch["number"]), batch["rows"])
        policy = self._policy.in_force()
        if ack.ok and self._spent and policy.has_budgets:
            self._spent.bring(str(ack.status["boot"]), policy.groups)

    def _bring(self, ack: Ack) -> None:
        """By changes where possible, else by a snapshot."""
        if not ack.ok or not self._has_keys(str(ack.status.get("keys"))):
            return
        if self._is_ahead(ack.status):
            self._distrust_store()
            return
        if not self._has_policy(str(ack.status.get("policy"))):
            return
        if not ack.status.get("ready") or ack.status.get("epoch") != self._store.epoch():
            self._send_snapshot()
            return
        self._send_changes(int(ack.status.get("position") or 0))
        self._fetch_uses()
        self._servers.look(self._policy)

    def _fetch_uses(self) -> None:
        """What it tells may be told again: a later time counts, and none is lost by asking."""
        now = int(time.time())
        if abs(now - self._asked_at) < USES_SECONDS:
            return
        ack = self._gateway.uses()
        if not ack.ok:
            return
        self._asked_at = now
        uses = ack.status.get("uses")
        if isinstance(uses, dict) and uses:
            self._store.note_uses({key: int(at) for key, at in uses.items()}, USES_SECONDS)

    def _has_keys(self, mark: str) -> bool:
        """Keys come before tokens: no gateway shall know a token whose key it lacks."""
        known = self._key_file.read()
        if mark != mark_of(known) and not self._went_well(self._gateway.put_keys(known), "keys"):
            return False
        self.keys = mark_of(known)
        return True

    def _has_policy(self, mark: str) -> bool:
        """The policy too: what a token may do is known before the token is."""
        known = self._policy.pushed()
        return mark == mark_of(known) or self._went_well(self._gateway.put_policy(known), "policy")

    def _is_ahead(self, status: Mapping[str, Any]) -> bool:
        """Whether the gateway has seen more of the store's history than the store knows."""
        epoch = self._store.epoch()
        history, _, serial = str(status.get("policy")).rpartition(":")
        if history == epoch and int(serial) > self._store.policy_serial():
            return True
        position = int(status.get("position") or 0)
        return status.get("epoch") == epoch and position > self._store.position()

    def _distrust_store(self) -> None:
        """The store has gone back in time: someone put an older file in its place. What happened
        since, revocations among it, is not known, so all that it holds is revoked.
        """
        event = Event(ITSELF, DISTRUST, "an older file")
        revoked = self._store.begin_epoch(int(time.time()), event)
        log.critical(
            "the session store is older than what %s has seen: it was replaced by an older file; "
            "its %d active tokens are revoked",
            self._gateway.url,
            revoked,
        )

    def _send_changes(self, position: int) -> None:
        epoch = self._store.epoch()
        while True:
            found = self._store.changes_after(position, PART_ENTRIES)
            changed = _fitting(found)
            position = changed[-1].position if changed else position
            # The last message of a round, often an empty one, tells the gateway that it is current.
            current = len(found) < PART_ENTRIES and len(changed) == len(found)
            ack = self._gateway.apply(
                Changes.to(changed), position=position, epoch=epoch, current=current
            )
            if not self._went_well(ack, "changes") or current:
                return

    def _send_snapshot(self) -> None:
        # Begin before reading: what is pushed from here on belongs to the new generation, what
        # was pushed before is in the store already. So nothing falls between.
        begun = self._gateway.snapshot("begin")
        if not self._went_well(begun, "snapshot"):
            return
        generation = begun.status["newest"]
        mark = {"epoch": self._store.epoch(), "position": self._store.position()}
        sent = self._send_parts(generation)
        if sent is None:
            return
        ended = self._gateway.snapshot("end", generation=generation, **mark)
        if self._went_well(ended, "snapshot"):
            log.info("%s has a snapshot of %d tokens", self._gateway.url, sent)

    def _send_parts(self, generation: int) -> int | None:
        sent, last = 0, ""
        while found := self._store.live_after(last, int(time.time()) - SKEW_SECONDS, PART_ENTRIES):
            page = _fitting(found)
            last = page[-1].jti
            part = vars(Changes.to(page))
            ack = self._gateway.snapshot("part", generation=generation, **part)
            if not self._went_well(ack, "snapshot"):
                return None
            sent += len(page)
        return sent

    def _went_well(self, ack: Ack, what: str) -> bool:
        if not ack.ok:
            reason = "it is full" if ack.full else "no acknowledgement"
            log.error("%s: %s not applied: %s", self._gateway.url, what, reason)
        return ack.ok

    def _tell(self, ack: Ack) -> None:
        """Whether it is reached, when that changes, and what else there is to say of it."""
        now = (ack.ok, ack.reason)
        if now != self._told:
            said = "reached" if ack.ok else "not reached"
            reason = f": {ack.reason}" if ack.reason else ""
            log.warning("%s is %s%s", self._gateway.url, said, reason)
        self._told = now
