"""The chat as a person uses it: answers that stream, what is kept where, and what is said when it
does not work.
"""

import base64
import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import LIMIT
from tests.support.deployment import Caller, Local
from tests.support.upstream import Spoken, Upstream
from tests.support.waiting import wait_for

USER = "USRSTEST01"
CHAT = "/v1/chat/completions"
OpenPage = Callable[..., Page]
#: The smallest picture there is.
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def events_of(*words: str, end: bool = True) -> Spoken:
    """A stream that says these words."""
    told = [json.dumps({"choices": [{"index": 0, "delta": {"content": one}}]}) for one in words]
    events = [f"data: {one}\n\n" for one in told]
    return Spoken({}, [*events, "data: [DONE]\n\n"] if end else events)


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def answered(page: Page) -> None:
    """Wait until an answer has come to its end."""
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.get_by_role("article")).not_to_have_count(0)


def answered_nobody(llm: Upstream) -> None:
    """Wait until the LLM server has found that nobody hears its answer any more."""
    wait_for(lambda: llm.departures, what="the end of the answer at the LLM server")


def asked(llm: Upstream) -> list[dict[str, Any]]:
    """The bodies of the chats that the LLM server got."""
    return [json.loads(one.body) for one in llm.seen if one.target == CHAT]


def test_an_answer_streams_in_and_is_read_as_markdown(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = events_of("**Bold**", " and\n\n", "```python\nprint(1)\n```\n")
    page = open_page(user=USER)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    say(page, "What is <b>this</b>?")
    log = page.get_by_role("log")
    expect(log.locator("strong")).to_have_text("Bold")
    expect(log.locator("pre code")).to_have_text("print(1)\n")
    expect(log.get_by_text("What is <b>this</b>?")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text(f"of {LIMIT} requests")
    (body,) = asked(llm)
    assert body["model"] == "tiny"
    assert body["temperature"] == 0.5
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is <b>this</b>?"},
    ]


def test_code_is_copied_with_one_click(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = events_of("```\nmake run\n```")
    page = open_page(user=USER, permissions=["clipboard-read", "clipboard-write"])
    say(page, "How?")
    answered(page)
    page.get_by_role("log").get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "make run\n"


def test_an_answer_is_stopped_and_asked_for_again(open_page: OpenPage, llm: Upstream) -> None:
    llm.events, llm.gap = 10_000, 0.05
    page = open_page(user=USER)
    say(page, "Count.")
    expect(page.get_by_role("log")).to_contain_text("0123")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.wait_for_function("() => document.getElementById('stop').hidden")
    llm.answers[CHAT] = events_of("Better.")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("log")).to_contain_text("Better.")
    expect(page.get_by_role("article")).to_have_count(2)
    first, second = asked(llm)
    assert first["messages"] == second["messages"]


def test_conversations_are_kept_in_the_browser_alone_and_all_deleted(
    open_page: OpenPage, llm: Upstream
) -> None:
    llm.answers[CHAT] = events_of("Hello.")
    page = open_page(user=USER)
    say(page, "The first one")
    expect(page.get_by_role("log")).to_contain_text("Hello.")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("article")).to_have_count(0)
    say(page, "The second one")
    expect(page.get_by_role("log")).to_contain_text("Hello.")
    page.reload()
    page.get_by_role("button", name="The first one").click()
    expect(page.get_by_role("log")).to_contain_text("The first one")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all conversations").click()
    expect(page.get_by_role("button", name="The first one")).to_have_count(0)
    assert "first" not in page.evaluate("JSON.stringify(localStorage)")


def test_conversations_deleted_during_an_answer_stay_deleted(
    open_page: OpenPage, llm: Upstream
) -> None:
    llm.events, llm.gap = 10_000, 0.05
    page = open_page(user=USER)
    say(page, "Forget this.")
    expect(page.get_by_role("log")).to_contain_text("0123")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete all conversations").click()
    answered_nobody(llm)
    expect(page.get_by_text("All conversations are deleted.")).to_be_visible()
    expect(page.get_by_role("button", name="Forget this.")).to_have_count(0)
    assert "Forget" not in page.evaluate("JSON.stringify(localStorage)")
    llm.answers[CHAT] = events_of("Hello.")
    say(page, "Keep this.")
    expect(page.get_by_role("log")).to_contain_text("Hello.")
    page.reload()
    expect(page.get_by_role("button", name="Keep this.")).to_be_visible()
    expect(page.get_by_role("button", name="Forget this.")).to_have_count(0)


