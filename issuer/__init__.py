"""The issuer: logs callers in, mints tokens, and tells the gateways which of them are active.

`create_app` is the only place where the parts meet. What serves pages is loaded where it is wanted:
a command and the reconciler start without a web framework, an eighth sooner.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from issuer import config, traces
from issuer.api_keys import ApiKeys
from issuer.audit import ITSELF, KEY_ADD, Event
from issuer.authority import Authority
from issuer.config import Settings
from issuer.keys.key_file import KeyFile, Place
from issuer.keys.sealing import SHARED_KEYS, Sealing
from issuer.people import People
from issuer.repeated import repeat
from issuer.store.audit import Audit, Lines
from issuer.store.documents import Document
from issuer.store.refusals import Refusals
from issuer.store.sessions import Sessions, open_sessions
from issuer.store.usage import Usage
from issuer.sync.active_tokens import ActiveTokens
from issuer.sync.gateways import Gateways, gateways_of
from issuer.sync.policy_in_force import PolicyInForce
from issuer.users.credentials import Doorkeeper
from issuer.users.credentials_in_force import CredentialsInForce
from issuer.users.remembered import Remembered
from issuer.users.turns import Turns

if TYPE_CHECKING:
    from issuer.web import Application
    from issuer.web.console import House

#: First logins that may wait for their turn; more would answer too late to be of use.
LOGINS_WAITING = 16
#: How often a process looks at its files by itself.
LOOK_SECONDS = 0.2
#: How often what happened is written in the log, and what was refused in the audit too.
TELL_SECONDS = 0.5


@dataclass(frozen=True)
class Parts:
    """What one process of the issuer is made of."""

    settings: Settings
    keys: KeyFile
    credentials: CredentialsInForce
    gateways: Gateways
    policy: PolicyInForce
    active: ActiveTokens
    refusals: Refusals
    lines: Lines

    @property
    def audit(self) -> Audit:
        """What happened."""
        return self.active.store.audit

    @property
    def api_keys(self) -> ApiKeys:
        """The API keys over these parts."""
        return ApiKeys(self.policy.roles, self.credentials, self.active, self.refusals)

    @property
    def usage(self) -> Usage:
        """What was used, as far as it was counted."""
        return Usage(self.active.store.database)

    @property
    def house(self) -> "House":
        """What the console looks at."""
        from issuer.web.console import House

        return House(
            people=People(self.settings.credentials_file, self.policy.roles, self.active),
            policy=self.policy,
            policy_file=self.settings.policy_file,
            gateways=self.gateways,
            used=self.usage,
            data_dir=self.settings.data_folder,
        )

    @property
    def counted(self) -> Usage | None:
        """Where what is used is counted; None where it is not."""
        return self.usage if self.settings.has_usage else None

    def keep_looking(self) -> None:
        """Take changed files within a second, though nobody asks for what is in them; and tell of
        what happened.
        """
        looks = {self.policy.look: LOOK_SECONDS, self.credentials.look: LOOK_SECONDS}
        tells = {self.refusals.flush: TELL_SECONDS, self.lines.tell: TELL_SECONDS}
        for work, seconds in (looks | tells).items():
            words = (work, seconds, threading.Event())
            threading.Thread(target=repeat, args=words, name="looking", daemon=True).start()

    def close(self) -> None:
        """Tell what nobody has told yet. Raises `StoreUnavailable`."""
        try:
            self.refusals.close()
        finally:
            self.lines.tell()
            traces.end()


def assemble(settings: Settings, takes_policy: bool = False) -> Parts:
    """Build the parts; what serves takes changed policies, a command goes by the one in force.

    Raises `Faults` for bad files, `StoreUnavailable` for the store.
    """
    store = open_sessions(settings.database_url)
    # Before the other parts, which may do something that has a row: take a policy, make a key.
    lines = Lines(store.audit)
    gateways = gateways_of(settings)
    policy = PolicyInForce(
        settings.policy_file, settings.terms, store, gateways, takes=takes_policy
    )
    keys = KeyFile(
        _place_of_keys(settings, store),
        settings.algorithm,
        settings.secret_key,
        lambda: _longest_life(policy, store),
    )
    return Parts(
        settings=settings,
        keys=keys,
        credentials=CredentialsInForce(
            settings.credentials_file,
            policy.roles,
            store.salt(),
            settings.last_good_directory,
        ),
        gateways=gateways,
        policy=policy,
        active=ActiveTokens(store, gateways, settings.most_active_tokens),
        refusals=Refusals(store.audit, gathers=takes_policy),
        lines=lines,
    )


def _place_of_keys(settings: Settings, store: Sessions) -> Place | Path:
    if not settings.seal_key:
        return settings.key_file
    sealing = Sealing(settings.seal_key, SHARED_KEYS)
    return Document(store.database, settings.key_file.name, sealing)


def _longest_life(policy: PolicyInForce, store: Sessions) -> int:
    """The longest from now that a token may live: one minted now, or one there is already, which
    may have been minted under roles that let it live longer than those in force.
    """
    left = store.last_expiry() - int(time.time())
    return max(policy.roles().longest_ttl_seconds(), left)


def create_app(environ: Mapping[str, str] = os.environ) -> "Application":
    """The WSGI application. Raises `Faults` with every fault of the settings."""
    from issuer import web

    parts = assemble(config.read(environ), takes_policy=True)
    settings = parts.settings
    if settings.traces_as:
        traces.begin(settings.traces_as)
    if made := parts.keys.prepare(int(time.time())):
        parts.audit.record(Event(ITSELF, KEY_ADD, made))
    doorkeeper = Doorkeeper(
        Remembered(settings.remembered_descriptor), Turns(_cores_to_spare(), LOGINS_WAITING)
    )
    parts.credentials.when_changed = doorkeeper.forget
    authority = Authority(
        parts.policy.roles,
        parts.keys,
        parts.credentials,
        doorkeeper,
        parts.active,
        parts.refusals,
        issuer=settings.terms.issuer,
    )
    # A key that was changed by hand signs from now on: the gateways that can be told are told now,
    # all others by the reconciler before they get any token.
    parts.gateways.put_keys(parts.keys.read())
    parts.policy.push()
    app = web.application(authority, parts.api_keys, parts.house, settings)
    app.extensions["portero"] = parts
    return app


def _cores_to_spare() -> int:
    """One is left to everything else; whoever serves is one process (issuer/gunicorn.conf.py)."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
