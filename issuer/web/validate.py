"""`/validate` for other proxies: whether a token is valid at this moment, and nothing more.

For every token the answer is the gateway's. It must never say why a token is not valid.
"""

from flask import Blueprint, Response, jsonify, make_response, request

from issuer.authority import Authority
from issuer.errors import TokenRefused
from issuer.tokens import presented_token


def blueprint(authority: Authority) -> Blueprint:
    """The endpoint over one authority."""
    routes = Blueprint("validate", __name__)

    @routes.route("/validate", methods=["GET", "POST"])
    def validate() -> Response:
        try:
            authority.validate(_token())
        except TokenRefused:
            answer = make_response(jsonify(valid=False), 401)
            answer.headers["WWW-Authenticate"] = 'Bearer realm="portero"'
            return answer
        return make_response(jsonify(valid=True))

    return routes


def _json() -> object:
    try:
        return request.get_json(force=True, silent=True)
    except RecursionError:  # nested beyond what a body with a token could be
        return None


def _token() -> str:
    """From the JSON body where there is one, else as any caller presents it."""
    if not request.get_data(cache=True):
        return presented_token.read(request.headers.get).token
    body = _json()
    token = body.get("token") if isinstance(body, dict) else None
    if not isinstance(token, str):
        raise TokenRefused("no token in the body")
    return token
