"""The push client, against real listeners."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization

from issuer import keys
from issuer.keys.key_file import KeyFile
from issuer.sync import gateways
from issuer.sync.gateways import (
    FIRST_ANSWER_SECONDS,
    PUSH_SECONDS,
    Ack,
    Changes,
    Gateway,
    Gateways,
    mark_of,
    signature,
)
from tests.conftest import wait_until
from tests.support.fake_gateway import SYNC_KEY, FakeGateway, is_authentic, seal, unseal
from tests.support.listening import Message, Reply, listening
from tests.support.ports import listen
from tests.support.waiting import within

KEY = SYNC_KEY.encode()
JTI = "A" * 22
CHANGES = Changes(activate=[(JTI, 2_000_000_000)], revoke=[("B" * 22, 2_000_000_001)])


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """What a silent listener waits for; the test's end ends its silence."""
    over = threading.Event()
    yield over
    over.set()


def test_changes_are_sent_in_the_documented_form() -> None:
    with listening(FakeGateway().answer) as listener:
        ack = Gateway(listener.url, KEY).apply(CHANGES, epoch="e", position=7)
    (message,) = listener.messages
    assert (message.method, message.path) == ("POST", "/sync/apply")
    assert json.loads(message.body) == {
        "activate": [[JTI, 2_000_000_000]],
        "revoke": [["B" * 22, 2_000_000_001]],
        "epoch": "e",
        "position": 7,
    }
    assert ack == Ack(listener.url, ok=True, status=ack.status)
    assert ack.status["position"] == 7


def test_the_state_and_every_step_of_a_snapshot_are_sent_each_to_its_place() -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        gateway = Gateway(listener.url, KEY)
        acks = [
            gateway.state(),
            gateway.snapshot("begin"),
            gateway.snapshot("part", generation=1, activate=[(JTI, 2_000_000_000)], revoke=[]),
            gateway.snapshot("end", generation=1, epoch="e", position=3),
        ]
    assert all(ack.ok for ack in acks)
    assert [(message.method, message.path) for message in listener.messages] == [
        ("GET", "/sync/status"),
        *[("POST", "/sync/snapshot")] * 3,
    ]
    assert (model.active(), model.position) == ({JTI}, 3)


def test_every_message_is_authentic_and_none_is_like_another() -> None:
    with listening(lambda _: Reply()) as listener:
        gateway = Gateway(listener.url, KEY)
        for _ in range(5):
            gateway.apply(CHANGES)
            gateway.state()
    assert len(listener.messages) == 10
    assert all(is_authentic(message) for message in listener.messages)
    assert len({message.headers["x-portero-mac"] for message in listener.messages}) == 10


def test_the_mac_covers_method_path_time_and_body() -> None:
    signed = signature(KEY, "POST", "/sync/apply", b"{}")
    headers = {name.lower(): value for name, value in signed.items()}
    later = headers | {"x-portero-time": str(int(headers["x-portero-time"]) + 1)}
    message = Message("POST", "/sync/apply", headers, b"{}")
    assert is_authentic(message)
    assert not is_authentic(message, "another key")
    assert not is_authentic(message._replace(method="PUT"))
    assert not is_authentic(message._replace(path="/sync/status"))
    assert not is_authentic(message._replace(headers=later))
    assert not is_authentic(message._replace(body=b"{ }"))


def test_a_gateway_with_another_key_refuses_and_nothing_changes() -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        assert not Gateway(listener.url, b"another key").apply(CHANGES).ok
    assert not model.numbers


@pytest.mark.parametrize(
    ("reply", "ok", "full"),
    [
        (Reply(200, b'{"ready": true}'), True, False),
        (Reply(507, b"{}"), False, True),
        (Reply(401, b"{}"), False, False),
        (Reply(409, b"{}"), False, False),
        (Reply(500, b"{}"), False, False),
        (Reply(200, b"not JSON"), False, False),
        (Reply(200, b""), False, False),
        (Reply(200, b"[]"), False, False),
        (Reply(200, b"\xff"), False, False),
    ],
)
def test_only_a_whole_answer_with_200_is_an_acknowledgement(
    reply: Reply, ok: bool, full: bool
) -> None:
    with listening(lambda _: reply) as listener:
        ack = Gateway(listener.url, KEY).apply(CHANGES)
    assert (ack.ok, ack.full) == (ok, full)


def test_one_connection_serves_many_messages() -> None:
    with listening(lambda _: Reply()) as listener:
        gateway = Gateway(listener.url, KEY)
        assert all(gateway.apply(CHANGES).ok for _ in range(5))
    assert listener.connections == 1


