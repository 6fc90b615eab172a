"""API keys made, listed and ended: what owners, admins and operators ask for alike.

What one may be is `tokens/api_keys`' to say, and what one stands for `Authority`'s. A key is made
active before it is handed out, and handed out once. It must never log one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from issuer import audit
from issuer.audit import API_KEY_CREATE, API_KEY_REVOKE, OPERATOR, Actor, Event
from issuer.errors import NotGranted, PorteroError, TooManyApiKeys, TooManyTokens, UnknownUser
from issuer.policy.roles import Roles
from issuer.store import OF_API_KEY, ApiKey, Selection, Session
from issuer.store.refusals import Refusals
from issuer.sync.active_tokens import ActiveTokens, Clock, Revocation
from issuer.tokens import api_keys
from issuer.tokens.api_keys import Wanted
from issuer.users.credentials_in_force import CredentialsInForce


@dataclass(frozen=True)
class Made:
    """An API key just made active: the one moment at which it is known."""

    key: str
    session: Session


class ApiKeys:
    """The API keys of a deployment."""

    def __init__(
        self,
        roles: Callable[[], Roles],
        credentials: CredentialsInForce,
        active: ActiveTokens,
        refusals: Refusals,
        clock: Clock = time.time,
    ) -> None:
        self._roles = roles
        self._credentials = credentials
        self._active = active
        self._refusals = refusals
        self._clock = clock

    def make(self, owner: str, wanted: Wanted, by: Actor) -> Made:
        """A key for a user whose role has some. Raises `UnknownUser`, `NotGranted`, `Unacceptable`,
        `TooManyApiKeys`, `Unavailable`.
        """
        try:
            return self._make(owner, wanted, by)
        except PorteroError as refusal:
            known = "" if isinstance(refusal, UnknownUser) else owner
            event = Event(by, API_KEY_CREATE, known, audit.outcome_of(refusal), user=known)
            self._refusals.note(event)
            raise

    def _make(self, owner: str, wanted: Wanted, by: Actor) -> Made:
        role = self._roles().of(owner)
        if role is None or self._credentials.in_force().fingerprint(owner) is None:
            raise UnknownUser
        if role.api_keys is None:
            raise NotGranted("Users of this role have no API keys.")
        wanted.check(role.api_keys)
        # Who is in a shell is no user, whatever the name.
        made_by = f"operator {by.name}" if by.kind == OPERATOR else by.name
        made = _made(owner, role.name, wanted, made_by, int(self._clock()))
        try:
            self._active.activate(made.session, role.api_keys.most, by)
        except TooManyTokens:
            raise TooManyApiKeys from None
        return made

    def listed(
        self, owner: str | None = None, most: int | None = None, about: str = ""
    ) -> list[Session]:
        """Those that are good at this moment, of one owner or of all, the newest first; at most so
        many, whose owner or name has `about` in it.
        """
        roles, now = self._roles(), int(self._clock())
        found = self._active.store.api_keys(now, owner, most, about)
        return [shown for one in found if (shown := api_keys.in_force(one, roles, now))]

    def count(self, about: str = "") -> int:
        """How many there are of all, as the store has them."""
        return self._active.store.count_api_keys(int(self._clock()), about)

    def revoke(self, key_id: str, by: Actor, owner: str | None = None) -> Revocation:
        """End a key everywhere; with `owner`, only if it is this user's."""
        selection = Selection(jti=key_id, subject=owner, api_keys=True)
        return self._active.revoke(selection, by, API_KEY_REVOKE)


def _made(owner: str, role: str, wanted: Wanted, made_by: str, now: int) -> Made:
    key = api_keys.new()
    session = Session(
        jti=api_keys.id_of(key),
        subject=owner,
        role=role,
        issued_at=now,
        expires_at=now + wanted.seconds,
        credential=OF_API_KEY,
        api_key=ApiKey(api_keys.digest(key), wanted.name, wanted.models, made_by),
    )
    return Made(key, session)
