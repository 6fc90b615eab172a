"""Every setting of the issuer, read once from the environment, all faults listed together.

No other module of the issuer reads the environment. It must never put a secret's value into a
message, and it has no default for a secret.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from issuer import certificate_faults, keys, origins, policy
from issuer.errors import Faults
from issuer.origins import Origins
from issuer.policy import Policy, Terms
from issuer.policy.roles import Roles
from issuer.store import database

POLICY_FILE = policy.SHIPPED
FORMER_POLICY_FILE = "ROLES_FILE"
SQLITE_PREFIX = "sqlite:///"
KEY_FILE = "signing-keys.json"
_GATEWAY_URL = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?\Z", re.ASCII
)
#: Where traces go to, and the form in which they are sent.
_COLLECTOR = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_COLLECTOR_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?\Z")
_OTLP = "http/protobuf"
#: Who listens on all addresses, as one that gives a port alone does, is found on loopback.
_ON_ALL = {**dict.fromkeys(("", "*", "0.0.0.0"), "127.0.0.1"), "[::]": "[::1]"}  # noqa: S104


@dataclass(frozen=True)
class Settings:
    """What `docs/configuration.md` describes, in the form the code uses it."""

    algorithm: str
    secret_key: bytes = field(repr=False)
    sync_key: bytes = field(repr=False)
    policy_file: Path
    terms: Terms
    credentials_file: Path
    database_url: str = field(repr=False)
    gateway_urls: tuple[str, ...]
    #: What gateways by https are trusted by; None for what the machine trusts.
    sync_ca_file: Path | None
    most_active_tokens: int
    audit_days: int
    cookie_secure: bool
    base_url: str
    origins: Origins
    has_usage: bool = True
    #: The name of this service in traces; empty where there is no collector.
    traces_as: str = ""
    last_good_directory: Path | None = None
    remembered_descriptor: int | None = None

    #: The certificate of the issuer's own listener; None where it speaks plain HTTP.
    own_certificate: Path | None = None
    #: Seals what several machines share; empty where the store is a file of one.
    seal_key: bytes = field(default=b"", repr=False)

    @property
    def is_file(self) -> bool:
        """Whether the store is a file of this machine."""
        return _is_file(self.database_url)

    @property
    def database_file(self) -> Path:
        """The file of the store, where it is one."""
        return _file_of(self.database_url)

    @property
    def key_file(self) -> Path:
        """The list of signing keys: beside the file of the store, and never in a backup of it.
        Where there is a `seal_key` it is in the store, sealed.
        """
        return _file_of(self.database_url).with_name(KEY_FILE)

    @property
    def data_folder(self) -> Path:
        """Where the store's file is, or without one what else is written here."""
        url = self.database_url
        return (_file_of(url) if _is_file(url) else self.credentials_file).parent


