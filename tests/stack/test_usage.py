"""What callers used is in the store as the LLM server told it, each request once, in all dialects
and whatever becomes of it (docs/operations.md, "Usage").
"""

import csv
import io
import json
import signal
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from issuer.store.sessions import open_sessions
from issuer.store.usage import COUNTS, Question, Usage
from tests.stack.clients.answers import DONE, LAST_CHUNK, messages, responses, sse
from tests.support.deployment import CHAT, Caller, Local, deployed, wait_ready
from tests.support.upstream import CHAT_ANSWER, Spoken, Upstream, recording
from tests.support.waiting import wait_for

AGENT, FAST, ADMIN = "AGNRTEST01", "AGNFTEST01", "ADMNTEST01"
CHAT_PATH, OLLAMA = "/v1/chat/completions", "/api/chat"
STREAM = {**CHAT, "stream": True}
#: Asked for by the gateway alone: no client sees it.
USAGE_CHUNK = {
    **LAST_CHUNK,
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
}
OLLAMA_END = {"model": "tiny", "done": True, "prompt_eval_count": 11, "eval_count": 4}
#: path, body, what is answered there, prompt and completion tokens.
TOLD: Mapping[str, tuple[str, Any, Any, int, int]] = {
    "a chat": (CHAT_PATH, CHAT, CHAT_ANSWER, 3, 1),
    "a streamed chat": (
        CHAT_PATH,
        STREAM,
        Spoken(None, [sse(LAST_CHUNK, named=False), sse(USAGE_CHUNK, named=False), DONE]),
        7,
        5,
    ),
    "Ollama's": (OLLAMA, {**CHAT, "stream": False}, OLLAMA_END, 11, 4),
    "Ollama's stream": (
        OLLAMA,
        STREAM,
        Spoken(None, ['{"model":"tiny","done":false}\n', json.dumps(OLLAMA_END) + "\n"]),
        11,
        4,
    ),
    "Anthropic's": ("/v1/messages", {**CHAT, "max_tokens": 9}, messages(), 3, 1),
    "responses": ("/v1/responses", {"model": "tiny", "input": "hi"}, responses(), 3, 1),
    "embeddings": (
        "/v1/embeddings",
        {"model": "tiny", "input": "hi"},
        {"data": [], "usage": {"prompt_tokens": 6, "total_tokens": 6}},
        6,
        0,
    ),
    "an error": (CHAT_PATH, CHAT, 500, 0, 0),
    "an unknown model": (CHAT_PATH, CHAT, 404, 0, 0),
}


@pytest.fixture(scope="module")
def upstream_of_all() -> Iterator[Upstream]:
    with recording() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(upstream_of_all: Upstream) -> Iterator[Local]:
    with deployed(upstream_of_all.url) as deployment:
        yield deployment


@pytest.fixture
def upstream(upstream_of_all: Upstream) -> Iterator[Upstream]:
    upstream_of_all.forget()
    yield upstream_of_all
    upstream_of_all.forget()


def rows(deployment: Local, *words: str) -> list[dict[str, Any]]:
    told = deployment.command("usage", "--format", "json", *words)
    return list(json.loads(told.stdout)["usage"])


def sums(deployment: Local, user: str) -> tuple[int, int, int]:
    """Requests, prompt and completion tokens of one user, as the store has them."""
    used = Usage(open_sessions(deployment.env["DATABASE_URL"]).database)
    found = used.asked(Question("2020-01-01", "2999-12-31", ("user",), user))
    (one,) = found or [dict.fromkeys(COUNTS, 0)]
    return one["requests"], one["prompt_tokens"], one["completion_tokens"]


def wait_for_sums(deployment: Local, user: str, wanted: tuple[int, int, int]) -> None:
    wait_for(lambda: sums(deployment, user) == wanted, 15, f"{user} has used {wanted}")


