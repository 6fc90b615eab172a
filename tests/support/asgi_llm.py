"""An LLM server for uvicorn, which vLLM is served by: it answers every chat alike, and tells how
often it got each request. Run as `uvicorn tests.support.asgi_llm:application`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

#: Long enough for many requests to be there at a time, each on a connection of its own.
ANSWER_SECONDS = 0.3

got: Counter[str] = Counter()


async def application(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """`GET /seen` tells all that came; anything else is a chat."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/seen":
        body = json.dumps(got).encode()
    else:
        got[dict(scope["headers"])[b"x-request-id"].decode()] += 1
        await asyncio.sleep(ANSWER_SECONDS)
        body = b'{"choices": []}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
