"""Budgets: groups as a policy file has them, and what a gateway is told of what is spent."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from issuer import policy
from issuer.errors import Faults
from issuer.policy import Policy, Terms
from issuer.policy.budgets import Group
from issuer.store.usage import Usage
from issuer.sync.budgets import SpentBudgets
from issuer.sync.gateways import Ack, Gateway
from tests.support.policies import write_policy
from tests.support.stores import sessions_in

DAY, NEXT = "2026-11-25", "2026-11-26"
TEAM = Group("team", ("USRSA", "USRSB"), tokens_per_day=100)


def parsed(path: Path, terms: Terms | None = None, **changes: Any) -> Policy:
    written = write_policy(path / "policy.yaml", lambda content: content.update(changes))
    return policy.parse(policy.gather(written), terms or Terms())


def test_a_group_is_told_to_gateways_as_it_stands_in_the_file(tmp_path: Path) -> None:
    entry = {"name": "team", "members": ["USRSA", "AGIAB"], "tokens_per_month": 7}
    known = parsed(tmp_path, groups=[entry, {"name": "none", "members": ["USRSA"]}])
    assert known.compiled["groups"] == [entry, {"name": "none", "members": ["USRSA"]}]
    assert known.has_budgets
    assert known.groups[0] == Group("team", ("USRSA", "AGIAB"), None, 7)


def test_without_groups_nothing_is_told_and_without_budgets_nobody_has_one(tmp_path: Path) -> None:
    known = parsed(tmp_path)
    assert "groups" not in known.compiled
    assert not known.has_budgets
    assert not parsed(tmp_path, groups=[{"name": "n", "members": ["USRSA"]}]).has_budgets
    assert parsed(tmp_path, users={"USRSA": {"tokens_per_day": 1}}).has_budgets


FAULTY = {
    "no list": ({}, "groups must be a list of at most 1000 groups; [] for none"),
    "no members": ([{"name": "a"}], "groups[1].members is missing"),
    "no name": ([{"members": ["USRSA"]}], "groups[1].name is missing"),
    "a strange member": (
        [{"name": "a", "members": ["bob"]}],
        "groups[1].members[1] is no username",
    ),
    "nobody's code": ([{"name": "a", "members": ["XXXXa"]}], "begins with no role's code"),
    "a member twice": ([{"name": "a", "members": ["USRSA", "USRSA"]}], "each once"),
    "a name twice": ([{"name": "a", "members": ["USRSA"]}] * 2, "is the name of the group in line"),
    "a field too many": ([{"name": "a", "members": ["USRSA"], "x": 1}], "is not a known field"),
}


@pytest.mark.parametrize("what", FAULTY)
def test_a_faulty_group_is_told_with_its_place(tmp_path: Path, what: str) -> None:
    groups, fault = FAULTY[what]
    with pytest.raises(Faults) as found:
        parsed(tmp_path, groups=groups)
    (text,) = found.value.faults
    assert text.startswith("policy.yaml")
    assert fault in text


def test_a_budget_without_usage_is_one_fault_that_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(Faults) as found:
        parsed(
            tmp_path,
            Terms(has_usage=False),
            users={"USRSA": {"tokens_per_day": 1}, "USRSB": {"tokens_per_day": 2}},
        )
    (text,) = found.value.faults
    assert text.startswith("USAGE: must be on, as policy.yaml line ")
    assert text.endswith(": users.USRSA.tokens_per_day is a budget")


class Told(Gateway):
    """A gateway that notes what it is told, and answers as it is bidden."""

    def __init__(self) -> None:
        super().__init__("http://told", b"key")
        self.messages: list[dict[str, Any]] = []
        self.is_there = True

    def put_spent(self, **content: Any) -> Ack:
        self.messages.append(content)
        return Ack(self.url, self.is_there)

    def rows(self) -> dict[str, Sequence[int]]:
        """What came since the last look."""
        found = {row[0]: row[1:3] for message in self.messages for row in message["rows"]}
        self.messages.clear()
        return found


def test_a_gateway_is_told_all_at_first_then_what_has_changed(tmp_path: Path) -> None:
    usage, gateway = Usage(sessions_in(tmp_path / "s.db").database), Told()
    days = [DAY]
    spent = SpentBudgets(gateway, usage, lambda: days[0])

    def use(number: int, user: str, tokens: int) -> None:
        usage.add("life", number, [[DAY, user, "token", "tiny", "llm", 1, tokens, 0]])

    spent.bring("life", [TEAM])
    assert (gateway.messages[0]["number"], gateway.messages[0]["complete"]) == (0, True)
    assert gateway.rows() == {"g:team": (0, 0)}
    use(1, "USRSA", 5)
    use(2, "AGNRC", 3)
    spent.bring("life", [TEAM])
    assert gateway.messages[0]["number"] == 2
    assert gateway.rows() == {"u:USRSA": (5, 5), "u:AGNRC": (3, 3), "g:team": (5, 5)}
    spent.bring("life", [TEAM])
    assert gateway.messages == []
    use(3, "USRSB", 2)
    spent.bring("life", [TEAM])
    assert gateway.rows() == {"u:USRSB": (2, 2), "g:team": (7, 7)}
    days[0] = NEXT
    spent.bring("life", [TEAM])
    assert gateway.rows() == {
        "u:USRSA": (0, 5),
        "u:USRSB": (0, 2),
        "u:AGNRC": (0, 3),
        "g:team": (0, 7),
    }


def test_another_life_and_one_that_did_not_answer_are_told_all_again(tmp_path: Path) -> None:
    usage, gateway = Usage(sessions_in(tmp_path / "s.db").database), Told()
    usage.add("life", 1, [[DAY, "USRSA", "token", "tiny", "llm", 1, 5, 0]])
    spent = SpentBudgets(gateway, usage, lambda: DAY)
    whole = {"u:USRSA": (5, 5)}
    gateway.is_there = False
    spent.bring("life", [])
    assert gateway.rows() == whole
    gateway.is_there = True
    for boot in ("life", "other life"):
        spent.bring(boot, [])
        assert gateway.rows() == whole


def test_many_are_told_in_parts_of_which_the_last_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("issuer.sync.budgets.PART_ROWS", 2)
    usage, gateway = Usage(sessions_in(tmp_path / "s.db").database), Told()
    rows = [[DAY, f"USRS{number}", "token", "tiny", "llm", 1, 1, 0] for number in range(5)]
    usage.add("life", 1, rows)
    SpentBudgets(gateway, usage, lambda: DAY).bring("life", [])
    assert [message["complete"] for message in gateway.messages] == [False, False, True]
    assert len(gateway.rows()) == 5