def test_what_a_server_tells_is_what_is_in_the_store(running: Local, upstream: Upstream) -> None:
    caller = Caller(running)
    token, before = caller.token(AGENT), sums(running, AGENT)
    for path, body, answer, _, _ in TOLD.values():
        upstream.answers[path] = answer
        answered = caller.call(token, path, body=body)
        assert "prompt_tokens" not in answered.text or "stream" not in body
    told = [(prompt, completion) for *_, prompt, completion in TOLD.values()]
    prompts, completions = map(sum, zip(*told, strict=True))
    wanted = (before[0] + len(TOLD), before[1] + prompts, before[2] + completions)
    wait_for_sums(running, AGENT, wanted)


def test_a_stream_that_ends_early_counts_as_far_as_it_was_seen(
    running: Local, upstream: Upstream
) -> None:
    upstream.events, upstream.gap = 10_000, 0.01
    before = sums(running, FAST)
    caller = Caller(running)
    with caller.call(caller.token(FAST), body=STREAM, stream=True) as answer:
        seen = b""
        for chunk in answer.iter_content(64):
            seen += chunk
            if seen.count(b"data:") >= 20:
                break
    wait_for(lambda: upstream.departures, 5, "the server is left")
    wait_for(lambda: sums(running, FAST)[0] == before[0] + 1, 10, "it is counted")
    used = sums(running, FAST)[2] - before[2]
    assert 20 <= used <= len(upstream.sent)


