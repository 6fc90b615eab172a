"""The order of an upgrade's steps, and what is left where one fails."""

from collections.abc import Sequence

import pytest

from run.commands import RunError
from systemd import upgrade as module
from systemd.upgrade import upgrade

OLD, NEW = 8081, 8082


class Recorder:
    """A machine that notes what it is told, and whose new gateway may never become ready."""

    def __init__(self, becomes_ready: bool = True, starts: bool = True) -> None:
        self.steps: list[str] = []
        self._becomes_ready = becomes_ready
        self._starts = starts
        self._looks = 0

    def tell(self, ports: Sequence[int]) -> None:
        self.steps.append("tell " + " ".join(map(str, ports)))

    def start(self, port: int) -> None:
        self.steps.append(f"start {port}")
        if not self._starts:
            raise RunError("no such unit")

    def stop(self, port: int) -> None:
        self.steps.append(f"stop {port}")

    def set_shut(self, port: int, is_shut: bool) -> None:
        self.steps.append(f"{'shut' if is_shut else 'open'} {port}")

    def reload(self, port: int) -> None:
        self.steps.append(f"reload {port}")

    def is_ready(self, port: int) -> bool:
        assert port == NEW
        return self._becomes_ready

    def is_drained(self, port: int) -> bool:
        assert port == OLD
        self._looks += 1
        return self._looks > 2


def test_the_old_one_shuts_after_the_new_one_has_opened_and_ends_when_its_streams_have() -> None:
    machine = Recorder()
    upgrade(machine, OLD, NEW)
    assert machine.steps == [
        *("shut 8082", "tell 8081 8082", "start 8082"),
        *("open 8082", "reload 8082"),
        *("shut 8081", "reload 8081", "stop 8081", "open 8081", "tell 8082"),
    ]


@pytest.mark.parametrize("machine", [Recorder(becomes_ready=False), Recorder(starts=False)])
def test_where_the_new_one_does_not_become_ready_the_old_one_goes_on_untouched(
    monkeypatch: pytest.MonkeyPatch, machine: Recorder
) -> None:
    monkeypatch.setattr(module, "READY_SECONDS", 0)
    with pytest.raises(RunError):
        upgrade(machine, OLD, NEW)
    assert machine.steps[-2:] == ["stop 8082", "tell 8081"]
    assert not {"shut 8081", "reload 8081", "stop 8081"} & set(machine.steps)
