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
_MALFORMED = "url is malformed; write http://host:port or https://host"

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
        needs_secret: bool = True,
    ) -> "Configuration":
        """Put together what is given with what the environment has. `needs_secret=False` is for who
        may hold a token of a known user already.

        Raises `ConfigurationError`, which names every fault at once.
        """
        given = {"url": url, "username": username, "secret": secret, "api_key": api_key}
        found = _found(
            {**given, "ca_bundle": ca_bundle}, os.environ if environ is None else environ
        )
        faults = _faults(found, needs_secret or not found["username"])
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


def _faults(found: Mapping[str, str], needs_secret: bool) -> list[str]:
    faults = url_faults(found["url"]) if found["url"] else [_missing("url")]
    faults += [_unfit(name) for name in ("username", "secret") if not _is_text(found[name])]
    if found["api_key"]:
        return faults + _key_faults(found)
    needed = ("username", "secret") if needs_secret else ("username",)
    return faults + [_missing(name) for name in needed if not found[name]]


def _key_faults(found: Mapping[str, str]) -> list[str]:
    key = found["api_key"]
    is_fit = key.isascii() and key.isprintable() and " " not in key
    faults = [] if is_fit else [_unfit("api_key")]
    both = "give either api_key or username and secret, not both"
    return [*faults, both] if found["secret"] else faults


def _is_text(value: str) -> bool:
    """Not what stands for bytes that are no UTF-8, in a variable or a file's name."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _unfit(name: str) -> str:
    return f"{name} ({VARIABLES[name][0]}) holds characters that none can have"


def _missing(name: str) -> str:
    variables = [*VARIABLES[name][:1], *([SECRET_FILE] if name == "secret" else [])]
    return f"{name} is missing: give the argument {name}=, or set {' or '.join(variables)}"


def url_faults(url: str) -> list[str]:
    """What is wrong with a gateway's URL; never with the URL in it, which may hold a password.

    >>> url_faults("http://127.0.0.1:8080"), len(url_faults("127.0.0.1:8080"))
    ([], 1)
    """
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
        # What no name has, a request would carry in another form than we compare it by.
        host_is_good = "%" not in httpx2.URL(parts.geturl()).raw_host.decode("ascii")
    except (ValueError, httpx2.InvalidURL):
        return [_MALFORMED]
    if not host_is_good:
        return [_MALFORMED]
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
    # As the requests will name it, that the two may be compared: in ASCII, without a usual port.
    place = httpx2.URL(parts.geturl()).netloc.decode("ascii")
    plain = SplitResult(parts.scheme, place, path, "", "").geturl()
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
