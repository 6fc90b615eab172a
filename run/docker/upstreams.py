"""LLM servers on this machine, as containers see them: under another name than localhost, and only
where they listen beyond it.
"""

import socket
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from urllib.parse import SplitResult, urlsplit

from run import base_urls
from run.docker.engine import ask

HOST_NAME = "host.docker.internal"
CONNECT_SECONDS = 1.0
BRIDGE = [
    "docker",
    "network",
    "inspect",
    "bridge",
    "--format",
    "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}} {{end}}",
]


def for_containers(upstreams: str) -> str:
    """LLM_UPSTREAM with this machine's name in there instead of localhost."""
    return ",".join(renamed(url) for url in base_urls.listed(upstreams))


def renamed(url: str) -> str:
    """One upstream."""
    parts = urlsplit(url)
    if not is_loopback(parts):
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=HOST_NAME + port).geturl()


def is_loopback(parts: SplitResult) -> bool:
    """Whether this names the machine itself."""
    host = parts.hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def out_of_reach(upstreams: str, env: Mapping[str, str]) -> str:
    """The first upstream that listens on loopback alone, where containers cannot come; empty when
    there is none. Only on Linux is the bridge's address one of this machine.
    """
    if not sys.platform.startswith("linux"):
        return ""
    local = [url for url in base_urls.listed(upstreams) if is_loopback(urlsplit(url))]
    bridge = bridge_address(ask(BRIDGE, env)[1]) if local else ""
    return next((url for url in local if bridge and hides_from(bridge, urlsplit(url))), "")


def bridge_address(said: str) -> str:
    """This machine's address on the bridge, of what the engine says: its gateway, or, of an engine
    that has not been started before, the first address of its network. Empty when it has none.
    """
    for word in said.split():
        return str(ip_network(word)[1]) if "/" in word else word
    return ""


def hides_from(bridge: str, url: SplitResult) -> bool:
    """Whether it listens, but not for what comes over the bridge."""
    port = url.port or {"https": 443}.get(url.scheme, 80)
    return listens(url.hostname or "", port) and not listens(bridge, port)


def listens(host: str, port: int) -> bool:
    """Whether a connection is taken."""
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
