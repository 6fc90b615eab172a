"""The account page: keys made, used and ended by its forms, with scripts and without."""

import re
import subprocess
from collections.abc import Callable

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.conftest import BUDGET, LIMIT
from tests.browser.test_chat import CHAT
from tests.support.deployment import Caller, Local
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

USER = "USRSTEST01"
OpenPage = Callable[..., Page]
SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "none"])


@pytest.fixture(autouse=True)
def no_keys(portero: Local) -> None:
    """Each test begins without keys."""
    caller = Caller(portero)
    token = caller.token(USER)
    for one in caller.call(token, "/account/keys", "GET").json()["keys"]:
        caller.call(token, f"/account/keys/{one['id']}", "DELETE")


def make(page: Page, name: str, days: str = "7", models: str = "") -> str:
    page.get_by_role("textbox", name="Key name").fill(name)
    page.get_by_label("Days").fill(days)
    page.get_by_label("Only these models").fill(models)
    page.get_by_role("button", name="Make key").click()
    expect(page.get_by_role("heading", name="Your new key")).to_be_visible()
    return page.locator("#made-key").inner_text()


def status_with(portero: Local, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{portero.gateway}/v1/models", headers=headers, timeout=10).status_code


@SCRIPTS
def test_a_key_is_made_shown_once_used_and_revoked(
    open_page: OpenPage, portero: Local, scripts: bool
) -> None:
    page = open_page("/account", USER, java_script_enabled=scripts)
    key = make(page, "<b>My & tool</b>")
    assert re.fullmatch(r"sk-portero-[\w-]{60}", key)
    assert status_with(portero, key) == 200
    page.goto("/account")
    assert key not in page.content()
    row = page.get_by_role("row").filter(has_text="<b>My & tool</b>")
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("The key is revoked everywhere")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="<b>My & tool</b>")).to_have_count(0)
    assert status_with(portero, key) == 401


def test_what_is_to_be_entered_has_the_values_in_it(open_page: OpenPage, portero: Local) -> None:
    page = open_page("/account", USER, extra_http_headers={"X-Forwarded-Host": "evil.example"})
    key = make(page, "Tools", models="tiny")
    expect(page.locator("#models")).to_have_text("tiny")
    text = page.get_by_role("main").inner_text()
    for part in (
        f"apiBase: {portero.gateway}/v1\n    apiKey: {key}",
        f'"ANTHROPIC_AUTH_TOKEN": "{key}"',
        f'base_url = "{portero.gateway}/v1"\nwire_api',
        f'OpenAI(base_url="{portero.gateway}/v1", api_key="{key}")',
        'model="tiny"',
    ):
        assert part in text
    assert "evil" not in page.content()
    assert "MODEL" not in text.replace("ANTHROPIC_MODEL", "").replace("HAIKU_MODEL", "")


def test_the_curl_lines_of_the_page_work_as_they_are(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = {"choices": [{"message": {"content": "From curl."}}]}
    page = open_page("/account", USER)
    make(page, "Shell")
    expect(page.locator("#models")).to_have_text("tiny")
    for line, text in (("made-curl", '"id":"tiny"'), ("curl-chat", "From curl.")):
        command = page.locator(f"#{line}").inner_text()
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert text in done.stdout.replace(" ", "") or text in done.stdout, done


@SCRIPTS
def test_what_cannot_be_made_is_said_and_the_form_keeps_what_it_held(
    open_page: OpenPage, scripts: bool
) -> None:
    page = open_page("/account", USER, java_script_enabled=scripts)
    page.get_by_role("textbox", name="Key name").fill("Mine")
    page.get_by_label("Only these models").fill("a*b")
    page.get_by_role("button", name="Make key").click()
    expect(page.get_by_role("alert")).to_contain_text("That key cannot be made")
    expect(page.get_by_role("textbox", name="Key name")).to_have_value("Mine")
    for count in range(3):
        make(page, f"Key {count}")
    page.get_by_role("textbox", name="Key name").fill("One more")
    page.get_by_role("button", name="Make key").click()
    expect(page.get_by_role("alert")).to_contain_text("revoke one first")


def test_what_one_has_used_is_shown_by_day_and_model(open_page: OpenPage, portero: Local) -> None:
    caller = Caller(portero)
    caller.call(caller.token(USER))
    page = open_page("/account", USER)

    def is_there() -> bool:
        page.reload()
        return page.get_by_role("row").filter(has_text="tiny").count() > 0

    wait_for(is_there, what="the row")
    expect(page.get_by_role("meter").first).to_be_visible()


def test_who_has_no_keys_is_offered_none(open_page: OpenPage) -> None:
    page = open_page("/account", "ADMNTEST01")
    expect(page.get_by_role("heading", name="ADMNTEST01")).to_be_visible()
    expect(page.get_by_role("button", name="Make key")).to_have_count(0)


def test_programs_get_json_where_browsers_get_pages(portero: Local) -> None:
    caller = Caller(portero)
    token = caller.token(USER)
    for path in ("/account", "/account/keys"):
        assert caller.call(token, path, "GET").headers["Content-Type"] == "application/json"
        page = caller.call(token, path, "GET", headers={"Accept": "text/html"})
        assert page.headers["Content-Type"].startswith("text/html")
    by_form = caller.call(token, "/account/keys/AAAAAAAAAAAAAAAA", "POST", body={})
    assert (by_form.status_code, by_form.headers["Allow"]) == (405, "DELETE")


def test_what_is_left_of_a_minute_stands_beside_its_limit(open_page: OpenPage) -> None:
    limits = open_page("/account", USER).get_by_role("region", name="Limits")
    # The page itself asks for the models, which is a request.
    expect(limits).to_contain_text(re.compile(rf"1?\d?\d of {LIMIT} left in this minute"))
    page = open_page("/account", USER, java_script_enabled=False)
    expect(page.get_by_role("region", name="Limits")).not_to_contain_text("left in this minute")


def test_what_is_left_of_budgets_stands_beside_the_limits(
    open_page: OpenPage, portero: Local, llm: Upstream
) -> None:
    caller = Caller(portero)

    def left() -> dict[tuple[str | None, str], int]:
        told = caller.call(caller.token(USER), "/account", "GET").json()["budgets"]
        assert all(one["left"] <= one["most"] for one in told)
        return {(one["group"], one["period"]): one["left"] for one in told}

    before = left()
    used = [caller.call(caller.token(user)).json()["usage"] for user in (USER, "AGIATEST01")]
    mine, others = (one["prompt_tokens"] + one["completion_tokens"] for one in used)
    after = {name: had - mine for name, had in before.items()}
    after["research", "day"] -= others
    assert list(after) == [(None, "day"), (None, "month"), ("research", "day")]
    wait_for(lambda: left() == after, 5, "the store has it")
    page = open_page("/account", USER, java_script_enabled=False)
    limits = page.get_by_role("region", name="Limits")
    expect(limits).to_contain_text(f"{after[None, 'day']:,} of {BUDGET:,}")
    expect(limits).to_contain_text("Left of the group research's tokens today (UTC)")
    page = open_page("/account", "ADMNTEST01")
    expect(page.get_by_role("region", name="Limits")).not_to_contain_text("Left of")
