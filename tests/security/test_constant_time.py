"""J32: where a MAC is wrong must not show in the time its refusal takes.

Times are no subject of a test that must hold on any machine, so this looks at what compares: the
functions that are made for it, and nothing else.
"""

import inspect
import re
from pathlib import Path

import jwt.algorithms

ROOT = Path(__file__).resolve().parents[2]
CRYPTO = (ROOT / "openresty" / "lua" / "portero" / "token" / "crypto.lua").read_text()
SYNC = (ROOT / "openresty" / "lua" / "portero" / "sync" / "receiver.lua").read_text()


def lua_function(source: str, name: str) -> str:
    found = re.search(rf"^(?:local )?function {re.escape(name)}\(.*?^end$", source, re.M | re.S)
    assert found, name
    return found[0]


def test_j32_the_gateway_compares_macs_by_crypto_memcmp_after_their_lengths() -> None:
    verifier = lua_function(CRYPTO, "hmac_verifier")
    assert "mac_length[0] == signature_length\n                and C.CRYPTO_memcmp(" in verifier
    assert not re.search(r"[=~]= *(signature|mac)\b|\b(signature|mac) *[=~]=", verifier)


def test_j32_the_sync_compares_macs_by_the_same() -> None:
    assert "C.CRYPTO_memcmp(a, b, #a) == 0" in lua_function(CRYPTO, "_M.equal")
    assert "crypto.equal(" in lua_function(SYNC, "is_authentic")
    assert not re.search(r"[=~]= *mac\b|\bmac *[=~]=", lua_function(SYNC, "is_authentic"))


def test_j32_the_issuer_compares_macs_by_compare_digest() -> None:
    assert "compare_digest" in inspect.getsource(jwt.algorithms.HMACAlgorithm.verify)
