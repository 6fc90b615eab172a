"""The users of a deployment: listed, added, given another secret, removed.

What `portero-admin users` does, for the console: the same file, edited by the same code, and the
same tokens and API keys ended. A secret is made here, told once, and never kept or logged.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from issuer.audit import USER_ADD, USER_PASSWD, USER_REMOVE, Actor, Event
from issuer.policy.roles import Roles
from issuer.store import Selection
from issuer.sync.active_tokens import ActiveTokens, Revocation
from issuer.users import credentials, credentials_file
from issuer.users.credentials_file import Edit


class People:
    """The users in the credentials file at `path`. All raise `Faults`, and then nothing changed."""

    def __init__(self, path: Path, roles: Callable[[], Roles], active: ActiveTokens) -> None:
        self._path = path
        self._roles = roles
        self._active = active

    def listed(self) -> Sequence[tuple[str, str, str]]:
        """Each user's name, role, and kind of secret, in the order of the file."""
        return credentials_file.listed(credentials_file.read(self._path), self._roles())

    def add(self, name: str, actor: Actor) -> str:
        """A new user; their secret."""
        credentials_file.check_name(name, self._roles())
        secret = credentials.new_secret()
        self._edit(partial(credentials_file.added, name=name, hashed=credentials.hashed(secret)))
        self._note(actor, USER_ADD, name)
        return secret

    def renew(self, name: str, actor: Actor) -> tuple[str, Revocation]:
        """Another secret, and the end of what was issued for the old one."""
        secret = credentials.new_secret()
        self._edit(partial(credentials_file.changed, name=name, hashed=credentials.hashed(secret)))
        self._note(actor, USER_PASSWD, name)
        return secret, self._end(Selection(subject=name, api_keys=False), actor)

    def remove(self, name: str, actor: Actor) -> Revocation:
        """The user, with all tokens and API keys."""
        self._edit(partial(credentials_file.removed, name=name))
        self._note(actor, USER_REMOVE, name)
        return self._end(Selection(subject=name), actor)

    def _edit(self, change: Edit) -> None:
        credentials_file.edit(self._path, self._roles(), change)

    def _note(self, actor: Actor, event: str, name: str) -> None:
        self._active.store.audit.record(Event(actor, event, name, user=name))

    def _end(self, ended: Selection, actor: Actor) -> Revocation:
        """The file first, so that nobody logs in with the old secret after the revocation."""
        credentials_file.forget_demo_login(self._path, ended.subject or "")
        return self._active.revoke(ended, actor)
