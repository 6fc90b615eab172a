"""The parts of the docs that tests take out and run: what a person copies is what was tried.

A part is the block of code behind a line `<!-- tested: NAME -->`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def block(page: str, name: str) -> str:
    """A part of a page, such as `block("docs/clients.md", "codex")`; an error if there is none."""
    pattern = rf"<!-- tested: {re.escape(name)} -->\n```\w*\n(.*?)^```$"
    found = re.findall(pattern, (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{page} has {len(found)} parts named {name}"
    return str(found[0])


def names(page: str) -> list[str]:
    """All parts of a page."""
    return re.findall(r"<!-- tested: (.+) -->", (ROOT / page).read_text())