class _Reader:
    """Reads single values and remembers what was wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def text(self, name: str, default: str = "") -> str:
        return self._environ.get(name, "").strip() or default

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        return Path(value) if value else None

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        raw = self.text(name, str(default))
        is_number = raw.isascii() and raw.isdigit() and len(raw) <= len(str(most))
        if not (is_number and least <= int(raw) <= most):
            self.fault(f"{name}: must be a whole number from {least} to {most}")
            return default
        return int(raw)

    def descriptor(self, name: str) -> int | None:
        """An open file's, which the process was given."""
        value = self.text(name)
        return int(value) if value else None

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.fault(f"{name}: must be one of {', '.join(filter(None, allowed))}")
        return value

    def secret(self, name: str) -> bytes:
        """NAME, or the content of the file NAME_FILE; never both."""
        given, path = self._environ.get(name, ""), self._environ.get(f"{name}_FILE", "")
        if given and path:
            self.fault(f"{name}: set {name} or {name}_FILE, not both")
        value = given.encode("utf-8", "surrogateescape") if given else self._secret_file(name, path)
        if not value:
            self.fault(f"{name}: is not set (nor {name}_FILE); 'python -m issuer init' makes one")
        return value

    def text_or_file(self, name: str, default: str) -> str:
        """NAME, or the content of the file NAME_FILE without the newline at its end."""
        path = self.text(f"{name}_FILE")
        if path and self.text(name):
            self.fault(f"{name}: set {name} or {name}_FILE, not both")
        found = self._secret_file(name, path).decode("utf-8", "surrogateescape").strip()
        return found or self.text(name, default)

    def _secret_file(self, name: str, path: str) -> bytes:
        if not path:
            return b""
        try:
            if stat.S_IMODE(Path(path).stat().st_mode) & 0o077:
                self.fault(f"{name}_FILE: {path} can be read by others; chmod 600 it")
            return Path(path).read_bytes()
        except OSError as error:
            self.fault(f"{name}_FILE: cannot read {path}: {error.strerror}")
            return b""


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """All settings, or `Faults` with every fault there is."""
    reader = _Reader(environ)
    settings: dict[str, Any] = {
        **_keys(reader),
        "policy_file": _policy_file(reader),
        "terms": _terms(reader),
        "credentials_file": _credentials_file(reader),
        **_database(reader),
        **_gateways(reader),
        "has_usage": reader.choice("USAGE", "on", ("on", "off")) == "on",
        "most_active_tokens": reader.whole("TOKEN_CACHE_SIZE", 1_000_000, 1, 10_000_000),
        "traces_as": _traces_as(reader),
        "audit_days": reader.whole("AUDIT_DAYS", 90, 1, 3_650),
        "cookie_secure": _cookie_secure(reader),
        **_addresses(reader),
        "last_good_directory": reader.path("PORTERO_LAST_GOOD_DIR"),
        "remembered_descriptor": reader.descriptor("PORTERO_REMEMBERED_FD"),
    }
    _check_own_tls(reader)
    settings["own_certificate"] = reader.path("ISSUER_TLS_CERTIFICATE")
    if reader.faults:
        raise Faults(reader.faults)
    return Settings(**settings)


def credentials_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file of the users, where one is named; it need not be there."""
    return _Reader(environ).path("CREDENTIALS_FILE")


def read_roles(environ: Mapping[str, str] = os.environ) -> Roles | None:
    """The roles alone, whatever the other settings say; None where the policy has a fault."""
    try:
        return policy.parse(policy.gather(policy_file(environ)), Terms()).roles
    except Faults:
        return None


def data_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the session store is, and what belongs beside it; beside the users' file where the
    store is no file.
    """
    reader = _Reader(environ)
    url = _database_url(reader)
    path = _file_of(url) if _is_file(url) else _credentials_file(reader)
    if reader.faults or path is None:
        raise Faults(reader.faults)
    return path.absolute().parent


