"""The store: the truth about every token and API key issued, and the last good policy. A *session*
is the row of one `jti`, or of one key's ID.

What it promises (and `tests/contract/test_session_stores.py` asks of it):

- `add` and `revoke` are durable when they return: on disk, not only in a cache. So are `add_each`
  and `revoke_each`, which share one transaction.
- Every change gets a position of its own, rising in the order of the commits, so that whoever has
  seen position N has only to ask for what came after N.
- Revocation is final: nothing makes a revoked session active again.
- An *epoch* names one unbroken history. A copy made by `backup` begins a new one when it is opened,
  with all its sessions revoked: what happened after the copy was made is not known to it.
- The policy has a serial number that only rises, within one epoch; it is put whole or not at all.
  The LLM servers that are taken out belong to it: the number rises with them too.
- What a change brings along for the audit is durable with it, or neither is.
- A failure is `StoreUnavailable`, and then nothing half-done remains.

Times are whole Unix seconds and come in as arguments. A session outlives its token in the store:
the clock may be wrong that says it has expired, and a stream may outlive its token too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from issuer.audit import Event

#: So long is a session kept behind its token's end: a clock that is an hour wrong, to one side and
#: then to the other, forgets no live one.
KEPT_SECONDS = 7_260


#: What the session of an API key has for `credential`: it outlives its owner's secret.
OF_API_KEY = "api key"


@dataclass(frozen=True)
class ApiKey:
    """What an API key has beside its session. `digest` is the SHA-256 of the whole key, in hex;
    `models` are the patterns it is narrowed to, none where it is not; `made_by` is who made it.
    """

    digest: str
    name: str
    models: tuple[str, ...]
    made_by: str
    last_used_at: int | None = None


@dataclass(frozen=True)
class Session:
    """One issued token, or API key, whose ID is its `jti` then. `credential` fingerprints the
    secret that a token was issued for.
    """

    jti: str
    subject: str
    role: str
    issued_at: int
    expires_at: int
    credential: str
    revoked_at: int | None = None
    position: int = 0
    api_key: ApiKey | None = None

    @property
    def audited(self) -> str:
        """What names it in the audit."""
        return f"{self.subject}/{self.jti}"

    @property
    def shown(self) -> dict[str, str | int]:
        """What is told of it, by the admin API and the command alike."""
        told = ("jti", "subject", "role", "issued_at", "expires_at")
        return {name: getattr(self, name) for name in told}

    @property
    def shown_key(self) -> dict[str, Any]:
        """The same of an API key's; its owner is told no more than this."""
        assert self.api_key is not None
        return {
            "id": self.jti,
            "name": self.api_key.name,
            "models": list(self.api_key.models) or None,
            "created_at": self.issued_at,
            "expires_at": self.expires_at,
            "last_used_at": self.api_key.last_used_at,
        }

    @property
    def shown_key_to_admins(self) -> dict[str, Any]:
        """And whose it is, and who made it."""
        assert self.api_key is not None
        return {**self.shown_key, "user": self.subject, "made_by": self.api_key.made_by}

    def is_active(self, now: int) -> bool:
        """Whether the token may still be used."""
        return self.revoked_at is None and self.expires_at > now


@dataclass(frozen=True)
class TakenOut:
    """Since when an LLM server is taken out, and by whom."""

    since: int
    by: str


@dataclass(frozen=True)
class StoredPolicy:
    """The last good policy: what it was read from, and what gateways are sent, both as JSON; and
    the LLM servers that are taken out, by their names.
    """

    serial: int
    sources: str
    compiled: str
    taken_out: Mapping[str, TakenOut] = field(default_factory=dict)


@dataclass(frozen=True)
class Addition:
    """A session to be added while fewer than `most_of_subject` of its subject are active, and the
    row that it gets in the audit.
    """

    session: Session
    most_of_subject: int | None = None
    event: Event | None = None


@dataclass(frozen=True)
class Selection:
    """Which sessions are meant, API keys among them: all fields that are set must match; none set
    means all.
    """

    jti: str | None = None
    subject: str | None = None
    role: str | None = None
    credential: str | None = None
    api_keys: bool | None = None


@dataclass(frozen=True)
class Ending:
    """Sessions to be revoked, and the row that it gets in the audit if there are any: its target is
    what was found.
    """

    selection: Selection
    event: Event | None = None
