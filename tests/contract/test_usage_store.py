"""What the store promises of usage (`issuer/store/usage.py`), asked of each database there is."""

import threading
import time
from datetime import datetime

import pytest
import sqlalchemy

from issuer.store.sessions import open_sessions
from issuer.store.usage import COUNTS, Question, Usage

DAY = "2026-11-25"
ROW = [DAY, "USRSA", "token", "tiny", "llm", 1, 3, 2]
BOTS = [DAY, "AGNRB", "wPJv-2m3B0gR7hQz", "tiny", "rack", 1, 2**40, 0]


@pytest.fixture
def usage(url: str) -> Usage:
    return Usage(open_sessions(url).database)


def sums(usage: Usage, *by: str, user: str | None = None) -> list[list[object]]:
    found = usage.asked(Question("2026-01-01", "2026-12-31", by, user))
    return [[row[name] for name in (*by, *COUNTS)] for row in found]


def test_a_batch_is_added_once_and_its_number_with_it(usage: Usage, url: str) -> None:
    assert usage.taken("life") == 0
    assert usage.add("life", 1, [ROW, BOTS]) is True
    again = Usage(open_sessions(url).database)
    assert again.taken("life") == 1
    assert again.add("life", 1, [ROW, BOTS]) is False
    assert sums(again, "user") == [["AGNRB", 1, 2**40, 0], ["USRSA", 1, 3, 2]]


def test_each_life_of_a_gateway_has_numbers_of_its_own(usage: Usage) -> None:
    for life in ("one", "other"):
        assert usage.add(life, 1, [ROW]) is True
    assert (usage.taken("one"), usage.taken("other"), usage.taken("third")) == (1, 1, 0)
    assert sums(usage, "user") == [["USRSA", 2, 6, 4]]


def test_a_batch_with_a_bad_row_leaves_nothing_behind(usage: Usage) -> None:
    with pytest.raises(ValueError, match="shorter"):
        usage.add("life", 1, [ROW, ROW[:-1]])
    assert (usage.taken("life"), sums(usage, "user")) == (0, [])


def test_it_is_asked_by_day_within_and_by_what_it_is_told_apart(usage: Usage) -> None:
    days = ["2026-11-24", DAY, "2026-11-26"]
    usage.add("life", 1, [[day, *ROW[1:]] for day in days])
    usage.add("life", 2, [BOTS])
    of_two = usage.asked(Question(days[0], days[1], ("day", "server"), "USRSA"))
    assert [(row["day"], row["server"], row["requests"]) for row in of_two] == [
        (days[0], "llm", 1),
        (days[1], "llm", 1),
    ]
    assert sums(usage, "credential", "model", user="AGNRB") == [
        ["wPJv-2m3B0gR7hQz", "tiny", 1, 2**40, 0]
    ]


def test_a_batch_of_many_rows_asks_the_database_as_often_as_one_of_one(usage: Usage) -> None:
    asked: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        asked.append(statement)

    sqlalchemy.event.listen(usage._database._engine, "before_cursor_execute", note)
    usage.add("life", 1, [ROW])
    of_one = len(asked)
    many = [[DAY, f"USRS{number % 50}", *ROW[2:]] for number in range(200)]
    usage.add("life", 2, many)
    assert len(asked) == 2 * of_one
    assert sum(int(str(row[1])) for row in sums(usage, "user")) == 201
    assert usage.spent("life", DAY)[1]["USRS7"] == (4 * 5, 4 * 5)


def test_batches_that_come_at_once_are_all_there(url: str) -> None:
    def add(number: int) -> None:
        mine = Usage(open_sessions(url).database)
        for batch in range(1, 6):
            mine.add(f"life {number}", batch, [ROW, BOTS])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums(Usage(open_sessions(url).database), "user") == [
        ["AGNRB", 30, 30 * 2**40, 0],
        ["USRSA", 30, 90, 60],
    ]


def test_what_is_spent_is_told_by_user_of_a_day_and_its_month_with_the_batch_it_is_up_to(
    usage: Usage,
) -> None:
    usage.add("life", 1, [ROW, ["2026-11-24", *ROW[1:]], ["2026-10-31", *ROW[1:]], BOTS])
    usage.add("other", 7, [ROW])
    assert usage.spent("life", DAY) == (1, {"USRSA": (10, 15), "AGNRB": (2**40, 2**40)})
    assert usage.spent("other", "2026-11-26") == (7, {"USRSA": (0, 15), "AGNRB": (0, 2**40)})
    assert usage.spent("third", "2026-12-01") == (0, {})


def at(day: str) -> int:
    """Noon of a UTC date, in Unix seconds."""
    return int(datetime.fromisoformat(f"{day}T12:00+00:00").timestamp())


def test_what_is_spent_of_days_and_months_that_are_over_is_forgotten_and_what_was_used_is_kept(
    usage: Usage,
) -> None:
    days = ["2026-09-30", "2026-10-31", "2026-11-01", "2026-11-22", DAY]
    usage.add("life", 1, [[day, *ROW[1:]] for day in days])

    def spent(day: str) -> tuple[int, int]:
        return usage.spent("life", day)[1].get("USRSA", (0, 0))

    assert [spent(day) for day in days] == [(5, 5), (5, 5), (5, 15), (5, 15), (5, 15)]
    assert usage.prune(at("2026-11-02"), {"life"}) == 2 + 0
    assert [spent(day) for day in days] == [(0, 0), (5, 5), (5, 15), (5, 15), (5, 15)]
    assert usage.prune(at(DAY), {"life"}) == 2
    assert [spent(day) for day in days] == [(0, 0), (0, 5), (0, 15), (5, 15), (5, 15)]
    usage.prune(at("2026-12-04"), {"life"})
    assert [spent(day) for day in days] == [(0, 0), (0, 0), (0, 15), (0, 15), (0, 15)]
    assert sums(usage, "user") == [["USRSA", 5, 15, 10]]


def test_where_a_life_of_a_gateway_has_come_to_is_kept_while_it_may_come_back(
    usage: Usage,
) -> None:
    for life in ("one", "other"):
        usage.add(life, 7, [ROW])
    now = int(time.time())
    usage.prune(now + 90 * 86_400, set())
    assert [usage.taken(life) for life in ("one", "other")] == [7, 7]
    usage.prune(now + 91 * 86_400, {"one"})
    assert [usage.taken(life) for life in ("one", "other")] == [7, 0]


def test_a_page_has_the_first_sums_and_how_many_there_are(usage: Usage) -> None:
    usage.add("life", 1, [[DAY, f"USRS{number}", *ROW[2:]] for number in range(7)] + [BOTS])
    asked = Question("2026-01-01", "2026-12-31", ("user", "model"))
    for most in (3, 8, 9):
        assert usage.page(asked, most) == (usage.asked(asked)[:most], 8)
    assert usage.page(Question("2026-01-01", "2026-12-31", ("user",), "nobody"), 3) == ([], 0)
