"""The issuer: logs callers in, mints tokens, and tells the gateways which of them are active.

`create_app` is the only place where the parts meet.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from issuer import admin, answers, config, health, login, metrics, validate
from issuer.active_tokens import ActiveTokens
from issuer.authority import Authority
from issuer.config import Settings
from issuer.credentials import CredentialsFile, Doorkeeper
from issuer.errors import TooManyTokens, Unavailable
from issuer.gateways import Gateways
from issuer.key_file import KeyFile
from issuer.sessions import SessionStore
from issuer.sessions.sqlite import SqliteSessions
from issuer.watched import keep_looking

log = logging.getLogger("portero")

#: A login form is small; anything larger is not one.
MOST_BODY_BYTES = 64 * 1024
#: Logins that may wait for their turn; more would answer too late to be of use.
LOGINS_WAITING = 16

_HTTP_ERRORS = {
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}


@dataclass(frozen=True)
class Parts:
    """What one process of the issuer is made of."""

    settings: Settings
    keys: KeyFile
    credentials: CredentialsFile
    gateways: Gateways
    active: ActiveTokens

    def keep_looking(self) -> None:
        """Take changed files within a second, though nobody asks for what is in them."""
        keep_looking([self.settings.roles, self.credentials], threading.Event())


def assemble(settings: Settings) -> Parts:
    """Build the parts. Raises `Faults` for bad credentials, `StoreUnavailable` for the store."""
    store = SqliteSessions(settings.database_path)
    gateways = Gateways(settings.gateway_urls, settings.sync_key)
    keys = KeyFile(
        settings.key_file,
        settings.algorithm,
        settings.secret_key,
        lambda: _longest_life(settings, store),
    )
    return Parts(
        settings=settings,
        keys=keys,
        credentials=CredentialsFile(
            settings.credentials_file,
            settings.roles.in_force,
            store.salt(),
            settings.last_good_directory,
        ),
        gateways=gateways,
        active=ActiveTokens(store, gateways, settings.most_active_tokens),
    )


def _longest_life(settings: Settings, store: SessionStore) -> int:
    """The longest from now that a token may live: one minted now, or one there is already, which
    may have been minted under roles that let it live longer than those in force.
    """
    left = store.last_expiry() - int(time.time())
    return max(settings.roles.in_force().longest_ttl_seconds(), left)


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """The WSGI application. Raises `Faults` with every fault of the settings."""
    parts = assemble(config.read(environ))
    settings = parts.settings
    parts.keys.prepare(int(time.time()))
    authority = Authority(
        settings.roles, parts.keys, parts.credentials, _doorkeeper(), parts.active
    )
    # A key that was changed by hand signs from now on: the gateways that can be told are told now,
    # all others by the reconciler before they get any token.
    parts.gateways.put_keys(parts.keys.read())
    app = _new_app()
    app.extensions["portero"] = parts
    app.config["MAX_CONTENT_LENGTH"] = MOST_BODY_BYTES
    app.config[answers.ORIGINS] = settings.origins
    app.register_blueprint(login.blueprint(authority, settings.cookie_secure, settings.base_url))
    app.register_blueprint(validate.blueprint(authority))
    app.register_blueprint(admin.blueprint(authority))
    app.register_blueprint(health.blueprint(authority))
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(TooManyTokens, _too_many_tokens)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    app.after_request(_harden)
    return app


def _new_app() -> Flask:
    """An application that answers each path as it is written alone, and by the path's own methods.
    Flask would send others on to it, and put the Host that a client made up into the Location.
    """
    app = Flask(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.before_request(answers.refuse_other_spellings)
    app.static_folder = "static"
    app.add_url_rule("/static/<path:filename>", "static", app.send_static_file)
    return app


def _doorkeeper() -> Doorkeeper:
    """One core is left to everything else (two workers share the machine)."""
    return Doorkeeper(at_once=max(1, ((os.cpu_count() or 1) - 1) // 2), waiting=LOGINS_WAITING)


def _unavailable(error: Unavailable) -> Response:
    log.error("503 %s: %s", error.code, error or type(error).__name__)
    metrics.REFUSALS.labels(error.code).inc()
    return answers.error(error.code, error.message)


def _too_many_tokens(_: TooManyTokens) -> Response:
    metrics.REFUSALS.labels("rate_limit_exceeded").inc()
    return answers.error("rate_limit_exceeded")


def _http_error(error: HTTPException) -> Response:
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return answers.error(_HTTP_ERRORS.get(error.code or 500, "invalid_request"), headers=headers)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return answers.error("internal_error")


def _harden(answer: Response) -> Response:
    for name, value in answers.SECURITY_HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer
