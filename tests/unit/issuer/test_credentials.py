"""Who may log in: the file, the check, the watch over it, and the queue before bcrypt."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest

from issuer.errors import Faults, TooManyLogins
from issuer.policy.roles import Roles
from issuer.users import credentials
from issuer.users.credentials import Credentials, Doorkeeper
from issuer.users.credentials_in_force import CredentialsInForce
from issuer.users.remembered import Remembered
from issuer.users.turns import Turns

SALT = b"a salt of the tests"
SECRET = "the right secret"
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
HASH = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(10)).decode()
OTHER_HASH = bcrypt.hashpw(b"another secret", bcrypt.gensalt(10)).decode()


@pytest.fixture
def bcrypts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cost of every bcrypt that is computed from here on."""
    costs: list[int] = []
    real = bcrypt.checkpw

    def counting(password: bytes, hashed: bytes) -> bool:
        costs.append(int(hashed[4:6]))
        return real(password, hashed)

    monkeypatch.setattr("bcrypt.checkpw", counting)
    return costs


@pytest.fixture
def cheap_plain_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "COST", 10)


@pytest.fixture
def read(all_roles: Roles) -> Callable[[str], Credentials]:
    return lambda text: credentials.parse(text, all_roles, SALT, lambda _: None)


def faults(read: Callable[[str], Credentials], text: str) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        read(text)
    return found.value.faults


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_every_kind_of_bcrypt_hash_lets_the_right_secret_in(
    read: Callable[[str], Credentials], prefix: str
) -> None:
    users = read(f"USRSalice={prefix}{HASH[4:]}\n")
    assert users.check("USRSalice", SECRET)
    assert not users.check("USRSalice", SECRET + " ")


def test_comments_blank_lines_spaces_and_crlf_are_read_over(
    read: Callable[[str], Credentials],
) -> None:
    users = read(f"# people\r\n\r\n  USRSalice = {HASH} \r\n\t# end\nADMNroot={HASH}")
    assert len(users) == 2
    assert users.check("USRSalice", SECRET)


@pytest.mark.usefixtures("cheap_plain_secrets")
def test_a_plain_secret_may_hold_an_equals_sign(read: Callable[[str], Credentials]) -> None:
    assert read("USRSalice=a=b==").check("USRSalice", "a=b==")


@pytest.mark.usefixtures("cheap_plain_secrets")
def test_a_plain_secret_is_warned_of_by_its_line_and_never_named(all_roles: Roles) -> None:
    said: list[str] = []
    users = credentials.parse(
        f"ADMNroot={HASH}\nUSRSalice=plain-as-day", all_roles, SALT, said.append
    )
    assert len(said) == 1
    assert "line 2" in said[0]
    assert "plain-as-day" not in said[0]
    assert users.check("USRSalice", "plain-as-day")
    assert not users.check("USRSalice", "plain-as-da")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        pytest.param("ROOTalice=secret", "no role's code", id="unknown code"),
        pytest.param("usrsalice=secret", "expected USERNAME=SECRET", id="code in lower case"),
        pytest.param("USRS=secret", "expected USERNAME=SECRET", id="nothing but a code"),
        pytest.param("USRSal ice=secret", "expected USERNAME=SECRET", id="a space in the name"),
        pytest.param("USRSal:ice=secret", "expected USERNAME=SECRET", id="a colon in the name"),
        pytest.param("USRS" + "x" * 61 + "=secret", "expected", id="name too long"),
        pytest.param("\ufeffUSRSalice=secret", "expected", id="byte order mark"),
        pytest.param("\ufeff# comment = x", "expected", id="byte order mark before a comment"),
        pytest.param("=secret", "expected USERNAME=SECRET", id="no name"),
        pytest.param("USRSalice", "empty", id="a name alone"),
        pytest.param("USRSalice=", "empty", id="empty secret"),
        pytest.param("USRSalice=" + "x" * 73, "longer than 72 bytes", id="P1 73 bytes"),
        pytest.param("USRSalice=" + "é" * 37, "longer than 72 bytes", id="P1 37 letters, 74 bytes"),
        pytest.param("USRSalice=sec\0ret", "NUL", id="P2 NUL"),
        pytest.param("USRSalice=" + HASH.replace("$10$", "$09$"), "cost", id="P3 cost 9"),
        pytest.param("USRSalice=" + HASH.replace("$10$", "$15$"), "cost", id="P3 cost 15"),
        pytest.param("USRSalice=" + HASH.replace("$10$", "$31$"), "cost", id="P3 cost 31"),
        pytest.param("USRSalice=" + HASH[:-1], "not bcrypt", id="P3 hash cut short"),
        pytest.param("USRSalice=" + HASH + "x", "not bcrypt", id="P3 hash too long"),
        pytest.param("USRSalice=" + HASH.replace("$2b$", "$2x$"), "not bcrypt", id="P3 $2x$"),
        pytest.param("USRSalice=$1$salt$abcdef", "not bcrypt", id="P3 $1$"),
        pytest.param("USRSalice=$6$salt$abcdef", "not bcrypt", id="P3 $6$"),
    ],
)
def test_a_faulty_line_is_named_and_its_secret_is_not(
    read: Callable[[str], Credentials], line: str, word: str
) -> None:
    (fault,) = faults(read, f"ADMNroot={HASH}\n{line}")
    assert fault.startswith("credentials line 2: ")
    assert word in fault
    secret = line.partition("=")[2]
    assert len(secret) < 2 or secret not in fault


