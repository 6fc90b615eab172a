"""Logins while others flood the issuer: who waits for bcrypt, who is sent away, who does not wait.

The issuer's own listener is asked, as the gateway asks it: a client's address is what it says. (The
gateway itself has those wait who guess; tests/security/test_passwords.py.)
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from tests.support.deployment import USERS, Caller, Local
from tests.support.waiting import wait_for

FLOOD, HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "2001:db8::7"
#: More than may wait.
FLOODING = 24


def log_in(deployment: Local, user: str, secret: str, address: str) -> requests.Response:
    return requests.post(
        f"{deployment.issuer}/llm/login",
        auth=(user, secret),
        headers={"X-Real-Ip": address},
        timeout=20,
    )


@contextmanager
def flood(deployment: Local) -> Iterator[list[requests.Response]]:
    """As many wrong secrets as one address can send; the answers so far."""
    answers: list[requests.Response] = []
    stop = threading.Event()

    def send(number: int) -> None:
        while not stop.is_set():
            answers.append(log_in(deployment, f"AGNRNOBODY{number}", "wrong", FLOOD))
            stop.wait(0.02)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(FLOODING)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: 503 in {one.status_code for one in answers}, 20, "the queue is full")
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def secrets_checked(deployment: Local) -> dict[str, int]:
    text = requests.get(f"{deployment.issuer}/metrics", timeout=20).text
    found = re.findall(r'portero_secrets_checked_total\{way="(\w+)"\} (\d+)', text)
    return {way: int(count) for way, count in found}


def test_p6_an_address_that_floods_keeps_nobody_else_out(local_deployment: Local) -> None:
    remembered, other = USERS["AGNRTEST01"][0], USERS["AGNRTEST02"][0]
    fast = USERS["AGNFTEST01"][0]
    assert log_in(local_deployment, "AGNRTEST01", remembered, HERE).status_code == 200
    with flood(local_deployment) as answers:
        assert log_in(local_deployment, "AGNRTEST02", other, HERE).status_code == 200
        assert log_in(local_deployment, "AGNFTEST01", fast, ELSEWHERE).status_code == 200
        hashed = secrets_checked(local_deployment)["bcrypt"]
        for address in (FLOOD, HERE, ELSEWHERE):
            answer = log_in(local_deployment, "AGNRTEST01", remembered, address)
            assert answer.status_code == 200, "what was right once waits for nobody"
        assert requests.get(f"{local_deployment.issuer}/healthz", timeout=20).status_code == 200
        assert hashed > 3
    statuses = {one.status_code for one in answers}
    assert statuses == {401, 503}
    sent_away = next(one for one in answers if one.status_code == 503)
    assert sent_away.headers["Retry-After"] == "1"
    assert sent_away.json()["error"]["code"] == "not_ready"
    assert "nobody" not in sent_away.text.lower()


# N22: the key helper of some tools is called again and again.
def test_n22_an_agent_that_logs_in_all_the_time_is_served_and_hashed_once(
    local_deployment: Local,
) -> None:
    caller = Caller(local_deployment)
    statuses = [caller.login("AGNRTEST01").status_code for _ in range(60)]
    assert set(statuses) == {200}
    assert secrets_checked(local_deployment) == {"remembered": 59, "bcrypt": 1}
