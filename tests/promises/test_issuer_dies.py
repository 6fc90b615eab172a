"""The issuer killed in the middle: what was acknowledged is never lost (F11, F12, threats S10)."""

import random
import signal
import threading

from tests.promises.conftest import Figure, of_each_kind, of_each_store, size
from tests.promises.recorder import KINDS
from tests.support.deployment import Caller, Local, deployed
from tests.support.history import check
from tests.support.stores import sessions_in
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

CLIENTS = 4


@of_each_kind()
def test_f11_the_issuer_killed_at_random_loses_no_acknowledged_token(
    upstream: Upstream, figure: Figure, many_keys: dict[str, str], kind: str
) -> None:
    wanted, kills_wanted = size(60, 2000), size(4, 60)
    dice = random.Random(11)
    with deployed(upstream.url, **many_keys) as deployment:
        recorder = KINDS[kind](deployment)
        tokens: list[str] = []
        stop = threading.Event()

        def log_in() -> None:
            while not stop.is_set():
                token = recorder.login()
                if token:
                    tokens.append(token)
                else:
                    stop.wait(0.02)

        clients = [threading.Thread(target=log_in) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            kills = _kill_at_random(deployment, dice, tokens, wanted, kills_wanted)
        finally:
            stop.set()
            for client in clients:
                client.join()
        for token in tokens:
            recorder.use(token)
    assert check(recorder.history) == []
    figure(
        f"F11 {kind}: acknowledged, kills, acknowledged tokens refused later",
        f"{len(tokens)}, {kills}, 0",
    )


def _kill_at_random(
    deployment: Local, dice: random.Random, tokens: list[str], wanted: int, kills_wanted: int
) -> int:
    """Kill and start again, spread over the logins; answers how often."""
    each = max(1, wanted // kills_wanted)
    for _ in range(kills_wanted):
        _wait_for_logins(tokens, len(tokens) + dice.randint(1, 2 * each - 1))
        threading.Event().wait(dice.random() * 0.2)
        deployment.stop("issuer", signal.SIGKILL)
        sessions_in(deployment.data / "sessions.db").check()
        deployment.start("issuer")
    _wait_for_logins(tokens, wanted)
    return kills_wanted


def _wait_for_logins(tokens: list[str], count: int) -> None:
    wait_for(lambda: len(tokens) >= count, 120, "logins go on")


@of_each_store()
def test_f12_without_an_issuer_a_revocation_is_refused_honestly(
    upstream: Upstream, store: dict[str, str]
) -> None:
    with deployed(upstream.url, **store) as deployment:
        caller = Caller(deployment)
        token = caller.token("AGIATEST01")
        deployment.stop("issuer")
        assert caller.call(token, "/logout").status_code == 503
        assert caller.call(token).status_code == 200
