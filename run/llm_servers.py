"""Asks LLM servers what they are before any caller does: reached or not and why, of which kind,
with which models.

It asks as the gateway does: by the same names, key and certificates. It also runs by itself where
the gateway is and this checkout is not, with its question on standard input; so it imports nothing
of `run`. It must never tell the key, nor take longer than it says, whatever a server does.
"""

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

#: For one piece of an answer, and for all that one server is asked.
PIECE_SECONDS, MAX_SECONDS = 4.0, 10.0
MAX_BYTES = 4 * 1024 * 1024
#: What the gateway trusts where nothing else is named.
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
#: Ways to say in a name that a model answers no chat.
OTHER_WORDS = ("embed", "rerank", "bge-", "e5-", "minilm", "whisper", "tts", "clip")
#: The TLS library's codes of what is wrong with a certificate.
UNTRUSTED = "the authority of its certificate is not trusted: name it in LLM_CA_FILE"
CERTIFICATES = {
    10: "its certificate has expired",
    18: "its certificate is signed by itself: name it in LLM_CA_FILE",
    **dict.fromkeys((19, 20, 21), UNTRUSTED),
}
#: What the TLS library makes of an answer in plain text, by its versions.
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
UNREACHABLE = "cannot be reached: "
BY_ADDRESS = (
    "its certificate is for the address, and the gateway looks for names alone: give the server "
    "a name (/etc/hosts) and a certificate for it"
)
NO_LIST = "has no list of models ({} at /v1/models): is it an LLM server's base URL?"
#: What a status of the list of models means.
STATUSES = {
    404: NO_LIST,
    405: NO_LIST,
    503: "is not ready ({}); it may be loading its model",
}
Failure = (OSError, http.client.HTTPException, ValueError)
#: Why there was no answer, the narrower first.
WORDS = (
    (socket.gaierror, "the name {name} is not known"),
    (TimeoutError, "no answer in {seconds:g} s"),
    (ConnectionRefusedError, "nothing listens there"),
    (http.client.IncompleteRead, "its answer breaks off"),
    (http.client.HTTPException, "what answers there speaks no HTTP{hint}"),
    ((ConnectionResetError, BrokenPipeError), "what answers there speaks no HTTP{hint}"),
)


@dataclass(frozen=True)
class Question:
    """Which servers are asked, and how. `trusted` is in PEM; empty for what the machine trusts.
    `marks` are kinds, each with a path and a text that it alone answers there.
    """

    urls: tuple[str, ...]
    key: str = ""
    trusted: str = ""
    marks: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Found:
    """What one server said. Without a `fault` it is an LLM server; `chat` are its models that
    answer chats, as far as that can be told.
    """

    url: str
    fault: str = ""
    kind: str = ""
    models: Sequence[str] = field(default_factory=list)
    chat: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    body: bytes
    headers: Message = field(default_factory=Message)

    @property
    def json(self) -> Any:
        """What the body says; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


# --- one request ---------------------------------------------------------------------------------


def ask(url: str, question: Question, path: str) -> Answer:
    """One request under the name of the first server, as the gateway does."""
    place, first = urlsplit(url), urlsplit(question.urls[0])
    sent = {"Host": first.netloc, "Accept": "application/json"}
    if question.key:
        sent["Authorization"] = f"Bearer {as_header(question.key)}"
    is_tls = place.scheme == "https"
    port = place.port or (443 if is_tls else 80)
    connection = http.client.HTTPConnection(place.hostname or "", port, timeout=PIECE_SECONDS)
    with closing(connection):
        if is_tls:
            secure(connection, first.hostname or "", question.trusted)
        return exchange(connection, "GET", place.path.rstrip("/") + path, sent)


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: str | None = None,
) -> Answer:
    """One request, the last of its connection."""
    with closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read(MAX_BYTES)
        if response.length and len(content) < MAX_BYTES:
            raise http.client.IncompleteRead(content, response.length)
        return Answer(response.status, content, response.headers)


def as_header(text: str) -> str:
    """A text whose bytes `http.client` will send as they are."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def secure(connection: http.client.HTTPConnection, name: str, trusted: str) -> None:
    """Connect by TLS, with a certificate for this name."""
    connection.connect()
    secured = trusting(trusted).wrap_socket(connection.sock, server_hostname=name)
    connection.sock = secured
    check_name(name, secured.getpeercert() or {})


class WrongNameError(OSError):
    """A certificate that is good, but not for this server."""


