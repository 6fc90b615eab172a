"""What the user sees when the stack is ready: where it is, and three lines to paste."""

import json
import shlex
from dataclasses import dataclass

from run.commands import ROOT
from run.files import read_text
from run.plan import DEFAULT_DATA_DIR, Plan
from run.terminal import say

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_QUESTION = "What is the capital of France?"
#: Takes the token out of the login's JSON with what every machine has.
READ_JSON = r"""sed -n 's/.*"token": *"\([^"]*\)".*/\1/p'"""
DEMO_LOGINS = "demo-logins"
LOGIN_TO_FILL_IN = "USERNAME:SECRET"


@dataclass(frozen=True)
class Example:
    """The model that the line to paste names, and whether it answers chats; it embeds where not."""

    model: str
    chats: bool = True


MODEL_TO_FILL_IN = Example("MODEL")


def announce(plan: Plan, example: Example) -> None:
    """Print the line `ready …` and the three lines to paste."""
    say("")
    say(f"ready {plan.url}")
    say("")
    for line in curl_lines(plan.url, demo_login(plan) or LOGIN_TO_FILL_IN, example):
        say(line)
    say(admin_line(plan))
    say("")
    say(f"Logs are in {plan.data_dir / 'log'}. Ctrl-C stops it all.")


def curl_lines(url: str, login: str, example: Example) -> list[str]:
    """One login and one streamed chat, for a shell; or what a model without chats is for."""
    path = "/v1/chat/completions" if example.chats else "/v1/embeddings"
    body: dict[str, object] = {"model": example.model, "input": DEMO_QUESTION}
    if example.chats:
        body = {**question(example.model), "stream": True}
    return [
        f"TOKEN=$(curl -sS -u {shlex.quote(login)} -X POST {url}/llm/login | {READ_JSON})",
        f'curl -sSN {url}{path} -H "Authorization: Bearer $TOKEN"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}",
    ]


def admin_line(plan: Plan) -> str:
    """A command for this stack, which ends what the lines above have begun."""
    login = demo_login(plan)
    words = f"revoke --user {login.partition(':')[0]}" if login else "sessions"
    elsewhere = plan.data_dir != ROOT / DEFAULT_DATA_DIR
    where = f"DATA_DIR={shlex.quote(str(plan.data_dir))} " if elsewhere else ""
    return f'make admin {where}ARGS="{words}"'


def question(model: str) -> dict[str, object]:
    """The body of the demo chat."""
    return {"model": model, "messages": [{"role": "user", "content": DEMO_QUESTION}]}


def demo_login(plan: Plan) -> str | None:
    """The first demo login as USERNAME:SECRET; None when the credentials are the user's own."""
    if plan.own_credentials:
        return None
    lines = read_text(plan.data_dir / DEMO_LOGINS).splitlines()
    logins = [line.strip() for line in lines if "=" in line and not line.lstrip().startswith("#")]
    return logins[0].replace("=", ":", 1) if logins else None
