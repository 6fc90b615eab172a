"""What no route can take is refused, and each fault is said in a sentence of its own (_h9). Sent as
bytes, for no client writes such requests.
"""

import json
from dataclasses import dataclass

import pytest

from tests.support.deployment import Caller
from tests.support.upstream import Upstream

LINE = "GET /v1/models HTTP/1.1"
POST = "POST /v1/chat/completions HTTP/1.1"
HOST = "Host: x"
CHUNKED = "Transfer-Encoding: chunked"
LONG = "a" * 20_000
#: Of what the client sent nothing is to be found in the answer.
CANARY = "canary"


@dataclass(frozen=True)
class Fault:
    """A request, and what its refusal says. `body` follows the head."""

    says: str
    line: str = LINE
    headers: tuple[str, ...] = (HOST,)
    body: bytes = b""
    status: int = 400
    code: str = "invalid_request"


def path(says: str, written: str, status: int = 400, code: str = "invalid_request") -> Fault:
    """A fault of a path."""
    return Fault(says, f"POST {written} HTTP/1.1", status=status, code=code)


FAULTS = {
    "doubled slash": path("two slashes", "//v1/chat/completions"),
    "doubled slash within": path("two slashes", f"/v1//{CANARY}"),
    "slash at the end": path("ends with a slash", "/v1/chat/completions/", 404, "not_found"),
    "no route": path("No such route.", f"/v1/{CANARY}", 404, "not_found"),
    "no route with a slash": path("No such route.", f"/v1/{CANARY}/", 404, "not_found"),
    "dot segment": path("dot segment", "/v1/../v1/models"),
    "hidden dot segment": path("dot segment", "/v1/%2e%2e/admin/"),
    "dot segment above all": path("dot segment", "/../v1/models"),
    "escaped slash": path("escaped slash", f"/llm%2f{CANARY}"),
    "needless escape": path("escape that no route needs", "/%761/models"),
    "backslash": path("backslash", f"/v1\\{CANARY}"),
    "escaped backslash": path("backslash", "/v1%5Cmodels"),
    "fragment": path("#", f"/v1/chat/completions#{CANARY}"),
    "escaped NUL": path("control character", "/v1/models%00"),
    "escaped line end": path("control character", "/x%0d%0aX-Auth-Role:%20admin"),
    "raw control character": path("control character", "/v1/\x01models"),
    "half an escape": path("percent sign", f"/v1/%zz{CANARY}"),
    "raw space": path("space", f"/v1/{CANARY} models"),
    "another character": path("character that no route has", f"/v1/models;{CANARY}=1"),
    "an open path": path("escaped slash", "/llm%2flogin"),
    "another open path": path("two slashes", "//healthz"),
    "no path": path("begins with a slash", f"{CANARY}/models"),
    "token in the query": Fault("Authorization header", f"GET /v1/models?token={CANARY} HTTP/1.1"),
    "key in the query": Fault("Authorization header", f"GET /v1/models?api_key={CANARY} HTTP/1.1"),
    "another version": Fault("HTTP/1.1", "GET /v1/models HTTP/1.2"),
    "a version to come": Fault("HTTP/1.1", "GET /v1/models HTTP/3.0"),
    "another protocol": Fault("HTTP/1.1", "GET /v1/models RTSP/1.0"),
    "another method": Fault(
        "for this method", "PATCH /v1/models HTTP/1.1", status=404, code="not_found"
    ),
    "an invented method": Fault(
        "for this method", "FOO /v1/models HTTP/1.1", status=404, code="not_found"
    ),
    "a method in small letters": Fault("capital letters", "get /v1/models HTTP/1.1"),
    "no request": Fault("METHOD /path", CANARY),
    "several credentials": Fault(
        "more than one credential", headers=(HOST, f"x-api-key: {CANARY}")
    ),
    "a long query": Fault("longer than", f"GET /v1/models?{LONG} HTTP/1.1"),
    "a large header": Fault("too large", headers=(HOST, f"X-Any: {LONG}")),
    "many headers": Fault(
        "too large", headers=(HOST, *[f"X-{n}: {LONG[:15000]}" for n in range(6)])
    ),
    "no Host": Fault("no Host header", headers=()),
    "two Hosts": Fault("more than one Host", headers=(HOST, HOST)),
    "a Host that is none": Fault("name of a host", headers=(f"Host: {CANARY}/x",)),
    "a header that is none": Fault("header is malformed", headers=(HOST, f"X-Any: {CANARY}\x00")),
    "a length that is none": Fault("Content-Length", POST, (HOST, f"Content-Length: {CANARY}")),
    "two lengths": Fault("twice", POST, (HOST, "Content-Length: 2", "Content-Length: 3"), b"{}"),
    "a length and chunks": Fault(
        "send one of them", POST, (HOST, "Content-Length: 2", CHUNKED), b"0\r\n\r\n"
    ),
    "another encoding": Fault("Transfer-Encoding", POST, (HOST, "Transfer-Encoding: gzip")),
    "broken chunks": Fault("chunks", POST, (HOST, CHUNKED), b"zz\r\n{}\r\n0\r\n\r\n"),
    "chunks that break": Fault("chunks", POST, (HOST, CHUNKED), b"2\r\n{}\r\nzz\r\n"),
}


