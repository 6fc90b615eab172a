"""Full: nothing live is evicted, newcomers are told, and room is found again (F16)."""

import re
import time

import requests

from issuer.sync.gateways import Changes, Gateway
from tests.promises.conftest import Figure, size
from tests.promises.recorder import Recorder
from tests.support.deployment import Caller, Local, deployed
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

TTL = 4
LONG = 1_500
NEARLY_FULL_BYTES = 2**20


def test_f16_a_login_over_the_capacity_is_503_and_room_is_found_within_a_second(
    upstream: Upstream, figure: Figure
) -> None:
    most = 8
    settings = {"TOKEN_CACHE_SIZE": str(most), "TOKEN_TTL_SECONDS": str(TTL)}
    with deployed(upstream.url, **settings) as deployment:
        caller, recorder = Caller(deployment), Recorder(deployment)
        tokens = [recorder.login() for _ in range(most)]
        assert all(tokens)
        refused = 0
        while not recorder.login():
            answer = caller.login("AGIATEST01")
            if answer.status_code == 503:
                refused += 1
                assert answer.json()["error"]["code"] == "capacity"
                assert answer.headers["Retry-After"] == "1"
        ends = min(one.expires_at for one in recorder.history if one.kind == "login")
        assert refused > 0
        assert time.time() - ends < within(1.5), "the first login after there was room"
        text = requests.get(f"{deployment.issuer}/metrics", timeout=20).text
        assert re.search(r'portero_refusals_total\{code="capacity"\} [1-9]', text)
    figure("F16 logins refused at capacity, first granted after room", f"{refused}, within 1.5 s")


def test_f16_a_full_dictionary_refuses_logins_evicts_nothing_and_recovers(
    upstream: Upstream, figure: Figure
) -> None:
    megabytes = size(2, 192)
    with deployed(upstream.url, ACTIVE_TOKEN_MEMORY=f"{megabytes}m") as deployment:
        caller = Caller(deployment)
        kept = caller.token("AGIATEST01")
        lifetime = size(TTL, 30)
        began = time.monotonic()
        filled = _fill_dictionary(deployment, lifetime)
        seconds = time.monotonic() - began
        answer = caller.login("AGIATEST01")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "capacity"
        assert caller.call(kept).status_code == 200, "nothing live was evicted"
        wait_for(
            lambda: caller.login("AGIATEST01").status_code == 200, lifetime + 5, "there is room"
        )
        assert caller.call(kept).status_code == 200
    figure(
        f"F16 tokens in a dictionary of {megabytes} MB, live ones evicted",
        f"{filled} (filled in {seconds:.0f} s), 0",
    )


def test_f16_where_no_more_can_be_known_of_api_keys_new_ones_are_refused_and_none_is_dropped(
    upstream: Upstream, figure: Figure
) -> None:
    with deployed(upstream.url, API_KEY_MEMORY="1m") as deployment:
        caller, body = Caller(deployment), {"name": "a key", "days": 1}
        token = caller.token("AGIATEST01")
        kept = caller.call(token, "/account/keys", body=body).json()["key"]
        gateway = Gateway(deployment.internal, deployment.sync_key.encode())
        record = {"digest": "0" * 64, "sub": "AGIATEST01", "iat": int(time.time())}
        end, count = int(time.time()) + LONG, 0
        while not gateway.apply(
            Changes(activate=[(f"{count + index:016d}", end, record) for index in range(500)])
        ).full:
            count += 500
        refused = caller.call(token, "/account/keys", body=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "capacity")
        assert caller.call(kept).status_code == 200, "nothing live was evicted"
        assert len(caller.call(token, "/account/keys", method="GET").json()["keys"]) == 1
        assert caller.login("AGIATEST01").status_code == 200, "tokens have a room of their own"
    figure("F16 API keys known in 1 MB, live ones dropped", f"over {count}, 0")


def _fill_dictionary(deployment: Local, seconds: int) -> int:
    """Activate made-up tokens through the sync until the gateway says it is full. Only the last of
    them end within the test, however long filling takes: none of the others makes room meanwhile.
    """
    gateway = Gateway(deployment.internal, deployment.sync_key.encode())
    end, count, nearly_full = int(time.time()) + LONG, 0, False
    while True:
        entries = [(f"{count + index:022d}", end) for index in range(2_000)]
        ack = gateway.apply(Changes(activate=entries))
        if ack.full:
            return count
        assert ack.ok
        count += len(entries)
        if not nearly_full and ack.status["free_bytes"] < NEARLY_FULL_BYTES:
            nearly_full, end = True, int(time.time()) + seconds
