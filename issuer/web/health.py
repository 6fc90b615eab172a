"""Liveness, readiness, metrics and public keys. They tell no detail to whoever may ask."""

from flask import Blueprint, Response, jsonify, make_response

from issuer import metrics
from issuer.authority import Authority
from issuer.keys import public_jwk


def blueprint(authority: Authority) -> Blueprint:
    """The endpoints over one authority."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return make_response(jsonify(status="ok"))

    @routes.get("/readyz")
    def readyz() -> Response:
        authority.active.store.position()
        return make_response(jsonify(status="ready"))

    @routes.get("/.well-known/jwks.json")
    def jwks() -> Response:
        """The public keys in force (RFC 7517 §5); a shared secret is none."""
        public = [key for key in authority.keys.keyring() if key.is_public]
        return make_response(jsonify(keys=[public_jwk(key) for key in public]))

    @routes.get("/metrics")
    def exposition() -> Response:
        active = authority.active.store.count_active(authority.now())
        return Response(metrics.exposition(active), mimetype="text/plain; version=0.0.4")

    return routes
