"""How a command of `run` is stopped, and what its shell gets."""

import os
import signal
import sys
from pathlib import Path

import pytest

from run import commands
from run.commands import RunError, Stop, StopSignals, ask, call, handlers_of_make, stop_signals


def raise_twice(signals: StopSignals, number: int) -> None:
    signals._on_signal(number, None)
    signals._on_signal(number, None)


def test_a_held_stop_comes_at_the_end_of_the_hold() -> None:
    signals, steps = StopSignals(), []

    def hold() -> None:
        with signals.held():
            signals._on_signal(signal.SIGTERM, None)
            steps.append("after the signal")

    with pytest.raises(Stop):
        hold()
    assert steps == ["after the signal"]


def test_a_stop_comes_once_only() -> None:
    signals = StopSignals()
    with pytest.raises(Stop):
        signals._on_signal(signal.SIGTERM, None)
    signals._on_signal(signal.SIGTERM, None)
    with signals.held():
        pass
    assert signals.caught == signal.SIGTERM


@pytest.mark.parametrize(("number", "insists"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_only_a_second_ctrl_c_insists(number: int, insists: bool) -> None:
    signals = StopSignals()
    with pytest.raises(Stop), signals.held():
        raise_twice(signals, number)
    assert signals.insisted is insists


def test_the_handlers_of_make_are_read_from_proc_and_of_no_other_program() -> None:
    status = "Name:\tmake\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000003\n"
    assert handlers_of_make(status) == 3
    assert handlers_of_make(status.replace("make", "bash")) == 0
    assert handlers_of_make("") == 0


def test_the_exit_status_of_a_stop_is_the_shells(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = StopSignals()
    monkeypatch.setattr(commands, "stop_signals", signals)
    monkeypatch.setattr(signals, "install", lambda: None)
    assert commands.guarded(lambda: signals._on_signal(signal.SIGTERM, None)) == 143


def test_every_line_of_a_fault_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RunError("one", "two")

    monkeypatch.setattr(stop_signals, "install", lambda: None)
    assert commands.guarded(fail) == 1
    assert capsys.readouterr().err == "portero: one\nportero: two\n"


def test_a_command_runs_with_its_own_status() -> None:
    assert call([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_what_takes_its_time_has_a_log_and_a_deadline(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        words = ["sh", "-c", "echo out; echo err >&2; exit 3"]
        assert call(words, log=log.fileno()) == 3
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert call(["sleep", "60"], seconds=0.1) == -signal.SIGKILL


def test_a_question_that_is_not_answered_is_given_up() -> None:
    env = {"PATH": os.environ["PATH"]}
    assert ask(["sleep", "60"], env, seconds=0.1) == (-signal.SIGKILL, "no answer in 0.1 s")
    assert ask(["cat"], env, "given") == (0, "given")
