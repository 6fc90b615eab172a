"""Policy files, good and bad: a corpus, and the verdict on each.

Whoever reads policies must say of every one what stands here: the readers of the issuer
(`tests/unit/issuer/test_policy_corpus.py`), and a running deployment. Each file is small, written
by hand, and has one thing about it; each fault is told with its line, its field and a word of it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

#: Most files are this one with something more; what is added stands from line 7 on.
BASE = """\
roles:
  agi:
    code: AGIA
    ttl_seconds: 60
    login: /agi/login
    routes: [inference, models]
"""


class Case(NamedTuple):
    """A policy file, the files of servers/ beside it, and its faults: "LINE FIELD: WORDS", or with
    the file's name before. A case without faults is good.
    """

    name: str
    text: bytes
    faults: tuple[str, ...] = ()
    servers: Mapping[str, str] = {}


def write(case: Case, folder: Path) -> Path:
    """The files of a case, in a folder; the path of the policy file."""
    path = folder / "policy.yaml"
    path.write_bytes(case.text)
    for name, text in case.servers.items():
        (folder / "servers").mkdir(exist_ok=True)
        (folder / "servers" / name).write_text(text)
    return path


def every_case() -> Iterator[Case]:
    """The whole corpus."""
    from tests.policies import fields, files, servers, surprises

    yield from fields.cases()
    yield from surprises.cases()
    yield from files.cases()
    yield from servers.cases()
