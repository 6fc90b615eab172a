"""Tracing without a dependency: `on_event` counts logins and retries, a `traceparent` header ties a
request to the trace of the caller (OpenTelemetry's, Langfuse's), and the request's ID leads to the
gateway's log. Prompts stay out of it.
"""

import secrets
import time
from collections import Counter

import httpx2

import portero

counts: Counter[str] = Counter()


def count(event: portero.Event) -> None:
    counts[event.kind] += 1


def traceparent() -> str:
    """W3C Trace Context; OpenTelemetry's propagator writes the same."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


with (
    portero.TokenSource(on_event=count) as source,
    httpx2.Client(base_url=source.url, auth=source.auth, timeout=60) as http,
):
    model = http.get("/v1/models").json()["data"][0]["id"]
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "messages": messages, "max_tokens": 8}
    trace, begun = traceparent(), time.perf_counter()
    answer = http.post("/v1/chat/completions", json=body, headers={"traceparent": trace})
    seconds = time.perf_counter() - begun
print(f"span {trace} {seconds:.2f} s, status {answer.status_code}", end=", ")
print(f"request {answer.headers['x-request-id']}, usage {answer.json()['usage']['total_tokens']}")
print(dict(counts))
