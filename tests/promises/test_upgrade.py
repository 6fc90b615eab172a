"""A gateway in the place of another, under load: no request fails, no stream is cut, and what is
revoked ends on the one that goes, too (F10).
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from run.commands import ROOT
from tests.promises.conftest import Figure, size
from tests.support.upgrade import STREAMS, Load

LOGINS = ("login: answered", "login: 503 not_ready")


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root")
def test_f10_an_upgrade_fails_no_request_and_cuts_no_stream(figure: Figure) -> None:
    upgrades = size(1, 5)
    told = measured(str(upgrades))
    counts: Mapping[str, int] = told["counts"]
    assert {what for what in counts if what not in (*Load.WELL, *LOGINS)} == set(), told
    assert counts["stream: whole"] == STREAMS * upgrades
    assert told["cut by a revocation"] == upgrades
    asked = counts["new: answered"] + counts["kept: answered"]
    assert asked > 1000
    figure(
        f"F10 {upgrades} upgrades of the gateway: failed of {asked} requests; streams cut",
        f"0; 0 of {counts['stream: whole']}; {counts.get('kept: opened anew', 0)} idle connections "
        f"closed; a login meanwhile took {told['longest_login']} s at most",
    )


def measured(*words: str) -> dict[str, Any]:
    command = ["unshare", "--net", sys.executable, "-m", "tests.support.upgrade", *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
