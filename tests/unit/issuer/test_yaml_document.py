"""YAML with lines: JSON as `json` reads it, and where each value stands."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from issuer.policy.yaml_document import Document, spell

SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text("aé\u4e00 :#-", max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab:~", max_size=5), inner),
    max_leaves=20,
)

TEXT = """
roles:
  user: {code: USRS,
    "models": [a,
      b]}
users: {}
"""


def faults(text: str) -> list[str]:
    return [str(fault) for fault in Document("file", text).faults]


@given(VALUES, st.sampled_from([None, 1, "\t"]))
def test_it_reads_what_json_reads(value: Any, indent: int | str | None) -> None:
    document = Document("file", json.dumps(value, indent=indent))
    assert document.faults == []
    assert document.value == json.loads(json.dumps(value))


@given(st.text('{}[]",:0123456789.eE+-truefalsn \n\\u#*&!|>%@`~?', max_size=60))
def test_whatever_is_written_is_read_or_told(text: str) -> None:
    document = Document("file", text)
    assert document.is_readable or document.faults


@given(st.text("0123456789:._+-eExXobyYnNtTrRuUsSlLfFaAiIdD~=<> ", max_size=12))
def test_what_is_read_without_a_fault_is_what_a_reader_of_yaml_1_1_reads(word: str) -> None:
    document = Document("file", f"- {word}")
    if document.faults == []:
        assert document.value == yaml.safe_load(f"- {word}")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("roles",), 2),
        (("roles", "user"), 3),
        (("roles", "user", "code"), 3),
        (("roles", "user", "models"), 4),
        (("roles", "user", "models", 0), 4),
        (("roles", "user", "models", 1), 5),
        (("roles", "user", "login"), 3),
        (("roles", "user", "login", "x"), 3),
        (("users",), 6),
    ],
)
def test_a_value_has_the_line_it_stands_in_and_a_missing_one_that_of_its_place(
    path: tuple[str | int, ...], line: int
) -> None:
    assert Document("file", TEXT).line(*path) == line


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


READ_AS = "which YAML may read as"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: yes", f'1: a is yes, {READ_AS} another value; write "yes" in quotes, or true'),
        ("\na: ~", f'2: a is ~, {READ_AS} another value; write "~" in quotes, or null'),
        (
            "a: 0x10",
            f'1: a is 0x10, {READ_AS} a number or a time; write "0x10" in quotes, '
            "or a whole number in plain digits",
        ),
        ("a:", "1: a has no value; write null, or [] or {} for an empty one"),
        ("a: 1\na: 2", "2: a is there twice"),
        ("- [*]", '1: is no YAML: a text that begins with * must be in quotes: "*"'),
        ("a:\n\t- 1", "2: is no YAML: a line begins with a tab; write spaces"),
    ],
)
def test_a_fault_says_where_it_is_and_what_to_write(text: str, fault: str) -> None:
    assert faults(text) == [f"file line {fault}"]


def test_a_value_that_is_no_text_keeps_its_kind() -> None:
    text = 'a: [true, false, null, 0, -7, "true", "7", \'null\', plain]'
    assert Document("file", text).value == {
        "a": [True, False, None, 0, -7, "true", "7", "null", "plain"]
    }
