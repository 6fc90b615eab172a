"""Every way the issuer can say no: one small tree of exceptions, and the wire form of each.

It must never carry a token, a password or a key in a message.

    PorteroError
    ├── Faults               configuration, roles or credentials: all faults at once
    ├── Unacceptable         what was sent is not good: 400 that says what is
    ├── NotGranted           nobody of this role may do that: 403
    ├── UnknownUser          no such user
    ├── WrongCertificate     the role asks for a client certificate of the user's name
    ├── TooManyTokens        the user has as many active tokens as the role allows
    │   └── TooManyApiKeys   the same of API keys; waiting helps nobody
    ├── TokenRefused         not valid; one answer for every cause
    │   └── TokenExpired     authentic, but its time is over
    └── Unavailable          not now: answers 503 with Retry-After
        ├── CapacityReached  no room for another active token
        ├── StoreUnavailable the session store cannot be read or written
        ├── NoGatewayReached no gateway acknowledged the token
        └── TooManyLogins    as many passwords are being checked as this machine can bear
"""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple


class PorteroError(Exception):
    """The root of the tree."""


class Faults(PorteroError):
    """A list of faults, each one sentence an operator can act on."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Faults) and self.faults == other.faults

    __hash__ = PorteroError.__hash__

    def tell(self, log: logging.Logger) -> None:
        """What changed is not taken: say why, a line a fault."""
        for fault in self.faults:
            log.error("%s; the former version stays in force", fault)


class Unacceptable(PorteroError):
    """Its text says what would be good; it holds nothing that was sent."""


class NotGranted(PorteroError):
    """Its text says what the role has not."""


class UnknownUser(PorteroError):
    """Nobody of this name has credentials."""

    def __init__(self) -> None:
        super().__init__("No such user.")


class WrongCertificate(PorteroError):
    """Whoever logs in has shown no client certificate of that name. Said before the secret is
    looked at, so it says nothing of it, nor of whether there is such a user.
    """

    message = "Your role logs in with a client certificate that has the user's name."


class TooManyTokens(PorteroError):
    """One user must not fill the set for all; when the first expires there is room again."""


class TooManyApiKeys(TooManyTokens):
    """There is room again when one ends, or is revoked."""


class TokenRefused(PorteroError):
    """The token is not valid. The reason is for our log alone."""


class TokenExpired(TokenRefused):
    """An authentic token whose `exp` has passed (RFC 7519 §4.1.4)."""


class Unavailable(PorteroError):
    """The request is good, but cannot be served at this moment."""

    code = "not_ready"
    message = "Logging in is not possible at the moment; try again shortly."


class CapacityReached(Unavailable):
    """Nothing live is ever evicted, so a full set refuses newcomers."""

    code = "capacity"
    message = "As many tokens are active as allowed; try again when some have expired."


class StoreUnavailable(Unavailable):
    """The session store failed; nothing was promised to the caller."""


class NoGatewayReached(Unavailable):
    """A token that no gateway knows would only be refused: it is not handed out."""


class TooManyLogins(Unavailable):
    """Checking a password costs a core a quarter of a second: the queue is bounded."""


class WireError(NamedTuple):
    """One row of the table of errors (docs/http-api.md)."""

    status: int
    message: str

    @property
    def type(self) -> str:
        """What OpenAI calls this kind of error."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, kind)


_TYPES = {403: "permission_error", 429: "rate_limit_error"}

WIRE_ERRORS = {
    "invalid_request": WireError(400, "The request is not acceptable."),
    "invalid_api_key": WireError(401, "Invalid credentials."),
    "insufficient_permissions": WireError(403, "Your role may not use this route."),
    "not_found": WireError(404, "No such route."),
    "method_not_allowed": WireError(405, "This path is asked by other methods; Allow names them."),
    "invalid_json": WireError(
        400, "Send one JSON object in UTF-8, with username and password as texts."
    ),
    "unsupported_media_type": WireError(
        415,
        "Send username and password as a form (application/x-www-form-urlencoded) or as JSON "
        "(application/json).",
    ),
    "request_too_large": WireError(413, "The request is too large."),
    "rate_limit_exceeded": WireError(429, "You have as many active tokens as your role allows."),
    "not_ready": WireError(503, Unavailable.message),
    "capacity": WireError(503, CapacityReached.message),
    "internal_error": WireError(500, "Something went wrong on our side."),
}


def envelope(code: str, message: str | None = None) -> dict[str, Any]:
    """The OpenAI error envelope for a code of `WIRE_ERRORS`."""
    row = WIRE_ERRORS[code]
    said = message or row.message
    return {"error": {"message": said, "type": row.type, "param": None, "code": code}}
