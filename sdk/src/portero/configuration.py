"""Where the gateway is and who asks: arguments first, then variables of the environment, read when
asked for and never at import. It must never echo a secret or switch off verification.
"""

import os
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx2

from portero.errors import ConfigurationError
from portero.hidden import Hidden

#: Value -> its variables, the first that is set counts; the last is what older clients read.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "url": ("PORTERO_URL", "LLM_BASE_URL"),
    "username": ("PORTERO_USERNAME", "LLM_USERNAME"),
    "secret": ("PORTERO_SECRET", "LLM_PASSWORD"),
    "api_key": ("PORTERO_API_KEY",),
    "ca_bundle": ("PORTERO_CA_BUNDLE",),
}
SECRET_FILE = "PORTERO_SECRET_FILE"  # noqa: S105 - the name of a variable
DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]

_warned: set[str] = set()


class PlainHTTPWarning(UserWarning):
    """Secrets and tokens go over the network in clear: the URL is plain http, to another host."""


@dataclass(frozen=True)
class Configuration:
    """All that a client needs. `url` has no `/v1` and no slash at its end.

    >>> Configuration.read("http://127.0.0.1:8080/v1/", "AGNRXYZ456", "the-secret").url
    'http://127.0.0.1:8080'
    """

    url: str
    username: str = ""
    secret: Hidden = field(default=Hidden(), repr=False)
    api_key: Hidden = field(default=Hidden(), repr=False)
    login: str = ""
    ca_bundle: str = ""

    @classmethod
    def read(
        cls,
        url: str | None = None,
        username: str | None = None,
        secret: str | None = None,
        *,
        api_key: str | None = None,
        login: str | None = None,
        ca_bundle: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "Configuration":
        """Put together what is given with what the environment has.

        Raises `ConfigurationError`, which names every fault at once.
        """
        given = {"url": url, "username": username, "secret": secret, "api_key": api_key}
        found = _found(
            {**given, "ca_bundle": ca_bundle}, os.environ if environ is None else environ
        )
        faults = _faults(found)
        if faults:
            raise ConfigurationError("; ".join(faults))
        return cls(
            normal_url(found["url"]),
            found["username"],
            Hidden(found["secret"]),
            Hidden(found["api_key"]),
            login or "",
            found["ca_bundle"],
        )

    @property
    def origin(self) -> Origin:
        """The one place that ever gets a token."""
        return origin(self.url)

    def ssl_context(self) -> ssl.SSLContext:
        """What verifies the gateway: the bundle of `ca_bundle`, else the system's.

        >>> Configuration("https://door.lan").ssl_context().check_hostname
        True
        """
        try:
            return _context(self.ca_bundle)
        except OSError as error:
            raise ConfigurationError(
                f"ca_bundle (PORTERO_CA_BUNDLE) cannot be read: {error.strerror or error}"
            ) from None


@cache
def _context(ca_bundle: str) -> ssl.SSLContext:
    """Made once a process: it takes longer than a request."""
    if ca_bundle:
        return ssl.create_default_context(cafile=ca_bundle)
    return httpx2.create_ssl_context()


def _found(given: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Each value, empty where it is missing. Who gives one kind of credential means that one."""
    found = {name: given.get(name) or _variable(name, environ) for name in VARIABLES}
    if given.get("secret") or given.get("username"):
        found["api_key"] = given.get("api_key") or ""
    if found["api_key"] and not given.get("secret"):
        return {**found, "secret": ""}
    if not found["secret"] and environ.get(SECRET_FILE):
        found["secret"] = _secret_of(environ[SECRET_FILE])
    return found


def _variable(name: str, environ: Mapping[str, str]) -> str:
    return next((environ[key] for key in VARIABLES[name] if environ.get(key)), "")


def _secret_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(
            f"{SECRET_FILE} names {path}, which cannot be read: {reason}"
        ) from None


def _faults(found: Mapping[str, str]) -> list[str]:
    faults = [] if found["url"] else [_missing("url")]
    if found["url"]:
        faults += _url_faults(found["url"])
    if found["api_key"]:
        both = "give either api_key or username and secret, not both"
        return [*faults, both] if found["secret"] else faults
    faults += [_missing(name) for name in ("username", "secret") if not found[name]]
    return faults


def _missing(name: str) -> str:
    variables = [*VARIABLES[name][:1], *([SECRET_FILE] if name == "secret" else [])]
    return f"{name} is missing: give the argument {name}=, or set {' or '.join(variables)}"


def _url_faults(url: str) -> list[str]:
    """Never with the URL in it, which may hold a password."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return ["url is malformed; write http://host:port or https://host"]
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or not port_is_good:
        return ["url must begin with http:// or https:// and name a host"]
    if parts.username is not None or parts.password is not None:
        return ["url holds a username or password; give username= and secret= instead"]
    return ["url must end before any ? or #"] if parts.query or parts.fragment else []


def normal_url(url: str) -> str:
    """The gateway's own address, by whichever form it was given: with `/v1`, a slash, or neither.

    >>> normal_url("https://Door.lan/v1/")
    'https://door.lan'
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    plain = SplitResult(parts.scheme, parts.netloc.lower(), path, "", "").geturl()
    _warn_of_plain_http(parts.scheme, parts.hostname or "", plain)
    return plain


def _warn_of_plain_http(scheme: str, host: str, url: str) -> None:
    if scheme != "http" or is_loopback(host) or url in _warned:
        return
    _warned.add(url)
    text = f"{url} is plain http: secrets and tokens cross the network in clear. Use https."
    warnings.warn(text, PlainHTTPWarning, stacklevel=2)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone.

    >>> is_loopback("127.0.0.53"), is_loopback("localhost"), is_loopback("10.0.0.5")
    (True, True, False)
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> Origin:
    """Scheme, host and port (RFC 6454), the port told even where the URL leaves it out.

    >>> origin("https://Door.lan/v1")
    ('https', 'door.lan', 443)
    """
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
