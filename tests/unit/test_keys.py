"""Keys: the kid, the keyring, and that no secret shows."""

from typing import Any

import pytest

from issuer import keys
from issuer.keys import Keyring

SECRET = b"a secret of the key tests, at least thirty-two bytes"


def test_the_kid_is_the_same_for_the_same_secret_and_another_for_another() -> None:
    kids = {keys.hmac_key("HS256", SECRET + bytes([number])).kid for number in range(100)}
    assert len(kids) == 100
    assert keys.hmac_key("HS256", SECRET) == keys.hmac_key("HS256", SECRET)


def test_the_kid_is_plain_text_that_needs_no_escape() -> None:
    kid = keys.hmac_key("HS256", SECRET).kid
    assert len(kid) == 16
    assert kid.replace("-", "").replace("_", "").isalnum()
    assert kid.isascii()


def test_no_secret_shows_in_a_repr_or_a_kid() -> None:
    key = keys.hmac_key("HS256", SECRET)
    shown = f"{key!r} {key} {Keyring([key])!r}"
    assert SECRET.decode() not in shown
    assert SECRET.hex() not in shown


def test_the_newest_key_signs() -> None:
    old, new = (keys.hmac_key("HS256", SECRET + end) for end in (b"1", b"2"))
    assert Keyring([old, new]).signing() is new


def test_every_key_in_force_is_found_by_its_kid() -> None:
    old, new = (keys.hmac_key("HS256", SECRET + end) for end in (b"1", b"2"))
    keyring = Keyring([old, new])
    assert keyring.find(old.kid) is old
    assert keyring.find(new.kid) is new


@pytest.mark.parametrize("kid", ["", "x", "../../dev/null", "\0", None, 1, 1.5, True, [], {}, b"x"])
def test_j5_anything_else_finds_no_key(kid: Any) -> None:
    assert Keyring([keys.hmac_key("HS256", SECRET)]).find(kid) is None
