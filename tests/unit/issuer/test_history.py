"""The checker finds every planted violation, and nothing in a good history."""

import pytest

from tests.support.history import NO_ANSWER, Operation, check, read


def login(jti: str = "a", ended: float = 10.0, expires_at: float = 100.0) -> Operation:
    return Operation("login", jti, ended - 1, ended, 200, expires_at=expires_at)


def request(
    began: float, status: int = 200, jti: str = "a", name: str = "", retry_after: bool = False
) -> Operation:
    return Operation(
        "request", jti, began, began + 0.1, status, request_id=name, retry_after=retry_after
    )


def revoke(began: float, ended: float, status: int = 204, pending: bool = False) -> Operation:
    return Operation("revoke", "a", began, ended, status, pending=pending)


GOOD = {
    "used while active": [login(), request(11.0), request(98.0)],
    "refused after its end": [login(), request(101.5, 401)],
    "either in its last second": [login(), request(99.5), request(99.5, 401)],
    "refused after revocation": [login(), revoke(20.0, 20.5), request(20.6, 401)],
    "either while being revoked": [login(), revoke(20.0, 20.5), request(20.2), request(20.3, 401)],
    "either while the login answers": [login(), request(9.5), request(9.6, 401)],
    "a transient with Retry-After": [login(), request(11.0, 503, retry_after=True)],
    "no answer from a part that is down": [login(), request(11.0, NO_ANSWER)],
    "a revocation that was refused": [login(), revoke(20.0, 20.5, 503), request(21.0)],
    "a token nobody got": [request(11.0, 401, jti="b")],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history_has_no_violation(name: str) -> None:
    assert check(GOOD[name]) == []


BAD = {
    "R1 refused while active": [login(), request(11.0, 401)],
    "R1 refused as unready without Retry-After": [login(), request(11.0, 503)],
    "R1 broken while active": [login(), request(11.0, 500)],
    "R1 refused before its last second": [login(), request(98.5, 401)],
    "R2 served after revocation": [login(), revoke(20.0, 20.5), request(20.6)],
    "R2 served long after a refused request": [
        login(),
        revoke(20.0, 20.5),
        request(21.0, 401),
        request(22.0),
    ],
    "R2 served after its end": [login(), request(101.1)],
    "R3 served and never handed out": [request(11.0, jti="b")],
}


@pytest.mark.parametrize("name", BAD)
def test_a_planted_violation_is_found_and_named(name: str) -> None:
    (violation,) = check(BAD[name])
    assert violation.startswith(name[:2])


def test_a_pending_revocation_is_given_its_bound_and_no_more() -> None:
    history = [login(), revoke(20.0, 20.5, 202, pending=True), request(21.0), request(24.0)]
    assert check(history, pending_bound_seconds=5.0) == []
    assert len(check(history, pending_bound_seconds=2.0)) == 1


def test_what_arrived_is_held_against_what_was_served() -> None:
    history = [login(), request(11.0, name="x"), request(12.0, name="y")]
    assert check(history, {"x": "a", "y": "a"}) == []
    assert check(history, {"x": "a"}) == ["R4 request y was served and did not arrive"]
    assert check(history, {"x": "b", "y": "a"}) == ["R4 request x arrived as another token's"]
    assert check(history, {"x": "a", "y": "a", "z": "c"}) == [
        "R4 request z arrived and was not served"
    ]


def test_a_request_without_an_answer_may_have_arrived() -> None:
    history = [login(), request(11.0, NO_ANSWER)]
    assert check(history, {"x": "a"}) == []


def test_a_history_survives_being_written_down() -> None:
    history = [login(), revoke(20.0, 20.5), request(21.0, 401, name="x")]
    assert read(one.line() for one in history) == history
