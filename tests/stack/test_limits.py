"""How much a user may use: requests and LLM tokens a minute, requests at once, the largest body;
and what is said of it (docs/http-api.md: 429, Retry-After, x-ratelimit-*).
"""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.stack.clients.answers import messages, responses
from tests.support.deployment import CHAT, Caller, Deployment, Local, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Spoken, Upstream
from tests.support.waiting import wait_for

STREAM = {**CHAT, "stream": True}
CHAT_PATH = "/v1/chat/completions"
DURATION = re.compile(r"(\d+m)?\d+(\.\d+)?s|\d+ms|0s")


@pytest.fixture
def with_limits(
    local_upstream: Upstream, tmp_path: Path
) -> Iterator[Callable[..., AbstractContextManager[Local]]]:
    """Makes a deployment in which agents have limits, and a gateway of four workers."""
    local_upstream.forget()

    def make(**limits: Any) -> AbstractContextManager[Local]:
        def change(content: dict[str, Any]) -> None:
            content["roles"]["agent_reasoning"].update(limits)

        roles = write_policy(tmp_path / "policy.yaml", change)
        return deployed(local_upstream.url, POLICY_FILE=str(roles), GATEWAY_WORKERS="4")

    yield make
    local_upstream.forget()


WithLimits = Callable[..., AbstractContextManager[Local]]


def told(answer: requests.Response, kind: str) -> tuple[int, int]:
    """What the answer says of a limit; the time to its reset must be a duration."""
    assert DURATION.fullmatch(answer.headers[f"x-ratelimit-reset-{kind}"])
    limit = int(answer.headers[f"x-ratelimit-limit-{kind}"])
    return limit, int(answer.headers[f"x-ratelimit-remaining-{kind}"])


def assert_limited(answer: requests.Response, kind: str) -> None:
    assert answer.status_code == 429
    error = answer.json()["error"]
    if isinstance(error, dict):  # else Ollama's dialect, which has a text alone
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", kind)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


