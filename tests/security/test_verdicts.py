"""Four verifiers, one verdict: every family of the catalogue, under every algorithm.

J-numbers are those of the threats document, section 1. J32, the time that a comparison takes, is no
matter for this machine's `make test`.
"""

import json
from collections.abc import Sequence
from contextlib import closing

import pytest

from tests.security import mutations
from tests.security.forger import ALGORITHMS, ALPHABET
from tests.security.mutations import Family
from tests.security.stand import (
    ACCEPTED,
    EXPIRED,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    REFUSED,
    Stand,
    Trap,
    model_request,
)
from tests.security.wire import Answer, Wire
from tests.support.upstream import Upstream

#: docs/configuration.md asks for 32 bytes of any HMAC key.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")

CHALLENGE = 'Bearer realm="portero"'
INVALID = {
    "message": "Invalid or missing token.",
    "type": "invalid_request_error",
    "param": None,
    "code": "invalid_api_key",
}


def cases(families: Sequence[Family], to_the_second: bool = False) -> pytest.MarkDecorator:
    """Each family under each of its algorithms."""
    listed = [
        pytest.param(algorithm, family, id=f"{family.name}-{algorithm}")
        for algorithm in ALGORITHMS
        for family in families
        if algorithm in family.algorithms and family.to_the_second == to_the_second
    ]
    return pytest.mark.parametrize(("algorithm", "family"), listed)


def each_algorithm() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("algorithm", ALGORITHMS)


def is_documented_refusal(answer: Answer, late: bool = False) -> bool:
    """401 in the one form that says nothing of the reason (docs/http-api.md)."""
    message = {"message": "token expired"} if late else {}
    return (
        answer.status == 401
        and answer.headers.get("www-authenticate") == CHALLENGE
        and answer.headers.get("content-type") == "application/json"
        and answer.headers.get("x-should-retry") == ("true" if late else None)
        and json.loads(answer.body) == {"error": INVALID | message}
    )


def is_good_refusal(token: bytes, answer: Answer) -> bool:
    """What nginx cannot read as a header it refuses itself; all else is the gateway's 401."""
    if b"\0" in token or len(token) > MAX_HEADER_BYTES:
        return answer.status == 400
    return is_documented_refusal(answer)


def is_validates_refusal(token: bytes, answer: Answer) -> bool:
    if len(token) > MAX_BODY_BYTES and answer.status == 413:
        return True
    return answer.status == 401 and json.loads(answer.body) == {"valid": False}


@cases(mutations.BAD)
def test_a_forged_token_is_refused_by_all_four_verifiers_alike(
    verifiers: Stand, family: Family, upstream: Upstream, trap: Trap
) -> None:
    forger = verifiers.forger()
    named = list(family.make(forger))
    assert named
    verdicts = verifiers.verdicts([token for _, token in named], forger.now)
    for (name, token), verdict in zip(named, verdicts, strict=True):
        assert set(verdict.said().values()) == {REFUSED}, (name, verdict.said(), token)
        assert verdict.over_http is None or is_good_refusal(token, verdict.over_http), (
            name,
            verdict.over_http,
        )
        assert is_validates_refusal(token, verdict.validate), (name, verdict.validate)
    assert upstream.seen == []
    assert trap.is_untouched()


@cases(mutations.GOOD)
def test_a_token_within_the_rules_is_accepted_by_all_four_verifiers(
    verifiers: Stand, family: Family, upstream: Upstream
) -> None:
    forger = verifiers.forger()
    named = list(family.make(forger))
    assert named
    verdicts = verifiers.verdicts([token for _, token in named], forger.now)
    said = {name: verdict.said() for (name, _), verdict in zip(named, verdicts, strict=True)}
    everyone = dict.fromkeys(("issuer", "gateway", "/validate", "HTTP"), ACCEPTED)
    assert said == {name: everyone for name, _ in named}
    assert len(upstream.seen) == len(named)


