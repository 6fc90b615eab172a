"""The issuer's HTTP face: one application over what `issuer.create_app` has put together.

Flask lives in this package alone. It must never decide who may do what: it reads requests, asks,
and answers.
"""

import logging
from functools import partial

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from issuer import metrics
from issuer.api_keys import ApiKeys
from issuer.authority import Authority
from issuer.config import Settings
from issuer.errors import (
    NotGranted,
    PorteroError,
    TooManyApiKeys,
    TooManyTokens,
    Unacceptable,
    Unavailable,
    UnknownUser,
)
from issuer.web import (
    account,
    admin,
    chat,
    health,
    login,
    oauth,
    pages,
    responses,
    traced,
    usage,
    validate,
)
from issuer.web.console import House

log = logging.getLogger("portero")

#: What is served: a WSGI application.
Application = Flask

#: A login form is small; anything larger is not one.
MAX_BODY_BYTES = 64 * 1024

#: Errors whose text is for the caller, and what they are told as.
_REFUSALS = {
    Unacceptable: "invalid_request",
    NotGranted: "insufficient_permissions",
    UnknownUser: "not_found",
}
_HTTP_ERRORS = {
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}


def application(
    authority: Authority, api_keys: ApiKeys, house: House, settings: Settings
) -> Application:
    """All endpoints over one authority, the API keys, and what the console looks at."""
    app = _new_app()
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config[responses.ORIGINS] = settings.origins
    app.register_blueprint(login.blueprint(authority, settings.cookie_secure))
    app.register_blueprint(oauth.blueprint(authority, settings.base_url))
    app.register_blueprint(validate.blueprint(authority))
    app.register_blueprint(chat.blueprint(authority, settings.base_url))
    of_account = (authority, api_keys, house.used, house.policy, settings.base_url)
    app.register_blueprint(account.blueprint(*of_account))
    app.register_blueprint(admin.blueprint(authority, api_keys, house))
    app.register_blueprint(usage.of_caller(house.used, authority))
    app.register_blueprint(health.blueprint(authority))
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(TooManyTokens, _too_many_tokens)
    app.register_error_handler(TooManyApiKeys, _too_many_api_keys)
    for kind, code in _REFUSALS.items():
        app.register_error_handler(kind, partial(_refused, code))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    app.after_request(_harden)
    if settings.traces_as:
        traced.trace(app)
    return app


def _new_app() -> Flask:
    """An application that answers each path as it is written alone, and by the path's own methods.
    Flask would send others on to it, and put the Host that a client made up into the Location.
    """
    app = Flask(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.before_request(responses.refuse_other_spellings)
    app.jinja_env.filters["utc"] = pages.utc
    app.static_folder = "static"
    app.add_url_rule("/static/<path:filename>", "static", app.send_static_file)
    return app


def _unavailable(error: Unavailable) -> Response:
    log.error("503 %s: %s", error.code, error or type(error).__name__)
    metrics.REFUSALS.labels(error.code).inc()
    return responses.error(error.code, error.message)


def _too_many_tokens(_: TooManyTokens) -> Response:
    metrics.REFUSALS.labels("rate_limit_exceeded").inc()
    return responses.error("rate_limit_exceeded")


def _too_many_api_keys(_: TooManyApiKeys) -> Response:
    """There is no use in trying again: one must be revoked first."""
    metrics.REFUSALS.labels("rate_limit_exceeded").inc()
    text = "There are as many API keys as the role allows; revoke one first."
    answer = responses.error("rate_limit_exceeded", text, {"x-should-retry": "false"})
    del answer.headers["Retry-After"]
    return answer


def _refused(code: str, error: PorteroError) -> Response:
    return responses.error(code, str(error) or None)


def _http_error(error: HTTPException) -> Response:
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return responses.error(_HTTP_ERRORS.get(error.code or 500, "invalid_request"), headers=headers)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return responses.error("internal_error")


def _harden(answer: Response) -> Response:
    for name, value in responses.SECURITY_HEADERS.items():
        answer.headers.setdefault(name, value)
    return answer
