"""One stack in containers: a compose project, whose name comes from its DATA_DIR.

It owns DATA_DIR/run/compose.json, which says how `make run` differs from `docker compose up`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from run.commands import ROOT
from run.docker.engine import ask, tell
from run.docker.handover import INIT
from run.docker.images import image_names
from run.terminal import RunError
from run.watching import LAST_LINES, last_lines

COMPOSE_FILE = ROOT / "docker-compose.yml"
#: As with local processes; the compose file would let the gateway's streams go on for longer.
STOP_SECONDS = 5
#: What Docker's client and compose are told beside the user's settings: not their secrets.
KEPT_BACK = ("SECRET_KEY", "SYNC_KEY", "DATABASE_URL", "LLM_API_KEY")
#: Longest of all: the issuer's health. Only an engine that hangs comes near it.
UP_SECONDS = 180
HAND_OVER_SECONDS = 60
BESIDE_SECONDS = 30


@dataclass(frozen=True)
class Project:
    """How compose is called for this stack, and what it is told."""

    compose: tuple[str, ...]
    data_dir: Path
    env: Mapping[str, str]

    @property
    def name(self) -> str:
        """The same for every run on this DATA_DIR, so that it finds its volumes again."""
        return f"portero-{hashlib.sha256(str(self.data_dir.resolve()).encode()).hexdigest()[:10]}"

    @property
    def log(self) -> Path:
        """What compose says while it builds, starts and stops."""
        return self.data_dir / "log" / "compose.log"

    @property
    def changes(self) -> Path:
        """The second compose file."""
        return self.data_dir / "run" / "compose.json"

    def command(self, *words: str) -> list[str]:
        """A command of compose for this project."""
        files = ["-f", str(COMPOSE_FILE), "-f", str(self.changes)]
        return [*self.compose, "-p", self.name, *files, *words]

    def write_changes(self, own_llm: bool, parts: Mapping[str, Mapping[str, str]]) -> None:
        """A death is told instead of mended, images are shared by all stacks of this checkout, and
        nothing is built for a bundled LLM that idles.
        """
        images = image_names()
        if own_llm:
            images["llm"] = images["issuer"]
        services = {
            name: {"image": image, "restart": "no", "environment": dict(parts.get(name, {}))}
            for name, image in images.items()
        }
        self.changes.write_text(json.dumps({"services": services}, indent=1) + "\n")

    def build(self, own_llm: bool) -> str:
        """Build the images; the reason when that fails."""
        services = ["issuer", "gateway", *([] if own_llm else ["llm"])]
        return self._told("build", *services)

    def up(self) -> str:
        """Create and start all containers in their order; the reason when that fails."""
        return self._told("up", "--detach", "--no-build", "--remove-orphans", seconds=UP_SECONDS)

    def down(self) -> str:
        """End and remove all but the volumes; the reason when that fails."""
        words = ("down", "--remove-orphans", "--timeout", str(STOP_SECONDS))
        return self._told(*words, to_the_end=True)

    def hand_over(self, given: Mapping[str, str]) -> None:
        """Give `init` what is the user's own, which it keeps on the volumes."""
        command = self.command("run", "--rm", "-T", *INIT, "--given")
        status, said = ask(command, self.env, json.dumps(given), HAND_OVER_SECONDS)
        if status:
            lines = "\n  | ".join(said.splitlines()[-LAST_LINES:])
            raise RunError(
                f"keys, users or roles of your own could not be handed over\n  | {lines}"
            )

    def run_beside_gateway(self, program: str, given: str) -> tuple[int, str]:
        """Run a Python program that sees the network, and the names, that the gateway sees; its
        standard input may be secret.
        """
        options = ("--rm", "--interactive", "--read-only", "--cap-drop", "ALL")
        network = f"container:{self.containers().get('gateway', 'gateway')}"
        image = image_names()["issuer"]
        command = ["docker", "run", *options, "--network", network, image]
        return ask([*command, "python", "-I", "-c", program], self.env, given, BESIDE_SECONDS)

    def containers(self, *filters: str) -> dict[str, str]:
        """Service -> container, of those that compose has started to stay."""
        wanted = (f"label=com.docker.compose.project={self.name}", *filters)
        command = ["docker", "ps", "--all", "--no-trunc"]
        command += [word for one in wanted for word in ("--filter", one)]
        command += ["--format", '{{.Label "com.docker.compose.service"}} {{.ID}}']
        lines = [line.split() for line in ask(command, self.env)[1].splitlines()]
        return {words[0]: words[1] for words in lines if len(words) == 2}

    def _told(self, *words: str, seconds: float | None = None, to_the_end: bool = False) -> str:
        start = self.log.stat().st_size if self.log.exists() else 0
        status = tell(self.command(*words), self.env, self.log, seconds, to_the_end)
        said = last_lines(self.log, start) if status else []
        head = f"{' '.join(self.compose)} {words[0]} failed; all it said is in {self.log}"
        return "\n  | ".join([head, *said]) if status else ""


def project_of(compose: tuple[str, ...], data_dir: Path, env: Mapping[str, str]) -> Project:
    """The project of this DATA_DIR."""
    told = {name: value for name, value in env.items() if name not in KEPT_BACK}
    return Project(compose, data_dir, told)
