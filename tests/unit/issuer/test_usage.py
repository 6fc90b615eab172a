"""What is asked of usage: which days are meant, and which questions are refused."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer import usage
from issuer.errors import Unacceptable

TODAY = date(2026, 11, 25)
DATES = st.dates().map(date.isoformat)
WORDS = st.fixed_dictionaries({}, optional={"from": DATES | st.text(), "to": DATES | st.text()})


def test_without_a_from_it_is_thirty_days_up_to_the_last_one() -> None:
    asked = usage.question({"to": "2026-11-30"}, TODAY)
    assert (asked.first, asked.last) == ("2026-11-01", "2026-11-30")


@pytest.mark.parametrize("last", ["0001-01-01", "0001-01-05", "0001-01-30"])
def test_where_there_are_no_thirty_days_it_begins_with_the_first_one_there_is(last: str) -> None:
    asked = usage.question({"to": last}, TODAY)
    assert (asked.first, asked.last) == ("0001-01-01", last)


@given(WORDS)
def test_every_question_is_days_in_their_order_or_refused(words: dict[str, str]) -> None:
    try:
        asked = usage.question(words, TODAY)
    except Unacceptable:
        return
    assert date.fromisoformat(asked.first) <= date.fromisoformat(asked.last)
