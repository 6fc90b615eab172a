"""The LLM server that peers and the harness are measured in front of: an nginx that answers each
chat in OpenAI's shape, at once or after a while. It must never be what limits them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.servers import LOAD_CORE, nginx
from tests.support.deployment import answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

MODEL = "tiny"
CHAT = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Good day to you, too."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
    }
)
#: Where it tells whom it was told of, and the token that it was shown: nothing loads that.
SEEN = "/seen"
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

CONTENT = """
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        client_max_body_size 64m;
        default_type application/json;
        location / {{ {answer} }}
        location = {seen} {{ return 200 '$http_x_auth_user $http_authorization'; }}
        location = /v1/models {{ return 200 '{models}'; }}
    }}
"""
AT_ONCE = "return 200 '{}';"
#: Lua, as nginx alone has no way to wait.
LATER = (
    "content_by_lua_block {{ ngx.req.read_body() ngx.sleep({seconds}) "
    "ngx.header['Content-Length'] = {length} ngx.print([[{answer}]]) }}"
)


@contextmanager
def mock(folder: Path, milliseconds: int = 0) -> Iterator[int]:
    """The port of one that runs, on the load's core."""
    (port,) = free_ports(1)
    answer = AT_ONCE.format(ANSWER)
    if milliseconds:
        seconds = milliseconds / 1000
        answer = LATER.format(seconds=seconds, length=len(ANSWER), answer=ANSWER)
    content = CONTENT.format(port=port, answer=answer, models=MODELS, seen=SEEN)
    with nginx(folder, f"mock-{milliseconds}", content, LOAD_CORE):
        url = f"http://127.0.0.1:{port}/v1/models"
        wait_for(lambda: answers(url, 200), 10, "the mock is up")
        yield port
