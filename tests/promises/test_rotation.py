"""Keys that change while all runs: no live token is refused, none of a retired key is served."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from issuer import config, tokens
from issuer.keys import Key
from issuer.keys.key_file import GONE, SIGNING, WAITING, Entry, KeyFile
from issuer.tokens import Claims
from tests.promises.conftest import Figure, size
from tests.promises.recorder import Recorder
from tests.promises.stores import ROLE, USER, insert
from tests.promises.test_network import _messages, behind_a_link
from tests.support.deployment import Caller, Local, deployed
from tests.support.fake_gateway import unseal
from tests.support.forge import parts
from tests.support.gateways import another_gateway, push_to
from tests.support.history import SERVED, Operation, check
from tests.support.link import linked
from tests.support.policies import shipped_policy
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

LOGGING_IN, USING_ONE = 4, 16
#: How many of its last tokens a client goes on using.
KEPT = 6
ALGORITHMS = ("HS256", "EdDSA")
KEYS_ADD_WAITS_SECONDS = 10


def entries(deployment: Local) -> Sequence[Entry]:
    """The key list as it is on disk."""
    return KeyFile(deployment.data / config.KEY_FILE, "", b"", lambda: 0).read().entries


def state_of(deployment: Local, kid: str) -> str:
    return next(entry.state for entry in entries(deployment) if entry.kid == kid)


def signing_kid(deployment: Local) -> str:
    return next(entry.kid for entry in entries(deployment) if entry.state == SIGNING)


def key_of(deployment: Local, kid: str) -> Key:
    """A key itself, while the file still has it."""
    return next(entry.key() for entry in entries(deployment) if entry.kid == kid)


def kid_of(token: str) -> str:
    return str(parts(token)[0]["kid"])


def jti_of(token: str) -> str:
    return str(parts(token)[1]["jti"])


class Load:
    """Clients that log in and use their tokens, old ones too, until they are told to stop."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        #: In the order in which their logins answered; one list, appended by all.
        self.tokens: list[str] = []
        self._stop = threading.Event()

    def client(self) -> None:
        mine: list[str] = []
        while not self._stop.is_set():
            token = self.recorder.login()
            if not token:
                self._stop.wait(0.02)
                continue
            self.tokens.append(token)
            mine = [*mine, token][-KEPT:]
            for one in mine:
                self.recorder.use(one)

    def stop(self) -> None:
        self._stop.set()

    def more(self, count: int) -> None:
        """Return when so many more have logged in."""
        wanted = len(self.tokens) + count
        wait_for(lambda: len(self.tokens) >= wanted, 60, "logins go on")


@contextmanager
def under_load(deployment: Local) -> Iterator[Load]:
    load = Load(Recorder(deployment))
    with ThreadPoolExecutor(LOGGING_IN) as pool:
        running = [pool.submit(load.client) for _ in range(LOGGING_IN)]
        try:
            yield load
        finally:
            load.stop()
        for one in running:
            one.result()


def served(history: Sequence[Operation], jtis: set[str], since: float = 0.0) -> list[Operation]:
    """Requests of these tokens that began after a time and were served."""
    return [
        one
        for one in history
        if one.kind == "request" and one.jti in jtis and one.began > since and one.status in SERVED
    ]