def test_a_hash_that_bcrypt_cannot_use_is_a_fault(read: Callable[[str], Credentials]) -> None:
    assert faults(read, "USRSalice=$2b$10$" + "z" * 53)


def test_p3_all_faults_are_told_together(read: Callable[[str], Credentials]) -> None:
    found = faults(
        read, f"ROOTa=x\nUSRSa={HASH}\nUSRSa={OTHER_HASH}\nUSRSb=\n# fine\nUSRSc=$1$x$y\nbad ="
    )
    numbers = [fault.split(":")[0] for fault in found]
    assert numbers == [f"credentials line {line}" for line in (1, 3, 4, 6, 7, 7)]


def test_p1_the_longest_secret_is_72_bytes(read: Callable[[str], Credentials]) -> None:
    longest = "é" * 36
    users = read(f"USRSalice={bcrypt.hashpw(longest.encode(), bcrypt.gensalt(10)).decode()}")
    assert users.check("USRSalice", longest)
    assert not users.check("USRSalice", longest + "x")


@pytest.mark.parametrize(
    ("username", "secret"),
    [
        pytest.param("USRSalice", SECRET, id="the right secret"),
        pytest.param("USRSalice", "wrong", id="a wrong one"),
        pytest.param("USRSalice", "", id="P2 an empty one"),
        pytest.param("USRSalice", "x" * 73, id="P1 73 bytes"),
        pytest.param("USRSalice", "é" * 36 + "x", id="P1 more than 72 bytes of letters"),
        pytest.param("USRSalice", SECRET + "\0", id="P2 a NUL behind the right one"),
        pytest.param("USRSalice", "\ud800", id="P2 a lone surrogate"),
        pytest.param("USRSalice", "x" * (1 << 20), id="P2 a MiB"),
        pytest.param("USRSnobody", SECRET, id="I8 an unknown user"),
        pytest.param("ROOTnobody", SECRET, id="I8 an unknown role"),
        pytest.param("", "", id="P2 nothing at all"),
        pytest.param("\ud800", SECRET, id="P2 a surrogate for a name"),
        pytest.param("USRS\0", SECRET, id="P2 a NUL in the name"),
    ],
)
def test_i8_every_login_costs_one_bcrypt_of_the_same_cost(
    read: Callable[[str], Credentials], bcrypts: list[int], username: str, secret: str
) -> None:
    users = read(f"USRSalice={HASH}\nADMNroot={HASH}")
    assert users.check(username, secret) is ((username, secret) == ("USRSalice", SECRET))
    assert bcrypts == [10]


def test_i8_a_user_with_a_plain_secret_costs_one_bcrypt_as_well(
    read: Callable[[str], Credentials], bcrypts: list[int]
) -> None:
    users = read("USRSalice=plain")
    assert users.check("USRSalice", "plain")
    assert not users.check("USRSalice", "wrong")
    assert not users.check("USRSnobody", "plain")
    assert bcrypts == [credentials.COST] * 3


def test_i8_costs_of_unknown_users_are_spread_as_those_of_real_ones_and_stay(
    read: Callable[[str], Credentials], bcrypts: list[int]
) -> None:
    other = bcrypt.hashpw(b"x", bcrypt.gensalt(11)).decode()
    users = read(f"USRSalice={HASH}\nUSRSbob={other}")
    names = [f"USRSnobody{number}" for number in range(6)]
    for name in names + names:
        users.check(name, "x")
    assert bcrypts[:6] == bcrypts[6:]
    assert set(bcrypts) == {10, 11}


def test_the_fingerprint_changes_with_the_secret_the_user_and_the_store(
    read: Callable[[str], Credentials], all_roles: Roles
) -> None:
    users = read(f"USRSalice={HASH}\nUSRSbob={HASH}")
    elsewhere = credentials.parse(f"USRSalice={HASH}", all_roles, b"another salt")
    prints = [
        users.fingerprint("USRSalice"),
        users.fingerprint("USRSbob"),
        read(f"USRSalice={OTHER_HASH}").fingerprint("USRSalice"),
        elsewhere.fingerprint("USRSalice"),
    ]
    assert len(set(prints)) == 4
    assert read(f"USRSalice={HASH}").fingerprint("USRSalice") == prints[0]
    assert users.fingerprint("USRSnobody") is None


