"""What `dashboards/` names is what a running deployment tells, a real Prometheus takes it and fires
by it, and it stays as small whatever callers ask for (docs/operations.md, "Watch").
"""

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.stack.test_servers import openai_list
from tests.support.deployment import CHAT, Caller, Local, deployed
from tests.support.fleet import compiled, fleet, row
from tests.support.policies import write_policy
from tests.support.prometheus import Prometheus, prometheus
from tests.support.upstream import recording
from tests.support.waiting import wait_for

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
ALERTS, DASHBOARD = DASHBOARDS / "alerts.yml", DASHBOARDS / "portero.json"
NAME = re.compile(r"\b(?:portero|gen_ai)_[a-z_]+\b")
#: Labels, and what only a deployment with TLS tells (tests of TLS see it there).
NO_METRICS = {
    "gen_ai_request_model",
    "gen_ai_token_type",
    "portero_tls_certificate_seconds_left",
    "portero_internal_tls_certificate_seconds_left",
}
#: The most that tokens may be active at a time: enough for what is asked here.
MOST = 3


def expressions() -> list[str]:
    """Of the dashboard and of the rules, with what Grafana would fill in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    told = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    found = [*told, *(rule["expr"] for rule in rules)]
    return [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in found]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Local, Prometheus]]:
    """A deployment with an LLM server of each kind of news, and who watches it."""
    folder = tmp_path_factory.mktemp("policy")
    with recording() as rack:
        rack.answers["/v1/models"] = openai_list("tiny")
        rack.answers["/v1/completions"] = 500
        listed = [{"name": "rack", "url": rack.url, "kind": "vllm"}]
        policy = write_policy(
            folder / "policy.yaml", lambda content: content.update(servers=listed)
        )
        settings = {"POLICY_FILE": str(policy), "TOKEN_CACHE_SIZE": str(MOST)}
        with (
            deployed("", **settings) as running,
            prometheus(ALERTS, [running.internal, running.issuer]) as watcher,
        ):
            yield running, watcher


def series_of(url: str) -> set[str]:
    """The series that a listener tells, with their labels."""
    text = requests.get(f"{url}/metrics", timeout=10).text
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_every_metric_that_is_named_is_there_and_every_expression_finds_something(
    watched: tuple[Local, Prometheus],
) -> None:
    running, watcher = watched
    caller = Caller(running)
    token = caller.token("AGIATEST01")
    wait_for(lambda: caller.call(token, body=CHAT).status_code == 200, 10, "the server is up")
    failing = {"model": "tiny", "prompt": "hi"}
    assert caller.call(token, "/v1/completions", body=failing).status_code == 502
    assert caller.call(token, "/logout").status_code == 204
    assert caller.login("AGIATEST01", "wrong").status_code == 401
    named = set(itertools.chain.from_iterable(map(NAME.findall, expressions()))) - NO_METRICS
    assert len(named) > 20

    def told() -> set[str]:
        both = series_of(running.internal) | series_of(running.issuer)
        return {one.partition("{")[0] for one in both}

    wait_for(lambda: named <= told(), 5, "each worker has added what it counted")
    for text in expressions():
        watcher.query(text)
    shown = [text for text in expressions() if " > " not in text and " == " not in text]
    shown = [text for text in shown if not NAME.findall(text)[0].startswith("portero_tls")]
    for text in shown:
        wait_for(partial(watcher.query, text), 10, text)


def test_a_real_prometheus_fires_the_alarm_when_logins_are_refused_for_room(
    watched: tuple[Local, Prometheus],
) -> None:
    running, watcher = watched
    caller = Caller(running)
    seen = 'portero_refusals_total{code="capacity"}'
    wait_for(lambda: watcher.query(seen), 10, "it is there before there is any")
    assert "PorteroFull" not in watcher.firing()
    statuses = [caller.login("AGNRTEST01").status_code for _ in range(MOST + 1)]
    assert 503 in statuses
    wait_for(lambda: "PorteroFull" in watcher.firing(), 15, "it fires")
    assert watcher.firing() == {"PorteroFull"}


ENDED = re.compile(
    r'^portero_requests_total\{class="(\w+)",role="(\w+)",status="(\d+)"\} (\d+)$', re.M
)


def ended(running: Local) -> Counter[tuple[str, str, int]]:
    """The requests of a gateway that have ended, by class, role and status."""
    text = requests.get(f"{running.internal}/metrics", timeout=10).text
    return Counter({(one[0], one[1], int(one[2])): int(one[3]) for one in ENDED.findall(text)})


#: The ways that requests go through nginx's locations: by what a deployment has beside one pool.
WAYS: Mapping[str, Mapping[str, str]] = {
    "use is counted": {},
    "use is not counted": {"USAGE": "off"},
    "the policy names servers": {"LLM_UPSTREAM": ""},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_request_is_counted_once_by_the_class_role_and_status_that_it_ended_with(
    way: str, tmp_path: Path
) -> None:
    # One worker, as what another has counted is told within the second: that would be no `before`.
    settings = {"GATEWAY_WORKERS": "1", **WAYS[way]}
    with recording() as llm:
        llm.answers["/v1/models"] = openai_list("tiny")
        llm.answers["/v1/completions"] = 500
        listed = [{"name": "rack", "url": llm.url, "kind": "vllm"}]

        def change(content: dict[str, Any]) -> None:
            content["roles"]["agent_fast"]["requests_per_minute"] = 1
            if "LLM_UPSTREAM" in settings:
                content["servers"] = listed

        policy = write_policy(tmp_path / "policy.yaml", change)
        url = settings.pop("LLM_UPSTREAM", llm.url)
        with deployed(url, POLICY_FILE=str(policy), **settings) as running:
            caller = Caller(running)
            agi, fast = caller.token("AGIATEST01"), caller.token("AGNFTEST01")
            watching, admin = caller.token("MNTRTEST01"), caller.token("ADMNTEST01")
            wait_for(lambda: caller.call(agi, body=CHAT).status_code == 200, 10, "it is up")
            wait_for(lambda: ("inference", "agi", 200) in ended(running), 5, "that is counted")
            before = ended(running)
            body = {"model": "tiny", "prompt": "hi"}
            said = [
                caller.call(agi, body=CHAT),
                caller.call(agi, "/llm/chat/completions", body=CHAT),
                caller.call(agi, "/v1/completions", body=body),
                caller.call(fast, body=CHAT),
                caller.call(fast, body=CHAT),
                caller.call(watching, body=CHAT),
                caller.call("nothing", body=CHAT),
                caller.call(agi, "/v1/models", "GET"),
                caller.call(admin, "/admin/", "GET"),
                caller.call(agi, "/nothing", "GET"),
                caller.login("AGNRTEST01", "wrong"),
                requests.get(f"{running.gateway}/static/portero.css", timeout=10),
                requests.get(f"{running.gateway}/", headers={"A": "x" * 20_000}, timeout=10),
            ]
            wanted = {
                ("inference", "agi", 200): 2,
                ("inference", "agi", 502): 1,
                ("inference", "agent_fast", 200): 1,
                ("inference", "agent_fast", 429): 1,
                ("inference", "monitoring", 403): 1,
                ("inference", "none", 401): 1,
                ("models", "agi", 200): 1,
                ("console", "admin", 200): 1,
                ("none", "none", 404): 1,
                ("none", "none", 401): 1,
                ("none", "none", 200): 1,
                ("none", "none", 400): 1,
            }
            statuses = Counter(one.status_code for one in said)
            of_wanted: Counter[int] = Counter()
            for (_, _, status), count in wanted.items():
                of_wanted[status] += count
            assert statuses == of_wanted
            wait_for(lambda: ended(running) - before == wanted, 5, "each is counted once")


@pytest.mark.parametrize("way", ["use is counted", "use is not counted"])
def test_streams_that_run_are_told_and_answers_that_come_whole_are_none(way: str) -> None:
    with recording() as llm, deployed(llm.url, **WAYS[way]) as running:
        llm.events, llm.gap = 10_000, 0.01
        caller = Caller(running)
        token = caller.token("AGIATEST01")

        def streams() -> int:
            text = requests.get(f"{running.internal}/metrics", timeout=10).text
            (count,) = re.findall(r"^portero_streams_running (\d+)$", text, re.M)
            return int(count)

        assert (caller.call(token, body=CHAT).status_code, streams()) == (200, 0)
        with ExitStack() as stack:
            for _ in range(3):
                answer = caller.call(token, body={**CHAT, "stream": True}, stream=True)
                assert stack.enter_context(answer).raw.read(6) == b"data: "
            wait_for(lambda: streams() == 3, 5, "each worker has told its own")
            assert caller.call(token, body=CHAT).status_code == 200
            assert streams() == 3
        wait_for(lambda: streams() == 0, 5, "who left has no stream any more")


def test_metrics_stay_as_many_whoever_asks_for_whatever() -> None:
    count = 10_000 if os.environ.get("PORTERO_CHAOS") == "1" else 300
    with recording() as rack:
        models = [f"model-{number}" for number in range(min(count, 1_000))]
        rack.answers["/v1/models"] = openai_list(*models)
        policy = compiled([row("rack", rack.port, models=models)])
        with fleet(policy) as running, requests.Session() as session:
            tokens = [running.token(f"AGIAUSER{number:06}") for number in range(count)]

            def ask(number: int, path: str, body: Any) -> int:
                headers = {"Authorization": f"Bearer {tokens[number]}"}
                url = running.deployment.gateway + path
                return session.post(url, json=body, headers=headers, timeout=20).status_code

            chat = {**CHAT, "model": models[0]}
            wait_for(lambda: ask(0, "/v1/chat/completions", chat) == 200, 10, "the server is up")
            for number in range(1, count):
                model = models[number % len(models)]
                chat = {**CHAT, "model": model}
                assert ask(number, "/v1/chat/completions", chat) == 200
                assert ask(number, f"/nothing/{number}", {}) == 404
                assert (
                    ask(number, "/v1/chat/completions", {**CHAT, "model": f"no-model-{number}"})
                    == 404
                )

            def all_counted() -> bool:
                text = requests.get(f"{running.deployment.internal}/metrics", timeout=10).text
                found = re.findall(
                    r"^gen_ai_server_request_duration_seconds_count\S* (\d+)$", text, re.M
                )
                return sum(map(int, found)) == count

            wait_for(all_counted, 10, "each worker has added what it counted")
            told = series_of(running.deployment.internal)
    named = {name for one in told for name in re.findall(r'gen_ai_request_model="([^"]*)"', one)}
    assert named <= {*models, "other"}
    assert len(named) == 101
    assert not [one for one in told if "AGIAUSER" in one or "nothing" in one or "no-model" in one]
    assert len({one for one in told if "gen_ai_" not in one}) < 60