def issuer_address(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of the issuer's own listener, as who is on its machine finds it. Raises
    `Faults` for what is no address.
    """
    listen = _Reader(environ).text("ISSUER_LISTEN", "127.0.0.1:9000")
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise Faults(["ISSUER_LISTEN: must be HOST:PORT"])
    return _ON_ALL.get(host, host).strip("[]"), int(port)


def read_sync(
    environ: Mapping[str, str] = os.environ,
) -> tuple[tuple[str, ...], bytes, Path | None] | None:
    """The gateways, the key to them and what they are trusted by, for who can do without; None
    where they are not told.
    """
    reader = _Reader(environ)
    found, key = _gateways(reader), reader.secret("SYNC_KEY")
    return None if reader.faults else (found["gateway_urls"], key, found["sync_ca_file"])


def read_own_tls(environ: Mapping[str, str] = os.environ) -> tuple[Path, Path] | None:
    """The certificate of the issuer's own listener and its key; None where it speaks plain HTTP."""
    reader = _Reader(environ)
    pair = reader.path("ISSUER_TLS_CERTIFICATE"), reader.path("ISSUER_TLS_CERTIFICATE_KEY")
    return (pair[0], pair[1]) if pair[0] and pair[1] else None


def policy_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the policy is written."""
    return _policy_file(_Reader(environ))


def read_policy(environ: Mapping[str, str] = os.environ) -> Policy:
    """The policy of the files, for what needs no other setting. Raises `Faults` with every one."""
    reader = _Reader(environ)
    path, terms = _policy_file(reader), _terms(reader)
    try:
        found = policy.parse(policy.gather(path), terms)
    except Faults as faulty:
        raise Faults([*reader.faults, *faulty.faults]) from None
    if reader.faults:
        raise Faults(reader.faults)
    return found


def _keys(reader: _Reader) -> dict[str, Any]:
    algorithm = reader.choice("JWT_ALGORITHM", "HS256", tuple(keys.ALGORITHMS))
    secret, sync_key = reader.secret("SECRET_KEY"), reader.secret("SYNC_KEY")
    if secret and secret == sync_key:
        reader.fault("SYNC_KEY: must not be the same as SECRET_KEY")
    for name, value in (("SECRET_KEY", secret), ("SYNC_KEY", sync_key)):
        is_pem = name == "SECRET_KEY" and value.startswith(keys.PEM)
        reasons = _pem_faults(algorithm, value) if is_pem else keys.weaknesses(value)
        reader.faults += [f"{name}: {reason}" for reason in reasons if value]
    return {"algorithm": algorithm, "secret_key": secret, "sync_key": sync_key}


def _pem_faults(algorithm: str, text: bytes) -> tuple[str, ...]:
    if algorithm.startswith("HS"):
        return (f"is a private key, and JWT_ALGORITHM is {algorithm}",)
    try:
        keys.read_key(algorithm, text)
    except Faults as found:
        return found.faults
    return ()


def _policy_file(reader: _Reader) -> Path:
    if reader.text(FORMER_POLICY_FILE):
        reader.fault(
            f"{FORMER_POLICY_FILE}: is POLICY_FILE now, and names a YAML file (docs/policy.md)"
        )
    return Path(reader.text("POLICY_FILE", str(POLICY_FILE)))


def _terms(reader: _Reader) -> Terms:
    """What else a policy depends on."""
    return Terms(
        llm_kind=reader.text("LLM_KIND"),
        web_ui=reader.choice("WEB_UI", "portero", ("portero", "upstream")),
        issuer=origins.base_url(reader.text("PUBLIC_URL")) or policy.ISSUER,
        ttl_bound_seconds=reader.whole("TOKEN_TTL_SECONDS", 86_400, 1, 86_400),
        has_upstream=bool(reader.text("LLM_UPSTREAM")),
        has_usage=reader.text("USAGE", "on") != "off",
    )


def _credentials_file(reader: _Reader) -> Path | None:
    path = reader.path("CREDENTIALS_FILE")
    if path is None:
        reader.fault("CREDENTIALS_FILE: is not set; 'python -m issuer init' makes one")
    return path


def _database(reader: _Reader) -> dict[str, Any]:
    """Where the store is, and what seals the keys in one that machines share."""
    url = _database_url(reader)
    if _is_file(url):
        return {"database_url": url}
    seal_key = reader.secret("SEAL_KEY")
    reader.faults += [f"SEAL_KEY: {reason}" for reason in keys.weaknesses(seal_key) if seal_key]
    return {"database_url": url, "seal_key": seal_key}


def _database_url(reader: _Reader) -> str:
    """Which may hold a password, and so may come in a file."""
    url = reader.text_or_file("DATABASE_URL", "sqlite:///sessions.db")
    if fault := database.fault_of_url(url):
        reader.fault(f"DATABASE_URL: {fault}")
        return SQLITE_PREFIX
    return url


def _is_file(url: str) -> bool:
    return url.startswith(SQLITE_PREFIX)


def _file_of(url: str) -> Path:
    return Path(url.removeprefix(SQLITE_PREFIX))


def _speaks_tls(reader: _Reader) -> bool:
    """Whether the gateway's public listener does; what else it takes is for the gateway to say."""
    return bool(reader.text("TLS_CERTIFICATE"))


def _cookie_secure(reader: _Reader) -> bool:
    is_secure = reader.choice("COOKIE_SECURE", "true", ("true", "false")) == "true"
    if not is_secure and _speaks_tls(reader):
        reader.fault("COOKIE_SECURE: is false, and TLS_CERTIFICATE makes all cookies Secure")
    return is_secure


def _addresses(reader: _Reader) -> dict[str, Any]:
    """Where people find us, and the origins whose pages may log in beside our own."""
    given = reader.text("PUBLIC_URL")
    public = origins.base_url(given)
    if given and not public:
        reader.fault("PUBLIC_URL: must be http://HOST:PORT or https://HOST:PORT and no more")
    if public.startswith("http:") and _speaks_tls(reader):
        reader.fault("PUBLIC_URL: is http://, and TLS_CERTIFICATE makes it https://")
    named = origins.entries(reader.text("CORS_ORIGINS"))
    reader.faults += [f"CORS_ORIGINS: {fault}" for fault in origins.faults(named)]
    return {
        "base_url": public or _listened_on(reader),
        "origins": Origins(public, frozenset(named)),
    }


def _listened_on(reader: _Reader) -> str:
    """The gateway's own address, for who is on its machine."""
    listen = reader.text("GATEWAY_LISTEN", "127.0.0.1:8080")
    host, _, port = listen.rpartition(":")
    scheme = "https" if _speaks_tls(reader) else "http"
    url = origins.base_url(f"{scheme}://{_ON_ALL.get(host, host)}:{port}")
    if not url and not reader.text("PUBLIC_URL"):
        reader.fault("GATEWAY_LISTEN: must be HOST:PORT; else set PUBLIC_URL")
    return url


def _traces_as(reader: _Reader) -> str:
    """OpenTelemetry's own variables are for its SDK to read; these must be what it can go by."""
    given = [name for name in _COLLECTOR if reader.text(name)]
    for name in given:
        if not _COLLECTOR_URL.match(reader.text(name)):
            reader.fault(f"{name}: must be http://HOST:PORT of a collector, or https://")
    protocol = "OTEL_EXPORTER_OTLP_PROTOCOL"
    if given and reader.text(protocol, _OTLP) != _OTLP:
        reader.fault(f"{protocol}: must be {_OTLP}, the one that there is")
    return reader.text("OTEL_SERVICE_NAME", "portero-issuer") if given else ""


def _check_own_tls(reader: _Reader) -> None:
    """What is wrong with the certificate of the issuer's own listener; gunicorn shows it."""
    name, key_name = "ISSUER_TLS_CERTIFICATE", "ISSUER_TLS_CERTIFICATE_KEY"
    certificate, key = reader.path(name), reader.path(key_name)
    if certificate is None or key is None:
        given, missing = (name, key_name) if certificate else (key_name, name)
        if certificate or key:
            reader.fault(f"{given}: is of no use without {missing}")
        return
    faults = certificate_faults.of_shown(certificate, key)
    named = zip((name, key_name), faults, strict=True)
    reader.faults += [f"{setting}: {fault}" for setting, fault in named if fault]


def _gateways(reader: _Reader) -> dict[str, Any]:
    """Where they are, and what those that are asked by https are trusted by."""
    urls, ca_file = _gateway_urls(reader), reader.path("SYNC_CA_FILE")
    if ca_file and not any(url.startswith("https:") for url in urls):
        reader.fault("SYNC_CA_FILE: is for https://, and no GATEWAY_URLS is")
    elif ca_file and (fault := certificate_faults.of_trusted(ca_file)):
        reader.fault(f"SYNC_CA_FILE: {fault}")
    return {"gateway_urls": urls, "sync_ca_file": ca_file}


def _gateway_urls(reader: _Reader) -> tuple[str, ...]:
    listed = reader.text("GATEWAY_URLS", "http://127.0.0.1:8081").split(",")
    urls = tuple(url.strip().rstrip("/") for url in listed if url.strip())
    if not urls or not all(_GATEWAY_URL.match(url) for url in urls):
        reader.fault(
            "GATEWAY_URLS: each must be http://HOST:PORT of an internal listener, or https://"
        )
    return urls
