"""LLM_UPSTREAM as a user writes it: base URLs between commas or blanks, each of them what comes
before `/v1` and `/api`.

A twin of what `portero/config.lua` refuses, so that `make run` can say it before it builds or
installs anything; the two must agree, in their words too. It must never show what is no URL, which
may hold a password.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from run.terminal import RunError

#: What a path may end in that is a route's and no base URL's; longer ones first.
ROUTES = (
    "/api/embeddings",
    "/api/generate",
    "/api/version",
    "/api/embed",
    "/api/chat",
    "/api/show",
    "/api/tags",
    "/api/ps",
    "/api",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/models",
)
_URL = re.compile(r"(https?)://([^/]+)(/?[A-Za-z0-9._~/-]*)", re.ASCII)
_WITH_PORT = re.compile(r"(.*?):([0-9]+)", re.DOTALL)
_HOST = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]", re.ASCII
)
_DOTS = re.compile(r"/\.\.?/")


@dataclass(frozen=True)
class BaseUrl:
    """One server, as far as it matters here; its path is without a slash at the end."""

    scheme: str
    path: str


def listed(upstreams: str) -> list[str]:
    """The base URLs, in their order."""
    return re.findall(r"[^,\s]+", upstreams)


def check(env: Mapping[str, str]) -> None:
    """Refuse a list with a fault, all of them told, before anything is made for it."""
    if "LLM_UPSTREAM" in env and (found := faults(env["LLM_UPSTREAM"])):
        raise RunError(*found)


def faults(upstreams: str) -> list[str]:
    """One line for each fault."""
    urls = [read(url) for url in listed(upstreams)]
    found = [
        f"LLM_UPSTREAM: number {number} {fault}"
        for number, fault in enumerate(map(fault_of, urls), 1)
        if fault
    ]
    if not urls:
        found.append("LLM_UPSTREAM: names no server")
    if len({url for url in urls if url and not fault_of(url)}) > 1:
        found.append("LLM_UPSTREAM: all servers must share one scheme and one path")
    return found


def read(text: str) -> BaseUrl | None:
    """`http://host:port/path` taken apart; None when it is no such thing."""
    parts = _URL.fullmatch(text)
    if parts is None:
        return None
    scheme, authority, path = parts.groups()
    if "//" in path or _DOTS.search(f"{path}/") or not is_authority(authority):
        return None
    return BaseUrl(scheme, path.rstrip("/"))


def is_authority(text: str) -> bool:
    """Whether this is a host, with a port or without."""
    found = None if text.endswith("]") else _WITH_PORT.fullmatch(text)
    host, port = found.groups() if found else (text, "1")
    return _HOST.fullmatch(host) is not None and len(port) < 99 and 1 <= int(port) <= 65535


def fault_of(url: BaseUrl | None) -> str:
    """What is wrong with one of the list; empty when nothing is."""
    if url is None:
        return "is not http://HOST:PORT"
    route = route_in(url.path)
    return (
        f"ends in {route}: leave out {route}, a base URL is what comes before /v1 and /api"
        if route
        else ""
    )


def route_in(path: str) -> str:
    """What of a base URL's path is a route, or the beginning of one; empty when nothing is."""
    before, mark, _ = f"{path}/".partition("/v1/")
    if mark:
        return path[len(before) :]
    return next((route for route in ROUTES if path.endswith(route)), "")
