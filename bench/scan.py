"""`make bench B=scan`: what the scan of a body costs by itself, without nginx, by its size and by
what is said in it. Takes two minutes.

Each is LuaJIT alone, in a process of its own, as what came before decides how a loop is compiled.
Beside it the same scan without its leap over texts, and memchr, which is the floor.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import texts
from run.commands import ROOT

SIZES = {"4 KiB": 4 << 10, "1 MiB": 1 << 20, "4 MiB": 4 << 20}
#: What a client may send to keep the gateway busy, again and again.
HOSTILE = {
    "escaped quotes": '\\"',
    "backslashes": "\\\\",
    "a backslash, a letter": "\\\\a",
    "emoji": "😀",
    "an emoji, a blank": "😀 ",
    "a letter, a new line": "é\\n",
    "a new line among ASCII": "é234567\\n1234567",
    "short strings": '","',
    "backslashes, short": '\\\\","',
}
HEAD = (
    "| body | GB/s | ms a MiB | byte by byte, ms a MiB | memchr, ms a MiB "
    "| of byte by byte |\n|---|---|---|---|---|---|"
)


def main() -> int:
    """Measure and print the table."""
    print(HEAD)
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        path = Path(folder, "body")
        for size, length in SIZES.items():
            for kind, body in _bodies(length).items():
                path.write_bytes(body)
                print(line(f"{kind}, {size}", *_measured(path)), flush=True)
    return 0


def _bodies(length: int) -> dict[str, bytes]:
    bodies = {kind: texts.chat(kind, length) for kind in texts.KINDS}
    bodies["Chinese in ASCII"] = json.dumps(json.loads(bodies["Chinese"])).encode()
    bodies |= {f"{kind}, one text": texts.one(kind, length) for kind in texts.WRITERS}
    return bodies | {kind: _again(text, length) for kind, text in HOSTILE.items()}


def _again(text: str, length: int) -> bytes:
    head, tail = '{"model":"tiny","a":["', '"]}'
    times = (length - len(head + tail)) // len(text.encode())
    return (head + text * times + tail).encode()


def _measured(path: Path) -> list[float]:
    told = subprocess.run(
        ["luajit", "bench/scan.lua", str(path)],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in told.stdout.split()]


def line(name: str, length: float, scan: float, plain: float, floor: float) -> str:
    """A row; the times are nanoseconds."""
    by_mib = [f"{ns / length * 1.048576:.3f}" for ns in (scan, plain, floor)]
    return f"| {name} | {length / scan:.2f} | {' | '.join(by_mib)} | {scan / plain:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