def test_no_secret_shows_in_a_repr(read: Callable[[str], Credentials]) -> None:
    users = read(f"USRSalice={HASH}")
    shown = f"{users!r} {vars(users)!r}"
    assert "USRSalice" in shown
    assert HASH[7:] not in shown


def test_the_file_is_read_again_when_it_changed(all_roles: Roles, tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    path.write_text(f"USRSalice={HASH}\n")
    watched = CredentialsInForce(path, lambda: all_roles, SALT)
    first = watched.in_force()
    assert watched.in_force() is first
    path.write_text(f"USRSbob={HASH}\nUSRScarol={HASH}\n")
    assert watched.in_force().fingerprint("USRSalice") is None
    assert len(watched.in_force()) == 2


def test_a_file_of_the_same_size_put_in_its_place_is_noticed(
    all_roles: Roles, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.env"
    path.write_text(f"USRSalice={HASH}\n")
    before = path.stat()
    watched = CredentialsInForce(path, lambda: all_roles, SALT)
    (tmp_path / "new").write_text(f"USRSalice={OTHER_HASH}\n")
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "new", path)
    assert watched.in_force().check("USRSalice", "another secret")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_text("USRSalice\n"), id="a broken line"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="no UTF-8"),
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id="a directory"),
        pytest.param(
            lambda path: path.write_text(""),
            id="empty, as in the midst of being written",
        ),
    ],
)
def test_p3_a_faulty_file_leaves_the_former_set_in_force(
    all_roles: Roles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
) -> None:
    path = tmp_path / "credentials.env"
    path.write_text(f"USRSalice={HASH}\n")
    watched = CredentialsInForce(path, lambda: all_roles, SALT)
    spoil(path)
    with caplog.at_level(logging.ERROR):
        assert watched.in_force().check("USRSalice", SECRET)
        watched.in_force()
    assert caplog.text.count("the former version stays in force") == 1
    assert HASH not in caplog.text


def test_a_repaired_file_comes_into_force(all_roles: Roles, tmp_path: Path) -> None:
    path = tmp_path / "credentials.env"
    path.write_text(f"USRSalice={HASH}\n")
    watched = CredentialsInForce(path, lambda: all_roles, SALT)
    path.unlink()
    assert len(watched.in_force()) == 1
    path.write_text(f"USRSalice={HASH}\nUSRSbob={HASH}\n")
    assert len(watched.in_force()) == 2


