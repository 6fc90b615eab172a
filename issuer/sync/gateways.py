"""The push client: authenticated messages to every gateway's internal listener, in parallel.

It owns the wire form of the sync (docs/sync.md). Every message is idempotent, so a failed
one may simply be sent again. It must never decide what is active; it only carries.
"""

import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from issuer.config import Settings
from issuer.keys import sealing
from issuer.keys.key_file import KeyList
from issuer.keys.sealing import Sealing
from issuer.store import Session
from issuer.sync.exchange import FAILURES, Connection, reason_of, trusting

APPLY = "/sync/apply"
SNAPSHOT = "/sync/snapshot"
KEYS = "/sync/keys"
POLICY = "/sync/policy"
STATUS = "/sync/status"
SERVERS = "/sync/servers"
POOL = "/sync/pool"
METRICS = "/metrics"
USES = "/sync/uses"
USAGE = "/sync/usage"
SPENT = "/sync/spent"
LIMITS = "/sync/limits"

#: A login waits no longer than this for a gateway that is down while another has answered.
PUSH_SECONDS = 0.25
#: Without any answer it waits longer, as it would else be refused.
FIRST_ANSWER_SECONDS = 2.0
#: The reconciler's exchanges: one that hangs as its link heals must have ended, and its successor
#: been answered, within 2 s (docs/promises.md).
ROUND_SECONDS = 1.8
#: Large ones may take longer: many entries, and nobody is waiting.
BULK_SECONDS = 5.0
BULK_BYTES = 64 * 1024

#: A gateway that tries to connect to several LLM servers takes some seconds.
POOL_SECONDS = 15.0
#: A line of Prometheus' text form, of a metric without labels.
_SAMPLE = re.compile(r"^(portero_\w+) (\S+)$", re.MULTILINE)

#: ID and end; of an API key that is activated also what else must be known of it.
Entry = tuple[str, int] | tuple[str, int, Mapping[str, Any]]


@dataclass(frozen=True)
class Changes:
    """What a gateway shall know of tokens and API keys; for one ID, revoked wins."""

    activate: Sequence[Entry] = field(default_factory=list)
    revoke: Sequence[Entry] = field(default_factory=list)

    @classmethod
    def to(cls, sessions: Iterable[Session]) -> "Changes":
        """What brings a gateway to these states of sessions."""
        activate: list[Entry] = []
        revoke: list[Entry] = []
        for session in sessions:
            if session.revoked_at is None:
                activate.append(_entry(session))
            else:
                revoke.append((session.jti, session.expires_at))
        return cls(activate, revoke)


def _entry(session: Session) -> Entry:
    key = session.api_key
    if key is None:
        return session.jti, session.expires_at
    known = {"digest": key.digest, "sub": session.subject, "iat": session.issued_at}
    narrowed = {"models": list(key.models)} if key.models else {}
    return session.jti, session.expires_at, {**known, **narrowed}


@dataclass(frozen=True)
class PushedPolicy:
    """A policy as it is sent; `history` and `serial` name it, and an older one replaces none."""

    history: str
    serial: int
    compiled: Mapping[str, Any]


class Ack(NamedTuple):
    """One gateway's answer. `status` is its state; it is empty when the gateway did not answer, and
    `reason` says why, where no trying again will mend it.
    """

    url: str
    ok: bool
    full: bool = False
    status: Mapping[str, Any] = MappingProxyType({})
    reason: str = ""


