"""What the user asks for, read once from the environment; and whether its ports can be had."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from run.commands import ROOT, RunError

HOST = "127.0.0.1"
DEFAULT_PORTS = {"GATEWAY_PORT": 8080, "INTERNAL_PORT": 8081, "ISSUER_PORT": 9000}
DEFAULT_DATA_DIR = "var"
SHIPPED_POLICY = ROOT / "policy" / "policy.yaml"
#: Settings that hold a path. The user's are relative to where make ran; the parts run elsewhere.
PATH_SETTINGS = (
    "CREDENTIALS_FILE",
    "INTERNAL_TLS_CERTIFICATE",
    "INTERNAL_TLS_CERTIFICATE_KEY",
    "ISSUER_CA_FILE",
    "ISSUER_TLS_CERTIFICATE",
    "ISSUER_TLS_CERTIFICATE_KEY",
    "LLM_API_KEY_FILE",
    "LLM_CA_FILE",
    "POLICY_FILE",
    "SECRET_KEY_FILE",
    "SYNC_CA_FILE",
    "SYNC_KEY_FILE",
    "TLS_CERTIFICATE",
    "TLS_CERTIFICATE_KEY",
    "TLS_CLIENT_CA",
    "ACME_WEBROOT",
)
#: What parts on several machines need of each other, for which `make run` is not.
BETWEEN_MACHINES = ("INTERNAL_TLS_CERTIFICATE", "ISSUER_TLS_CERTIFICATE", "ISSUER_CA_FILE")
#: TLS=…: a certificate of an authority that is made here.
SELF_SIGNED = "self-signed"
#: Who the certificate is for that is made here.
OWN_HOSTS = ("localhost", HOST, "::1")
#: Where nginx and OpenResty lie although an ordinary user's PATH does not say so.
EXTRA_PATH = ("/usr/local/openresty/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
#: That a policy names LLM servers, as far as it can be told without reading YAML, which is the
#: issuer's: in a line of its own, or in JSON.
NAMES_SERVERS = re.compile(r"""^["']?servers["']?\s*:|[{,]\s*"servers"\s*:""", re.MULTILINE)
#: make's own, of no use to the parts.
MAKE_SETTINGS = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")


@dataclass(frozen=True)
class Plan:
    """What the user asked for, read once from the environment."""

    gateway_port: int
    internal_port: int
    issuer_port: int
    data_dir: Path
    own_credentials: bool
    own_llm: bool
    #: What our own requests trust, where the gateway speaks TLS: a certificate of the user's own,
    #: or the authority made here.
    trusted: Path | None = None
    self_signed: bool = False
    #: The policy that names LLM servers; None where LLM_UPSTREAM or the bundled LLM is the one.
    policy_with_servers: Path | None = None

    @property
    def has_bundled_llm(self) -> bool:
        """Whether the bundled LLM is a part."""
        return not self.own_llm and self.policy_with_servers is None

    @property
    def url(self) -> str:
        """Where the gateway is, for people on this machine."""
        return f"{'https' if self.trusted else 'http'}://{HOST}:{self.gateway_port}"

    @property
    def ports(self) -> dict[str, int]:
        """By the settings that choose them."""
        numbers = (self.gateway_port, self.internal_port, self.issuer_port)
        return dict(zip(DEFAULT_PORTS, numbers, strict=True))


def search_path(path: str) -> str:
    """The PATH with the places where servers live behind it."""
    return os.pathsep.join([path, *EXTRA_PATH] if path else EXTRA_PATH)


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Empty means not set, as in `make run LLM_UPSTREAM=`; paths become absolute."""
    kept = {name: value for name, value in env.items() if value and name not in MAKE_SETTINGS}
    paths = {name: str(Path(kept[name]).absolute()) for name in PATH_SETTINGS if name in kept}
    path = search_path(env.get("PATH", ""))
    return {**kept, **paths, "PATH": path, "PYTHONUNBUFFERED": "1"}


def read_plan(env: Mapping[str, str], folder: Path) -> Plan:
    """The plan, or `RunError` with every fault; a relative DATA_DIR is in `folder`."""
    for name in BETWEEN_MACHINES:
        if name in env:
            raise RunError(
                f"{name} is set, and `make run` has all parts on this machine; for several "
                "machines see docs/two-machines.md"
            )
    gateway, internal, issuer = read_ports(env).values()
    data_dir = folder / env.get("DATA_DIR", DEFAULT_DATA_DIR)
    self_signed = wants_own_authority(env)
    own = Path(env["TLS_CERTIFICATE"]) if "TLS_CERTIFICATE" in env else None
    return Plan(
        gateway,
        internal,
        issuer,
        data_dir=data_dir,
        own_credentials="CREDENTIALS_FILE" in env,
        own_llm="LLM_UPSTREAM" in env,
        policy_with_servers=policy_with_servers(policy_file(env)),
        trusted=data_dir / "tls" / "ca.pem" if self_signed else own,
        self_signed=self_signed,
    )


def wants_own_authority(env: Mapping[str, str]) -> bool:
    """Whether a certificate is to be made here; `RunError` for what TLS cannot mean."""
    if env.get("TLS", SELF_SIGNED) != SELF_SIGNED:
        raise RunError(f"TLS is {env['TLS']!r}; it must be {SELF_SIGNED}, or not set")
    if "TLS" in env and "TLS_CERTIFICATE" in env:
        raise RunError("set TLS or TLS_CERTIFICATE, not both")
    return "TLS" in env


def policy_file(env: Mapping[str, str]) -> Path:
    """The user's own, or the shipped one."""
    return Path(env.get("POLICY_FILE", SHIPPED_POLICY))


def policy_with_servers(path: Path) -> Path | None:
    """This policy, if it names LLM servers. What cannot be read the issuer will refuse."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return path if NAMES_SERVERS.search(text) else None


def read_ports(env: Mapping[str, str]) -> dict[str, int]:
    """The ports, by setting, or `RunError` with one line for each fault."""
    written = {setting: env.get(setting, str(port)) for setting, port in DEFAULT_PORTS.items()}
    wrong = [f"{name} is '{text}'" for name, text in written.items() if not is_port(text)]
    if wrong:
        raise RunError(*(f"{fault}; it must be a port number from 1 to 65535" for fault in wrong))
    ports = {setting: int(text) for setting, text in written.items()}
    if len(set(ports.values())) < len(ports):
        numbers = ", ".join(str(port) for port in ports.values())
        raise RunError(f"{', '.join(ports)} must differ; they are {numbers}")
    return ports


# --- ports ---------------------------------------------------------------------------------------


def is_port(text: str) -> bool:
    """Whether this is a port number in plain digits."""
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def port_faults(ports: Mapping[str, int]) -> list[str]:
    """One line for each setting whose port cannot be had now."""
    return [fault for setting, port in ports.items() if (fault := port_fault(setting, port))]


def port_fault(setting: str, port: int) -> str:
    """Why this port of our loopback cannot be had, and the way out; empty when it can."""
    try:
        with socket.socket() as probe:
            # As the servers do: a port in TIME_WAIT can be had.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except PermissionError:
        return f"port {port} needs root; choose another: make run {setting}={free_port()}"
    except OSError:
        return f"port {port} is taken; choose another: make run {setting}={free_port()}"
    return ""


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