@pytest.mark.parametrize("content", [None, b"\xff", b"nonsense"])
def test_a_start_with_a_faulty_file_is_refused(
    all_roles: Roles, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "credentials.env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Faults, match="credentials"):
        CredentialsInForce(path, lambda: all_roles, SALT)


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper(Remembered(), Turns(at_once=1, waiting=0))


def test_p6_a_secret_that_was_right_costs_no_bcrypt_again(
    read: Callable[[str], Credentials], bcrypts: list[int], door: Doorkeeper
) -> None:
    users = read(f"USRSalice={HASH}\nUSRSbob={HASH}")
    assert [door.check(users, "USRSalice", SECRET, HERE) for _ in range(5)] == [True] * 5
    assert bcrypts == [10]
    assert door.check(users, "USRSbob", SECRET, HERE)
    assert bcrypts == [10, 10]


@pytest.mark.parametrize(
    ("username", "secret"),
    [("USRSalice", "wrong"), ("USRSalice", ""), ("USRSnobody", SECRET), ("USRSnobody", "wrong")],
)
def test_i8_a_wrong_secret_of_a_remembered_user_costs_the_bcrypt_of_an_unknown_one(
    read: Callable[[str], Credentials],
    bcrypts: list[int],
    door: Doorkeeper,
    username: str,
    secret: str,
) -> None:
    users = read(f"USRSalice={HASH}")
    door.check(users, "USRSalice", SECRET, HERE)
    assert [door.check(users, username, secret, HERE) for _ in range(3)] == [False] * 3
    assert bcrypts == [10] * 4


def test_a_secret_that_was_right_is_wrong_with_the_first_check_after_it_changed(
    read: Callable[[str], Credentials], bcrypts: list[int], door: Doorkeeper
) -> None:
    before, now = read(f"USRSalice={HASH}"), read(f"USRSalice={OTHER_HASH}")
    assert door.check(before, "USRSalice", SECRET, HERE)
    assert not door.check(now, "USRSalice", SECRET, HERE)
    assert door.check(now, "USRSalice", "another secret", HERE)
    assert len(bcrypts) == 3


def test_what_changed_is_forgotten_and_what_stayed_is_not(
    read: Callable[[str], Credentials], bcrypts: list[int], door: Doorkeeper
) -> None:
    before = read(f"USRSalice={HASH}\nUSRSbob={HASH}\nUSRScarol={HASH}")
    for name in ("USRSalice", "USRSbob", "USRScarol"):
        assert door.check(before, name, SECRET, HERE)
    now = read(f"USRSalice={HASH}\nUSRSbob={OTHER_HASH}")
    door.forget(before, now)
    bcrypts.clear()
    assert door.check(now, "USRSalice", SECRET, HERE)
    assert bcrypts == []
    assert door.check(before, "USRSbob", SECRET, HERE)
    assert door.check(before, "USRScarol", SECRET, HERE)
    assert bcrypts == [10, 10]


def test_p6_a_remembered_secret_waits_behind_no_bcrypt(
    read: Callable[[str], Credentials], monkeypatch: pytest.MonkeyPatch, door: Doorkeeper
) -> None:
    users = read(f"USRSalice={HASH}")
    assert door.check(users, "USRSalice", SECRET, HERE)
    hashing, go_on = threading.Event(), threading.Event()

    def held(password: bytes, hashed: bytes) -> bool:
        hashing.set()
        return not go_on.wait(20)

    monkeypatch.setattr("bcrypt.checkpw", held)
    flood = threading.Thread(target=door.check, args=(users, "USRSalice", "wrong", ELSEWHERE))
    flood.start()
    assert hashing.wait(20)
    assert door.check(users, "USRSalice", SECRET, HERE)
    with pytest.raises(TooManyLogins):
        door.check(users, "USRSalice", "wrong", HERE)
    go_on.set()
    flood.join()


def test_a_check_that_fails_badly_gives_its_turn_back(
    read: Callable[[str], Credentials], monkeypatch: pytest.MonkeyPatch, door: Doorkeeper
) -> None:
    users = read(f"USRSalice={HASH}")

    def failing(password: bytes, hashed: bytes) -> bool:
        raise ValueError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr("bcrypt.checkpw", failing)
        for _ in range(3):
            with pytest.raises(ValueError, match="out of luck"):
                door.check(users, "USRSalice", SECRET, HERE)
    assert door.check(users, "USRSalice", SECRET, HERE)


def test_a_carriage_return_within_a_line_of_the_file_is_named_c1(
    all_roles: Roles, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.env"
    path.write_bytes(b"USRSalice=one\rUSRSbob=two\r\n")
    with pytest.raises(Faults, match=r"line 1: U\+000D CARRIAGE RETURN at column 14, in the sec"):
        CredentialsInForce(path, lambda: all_roles, SALT)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(f"USRSalice={HASH}\nUSRSbob=gr\xfc\xdfe\n".encode("latin-1"), 2, id="Latin-1"),
        pytest.param(f"USRSalice={HASH}\n".encode("utf-16"), 1, id="UTF-16"),
    ],
)
def test_a_file_of_another_encoding_is_a_fault_with_its_line_c1(
    all_roles: Roles, tmp_path: Path, content: bytes, line: int
) -> None:
    path = tmp_path / "credentials.env"
    path.write_bytes(content)
    with pytest.raises(Faults, match=rf"it is not UTF-8 \(line {line}\); save it as UTF-8"):
        CredentialsInForce(path, lambda: all_roles, SALT)


def test_a_file_of_windows_is_read_kept_and_read_again_c1(all_roles: Roles, tmp_path: Path) -> None:
    path, kept = tmp_path / "credentials.env", tmp_path / "kept"
    kept.mkdir()
    path.write_bytes(f"\ufeffUSRSalice='{HASH}'\r\n".encode())
    CredentialsInForce(path, lambda: all_roles, SALT, directory=kept)
    path.write_text("USRSalice=$2b$")
    again = CredentialsInForce(path, lambda: all_roles, SALT, directory=kept)
    assert again.in_force().check("USRSalice", SECRET)


def test_what_the_generator_writes_and_shows_is_read_and_logs_in_c1(
    all_roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "COST", 10)
    users = credentials.generate([role.code for role in all_roles], 1)
    hashed = credentials.parse(credentials.hashed_lines(users), all_roles, SALT, pytest.fail)
    said: list[str] = []
    shown = "".join(f"{name}={secret}\n" for name, secret in users)
    plain = credentials.parse(shown, all_roles, SALT, said.append)
    assert len(said) == len(users) == len(list(all_roles))
    for name, secret in users:
        assert hashed.check(name, secret)
        assert plain.check(name, secret)
