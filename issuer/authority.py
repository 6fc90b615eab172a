"""What the issuer does, without HTTP: log in, log out, validate.

Every blueprint is a thin layer over this. It must never answer differently for an unknown user
and a wrong password, nor hand out a token that is not active yet.
"""

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from issuer import audit, tokens, traces
from issuer.audit import Actor, Event
from issuer.errors import NotGranted, TokenRefused, TooManyTokens, Unavailable, WrongCertificate
from issuer.keys.key_file import KeyFile
from issuer.policy import ISSUER
from issuer.policy.roles import Role, Roles
from issuer.store import Selection, Session
from issuer.store.refusals import Refusals
from issuer.sync.active_tokens import ActiveTokens, Clock, Revocation
from issuer.tokens import Claims, api_keys
from issuer.users.credentials import Doorkeeper
from issuer.users.credentials_in_force import CredentialsInForce


class Refusal(enum.Enum):
    """Why a login was refused."""

    WRONG_CREDENTIALS = "wrong_credentials"
    WRONG_ENDPOINT = "wrong_endpoint"
    WRONG_CERTIFICATE = "wrong_certificate"


@dataclass(frozen=True)
class Known:
    """Who has shown the right secret, and from where. `credential` fingerprints it."""

    username: str
    role: Role
    credential: str
    address: str

    @property
    def actor(self) -> Actor:
        """Who this is to the audit."""
        return Actor(audit.USER, self.username, self.address)


@dataclass(frozen=True)
class Login:
    """A token just made active, and what it says."""

    token: str
    claims: Claims

    @property
    def ttl_seconds(self) -> int:
        """How long the token lives from its issue."""
        return self.claims.expires_at - self.claims.issued_at


class Authority:
    """The issuer's decisions. `issuer` is what tokens have for `iss`."""

    def __init__(
        self,
        roles: Callable[[], Roles],
        keys: KeyFile,
        credentials: CredentialsInForce,
        doorkeeper: Doorkeeper,
        active: ActiveTokens,
        refusals: Refusals,
        clock: Clock = time.time,
        issuer: str = ISSUER,
    ) -> None:
        self.roles = roles
        self.issuer = issuer
        self.active = active
        self.keys = keys
        self._credentials = credentials
        self._doorkeeper = doorkeeper
        self.refusals = refusals
        self._clock = clock

    def login(
        self, username: str, secret: str, endpoint: str, address: str, certificate: str = ""
    ) -> Login | Refusal:
        """Mint a token for a right secret at the role's login endpoint. Raises `Unavailable`."""
        try:
            known = self.authenticate(username, secret, address, certificate)
        except WrongCertificate:
            return Refusal.WRONG_CERTIFICATE
        if known is None:
            self.refused(username, address)
            return Refusal.WRONG_CREDENTIALS
        if known.role.login != endpoint:
            self.refused(username, address, Refusal.WRONG_ENDPOINT.value)
            return Refusal.WRONG_ENDPOINT
        return self.issue(known)

    def refused(
        self, username: str, address: str, outcome: str = Refusal.WRONG_CREDENTIALS.value
    ) -> None:
        """Note a login that was refused. What is nobody's name may be a secret that was typed in
        the wrong field, and is not noted.
        """
        is_user = self._credentials.in_force().fingerprint(username) is not None
        name = username if is_user else ""
        actor = Actor(audit.USER, name, address)
        self.refusals.note(Event(actor, audit.LOGIN, name, outcome, user=name))

    def authenticate(
        self, username: str, secret: str, address: str, certificate: str = ""
    ) -> Known | None:
        """Who this is, if the secret is right: the one question that every way to log in asks.

        `address` is the client's, for the queue before bcrypt; `certificate` the name in the one
        that it has shown, or empty. Raises `TooManyLogins`, or `WrongCertificate` whatever the
        secret is: who has stolen one learns nothing of it without the certificate.
        """
        roles = self.roles()
        credentials, role = self._credentials.in_force(roles), roles.of(username)
        with traces.step("check the secret"), self._noting(username, address):
            if not roles.is_met_by(username, certificate):
                raise WrongCertificate
            is_right = self._doorkeeper.check(credentials, username, secret, address)
        if not is_right or role is None:
            return None
        return Known(username, role, credentials.fingerprint(username) or "", address)

    def issue(self, known: Known, scope: tuple[str, ...] | None = None) -> Login:
        """A fresh token, active when this returns; `scope` narrows it to some classes of the role.
        Raises `Unavailable`, or `TooManyTokens`.
        """
        claims = tokens.new_claims(known.username, known.role, self.now(), scope)
        token = tokens.mint(claims, self.keys.keyring().signing(), self.issuer)
        session = _session(claims, known.credential)
        with traces.step("make active"), self._noting(known.username, known.address):
            self.active.activate(session, known.role.active_tokens, known.actor)
        return Login(token, claims)

    @contextmanager
    def _noting(self, username: str, address: str) -> Iterator[None]:
        """A login that is not granted for another reason than its secret."""
        try:
            yield
        except (TooManyTokens, Unavailable, WrongCertificate) as refusal:
            self.refused(username, address, audit.outcome_of(refusal))
            raise

    def validate(self, token: str, roles: Roles | None = None) -> Claims:
        """The claims of a valid token or API key: authentic, in its time, and active. Else
        `TokenRefused`.

        Whoever asks the roles about the claims passes them in: one request sees one version.
        """
        in_force = roles or self.roles()
        if api_keys.is_one(token):
            return self._of_api_key(token, in_force)
        claims = tokens.verify(token, self.now(), self.keys.keyring(), in_force, self.issuer)
        if not self.active.is_active(claims.jti):
            raise TokenRefused("not active")
        return claims

    def _of_api_key(self, key: str, roles: Roles) -> Claims:
        session = self.active.store.find(api_keys.id_of(key))
        if session is None or session.api_key is None:
            raise TokenRefused("no such API key")
        if not api_keys.is_of(key, session.api_key.digest):
            raise TokenRefused("digest")
        claims = api_keys.claims(session, roles, self.now())
        if not session.is_active(self.now()):
            raise TokenRefused("not active")
        return claims

    def logout(self, token: str, address: str) -> Revocation:
        """Revoke a valid token everywhere. Raises `TokenRefused` for any other, and `NotGranted`
        for an API key, which ends otherwise.
        """
        claims = self.validate(token)
        if claims.is_api_key:
            raise NotGranted("An API key does not log out; it is revoked at /account/keys.")
        by = actor_of(claims, address)
        return self.active.revoke(Selection(jti=claims.jti), by, audit.LOGOUT)

    def now(self) -> int:
        """The issuer's clock, in whole Unix seconds."""
        return int(self._clock())


def actor_of(claims: Claims, address: str) -> Actor:
    """Whoever showed a token or an API key, to the audit."""
    if claims.is_api_key:
        return Actor(audit.API_KEY, claims.jti, address, owner=claims.subject)
    return Actor(audit.USER, claims.subject, address)


def _session(claims: Claims, credential: str) -> Session:
    return Session(
        jti=claims.jti,
        subject=claims.subject,
        role=claims.role,
        issued_at=claims.issued_at,
        expires_at=claims.expires_at,
        credential=credential,
    )
