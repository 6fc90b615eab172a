"""`doctor` of a running deployment, in either runtime: nothing there is unwell."""

import json

from tests.support.deployment import Deployment


def test_a_running_deployment_is_well_and_every_part_of_it_was_asked(
    deployment: Deployment,
) -> None:
    done = deployment.command("doctor", "--json", check=False)
    told = json.loads(done.stdout)
    # What the test's own machine has of a disk is not the deployment's matter.
    found = [one for one in told["findings"] if one["what"] != "disk"]
    assert [one for one in found if one["state"] != "ok"] == []
    assert {one["what"] for one in found} == {
        *("settings", "policy", "users", "file modes", "issuer", "store", "signing key"),
        *("clock", "gateway", "certificate", "dictionary", "LLM server"),
    }
    assert done.returncode == ["ok", "warning", "fault"].index(told["state"])
    for secret in (deployment.secret_key, deployment.sync_key):
        assert secret not in done.stdout + done.stderr
