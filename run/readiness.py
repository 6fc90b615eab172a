"""Whether the stack is ready: the gateway says so, and with the bundled LLM a chat came through."""

import base64
import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence

from run.greeting import DEMO_MODEL, demo_login, question
from run.plan import HOST, Plan
from run.signals import TICK_SECONDS
from run.terminal import RunError
from run.watching import Part, check_alive

READY_SECONDS = 60
CHAT_SECONDS = 120
REQUEST_SECONDS = 30
#: What a part that is still starting, or a limit, may answer; any other status will not change.
PASSING_STATUSES = (429, 500, 502, 503, 504)
#: What a demo user gets who was removed, has another secret, or whose role was changed.
NO_LOGIN_STATUSES = (401, 403)


def wait_for_issuer(plan: Plan, children: Sequence[Part]) -> None:
    """Until logins can be answered. The gateway is told of tokens only after: who waits for it to
    be ready shall be able to log in.
    """
    fault = wait_while(lambda: issuer_fault(plan), children, READY_SECONDS)
    if fault:
        log = plan.data_dir / "log" / "issuer.log"
        raise RunError(f"the issuer is not ready after {READY_SECONDS} s ({fault}); see {log}")


def issuer_fault(plan: Plan) -> str:
    """Why the issuer is not ready; empty when it is."""
    connection = http.client.HTTPConnection(HOST, plan.issuer_port, timeout=REQUEST_SECONDS)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status == 200 else f"/readyz answers {status}"


def wait_until_ready(plan: Plan, children: Sequence[Part]) -> None:
    """Until the gateway is ready and, with the bundled LLM and demo users, a chat came through."""
    logs = f"logs are in {plan.data_dir / 'log'}"
    fault = wait_while(lambda: gateway_fault(plan), children, READY_SECONDS)
    if fault:
        raise RunError(f"the gateway is not ready after {READY_SECONDS} s ({fault}); {logs}")
    login = demo_login(plan)
    if plan.own_llm or login is None:
        return
    fault = wait_while(lambda: chat_fault(plan, login), children, CHAT_SECONDS)
    if fault:
        raise RunError(f"no chat came through in {CHAT_SECONDS} s ({fault}); {logs}")


def wait_while(find_fault: Callable[[], str], children: Sequence[Part], seconds: float) -> str:
    """Ask until there is no fault; the last one when the time is over."""
    deadline = time.monotonic() + seconds
    while fault := passing_fault(find_fault):
        check_alive(children)
        if time.monotonic() > deadline:
            return fault
        time.sleep(TICK_SECONDS)
    return ""


def passing_fault(find_fault: Callable[[], str]) -> str:
    """A connection that fails is a fault that may pass."""
    try:
        return find_fault()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def gateway_fault(plan: Plan) -> str:
    """Why the gateway is not ready; empty when it is."""
    status, _ = ask(plan, "GET", "/readyz")
    return "" if status == 200 else f"/readyz answers {status}"


def log_in(plan: Plan, login: str) -> tuple[int, bytes]:
    """A real login through the gateway."""
    basic = base64.b64encode(login.encode()).decode()
    return ask(plan, "POST", "/llm/login", {"Authorization": f"Basic {basic}"})


def models_for(plan: Plan, login: str) -> list[str] | None:
    """The models that this user sees through the gateway; None where that cannot be told."""
    try:
        status, answer = log_in(plan, login)
        headers = {"Authorization": f"Bearer {token_in(answer)}"}
        status, answer = ask(plan, "GET", "/v1/models", headers)
        return [str(one["id"]) for one in json.loads(answer)["data"]] if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def chat_fault(plan: Plan, login: str) -> str:
    """A real login and a real answer of the LLM through the gateway; the fault if it may pass."""
    status, answer = log_in(plan, login)
    if status in NO_LOGIN_STATUSES:
        return ""  # the demo users are the operator's, and the gateway said that it is ready
    if status == 200:
        headers = {"Authorization": f"Bearer {token_in(answer)}"}
        body = {**question(DEMO_MODEL), "max_tokens": 4}
        status, answer = ask(plan, "POST", "/v1/chat/completions", headers, body)
    if status in PASSING_STATUSES:
        return f"status {status}"
    check_answer(status, answer)
    return ""


def token_in(answer: bytes) -> str:
    """The token of a login's answer."""
    try:
        return str(json.loads(answer)["token"])
    except (ValueError, KeyError, TypeError):
        return ""  # the gateway will say what it thinks of that


def check_answer(status: int, answer: bytes) -> None:
    """Raise unless this is an answer of the LLM."""
    try:
        if status == 200 and json.loads(answer)["choices"][0]["message"]["content"]:
            return
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    words = answer[:200].decode(errors="replace")
    raise RunError(
        f"the first chat with the demo login failed: status {status}, {words!r}",
        "if you changed the generated credentials, name them: make run CREDENTIALS_FILE=...",
    )


def ask(
    plan: Plan,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> tuple[int, bytes]:
    """Not through urllib: it would send this to the proxy that the environment names."""
    connection = http.client.HTTPConnection(HOST, plan.gateway_port, timeout=REQUEST_SECONDS)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, json.dumps(body) if body else None, sent)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
