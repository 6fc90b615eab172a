"""The console where the policy names LLM servers: which one is down since when, and no requests for
one that is to be mended.
"""

import json
import re
from collections.abc import Callable, Iterator

import jwt
import pytest
from playwright.sync_api import Page, expect

from issuer.audit import operator
from tests.browser.conftest import picture_of
from tests.browser.test_chat import CHAT
from tests.browser.test_console import SCRIPTS, sure
from tests.browser.test_pages import serious
from tests.stack.test_servers import AGENT, House, house
from tests.support.deployment import Local
from tests.support.waiting import wait_for

ADMIN = "ADMNTEST01"
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("policy")) as one:
        yield one


@pytest.fixture
def portero(servers: House) -> Local:
    """The deployment whose pages are opened here."""
    servers.forget()
    return servers.running


def row_of(page: Page, name: str) -> str:
    return page.get_by_role("row").filter(has_text=name).inner_text()


def press(page: Page, name: str, button: str) -> None:
    page.get_by_role("row").filter(has_text=name).get_by_role("button", name=button).click()
    sure(page, button)


@SCRIPTS
def test_a_server_is_taken_out_and_put_back_and_its_requests_go_elsewhere(
    open_page: OpenPage, servers: House, scripts: bool
) -> None:
    token = servers.caller.token(AGENT)
    page = open_page("/admin/servers", ADMIN, java_script_enabled=scripts)
    press(page, "box", "Take out")
    expect(page.get_by_text("box is taken out: no gateway gives it new requests.")).to_be_visible()
    assert re.search(rf"up; taken out by {ADMIN}, since .*\d:\d\d", row_of(page, "box"))
    assert "taken out" not in row_of(page, "attic")
    for _ in range(4):
        assert servers.chat(token, "both").status_code == 200
    assert (len(servers.asked()["box"]), len(servers.asked()["attic"])) == (0, 4)
    if scripts:
        assert serious(page) == []
        picture_of(page, "console-servers-taken-out")
    press(page, "box", "Put back")
    expect(page.get_by_text("box is back: every gateway may give it requests.")).to_be_visible()
    assert "taken out" not in row_of(page, "box")
    assert servers.chat(token, "llama3.2:3b").status_code == 200
    page.goto("/admin/audit")
    newest = page.get_by_role("row").all_inner_texts()[1:3]
    assert [re.findall(rf"{ADMIN} .user.\s+servers.(\w+)\s+box", one) for one in newest] == [
        ["put_back"],
        ["take_out"],
    ]


def test_a_server_that_is_out_already_is_told_so(open_page: OpenPage, servers: House) -> None:
    page = open_page("/admin/servers", ADMIN)
    servers.running.command("servers", "take-out", "box")
    press(page, "box", "Take out")
    expect(page.get_by_role("alert")).to_contain_text("is taken out already")
    servers.running.command("servers", "put-back", "box")


def test_which_server_is_down_since_when_is_seen_and_mended(
    open_page: OpenPage, servers: House
) -> None:
    servers.rack.answers["/gpu/v1/models"] = 401
    page = open_page("/admin/", ADMIN)

    def is_told() -> bool:
        page.goto("/admin/servers")
        return "misconfigured" in row_of(page, "rack")

    def is_audited() -> bool:
        page.goto("/admin/audit?event=servers.down")
        return "misconfigured" in page.get_by_role("main").inner_text()

    wait_for(is_audited, 40, "the audit has it")
    wait_for(is_told, 40, "the console has it")
    row = page.get_by_role("row").filter(has_text="rack")
    expect(row).to_contain_text("it refused the key that it was sent; see its credential_file")
    assert row.locator("time").get_attribute("data-seconds")
    press(page, "rack", "Take out")
    expect(page.get_by_text("rack is taken out")).to_be_visible()
    servers.rack.answers["/gpu/v1/models"] = json.loads(
        '{"object": "list", "data": [{"id": "qwen3-coder:30b", "object": "model"}]}'
    )
    wait_for(lambda: not is_told(), 40, "it is well again")
    press(page, "rack", "Put back")
    expect(page.get_by_text("rack is back")).to_be_visible()
    token = servers.caller.token(AGENT)
    assert servers.chat(token, "qwen3-coder:30b").status_code == 200


# What an admin is asked, found out and mended in the console.


def explained(page: Page, user: str, model: str) -> str:
    page.goto("/admin/policy")
    page.get_by_role("textbox", name="User").fill(user)
    page.get_by_role("textbox", name="Path").fill(CHAT)
    page.get_by_role("textbox", name="Model").fill(model)
    page.get_by_role("button", name="Explain").click()
    return page.get_by_role("status").inner_text()


def test_why_a_user_gets_404_for_a_model_is_found_and_mended(
    open_page: OpenPage, servers: House
) -> None:
    token, model = servers.caller.token(AGENT), "qwen3-coder:30b"
    page = open_page("/admin/policy", ADMIN)
    number = page.get_by_text(re.compile(r"Number \d+ is in force"))
    before = number.inner_text()
    servers.write(lambda content: content["users"].update({AGENT: {"models": ["phi-2"]}}))

    def is_in_force() -> bool:
        page.goto("/admin/policy")
        return number.inner_text() != before

    wait_for(is_in_force, 10, "the policy is in force")
    assert servers.chat(token, model).status_code == 404
    told = explained(page, AGENT, model)
    assert "404 model_not_found" in told
    assert f"of the models phi-2, which {AGENT} may use, {model!r} is none" in told
    line = int(re.findall(r"policy.yaml:(\d+)", told)[0])
    assert "models" in page.locator(".lines li").nth(line - 1).inner_text()
    before = number.inner_text()
    servers.write()
    wait_for(is_in_force, 10, "the mended policy is in force")
    assert "200 allowed" in explained(page, AGENT, model)
    assert servers.chat(token, model).status_code == 200


def test_who_revoked_a_token_is_found_by_its_id_and_its_user_goes_on(
    open_page: OpenPage, servers: House
) -> None:
    token = servers.caller.token(AGENT)
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    servers.running.command("revoke", "--jti", jti)
    assert servers.chat(token, "phi-2").status_code == 401
    page = open_page("/admin/audit", ADMIN)
    page.get_by_role("searchbox", name="Filter").fill(jti)
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row").filter(has_text="tokens.revoke").filter(has_text=jti)
    expect(row).to_contain_text(f"{operator().name} (operator)")
    expect(row).to_contain_text(f"{AGENT}/{jti}")
    assert servers.chat(servers.caller.token(AGENT), "phi-2").status_code == 200
