"""The key file: how keys come, turn and go, over all processes, and what never comes back."""

import base64
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from issuer import keys
from issuer.config import KEY_FILE
from issuer.errors import Faults, StoreUnavailable
from issuer.keys.key_file import GONE, SIGNING, VERIFYING, WAITING, KeyFile

NOW = 1_800_000_000
LONGEST = 3600
SECRET = b"the first secret of the key file tests, long enough"
OTHER = b"another secret of the key file tests, long enough too"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / KEY_FILE


def opened(path: Path, algorithm: str = "HS256", given: bytes = SECRET) -> KeyFile:
    """As a process opens it at its start."""
    return KeyFile(path, algorithm, given, lambda: LONGEST)


def prepared(path: Path, algorithm: str = "HS256", given: bytes = SECRET) -> KeyFile:
    made = opened(path, algorithm, given)
    made.prepare(NOW)
    return made


def kid_of(secret: bytes) -> str:
    return keys.hmac_key("HS256", secret).kid


def states(file: KeyFile) -> list[str]:
    return [entry.state for entry in file.read().entries]


def signing(file: KeyFile) -> str:
    return file.keyring().signing().kid


def in_force(file: KeyFile) -> set[str]:
    return {key.kid for key in file.keyring()}


def rotated(path: Path) -> tuple[KeyFile, str, str]:
    """A file after one rotation: the old key verifies, the new one signs."""
    file = prepared(path)
    old, new = signing(file), file.add(None, NOW).kid
    file.promote(new, NOW)
    return file, old, new


# The first key


def test_the_first_key_of_an_hmac_deployment_is_its_secret_key(path: Path) -> None:
    for algorithm in ("HS256", "HS384", "HS512"):
        where = path.with_name(algorithm)
        file = prepared(where, algorithm)
        assert file.keyring().signing() == keys.hmac_key(algorithm, SECRET)
        assert states(file) == [SIGNING]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_first_key_is_the_private_key_that_is_given_in_pem(path: Path, algorithm: str) -> None:
    given = keys.new_key(algorithm)
    file = prepared(path, algorithm, keys.stored_form(given))
    assert signing(file) == given.kid
    assert file.keyring().signing().verifying == given.verifying


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_first_key_is_made_when_no_private_key_is_given(path: Path, algorithm: str) -> None:
    file = prepared(path, algorithm)
    assert file.keyring().signing().algorithm == algorithm
    assert signing(prepared(path.with_name("another"), algorithm)) != signing(file)


@pytest.mark.parametrize(
    ("algorithm", "given"),
    [
        ("HS256", b"too short"),
        ("HS256", b"a" * 64),
        ("EdDSA", keys.stored_form(keys.new_key("ES256"))),
        ("ES256", keys.stored_form(keys.new_key("EdDSA"))),
        ("RS256", keys.PEM + b"PRIVATE KEY-----\nnonsense"),
    ],
)
def test_a_key_that_is_not_fit_makes_no_file(path: Path, algorithm: str, given: bytes) -> None:
    with pytest.raises(Faults):
        prepared(path, algorithm, given)
    assert not path.exists()


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
def test_another_start_with_the_same_settings_changes_nothing(path: Path, algorithm: str) -> None:
    prepared(path, algorithm)
    before = path.read_bytes()
    for _ in range(3):
        prepared(path, algorithm)
    assert path.read_bytes() == before


# What the operator changes by hand


def test_a_changed_secret_key_replaces_the_one_before_at_once(path: Path) -> None:
    prepared(path)
    file = prepared(path, given=OTHER)
    assert in_force(file) == {signing(file)} == {kid_of(OTHER)}
    assert states(file) == [GONE, SIGNING]


def test_a_changed_secret_key_replaces_every_key_in_force(path: Path) -> None:
    file, _, _ = rotated(path)
    file.add(None, NOW)
    assert states(file) == [VERIFYING, SIGNING, WAITING]
    file = prepared(path, given=OTHER)
    assert states(file) == [GONE, GONE, GONE, SIGNING]
    assert in_force(file) == {kid_of(OTHER)}


