"""`users add | list | passwd | remove`, which edit the credentials file, and `sessions`."""

import getpass
import io
import json
import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from issuer import __main__ as issuer_main
from issuer.errors import Faults
from issuer.policy.roles import Roles
from issuer.store import Session
from issuer.store.sessions import Sessions
from issuer.users import credentials, credentials_file
from tests.support.fake_gateway import TOMBSTONE, FakeGateway
from tests.support.listening import listening
from tests.support.stores import sessions_in

ROOT = Path(__file__).resolve().parents[3]
NOW = int(time.time())
SECRET = "correct horse"
#: Comments, blank lines, spellings and line ends that people write.
TEXT = "# ours\n\n  AGNRone = plain-one  \nUSRStwo='plain two'\n# the last\nADMNroot=plain-root"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "COST", 10)


@pytest.fixture
def file(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path
) -> Iterator[Path]:
    """A credentials file in a folder of its own, with good settings and a gateway that answers."""
    folder = tmp_path / "users"
    folder.mkdir()
    path = folder / "credentials.env"
    path.write_bytes(TEXT.encode())
    path.chmod(0o640)
    for name in ("SECRET_KEY_FILE", "SYNC_KEY_FILE", "POLICY_FILE", "JWT_ALGORITHM"):
        monkeypatch.delenv(name, raising=False)
    with listening(FakeGateway().answer) as listener:
        given = {"CREDENTIALS_FILE": str(path), "GATEWAY_URLS": listener.url}
        for name, value in (environ | given).items():
            monkeypatch.setenv(name, value)
        yield path


Say = Callable[[str], None]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Puts a text on standard input, which is no terminal."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def users(*words: str) -> int:
    return issuer_main.main(["users", *words])


def logs_in(path: Path, roles: Roles, name: str, secret: str) -> bool:
    return credentials.parse(path.read_text(), roles, b"salt", lambda _: None).check(name, secret)


def session(number: str, subject: str) -> Session:
    return Session(number.rjust(22, "A"), subject, "user", NOW, NOW + 900, "x")


@pytest.fixture
def store(environ: dict[str, str]) -> Sessions:
    opened = sessions_in(Path(environ["DATABASE_URL"].removeprefix("sqlite:///")))
    for number, subject in (("1", "USRStwo"), ("2", "USRStwo"), ("3", "AGNRone")):
        opened.add(session(number, subject), 100, NOW)
    return opened


def test_a_user_is_added_as_one_line_with_a_hash_and_can_log_in(
    file: Path, say: Say, all_roles: Roles, capsys: pytest.CaptureFixture[str]
) -> None:
    say(f"{SECRET}\nanother line\n")
    assert users("add", "USRSnew") == 0
    text = file.read_text()
    assert text.startswith(TEXT + "\nUSRSnew=$2b$10$")
    assert text.count("\n") == TEXT.count("\n") + 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == [file.name]
    assert logs_in(file, all_roles, "USRSnew", SECRET)
    assert SECRET not in text + "".join(capsys.readouterr())


def test_a_generated_secret_is_printed_once_and_logs_in(
    file: Path, all_roles: Roles, capsys: pytest.CaptureFixture[str]
) -> None:
    assert users("add", "AGNFnew", "--generate") == 0
    name, _, secret = capsys.readouterr().out.splitlines()[-1].partition("=")
    assert logs_in(file, all_roles, name, secret)
    assert secret not in file.read_text()


