"""Requests of httpx2, httpx and requests with a source's token: signed for the gateway alone, sent
once more where that is right, and never read.
"""

import asyncio
import gc
import io
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests
from fake_portero import EXPIRED, REFUSED, SECRET, USERNAME, FakePortero, Reply
from set_clock import SetClock
from tests.support.certificates import Authority

from portero import ConfigurationError, LoginUnavailable, TokenSource

NewSource = Callable[..., TokenSource]
Ask = Callable[..., Any]
PATH = "/v1/chat/completions"


def by_httpx2(source: TokenSource, url: str, **options: Any) -> Any:
    with httpx2.Client(auth=source.auth, follow_redirects=True) as client:
        return client.post(url, **options)


def by_httpx(source: TokenSource, url: str, **options: Any) -> Any:
    with httpx.Client(auth=source.httpx_auth, follow_redirects=True) as client:
        return client.post(url, **options)


def by_requests(source: TokenSource, url: str, **options: Any) -> Any:
    options = {"data" if name == "content" else name: value for name, value in options.items()}
    return requests.post(url, auth=source.requests_auth, timeout=20, **options)


def by_async_httpx2(source: TokenSource, url: str, **options: Any) -> Any:
    async def ask() -> Any:
        async with httpx2.AsyncClient(auth=source.auth, follow_redirects=True) as client:
            return await client.post(url, **_for_tasks(options))

    return asyncio.run(ask())


def by_async_httpx(source: TokenSource, url: str, **options: Any) -> Any:
    async def ask() -> Any:
        async with httpx.AsyncClient(auth=source.httpx_auth, follow_redirects=True) as client:
            return await client.post(url, **_for_tasks(options))

    return asyncio.run(ask())


def _for_tasks(options: dict[str, Any]) -> dict[str, Any]:
    """A generator of bytes as an async one."""

    async def pieces(content: Iterator[bytes]) -> Any:
        for piece in content:
            yield piece

    content = options.get("content")
    is_generator = hasattr(content, "__next__")
    return {**options, "content": pieces(content)} if content and is_generator else options


WAYS = [by_httpx2, by_async_httpx2, by_httpx, by_async_httpx, by_requests]
each_way = pytest.mark.parametrize("ask", WAYS, ids=lambda way: way.__name__)


@pytest.fixture
def elsewhere(clock: SetClock) -> Iterator[FakePortero]:
    with FakePortero(clock.now) as other:
        yield other


@each_way
def test_a_request_carries_the_token_and_no_other_credential(
    source: TokenSource, gateway: FakePortero, ask: Ask
) -> None:
    headers = {"x-api-key": "another", "Authorization": "Bearer another"}
    assert ask(source, gateway.url + PATH, json={}, headers=headers).status_code == 200
    sent = gateway.asked[-1].headers
    assert sent["authorization"] == "Bearer canary-token-1"
    assert "x-api-key" not in sent


@each_way
def test_an_expired_token_costs_one_login_and_the_request_is_sent_again(
    source: TokenSource, gateway: FakePortero, ask: Ask
) -> None:
    source.token()
    gateway.live["canary-token-1"] = 0
    answer = ask(source, gateway.url + PATH, json={"model": "tiny"})
    assert answer.status_code == 200
    assert len({asked.body for asked in gateway.asked if asked.path == PATH}) == 1
    assert gateway.statuses == {200: 3, 401: 1}


@each_way
def test_a_token_that_another_has_replaced_meanwhile_costs_no_login(
    source: TokenSource, gateway: FakePortero, ask: Ask
) -> None:
    def overtake() -> Reply:
        source.invalidate("canary-token-1")
        source.token()
        return EXPIRED

    source.token()
    gateway.scripted[PATH] = [overtake]
    assert ask(source, gateway.url + PATH, json={}).status_code == 200
    assert gateway.logins == 2


@each_way
def test_a_revoked_token_is_told_and_costs_no_login(
    source: TokenSource, gateway: FakePortero, clock: SetClock, ask: Ask
) -> None:
    source.token()
    clock.go(30)
    gateway.revoke_all()
    assert ask(source, gateway.url + PATH, json={}).status_code == 401
    assert gateway.logins == 1


@each_way
def test_a_body_that_cannot_be_sent_twice_is_sent_once(
    new_source: NewSource, gateway: FakePortero, ask: Ask
) -> None:
    source = new_source(on_revoked="login")
    source.token()
    gateway.revoke_all()
    answer = ask(source, gateway.url + PATH, content=(piece for piece in [b'{"model":', b'"x"}']))
    assert answer.status_code == 401
    assert [asked.path for asked in gateway.asked].count(PATH) == 1
    assert ask(source, gateway.url + PATH, json={}).status_code == 200