def test_a_kept_connection_that_the_gateway_closed_costs_no_message() -> None:
    with listening(lambda _: Reply(hang_up=True)) as listener:
        gateway = Gateway(listener.url, KEY)
        assert all(gateway.apply(CHANGES).ok for _ in range(5))
    assert len(listener.messages) == 5
    assert listener.connections == 5


def test_a_connection_that_is_closed_under_a_message_costs_no_message() -> None:
    answered: set[int] = set()

    def only_the_first_of_a_connection(_: Message) -> Reply:
        if listener.connections in answered:
            return Reply(0)
        answered.add(listener.connections)
        return Reply()

    with listening(only_the_first_of_a_connection) as listener:
        gateway = Gateway(listener.url, KEY)
        assert all(gateway.apply(CHANGES).ok for _ in range(4))
    assert len(listener.messages) == 7
    macs = {message.headers["x-portero-mac"] for message in listener.messages}
    assert len(macs) == 7


def test_a_gateway_that_never_answers_is_asked_only_once_more() -> None:
    with listening(lambda _: Reply(0)) as listener:
        assert not Gateway(listener.url, KEY).apply(CHANGES).ok
    assert len(listener.messages) == 2


def test_no_redirect_is_followed() -> None:
    with (
        listening(lambda _: Reply()) as elsewhere,
        listening(lambda _: Reply(307, location=elsewhere.url + "/sync/apply")) as listener,
    ):
        assert not Gateway(listener.url, KEY).apply(CHANGES).ok
    assert not elsewhere.messages


def test_a_gateway_that_came_back_on_its_port_is_reached_at_once(free_port: int) -> None:
    gateway = Gateway(f"http://127.0.0.1:{free_port}", KEY)
    for _ in range(2):
        assert not gateway.apply(CHANGES).ok
        with listening(lambda _: Reply(hang_up=True), free_port):
            assert gateway.apply(CHANGES).ok


def test_a_gateway_that_is_down_is_a_failed_acknowledgement(free_port: int) -> None:
    ack = Gateway(f"http://127.0.0.1:{free_port}", KEY).apply(CHANGES)
    assert (ack.ok, ack.full, dict(ack.status)) == (False, False, {})


@pytest.mark.parametrize("url", ["http://no-such-host.invalid:1", "http://127.0.0.1:99999"])
def test_an_address_that_leads_nowhere_is_a_failed_acknowledgement(url: str) -> None:
    assert not Gateway(url, KEY).apply(CHANGES).ok


def test_a_silent_gateway_holds_a_message_no_longer_than_its_time(silence: threading.Event) -> None:
    def silent(_: Message) -> Reply:
        silence.wait(20)
        return Reply()

    with listening(silent) as listener:
        began = time.monotonic()
        assert not Gateway(listener.url, KEY).apply(CHANGES, timeout=0.2).ok
        took = time.monotonic() - began
        assert len(listener.messages) == 1
        silence.set()
    assert 0.2 <= took < within(1)


@contextmanager
def dripping(answer: bytes, at_once: int) -> Iterator[str]:
    """A listener whose answer comes a byte at a time but for its beginning; its address."""
    left = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer[:at_once])
            for byte in answer[at_once:]:
                left.wait(0.05)
                connection.sendall(bytes([byte]))

    with listen() as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        left.set()
        thread.join()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 200\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nc8\r\n", b"\r\n"]
)
@pytest.mark.parametrize("within_the_head", [True, False])
def test_an_answer_a_byte_at_a_time_holds_a_message_no_longer_than_its_time(
    head: bytes, within_the_head: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + head
    with dripping(head + b"{" + b" " * 199, 3 if within_the_head else len(head)) as url:
        began = time.monotonic()
        assert not Gateway(url, KEY).apply(CHANGES, timeout=0.3).ok
        took = time.monotonic() - began
    assert 0.3 <= took < within(0.8)


def test_the_second_attempt_has_no_time_of_its_own() -> None:
    def hang_up_late(_: Message) -> Reply:
        threading.Event().wait(0.3)
        return Reply(0)

    with listening(hang_up_late) as listener:
        began = time.monotonic()
        assert not Gateway(listener.url, KEY).apply(CHANGES, timeout=0.4).ok
        took = time.monotonic() - began
        assert len(listener.messages) == 2
    assert 0.4 <= took < within(0.6)


def test_what_is_large_has_longer_than_what_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "ROUND_SECONDS", 0.1)

    def late(_: Message) -> Reply:
        threading.Event().wait(0.3)
        return Reply()

    large = Changes([(f"{number:022}", 2_000_000_000) for number in range(5_000)])
    with listening(late) as listener:
        gateway = Gateway(listener.url, KEY)
        assert [gateway.state().ok, gateway.apply(CHANGES).ok] == [False, False]
        assert gateway.apply(large).ok


