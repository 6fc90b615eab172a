"""A real ACME server of the tests' own: Debian's pebble, with the name server that it asks. Its
authority is made anew at each start, and every name is this machine. It listens where its clients
come: on loopback, or on the engine's bridge for those in containers.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from issuer import certificates
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

DAY_SECONDS = 86_400
#: certbot renews what has less to go.
RENEWED_DAYS = 30


@dataclass(frozen=True)
class Acme:
    """Where it is, and the authority that vouches for itself, not for what it signs."""

    directory: str
    authority: Path


@contextmanager
def pebble(http_port: int, days: int, address: str = "127.0.0.1") -> Iterator[Acme]:
    """One that asks for challenges at this port of loopback, and signs for so many days."""
    folder = Path(tempfile.mkdtemp(prefix="portero-test-acme-"))
    port, management, names, names_management = free_ports(4)
    made = certificates.make(folder / "tls", (address,))
    config = folder / "config.json"
    config.write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": f"{address}:{port}",
                    "managementListenAddress": f"127.0.0.1:{management}",
                    "certificate": str(made.certificate),
                    "privateKey": str(made.key),
                    "httpPort": http_port,
                    "tlsPort": 1,
                    "certificateValidityPeriod": days * DAY_SECONDS,
                }
            }
        )
    )
    resolver = [
        *("pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""),
        *("-dns01", f"127.0.0.1:{names}", "-management", f"127.0.0.1:{names_management}"),
        *("-http01", "", "-https01", "", "-tlsalpn01", ""),
    ]
    server = ["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{names}"]
    with ExitStack() as at_end:
        at_end.callback(shutil.rmtree, folder)
        for command in (resolver, server):
            at_end.enter_context(_running(command, folder))
        wait_for(lambda: _listens(address, port), 20, "pebble listens")
        yield Acme(f"https://{address}:{port}/dir", made.authority)


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    log = folder / f"{command[0]}.log"
    env = {
        **os.environ,
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": "0",
        "PEBBLE_AUTHZREUSE": "0",
    }
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        child.terminate()
        child.wait(10)


def _listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0
