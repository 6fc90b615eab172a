"""What every gateway answers over sync (docs/sync.md), asked of a real one and of the fake that
stands in for it where the issuer is tested: whatever holds of the one holds of the other.
"""

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest
import requests

from issuer import keys, tokens
from issuer.tokens import Claims, api_keys
from tests.support.deployment import Caller, Local
from tests.support.fake_gateway import SYNC_KEY, FakeGateway, mac_of, seal
from tests.support.listening import listening
from tests.support.policies import shipped_policy
from tests.support.upstream import recording
from tests.support.waiting import wait_for

KINDS = ("the fake", "a real one")
SECONDS = 900
SIGNING = keys.new_key("HS256")
FIELDS = {
    "boot",
    "capacity_bytes",
    "epoch",
    "free_bytes",
    "keys",
    "least",
    "newest",
    "policy",
    "position",
    "ready",
}
Entries = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Answer:
    """A status, and the state where the message passed the checks."""

    status: int
    state: Mapping[str, Any]


@dataclass
class Asked:
    """A gateway that is asked; `lets_pass` tells what it makes of a token, by its `jti`, or of an
    API key: None is "not yet".
    """

    url: str
    key: str
    lets_pass: Callable[[str], bool | None]
    #: Have a chat with a token, by its `jti`.
    use: Callable[[str], object]
    _session: requests.Session = field(default_factory=requests.Session)

    def send(
        self,
        method: str,
        path: str,
        content: Any = b"",
        at: str = "",
        sent: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One message at a time of its own; `sent` is what is changed after it was signed."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        at = at or str(time.time_ns())
        message = {
            "method": method,
            "path": path,
            "body": body,
            "X-Portero-Time": at,
            "X-Portero-Mac": mac_of(self.key, method, path, at, body),
            **(sent or {}),
        }
        return self.deliver(message)

    def deliver(self, message: Mapping[str, Any]) -> Answer:
        """A message as it stands."""
        asked = requests.Request(
            message["method"],
            "http://gateway/",
            headers={n: message[n] for n in ("X-Portero-Time", "X-Portero-Mac") if message[n]},
            data=message["body"],
        ).prepare()
        asked.url = self.url + message["path"]
        answer = self._session.send(asked, timeout=20, allow_redirects=False)
        is_told = "json" in answer.headers.get("Content-Type", "") or answer.text[:1] == "{"
        return Answer(answer.status_code, answer.json() if is_told else {})

    def state(self) -> Mapping[str, Any]:
        """What it says of itself."""
        return self.send("GET", "/sync/status").state

    def apply(self, activate: Entries = (), revoke: Entries = (), **more: Any) -> Answer:
        """Changes."""
        body = {"activate": list(activate), "revoke": list(revoke), **more}
        return self.send("POST", "/sync/apply", body)

    def snapshot(self, step: str, **content: Any) -> Answer:
        """A step of one."""
        return self.send("POST", "/sync/snapshot", {"step": step, **content})

    def whole_snapshot(self, activate: Entries = (), revoke: Entries = ()) -> None:
        """All of one."""
        generation = self.snapshot("begin").state["newest"]
        part = {"generation": generation, "activate": list(activate), "revoke": list(revoke)}
        assert self.snapshot("part", **part).status == 200
        assert self.snapshot("end", generation=generation, epoch="e", position=1).status == 200

    def put_keys(self, serial: Any = 1, history: Any = "h", listed: Any = None) -> Answer:
        """A list of keys; the right one unless told otherwise."""
        text = json.dumps({"keys": [as_listed(SIGNING)] if listed is None else listed}).encode()
        sealed = seal(self.key.encode(), text)
        body = {"history": history, "serial": serial, "sealed": sealed}
        return self.send("POST", "/sync/keys", body)

    def put_policy(self, serial: Any = 1, history: Any = "h", policy: Any = None) -> Answer:
        """A policy; the shipped one unless told otherwise."""
        listed = shipped_policy().compiled if policy is None else policy
        body = {"history": history, "serial": serial, "policy": listed}
        return self.send("POST", "/sync/policy", body)


def as_listed(of: keys.Key, **changes: Any) -> dict[str, Any]:
    """A key as the issuer tells it."""
    verifying = base64.b64encode(of.verifying).decode()
    return {"kid": of.kid, "alg": of.algorithm, "key": verifying, **changes}


def new() -> tuple[str, int]:
    """An entry of a token that nobody has seen."""
    return secrets.token_urlsafe(16), int(time.time()) + SECONDS


@contextmanager
def fake(most: int) -> Iterator[Asked]:
    gateway = FakeGateway(most)

    def lets_pass(shown: str) -> bool | None:
        if not asked.state()["ready"]:
            return None
        if api_keys.is_one(shown):
            known = gateway.api_keys.get(shown[11:27], {})
            return shown[11:27] in gateway.active() and known["digest"] == api_keys.digest(shown)
        return shown in gateway.active() and SIGNING.kid in gateway.keys

    def use(_: str) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        gateway.used.append([day, "AGIATEST01", "token", "tiny", "llm", 1, 3, 1])

    with listening(gateway.answer) as listener:
        asked = Asked(listener.url, SYNC_KEY, lets_pass, use)
        yield asked


@contextmanager
def real(most: int) -> Iterator[Asked]:
    """A gateway without an issuer."""
    megabytes = 1 if most < 10_000 else 64

    def lets_pass(shown: str) -> bool | None:
        # Else a token that was made since it last heard may be one that it was not told of: 503.
        asked.apply(current=True)
        now = int(time.time())
        claims = Claims("AGIATEST01", "agi", shown, now - 1, now + SECONDS)
        bearer = shown if api_keys.is_one(shown) else tokens.mint(claims, SIGNING)
        status = Caller(deployment).call(bearer).status_code
        return {200: True, 401: False, 503: None}[status]

    with recording() as upstream, ExitStack() as stack:
        deployment = Local(upstream.url, {"ACTIVE_TOKEN_MEMORY": f"{megabytes}m"})
        stack.callback(deployment.close)
        deployment.start("gateway")
        asked = Asked(deployment.internal, deployment.sync_key, lets_pass, lets_pass)
        wait_for(lambda: is_up(asked), 20, "the gateway listens")
        yield asked


def is_up(asked: Asked) -> bool:
    try:
        return bool(asked.state())
    except requests.ConnectionError:
        return False


def gateway_of(kind: str, most: int = 1_000_000) -> Any:
    return {"the fake": fake, "a real one": real}[kind](most)


@pytest.fixture(params=KINDS, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Asked]:
    """One that is ready, for all the questions that find it as they leave it."""
    with gateway_of(request.param) as asked:
        assert asked.put_keys().status == 200
        assert asked.put_policy().status == 200
        asked.whole_snapshot()
        assert asked.state()["ready"] is True
        yield asked


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest) -> Iterator[Asked]:
    """One that has just started."""
    with gateway_of(request.param) as asked:
        yield asked


