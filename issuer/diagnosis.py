"""What is well with a deployment, what is not, and what to do about it: each finding has a name, a
state, a sentence, and where it is not well the way to mend it.

It asks, compares and judges. It must never change anything, nor tell a secret: it knows where the
files are that hold some, and does not read them.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from issuer.config import Settings
from issuer.errors import PorteroError
from issuer.keys.key_file import SIGNING, WAITING, Entry, KeyFile
from issuer.store.sessions import Sessions
from issuer.sync.exchange import FAILURES, Connection, showing
from issuer.sync.gateways import Gateway, Gateways, mark_of
from issuer.sync.policy_in_force import PolicyInForce

OK, WARNING, FAULT = "ok", "warning", "fault"
#: From well to worst.
STATES = (OK, WARNING, FAULT)

DAY_SECONDS = 86_400
#: What a message of the sync may be late; the whole second is as near as two clocks can be told.
CLOCK_SECONDS, CLOCK_FAULT_SECONDS = 2, 30
STALE_SECONDS = 5
#: From when a certificate's end is told: the gateway warns in its log from then on, too.
CERTIFICATE_DAYS = 14
KEY_DAYS = 365
#: Gateways acknowledge a new key at once, or something keeps them from it.
WAITING_SECONDS = 600
DISK_WARNING_BYTES, DISK_FAULT_BYTES = 1024**3, 100 * 1024**2
#: Of a dictionary, and of the tokens that may be active.
ROOM_WARNING, ROOM_FAULT = 0.2, 0.05
#: Of an entry of the active-token set (docs/operations.md).
TOKEN_BYTES = 130
ASKED_SECONDS = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `do` is empty where it is well."""

    what: str
    state: str
    told: str
    do: str = ""

    def shown(self) -> dict[str, str]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What is examined."""

    settings: Settings
    issuer: tuple[str, int]
    store: Sessions
    keys: KeyFile
    policy: PolicyInForce
    gateways: Gateways


def worst(findings: Iterable[Finding]) -> str:
    """The worst state among them."""
    return max((one.state for one in findings), key=STATES.index, default=OK)


def of_faults(what: str, faults: Sequence[str], told: str, do: str) -> list[Finding]:
    """A finding a fault, or one that says that there is none."""
    found = [Finding(what, FAULT, fault, do) for fault in faults]
    return found or [Finding(what, OK, told)]


def examine(subject: Subject, now: float) -> Iterator[Finding]:
    """All but settings and files, which whoever makes a `Subject` has read. A look that fails is a
    finding, and keeps no other from being taken.
    """
    for what, look in LOOKS:
        try:
            yield from look(subject, now)
        except (PorteroError, OSError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(what, FAULT, first, "see the issuer's log")


# --- this machine ---------------------------------------------------------------------------------


def modes(private: Sequence[Path], public: Sequence[Path]) -> list[Finding]:
    """Files that hold secrets or hashes, which their owner alone may read, and others that nobody
    else may write.
    """
    looked = [path for path in (*private, *public) if path.exists()]
    found = [*_open_to(private, 0o077, "can be read by others", "chmod 600")]
    found += _open_to(public, 0o002, "can be written by everyone", "chmod o-w")
    return found or [
        Finding("file modes", OK, f"{len(looked)} files and folders are closed as they should be")
    ]


def _open_to(paths: Sequence[Path], mask: int, told: str, do: str) -> Iterator[Finding]:
    for path in paths:
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & mask:
            yield Finding("file modes", FAULT, f"{path} {told}", f"{do} {path}")


def disk(folder: Path) -> list[Finding]:
    """Room where the store is: without any no login is answered."""
    usage = shutil.disk_usage(folder)
    nodes = os.statvfs(folder)
    told = f"{folder}: {_size(usage.free)} of {_size(usage.total)} free"
    if nodes.f_files and not nodes.f_favail:
        return [Finding("disk", FAULT, f"{folder}: no inode is free", "remove files")]
    state = _grade(usage.free, DISK_WARNING_BYTES, DISK_FAULT_BYTES)
    do = "make room: logins stop when the store cannot be written"
    return [Finding("disk", state, told, do if state != OK else "")]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _grade(left: float, warning: float, fault: float) -> str:
    """The state of what should not become less."""
    return FAULT if left < fault else WARNING if left < warning else OK


# --- the issuer -----------------------------------------------------------------------------------


def _issuer(subject: Subject, _: float) -> Iterator[Finding]:
    """Whether it answers at its own listener, and is ready."""
    (host, port), certificate = subject.issuer, subject.settings.own_certificate
    at = f"{'https' if certificate else 'http'}://{host}:{port}"
    status = _asked(host, port, certificate)
    if status == 200:
        yield Finding("issuer", OK, f"ready at {at}")
    else:
        told = f"answers {status}" if status else "does not answer"
        yield Finding("issuer", FAULT, f"{at} {told}", "see the issuer's log; is it running?")


def _asked(host: str, port: int, certificate: Path | None) -> int:
    """The status of /readyz; 0 where nobody answers."""
    try:
        connection = Connection(host, port, showing(certificate) if certificate else None)
        return connection.exchange("GET", "/readyz", b"", {}, time.monotonic() + ASKED_SECONDS)[0]
    except FAILURES:
        return 0


def _store(subject: Subject, now: float) -> Iterator[Finding]:
    subject.store.check()
    active, most = subject.store.count_active(int(now)), subject.settings.most_active_tokens
    state = _grade(1 - active / most, ROOM_WARNING, ROOM_FAULT)
    do = "raise TOKEN_CACHE_SIZE, with ACTIVE_TOKEN_MEMORY (docs/operations.md)"
    told = f"whole; {active} of at most {most} tokens are active"
    yield Finding("store", state, told, do if state != OK else "")


def _signing_keys(subject: Subject, now: float) -> Iterator[Finding]:
    known = subject.keys.read().in_force()
    for entry in known:
        if entry.state == WAITING and now - entry.added_at > WAITING_SECONDS:
            told = f"{entry.kid} has waited for {_days(now - entry.added_at)}"
            do = "a gateway has not acknowledged it: see the findings on gateways"
            yield Finding("signing key", WARNING, told, do)
    yield from (_age(entry, now) for entry in known if entry.state == SIGNING)


def _age(entry: Entry, now: float) -> Finding:
    age = now - entry.added_at
    told = f"{entry.kid} ({entry.algorithm}) has signed for {_days(age)}"
    if age > KEY_DAYS * DAY_SECONDS:
        return Finding("signing key", WARNING, told, "portero-admin signing-keys add")
    return Finding("signing key", OK, told)


def _days(seconds: float) -> str:
    return f"{seconds / DAY_SECONDS:.0f} days"


# --- the gateways ---------------------------------------------------------------------------------


def _gateways(subject: Subject, _: float) -> Iterator[Finding]:
    """Each one: what it says of itself in its metrics, and what it acknowledges."""
    keys, policy = mark_of(subject.keys.read()), mark_of(subject.policy.pushed())
    for gateway in subject.gateways.each:
        began = time.time()
        told = gateway.metrics()
        if told is None:
            do = "is it running, and is that address in GATEWAY_URLS its INTERNAL_LISTEN?"
            reason = gateway.state().reason
            words = f"{gateway.url} does not answer" + (f": {reason}" if reason else "")
            yield Finding("gateway", FAULT, words, do)
            continue
        yield _clock(gateway, told, (began + time.time()) / 2)
        yield _sync(gateway, told, keys, policy)
        yield _certificate(gateway, told)
        if (left := told.get("portero_internal_tls_certificate_seconds_left")) is not None:
            yield _end_of("the internal listener's", gateway, left)
        yield from _room(subject, gateway, told)
        yield from _llm_servers(gateway)


def _clock(gateway: Gateway, told: Mapping[str, float], now: float) -> Finding:
    """Tokens end by the gateway's clock, and messages of the sync are good for half a minute."""
    ahead = told.get("portero_time_seconds", now) - now
    if abs(ahead) < CLOCK_SECONDS:
        return Finding("clock", OK, f"{gateway.url} goes with this machine's")
    state = FAULT if abs(ahead) >= CLOCK_FAULT_SECONDS else WARNING
    way = "ahead of" if ahead > 0 else "behind"
    told_of = f"{gateway.url} is {abs(ahead):.0f} s {way} this machine"
    return Finding("clock", state, told_of, "let NTP set both clocks (timedatectl set-ntp true)")


