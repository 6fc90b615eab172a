"""The console: an admin finds out what is wrong and mends it, with scripts and without."""

import re
from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.test_account import status_with
from tests.support.deployment import CHAT, Caller, Local
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

ADMIN = "ADMNTEST01"
OpenPage = Callable[..., Page]
SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "none"])


def sure(page: Page, button: str) -> None:
    """What is asked before each change, answered yes."""
    expect(page.get_by_role("heading", level=1)).to_contain_text("?")
    page.get_by_role("main").get_by_role("button", name=button, exact=True).click()


def test_every_page_is_a_link_away(open_page: OpenPage) -> None:
    page = open_page("/admin/", ADMIN)
    for name in (
        "Sessions",
        "Users",
        "API keys",
        "LLM servers",
        "Usage",
        "Audit",
        "Policy",
        "Overview",
    ):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_the_overview_has_figures_that_move_without_a_reload(
    open_page: OpenPage, portero: Local, llm: Upstream
) -> None:
    page = open_page("/admin/", ADMIN)
    caller, agent = Caller(portero), Caller(portero).token("AGNRTEST01")
    figure = page.locator("[data-figure=allowed]")
    expect(figure).to_be_visible(timeout=10_000)
    for _ in range(5):
        caller.call(agent)
    expect(figure).not_to_have_text("0", timeout=10_000)
    expect(page.locator("[data-figure=in_flight]")).to_have_count(0)
    llm.mood = "reset"
    errors, refused = (page.locator(f"[data-figure={name}]") for name in ("errors", "refused"))
    for _ in range(5):
        caller.call(agent)
    expect(errors).not_to_have_text("0", timeout=10_000)
    expect(refused).to_have_text("0")
    says = page.locator("[data-says=active]")
    before = int(says.inner_text())
    caller.token("AGNRTEST01")
    expect(says).to_have_text(str(before + 1), timeout=10_000)


@SCRIPTS
def test_the_overview_says_how_the_disk_the_gateways_and_their_certificates_stand(
    open_page: OpenPage, scripts: bool
) -> None:
    page = open_page("/admin/", ADMIN, java_script_enabled=scripts)
    told = page.get_by_role("region", name="Overview")
    expect(told.locator("[data-says=disk]")).to_have_text(
        re.compile(r"[\d.,]+ of [\d.,]+ GiB free")
    )
    expect(told.locator("[data-says=gateway-0]")).to_have_text("answers")
    expect(told.locator("[data-says=certificate-0]")).to_have_text("none: it speaks plain HTTP")


@SCRIPTS
def test_the_overview_says_how_many_streams_run(
    open_page: OpenPage, portero: Local, llm: Upstream, scripts: bool
) -> None:
    llm.events, llm.gap = 10_000, 0.01
    caller = Caller(portero)
    body = {**CHAT, "stream": True}
    with caller.call(caller.token("AGIATEST01"), body=body, stream=True) as answer:
        assert answer.raw.read(6) == b"data: "
        page = open_page("/admin/", ADMIN, java_script_enabled=scripts)
        streams = page.locator("[data-says=streams]")

        def has(count: str) -> bool:
            """With scripts it moves by itself."""
            if not scripts:
                page.reload()
            return streams.inner_text() == count

        wait_for(lambda: has("1"), 10, "the stream is shown")
    wait_for(lambda: has("0"), 15, "it is over")


@SCRIPTS
def test_one_session_is_found_by_the_filter_and_ended(
    open_page: OpenPage, portero: Local, scripts: bool
) -> None:
    caller = Caller(portero)
    token, other = caller.token("AGNRTEST01"), caller.token("AGNRTEST02")
    page = open_page("/admin/sessions", ADMIN, java_script_enabled=scripts)
    page.get_by_role("searchbox", name="Filter").fill("AGNRTEST01")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("cell", name="agent_reasoning").first).to_be_visible()
    assert page.get_by_role("rowheader").all_inner_texts().count("AGNRTEST02") == 0
    page.get_by_role("row").filter(has_text="AGNRTEST01").first.get_by_role("button").click()
    sure(page, "Revoke")
    expect(page.get_by_text("Revoked everywhere: 1.")).to_be_visible()
    assert (caller.call(token).status_code, caller.call(other).status_code) == (401, 200)


def test_the_sessions_of_a_user_and_of_a_role_are_ended(
    open_page: OpenPage, portero: Local
) -> None:
    caller = Caller(portero)
    mine, others = caller.token("AGNRTEST01"), caller.token("AGNFTEST01")
    page = open_page("/admin/sessions", ADMIN)
    page.get_by_label("All sessions of the user").fill("AGNRTEST01")
    page.get_by_role("button", name="Revoke the user's").click()
    sure(page, "Revoke")
    expect(page.get_by_text("Revoked everywhere")).to_be_visible()
    assert (caller.call(mine).status_code, caller.call(others).status_code) == (401, 200)
    page.get_by_label("All sessions of the role").select_option("agent_fast")
    page.get_by_role("button", name="Revoke the role's").click()
    sure(page, "Revoke")
    expect(page.get_by_text("Revoked everywhere")).to_be_visible()
    assert caller.call(others).status_code == 401


