"""Ports for what a test starts. It must never give one twice: between the moment a port is found
free and the moment its server listens there, another test's server, or the kernel for any
connection, would take it.

So they lie below those that the kernel gives to who asks for no certain one, and every session of
this machine's user claims its own in one file, until it ends (`fcntl`'s locks of a range of bytes:
a port is a byte).
"""

import fcntl
import itertools
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

#: How many ports there are to choose from, below the kernel's own.
CHOICE = 20_000
_OWN_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@cache
def _claims() -> IO[bytes]:
    """Open for good: to close it would give up every claim."""
    path = Path(tempfile.gettempdir()) / f"portero-test-ports-{os.getuid()}"
    return path.open("ab")


@cache
def _candidates() -> "itertools.chain[int]":
    """Each port once, from a place of this session's own."""
    end = int(_OWN_RANGE.read_text().split()[0])
    begin = max(1024, end - CHOICE)
    first = random.randrange(begin, end)
    return itertools.chain(range(first, end), range(begin, first))


def _is_claimed(port: int) -> bool:
    """Whether it is this session's now."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different, and nobody else's as long as this session runs.

    Raises:
        RuntimeError: there are no more.
    """
    ports = (port for port in _candidates() if _is_claimed(port) and _is_free(port))
    found = list(itertools.islice(ports, count))
    if len(found) < count:
        raise RuntimeError(f"this session has had all its {CHOICE} ports")
    return found


def listen(host: str = "127.0.0.1", backlog: int = 256) -> socket.socket:
    """A socket that listens on a port of this session's own.

    The kernel's choice, port 0, is not taken: Linux 6.18 gives one port to two listeners now and
    then (5 of 26,000, where four processes open and close them), and what one is asked the other
    answers.
    """
    return socket.create_server((host, *free_ports(1)), backlog=backlog)