def test_however_many_wait_for_a_silent_gateway_the_others_are_told_at_once(
    silence: threading.Event,
) -> None:
    def silent(_: Message) -> Reply:
        silence.wait(20)
        return Reply()

    def push(_: int) -> tuple[list[bool], float]:
        began = time.monotonic()
        return [ack.ok for ack in both.apply(CHANGES)], time.monotonic() - began

    with (
        listening(silent) as slow,
        listening(lambda _: Reply()) as good,
        ThreadPoolExecutor(40) as callers,
    ):
        both = Gateways([slow.url, good.url], KEY)
        pushed = list(callers.map(push, range(40)))
        waited_for = len(slow.messages)
        silence.set()
    assert [acks for acks, _ in pushed] == [[False, True]] * 40
    assert max(took for _, took in pushed) < FIRST_ANSWER_SECONDS / 2
    assert waited_for < 40  # and what had not begun is given up


def test_a_silent_gateway_holds_a_push_no_longer_than_its_time(silence: threading.Event) -> None:
    def silent(_: Message) -> Reply:
        silence.wait(20)
        return Reply()

    with listening(silent) as slow, listening(lambda _: Reply()) as good:
        all_of_them = Gateways([slow.url, good.url], KEY)
        began = time.monotonic()
        acks = all_of_them.apply(CHANGES)
        took = time.monotonic() - began
        silence.set()
    assert [ack.ok for ack in acks] == [False, True]
    assert PUSH_SECONDS <= took < FIRST_ANSWER_SECONDS


def test_the_first_answer_is_waited_for_longer(silence: threading.Event) -> None:
    def late(_: Message) -> Reply:
        silence.wait(PUSH_SECONDS * 2)
        return Reply()

    def silent(_: Message) -> Reply:
        silence.wait(20)
        return Reply()

    with listening(late) as slow, listening(silent) as slower:
        acks = Gateways([slow.url, slower.url], KEY).apply(CHANGES)
        silence.set()
    assert [ack.ok for ack in acks] == [True, False]


def test_all_gateways_are_pushed_to_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=20)

    def wait_for_the_others(_: Message) -> Reply:
        together.wait()
        return Reply()

    with ExitStack() as stack:
        listeners = [stack.enter_context(listening(wait_for_the_others)) for _ in range(4)]
        urls = [listener.url for listener in listeners]
        acks = Gateways(urls, KEY).apply(CHANGES)
    assert [ack.url for ack in acks] == urls
    assert all(ack.ok for ack in acks)


def test_a_bad_gateway_spoils_no_other(free_port: int, silence: threading.Event) -> None:
    def silent(_: Message) -> Reply:
        silence.wait(20)
        return Reply()

    with listening(silent) as slow, listening(lambda _: Reply()) as good:
        urls = [slow.url, f"http://127.0.0.1:{free_port}", good.url]
        acks = Gateways(urls, KEY).apply(CHANGES)
        silence.set()
    assert [ack.ok for ack in acks] == [False, False, True]


def test_many_threads_may_push_through_one_client() -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        all_of_them = Gateways([listener.url], KEY)
        failed: list[Ack] = []

        def push(number: int) -> None:
            entry = (f"{number:022}", 2_000_000_000)
            failed.extend(ack for ack in all_of_them.apply(Changes([entry])) if not ack.ok)

        threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(model.numbers) == 16, "every thread's message arrived")
    assert not failed


def test_the_environment_sends_no_message_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    with listening(lambda _: Reply()) as listener:
        assert Gateway(listener.url, KEY).apply(CHANGES).ok


def test_no_key_shows_in_a_repr() -> None:
    assert SYNC_KEY not in repr(Gateway("http://x", KEY))


# Keys

ROOT = Path(__file__).resolve().parents[3]
#: The gateway's own way to open a seal: the sync key and each seal come as lines of hex.
OPEN = """
package.path = "openresty/lua/?.lua;" .. package.path
local crypto = require("portero.token.crypto")
local function read(line)
    return (line:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end
local key = assert(crypto.hmac("HS256", read(io.read()), "portero-keys-1"))
for line in io.lines() do
    local opened = crypto.unseal(key, "portero-keys-1", read(line))
    print(opened and opened:gsub(".", function(c) return ("%02x"):format(c:byte()) end) or "-")
end
"""