def sessions(deployment: Local, ttl: int, count: int) -> list[Claims]:
    """Claims whose sessions are in the store, as if by login: only their key can betray them. The
    gateway gets them in their order.
    """
    role = shipped_policy(ttl).roles.named(ROLE)
    assert role is not None
    claims = [tokens.new_claims(USER, role, int(time.time())) for _ in range(count)]
    insert(deployment, claims)
    return claims


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_k2_a_rotation_under_load_refuses_no_live_token_and_its_end_accepts_none_of_the_old_key(
    upstream: Upstream, figure: Figure, algorithm: str
) -> None:
    ttl = size(6, 30)
    settings = {"JWT_ALGORITHM": algorithm, "TOKEN_TTL_SECONDS": str(ttl)}
    with deployed(upstream.url, **settings) as deployment:
        old = signing_kid(deployment)
        old_key = key_of(deployment, old)
        with under_load(deployment) as load:
            load.more(size(8, 100))
            began = time.time()
            assert deployment.command("keys", "add").returncode == 0
            turned = time.time()
            new = signing_kid(deployment)
            before = len(load.tokens)
            # Logins are quick: the clients may hold none of the old key any more.
            load.recorder.use([one for one in load.tokens if kid_of(one) == old][-1])
            load.more(LOGGING_IN)  # whoever was in the middle of a login may still have the old key
            load.more(size(8, 100))
            caller = Caller(deployment)
            (claims,) = sessions(deployment, ttl, 1)
            while_it_verifies = tokens.mint(claims, old_key)
            wait_for(lambda: caller.call(while_it_verifies).status_code == 200, 5, "it verifies")
            wait_for(lambda: state_of(deployment, old) == GONE, 2 * ttl + 10, "it is gone")
            load.more(size(8, 100))
        after = load.tokens[before + LOGGING_IN :]
        history = load.recorder.history

        assert kid_of(load.tokens[0]) == old != new
        assert {kid_of(token) for token in load.tokens} == {old, new}
        assert {kid_of(token) for token in after} == {new}
        assert check(history) == []
        of_old = {jti_of(token) for token in load.tokens if kid_of(token) == old}
        assert served(history, of_old, since=turned), "tokens of the old key keep working"

        *retired, last = sessions(deployment, ttl, 20)
        control = tokens.mint(last, key_of(deployment, new))
        wait_for(lambda: caller.call(control).status_code == 200, 5, "all are active")
        attempts = [tokens.mint(claims, old_key) for claims in retired]
        statuses = [caller.call(token).status_code for token in attempts * 2]
        assert set(statuses) == {401}
        assert {caller.validate(token) for token in attempts} == {401}
        assert (caller.call(control).status_code, caller.validate(control)) == (200, 200)
    requests = [one for one in history if one.kind == "request"]
    figure(
        f"rotation, {algorithm}: requests, live tokens refused, of the old key accepted after",
        f"{len(requests)}, 0, {sum(status == 200 for status in statuses)} of {len(statuses)}",
    )
    figure(f"rotation, {algorithm}: keys add took", f"{turned - began:.2f} s")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_is_retired_at_once_takes_its_tokens_with_it_on_every_worker(
    upstream: Upstream, figure: Figure, algorithm: str
) -> None:
    rounds = size(3, 30)
    settings = {"JWT_ALGORITHM": algorithm, "GATEWAY_WORKERS": "4"}
    with deployed(upstream.url, **settings) as deployment:
        recorder = Recorder(deployment)
        with ThreadPoolExecutor(USING_ONE) as clients:
            for _ in range(rounds):
                _retire_round(deployment, recorder, clients)
        after = recorder.login()
        assert recorder.use(after) == 200
    assert check(recorder.history) == []
    ends = {one.jti: one.ended for one in recorder.history if one.kind == "revoke"}
    late = [served(recorder.history, {jti}, since=ended) for jti, ended in ends.items()]
    assert len(ends) == rounds
    passed = sum(one.status in SERVED for one in recorder.history if one.kind == "request")
    figure(
        f"keys retire --now, {algorithm}: rounds, requests passed, passed after it answered",
        f"{rounds}, {passed}, {sum(map(len, late))}",
    )


