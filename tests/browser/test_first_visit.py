"""A person who never saw it, with the bundled model: by keyboard alone from the sign-in to the way
out.
"""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_account import USER, status_with
from tests.stack.test_servers import llama
from tests.support.deployment import Caller, Local, deployed
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

MODEL, SECRET = "smol", "user-secret-1"
CLIPBOARD = "navigator.clipboard.readText()"


@pytest.fixture(scope="module")
def bundled() -> Iterator[Local]:
    port = free_ports(1)[0]
    with llama(MODEL, port), deployed(f"http://127.0.0.1:{port}", LLM_KIND="llama-server") as one:
        caller = Caller(one)
        agent = caller.token("AGIATEST01")
        wait_for(
            lambda: caller.call(agent, "/health", "GET").status_code == 200, 60, "it has loaded"
        )
        yield one


@pytest.fixture
def portero(bundled: Local) -> Local:
    """The deployment whose pages are opened here."""
    return bundled


def tab_to(page: Page, id: str = "", text: str = "") -> None:
    """On, until the focus is there."""
    focus = "[document.activeElement.id, document.activeElement.textContent.trim()]"
    for _ in range(60):
        page.keyboard.press("Tab")
        if ((found := page.evaluate(focus))[0] == id and id) or (text and found[1] == text):
            return
    raise AssertionError(f"no way to {id or text} by keyboard")


def test_by_keyboard_alone_from_the_sign_in_to_the_way_out(
    open_page: Callable[..., Page], portero: Local
) -> None:
    page = open_page("/login", permissions=["clipboard-read", "clipboard-write"])
    keys = page.keyboard
    expect(page.get_by_label("User name")).to_be_focused()
    keys.type(USER)
    keys.press("Tab")
    keys.type(SECRET)
    keys.press("Enter")
    expect(page.get_by_role("combobox", name="Model")).to_have_value(MODEL)
    tab_to(page, "message")
    keys.type("Say hello in one word.")
    keys.press("Tab")
    keys.press("Enter")
    answer = page.get_by_role("article").nth(1)
    expect(answer.locator(".said")).not_to_be_empty(timeout=60_000)
    page.reload()  # what goes on for long is left
    tab_to(page, text="Account")
    keys.press("Enter")
    expect(page.get_by_role("heading", name=USER)).to_be_visible()
    tab_to(page, "key-name")
    keys.type("By keyboard")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Your new key")).to_be_focused()
    key = page.locator("#made-key").inner_text()
    tab_to(page, text="Copy")
    tab_to(page, text="Copy")
    keys.press("Enter")
    wait_for(lambda: "curl" in page.evaluate(CLIPBOARD), 5, "the curl line is copied")
    done = subprocess.run(
        ["sh", "-c", page.evaluate(CLIPBOARD)], capture_output=True, text=True, check=True
    )
    assert f'"{MODEL}"' in done.stdout, done
    tab_to(page, text="Revoke")
    keys.press("Enter")
    expect(page.get_by_text("The key is revoked everywhere")).to_be_visible()
    assert status_with(portero, key) == 401
    tab_to(page, text="Log out")
    keys.press("Enter")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert not [one for one in page.context.cookies() if one["name"] == "auth_token"]
