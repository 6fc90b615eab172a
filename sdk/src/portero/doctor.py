"""What `portero doctor` looks at, in order: each finding says what was found, and what to do where
it is not well. It changes nothing: who calls it ends the login that it makes.
"""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2

from portero.client import Portero
from portero.configuration import Configuration
from portero.errors import PorteroError, redirected
from portero.exit_status import REFUSED, UNAVAILABLE, status_of
from portero.token_source import TokenSource

#: The Date header is in whole seconds, and an answer takes its time.
SKEW_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
ALIVE = "/healthz"
ISSUER = "The gateway waits for the issuer: look at the issuer's and the reconciler's logs."
ENDED = (
    "No live token of {} at {} is kept, and no secret is at hand: run `portero login`, or set "
    "PORTERO_SECRET or PORTERO_SECRET_FILE."
)


@dataclass(frozen=True)
class Finding:
    """`status` is the command's exit status for it: 0 well, 1 refused, 3 unavailable."""

    what: str
    found: str
    status: int = 0
    advice: str = ""


def examine(configuration: Configuration, source: TokenSource | None) -> Iterator[Finding]:
    """All findings; the first that leaves nothing more to ask is the last. `source`: what to ask
    with, None where there is neither a secret nor a live token.
    """
    answer = _asked(configuration, ALIVE)
    if isinstance(answer, str):
        advice = "Is the gateway running, and is PORTERO_URL its address? For a private "
        advice += "certificate set PORTERO_CA_BUNDLE."
        yield Finding("reachable", answer, UNAVAILABLE, advice)
        return
    answered = time.monotonic()
    yield Finding("reachable", f"{configuration.url} answers {answer.status_code}")
    yield _ready(configuration)
    yield _clock(answer)
    token, finding = _login(configuration, source)
    yield finding
    if source is None or not token:
        return
    yield from _clocks(_date(answer) + time.monotonic() - answered, token)
    with Portero(source, max_wait_seconds=0) as client:
        yield _models(client)


def _login(configuration: Configuration, source: TokenSource | None) -> tuple[str, Finding]:
    """A token, empty where there is none, and what is to be said of it."""
    advice = "Run `portero login`, or check name and secret."
    if source is None:
        found = ENDED.format(configuration.username, configuration.url)
        return "", Finding("login", found, REFUSED, advice)
    try:
        token = source.token()
    except PorteroError as error:
        status = status_of(error)
        is_away = status == UNAVAILABLE
        return "", Finding("login", str(error), status, ISSUER if is_away else advice)
    if configuration.api_key:
        return token, Finding("login", "an API key is at hand")
    kept = "" if configuration.secret else " that is kept, and no secret to log in again"
    return token, Finding("login", f"{configuration.username} has a token{kept}")


def _asked(configuration: Configuration, path: str) -> httpx2.Response | str:
    """The answer, or why there is none."""
    try:
        with httpx2.Client(verify=configuration.ssl_context(), timeout=TIMEOUT_SECONDS) as client:
            answer: httpx2.Response = client.get(configuration.url + path)
    except httpx2.HTTPError as error:
        return f"{configuration.url} did not answer ({type(error).__name__}: {error})"
    if answer.is_redirect:
        return f"{configuration.url} {redirected(answer.headers.get('location', ''))}"
    if path == ALIVE and answer.status_code != 200:
        return f"{configuration.url} answers {answer.status_code}, as no Portero does"
    return answer


def _ready(configuration: Configuration) -> Finding:
    answer = _asked(configuration, "/readyz")
    if isinstance(answer, httpx2.Response) and answer.status_code == 200:
        return Finding("ready", "keys, policy and tokens are there")
    return Finding("ready", "not yet", UNAVAILABLE, ISSUER)


def _clock(answer: httpx2.Response) -> Finding:
    seconds = time.time() - _date(answer)
    if abs(seconds) <= SKEW_SECONDS:
        return Finding("clock", "this machine and the gateway agree")
    where = "ahead of" if seconds > 0 else "behind"
    found = f"this machine is {abs(seconds):.0f} s {where} the gateway"
    return Finding("clock", found, 0, "That harms nothing here; certificates may mind.")


def _clocks(gateways: float, token: str) -> Iterator[Finding]:
    """The issuer's clock, by what it wrote into the token, against the gateway's."""
    issued = _issued_at(token)
    seconds = 0.0 if issued is None else issued - gateways
    if seconds > SKEW_SECONDS:
        advice = "Set both by NTP: a token from the future is refused."
        yield Finding("clocks", f"the issuer is {seconds:.0f} s ahead of the gateway", 1, advice)


def _date(answer: httpx2.Response) -> float:
    """Seconds since 1970 by the gateway; our own where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return time.time()


def _issued_at(token: str) -> float | None:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["iat"])
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _models(client: Portero) -> Finding:
    try:
        names = client.models().names
    except PorteroError as error:
        status = status_of(error)
        advice = "Ask who runs the gateway what your role may use."
        away = "The LLM server is away, or does not answer: ask who runs the gateway."
        return Finding("models", str(error), status, away if status == UNAVAILABLE else advice)
    if not names:
        advice = "No LLM server is up, or none of its models is yours."
        return Finding("models", "none", REFUSED, advice)
    return Finding("models", ", ".join(names))
