"""What is remembered of secrets that were right: a table in memory, shared by whoever has it."""

import os
import runpy
from collections.abc import Iterator

import pytest

from issuer.users import remembered
from issuer.users.remembered import KEY_BYTES, SIZE_BYTES, Remembered
from run.commands import ROOT

USER, STORED, SECRET = "USRSalice", b"$2b$10$a-hash", b"the right secret"


@pytest.fixture
def memory() -> Iterator[int]:
    """Such memory as the master makes."""
    descriptor = os.memfd_create("remembered")
    os.ftruncate(descriptor, SIZE_BYTES)
    os.pwrite(descriptor, os.urandom(KEY_BYTES), 0)
    yield descriptor
    os.close(descriptor)


def test_the_master_makes_such_memory_with_another_key_each_time() -> None:
    conf = runpy.run_path(str(ROOT / "issuer" / "gunicorn.conf.py"))
    made = [conf["_made_memory"]() for _ in range(2)]
    keys = {Remembered(descriptor)._key for descriptor in made} | {bytes(KEY_BYTES)}
    for descriptor in made:
        assert os.fstat(descriptor).st_size == SIZE_BYTES
        assert not os.get_inheritable(descriptor), "what a worker starts does not get it"
        os.close(descriptor)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("username", "stored", "offered", "known"),
    [
        (USER, STORED, SECRET, True),
        (USER, STORED, SECRET + b" ", False),
        (USER, STORED, b"", False),
        (USER, b"$2b$10$another", SECRET, False),
        ("USRSalic", b"e" + STORED, SECRET, False),
        ("USRSbob", STORED, SECRET, False),
        ("USRSnobody", b"", b"", False),
        ("\ud800", b"", b"\0" * 24, False),
    ],
)
def test_user_stored_and_offered_secret_must_all_be_those_that_matched(
    username: str, stored: bytes, offered: bytes, known: bool
) -> None:
    table = Remembered()
    assert not table.has(USER, STORED, SECRET)
    table.keep(USER, STORED, SECRET)
    assert table.has(username, stored, offered) is known


def test_who_has_the_same_memory_knows_the_same(memory: int) -> None:
    one, other = Remembered(memory), Remembered(memory)
    one.keep(USER, STORED, SECRET)
    assert other.has(USER, STORED, SECRET)
    other.drop([(USER, STORED)])
    assert not one.has(USER, STORED, SECRET)


def test_each_table_has_a_key_of_its_own(memory: int) -> None:
    one, other = Remembered(), Remembered(memory)
    for table in (one, other):
        table.keep(USER, STORED, SECRET)
    assert one._memory[:KEY_BYTES] != other._memory[:KEY_BYTES]
    entries = [
        {table._memory[at : at + 32] for at in range(4096, SIZE_BYTES, 32)} - {bytes(32)}
        for table in (one, other)
    ]
    assert [len(found) for found in entries] == [1, 1]
    assert entries[0] != entries[1]


def test_no_secret_and_no_name_is_in_the_memory() -> None:
    table = Remembered()
    table.keep(USER, STORED, SECRET)
    for text in (USER.encode(), STORED, SECRET):
        assert table._memory.find(text) == -1


def test_a_user_has_one_entry_and_what_is_dropped_leaves_nothing() -> None:
    table = Remembered()
    for secret in (SECRET, b"another that matches", SECRET):
        table.keep(USER, STORED, secret)
    assert table.has(USER, STORED, SECRET)
    assert not table.has(USER, STORED, b"another that matches")
    table.drop([(USER, STORED), ("USRSbob", STORED)])
    assert table._memory[4096:] == bytes(SIZE_BYTES - 4096)


def test_a_full_table_stays_as_large_as_it_is_and_knows_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remembered, "SIZE_BYTES", 4096 + 2 * 256)
    table = Remembered()
    names = [f"USRS{number}" for number in range(100)]
    for name in names:
        table.keep(name, STORED, SECRET)
        assert table.has(name, STORED, SECRET)
    assert sum(table.has(name, STORED, SECRET) for name in names) == 16
