"""Budgets of a policy file: tokens a day and a month, of users and of groups that share one.

Pure: a document that was read comes in. What one value must be the schema says. What was spent is
the store's matter, and who is refused the gateway's.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from issuer.policy import roles
from issuer.policy.yaml_document import Document, Fault, Path

FIELDS = ("tokens_per_day", "tokens_per_month")


@dataclass(frozen=True)
class Group:
    """Users who share a budget. None: no limit."""

    name: str
    members: tuple[str, ...]
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    def compiled(self) -> dict[str, Any]:
        """What a gateway is told of it."""
        told = {**vars(self), "members": list(self.members)}
        return {name: value for name, value in told.items() if value is not None}


def groups_of(document: Document) -> list[Group]:
    """The groups of a policy file without faults."""
    content: Any = document.value
    listed = content.get("groups", ())
    return [Group(**{**entry, "members": tuple(entry["members"])}) for entry in listed]


def first_place(document: Document) -> Path | None:
    """Where the first budget stands; None where there is none."""
    return next(_places(document), None)


def rule_faults(document: Document, codes: Collection[str]) -> Iterator[Fault]:
    """What groups must be to each other and to roles."""
    lines: dict[str, int] = {}
    for path, entry in _groups(document):
        name = entry.get("name")
        if isinstance(name, str) and name in lines:
            text = f"is the name of the group in line {lines[name]} already"
            yield document.fault((*path, "name"), text)
        elif isinstance(name, str):
            lines[name] = document.line(*path, "name")
        members = entry.get("members")
        for index, member in enumerate(members if isinstance(members, list) else ()):
            is_name = isinstance(member, str) and roles.is_subject(member)
            if is_name and member[: roles.CODE_LENGTH] not in codes:
                yield document.fault((*path, "members", index), "begins with no role's code")


def _places(document: Document) -> Iterator[Path]:
    for part in ("roles", "users"):
        for name, entry in _tables(document, part).items():
            yield from ((part, name, field) for field in FIELDS if _is_set(entry, field))
    for path, entry in _groups(document):
        yield from ((*path, field) for field in FIELDS if _is_set(entry, field))


def _is_set(entry: object, field: str) -> bool:
    return isinstance(entry, dict) and entry.get(field) is not None


def _tables(document: Document, part: str) -> Mapping[str, Any]:
    content = document.value if isinstance(document.value, dict) else {}
    found = content.get(part)
    return found if isinstance(found, dict) else {}


def _groups(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    content = document.value if isinstance(document.value, dict) else {}
    listed = content.get("groups")
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(entry, dict):
            yield ("groups", index), entry
