"""Random JSON bodies with long texts of all kinds, and mutations of them, the same for one seed.

Most mutations stand within a text, where readers could differ on where it ends.
"""

from collections.abc import Callable
from random import Random

#: Whole characters, words and escapes.
KINDS: tuple[tuple[bytes, ...], ...] = tuple(
    tuple(one.encode() for one in kind)
    for kind in (
        ("the ", "quick ", "brown ", "fox ", "jumps ", "over ", "dogs. ", "\\n"),
        ("if (", "a == ", '\\"b\\"', ") {", "\\n", "\\t", "    ", "\\\\n", "\\r\\n", "// ", "[];"),
        ("el ", "niño ", "está ", "aquí, ", "¿qué? ", "mañana ", "\\n", '\\"sí\\" '),
        ("人", "工", "智", "能", "\uff0c", "。", "\\n", '\\"', "AI "),
        ("한", "글", "하", " ", "\u0915", "\u093f", "ж", "é", "\ufffd", "\ud7ff", "\ue000"),
        ("😀", "\U0010ffff", " ", "ok ", "\\n"),
        ("\\u4eba", "\\u00e9", "\\ud83d\\ude00", "\\u0022", "\\u005c", "\\/", "\\b", "\\\\", "x"),
        ("iVBORw0KGgo", "AAAANSUhEUg", "+/8=", "Zm9v"),
    )
)
#: What stands in a text where it should not, or where it changes what is behind it.
HOSTILE = (
    b'"', b"\\", b'\\"', b"\\\\", b'\\\\"', b'\\\\\\"', b"\\u", b"\\u00", b"\\u0022", b"\\u005c",
    b'\\u002"', b"\\x22", b"\\x", b"\\'", b"\\0", b"\\\n", b"\\\xc3\xa9", b"\\ud800", b"\\udc00",
    b"\\udc00\\ud800", b"\\u0000", b"\\n", b"\0", b"\1", b"\n", b"\r", b"\t", b"\x1f", b"\x7f",
    b"\x80", b"\xbf", b"\xc0\xa2", b"\xc0", b"\xc1\xbf", b"\xc2", b"\xc3", b"\xe0\x80\xa2",
    b"\xe0\x9f\xbf", b"\xe2", b"\xe2\x80", b"\xe4\xba", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xef",
    b"\xef\xbb\xbf", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf0\x80\x80\xa2",
    b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff",
    b"\xc3\xa9", b"\xe4\xba\xba", b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"'",
    b'","model":"other","x":"', b'\\","model":"other","x":"', b'"}', b'"},{"a":"', b"/*", b"//",
)  # fmt: skip
#: What stands between members.
MEMBERS = (
    b'"model":"other"', b'"Model":"other"', b'"mod\\u0065l":"other"', b'"model":null',
    b'"\xc5\xbftream":true', b'"stream":true', b'"name":"other"', b'"lora":[{"id":0}]',
    b'"backend":null', b'"a":1', b'"priority":-5', b'"a":{"model":"other"}', b'"a":"\\ud800"',
    b'"tools":[{"type":"mcp"}]', b'"tools":[{"type":"function"}]', b'"conversation":"c"',
    b'"previous_response_id":"resp_1"', b'"b":1e400', b'"b":01', b'"b":NaN', b'"b":-0.5E+2',
)  # fmt: skip
NAMES = (b"small", b"library/tiny:7b", b"\xe6\xa8\xa1", b"caf\xc3\xa9", b"a\\/b", b"\\u0061b")
ADDRESSES = (b"http:\\/\\/h/a.png", b"https://h/\xc3\xa9", b"data:image/png;base64,iVBOR", b"iVBOR")


class BodyFuzzer:
    """Makes bodies."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._mutations: tuple[Callable[[bytes], bytes], ...] = (
            self._insert, self._insert, self._insert, self._at_a_quote, self._at_a_quote,
            self._delete, self._replace, self._add_member, self._add_member, self._splice,
        )  # fmt: skip

    def bodies(self, count: int) -> list[bytes]:
        """The next ones."""
        return [self._mutated(self._body()) for _ in range(count)]

    def _mutated(self, body: bytes) -> bytes:
        for _ in range(self._random.choice((0, 1, 1, 1, 1, 1, 2, 2, 3))):
            body = self._random.choice(self._mutations)(body)
        return body

    # A good one.

    def _text(self) -> bytes:
        kind = self._random.choice(KINDS)
        return b"".join(self._random.choices(kind, k=self._random.randrange(60)))

    def _message(self) -> bytes:
        if self._random.random() < 0.8:
            return b'{"role":"user","content":"%s"}' % self._text()
        url = self._random.choice(ADDRESSES)
        part = b'{"type":"image_url","image_url":{"url":"%s"}}' % url
        return b'{"role":"user","content":[{"type":"text","text":"%s"},%s]}' % (self._text(), part)

    def _body(self) -> bytes:
        members = [
            b'"model":"%s"' % self._random.choice(NAMES),
            b'"messages":[%s]' % b",".join(self._message() for _ in range(2)),
        ]
        if self._random.random() < 0.5:
            members.append(b'"stream":true,"stream_options":{"include_usage":false}')
        if self._random.random() < 0.3:
            members.append(b'"prompt":"%s"' % self._text())
        self._random.shuffle(members)
        return b"{%s}" % self._random.choice((b",", b", ", b"\n,")).join(members)

    # Mutations.

    def _insert(self, body: bytes) -> bytes:
        at = self._random.randrange(len(body) + 1)
        return body[:at] + self._random.choice(HOSTILE) + body[at:]

    def _at_a_quote(self, body: bytes) -> bytes:
        at = body.find(b'"', self._random.randrange(len(body) + 1))
        at += self._random.choice((0, 0, 0, 1))
        return body[:at] + self._random.choice(HOSTILE) + body[at:]

    def _delete(self, body: bytes) -> bytes:
        at = self._random.randrange(len(body) + 1)
        return body[:at] + body[at + self._random.choice((1, 1, 2, 3)) :]

    def _replace(self, body: bytes) -> bytes:
        at = self._random.randrange(len(body) + 1)
        return body[:at] + bytes((self._random.randrange(256),)) + body[at + 1 :]

    def _add_member(self, body: bytes) -> bytes:
        member = self._random.choice(MEMBERS)
        if self._random.random() < 0.5:
            return body[:1] + member + b"," + body[1:]
        return body[:-1] + b"," + member + body[-1:]

    def _splice(self, body: bytes) -> bytes:
        at, behind = sorted(self._random.randrange(len(body) + 1) for _ in range(2))
        return body[:at] + self._text() + body[behind if behind - at < 8 else at :]
