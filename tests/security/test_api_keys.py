"""One verdict on an API key, whoever is asked: 100,000 texts that are nearly one, and what others
fell for (threats N1, N3, N4, N5).
"""

import base64
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest
import requests

from issuer.authority import Authority
from issuer.errors import TokenRefused
from issuer.keys import Keyring, new_key
from issuer.store import OF_API_KEY, ApiKey, Selection, Session
from issuer.store.sessions import Sessions
from issuer.sync.active_tokens import ActiveTokens
from issuer.sync.gateways import Changes
from issuer.tokens import api_keys
from tests.security.forger import ALPHABET
from tests.security.gateway_verifier import GatewayVerifier, gateway_verifier, key_list
from tests.security.stand import (
    ACCEPTED,
    REFUSED,
    ROLES,
    as_text,
    is_sayable,
    model_request,
    validate_request,
)
from tests.security.test_verdicts import is_documented_refusal
from tests.security.wire import Wire
from tests.support.deployment import Caller, Local, deployed
from tests.support.stores import sessions_in
from tests.support.upstream import Upstream

DAY = 86_400
FORGED = 100_000
OWNER, ADMIN = "AGIATEST01", "ADMNTEST01"
NOW = int(time.time())
SIGNING = new_key("HS256")


def session_of(key: str, owner: str = OWNER, made_at: int = NOW, days: int = 90) -> Session:
    known = ApiKey(api_keys.digest(key), "a key", (), "the tests")
    ends = made_at + days * DAY
    return Session(api_keys.id_of(key), owner, "agi", made_at, ends, OF_API_KEY, api_key=known)


class Sides:
    """Both sides' own code, told the same of the same keys."""

    def __init__(self, store: Sessions, verifier: GatewayVerifier) -> None:
        self._store = store
        self._verifier = verifier
        nobody = cast(Any, None)
        keys = cast(Any, SimpleNamespace(keyring=lambda: Keyring([SIGNING])))
        active = ActiveTokens(store, nobody, 1_000_000)
        self.now = NOW + 1
        self._authority = Authority(
            lambda: ROLES, keys, nobody, nobody, active, nobody, clock=lambda: self.now
        )

    def add(self, session: Session) -> None:
        self._store.add(session, 1_000_000, NOW)
        self._verifier.activate_keys(Changes.to([session]).activate)

    def revoke(self, session: Session) -> None:
        self._store.revoke(Selection(jti=session.jti), NOW)
        self._verifier.revoke({session.jti: session.expires_at})

    def verdicts(self, texts: Sequence[bytes]) -> list[tuple[str, str]]:
        by_gateway = self._verifier.verdicts(texts, self.now)
        return list(zip(map(self._by_issuer, texts), by_gateway, strict=True))

    def kilobytes(self) -> float:
        """What the gateway's code holds."""
        return float(self._verifier.ask(["memory"])[0])

    def _by_issuer(self, text: bytes) -> str:
        try:
            self._authority.validate(as_text(text))
        except TokenRefused:
            return REFUSED
        return ACCEPTED


@pytest.fixture(scope="module")
def running(recorded: Upstream) -> Iterator[Local]:
    with deployed(recorded.url, GATEWAY_WORKERS="1") as one:
        yield one


def made(caller: Caller, name: str = "x") -> dict[str, Any]:
    """A fresh key of the owner."""
    body = {"name": name, "days": 1}
    told: dict[str, Any] = caller.call(caller.token(OWNER), "/account/keys", body=body).json()
    return told


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    with gateway_verifier() as verifier:
        assert verifier.put_keys(key_list(SIGNING))
        yield Sides(sessions_in(tmp_path / "sessions.db"), verifier)


def nearly(key: str, other: str) -> Iterator[bytes]:
    """What is nearly this key; `other` is another good one."""
    raw, length = key.encode(), len(key)
    for at in range(length):
        yield raw[:at]
        yield raw[at + 1 :]
        yield raw[:at] + raw[at + 1 :]
        yield raw[:at] + raw[at : at + 1] + raw[at:]
        yield from (raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :] for bit in range(8))
        yield raw[:at] + raw[at : at + 1].swapcase() + raw[at + 1 :]
        yield from (raw[:at] + bytes([one]) + raw[at + 1 :] for one in ALPHABET)
        yield raw[:at] + other.encode()[at:]
        yield other.encode()[:at] + raw[at:]
    yield from (raw + end for end in (b"=", b"A", b".", b"\n", b" ", b"\0", b"\xc2\xa0", raw))
    yield from (start + raw for start in (b" ", b"=", b"Bearer ", b"\0", b"\xef\xbb\xbf"))
    yield from reencoded(key)


