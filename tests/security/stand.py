"""Four verifiers of one deployment, side by side, each asked the same about the same token:

the issuer's code, the gateway's code (`verify.lua`), the gateway over HTTP, and `/validate`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from issuer import config, keys, tokens
from issuer.errors import TokenExpired, TokenRefused
from issuer.keys.key_file import KeyFile
from tests.security.forger import Forger
from tests.security.gateway_verifier import GatewayVerifier, gateway_verifier
from tests.security.wire import Answer, Wire
from tests.support.deployment import Caller, Local, deployed
from tests.support.forge import parts
from tests.support.policies import shipped_policy
from tests.support.ports import listen
from tests.support.upstream import Upstream

ACCEPTED, EXPIRED, REFUSED = "accepted", "expired", "refused"
USER = "AGIATEST01"
ROLES = shipped_policy().roles
PIPELINED = 64
VALIDATING = 4
#: nginx answers a header line above its buffer of 16 KiB by itself (threats J23).
MAX_HEADER_BYTES = 16_000
MAX_BODY_BYTES = 60_000


class Verdicts(NamedTuple):
    """On one token. `over_http` is None for a text that no header can carry."""

    issuer: str
    gateway: str
    over_http: Answer | None
    validate: Answer

    def said(self) -> dict[str, str]:
        """By verifier; `/validate` tells nobody that a token was only too late."""
        found = {"issuer": self.issuer, "gateway": self.gateway}
        late = EXPIRED in (self.issuer, self.gateway)
        found["/validate"] = _of_validate(self.validate, late)
        if self.over_http is not None:
            found["HTTP"] = _of_gateway(self.over_http)
        return found


def _of_gateway(answer: Answer) -> str:
    if answer.status == 200:
        return ACCEPTED
    return EXPIRED if b"token expired" in answer.body else REFUSED


def _of_validate(answer: Answer, late: bool) -> str:
    if answer.status == 200:
        return ACCEPTED
    return EXPIRED if late else REFUSED


def as_text(token: bytes) -> str:
    """What a client in a language of characters would say."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return token.decode("latin-1")


def is_sayable(token: bytes) -> bool:
    """Whether a header's value can be this token: it ends at a line's end, and neither the white
    space behind it (RFC 9110 section 5.5) nor the spaces before it (section 11.4) are any of it.
    """
    return not set(b"\r\n") & set(token) and token == token.rstrip(b" \t").lstrip(b" ")


def issuer_verdict(token: bytes, now: int, keyring: keys.Keyring, active: set[str]) -> str:
    """The issuer's own, by its code."""
    try:
        claims = tokens.verify(as_text(token), now, keyring, ROLES)
    except TokenExpired:
        return EXPIRED
    except TokenRefused:
        return REFUSED
    return ACCEPTED if claims.jti in active else REFUSED


@dataclass
class Stand:
    """A running deployment of one algorithm, with its key in our hands."""

    algorithm: str
    deployment: Local
    upstream: Upstream
    keyring: keys.Keyring
    other: keys.Key
    token: str
    revoked: str
    verifier: GatewayVerifier
    trap: str
    _wires: dict[str, Wire] = field(default_factory=dict)

    def forger(self) -> Forger:
        """Who knows it all, at this second."""
        return Forger(
            key=self.keyring.signing(),
            other=self.other,
            claims=parts(self.token)[1],
            revoked=str(parts(self.revoked)[1]["jti"]),
            now=int(time.time()),
            trap=self.trap,
        )

    def by_issuer(self, sent: Sequence[bytes], now: int) -> list[str]:
        """The verdicts of the issuer's code."""
        active = {str(parts(self.token)[1]["jti"])}
        return [issuer_verdict(token, now, self.keyring, active) for token in sent]

    def by_gateway(self, sent: Sequence[bytes], now: int) -> list[str]:
        """The verdicts of the gateway's code."""
        return self.verifier.verdicts(sent, now)

    def over_http(self, sent: Sequence[bytes]) -> list[Answer | None]:
        """The gateway's answers."""
        answers: list[Answer | None] = [None] * len(sent)
        sayable = [at for at, token in enumerate(sent) if is_sayable(token)]
        wire = self._wire(self.deployment.gateway)
        for start in range(0, len(sayable), PIPELINED):
            places = sayable[start : start + PIPELINED]
            requests = [model_request(sent[at]) for at in places]
            for at, answer in zip(places, wire.pipeline(requests), strict=True):
                answers[at] = answer
        return answers

    def by_validate(self, sent: Sequence[bytes]) -> list[Answer]:
        """The answers of `/validate`."""
        shares = [sent[start::VALIDATING] for start in range(VALIDATING)]
        answers: list[Answer] = [Answer(0, {}, b"")] * len(sent)
        with ThreadPoolExecutor(VALIDATING) as pool:
            for start, answered in enumerate(pool.map(self._validated, shares, range(VALIDATING))):
                answers[start::VALIDATING] = answered
        return answers

    def verdicts(self, sent: Sequence[bytes], now: int) -> list[Verdicts]:
        """All four on each token."""
        columns = (
            self.by_issuer(sent, now),
            self.by_gateway(sent, now),
            self.over_http(sent),
            self.by_validate(sent),
        )
        return [Verdicts(*row) for row in zip(*columns, strict=True)]

    def _validated(self, sent: Sequence[bytes], number: int) -> list[Answer]:
        wire = self._wire(self.deployment.issuer, number)
        return [wire.ask(validate_request(token)) for token in sent]

    def _wire(self, url: str, number: int = 0) -> Wire:
        return self._wires.setdefault(f"{url} {number}", Wire(url))

    def close(self) -> None:
        """End the connections."""
        for wire in self._wires.values():
            wire.close()


def model_request(token: bytes) -> bytes:
    """A request to the gateway that any role may make."""
    return b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % token


def validate_request(token: bytes) -> bytes:
    """The same question to the issuer."""
    body = json.dumps({"token": as_text(token)}).encode()
    return b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@contextmanager
def stand(algorithm: str, upstream: Upstream, trap: str) -> Iterator[Stand]:
    """A deployment with one live and one revoked token."""
    with deployed(upstream.url, JWT_ALGORITHM=algorithm) as running, gateway_verifier() as verifier:
        caller = Caller(running)
        live, revoked = caller.token(USER), caller.token(USER)
        logout = {"Authorization": f"Bearer {revoked}"}
        assert caller.call(path="/logout", headers=logout, body={}).status_code == 204
        assert (caller.validate(live), caller.validate(revoked)) == (200, 401)
        known = KeyFile(running.data / config.KEY_FILE, algorithm, b"", lambda: 3600).read()
        other = keys.new_key(algorithm)
        made = Stand(
            algorithm=algorithm,
            deployment=running,
            upstream=upstream,
            keyring=known.keyring(),
            other=other,
            token=live,
            revoked=revoked,
            verifier=verifier,
            trap=trap,
        )
        assert verifier.put_keys(known)
        verifier.activate(ends(live) | ends(revoked))
        verifier.revoke(ends(revoked))
        try:
            yield made
        finally:
            made.close()


def ends(token: str) -> dict[str, int]:
    """`jti` -> `exp` of a token."""
    claims = parts(token)[1]
    return {str(claims["jti"]): int(claims["exp"])}


class Trap:
    """A listener that nobody may come to."""

    def __init__(self) -> None:
        self._listener = listen()
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def is_untouched(self) -> bool:
        """Whether nobody has come so far."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
