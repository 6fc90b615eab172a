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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

#: For one piece of an answer, and for all that one server is asked.
PIECE_SECONDS, MAX_SECONDS = 4.0, 10.0
MAX_BYTES = 4 * 1024 * 1024
#: What the gateway trusts where nothing else is named.
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
#: How many models are asked for what they can do.
MAX_ASKED_MODELS = 8
#: Ways to say in a name that a model answers no chat.
OTHER_WORDS = ("embed", "rerank", "bge-", "e5-", "minilm", "whisper", "tts", "clip")
OWNERS = {"llamacpp": "llama-server", "vllm": "vllm"}
#: Kind, path, and what an object found there has. LocalAI answers at Ollama's path too.
MARKS = (
    ("localai", "/.well-known/localai.json", "endpoints"),
    ("localai", "/system", "backends"),
    ("ollama", "/api/version", "version"),
)
#: The TLS library's codes of what is wrong with a certificate.
CERTIFICATES = {
    10: "its certificate has expired",
    18: "its certificate is signed by itself: name it in LLM_CA_FILE",
    19: "the authority of its certificate is not trusted: name it in LLM_CA_FILE",
    20: "the authority of its certificate is not trusted: name it in LLM_CA_FILE",
    21: "the authority of its certificate is not trusted: name it in LLM_CA_FILE",
}
#: What the TLS library makes of an answer in plain text, by its versions.
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
UNREACHABLE = "cannot be reached: "
BY_ADDRESS = (
    "its certificate is for the address, and the gateway looks for names alone: give the server "
    "a name (/etc/hosts) and a certificate for it"
)


@dataclass(frozen=True)
class Question:
    """Which servers are asked, and how. `trusted` is in PEM; empty for what the machine trusts."""

    urls: tuple[str, ...]
    key: str = ""
    trusted: str = ""


@dataclass(frozen=True)
class Found:
    """What one server said. Without a `fault` it is an LLM server; `chat` are its models that
    answer chats, as far as that can be told.
    """

    url: str
    fault: str = ""
    kind: str = ""
    models: tuple[str, ...] = ()
    chat: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def header(self, name: str) -> str:
        """A header; empty when there is none."""
        return self.headers.get(name, "")


class Server:
    """One server, asked under the name of the first, as the gateway does."""

    def __init__(self, url: str, question: Question) -> None:
        self._url = urlsplit(url)
        self._first = urlsplit(question.urls[0])
        self._question = question

    @property
    def has_key(self) -> bool:
        """Whether it is asked with a key."""
        return bool(self._question.key)

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One request on a connection of its own."""
        connection = self._connect()
        try:
            content = None if body is None else json.dumps(body).encode()
            path = self._url.path.rstrip("/") + path
            connection.request(method, path, content, self._headers(content is not None))
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            content_read = response.read(MAX_BYTES)
            if response.length and len(content_read) < MAX_BYTES:
                raise http.client.IncompleteRead(content_read, response.length)
            return Answer(response.status, headers, content_read)
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        is_tls = self._url.scheme == "https"
        port = self._url.port or (443 if is_tls else 80)
        connection = http.client.HTTPConnection(
            self._url.hostname or "", port, timeout=PIECE_SECONDS
        )
        connection.connect()
        if is_tls:
            try:
                self._secure(connection)
            except OSError:
                connection.close()
                raise
        return connection

    def _secure(self, connection: http.client.HTTPConnection) -> None:
        name = self._first.hostname or ""
        context = trusting(self._question.trusted)
        secured = context.wrap_socket(connection.sock, server_hostname=name)
        connection.sock = secured
        check_name(name, secured.getpeercert() or {})

    def ask_quietly(self, method: str, path: str, body: object = None) -> Any:
        """What a route that a server may not have says in JSON; None where it says none."""
        try:
            answer = self.ask(method, path, body)
        except (OSError, http.client.HTTPException):
            return None
        return answer.json if answer.status == 200 else None

    def _headers(self, has_body: bool) -> dict[str, str]:
        sent = {"Host": self._first.netloc, "Accept": "application/json"}
        if has_body:
            sent["Content-Type"] = "application/json"
        if self._question.key:
            sent["Authorization"] = f"Bearer {as_header(self._question.key)}"
        return sent


def as_header(text: str) -> str:
    """A text whose bytes `http.client` will send as they are."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


class WrongNameError(OSError):
    """A certificate that is good, but not for this server."""