def test_a_changed_private_key_replaces_the_one_before_at_once(path: Path) -> None:
    one, two = keys.new_key("EdDSA"), keys.new_key("EdDSA")
    prepared(path, "EdDSA", keys.stored_form(one))
    file = prepared(path, "EdDSA", keys.stored_form(two))
    assert in_force(file) == {two.kid}


def test_a_secret_key_that_was_replaced_never_comes_back(path: Path) -> None:
    prepared(path)
    prepared(path, given=OTHER)
    file = prepared(path)
    assert in_force(file) == {kid_of(OTHER)}
    assert states(file) == [GONE, SIGNING]


def test_a_secret_key_that_was_rotated_away_stays_away_at_every_start(path: Path) -> None:
    file, old, new = rotated(path)
    for _ in range(3):
        file = prepared(path)
        assert (signing(file), in_force(file)) == (new, {old, new})
    file.expire(NOW + LONGEST)
    assert in_force(prepared(path)) == {new}


def test_a_leaked_secret_key_stays_away_at_every_start(path: Path) -> None:
    file = prepared(path)
    file.retire(kid_of(SECRET), True, NOW)
    assert kid_of(SECRET) not in in_force(prepared(path))


def test_a_private_key_that_is_given_later_replaces_the_one_that_was_made(path: Path) -> None:
    prepared(path, "EdDSA")
    given = keys.new_key("EdDSA")
    file = prepared(path, "EdDSA", keys.stored_form(given))
    assert in_force(file) == {given.kid}


@pytest.mark.parametrize("after", ["HS384", "RS256", "ES256", "EdDSA"])
def test_a_changed_algorithm_replaces_every_key_at_once(path: Path, after: str) -> None:
    rotated(path)
    file = prepared(path, after)
    assert [key.algorithm for key in file.keyring()] == [after]
    assert file.keyring().signing().algorithm == after


def test_a_changed_algorithm_and_back_goes_on_with_new_keys(path: Path) -> None:
    first = signing(prepared(path, "EdDSA"))
    prepared(path, "ES256")
    file = prepared(path, "EdDSA")
    assert file.keyring().signing().algorithm == "EdDSA"
    assert signing(file) != first


@pytest.mark.parametrize("after", ["HS384", "EdDSA"])
def test_no_kid_is_twice_in_the_list_after_the_algorithm_was_changed(
    path: Path, after: str
) -> None:
    prepared(path)
    prepared(path, after)
    file = prepared(path)
    kids = [entry.kid for entry in file.read().entries]
    assert len(kids) == len(set(kids))


def test_a_key_in_force_can_be_retired_after_the_algorithm_was_changed(path: Path) -> None:
    prepared(path)
    file = prepared(path, "HS512")
    leaked = signing(file)
    file.retire(leaked, True, NOW)
    assert leaked not in in_force(file)


def test_a_leaked_secret_key_does_not_come_back_with_another_algorithm(path: Path) -> None:
    file = prepared(path)
    file.retire(signing(file), True, NOW)
    file = prepared(path, "HS512")
    assert all(key.signing != SECRET for key in file.keyring())


def test_a_rotation_to_another_algorithm_outlives_the_next_start(path: Path) -> None:
    """`keys add --algorithm`: the new key is of the operator's own choice."""
    file = prepared(path)
    old, new = signing(file), file.add("EdDSA", NOW).kid
    file.promote(new, NOW)
    file = prepared(path)
    assert (signing(file), in_force(file)) == (new, {old, new})


# Turning


def test_an_added_key_waits_and_is_accepted_and_does_not_sign(path: Path) -> None:
    file = prepared(path)
    old, added = signing(file), file.add(None, NOW)
    assert (added.state, added.added_at, added.algorithm) == (WAITING, NOW, "HS256")
    assert states(file) == [SIGNING, WAITING]
    assert (signing(file), in_force(file)) == (old, {old, added.kid})


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_an_added_key_may_be_of_another_algorithm(path: Path, algorithm: str) -> None:
    file = prepared(path)
    added = file.add(algorithm, NOW)
    assert added.algorithm == algorithm
    found = file.keyring().find(added.kid)
    assert found is not None
    assert found.algorithm == algorithm


