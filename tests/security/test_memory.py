"""Bad tokens cost the gateway nothing that stays: no memory, no entry, no worker."""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice, pairwise
from pathlib import Path
from random import Random

import pytest
import requests

from tests.security import mutations
from tests.security.conftest import SEED, Figure, Stands, size
from tests.security.forger import Forger
from tests.security.fuzzer import Fuzzer
from tests.security.stand import is_sayable, model_request
from tests.security.wire import Wire
from tests.support.deployment import Local
from tests.support.upstream import Upstream

ALGORITHM = "ES256"
#: What the workers grow to before they are measured (buffers, traces, Lua's heap, which takes eight
#: times what lives in it): it is the more the longer they run, and flat from half a million on.
WARM_UP = 60_000
WARM_UP_SHARE = 0.15
PIPELINED = 100
CONNECTIONS = 2
AT_ONCE = 20_000
#: Rounds of bad tokens, and what the least growth of them may be.
ROUNDS = 4
GROWTH = 1.05
#: Tokens from the near future: a long run is still under way when they are good.
SOON_GOOD = "J20"

pytestmark = pytest.mark.timeout(3600 if os.environ.get("PORTERO_FUZZ") else 300)


def bad_tokens(forger: Forger) -> Iterator[bytes]:
    """Without end: the catalogue again and again, and two mutations never seen before a piece."""
    catalogue = [
        token
        for family in mutations.BAD
        if forger.key.algorithm in family.algorithms and family.number != SOON_GOOD
        for _, token in family.make(forger)
        if is_sayable(token)
    ]
    fuzzer = Fuzzer(forger, Random(SEED))
    for known in cycle(catalogue):
        yield known
        for case in fuzzer.cases(2):
            if case.kind == "unsigned" and not case.is_allowed and is_sayable(case.token):
                yield case.token


def statuses(gateway: str, tokens: Sequence[bytes]) -> Counter[int]:
    """What a connection is answered for each."""
    seen = Counter[int]()
    wire = Wire(gateway)
    with closing(wire):
        for start in range(0, len(tokens), PIPELINED):
            sent = [model_request(token) for token in tokens[start : start + PIPELINED]]
            seen.update(answer.status for answer in wire.pipeline(sent))
    return seen


def ask(gateway: str, tokens: Iterator[bytes], count: int) -> Counter[int]:
    """So many bad tokens, over some connections at a time."""
    seen = Counter[int]()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        while count > seen.total():
            part = list(islice(tokens, min(AT_ONCE, count - seen.total())))
            shares = [part[start::CONNECTIONS] for start in range(CONNECTIONS)]
            for found in pool.map(statuses, [gateway] * CONNECTIONS, shares):
                seen += found
    return seen


def resident(deployment: Local) -> int:
    """KiB of memory that the gateway's workers hold."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in deployment.workers("gateway"))
    found = (re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE) for text in texts)
    return sum(int(one[1]) for one in found if one)


def gauge(deployment: Local, name: str) -> float:
    text = requests.get(f"{deployment.internal}/metrics", timeout=10).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in the metrics"
    return float(found[1])


def test_d4_bad_tokens_leave_the_workers_and_their_memory_as_they_were(
    stands: Stands, upstream: Upstream, figure: Figure
) -> None:
    stand = stands.of(ALGORITHM)
    deployment, tokens = stand.deployment, bad_tokens(stand.forger())
    workers = deployment.workers("gateway")
    count = size(20_000)
    seen = ask(deployment.gateway, tokens, max(WARM_UP, int(count * WARM_UP_SHARE)))
    free = gauge(deployment, "portero_active_tokens_free_bytes")
    memory = [resident(deployment)]
    began = time.monotonic()
    for _ in range(ROUNDS):
        seen += ask(deployment.gateway, tokens, count)
        memory.append(resident(deployment))
    seconds = time.monotonic() - began
    figure(
        f"{ROUNDS} times {count} bad tokens over HTTP in {seconds:.1f} s: {dict(seen)} (with the "
        f"warm-up), workers' memory in KiB before and after each: {memory}"
    )
    assert seen.keys() <= {400, 401}
    assert seen[401] > 0.9 * seen.total()
    assert deployment.workers("gateway") == workers
    assert gauge(deployment, "portero_active_tokens_free_bytes") == free
    # When the collector comes is a matter of chance; what leaks grows in every round.
    assert min(after / before for before, after in pairwise(memory)) < GROWTH
    assert upstream.seen == []
