"""`doctor`: what is looked at, what is made of it, and what monitoring is told."""

import json
import shutil
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from issuer import __main__ as issuer_main
from issuer import assemble, certificates, config, diagnosis
from issuer.certificates import Made
from issuer.keys.key_file import KeyFile
from issuer.store import Session
from issuer.sync.gateways import mark_of
from tests.conftest import SECRET_KEY
from tests.support.fake_gateway import SYNC_KEY, is_authentic
from tests.support.listening import Message, Reply, listening

NOW = int(time.time())
MEGABYTE = 2**20


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("SECRET_KEY_FILE", "SYNC_KEY_FILE", "LLM_UPSTREAM", "LLM_KIND"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "policy.yaml").write_text(config.POLICY_FILE.read_text())
    (tmp_path / "credentials.env").chmod(0o600)
    for name, value in {**environ, "POLICY_FILE": str(tmp_path / "policy.yaml")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**39, 2**39))


class Stand:
    """A deployment whose gateway, issuer and files a test spoils in one respect."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.folder = folder
        self.metrics: dict[str, float] = {
            "portero_sync_staleness_seconds": 0.4,
            "portero_active_tokens_free_bytes": 190 * MEGABYTE,
            "portero_active_tokens_capacity_bytes": 192 * MEGABYTE,
            "portero_api_keys_free_bytes": 64 * MEGABYTE,
            "portero_api_keys_capacity_bytes": 64 * MEGABYTE,
        }
        self.clock_ahead = 0.0
        self.status: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.pool: list[dict[str, Any]] = [{"address": "10.0.0.1:80"}]
        self.issuer_status = 200

    def begin(self) -> None:
        """As the issuer and the reconciler leave it: a store, a signing key, a policy."""
        parts = assemble(config.read(), takes_policy=True)
        parts.keys.prepare(NOW)
        self.status = {
            "ready": True,
            "keys": mark_of(parts.keys.read()),
            "policy": mark_of(parts.policy.pushed()),
            **self.status,
        }

    def _gateway(self, message: Message) -> Reply:
        if message.path == "/metrics":
            told = {**self.metrics, "portero_time_seconds": time.time() + self.clock_ahead}
            lines = (f"# TYPE {name} gauge\n{name} {value}\n" for name, value in told.items())
            return Reply(200, "".join(lines).encode())
        at = int(message.headers["x-portero-time"]) / 1e9
        if not is_authentic(message, SYNC_KEY, at):
            return Reply(401)
        more = {"/sync/servers": {"servers": self.rows}, "/sync/pool": {"pool": self.pool}}
        return Reply(200, json.dumps({**self.status, **more.get(message.path, {})}).encode())

    def _issuer(self, message: Message) -> Reply:
        assert message.path == "/readyz"
        return Reply(self.issuer_status)

    def run(self, *words: str, tls: Made | None = None) -> int:
        """The command; its exit status."""
        context = serving(tls) if tls else None
        with (
            listening(self._gateway, tls=context) as gateway,
            listening(self._issuer, tls=context) as issuer,
        ):
            self._monkeypatch.setenv("GATEWAY_URLS", gateway.url)
            self._monkeypatch.setenv("ISSUER_LISTEN", issuer.url.rpartition("//")[2])
            return issuer_main.main(["doctor", *words])


def serving(made: Made) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stand:
    made = Stand(monkeypatch, tmp_path)
    made.begin()
    return made


def unwell(out: str) -> list[dict[str, str]]:
    """What is not well, of the JSON form."""
    return [one for one in json.loads(out)["findings"] if one["state"] != "ok"]


def test_a_deployment_that_is_well_has_a_line_for_each_thing_and_status_0(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stand.run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("  ")[0].strip() for line in lines} == {"ok"}
    looked = {line[9:].split("  ")[0] for line in lines}
    assert looked == {
        *("settings", "policy", "users", "file modes", "disk", "issuer", "store", "signing key"),
        *("clock", "gateway", "certificate", "dictionary", "LLM server"),
    }


def test_parts_that_speak_tls_to_each_other_are_asked_by_it_and_a_bad_authority_is_told(
    stand: Stand,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made = certificates.make(tmp_path / "tls", ("localhost",))
    monkeypatch.setenv("ISSUER_TLS_CERTIFICATE", str(made.certificate))
    monkeypatch.setenv("ISSUER_TLS_CERTIFICATE_KEY", str(made.key))
    monkeypatch.setenv("SYNC_CA_FILE", str(made.authority))
    assert stand.run(tls=made) == 0
    assert "ready at https://localhost:" in capsys.readouterr().out
    other = certificates.make(tmp_path / "other", ("localhost",))
    monkeypatch.setenv("SYNC_CA_FILE", str(other.authority))
    assert stand.run("--json", tls=made) == 2
    (finding,) = unwell(capsys.readouterr().out)
    assert "its certificate is not trusted" in json.dumps(finding)


def spoil(**values: Any) -> Callable[[Stand], None]:
    def change(stand: Stand) -> None:
        for name, value in values.items():
            mine = getattr(stand, name)
            setattr(stand, name, {**mine, **value} if isinstance(value, Mapping) else value)

    return change


def write(path: Path, text: str) -> None:
    path.write_text(text)


ROW = {"name": "rack", "models": [], "last_error": "it answered 401"}
#: What is spoiled -> name, state, and words of the one finding.
CASES: dict[str, tuple[Callable[[Stand], None], str, str, str]] = {
    "the clocks differ": (spoil(clock_ahead=-9), "clock", "warning", "9 s behind"),
    "the clocks differ by too much": (spoil(clock_ahead=90), "clock", "fault", "90 s ahead of"),
    "a gateway that was told nothing": (
        spoil(status={"ready": False}),
        "gateway",
        "fault",
        "is not ready",
    ),
    "no reconciler": (
        spoil(metrics={"portero_sync_staleness_seconds": 61}),
        "gateway",
        "fault",
        "has heard nothing for 61 s",
    ),
    "another policy": (spoil(status={"policy": "x:1"}), "gateway", "fault", "another policy"),
    "other keys": (spoil(status={"keys": "x:1"}), "gateway", "fault", "other signing keys"),
    "a certificate that ends soon": (
        spoil(metrics={"portero_tls_certificate_seconds_left": 13 * 86400}),
        "certificate",
        "warning",
        "ends in 13 days",
    ),
    "a certificate that has ended": (
        spoil(metrics={"portero_tls_certificate_seconds_left": -1}),
        "certificate",
        "fault",
        "has ended",
    ),
    "an internal listener's certificate that ends soon": (
        spoil(metrics={"portero_internal_tls_certificate_seconds_left": 13 * 86400}),
        "certificate",
        "warning",
        "the internal listener's ends in 13 days",
    ),
    "little room for tokens": (
        spoil(metrics={"portero_active_tokens_free_bytes": 20 * MEGABYTE}),
        "dictionary",
        "warning",
        "10% of ACTIVE_TOKEN_MEMORY",
    ),
    "no room for API keys": (
        spoil(metrics={"portero_api_keys_free_bytes": 0}),
        "dictionary",
        "fault",
        "0% of API_KEY_MEMORY",
    ),
    "a dictionary that is too small for what may be active": (
        spoil(
            metrics={
                "portero_active_tokens_free_bytes": 8 * MEGABYTE,
                "portero_active_tokens_capacity_bytes": 8 * MEGABYTE,
            }
        ),
        "dictionary",
        "warning",
        "would not fit",
    ),
    "an LLM server that wants another key": (
        spoil(rows=[{**ROW, "state": "misconfigured"}]),
        "LLM server",
        "fault",
        "rack is misconfigured: it answered 401",
    ),
    "one of two LLM servers is down": (
        spoil(rows=[{**ROW, "state": "down"}, {"name": "b", "state": "up", "models": ["m"]}]),
        "LLM server",
        "warning",
        "rack is down",
    ),
    "an LLM server is taken out": (
        spoil(rows=[{**ROW, "taken_out": True}]),
        "LLM server",
        "fault",
        "rack is taken out",
    ),
    "an LLM server that was not asked yet": (
        spoil(rows=[{**ROW, "state": "unknown"}]),
        "LLM server",
        "warning",
        "rack is unknown",
    ),
    "LLM_UPSTREAM cannot be reached": (
        spoil(pool=[{"address": "10.0.0.1:80", "error": "connection refused"}]),
        "LLM server",
        "fault",
        "10.0.0.1:80 connection refused",
    ),
    "the issuer is not ready": (spoil(issuer_status=503), "issuer", "fault", "answers 503"),
    "a file of users that others read": (
        lambda stand: (stand.folder / "credentials.env").chmod(0o644),
        "file modes",
        "fault",
        "credentials.env can be read by others",
    ),
    "a key file that others read": (
        lambda stand: (stand.folder / "signing-keys.json").chmod(0o640),
        "file modes",
        "fault",
        "signing-keys.json can be read by others",
    ),
    "a policy that everyone may write": (
        lambda stand: (stand.folder / "policy.yaml").chmod(0o666),
        "file modes",
        "fault",
        "policy.yaml can be written by everyone",
    ),
    "a policy with a fault": (
        lambda stand: write(stand.folder / "policy.yaml", "roles: 1\n"),
        "policy",
        "fault",
        "roles",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_well_is_one_finding_that_says_what_to_do(
    stand: Stand, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, what, state, words = CASES[case]
    change(stand)
    status = stand.run("--json")
    (finding,) = unwell(capsys.readouterr().out)
    assert (finding["what"], finding["state"]) == (what, state)
    assert words in finding["told"]
    assert finding["do"]
    assert status == {"warning": 1, "fault": 2}[state]


def test_a_gateway_that_does_not_answer_is_named(
    stand: Stand, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: Any
) -> None:
    del stand
    monkeypatch.setenv("GATEWAY_URLS", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("ISSUER_LISTEN", f"127.0.0.1:{free_port}")
    assert issuer_main.main(["doctor", "--json"]) == 2
    told = {one["what"]: one["told"] for one in unwell(capsys.readouterr().out)}
    assert told == {
        "gateway": f"http://127.0.0.1:{free_port} does not answer",
        "issuer": f"http://127.0.0.1:{free_port} does not answer",
    }


def test_another_sync_key_is_told_from_a_gateway_that_is_down(
    stand: Stand, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_KEY", "another-" + SYNC_KEY)
    stand.run("--json")
    told = [one["told"] for one in unwell(capsys.readouterr().out) if one["what"] == "gateway"]
    assert len(told) == 1
    assert told[0].endswith("refuses our messages")


def test_wrong_settings_are_all_told_and_end_the_look(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "too-short")
    monkeypatch.setenv("AUDIT_DAYS", "never")
    assert issuer_main.main(["doctor", "--json"]) == 2
    found = unwell(capsys.readouterr().out)
    assert {one["what"] for one in found} == {"settings"}
    assert {one["told"].partition(":")[0] for one in found} == {"SECRET_KEY", "AUDIT_DAYS"}


def test_a_store_that_is_not_there_is_not_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert issuer_main.main(["doctor", "--json"]) == 2
    assert [one["what"] for one in unwell(capsys.readouterr().out)] == ["store"]
    assert not (tmp_path / "sessions.db").exists()


def test_a_damaged_store_is_a_fault(
    stand: Stand, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Another file: what this process has open of the former one is in its memory.
    for path in tmp_path.glob("sessions.db*"):
        path.unlink()
    (tmp_path / "sessions.db").write_bytes(b"no database at all" * 1000)
    (tmp_path / "sessions.db").chmod(0o600)
    assert stand.run("--json") == 2
    assert "store" in {one["what"] for one in unwell(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("free", "state"), [(2**30 - 1, "warning"), (100 * MEGABYTE - 1, "fault"), (2**30, "ok")]
)
def test_a_disk_that_fills_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - free, free))
    (finding,) = diagnosis.disk(tmp_path)
    assert finding.state == state


def test_a_signing_key_of_more_than_a_year_is_to_be_changed(
    stand: Stand, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / config.KEY_FILE, "HS256", SECRET_KEY.encode(), lambda: 3600)
    added = keys.add(None, NOW - 400 * 86400)
    keys.promote(added.kid, NOW)
    stand.status["keys"] = mark_of(keys.read())
    assert stand.run("--json") == 1
    (finding,) = unwell(capsys.readouterr().out)
    assert (finding["what"], finding["do"]) == ("signing key", "portero-admin signing-keys add")


def test_a_key_that_no_gateway_acknowledges_is_told(
    stand: Stand, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / config.KEY_FILE, "HS256", SECRET_KEY.encode(), lambda: 3600)
    keys.add(None, NOW - 3600)
    stand.status["keys"] = mark_of(keys.read())
    assert stand.run("--json") == 1
    (finding,) = unwell(capsys.readouterr().out)
    assert "has waited for" in finding["told"]


def test_a_store_that_is_nearly_full_of_tokens_is_told(
    stand: Stand, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_CACHE_SIZE", "10")
    store = assemble(config.read()).active.store
    for number in range(9):
        store.add(
            Session(f"{number:022}", "AGNRtest1", "agent_reasoning", NOW, NOW + 600, "x"), 10, NOW
        )
    assert stand.run("--json") == 1
    (finding,) = unwell(capsys.readouterr().out)
    assert (finding["what"], finding["state"]) == ("store", "warning")
    assert "9 of at most 10" in finding["told"]


def test_no_secret_is_told_and_nothing_of_others_moves_a_terminal(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    stand.rows = [{**ROW, "state": "down", "last_error": "x\x1b[2Jy"}]
    stand.run()
    stand.run("--json")
    said = capsys.readouterr()
    for secret in (SECRET_KEY, SYNC_KEY, "$2b$"):
        assert secret not in said.out + said.err
    assert all(line.isprintable() for line in said.out.splitlines())
