"""The push client by https, against real listeners: whom it talks to, what it says of others."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from issuer import certificates
from issuer.sync.gateways import Changes, Gateways
from tests.support.certificates import Authority
from tests.support.fake_gateway import SYNC_KEY, FakeGateway
from tests.support.listening import listening
from tests.support.ports import listen
from tests.support.waiting import within

KEY = SYNC_KEY.encode()
CHANGES = Changes(activate=[("A" * 22, 2_000_000_000)])
#: More than a socket and its peer hold.
MANY = Changes(activate=[("A" * 22, 2_000_000_000)] * 200_000)


@pytest.fixture
def authority() -> Authority:
    """One that the client trusts."""
    return Authority()


@pytest.fixture
def trusted(authority: Authority, tmp_path: Path) -> Path:
    """Its file."""
    return Path(authority.write(tmp_path / "ca.pem"))


def test_a_gateway_with_a_certificate_of_tls_make_is_told_and_its_connection_kept(
    tmp_path: Path,
) -> None:
    made = certificates.make(tmp_path, ("localhost", "127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    with listening(FakeGateway().answer, tls=context) as listener:
        gateways = Gateways([listener.url], KEY, made.authority)
        for _ in range(3):
            assert [ack.ok for ack in gateways.apply(CHANGES)] == [True]
        by_address = Gateways([listener.url.replace("localhost", "127.0.0.1")], KEY, made.authority)
        assert by_address.apply(CHANGES)[0].ok
        assert listener.connections == 2


def of_another_authority(_: Authority, folder: Path) -> ssl.SSLContext:
    return Authority("somebody else's").server(folder, "localhost")


def of_another_name(authority: Authority, folder: Path) -> ssl.SSLContext:
    return authority.server(folder, "other.lan")


def expired(authority: Authority, folder: Path) -> ssl.SSLContext:
    return authority.server(folder, "localhost", days=-1)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (of_another_authority, "unable to get local issuer certificate"),
        (of_another_name, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (expired, "certificate has expired"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_who_shows_no_good_certificate_is_sent_nothing_and_told(
    authority: Authority,
    trusted: Path,
    tmp_path: Path,
    made: object,
    said: str,
) -> None:
    assert callable(made)
    with listening(FakeGateway().answer, tls=made(authority, tmp_path)) as listener:
        (ack,) = Gateways([listener.url], KEY, trusted).apply(CHANGES)
        assert not ack.ok
        assert ack.reason == f"its certificate is not trusted: {said}"
        assert listener.connections > 0
        assert listener.messages == []


def test_who_speaks_no_tls_is_sent_nothing_and_told(trusted: Path) -> None:
    with listening(FakeGateway().answer) as listener:
        url = listener.url.replace("http://", "https://")
        (ack,) = Gateways([url], KEY, trusted).apply(CHANGES)
        assert not ack.ok
        assert "does it speak TLS?" in ack.reason
        assert listener.messages == []


def test_without_a_file_of_its_own_the_machine_says_who_is_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    with listening(FakeGateway().answer, tls=authority.server(tmp_path, "localhost")) as listener:
        (ack,) = Gateways([listener.url], KEY).apply(CHANGES)
        assert not ack.ok
        assert listener.messages == []


def test_http_and_https_gateways_stand_beside_each_other(
    authority: Authority, trusted: Path, tmp_path: Path
) -> None:
    context = authority.server(tmp_path, "localhost")
    with (
        listening(FakeGateway().answer) as plain,
        listening(FakeGateway().answer, tls=context) as secured,
    ):
        acks = Gateways([plain.url, secured.url], KEY, trusted).apply(CHANGES)
    assert [ack.ok for ack in acks] == [True, True]


@contextmanager
def hanging(context: ssl.SSLContext, how: str) -> Iterator[str]:
    """One that goes on, but comes to no end: in the handshake, the taking or the answering."""
    over = threading.Event()
    with listen() as server:

        def serve() -> None:
            while not over.is_set():
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=hang, args=(plain,), daemon=True).start()

        def hang(plain: socket.socket) -> None:
            if how == "handshake":
                with plain:
                    over.wait()
                return
            with context.wrap_socket(plain, server_side=True) as secured:
                secured.settimeout(30)
                try:
                    while not over.wait(0.02):
                        if how == "taking":
                            secured.recv(100)
                        else:
                            secured.sendall(b"H")
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{server.getsockname()[1]}"
        over.set()
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", ["handshake", "taking", "answering"])
def test_an_exchange_by_https_ends_within_its_time_too(
    authority: Authority, trusted: Path, tmp_path: Path, how: str
) -> None:
    with hanging(authority.server(tmp_path, "localhost"), how) as url:
        (gateway,) = Gateways([url], KEY, trusted).each
        began = time.monotonic()
        assert not gateway.apply(MANY, timeout=0.6).ok
        assert time.monotonic() - began < within(3)
