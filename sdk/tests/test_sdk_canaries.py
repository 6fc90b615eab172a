"""Nothing shows a token or a secret: no log at any level, no traceback with its locals, no repr, no
pickle. (Process lists: `test_sdk_command.py`.)
"""

import asyncio
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from fake_portero import MODEL, NOT_READY, SECRET, FakePortero, Reply
from set_clock import SetClock

from portero import Portero, PorteroError, TokenSource

NewSource = Callable[..., TokenSource]
WRONG = "canary-wrong"
PATH = "/v1/chat/completions"


class Everything(logging.Handler):
    """Keeps what is logged, by whomever."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {record.getMessage()}")


@pytest.fixture
def logged() -> Iterator[Everything]:
    root, handler = logging.getLogger(), Everything()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def whole_traceback(error: BaseException) -> str:
    """With the locals of every frame, and every error behind it."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(told.format(chain=True))


def in_pieces() -> Any:
    """What stands in a log may be bytes, or packed as Basic credentials."""
    packed = httpx2.BasicAuth("AGNRXYZ456", SECRET)._auth_header.removeprefix("Basic ")
    return ("canary", packed)


def assert_silent(text: str) -> None:
    for canary in in_pieces():
        assert canary not in text


@pytest.mark.parametrize("has_oauth", [False, True])
@pytest.mark.parametrize("code", ["AGNR", "AGIA", "USRS", "ADMN"])
def test_no_log_of_a_login_or_a_request_shows_a_token_or_secret(
    new_source: NewSource, gateway: FakePortero, logged: Everything, code: str, has_oauth: bool
) -> None:
    gateway.has_oauth = has_oauth
    gateway.secrets[f"{code}XYZ456"] = SECRET
    with new_source(username=f"{code}XYZ456") as source, Portero(source) as client:
        client.chat(MODEL, "prompt-canary")
        gateway.live[source.token()] = 0
        client.chat(MODEL, "prompt-canary")
        asyncio.run(source.acall())
    text = "\n".join(logged.lines)
    assert "httpcore2.http11" in text, "the HTTP library does log"
    assert "portero " in text, "so do we"
    assert_silent(text)


def failures(new_source: NewSource, gateway: FakePortero, clock: SetClock) -> Iterator[Any]:
    """What fails, each in another way."""
    yield lambda: new_source(secret=WRONG).token()
    yield lambda: asyncio.run(new_source(secret=WRONG + "-too").atoken())
    yield lambda: new_source(login="/agi/login").token()

    def revoked() -> None:
        with Portero(new_source()) as client:
            client.models()
            clock.go(30)
            gateway.revoke_all()
            client.chat(MODEL, "hi")

    yield revoked

    def broken() -> None:
        gateway.scripted[PATH] = [Reply(hangs_up=True)]
        with Portero(new_source(on_revoked="login")) as client:
            client.chat(MODEL, "hi")

    yield broken

    def unavailable() -> None:
        gateway.scripted["/llm/login"] = [NOT_READY] * 99
        source = new_source(on_revoked="login")
        source.logout()
        with httpx2.Client(auth=source.auth) as client:
            client.post(gateway.url + PATH, json={})

    yield unavailable


def test_no_traceback_shows_a_token_or_secret(
    new_source: NewSource, gateway: FakePortero, clock: SetClock, logged: Everything
) -> None:
    for fail in failures(new_source, gateway, clock):
        with pytest.raises(PorteroError) as raised:
            fail()
        # Of the tests' own frames, the first one, nothing is asked.
        raised.value.with_traceback(raised.tb.tb_next)
        assert_silent(whole_traceback(raised.value))
        assert_silent(repr(pickle.dumps(raised.value)))
    assert_silent("\n".join(logged.lines))


def test_a_login_that_fails_for_a_reason_of_its_own_is_told_without_its_words(
    source: TokenSource, monkeypatch: pytest.MonkeyPatch, logged: Everything
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("canary")

    monkeypatch.setattr(source._shared.login, "attempt", fail)
    with pytest.raises(PorteroError, match="reason of its own"):
        source.token()
    assert any("ValueError" in line for line in logged.lines)
    assert_silent("\n".join(logged.lines))
