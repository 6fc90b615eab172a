"""nginx's files are nginx's as they stand, and `gateway.sh` makes one more beside them."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "openresty" / "conf"
FILES = sorted(CONF.glob("*.conf"))
PUBLIC = (CONF / "public.conf").read_text()
#: What each needs beside the least of settings.
DEPLOYMENTS = {
    "one address": {},
    "addresses": {"LLM_UPSTREAM": "http://10.0.0.5:8000,http://10.0.0.6 http://10.0.0.7:80"},
    "a name": {"LLM_UPSTREAM": "http://localhost:8000"},
    "an IPv6 address": {"LLM_UPSTREAM": "http://[::1]:8000"},
    "TLS": {"LLM_UPSTREAM": "https://localhost:8443"},
    "TLS by address": {"LLM_UPSTREAM": "https://127.0.0.1"},
    "a key": {"LLM_API_KEY": 'sk-"$host\\'},
    "pages elsewhere": {"CORS_ORIGINS": "https://chat.example, app://obsidian.md"},
    "a most of connections": {"CONNECTIONS_PER_ADDRESS": "100"},
    "fronts": {"TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"},
    "workers": {"GATEWAY_WORKERS": "3", "ACTIVE_TOKEN_MEMORY": "8m"},
}


def test_the_access_log_is_one_file_that_can_be_opened_anew() -> None:
    told = [
        (path.name, name)
        for path in FILES
        for name in re.findall(r"(?m)^\s*access_log\s+([^\s;]+)", path.read_text())
    ]
    assert len(told) > 5
    assert [one for one in told if one[1] not in ("access.log", "off")] == []


def checked(folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """`gateway.sh check` with these settings beside good ones."""
    good = {
        "PATH": os.environ["PATH"],
        "GATEWAY_RUNTIME_DIR": str(folder),
        "LLM_UPSTREAM": "http://127.0.0.1:1",
        "ISSUER_URL": "http://127.0.0.1:2",
        "SYNC_KEY": "x" * 40,
    }
    return subprocess.run(
        ["sh", str(ROOT / "openresty" / "gateway.sh"), "check"],
        env=good | settings,
        capture_output=True,
        text=True,
        timeout=20,
    )


def made(folder: Path, **settings: str) -> str:
    """The file that is made of these settings."""
    done = checked(folder, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "check" / "settings.conf").read_text()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_nginx_takes_its_files_as_they_stand_with_the_one_that_is_made(
    tmp_path: Path, name: str
) -> None:
    text = made(tmp_path, **DEPLOYMENTS[name])
    of_pools = text.count("\nupstream server_")
    assert (of_pools, len(text.splitlines()) - of_pools <= 55) == (65, True)
    read = sorted((tmp_path / "check").glob("*.conf"))
    assert [path.name for path in read] == sorted([*(one.name for one in FILES), "settings.conf"])
    assert {path.resolve() for path in read if path.name != "settings.conf"} == set(FILES)


def test_n19_nothing_is_rewritten_and_no_capture_is_without_a_name() -> None:
    made = ROOT / "openresty" / "lua" / "portero" / "settings_conf.lua"
    for path in [*FILES, made]:
        lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if re.search(r"\brewrite\b|\$\d", line)], path


def test_whatever_the_public_listener_answers_is_counted_once_when_it_ends() -> None:
    door = [path for path in FILES if path.name not in ("redirect.conf", "inner.conf")]
    counting = 0
    for path in door:
        for block in re.findall(r"(?s)log_by_lua_block \{(.*?)\n? *\}\n", path.read_text()):
            assert block.count('require("portero.request_counts").count()') == 1, path
            counting += 1
    assert counting >= 10
    of_the_server = PUBLIC.partition("\nlocation")[0]
    assert 'log_by_lua_block { require("portero.request_counts").count() }' in of_the_server


def test_no_file_waits_for_something_to_be_filled_in() -> None:
    assert len(FILES) > 5
    for path in FILES:
        assert re.findall(r"@\w+@|#\s*(?:cors|proxies|key)$", path.read_text(), re.M) == [], path
    assert "conf/*.conf" in (script := (ROOT / "openresty" / "gateway.sh").read_text())
    assert "sed -i" not in script


def test_the_file_that_is_made_is_its_owners_alone_and_old_ones_are_replaced(
    tmp_path: Path,
) -> None:
    made(tmp_path, LLM_API_KEY="first")
    path = tmp_path / "check" / "settings.conf"
    path.chmod(0o644)
    (tmp_path / "check" / "settings.new").symlink_to(tmp_path / "elsewhere")
    assert "second" in made(tmp_path, LLM_API_KEY="second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_deployment_does_not_use_is_in_no_request(tmp_path: Path) -> None:
    used = {
        "set_real_ip_from 10.0.0.0/8;": "fronts",
        "X-Forwarded-Proto $client_scheme;": "fronts",
        "add_header Access-Control-Allow-Origin $cors_origin always;": "pages elsewhere",
        "add_header Vary Origin always;": "pages elsewhere",
        "proxy_set_header Authorization $llm_authorization;": "a key",
        "proxy_ssl_verify on;": "TLS",
        '.pick("llm")': "a name",
    }
    plain = made(tmp_path / "plain")
    for words, name in used.items():
        assert words not in plain
        assert words in made(tmp_path / name, **DEPLOYMENTS[name])


@pytest.mark.parametrize(("name", "scheme"), [("one address", "http"), ("TLS", "https")])
def test_the_plain_path_has_a_target_and_a_host_without_variables(
    tmp_path: Path, name: str, scheme: str
) -> None:
    text = made(tmp_path, **DEPLOYMENTS[name])
    assert f"location / {{\n        proxy_pass {scheme}://llm;" in text
    assert re.search(r"proxy_set_header Host [\w.:]+;", text)


def test_what_is_meant_for_llm_servers_is_not_inherited_where_the_issuer_is_asked() -> None:
    blocks = re.findall(r"(?s)\nlocation [^{]*\{(.*?)(?:\n| )\}", PUBLIC)
    asking = [block for block in blocks if "$issuer_scheme://issuer" in block]
    assert "http://issuer" not in PUBLIC
    assert len(asking) > 8
    assert all(re.search(r"include (?:issuer|door|login)\.conf;", block) for block in asking)
    assert "include issuer.conf;" in (CONF / "door.conf").read_text()
    assert "include upstream_headers.conf;" in (CONF / "issuer.conf").read_text()
    assert "proxy_set_header" in (CONF / "upstream_headers.conf").read_text()


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [("", 4000), ("1", 800), ("5", 4000), ("08", 6400), ("86400", 69_120_000)],
)
def test_a_connection_is_kept_for_four_fifths_of_what_the_llm_server_waits_u1(
    tmp_path: Path, seconds: str, milliseconds: int
) -> None:
    text = made(tmp_path, LLM_IDLE_SECONDS=seconds)
    assert re.search(rf"(?s)upstream llm \{{[^}}]*keepalive_timeout {milliseconds}ms;", text)


@pytest.mark.parametrize("value", ["0", "86401", "-1", "1.5", "1m", "x", " 5", "9" * 30])
def test_an_idle_time_that_is_none_stops_the_start(tmp_path: Path, value: str) -> None:
    done = checked(tmp_path, LLM_IDLE_SECONDS=value)
    assert done.returncode == 1
    assert "LLM_IDLE_SECONDS: must be a whole number from 1 to 86400" in done.stderr
