"""JSON (RFC 8259) as people write it into a file: every value with its place, for whoever must
mend it.

Stricter than `json`: a name may stand only once in an object. Pure. Which values are good is asked
elsewhere; it must never change one on the way: 1.0 stays no whole number, a NaN no number.
"""

import bisect
import json
import re
from typing import Any

from issuer.errors import Faults

#: Names and, for the elements of lists, numbers from 0.
Path = tuple[str | int, ...]

MAX_DEPTH = 16
#: A number of more digits is none that we use; Python would refuse some, and take its time.
MAX_DIGITS = 64

_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9_.$-]*\Z", re.ASCII)


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


_SCALARS = json.JSONDecoder(parse_int=_whole)


class Document:
    """One text, read. `value` is what it says, `twice` a fault for every name that is there again.

    Raises `Faults` for a text that is no JSON.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self.twice: list[str] = []
        try:
            self.value, end = self._read(self._skip(0), ())
            if end != len(text):
                raise json.JSONDecodeError("more follows", text, end)
        except json.JSONDecodeError as error:
            raise Faults([f"{name} line {error.lineno}: is no JSON: {error.msg}"]) from None

    def at(self, path: Path) -> Any:
        """The value at a path that is there."""
        value = self.value
        for part in path:
            value = value[part]
        return value

    def line(self, *path: str | int) -> int:
        """The line of a value; of one that is not there, that of what it would be in."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def place(self, *path: str | int) -> str:
        """How a fault begins: the file, the line, and the value's path."""
        return f"{self._name} line {self.line(*path)}: {spell(path)}".rstrip()

    def _read(self, at: int, path: Path) -> tuple[Any, int]:
        """The value that begins here, and where what follows it begins."""
        self._lines.setdefault(path, self._line_at(at))
        if len(path) > MAX_DEPTH:
            raise json.JSONDecodeError("too deep", self._text, at)
        if self._text.startswith("{", at):
            return self._read_object(at, path)
        if self._text.startswith("[", at):
            return self._read_list(at, path)
        value, end = _SCALARS.raw_decode(self._text, at)
        return value, self._skip(end)

    def _read_object(self, at: int, path: Path) -> tuple[dict[str, Any], int]:
        table: dict[str, Any] = {}
        at = self._skip(at + 1)
        while not (self._text.startswith("}", at) and not table):
            name, begin, at = self._read_name(at)
            self._lines[(*path, name)] = self._line_at(begin)
            if name in table:
                self.twice.append(f"{self.place(*path, name)} is there twice")
            table[name], at = self._read(at, (*path, name))
            if self._text.startswith("}", at):
                break
            at = self._expect(",", at)
        return table, self._skip(at + 1)

    def _read_name(self, begin: int) -> tuple[str, int, int]:
        if not self._text.startswith('"', begin):
            raise json.JSONDecodeError("a name in double quotes is missing", self._text, begin)
        name, end = _SCALARS.raw_decode(self._text, begin)
        return name, begin, self._expect(":", self._skip(end))

    def _read_list(self, at: int, path: Path) -> tuple[list[Any], int]:
        values: list[Any] = []
        at = self._skip(at + 1)
        while not (self._text.startswith("]", at) and not values):
            value, at = self._read(at, (*path, len(values)))
            values.append(value)
            if self._text.startswith("]", at):
                break
            at = self._expect(",", at)
        return values, self._skip(at + 1)

    def _expect(self, mark: str, at: int) -> int:
        if not self._text.startswith(mark, at):
            raise json.JSONDecodeError(f"{mark!r} is missing", self._text, at)
        return self._skip(at + 1)

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        assert found is not None
        return found.end()

    def _line_at(self, at: int) -> int:
        return bisect.bisect_left(self._line_ends, at) + 1


def spell(path: Path) -> str:
    """A path for people: `roles.agent_fast.models[1]`; elements are counted from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif _PLAIN_NAME.match(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text
