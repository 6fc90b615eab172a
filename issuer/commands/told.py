"""What several commands tell alike: moments, and gateways that are not there at the moment."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from issuer.store import Session

#: What `add_subparsers` answers; argparse gives its type no name.
Commands = Any
#: An ID as the user wrote it.
Bare = Callable[[str], str]

PENDING_STATUS = 2


def tell_pending(urls: Sequence[str]) -> int:
    """Name the gateways that have yet to acknowledge; the command's exit status."""
    for url in urls:
        print(f"not yet acknowledged by {url}; the reconciler will bring it", file=sys.stderr)
    return PENDING_STATUS if urls else 0


def counted(sessions: Sequence[Session]) -> str:
    """How many unexpired tokens there are among them, and API keys, if any."""
    keys = sum(session.api_key is not None for session in sessions)
    tokens = f"{len(sessions) - keys} unexpired tokens"
    return f"{tokens} and {keys} API keys" if keys else tokens


def harmless(line: str) -> str:
    """What others have said is no command to a terminal."""
    return "".join(one if one.isprintable() else "?" for one in line)


def moment(seconds: int) -> str:
    """A time in whole Unix seconds, as people and machines read it (RFC 3339, UTC)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
