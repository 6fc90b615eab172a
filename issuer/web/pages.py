"""Pages in the reader's language: templates, with the texts of `texts/`, a file a language.

The language is what the browser asks for (RFC 9110 section 12.5.4), the first one where it asks for
none that is here. A page must never depend on who the client says the host is.
"""

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from flask import make_response, render_template, request
from flask.wrappers import Response

LANGUAGES = ("en", "es")
TEXTS = Path(__file__).parent / "texts"

#: Beside what every answer has (`responses.SECURITY_HEADERS`): our own scripts, which may ask this
#: host alone, and whose only way to make markup of text is the sanitiser's.
SCRIPTED_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
#: The chat shows pictures that its reader chose, which are data.
CHAT_POLICY = SCRIPTED_POLICY.replace("img-src 'self'", "img-src 'self' data:")


@cache
def texts(language: str) -> dict[str, str]:
    """All texts of a language by their names."""
    found: dict[str, str] = json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))
    return found


def language() -> str:
    """The reader's, of those that there are."""
    return request.accept_languages.best_match(LANGUAGES, LANGUAGES[0])


def text(name: str, /, **values: object) -> str:
    """A text in the reader's language, with the values in it."""
    return texts(language())[name].format(**values)


def text_or(name: str, otherwise: str) -> str:
    """The same, where there may be none of that name."""
    return texts(language()).get(name, otherwise)


def texts_of(prefix: str) -> dict[str, str]:
    """All texts of one part, by the rest of their names, for a script."""
    known = texts(language())
    return {
        name.removeprefix(prefix): value for name, value in known.items() if name.startswith(prefix)
    }


def utc(seconds: int) -> str:
    """A moment as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def page(template: str, policy: str | None = None, status: int = 200, **values: Any) -> Response:
    """A page; `policy` is its Content-Security-Policy, where it is not the usual one."""
    filled = render_template(
        template,
        t=text,
        t_or=text_or,
        texts_of=texts_of,
        language=language(),
        status=status,
        **values,
    )
    answer = make_response(filled, status)
    answer.headers["Vary"] = "Accept, Accept-Language"
    if policy:
        answer.headers["Content-Security-Policy"] = policy
    return answer
