"""Malformed and ambiguous requests, out of a small grammar: what a first line, a header and a body
may be is bent at one place, or at two. Each is bytes as they go over the wire.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

#: Would be a request of its own to whoever loses count of a body's bytes.
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"
CHAT = b'{"model":"tiny","messages":[]}'


@dataclass(frozen=True)
class Request:
    """The parts of a request; `{token}` stands for a good token."""

    method: bytes = b"POST"
    target: bytes = b"/v1/chat/completions"
    version: bytes = b"HTTP/1.1"
    space: bytes = b" "
    headers: tuple[bytes, ...] = (b"Host: x", b"Content-Type: application/json")
    credential: bytes = b"Authorization: Bearer {token}"
    framing: tuple[bytes, ...] = (b"Content-Length: %d" % len(CHAT),)
    body: bytes = CHAT
    line_end: bytes = b"\r\n"

    def bytes(self, token: str) -> bytes:
        """As it is sent."""
        line = self.space.join(part for part in (self.method, self.target, self.version) if part)
        lines = [line, *self.headers, self.credential, *self.framing, b""]
        head = self.line_end.join(lines) + self.line_end
        return head.replace(b"{token}", token.encode()) + self.body


GOOD = Request()


METHODS = (
    b"post", b"Post", b"POST\t", b"FOO", b"PRI", b"TRACE", b"CONNECT", b"", b"P\x00ST", b"POST:",
    b"\xd0\x9eST", b"P" * 9000,
)  # fmt: skip
VERSIONS = (
    b"", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"http/1.1",
    b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1.10", b"HTTP/1.1x", b"HTTP /1.1", b"HTTP/1.1 HTTP/1.1",
    b"RTSP/1.0", b"HTTP/-1.1", b"HTTP/1.1\x00",
)  # fmt: skip
TARGETS = (
    b"*", b"x", b"x/v1/chat/completions", b"http://evil/v1/chat/completions", b"//evil/v1/chat",
    b"http://u@h/v1/chat/completions", b"http:///v1/chat/completions", b"/v1/chat/completions\x00",
    b"/v1/chat/completions%00", b"/v1/chat/completions#x", b"/v1/chat/completions/",
    b"/v1/Chat/completions", b"/v1//chat/completions", b"/v1/./chat/completions",
    b"/v1/x/../chat/completions", b"/v1/chat%2fcompletions", b"/v1/chat\\completions",
    b"/v1/chat/completions;x=1", b"/v1/%63hat/completions", b"/v1/chat/completions%0d%0aX: y",
    b"/v1/chat/\xc3\xa9", b"/v1/chat/%c0%ae%c0%ae/x", b"/v1/chat/completions\x7f",
    b"/v1/chat/completions\r", b"/" + b"a" * 70_000, b"/v1/chat/completions?" + b"a" * 70_000,
    b"/v1/chat/completions?token=x", b"?x=/v1/chat/completions", b"/x?/v1/chat/completions",
    b"/validate", b"/sync/apply", b"/refused/", b"/llm-server-says",
)  # fmt: skip
MORE = (
    b"Host: y", b"Host:", b"host: x", b"Host: h/?", b"Host : x", b" folded: x", b"\tfolded",
    b"X-A: b\r\n c", b": empty name", b"no colon", b"X-Nul: a\x00b", b"X-Cr: a\rb",
    b"X-Ctl: a\x01b", b"X-8bit: \xff\xfe", b"X A: b", b"X-A : b", b"X_A: b", b"X-\xc3\xa9: b",
    b"\x00: b", b"Transfer-Encoding : chunked", b"Content-Length : 3",
    b"Transfer_Encoding: chunked", b"Authorization: Bearer {token}", b"Authorization: Bearer x",
    b"authorization:", b"Cookie: auth_token={token}x", b"x-api-key: other",
    b"x-api-key: {token}\r\nx-api-key: {token}", b"Expect: 100-continue", b"Expect: junk",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAR",
    b"Upgrade: websocket\r\nConnection: Upgrade", b"Connection: close, X-Auth-User, Authorization",
    b"Content-Type: text/plain", b"Content-Encoding: gzip", b"Range: bytes=0-0", b"Trailer: Host",
    b"TE: trailers", b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /admin/",
    b"X-Auth-Role: admin", b"X_Auth_Role: admin", b"X-Long: " + b"a" * 40_000,
    b"\r\n".join(b"X-%d: y" % n for n in range(1500)),
)  # fmt: skip
CREDENTIALS = (
    b"Authorization: Bearer", b"Authorization: Bearer\t{token}", b"Authorization: {token}",
    b"Authorization: Bearer {token},x", b"Authorization: Basic eDp5",
    b"Authorization: Bearer {token}\x00", b"X: y", b"Cookie: x=1,auth_token={token}",
    b"Cookie: AUTH_TOKEN={token}", b"Cookie: auth_token=\"{token}\"",
    b"Authorization; Bearer {token}",
)  # fmt: skip


def lines() -> Iterator[tuple[str, Request]]:
    """First lines."""
    for method in METHODS:
        yield f"method {method[:8]!r}", replace(GOOD, method=method)
    for version in VERSIONS:
        yield f"version {version!r}", replace(GOOD, version=version)
    for space in (b"\t", b"  ", b"\x0b", b"\xa0", b"\r", b"\x00", b""):
        yield f"space {space!r}", replace(GOOD, space=space)
    for target in TARGETS:
        yield f"target {target[:40]!r}", replace(GOOD, target=target)


def headers() -> Iterator[tuple[str, Request]]:
    """Heads."""
    for more in MORE:
        yield f"header {more[:40]!r}", replace(GOOD, headers=(*GOOD.headers, more))
    for bad in (
        (),
        (b"Host: x", b"Host: x"),
        (b"Host: x\x00",),
        (b"Host: a b",),
        (b"Host: x:y:z",),
    ):
        yield f"hosts {bad!r}", replace(GOOD, headers=bad)
    for credential in CREDENTIALS:
        yield f"credential {credential!r}", replace(GOOD, credential=credential)
    for line_end in (b"\n", b"\r", b"\r\r\n", b"\n\r"):
        yield f"line end {line_end!r}", replace(GOOD, line_end=line_end)


LENGTHS = (
    b"+30", b"-1", b"0x1e", b"30, 30", b"30 30", b"", b"30;", b"00030", b"18446744073709551646",
    b"3e1", b"30.0",
    b" 30 ", b"\x0b30", b"30\x00", b"\xb230", b"4294967326", b"31", b"29", b"0",
)  # fmt: skip
ENCODINGS = (
    b"xchunked", b"chunked, chunked", b"chunked, identity", b"identity", b"identity, chunked",
    b"gzip, chunked", b"\x0bchunked",
    b"CHUNKED", b"chunked;q=1", b'"chunked"', b"chunked\x00", b" chunked", b"chunked,", b",chunked",
    b"", b"cow", b"chunk",
)  # fmt: skip
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = {
    "good": b"1e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "capitals": b"1E\r\n%s\r\n0\r\n\r\n" % CHAT,
    "zeros": b"0000001e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "0x": b"0x1e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "plus": b"+1e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "minus": b"-1e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "blank": b" 1e \r\n%s\r\n0\r\n\r\n" % CHAT,
    "extension": b"1e;a=b\r\n%s\r\n0;c\r\n\r\n" % CHAT,
    "line feed in an extension": b"1e;\n%s\r\n0\r\n\r\n" % CHAT,
    "quoted extension": b'1e;a="\r\n"\r\n%s\r\n0\r\n\r\n' % CHAT,
    "line feeds": b"1e\n%s\n0\n\n" % CHAT,
    "carriage returns": b"1e\r%s\r0\r\r" % CHAT,
    "overflow": b"1000000000000001e\r\n%s\r\n0\r\n\r\n" % CHAT,
    "huge": b"7fffffffffffffff\r\n%s\r\n0\r\n\r\n" % CHAT,
    "no end behind data": b"1e\r\n%s0\r\n\r\n" % CHAT,
    "more data than told": b"2\r\n%s\r\n0\r\n\r\n" % CHAT,
    "less data than told": b"ff\r\n%s\r\n0\r\n\r\n" % CHAT,
    "empty size": b"\r\n%s\r\n0\r\n\r\n" % CHAT,
    "no size": b"zz\r\n%s\r\n0\r\n\r\n" % CHAT,
    "trailer": b"1e\r\n%s\r\n0\r\nX-Auth-Role: admin\r\nHost: evil\r\n\r\n" % CHAT,
    "framing trailer": b"1e\r\n%s\r\n0\r\nContent-Length: 50\r\n%s\r\n\r\n" % (CHAT, CHUNKED),
    "broken trailer": b"1e\r\n%s\r\n0\r\nno colon\x00\r\n\r\n" % CHAT,
    "last twice": b"1e\r\n%s\r\n0\r\n\r\n0\r\n\r\n" % CHAT,
}  # fmt: skip


def framings() -> Iterator[tuple[str, Request]]:
    """Where a body ends. What is behind it would be another request."""
    for length in LENGTHS:
        framed = replace(GOOD, framing=(b"Content-Length: " + length,))
        yield f"length {length!r}", framed
        yield f"length {length!r}, smuggled", replace(framed, body=CHAT + SMUGGLED)
        two = (*GOOD.framing, b"Content-Length: " + length)
        yield f"two lengths {length!r}", replace(GOOD, framing=two)
        yield f"two lengths {length!r} turned round", replace(GOOD, framing=two[::-1])
    for encoding in ENCODINGS:
        line = b"Transfer-Encoding: " + encoding
        for name, framing in {
            "encoding": (line,),
            "encoding and length": (line, b"Content-Length: 6"),
            "length and encoding": (b"Content-Length: 6", line),
            "encoding and chunked": (line, CHUNKED),
            "chunked and encoding": (CHUNKED, line),
        }.items():
            made = replace(GOOD, framing=framing, body=CHUNKS["good"])
            yield f"{name} {encoding!r}", made
            yield f"{name} {encoding!r}, smuggled", replace(made, body=b"0\r\n\r\n" + SMUGGLED)
    for name, body in CHUNKS.items():
        made = replace(GOOD, framing=(CHUNKED,), body=body)
        yield f"chunks {name}", made
        yield f"chunks {name}, smuggled", replace(made, body=body + SMUGGLED)
        yield f"chunks {name} in HTTP/1.0", replace(made, version=b"HTTP/1.0")
    for size in (b"1e", b"0"):
        yield (
            f"chunked by its trailer {size!r}",
            replace(GOOD, framing=(b"Content-Length: 0",), body=SMUGGLED),
        )


def bent_twice() -> Iterator[tuple[str, Request]]:
    """A head and a framing that are both odd."""
    heads = [case for case in headers() if len(case[1].headers) > 2][:22]
    bodies = list(framings())[::11]
    for (name, head), (other, body) in product(heads, bodies):
        both = replace(head, framing=body.framing, body=body.body)
        yield f"{name} with {other}", both


def corpus() -> dict[str, Request]:
    """All, by a name each."""
    return {name: made for part in (lines, headers, framings, bent_twice) for name, made in part()}
