"""LLM_UPSTREAM as a user writes it: base URLs between commas or blanks, each of them what comes
before `/v1` and `/api`.

A twin of what `portero/config.lua` refuses of a base URL's path: the two must agree.
"""

import re
from urllib.parse import urlsplit

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


def listed(upstreams: str) -> list[str]:
    """The base URLs, in their order."""
    return re.findall(r"[^,\s]+", upstreams)


def faults(upstreams: str) -> list[str]:
    """One line for each base URL that goes on where it should end."""
    routes = ((number, route_in(url)) for number, url in enumerate(listed(upstreams), 1))
    return [
        f"LLM_UPSTREAM: number {number} ends in {route}: leave out {route}, a base URL is what "
        "comes before /v1 and /api"
        for number, route in routes
        if route
    ]


def route_in(url: str) -> str:
    """What of a base URL's path is a route, or the beginning of one; empty when nothing is."""
    try:
        path = urlsplit(url).path.rstrip("/")
    except ValueError:  # the gateway says what is wrong with it
        return ""
    before, mark, _ = f"{path}/".partition("/v1/")
    if mark:
        return path[len(before) :]
    return next((route for route in ROUTES if path.endswith(route)), "")