@contextmanager
def unchanged(asked: Asked) -> Iterator[None]:
    """Nothing is written meanwhile."""
    before = asked.state()
    yield
    assert asked.state() == before


def refused(asked: Asked, status: int, answer: Answer) -> None:
    """What has not passed the checks is told nothing of the state."""
    assert (answer.status, answer.state) == (status, {})


# Who may speak


CHANGED: dict[str, Mapping[str, Any]] = {
    "no MAC": {"X-Portero-Mac": ""},
    "another MAC": {"X-Portero-Mac": "0" * 64},
    "a cut MAC": {"X-Portero-Mac": "0"},
    "no time": {"X-Portero-Time": ""},
    "another time": {"X-Portero-Time": str(time.time_ns())},
    "another body": {"body": b'{"activate": [] }'},
    "no body": {"body": b""},
    "another method and path": {"method": "GET", "path": "/sync/status"},
    "another path": {"path": "/sync/snapshot"},
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_message_that_was_changed_after_it_was_signed_is_401(shared: Asked, what: str) -> None:
    body = {"activate": [new()], "epoch": "other", "position": 77}
    with unchanged(shared):
        refused(shared, 401, shared.send("POST", "/sync/apply", body, sent=CHANGED[what]))


def test_a_mac_in_capitals_of_another_key_or_under_another_label_is_401(shared: Asked) -> None:
    at, body = str(time.time_ns()), b"{}"
    right = mac_of(shared.key, "POST", "/sync/apply", at, body)
    other_key = mac_of("another key" * 4, "POST", "/sync/apply", at, body)
    other_label = hmac.new(
        shared.key.encode(), f"portero-sync-2\nPOST\n/sync/apply\n{at}\n{{}}".encode(), "sha256"
    ).hexdigest()
    for mac in (right.upper(), other_key, other_label, right + "0", right[:-1]):
        sent = {"X-Portero-Mac": mac}
        refused(shared, 401, shared.send("POST", "/sync/apply", body, at, sent))
    assert shared.send("POST", "/sync/apply", body, at).status == 200


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(-33, 401), (-28, 200), (28, 200), (33, 401), (-3600, 401), (86400, 401)],
)
def test_a_message_is_taken_within_half_a_minute_of_its_time(
    shared: Asked, seconds: int, status: int
) -> None:
    at = str(time.time_ns() + seconds * 10**9)
    assert shared.send("POST", "/sync/apply", {}, at).status == status


