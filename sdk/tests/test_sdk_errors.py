"""What an answer in each dialect becomes."""

import copy
import json
import pickle

import pytest

from portero import errors
from portero.errors import APIError, PorteroError, StreamCut, TransportError, error_of

MESSAGE = "No such model."
BODIES = {
    "openai": {"error": {"message": MESSAGE, "type": "t", "param": "model", "code": "other"}},
    "ollama": {"error": MESSAGE},
    "anthropic": {"type": "error", "error": {"type": "t", "message": MESSAGE}, "request_id": "r"},
    "oauth": {"error": "invalid_client", "error_description": MESSAGE},
}


@pytest.mark.parametrize("code", errors.BY_CODE)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_header_decides_in_every_dialect(body: object, code: str) -> None:
    headers = {"x-portero-code": code, "x-request-id": "9c78", "retry-after": "3"}
    error = error_of(418, headers, json.dumps(body))
    assert type(error) is errors.BY_CODE[code]
    assert (error.message, error.code, error.status) == (MESSAGE, code, 418)
    assert (error.request_id, error.retry_after) == ("9c78", 3.0)


def test_without_the_header_the_body_decides_and_then_the_status() -> None:
    body = {"error": {"message": MESSAGE, "code": "model_not_found", "param": "model", "type": "t"}}
    error = error_of(404, {}, json.dumps(body))
    assert type(error) is errors.ModelNotFound
    assert (error.param, error.type) == ("model", "t")
    assert error_of(503, {}, json.dumps(BODIES["anthropic"])).request_id == "r"
    for status, kind in errors.BY_STATUS.items():
        assert type(error_of(status, {}, "")) is kind
    assert type(error_of(500, {}, "")) is APIError


def test_an_authentic_token_that_is_over_is_told_from_a_refused_one() -> None:
    headers = {"x-portero-code": "invalid_api_key"}
    assert type(error_of(401, headers, "")) is errors.TokenRefused
    assert type(error_of(401, {**headers, "x-should-retry": "true"}, "")) is errors.TokenExpired


@pytest.mark.parametrize("body", ["", "<html>", "[1]", "{}", '{"error": 5}', "[" * 10_000])
def test_a_body_of_no_dialect_is_no_obstacle(body: str) -> None:
    assert "502" in str(error_of(502, {}, body))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "10", "retry-after": "2"}, 0.01),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "Wed, 25 Nov 2026 20:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_seconds_to_wait_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert errors.retry_after(headers) == seconds


def test_an_error_says_status_code_and_request() -> None:
    assert str(PorteroError("No.")) == "No."
    error = PorteroError("No.", status=404, code="not_found", request_id="9c78")
    assert str(error) == "No. [404 not_found, request 9c78]"


@pytest.mark.parametrize(
    "error",
    [
        StreamCut("Cut.", partial="Par", code="connection_lost"),
        TransportError("Away.", may_have_started=False),
        errors.RateLimited("Slow.", status=429, retry_after=1.0),
    ],
)
def test_errors_are_copied_and_pickled_whole(error: PorteroError) -> None:
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(same) is type(error)
        assert vars(same) == vars(error)


def test_all_errors_stand_in_one_tree() -> None:
    for name in dir(errors):
        found = getattr(errors, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, PorteroError), name


@pytest.mark.parametrize(
    "location", ["http://[::1", "/login?next=canary", "?canary", "http:///canary"]
)
def test_a_redirect_to_nowhere_that_can_be_named_is_told_without_it(location: str) -> None:
    error = error_of(302, {"location": location}, b"")
    assert "another path" in error.message
    assert "canary" not in str(error)
