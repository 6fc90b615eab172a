"""YAML (and so JSON) as people write it into a file: every value with the line it stands in.

It reads the events of libyaml and builds tables, lists, texts, whole numbers, true, false and null
of them. A plain word that some reader of YAML would take for something else than the text it looks
like is a fault that says what to write. It must never load, construct or expand anything: tags,
anchors, aliases and merge keys are faults. Which values are good is asked elsewhere.
"""

import bisect
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

#: Names and, for the elements of lists, numbers from 0.
Path = tuple[str | int, ...]
Value = dict[str, Any] | list[Any] | str | int | bool | None

MAX_BYTES = 1_048_576
MAX_DEPTH = 16
#: A number of more digits is none that we use; Python would refuse some, and take its time.
MAX_DIGITS = 64

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-][A-Za-z0-9_.$-]*\Z", re.ASCII)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\Z", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}
#: Characters that no text of ours has. What is no UTF-8 has become lone surrogates in U+DC80-DCFF.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]"
)
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_UTF_16 = re.compile("\udcff\udcfe|\udcfe\udcff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]")
_CONTROL_IN_VALUE = re.compile(f"[\t\n\r]|{_CONTROL.pattern}")

#: What readers of YAML 1.1 or 1.2 take for a truth value, nothing, or a mark of YAML's own, and
#: what was meant by it, if not the text.
_MEANT = {
    **dict.fromkeys(("y", "yes", "on", "true"), "true"),
    **dict.fromkeys(("n", "no", "off", "false"), "false"),
    **dict.fromkeys(("~", "null"), "null"),
    **dict.fromkeys(("=", "<<"), ""),
}
_OTHER_WORDS = {
    spelt: meant
    for word, meant in _MEANT.items()
    for spelt in (word, word.capitalize(), word.upper())
}
#: What they take for a number that is not written as we write whole ones, or for a time.
_OTHER_NUMBERS = re.compile(
    r"""[-+]?(
        [0-9][0-9_]*                                    # 010, 1_000, +1
      | 0b[01_]+ | 0o[0-7_]+ | 0x[0-9A-Fa-f_]+
      | [0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?      # 1.0, 1., 1e3
      | \.[0-9][0-9_]*([eE][-+]?[0-9]+)?                # .5
      | [0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?         # 12:30, of base 60
      | \.(inf|Inf|INF)
    )\Z
    | \.(nan|NaN|NAN)\Z
    | [0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt\ \t].*)?\Z   # 2026-01-31
    """,
    re.ASCII | re.VERBOSE,
)
#: A name of a JSON object, and the space that may stand before its colon; in YAML no line end may.
_JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*+")([ \t\r\n]*)(:?)')


class Fault(NamedTuple):
    """One fault, where it is, and what it is of."""

    file: str
    line: int
    path: Path
    text: str

    def __str__(self) -> str:
        separator = ": " if self.path else ":"
        return f"{self.file} line {self.line}{separator}{spell(self.path)} {self.text}"


class _Unreadable(Exception):
    """What makes the rest of a text not worth reading: why, and the line."""


