"""`servers`: what each gateway knows of the LLM servers that the policy names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from issuer import __main__ as issuer_main
from issuer import config, create_app
from issuer.audit import operator
from issuer.store.sessions import open_sessions
from issuer.sync.gateways import Gateways
from issuer.sync.policy_in_force import PolicyInForce
from tests.conftest import USERS, password
from tests.policies import BASE
from tests.support.fake_gateway import SYNC_KEY, FakeGateway, is_authentic
from tests.support.listening import Message, Reply, listening

POLICY = f"""{BASE}servers:
  - {{name: rack, url: "https://rack.lan:8000/llm", kind: vllm}}
  - {{name: attic, url: "http://10.0.0.5:11434", kind: ollama}}
"""
RACK = {"name": "rack", "state": "up", "models": ["a", "b", "c", "d"], "ejections": 0}
ATTIC = {
    "name": "attic",
    "state": "down",
    "models": [],
    "last_error": "its list of models: connection refused",
}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("SECRET_KEY_FILE", "SYNC_KEY_FILE", "LLM_UPSTREAM", "LLM_KIND"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "policy.yaml").write_text(POLICY)
    told = {**environ, "POLICY_FILE": str(tmp_path / "policy.yaml")}
    for name, value in told.items():
        monkeypatch.setenv(name, value)


def telling(*rows: dict[str, Any]) -> Callable[[Message], Reply]:
    """A gateway that knows these servers."""

    def answer(message: Message) -> Reply:
        assert (message.method, message.path) == ("GET", "/sync/servers")
        assert is_authentic(message, SYNC_KEY, int(message.headers["x-portero-time"]) / 1e9)
        return Reply(200, json.dumps({"ready": True, "servers": list(rows)}).encode())

    return answer


def run(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Message], Reply], *words: str
) -> tuple[int, str]:
    with listening(answer) as gateway:
        monkeypatch.setenv("GATEWAY_URLS", gateway.url)
        return issuer_main.main(["servers", *words]), gateway.url


def test_a_line_a_server_says_what_it_is_and_how_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = run(monkeypatch, telling(RACK, ATTIC))
    assert status == 1
    assert capsys.readouterr().out.splitlines() == [
        "rack  vllm  https://rack.lan:8000/llm  up  4 models: a, b, c, …",
        "attic  ollama  http://10.0.0.5:11434  down  0 models  "
        "its list of models: connection refused",
    ]


def test_json_has_what_each_gateway_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, url = run(monkeypatch, telling(RACK, {**ATTIC, "state": "up"}), "--json")
    assert status == 0
    rack, attic = json.loads(capsys.readouterr().out)["servers"]
    assert rack == {**RACK, "kind": "vllm", "url": "https://rack.lan:8000/llm", "gateway": url}
    assert attic["state"] == "up"


def begin() -> None:
    """An issuer has taken the policy."""
    settings = config.read()
    gateways = Gateways(settings.gateway_urls, settings.sync_key)
    store = open_sessions(settings.database_url)
    PolicyInForce(settings.policy_file, settings.terms, store, gateways)


def test_no_server_is_taken_out_before_there_is_a_policy_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    monkeypatch.setenv("GATEWAY_URLS", f"http://127.0.0.1:{free_port}")
    assert issuer_main.main(["servers", "take-out", "rack"]) == 1
    assert "start the issuer first" in capsys.readouterr().err


def test_a_server_is_taken_out_and_put_back_and_shown_with_since_when_and_by_whom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[Any] = []

    def answer(message: Message) -> Reply:
        if message.path == "/sync/policy":
            rows = json.loads(message.body)["policy"]["servers"]
            pushed.append([row["name"] for row in rows if row.get("taken_out")])
            return Reply(200, b"{}")
        return telling({**RACK, "taken_out": True}, {**ATTIC, "state": "up"})(message)

    monkeypatch.setenv("GATEWAY_URLS", "http://127.0.0.1:9")
    begin()
    assert run(monkeypatch, answer, "take-out", "rack")[0] == 0
    assert pushed[-1] == ["rack"]
    capsys.readouterr()
    assert run(monkeypatch, answer)[0] == 0
    rack, attic = capsys.readouterr().out.splitlines()
    name = operator().name
    assert re.search(rf"  up  4 models: .*  taken out by {name} at \d{{4}}-.*Z$", rack)
    assert "taken out" not in attic
    run(monkeypatch, answer, "--json")
    told = json.loads(capsys.readouterr().out)["servers"]
    assert (told[0]["taken_out"]["by"], "taken_out" in told[1]) == (name, False)
    assert run(monkeypatch, answer, "put-back", "rack")[0] == 0
    assert pushed[-1] == []
    assert run(monkeypatch, answer, "put-back", "rack")[0] == 1
    assert "is not taken out" in capsys.readouterr().err


def test_a_gateway_that_has_yet_to_hear_of_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("GATEWAY_URLS", url)
    begin()
    assert issuer_main.main(["servers", "take-out", "rack"]) == 2
    assert url in capsys.readouterr().err


def test_a_server_that_the_gateway_does_not_know_yet_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, telling(RACK))[0] == 1
    assert "attic  ollama  http://10.0.0.5:11434  unknown" in capsys.readouterr().out


def test_it_waits_until_each_server_was_asked_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Message] = []

    def answer(message: Message) -> Reply:
        asked.append(message)
        known = {**ATTIC, "state": "up" if len(asked) > 2 else "unknown"}
        return telling(RACK, known)(message)

    assert run(monkeypatch, answer, "--wait", "20")[0] == 0
    assert len(asked) == 3


def test_a_gateway_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    monkeypatch.setenv("GATEWAY_URLS", f"http://127.0.0.1:{free_port}")
    assert issuer_main.main(["servers"]) == 2
    assert capsys.readouterr().out.count("no answer") == 2


def test_several_gateways_have_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(telling(RACK, ATTIC)) as one, listening(telling(RACK, ATTIC)) as other:
        monkeypatch.setenv("GATEWAY_URLS", f"{one.url},{other.url}")
        issuer_main.main(["servers"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [url, name] for name in ("rack", "attic") for url in (one.url, other.url)
    ]


def test_the_admin_api_and_the_console_tell_what_the_command_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    servers = POLICY.removeprefix(BASE)
    (tmp_path / "policy.yaml").write_text(config.POLICY_FILE.read_text() + servers)
    model, told = FakeGateway(), telling({**RACK, "taken_out": True}, ATTIC)

    def answer(message: Message) -> Reply:
        return told(message) if message.path == "/sync/servers" else model.answer(message)

    with listening(answer) as gateway:
        monkeypatch.setenv("GATEWAY_URLS", gateway.url)
        client = create_app().test_client(use_cookies=False)
        form = {"grant_type": "client_credentials", "client_id": (admin := USERS["admin"])}
        given = client.post("/oauth/token", data=form | {"client_secret": password(admin)}).json
        assert given
        headers = {"Authorization": f"Bearer {given['access_token']}"}
        assert issuer_main.main(["servers", "take-out", "attic"]) == 0
        capsys.readouterr()
        issuer_main.main(["servers", "--json"])
        said = client.get("/admin/api/servers", headers=headers).json
        page = client.get("/admin/servers", headers=headers).text
    assert said == json.loads(capsys.readouterr().out)
    rack, attic = said["servers"]
    assert (rack["state"], "taken_out" in rack) == ("up", False)
    assert (attic["state"], attic["taken_out"]["by"]) == ("down", operator().name)
    assert page.count(f"taken out by {operator().name}") == 1
    assert str(ATTIC["last_error"]) in page


def test_without_servers_it_says_where_the_llm_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(BASE)
    assert issuer_main.main(["servers"]) == 0
    assert "LLM_UPSTREAM" in capsys.readouterr().err


def test_what_a_server_calls_its_models_is_harmless_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = {**RACK, "models": ["\x1b[2J", "a\nb"]}
    run(monkeypatch, telling(evil, {**ATTIC, "last_error": "x\x1b[2Jy"}))
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