@pytest.mark.parametrize(
    "at", ["-1", "1.7e18", "1700000000", "0x1797", "{now}x", "{now}.0", "9" * 400, "nan", "inf"]
)
def test_a_time_that_is_not_in_nanoseconds_is_401_however_well_it_is_signed(
    shared: Asked, at: str
) -> None:
    at = at.replace("{now}", str(time.time_ns()))
    refused(shared, 401, shared.send("POST", "/sync/apply", {}, at))


def test_a_message_is_good_for_one_use(shared: Asked) -> None:
    entry, at = new(), str(time.time_ns())
    body = {"activate": [entry]}
    assert shared.send("POST", "/sync/apply", body, at).status == 200
    shared.apply(revoke=[entry])
    with unchanged(shared):
        refused(shared, 409, shared.send("POST", "/sync/apply", body, at))
        refused(shared, 409, shared.send("POST", "/sync/apply", body, at))


def test_a_question_is_good_for_one_use_too(shared: Asked) -> None:
    at = str(time.time_ns())
    assert shared.send("GET", "/sync/status", at=at).status == 200
    refused(shared, 409, shared.send("GET", "/sync/status", at=at))


def test_a_message_whose_form_is_wrong_is_used_up_and_one_that_was_refused_is_not(
    shared: Asked,
) -> None:
    at = str(time.time_ns())
    refused(shared, 401, shared.send("POST", "/sync/apply", b"{", at, {"body": b"[1]"}))
    refused(shared, 400, shared.send("POST", "/sync/apply", b"{", at))
    refused(shared, 409, shared.send("POST", "/sync/apply", b"{", at))


# What is a message


@pytest.mark.parametrize(
    "line",
    [
        *("GET /sync/keys", "PUT /sync/keys", "POST /sync/keys/", "POST /sync/keys?x=1"),
        *("GET /sync/apply", "PUT /sync/apply", "POST /sync/apply/", "POST /sync/apply?x=1"),
        *("POST //sync/apply", "POST /sync/%61pply", "POST /SYNC/apply"),
        *("GET /sync/snapshot", "POST /sync/status", "POST /sync/other", "GET /sync/", "GET /sync"),
        *("POST /sync/servers", "GET /sync/servers/", "GET /sync/servers?x=1"),
        *("POST /sync/pool", "GET /sync/pool/", "GET /sync/pool?x=1"),
        *("GET /", "GET /healthz", "POST /v1/chat/completions"),
    ],
)
def test_anything_but_the_messages_is_404_however_well_it_is_signed(
    shared: Asked, line: str
) -> None:
    method, path = line.split(" ")
    with unchanged(shared):
        refused(shared, 404, shared.send(method, path, {"activate": [new()]}))
        refused(shared, 404, shared.send(method, path, {}, sent={"X-Portero-Mac": ""}))


@pytest.mark.parametrize("path", ["/sync/apply", "/sync/snapshot", "/sync/keys"])
@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "x", "1", '"x"', "null", "true", '{"activate":[}', "{} {}", "\ufeff{}"),
        *("[1]", "[null]", "[{}]", '[{"activate":[]}]', '[["activate",[]]]', "{'a':1}"),
    ],
)
def test_a_body_that_is_no_object_is_400(shared: Asked, path: str, body: str) -> None:
    with unchanged(shared):
        refused(shared, 400, shared.send("POST", path, body.encode()))


GOOD = f'["{"A" * 22}",{int(time.time()) + SECONDS}]'
B = "B" * 22


@pytest.mark.parametrize("name", ["activate", "revoke"])
@pytest.mark.parametrize(
    "listed",
    [
        *("1", '"x"', "true", "null", "[1]", '["x"]', "[null]", "[[]]", '[["x",1]]', "[[1,2]]"),
        *(f'[["{B}"]]', f'[["{B}","1"]]', f'[["{B}",1.5]]', f'[["{B}",null]]', f'[["{B}",true]]'),
        *(f'[["{B}x",1]]', f'[["{B[1:]}",1]]', f'[["{B[1:]}\\u0000",1]]', f'[["{B[1:]}=",1]]'),
        *(f'[{GOOD},["*",1]]', f"[{GOOD},1]", f'[["{B}",1e400]]', f'[["{B}",NaN]]'),
        *(f'[{{"jti":"{B}"}}]', f'{{"{B}":1}}', f'{{"1":["{B}",1]}}', '{"0":[]}', '{"":null}'),
    ],
)
def test_a_list_with_a_wrong_entry_is_400_and_not_even_the_good_ones_are_written(
    shared: Asked, name: str, listed: str
) -> None:
    other = "revoke" if name == "activate" else "activate"
    entry = new()
    lists = f'"{name}":{listed},"{other}":[{json.dumps(entry)}]'
    with unchanged(shared):
        for path, more in (("apply", '"epoch":"x","position":88'), ("snapshot", '"step":"begin"')):
            body = f"{{{lists},{more}}}".encode()
            refused(shared, 400, shared.send("POST", f"/sync/{path}", body))
    assert not shared.lets_pass(entry[0])