def test_an_added_secret_is_not_derived_from_the_secret_key(path: Path) -> None:
    kids = [prepared(path.with_name(name)).add(None, NOW).kid for name in ("one", "two")]
    assert kids[0] != kids[1]


def test_no_second_key_is_added_while_one_waits(path: Path) -> None:
    file = prepared(path)
    file.add(None, NOW)
    before = path.read_bytes()
    with pytest.raises(Faults, match="waiting"):
        file.add(None, NOW)
    assert path.read_bytes() == before


def test_a_promoted_key_signs_and_the_one_before_verifies_for_the_longest_ttl(path: Path) -> None:
    file, old, new = rotated(path)
    assert states(file) == [VERIFYING, SIGNING]
    assert (signing(file), in_force(file)) == (new, {old, new})
    entry = file.read().find(old)
    assert entry is not None
    assert entry.until == NOW + LONGEST


def test_only_a_waiting_key_is_promoted(path: Path) -> None:
    file, old, new = rotated(path)
    gone = file.add(None, NOW).kid
    file.retire(gone, True, NOW)
    before = path.read_bytes()
    for kid in (old, new, gone, "no kid", ""):
        file.promote(kid, NOW + 1)
    assert path.read_bytes() == before


def test_a_verifying_key_goes_when_its_last_token_has_ended_and_no_sooner(path: Path) -> None:
    file, old, new = rotated(path)
    before = path.read_bytes()
    assert file.expire(NOW + LONGEST - 1) is False
    assert path.read_bytes() == before
    assert file.expire(NOW + LONGEST) is True
    assert (states(file), in_force(file)) == ([GONE, SIGNING], {new})
    assert file.expire(NOW + LONGEST) is False
    found = file.read().find(old)
    assert found is not None
    assert found.secret == ""


def test_keys_turn_many_times_and_stay_in_their_order(path: Path) -> None:
    file = prepared(path)
    added = [signing(file)]
    for turn in range(1, 6):
        added.append(file.add(None, NOW + turn).kid)
        file.promote(added[-1], NOW + turn)
    assert [entry.kid for entry in file.read().entries] == added
    assert states(file) == [VERIFYING] * 5 + [SIGNING]
    file.expire(NOW + LONGEST + 3)
    assert states(file) == [GONE] * 3 + [VERIFYING] * 2 + [SIGNING]


# Retiring


