"""Who reads a multipart form behind the gateway: what each of them takes for the field `model`.

python-multipart is itself, asked as Starlette asks it (vLLM). Of Go's mime and mime/multipart
(Ollama, LocalAI) and of cpp-httplib (llama-server) these are ports of what reads heads and
boundaries, held to Go 1.27 and cpp-httplib 0.53 when they were written; they must never refuse
what the original takes.
A reader answers the model's bytes, None where it finds no such field, and raises `Refused`.
"""

import quopri
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

CRLF = b"\r\n"
#: RFC 2045's tspecials, by which Go tells a token.
TSPECIALS = b'()<>@,;:\\"/[]?='
_TOKEN = re.compile(rb"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+")
_BLANK = b" \t"


class Refused(Exception):
    """The reader answers an error: it finds no other model either."""


class Starlette:
    """`starlette.formparsers.MultiPartParser`, on python-multipart's own parser."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self._name = self._value = self._disposition = self._data = b""
        self._options: dict[bytes, bytes] = {}

    def read(self, content_type: bytes, body: bytes) -> bytes | None:
        """The model: the last field of that name, as `FormData` answers it."""
        kind, parameters = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            return None
        if b"boundary" not in parameters:
            raise Refused("no boundary")
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value")
        callbacks = {f"on_{name}": getattr(self, f"_on_{name}") for name in names}
        callbacks |= {"on_header_end": self._on_header_end, "on_headers_finished": self._on_head}
        try:
            parser = MultipartParser(parameters[b"boundary"], callbacks)  # type: ignore[arg-type]
            parser.write(body)
            parser.finalize()
        except FormParserError as error:
            raise Refused(str(error)) from error
        models = [value for name, value in self.fields if name == b"model"]
        return models[-1] if models else None

    def _on_part_begin(self) -> None:
        self._disposition, self._data = b"", b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _on_head(self) -> None:
        _, self._options = parse_options_header(self._disposition)
        if b"name" not in self._options:
            raise Refused("no name")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _on_part_end(self) -> None:
        if b"filename" not in self._options:
            self.fields.append((self._options[b"name"], self._data))


def starlette(content_type: bytes, body: bytes) -> bytes | None:
    """vLLM's reader."""
    return Starlette().read(content_type, body)


# Go.


def _go_value(text: bytes) -> tuple[bytes, bytes] | None:
    """`mime.consumeValue`: the value, and what is behind it."""
    if not text.startswith(b'"'):
        match = _TOKEN.match(text)
        return (match[0], text[match.end() :]) if match else None
    value, at = b"", 1
    while at < len(text):
        character = text[at : at + 1]
        if character == b'"':
            return value, text[at + 1 :]
        if character == b"\\" and at + 1 < len(text) and text[at + 1] in TSPECIALS:
            at += 1
        elif character in b"\r\n":
            return None
        value += text[at : at + 1]
        at += 1
    return None