def test_what_is_larger_than_4_mib_is_413_and_what_is_not_is_read(shared: Asked) -> None:
    largest = b'{"epoch":"' + b"x" * (4 * 2**20 - 12) + b'"}'
    assert shared.send("POST", "/sync/apply", largest).status == 200
    with unchanged(shared):
        assert shared.send("POST", "/sync/apply", largest + b" ").status == 413


# The answer


def test_each_message_is_answered_with_the_same_fields(shared: Asked) -> None:
    generation = shared.snapshot("begin").state["newest"]
    part = {"generation": generation, "activate": [], "revoke": []}
    answers = [
        shared.send("GET", "/sync/status"),
        shared.apply(),
        shared.put_keys(),
        shared.snapshot("part", **part),
        shared.snapshot("end", generation=generation, epoch="e", position=1),
        shared.snapshot("end", generation=generation),
        shared.snapshot("other"),
    ]
    assert [answer.status for answer in answers] == [200] * 5 + [409, 400]
    assert {frozenset(answer.state) for answer in answers} == {frozenset(FIELDS)}
    state = answers[0].state
    assert {type(state[name]) for name in ("boot", "epoch", "keys")} == {str}
    assert all(type(state[name]) is int for name in ("least", "newest", "position", "free_bytes"))
    assert 0 < state["free_bytes"] <= state["capacity_bytes"]


# Changes


def test_a_token_is_active_once_it_was_told_and_until_it_is_revoked(shared: Asked) -> None:
    one, two = new(), new()
    assert shared.lets_pass(one[0]) is False
    assert shared.apply([one, two]).status == 200
    assert (shared.lets_pass(one[0]), shared.lets_pass(two[0])) == (True, True)
    assert shared.apply(revoke=[one]).status == 200
    assert (shared.lets_pass(one[0]), shared.lets_pass(two[0])) == (False, True)


@pytest.mark.parametrize("order", sorted(set(permutations("aarr"))))
def test_revoked_wins_over_active_in_every_order(shared: Asked, order: Sequence[str]) -> None:
    entry = new()
    for step in order:
        sent = {"activate": [entry]} if step == "a" else {"revoke": [entry]}
        assert shared.apply(**sent).status == 200
    assert shared.lets_pass(entry[0]) is False


def test_revoked_wins_in_one_message(shared: Asked) -> None:
    entry = new()
    assert shared.apply([entry], [entry]).status == 200
    assert shared.lets_pass(entry[0]) is False


def test_what_has_ended_is_taken_and_is_not_active(shared: Asked) -> None:
    jti, _ = new()
    now = int(time.time())
    assert shared.apply([(jti, now - 5)], [(new()[0], now - 5)]).status == 200
    assert shared.lets_pass(jti) is False


def test_an_entry_may_say_more_and_a_whole_number_may_be_written_as_a_fraction(
    shared: Asked,
) -> None:
    jti, end = new()
    body = f'{{"activate":[["{jti}",{end}.0,"more"]],"revoke":{{}},"more":"\\u0000\xff"}}'
    assert shared.send("POST", "/sync/apply", body.encode("latin-1")).status == 200
    assert shared.lets_pass(jti) is True


def test_the_position_moves_with_what_brings_one_and_with_nothing_else(shared: Asked) -> None:
    def seen(answer: Answer) -> tuple[Any, Any]:
        return answer.state["epoch"], answer.state["position"]

    assert seen(shared.apply(epoch="one", position=5)) == ("one", 5)
    for more in ({}, {"epoch": "two"}, {"current": True}):
        assert seen(shared.apply([new()], **more)) == ("one", 5)
    longest = "e" * 64
    assert seen(shared.apply(epoch=longest, position=2, current=True)) == (longest, 2)
    assert seen(shared.apply(epoch="", position=0)) == ("", 0)


