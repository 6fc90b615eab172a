"""The commands: `python -m issuer …` and `python -m issuer.credentials`."""

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from issuer import __main__ as issuer_main
from issuer import assemble, config
from issuer import credentials as generator
from issuer.commands import signing_keys
from issuer.keys.key_file import KeyFile
from issuer.policy.roles import Roles
from issuer.store import Session
from issuer.store.sessions import Sessions
from issuer.sync import reconciler
from issuer.sync.reconciler import Reconciler
from issuer.users import credentials
from tests.conftest import SECRET_KEY, wait_until
from tests.support.fake_gateway import SYNC_KEY, TOMBSTONE, FakeGateway
from tests.support.listening import listening
from tests.support.policies import write_policy
from tests.support.stores import sessions_in

ROOT = Path(__file__).resolve().parents[3]
NOW = int(time.time())
Files = dict[str, tuple[int, bytes]]


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "COST", 10)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> dict[str, str]:
    """Good settings in the environment, and nothing beside them."""
    for name in (*environ, "SECRET_KEY_FILE", "SYNC_KEY_FILE", "TOKEN_CACHE_SIZE", "JWT_ALGORITHM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


def files_in(directory: Path) -> Files:
    return {
        str(path.relative_to(directory)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_FILE", raising=False)


@pytest.mark.usefixtures("no_settings")
def test_init_makes_private_files_that_are_good_settings(tmp_path: Path, all_roles: Roles) -> None:
    data = tmp_path / "deep" / "var"
    before = os.umask(0)
    try:
        assert issuer_main.main(["init", "--data-dir", str(data)]) == 0
    finally:
        os.umask(before)
    made = files_in(data)
    assert set(made) == {
        "secrets/secret_key",
        "secrets/sync_key",
        "credentials.env",
        "demo-logins",
    }
    assert {mode for mode, _ in made.values()} == {0o600}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "secrets").stat().st_mode) == 0o700
    config.read(
        {
            "SECRET_KEY_FILE": str(data / "secrets" / "secret_key"),
            "SYNC_KEY_FILE": str(data / "secrets" / "sync_key"),
            "CREDENTIALS_FILE": str(data / "credentials.env"),
        }
    )
    users = credentials.parse((data / "credentials.env").read_text(), all_roles, b"salt")
    logins = dict(line.split("=", 1) for line in (data / "demo-logins").read_text().splitlines())
    assert {name[:4] for name in logins} == {role.code for role in all_roles}
    assert all(users.check(name, secret) for name, secret in logins.items())


@pytest.mark.usefixtures("no_settings")
def test_init_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issuer_main.main(["init", "--data-dir", str(tmp_path)])
    capsys.readouterr()
    made = files_in(tmp_path)
    assert issuer_main.main(["init", "--data-dir", str(tmp_path)]) == 0
    assert files_in(tmp_path) == made
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_settings")
def test_init_makes_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    issuer_main.main(["init", "--data-dir", str(tmp_path)])
    made = files_in(tmp_path)
    (tmp_path / "secrets" / "sync_key").unlink()
    assert issuer_main.main(["init", "--data-dir", str(tmp_path)]) == 0
    now = files_in(tmp_path)
    changed = {name for name in now if now[name] != made[name]}
    assert changed == {"secrets/sync_key"}


@pytest.mark.usefixtures("no_settings")
def test_init_makes_other_secrets_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        issuer_main.main(["init", "--data-dir", str(tmp_path / name)])
    every = [
        (tmp_path / name / "secrets" / key).read_text()
        for name in ("one", "two")
        for key in ("secret_key", "sync_key")
    ]
    assert len(set(every)) == 4


@pytest.mark.usefixtures("no_settings")
def test_init_puts_the_sync_key_alone_where_it_is_told(tmp_path: Path) -> None:
    issuer_main.main(
        ["init", "--data-dir", str(tmp_path / "var"), "--sync-dir", str(tmp_path / "sync")]
    )
    assert set(files_in(tmp_path / "sync")) == {"sync_key"}
    assert "secrets/secret_key" in files_in(tmp_path / "var")


OF_DATABASE = "postgresql://portero@postgresql/portero"


@pytest.mark.usefixtures("no_settings")
def test_init_makes_what_issuers_on_one_database_share_and_the_database_sees_its_password_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = tmp_path / "var", tmp_path / "database"
    words = ["init", "--data-dir", str(data), "--database", OF_DATABASE, str(folder)]
    assert issuer_main.main(words) == 0
    made = {**files_in(folder), **files_in(data)}
    assert set(files_in(folder)) == {"password"}
    assert {mode for mode, _ in made.values()} == {0o600}
    settings = config.read(
        {
            "SECRET_KEY_FILE": str(data / "secrets" / "secret_key"),
            "SYNC_KEY_FILE": str(data / "secrets" / "sync_key"),
            "SEAL_KEY_FILE": str(data / "secrets" / "seal_key"),
            "CREDENTIALS_FILE": str(data / "credentials.env"),
            "DATABASE_URL_FILE": str(data / "secrets" / "database_url"),
        }
    )
    password = made["password"][1].decode()
    assert settings.database_url == f"postgresql://portero:{password}@postgresql/portero"
    assert len({settings.seal_key, settings.secret_key, password.encode()}) == 3
    assert password not in capsys.readouterr().out
    assert issuer_main.main(words) == 0
    assert {**files_in(folder), **files_in(data)} == made


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize(
    "url", ["postgresql://portero:s3cret@postgresql/portero", "postgresql://h/db", "sqlite:///x"]
)
def test_init_makes_a_password_for_a_database_alone_that_has_none_yet(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "--data-dir", str(tmp_path), "--database", url, str(tmp_path / "database")]
    assert issuer_main.main(words) == 1
    told = capsys.readouterr().err
    assert "--database must be postgresql://USER@HOST/NAME" in told
    assert "s3cret" not in told


def test_init_makes_no_users_where_there_is_a_credentials_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_FILE", "/elsewhere")
    issuer_main.main(["init", "--data-dir", str(tmp_path)])
    assert set(files_in(tmp_path)) == {"secrets/secret_key", "secrets/sync_key"}


@pytest.mark.usefixtures("no_settings")
def test_init_prints_logins_only_when_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer_main.main(["init", "--data-dir", str(tmp_path)])
    said = capsys.readouterr()
    made = files_in(tmp_path)
    every = [made["secrets/secret_key"][1].decode(), made["secrets/sync_key"][1].decode()]
    logins = made["demo-logins"][1].decode()
    every += [line.split("=", 1)[1] for line in logins.splitlines()]
    assert not any(secret in said.out + said.err for secret in every)
    issuer_main.main(["init", "--data-dir", str(tmp_path), "--print-logins"])
    assert logins in capsys.readouterr().out


@pytest.mark.usefixtures("no_settings")
def test_init_where_it_may_not_write_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert issuer_main.main(["init", "--data-dir", str(tmp_path / "file")]) == 1
    assert "issuer: " in capsys.readouterr().err


@pytest.mark.usefixtures("settings")
def test_check_counts_the_users_of_good_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert issuer_main.main(["check"]) == 0
    assert capsys.readouterr().out == "settings are good: 6 users\n"


@pytest.mark.usefixtures("settings")
def test_check_lists_every_fault_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"SECRET_KEY": "short", "TOKEN_CACHE_SIZE": "many", "WEB_UI": "x", "GATEWAY_URLS": "x"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    assert issuer_main.main(["check"]) == 1
    said = capsys.readouterr()
    assert all(f"{name}: " in said.err for name in wrong)
    assert said.out == ""


def test_check_lists_every_fault_of_the_credentials(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(settings["CREDENTIALS_FILE"]).write_text("ROOTa=x\n\nUSRSa=\n")
    assert issuer_main.main(["check"]) == 1
    err = capsys.readouterr().err
    assert "credentials line 1: " in err
    assert "credentials line 3: " in err


def test_check_lists_faults_of_settings_and_credentials_together(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(settings["CREDENTIALS_FILE"]).write_text("ROOTa=x\n")
    monkeypatch.setenv("WEB_UI", "x")
    assert issuer_main.main(["check"]) == 1
    err = capsys.readouterr().err
    assert "WEB_UI" in err
    assert "credentials line 1: " in err


def test_check_says_when_the_store_cannot_be_opened(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////no/such/directory/sessions.db")
    assert issuer_main.main(["check"]) == 1
    assert "session store" in capsys.readouterr().err


def test_the_real_command_prints_faults_and_no_traceback(settings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "issuer", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert all(name in done.stderr for name in ("SYNC_KEY", "SECRET_KEY", "CREDENTIALS_FILE"))


@pytest.fixture
def store(settings: dict[str, str]) -> Sessions:
    opened = sessions_in(Path(settings["DATABASE_URL"].removeprefix("sqlite:///")))
    for name, subject, role in (
        ("1", "USRSalice", "user"),
        ("2", "USRSalice", "user"),
        ("3", "USRSbob", "user"),
        ("4", "ADMNroot", "admin"),
    ):
        session = Session(name.rjust(22, "A"), subject, role, NOW, NOW + 9_000, "x")
        opened.add(session, 100, NOW)
    return opened


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--jti", "1".rjust(22, "A")], {"2", "3", "4"}),
        (["--user", "USRSalice"], {"3", "4"}),
        (["--role", "user"], {"4"}),
        (["--all"], set()),
        (["--jti", "Z" * 22], {"1", "2", "3", "4"}),
        (["--jti", "-" + "a" * 21], {"1", "2", "3", "4"}),
        (["--user", "USRSnobody"], {"1", "2", "3", "4"}),
        (["--user", ""], {"1", "2", "3", "4"}),
    ],
)
def test_revoke_revokes_what_it_is_told_in_the_store_and_at_the_gateway(
    store: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    left: set[str],
) -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        monkeypatch.setenv("GATEWAY_URLS", listener.url)
        assert issuer_main.main(["revoke", *arguments]) == 0
    assert {session.jti.lstrip("A") for session in store.active(NOW, 10)} == left
    assert len([number for number in model.numbers.values() if number == TOMBSTONE]) == 4 - len(
        left
    )
    assert re.findall(r"\d+", capsys.readouterr().out) == [str(4 - len(left))]


def test_revoke_says_2_when_a_gateway_has_not_acknowledged_it(
    store: Sessions, settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["revoke", "--all"]) == 2
    assert store.count_active(NOW) == 0
    assert settings["GATEWAY_URLS"] in capsys.readouterr().err


def test_revoke_of_no_role_is_a_fault_and_revokes_nothing(
    store: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["revoke", "--role", "root"]) == 1
    assert "root is no role" in capsys.readouterr().err
    assert store.count_active(NOW) == 4


def test_a_backup_can_be_restored_and_replaces_no_file(
    store: Sessions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = str(tmp_path / "backup.db")
    assert issuer_main.main(["backup", backup]) == 0
    assert issuer_main.main(["backup", backup]) == 1
    assert store.count_active(NOW) == 4
    capsys.readouterr()
    assert issuer_main.main(["restore", backup]) == 0
    assert "4 tokens" in capsys.readouterr().out
    assert store.count_active(NOW) == 0
    assert issuer_main.main(["restore", str(tmp_path / "missing.db")]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["revoke"],
        ["revoke", "--all", "--user", "x"],
        ["revoke", "x"],
        ["init"],
        ["no-such-command"],
    ],
)
def test_a_command_that_is_not_whole_does_nothing(
    store: Sessions, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        issuer_main.main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert store.count_active(NOW) == 4


def key_file() -> KeyFile:
    """That of the settings in the environment."""
    found = config.read(os.environ)
    return KeyFile(found.key_file, found.algorithm, found.secret_key, lambda: 3600)


@pytest.fixture
def started(settings: dict[str, str]) -> None:
    """The issuer has been started once: there is a key that signs."""
    key_file().prepare(NOW)


@contextmanager
def reconciling(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A gateway that listens, and a reconciler at work for it."""
    monkeypatch.setattr(reconciler, "PERIOD_SECONDS", 0.01)
    model = FakeGateway()
    with listening(model.answer) as listener:
        monkeypatch.setenv("GATEWAY_URLS", listener.url)
        parts = assemble(config.read(os.environ), takes_policy=True)
        loop = Reconciler(parts.active, parts.gateways, parts.credentials, parts.keys, parts.policy)
        stop = threading.Event()
        thread = threading.Thread(target=loop.run, args=(stop,))
        thread.start()
        try:
            yield model
        finally:
            stop.set()
            thread.join(20)


def assert_no_secret(said: str) -> None:
    for entry in key_file().read().entries:
        for secret in (entry.secret, base64.b64decode(entry.secret).decode()):
            assert not any(line in said for line in secret.splitlines() if line)
    assert SECRET_KEY not in said
    assert SYNC_KEY not in said


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
@pytest.mark.usefixtures("settings")
def test_keys_list_tells_kid_algorithm_time_and_state_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    monkeypatch.setenv("JWT_ALGORITHM", algorithm)
    file = key_file()
    file.prepare(NOW)
    assert issuer_main.main(["keys", "list"]) == 0
    file.promote(file.add(None, NOW).kid, 1_800_000_000)
    file.retire(file.add(None, NOW).kid, True, NOW)
    file.add("EdDSA", NOW)
    capsys.readouterr()
    assert issuer_main.main(["keys", "list"]) == 0
    said = capsys.readouterr()
    when = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    endings = ["verifying until 2027-01-15T09:00:00Z", "signing", "gone", "waiting"]
    lines = said.out.splitlines()
    assert len(lines) == 4
    for line, entry, ending in zip(lines, file.read().entries, endings, strict=True):
        assert re.fullmatch(rf"{entry.kid}  {entry.algorithm}  {when}  {ending}", line)
    assert_no_secret(said.out + said.err)


@pytest.mark.usefixtures("started")
def test_keys_add_answers_0_when_the_new_key_signs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with reconciling(monkeypatch) as model:
        (old,) = [entry.kid for entry in key_file().read().entries]
        assert issuer_main.main(["keys", "add"]) == 0
        said = capsys.readouterr()
    new = key_file().keyring().signing().kid
    assert new != old
    assert model.keys.keys() == {old, new}
    assert said.out.count(new) == 2
    assert old not in said.out
    assert_no_secret(said.out + said.err)


@pytest.mark.usefixtures("started")
def test_keys_add_makes_a_key_of_the_algorithm_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with reconciling(monkeypatch):
        assert issuer_main.main(["keys", "add", "--algorithm", "ES256"]) == 0
    assert key_file().keyring().signing().algorithm == "ES256"


def test_keys_add_answers_2_while_a_gateway_has_not_acknowledged_and_the_old_key_signs(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signing_keys, "PROMOTED_SECONDS", 0.2)
    key_file().prepare(NOW)
    assert issuer_main.main(["keys", "list"]) == 0
    old = key_file().keyring().signing().kid
    capsys.readouterr()
    assert issuer_main.main(["keys", "add"]) == 2
    said = capsys.readouterr()
    assert "has not acknowledged" in said.err
    assert key_file().keyring().signing().kid == old
    assert [entry.state for entry in key_file().read().entries] == ["signing", "waiting"]
    assert_no_secret(said.out + said.err)
    with reconciling(monkeypatch):
        wait_until(lambda: key_file().keyring().signing().kid != old, "it signs at last")


@pytest.mark.usefixtures("started")
def test_keys_add_is_a_fault_while_another_one_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signing_keys, "PROMOTED_SECONDS", 0.0)
    assert issuer_main.main(["keys", "add"]) == 2
    assert issuer_main.main(["keys", "add"]) == 1
    assert "waiting" in capsys.readouterr().err
    assert len(key_file().read().entries) == 2


@pytest.mark.usefixtures("started")
def test_keys_retire_now_replaces_a_signing_key_and_tells_the_gateways_before_it_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FakeGateway()
    with listening(model.answer) as listener:
        monkeypatch.setenv("GATEWAY_URLS", listener.url)
        assert issuer_main.main(["keys", "list"]) == 0
        leaked = key_file().keyring().signing().kid
        assert issuer_main.main(["keys", "retire", leaked, "--now"]) == 0
    said = capsys.readouterr()
    assert f"retired {leaked}\n" in said.out
    assert model.keys.keys() == {key_file().keyring().signing().kid} != {leaked}
    assert_no_secret(said.out + said.err)


@pytest.mark.usefixtures("started")
def test_keys_retire_now_has_the_key_that_waits_sign_in_the_place_of_a_leaked_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signing_keys, "PROMOTED_SECONDS", 0.0)
    with listening((model := FakeGateway()).answer) as listener:
        monkeypatch.setenv("GATEWAY_URLS", listener.url)
        leaked = key_file().keyring().signing().kid
        assert issuer_main.main(["keys", "add"]) == 2
        (waiting,) = key_file().read().waiting()
        assert issuer_main.main(["keys", "retire", leaked, "--now"]) == 0
    assert key_file().keyring().signing().kid == waiting
    assert model.keys.keys() == {waiting}
    assert len(key_file().read().entries) == 2


def test_keys_retire_takes_an_id_that_begins_with_a_dash_for_no_option(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["keys", "retire", "-1exu0Z2QPCsIyVa", "--now"]) == 1
    assert "usage:" not in capsys.readouterr().err


def test_keys_retire_now_answers_2_and_names_a_gateway_that_has_not_acknowledged(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    issuer_main.main(["keys", "list"])
    key_file().prepare(NOW)
    leaked = key_file().keyring().signing().kid
    assert issuer_main.main(["keys", "retire", leaked, "--now"]) == 2
    assert settings["GATEWAY_URLS"] in capsys.readouterr().err
    assert key_file().keyring().find(leaked) is None


@pytest.mark.usefixtures("started")
def test_keys_retire_lets_an_old_key_verify_until_its_last_token_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with reconciling(monkeypatch) as model:
        old = key_file().keyring().signing().kid
        assert issuer_main.main(["keys", "add"]) == 0
        assert issuer_main.main(["keys", "retire", old]) == 0
        assert "when its last token has ended" in capsys.readouterr().out
        assert old in model.keys
    assert key_file().keyring().find(old) is not None


@pytest.mark.usefixtures("started")
def test_keys_retire_is_a_fault_for_a_key_that_signs_and_for_none_at_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    issuer_main.main(["keys", "list"])
    before = key_file().read()
    for arguments in ([before.entries[0].kid], ["no-kid"], ["no-kid", "--now"]):
        assert issuer_main.main(["keys", "retire", *arguments]) == 1
        assert arguments[0] in capsys.readouterr().err
    assert key_file().read() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys"],
        ["keys", "retire"],
        ["keys", "add", "--algorithm", "none"],
        ["keys", "add", "--algorithm", "hs256"],
        ["keys", "add", "kid"],
        ["keys", "list", "kid"],
        ["keys", "other"],
    ],
)
@pytest.mark.usefixtures("settings")
def test_a_keys_command_that_is_not_whole_makes_no_key(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        issuer_main.main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert not config.read(os.environ).key_file.exists()


@pytest.mark.parametrize("arguments", [["check"], ["keys", "list"]])
@pytest.mark.usefixtures("started")
def test_a_command_that_only_reads_replaces_no_key_by_a_changed_secret_key(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """That is for the issuer's start (docs/configuration.md): here it would refuse live tokens."""
    assert issuer_main.main(["keys", "list"]) == 0
    before = key_file().read()
    monkeypatch.setenv("SECRET_KEY", "another-secret-key-0123456789-abcdefghijklmnopqrstuvw")
    assert issuer_main.main(arguments) == 0
    assert key_file().read() == before


@pytest.mark.usefixtures("started")
def test_a_broken_key_file_is_a_fault_of_every_keys_command_and_stays_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    issuer_main.main(["keys", "list"])
    path = config.read(os.environ).key_file
    path.write_text(path.read_text()[:-10])
    broken = path.read_bytes()
    capsys.readouterr()
    for arguments in (["list"], ["add"], ["retire", "kid"], ["retire", "kid", "--now"]):
        assert issuer_main.main(["keys", *arguments]) == 1
        said = capsys.readouterr()
        assert "key file" in said.err
        assert said.out == ""
    assert path.read_bytes() == broken


def generate(*arguments: str) -> int:
    return generator.main(["--generate", "1", *arguments])


def printed_logins(out: str) -> dict[str, str]:
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_generator_writes_hashes_only_and_prints_each_secret_once(
    tmp_path: Path, all_roles: Roles, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "credentials.env"
    before = os.umask(0)
    try:
        assert generate("--output", str(path)) == 0
    finally:
        os.umask(before)
    out = capsys.readouterr().out
    logins, text = printed_logins(out), path.read_text()
    assert len(logins) == 6
    assert sorted(name[:4] for name in logins) == sorted(role.code for role in all_roles)
    assert all(out.count(secret) == 1 for secret in logins.values())
    assert not any(secret in text for secret in logins.values())
    assert len(set(logins.values())) == 6
    assert min(len(secret) for secret in logins.values()) >= 24
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    warned: list[str] = []
    users = credentials.parse(text, all_roles, b"salt", warned.append)
    assert not warned
    assert all(users.check(name, secret) for name, secret in logins.items())
    assert list(tmp_path.iterdir()) == [path]


def test_the_generator_hashes_at_the_cost_the_issuer_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    assert credentials.COST in credentials.COSTS
    line = credentials.hashed_lines([("USRSa", "secret")]).splitlines()[1]
    assert re.fullmatch(rf"USRSa=\$2b\${credentials.COST}\$[./A-Za-z0-9]{{53}}", line)


def test_the_generator_never_overwrites_unless_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "credentials.env"
    path.write_text("mine\n")
    path.chmod(0o644)
    assert generate("--output", str(path)) == 1
    said = capsys.readouterr()
    assert "--force" in said.err
    assert said.out == ""
    assert path.read_text() == "mine\n"
    assert generate("--output", str(path), "--force") == 0
    assert "mine" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path / "missing" / "file", id="missing directory"),
        pytest.param(lambda path: path, id="a directory"),
    ],
)
def test_the_generator_prints_no_secret_that_it_could_not_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    assert generate("--output", str(make(tmp_path))) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("credentials: ")


def test_the_generator_makes_as_many_users_a_role_as_it_is_told(all_roles: Roles) -> None:
    names = [name for name, _ in credentials.generate([role.code for role in all_roles], 5)]
    assert len(names) == 30
    assert all(re.fullmatch(r"[A-Z]{4}[A-Z0-9]+", name) for name in names)


@pytest.mark.parametrize("count", ["0", "-1", "1001", "many"])
def test_the_generator_refuses_odd_numbers(count: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        generator.main(["--generate", count, "--output", str(tmp_path / "x")])
    assert list(tmp_path.iterdir()) == []


def test_the_generator_never_makes_one_user_twice() -> None:
    for _ in range(300):
        names = [name for name, _ in credentials.generate(["USRS"], 1000)]
        assert len(set(names)) == len(names)


def give(monkeypatch: pytest.MonkeyPatch, data: Path, text: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return issuer_main.main(["init", "--data-dir", str(data), "--given"])


@pytest.mark.usefixtures("no_settings")
def test_init_keeps_given_keys_and_users_beside_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"SECRET_KEY": "k" * 40, "SYNC_KEY": "s" * 40, "CREDENTIALS_FILE": "AGNR1=é\r\n"}
    assert give(monkeypatch, tmp_path, json.dumps(given)) == 0
    before = files_in(tmp_path)
    assert before["given/secret_key"] == (0o600, b"k" * 40)
    assert before["given/credentials.env"] == (0o600, "AGNR1=é\r\n".encode())
    assert before["secrets/secret_key"][1] != b"k" * 40
    assert "kkk" not in capsys.readouterr().out
    assert give(monkeypatch, tmp_path, '{"SYNC_KEY": "other"}') == 0
    assert files_in(tmp_path) == {**before, "secrets/given/sync_key": (0o600, b"other")}


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("text", ["", "[]", '{"DATABASE_URL": "x"}', '{"SECRET_KEY'])
def test_init_refuses_what_it_cannot_keep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    assert give(monkeypatch, tmp_path, text) == 1
    assert "standard input" in capsys.readouterr().err
    assert not (tmp_path / "given").exists()


@pytest.mark.usefixtures("no_settings")
def test_init_makes_demo_users_of_the_roles_of_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write_policy(
        tmp_path / "policy.yaml",
        lambda content: content["roles"]["agent_reasoning"].update(code="ROBO"),
    )
    monkeypatch.setenv("POLICY_FILE", str(own))
    assert give(monkeypatch, tmp_path, "{}") == 0
    codes = {line[:4] for line in (tmp_path / "demo-logins").read_text().splitlines()}
    assert codes == {"ROBO", "AGNF", "AGIA", "USRS", "MNTR", "ADMN"}


# Explaining


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped policy, and a kind of LLM server of the test's own."""
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "own.yaml").write_text(
        "dialect: ollama\n"
        "model_names: ollama\n"
        "routes:\n"
        "  inference: [POST /api/chat model=body]\n"
        "  management:\n"
        "    - POST /api/pull\n"
    )
    (tmp_path / "policy.yaml").write_text(config.POLICY_FILE.read_text())
    for name in ("SECRET_KEY", "SYNC_KEY", "CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POLICY_FILE", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("LLM_KIND", "own")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def line_of(path: Path, text: str, after: str = "") -> int:
    lines = path.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if after in line)
    return next(number for number, line in enumerate(lines, 1) if number > start and text in line)


def test_explain_tells_the_decision_the_rule_and_the_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["explain", "AGNFXYZ456", "POST", "/api/pull"]) == 1
    line = line_of(folder / "policy.yaml", "routes:", after="agent_fast:")
    assert capsys.readouterr().out.splitlines() == [
        "403 insufficient_permissions",
        "rule   agent_fast may use inference, models, health; "
        "POST /api/pull is of class management",
        f"place  policy.yaml:{line}  roles.agent_fast.routes",
    ]


@pytest.mark.usefixtures("folder")
def test_explain_answers_0_for_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert issuer_main.main(["explain", "ADMNroot", "POST", "/llm/api/pull?x=1"]) == 0
    assert capsys.readouterr().out.startswith("200 allowed\n")


def test_explain_takes_the_users_own_models_and_the_model_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "policy.yaml"
    users = 'users: {AGNFa: {models: ["phi*"]}}'
    path.write_text(path.read_text().replace("users: {}", users))
    assert issuer_main.main(["explain", "AGNFa", "POST", "/api/chat", "--model", "phi3"]) == 0
    assert "'phi3'" in capsys.readouterr().out
    assert issuer_main.main(["explain", "AGNFa", "POST", "/api/chat", "--model", "qwen"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("404 model_not_found\n")
    assert f"policy.yaml:{line_of(path, users)}  users.AGNFa.models" in out
    assert issuer_main.main(["explain", "AGNFa", "POST", "/api/chat"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("400 invalid_request\n")
    assert "servers/own.yaml:4  routes.inference[1]" in out


@pytest.mark.usefixtures("folder")
def test_explain_names_the_kinds_where_no_line_is_to_blame(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert issuer_main.main(["explain", "AGNFa", "GET", "/nowhere"]) == 1
    assert capsys.readouterr().out.endswith("\nplace  servers\n")


def test_explain_answers_2_for_faults_of_any_file_and_setting(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "policy.yaml").write_text("{}")
    (folder / "servers" / "own.yaml").write_text("routes: {inference: [GET]}")
    monkeypatch.setenv("WEB_UI", "x")
    assert issuer_main.main(["explain", "AGNFa", "GET", "/"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("policy.yaml line 1", "servers/own.yaml line 1", "inference[1]", "WEB_UI"):
        assert part in captured.err
    (folder / "policy.yaml").unlink()
    assert issuer_main.main(["explain", "AGNFa", "GET", "/"]) == 2
    assert "policy.yaml: cannot read" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_explain_with_too_little_said_is_2() -> None:
    with pytest.raises(SystemExit) as ended:
        issuer_main.main(["explain", "AGNFa"])
    assert ended.value.code == 2


def test_explain_works_with_the_shipped_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert issuer_main.main(["explain", "MNTRa", "POST", "/v1/chat/completions"]) == 1
    assert capsys.readouterr().out.startswith("403 insufficient_permissions\n")


def test_check_of_a_start_does_not_go_by_the_store_where_an_upstream_stands_beside_servers(
    settings: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_policy(tmp_path / "policy.yaml", lambda content: None)
    monkeypatch.setenv("POLICY_FILE", str(path))
    monkeypatch.setenv("LLM_UPSTREAM", "http://127.0.0.1:9")
    assemble(config.read(os.environ), takes_policy=True)
    assert issuer_main.main(["check", "--start"]) == 0
    server = {"name": "a", "url": "http://a", "kind": "vllm"}
    write_policy(path, lambda content: content.update(servers=[server]))
    capsys.readouterr()
    assert issuer_main.main(["check", "--start"]) == 1
    said = capsys.readouterr().err
    assert said.count("LLM_UPSTREAM: must not be set beside policy.yaml line") == 1
    assert len(said.splitlines()) == 1
    monkeypatch.delenv("LLM_UPSTREAM")
    assert issuer_main.main(["check", "--start"]) == 0