def asked(caller: Caller, token: str, fault: Fault) -> tuple[int, str]:
    """The status and the body of the answer."""
    ours = (f"Authorization: Bearer {token}", "Connection: close", "", "")
    head = "\r\n".join((fault.line, *fault.headers, *ours))
    answer = caller.raw(head.encode("latin-1") + fault.body, 3.0)
    begin, _, body = answer.partition(b"\r\n\r\n")
    return int(begin.split()[1]), body.decode()


def message_of(body: str) -> tuple[str, str]:
    """The sentence and the code, of a body that may have come in one chunk."""
    content = json.loads(body[body.index("{") : body.rindex("}") + 1])["error"]
    return (content, "") if isinstance(content, str) else (content["message"], content["code"])


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault_of_a_request_has_a_sentence_of_its_own_h9(
    caller: Caller, agent: str, upstream: Upstream, what: str
) -> None:
    fault = FAULTS[what]
    status, body = asked(caller, agent, fault)
    message, code = message_of(body)
    assert (status, code) == (fault.status, fault.code)
    assert fault.says in message
    assert message != "The request is not acceptable."
    assert CANARY not in body
    assert agent not in body
    assert upstream.seen == []


@pytest.mark.parametrize(
    "fault",
    [
        path("two slashes", "/api//chat"),
        path("ends with a slash", "/api/chat/", 404),
        Fault("too large", "POST /api/chat HTTP/1.1", (HOST, f"X-Any: {LONG}")),
        Fault("chunks", "POST /api/chat HTTP/1.1", (HOST, CHUNKED), b"zz\r\n"),
        Fault("Host", "POST /api/chat HTTP/1.1", ()),
    ],
    ids=lambda fault: fault.says,
)
def test_under_api_the_sentence_is_said_as_ollama_says_it_h9(
    caller: Caller, agent: str, fault: Fault
) -> None:
    status, body = asked(caller, agent, fault)
    assert status == fault.status
    message, code = message_of(body)
    assert fault.says in message
    assert code == ""


@pytest.mark.parametrize(
    ("written", "is_told"),
    [("/slots/", True), ("/validate/", False), ("/sync/apply/", False), ("/tools/", False)],
)
def test_a_slash_is_told_of_at_the_end_of_routes_alone_h9(
    caller: Caller, agent: str, written: str, is_told: bool
) -> None:
    status, body = asked(caller, agent, path("", written))
    assert status == 404
    assert ("ends with a slash" in body) == is_told