@pytest.mark.parametrize(
    "mark",
    [
        *('"position":9', '"position":"9","epoch":"e"', '"position":null,"epoch":"e"'),
        *('"position":true,"epoch":"e"', '"position":[],"epoch":"e"', '"position":{},"epoch":"e"'),
        *('"position":9,"epoch":1', '"position":9,"epoch":null', '"position":9,"epoch":["e"]'),
        *('"position":1.5,"epoch":"e"', '"position":-1,"epoch":"e"', '"position":1e14,"epoch":"e"'),
        f'"position":9,"epoch":"{"e" * 65}"',
    ],
)
def test_a_position_that_is_none_is_400_and_nothing_of_its_message_is_written(
    shared: Asked, mark: str
) -> None:
    entry = new()
    with unchanged(shared):
        body = f'{{{mark},"activate":[{json.dumps(entry)}]}}'.encode()
        assert shared.send("POST", "/sync/apply", body).status == 400
    assert shared.lets_pass(entry[0]) is False


# Snapshots


def test_a_snapshot_hides_what_it_does_not_name_at_its_end_and_no_sooner(shared: Asked) -> None:
    gone, named, late = new(), new(), new()
    shared.apply([gone, named])
    state = shared.snapshot("begin").state
    generation = state["newest"]
    assert state["least"] < generation
    shared.snapshot("part", generation=generation, activate=[named], revoke=[])
    shared.apply([late])
    assert [shared.lets_pass(one[0]) for one in (gone, named, late)] == [True, True, True]
    ended = shared.snapshot("end", generation=generation, epoch="s", position=41)
    assert [ended.state[name] for name in ("least", "epoch", "position")] == [generation, "s", 41]
    assert [shared.lets_pass(one[0]) for one in (gone, named, late)] == [False, True, True]


def test_what_is_revoked_before_in_or_during_a_snapshot_stays_revoked(shared: Asked) -> None:
    before, within, during = new(), new(), new()
    shared.apply(revoke=[before])
    generation = shared.snapshot("begin").state["newest"]
    shared.apply(revoke=[during])
    part = {"generation": generation, "activate": [before, within, during], "revoke": [within]}
    assert shared.snapshot("part", **part).status == 200
    assert shared.snapshot("part", **part).status == 200
    shared.snapshot("end", generation=generation, epoch="s", position=42)
    assert [shared.lets_pass(one[0]) for one in (before, within, during)] == [False, False, False]


@pytest.mark.parametrize("of", ["the one before", "the next", "a text", "half", "true", "none"])
def test_a_part_or_an_end_of_another_generation_than_the_newest_is_409(
    shared: Asked, of: str
) -> None:
    newest = shared.snapshot("begin").state["newest"]
    others = {"the one before": newest - 1, "the next": newest + 1, "a text": str(newest)}
    generation = {**others, "half": newest + 0.5, "true": True, "none": None}[of]
    entry = new()
    with unchanged(shared):
        part = {"generation": generation, "activate": [entry], "revoke": []}
        assert shared.snapshot("part", **part).status == 409
        end = {"generation": generation, "epoch": "s", "position": 43}
        assert shared.snapshot("end", **end).status == 409


@pytest.mark.parametrize("mark", [{}, {"position": 3}, {"epoch": "s"}, {"epoch": 1, "position": 3}])
def test_an_end_that_does_not_say_how_far_it_brings_is_409(
    shared: Asked, mark: Mapping[str, Any]
) -> None:
    generation = shared.snapshot("begin").state["newest"]
    with unchanged(shared):
        assert shared.snapshot("end", generation=generation, **mark).status == 409


@pytest.mark.parametrize("step", ["", "Begin", "other", None, 1, True, [], {}])
def test_another_step_of_a_snapshot_is_400(shared: Asked, step: Any) -> None:
    with unchanged(shared):
        assert shared.send("POST", "/sync/snapshot", {"step": step}).status == 400
        assert shared.send("POST", "/sync/snapshot", {}).status == 400


# Keys


def test_keys_replace_the_ones_before_and_an_older_list_of_the_same_history_is_409(
    shared: Asked,
) -> None:
    history = secrets.token_hex(8)
    for serial in (5, 5, 7):
        assert shared.put_keys(serial, history).state["keys"] == f"{history}:{serial}"
    with unchanged(shared):
        assert shared.put_keys(6, history).status == 409
        assert shared.put_keys(0, history).status == 409
    assert shared.put_keys(1, "another:history").state["keys"] == "another:history:1"


def test_a_token_of_a_key_that_is_listed_no_more_does_not_pass(shared: Asked) -> None:
    entry, history = new(), secrets.token_hex(8)
    shared.apply([entry])
    assert shared.put_keys(1, history).status == 200
    assert shared.lets_pass(entry[0]) is True
    for algorithm in keys.ALGORITHMS:
        key = keys.new_key(algorithm)
        assert shared.put_keys(2, history, [as_listed(key)]).status == 200, algorithm
        assert shared.lets_pass(entry[0]) is False
    assert shared.put_keys(3, history).status == 200
    assert shared.lets_pass(entry[0]) is True