def test_a_key_that_signs_is_not_retired_in_its_time(path: Path) -> None:
    file = prepared(path)
    before = path.read_bytes()
    with pytest.raises(Faults, match="signs"):
        file.retire(signing(file), False, NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_no_key_in_force_cannot_be_retired(path: Path, at_once: bool) -> None:
    file, old, _ = rotated(path)
    file.retire(old, True, NOW)
    before = path.read_bytes()
    for kid in (old, "no kid", ""):
        with pytest.raises(Faults, match="no key in force"):
            file.retire(kid, at_once, NOW)
    assert path.read_bytes() == before


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_a_signing_key_that_is_retired_at_once_is_replaced_by_a_new_one(
    path: Path, algorithm: str
) -> None:
    file = prepared(path, algorithm)
    leaked = signing(file)
    file.retire(leaked, True, NOW)
    assert states(file) == [GONE, SIGNING]
    assert in_force(file) == {signing(file)} != {leaked}
    assert file.keyring().signing().algorithm == algorithm


def test_a_verifying_key_that_is_retired_at_once_is_out_of_force(path: Path) -> None:
    file, old, new = rotated(path)
    file.retire(old, True, NOW)
    assert (states(file), signing(file), in_force(file)) == ([GONE, SIGNING], new, {new})


@pytest.mark.parametrize("at_once", [False, True])
def test_a_waiting_key_that_is_retired_never_signs(path: Path, at_once: bool) -> None:
    file = prepared(path)
    added = file.add(None, NOW).kid
    file.retire(added, at_once, NOW)
    file.promote(added, NOW)
    assert states(file) == [SIGNING, GONE]
    file.expire(NOW + LONGEST)
    assert states(file) == [SIGNING, GONE]
    assert file.add(None, NOW).kid != added


def test_a_verifying_key_that_is_retired_goes_no_later_than_it_would_have(path: Path) -> None:
    file, old, _ = rotated(path)
    file.retire(old, False, NOW + 10)
    entry = file.read().find(old)
    assert entry is not None
    assert entry.until <= NOW + LONGEST


def test_the_secret_of_a_key_that_is_gone_is_not_kept(path: Path) -> None:
    file, old, _ = rotated(path)
    file.retire(old, True, NOW)
    assert base64.b64encode(SECRET).decode() not in path.read_text()
    assert SECRET.decode() not in path.read_text()


# History and serial


def test_every_change_raises_the_serial_by_one_in_one_history(path: Path) -> None:
    file = prepared(path)
    history = file.read().history
    changes: list[Callable[[], object]] = [
        lambda: file.add(None, NOW),
        lambda: file.promote(file.read().entries[-1].kid, NOW),
        lambda: file.expire(NOW + LONGEST),
        lambda: file.retire(signing(file), True, NOW),
        lambda: prepared(path, given=OTHER),
    ]
    for number, change in enumerate(changes, file.read().serial + 1):
        change()
        assert (file.read().history, file.read().serial) == (history, number)


def test_a_file_that_was_made_anew_is_of_another_history(path: Path) -> None:
    first = prepared(path).read()
    path.unlink()
    second = prepared(path).read()
    assert first.history != second.history
    assert len(first.history) >= 16


# Files and processes


def test_nobody_but_the_owner_can_read_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        file, old, _ = rotated(path)
        file.retire(old, True, NOW)
    finally:
        os.umask(before)
    files = list(path.parent.iterdir())
    assert path in files
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


def test_nothing_is_left_beside_it_that_holds_a_key(path: Path) -> None:
    rotated(path)
    assert list(path.parent.iterdir()) == [path]


def test_another_process_is_followed_without_a_start(path: Path) -> None:
    file, follower = prepared(path), opened(path)
    assert in_force(follower) == in_force(file)
    for _ in range(20):
        new = file.add(None, NOW).kid
        assert new in in_force(follower)
        file.promote(new, NOW)
        assert signing(follower) == new
        file.retire(new, True, NOW)
        assert in_force(follower) == in_force(file)


def test_a_file_that_has_not_changed_is_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = prepared(path)
    first = file.keyring()
    monkeypatch.setattr(Path, "read_text", None)
    assert file.keyring() is first


def _prepare(path: Path) -> str:
    file = opened(path, "EdDSA")
    file.prepare(NOW)
    return signing(file)


def _add(path: Path) -> str:
    try:
        return opened(path).add(None, NOW).kid
    except Faults:
        return ""


def _turn(path: Path) -> int:
    """As many changes as it could make, among others that make some too."""
    file, changes = opened(path), 0
    for _ in range(10):
        added = _add(path)
        if added:
            file.promote(added, NOW)
            changes += 2
        assert file.keyring().signing()
    return changes


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_several_that_start_at_once_make_one_key(path: Path, kind: type) -> None:
    options = {"mp_context": get_context("spawn")} if kind is ProcessPoolExecutor else {}
    with kind(4, **options) as pool:
        kids = set(pool.map(_prepare, [path] * 8))
    assert len(kids) == 1
    assert len(opened(path, "EdDSA").read().entries) == 1


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_several_that_change_it_at_once_lose_no_change(path: Path, kind: type) -> None:
    before = prepared(path).read().serial
    options = {"mp_context": get_context("spawn")} if kind is ProcessPoolExecutor else {}
    with kind(4, **options) as pool:
        changes = sum(pool.map(_turn, [path] * 4))
    after = opened(path).read()
    assert after.serial == before + changes
    assert len(after.entries) == 1 + changes // 2
    assert [entry.state for entry in after.entries].count(SIGNING) == 1


def test_a_change_that_cannot_be_written_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = prepared(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for change in (lambda: file.add(None, NOW), lambda: file.retire(signing(file), True, NOW)):
            with pytest.raises(StoreUnavailable):
                change()
    assert path.read_bytes() == before
    assert signing(file) == kid_of(SECRET)
    assert file.add(None, NOW).state == WAITING


def test_a_directory_that_is_not_there_is_told_as_a_store_that_is_not(tmp_path: Path) -> None:
    file = opened(tmp_path / "none" / KEY_FILE)
    for act in (lambda: file.prepare(NOW), file.keyring, lambda: file.add(None, NOW)):
        with pytest.raises(StoreUnavailable):
            act()


# A broken file

WHOLE = {"history": "h", "serial": 1}
GOOD = {
    "kid": kid_of(SECRET),
    "algorithm": "HS256",
    "state": SIGNING,
    "added_at": NOW,
    "until": 0,
    "secret": base64.b64encode(SECRET).decode(),
}


def listing(**changes: object) -> bytes:
    return json.dumps(WHOLE | {"entries": [GOOD | changes]}).encode()


#: What cannot be read at all.
BROKEN = {
    "empty": b"",
    "cut": listing()[:-10],
    "no JSON": b"no JSON",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "no entries": json.dumps(WHOLE).encode(),
    "entries that are null": json.dumps(WHOLE | {"entries": None}).encode(),
    "entries that are numbers": json.dumps(WHOLE | {"entries": [1]}).encode(),
    "no history": json.dumps({"serial": 1, "entries": [GOOD]}).encode(),
    "a serial that is a word": json.dumps({"history": "h", "serial": "x", "entries": []}).encode(),
    "an unknown member": listing(other=1),
    "a member missing": json.dumps(WHOLE | {"entries": [{"kid": "k"}]}).encode(),
}


def test_the_broken_files_of_these_tests_are_broken_by_what_they_say(path: Path) -> None:
    path.write_bytes(listing())
    assert in_force(opened(path)) == {kid_of(SECRET)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_unavailable_and_stays_as_it_is(path: Path, name: str) -> None:
    file = prepared(path)
    path.write_bytes(BROKEN[name])
    for act in (
        file.keyring,
        file.read,
        lambda: file.prepare(NOW),
        lambda: prepared(path, given=OTHER),
        lambda: file.add(None, NOW),
        lambda: file.expire(NOW),
        lambda: file.promote("k", NOW),
        lambda: file.retire("k", True, NOW),
    ):
        with pytest.raises(StoreUnavailable) as told:
            act()
        assert SECRET.decode() not in str(told.value)
        assert str(GOOD["secret"]) not in str(told.value)
    assert path.read_bytes() == BROKEN[name]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(listing(secret="*"), id="a secret that is no base64"),
        pytest.param(listing(secret=""), id="a secret that is empty"),
        pytest.param(listing(secret="c2hvcnQ="), id="a secret that is too short"),
        pytest.param(listing(algorithm="EdDSA"), id="a secret of another algorithm"),
        pytest.param(listing(algorithm="none"), id="an algorithm that is none"),
        pytest.param(json.dumps(WHOLE | {"entries": []}).encode(), id="no key at all"),
        pytest.param(listing(state=GONE), id="no key in force"),
        pytest.param(listing(state="other"), id="no known state"),
    ],
)
def test_a_file_without_keys_that_can_be_used_is_unavailable(path: Path, content: bytes) -> None:
    prepared(path)
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable):
        opened(path).keyring()


def test_a_file_that_is_whole_again_is_used_again(path: Path) -> None:
    file = prepared(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(StoreUnavailable):
        file.keyring()
    path.write_bytes(whole)
    assert signing(file) == kid_of(SECRET)


def test_a_file_that_is_gone_is_unavailable_until_the_next_start(path: Path) -> None:
    file = prepared(path)
    path.unlink()
    with pytest.raises(StoreUnavailable):
        file.keyring()
    prepared(path)
    assert signing(file) == kid_of(SECRET)


def test_no_secret_shows_in_the_repr_of_what_was_read(path: Path) -> None:
    file, _, _ = rotated(path)
    known = file.read()
    shown = f"{known!r} {known.entries!r} {file!r} {known.keyring()!r}"
    for entry in known.entries:
        assert entry.secret
        assert entry.secret not in shown
        assert base64.b64decode(entry.secret).decode() not in shown
