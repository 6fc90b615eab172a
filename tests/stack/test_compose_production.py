"""docker-compose.production.yml beside docker-compose.yml, as compose itself reads both."""

import json
from typing import Any

import pytest

from tests.engine import COMPOSE
from tests.support.containers import Docker

FILES = ("-f", "docker-compose.yml", "-f", "docker-compose.production.yml")
GIVEN = {
    "PUBLIC_URL": "https://portero.example",
    "LLM_UPSTREAM": "http://10.0.0.5:11434",
    "TLS_DIR": "/etc/portero/tls",
}
PARTS = ("gateway", "issuer", "reconciler")
ACME = ("--profile", "acme")


def read(docker: Docker, given: dict[str, str], *options: str) -> tuple[int, str]:
    words = (*COMPOSE, *FILES, *options, "config", "--format", "json")
    done = docker.run(*words, env={**docker.env, **given}, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def services(docker: Docker) -> dict[str, Any]:
    return understood(docker, GIVEN)


@pytest.fixture(scope="module")
def with_acme(docker: Docker) -> dict[str, Any]:
    return understood(docker, {**GIVEN, "ACME_HOST": "portero.example"}, *ACME)


def understood(docker: Docker, given: dict[str, str], *options: str) -> dict[str, Any]:
    status, told = read(docker, given, *options)
    assert status == 0, told
    found: dict[str, Any] = json.loads(told)["services"]
    return found


def test_each_part_starts_again_within_limits_and_keeps_its_logs_bounded(
    with_acme: dict[str, Any],
) -> None:
    for part in (*PARTS, "acme"):
        its = with_acme[part]
        assert its["restart"] == "always"
        assert int(its["mem_limit"]) > 0
        assert int(its["pids_limit"]) > 0
        assert its["logging"]["options"] == {"max-size": "50m", "max-file": "10"}


def test_what_closes_the_parts_stays_in_force(with_acme: dict[str, Any]) -> None:
    for part in (*PARTS, "acme"):
        its = with_acme[part]
        assert (its["read_only"], its["cap_drop"]) == (True, ["ALL"])
        assert its["security_opt"] == ["no-new-privileges:true"]


def test_the_door_speaks_tls_and_both_sides_know(services: dict[str, Any]) -> None:
    gateway = services["gateway"]
    published = {(one["published"], one["target"]) for one in gateway["ports"]}
    assert {("443", 8080), ("80", 8000)} <= published
    assert gateway["environment"]["TLS_CERTIFICATE_KEY"] == "/tls/key.pem"
    assert {"/tls", "/sync", "/acme"} == {one["target"] for one in gateway["volumes"]}
    for part in PARTS:
        told = services[part]["environment"]
        assert told["TLS_CERTIFICATE"] == "/tls/cert.pem"
        assert told["PUBLIC_URL"] == GIVEN["PUBLIC_URL"]
    assert services["issuer"]["environment"]["COOKIE_SECURE"] == "true"
    assert "llm" not in services


def test_what_renews_is_there_where_it_is_asked_for_and_has_nothing_of_the_others(
    services: dict[str, Any], with_acme: dict[str, Any]
) -> None:
    assert "acme" not in services
    acme, gateway = with_acme["acme"], with_acme["gateway"]
    assert set(acme["networks"]) == {"acme"}
    assert not any("acme" in with_acme[part]["networks"] for part in PARTS)
    assert acme["environment"]["ACME_HOST"] == "portero.example"
    writable = {one["target"] for one in acme["volumes"] if not one.get("read_only")}
    assert writable == {"/tls", "/acme", "/certbot"}
    assert all(one["read_only"] for one in gateway["volumes"])
    assert gateway["environment"]["ACME_WEBROOT"] == acme["environment"]["ACME_WEBROOT"]


def test_no_login_is_printed_into_a_log(services: dict[str, Any]) -> None:
    assert "--print-logins" not in services["init"]["command"]


@pytest.mark.parametrize("name", ["PUBLIC_URL", "TLS_DIR"])
def test_what_must_be_said_is_asked_for(docker: Docker, name: str) -> None:
    status, told = read(docker, {**GIVEN, name: ""})
    assert status != 0
    assert name in told