BAD_LISTS: dict[str, Any] = {
    "empty": [],
    "no list": "x",
    "an entry that is none": ["x"],
    "without a kid": [{"alg": "HS256", "key": "QUFB" * 16}],
    "a kid that is a number": [as_listed(SIGNING, kid=1)],
    "without a key": [{"alg": "HS256", "kid": "k"}],
    "no algorithm": [as_listed(SIGNING, alg="none")],
    "an unknown algorithm": [as_listed(SIGNING, alg="HS1")],
    "a short secret": [as_listed(SIGNING, key="QUFB")],
    "no public key": [as_listed(SIGNING, alg="EdDSA")],
    "a public key of another algorithm": [as_listed(keys.new_key("ES256"), alg="EdDSA")],
    "a bad one behind a good one": [as_listed(SIGNING), as_listed(SIGNING, kid="k", key="")],
}


@pytest.mark.parametrize("what", BAD_LISTS)
def test_one_bad_key_refuses_its_whole_list_with_400(shared: Asked, what: str) -> None:
    with unchanged(shared):
        assert shared.put_keys(9, "bad", BAD_LISTS[what]).status == 400


@pytest.mark.parametrize(
    "changed",
    [
        *({"history": None}, {"history": 1}, {"serial": None}, {"serial": "1"}, {"serial": True}),
        *({"sealed": None}, {"sealed": 1}, {"sealed": ""}, {"sealed": "AAAA"}, {"sealed": "*"}),
    ],
    ids=str,
)
def test_keys_whose_form_is_wrong_are_400(shared: Asked, changed: Mapping[str, Any]) -> None:
    sealed = seal(shared.key.encode(), json.dumps({"keys": [as_listed(SIGNING)]}).encode())
    body = {"history": "form", "serial": 1, "sealed": sealed, **changed}
    with unchanged(shared):
        assert shared.send("POST", "/sync/keys", body).status == 400


def test_keys_that_are_sealed_with_another_key_or_were_changed_are_400(shared: Asked) -> None:
    text = json.dumps({"keys": [as_listed(SIGNING)]}).encode()
    good, other = seal(shared.key.encode(), text), seal(b"another key of the sync", text)
    with unchanged(shared):
        for sealed in (other, "A" + good[1:] if good[0] != "A" else "B" + good[1:]):
            body = {"history": "sealed", "serial": 1, "sealed": sealed}
            assert shared.send("POST", "/sync/keys", body).status == 400


NAMES: list[tuple[Any, Any]] = [
    *((None, 1), (1, 1), ([], 1), ("two\nlines", 1)),
    *(("h", None), ("h", "1"), ("h", True), ("h", -1), ("h", 1.5), ("h", 2**53), ("h", 1e300)),
]


@pytest.mark.parametrize("push", [Asked.put_keys, Asked.put_policy])
@pytest.mark.parametrize(("history", "serial"), NAMES)
def test_what_is_not_named_by_a_line_and_a_whole_number_is_400(
    shared: Asked, push: Callable[..., Answer], history: Any, serial: Any
) -> None:
    with unchanged(shared):
        assert push(shared, serial, history).status == 400


# The policy


def test_a_policy_of_any_size_that_a_message_may_have_takes_the_place_of_any_other(
    shared: Asked,
) -> None:
    history = secrets.token_hex(8)
    for serial, kib in enumerate((4_000, 10, 2_000, 4_000, 3_000, 4_000)):
        large = {**shipped_policy().compiled, "more": "x" * (kib * 1024)}
        assert shared.put_policy(serial, history, large).state["policy"] == f"{history}:{serial}"
    assert shared.put_policy(9, history).status == 200


def test_an_older_policy_never_takes_the_place_of_a_newer_one(shared: Asked) -> None:
    assert shared.put_policy(serial=5, history="p").state["policy"] == "p:5"
    assert shared.put_policy(serial=4, history="p").status == 409
    assert shared.put_policy(serial=5, history="p").status == 200
    assert shared.state()["policy"] == "p:5"
    assert shared.put_policy(serial=2, history="another").state["policy"] == "another:2"


TABLES = ("roles", "users", "routes")
WRONG_ROUTES: list[Any] = [None, 1, "text", {}]
NO_POLICIES: list[Any] = [
    *(None, "text", 1, True, [], {}),
    *({name: None} for name in TABLES),
    *({name: "text"} for name in TABLES),
    *({"roles": {"agi": wrong}} for wrong in (None, 1, "text")),
    *({"users": {"AGIATEST01": wrong}} for wrong in (None, 1, True)),
    *({"routes": [wrong]} for wrong in WRONG_ROUTES),
]


