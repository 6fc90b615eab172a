"""What is sealed under the sync key: opened by its own kind alone, and by the gateway."""

import base64
import itertools

import pytest

from issuer.keys.sealing import CREDENTIALS, KEYS, Sealing

KEY = b"sync key of these tests, 0123456789 abcdef"
TEXT = "sk-0123456789"


def test_what_is_sealed_alike_is_the_same_each_time_and_comes_back() -> None:
    one, other = Sealing(KEY, CREDENTIALS), Sealing(KEY, CREDENTIALS)
    assert one.seal_alike(TEXT) == other.seal_alike(TEXT)
    assert other.unseal(one.seal_alike(TEXT)) == TEXT
    assert TEXT not in one.seal_alike(TEXT)


def test_no_two_texts_share_a_nonce() -> None:
    sealing = Sealing(KEY, CREDENTIALS)
    seals = [base64.b64decode(sealing.seal_alike(f"text {number}")) for number in range(1000)]
    assert len({sealed[:12] for sealed in seals}) == 1000


def test_no_nonce_of_one_purpose_or_key_is_one_of_another() -> None:
    made = [
        Sealing(key, label).seal_alike(TEXT)
        for key, label in itertools.product((KEY, KEY + b"x"), (KEYS, CREDENTIALS))
    ]
    assert len({base64.b64decode(sealed)[:12] for sealed in made}) == 4


@pytest.mark.parametrize(
    "sealed",
    [
        Sealing(KEY, KEYS).seal_alike(TEXT),
        Sealing(b"another key" * 4, CREDENTIALS).seal_alike(TEXT),
        Sealing(KEY, CREDENTIALS).seal_alike(TEXT)[:-8],
        "",
        "AAAA",
        "*",
        "ä",
    ],
)
def test_n5_what_was_sealed_for_another_purpose_or_changed_is_not_opened(sealed: str) -> None:
    with pytest.raises(ValueError, match="not sealed under this key"):
        Sealing(KEY, CREDENTIALS).unseal(sealed)


def test_no_key_shows_in_a_repr() -> None:
    assert "sync key" not in repr(vars(Sealing(KEY, CREDENTIALS)))
