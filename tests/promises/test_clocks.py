"""Clocks that are wrong or are set, and processes that stand still (F18).

What is served is held against the clock that judged it: the `Date` of the answer itself.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest
import requests

from issuer import tokens
from tests.promises.conftest import Figure, size
from tests.promises.recorder import Recorder
from tests.promises.stores import ROLE, USER, insert, mint
from tests.support.deployment import CHAT, Caller, Local, deployed, deployed_with_clocks
from tests.support.forge import parts
from tests.support.history import Operation, check
from tests.support.policies import shipped_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for, within

#: By seconds within the window of the sync and beyond it, by an hour; forth, and back at once.
SKEWS = (2, -2, 0, 29, -29, 0, 31, -31, 0, 3600, 0, -3600, 3600, 0)
LOOK_SECONDS = size(1, 100) / 5
#: A round of the reconciler, and a snapshot.
HEALED_SECONDS = 2.0 + 1.0
#: What `revoke` answers while a gateway has not acknowledged.
PENDING = 2


def born(deployment: Local, count: int, issued: int, ends: int) -> list[str]:
    """Active tokens, issued and ending so many seconds from now."""
    role = shipped_policy().roles.named(ROLE)
    assert role is not None
    now = int(time.time())
    claims = [
        replace(tokens.new_claims(USER, role, now + issued), expires_at=now + ends)
        for _ in range(count)
    ]
    insert(deployment, claims)
    return [mint(deployment, one) for one in claims]


@dataclass
class Judge:
    """Uses tokens, and holds each answer against the clock of the gateway that gave it."""

    deployment: Local
    #: token -> when it was certainly dead, by the machine's monotonic clock.
    dead: dict[str, float] = field(default_factory=dict)
    may_be_dead: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    not_ready: int = 0

    def use(self, token: str) -> int:
        """One request; its status."""
        began = time.monotonic()
        answer = Caller(self.deployment).call(token)
        self.asked += 1
        date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        fault = self._fault(token, began, answer, date)
        if fault:
            self.wrong.append(f"{fault}: {answer.status_code} at {date}: {parts(token)[1]}")
        return answer.status_code

    def _fault(self, token: str, began: float, answer: requests.Response, date: float) -> str:
        claims = parts(token)[1]
        is_early, is_late = claims["iat"] > date, claims["exp"] <= date
        if answer.status_code == 200:
            if began > self.dead.get(token, float("inf")):
                return "a revoked token is served"
            return "it is served outside its time" if is_early or date > claims["exp"] else ""
        if answer.status_code == 503:
            self.not_ready += 1
            return "" if "Retry-After" in answer.headers else "503 without Retry-After"
        # The clock may have ticked between the judgement and the answer.
        expected = is_early or is_late or claims["iat"] > date - 1
        return "" if expected or token in self.may_be_dead else "an active token is refused"

    def revoke(self, token: str) -> None:
        """By the command, which goes by the issuer's clock; dead at once where all acknowledged."""
        self.may_be_dead.add(token)
        done = self.deployment.command("revoke", f"--jti={parts(token)[1]['jti']}", check=False)
        assert done.returncode in (0, PENDING), done.stderr
        if done.returncode == 0:
            self.dead[token] = time.monotonic()

    def is_healed(self, kept: Sequence[str]) -> bool:
        """Whether all is as if no clock had ever been wrong; from then on every revocation binds,
        acknowledged or not.
        """
        served = [self.use(token) for token in kept]
        refused = [self.use(token) for token in self.may_be_dead]
        granted = Caller(self.deployment).login(USER).status_code
        if {*served, granted} != {200} or {*refused} - {401}:
            return False
        for token in self.may_be_dead:
            self.dead.setdefault(token, time.monotonic())
        return True


def set_clocks(deployment: Local, names: Sequence[str], seconds: float) -> None:
    """Set clocks, and see in what each machine says of its time that they are set."""
    urls = {"gateway": deployment.gateway, "issuer": deployment.issuer}
    for name in names:
        deployment.clocks[name].set(seconds)
        wait_for(partial(_is_ahead, urls[name], seconds), 2, f"{name} is {seconds} s off")


def _is_ahead(url: str, seconds: float) -> bool:
    date = requests.get(f"{url}/healthz", timeout=20).headers["Date"]
    ahead = parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
    return abs(ahead - seconds) < 1


def rounds(seconds: float) -> Iterator[None]:
    """Again and again for so long, with a little rest between."""
    rest, until = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        rest.wait(0.05)


def _seconds_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    wait_for(condition, seconds, what)
    return time.monotonic() - began


