"""A watched file: what is in force, what is kept of it, and the races about it."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from issuer import watched_file
from issuer.errors import Faults
from issuer.watched_file import Watched, keep_looking
from tests.conftest import wait_until

Make = Callable[..., Watched[str]]


def upper(text: str) -> str:
    """A parser that finds fault with any text that is not in capitals."""
    if not text.isupper():
        raise Faults([f"line {number}: not in capitals" for number in (1, 2)])
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "words"
    made.write_text("FIRST")
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "last-good"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def make(path: Path, directory: Path) -> Make:
    """Another process' view of the file, with the shared directory unless told otherwise."""

    def made(where: Path | None = directory, **more: object) -> Watched[str]:
        return Watched(path, "words", upper, directory=where, **more)  # type: ignore[arg-type]

    return made


def test_a_good_change_comes_into_force_and_a_faulty_one_does_not(
    make: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = make()
    assert file.in_force() == "FIRST"
    path.write_text("SECOND")
    assert file.in_force() == "SECOND"
    path.write_text("secret")
    assert [file.in_force() for _ in range(3)] == ["SECOND"] * 3
    errors = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert errors == [
        f"line {number}: not in capitals; the former version stays in force" for number in (1, 2)
    ]
    assert "secret" not in caplog.text


def test_a_process_that_begins_with_a_faulty_file_begins_with_the_last_good_text(
    make: Make, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make()
    path.write_text("faulty")
    late = make()
    assert late.in_force() == "FIRST"
    assert caplog.text.count("stays in force") == 2
    path.write_text("THIRD")
    assert late.in_force() == "THIRD"


def test_the_last_good_text_is_the_newest_that_any_process_saw(make: Make, path: Path) -> None:
    one, other = make(), make()
    path.write_text("SECOND")
    assert other.in_force() == "SECOND"
    path.write_text("faulty")
    assert one.in_force() == "FIRST"  # it never saw the second; its own text is not kept again
    assert make().in_force() == "SECOND"


def test_a_first_start_with_a_faulty_file_lists_every_fault(make: Make, path: Path) -> None:
    path.write_text("faulty")
    with pytest.raises(Faults) as found:
        make()
    assert len(found.value.faults) == 2


def test_without_a_directory_a_faulty_file_stops_every_start(make: Make, path: Path) -> None:
    make(None)
    path.write_text("faulty")
    with pytest.raises(Faults):
        make(None)


def test_what_was_judged_before_may_be_read_with_more_patience(make: Make, path: Path) -> None:
    make()
    path.write_text("faulty")

    def later_rules(text: str) -> str:
        raise Faults(["words are out of fashion"])

    late = Watched(
        path, "words", later_rules, directory=path.with_name("last-good"), again=str.lower
    )
    assert late.in_force() == "first"


def test_what_is_kept_is_private_and_leaves_nothing_half_written(
    make: Make, path: Path, directory: Path
) -> None:
    file = make()
    path.write_text("SECOND")
    file.in_force()
    assert sorted(one.name for one in directory.iterdir()) == ["words", "words.lock"]
    assert {one.stat().st_mode & 0o777 for one in directory.iterdir()} == {0o600}
    assert (directory / "words").read_text() == "SECOND"


def test_a_text_that_cannot_be_kept_leaves_no_older_one_in_its_place(
    make: Make, path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = make()
    (directory / "words.new").mkdir()
    path.write_text("SECOND")
    assert file.in_force() == "SECOND"
    assert "cannot keep the last good words" in caplog.text
    assert not (directory / "words").exists()


def test_a_directory_that_is_gone_harms_nobody(make: Make, path: Path, directory: Path) -> None:
    file = make()
    for one in directory.iterdir():
        one.unlink()
    directory.rmdir()
    path.write_text("SECOND")
    assert file.in_force() == "SECOND"


def test_another_view_of_what_is_beside_judges_the_same_text_again(path: Path) -> None:
    allowed = ["FIRST"]
    rules: list[object] = [allowed]

    def judge(text: str) -> str:
        if text not in allowed:
            raise Faults([f"{text} is not allowed"])
        return text

    file = Watched(path, "words", judge, beside=lambda: rules[0])
    path.write_text("SECOND")
    assert file.in_force() == "FIRST"
    allowed = ["SECOND"]
    rules[0] = allowed
    assert file.in_force() == "SECOND"


def test_a_file_that_changes_while_it_is_read_is_not_judged(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make()
    path.write_text("SEC")
    real = Path.read_bytes

    def and_then_more(self: Path) -> bytes:
        half = real(self)
        with self.open("a") as writer:
            writer.write("OND")
        return half

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", and_then_more)
        assert file.in_force() == "FIRST"
    assert file.in_force() == "SECOND"


def test_a_change_within_one_tick_of_the_clock_is_noticed(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = os.stat(path)
    monkeypatch.setattr("issuer.watched_file.os.stat", lambda _: same)
    monkeypatch.setattr("issuer.watched_file.time.time_ns", lambda: same.st_ctime_ns + 1)
    file = make()
    path.write_text("OTHER")
    assert file.in_force() == "OTHER"


def test_a_file_that_is_not_new_is_not_read_again(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = path.stat().st_ctime_ns
    monkeypatch.setattr("issuer.watched_file.time.time_ns", lambda: changed + 2 * 10**9)
    file = make()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    assert file.in_force() == "FIRST"


def test_processes_read_and_keep_one_after_the_other(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was slow to judge an older text must not keep it after a newer one."""
    slow, quick = make(), make()
    judging, go_on = threading.Event(), threading.Event()

    def slowly(text: str) -> str:
        judging.set()
        assert go_on.wait(20)
        return text

    path.write_text("OLDER")
    monkeypatch.setattr(slow, "_parse", slowly)
    threads = [threading.Thread(target=slow.in_force)]
    threads[0].start()
    assert judging.wait(20)
    path.write_text("NEWER")
    threads.append(threading.Thread(target=quick.in_force))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    path.write_text("faulty")
    assert make().in_force() == "NEWER"


def test_a_process_looks_by_itself_until_it_is_told_to_stop(
    make: Make, path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_file, "PERIOD_SECONDS", 0.01)
    stop = threading.Event()
    thread = keep_looking([make().in_force], stop)
    try:
        path.write_text("SECOND")
        wait_until(lambda: (directory / "words").read_text() == "SECOND", "it was read and kept")
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_looking_goes_on_after_a_mishap(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_file, "PERIOD_SECONDS", 0.01)
    file, stop = make(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(file, "_look", lambda: 1 / 0)
        thread = keep_looking([file.in_force], stop)
        wait_until(lambda: "unexpected; trying again" in caplog.text, "the mishap")
    path.write_text("SECOND")
    wait_until(lambda: "words: read again" in caplog.text, "the next look")
    stop.set()
    thread.join(20)
