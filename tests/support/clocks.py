"""Wall clocks that a test sets, each a file that says how far it is off.

nginx sees its clock through libfaketime, Python's processes through a `sitecustomize` of their own
(libfaketime lets none of them sleep while the other clocks are left alone). Clocks that only run on
stay the machine's: nobody sets those. Nothing of the product knows of all this. nginx keeps no
environment, so a program in its place on the PATH tells it which variables to keep.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from run.plan import search_path

#: Each part goes by the clock of its machine; issuer and reconciler share one.
CLOCK_OF = {"gateway": "gateway", "issuer": "issuer", "reconciler": "issuer"}
_KEPT = ("FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE")
#: As `gateway.sh` calls it: -c FILE -g DIRECTIVES -e stderr -p DIRECTORY.
_NGINX = """#!/bin/sh
[ "$3" = -g ] || exit 2
exec {nginx} "$1" "$2" "$3" "$4 {directives}" "$5" "$6" "$7" "$8"
"""
_PYTHON = """import time
real = time.time_ns
time.time_ns = lambda: real() + int(float(open({path!r}).read()) * 1e9)
time.time = lambda: time.time_ns() / 1e9
"""


@dataclass(frozen=True)
class Clock:
    """The clock of one machine, in a folder that all users may enter."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.set(0)

    def set(self, seconds: float) -> None:
        """How far it is ahead of the test's own clock from now on; behind it when negative."""
        fresh = self.folder / "clock.new"
        fresh.write_text(f"{seconds:+}\n")
        fresh.chmod(0o644)
        fresh.replace(self._file)

    def environment(self, part: str) -> Mapping[str, str]:
        """What a part must be started with to go by this clock."""
        kinds: Mapping[str, Callable[[], Mapping[str, str]]] = {"gateway": self._of_nginx}
        return kinds.get(part, self._of_python)()

    @property
    def _file(self) -> Path:
        return self.folder / "clock"

    def _of_python(self) -> Mapping[str, str]:
        text = _PYTHON.format(path=str(self._file))
        return {"PYTHONPATH": str(self._program("python", "sitecustomize.py", text))}

    def _of_nginx(self) -> Mapping[str, str]:
        nginx = shutil.which("openresty") or shutil.which("nginx", path=search_path(""))
        directives = " ".join(f"env {name};" for name in _KEPT)
        text = _NGINX.format(nginx=nginx, directives=directives)
        return {
            "PATH": f"{self._program('bin', 'openresty', text)}:{os.environ['PATH']}",
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def _program(self, folder: str, name: str, text: str) -> Path:
        """The folder of a program with this text."""
        home = self.folder / folder
        home.mkdir(exist_ok=True)
        (home / name).write_text(text)
        (home / name).chmod(0o755)
        return home


def _library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing: `make test` installs it"
    return found[0]