@pytest.mark.parametrize("wrong", [("gateway",), ("issuer",), ("gateway", "issuer")])
def test_f18_a_wrong_clock_revives_no_token_and_loses_none(
    upstream: Upstream, figure: Figure, wrong: Sequence[str]
) -> None:
    with deployed_with_clocks(upstream.url) as deployment:
        judge, caller, slowest = Judge(deployment), Caller(deployment), 0.0
        fresh = [caller.token(USER)]
        kept, doomed = born(deployment, 3, -900, 900), born(deployment, len(SKEWS), -900, 900)
        ending = [born(deployment, 1, -900, 3 * number)[0] for number in range(1, 9)]
        wait_for(lambda: caller.call(ending[-1]).status_code == 200, 5, "the tokens are there")
        for skew, victim in zip(SKEWS, doomed, strict=True):
            set_clocks(deployment, wrong, skew)
            if skew == 0:
                healed = partial(judge.is_healed, kept)
                slowest = max(slowest, _seconds_until(healed, HEALED_SECONDS, "all is right"))
            judge.revoke(victim)
            answer = caller.login(USER)
            fresh += [answer.json()["token"]] if answer.status_code == 200 else []
            for _ in rounds(LOOK_SECONDS):
                for token in (*kept, *ending, *fresh, *judge.may_be_dead):
                    judge.use(token)
        assert judge.is_healed(kept)
    assert judge.wrong == []
    assert judge.dead.keys() == set(doomed)
    figure(
        f"F18 clock of {' and '.join(wrong)} off by 2 s to 1 h, set {len(SKEWS)} times: requests, "
        "wrongly judged",
        f"{judge.asked} ({judge.not_ready} of them 503), 0; all healed within {slowest:.1f} s",
    )


@pytest.mark.parametrize("skew", [-4, 2])
def test_f18_a_gateway_behind_its_issuer_refuses_a_fresh_token_until_it_has_caught_up(
    upstream: Upstream, figure: Figure, skew: int
) -> None:
    with deployed_with_clocks(upstream.url) as deployment:
        set_clocks(deployment, ["gateway"], skew)
        token, caller = Caller(deployment).token(USER), Caller(deployment)
        began = time.monotonic()
        first = caller.call(token).status_code
        wait_for(lambda: caller.call(token).status_code == 200, max(0, -skew) + 0.5, "it caught up")
        seconds = time.monotonic() - began
    figure(
        f"F18 gateway {skew:+} s against its issuer: a fresh token is served", f"{seconds:.1f} s"
    )
    assert first == (401 if skew < 0 else 200)


def test_f18_the_staleness_is_bounded_wherever_the_clock_is_set(
    upstream: Upstream, figure: Figure
) -> None:
    bound = 2
    settings = {"SYNC_MAX_STALENESS_SECONDS": str(bound)}
    with deployed_with_clocks(upstream.url, **settings) as deployment:
        caller = Caller(deployment)
        caller.token(USER)
        (token,) = born(deployment, 1, -1790, 10)
        wait_for(lambda: caller.call(token).status_code == 200, 5, "it is there")
        deployment.stop("reconciler")
        set_clocks(deployment, ["gateway"], -1000)
        late = _seconds_until(
            lambda: caller.call(token).status_code == 503, bound + 0.5, "it is stale"
        )
        set_clocks(deployment, ["gateway"], 0)
        assert caller.call(token).status_code == 503
        deployment.start("reconciler")
        wait_for(lambda: caller.call(token).status_code == 200, HEALED_SECONDS, "it was heard")
    figure(f"F18 staleness {bound} s, clock set back by 1,000 s: 503 after", f"{late:.1f} s")


