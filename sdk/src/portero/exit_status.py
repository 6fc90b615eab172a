"""What the exit status of the command `portero` says. It decides on no error's words."""

from portero.errors import (
    ConfigurationError,
    LoginUnavailable,
    NotReady,
    PorteroError,
    TransportError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

DONE, REFUSED, USAGE, UNAVAILABLE = 0, 1, 2, 3
BROKEN_OFF = 130
AWAY = (LoginUnavailable, TransportError, NotReady, UpstreamUnavailable, UpstreamTimeout)


def status_of(error: PorteroError) -> int:
    """The exit status that tells a script what kind of error it was.

    >>> status_of(LoginUnavailable("The issuer is away."))
    3
    """
    if isinstance(error, ConfigurationError):
        return USAGE
    return UNAVAILABLE if isinstance(error, AWAY) else REFUSED
