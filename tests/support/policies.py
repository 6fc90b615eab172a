"""Roles files for tests: the shipped one, with changes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from run.commands import ROOT

CONF = ROOT / "openresty" / "conf"
KINDS = ("ollama", "vllm", "llama-server", "localai")


class Line(NamedTuple):
    """One route of a pack; `example` is its path with something in the place of a parameter."""

    pack: str
    kind: str
    method: str
    path: str
    model: str

    @property
    def example(self) -> str:
        name, _, rest = self.path.partition("{")
        if not rest:
            return self.path
        inside = "sha256:" + "a" * 64 if rest.startswith("digest") else "tiny"
        return name + inside + rest.partition("}")[2]


def lines(*packs: str) -> Iterator[Line]:
    """Every route of some packs."""
    for pack in packs:
        routes = json.loads((CONF / "routes" / f"{pack}.json").read_text())["routes"]
        for kind, listed in routes.items():
            for line in listed:
                method, path, *word = line.split()
                yield Line(pack, kind, method, path, word[0].removeprefix("model=") if word else "")


def shipped_roles() -> dict[str, Any]:
    """The shipped `roles.json`, to be changed."""
    content: dict[str, Any] = json.loads((CONF / "roles.json").read_text())
    return content


def write_roles(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The shipped `roles.json` with a change, in a file that every part can read."""
    content = shipped_roles()
    change(content)
    path.write_text(json.dumps(content, indent=2))
    path.chmod(0o644)
    return path
