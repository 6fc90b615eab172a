"""The exceptions and their wire form."""

import re

import pytest

from issuer import errors
from issuer.errors import Faults, PorteroError, TokenExpired, TokenRefused, Unavailable


def subclasses(parent: type[PorteroError]) -> list[type[PorteroError]]:
    return [cls for child in parent.__subclasses__() for cls in (child, *subclasses(child))]


def test_the_tree_in_the_opening_of_the_module_is_the_real_one() -> None:
    drawn = re.findall(r"^    [\s│├└─]*([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    own = [cls.__name__ for cls in subclasses(PorteroError) if cls.__module__ == errors.__name__]
    assert drawn[0] == "PorteroError"
    assert sorted(drawn[1:]) == sorted(own)


def test_an_expired_token_is_a_refused_one() -> None:
    assert issubclass(TokenExpired, TokenRefused)


@pytest.mark.parametrize("kind", [Unavailable, *subclasses(Unavailable)])
def test_all_that_is_not_possible_now_answers_503(kind: type[Unavailable]) -> None:
    assert errors.WIRE_ERRORS[kind.code].status == 503
    assert kind.message


def test_faults_are_told_one_a_line() -> None:
    found = Faults(fault for fault in ("first", "second"))
    assert found.faults == ("first", "second")
    assert str(found) == "first\nsecond"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request", 400),
        ("invalid_api_key", 401),
        ("insufficient_permissions", 403),
        ("not_found", 404),
        ("request_too_large", 413),
        ("rate_limit_exceeded", 429),
        ("internal_error", 500),
        ("not_ready", 503),
    ],
)
def test_a_code_has_the_documented_status(code: str, status: int) -> None:
    assert errors.WIRE_ERRORS[code].status == status


@pytest.mark.parametrize("code", sorted(errors.WIRE_ERRORS))
def test_the_envelope_is_openais(code: str) -> None:
    row = errors.WIRE_ERRORS[code]
    assert errors.envelope(code) == {
        "error": {"message": row.message, "type": row.type, "param": None, "code": code}
    }


def test_the_envelope_takes_another_message() -> None:
    assert errors.envelope("invalid_request", "No path.")["error"]["message"] == "No path."


def test_an_unknown_code_is_a_bug_and_not_an_answer() -> None:
    with pytest.raises(KeyError):
        errors.envelope("no_such_code")
