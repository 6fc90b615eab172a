"""Policies for tests: the shipped one, with changes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from issuer import policy
from issuer.config import POLICY_FILE
from issuer.policy import Policy, Terms

SERVERS = POLICY_FILE.with_name("servers")
KINDS = ("ollama", "vllm", "llama-server", "localai")


class Line(NamedTuple):
    """One route of a kind of LLM server; `example` has something in a parameter's place."""

    server: str
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


def lines(*servers: str) -> Iterator[Line]:
    """Every route of some kinds of LLM servers."""
    for server in servers:
        routes = yaml.safe_load((SERVERS / f"{server}.yaml").read_text())["routes"]
        for kind, listed in routes.items():
            for line in listed:
                method, path, *word = line.split()
                model = word[0].removeprefix("model=") if word else ""
                yield Line(server, kind, method, path, model)


def shipped() -> dict[str, Any]:
    """The shipped policy as it is written, to be changed: what has a default may be missing."""
    content: dict[str, Any] = yaml.safe_load(POLICY_FILE.read_text())
    return content


def shipped_policy(ttl_bound_seconds: int = 86_400) -> Policy:
    """The shipped policy for all kinds of LLM servers."""
    return policy.parse(policy.gather(POLICY_FILE), Terms("", "portero", ttl_bound_seconds))


def changed_policy(folder: Path, change: Callable[[dict[str, Any]], object]) -> Policy:
    """The shipped policy with a change, for all kinds of LLM servers."""
    path = write_policy(folder / "policy.yaml", change)
    return policy.parse(policy.gather(path), Terms("", "portero", 86_400))


def write_policy(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The shipped policy with a change, in a file that every part can read; JSON is YAML."""
    content = shipped()
    change(content)
    path.write_text(json.dumps(content, indent=2))
    path.chmod(0o644)
    return path
