"""What a client may run into, whatever it is written in: the refusals, and streams that are cut."""

from collections.abc import Callable
from typing import NamedTuple

from tests.stack.clients.answers import INFERENCE, everything
from tests.support.deployment import Caller, Local
from tests.support.upstream import Upstream


class Asked(NamedTuple):
    """What a client is told to ask with."""

    gateway: str
    token: str
    model: str = "tiny"
    retries: int = 0


def bad_token(caller: Caller, said: Upstream) -> tuple[str, str]:
    """401."""
    return "bad", "tiny"


def forbidden_route(caller: Caller, said: Upstream) -> tuple[str, str]:
    """403: a monitoring role may not infer."""
    return caller.token("MNTRTEST01"), "tiny"


def unknown_model(caller: Caller, said: Upstream) -> tuple[str, str]:
    """404: and the LLM server is not asked."""
    return caller.token("AGNRTEST01"), "other"


def over_limit(caller: Caller, said: Upstream) -> tuple[str, str]:
    """429: one request a minute was allowed."""
    token = caller.token("AGNFTEST01")
    assert caller.call(token).status_code in (200, 429)
    return token, "tiny"


def server_away(caller: Caller, said: Upstream) -> tuple[str, str]:
    """502: it hangs up on every request."""
    said.mood = "die"
    return caller.token("AGNRTEST01"), "tiny"


def server_busy(caller: Caller, said: Upstream) -> tuple[str, str]:
    """503: as it says."""
    said.answers.update(dict.fromkeys(INFERENCE, 503))
    return caller.token("AGNRTEST01"), "tiny"


#: The status that each must be told as.
REFUSALS: dict[int, Callable[[Caller, Upstream], tuple[str, str]]] = {
    401: bad_token,
    403: forbidden_route,
    404: unknown_model,
    429: over_limit,
    502: server_away,
    503: server_busy,
}


def refused(running: Local, said: Upstream, status: int) -> Asked:
    """What to ask with to be refused with this status."""
    token, model = REFUSALS[status](Caller(running), said)
    return Asked(running.gateway, token, model)


def endless(said: Upstream) -> None:
    """Streams that only end when somebody ends them (or after two minutes)."""
    said.answers.update(everything(["pong"] * 2400))
    said.gap = 0.05