def _go_media_type(text: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """`mime.ParseMediaType`. A parameter in RFC 2231's notation is told under its plain name."""
    word, _, _ = text.partition(b";")
    word = word.lower().strip(_BLANK)
    parameters: dict[bytes, bytes] = {}
    rest = text[len(text.partition(b";")[0]) :]
    while rest := rest.lstrip(_BLANK):
        if rest.strip(_BLANK) == b";":
            break
        match = re.match(rb";[ \t]*(%s)[ \t]*=[ \t]*" % _TOKEN.pattern, rest)
        value = _go_value(rest[match.end() :]) if match else None
        if match is None or value is None:
            raise Refused("malformed")
        if parameters.setdefault(match[1].lower(), value[0]) != value[0]:
            raise Refused("told twice")
        rest = value[1]
    return word, _go_extended(parameters)


def _go_extended(parameters: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those in RFC 2231's notation under their plain names, where they can be decoded."""
    found = {name: value for name, value in parameters.items() if b"*" not in name}
    for name, value in parameters.items():
        plain, star, number = name.partition(b"*")
        charset, _, rest = value.partition(b"'")
        if star and not number and charset.lower() in (b"utf-8", b"us-ascii") and b"'" in rest:
            found[plain] = unquote_to_bytes(rest.partition(b"'")[2])
        elif number == b"0":
            found.setdefault(plain, value + parameters.get(plain + b"*1", b""))
    return found


def _go_head(head: bytes) -> dict[bytes, bytes]:
    """`textproto.ReadMIMEHeader`; of a header that is told twice Go asks for the first."""
    headers: dict[bytes, bytes] = {}
    for line in re.sub(rb"\r?\n[ \t]+", b" ", head).split(b"\n"):
        name, colon, value = line.rstrip(b"\r").partition(b":")
        if not colon or not _TOKEN.fullmatch(name.rstrip(b" ")):
            raise Refused("malformed header")
        headers.setdefault(name.lower(), value.strip(_BLANK))
    return headers


def _go_parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """`multipart.Reader.NextPart`: a boundary is a line, perhaps with blanks behind it."""
    dash = b"--" + boundary
    line = re.compile(rb"(?:\A|(?<=\n))%s([ \t]*\r\n|--[ \t]*(?:\r\n|\Z))" % re.escape(dash))
    places = list(line.finditer(body))
    for here, there in pairwise(places):
        if here[1].startswith(b"--"):
            return
        part = body[here.end() : there.start()]
        if not part.endswith(CRLF):
            raise Refused("a boundary that ends no part")
        yield part[:-2]
    if not places or not places[-1][1].startswith(b"--"):
        raise Refused("unexpected EOF")


def go(content_type: bytes, body: bytes) -> bytes | None:
    """The reader of Ollama and LocalAI: `Request.ParseMultipartForm`, `FormValue`."""
    kind, parameters = _go_media_type(content_type)
    if kind != b"multipart/form-data" or not parameters.get(b"boundary"):
        raise Refused("no form")
    models = []
    for part in _go_parts(body, parameters[b"boundary"]):
        head, end, value = part.partition(b"\r\n\r\n")
        if not end:
            raise Refused("no end of the head")
        headers = _go_head(head)
        try:
            word, told = _go_media_type(headers.get(b"content-disposition", b""))
        except Refused:
            continue  # such a part has no name, and is passed over
        if word == b"form-data" and told.get(b"name") == b"model" and not told.get(b"filename"):
            encoding = headers.get(b"content-transfer-encoding", b"").lower()
            models.append(quopri.decodestring(value) if encoding == b"quoted-printable" else value)
    return models[0] if models else None


# cpp-httplib.


def _unquoted(text: bytes) -> bytes:
    return text[1:-1] if len(text) >= 2 and text[:1] == text[-1:] == b'"' else text


def _httplib_parameters(text: bytes) -> dict[bytes, bytes]:
    """`parse_disposition_params`: cut at every semicolon and every equals sign."""
    parameters: dict[bytes, bytes] = {}
    for piece in text.split(b";"):
        pieces = [one.strip(_BLANK) for one in piece.split(b"=")]
        words = [one for one in pieces if one]
        if words:
            value = words[-1] if len(words) > 1 else b""
            parameters.setdefault(_unquoted(words[0]), _unquoted(value))
    return parameters


_DISPOSITION = re.compile(rb"Content-Disposition:[ \t]*form-data;[ \t]*(.*)", re.IGNORECASE)


def httplib(content_type: bytes, body: bytes) -> bytes | None:
    """llama-server's reader: `FormDataParser`."""
    _, *pieces = content_type.split(b";")
    pairs = (piece.partition(b"=") for piece in pieces)
    parameters = {
        name.strip(_BLANK).lower(): _unquoted(value.strip(_BLANK)) for name, _, value in pairs
    }
    return _httplib_model(content_type, parameters.get(b"boundary", b""), body)


def old_httplib(content_type: bytes, body: bytes) -> bytes | None:
    """The same before it took a form's Content-Type apart: it looked for the letters."""
    found = re.search(rb"boundary=([^;]*)", content_type)
    return _httplib_model(content_type, _unquoted(found[1]) if found else b"", body)


def _httplib_model(content_type: bytes, boundary: bytes, body: bytes) -> bytes | None:
    if not boundary or not content_type.startswith(b"multipart/form-data"):
        raise Refused("no form")
    _, begins, rest = body.partition(b"--" + boundary + CRLF)
    models = []
    while begins:
        head, end, rest = rest.partition(CRLF + CRLF)
        value, begins, rest = rest.partition(CRLF + b"--" + boundary)
        if not end or not begins:
            raise Refused("cut off")
        name, is_file = _httplib_part(head)
        if name == b"model" and not is_file:
            models.append(value)
        if rest.startswith(b"--"):
            return models[0] if models else None
        if not rest.startswith(CRLF):
            break
        rest = rest[2:]
    raise Refused("cut off")


def _httplib_part(head: bytes) -> tuple[bytes, bool]:
    name, is_file = b"", False
    for line in head.split(CRLF):
        if b":" not in line:
            raise Refused("malformed header")
        if match := _DISPOSITION.fullmatch(line):
            parameters = _httplib_parameters(match[1])
            if b"name" not in parameters:
                raise Refused("no name")
            name = parameters[b"name"]
            is_file = bool(parameters.get(b"filename") or parameters.get(b"filename*"))
    return name, is_file


READERS: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "python-multipart": starlette,
    "go": go,
    "cpp-httplib": httplib,
    "old cpp-httplib": old_httplib,
}
