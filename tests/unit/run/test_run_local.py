"""What `make run` hands on to local processes. Nothing is started."""

from pathlib import Path

import pytest

from run import local
from run.plan import Plan, read_plan


def plan(**env: str) -> Plan:
    return read_plan({"DATA_DIR": "/data", **env}, Path("/here"))


def settings(**env: str) -> dict[str, str]:
    return local.settings(plan(**env), env, 11435, "/tmp/portero-x")


def test_secrets_are_handed_on_as_files() -> None:
    handed = settings()
    assert handed["SECRET_KEY_FILE"] == "/data/secrets/secret_key"
    assert handed["SYNC_KEY_FILE"] == "/data/secrets/sync_key"
    assert "SECRET_KEY" not in handed


@pytest.mark.parametrize("given", ["SECRET_KEY", "SECRET_KEY_FILE"])
def test_a_secret_of_the_users_is_the_only_one_handed_on(given: str) -> None:
    handed = settings(**{given: "theirs"})
    assert {name: value for name, value in handed.items() if name.startswith("SECRET_KEY")} == {
        given: "theirs"
    }


@pytest.mark.parametrize(
    "setting", ["CREDENTIALS_FILE", "DATABASE_URL", "GATEWAY_URLS", "LLM_UPSTREAM", "COOKIE_SECURE"]
)
def test_a_setting_of_the_users_wins(setting: str) -> None:
    assert settings(**{setting: "theirs"})[setting] == "theirs"


def test_a_setting_given_by_file_is_not_given_by_value_too() -> None:
    assert "DATABASE_URL" not in settings(DATABASE_URL_FILE="/run/secrets/url")


def test_the_parts_are_wired_to_each_other_on_the_chosen_ports() -> None:
    handed = settings(GATEWAY_PORT="1001", INTERNAL_PORT="1002", ISSUER_PORT="1003")
    assert handed["GATEWAY_LISTEN"] == "127.0.0.1:1001"
    assert handed["GATEWAY_URLS"] == "http://127.0.0.1:1002"
    assert handed["ISSUER_URL"] == f"http://{handed['ISSUER_LISTEN']}"
    assert handed["LLM_UPSTREAM"] == f"http://{handed['LLM_LISTEN']}"
    assert handed["DATABASE_URL"] == "sqlite:////data/sessions.db"


def test_no_command_line_carries_a_secret() -> None:
    words = [word for service in local.services(plan()) for word in service.command]
    assert not [word for word in words if "secret" in word.lower() or "=" in word]


def test_the_llm_servers_key_is_for_the_gateway_alone_u4() -> None:
    withheld = {service.name: service.withheld for service in local.services(plan())}
    for name in ("LLM_API_KEY", "LLM_API_KEY_FILE"):
        assert {part for part, names in withheld.items() if name not in names} == {"gateway"}


def test_the_bundled_llm_is_left_out_when_there_is_another() -> None:
    own = plan(LLM_UPSTREAM="http://127.0.0.1:11434")
    assert "llm" in {service.name for service in local.services(plan())}
    assert "llm" not in {service.name for service in local.services(own)}


def test_servers_of_the_policy_take_the_bundled_llms_place(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("servers: []\n")
    own = plan(POLICY_FILE=str(policy))
    assert "llm" not in {service.name for service in local.services(own)}
    assert "LLM_UPSTREAM" not in settings(POLICY_FILE=str(policy))


def test_the_issuer_is_told_of_an_upstream_of_the_users_alone() -> None:
    withheld = {service.name: service.withheld for service in local.services(plan())}
    assert {part for part, names in withheld.items() if "LLM_UPSTREAM" in names} == {
        "issuer",
        "reconciler",
    }
    theirs = local.services(plan(LLM_UPSTREAM="http://a"))
    assert not [one for one in theirs if "LLM_UPSTREAM" in one.withheld]