class Document:
    """One text, read. `value` is what it says; `faults` are those of the text itself, and what
    else there is may be judged only where `is_readable`.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.value: Value = None
        self.faults: list[Fault] = []
        self._faulty: set[Path | tuple[Path, int]] = set()
        self.is_readable = True
        self._lines: dict[Path, int] = {(): 1}
        self._events: Iterator[yaml.Event] = iter(())
        self._depth = 0
        text = text.removeprefix("\ufeff")
        if not self._has_unreadable(text):
            self._read(_with_colons_beside_names(text))

    def line(self, *path: str | int) -> int:
        """The line of a value; of one that is not there, that of what it would be in."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def fault(self, path: Path, text: str, line: int | None = None) -> Fault:
        """A fault at a place of this document."""
        return Fault(self.file, line or self.line(*path), path, text)

    def is_faulty(self, path: Path) -> bool:
        """Whether a value could not be read, so that nothing more is said of it."""
        return path in self._faulty

    def _say(self, path: Path, text: str, line: int) -> None:
        self.faults.append(self.fault(path, text, line))
        self._faulty |= {path, (path, line)}

    def _stop(self, text: str, line: int) -> None:
        self._say((), text, line)
        self.is_readable = False

    def _has_unreadable(self, text: str) -> bool:
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            self._stop(f"is larger than {MAX_BYTES} bytes", 1)
            return True
        if _UTF_16.match(text):
            self._stop("is UTF-16, or no text; save it as UTF-8", 1)
            return True
        ends = [match.start() for match in re.finditer("\n", text)]
        lines: dict[int, str] = {}
        for match in _CONTROL.finditer(text):
            reason = "is not UTF-8" if _NO_UTF8.match(match[0]) else "has a control character"
            lines.setdefault(bisect.bisect_left(ends, match.start()) + 1, reason)
        for line, reason in lines.items():
            self._stop(reason, line)
        return bool(lines)

    def _read(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.CSafeLoader)
        try:
            self._take_documents()
        except _Unreadable as found:
            self._stop(*found.args)
        except yaml.YAMLError as error:
            self._stop(_in_plain_words(error, text), _line_of(error, text))

    def _take_documents(self) -> None:
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                self.value = self._node(event, ())
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Unreadable("begins a second document; a file is one", _line(event))
        if not documents:
            raise _Unreadable("is empty", 1)

    def _node(self, event: yaml.Event, path: Path) -> Value:
        """The value that begins with this event, read to its end."""
        value = self._word(event, path, self._lines.setdefault(path, _line(event)))
        return self._collection(event, path) if _is_collection(event) else value

    def _word(self, event: yaml.Event, path: Path, line: int) -> Value:
        """What the event says by itself; of a collection nothing but its faults."""
        if reason := _mark_fault(event):
            self._say(path, reason, line)
        if not isinstance(event, yaml.ScalarEvent):
            return None
        value, reason = _scalar(event)
        if reason and not self._is_told_in(line, path):
            self._say(path, reason, line)
        return value

    def _collection(self, event: yaml.Event, path: Path) -> Value:
        return self._table(path) if isinstance(event, yaml.MappingStartEvent) else self._list(path)

    def _list(self, path: Path) -> Value:
        items = enumerate(self._until_end(path))
        return [self._node(event, (*path, index)) for index, event in items]

    def _table(self, path: Path) -> Value:
        """A name that is none is told, and its value read and dropped."""
        table: dict[str, Any] = {}
        for event in self._until_end(path):
            name = self._name(event, path, table)
            due = next(self._events)
            if name is not None:
                table[name] = self._node(due, (*path, name))
            elif _is_collection(due):
                self._node(due, path)
        return table

    def _until_end(self, path: Path) -> Iterator[yaml.Event]:
        """What begins a name or an item of this collection; who takes it reads it to its end."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Unreadable(f"is nested deeper than {MAX_DEPTH} levels", self.line(*path))
        while not isinstance(event := next(self._events), yaml.CollectionEndEvent):
            yield event
        self._depth -= 1

    def _name(self, event: yaml.Event, path: Path, table: dict[str, Any]) -> str | None:
        line = _line(event)
        name = None if _is_collection(event) else self._word(event, path, line)
        if isinstance(name, str):
            if name in table:
                self._say((*path, name), "is there twice", line)
            self._lines[*path, name] = line
            return name
        if not self._is_told_in(line, path):
            self._say(path, "has a name that is no text; write it in quotes", line)
        if _is_collection(event):
            self._collection(event, path)
        return None

    def _is_told_in(self, line: int, path: Path) -> bool:
        """Whether a fault of this value has been told of this line."""
        return (path, line) in self._faulty


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _is_collection(event: yaml.Event) -> bool:
    return isinstance(event, yaml.CollectionStartEvent)


def _mark_fault(event: yaml.Event) -> str:
    """What YAML may hang on a value, and we refuse."""
    if isinstance(event, yaml.AliasEvent):
        return 'is an alias; write the value itself, or a text that begins with * in quotes: "*"'
    if getattr(event, "anchor", None) is not None:
        return "has an anchor; write a text that begins with & in quotes"
    if getattr(event, "tag", None) is not None:
        return "has a tag; write a text that begins with ! in quotes"
    return ""


def _scalar(event: yaml.ScalarEvent) -> tuple[Value, str]:
    """What a word means, and what is wrong with it."""
    text = str(event.value)
    if event.style:
        return text, _control_fault(text)
    if text in _WORDS:
        return _WORDS[text], ""
    if _WHOLE.match(text):
        return _whole(text)
    if text == "":
        return None, "has no value; write null, or [] or {} for an empty one"
    if text in _OTHER_WORDS:
        return None, _ambiguous(text, "another value", _OTHER_WORDS[text])
    if _OTHER_NUMBERS.match(text):
        return None, _ambiguous(text, "a number or a time", "a whole number in plain digits")
    return text, _control_fault(text)


def _ambiguous(text: str, other: str, meant: str) -> str:
    also = f", or {meant}" if meant else ""
    return f'is {text}, which YAML may read as {other}; write "{text}" in quotes{also}'


def _whole(digits: str) -> tuple[Value, str]:
    if len(digits) > MAX_DIGITS:
        return None, f"is a number of more than {MAX_DIGITS} digits"
    return int(digits), ""


def _control_fault(text: str) -> str:
    found = _CONTROL_IN_VALUE.search(text)
    if found is None:
        return ""
    return f"has a control character (U+{ord(found[0]):04X})"


def _with_colons_beside_names(text: str) -> str:
    """JSON may end a line between a name and its colon, YAML may not."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _JSON_STRING.sub(r"\1\3\2", text)