def _sync(gateway: Gateway, told: Mapping[str, float], keys: str, policy: str) -> Finding:
    """The first that is wrong; what comes behind follows from it."""
    ack, stale = gateway.state(), told.get("portero_sync_staleness_seconds", 0)
    reconciler = "is the reconciler running? see its log"
    wrong = (
        (
            not ack.ok,
            "refuses our messages",
            "give both sides the same SYNC_KEY, and the same time",
        ),
        (not ack.status.get("ready"), "is not ready: it has not been told all", reconciler),
        (stale > STALE_SECONDS, f"has heard nothing for {stale:.0f} s", reconciler),
        (ack.status.get("keys") != keys, "has other signing keys", reconciler),
        (ack.status.get("policy") != policy, "has another policy", reconciler),
    )
    for is_so, words, do in wrong:
        if is_so:
            return Finding("gateway", FAULT, f"{gateway.url} {words}", do)
    return Finding("gateway", OK, f"{gateway.url} is ready, and knows what the store does")


def _certificate(gateway: Gateway, told: Mapping[str, float]) -> Finding:
    left = told.get("portero_tls_certificate_seconds_left")
    if left is None:
        return Finding("certificate", OK, f"{gateway.url} has none: its public listener is plain")
    return _end_of("the public listener's", gateway, left)