def _retire_round(deployment: Local, recorder: Recorder, clients: ThreadPoolExecutor) -> None:
    """Sixteen clients use a token of the key that signs, while that key is retired."""
    token = recorder.login()
    stop = threading.Event()
    statuses: list[int] = []

    def use() -> None:
        while not stop.is_set():
            statuses.append(recorder.use(token))

    running = [clients.submit(use) for _ in range(USING_ONE)]
    try:
        wait_for(lambda: statuses.count(200) >= USING_ONE, 10, "every client got through")
        began = time.time()
        done = deployment.command("keys", "retire", kid_of(token), "--now")
        recorder.history.append(Operation("revoke", jti_of(token), began, time.time(), 200))
        assert done.returncode == 0
        answered = len(statuses)
        wait_for(lambda: len(statuses) >= answered + 3 * USING_ONE, 10, "they went on asking")
    finally:
        stop.set()
    for one in running:
        one.result()
    assert Caller(deployment).validate(token) == 401
    assert state_of(deployment, kid_of(token)) == GONE


def test_a_new_key_does_not_sign_before_a_gateway_that_is_away_has_it(
    upstream: Upstream, figure: Figure
) -> None:
    with (
        deployed(upstream.url) as deployment,
        another_gateway(deployment) as (second, internal),
        linked(internal) as link,
    ):
        push_to(deployment, second, link.url)
        first, other = Recorder(deployment), Recorder(deployment, second)
        old = signing_kid(deployment)

        link.become("cut")
        began = time.monotonic()
        done = deployment.command("keys", "add", check=False)
        seconds = time.monotonic() - began
        assert done.returncode == 2
        assert "has not acknowledged" in done.stderr
        assert seconds >= KEYS_ADD_WAITS_SECONDS
        added = entries(deployment)[-1].kid
        assert state_of(deployment, added) == WAITING
        made = [first.login() for _ in range(5)]
        assert {kid_of(token) for token in made} == {old}
        assert {first.use(token) for token in made} == {200}
        again = deployment.command("keys", "add", check=False)
        assert again.returncode == 1

        link.become("pass")
        wait_for(lambda: signing_kid(deployment) == added, 10, "it signs at last")
        healed = first.login()
        assert kid_of(healed) == added
        assert [recorder.use(healed) for recorder in (first, other)] == [200, 200]
        assert {other.use(token) for token in made} == {200}
    assert check(first.history) == []
    figure("keys add with a gateway away: exit status 2 after", f"{seconds:.1f} s")


def test_an_eddsa_gateway_is_sent_no_private_key_and_cannot_find_one(
    upstream: Upstream, figure: Figure
) -> None:
    with behind_a_link(upstream, JWT_ALGORITHM="EdDSA") as (deployment, link):
        assert deployment.command("keys", "add").returncode == 0
        recorder = Recorder(deployment)
        assert recorder.use(recorder.login()) == 200
        private = [entry.key().signing for entry in entries(deployment)]
        messages = [one for said in link.recorded for one in _messages(bytes(said))]
        lists = [_unsealed(deployment, one) for one in messages if b"/sync/keys " in one[:40]]
        seeds = [
            key.private_bytes(
                serialization.Encoding.Raw,
                serialization.PrivateFormat.Raw,
                serialization.NoEncryption(),
            )
            for key in private
        ]
        assert len(private) == 2
        assert {len(listed["keys"]) for listed in lists} == {1, 2}
        for listed in lists:
            for one in listed["keys"]:
                assert one.keys() == {"kid", "alg", "key"}
                der = base64.b64decode(one["key"])
                public = serialization.load_der_public_key(der)
                assert isinstance(public, ed25519.Ed25519PublicKey)
                assert not any(seed in der for seed in seeds)

        memories = [_memory(pid) for pid in _processes(deployment)]
        known = deployment.sync_key.encode()
        assert all(known in memory for memory in memories), "what is there is found"
        secrets = [form for seed in seeds for form in _forms(seed)]
        assert not any(form in memory for memory in memories for form in secrets)
    figure("private keys sent to an EdDSA gateway, or in its memory", f"0 in {len(lists)} lists, 0")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_neither_environment_nor_command_line_of_a_gateway_leads_to_the_key_that_signs(
    upstream: Upstream, algorithm: str
) -> None:
    """nginx writes its title over what /proc shows of its environment: its memory has it all."""
    with deployed(upstream.url, JWT_ALGORITHM=algorithm) as deployment:
        paths = [
            str(deployment.data / "secret_key"),
            str(deployment.data / "secrets" / "secret_key"),
            str(deployment.data / config.KEY_FILE),
        ]
        clues = [deployment.secret_key, "SECRET_KEY=", "SECRET_KEY_FILE=", *paths]
        for pid in _processes(deployment):
            said = Path(f"/proc/{pid}/cmdline").read_bytes()
            said += Path(f"/proc/{pid}/environ").read_bytes()
            assert not [clue for clue in clues if clue.encode() in said]
            memory = _memory(pid)
            assert b"SYNC_KEY_FILE=" in memory, "what is there is found"
            # HMAC is the same key on both sides; that it is in memory is no fault.
            wanted = clues[1:] if algorithm == "HS256" else clues
            assert not [clue for clue in wanted if clue.encode() in memory]