@each_way
def test_a_token_that_is_refused_right_after_its_login_is_not_followed_by_a_loop(
    new_source: NewSource, gateway: FakePortero, ask: Ask
) -> None:
    gateway.scripted[PATH] = [REFUSED] * 9
    assert ask(new_source(on_revoked="login"), gateway.url + PATH, json={}).status_code == 401
    assert (gateway.logins, gateway.statuses[401]) == (2, 2)


@each_way
def test_no_other_origin_gets_the_token(
    source: TokenSource, gateway: FakePortero, elsewhere: FakePortero, ask: Ask
) -> None:
    token = source.token()
    headers = {"Authorization": f"Bearer {token}"}
    assert ask(source, elsewhere.url + PATH, json={}, headers=headers).status_code == 401
    assert ask(source, elsewhere.url + PATH, json={}).status_code == 401
    assert all("authorization" not in asked.headers for asked in elsewhere.asked)
    others = {"Authorization": "Bearer of-its-own"}
    ask(source, elsewhere.url + PATH, json={}, headers=others)
    assert elsewhere.asked[-1].headers.get("authorization") == "Bearer of-its-own"


@each_way
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_origin_is_refused_and_takes_nothing_there(
    source: TokenSource, gateway: FakePortero, elsewhere: FakePortero, ask: Ask, status: int
) -> None:
    gateway.scripted[PATH] = [Reply(status, None, {"Location": elsewhere.url + PATH + "?a=secret"})]
    with pytest.raises(ConfigurationError, match="redirects to") as raised:
        ask(source, gateway.url + PATH, json={})
    assert elsewhere.url in str(raised.value)
    assert "PORTERO_URL" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert elsewhere.asked == []
    assert gateway.logins == 1


@each_way
def test_a_redirect_that_follows_a_renewal_or_another_redirect_is_refused_too(
    source: TokenSource, gateway: FakePortero, elsewhere: FakePortero, ask: Ask
) -> None:
    away = Reply(307, None, {"Location": elsewhere.url + PATH})
    gateway.scripted[PATH] = [EXPIRED, away]
    with pytest.raises(ConfigurationError, match="redirects to"):
        ask(source, gateway.url + PATH, json={})
    gateway.scripted = {PATH: [Reply(307, None, {"Location": "/second"})], "/second": [away]}
    with pytest.raises(ConfigurationError, match="redirects to"):
        ask(source, gateway.url + PATH, json={})
    assert elsewhere.asked == []


@each_way
def test_a_redirect_within_the_gateway_is_followed_with_the_token(
    source: TokenSource, gateway: FakePortero, ask: Ask
) -> None:
    gateway.scripted["/old"] = [Reply(307, None, {"Location": PATH})]
    assert ask(source, gateway.url + "/old", json={}).status_code == 200
    assert gateway.asked[-1].headers["authorization"] == "Bearer canary-token-1"


@pytest.fixture
def upgraded(
    clock: SetClock, gateway: FakePortero, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FakePortero, str]]:
    """What listens behind https://door.lan, while http://door.lan is the gateway: at the ports that
    libraries take for one place. And the path of what is to be trusted.
    """
    authority = Authority()
    with FakePortero(clock.now, authority.server(tmp_path, "door.lan")) as secure:
        ports = {80: gateway.port, 443: secure.port}
        real = socket.getaddrinfo

        def found(host: Any, port: Any, *words: Any, **options: Any) -> Any:
            at_door = host in ("door.lan", b"door.lan")
            place = ("127.0.0.1", ports[port]) if at_door else (host, port)
            return real(*place, *words, **options)

        monkeypatch.setattr(socket, "getaddrinfo", found)
        yield secure, authority.write(tmp_path / "ca.pem")


def get_by(library: str, source: TokenSource, url: str, trusted: str) -> Any:
    if library == "requests":
        return requests.get(url, auth=source.requests_auth, timeout=20, verify=trusted)
    kind: Any = {"httpx2": httpx2, "httpx": httpx}[library]
    auth: Any = source.auth if library == "httpx2" else source.httpx_auth
    verify = ssl.create_default_context(cafile=trusted)
    return kind.get(url, auth=auth, verify=verify, follow_redirects=True)


@pytest.mark.filterwarnings("ignore::portero.PlainHTTPWarning")
@pytest.mark.parametrize("library", ["httpx2", "httpx", "requests"])
def test_a_token_is_not_taken_along_from_http_to_https(
    gateway: FakePortero, upgraded: tuple[FakePortero, str], clock: SetClock, library: str
) -> None:
    secure, trusted = upgraded
    gateway.scripted["/v1/models"] = [Reply(301, None, {"Location": "https://door.lan/v1/models"})]
    source = TokenSource("http://door.lan", USERNAME, SECRET, clock=clock)
    url = "http://door.lan/v1/models"
    words = r"redirects to https://door\.lan: .* PORTERO_URL"
    with pytest.raises(ConfigurationError, match=words) as raised:
        get_by(library, source, url, trusted)
    assert [asked.headers["authorization"] for asked in gateway.asked][1:] == [
        "Bearer canary-token-1"
    ]
    assert secure.asked == []
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert "canary" not in "".join(told.format())


