"""What a JSON file must look like, as a tree of rules; every fault is told with its place.

Pure. A rule is one value's alone: what two values must be to each other is asked elsewhere.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from issuer.policy.placed_json import Document, Path


class Rule(NamedTuple):
    """What a value must be. The members of an object have rules by name, or `each` one rule for
    all, with names that `names` accepts; the elements of a list have `each`.
    """

    accepts: Callable[[Any], bool]
    text: str
    members: "Mapping[str, Rule]" = MappingProxyType({})
    optional: frozenset[str] = frozenset()
    each: "Rule | None" = None
    names: "Rule | None" = None


def whole(most: int, unit: str = "") -> Rule:
    """A whole number from 1; neither `true` nor `1.0` is one."""
    return Rule(
        lambda value: type(value) is int and 1 <= value <= most,
        f"must be a whole number{unit}, 1 to {most}",
    )


def or_null(rule: Rule) -> Rule:
    """The same, or null."""
    return Rule(
        lambda value: value is None or rule.accepts(value), f"{rule.text}, or null for no limit"
    )


def matching(pattern: "re.Pattern[str]", rule: str) -> Rule:
    """A text that matches a pattern."""
    return Rule(lambda value: isinstance(value, str) and pattern.match(value) is not None, rule)


def one_of(words: tuple[str, ...]) -> Rule:
    """One of some words."""
    return Rule(lambda value: value in words, f"must be one of {', '.join(words)}")


def list_of(each: Rule, rule: str) -> Rule:
    """A list, of any length."""
    return Rule(lambda value: isinstance(value, list), rule, each=each)


def record(
    members: Mapping[str, Rule],
    optional: frozenset[str] = frozenset(),
    rule: str = "must be an object",
) -> Rule:
    """An object with these members and no others."""
    return Rule(lambda value: isinstance(value, dict), rule, members, optional)


def table(names: Rule, each: Rule, least: int, rule: str) -> Rule:
    """An object whose members are all alike."""
    return Rule(
        lambda value: isinstance(value, dict) and len(value) >= least, rule, each=each, names=names
    )


def judge(document: Document, rule: Rule, path: Path = ()) -> Iterator[str]:
    """Every fault of the value at a path, and of what is in it."""
    value = document.at(path)
    if not rule.accepts(value):
        yield f"{document.place(*path)} {rule.text}"
    elif isinstance(value, dict):
        yield from _judge_members(document, path, rule, value)
    elif rule.each:
        for index in range(len(value)):
            yield from judge(document, rule.each, (*path, index))


def _judge_members(
    document: Document, path: Path, rule: Rule, value: Mapping[str, Any]
) -> Iterator[str]:
    for name in value:
        place = document.place(*path, name)
        if rule.names and not rule.names.accepts(name):
            yield f"{place} {rule.names.text}"
        its = rule.each or rule.members.get(name)
        if its is None:
            yield f"{place} is not a known field"
        else:
            yield from judge(document, its, (*path, name))
    for name, its in rule.members.items():
        if name not in value and name not in rule.optional:
            yield f"{document.place(*path, name)} is missing; it {its.text}"
