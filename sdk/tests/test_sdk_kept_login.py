"""A kept login answers for its own origin alone, and for nothing that is faulty: what else the
environment says is told, and nobody is asked.
"""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_portero import MODEL, NOT_READY, SECRET, USERNAME, FakePortero, Reply, refusal
from hypothesis import given
from hypothesis import strategies as st
from tests.support.certificates import Authority

from portero import ConfigurationError
from portero.command import main
from portero.configuration import Configuration, url_faults
from portero.kept_login import KeptLogin, Store

KEY = "canary-key"
VERBS = [
    ("token",),
    ("token", "--renew"),
    ("models",),
    ("whoami",),
    ("chat", MODEL, "hi"),
    ("usage",),
    ("keys", "list"),
    ("doctor",),
    ("logout",),
]
each_verb = pytest.mark.parametrize("words", VERBS, ids=" ".join)
Shown = pytest.CaptureFixture[str]
Types = Callable[..., None]


@pytest.fixture
def gateway() -> Iterator[FakePortero]:
    with FakePortero(time.monotonic) as running:
        running.live[KEY] = time.monotonic() + 600
        yield running


@pytest.fixture
def elsewhere() -> Iterator[FakePortero]:
    with FakePortero(time.monotonic) as running:
        yield running


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Types:
    """What a person types, line by line."""
    return lambda *lines: monkeypatch.setattr(
        "sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines))
    )


def run(capsys: Shown, *words: str) -> tuple[int, str]:
    """Exit status, and all that was said."""
    capsys.readouterr()
    status = main(words)
    told = capsys.readouterr()
    return status, told.out + told.err


def keep_key(gateway: FakePortero, capsys: Shown, typed: Types, tmp_path: Path) -> str:
    typed(KEY)
    assert run(capsys, "login", "--api-key", "--url", gateway.url)[0] == 0
    return KEY


def keep_secret_file(gateway: FakePortero, capsys: Shown, typed: Types, tmp_path: Path) -> str:
    (tmp_path / "secret").write_text(SECRET)
    words = ("--url", gateway.url, "--username", USERNAME, "--secret-file")
    assert run(capsys, "login", *words, str(tmp_path / "secret"))[0] == 0
    return SECRET


def keep_token(gateway: FakePortero, capsys: Shown, typed: Types, tmp_path: Path) -> str:
    typed(SECRET)
    assert run(capsys, "login", "--url", gateway.url, "--username", USERNAME)[0] == 0
    return "canary-token-1"


Keeps = Callable[[FakePortero, Shown, Types, Path], str]
each_kept = pytest.mark.parametrize("keep", [keep_key, keep_secret_file, keep_token])


# Another origin.


@each_verb
@each_kept
@pytest.mark.parametrize("name", ["PORTERO_URL", "LLM_BASE_URL"])
def test_what_is_kept_goes_to_no_other_origin(
    gateway: FakePortero,
    elsewhere: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: Keeps,
    name: str,
    words: tuple[str, ...],
) -> None:
    kept = keep(gateway, capsys, typed, tmp_path)
    monkeypatch.setenv(name, f"{elsewhere.url}/v1")
    status, told = run(capsys, *words)
    assert (status, elsewhere.asked) == (2, [])
    assert kept not in told
    for word in (name, elsewhere.url, gateway.url, f"portero login --url {elsewhere.url}"):
        assert word in told


@each_kept
@pytest.mark.parametrize("name", ["PORTERO_URL", "LLM_BASE_URL"])
def test_its_own_origin_may_be_named_in_any_form(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: Keeps,
    name: str,
) -> None:
    keep(gateway, capsys, typed, tmp_path)
    monkeypatch.setenv(name, f"{gateway.url}/v1/")
    assert run(capsys, "models") == (0, f"{MODEL}\n")