def trusting(certificates: str) -> ssl.SSLContext:
    """What trusts these certificates alone, or what the gateway trusts by itself: no more and no
    less strictly than OpenSSL does for nginx. Names are compared by `check_name`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if certificates:
        # Beside what is PEM there may be words, in any letters.
        context.load_verify_locations(cadata=certificates.encode("ascii", "replace").decode())
    elif BUNDLE.exists():
        context.load_verify_locations(cafile=BUNDLE)
    else:
        context.load_default_certs()
    return context


def check_name(name: str, certificate: Mapping[str, Any]) -> None:
    """As nginx does: by the certificate's names, or by its common one where it has no other, and
    never by its addresses.
    """
    others = certificate.get("subjectAltName", ())
    common = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value.lower() for kind, value in others if kind == "DNS"] or [
        value.lower() for field, value in common if field == "commonName"
    ]
    if name in names or f"*.{name.partition('.')[2]}" in names:
        return
    if ("IP Address", name) in others:
        raise WrongNameError(BY_ADDRESS)
    raise WrongNameError(f"its certificate is for another name ({', '.join(names)})")


# --- one server ----------------------------------------------------------------------------------


def find(url: str, question: Question) -> Found:
    """What a server says of itself, or why it says nothing."""
    try:
        answer = ask(url, question, "/v1/models")
        if fault := fault_of(answer, bool(question.key)):
            return Found(url, fault)
        return describe(url, question, answer)
    except Failure as error:
        return Found(url, UNREACHABLE + words_of(error, urlsplit(url)))


def fault_of(answer: Answer, has_key: bool) -> str:
    """Why this is no list of models; empty when it is one."""
    status = answer.status
    if status in (401, 403):
        refused = "refuses the key of LLM_API_KEY" if has_key else "wants a key: set LLM_API_KEY"
        return f"{refused} ({status})"
    if 300 <= status < 400:
        place = answer.headers.get("location", "")
        return f"sends one on ({status}) to {place}: set LLM_UPSTREAM to where that leads"
    if status in STATUSES:
        return STATUSES[status].format(status)
    if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
        return f"answers with a web page ({status}), not as an LLM server: is the port right?"
    if status != 200:
        return f"answers {status} at /v1/models"
    is_list = isinstance(answer.json, dict) and "data" in answer.json
    return "" if is_list else "answers what is no list of models at /v1/models"


def describe(url: str, question: Question, answer: Answer) -> Found:
    """Kind and models of a server that has a list."""
    names = (one.get("id") for one in entries(answer.json, "data"))
    models = [name for name in names if isinstance(name, str)]
    if fault := closed_elsewhere(url, question):
        return Found(url, fault)
    said = {one.get("name"): one.get("capabilities") for one in entries(answer.json, "models")}
    chat = [name for name in models if can_chat(name, said.get(name))]
    return Found(url, "", kind_of(url, question), models, chat)


def closed_elsewhere(url: str, question: Question) -> str:
    """Older llama-servers show their list to everybody, and want their key for all else."""
    answer = quietly(url, question, "/props")
    return fault_of(answer, bool(question.key)) if answer and answer.status == 401 else ""


def quietly(url: str, question: Question, path: str) -> Answer | None:
    """What a route that a server may not have answers; None where it answers nothing."""
    try:
        return ask(url, question, path)
    except Failure:
        return None


def entries(content: Any, field: str) -> list[dict[str, Any]]:
    """The objects of a list; `null` is an empty one (Ollama's, without a model)."""
    return [one for one in content.get(field) or [] if isinstance(one, dict)]


def kind_of(url: str, question: Question) -> str:
    """The kind whose mark it has; empty for another one."""
    for kind, path, text in question.marks:
        answer = quietly(url, question, path)
        if answer and answer.status == 200 and text.encode() in answer.body:
            return kind
    return ""


def can_chat(name: str, abilities: Sequence[Any] | None) -> bool:
    """By what it says it can do; of one that says nothing, by its name."""
    if isinstance(abilities, list):
        return "completion" in abilities or "chat" in abilities
    return not any(word in name.lower() for word in OTHER_WORDS)


def words_of(error: Exception, url: SplitResult) -> str:
    """Why there was no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATES.get(error.verify_code, f"its certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        is_plain = error.reason in NO_TLS
        return "it speaks no TLS; is it http://?" if is_plain else f"TLS fails ({error.reason})"
    said = str(error) if isinstance(error, WrongNameError) else getattr(error, "strerror", "")
    hint = "" if url.scheme == "https" else "; is it https://?"
    for kind, words in WORDS:
        if isinstance(error, kind):
            return words.format(name=url.hostname, seconds=PIECE_SECONDS, hint=hint)
    return said or type(error).__name__


# --- all of them ---------------------------------------------------------------------------------


def find_all(question: Question) -> list[Found]:
    """What each server says, in their order, all asked at the same time."""
    late = f"{UNREACHABLE}no whole answer in {MAX_SECONDS:g} s"
    found = [Found(url, late) for url in question.urls]

    def look(index: int, url: str) -> None:
        found[index] = find(url, question)

    threads = [
        threading.Thread(target=look, args=one, daemon=True) for one in enumerate(question.urls)
    ]
    deadline = time.monotonic() + MAX_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(found)


def main() -> None:
    """A question in JSON on standard input; what was found in JSON on standard output."""
    found = find_all(Question(**json.load(sys.stdin)))
    print(json.dumps([asdict(one) for one in found]), flush=True)


if __name__ == "__main__":
    main()
