"""Multipart forms, written in every way that programs write them and in ways that none should: what
the gateway takes for the model is what each reader behind it takes for it (L1; B1, B2, B6, B7, B9).
"""

import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import IO

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.security.form_readers import READERS, Refused

ROOT = Path(__file__).resolve().parents[2]
BOUNDARY = "5b1c5b8e-1f0e"
KIND = f'multipart/form-data; boundary="{BOUNDARY}"'
FILE = (
    'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav',
    "RIFF\0\1\r\n\r\n--\r\n",
)
MODEL = "whisper-1"
OTHER = "other"


@dataclass(frozen=True)
class Gateway:
    """The gateway's own Lua, asked by lines."""

    to: IO[str]
    back: IO[str]

    def model(self, kind: str | bytes, body: str | bytes) -> tuple[bytes | None, str]:
        """The model, or None and the reason."""
        self.to.write(f"{_bytes(kind).hex()} {_bytes(body).hex()}\n")
        self.to.flush()
        verdict, _, rest = self.back.readline().rstrip("\n").partition(" ")
        return (bytes.fromhex(rest), "") if verdict == "ok" else (None, rest)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with subprocess.Popen(
        ["luajit", "tests/security/form.lua"],
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as lua:
        assert lua.stdin is not None
        assert lua.stdout is not None
        yield Gateway(lua.stdin, lua.stdout)


def form(*parts: tuple[str, str], boundary: str = BOUNDARY) -> str:
    """A form of heads and contents."""
    text = "".join(f"--{boundary}\r\n{head}\r\n\r\n{content}\r\n" for head, content in parts)
    return f"{text}--{boundary}--\r\n"


def read_by(name: str, kind: str, body: str) -> bytes | str | None:
    """A reader's model, None, or that it refused."""
    try:
        return READERS[name](_bytes(kind), _bytes(body))
    except Refused:
        return "refused"


def differing(kind: str, body: str, model: bytes) -> dict[str, bytes | str | None]:
    """The readers that do not find this model. One that refuses finds no other one; cpp-httplib may
    find none, for llama-server then serves what it has loaded or refuses.
    """
    found = {name: read_by(name, kind, body) for name in READERS}
    return {
        name: value
        for name, value in found.items()
        if value not in (model, "refused") and not ("httplib" in name and value is None)
    }


# Every way to write a head.

BLANKS = (("", ""), ("", " "), (" ", "\t"))
NAMES = ("name", "Name", "NAME")
VALUES = ("model", '"model"')
EXTRA = ("", "x=y", 'Size="9"', 'note="a; b = \\"c\\" \\\\"')
HEADERS = ("Content-Disposition", "content-disposition", "CONTENT-DISPOSITION")
BESIDE: Sequence[Sequence[str]] = (
    (),
    ("Content-Type: text/plain; charset=utf-8",),
    ('content-type:Text/Plain;Charset="UTF-8"', "Content-Length: 9"),
    ("Content-Transfer-Encoding: binary", "Content-Type: text/plain; charset=UTF-8"),
    ("Content-Transfer-Encoding: 8BIT", "Content-Type:\ttext/plain ; charset = ISO-8859-1"),
    ("MIME-Version: 1.0", "Content-ID: <1>", "X-Any: \u00e9"),
)


def dispositions() -> Iterator[str]:
    """Order, case, quoting, blanks and further parameters, in all combinations."""
    ways = itertools.product(("form-data", "Form-Data"), NAMES, VALUES, BLANKS, BLANKS, EXTRA)
    for word, name, value, semicolon, equals, extra in ways:
        (before, behind), (left, right) = semicolon, equals
        own = f"{name}{left}={right}{value}"
        for parameters in {(own,), (own, extra), (extra, own)} if extra else {(own,)}:
            yield word + "".join(f"{before};{behind}{one}" for one in parameters)


def heads() -> Iterator[str]:
    """Whole heads: the disposition first, last, and among others."""
    for number, disposition in enumerate(dispositions()):
        header = HEADERS[number % len(HEADERS)]
        beside = BESIDE[number % len(BESIDE)]
        place = number % (len(beside) + 1)
        yield "\r\n".join((*beside[:place], f"{header}: {disposition}", *beside[place:]))


def test_every_way_to_write_the_models_head_is_read_by_all_as_by_us_l1(gateway: Gateway) -> None:
    wrong, all_heads = [], list(heads())
    for head in all_heads:
        body = form(FILE, (head, MODEL))
        model, reason = gateway.model(KIND, body)
        if model != MODEL.encode() or differing(KIND, body, model):
            wrong.append((head, reason, model and differing(KIND, body, model)))
    assert wrong == []
    assert len(all_heads) > 1000


OTHER_HEADS = (
    'form-data; name="file"; filename="my tape (2).wav"',
    'form-data; filename="\u00e9\u00e8 \u6a21.wav"; name="file"',
    'form-data; name="file"; filename="a;b.wav"',
    'form-data; name="file"; filename="name=model.wav"',
    'form-data; name="file"; filename="a%22b%0D%0A.wav"',
    'form-data; name="file"; filename="a\\"b.wav"',
    'form-data; name="file"; filename="C:\\tapes\\model.wav"',
    'form-data; name="file"; filename="a.wav"; filename*=UTF-8\'\'%c3%a9.wav',
    "form-data; name=file; filename=a.wav; filename*=utf-8''a.wav",
    "form-data; name=file; filename=\"=?utf-8?B?w6kud2F2?=\"; filename*=utf-8''%C3%A9.wav",
    'form-data; name="timestamp_granularities[]"',
    'form-data; name="prompt"',
    'form-data; name=""',
)


@pytest.mark.parametrize("disposition", OTHER_HEADS)
def test_other_parts_are_left_to_whom_they_are_for_l1(gateway: Gateway, disposition: str) -> None:
    other = (f"Content-Disposition: {disposition}", OTHER)
    own = ("Content-Disposition: form-data; name=model", MODEL)
    for body in (form(other, own), form(own, other)):
        assert gateway.model(KIND, body) == (MODEL.encode(), "")
        assert differing(KIND, body, MODEL.encode()) == {}


KINDS = (
    "multipart/form-data; boundary={}",
    'Multipart/Form-Data; Boundary="{}"',
    "MULTIPART/FORM-DATA;BOUNDARY={}",
    'multipart/form-data ;\tboundary = "{}" ; charset=UTF-8',
    "multipart/form-data; charset=utf-8; boundary={}",
    "multipart/form-data; charset=ISO-8859-1; boundary={};",
    'multipart/form-data; type="text/xml"; boundary={}; start="<a;b>"',
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", ["X", "----WebKitFormBoundaryA1b2", "a'+_.-b", "b" * 70])
def test_a_forms_type_is_read_by_all_as_by_us_l1(
    gateway: Gateway, kind: str, boundary: str
) -> None:
    told = kind.format(boundary)
    body = form(FILE, ("Content-Disposition: form-data; name=model", MODEL), boundary=boundary)
    for text in (body, "\r\n" + body, body + "\r\nthe end"):
        assert gateway.model(told, text) == (MODEL.encode(), "")
        assert differing(told, text, MODEL.encode()) == {}


#: As these programs write it, but for the file's content.
PROGRAMS = {
    "dotnet": (
        f'multipart/form-data; boundary="{BOUNDARY}"',
        form(
            (
                "Content-Type: text/plain; charset=utf-8\r\n"
                "Content-Disposition: form-data; name=model",
                MODEL,
            ),
            (
                "Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav",
                OTHER,
            ),
        ),
    ),
    "okhttp": (
        f"multipart/form-data; boundary={BOUNDARY}",
        form(
            (
                'Content-Disposition: form-data; name="model"\r\n'
                "Content-Transfer-Encoding: binary\r\n"
                "Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 9",
                MODEL,
            ),
            (FILE[0] + "\r\nContent-Length: 5", OTHER),
        ),
    ),
    "apache httpclient": (
        f"multipart/form-data; charset=ISO-8859-1; boundary={BOUNDARY}",
        form(
            (
                'Content-Disposition: form-data; name="model"\r\n'
                "Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
                MODEL,
            ),
            FILE,
        ),
    ),
    "ktor": (
        f"multipart/form-data; boundary={BOUNDARY}",
        form(
            ("Content-Disposition: form-data; name=model\r\nContent-Length: 9", MODEL),
            ('Content-Disposition: form-data; name=file; filename="a b.wav"', OTHER),
        ),
    ),
    "aiohttp": (
        f"multipart/form-data; boundary={BOUNDARY}",
        form(
            (
                "Content-Type: text/plain; charset=utf-8\r\n"
                'Content-Disposition: form-data; name="model"',
                MODEL,
            ),
            FILE,
        ),
    ),
    "dart http": (
        f"multipart/form-data; boundary={BOUNDARY}",
        form(('content-disposition: form-data; name="model"', MODEL), FILE),
    ),
    "spring": (
        f"multipart/form-data;boundary={BOUNDARY}",
        form(
            (
                'Content-Disposition: form-data; name="model"\r\n'
                "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: 9",
                MODEL,
            ),
            FILE,
        ),
    ),
    "guzzle": (
        f"multipart/form-data; boundary={BOUNDARY}",
        form(('Content-Disposition: form-data; name="model"\r\nContent-Length: 9', MODEL), FILE),
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_form_as_a_program_writes_it_is_taken_l1(gateway: Gateway, program: str) -> None:
    kind, body = PROGRAMS[program]
    assert gateway.model(kind, body) == (MODEL.encode(), "")
    assert differing(kind, body, MODEL.encode()) == {}


@pytest.mark.parametrize("model", [MODEL, "/models/Qwen 3", "C:\\models\\x.gguf", "\u6a21\u578b"])
def test_what_requests_and_httpx_write_is_taken_l1(gateway: Gateway, model: str) -> None:
    files = {"file": ('a "b"; c\u00e9.wav', b"RIFF", "audio/wav")}
    by_requests = requests.Request("POST", "http://x/", data={"model": model}, files=files)
    prepared = by_requests.prepare()
    by_httpx = httpx.Request("POST", "http://x/", data={"model": model}, files=files)
    assert isinstance(prepared.body, bytes)
    for kind, body in (
        (prepared.headers["Content-Type"], prepared.body),
        (by_httpx.headers["Content-Type"], by_httpx.read()),
    ):
        assert gateway.model(kind, body) == (model.encode(), "")
        assert {READERS[name](kind.encode(), body) for name in READERS} == {model.encode()}


# What no program should write.

KEYS = ("name", "NAME", "name*", "name*0", "filename", "FileName*", "filename*0", "x")
WORDS = (
    "model",
    '"model"',
    '"other"',
    '"Model"',
    '" model"',
    '"mod\\el"',
    '"x=model"',
    '"x; name=model; y"',
    '"x;=\\"name\\"=model"',
    '"a\\"; NAME=model; b"',
    '"x;filename=y"',
    '"\\\\"',
    "utf-8''model",
    '""',
)
OWN = ("Content-Disposition: form-data; name=model", MODEL)


def hostile_dispositions() -> Iterator[str]:
    """One or two parameters of any kind, in either order."""
    one = list(itertools.product(KEYS, WORDS))
    for key, word in one:
        yield f"form-data; {key}={word}"
    for (key, word), (other, its) in itertools.product(one, one):
        if key != other and "name" in (key.lower(), other.lower()):
            yield f"form-data; {key}={word}; {other}={its}"


def is_read_alike(gateway: Gateway, kind: str, body: str) -> bool:
    """Whether the gateway refuses the form, or all find the model that it finds."""
    model, reason = gateway.model(kind, body)
    assert bool(reason) == (model is None)
    return model is None or not differing(kind, body, model)


def test_whatever_disposition_is_accepted_all_read_alike_b6(gateway: Gateway) -> None:
    wrong = []
    for disposition in hostile_dispositions():
        part = (f"Content-Disposition: {disposition}", OTHER)
        wrong += [
            body
            for body in (form(part), form(OWN, part), form(part, OWN))
            if not is_read_alike(gateway, KIND, body)
        ]
    assert wrong == []


LINES = (
    "Content-Type: text/plain; charset=utf-16",
    "Content-Type: application/octet-stream",
    "Content-Transfer-Encoding: base64",
    "Content-Transfer-Encoding: quoted-printable",
    "Content-Disposition: form-data; name=other",
    "content-disposition: form-data; name=model",
    "Content-Disposition : form-data; name=other",
    "Content-Disposition: attachment; name=model",
    " ; name=model",
    "\tx: y",
    "x",
    ": y",
    "X: a\nContent-Disposition: form-data; name=model",
    "X: a\rContent-Disposition: form-data; name=model",
)


def test_whatever_head_is_accepted_all_read_alike_b6(gateway: Gateway) -> None:
    wrong = []
    for name, line in itertools.product(("model", "other"), LINES):
        own = f"Content-Disposition: form-data; name={name}"
        for lines in ((own, line), (line, own), (line,)):
            part = ("\r\n".join(lines), "a=3Db")
            wrong += [
                body
                for body in (form(part), form(OWN, part), form(part, OWN))
                if not is_read_alike(gateway, KIND, body)
            ]
    assert wrong == []


#: `{}` stands for the boundary.
NOISE = (
    "",
    "\r\n",
    "\n",
    "x",
    "x\r\n",
    "--{}",
    "--{} \r\n",
    "--{}\n",
    "--{}--",
    "--{}--\r\n",
    "-- {}\r\n",
    '--"{}"\r\n',
    "--{}\r\nContent-Disposition: form-data; name=model\r\n\r\nother\r\n",
)
HOSTILE_KINDS = (
    "boundary={}",
    'boundary="{}"',
    "boundary= {}",
    'boundary= "{}"',
    "boundary=\t{}",
    'boundary="{}" ; x=y',
    "Boundary={}",
    "boundary={}; boundary=Y",
    "boundary=Y; Boundary={}",
    "xboundary=Y; boundary={}",
    'x="boundary=Y"; boundary={}',
    "boundary={}; boundary*=utf-8''Y",
    "boundary*0={}; boundary*1=Y",
    'boundary="{};x"',
)


def test_whatever_stands_around_the_parts_all_read_alike_b7(gateway: Gateway) -> None:
    wrong = []
    for before, between, behind in itertools.product(NOISE, NOISE, NOISE):
        own = form(OWN).removesuffix(f"--{BOUNDARY}--\r\n")
        parts = own + between.replace("{}", BOUNDARY) + form(FILE).removesuffix("\r\n")
        body = before.replace("{}", BOUNDARY) + parts + behind.replace("{}", BOUNDARY)
        if not is_read_alike(gateway, KIND, body):
            wrong.append(body)
    assert wrong == []


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
def test_whatever_type_is_accepted_all_find_the_same_parts_b7(gateway: Gateway, kind: str) -> None:
    told = f"multipart/form-data; {kind.format('X')}"
    own = form(OWN, boundary="X")
    for boundary in ("Y", " X", "\tX", '"X"', ' "X"', "X ", "XY", "X;x", "xX"):
        hidden = form((OWN[0], OTHER), boundary=boundary)
        for body in (own, hidden, own + hidden, hidden + own):
            assert is_read_alike(gateway, told, body), body


@given(
    disposition=st.lists(
        st.sampled_from(
            ["name", "NAME", "name*", "filename", "x", "=", ";", "; ", '"', "\\", "model", " ",
             '="model"', "=other", "; name=", '; x="', "utf-8''", "\t", "<", ","]
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_whatever_text_is_accepted_all_read_alike_b6(gateway: Gateway, disposition: str) -> None:
    part = (f"Content-Disposition: form-data{disposition}", OTHER)
    assert is_read_alike(gateway, KIND, form(part))
    assert is_read_alike(gateway, KIND, form(part, OWN))


def test_pythons_own_email_package_finds_the_same_model_l1(gateway: Gateway) -> None:
    """Not a reader behind us, but the one whose heads the RFCs were written for."""
    # A quote behind an escaped backslash is an escaped one to it, so it sees no end.
    for head in itertools.islice((one for one in heads() if '\\\\"' not in one), 0, None, 7):
        body = form(FILE, (head, MODEL))
        message = message_from_bytes(f"Content-Type: {KIND}\r\n\r\n".encode() + _bytes(body))
        found = [
            part.get_payload()
            for part in message.walk()
            if isinstance(part, Message)
            and part.get_param("name", header="content-disposition") == "model"
        ]
        assert found == [MODEL]
        assert gateway.model(KIND, body) == (MODEL.encode(), "")