def trusting(certificates: str) -> ssl.SSLContext:
    """What trusts these certificates alone, or what the gateway trusts by itself: no more and no
    less strictly than OpenSSL does for nginx. Names are compared by `check_name`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if certificates:
        context.load_verify_locations(cadata=certificates)
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
    names = [value.lower() for kind, value in others if kind == "DNS"] or [
        value.lower()
        for part in certificate.get("subject", ())
        for field, value in part
        if field == "commonName"
    ]
    if name in names or f"*.{name.partition('.')[2]}" in names:
        return
    if name in [value for kind, value in others if kind == "IP Address"]:
        raise WrongNameError(BY_ADDRESS)
    raise WrongNameError(f"its certificate is for another name ({', '.join(names)})")


# --- one server ----------------------------------------------------------------------------------


def find(url: str, question: Question) -> Found:
    """What a server says of itself, or why it says nothing."""
    server = Server(url, question)
    try:
        answer = server.ask("GET", "/v1/models")
        if answer.status in (404, 405):
            answer = older_list(server) or answer
        if fault := fault_of(answer, server.has_key):
            return Found(url, fault)
        return describe(url, server, answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Found(url, UNREACHABLE + words_of(error, urlsplit(url)))


def older_list(server: Server) -> Answer | None:
    """Ollama's own list, in the form of OpenAI's: older ones have no other."""
    content = server.ask_quietly("GET", "/api/tags")
    if not isinstance(content, dict) or "models" not in content:
        return None
    listed = {"data": [{"id": one.get("name")} for one in entries(content, "models")]}
    return Answer(200, {}, json.dumps(listed).encode())


def fault_of(answer: Answer, has_key: bool) -> str:
    """Why this is no list of models; empty when it is one."""
    status = answer.status
    if status in (401, 403):
        refused = "refuses the key of LLM_API_KEY" if has_key else "wants a key: set LLM_API_KEY"
        return f"{refused} ({status})"
    if 300 <= status < 400:
        place = answer.header("location")
        return f"sends one on ({status}) to {place}: set LLM_UPSTREAM to where that leads"
    if status in (404, 405):
        return f"has no list of models ({status} at /v1/models): is it an LLM server's base URL?"
    if status == 503:
        return "is not ready (503); it may be loading its model"
    if is_web_page(answer):
        return f"answers with a web page ({status}), not as an LLM server: is the port right?"
    if status != 200:
        return f"answers {status} at /v1/models"
    if not isinstance(answer.json, dict) or "data" not in answer.json:
        return "answers what is no list of models at /v1/models"
    return ""


def is_web_page(answer: Answer) -> bool:
    """Whether a browser was meant."""
    return "html" in answer.header("content-type") or answer.body.lstrip()[:1] == b"<"


def describe(url: str, server: Server, answer: Answer) -> Found:
    """Kind and models of a server that has a list."""
    listed = entries(answer.json, "data")
    models = tuple(one["id"] for one in listed if isinstance(one.get("id"), str))
    kind = kind_of(server, answer, listed)
    if kind == "llama-server" and (fault := closed_elsewhere(server)):
        return Found(url, fault)
    abilities = abilities_of(server, kind, models, answer.json)
    return Found(
        url, "", kind, models, tuple(one for one in models if can_chat(one, abilities.get(one)))
    )


def closed_elsewhere(server: Server) -> str:
    """Older llama-servers show their list to everybody, and want their key for all else."""
    answer = server.ask("GET", "/props")
    return fault_of(answer, server.has_key) if answer.status in (401, 403) else ""


def entries(content: Any, field: str) -> list[dict[str, Any]]:
    """The objects of a list; `null` is an empty one (Ollama's, without a model)."""
    return [one for one in content.get(field) or [] if isinstance(one, dict)]


def kind_of(server: Server, answer: Answer, listed: Sequence[Mapping[str, Any]]) -> str:
    """Which of the kinds it seems to be; empty for another one."""
    if answer.header("server").startswith("llama.cpp"):
        return "llama-server"
    owners = {str(one.get("owned_by")) for one in listed}
    if known := [OWNERS[owner] for owner in sorted(owners & OWNERS.keys())]:
        return known[0]
    for kind, path, mark in MARKS:
        content = server.ask_quietly("GET", path)
        if isinstance(content, dict) and mark in content:
            return kind
    return ""


def abilities_of(
    server: Server, kind: str, models: Sequence[str], content: Any
) -> dict[str, list[Any]]:
    """What models can do, of those that say so: llama-server in its list, Ollama when asked."""
    said = {
        str(one.get("model") or one.get("name")): one.get("capabilities")
        for one in entries(content, "models")
    }
    if kind == "ollama":
        for name in models[:MAX_ASKED_MODELS]:
            shown = server.ask_quietly("POST", "/api/show", {"model": name})
            said[name] = shown.get("capabilities") if isinstance(shown, dict) else None
    return {name: what for name, what in said.items() if isinstance(what, list)}


def can_chat(name: str, abilities: Sequence[Any] | None) -> bool:
    """By what it says it can do; of one that says nothing, by its name."""
    if abilities is not None:
        return "completion" in abilities or "chat" in abilities
    return not any(word in name.lower() for word in OTHER_WORDS)


def words_of(error: Exception, url: SplitResult) -> str:
    """Why there was no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATES.get(error.verify_code, f"its certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        is_plain = error.reason in NO_TLS
        return "it speaks no TLS; is it http://?" if is_plain else f"TLS fails ({error.reason})"
    if isinstance(error, WrongNameError):
        return str(error)
    if isinstance(error, socket.gaierror):
        return f"the name {url.hostname} is not known"
    if isinstance(error, TimeoutError):
        return f"no answer in {PIECE_SECONDS:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, http.client.IncompleteRead):
        return "its answer breaks off"
    if isinstance(error, (http.client.HTTPException, ConnectionResetError, BrokenPipeError)):
        hint = "" if url.scheme == "https" else "; is it https://?"
        return f"what answers there speaks no HTTP{hint}"
    return (error.strerror if isinstance(error, OSError) else "") or type(error).__name__


# --- all of them ---------------------------------------------------------------------------------


def find_all(question: Question) -> list[Found]:
    """What each server says, in their order, all asked at the same time."""
    late = f"{UNREACHABLE}no whole answer in {MAX_SECONDS:g} s"
    found = {index: Found(url, late) for index, url in enumerate(question.urls)}

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
    return [found[index] for index in range(len(threads))]


def read_found(text: str) -> list[Found]:
    """What `main` printed."""
    return [
        Found(one["url"], one["fault"], one["kind"], tuple(one["models"]), tuple(one["chat"]))
        for one in json.loads(text)
    ]


def main() -> None:
    """A question in JSON on standard input; what was found in JSON on standard output."""
    asked = json.load(sys.stdin)
    found = find_all(Question(tuple(asked["urls"]), asked["key"], asked["trusted"]))
    print(json.dumps([asdict(one) for one in found]), flush=True)


if __name__ == "__main__":
    main()