def test_a_question_outlives_a_tab_that_is_closed_before_its_answer(
    open_page: OpenPage, llm: Upstream
) -> None:
    page = open_page(user=USER)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    llm.mood = "hang"
    say(page, "A long thought")
    wait_for(lambda: asked(llm), what="the question at the LLM server")
    context = page.context
    page.close()
    llm.mood = "answer"
    other = context.new_page()
    other.goto("/")
    other.get_by_role("button", name="A long thought").click()
    expect(other.get_by_role("article")).to_have_count(1)
    llm.answers[CHAT] = events_of("Here I am.")
    other.get_by_role("button", name="Try again").click()
    expect(other.get_by_role("log")).to_contain_text("Here I am.")


def test_what_has_come_of_an_answer_is_kept_when_its_page_is_left(
    open_page: OpenPage, llm: Upstream
) -> None:
    llm.events, llm.gap = 10_000, 0.05
    page = open_page(user=USER)
    say(page, "Count.")
    expect(page.get_by_role("log")).to_contain_text("0123")
    page.goto("/account")
    page.goto("/")
    page.get_by_role("button", name="Count.").click()
    expect(page.get_by_role("log")).to_contain_text("0123")


def test_a_click_on_the_conversation_that_is_answered_loses_none_of_it(
    open_page: OpenPage, llm: Upstream
) -> None:
    llm.answers[CHAT] = events_of("Hello.")
    page = open_page(user=USER)
    log = page.get_by_role("log")
    say(page, "The first question")
    expect(log).to_contain_text("Hello.")
    answered(page)
    llm.answers.clear()
    llm.events, llm.gap = 10_000, 0.05
    say(page, "Count.")
    expect(log).to_contain_text("0123")
    page.get_by_role("button", name="The first question").click()
    expect(log).to_contain_text("0123")
    page.get_by_role("button", name="Stop").click()
    answered(page)
    llm.answers[CHAT] = events_of("The end.")
    say(page, "And then?")
    expect(log).to_contain_text("The end.")
    told = [one["content"] for one in asked(llm)[-1]["messages"]]
    assert told[:3] == ["The first question", "Hello.", "Count."]
    assert told[3].startswith("0123")
    assert told[4:] == ["And then?"]
    page.reload()
    page.get_by_role("button", name="The first question").click()
    expect(page.get_by_role("article")).to_have_count(6)