def reencoded(key: str) -> Iterator[bytes]:
    """The same bits in another spelling."""
    raw, secret = key.encode(), key[28:]
    yield from (raw.upper(), raw.lower(), raw.hex().encode(), base64.b64encode(raw), raw[::-1])
    yield quote(key).replace("-", "%2D").encode()
    yield key.translate(str.maketrans("-_", "+/")).encode()
    yield (key[:28] + secret + "=").encode()
    yield (key[:28] + base64.urlsafe_b64decode(secret + "=").hex()).encode()
    yield key.replace("sk-portero-", "sk_portero_").encode()
    yield key.replace("-", "\u2010").encode()
    yield key.encode("utf-16")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    index = last.index(key[-1])
    yield from ((key[:-1] + last[index ^ bits]).encode() for bits in (1, 2, 3))


def guessed(ids: Sequence[str]) -> Iterator[bytes]:
    """Whole keys with an ID that there is, or is not."""
    dice = random.Random(14)
    letters = ALPHABET.decode()
    while True:
        secret = "".join(dice.choices(letters, k=43))
        known = dice.choice(ids) if dice.random() < 0.5 else "".join(dice.choices(letters, k=16))
        yield f"sk-portero-{known}-{secret}".encode()


def test_a_hundred_thousand_texts_that_are_no_key_are_refused_by_both_sides_alike(
    sides: Sides,
) -> None:
    keys = [api_keys.new() for _ in range(14)]
    for key in keys:
        sides.add(session_of(key))
    good = {key.encode() for key in keys}
    assert set(sides.verdicts(sorted(good))) == {(ACCEPTED, ACCEPTED)}
    before = sides.kilobytes()
    pairs = zip(keys, keys[1:] + keys[:1], strict=True)
    near = (text for key, other in pairs for text in nearly(key, other) if text not in good)
    ids = [api_keys.id_of(key) for key in keys]
    texts = list(itertools.islice(itertools.chain(near, guessed(ids)), FORGED))
    assert len(texts) == FORGED
    found = sides.verdicts(texts)
    wrong = [text for text, verdict in zip(texts, found, strict=True) if verdict != (REFUSED,) * 2]
    assert wrong == []
    assert sides.kilobytes() < 1.2 * before
    assert set(sides.verdicts(sorted(good))) == {(ACCEPTED, ACCEPTED)}


def test_both_sides_draw_the_same_line_in_time_and_by_the_policy(sides: Sides) -> None:
    whole, later, short, long, admins, gone = (api_keys.new() for _ in range(6))
    sides.add(session_of(whole))
    sides.add(session_of(later, made_at=NOW + 60))
    sides.add(session_of(short, days=1))
    sides.add(session_of(long, days=400))
    sides.add(session_of(admins, ADMIN))
    sides.add(session_of(gone))
    sides.revoke(session_of(gone))
    lines = {
        NOW: {whole, short, long},
        NOW + 59: {whole, short, long},
        NOW + 60: {whole, later, short, long},
        NOW + DAY - 1: {whole, later, short, long},
        NOW + DAY: {whole, later, long},
        NOW + 90 * DAY - 1: {whole, later, long},
        NOW + 90 * DAY: {later},
        NOW + 90 * DAY + 60: set(),
    }
    shown = [whole, later, short, long, admins, gone]
    for now, accepted in lines.items():
        sides.now = now
        verdicts = sides.verdicts([key.encode() for key in shown])
        expected = [(ACCEPTED if key in accepted else REFUSED,) * 2 for key in shown]
        assert verdicts == expected, now - NOW


