"""The gateway's verifier without a gateway: the process `verify.lua`, asked through a pipe."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from issuer import keys
from issuer.keys.key_file import SIGNING, Entry, KeyList
from issuer.sync import gateways
from run.commands import ROOT
from tests.support.fake_gateway import seal
from tests.support.policies import shipped_policy

PROGRAM = Path(__file__).with_name("verify.lua")
SYNC_KEY = b"sync key of the security tests, 0123456789"
#: How many lines are written before answers are read: what a pipe holds, it holds for both sides.
AT_ONCE = 20_000


def key_list(*listed: keys.Key, serial: int = 1) -> KeyList:
    """A key file with these keys."""
    entries = (
        Entry(
            key.kid,
            key.algorithm,
            SIGNING,
            added_at=0,
            secret=base64.b64encode(keys.stored_form(key)).decode(),
        )
        for key in listed
    )
    return KeyList("history", serial, tuple(entries))


class GatewayVerifier:
    """One process of `verify.lua`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._writer = ThreadPoolExecutor(1)
        self._asker = ThreadPoolExecutor(1)
        policy = json.dumps(shipped_policy().compiled).encode()
        self._tell(f"start {SYNC_KEY.hex()} {policy.hex()}")

    def put_keys(self, known: KeyList) -> bool:
        """Give it the keys in force as the issuer would; answers whether it took them."""
        sealed = seal(SYNC_KEY, gateways._verifying(known))
        return self.ask([f"keys {known.history} {known.serial} {sealed}"]) == ["true"]

    def activate(self, tokens: Mapping[str, int]) -> None:
        """Make tokens active: `jti` -> `exp`."""
        for jti, exp in tokens.items():
            self._tell(f"activate {jti} {exp}")

    def revoke(self, tokens: Mapping[str, int]) -> None:
        """Revoke tokens: `jti` -> `exp`."""
        for jti, exp in tokens.items():
            self._tell(f"revoke {jti} {exp}")

    def activate_keys(self, entries: Iterable[Sequence[Any]]) -> None:
        """Make API keys active: entries as the issuer pushes them."""
        for key_id, exp, known in entries:
            self._tell(f"api-key {key_id} {exp} {json.dumps(known).encode().hex()}")

    def verdicts(self, tokens: Sequence[bytes], now: int) -> list[str]:
        """The verdict on each token: accepted, expired or refused."""
        return self.ask([f"token {now} {token.hex()}" for token in tokens])

    def verdicts_later(self, tokens: Sequence[bytes], now: int) -> "Future[list[str]]":
        """The same, while the caller does other work."""
        return self._asker.submit(self.verdicts, tokens, now)

    def holds(self, algorithm: str, key: bytes, text: bytes, signature: bytes) -> str:
        """Whether a bare signature holds: true, false, or unfit for a key it does not take."""
        question = f"signature {algorithm} {key.hex()} {text.hex()} {signature.hex()}"
        return self.ask([question])[0]

    def ask(self, lines: Sequence[str]) -> list[str]:
        """One answer a line."""
        answers: list[str] = []
        assert self._process.stdout is not None
        for start in range(0, len(lines), AT_ONCE):
            part = lines[start : start + AT_ONCE]
            written = self._writer.submit(self._write, [*part, "flush"])
            for _ in part:
                answer = self._process.stdout.readline()
                assert answer, f"verify.lua ended with {self._process.wait(10)}"
                answers.append(answer.decode().rstrip("\n"))
            written.result()
        return answers

    def _tell(self, line: str) -> None:
        self._write([line])

    def _write(self, lines: Iterable[str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """End it, and see that it ended well."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.close()
            status = process.wait(10)
        finally:
            process.kill()
            process.stdout.close()
            self._writer.shutdown()
            self._asker.shutdown()
        assert status == 0, f"verify.lua ended with {status}"


@contextmanager
def gateway_verifier() -> Iterator[GatewayVerifier]:
    """A verifier for the time of a `with`."""
    luajit = shutil.which("luajit")
    assert luajit, "luajit is not installed"
    paths = f"{ROOT}/openresty/lua/?.lua;{ROOT}/tests/unit/lua/?.lua;;"
    process = subprocess.Popen(
        [luajit, str(PROGRAM)],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    verifier = GatewayVerifier(process)
    try:
        yield verifier
    finally:
        verifier.close()
