"""How the issuer's blueprints answer: JSON or a page, errors in one form, cookies in one shape.

It must never echo a secret, and a redirect never leaves this host.
"""

import re
from collections.abc import Mapping

from flask import Response, current_app, jsonify, make_response, request

from issuer.errors import WIRE_ERRORS, envelope
from issuer.origins import Origins
from issuer.tokens.presented_token import COOKIE
from issuer.web import pages

RETRY_SECONDS = "1"
BASIC_CHALLENGE = 'Basic realm="portero", charset="UTF-8"'
OTHER_SITE = "This request came from another site."
_LOCAL_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9._~/?=&%-]{0,512}\Z", re.ASCII)
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}\Z", re.ASCII)
#: How a target begins that names the host too (RFC 9112 §3.2.2).
_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*://[^/?]*", re.ASCII | re.IGNORECASE)
#: What the gateway says of a login (`openresty/lua/portero/quota/login_attempts.lua`).
LOGIN_HEADER = "X-Portero-Login"
#: The name in the client's certificate, as the gateway says it.
CERTIFICATE_HEADER = "X-Portero-Client-Certificate"
#: Where the application's configuration has its `Origins`.
ORIGINS = "PORTERO_ORIGINS"

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # The last one a browser knows counts. Under no-referrer alone it would send `Origin: null`
    # from our own forms, and they would look like another site's.
    "Referrer-Policy": "no-referrer, same-origin",
    "Cache-Control": "no-store",
}


def refuse_other_spellings() -> Response | None:
    """Whoever asks for `/llm%2flogin` is not told what is at `/llm/login`: a rule in front of this
    listener may know a path only as it is written (the gateway's twin is `open_paths.lua`).
    """
    target = str(request.environ.get("RAW_URI", request.path))
    path = _AUTHORITY.sub("", target).partition("?")[0]
    return None if path == request.path else error("invalid_request")


def wants_page() -> bool:
    """Whether a browser is asking, which is shown pages and sent elsewhere."""
    return "text/html" in request.headers.get("Accept", "")


def wants_json() -> bool:
    """Whether the caller asked for JSON and for nothing a browser would."""
    return "application/json" in request.headers.get("Accept", "") and not wants_page()


def reads_another(username: str) -> bool:
    """Whether the gateway, which counts wrong secrets by user and address, read another name in a
    login, or none: a name that is read in two ways is nobody's. Without a gateway none is told.
    """
    told = request.headers.get(LOGIN_HEADER)
    return told is not None and told != "=" + username.encode("utf-8", "surrogatepass").hex()


def seconds_to_wait() -> int | None:
    """How long the gateway has a browser wait that guessed too often, to whom it shows a page."""
    told = request.headers.get(LOGIN_HEADER, "").removeprefix("wait ")
    return int(told) if told.isdecimal() else None


def error(
    code: str, message: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error (docs/http-api.md has them all), as a page for a browser and else as JSON."""
    row = WIRE_ERRORS[code]
    text = message or row.message
    if wants_page():
        title = message or pages.text_or(f"error.{code}", text)
        answer = pages.page("error.html", status=row.status, title=title)
    else:
        answer = make_response(jsonify(envelope(code, text)), row.status)
    answer.headers["X-Portero-Code"] = code
    answer.headers.update(headers or {})
    if row.status in (429, 503):
        answer.headers["Retry-After"] = RETRY_SECONDS
    if row.status == 401:
        answer.headers.setdefault("WWW-Authenticate", 'Bearer realm="portero"')
    return answer


def local_path(wanted: str | None) -> str:
    """`wanted` if it is a path on this host, else `/`: no redirect is open (threats I6)."""
    return wanted if wanted and _LOCAL_PATH.match(wanted) and "//" not in wanted else "/"


def client_address() -> str:
    """Where the client is: the gateway's word, which lets no client say it; else who asks us."""
    told = request.headers.get("X-Real-Ip", "")
    return told if _ADDRESS.match(told) else request.remote_addr or ""


def client_certificate() -> str:
    """The name in the certificate that the client has shown; empty without one. The gateway's word
    alone, as `client_address` is.
    """
    return request.headers.get(CERTIFICATE_HEADER, "")


def over_tls() -> bool:
    """Whether the client came over TLS: the gateway's word alone, which hears it from fronts that
    TRUSTED_PROXIES names.
    """
    return request.headers.get("X-Forwarded-Proto") == "https"


def from_another_site() -> bool:
    """Whether a browser says that a page of another site sent this request (threats I5)."""
    return _origins().is_another_site(request.headers.get, over_tls())


def of_another_site() -> Response:
    """What such a request is told."""
    return error("insufficient_permissions", OTHER_SITE)


def from_unnamed_site() -> bool:
    """The same, but of a site that `CORS_ORIGINS` does not name."""
    return from_another_site() and not _origins().is_named(request.headers.get)


def _origins() -> Origins:
    origins: Origins = current_app.config.get(ORIGINS, Origins())
    return origins


def set_cookie(answer: Response, token: str, max_age_seconds: int, secure: bool) -> None:
    """The session cookie; an empty token with age 0 deletes it."""
    answer.set_cookie(
        COOKIE,
        token,
        max_age=max_age_seconds,
        path="/",
        httponly=True,
        secure=secure,
        samesite="Lax",
    )
