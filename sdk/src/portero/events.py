"""What `on_event` is told: enough to count and to trace, never a token, a secret or a prompt."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger("portero")

Kind = Literal["login", "renewal", "refused", "retry", "cut", "logout"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    `kind`: `login`, `renewal` (a login ahead of the end), `refused` (a login or a token was),
    `retry` (something is tried again in `seconds`), `cut` (a stream), `logout`. `seconds` is what
    it took, or for `retry` what is waited. `status`, `code`, `request_id` as far as they are known.

    >>> Event("login", "AGNRXYZ456", seconds=0.3).kind
    'login'
    """

    kind: Kind
    username: str = ""
    seconds: float | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None


Hook = Callable[[Event], None]


def tell(hooks: Iterable[Hook], event: Event) -> None:
    """Log an event, and call the hooks; what a hook raises is logged and goes no further."""
    logger.debug("%s", event)
    for hook in hooks:
        try:
            hook(event)
        except Exception:
            logger.exception("on_event failed at %s", event.kind)
