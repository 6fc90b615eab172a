"""Who did what to whom, from where, when, and what came of it: an `Event` of each change, and the
chain that its rows form.

Every change takes an `Actor`. Pure: `store/audit.py` keeps the rows. No field may hold a secret, a
token or a text that a caller made up: a name or an ID stands in a row only where it names something
that there is. The `jti` of a token and the ID of an API key are no secrets; neither opens anything.
"""

import hashlib
import json
import os
import pwd
import re
from dataclasses import dataclass
from typing import Any

from issuer.errors import PorteroError

USER, API_KEY, OPERATOR, PORTERO = "user", "api_key", "operator", "portero"


@dataclass(frozen=True)
class Actor:
    """Who does something. `kind` is one of the four above, `address` the client's, if it has one.

    `name` is a username, an API key's ID, or the system's user; `owner` is whose API key it is.
    """

    kind: str
    name: str
    address: str = ""
    owner: str = ""

    @property
    def user(self) -> str:
        """Who is behind it."""
        return self.owner or self.name


#: What nobody asked for at this moment: a file that changed, a time that came.
ITSELF = Actor(PORTERO, "portero")


def operator() -> Actor:
    """Whoever types a command. The system says who that is, as no variable may."""
    number = os.getuid()
    try:
        return Actor(OPERATOR, pwd.getpwuid(number).pw_name)
    except KeyError:
        return Actor(OPERATOR, str(number))


LOGIN, LOGOUT = "login", "logout"
REVOKE = "tokens.revoke"
API_KEY_CREATE, API_KEY_REVOKE = "api_keys.create", "api_keys.revoke"
USER_ADD, USER_REMOVE, USER_PASSWD = "users.add", "users.remove", "users.passwd"
KEY_ADD, KEY_PROMOTE = "signing_keys.add", "signing_keys.promote"
KEY_RETIRE, KEY_EXPIRE = "signing_keys.retire", "signing_keys.expire"
POLICY = "policy.take"
SERVER_UP, SERVER_DOWN = "servers.up", "servers.down"
SERVER_OUT, SERVER_BACK = "servers.take_out", "servers.put_back"
BACKUP, RESTORE, DISTRUST = "store.backup", "store.restore", "store.distrust"
PRUNE = "audit.prune"

EVENTS = (
    *(LOGIN, LOGOUT, REVOKE, API_KEY_CREATE, API_KEY_REVOKE),
    *(USER_ADD, USER_REMOVE, USER_PASSWD, KEY_ADD, KEY_PROMOTE, KEY_RETIRE, KEY_EXPIRE),
    *(POLICY, SERVER_UP, SERVER_DOWN, SERVER_OUT, SERVER_BACK),
    *(BACKUP, RESTORE, DISTRUST, PRUNE),
)

OK, REFUSED = "ok", "refused"
#: The target of what is meant for all.
ALL = "*"
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def outcome_of(refusal: PorteroError) -> str:
    """What came of something that was refused for this: the error's name, as `too_many_tokens`."""
    return _CAPITAL.sub("_", type(refusal).__name__).lower()


@dataclass(frozen=True)
class Event:
    """One thing that happened. `target` is whom or what it happened to: a user, `USER/ID` for a
    token or API key, or what the event says; `user` is the user whom it concerns.

    `times` counts what was refused alike within a minute.
    """

    actor: Actor
    event: str
    target: str = ""
    outcome: str = OK
    user: str = ""
    times: int = 1


@dataclass(frozen=True)
class Row:
    """An event in its place in the chain: `hash` covers all else, and the hash of the row before.
    `time` is in whole Unix seconds.
    """

    sequence: int
    time: int
    kind: str
    name: str
    address: str
    event: str
    target: str
    outcome: str
    user: str
    times: int
    hash: str = ""

    @property
    def shown(self) -> dict[str, Any]:
        """What is told of it, by the admin API, the command and the log alike."""
        told: dict[str, Any] = {
            "sequence": self.sequence,
            "time": self.time,
            "actor": {"kind": self.kind, "name": self.name},
            "address": self.address,
            "event": self.event,
            "target": self.target,
            "outcome": self.outcome,
        }
        return told if self.times == 1 else {**told, "times": self.times}

    def chained(self, before: str) -> str:
        """The hash that it must have behind a row with the hash `before`."""
        own = [value for name, value in vars(self).items() if name != "hash"]
        text = json.dumps([before, *own], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