@pytest.mark.in_containers_too
def test_of_ten_clients_in_four_workers_exactly_as_many_requests_pass_as_allowed(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    with with_limits(requests_per_minute=100) as running, ThreadPoolExecutor(10) as clients:
        caller = Caller(running)
        tokens = [caller.token("AGNRTEST01") for _ in range(2)]
        answers = list(clients.map(lambda i: caller.call(tokens[i % 2]), range(300)))
        assert sorted(answer.status_code for answer in answers) == [200] * 100 + [429] * 200
        assert len(local_upstream.seen) == 100
        left = sorted(told(one, "requests")[1] for one in answers if one.status_code == 200)
        assert left == list(range(100))
        assert_limited(next(one for one in answers if one.status_code == 429), "requests")
        # Another user has an own count, and another role has none.
        assert told(caller.call(caller.token("AGNRTEST02")), "requests") == (100, 99)
        assert caller.call(caller.token("AGIATEST01")).status_code == 200


def test_what_is_left_is_told_with_every_answer_and_never_the_llm_servers_word(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    with with_limits(requests_per_minute=5, tokens_per_minute=100) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        answer = caller.call(token)
        assert told(answer, "requests") == (5, 4)
        assert told(answer, "tokens") == (100, 100)
        listed = caller.call(token, "/v1/models", method="GET")
        assert told(listed, "requests") == (5, 3)
        local_upstream.raw_answer = (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-ratelimit-limit-requests: 77\r\n\r\n{}"
        )
        assert told(caller.call(token), "requests") == (5, 2)


def spend(caller: Caller, token: str, times: int = 40, **request: Any) -> int:
    """How many requests pass before the tokens are used up. They share a connection: on it nothing
    is read before the last request was charged.
    """
    with requests.Session() as session:
        for passed in range(times):
            answer = caller.call(token, session=session, **request)
            if answer.status_code == 429:
                assert_limited(answer, "tokens")
                return passed
            assert answer.status_code == 200
    raise AssertionError("the tokens are never used up")


# The usual answer says that it used 4.
def test_tokens_are_counted_from_the_usage_of_answers(with_limits: WithLimits) -> None:
    with with_limits(tokens_per_minute=10) as running:
        caller = Caller(running)
        assert spend(caller, caller.token("AGNRTEST01")) == 3


def assert_left(caller: Caller, token: str, left: int) -> None:
    """A request is charged when it has ended, which is a moment after its answer has."""
    wait_for(
        lambda: told(caller.call(token, body={"model": "x"}), "tokens")[1] <= left, 5, "charged"
    )


def test_tokens_are_counted_from_ollamas_last_line(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    last = {"model": "tiny", "done": True, "prompt_eval_count": 3, "eval_count": 2}
    local_upstream.answers["/api/chat"] = ['{"message":{"content":"x"}}\n', json.dumps(last) + "\n"]
    with with_limits(tokens_per_minute=10) as running:
        caller = Caller(running)
        assert spend(caller, caller.token("AGNRTEST01"), path="/api/chat", body=STREAM) == 2


#: Both tell it nested in another object: 3 read, and 2 or 1 written.
@pytest.mark.parametrize(
    ("path", "told_by", "used"),
    [("/v1/messages?beta=true", messages, 5), ("/v1/responses", responses, 4)],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_tokens_are_counted_as_anthropic_and_responses_tell_them(
    with_limits: WithLimits,
    local_upstream: Upstream,
    path: str,
    told_by: Callable[[], Spoken],
    used: int,
    is_streamed: bool,
) -> None:
    local_upstream.answers[path.partition("?")[0]] = told_by()
    with with_limits(tokens_per_minute=1000) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        assert caller.call(token, path, body=STREAM if is_streamed else CHAT).status_code == 200
        assert_left(caller, token, 1000 - (used if is_streamed else 4))


USAGE_EVENT = (
    'data: {"id":"c","choices":[],"usage":'
    '{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
)
TEXT_EVENT = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
DONE = "data: [DONE]\n\n"


def test_a_stream_is_asked_for_its_usage_and_the_client_does_not_see_it(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.answers[CHAT_PATH] = [TEXT_EVENT, TEXT_EVENT + USAGE_EVENT, DONE]
    with with_limits(tokens_per_minute=1000) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        answer = caller.call(token, body=STREAM)
        assert answer.text == TEXT_EVENT * 2 + DONE
        asked = json.loads(local_upstream.seen[-1].body)
        assert asked == {**STREAM, "stream_options": {"include_usage": True}}
        assert_left(caller, token, 995)


def test_a_client_that_asks_for_usage_gets_it(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.answers[CHAT_PATH] = [TEXT_EVENT, USAGE_EVENT, DONE]
    with with_limits(tokens_per_minute=1000) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        body = {**STREAM, "stream_options": {"include_usage": True, "x": 1}}
        assert caller.call(token, body=body).text == TEXT_EVENT + USAGE_EVENT + DONE
        assert json.loads(local_upstream.seen[-1].body) == body
        said_no = {**STREAM, "stream_options": {"include_usage": False, "x": 1}}
        assert caller.call(token, body=said_no).text == TEXT_EVENT + DONE
        assert json.loads(local_upstream.seen[-1].body) == body


def test_a_stream_passes_event_by_event_while_it_is_counted(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.events, local_upstream.gap = 5, 0.1
    with with_limits(tokens_per_minute=1000) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        with caller.call(token, body=STREAM, stream=True) as answer:
            arrivals = [line for line in answer.iter_lines() if line]
            assert len(arrivals) == 6
            assert len(local_upstream.sent) == 5
        # This server tells no usage: each event is a token.
        assert_left(caller, token, 995)


def test_who_always_leaves_before_the_end_still_pays(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.events, local_upstream.gap = 500, 0.01
    with with_limits(tokens_per_minute=20) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")

        def leave_early() -> bool:
            with caller.call(token, body=STREAM, stream=True) as answer:
                if answer.status_code == 429:
                    return True
                for _ in zip(answer.iter_lines(), range(10), strict=False):
                    pass
                return False

        wait_for(leave_early, 20, "the tokens are used up")


def test_no_more_requests_run_at_once_than_allowed(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.mood = "hang"
    with with_limits(concurrent_requests=3) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        with ThreadPoolExecutor(3) as clients:
            running_ones = [clients.submit(hang, caller, token) for _ in range(3)]
            wait_for(lambda: len(local_upstream.seen) == 3, 10, "three run")
            for _ in range(5):
                assert_limited(caller.call(token), "requests")
            local_upstream.mood = "answer"
            for one in running_ones:
                one.result()
        wait_for(lambda: caller.call(token).status_code == 200, 5, "the slots are free again")


def hang(caller: Caller, token: str) -> None:
    with pytest.raises(requests.Timeout):
        caller.call(token, timeout=2)


def test_a_thousand_aborted_streams_leave_no_slot_taken(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.events, local_upstream.gap = 10_000, 0.01
    most = 8
    with with_limits(concurrent_requests=most) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")

        def abort(_: int) -> bool:
            with caller.call(token, body=STREAM, stream=True) as answer:
                if answer.status_code == 200:
                    next(answer.iter_lines())
                return answer.status_code == 200

        aborted = 0
        with ThreadPoolExecutor(most) as clients:
            while aborted < 1000:
                aborted += sum(clients.map(abort, range(100)))
        wait_for(lambda: len(local_upstream.departures) == aborted, 10, "all streams ended")
        # As many at once as allowed: no slot is missing.
        local_upstream.forget()
        local_upstream.mood = "hang"
        with ThreadPoolExecutor(most) as clients:
            for _ in range(most):
                clients.submit(hang, caller, token)
            wait_for(lambda: len(local_upstream.seen) == most, 10, "every slot can be had")


@pytest.mark.parametrize("end", ["upstream dies", "upstream refuses", "model refused", "400"])
def test_a_slot_comes_back_however_a_request_ends(
    with_limits: WithLimits, local_upstream: Upstream, end: str
) -> None:
    with with_limits(concurrent_requests=1, models=["tiny"]) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        for _ in range(4):
            body: dict[str, Any] = {"model": "other"} if end == "model refused" else dict(CHAT)
            local_upstream.mood = "die" if end == "upstream dies" else "answer"
            if end == "upstream refuses":
                local_upstream.answers[CHAT_PATH] = 500
            if end == "400":
                body = {}
            # The slot is given back a moment after the answer is there.
            ended = partial(ends_with, caller, token, body, (400, 404, 502))
            wait_for(ended, 5, "the request ends")
        local_upstream.forget()
        wait_for(partial(ends_with, caller, token, dict(CHAT), (200,)), 5, "the slot is free")


def ends_with(caller: Caller, token: str, body: dict[str, Any], statuses: tuple[int, ...]) -> bool:
    status = caller.call(token, body=body).status_code
    assert status in (*statuses, 429)
    return status in statuses


def test_a_killed_workers_slots_come_back_with_their_lease(
    with_limits: WithLimits, local_upstream: Upstream
) -> None:
    local_upstream.mood = "hang"
    with with_limits(concurrent_requests=2) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")
        broken = threading.Event()

        def hang_until_killed() -> None:
            try:
                caller.call(token, timeout=20)
            except requests.ConnectionError:
                broken.set()

        watchers = [threading.Thread(target=hang_until_killed) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        wait_for(lambda: len(local_upstream.seen) == 2, 10, "both run")
        for pid in running.workers("gateway"):
            kill(pid)
        for watcher in watchers:
            watcher.join()
        assert broken.is_set()
        local_upstream.mood = "answer"
        wait_for(lambda: answers_at_all(caller, token), 10, "new workers serve")
        assert_limited(caller.call(token), "requests")
        wait_for(lambda: caller.call(token).status_code == 200, 40, "the lease is over")


def kill(pid: int) -> None:
    """A worker of the test's own gateway."""
    os.kill(pid, signal.SIGKILL)


def answers_at_all(caller: Caller, token: str) -> bool:
    try:
        return caller.call(token).status_code in (200, 429)
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_roles_largest_is_refused_before_it_is_sent_on(
    with_limits: WithLimits, local_upstream: Upstream, chunked: bool
) -> None:
    with with_limits(largest_body_bytes=2000) as running:
        caller = Caller(running)
        token = caller.token("AGNRTEST01")

        def send(size: int) -> int:
            head = b'{"model":"tiny","a":"'
            body = head + b"x" * (size - len(head) - 2) + b'"}'
            return requests.post(
                running.gateway + CHAT_PATH,
                data=iter([body]) if chunked else body,
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                timeout=10,
            ).status_code

        assert [send(1999), send(2000), send(2001)] == [200, 200, 413]
        assert len(local_upstream.seen) == 2


def test_the_openai_client_raises_its_own_error_for_a_limit(with_limits: WithLimits) -> None:
    with with_limits(requests_per_minute=1) as running:
        client = openai.OpenAI(
            base_url=f"{running.gateway}/v1",
            api_key=Caller(running).token("AGNRTEST01"),
            max_retries=0,
        )
        chat = client.chat.completions
        chat.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.RateLimitError) as raised:
            chat.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        client.close()
        assert raised.value.code == "rate_limit_exceeded"


def test_limits_survive_a_reload(with_limits: WithLimits) -> None:
    with with_limits(requests_per_minute=3) as running:
        caller: Caller = Caller(running)
        token = caller.token("AGNRTEST01")
        assert [caller.call(token).status_code for _ in range(2)] == [200, 200]
        before = running.workers("gateway")
        hang_up(running)
        wait_for(lambda: not set(before) & set(running.workers("gateway")), 10, "new workers")
        assert [caller.call(token).status_code for _ in range(2)] == [200, 429]


def hang_up(running: Deployment) -> None:
    assert isinstance(running, Local)
    os.kill(running.pid("gateway"), signal.SIGHUP)