def opened_by_lua(sync_key: bytes, seals: Sequence[str]) -> list[bytes | None]:
    given = [sync_key.hex(), *(base64.b64decode(sealed).hex() for sealed in seals)]
    done = subprocess.run(
        ["luajit", "-e", OPEN],
        cwd=ROOT,
        input="\n".join(given) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    return [None if found == "-" else bytes.fromhex(found) for found in lines]


def test_the_gateway_opens_what_is_sealed_here() -> None:
    texts = [bytes([number % 256]) * number for number in (1, 2, 15, 16, 17, 33, 1000, 50_000)]
    texts += [json.dumps({"keys": [number]}).encode() for number in range(200)]
    assert opened_by_lua(KEY, [seal(KEY, text) for text in texts]) == texts


def test_the_gateway_opens_nothing_that_is_sealed_with_another_key_or_was_changed() -> None:
    sealed = seal(KEY, b"a list of keys")
    raw = base64.b64decode(sealed)
    changed = [
        base64.b64encode(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]).decode()
        for place in range(len(raw))
    ]
    bad = [seal(b"another sync key", b"a list of keys"), *changed]
    assert opened_by_lua(KEY, [*bad, sealed]) == [None] * len(bad) + [b"a list of keys"]


def test_the_same_text_is_sealed_differently_each_time() -> None:
    assert len({seal(KEY, b"text")[:16] for _ in range(1000)}) == 1000


def test_a_seal_shows_nothing_and_opens_with_the_sync_key_alone() -> None:
    sealed = seal(KEY, b"a secret of thirty-two bytes ...")
    assert b"secret" not in base64.b64decode(sealed)
    assert unseal(SYNC_KEY, sealed) == b"a secret of thirty-two bytes ..."
    with pytest.raises(InvalidTag):
        unseal("another sync key", sealed)


def test_the_keys_in_force_are_sent_with_the_name_of_their_list(key_file: KeyFile) -> None:
    added = key_file.add("EdDSA", 0)
    gone = key_file.read().entries[0]
    key_file.promote(added.kid, 0)
    key_file.retire(gone.kid, True, 0)
    waiting = key_file.add("HS512", 0)
    known = key_file.read()
    with listening(FakeGateway().answer) as listener:
        ack = Gateway(listener.url, KEY).put_keys(known)
    (message,) = listener.messages
    content = json.loads(message.body)
    assert (message.method, message.path) == ("POST", "/sync/keys")
    assert content.keys() == {"history", "serial", "sealed"}
    assert (content["history"], content["serial"]) == (known.history, known.serial)
    assert (ack.ok, ack.status["keys"]) == (True, mark_of(known))
    listed = json.loads(unseal(SYNC_KEY, content["sealed"]))["keys"]
    assert [(one["kid"], one["alg"]) for one in listed] == [
        (added.kid, "EdDSA"),
        (waiting.kid, "HS512"),
    ]


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_no_secret_crosses_the_wire_in_the_open(key_file: KeyFile, algorithm: str) -> None:
    entry = key_file.add(algorithm, 0)
    with listening(FakeGateway().answer) as listener:
        Gateway(listener.url, KEY).put_keys(key_file.read())
    (message,) = listener.messages
    for one in key_file.read().keyring():
        for secret in (keys.stored_form(one), one.verifying):
            assert secret not in message.body
            assert base64.b64encode(secret) not in message.body
    assert entry.secret.encode() not in message.body


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_gateway_is_sent_public_keys_only_where_there_are_any(
    key_file: KeyFile, algorithm: str
) -> None:
    added = key_file.add(algorithm, 0)
    model = FakeGateway()
    with listening(model.answer) as listener:
        Gateway(listener.url, KEY).put_keys(key_file.read())
    sent = model.keys[added.kid]
    assert sent[0] == algorithm
    assert serialization.load_der_public_key(sent[1])
    with pytest.raises((TypeError, ValueError)):
        serialization.load_der_private_key(sent[1], None)


def test_an_older_list_is_no_acknowledgement(key_file: KeyFile) -> None:
    older = key_file.read()
    key_file.add(None, 0)
    model = FakeGateway()
    with listening(model.answer) as listener:
        gateway = Gateway(listener.url, KEY)
        assert gateway.put_keys(key_file.read()).ok
        assert gateway.put_keys(key_file.read()).ok
        assert not gateway.put_keys(older).ok
    assert len(model.keys) == 2


def test_every_gateway_is_told_the_keys_and_one_that_is_down_is_named(
    key_file: KeyFile, free_port: int
) -> None:
    one, two = FakeGateway(), FakeGateway()
    down = f"http://127.0.0.1:{free_port}"
    with listening(one.answer) as first, listening(two.answer) as second:
        acks = Gateways([first.url, down, second.url], KEY).put_keys(key_file.read())
    assert [(ack.url, ack.ok) for ack in acks] == [
        (first.url, True),
        (down, False),
        (second.url, True),
    ]
    assert one.keys == two.keys != {}
