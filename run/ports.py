"""TCP ports of this machine: which can be had, and what to say of one that cannot."""

import socket
from collections.abc import Mapping


def is_port(text: str) -> bool:
    """Whether this is a port number in plain digits."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def port_faults(ports: Mapping[str, int]) -> list[str]:
    """One line for each setting whose port cannot be had now."""
    faults = (port_fault(setting, port) for setting, port in ports.items())
    return [fault for fault in faults if fault]


def port_fault(setting: str, port: int) -> str:
    """Why this port of our loopback cannot be had, and the way out; empty when it can."""
    try:
        with socket.socket() as probe:
            # As the servers do: a port in TIME_WAIT can be had.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except PermissionError:
        return f"port {port} needs root; choose another: make run {setting}={free_port()}"
    except OSError:
        return f"port {port} is taken; choose another: make run {setting}={free_port()}"
    return ""


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
