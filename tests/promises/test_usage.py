"""Usage of a mixed load over four LLM servers and two gateways, both of which are killed: the store
has what the servers gave out, but for what a killed gateway had counted in its last two seconds.
"""

import json
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import requests

from issuer.store.sessions import open_sessions
from issuer.store.usage import Question, Usage
from tests.promises.conftest import Figure, size
from tests.stack.clients.answers import DONE, LAST_CHUNK, messages, sse
from tests.stack.test_servers import LISTED_SECONDS, ollama_list, openai_list, states
from tests.support.deployment import CHAT, Caller, Local, answers, deployed
from tests.support.gateways import Second, push_to, second_gateway
from tests.support.policies import write_policy
from tests.support.upstream import CHAT_ANSWER, Spoken, Upstream, recording
from tests.support.waiting import wait_for

#: Of each gateway one user, so that what is lost with one is told apart.
USERS = ("AGIATEST01", "USRSTEST01")
CLIENTS = 8
#: What a killed gateway may lose, and what a loaded machine adds to that.
LOST_SECONDS, LATE_SECONDS = 2.0, 1.0
#: A stream that is left early has many more events than it has shown. One alone may be an answer
#: that came whole, and counts as nothing.
EVENTS, LEFT_AT_EVENT = 400, 2
STREAM = {**CHAT, "stream": True}
USED = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
USAGE_CHUNK = {**LAST_CHUNK, "choices": [], "usage": USED}
OLLAMA_END = {"model": "x", "done": True, "prompt_eval_count": 11, "eval_count": 4}
#: A kind of request: the server, and so the model; the path, the body, what is answered there, and
#: the prompt and completion tokens that it gives out whole.
KINDS: Mapping[str, tuple[str, str, dict[str, Any], Any, int, int]] = {
    "plain": ("rack", "/v1/chat/completions", CHAT, CHAT_ANSWER, 3, 1),
    "streamed": (
        "attic",
        "/v1/chat/completions",
        STREAM,
        Spoken(None, [sse(LAST_CHUNK, named=False), sse(USAGE_CHUNK, named=False), DONE]),
        7,
        5,
    ),
    "of Anthropic's dialect": ("shed", "/v1/messages", {**CHAT, "max_tokens": 9}, messages(), 3, 1),
    "of Ollama's": (
        "box",
        "/api/chat",
        STREAM,
        Spoken(None, ['{"model":"x","done":false}\n', json.dumps(OLLAMA_END) + "\n"]),
        11,
        4,
    ),
    "an error": ("rack", "/v1/embeddings", {"input": "hi"}, 500, 0, 0),
    "left early": (
        "shed",
        "/v1/completions",
        {"prompt": "hi", "stream": True},
        None,
        0,
        LEFT_AT_EVENT,
    ),
}
#: The most that an answer of a server gives out.
MOST = {
    name: (
        max(kind[4] for kind in KINDS.values() if kind[0] == name),
        max(kind[5] if kind[3] else EVENTS for kind in KINDS.values() if kind[0] == name),
    )
    for name in ("box", "rack", "attic", "shed")
}
SERVERS = {"box": "ollama", "rack": "vllm", "attic": "localai", "shed": "llama-server"}


@dataclass
class House:
    """The deployment, both of its gateways, and the servers."""

    running: Local
    second: Second
    servers: Mapping[str, Upstream]
    usage: Usage
    #: When the gateway of each user was about to be killed, and when it was gone.
    killed: dict[str, tuple[float, float]] = field(default_factory=dict)

    def kill(self, user: str) -> None:
        """The user's gateway, which comes back."""
        is_first, before = user == USERS[0], time.monotonic()
        if is_first:
            self.running.stop("gateway", signal.SIGKILL)
        else:
            self.second.stop(signal.SIGKILL)
        self.killed[user] = before, time.monotonic()
        if is_first:
            self.running.start("gateway")
        else:
            self.second.start()
        ready = partial(answers, f"{self.gateway(user)}/readyz", 200)
        wait_for(ready, 30, "it is back")

    def gateway(self, user: str) -> str:
        return self.running.gateway if user == USERS[0] else self.second.url

    def given(self, user: str) -> Counter[str]:
        """Requests of a user by server, as the servers saw them."""
        seen = {name: list(one.seen) for name, one in self.servers.items()}
        return Counter(
            {
                name: sum(user in one.values("x-auth-user") for one in all_)
                for name, all_ in seen.items()
            }
        )

    def stored(self, user: str) -> dict[str, tuple[int, int, int]]:
        """Requests, prompt and completion tokens of a user by server, as the store has them."""
        rows = self.usage.asked(Question("2020-01-01", "2999-12-31", ("server",), user))
        told = ("requests", "prompt_tokens", "completion_tokens")
        return {row["server"]: tuple(row[name] for name in told) for row in rows}