@SCRIPTS
def test_a_user_is_added_given_another_secret_and_removed(
    open_page: OpenPage, portero: Local, scripts: bool
) -> None:
    name = f"AGIA-new-{'a' if scripts else 'b'}"
    page = open_page("/admin/users", ADMIN, java_script_enabled=scripts)
    page.get_by_role("textbox", name="User name").fill(name)
    page.get_by_role("button", name="Add user").click()
    sure(page, "Add user")
    first = page.locator("#secret").inner_text()
    assert login(portero, name, first) == 200
    page.goto("/admin/users")
    assert first not in page.content()
    page.get_by_role("row").filter(has_text=name).get_by_role("button", name="New secret").click()
    sure(page, "New secret")
    second = page.locator("#secret").inner_text()
    assert (login(portero, name, first), login(portero, name, second)) == (401, 200)
    page.get_by_role("row").filter(has_text=name).get_by_role("button", name="Remove").click()
    sure(page, "Remove")
    expect(page.get_by_text(f"{name} is removed")).to_be_visible()
    assert login(portero, name, second) == 401


def login(portero: Local, name: str, secret: str) -> int:
    url = f"{portero.gateway}/agi/login"
    return requests.post(url, auth=(name, secret), timeout=10).status_code


def test_what_cannot_be_is_said_and_changes_nothing(open_page: OpenPage) -> None:
    page = open_page("/admin/users", ADMIN)
    for name, why in (("XXXXnobody", "begins with no role's code"), ("ADMNTEST01", "already")):
        page.get_by_role("textbox", name="User name").fill(name)
        page.get_by_role("button", name="Add user").click()
        sure(page, "Add user")
        expect(page.get_by_role("alert")).to_contain_text(why)


def test_a_key_of_somebody_is_ended(open_page: OpenPage, portero: Local) -> None:
    caller = Caller(portero)
    body = {"name": "Lost laptop", "days": 1}
    made = caller.call(caller.token("AGNRTEST01"), "/account/keys", body=body).json()
    assert status_with(portero, made["key"]) == 200
    page = open_page("/admin/keys", ADMIN)
    row = page.get_by_role("row").filter(has_text="Lost laptop")
    row.get_by_role("button", name="Revoke").click()
    sure(page, "Revoke")
    expect(page.get_by_text("Revoked everywhere: 1.")).to_be_visible()
    assert status_with(portero, made["key"]) == 401


def test_who_did_what_is_found_by_the_filter(open_page: OpenPage, portero: Local) -> None:
    caller = Caller(portero)
    token = caller.token("AGNRTEST02")
    path = "/admin/api/users/AGNRTEST02/sessions"
    assert caller.call(caller.token(ADMIN), path, "DELETE").status_code == 200
    assert caller.call(token).status_code == 401
    page = open_page("/admin/audit", ADMIN, java_script_enabled=False)
    page.get_by_role("searchbox", name="Filter").fill("AGNRTEST02")
    page.get_by_label("Event").select_option("tokens.revoke")
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row").nth(1)
    for text in (f"{ADMIN} (user)", "tokens.revoke", "AGNRTEST02", "ok", "127.0.0.1"):
        expect(row).to_contain_text(text)


def test_what_was_used_is_a_table_and_a_file(open_page: OpenPage, portero: Local) -> None:
    caller = Caller(portero)
    caller.call(caller.token("AGIATEST01"))
    page = open_page("/admin/usage", ADMIN)

    def is_there() -> bool:
        page.reload()
        return page.get_by_role("cell", name="AGIATEST01").count() > 0

    wait_for(is_there, what="the row")
    page.get_by_label("By").select_option("model")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("cell", name="tiny")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    text = download.value.path().read_text()
    assert text.startswith("model,requests,prompt_tokens,completion_tokens")


@SCRIPTS
def test_why_somebody_is_refused_is_explained_with_its_line(
    open_page: OpenPage, scripts: bool
) -> None:
    page = open_page("/admin/policy", ADMIN, java_script_enabled=scripts)
    page.get_by_role("textbox", name="User").fill("MNTRTEST01")
    page.get_by_role("textbox", name="Model").fill("tiny")
    page.get_by_role("button", name="Explain").click()
    told = page.get_by_role("status")
    expect(told).to_contain_text("403 insufficient_permissions")
    expect(told).to_contain_text("monitoring may use")
    expect(told).to_contain_text("policy.yaml:")


def test_the_console_is_there_in_spanish(open_page: OpenPage) -> None:
    page = open_page("/admin/users", ADMIN, locale="es")
    for name in ("Sesiones", "Claves de API", "Política"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Añadir usuario")).to_be_visible()
    expect(page.get_by_role("searchbox", name="Filtrar")).to_be_visible()


def test_a_page_of_another_site_and_who_is_no_admin_change_nothing(portero: Local) -> None:
    caller = Caller(portero)
    agent = caller.token("AGNRTEST01")
    form = {"what": "user", "which": "AGNRTEST01", "sure": "yes"}
    url = f"{portero.gateway}/admin/sessions"
    cookie = {"Cookie": f"auth_token={caller.token(ADMIN)}", "Origin": "https://evil.example"}
    user = {"Cookie": f"auth_token={caller.token('USRSTEST01')}"}
    for headers in (cookie, user):
        assert requests.post(url, data=form, headers=headers, timeout=10).status_code == 403
    assert caller.call(agent).status_code == 200
