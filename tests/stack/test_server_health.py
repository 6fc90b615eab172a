"""Which of the LLM servers that a policy names live, and what they have: found by asking them, and
told to callers, in metrics, in the log and to the issuer.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.deployment import Local
from tests.support.fake_gateway import mac_of
from tests.support.fleet import Fleet, compiled, fleet, row
from tests.support.upstream import Upstream, recording
from tests.support.waiting import wait_for

KEY = "sk-of-the-rack"
TAGS = {
    "models": [
        {
            "name": "llama3:latest",
            "model": "llama3:latest",
            "modified_at": "2024-05-01T00:00:00Z",
            "size": 7,
            "details": {"families": []},
        },
        {"name": "secret:1b", "model": "secret:1b", "size": 8},
    ]
}
RUNNING = {"models": [{"name": "llama3:latest", "model": "llama3:latest", "size_vram": 5}]}
BOX = {"/api/tags": TAGS, "/api/ps": RUNNING}
RACK = {
    "/v1/models": {
        "data": [
            {"id": name, "object": "model", "created": 9, "owned_by": "vllm", "path": "CANARY"}
            for name in ("qwen3", "left-out")
        ]
    }
}
ALL = ["llama3:latest", "secret:1b", "qwen3", "fast"]
#: What a server that is up again, or down, is known as within: two rounds of asking, and some.
SOON = 8.0
#: An answer that goes on for ever.
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def many(count: int, padding: int) -> bytes:
    """A list of so many models, each with a long word that nobody needs."""
    models = [{"id": f"m{number}", "root": "x" * padding} for number in range(count)]
    return json.dumps({"data": models}).encode()


@dataclass
class Asking:
    """A gateway with two servers that behave and one that need not."""

    fleet: Fleet
    box: Upstream
    rack: Upstream
    wild: Upstream

    @property
    def running(self) -> Local:
        return self.fleet.deployment

    def get(self, path: str, user: str = "AGIATEST01") -> requests.Response:
        """What a caller is answered."""
        return self.fleet.caller.call(self.fleet.token(user), path, method="GET")

    def ids(self, path: str = "/v1/models", user: str = "AGIATEST01") -> list[str]:
        """The models that a caller is shown."""
        told = self.get(path, user).json()
        return [entry.get("id") or entry["name"] for entry in told.get("data", told.get("models"))]

    def states(self) -> dict[str, dict[str, Any]]:
        """What the gateway tells the issuer of each server."""
        at, path = str(time.time_ns()), "/sync/servers"
        headers = {
            "X-Portero-Time": at,
            "X-Portero-Mac": mac_of(self.running.sync_key, "GET", path, at, b""),
        }
        told = requests.get(self.running.internal + path, headers=headers, timeout=20).json()
        return {server["name"]: server for server in told["servers"]}

    def wait_until(self, name: str, state: str) -> dict[str, Any]:
        """Until a server is this."""
        wait_for(lambda: self.states()[name]["state"] == state, SOON, f"{name} is {state}")
        return self.states()[name]

    def has_told(self, name: str, words: str) -> bool:
        """Whether what a server did wrong last has these words."""
        return words in self.states()[name].get("last_error", "")

    def metrics(self) -> str:
        return requests.get(f"{self.running.internal}/metrics", timeout=20).text

    def metric(self, name: str, server: str) -> float:
        start = f'portero_llm_server_{name}{{server="{server}"}} '
        (line,) = [line for line in self.metrics().splitlines() if line.startswith(start)]
        return float(line.removeprefix(start))

    def events(self, server: str) -> list[dict[str, Any]]:
        """What the log tells of a server."""
        lines = self.running.output("gateway").splitlines()
        told = [line[line.index("{") :] for line in lines if '"event":"llm_server"' in line]
        found = [json.JSONDecoder().raw_decode(text)[0] for text in told]
        return [event for event in found if event["server"] == server]

    def wait_for_event(self, server: str, state: str) -> None:
        """Until it is the last that the log tells of a server."""
        wait_for(lambda: self.events(server)[-1]["state"] == state, SOON, f"the log says {state}")


@pytest.fixture(scope="module")
def kept() -> Iterator[Asking]:
    with recording() as box, recording() as rack, recording() as wild, fleet() as running:
        box.answers.update(BOX)
        rack.answers.update(RACK)
        rows = [
            row("box", box.port, kind="ollama", dialect="ollama", models=["*"]),
            row("rack", rack.port, models=["qwen*"], credential=running.seal(KEY)),
            row("wild", wild.port, models=["*"]),
        ]
        aliases = [
            {"name": "fast", "models": ["gone", "llama3"]},
            {"name": "claude-*", "models": ["qwen3"]},
        ]
        policy = compiled(rows, aliases)
        policy["roles"]["user"]["limits"] = {"models": ["llama3", "qwen3"]}
        running.put(policy)
        yield Asking(running, box, rack, wild)


@pytest.fixture
def asking(kept: Asking) -> Asking:
    """All well at the beginning of each test."""
    kept.wild.forget()
    kept.wild.answers["/v1/models"] = {"data": []}
    for name in ("box", "rack", "wild"):
        kept.wait_until(name, "up")
    wait_for(lambda: "models" not in kept.states()["wild"], SOON, "the list is empty again")
    return kept


def test_a_list_is_the_union_of_what_is_up_with_plain_aliases_each_once(asking: Asking) -> None:
    assert asking.ids() == ALL
    assert asking.ids("/models") == ALL
    assert asking.ids("/api/tags") == ["llama3:latest", "secret:1b", "fast"]
    assert asking.ids("/api/ps") == ["llama3:latest", "fast"]


def test_a_caller_sees_what_it_may_use_and_no_more(asking: Asking) -> None:
    assert asking.ids(user="USRSTEST01") == ["llama3:latest", "qwen3", "fast"]
    for name, status in {"llama3": 200, "fast": 200, "claude-x": 200, "secret:1b": 404}.items():
        answered = asking.get(f"/v1/models/{name}", "USRSTEST01")
        assert answered.status_code == status, name
        assert "CANARY" not in answered.text


def test_a_list_asks_no_server_and_a_server_is_asked_by_one_worker_alone(asking: Asking) -> None:
    asking.wild.seen.clear()
    begin = time.monotonic()
    wait_for(lambda: len(asking.wild.seen) >= 4, 2 * SOON, "four rounds")
    # One asker needs three pauses of two seconds for that; each worker for itself would need one.
    assert time.monotonic() - begin > 5
    before = len(asking.wild.seen)
    for _ in range(20):
        assert asking.get("/v1/models").status_code == 200
    assert len(asking.wild.seen) - before <= 1


def test_a_server_is_asked_by_its_own_name_and_key_and_told_nothing_else(asking: Asking) -> None:
    for server, key in ((asking.box, []), (asking.rack, [f"Bearer {KEY}"])):
        asked = [seen for seen in server.seen if seen.line.startswith("GET ")][-1]
        assert asked.values("host") == [f"127.0.0.1:{server.port}"]
        assert asked.values("authorization") == key
        names = {name for name, _ in asked.headers}
        assert not any("inner" in name or name.startswith("x-auth") for name in names), names
        assert asked.body == b""
    assert {seen.target for seen in asking.box.seen} == {"/api/tags", "/api/ps"}


def test_one_that_comes_to_no_end_delays_nobody_and_is_down_until_it_does(asking: Asking) -> None:
    asking.wild.raw_answer = ENDLESS
    told = asking.wait_until("wild", "down")
    assert "did not" in told["last_error"]
    asked = len(asking.wild.seen)
    assert asking.get("/v1/models").status_code == 200
    assert len(asking.wild.seen) - asked <= 1, "a list asks no server"
    assert asking.metric("up", "wild") == 0
    assert asking.metric("up", "box") == 1
    asking.wild.raw_answer = None
    asking.wait_until("wild", "up")
    assert asking.metric("up", "wild") == 1


def test_one_that_cannot_be_reached_is_left_out_of_lists_and_comes_back_by_itself(
    asking: Asking,
) -> None:
    asking.wild.answers["/v1/models"] = {"data": [{"id": "wild-1"}]}
    wait_for(lambda: "wild-1" in asking.ids(), SOON, "it is listed")
    asking.wild.mood = "die"
    wait_for(lambda: "wild-1" not in asking.ids(), SOON, "it is not listed")
    assert asking.metric("ejections_total", "wild") >= 1
    asking.wild.mood = "answer"
    wait_for(lambda: "wild-1" in asking.ids(), SOON, "it is listed again")
    asking.wait_for_event("wild", "up")
    down, up = asking.events("wild")[-2:]
    assert (down["state"], up["state"], up["was"], up["models"]) == ("down", "up", "down", 1)


#: What a server says in place of a list, how, and what is told of it; health_spec.lua has more.
LIES = {
    "no head": (b"hello\n", "die", "no HTTP"),
    "too much": (answer(b" " * (3 * 1024 * 1024)), "answer", "longer than 2 MiB"),
    "an error": (b"HTTP/1.1 500 X\r\nContent-Length: 6\r\n\r\nCANARY", "answer", "it answered 500"),
}


def test_a_lie_is_no_list_and_the_state_says_why(asking: Asking) -> None:
    for text, mood, why in LIES.values():
        asking.wild.raw_answer, asking.wild.mood = text, mood
        wait_for(partial(asking.has_told, "wild", why), SOON, why)
        assert asking.states()["wild"]["state"] == "down"
        assert asking.ids() == ALL
    assert "CANARY" not in json.dumps(asking.states())


def test_a_large_list_is_read_entries_that_are_none_are_not_and_none_at_all_is_no_fault(
    asking: Asking,
) -> None:
    asking.wild.raw_answer = answer(many(1000, 1000))
    wait_for(lambda: len(asking.states()["wild"].get("models", [])) == 1000, SOON, "all are known")
    assert len(asking.ids()) == 1000 + len(ALL)
    asking.wild.raw_answer = answer(b'{"data": [{"id": "a"}, {"id": "a"}, {"id": 1}, "x", {}]}')
    wait_for(lambda: asking.states()["wild"].get("models") == ["a"], SOON, "one is known")
    assert asking.metric("models", "wild") == 1
    asking.wild.raw_answer, asking.wild.answers["/v1/models"] = None, 404
    wait_for(lambda: "models" not in asking.states()["wild"], SOON, "it has no list")
    assert asking.states()["wild"]["state"] == "up"


def test_one_that_refuses_our_key_is_misconfigured_and_the_key_is_nowhere(asking: Asking) -> None:
    asking.wild.answers["/v1/models"] = 401
    misconfigured = asking.wait_until("wild", "misconfigured")
    assert "credential_file" in misconfigured["last_error"]
    assert asking.metric("misconfigured", "wild") == 1
    asking.wait_for_event("wild", "misconfigured")
    told = json.dumps(asking.states())
    for text in (asking.running.output("gateway"), told, asking.metrics()):
        assert KEY not in text
        assert "CANARY" not in text


def test_who_asks_is_replaced_when_it_is_killed(asking: Asking) -> None:
    for pid in asking.running.workers("gateway"):
        os.kill(pid, signal.SIGKILL)
    asking.wild.seen.clear()
    wait_for(lambda: asking.wild.seen, SOON, "it is asked again")
    asking.wait_until("wild", "up")
    assert asking.ids() == ALL


def test_nobody_else_is_answered_by_the_gateways_own_door(asking: Asking) -> None:
    path = str(Path(asking.running.env["GATEWAY_RUNTIME_DIR"]) / "inner.sock")
    for target in ("/pool", "/servers/wild/v1/models", "/servers/wild/secret"):
        for key in ("", "X-Portero-Inner: " + "0" * 64 + "\r\n"):
            with socket.socket(socket.AF_UNIX) as door:
                door.connect(path)
                door.sendall(f"GET {target} HTTP/1.0\r\n{key}\r\n".encode())
                assert door.recv(100).startswith(b"HTTP/1.1 403 ")
    assert all(seen.target == "/v1/models" for seen in asking.wild.seen)
