"""What holds of every page: names for all that is used, contrast, both languages, phones and large
text, and a weight that a slow line bears.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import axe_playwright_python
import pytest
from playwright.sync_api import Page, ViewportSize, expect

from issuer.web import pages
from issuer.web.console import PAGES as CONSOLE
from tests.browser.conftest import picture_of
from tests.browser.test_chat import CHAT, answered, events_of, say
from tests.support.upstream import Upstream

OpenPage = Callable[..., Page]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
#: Path -> who sees it.
PAGES: dict[str, str | None] = {
    "/login": None,
    "/admin/login": None,
    "/logout": "USRSTEST01",
    "/": "USRSTEST01",
    "/account": "USRSTEST01",
    **dict.fromkeys(CONSOLE.values(), "ADMNTEST01"),
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
PHONE: ViewportSize = {"width": 360, "height": 740}
MOST_BYTES = 100 * 1024
EVERY_PAGE = pytest.mark.parametrize("path", PAGES)


def serious(page: Page) -> list[str]:
    """What axe finds that keeps people out."""
    # By the debugger, whom the page's own policy does not bind.
    page.evaluate(AXE + "\n;undefined")
    found = page.evaluate("axe.run()")
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@EVERY_PAGE
def test_axe_finds_nothing_serious_and_the_page_fits_everywhere(
    open_page: OpenPage, path: str
) -> None:
    name = path.strip("/").replace("/", "-") or "chat"
    page = open_page(path, PAGES[path])
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert serious(page) == [], scheme
        picture_of(page, f"{name}-desktop-{scheme}")
    page.set_viewport_size(PHONE)
    picture_of(page, f"{name}-phone-dark")
    for width in (PHONE["width"], 320):  # 320: 200 % and more of a small screen (WCAG 1.4.10)
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


@EVERY_PAGE
def test_a_page_is_whole_in_spanish(open_page: OpenPage, path: str) -> None:
    page = open_page(path, PAGES[path], locale="es-MX")
    assert page.evaluate("document.documentElement.lang") == "es"
    words = pages.texts("en")
    text = page.get_by_role("main").inner_text()
    english = [one for one in words.values() if len(one) > 12 and "{" not in one and one in text]
    spanish = set(pages.texts("es").values())
    assert [one for one in english if one not in spanish] == []
    assert any(one in text for one in spanish if len(one) > 12)


def test_the_chat_has_its_names_in_spanish(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = events_of("Hola.")
    page = open_page("/", "USRSTEST01", locale="es")
    page.get_by_role("textbox", name="Mensaje").fill("Hola")
    page.get_by_role("button", name="Enviar").click()
    expect(page.get_by_role("log")).to_contain_text("Hola.")
    for name in ("Reintentar", "Nueva conversación", "Borrar todas las conversaciones"):
        expect(page.get_by_role("button", name=name)).to_be_visible()
    llm.answers[CHAT] = 503
    page.get_by_role("button", name="Reintentar").click()
    expect(page.get_by_role("alert")).to_contain_text("no está listo")


def test_times_are_in_the_readers_zone(open_page: OpenPage) -> None:
    texts = set()
    for zone in ("America/Bogota", "Asia/Tokyo"):
        page = open_page("/account", "USRSTEST01", timezone_id=zone)
        texts.add(page.locator("time").first.inner_text())
        assert "UTC" not in " ".join(texts)
    assert len(texts) == 2


def test_a_chat_that_is_full_is_as_good_for_everybody(open_page: OpenPage, llm: Upstream) -> None:
    table = "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[link](https://example.com)\n\n```\ncode\n```"
    llm.answers[CHAT] = events_of("# Title", table)
    page = open_page("/", "USRSTEST01")
    say(page, "Show me")
    expect(page.get_by_role("log").locator("table")).to_be_visible()
    answered(page)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        assert serious(page) == [], scheme
        picture_of(page, f"chat-full-{scheme}")


@EVERY_PAGE
def test_a_page_weighs_less_than_100_kib(open_page: OpenPage, path: str) -> None:
    page = open_page("about:blank", PAGES[path])
    weights: dict[str, int] = {}
    page.on("response", lambda one: weights.update({one.url: len(gzip.compress(one.body()))}))
    page.goto(path, wait_until="networkidle")
    assert 0 < sum(weights.values()) < MOST_BYTES, weights
