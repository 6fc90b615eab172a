"""The history checker: what clients saw of a running Portero, held against its promises.

A history is a list of operations with the times they began and ended, as one clock saw them.
Operations that overlap may have happened in either order, so only what is certain is judged:

R1  An acknowledged token is not refused: a request that began after the login had answered, and
    ended before a revocation of the token was asked for and before its last second, was served or
    got an allowed transient (503 with Retry-After, or no answer from a part that was down).
R2  A dead token is not served: a request that began after the revocation had answered (and the
    bound for a revocation not acknowledged by all), or after the token's end, was not served.
R3  A token that no login handed out is never served.
R4  Every served request arrived at the LLM server once, with the identity of its token, and
    nothing arrived that was not served or in flight.
R5  A token whose login never answered may be either, but dies by its end.

Pure: times are Unix seconds, and nothing here waits or asks.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["login", "request", "revoke"]

SERVED = range(200, 300)
UNAUTHORIZED = 401
NOT_NOW = 503
#: The status of an operation that got no answer.
NO_ANSWER = 0
#: A token's last second belongs to neither side: clocks are read in whole seconds.
LAST_SECOND = 1.0


@dataclass(frozen=True)
class Operation:
    """One operation as its client saw it.

    `expires_at` is known of logins that answered. `pending` is set for a revocation that some
    gateway had not acknowledged when it answered. `request_id` is the gateway's.
    """

    kind: Kind
    jti: str
    began: float
    ended: float
    status: int
    expires_at: float = 0.0
    retry_after: bool = False
    pending: bool = False
    request_id: str = ""

    def line(self) -> str:
        """The operation as a line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Token:
    """What a history says of one token's life."""

    jti: str
    active_from: float
    expires_at: float
    revocation_began: float
    dead_from: float


def read(lines: Iterable[str]) -> list[Operation]:
    """A history from its lines."""
    return [Operation(**json.loads(line)) for line in lines if line.strip()]


def check(
    history: Sequence[Operation],
    upstream: Mapping[str, str] | None = None,
    pending_bound_seconds: float = 0.0,
) -> list[str]:
    """Every violation in a history, one line each; none when all promises held.

    `upstream` is what arrived at the LLM server: request id -> jti, as the gateway wrote them.
    """
    tokens = _tokens(history, pending_bound_seconds)
    requests = [operation for operation in history if operation.kind == "request"]
    found = [_violation(request, tokens.get(request.jti)) for request in requests]
    violations = [text for text in found if text]
    if upstream is not None:
        violations += _arrivals(requests, upstream)
    return violations


def _tokens(history: Sequence[Operation], bound: float) -> dict[str, Token]:
    revocations: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.kind == "revoke":
            revocations.setdefault(operation.jti, []).append(operation)
    return {
        login.jti: _token(login, revocations.get(login.jti, []), bound)
        for login in history
        if login.kind == "login" and login.status in SERVED
    }


def _token(login: Operation, revocations: Sequence[Operation], bound: float) -> Token:
    never = float("inf")
    answered = [
        one.ended + (bound if one.pending else 0.0) for one in revocations if one.status in SERVED
    ]
    return Token(
        jti=login.jti,
        active_from=login.ended,
        expires_at=login.expires_at,
        revocation_began=min((one.began for one in revocations), default=never),
        dead_from=min([*answered, login.expires_at + LAST_SECOND]),
    )


def _violation(request: Operation, token: Token | None) -> str:
    served = request.status in SERVED
    if token is None:
        return f"R3 {request.jti} was never handed out and is served" if served else ""
    if served and request.began > token.dead_from:
        late = request.began - token.dead_from
        return f"R2 {request.jti} is served {late:.3f} s after it was dead"
    certainly_alive = (
        request.began > token.active_from
        and request.ended < token.revocation_began
        and request.ended < token.expires_at - LAST_SECOND
    )
    if certainly_alive and not served and not _is_transient(request):
        return f"R1 {request.jti} is active and got {request.status}"
    return ""


def _is_transient(request: Operation) -> bool:
    return request.status == NO_ANSWER or (request.status == NOT_NOW and request.retry_after)


def _arrivals(requests: Sequence[Operation], upstream: Mapping[str, str]) -> list[str]:
    served = {one.request_id: one.jti for one in requests if one.status in SERVED}
    twice = [
        name
        for name, count in Counter(one.request_id for one in requests).items()
        if name and count > 1
    ]
    lost = [name for name in served if name not in upstream]
    unclear = {one.jti for one in requests if one.status == NO_ANSWER}
    strangers = [
        name for name, jti in upstream.items() if name not in served and jti not in unclear
    ]
    mixed = [name for name, jti in served.items() if upstream.get(name, jti) != jti]
    return [
        *(f"R4 request {name} is there twice" for name in twice),
        *(f"R4 request {name} was served and did not arrive" for name in lost),
        *(f"R4 request {name} arrived and was not served" for name in strangers),
        *(f"R4 request {name} arrived as another token's" for name in mixed),
    ]
