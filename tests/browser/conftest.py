"""The pages in a real Chromium, over a whole deployment: what people see and do.

Every page that a test opens is watched: a breach of the Content-Security-Policy, an error in the
console or a script's own fails the test. Pictures of the pages are kept in `.cache/browser`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from run.commands import ROOT
from tests.support.deployment import USERS, Local, deployed
from tests.support.policies import write_policy
from tests.support.upstream import Upstream, recording
from tests.support.waiting import within

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PICTURES = ROOT / ".cache" / "browser"
#: What a page says of a refusal, and where tests provoke one; they look at what is shown.
REFUSED, PROVOKED = "Failed to load resource", ("/v1/", "/account/keys", "/admin/")
LIMIT = 200
BUDGET = 1_000_000


def _policy(content: dict[str, Any]) -> None:
    """As shipped, but a user has a limit that shows, and its role few keys."""
    budget = {"tokens_per_day": BUDGET, "tokens_per_month": 10 * BUDGET}
    content["users"]["USRSTEST01"] = {"requests_per_minute": LIMIT, **budget}
    members = ["USRSTEST01", "AGIATEST01"]
    content["groups"] = [{"name": "research", "members": members, "tokens_per_day": 2 * BUDGET}]
    content["roles"]["user"]["api_keys"] = {"most": 3, "longest_days": 90}


@pytest.fixture(scope="package")
def llm() -> Iterator[Upstream]:
    with recording() as one:
        yield one


@pytest.fixture(scope="package")
def portero(llm: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The deployment that all pages are of."""
    policy = write_policy(tmp_path_factory.mktemp("policy") / "policy.yaml", _policy)
    with deployed(llm.url, POLICY_FILE=str(policy)) as one:
        yield one


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * within(5))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Watched:
    """What went wrong in a page without being seen."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def over(self, page: Page) -> Page:
        page.on("console", lambda said: self._note(said.type, said.text, said.location["url"]))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        return page

    def _note(self, kind: str, text: str, url: str) -> None:
        is_provoked = text.startswith(REFUSED) and any(one in url for one in PROVOKED)
        if kind in ("error", "warning") and not is_provoked:
            self.faults.append(f"{kind}: {text}")


@pytest.fixture
def open_page(chromium: Browser, portero: Local, llm: Upstream) -> Iterator[Callable[..., Page]]:
    """Opens a page of a fresh browser, signed in if a user is named."""
    llm.forget()
    watched = Watched()
    with ExitStack() as stack:

        def opened(path: str = "/", user: str | None = None, **options: Any) -> Page:
            context = chromium.new_context(base_url=portero.gateway, **options)
            stack.callback(context.close)
            context.set_default_timeout(1000 * within(10))
            if user:
                sign_in(context, user)
            page = watched.over(context.new_page())
            page.goto(path)
            return page

        yield opened
        assert watched.faults == []
    llm.forget()


def sign_in(context: BrowserContext, user: str) -> None:
    """By the endpoint itself, where a test is not about the form."""
    secret, door = USERS[user]
    form: dict[str, str | float | bool] = {"username": user, "password": secret}
    answer = context.request.post(door, form=form, headers={"Accept": "text/html"}, max_redirects=0)
    assert answer.status == 302, answer.text()


def picture_of(page: Page, name: str) -> None:
    """Keep what a page looks like."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=Path(PICTURES / f"{name}.png"), full_page=True)
