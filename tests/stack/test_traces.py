"""The issuer's traces, as a collector gets them (OTLP over HTTP, protobuf)."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.deployment import USERS, Caller, Local, deployed
from tests.support.listening import Listener, Message, Reply, listening
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

USER = "AGIATEST01"
#: The client's own (https://www.w3.org/TR/trace-context/#traceparent-header).
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LOGIN = "POST /agi/login"
STEPS = {"check the secret", "make active", "commit to the store", "tell the gateways"}
#: As often as this the SDK sends what there is; its default is five seconds.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@dataclass(frozen=True)
class Traced:
    """A deployment, and the collector of its traces."""

    running: Local
    collector: Listener

    def log_in(self) -> requests.Response:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        url = f"{self.running.gateway}/agi/login"
        return requests.post(url, auth=(USER, USERS[USER][0]), headers=headers, timeout=20)

    def spans(self) -> list[Any]:
        return [
            span
            for message in list(self.collector.messages)
            for resource in ExportTraceServiceRequest.FromString(_text(message)).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans() if span.name == name]


def _text(message: Message) -> bytes:
    is_packed = message.headers.get("content-encoding") == "gzip"
    return gzip.decompress(message.body) if is_packed else message.body


@contextmanager
def traced(upstream: Upstream, reply: Reply) -> Iterator[Traced]:
    with listening(lambda _: reply) as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **SOON}
        with deployed(upstream.url, **settings) as running:
            yield Traced(running, collector)


@pytest.fixture(scope="module")
def door(local_upstream: Upstream) -> Iterator[Traced]:
    with traced(local_upstream, Reply(content=b"")) as one:
        yield one


def test_a_login_is_a_span_of_the_clients_trace_and_its_steps_are_below_it(door: Traced) -> None:
    answer = door.log_in()
    assert answer.status_code == 200
    wait_for(lambda: door.named(LOGIN), 20, "the span of the login has come")
    (login,) = door.named(LOGIN)
    assert (login.trace_id.hex(), login.parent_span_id.hex()) == (TRACE, PARENT)
    told = {one.key: one.value for one in login.attributes}
    assert told["http.route"].string_value == "/agi/login"
    assert told["http.response.status_code"].int_value == 200
    (request_id,) = told["http.request.header.x-request-id"].array_value.values
    assert request_id.string_value == answer.headers["X-Request-Id"]
    of_it = {span.name for span in door.spans() if span.trace_id == login.trace_id}
    assert of_it == {LOGIN, *STEPS}


def test_a_span_names_nobody_and_nothing_that_was_shown(door: Traced) -> None:
    caller = Caller(door.running)
    token, admin = caller.token(USER), caller.token("ADMNTEST01")
    assert caller.call(admin, f"/admin/api/users/{USER}/sessions?q=asked", "DELETE").ok
    assert caller.call(token).status_code == 401
    route = "DELETE /admin/api/users/<name>/sessions"
    wait_for(lambda: door.named(route), 20, "the span of the revocation has come")
    sent = b"".join(_text(message) for message in door.collector.messages)
    for secret in (token, admin, USERS[USER][0], USER, "q=asked"):
        assert secret.encode() not in sent


def test_a_method_that_a_client_made_up_names_no_span(door: Traced) -> None:
    made_up = requests.request("SECRETWORD", f"{door.running.issuer}/llm/login", timeout=20)
    assert made_up.status_code == 405
    wait_for(lambda: door.named("_OTHER none"), 20, "the span has come")
    sent = b"".join(_text(message) for message in door.collector.messages)
    assert b"SECRETWORD" not in sent


def test_nobody_is_traced_who_asks_whether_the_issuer_lives(door: Traced) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert requests.get(door.running.issuer + path, timeout=20).status_code == 200
    before = len(door.named(LOGIN))
    assert door.log_in().status_code == 200
    wait_for(lambda: len(door.named(LOGIN)) > before, 20, "a later span has come")
    assert not [span for span in door.spans() if "z" in span.name or "metrics" in span.name]


def test_a_collector_that_is_away_costs_no_login(local_upstream: Upstream) -> None:
    with traced(local_upstream, Reply(503)) as one:
        for _ in range(5):
            assert one.log_in().status_code == 200
        wait_for(lambda: one.collector.messages, 20, "it was asked")
        assert one.log_in().status_code == 200
