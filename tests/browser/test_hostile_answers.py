"""A model's answer is hostile input: nothing of it runs, asks anybody, or leaves its place."""

import json
import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.hostile import ANSWERS, RUN
from tests.browser.test_chat import CHAT, answered, say
from tests.support.upstream import Spoken, Upstream

#: What an answer may become; the buttons are ours.
TAGS = set(
    re.findall(
        r"\w+",
        "A BLOCKQUOTE BR BUTTON CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR LI OL P PRE S STRONG TABLE "
        "TBODY TD TH THEAD TR UL",
    )
)
ATTRIBUTES = {"href", "target", "rel", "dir", "start", "class", "type"}
#: Whatever has a handler is called: each event that a reader causes, at all that is shown.
TOUCHED = """() => document.querySelectorAll('#log .assistant .said *').forEach((one) =>
    ['mouseover', 'mouseenter', 'pointerover', 'focus', 'copy', 'wheel', 'scroll', 'animationstart',
        'error', 'load', 'toggle'].forEach((name) => one.dispatchEvent(new Event(name))))"""
SHOWN = """() => [...document.querySelectorAll('#log .assistant .said *')].map((one) =>
    [one.tagName, [...one.attributes].map((held) => held.name), one.getAttribute('href')])"""


def kept(answers: list[str]) -> str:
    """A conversation as the browser would have kept it."""
    messages = [
        {"role": "assistant", "text": one, "images": [], "model": "tiny"} for one in answers
    ]
    return json.dumps([{"id": "1", "title": "Hostile", "system": "", "messages": messages}])


def test_hostile_answers_run_nothing_and_break_no_page(
    open_page: Callable[..., Page], llm: Upstream
) -> None:
    assert len(set(ANSWERS)) >= 200
    page = open_page(user="USRSTEST01")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        "(text) => localStorage.setItem('portero.conversations.USRSTEST01', text)",
        kept([text.encode("utf-8", "replace").decode() for text in ANSWERS]),
    )
    page.reload()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    page.get_by_role("button", name="Hostile").click()
    expect(page.get_by_role("article")).to_have_count(len(ANSWERS))
    shown = page.evaluate(SHOWN)
    assert {tag for tag, _, _ in shown} <= TAGS
    assert {name for _, names, _ in shown for name in names} <= ATTRIBUTES
    links = [href for _, _, href in shown if href is not None]
    assert links
    assert all(href.startswith(("https://", "http://", "mailto:")) for href in links)
    # Each stays within its own place, and what we made is still ours.
    assert page.evaluate("document.getElementById('log').getAttribute('role')") == "log"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(TOUCHED)
    page.get_by_role("link", name="x").first.hover()
    llm.answers[CHAT] = Spoken(
        {}, ['data: {"choices":[{"delta":{"content":"ok"}}]}\n\n', "data: [DONE]\n\n"]
    )
    say(page, "Still there?")
    expect(page.get_by_role("article").last).to_contain_text("ok")
    assert page.evaluate(RUN.partition("=")[0]) is None
    assert not [url for url in asked if "evil" in url]


def test_the_same_streams_in_without_running(open_page: Callable[..., Page], llm: Upstream) -> None:
    text = "\n\n".join(ANSWERS[:60]).encode("utf-8", "replace").decode()
    words = [text[at : at + 97] for at in range(0, len(text), 97)]
    told = [json.dumps({"choices": [{"delta": {"content": one}}]}) for one in words]
    llm.answers[CHAT] = Spoken({}, [*(f"data: {one}\n\n" for one in told), "data: [DONE]\n\n"])
    llm.gap = 0.001
    page = open_page(user="USRSTEST01")
    say(page, "Go on")
    answered(page)
    assert page.evaluate("window.hurt") is None
    assert {tag for tag, _, _ in page.evaluate(SHOWN)} <= TAGS