@pytest.mark.parametrize("ask", WAYS[:-1], ids=lambda way: way.__name__)
def test_a_redirect_that_is_not_followed_is_an_answer(
    source: TokenSource, gateway: FakePortero, elsewhere: FakePortero, ask: Ask
) -> None:
    gateway.scripted[PATH] = [Reply(307, None, {"Location": elsewhere.url + PATH})]
    assert ask(source, gateway.url + PATH, json={}, follow_redirects=False).status_code == 307
    assert elsewhere.asked == []


def test_the_callers_own_trace_is_told_as_before(source: TokenSource, gateway: FakePortero) -> None:
    told: list[str] = []

    async def atold(event: str, _: Any) -> None:
        told.append(event)

    def trace(event: str, _: Any) -> None:
        told.append(event)

    for way in (by_httpx2, by_httpx):
        way(source, gateway.url + PATH, json={}, extensions={"trace": trace})
    for way in (by_async_httpx2, by_async_httpx):
        way(source, gateway.url + PATH, json={}, extensions={"trace": atold})
    assert told.count("http11.send_request_headers.started") == 4


@pytest.mark.parametrize("library", [httpx2, httpx])
def test_a_proxy_is_asked_for_a_connection_and_shown_no_token(
    clock: SetClock, library: Any
) -> None:
    source = TokenSource("https://door.lan", api_key="canary-key", clock=clock)
    auth = source.auth if library is httpx2 else source.httpx_auth
    with (
        FakePortero(clock.now) as proxy,
        library.Client(proxy=proxy.url, auth=auth) as client,
        pytest.raises(library.ProxyError),
    ):
        client.get(f"{source.url}/v1/models")
    assert [asked.method for asked in proxy.asked] == ["CONNECT"]
    assert "canary" not in str(proxy.asked)


@pytest.mark.parametrize("library", [httpx2, httpx])
def test_a_request_through_a_proxy_is_sent_and_a_redirect_by_it_is_refused(
    source: TokenSource, gateway: FakePortero, clock: SetClock, library: Any
) -> None:
    auth = source.auth if library is httpx2 else source.httpx_auth
    with FakePortero(clock.now) as proxy:
        url = f"{gateway.url}/v1/models"
        proxy.scripted[url] = [
            Reply(200, {}),
            Reply(307, None, {"Location": "http://127.0.0.2/v1/models"}),
        ]
        with library.Client(proxy=proxy.url, auth=auth, follow_redirects=True) as client:
            assert client.get(url).status_code == 200
            with pytest.raises(ConfigurationError, match=r"redirects to http://127\.0\.0\.2"):
                client.get(url)
        assert len(proxy.asked) == 2


@each_way
def test_a_login_that_fails_is_raised_as_it_is(
    source: TokenSource, gateway: FakePortero, ask: Ask
) -> None:
    gateway.scripted["/llm/login"] = [Reply(503, None)] * 99
    with pytest.raises(LoginUnavailable):
        ask(source, gateway.url + PATH, json={})


def test_50_threads_on_a_token_that_is_revoked_in_mid_run_log_in_once_and_fail_nothing(
    new_source: NewSource, gateway: FakePortero, clock: SetClock
) -> None:
    source = new_source(on_revoked="login")
    source.token()
    clock.go(30)
    half = threading.Barrier(50, action=gateway.revoke_all)

    def run(client: httpx2.Client) -> list[int]:
        before = [client.post(gateway.url + PATH, json={}).status_code for _ in range(3)]
        half.wait(20)
        return before + [client.post(gateway.url + PATH, json={}).status_code for _ in range(3)]

    with (
        httpx2.Client(auth=source.auth, limits=httpx2.Limits(max_connections=50)) as client,
        ThreadPoolExecutor(50) as threads,
    ):
        statuses = [one for run in threads.map(run, [client] * 50) for one in run]
    assert statuses == [200] * 300
    assert gateway.logins == 2


def test_a_file_is_sent_once_by_requests(new_source: NewSource, gateway: FakePortero) -> None:
    source = new_source(on_revoked="login")
    source.token()
    gateway.revoke_all()
    answer = by_requests(source, gateway.url + PATH, content=io.BytesIO(b"{}"))
    assert answer.status_code == 401


def test_requests_is_told_when_a_second_token_is_refused_too(
    new_source: NewSource, gateway: FakePortero
) -> None:
    gateway.scripted[PATH] = [REFUSED] * 9
    answer = by_requests(new_source(on_revoked="login"), gateway.url + PATH, json={})
    assert (answer.status_code, len(answer.history)) == (401, 1)
    gc.collect()


def test_no_repr_of_an_adapter_shows_a_token(source: TokenSource) -> None:
    source.token()
    shown = f"{source!r} {source.auth!r} {source.httpx_auth!r} {source.requests_auth!r}"
    assert "canary" not in shown