@dataclass
class Gateway:
    """One gateway's internal listener, at `url`; `trust` is for https."""

    url: str
    key: bytes = field(repr=False)
    trust: ssl.SSLContext | None = field(default=None, repr=False)
    #: Connections that nobody uses at the moment; the last one used is used first.
    _idle: list[Connection] = field(default_factory=list, repr=False)

    @cached_property
    def _keys(self) -> Sealing:
        return Sealing(self.key, sealing.KEYS)

    def apply(self, changes: Changes, timeout: float | None = None, **progress: Any) -> Ack:
        """Send changes; `progress` may carry the position they bring the gateway to."""
        return self._send("POST", APPLY, {**vars(changes), **progress}, timeout)

    def put_keys(self, known: KeyList, timeout: float | None = None) -> Ack:
        """Send the keys in force; secret ones are sealed, as they would else cross the wire."""
        return self._put(KEYS, known, timeout, sealed=self._keys.seal(_verifying(known)))

    def put_policy(self, known: PushedPolicy, timeout: float | None = None) -> Ack:
        """Send the policy in force."""
        return self._put(POLICY, known, timeout, policy=known.compiled)

    def _put(
        self, path: str, known: KeyList | PushedPolicy, timeout: float | None, **content: Any
    ) -> Ack:
        named = {"history": known.history, "serial": known.serial, **content}
        return self._send("POST", path, named, timeout)

    def snapshot(self, step: str, **content: Any) -> Ack:
        """Send one step of a snapshot: `begin`, `part` or `end`."""
        return self._send("POST", SNAPSHOT, {"step": step, **content})

    def state(self) -> Ack:
        """Ask the gateway how far it has come."""
        return self._send("GET", STATUS, None)

    def servers(self) -> list[dict[str, Any]] | None:
        """What the gateway knows of the LLM servers that its policy names, each a row with `name`,
        `state` and `models`; None where it does not answer.
        """
        ack = self._send("GET", SERVERS, None)
        return list(ack.status.get("servers") or []) if ack.ok else None

    def pool(self) -> list[dict[str, Any]] | None:
        """Whether the gateway can connect to each server of LLM_UPSTREAM: rows with `address`, and
        with `error` where it cannot. It tries for 2 s each. None where it does not answer.
        """
        ack = self._send("GET", POOL, None, POOL_SECONDS)
        return list(ack.status.get("pool") or []) if ack.ok else None

    def metrics(self) -> dict[str, float] | None:
        """Its metrics that have no labels, which need no key, and so are to be had whatever its
        clock says. None where it does not answer.
        """
        end = time.monotonic() + ROUND_SECONDS
        try:
            code, text = self._once(self._new(), "GET", METRICS, b"", end)
            lines = _SAMPLE.findall(text.decode())
            return {name: float(value) for name, value in lines} if code == 200 else None
        except FAILURES:
            return None

    def uses(self) -> Ack:
        """Ask when API keys were used last: its status has them by their IDs in `uses`."""
        return self._send("GET", USES, None)

    def usage(self, boot: str, taken: int) -> Ack:
        """Fetch what was used behind the batch of this life that the store has: its status has it
        in `usage`, `number` and `rows`, where there is any.
        """
        return self._send("POST", USAGE, {"boot": boot, "taken": taken})

    def put_spent(self, **content: Any) -> Ack:
        """Tell what is spent of budgets: `boot`, `number`, `day`, `rows` and `complete`."""
        return self._send("POST", SPENT, content)

    def put_limits(self, rows: Sequence[tuple[str, int, float]]) -> Ack:
        """Tell what other gateways have counted of limits of a minute, each row a window, a sum and
        the seconds until it ends: its status has its own windows, in that form, in `windows`.
        """
        return self._send("POST", LIMITS, {"rows": rows})

    def _send(self, method: str, path: str, content: Any, timeout: float | None = None) -> Ack:
        body = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
        end = time.monotonic() + (timeout or _patience(body))
        try:
            code, answer = self._exchange(method, path, body, end)
        except FAILURES as error:
            return Ack(self.url, ok=False, reason=reason_of(error))
        try:
            status = json.loads(answer)
        except ValueError:
            status = None
        if not isinstance(status, dict):
            return Ack(self.url, ok=False, reason=_no_gateway(self.url, code))
        return Ack(self.url, code == 200, code == 507, status)

    def _exchange(self, method: str, path: str, body: bytes, end: float) -> tuple[int, bytes]:
        """One exchange; a kept-alive connection may have been closed meanwhile, so once more."""
        try:
            return self._once(self._kept(), method, path, body, end)
        except FAILURES:
            if time.monotonic() >= end:
                raise
            return self._once(self._new(), method, path, body, end)

    def _once(
        self, connection: Connection, method: str, path: str, body: bytes, end: float
    ) -> tuple[int, bytes]:
        """The connection is kept if it has served; no other thread has it meanwhile."""
        headers = signature(self.key, method, path, body)
        answer = connection.exchange(method, path, body, headers, end)
        self._idle.append(connection)
        return answer

    def _kept(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def _new(self) -> Connection:
        place = urlsplit(self.url)
        trust = self.trust if place.scheme == "https" else None
        return Connection(place.hostname or "", place.port, trust)


def _no_gateway(url: str, code: int) -> str:
    """What it means that an answer is no gateway's: nginx says 400 to plain HTTP where it expects
    TLS.
    """
    hint = ", and may want https://" if code == 400 and url.startswith("http:") else ""
    return f"what answers there ({code}) is no gateway's internal listener{hint}"


def _patience(body: bytes) -> float:
    """How long the reconciler's exchange may take, the answer included."""
    return BULK_SECONDS if len(body) > BULK_BYTES else ROUND_SECONDS


def _verifying(known: KeyList) -> bytes:
    """What a gateway needs of each key in force: nothing to sign with, where that is possible."""
    listed = [
        {"kid": key.kid, "alg": key.algorithm, "key": base64.b64encode(key.verifying).decode()}
        for key in known.keyring()
    ]
    return json.dumps({"keys": listed}).encode()


def mark_of(known: KeyList | PushedPolicy) -> str:
    """How a gateway names what it has."""
    return f"{known.history}:{known.serial}"


def signature(key: bytes, method: str, path: str, body: bytes) -> dict[str, str]:
    """The headers that authenticate a message: its time in nanoseconds and its MAC."""
    sent_at = str(time.time_ns())
    text = "\n".join(("portero-sync-1", method, path, sent_at, "")).encode() + body
    mac = hmac.new(key, text, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Portero-Time": sent_at,
        "X-Portero-Mac": mac,
    }


class Gateways:
    """All gateways of the deployment."""

    def __init__(self, urls: Sequence[str], key: bytes, ca_file: Path | None = None) -> None:
        has_tls = any(url.startswith("https:") for url in urls)
        trust = trusting(ca_file) if has_tls else None
        self.each = [Gateway(url, key, trust) for url in urls]
        #: How LLM servers' credentials go to them, and lie in the store.
        self.credentials = Sealing(key, sealing.CREDENTIALS)
        # Threads for each: one that hangs must not use up those of the others.
        self._pools = [ThreadPoolExecutor(8, thread_name_prefix="push") for _ in urls]

    def apply(self, changes: Changes) -> list[Ack]:
        """Push to all at once; one that does not answer in time is a failed `Ack`."""
        return self._push(lambda gateway: gateway.apply(changes, FIRST_ANSWER_SECONDS))

    def put_keys(self, known: KeyList) -> list[Ack]:
        """Tell all the keys in force."""
        return self._push(lambda gateway: gateway.put_keys(known, FIRST_ANSWER_SECONDS))

    def put_policy(self, known: PushedPolicy) -> list[Ack]:
        """Tell all the policy in force."""
        return self._push(lambda gateway: gateway.put_policy(known, FIRST_ANSWER_SECONDS))

    def _push(self, send: Callable[[Gateway], Ack]) -> list[Ack]:
        if len(self.each) == 1:
            return [send(self.each[0])]
        pushes = {
            pool.submit(send, gateway): gateway
            for pool, gateway in zip(self._pools, self.each, strict=True)
        }
        done = _await(pushes)
        for push in pushes:
            push.cancel()  # what has not begun: the reconciler brings it, and the next is not late
        return [
            push.result() if push in done else Ack(gateway.url, ok=False)
            for push, gateway in pushes.items()
        ]


def _await(pushes: Collection[Future[Ack]]) -> set[Future[Ack]]:
    """Those that are done: all within the time of a push, or the first success after it."""
    end = time.monotonic() + FIRST_ANSWER_SECONDS
    done, waiting = wait(pushes, PUSH_SECONDS)
    while waiting and not any(push.result().ok for push in done) and time.monotonic() < end:
        more, waiting = wait(waiting, end - time.monotonic(), FIRST_COMPLETED)
        done |= more
    return done


def gateways_of(settings: Settings) -> Gateways:
    """Those that the settings name, each trusted as they say. Raises `OSError`."""
    return Gateways(settings.gateway_urls, settings.sync_key, settings.sync_ca_file)