def test_an_answer_is_lost_to_none_that_does_not_come(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = events_of("Good.")
    page = open_page(user=USER)
    log, alert = page.get_by_role("log"), page.get_by_role("alert")
    say(page, "Hello")
    expect(log).to_contain_text("Good.")
    answered(page)

    def try_again_in_vain(text: str) -> None:
        page.get_by_role("button", name="Try again").click()
        expect(alert).to_contain_text(text)
        answered(page)
        expect(log).to_contain_text("Good.")
        expect(page.get_by_role("article")).to_have_count(2)

    for status, text in ((503, "not ready"), (429, "Try again in 1 s")):
        llm.answers[CHAT] = status
        try_again_in_vain(text)
    page.route(f"**{CHAT}", lambda route: route.abort())
    try_again_in_vain("The connection failed")
    page.unroute(f"**{CHAT}")
    page.reload()
    page.get_by_role("button", name="Hello").click()
    expect(log).to_contain_text("Good.")
    llm.answers[CHAT] = events_of("Better.")
    page.get_by_role("button", name="Try again").click()
    expect(log).to_contain_text("Better.")
    expect(log).not_to_contain_text("Good.")
    assert {len(one["messages"]) for one in asked(llm)} == {1}


def test_an_answer_outlives_a_tab_that_is_closed_before_another_has_come(
    open_page: OpenPage, llm: Upstream
) -> None:
    llm.answers[CHAT] = events_of("Good.")
    page = open_page(user=USER)
    say(page, "Hello")
    expect(page.get_by_role("log")).to_contain_text("Good.")
    answered(page)
    llm.mood = "hang"
    page.get_by_role("button", name="Try again").click()
    wait_for(lambda: len(asked(llm)) == 2, what="the question at the LLM server")
    context = page.context
    page.close()
    llm.mood = "answer"
    other = context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Hello").click()
    expect(other.get_by_role("log")).to_contain_text("Good.")


def test_another_user_of_the_same_browser_is_shown_none_of_them(
    open_page: OpenPage, llm: Upstream, portero: Local
) -> None:
    llm.answers[CHAT] = events_of("Hello.")
    page = open_page(user=USER)
    say(page, "Mine alone")
    expect(page.get_by_role("log")).to_contain_text("Hello.")
    token = Caller(portero).token("ADMNTEST01")
    page.context.add_cookies([{"name": "auth_token", "value": token, "url": portero.gateway}])
    page.goto("/")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    expect(page.get_by_role("button", name="Mine alone")).to_have_count(0)


def test_a_picture_goes_with_the_message(open_page: OpenPage, llm: Upstream) -> None:
    llm.answers[CHAT] = events_of("A dot.")
    page = open_page(user=USER)
    page.get_by_label("Add image").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": DOT}
    )
    expect(page.get_by_role("button", name="Remove image dot.png")).to_be_visible()
    say(page, "What is it?")
    expect(page.get_by_role("log")).to_contain_text("A dot.")
    (body,) = asked(llm)
    message = body["messages"][0]
    assert message["content"][0] == {"type": "text", "text": "What is it?"}
    assert message["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_session_that_is_over_loses_no_text(
    open_page: OpenPage, llm: Upstream, portero: Local
) -> None:
    page = open_page(user=USER)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    portero.command("revoke", "--user", USER)
    page.get_by_role("textbox", name="System prompt").fill("Be kind.")
    say(page, "A long thought")
    expect(page.get_by_role("alert")).to_contain_text("Your session is over")
    page.get_by_role("textbox", name="Message").fill("and another")
    page.get_by_role("alert").get_by_role("link", name="Sign in again").click()
    page.get_by_label("User name").fill(USER)
    page.get_by_label("Password").fill("user-secret-1")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("and another")
    expect(page.get_by_role("textbox", name="System prompt")).to_have_value("Be kind.")
    expect(page.get_by_role("log")).to_contain_text("A long thought")
    llm.answers[CHAT] = events_of("Here I am.")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("log")).to_contain_text("Here I am.")


def test_before_its_session_ends_a_person_is_told(open_page: OpenPage) -> None:
    page = open_page("/login")
    page.clock.install()
    page.get_by_label("User name").fill(USER)
    page.get_by_label("Password").fill("user-secret-1")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("tiny")
    page.clock.fast_forward((900 - 60) * 1000)
    told = page.locator("#ending")
    expect(told).to_contain_text("Your session ends at")
    expect(told.get_by_role("link", name="Sign in again")).to_have_attribute(
        "href", "/login?next=/"
    )


def test_what_went_wrong_is_said_in_human_words(open_page: OpenPage, llm: Upstream) -> None:
    page = open_page(user=USER)
    alert = page.get_by_role("alert")
    for answer, text in (
        (500, "does not answer"),
        (503, "not ready"),
        (429, "Try again in 1 s"),
        (events_of("Half a", end=False), "the connection broke"),
    ):
        llm.answers[CHAT] = answer
        say(page, "Hello")
        expect(alert).to_contain_text(text)
        answered(page)
    expect(page.get_by_role("log")).to_contain_text("Half a")


def test_who_may_not_chat_is_told_so(open_page: OpenPage) -> None:
    page = open_page(user="MNTRTEST01")
    expect(page.get_by_role("heading", level=1)).to_have_text("No chat for this role")
    expect(page.get_by_role("textbox")).to_have_count(0)


def test_without_scripts_the_page_says_what_to_do_instead(open_page: OpenPage) -> None:
    page = open_page(user=USER, java_script_enabled=False)
    expect(page.get_by_text("The chat needs JavaScript")).to_be_visible()
