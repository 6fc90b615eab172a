"""The token of one caller, for any number of threads, tasks, event loops and clients.

A login runs in a thread of its own, so it belongs to nobody who waits for it: threads and tasks of
any loop wait for the same one, and one that is cancelled takes it from no other. What is to be done
at a moment is `token_state`'s to decide.
"""

import asyncio
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from portero.clock import Clock
from portero.configuration import Configuration, origin
from portero.errors import (
    ConfigurationError,
    LoginError,
    LoginUnavailable,
    PorteroError,
    TooManyTokens,
    again,
)
from portero.events import Event, Hook, Kind, logger, tell
from portero.hidden import Hidden
from portero.login import TIMEOUT_SECONDS, Login
from portero.patience import Patience
from portero.token_state import Flight, Grant, Outcome, TokenState

if TYPE_CHECKING:
    import httpx
    import httpx2
    import requests.auth

Source = TypeVar("Source", bound="TokenSource")

LOGIN_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Current:
    """Whose token is held, and for how long. It does not hold the token.

    >>> Current("agent_reasoning", "AGNRXYZ456", 42.0).seconds_left
    42.0
    """

    role: str
    subject: str
    seconds_left: float


class _Shared:
    """What all sources of one caller in this process have in common."""

    def __init__(self, configuration: Configuration, clock: Clock) -> None:
        self.configuration = configuration
        self.clock = clock
        self.state = TokenState()
        self.login = Login(configuration)
        self.lock = threading.Lock()
        self.users = 0
        self.sources: weakref.WeakSet[TokenSource] = weakref.WeakSet()

    def after_fork(self) -> None:
        """A child logs in for itself: neither's logout ends the other's token."""
        self.lock = threading.Lock()
        self.state.forget()

    def tell(self, kind: Kind, seconds: float, error: PorteroError | None = None) -> None:
        told = (error.status, error.code, error.request_id) if error else (None, None, None)
        event = Event(kind, self.configuration.username, seconds, *told)
        with self.lock:
            hooks = [source.on_event for source in self.sources]
        tell([hook for hook in hooks if hook is not None], event)

    def add(self, source: "TokenSource") -> None:
        with self.lock:
            self.sources.add(source)

    def start(self, flight: Flight) -> None:
        thread = threading.Thread(
            target=self._fly, args=(flight,), name="portero-login", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and starts no more threads
            self._fly(flight)

    def _fly(self, flight: Flight) -> None:
        """One login to its end. Whatever happens, those who wait are told."""
        begun = self.clock.now()
        outcome: Outcome = LoginError("The login failed for a reason of its own; see the log.")
        try:
            outcome = self._obtain()
        except Exception as error:
            logger.error("a login failed unexpectedly: %s", type(error).__name__)
        finally:
            now = self.clock.now()
            is_wanted = self.state.land(flight, outcome, now)
        if isinstance(outcome, Grant):
            self.tell("renewal" if flight.is_renewal else "login", now - begun)
            if not is_wanted:
                self.login.revoke(outcome.token)
        else:
            self.tell("refused", now - begun, outcome)

    def _obtain(self) -> Outcome:
        """Log in, with some patience; with none while the token that is held still lives."""
        patience = Patience(LOGIN_WAIT_SECONDS, _can_wait)
        while True:
            begun = self.clock.now()
            outcome = self.login.attempt(begun, TIMEOUT_SECONDS)
            if isinstance(outcome, Grant) or self.state.lives(self.clock.now()):
                return outcome
            patience.spend(self.clock.now() - begun)
            seconds = patience.pause(outcome)
            if seconds is None:
                return outcome
            self.tell("retry", seconds, outcome)
            self.clock.sleep(seconds)


def _can_wait(error: PorteroError) -> bool:
    return isinstance(error, (LoginUnavailable, TooManyTokens))


_registry: "weakref.WeakValueDictionary[tuple[Configuration, Clock], _Shared]"
_registry = weakref.WeakValueDictionary()
_registry_lock = threading.Lock()
_CLOCK = Clock()


def _shared(configuration: Configuration, clock: Clock) -> _Shared:
    """One a caller and process, for as long as somebody uses it."""
    with _registry_lock:
        found = _registry.get((configuration, clock))
        if found is None:
            found = _registry[(configuration, clock)] = _Shared(configuration, clock)
        return found


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for shared in list(_registry.values()):
        shared.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class TokenSource:
    """Logs in, holds the token, renews it before it ends.

    Sources of the same URL, username and secret in one process share one token. Give `url`,
    `username` and `secret`, or set `PORTERO_URL`, `PORTERO_USERNAME` and `PORTERO_SECRET` (or
    `PORTERO_SECRET_FILE`); or `api_key` in place of the last two. `login` is the login endpoint,
    for roles that are not Portero's own. `on_revoked`: "raise" `TokenRefused` for a revoked token,
    or "login" again. `on_event` is called with each `Event`.

    Raises `ConfigurationError` when made; every way to the token may raise `LoginError`.

    >>> with TokenSource() as source:
    ...     token = source.token()
    """

    def __init__(
        self,
        url: str | None = None,
        username: str | None = None,
        secret: str | None = None,
        *,
        api_key: str | None = None,
        login: str | None = None,
        ca_bundle: str | None = None,
        on_revoked: Literal["raise", "login"] = "raise",
        on_event: Hook | None = None,
        clock: Clock | None = None,
    ) -> None:
        if on_revoked not in ("raise", "login"):
            raise ConfigurationError('on_revoked= is "raise" or "login"')
        self.configuration = Configuration.read(
            url, username, secret, api_key=api_key, login=login, ca_bundle=ca_bundle
        )
        self.on_event = on_event
        self._logs_in_again = on_revoked == "login"
        self._origin = self.configuration.origin
        self.clock = clock or _CLOCK
        self._shared = _shared(self.configuration, self.clock)
        self._shared.add(self)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"TokenSource({self.url!r}, {self.configuration.username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a TokenSource holds a secret and cannot be pickled; make one in each process"
        )

    def __copy__(self: Source) -> Source:
        return self

    def __deepcopy__(self: Source, memo: object) -> Source:
        return self

    @property
    def url(self) -> str:
        """The gateway's address, without `/v1`."""
        return self.configuration.url

    # The token.

    def token(self) -> str:
        """A live token (str). Waits while it must log in, some seconds at most.

        >>> bool(TokenSource().token())
        True
        """
        asked = self._ask()
        if isinstance(asked, Hidden):
            return asked
        return _opened(asked.outcome.result())

    async def atoken(self) -> str:
        """The same for a task of any asyncio loop.

        >>> bool(asyncio.run(TokenSource().atoken()))
        True
        """
        asked = self._ask()
        if isinstance(asked, Hidden):
            return asked
        return _opened(await asyncio.wrap_future(asked.outcome))

    __call__ = token
    acall = atoken

    def _ask(self) -> Hidden | Flight:
        if self._is_closed:
            raise RuntimeError("this TokenSource is closed")
        if self.configuration.api_key:
            return self.configuration.api_key
        shared = self._shared
        decision = shared.state.ask(self.clock.now(), self._logs_in_again)
        if decision.starts and decision.flight is not None:
            shared.start(decision.flight)
        if decision.grant is not None:
            return decision.grant.token
        assert decision.flight is not None
        return decision.flight

    @property
    def current(self) -> Current | None:
        """Whose token is held now (`Current`), None where there is none. Never logs in.

        >>> TokenSource().current is None
        True
        """
        grant = self._shared.state.grant
        seconds = grant.ends_at - self.clock.now() if grant else 0.0
        return Current(grant.role, grant.subject, seconds) if grant and seconds > 0 else None

    def invalidate(self, token: str) -> None:
        """Say that this token is of no use; the next call logs in, if it is the one held.

        >>> TokenSource().invalidate("a-token-of-yesterday")
        """
        self._shared.state.invalidate(token)

    # For the adapters.

    @property
    def held(self) -> str:
        """The token that is held now, dead or alive; empty where there is none."""
        grant = self._shared.state.grant
        return self.configuration.api_key or (grant.token if grant else Hidden())

    def is_for(self, url: str) -> bool:
        """Whether a URL is the gateway's: nobody else ever gets the token.

        >>> TokenSource().is_for("https://elsewhere.example/v1/models")
        False
        """
        try:
            return origin(url) == self._origin
        except ValueError:  # no URL at all
            return False

    @property
    def is_renewing(self) -> bool:
        """Whether a login is under way."""
        return self._shared.state.is_renewing

    def why_refused(self) -> str:
        """What is known of why the last token was refused; empty where the gateway said enough.

        >>> TokenSource().why_refused()
        ''
        """
        return self._shared.state.why_refused()

    def refused(self, sent: str, expired: bool) -> bool:
        """Note that the gateway refused a token; whether another is worth a try. `expired`: it said
        that the token is authentic, and over.

        >>> source = TokenSource()
        >>> source.refused(source.token(), expired=True)
        True
        """
        if self.configuration.api_key:
            return False
        is_worth = self._shared.state.refuse(sent, expired, self._logs_in_again, self.clock.now())
        self._shared.tell("refused", 0.0)
        return is_worth

    # Adapters.

    @property
    def auth(self) -> "httpx2.Auth":
        """For `httpx2` clients, sync and async: `httpx2.Client(auth=source.auth)`. A redirect to
        another origin is not followed, and raises `ConfigurationError`.
        """
        from portero import adapters

        return adapters.Httpx2Auth(self)

    @property
    def httpx_auth(self) -> "httpx.Auth":
        """For `httpx` clients, sync and async: `httpx.Client(auth=source.httpx_auth)`. Redirects
        as with `auth`.
        """
        from portero import adapters

        return adapters.httpx_auth(self)

    @property
    def requests_auth(self) -> "requests.auth.AuthBase":
        """For `requests`: `requests.get(url, auth=source.requests_auth)`. An answer that redirects
        to another origin raises `ConfigurationError`, with `allow_redirects=False` too.
        """
        from portero import adapters

        return adapters.requests_auth(self)

    # The end.

    def logout(self) -> bool:
        """Revoke the token, everywhere; whether that was done. The next call logs in again.

        >>> TokenSource().logout()
        True
        """
        grant = self._shared.state.give_up()
        if grant is None:
            return True
        begun = self.clock.now()
        is_done = self._shared.login.revoke(grant.token)
        self._shared.tell("logout", self.clock.now() - begun)
        return is_done

    def close(self) -> None:
        """Log out, unless others in this process are within a `with` of the same caller.

        >>> TokenSource().close()
        """
        self._is_closed = True
        if self._shared.users == 0:
            self.logout()

    def __enter__(self: Source) -> Source:
        self._is_closed = False
        with self._shared.lock:
            self._shared.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self.close()

    async def __aenter__(self: Source) -> Source:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        await asyncio.to_thread(self.close)

    def leave(self) -> None:
        """Be no longer within a `with`, without logging out.

        >>> source = TokenSource().__enter__()
        >>> source.leave()
        """
        with self._shared.lock:
            self._shared.users -= 1


def _opened(outcome: Outcome) -> Hidden:
    if isinstance(outcome, Grant):
        return outcome.token
    raise again(outcome)