@contextmanager
def streaming(deployment: Local, token: str) -> Iterator[list[float]]:
    """A stream of a token: when each event came, by the monotonic clock; the end is awaited."""
    came: list[float] = []
    answer = Caller(deployment).call(token, body={**CHAT, "stream": True}, stream=True, timeout=30)
    assert answer.status_code == 200

    def read() -> None:
        with suppress(requests.RequestException):
            came.extend(time.monotonic() for line in answer.iter_lines(1) if b"content" in line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield came
    finally:
        reader.join(30)
        assert not reader.is_alive()


def test_f18_a_stream_is_cut_within_a_second_though_the_clock_was_set(
    upstream: Upstream, figure: Figure
) -> None:
    upstream.events, upstream.gap = 600, 0.02
    with deployed_with_clocks(upstream.url) as deployment:
        Caller(deployment).token(USER)
        (token,) = born(deployment, 1, -900, 900)
        wait_for(lambda: Caller(deployment).call(token).status_code == 200, 5, "it is there")
        with streaming(deployment, token) as came:
            for skew in (3600, -3600, 0):
                set_clocks(deployment, ["gateway"], skew)
                more = len(came) + 60
                wait_for(lambda: len(came) > more, 5, "the stream goes on")  # noqa: B023
            judge = Judge(deployment)
            wait_for(partial(judge.is_healed, [token]), HEALED_SECONDS, "all is right")
            judge.revoke(token)
            revoked = judge.dead[token]
    late = max(came) - revoked
    figure("F18 last event of a stream after its revocation, clock set thrice", f"{late:.2f} s")
    assert late < within(1.0)
    assert len(came) < upstream.events


def test_a_stream_that_outlives_its_token_is_cut_when_its_user_is_revoked(
    upstream: Upstream,
) -> None:
    upstream.events, upstream.gap = 600, 0.02
    with deployed(upstream.url) as deployment:
        Caller(deployment).token(USER)
        (token,) = born(deployment, 1, -900, 4)
        wait_for(lambda: Caller(deployment).call(token).status_code == 200, 3, "it is there")
        with streaming(deployment, token) as came:
            wait_for(lambda: Caller(deployment).call(token).status_code == 401, 5, "it has ended")
            more = len(came) + 60
            wait_for(lambda: len(came) > more, 5, "the stream goes on")
            assert deployment.command("revoke", "--user", USER).returncode == 0
            revoked = time.monotonic()
    assert max(came) - revoked < 1.0
    assert len(came) < upstream.events


def stand_still(pids: Sequence[int]) -> None:
    """Stop processes, and see that they have stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        state = Path(f"/proc/{pid}/stat")
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 5, "it stopped")  # noqa: B023


def go_on(pids: Sequence[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def processes_of(deployment: Local, *names: str) -> list[int]:
    return [pid for name in names for pid in (deployment.pid(name), *deployment.workers(name))]


@pytest.mark.parametrize("staleness", [0, 2])
def test_f18_a_gateway_that_stood_still_serves_nothing_that_died_meanwhile(
    upstream: Upstream, figure: Figure, staleness: int
) -> None:
    seconds = size(4, 600)
    settings = {"SYNC_MAX_STALENESS_SECONDS": str(staleness)}
    with deployed(upstream.url, **settings) as deployment:
        recorder = Recorder(deployment)
        kept, doomed = recorder.login(), recorder.login()
        (ending,) = born(deployment, 1, -900, 4)
        wait_for(lambda: Caller(deployment).call(ending).status_code == 200, 3, "it is there")
        delivered = time.time()
        stopped = processes_of(deployment, "gateway")
        stand_still(stopped)
        began = time.monotonic()
        assert recorder.revoke(doomed) == 202
        wait_for(lambda: time.monotonic() > began + seconds, seconds + 5, "its time is over")
        go_on(stopped)
        gone_on = time.monotonic()
        assert recorder.use(ending) == 401
        first = recorder.use(doomed)
        wait_for(lambda: recorder.use(doomed) == 401, HEALED_SECONDS, "the revocation arrived")
        late = time.monotonic() - gone_on
        wait_for(lambda: recorder.use(kept) == 200, HEALED_SECONDS, "it was heard")
        assert first == 401 or staleness == 0 or first == 503
    claims = parts(ending)[1]
    recorder.history.append(
        Operation(
            "login", claims["jti"], delivered, delivered, 200, expires_at=float(claims["exp"])
        )
    )
    assert check(recorder.history, pending_bound_seconds=seconds + within(HEALED_SECONDS)) == []
    figure(
        f"F18 gateway stopped for {seconds} s, staleness {staleness}: revoked meanwhile, refused",
        f"{late:.2f} s after it went on; expired meanwhile: at once",
    )


def test_f18_an_issuer_that_stood_still_has_lost_and_revived_nothing(
    upstream: Upstream, figure: Figure
) -> None:
    seconds = size(4, 600)
    with deployed(upstream.url) as deployment:
        recorder = Recorder(deployment)
        kept, doomed, dead = (recorder.login() for _ in range(3))
        assert recorder.revoke(dead) == 204
        stopped = processes_of(deployment, "issuer", "reconciler")
        stand_still(stopped)
        for _ in rounds(seconds):
            assert [recorder.use(token) for token in (kept, doomed, dead)] == [200, 200, 401]
        began = time.monotonic()
        assert Caller(deployment).login(USER).status_code == 503
        refused = time.monotonic() - began
        go_on(stopped)
        healed = _seconds_until(lambda: bool(recorder.login()), 15, "logins are granted")
        assert recorder.revoke(doomed) == 204
        assert [recorder.use(token) for token in (kept, doomed, dead)] == [200, 401, 401]
    assert check(recorder.history) == []
    figure(
        f"F18 issuer stopped for {seconds} s: a login meanwhile is 503, one after it granted",
        f"after {refused:.1f} s, {healed:.2f} s",
    )
