"""`make screenshots`: the README's pictures, of a deployment of its own with three LLM servers.

They are made anew by hand, when the pages look otherwise; no test compares them, as each machine
draws letters in its own way.
"""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from run.commands import ROOT
from tests.browser.conftest import CHROMIUM, sign_in
from tests.browser.test_chat import CHAT, answered, events_of, say
from tests.stack.test_servers import AGENT, House, house

PICTURES = ROOT / "docs" / "pictures"
SIZE: ViewportSize = {"width": 1000, "height": 760}
ANSWER = """A bucket that **leaks at a steady rate**: each request pours one token in, and whoever
would make it run over is asked to wait.

```python
def may_pass(bucket, now):
    leaked = (now - bucket.at) * bucket.rate
    bucket.level = max(0, bucket.level - leaked)
    bucket.at = now
    if bucket.level + 1 > bucket.size:
        return False
    bucket.level += 1
    return True
```

It needs two numbers a caller, whatever the traffic."""


def main() -> int:
    """Take both."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with house(Path(name)) as servers:
            _chat(_page(browser, servers, "USRSTEST01", "/"), servers)
            _console(_page(browser, servers, "ADMNTEST01", "/admin/"), servers)
        browser.close()
    return 0


def _page(browser: Browser, servers: House, user: str, path: str) -> Page:
    context = browser.new_context(
        base_url=servers.running.gateway, viewport=SIZE, timezone_id="UTC", locale="en"
    )
    sign_in(context, user)
    page = context.new_page()
    page.goto(path)
    return page


def _chat(page: Page, servers: House) -> None:
    for one in servers.all.values():
        one.answers[CHAT] = events_of(*ANSWER.splitlines(keepends=True))
    say(page, "How does a leaky bucket limit requests?")
    expect(page.get_by_role("log")).to_contain_text("whatever the traffic")
    answered(page)
    page.evaluate("document.getElementById('log').scrollTop = 0; scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.screenshot(path=PICTURES / "chat.png")


def _console(page: Page, servers: House) -> None:
    """Figures that move come with the second look."""
    token = servers.caller.token(AGENT)
    figure = page.locator("[data-figure=allowed]")
    expect(figure).to_be_visible(timeout=20_000)
    while not re.search("[1-9]", figure.inner_text()):
        servers.chat(token, "phi-2")
    page.screenshot(path=PICTURES / "console.png")


if __name__ == "__main__":
    raise SystemExit(main())