@pytest.mark.parametrize("wrong", NO_POLICIES, ids=str)
def test_what_is_no_policy_is_400_and_the_former_stays(shared: Asked, wrong: Any) -> None:
    policy = {**shipped_policy().compiled, **wrong} if isinstance(wrong, dict) and wrong else wrong
    body = {"history": "wrong", "serial": 7, "policy": policy}
    with unchanged(shared):
        assert shared.send("POST", "/sync/policy", body).status == 400


# API keys


def record(key: str, **changes: Any) -> dict[str, Any]:
    """What a gateway must know of a key."""
    made_at = int(time.time()) - 1
    return {"digest": api_keys.digest(key), "sub": "AGIATEST01", "iat": made_at, **changes}


def entry_of(key: str, **changes: Any) -> tuple[str, int, dict[str, Any]]:
    return api_keys.id_of(key), int(time.time()) + SECONDS, record(key, **changes)


def test_an_api_key_is_activated_and_revoked_as_a_token_is(shared: Asked) -> None:
    key, other = api_keys.new(), api_keys.new()
    forged = other[:11] + key[11:27] + other[27:]
    entry = entry_of(key, models=["tiny"])
    assert shared.lets_pass(key) is False
    assert shared.apply([entry]).status == 200
    assert [shared.lets_pass(one) for one in (key, forged, other)] == [True, False, False]
    assert shared.apply([entry]).status == 200
    assert shared.apply(revoke=[entry[:2]]).status == 200
    assert shared.lets_pass(key) is False
    assert shared.apply([entry]).status == 200
    assert shared.lets_pass(key) is False, "revoked wins"


def test_a_snapshot_has_api_keys_among_its_tokens(empty: Asked) -> None:
    key, gone, token = api_keys.new(), api_keys.new(), new()
    for step in ("keys", "policy"):
        STEPS[step](empty)
    assert empty.apply([entry_of(gone)]).status == 200
    empty.whole_snapshot([entry_of(key), token])
    assert empty.lets_pass(key) is True
    assert empty.lets_pass(token[0]) is True
    assert empty.lets_pass(gone) is False


KEY = api_keys.new()
NO_RECORDS = [
    None,
    "x",
    {},
    record(KEY, digest="0" * 63),
    record(KEY, digest="z" * 64),
    record(KEY, sub=None),
    record(KEY, iat="1"),
    record(KEY, iat=1.5),
    record(KEY, models=[]),
    record(KEY, models=[1]),
    record(KEY, models="tiny"),
]


@pytest.mark.parametrize("wrong", NO_RECORDS, ids=str)
def test_a_message_with_a_key_of_which_too_little_is_known_is_400(
    shared: Asked, wrong: Any
) -> None:
    entry = (api_keys.id_of(KEY), int(time.time()) + SECONDS)
    good = new()
    with unchanged(shared):
        assert shared.apply([good, (*entry, wrong)]).status == 400
        assert shared.apply([good, entry]).status == 400
    assert shared.lets_pass(good[0]) is False


def test_it_tells_when_keys_were_used_to_who_asks_for_that(shared: Asked) -> None:
    answer = shared.send("GET", "/sync/uses")
    assert answer.status == 200
    assert answer.state.keys() == FIELDS | {"uses"}
    assert not {key for key in answer.state["uses"] if len(key) != 16}


# What was used


def usage_of(asked: Asked, taken: int, boot: str = "") -> Any:
    """A fetch: the batch; None where there is none."""
    body = {"boot": boot or asked.state()["boot"], "taken": taken}
    answer = asked.send("POST", "/sync/usage", body)
    assert answer.status == 200
    assert answer.state.keys() - FIELDS <= {"usage"}
    return answer.state.get("usage")


def test_what_was_used_is_one_batch_until_the_next_fetch_says_that_it_is_kept(
    empty: Asked,
) -> None:
    assert empty.put_keys().status == 200
    assert empty.put_policy().status == 200
    token = new()
    empty.whole_snapshot([token])
    assert usage_of(empty, 0) is None
    empty.use(token[0])
    first = wait_for(lambda: usage_of(empty, 0), 10, "it is counted")
    day = time.strftime("%Y-%m-%d", time.gmtime())
    assert first == {"number": 1, "rows": [[day, "AGIATEST01", "token", "tiny", "llm", 1, 3, 1]]}
    assert usage_of(empty, 0) == first
    assert usage_of(empty, 5, boot="another life") == first
    assert usage_of(empty, 1) is None
    empty.use(token[0])
    second = wait_for(lambda: usage_of(empty, 1), 10, "it is counted")
    assert second == {**first, "number": 2}