def _processes(deployment: Local) -> list[int]:
    return [deployment.pid("gateway"), *deployment.workers("gateway")]


def _memory(pid: int) -> bytes:
    """All that a process could write to and see: heap, stack, shared memory."""
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(word, 16) for word in span.split("-"))
            try:
                memory.seek(start)
                found.append(memory.read(end - start))
            except OSError:
                continue  # of the kernel's own
    return b"\n".join(found)


def _forms(seed: bytes) -> list[bytes]:
    """How an Ed25519 seed may be written: raw, base64 of it, and within PKCS #8."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    pkcs8 = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    encoded = base64.b64encode(seed).rstrip(b"=")
    return [seed, encoded, base64.urlsafe_b64encode(seed).rstrip(b"="), pkcs8.splitlines()[1]]


def _unsealed(deployment: Local, message: bytes) -> dict[str, list[dict[str, str]]]:
    sealed = json.loads(message.partition(b"\r\n\r\n")[2])["sealed"]
    listed: dict[str, list[dict[str, str]]] = json.loads(unseal(deployment.sync_key, sealed))
    return listed


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_secret_key_changed_by_hand_refuses_all_old_tokens_and_no_new_one(
    upstream: Upstream, figure: Figure, algorithm: str
) -> None:
    with deployed(upstream.url, JWT_ALGORITHM=algorithm) as deployment:
        with under_load(deployment) as load:
            load.more(8)
            old = signing_kid(deployment)
            began = time.time()
            deployment.stop("issuer")
            (deployment.data / "secret_key").write_text(deployment.sync_key[::-1])
            deployment.start("issuer")
            wait_for(lambda: kid_of(load.tokens[-1]) != old, 30, "a login with the new key")
            ended = time.time()
            load.more(20)
        history = load.recorder.history
        of_old = [token for token in load.tokens if kid_of(token) == old]
        fresh = [token for token in load.tokens if kid_of(token) != old]
        # To the old ones it is a revocation, which had answered when the first new one was there.
        history += [Operation("revoke", jti_of(token), began, ended, 200) for token in of_old]
        assert check(history) == []
        caller = Caller(deployment)
        assert _verdicts(caller, of_old) == {401}
        assert _verdicts(caller, fresh) == {200}
        assert {kid_of(token) for token in fresh} == {signing_kid(deployment)}
        assert state_of(deployment, old) == GONE
    figure(
        f"SECRET_KEY changed, {algorithm}: old tokens served after, new ones refused",
        f"0 of {len(of_old)}, 0 of {len(fresh)}",
    )


def _verdicts(caller: Caller, some: Sequence[str]) -> set[int]:
    """What gateway and issuer say of tokens."""
    return {
        verdict
        for token in some
        for verdict in (caller.call(token).status_code, caller.validate(token))
    }
