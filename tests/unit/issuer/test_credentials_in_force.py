"""The credentials in force: what is kept of them for others, and the races about it."""

import dataclasses
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from issuer import policy
from issuer.errors import Faults
from issuer.policy.roles import Roles
from issuer.users import credentials
from issuer.users.credentials import Credentials
from issuer.users.credentials_in_force import CredentialsInForce
from tests.conftest import wait_until

Make = Callable[..., CredentialsInForce]
SALT = b"salt"
FAULTY = "USRSsecretive\nUSRSsecretive\n"


def plain(name: str) -> str:
    return f"USRS{name}=a-secret-of-{name}\n"


FIRST, SECOND, THIRD = (plain(name) for name in ("first", "second", "third"))


def is_in_force(view: CredentialsInForce, text: str) -> bool:
    """Whether the one user of this text is the one there is."""
    found = view.in_force()
    return len(found) == 1 and found.fingerprint(text.partition("=")[0]) is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "credentials.env"
    made.write_text(FIRST)
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "last-good"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def make(path: Path, directory: Path, all_roles: Roles) -> Make:
    """Another process' view of the file, with the shared directory unless told otherwise."""

    def made(
        where: Path | None = directory, roles: Callable[[], Roles] = lambda: all_roles
    ) -> CredentialsInForce:
        return CredentialsInForce(path, roles, SALT, where)

    return made


@pytest.fixture
def without_users(tmp_path: Path) -> Roles:
    """The roles, but for the one that all users here have."""
    kept = policy.SHIPPED
    text = kept.read_text().replace("code: USRS", "code: USRT")
    sources = dataclasses.replace(policy.gather(kept), policy=text)
    return policy.parse(sources, policy.Terms()).roles


def test_a_good_change_comes_into_force_and_a_faulty_one_does_not(
    make: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    view = make()
    assert is_in_force(view, FIRST)
    path.write_text(SECOND)
    assert is_in_force(view, SECOND)
    path.write_text(FAULTY)
    assert all(is_in_force(view, SECOND) for _ in range(3))
    errors = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(one.endswith("; the former version stays in force") for one in errors)
    assert "a-secret" not in caplog.text


def test_a_process_that_begins_with_a_faulty_file_begins_with_the_last_good_text(
    make: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make()
    path.write_text(FAULTY)
    late = make()
    assert is_in_force(late, FIRST)
    assert caplog.text.count("stays in force") == 2
    path.write_text(THIRD)
    assert is_in_force(late, THIRD)


def test_the_last_good_text_is_the_newest_that_any_process_saw(make: Make, path: Path) -> None:
    one, other = make(), make()
    path.write_text(SECOND)
    assert is_in_force(other, SECOND)
    path.write_text(FAULTY)
    assert is_in_force(one, FIRST)  # it never saw the second; its own text is not kept again
    assert is_in_force(make(), SECOND)


def test_a_first_start_with_a_faulty_file_lists_every_fault(make: Make, path: Path) -> None:
    path.write_text(FAULTY)
    with pytest.raises(Faults) as found:
        make()
    assert len(found.value.faults) == 2


def test_without_a_directory_a_faulty_file_stops_every_start(make: Make, path: Path) -> None:
    make(None)
    path.write_text(FAULTY)
    with pytest.raises(Faults):
        make(None)


def test_a_kept_text_counts_though_a_role_of_its_users_has_gone(
    make: Make, without_users: Roles
) -> None:
    make()
    assert is_in_force(make(roles=lambda: without_users), FIRST)


def test_what_is_kept_is_private_and_leaves_nothing_half_written(
    make: Make, path: Path, directory: Path
) -> None:
    view = make()
    path.write_text(SECOND)
    view.in_force()
    assert [one.name for one in directory.iterdir()] == ["credentials"]
    assert (directory / "credentials").stat().st_mode & 0o777 == 0o600
    assert (directory / "credentials").read_text() == SECOND


def test_a_text_that_cannot_be_kept_leaves_no_older_one_in_its_place(
    make: Make,
    path: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    view = make()
    path.write_text(SECOND)
    monkeypatch.setattr(os, "replace", full)
    assert is_in_force(view, SECOND)
    assert "cannot keep the last good credentials: No space left" in caplog.text
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_gone_harms_nobody(
    make: Make, path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    view = make()
    for one in directory.iterdir():
        one.unlink()
    directory.rmdir()
    path.write_text(SECOND)
    assert is_in_force(view, SECOND)
    assert "cannot lock the last good credentials" in caplog.text


def test_other_roles_judge_the_same_text_again(
    make: Make, path: Path, all_roles: Roles, without_users: Roles
) -> None:
    roles = [without_users]
    path.write_text("ADMNroot=a-secret-of-root\n")
    view = make(roles=lambda: roles[0])
    path.write_text(SECOND)
    assert is_in_force(view, "ADMNroot=")
    roles[0] = all_roles
    assert is_in_force(view, SECOND)


def test_a_file_that_changes_while_it_is_read_is_not_judged(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make()
    path.write_text("")
    real, more = Path.read_bytes, iter(SECOND)

    def and_then_more(self: Path) -> bytes:
        half = real(self)
        with self.open("a") as writer:
            writer.write(next(more))
        return half

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", and_then_more)
        assert is_in_force(view, FIRST)
    path.write_text(SECOND)
    assert is_in_force(view, SECOND)


def test_a_change_that_leaves_size_and_times_as_they_were_is_noticed(
    make: Make, path: Path
) -> None:
    before = path.stat()
    view = make()
    other = FIRST.replace("first", "tenth")
    path.write_text(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_in_force(view, other)


def test_a_file_that_has_not_changed_is_read_no_more(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make()
    reads: list[Path] = []
    real = Path.read_bytes

    def counting(self: Path) -> bytes:
        reads.append(self)
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", counting)

    def is_settled() -> bool:
        reads.clear()
        view.in_force()
        return not reads

    wait_until(is_settled, "the change is too old to hide another")
    path.write_text(SECOND)
    assert is_in_force(view, SECOND)
    assert reads
    wait_until(is_settled, "the file has settled again")
    view.look()
    assert reads, "but for who looks at it by itself"


def test_changes_that_follow_at_once_and_look_alike_all_count(make: Make, path: Path) -> None:
    view = make()
    texts = [plain(f"{number:04d}") for number in range(200)]
    for text in texts:
        path.write_text(text)
        assert is_in_force(view, text)


def test_who_asks_is_told_what_was_in_force_before_anyone_goes_by_what_is(
    make: Make, path: Path
) -> None:
    view = make()
    before = view.in_force()
    told: list[tuple[Credentials, Credentials]] = []
    view.when_changed = lambda was, now: told.append((was, now))
    path.write_text(FAULTY)
    view.in_force()
    assert told == []
    path.write_text(SECOND)
    now = view.in_force()
    assert told == [(before, now)]


def test_processes_read_and_keep_one_after_the_other(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was slow to judge an older text must not keep it after a newer one."""
    slow, quick = make(), make()
    judging, go_on = threading.Event(), threading.Event()
    parse = credentials.parse

    def slowly(text: str, *words: object) -> Credentials:
        if text == SECOND:
            judging.set()
            assert go_on.wait(20)
        return parse(text, *words)  # type: ignore[arg-type]

    path.write_text(SECOND)
    monkeypatch.setattr(credentials, "parse", slowly)
    threads = [threading.Thread(target=slow.in_force)]
    threads[0].start()
    assert judging.wait(20)
    path.write_text(THIRD)
    threads.append(threading.Thread(target=quick.in_force))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    path.write_text(FAULTY)
    assert is_in_force(make(), THIRD)