@pytest.mark.parametrize(
    "wrong", [{}, {"boot": "b"}, {"boot": 1, "taken": 1}, {"boot": "b", "taken": -1}], ids=str
)
def test_a_fetch_of_what_was_used_that_does_not_say_what_is_kept_is_400(
    shared: Asked, wrong: Any
) -> None:
    assert shared.send("POST", "/sync/usage", wrong).status == 400


# What is spent of budgets


def spent(asked: Asked, **changes: Any) -> int:
    """What is told of it, with changes; the status."""
    told: dict[str, Any] = {
        "boot": asked.state()["boot"],
        "number": 0,
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": [["u:AGIATEST01", 5, 7, []], ["g:team", 5, 7, ["AGIATEST01"]]],
        "complete": True,
    }
    return asked.send("POST", "/sync/spent", {**told, **changes}).status


def test_what_is_spent_is_taken_by_the_life_that_it_is_told_to(shared: Asked) -> None:
    assert [spent(shared), spent(shared), spent(shared, rows=[])] == [200, 200, 200]
    assert spent(shared, boot="another life") == 409


@pytest.mark.parametrize(
    "wrong",
    [
        *({"boot": 1}, {"number": -1}, {"number": "1"}, {"day": "today"}, {"day": 1}),
        *({"rows": 1}, {"rows": [["u:a", 1]]}, {"rows": [["u:a", 1, -1]]}, {"rows": [[1, 1, 1]]}),
    ],
    ids=str,
)
def test_what_is_told_of_budgets_in_another_form_is_400(shared: Asked, wrong: Any) -> None:
    assert spent(shared, **wrong) == 400


# Limits of a minute that gateways share


def test_what_others_have_counted_of_limits_is_taken_again_and_again(shared: Asked) -> None:
    for rows in ([["r:AGIATEST01", 5, 59.5]], [["r:AGIATEST01", 4, 60]], [["t:AGIATEST02", 1, 1]]):
        answer = shared.send("POST", "/sync/limits", {"rows": rows})
        assert answer.status == 200
        assert answer.state.keys() == FIELDS, "nothing was counted there"


@pytest.mark.parametrize(
    "rows",
    [
        *(1, [1], [["r:a", 1]], [["r:a", -1, 1]], [["r:a", 1, 0]], [["r:a", 1, 61]]),
        *([["s:a", 1, 1]], [["r:", 1, 1]], [["r:a", "1", 1]]),
    ],
    ids=str,
)
def test_what_is_told_of_limits_in_another_form_is_400(shared: Asked, rows: Any) -> None:
    assert shared.send("POST", "/sync/limits", {"rows": rows}).status == 400


# One that starts empty


STEPS: dict[str, Callable[[Asked], object]] = {
    "keys": Asked.put_keys,
    "policy": Asked.put_policy,
    "snapshot": Asked.whole_snapshot,
}


@pytest.mark.parametrize("order", list(permutations(STEPS)), ids=" ".join)
def test_it_is_ready_when_it_has_all_and_no_sooner(empty: Asked, order: Sequence[str]) -> None:
    state = empty.state()
    assert [state[name] for name in ("newest", "least", "position", "epoch")] == [0, 0, 0, ""]
    assert (state["keys"], state["policy"]) == ("", "")
    entry = new()
    assert empty.apply([entry]).status == 200
    assert empty.snapshot("part", generation=0, activate=[], revoke=[]).status == 409
    for step in order:
        assert empty.state()["ready"] is False
        assert empty.lets_pass(entry[0]) is None
        STEPS[step](empty)
    assert empty.state()["ready"] is True
    assert empty.lets_pass(entry[0]) is False, "the snapshot did not name it"


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_full_says_507_drops_nothing_and_writes_what_fits(kind: str) -> None:
    with gateway_of(kind, 5_000) as gateway:
        gateway.put_keys()
        gateway.put_policy()
        kept = new()
        gateway.whole_snapshot([kept])
        while gateway.apply([new() for _ in range(400)], epoch="e", position=5).status == 200:
            assert gateway.state()["position"] == 5
        over = new()
        answer = gateway.apply([over, kept], epoch="e", position=9)
        assert (answer.status, answer.state["position"]) == (507, 5)
        assert gateway.apply(revoke=[new()], epoch="e", position=9).status == 507
        assert gateway.lets_pass(over[0]) is False
        assert gateway.lets_pass(kept[0]) is True
        assert gateway.apply(revoke=[over, kept], epoch="e", position=9).status == 507
        assert gateway.lets_pass(kept[0]) is False
        generation = gateway.snapshot("begin").state["newest"]
        part = {"generation": generation, "activate": [new()], "revoke": []}
        assert gateway.snapshot("part", **part).status == 507
        assert gateway.apply([], [], epoch="e", position=10).state["position"] == 10