def _end_of(whose: str, gateway: Gateway, left: float) -> Finding:
    state = _grade(left, CERTIFICATE_DAYS * DAY_SECONDS, 0)
    when = f"ends in {_days(left)}" if left >= 0 else "has ended"
    words = f"{gateway.url}: {whose} {when}"
    do = "renew it (docs/tls.md); the gateway takes the new file by itself"
    return Finding("certificate", state, words, do if state != OK else "")


#: Dictionary -> the setting that it is sized by.
ROOMS = {"active_tokens": "ACTIVE_TOKEN_MEMORY", "api_keys": "API_KEY_MEMORY"}


def _room(subject: Subject, gateway: Gateway, told: Mapping[str, float]) -> Iterator[Finding]:
    """What is free of the dictionaries that evict nothing, and so may become full."""
    for name, setting in ROOMS.items():
        free = told.get(f"portero_{name}_free_bytes")
        capacity = told.get(f"portero_{name}_capacity_bytes")
        if free is None or not capacity:
            continue
        state = _grade(free / capacity, ROOM_WARNING, ROOM_FAULT)
        words = f"{gateway.url}: {free / capacity:.0%} of {setting} ({_size(capacity)}) is free"
        do = f"raise {setting} and restart the gateway"
        if name == "active_tokens" and subject.settings.most_active_tokens * TOKEN_BYTES > capacity:
            state = max(state, WARNING, key=STATES.index)
            words += ", and TOKEN_CACHE_SIZE tokens would not fit"
        yield Finding("dictionary", state, words, do if state != OK else "")


#: What to do about an LLM server, by its state.
REMEDIES = {
    "misconfigured": "its credential_file does not hold the key that it wants",
    "unknown": "it has not been asked yet: look again in some seconds",
}


def _llm_servers(gateway: Gateway) -> Iterator[Finding]:
    """Those of the policy by what the gateway knows; those of LLM_UPSTREAM are tried now."""
    rows = gateway.servers()
    if rows:
        are_up = [row.get("state") == "up" and not row.get("taken_out") for row in rows]
        yield from (_llm_server(gateway, row, any(are_up)) for row in rows)
        return
    pool = gateway.pool() or []
    for row in pool:
        error = row.get("error")
        words = f"{gateway.url}: {row.get('address')} " + (str(error) if error else "is reachable")
        state = _of_one(not error, any(not one.get("error") for one in pool))
        do = "start it, or mend LLM_UPSTREAM" if error else ""
        yield Finding("LLM server", state, words, do)


def _llm_server(gateway: Gateway, row: Mapping[str, Any], any_up: bool) -> Finding:
    name, state = row.get("name"), str(row.get("state"))
    if row.get("taken_out"):
        words, do = f"{gateway.url}: {name} is taken out", f"portero-admin servers put-back {name}"
        return Finding("LLM server", _of_one(False, any_up), words, do)
    if state == "up":
        count = len(row.get("models") or [])
        return Finding("LLM server", OK, f"{gateway.url}: {name} is up, with {count} models")
    words = f"{gateway.url}: {name} is {state}: {row.get('last_error') or 'no error is known'}"
    do = REMEDIES.get(state, "start it, or mend its line in the policy")
    grade = WARNING if state == "unknown" else _of_one(False, any_up)
    return Finding("LLM server", grade, words, do)


def _of_one(is_well: bool, another_is: bool) -> str:
    """One of several may rest; when none is left, nobody is served."""
    return OK if is_well else WARNING if another_is else FAULT


#: In this order they are told.
LOOKS: tuple[tuple[str, Callable[[Subject, float], Iterator[Finding]]], ...] = (
    ("issuer", _issuer),
    ("store", _store),
    ("signing key", _signing_keys),
    ("gateway", _gateways),
)
