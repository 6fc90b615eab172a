"""Random JSON bodies and mutations of them: in every one that the gateway accepts each reader that
takes it too finds what the gateway found, and the leap over texts changes no verdict (B1-B3, B11;
decision 19).

`make test` does 10,000 with one seed, `make fuzz` a million with a new one.
"""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.security.body_fuzzer import BodyFuzzer
from tests.security.body_readers import READERS, differing, found_by
from tests.security.conftest import SEED, Figure, size

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 5_000

pytestmark = pytest.mark.timeout(7200 if os.environ.get("PORTERO_FUZZ") else 300)


def judged(bodies: list[bytes]) -> Iterator[tuple[bytes, str, dict[str, Any]]]:
    """Each with the gateway's verdict, and what it found there."""
    run = subprocess.run(
        ["luajit", "tests/security/body.lua"],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        input="".join(f"{body.hex()}\n" for body in bodies),
        text=True,
        capture_output=True,
        check=True,
    )
    for body, line in zip(bodies, run.stdout.split("\n")[:-1], strict=True):
        verdict, _, told = line.partition(" ")
        yield body, verdict, json.loads(told) if told else {}


def read_by(name: str, body: bytes, told: dict[str, Any]) -> str:
    """Whether a reader finds in a body what the gateway has told of it."""
    try:
        wrong = differing(READERS[name], body, told)
    except ValueError:
        return f"{name} refuses"
    return f"{name} differs" if wrong else f"{name} agrees"


def test_b11_of_what_is_accepted_every_reader_finds_what_was_judged(figure: Figure) -> None:
    fuzzer, count = BodyFuzzer(Random(f"{SEED} bodies")), size(10_000)
    seen, wrong = Counter[str](), list[tuple[bytes, str]]()
    began = time.monotonic()
    for start in range(0, count, AT_ONCE):
        for body, verdict, told in judged(fuzzer.bodies(min(AT_ONCE, count - start))):
            words = [read_by(name, body, told) for name in READERS] if verdict == "ok" else []
            seen.update((verdict, *words))
            wrong += [(body, word) for word in (verdict, *words) if word.endswith("differs")]
    seconds = time.monotonic() - began
    figure(f"{count} mutated bodies in {seconds:.1f} s: {len(wrong)} readings that differ ({seen})")
    assert wrong == [], f"seed {SEED}"
    # Neither all nor nothing is accepted, and nearly all of that is taken by whoever reads it.
    assert count // 4 < seen["ok"] < count
    assert all(seen[f"{name} agrees"] > 0.9 * seen["ok"] for name in READERS)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"small","model":"other"}',
        b'{"model":"small","Model":"other"}',
        b'{"model":"sm\xc3all"}',
        b'{"model":"\xc0\xaf"}',
    ],
)
def test_b11_what_readers_read_in_two_ways_is_refused(body: bytes) -> None:
    ((_, verdict, _),) = judged([body])
    models = set[str]()
    for reader in READERS.values():
        with suppress(ValueError):
            models.add(found_by(reader, body)["model"])
    assert verdict == "no"
    assert len(models) > 1
