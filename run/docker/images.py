"""The images: their bases at hand, then built from this checkout. One name for all its stacks, so
that a stack with another DATA_DIR leaves no images of its own behind.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from run.commands import ROOT
from run.docker.engine import NotHere, ask, tell
from run.terminal import say

DOCKERFILES = ("openresty/Dockerfile", "issuer/Dockerfile", "demo/Dockerfile")
#: Long enough for 150 MB over a usual line, short enough to find out that there is none.
PULL_SECONDS = 120


def image_names() -> dict[str, str]:
    """Service of the compose file -> image."""
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    built_by = {"init": "issuer", "reconciler": "issuer"}
    services = ("init", "issuer", "reconciler", "gateway", "llm")
    return {name: f"portero-{checkout}-{built_by.get(name, name)}" for name in services}


def base_images(env: Mapping[str, str]) -> list[str]:
    """What the Dockerfiles build upon: the environment's wish, else their own default."""
    defaults: dict[str, str] = {}
    for name in DOCKERFILES:
        text = (ROOT / name).read_text()
        defaults.update(re.findall(r"^ARG (\w+_IMAGE)=(\S+)", text, re.MULTILINE))
    return [env.get(argument, image) for argument, image in sorted(defaults.items())]


def have_bases(env: Mapping[str, str], log: Path) -> None:
    """Base images on this machine, or pulled now; `NotHere` when that does not work in time."""
    absent = [image for image in base_images(env) if ask(inspect(image), env)[0]]
    for image in absent:
        say(f"Pulling {image}")
        if tell(["docker", "pull", image], env, log, PULL_SECONDS):
            raise NotHere(f"{image} could not be pulled in {PULL_SECONDS} s (why is in {log})")


def inspect(image: str) -> list[str]:
    """The command that fails for an image that is not on this machine."""
    return ["docker", "image", "inspect", "--format", "{{.Id}}", image]
