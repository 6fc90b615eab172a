"""What `portero doctor` looks at, in order: each finding says what was found, and what to do where
it is not well. It changes nothing.
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
from portero.errors import PorteroError

#: The Date header is in whole seconds, and an answer takes its time.
SKEW_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """`status` is the command's exit status for it: 0 well, 1 refused, 3 unavailable."""

    what: str
    found: str
    status: int = 0
    advice: str = ""


def examine(configuration: Configuration, client: Portero) -> Iterator[Finding]:
    """All findings; the first that leaves nothing more to ask is the last."""
    answer = _asked(configuration, "/healthz")
    if isinstance(answer, str):
        advice = "Is the gateway running, and is PORTERO_URL its address? For a private "
        advice += "certificate set PORTERO_CA_BUNDLE."
        yield Finding("reachable", answer, 3, advice)
        return
    answered = time.monotonic()
    yield Finding("reachable", f"{configuration.url} answers {answer.status_code}")
    yield _ready(configuration)
    yield _clock(answer)
    try:
        token = client.source.token()
    except PorteroError as error:
        yield Finding("login", str(error), 1, "Run `portero login`, or check name and secret.")
        return
    yield Finding("login", f"{configuration.username or 'the API key'} has a token")
    yield from _clocks(_date(answer) + time.monotonic() - answered, token)
    yield _models(client)


def _asked(configuration: Configuration, path: str) -> httpx2.Response | str:
    """The answer, or why there is none."""
    try:
        with httpx2.Client(verify=configuration.ssl_context(), timeout=TIMEOUT_SECONDS) as client:
            answer: httpx2.Response = client.get(configuration.url + path)
            return answer
    except httpx2.HTTPError as error:
        return f"{configuration.url} did not answer ({type(error).__name__}: {error})"


def _ready(configuration: Configuration) -> Finding:
    answer = _asked(configuration, "/readyz")
    if isinstance(answer, httpx2.Response) and answer.status_code == 200:
        return Finding("ready", "keys, policy and tokens are there")
    advice = "The gateway waits for the issuer: look at the issuer's and the reconciler's logs."
    return Finding("ready", "not yet", 3, advice)


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
    except ValueError:
        return time.time()


def _issued_at(token: str) -> float | None:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["iat"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None


def _models(client: Portero) -> Finding:
    try:
        names = client.models().names
    except PorteroError as error:
        return Finding("models", str(error), 1, "Ask who runs the gateway what your role may use.")
    if not names:
        advice = "No LLM server is up, or none of its models is yours."
        return Finding("models", "none", 1, advice)
    return Finding("models", ", ".join(names))