def test_over_http_and_validate_the_verdicts_are_the_same(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    keys = [made(caller)["key"] for _ in range(2)]
    good = {key.encode() for key in keys}
    every = [text for text in nearly(*keys) if text not in good and is_sayable(text)]
    dice = random.Random(3)
    texts = [*dice.sample(every, 200), *filter(is_sayable, reencoded(keys[0]))]
    texts = [text for text in texts if b"\0" not in text]
    with closing(Wire(running.gateway)) as gateway, closing(Wire(running.issuer)) as issuer:
        answers = [
            answer
            for start in range(0, len(texts), 50)
            for answer in gateway.pipeline(
                [model_request(text) for text in texts[start : start + 50]]
            )
        ]
        for text, answer in zip(texts, answers, strict=True):
            assert is_documented_refusal(answer), text
            told = issuer.ask(validate_request(text))
            assert (told.status, json.loads(told.body)) == (401, {"valid": False}), text
    assert upstream.seen == []
    for key in keys:
        assert (caller.call(key).status_code, caller.validate(key)) == (200, 200)


def test_n4_a_key_that_a_worker_knows_is_judged_anew_at_each_route_and_in_each_place(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    key = made(caller)["key"]
    for _ in range(2):
        assert caller.call(key).status_code == 200
        assert caller.call(key, "/metrics", method="GET").status_code == 403
        assert caller.call(key, "/account/keys", method="GET").status_code == 403
        assert caller.call(headers={"Cookie": f"auth_token={key}"}).status_code == 401


def test_n5_a_key_and_what_is_kept_of_it_open_nothing_else(
    running: Local, upstream: Upstream
) -> None:
    """Nor does any other secret of the deployment pass for a key."""
    caller = Caller(running)
    token, key = caller.token(OWNER), made(caller)["key"]
    digest, key_id = api_keys.digest(key), api_keys.id_of(key)
    for shown in (digest, key_id, key[28:], running.sync_key, running.secret_key):
        assert (caller.call(shown).status_code, caller.validate(shown)) == (401, 401)
    for secret in (key, digest):
        assert caller.login(OWNER, secret).status_code == 401
    listed = caller.call(token, f"/account/keys/{digest[:16]}", method="DELETE")
    assert listed.status_code == 404
    everything = [path for path in running.data.rglob("*") if path.is_file()]
    assert not [path for path in everything if key[28:].encode() in path.read_bytes()]


INJECTIONS = ("' OR '1'='1' --", "'||randomblob(900000000)--", "x' OR (SELECT 1) IS NOT NULL --")


@pytest.mark.parametrize("text", INJECTIONS)
def test_n1_sql_in_a_key_an_id_or_a_name_is_a_text_like_any_other(
    running: Local, upstream: Upstream, text: str
) -> None:
    caller = Caller(running)
    token, admin = caller.token(OWNER), caller.token(ADMIN)
    told = made(caller, name=text)
    before = caller.call(admin, "/admin/api/keys", method="GET").json()["keys"]
    for shown in (text, f"sk-portero-{text:16.16}-{'x' * 43}"):
        assert (caller.call(shown).status_code, caller.validate(shown)) == (401, 401)
        assert caller.call(headers={"x-api-key": shown}).status_code == 401
    for who, path in ((admin, "/admin/api/keys/"), (token, "/account/keys/")):
        for listener in (running.gateway, running.issuer):
            answer = requests.delete(
                listener + path + quote(text, safe=""),
                headers={"Authorization": f"Bearer {who}"},
                timeout=10,
            )
            assert answer.status_code in (400, 404), listener
    assert caller.call(admin, "/admin/api/keys", method="GET").json()["keys"] == before
    assert told["name"] == text
    caller.call(token, f"/account/keys/{told['id']}", method="DELETE")


def test_a_leaked_signing_key_is_retired_and_api_keys_stay(
    running: Local, upstream: Upstream
) -> None:
    caller = Caller(running)
    key, token = made(caller)["key"], caller.token(OWNER)
    kid = running.command("signing-keys", "list").stdout.split()[0]
    assert running.command("signing-keys", "retire", kid, "--now").returncode == 0
    assert (caller.call(token).status_code, caller.validate(token)) == (401, 401)
    assert (caller.call(key).status_code, caller.validate(key)) == (200, 200)
    done = running.command("revoke", "--user", OWNER)
    assert "API keys are revoked" in done.stdout
    assert (caller.call(key).status_code, caller.validate(key)) == (401, 401)
