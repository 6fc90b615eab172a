"""What the LLM servers were found to be, in a line for each, and the models that a first call may
name.

It asks from where the gateway asks: on this machine, or in the gateway's own network.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from run import base_urls, llm_servers
from run.files import read_text
from run.greeting import DEMO_MODEL, MODEL_TO_FILL_IN, Example, demo_login
from run.llm_servers import Found, Question
from run.plan import Plan
from run.readiness import models_for
from run.terminal import say

MAX_SHOWN, MAX_CHARACTERS = 3, 80

Asker = Callable[[Question], list[Found]]


def first_example(plan: Plan, env: Mapping[str, str], ask: Asker) -> Example:
    """What a first call may name, after all servers were asked and told of; the bundled LLM is no
    secret.
    """
    if not plan.own_llm:
        return Example(DEMO_MODEL)
    found = report(env, ask)
    login = demo_login(plan)
    has_models = any(one.models for one in found)
    allowed = models_for(plan, login) if login and has_models else None
    return example(found, allowed) or MODEL_TO_FILL_IN


def report(env: Mapping[str, str], ask: Asker) -> list[Found]:
    """Ask all servers of LLM_UPSTREAM, and say what came of it. None of it stops the start: a
    server may come later.
    """
    found = ask(question(env))
    for one in found:
        say(f"LLM server {one.url}: {words(one, env.get('LLM_KIND', ''))}")
    return found


def question(env: Mapping[str, str]) -> Question:
    """What is asked, as the gateway was told to ask."""
    path = env.get("LLM_API_KEY_FILE")
    key = read_key(Path(path)) if path else env.get("LLM_API_KEY", "")
    trusted = read_text(Path(env["LLM_CA_FILE"])) if "LLM_CA_FILE" in env else ""
    return Question(tuple(base_urls.listed(env["LLM_UPSTREAM"])), key, trusted)


def read_key(path: Path) -> str:
    """Byte by byte, whatever they are; empty when there is none to be read."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def words(found: Found, wanted_kind: str) -> str:
    """What one server was found to be."""
    if found.fault:
        return plain(found.fault, 2 * MAX_CHARACTERS)
    kind = kind_words(found.kind, wanted_kind)
    return f"{kind}; {model_words(found)}"


def kind_words(kind: str, wanted: str) -> str:
    """Which kind it seems to be, and whether that is what it was called."""
    if not kind:
        return "reached, of a kind of its own"
    if wanted and kind != wanted:
        return f"seems to be {kind}, but LLM_KIND is {wanted}: set LLM_KIND={kind}"
    return kind if wanted else f"seems to be {kind} (LLM_KIND={kind} would open its routes alone)"


def model_words(found: Found) -> str:
    """How many models, and the first of them."""
    count = len(found.models)
    if count == 0:
        return "it has no model yet"
    names = ", ".join(plain(name) for name in found.models[:MAX_SHOWN])
    more = ", …" if count > MAX_SHOWN else ""
    only = "" if found.chat else " (none for chats)"
    return f"{count} model{'' if count == 1 else 's'}: {names}{more}{only}"


def plain(text: str, most: int = MAX_CHARACTERS) -> str:
    """What a server said, harmless on a terminal."""
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def example(found: Sequence[Found], allowed: Sequence[str] | None) -> Example | None:
    """A model that is there; None where none is. `allowed` are those that the caller may use, where
    that is known.
    """
    chat = [name for one in found for name in one.chat]
    models = [name for one in found for name in one.models]
    for names in (chat, models):
        for name in names:
            if (allowed is None or name in allowed) and name == plain(name, len(name)):
                return Example(name, name in chat)
    return None


def in_container(run: Callable[[str, str], tuple[int, str]]) -> Asker:
    """Asks where the gateway's container is: `run` takes a program and its standard input, and
    answers its exit status and words.
    """

    def ask(asked: Question) -> list[Found]:
        program = Path(llm_servers.__file__).read_text()
        given = {"urls": asked.urls, "key": asked.key, "trusted": asked.trusted}
        status, said = run(program, json.dumps(given))
        try:
            found = llm_servers.read_found(said.strip().splitlines()[-1])
            if status == 0 and [one.url for one in found] == list(asked.urls):
                return found
        except (ValueError, LookupError, TypeError):
            pass
        reason = f"could not be asked from the gateway's network (exit status {status})"
        return [Found(url, reason) for url in asked.urls]

    return ask