@contextmanager
def house(folder: Path) -> Iterator[House]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(recording()) for name in SERVERS}
        for name, one in servers.items():
            one.answers["/v1/models"] = openai_list(f"of-{name}")
            one.answers["/api/tags"] = ollama_list(f"of-{name}")
            one.events, one.gap = EVENTS, 0.01
        for name, path, _, answer, _, _ in KINDS.values():
            if answer is not None:
                servers[name].answers[path] = answer
        listed = [
            {"name": name, "kind": kind, "url": servers[name].url} for name, kind in SERVERS.items()
        ]
        policy = write_policy(
            folder / "policy.yaml", lambda content: content.update(servers=listed)
        )
        running = stack.enter_context(deployed("", POLICY_FILE=str(policy)))
        second = stack.enter_context(second_gateway(running))
        push_to(running, second.url, second.internal)
        wait_for(lambda: states(running) == {"up"}, LISTED_SECONDS, "all are up")
        usage = Usage(open_sessions(running.env["DATABASE_URL"]).database)
        yield House(running, second, servers, usage)


@dataclass(frozen=True)
class Asked:
    """One request that was answered as it should be: whose, which kind, and when."""

    user: str
    kind: str
    began: float
    ended: float


def ask(house: House, token: str, user: str, kind: str) -> Asked | None:
    """None where the gateway was away, or the answer broke off with it."""
    name, path, body, answer, _, _ = KINDS[kind]
    began = time.monotonic()
    try:
        with requests.post(
            house.gateway(user) + path,
            json={**body, "model": f"of-{name}"},
            headers={"Authorization": f"Bearer {token}", "Connection": "close"},
            stream=answer is None,
            timeout=20,
        ) as got:
            if got.status_code == 503:
                return None
            assert got.status_code == (502 if answer == 500 else 200), (kind, got.text)
            if answer is None:
                left_at = islice(filter(None, got.iter_lines(64)), LEFT_AT_EVENT)
                assert len(list(left_at)) == LEFT_AT_EVENT
    except requests.RequestException:
        return None
    return Asked(user, kind, began, time.monotonic())


def run(house: House, wanted: int, killed: Sequence[str] = ()) -> list[Asked]:
    """So many requests, of all kinds and of both users; some gateways are killed meanwhile."""
    tokens = {user: Caller(house.running).token(user) for user in USERS}
    dice, kinds = random.Random(17), list(KINDS)
    todo = [(USERS[at % 2], dice.choice(kinds)) for at in range(wanted)]
    done: list[Asked] = []

    def until_answered(one: tuple[str, str]) -> None:
        found = wait_for(lambda: ask(house, tokens[one[0]], *one), 60, "an answer")
        done.append(found)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answered = pool.map(until_answered, todo)
        # A process ends with the thread that began it: this one.
        for at, user in enumerate(killed, 1):
            wait_for(partial(has, done, at * wanted // 3), 600, "requests go on")
            house.kill(user)
        list(answered)
    return done


def has(done: Sequence[Asked], count: int) -> bool:
    return len(done) >= count


def least(house: House, asked: list[Asked], user: str) -> dict[str, tuple[int, int, int]]:
    """What must be in the store: all but what was under way in the last seconds of the gateway."""
    before, gone = house.killed.get(user, (math.inf, -math.inf))
    begins = before - LOST_SECONDS - LATE_SECONDS
    sums = {name: [0, 0, 0] for name in SERVERS}
    for one in asked:
        may_be_lost = begins < one.ended and one.began < gone
        if one.user != user or may_be_lost:
            continue
        name, *_, prompt, completion = KINDS[one.kind]
        for place, count in enumerate((1, prompt, completion)):
            sums[name][place] += count
    return {name: (counts[0], counts[1], counts[2]) for name, counts in sums.items()}


def test_the_store_has_what_four_servers_gave_out_through_two_gateways_that_are_killed(
    tmp_path: Path, figure: Figure
) -> None:
    wanted = size(300, 10_000)
    with house(tmp_path) as running:
        asked = run(running, wanted // 3)
        for user in USERS:
            must = least(running, asked, user)
            wait_for(partial(whole, running, user, must), 20, f"all of {must} is there")
            stored = running.stored(user)
            assert {name: row[0] for name, row in stored.items()} == running.given(user)
        asked += run(running, 2 * wanted // 3, killed=USERS)
        missing, all_given = 0, 0
        for user in USERS:
            must, given = least(running, asked, user), running.given(user)
            stored = wait_for(partial(whole, running, user, must), 20, f"all of {must} is there")
            for name, (count, prompt, completion) in stored.items():
                assert count <= given[name], f"{name} counts twice"
                assert prompt <= given[name] * MOST[name][0]
                assert completion <= given[name] * MOST[name][1]
            missing += sum(given.values()) - sum(row[0] for row in stored.values())
            all_given += sum(given.values())
        figure(
            "usage: requests of six kinds, killed gateways, what the store lacks of their last 2 s",
            f"{all_given}, {len(USERS)}, {missing}",
        )


def whole(
    house: House, user: str, must: Mapping[str, tuple[int, int, int]]
) -> Mapping[str, tuple[int, int, int]] | None:
    """What is stored of a user, once it is no less than it must be."""
    stored = house.stored(user)
    for name, row in must.items():
        have = stored.get(name, (0, 0, 0))
        if any(there < wanted for there, wanted in zip(have, row, strict=True)):
            return None
    return stored
