"""JSON with places: the same values as `json` gives, and where each of them stands."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from issuer.errors import Faults
from issuer.policy.placed_json import MAX_DEPTH, MAX_DIGITS, Document, spell

SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)

TEXT = """{
  "roles": {
    "user": {"code": "USRS",
      "models": ["a",
        "b"]}
  },
  "empty": [], "none": {}
}
"""


@given(VALUES, st.sampled_from([None, 1]))
def test_it_reads_what_json_reads(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert Document("file", text).value == json.loads(text)


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\u', max_size=MAX_DIGITS))
@example("1" + "0" * 18)
@example("-" + "9" * (MAX_DIGITS - 1))
def test_it_refuses_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(Faults):
            Document("file", text)
        return
    assert repr(Document("file", text).value) == repr(expected)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("roles",), 2),
        (("roles", "user"), 3),
        (("roles", "user", "code"), 3),
        (("roles", "user", "models"), 4),
        (("roles", "user", "models", 0), 4),
        (("roles", "user", "models", 1), 5),
        (("roles", "user", "door"), 3),
        (("users", "x", "models"), 1),
        (("none",), 7),
    ],
)
def test_a_value_has_the_line_it_stands_in_and_a_missing_one_that_of_its_place(
    path: tuple[str | int, ...], line: int
) -> None:
    assert Document("file", TEXT).line(*path) == line


def test_a_value_is_found_by_its_path() -> None:
    assert Document("file", TEXT).at(("roles", "user", "models", 1)) == "b"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("roles", "agent_fast", "models", 0), "roles.agent_fast.models[1]"),
        (("users", "AGNF.x-y_z", "models"), "users.AGNF.x-y_z.models"),
        (("$schema",), "$schema"),
        (("users", "a\nb"), 'users["a\\nb"]'),
        (("", "\u00e9"), '[""]["\\u00e9"]'),
    ],
)
def test_a_path_is_spelt_for_people_and_keeps_to_one_line(
    path: tuple[str | int, ...], text: str
) -> None:
    assert spell(path) == text


def test_a_fault_begins_with_file_line_and_path() -> None:
    document = Document("file", TEXT)
    assert document.place("roles", "user", "models", 1) == "file line 5: roles.user.models[2]"
    assert document.place() == "file line 1:"


def test_a_name_that_is_there_twice_is_told_with_its_second_place() -> None:
    document = Document("file", '{"a": 1,\n "b": {"c": 1,\n "\\u0063": 2},\n "a": 3}')
    assert document.twice == ["file line 3: b.c is there twice", "file line 4: a is there twice"]


@pytest.mark.parametrize(
    ("text", "line"), [("", 1), ("{\n\n]", 3), ('{"a": 1}\n\n x', 3), ('["a\n"]', 1)]
)
def test_a_text_that_is_no_json_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(Faults) as found:
        Document("file", text)
    assert found.value.faults[0].startswith(f"file line {line}: is no JSON: ")


def test_what_is_nested_too_deep_is_refused_before_it_harms() -> None:
    Document("file", "[" * MAX_DEPTH + "[]" + "]" * MAX_DEPTH)
    with pytest.raises(Faults, match="too deep"):
        Document("file", "[" * 1_000_000)


def test_a_number_of_very_many_digits_is_no_whole_one() -> None:
    assert type(Document("file", "9" * MAX_DIGITS).value) is int
    assert type(Document("file", "9" * (MAX_DIGITS + 1)).value) is float
    assert Document("file", "9" * 10_000).value == float("inf")