@pytest.mark.parametrize(("again", "status"), [(SECRET, 0), ("other", 1)])
def test_at_a_terminal_the_secret_is_asked_for_twice(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_roles: Roles,
    again: str,
    status: int,
) -> None:
    answers = iter([SECRET, again])
    monkeypatch.setattr(sys, "stdin", io.StringIO("not this"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _: next(answers))
    assert users("passwd", "USRStwo") == status
    assert logs_in(file, all_roles, "USRStwo", SECRET if status == 0 else "plain two")


def test_a_terminal_shows_no_secret(file: Path, all_roles: Roles) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "issuer", "users", "add", "USRSnew"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        for prompt in (b"New secret: ", b"The same again: "):
            while not shown.endswith(prompt):
                shown += os.read(ours, 1024)
            os.write(ours, SECRET.encode() + b"\n")
        while b"added USRSnew" not in shown:
            shown += os.read(ours, 1024)
        assert process.wait(30) == 0
    os.close(ours)
    assert SECRET.encode() not in shown
    assert logs_in(file, all_roles, "USRSnew", SECRET)


def test_another_secret_touches_one_line_and_revokes_before_it_answers(
    file: Path, say: Say, store: Sessions, all_roles: Roles
) -> None:
    say(SECRET)
    assert users("passwd", "AGNRone") == 0
    before, after = TEXT.split("\n"), file.read_text().split("\n")
    assert [number for number, line in enumerate(before) if line != after[number]] == [2]
    assert after[2].startswith("  AGNRone =$2b$")
    assert logs_in(file, all_roles, "AGNRone", SECRET)
    assert {one.subject for one in store.active(NOW, 10)} == {"USRStwo"}


def test_a_user_that_is_removed_has_no_line_and_no_token_anywhere(
    file: Path,
    store: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = FakeGateway()
    (file.parent / "demo-logins").write_text("USRStwo=plain two\nADMNroot=plain-root\n")
    with listening(model.answer) as listener:
        monkeypatch.setenv("GATEWAY_URLS", listener.url)
        assert users("remove", "USRStwo") == 0
    assert file.read_text() == TEXT.replace("USRStwo='plain two'\n", "")
    assert list(model.numbers.values()) == [TOMBSTONE, TOMBSTONE]
    assert {one.subject for one in store.active(NOW, 10)} == {"AGNRone"}
    assert "2 unexpired tokens" in capsys.readouterr().out
    assert (file.parent / "demo-logins").read_text() == "ADMNroot=plain-root\n"


def test_a_gateway_that_has_not_acknowledged_is_named_with_status_2(
    file: Path, store: Sessions, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    monkeypatch.setenv("GATEWAY_URLS", environ["GATEWAY_URLS"])
    assert users("remove", "USRStwo") == 2
    assert {one.subject for one in store.active(NOW, 10)} == {"AGNRone"}


@pytest.mark.parametrize(
    ("words", "given", "fault"),
    [
        (["add", "USRStwo"], SECRET, "USRStwo is a user already"),
        (
            ["add", "NONEuser"],
            SECRET,
            "begins with no role's code; there are AGNR (agent_reasoning)",
        ),
        (["add", "a secret"], SECRET, "NAME is no username"),
        (["add", "USRS"], SECRET, "NAME is no username"),
        (["add", "USRSnew\nADMNx"], SECRET, "NAME is no username"),
        (["passwd", "USRSnew"], SECRET, "there is no user USRSnew"),
        (["remove", "USRSnew"], SECRET, "there is no user USRSnew"),
        (["remove", "a secret"], SECRET, "there is no such user"),
        (["add", "USRSnew"], "", "no secret on standard input"),
        (["add", "USRSnew"], "\n", "no secret on standard input"),
        (["add", "USRSnew"], "x" * 73, "longer than 72 bytes"),
        (["add", "USRSnew"], "a\0b", "U+0000 NULL at column 2, in the secret, is a control"),
        (["add", "USRSnew"], "a\udcff", "not UTF-8"),
        (["add", "USRSnew"], "$2b$10$" + "a" * 21 + "." + "a" * 31, "is a bcrypt hash already"),
        (["passwd", "USRStwo"], "y" * 73, "longer than 72 bytes"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(
    file: Path,
    say: Say,
    store: Sessions,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    given: str,
    fault: str,
) -> None:
    say(given)
    assert users(*words) == 1
    said = capsys.readouterr().err
    assert fault in said
    assert "a secret" not in said
    assert not given.strip() or given not in said
    assert file.read_text() == TEXT
    assert store.count_active(NOW) == 3


def test_a_file_that_would_have_faults_is_left_alone_and_every_fault_is_told(
    file: Path, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = TEXT + "\nno user at all\nUSRSx=\n"
    file.write_text(broken)
    say(SECRET)
    assert users("add", "USRSnew") == 1
    said = capsys.readouterr().err
    assert "nothing is changed" in said
    assert "line 7: expected USERNAME=SECRET" in said
    assert "line 8: the secret is empty" in said
    assert file.read_text() == broken


def test_a_faulty_line_can_be_mended_by_another_secret(
    file: Path, say: Say, all_roles: Roles
) -> None:
    file.write_text(TEXT + "\nUSRSx=$2b$10$cut\n")
    say(SECRET)
    assert users("passwd", "USRSx") == 0
    assert logs_in(file, all_roles, "USRSx", SECRET)


def test_a_user_that_is_there_twice_and_the_last_one_are_no_ones_to_remove(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("USRSa=one\nUSRSa=two\n")
    assert users("remove", "USRSa") == 1
    assert "in the lines 1 and 2" in capsys.readouterr().err
    file.write_text("USRSa=one\n")
    assert users("remove", "USRSa") == 1
    assert "the file names no user" in capsys.readouterr().err
    assert file.read_text() == "USRSa=one\n"


def test_the_list_tells_name_role_and_how_the_secret_is_kept(
    file: Path, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    say(SECRET)
    assert users("passwd", "ADMNroot") == 0
    capsys.readouterr()
    assert users("list") == 0
    said = capsys.readouterr().out
    assert [line.split("  ") for line in said.splitlines()] == [
        ["AGNRone", "agent_reasoning", "plain text"],
        ["USRStwo", "user", "plain text"],
        ["ADMNroot", "admin", "hash"],
    ]


def test_a_file_that_is_not_there_is_a_fault_with_its_place(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.unlink()
    assert users("list") == 1
    assert f"cannot read {file}" in capsys.readouterr().err


def test_edits_at_one_time_lose_none(file: Path) -> None:
    names = [f"USRSuser{number}" for number in range(6)]
    command = [sys.executable, "-m", "issuer", "users", "add", "--generate"]
    running = [
        subprocess.Popen([*command, name], cwd=ROOT, stdout=subprocess.DEVNULL) for name in names
    ]
    assert [process.wait(60) for process in running] == [0] * len(names)
    text = file.read_text()
    assert text.startswith(TEXT)
    assert all(text.count(f"\n{name}=$2b$") == 1 for name in names)


def test_a_link_stays_a_link_and_what_it_leads_to_is_edited(file: Path, say: Say) -> None:
    real = file.with_name("real.env")
    file.rename(real)
    file.symlink_to(real)
    say(SECRET)
    assert users("add", "USRSnew") == 0
    assert file.is_symlink()
    assert "USRSnew=$2b$" in real.read_text()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_ends_and_a_byte_order_mark_stay(
    end: str, mark: str, last: str, all_roles: Roles
) -> None:
    text = mark + end.join(["USRSa=one", "# c", "USRSb=two"]) + (end if last else "")
    closed = text if last else text + end
    assert credentials_file.added(text, "USRSc", "x") == f"{closed}USRSc=x{end}"
    assert credentials_file.changed(text, "USRSa", "x") == text.replace("=one", "=x")
    assert credentials_file.removed(text, "USRSa") == text.replace(f"USRSa=one{end}", "")
    before_it = text.partition("USRSb")[0]
    assert credentials_file.removed(text, "USRSb") == before_it
    kept = credentials_file.listed(credentials_file.removed(text, "USRSa"), all_roles)
    assert [name for name, _, _ in kept] == ["USRSb"]


def test_a_folder_that_cannot_be_written_is_a_fault_and_leaves_all_as_it_is(
    file: Path, all_roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Faults, match=r"nothing is changed: .* No space left on device"):
        credentials_file.edit(file, all_roles, lambda text: text + "\nUSRSnew=x")
    assert file.read_text() == TEXT
    assert os.listdir(file.parent) == [file.name]


def test_sessions_lists_the_active_ones_newest_first(
    file: Path, store: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["sessions"]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == ["AGNRone", "USRStwo", "USRStwo"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW))
    assert rows[0][:4] == ["3".rjust(22, "A"), "AGNRone", "user", moment]


def test_sessions_of_one_user_are_json_when_asked(
    file: Path, store: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert issuer_main.main(["sessions", "--user", "AGNRone", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "sessions": [
            {
                "jti": "3".rjust(22, "A"),
                "subject": "AGNRone",
                "role": "user",
                "issued_at": NOW,
                "expires_at": NOW + 900,
            }
        ]
    }
    assert issuer_main.main(["sessions", "--user", "USRSnobody"]) == 0
    assert capsys.readouterr().out == ""