#: What libyaml says, and what a person can do about it.
_NO_COLON = "while scanning a simple key"
_PLAIN_WORDS = {
    _NO_COLON: "a name has no ': ' behind it",
    "did not find expected <document start>": "more text behind the end of the document",
    "while scanning an alias": 'a text that begins with * must be in quotes: "*"',
    "while scanning an anchor": "a text that begins with & must be in quotes",
    "mapping values are not allowed in this context": (
        "a name and its value must not stand here; write a text with ': ' in quotes"
    ),
}


def _line_of(error: yaml.YAMLError, text: str) -> int:
    """Where it went wrong, or what began there where it was only found out at the end."""
    mark, began = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    lines = len(text.splitlines())
    is_late = mark is None or mark.line >= lines
    if began and (is_late or getattr(error, "context", "") == _NO_COLON):
        mark = began
    return min(mark.line + 1, lines) if mark else 1


def _in_plain_words(error: yaml.YAMLError, text: str) -> str:
    context, problem = getattr(error, "context", "") or "", getattr(error, "problem", "") or ""
    known = _PLAIN_WORDS.get(context) or _PLAIN_WORDS.get(problem)
    if problem == "found character that cannot start any token":
        known = _bad_start(error, text)
    return f"is no YAML: {known or ' '.join(filter(None, (context, problem)))}"


def _bad_start(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    found = text.splitlines()[mark.line][mark.column : mark.column + 1] if mark else ""
    if found == "\t":
        return "a line begins with a tab; write spaces"
    return f"a text that begins with {found} must be in quotes"


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


def sorted_texts(faults: Sequence[Fault]) -> Iterator[str]:
    """As a person reads the files: by file and line, each fault once."""
    return iter(dict.fromkeys(str(fault) for fault in sorted(faults, key=_as_read)))


def _as_read(fault: Fault) -> tuple[str, int]:
    return fault.file, fault.line
