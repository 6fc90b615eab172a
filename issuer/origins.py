"""Origins of pages (RFC 6454 §6.1): how they are written, which one is our own, which ones an
operator has named. Pure.

The gateway's twins are `config.lua`, which finds the same faults, and `origins.lua`, which knows
its own origin by the same rule.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_SCHEME = r"[a-z][a-z0-9+.-]*://"
_PORT = r"(?::(?P<port>[1-9][0-9]{0,4}))?"
_ORIGIN = re.compile(rf"{_SCHEME}(?:[a-z0-9._-]+|\[[0-9a-f:.]+\]){_PORT}\Z", re.ASCII)
#: What people write in place of an origin, in the order it is looked for, and what to tell them.
_FAULTS = (
    (r"null\Z", "is null, which every page without an origin of its own says"),
    (r".*[*]", "is a pattern; name each origin"),
    (r".*[A-Z]", "has capitals; a browser sends it in lower case"),
    (rf"{_SCHEME}[^/ ]+/", "has a path; leave out what is behind host and port, a slash too"),
    (r"http://.*:80\Z|https://.*:443\Z", "has its scheme's own port; a browser leaves that out"),
)
_FORM = "is not SCHEME://HOST or SCHEME://HOST:PORT"
_LONG = "is longer than 300 characters"
_MAX_PORT = 65535
#: A name of DNS has 253 at most.
_MAX_LENGTH = 300

_WEB_ORIGIN = re.compile(r"(https?)://([^/?#@:\s][^/?#@\s]*)\Z", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_BASE_URL = re.compile(
    r"(https?)://((?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]))"
    r"(?::([0-9]{1,5}))?/?\Z",
    re.ASCII,
)


def entries(text: str) -> list[str]:
    """The entries of a list that commas separate, without the blanks around them."""
    return [entry for part in re.split("[,\n]", text) if (entry := part.strip(" "))]


def faults(listed: Sequence[str]) -> Iterator[str]:
    """What is wrong with each entry that is no origin, by its number: it may hold a password."""
    for number, entry in enumerate(listed, 1):
        if reason := _fault(entry):
            yield f"each must be an origin as a browser sends it; number {number} {reason}"


def _fault(entry: str) -> str:
    for pattern, reason in _FAULTS:
        if re.match(pattern, entry, re.ASCII):
            return reason
    match = _ORIGIN.match(entry)
    if not match or int(match["port"] or 1) > _MAX_PORT:
        return _FORM
    return "" if len(entry) <= _MAX_LENGTH else _LONG


def base_url(text: str) -> str:
    """`http://HOST:PORT` in the one form a browser gives it; empty for what is no such thing."""
    match = _BASE_URL.match(text)
    if not match:
        return ""
    scheme, host, port = match[1], match[2], match[3]
    if port is None:
        return f"{scheme}://{host.lower()}"
    if not 1 <= int(port) <= _MAX_PORT:
        return ""
    return f"{scheme}://{_plain(scheme, f'{host}:{int(port)}')}"


def _plain(scheme: str, authority: str) -> str:
    """Host and port as an origin of this scheme has them."""
    return authority.lower().removesuffix(_DEFAULT_PORTS[scheme])


#: What looks a header up, of a request that a browser may have sent.
Header = Callable[[str], str | None]


@dataclass(frozen=True)
class Origins:
    """The origin people reach us by (`PUBLIC_URL`; empty when it is not set), and those that
    `CORS_ORIGINS` names.
    """

    public: str = ""
    named: frozenset[str] = frozenset()

    def is_another_site(self, header: Header, over_tls: bool) -> bool:
        """Whether a page of another site sent it. `Sec-Fetch-Site` decides where there is one, else
        `Origin`; a program sends neither.
        """
        site, origin = header("Sec-Fetch-Site"), header("Origin")
        if site is not None:
            return site not in ("same-origin", "none")
        return origin is not None and not self._is_own(origin, header("Host") or "", over_tls)

    def is_named(self, header: Header) -> bool:
        """Whether it comes from a page that an operator lets in."""
        return (header("Origin") or "").lower() in self.named

    def _is_own(self, origin: str, host: str, over_tls: bool) -> bool:
        """Without `PUBLIC_URL` it is the one that the browser asked, whatever it is called: a page
        that made this host's address its own name's (DNS rebinding) is told apart with it only.
        Over plain HTTP a front may have TLS that we are not told of; over TLS nothing else will do.
        """
        match = _WEB_ORIGIN.match(origin)
        if not match:
            return False
        scheme, authority = match[1], _plain(match[1], match[2])
        if self.public:
            return f"{scheme}://{authority}" == self.public
        if scheme == "http" and over_tls:
            return False
        return authority == _plain(scheme, host)
