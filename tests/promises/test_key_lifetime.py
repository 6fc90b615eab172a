"""An API key lives to the second that it was promised, whatever is started again meanwhile."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import requests

from tests.promises.conftest import Figure
from tests.support.deployment import PARTS, Caller, deployed_with_clocks, wait_ready
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

DAYS = 90
DAY_SECONDS = 86_400
#: What the clocks leave of the key's life while everything is started again.
LEFT_SECONDS = 40


def asked_issuer(caller: Caller, key: str) -> requests.Response:
    url = f"{caller.deployment.issuer}/validate"
    return requests.post(url, json={"token": key}, timeout=10)


def test_a_key_of_ninety_days_lives_across_restarts_and_not_a_second_longer(
    upstream: Upstream, figure: Figure
) -> None:
    with deployed_with_clocks(upstream.url) as running:
        caller = Caller(running)
        body = {"name": "a key", "days": DAYS}
        made = caller.call(caller.token("AGIATEST01"), "/account/keys", body=body).json()
        key, end = made["key"], made["expires_at"]
        assert end - made["created_at"] == DAYS * DAY_SECONDS
        ahead = 0.0

        def set_clocks(left: float) -> None:
            nonlocal ahead
            ahead = end - left - time.time()
            for clock in running.clocks.values():
                clock.set(ahead)

        def verdicts() -> tuple[int, int]:
            return caller.call(key).status_code, caller.validate(key)

        for left in (DAYS * DAY_SECONDS / 2, LEFT_SECONDS):
            set_clocks(left)
            wait_for(lambda: verdicts() == (200, 200), 20, "the key lives on")
        for part in reversed(PARTS):
            running.stop(part)
        for part in PARTS:
            running.start(part)
        wait_ready(running)
        assert verdicts() == (200, 200)
        # From here on both sides are asked at every moment until well behind the end.
        set_clocks(2)
        sides: dict[str, Callable[[], requests.Response]] = {
            "gateway": lambda: caller.call(key),
            "issuer": lambda: asked_issuer(caller, key),
        }
        late, told = 0, dict.fromkeys(sides, 0.0)
        served = dict.fromkeys(sides, 0.0)
        while min(told.values()) <= end:
            for side, ask in sides.items():
                # What a side's clock said before it was asked: an answer's own time is later than
                # its verdict.
                before, answer = told[side], ask()
                told[side] = parsedate_to_datetime(answer.headers["Date"]).timestamp()
                assert answer.status_code in (200, 401)
                if answer.status_code == 200:
                    late += before >= end
                    served[side] = told[side]
        assert late == 0
        assert end - min(served.values()) <= 2, "it lived to its last second"
        assert verdicts() == (401, 401)
        for part in ("gateway", "reconciler"):
            running.stop(part)
        for part in ("gateway", "reconciler"):
            running.start(part)
        wait_ready(running)
        assert verdicts() == (401, 401)
    figure("an API key of 90 days, everything started again: served after its end", "0 times")