def test_a_row_says_when_who_by_what_and_which_and_what_was_refused_here_has_none(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    admin, user = caller.token(ADMIN), caller.token("USRSTEST01")
    made = caller.call(user, "/account/keys", body={"name": "k", "days": 1}).json()
    assert caller.call(made["key"], body={**CHAT, "model": "other-one"}).status_code == 200
    assert caller.call(user, body={**CHAT, "model": "bad\nname"}).status_code == 200
    assert caller.call(caller.token("MNTRTEST01")).status_code == 403
    wait_for(lambda: sums(running, "USRSTEST01")[0] == 2, 10, "both are counted")
    day = datetime.now(UTC).date().isoformat()
    same = {"day": day, "user": "USRSTEST01", "server": "llm", "requests": 1}
    counts = {"prompt_tokens": 3, "completion_tokens": 1}
    wanted = [
        {**same, **counts, "credential": made["id"], "model": "other-one"},
        {**same, **counts, "credential": "token", "model": "other"},
    ]
    own = caller.call(user, "/account/usage", "GET").json()["usage"]
    assert sorted(own, key=lambda row: row["model"] == "other") == wanted
    every = caller.call(admin, "/admin/api/usage", "GET").json()["usage"]
    assert every == rows(running)
    assert [row for row in every if row["user"] == "USRSTEST01"] == own
    assert "MNTRTEST01" not in {row["user"] for row in every}


def test_an_answer_is_json_csv_or_a_table_by_what_was_asked(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    admin, before = caller.token(ADMIN), sums(running, AGENT)
    caller.call(caller.token(AGENT))
    wait_for_sums(running, AGENT, (before[0] + 1, before[1] + 3, before[2] + 1))
    path = "/admin/api/usage?by=user,model&format=csv"
    answer = caller.call(admin, path, "GET")
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["user", "model", "requests", "prompt_tokens", "completion_tokens"]
    told = running.command("usage", "--by", "user,model", "--format", "csv").stdout
    assert list(csv.reader(io.StringIO(told))) == lines
    table = running.command("usage", "--by", "user,model").stdout.splitlines()
    assert [line.split() for line in table] == lines
    assert rows(running, "--from", "2020-01-01", "--to", "2020-12-31") == []


BAD = (
    *("from=x", "from=20260101", "to=2026-02-30", "from=2026-02-02&to=2026-02-01"),
    *("from=2026-01-01&from=2026-01-02", "by=color", "by=", "by=user,user", "format=xml", "a=b"),
)


def test_a_bad_question_is_400_and_says_what_would_be_good(running: Local) -> None:
    caller = Caller(running)
    token = caller.token(ADMIN)
    for query in BAD:
        for path in ("/admin/api/usage", "/account/usage"):
            answer = caller.call(token, f"{path}?{query}", "GET")
            assert answer.status_code == 400, query
            assert answer.json()["error"]["code"] == "invalid_request"
    told = running.command("usage", "--from", "x", check=False)
    assert (told.returncode, told.stdout) == (1, "")
    assert "from must be a date of UTC, such as 20" in told.stderr


def test_bodies_are_what_the_caller_sent_but_for_the_usage_that_is_asked_for(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    token = caller.token(AGENT)
    odd = b'{ "stream" :true, "model":"tiny","x": 1.0e2 }'
    for body in (odd, odd.replace(b"true", b"false"), b"no json"):
        requests.post(
            running.gateway + CHAT_PATH,
            data=body,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=10,
        )
    asked = b'{"stream_options":{"include_usage":true}, "stream" :true, "model":"tiny","x": 1.0e2 }'
    assert [one.body for one in upstream.seen] == [
        asked,
        odd.replace(b"true", b"false"),
        b"no json",
    ]


def test_a_killed_worker_reconciler_or_gateway_doubles_nothing_and_loses_no_more_than_2_s(
    upstream: Upstream,
) -> None:
    with deployed(upstream.url) as deployment:
        caller = Caller(deployment)
        token = caller.token(AGENT)
        for _ in range(40):
            assert caller.call(token).status_code == 200
        wait_for_sums(deployment, AGENT, (40, 120, 40))
        deployment.stop("reconciler", signal.SIGKILL)
        for _ in range(10):
            assert caller.call(token).status_code == 200
        deployment.start("reconciler")
        wait_for_sums(deployment, AGENT, (50, 150, 50))
        deployment.stop("gateway", signal.SIGKILL)
        deployment.start("gateway")
        wait_ready(deployment)
        for _ in range(10):
            assert caller.call(token).status_code == 200
        wait_for_sums(deployment, AGENT, (60, 180, 60))


@pytest.mark.parametrize(
    "parent", ["", "x", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{'A' * 32}-b7ad6b7169203331-01"]
)
def test_the_access_log_has_a_trace_of_its_own_where_the_client_names_none_that_is_one(
    running: Local, upstream: Upstream, parent: str
) -> None:
    caller = Caller(running)
    answer = caller.call(caller.token(FAST), headers={"traceparent": parent} if parent else {})
    request_id = answer.headers["x-request-id"]
    made = f'"request_id":"{request_id}","trace_id":"{request_id}"'
    wait_for(lambda: made in running.output("gateway"), 10, "the access log is written")


def test_the_access_log_and_the_histograms_tell_what_was_used(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    token = caller.token(FAST)
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    chat = {**CHAT, "model": "logged-model"}
    answer = caller.call(token, body=chat, headers={"traceparent": parent})
    assert upstream.seen[-1].values("traceparent") == [parent]

    def entry() -> dict[str, Any] | None:
        lines = [line for line in running.output("gateway").splitlines() if line[:1] == "{"]
        found = [one for one in map(json.loads, lines) if one.get("model") == "logged-model"]
        return found[0] if found else None

    logged = wait_for(entry, 10, "the access log is written")
    assert logged["request_id"] == answer.headers["x-request-id"]
    assert logged["trace_id"] == trace
    wanted = {"credential": "token", "server": "llm", "prompt_tokens": 3, "completion_tokens": 1}
    assert {name: logged[name] for name in wanted} == wanted
    assert 0 <= logged["first_byte_seconds"] <= logged["seconds"] + 0.001
    assert "hi" not in json.dumps(logged)
    text = caller.call(caller.token(ADMIN), "/metrics", "GET").text
    other = 'gen_ai_request_model="other"'
    for name in ("server_request_duration_seconds", "server_time_to_first_token_seconds"):
        assert f"gen_ai_{name}_count{{{other}}} " in text
    assert f'gen_ai_client_token_usage_sum{{{other},gen_ai_token_type="input"}} ' in text
    assert "logged-model" not in text


def test_with_usage_off_nothing_is_read_or_counted(upstream: Upstream) -> None:
    with deployed(upstream.url, USAGE="off") as deployment:
        caller = Caller(deployment)
        token = caller.token(AGENT)
        assert caller.call(token, body=STREAM).status_code == 200
        assert upstream.seen[-1].body == json.dumps(STREAM).encode()
        assert rows(deployment) == []
        assert caller.call(token, "/account/usage", "GET").json() == {"usage": []}