def test_who_says_whose_login_it_is_elsewhere_is_asked_there(
    gateway: FakePortero,
    elsewhere: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_key(gateway, capsys, typed, tmp_path)
    for name, value in {"URL": elsewhere.url, "USERNAME": USERNAME, "SECRET": SECRET}.items():
        monkeypatch.setenv(f"PORTERO_{name}", value)
    assert run(capsys, "models") == (0, f"{MODEL}\n")
    assert KEY not in str(elsewhere.asked)


URLS = ["", "https://door.lan", "https://door.lan/v1", "https://door.lan:444", "http://door.lan"]
URLS += ["https://Door.lan:443/", "https://evil.lan", "https://door.lan.evil.lan", "door.lan", "x:"]
ENVIRONMENTS = st.fixed_dictionaries(
    {
        "PORTERO_URL": st.sampled_from(URLS),
        "LLM_BASE_URL": st.sampled_from(URLS),
        "PORTERO_USERNAME": st.sampled_from(["", USERNAME]),
        "LLM_PASSWORD": st.sampled_from(["", "theirs"]),
        "PORTERO_API_KEY": st.sampled_from(["", "theirs"]),
    }
)


@pytest.mark.filterwarnings("ignore::portero.PlainHTTPWarning")
@given(environ=ENVIRONMENTS, kept_url=st.sampled_from(URLS))
def test_no_environment_brings_a_kept_credential_to_another_origin(
    environ: dict[str, str], kept_url: str
) -> None:
    kept = KeptLogin(kept_url, "kept-name", "", "/kept-file", "/kept-ca", api_key=KEY)  # type: ignore[arg-type]
    try:
        made = kept.environment(environ)
    except ConfigurationError:
        return
    url = made.get("PORTERO_URL") or made.get("LLM_BASE_URL") or ""
    ours = {"kept-name", "/kept-file", "/kept-ca", KEY} & set(made.values())
    if ours and not url_faults(url):
        place = Configuration(url).origin
        assert place == Configuration(kept_url).origin
    assert not (environ["PORTERO_USERNAME"] and {"kept-name", "/kept-file", KEY} & ours)


# What is faulty.


@each_verb
@each_kept
@pytest.mark.parametrize(
    ("name", "value", "words_told"),
    [
        ("PORTERO_URL", "http://127.0.0.1:99999", "PORTERO_URL: url is malformed"),
        ("LLM_BASE_URL", "127.0.0.1", "LLM_BASE_URL: url must begin with http"),
    ],
)
def test_a_faulty_setting_is_told_whatever_is_kept(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: Keeps,
    words: tuple[str, ...],
    name: str,
    value: str,
    words_told: str,
) -> None:
    keep(gateway, capsys, typed, tmp_path)
    monkeypatch.setenv(name, value)
    status, told = run(capsys, *words)
    assert status == 2
    assert words_told in told


@pytest.mark.parametrize("words", [("models",), ("chat", MODEL, "hi"), ("doctor",)], ids=" ".join)
@each_kept
def test_a_bundle_that_cannot_be_read_is_told_where_somebody_is_asked(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: Keeps,
    words: tuple[str, ...],
) -> None:
    keep(gateway, capsys, typed, tmp_path)
    monkeypatch.setenv("PORTERO_CA_BUNDLE", "/absent.pem")
    status, told = run(capsys, *words)
    assert status == 2
    assert "ca_bundle (PORTERO_CA_BUNDLE) cannot be read" in told


@pytest.mark.parametrize("words", [("token",), ("models",), ("doctor",)], ids=" ".join)
def test_a_secrets_file_that_cannot_be_read_is_told_while_a_kept_token_lives(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    keep_secret_file(gateway, capsys, typed, tmp_path)
    (tmp_path / "secret").unlink()
    status, told = run(capsys, *words)
    assert status == 2
    assert "PORTERO_SECRET_FILE names" in told


def test_another_user_is_not_answered_with_the_kept_token(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_token(gateway, capsys, typed, tmp_path)
    monkeypatch.setenv("PORTERO_USERNAME", "AGNROTHER1")
    status, told = run(capsys, "token")
    assert status == 1
    assert "AGNROTHER1" in told
    assert "run `portero login`" in told
    monkeypatch.setenv("PORTERO_USERNAME", USERNAME)
    assert run(capsys, "token") == (0, "canary-token-1\n")


# The end.


def test_a_logout_needs_no_secret(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Types, tmp_path: Path
) -> None:
    keep_secret_file(gateway, capsys, typed, tmp_path)
    (tmp_path / "secret").unlink()
    assert run(capsys, "logout") == (0, "")
    assert gateway.revoked == {"canary-token-1"}
    assert Store(home).login() == KeptLogin()


def test_a_logout_of_the_environments_user_forgets_no_other(
    gateway: FakePortero,
    elsewhere: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_token(gateway, capsys, typed, tmp_path)
    with monkeypatch.context() as patch:
        for name, value in {"URL": elsewhere.url, "USERNAME": USERNAME, "SECRET": SECRET}.items():
            patch.setenv(f"PORTERO_{name}", value)
        run(capsys, "token")
        assert run(capsys, "logout") == (0, "")
    assert (len(elsewhere.revoked), len(gateway.revoked)) == (1, 0)
    assert run(capsys, "token") == (0, "canary-token-1\n")


# A key that cannot be tried is not good.


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (NOT_READY, 3, "Not ready yet"),
        (Reply(500), 3, "500"),
        (Reply(404, raw=b"not here"), 3, "404"),
        (Reply(403, raw=b"a proxy's own"), 3, "403"),
        (Reply(raw=b"<html>log in to the network</html>"), 3, "is no JSON object"),
        (Reply(301, None, {"Location": "https://door.lan/"}), 3, "redirects to https://door.lan"),
        (Reply(hangs_up=True), 3, "did not answer"),
        (refusal(401, "invalid_api_key", "Wrong."), 1, "is not good there"),
    ],
)
def test_an_api_key_that_could_not_be_tried_is_neither_good_nor_kept(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    reply: Reply,
    status: int,
    words: str,
) -> None:
    gateway.scripted["/v1/models"] = [reply]
    typed(KEY)
    found, told = run(capsys, "login", "--api-key", "--url", gateway.url)
    assert found == status
    assert words in told
    assert "is good at" not in told
    assert Store(home).login() == KeptLogin()


def test_an_api_key_for_a_gateway_that_is_away_is_not_called_good(
    home: Path, capsys: Shown, typed: Types, free_url: str
) -> None:
    typed(KEY)
    status, told = run(capsys, "login", "--api-key", "--url", free_url)
    assert status == 3
    assert "did not answer" in told


@pytest.mark.parametrize(
    "reply",
    [
        refusal(403, "insufficient_permissions", "No."),
        refusal(502, "upstream_unavailable", "Away."),
    ],
)
def test_an_api_key_that_is_refused_for_other_reasons_is_good(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Types, reply: Reply
) -> None:
    gateway.scripted["/v1/models"] = [reply]
    typed(KEY)
    assert run(capsys, "login", "--api-key", "--url", gateway.url)[0] == 0


# Certificates of one's own.


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[FakePortero, str]]:
    authority = Authority()
    with FakePortero(time.monotonic, authority.server(tmp_path, "localhost")) as running:
        running.live[KEY] = time.monotonic() + 600
        yield running, authority.write(tmp_path / "ca.pem")


@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("words", [("--api-key",), ("--username", USERNAME)], ids=" ".join)
def test_a_bundle_of_certificates_serves_the_login_and_all_that_follows(
    secure: tuple[FakePortero, str],
    home: Path,
    capsys: Shown,
    typed: Types,
    monkeypatch: pytest.MonkeyPatch,
    by_variable: bool,
    words: tuple[str, ...],
) -> None:
    gateway, bundle = secure
    monkeypatch.chdir(Path(bundle).parent)
    given = () if by_variable else ("--ca-bundle", "ca.pem")
    typed(KEY if "--api-key" in words else SECRET)
    with monkeypatch.context() as patch:
        if by_variable:
            patch.setenv("PORTERO_CA_BUNDLE", "ca.pem")
        assert run(capsys, "login", "--url", gateway.url, *words, *given)[0] == 0
    monkeypatch.chdir("/")
    assert run(capsys, "models") == (0, f"{MODEL}\n")
    status, told = run(capsys, "doctor")
    assert (status, "NO " in told) == (0, False)


# The variables count for a login, too.


def test_a_login_takes_what_the_environment_says(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("LLM_BASE_URL", gateway.url)
        patch.setenv("LLM_USERNAME", USERNAME)
        patch.setenv("PORTERO_SECRET_FILE", "secret")
        assert run(capsys, "login")[0] == 0
    kept = Store(home).login()
    assert (kept.url, kept.username) == (gateway.url, USERNAME)
    assert kept.secret_file == str(tmp_path / "secret")


# The doctor.


def test_a_doctor_looks_at_the_token_of_a_login_that_was_typed_and_leaves_it_alive(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Types, tmp_path: Path
) -> None:
    keep_token(gateway, capsys, typed, tmp_path)
    status, told = run(capsys, "doctor")
    assert status == 0
    assert f"ok  login: {USERNAME} has a token that is kept" in told
    assert (gateway.logins, gateway.revoked) == (1, set())
    gateway.revoke_all()
    status, told = run(capsys, "doctor")
    assert status == 1
    assert "NO  models" in told


def test_a_doctor_without_a_token_says_how_to_get_one(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Types, tmp_path: Path
) -> None:
    keep_token(gateway, capsys, typed, tmp_path)
    (token,) = (path for path in home.glob("*.json") if path.name != "login.json")
    token.unlink()
    status, told = run(capsys, "doctor")
    assert status == 1
    assert "NO  login: No live token" in told
    assert "run `portero login`" in told


def test_a_doctors_own_login_ends_with_it_and_the_kept_token_does_not(
    gateway: FakePortero, home: Path, capsys: Shown, typed: Types, tmp_path: Path
) -> None:
    keep_secret_file(gateway, capsys, typed, tmp_path)
    assert run(capsys, "doctor")[0] == 0
    assert gateway.logins == 2
    assert gateway.revoked == {"canary-token-2"}
    assert run(capsys, "token") == (0, "canary-token-1\n")


LATER = {"Retry-After": "60"}


@pytest.mark.parametrize(
    ("path", "reply", "words"),
    [
        ("/llm/login", Reply(503, None, LATER), "NO  login: "),
        ("/v1/models", NOT_READY, "NO  models: "),
        ("/v1/models", Reply(hangs_up=True), "NO  models: "),
        ("/v1/models", refusal(502, "upstream_unavailable", "Away."), "NO  models: "),
        ("/healthz", Reply(502, raw=b"a proxy's own"), "NO  reachable: "),
        ("/healthz", Reply(301, None, {"Location": "https://door.lan/"}), "NO  reachable: "),
    ],
)
def test_what_is_away_is_unavailable_to_a_doctor_and_not_refused(
    gateway: FakePortero,
    home: Path,
    capsys: Shown,
    typed: Types,
    tmp_path: Path,
    path: str,
    reply: Reply,
    words: str,
) -> None:
    keep_secret_file(gateway, capsys, typed, tmp_path)
    gateway.scripted[path] = [reply]
    status, told = run(capsys, "doctor")
    assert status == 3
    assert words in told
    assert "\n    " in told
