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
    """A policy file, the files of servers/ and others beside it, and its faults: "LINE FIELD:
    WORDS", or with the file's name before. A case without faults is good. `files` are content and
    mode by name.
    """

    name: str
    text: bytes
    faults: tuple[str, ...] = ()
    servers: Mapping[str, str] = {}
    files: Mapping[str, tuple[bytes, int]] = {}


def write(case: Case, folder: Path) -> Path:
    """The files of a case, in a folder; the path of the policy file."""
    path = folder / "policy.yaml"
    path.write_bytes(case.text)
    for name, text in case.servers.items():
        (folder / "servers").mkdir(exist_ok=True)
        (folder / "servers" / name).write_text(text)
    for name, (content, mode) in case.files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)
    return path


def every_case() -> Iterator[Case]:
    """The whole corpus."""
    from tests.policies import fields, files, llm_servers, servers, surprises

    yield from fields.cases()
    yield from surprises.cases()
    yield from files.cases()
    yield from servers.cases()
    yield from llm_servers.cases()
