"""The users of a deployment: listed, added, given another secret, removed.

For the console and for `portero-admin users` alike: the file is edited, what was issued is ended,
and it has a row in the audit. A secret is told once, and never kept or logged.
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

Secret = Callable[[], str]


class People:
    """The users in the credentials file at `path`. All raise `Faults`, or `StoreUnavailable` where
    it is away before they begin, and then nothing changed.

    Where a secret is needed, `secret` is asked for one, once it is known that it can be used.
    """

    def __init__(self, path: Path, roles: Callable[[], Roles], active: ActiveTokens) -> None:
        self._path = path
        self._roles = roles
        self._active = active

    def listed(self) -> Sequence[tuple[str, str, str]]:
        """Each user's name, role, and kind of secret, in the order of the file."""
        return credentials_file.listed(credentials_file.read(self._path), self._roles())

    def add(self, name: str, actor: Actor, secret: Secret = credentials.new_secret) -> str:
        """A new user; their secret."""
        credentials_file.check_name(name, self._roles())
        given = self._put_secret(credentials_file.added, name, secret)
        self._note(actor, USER_ADD, name)
        return given

    def renew(
        self, name: str, actor: Actor, secret: Secret = credentials.new_secret
    ) -> tuple[str, Revocation]:
        """Another secret, and the end of what was issued for the old one."""
        given = self._put_secret(credentials_file.changed, name, secret)
        return given, self._end(Selection(subject=name, api_keys=False), actor, USER_PASSWD)

    def remove(self, name: str, actor: Actor) -> Revocation:
        """The user, with all tokens and API keys."""
        self._probe()
        self._edit(partial(credentials_file.removed, name=name))
        return self._end(Selection(subject=name), actor, USER_REMOVE)

    def _put_secret(self, put: Callable[[str, str, str], str], name: str, secret: Secret) -> str:
        """Judged before anybody has to type one, and again when it is written."""
        self._probe()
        put(credentials_file.read(self._path), name, "")
        given = secret()
        hashed = credentials.hashed(given)
        self._edit(lambda text: put(text, name, hashed))
        return given

    def _probe(self) -> None:
        """A store that cannot be read and written would leave the change half done: the file has
        another secret, and what was issued for the old one lives on. Raises `StoreUnavailable`.
        """
        self._active.store.check()
        with self._active.store.database.transaction():
            pass

    def _edit(self, change: Edit) -> None:
        credentials_file.edit(self._path, self._roles(), change)

    def _end(self, ended: Selection, actor: Actor, event: str) -> Revocation:
        """The file first, so that nobody logs in with the old secret after the revocation; the row
        last, as nobody is safer for it.
        """
        name = ended.subject or ""
        credentials_file.forget_demo_login(self._path, name)
        done = self._active.revoke(ended, actor)
        self._note(actor, event, name)
        return done

    def _note(self, actor: Actor, event: str, name: str) -> None:
        self._active.store.audit.record(Event(actor, event, name, user=name))