@cases(mutations.EXPIRED)
def test_an_authentic_token_past_its_end_is_told_so_and_refused(
    verifiers: Stand, family: Family, upstream: Upstream
) -> None:
    forger = verifiers.forger()
    named = list(family.make(forger))
    verdicts = verifiers.verdicts([token for _, token in named], forger.now)
    for (name, _), verdict in zip(named, verdicts, strict=True):
        assert set(verdict.said().values()) == {EXPIRED}, (name, verdict.said())
        assert verdict.over_http is not None
        assert is_documented_refusal(verdict.over_http, late=True)
        assert verdict.validate.status == 401
    assert upstream.seen == []


@pytest.mark.parametrize("wanted", [ACCEPTED, REFUSED])
@each_algorithm()
def test_j18_j19_j20_both_verifiers_draw_the_line_at_the_same_second(
    verifiers: Stand, wanted: str
) -> None:
    """The clock runs on over HTTP: these are for the two verifiers that can be told the time."""
    forger = verifiers.forger()
    listed = mutations.GOOD if wanted == ACCEPTED else mutations.BAD
    families = [family for family in listed if family.to_the_second]
    assert families
    sent = [token for family in families for _, token in family.make(forger)]
    assert verifiers.by_issuer(sent, forger.now) == [wanted] * len(sent)
    assert verifiers.by_gateway(sent, forger.now) == [wanted] * len(sent)


@each_algorithm()
def test_j24_both_verifiers_refuse_a_good_token_of_which_any_one_bit_is_another(
    verifiers: Stand,
) -> None:
    forger = verifiers.forger()
    token = forger.token()
    flipped = [
        token[:at] + bytes([byte ^ (1 << bit)]) + token[at + 1 :]
        for at, byte in enumerate(token)
        for bit in range(8)
    ]
    assert set(verifiers.by_gateway([token, token], forger.now)) == {ACCEPTED}
    assert set(verifiers.by_gateway(flipped, forger.now)) == {REFUSED}
    assert set(verifiers.by_issuer(flipped, forger.now)) == {REFUSED}


@each_algorithm()
def test_j31_a_token_that_is_known_to_be_good_helps_no_other_with_its_jti(
    verifiers: Stand, upstream: Upstream
) -> None:
    forger = verifiers.forger()
    token = forger.token()
    places = (0, 5, len(token) // 3, len(token) // 2, len(token) - 20, len(token) - 2)
    for at in places:
        other = ALPHABET[(ALPHABET.find(token[at]) + 1) % 64]
        flipped = token[:at] + bytes([other]) + token[at + 1 :]
        verdicts = verifiers.verdicts([token, token, flipped, token], forger.now)
        said = [set(verdict.said().values()) for verdict in verdicts]
        assert said == [{ACCEPTED}, {ACCEPTED}, {REFUSED}, {ACCEPTED}], at
    # Side by side on one connection, so that one worker sees them in this order.
    wire = Wire(verifiers.deployment.gateway)
    with closing(wire):
        answers = wire.pipeline([model_request(one) for one in (token, token, flipped, token)])
    assert [answer.status for answer in answers] == [200, 200, 401, 200]
    assert len(upstream.seen) == 3 * len(places) + 3


@each_algorithm()
def test_every_cause_of_a_401_has_one_and_the_same_answer(
    verifiers: Stand, upstream: Upstream
) -> None:
    """Byte for byte but for the request's own id and the date: nobody can tell causes apart."""
    forger = verifiers.forger()
    first = [
        next(iter(family.make(forger)))[1]
        for family in mutations.BAD
        if forger.key.algorithm in family.algorithms and not family.to_the_second
    ]
    answers = [answer for answer in verifiers.over_http(first) if answer and answer.status == 401]
    assert len(answers) > 20
    own = ("x-request-id", "date")
    seen = {
        (
            answer.body,
            tuple((name, text) for name, text in answer.headers.items() if name not in own),
        )
        for answer in answers
    }
    assert len(seen) == 1
    assert upstream.seen == []


def test_every_number_of_the_threats_document_but_the_timing_has_its_family() -> None:
    families = (*mutations.BAD, *mutations.GOOD)
    # J31 is a matter of the order in which tokens come: it has a test of its own, above.
    wanted = {f"J{number}" for number in range(1, 32)} - {"J31"}
    assert {family.number for family in families} == wanted
