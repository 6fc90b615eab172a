"""A command in a network of its own, from which nothing but the gateway can be reached.

    unshare --net python -m tests.stack.clients.enclosed SOCKET PORT COMMAND…

Run so, it brings up loopback, listens on 127.0.0.1:PORT, carries what comes there through the unix
socket (a file, which is the same in every network) and runs the command. `gateway_socket` is the
other end of that socket, in the tests' own process.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

#: Who is not root may become so in a world of its own, where the system lets them.
UNSHARE = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")

Connect = Callable[[], socket.socket]


def main(path: str, port: str, *command: str) -> int:
    """The command's exit status."""
    loopback_up()
    carry(socket.create_server(("127.0.0.1", int(port))), lambda: unix_connection(path))
    return subprocess.run(command).returncode


def enclosed(path: Path, port: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a command so."""
    module = "tests.stack.clients.enclosed"
    return [*UNSHARE, sys.executable, "-m", module, str(path), str(port), *command]


def why_not() -> str:
    """Why this machine encloses nothing; empty where it does."""
    if shutil.which("unshare") is None:
        return "there is no unshare here"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    return tried.stderr.strip()


@contextmanager
def gateway_socket(path: Path, port: int) -> Iterator[Path]:
    """A unix socket that leads to a port of this machine's loopback."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        carry(listener, lambda: socket.create_connection(("127.0.0.1", port)))
        try:
            yield path
        finally:
            _break(listener)  # else its thread would wait on a number that is soon another file's


def loopback_up() -> None:
    """A new network's loopback is down; `ip` may not be installed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sH14s", b"lo", 0, b"")
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(control, SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))


def unix_connection(path: str) -> socket.socket:
    """A connection to a unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def carry(listener: socket.socket, connect: Connect) -> None:
    """Carry every connection that comes to another one, both ways, until the process ends."""
    threading.Thread(target=_accept, args=(listener, connect), daemon=True).start()


def _accept(listener: socket.socket, connect: Connect) -> None:
    while True:
        try:
            one = listener.accept()[0]
        except OSError:
            return
        threading.Thread(target=_join, args=(one, connect), daemon=True).start()


def _join(one: socket.socket, connect: Connect) -> None:
    """Carry both ways until both have ended."""
    with one, connect() as other:
        back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
        back.start()
        _pass_on(one, other)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Bytes as they come; an end, or a break, is passed on as an end."""
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for broken in (source, target):
            _break(broken)


def _break(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
