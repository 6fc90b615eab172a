"""Settings: read once, all faults at once, no secret in any of them."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from issuer import config
from issuer.errors import Faults
from issuer.policy import Terms
from tests.support.policies import write_policy

Environ = dict[str, str]


def faults(environ: Environ) -> tuple[str, ...]:
    with pytest.raises(Faults) as found:
        config.read(environ)
    return found.value.faults


def test_the_least_settings_have_the_documented_defaults(environ: Environ) -> None:
    del environ["GATEWAY_URLS"]
    del environ["DATABASE_URL"]
    settings = config.read(environ)
    assert settings.algorithm == "HS256"
    assert settings.gateway_urls == ("http://127.0.0.1:8081",)
    assert settings.database_url == "sqlite:///sessions.db"
    assert settings.key_file == Path("signing-keys.json")
    assert settings.audit_days == 90
    assert settings.cookie_secure is True
    assert settings.terms == Terms("", "portero", 86_400)
    assert settings.policy_file == config.POLICY_FILE


def test_every_setting_is_taken(environ: Environ) -> None:
    settings = config.read(
        environ
        | {
            "JWT_ALGORITHM": "HS512",
            "TOKEN_TTL_SECONDS": "30",
            "TOKEN_CACHE_SIZE": "7",
            "AUDIT_DAYS": "30",
            "DATABASE_URL": "sqlite:////var/lib/portero.db",
            "GATEWAY_URLS": " http://one:8081/ , http://two:8081 ,",
            "COOKIE_SECURE": "false",
            "WEB_UI": "upstream",
            "LLM_KIND": "vllm",
            "POLICY_FILE": "/etc/portero/policy.yaml",
        }
    )
    assert settings.algorithm == "HS512"
    assert settings.secret_key == environ["SECRET_KEY"].encode()
    assert settings.sync_key == environ["SYNC_KEY"].encode()
    assert settings.most_active_tokens == 7
    assert settings.audit_days == 30
    assert settings.database_url == "sqlite:////var/lib/portero.db"
    assert settings.key_file == Path("/var/lib/signing-keys.json")
    assert settings.gateway_urls == ("http://one:8081", "http://two:8081")
    assert settings.cookie_secure is False
    assert settings.terms == Terms("vllm", "upstream", 30)
    assert settings.policy_file == Path("/etc/portero/policy.yaml")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"GATEWAY_LISTEN": "127.0.0.1:8090"}, "http://127.0.0.1:8090"),
        ({"GATEWAY_LISTEN": "10.0.0.7:80"}, "http://10.0.0.7"),
        ({"GATEWAY_LISTEN": "0.0.0.0:8080"}, "http://127.0.0.1:8080"),
        ({"GATEWAY_LISTEN": "*:8080"}, "http://127.0.0.1:8080"),
        ({"GATEWAY_LISTEN": "8080"}, "http://127.0.0.1:8080"),
        ({"GATEWAY_LISTEN": "[::]:8080"}, "http://[::1]:8080"),
        ({"GATEWAY_LISTEN": "[fd00::1]:8080"}, "http://[fd00::1]:8080"),
        ({"GATEWAY_LISTEN": "gateway:8080"}, "http://gateway:8080"),
        ({"PUBLIC_URL": "https://Portero.example/"}, "https://portero.example"),
        (
            {"PUBLIC_URL": "https://portero.example", "GATEWAY_LISTEN": "unix:/run/x"},
            "https://portero.example",
        ),
    ],
)
def test_people_find_us_at_the_public_url_else_where_the_gateway_listens_q2(
    environ: Environ, given: Environ, url: str
) -> None:
    settings = config.read(environ | given)
    assert settings.base_url == url
    assert settings.origins.public == (url if "PUBLIC_URL" in given else "")


def test_the_origins_that_are_named_are_known_here_too_q4(environ: Environ) -> None:
    settings = config.read(environ | {"CORS_ORIGINS": "https://chat.example, app://obsidian.md,"})
    assert settings.origins.named == {"https://chat.example", "app://obsidian.md"}


def test_addresses_that_are_none_are_all_told_at_once_q2_o1(environ: Environ) -> None:
    wrong = {"CORS_ORIGINS": "https://a,*,https://u:secret@b", "PUBLIC_URL": "http://u:secret@x"}
    found = faults(environ | wrong | {"WEB_UI": "x", "GATEWAY_LISTEN": "nowhere"})
    assert [fault.partition(":")[0] for fault in found] == [
        *("WEB_UI", "PUBLIC_URL", "CORS_ORIGINS", "CORS_ORIGINS")
    ]
    assert "secret" not in str(found)
    assert faults(environ | {"GATEWAY_LISTEN": "nowhere"}) == (
        "GATEWAY_LISTEN: must be HOST:PORT; else set PUBLIC_URL",
    )


def test_a_secret_may_come_from_a_private_file(environ: Environ, tmp_path: Path) -> None:
    path = tmp_path / "sync_key"
    path.touch(mode=0o600)
    path.write_bytes(b"\xff\x00 any bytes that are no text, forty of them")
    del environ["SYNC_KEY"]
    settings = config.read(environ | {"SYNC_KEY_FILE": str(path)})
    assert settings.sync_key == path.read_bytes()


@pytest.mark.parametrize("name", ["SECRET_KEY", "SYNC_KEY"])
@pytest.mark.parametrize(
    ("content", "mode", "word"),
    [
        (b"0123456789abcdef0123456789abcdef", 0o644, "chmod 600"),
        (b"0123456789abcdef0123456789abcdef", 0o640, "chmod 600"),
        (b"0123456789abcdef0123456789abcdef\n", 0o600, "newline"),
        (b"0123456789abcdef0123456789abcdef\r\n", 0o600, "newline"),
        (b"0123456789abcdef", 0o600, "shorter than 32"),
        (b"", 0o600, "is not set"),
        (None, 0, "cannot read"),
    ],
)
def test_a_faulty_secret_file_stops_the_start(
    environ: Environ, tmp_path: Path, name: str, content: bytes | None, mode: int, word: str
) -> None:
    path = tmp_path / "a_secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    del environ[name]
    found = faults(environ | {f"{name}_FILE": str(path)})
    assert any(fault.startswith(name) and word in fault for fault in found)


@pytest.mark.parametrize("name", ["SECRET_KEY", "SYNC_KEY"])
@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("", "is not set"),
        ("only thirty-one bytes, no more.", "shorter than 32"),
        ("a" * 64, "too easy"),
        ("abab" * 16, "too easy"),
        ("ChangeMe-ChangeMe-0123456789-abcdef", "too easy"),
        ("0123456789abcdef0123456789abcdef\n", "newline"),
    ],
)
def test_k1_a_weak_secret_stops_the_start(
    environ: Environ, name: str, value: str, word: str
) -> None:
    found = faults(environ | {name: value})
    assert any(fault.startswith(name) and word in fault for fault in found)
    assert not any(value and value.strip() in fault for fault in found)


def test_k1_the_two_secrets_must_differ(environ: Environ) -> None:
    (fault,) = faults(environ | {"SYNC_KEY": environ["SECRET_KEY"]})
    assert "must not be the same" in fault


def pem(private: Any) -> str:
    return str(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
    )


ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
P256 = pem(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_algorithm_needs_no_private_key_given(
    environ: Environ, algorithm: str
) -> None:
    settings = config.read(environ | {"JWT_ALGORITHM": algorithm})
    assert settings.algorithm == algorithm


def test_a_private_key_may_be_given_in_pem_with_the_newline_it_ends_in(
    environ: Environ, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.touch(mode=0o600)
    path.write_text(ED25519)
    del environ["SECRET_KEY"]
    settings = config.read(environ | {"JWT_ALGORITHM": "EdDSA", "SECRET_KEY_FILE": str(path)})
    assert settings.secret_key == ED25519.encode()
    assert ED25519.endswith("\n")


@pytest.mark.parametrize(
    ("algorithm", "value", "word"),
    [
        ("HS256", ED25519, "is a private key"),
        ("HS512", P256, "is a private key"),
        ("EdDSA", P256, "is not an Ed25519 key"),
        ("ES256", ED25519, "is not a key on the curve P-256"),
        ("RS256", P256, "is not an RSA key"),
        ("EdDSA", ED25519[:60], "is not a private key in PEM"),
        ("EdDSA", ED25519.replace("PRIVATE", "PUBLIC"), "is not a private key in PEM"),
        ("EdDSA", "short", "shorter than 32"),
    ],
)
def test_k1_a_key_that_is_not_one_of_the_algorithm_stops_the_start(
    environ: Environ, algorithm: str, value: str, word: str
) -> None:
    (fault, *_) = found = faults(environ | {"JWT_ALGORITHM": algorithm, "SECRET_KEY": value})
    assert fault.startswith("SECRET_KEY: ")
    assert any(word in one for one in found)
    assert not any(line in one for one in found for line in value.splitlines()[1:])


def test_no_secret_shows_in_the_repr_of_settings(environ: Environ) -> None:
    shown = repr(config.read(environ))
    assert environ["SECRET_KEY"] not in shown
    assert environ["SYNC_KEY"] not in shown


def test_a_secret_given_twice_stops_the_start(environ: Environ, tmp_path: Path) -> None:
    assert any("not both" in fault for fault in faults(environ | {"SYNC_KEY_FILE": "/x"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("JWT_ALGORITHM", value) for value in ("none", "hs256", "HS1", "HS256,HS384")),
        *(
            (name, value)
            for name in ("TOKEN_TTL_SECONDS", "TOKEN_CACHE_SIZE", "AUDIT_DAYS")
            for value in ("0", "-1", "1.5", "1e3", "many", "0x10", "1_000", "١٢", "99999999999")
        ),
        *(("COOKIE_SECURE", value) for value in ("yes", "0", "True", "FALSE")),
        *(("WEB_UI", value) for value in ("none", "Portero")),
        *(("DATABASE_URL", value) for value in ("sqlite://", "sqlite:///", "sessions.db", "x://y")),
        *(
            ("GATEWAY_URLS", value)
            for value in (
                "127.0.0.1:8081",
                "https://x/y",
                "http://",
                "http://a:b@x",
                "http://x,ftp://y",
            )
        ),
        ("CREDENTIALS_FILE", " "),
    ],
)
def test_a_wrong_value_stops_the_start_and_names_its_setting(
    environ: Environ, name: str, value: str
) -> None:
    found = faults(environ | {name: value})
    assert found
    assert all(fault.startswith(name) for fault in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("GATEWAY_URLS", ",", id="no gateway at all"),
        pytest.param("SYNC_CA_FILE", "/etc/ssl/certs", id="what is trusted beside http://"),
        pytest.param("ISSUER_TLS_CERTIFICATE_KEY", "/x", id="a key without its certificate"),
        pytest.param("GATEWAY_URLS", "http://:8081", id="a gateway without a host"),
        pytest.param("GATEWAY_URLS", "http://x:port", id="a port that is no number"),
        pytest.param("TOKEN_CACHE_SIZE", "9" * 5000, id="more digits than int() reads"),
        pytest.param("SECRET_KEY", "\udcff" * 40, id="bytes that are no UTF-8"),
    ],
)
def test_a_wrong_value_of_these_stops_the_start_as_well(
    environ: Environ, name: str, value: str
) -> None:
    settings = environ | {"SECRET_KEY": "0123456789-abcdefghijklmnopqrstuvwxyz-ABCDE", name: value}
    assert any(fault.startswith((name, "SECRET_KEY")) for fault in faults(settings))


@pytest.mark.parametrize(
    "rest",
    [
        *("se@cret@db", "se@cret:qwx@db", "se@cret/qwx@db", "se@1:cret@db", "se@cret?qwx=@db"),
        *("@secret@db", "secret@@db", "secret:qwx@db:x", "secret"),
    ],
)
def test_a_database_url_whose_password_is_not_encoded_is_a_fault_that_tells_none_of_it(
    environ: Environ, rest: str
) -> None:
    url = f"postgresql://portero:{rest}/portero"
    found = faults(environ | {"DATABASE_URL": url, "SEAL_KEY": "0123456789abcdefghijklmnopqrstuv"})
    (fault,) = [one for one in found if one.startswith("DATABASE_URL: ")]
    assert not any(part in fault for part in ("se@", "cret", "qwx"))


def test_n20_nothing_set_lists_all_that_is_missing() -> None:
    found = faults({})
    assert [fault.split(":")[0] for fault in found] == [
        "SECRET_KEY",
        "SYNC_KEY",
        "CREDENTIALS_FILE",
    ]


def test_all_faults_are_told_together(environ: Environ) -> None:
    wrong = {
        "SECRET_KEY": "short",
        "JWT_ALGORITHM": "none",
        "TOKEN_TTL_SECONDS": "x",
        "TOKEN_CACHE_SIZE": "x",
        "CREDENTIALS_FILE": "",
        "DATABASE_URL": "x",
        "GATEWAY_URLS": "x",
        "COOKIE_SECURE": "x",
        "WEB_UI": "x",
    }
    assert {fault.split(":")[0] for fault in faults(environ | wrong)} == set(wrong)


def test_the_former_name_of_the_policy_file_is_a_fault_that_says_the_new_one(
    environ: Environ,
) -> None:
    (fault,) = faults(environ | {"ROLES_FILE": "roles.json"})
    assert fault.startswith("ROLES_FILE: is POLICY_FILE now")


def test_the_policy_alone_needs_no_secret_and_tells_every_fault(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "policy.yaml", lambda content: content["roles"]["agi"].update(code="AGIX")
    )
    named = {"POLICY_FILE": str(path)}
    assert config.read_policy(named).roles.of("AGIXa") is not None
    assert config.read_policy({}).roles.of("AGIXa") is None
    write_policy(path, lambda content: content["roles"]["agi"].update(code="agia", ttl_seconds=0))
    with pytest.raises(Faults) as found:
        config.read_policy(named | {"WEB_UI": "x", "LLM_KIND": "y"})
    assert [
        sum(part in fault for fault in found.value.faults)
        for part in ("roles.agi.code", "roles.agi.ttl_seconds", "WEB_UI", "LLM_KIND")
    ] == [1, 1, 1, 1]
    with pytest.raises(Faults, match="TOKEN_TTL_SECONDS"):
        config.read_policy({"TOKEN_TTL_SECONDS": "0"})
