"""Every policy of the corpus gets its verdict, each fault with its file, line and field."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from issuer import config, policy
from issuer.errors import Faults
from tests.policies import Case, every_case, write
from tests.support.waiting import within

CORPUS = list(every_case())
ANY = "*"


def faults_of(case: Case, folder: Path) -> tuple[str, ...]:
    """What a reader says of the files of a case; nothing: they make a policy."""
    try:
        policy.parse(policy.gather(write(case, folder)), policy.Terms())
    except Faults as found:
        return found.faults
    return ()


def faults_of_check(case: Case, folder: Path) -> tuple[str, ...]:
    """What `check` says of them; it goes by this."""
    try:
        config.read_policy({"POLICY_FILE": str(write(case, folder))})
    except Faults as found:
        return found.faults
    return ()


def is_told(expected: str, fault: str) -> bool:
    """Whether a fault is the one expected: "[FILE] LINE FIELD: WORDS", or "FILE: WORDS"."""
    place, _, words = expected.partition(": ")
    parts = place.split(" ")
    if re.match(r"\d+\Z|\*\Z", parts[-2] if len(parts) > 1 else ""):
        file = " ".join(parts[:-2]) or policy.NAME
        line = r"\d+" if parts[-2] == ANY else parts[-2]
        field = ".*" if parts[-1] == ANY else re.escape(f": {parts[-1]} " if parts[-1] else ": ")
        return words in fault and bool(re.match(f"{re.escape(file)} line {line}{field}", fault))
    return fault.startswith(place) and words in fault


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_a_policy_gets_its_verdict_and_every_fault_its_place(case: Case, tmp_path: Path) -> None:
    found = faults_of(case, tmp_path)
    assert len(found) == len(case.faults), found
    assert faults_of_check(case, tmp_path) == found
    for expected in case.faults:
        assert any(is_told(expected, fault) for fault in found), (expected, found)


def test_the_corpus_has_hundreds_of_policies_and_no_two_of_a_name() -> None:
    names = Counter(case.name for case in CORPUS)
    assert [name for name, count in names.items() if count > 1] == []
    assert sum(1 for case in CORPUS if case.faults) >= 200
    assert sum(1 for case in CORPUS if not case.faults) >= 100


def test_a_fault_takes_one_line_and_no_control_character(tmp_path: Path) -> None:
    for index, case in enumerate(CORPUS):
        folder = tmp_path / str(index)
        folder.mkdir()
        for fault in faults_of(case, folder):
            assert fault.isprintable(), (case.name, fault)


@pytest.mark.parametrize("mark", ["[", "{", "- ", "? ", '[{"a":', "!", "&x ", "*x ", '"', "a: "])
def test_what_is_written_to_harm_a_reader_is_told_in_a_moment(mark: str, tmp_path: Path) -> None:
    text = (mark * (1_000_000 // len(mark))).encode()
    began = time.monotonic()
    assert faults_of(Case("harm", text), tmp_path)
    assert time.monotonic() - began < within(10)
