"""Random mutations: no token is accepted that says what is not allowed, no two verdicts differ.

`make test` does 50,000 with one seed, `make fuzz` a million with a new one; PORTERO_FUZZ and
PORTERO_FUZZ_SEED say otherwise.
"""

import os
import re
import time
from collections import Counter
from random import Random

import pytest

from issuer.keys import Keyring
from tests.security.conftest import SEED, Figure, size
from tests.security.forger import ALGORITHMS, Forger, decode
from tests.security.fuzzer import Case, Fuzzer, seeded_key
from tests.security.gateway_verifier import gateway_verifier, key_list
from tests.security.stand import ACCEPTED, Stand, issuer_verdict
from tests.support.upstream import Upstream

NOW = 1_800_000_000
JTI, REVOKED = "AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"
AT_ONCE = 10_000
ON_THE_WIRE = 504
#: The clock runs on while a token is on its way: no case may depend on this many seconds.
UNDERWAY_SECONDS = 60

pytestmark = [
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
    pytest.mark.timeout(7200 if os.environ.get("PORTERO_FUZZ") else 300),
]


def forger_of(algorithm: str, random: Random) -> Forger:
    claims = {
        "iss": "portero",
        "aud": "portero-gateway",
        "sub": "AGIATEST01",
        "role": "agi",
        "iat": NOW - 600,
        "exp": NOW + 1200,
        "jti": JTI,
    }
    key, other = seeded_key(algorithm, random), seeded_key("HS256", random)
    return Forger(key=key, other=other, claims=claims, revoked=REVOKED, now=NOW)


def strangers_of(forger: Forger, random: Random) -> list[bytes]:
    """Tokens of keys and algorithms that are not in force."""
    others = [seeded_key(algorithm, random) for algorithm in ALGORITHMS if algorithm != "RS256"]
    return [forger.token(header=forger.header_of(key), key=key) for key in others]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_mutated_tokens_are_refused_and_no_two_verdicts_differ(
    algorithm: str, figure: Figure
) -> None:
    random = Random(f"{SEED} {algorithm}")
    forger = forger_of(algorithm, random)
    fuzzer = Fuzzer(forger, random, strangers_of(forger, random))
    count = -(-size(50_000) // len(ALGORITHMS))
    keyring = Keyring([forger.key])
    seen, wrong = Counter[str](), list[tuple[Case, str, str]]()
    began = time.monotonic()
    with gateway_verifier() as gateway:
        assert gateway.put_keys(key_list(forger.key))
        gateway.activate({JTI: NOW + 1200, REVOKED: NOW + 1200})
        gateway.revoke({REVOKED: NOW + 1200})
        for start in range(0, count, AT_ONCE):
            cases = fuzzer.cases(min(AT_ONCE, count - start))
            asked = gateway.verdicts_later([case.token for case in cases], NOW)
            by_issuer = [issuer_verdict(case.token, NOW, keyring, {JTI}) for case in cases]
            for case, issuer, said in zip(cases, by_issuer, asked.result(), strict=True):
                seen[f"{case.kind}, {issuer}"] += 1
                if issuer != said or (issuer == ACCEPTED) != case.is_allowed:
                    wrong.append((case, issuer, said))
    seconds = time.monotonic() - began
    by_kind = ", ".join(f"{kind} {number}" for kind, number in sorted(seen.items()))
    differing = sum(issuer != said for _, issuer, said in wrong)
    accepted = sum(issuer == said == ACCEPTED for _, issuer, said in wrong)
    figure(
        f"{algorithm}: {seen.total()} mutated tokens in {seconds:.1f} s: {accepted} accepted that "
        f"are not allowed, {differing} verdicts that differ ({by_kind})"
    )
    assert wrong == [], f"seed {SEED}"
    # The positive controls among them: what was signed again and says what is allowed.
    assert seen[f"signed again, {ACCEPTED}"] > count // 200


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_mutated_tokens_have_one_verdict_over_http_and_from_validate_too(
    algorithm: str, verifiers: Stand, upstream: Upstream
) -> None:
    forger = verifiers.forger()
    fuzzer = Fuzzer(forger, Random(f"{SEED} {algorithm}"))
    cases = [
        case
        for case in fuzzer.cases(2 * ON_THE_WIRE // len(ALGORITHMS))
        if not _depends_on_the_second(case, forger.now)
    ][: ON_THE_WIRE // len(ALGORITHMS)]
    verdicts = verifiers.verdicts([case.token for case in cases], forger.now)
    for case, verdict in zip(cases, verdicts, strict=True):
        said = set(verdict.said().values())
        assert len(said) == 1, (verdict.said(), case, SEED)
        assert said == {ACCEPTED} or not case.is_allowed, (verdict.said(), case, SEED)
        assert said != {ACCEPTED} or case.is_allowed, (verdict.said(), case, SEED)
        answers = [verdict.validate, *([verdict.over_http] if verdict.over_http else [])]
        assert all(answer.status in (200, 400, 401) for answer in answers), (case, SEED)
    statuses = [verdict.over_http.status for verdict in verdicts if verdict.over_http]
    assert len(upstream.seen) == statuses.count(200)
    assert len(cases) == ON_THE_WIRE // len(ALGORITHMS)


def _depends_on_the_second(case: Case, now: int) -> bool:
    """Whether another verdict would be right a little later."""
    if case.kind != "signed again":
        return False
    times = re.findall(rb"[0-9]{10}", decode(case.token.split(b".")[1]))
    return any(now - 1 <= int(one) <= now + UNDERWAY_SECONDS for one in times)
