"""Who is measured: how each is started, on the gateway's core with one worker, what it is sent, and
the proof that it does its job.

`proven` is the gate: an entrant that authenticates must serve the right token and refuse a wrong
one, or nothing is measured. Secrets stand in files of the run's folder, never on a command line.
"""

import base64
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from string import Template

import requests

from bench import mock, portero
from bench.peers import programs
from bench.peers.programs import AbsentError, Program
from bench.portero import COUNTED, LIMITED, USER
from bench.servers import GATEWAY_CORE, Server, pin, proxy
from issuer import keys, tokens
from issuer.keys import Key
from tests.support.deployment import Caller
from tests.support.policies import shipped_policy
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

PATH = "/v1/chat/completions"
AN_HOUR = 3600
START_SECONDS = 60
CONF = Path(__file__).parent / "conf"
#: What stands behind lines of a peer's configuration that do more than verify.
BEYOND = "# beyond"
#: What a wrong token is answered.
REFUSED = (401, 403)

COUNTING, TOKENS = "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"
#: Row of Portero's -> its user, and the headers that show the user's limits in force.
PORTERO_ROWS = {
    "Portero, no limits": (USER, ()),
    "Portero, limits of requests": (COUNTED, (COUNTING,)),
    "Portero, limits of requests, tokens and models": (LIMITED, (COUNTING, TOKENS)),
}
MOCK, PLAIN = "the mock itself", "plain nginx, no authentication"


@dataclass(frozen=True)
class Entrant:
    """One that is measured. `wrong` are tokens that it must refuse, by what is wrong with them;
    empty where it authenticates nobody. `shows` are headers that its answer must have; `tells` says
    that it must tell the LLM server who it was, and keep the token from it.
    """

    name: str
    server: Server
    token: str = field(repr=False, default="")
    wrong: Mapping[str, str] = field(repr=False, default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    shows: Sequence[str] = ()
    refused: Sequence[int] = REFUSED
    tells: bool = False

    def sent(self, token: str) -> dict[str, str]:
        """The headers of a request with a token; without it when it is empty."""
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        return {"Content-Type": "application/json", **self.more, **shown}


@dataclass(frozen=True)
class Place:
    """Where all of a run stand: its folder, the mock's port, and what ends them."""

    folder: Path
    upstream: int
    stack: ExitStack


# --- the proof -----------------------------------------------------------------------------------


def proven(entrant: Entrant) -> Entrant:
    """The same, when it serves the right token and refuses each wrong one. Raises
    `AssertionError`: one that lets everybody through is no comparison.
    """
    answer = ask(entrant, entrant.token)
    assert answer.status_code == 200, f"{entrant.name}: {answer.status_code} {answer.text[:200]}"
    said = answer.json()["choices"][0]["message"]["content"]
    assert said == json.loads(mock.ANSWER)["choices"][0]["message"]["content"], entrant.name
    missing = [one for one in entrant.shows if one not in answer.headers]
    assert not missing, f"{entrant.name} does not show {missing}"
    assert not entrant.tells or seen(entrant) == USER, f"{entrant.name} tells: {seen(entrant)}"
    for what, token in entrant.wrong.items():
        status = ask(entrant, token).status_code
        assert status in entrant.refused, f"{entrant.name} answers {status} to {what}"
    return entrant


def ask(entrant: Entrant, token: str) -> requests.Response:
    """One chat."""
    url = entrant.server.url + PATH
    return requests.post(url, data=mock.CHAT, headers=entrant.sent(token), timeout=30)


def seen(entrant: Entrant) -> str:
    """What the mock hears of the caller."""
    url, sent = entrant.server.url + mock.SEEN, entrant.sent(entrant.token)
    return requests.get(url, headers=sent, timeout=30).text.strip()


def is_up(entrant: Entrant) -> bool:
    """Whether it answers at all yet; what it answers is `proven`'s."""
    try:
        return ask(entrant, entrant.token).status_code < 500
    except requests.RequestException:
        return False


# --- Portero and what stands on nginx alone ------------------------------------------------------


def own(place: Place) -> Iterator[Entrant]:
    """The mock itself, plain nginx, Portero's rows, and nginx that asks a validator."""
    running = place.stack.enter_context(portero.portero(place.folder, place.upstream))
    wrong = wrong_tokens(portero.signing_key(running, "HS256"))
    porteros = [
        Entrant(name, portero.server(running), Caller(running).token(user), wrong, shows=shows)
        for name, (user, shows) in PORTERO_ROWS.items()
    ]
    known = porteros[0]
    mocked = Server("mock", f"http://127.0.0.1:{place.upstream}", ())
    yield Entrant(MOCK, mocked, known.token)
    issuer = int(running.issuer.rpartition(":")[2])
    plain = place.stack.enter_context(proxy(place.folder, "plain", place.upstream, issuer))
    yield Entrant(PLAIN, plain, known.token, tells=True)
    yield from porteros
    asking = place.stack.enter_context(
        proxy(place.folder, "asking", place.upstream, issuer, auth="auth_request /auth;")
    )
    pin(running.pid("issuer"), GATEWAY_CORE)
    asking.roots += (running.pid("issuer"),)
    yield replace(known, name="nginx auth_request to gunicorn", server=asking, tells=True)


def wrong_tokens(key: Key) -> dict[str, str]:
    """What nobody who verifies tokens of this key may let through."""
    past = int(time.time()) - 2 * AN_HOUR
    return {
        "no token": "",
        "no token but a word": "x",
        "a token of another key": minted(replace(keys.new_key("HS256"), kid=key.kid)),
        "a token that has ended": minted(key, past),
    }


def minted(key: Key, now: int | None = None) -> str:
    """A token as the issuer mints it."""
    role = shipped_policy().roles.of(USER)
    assert role is not None
    return tokens.mint(tokens.new_claims(USER, role, now or int(time.time())), key)


# --- the peers -----------------------------------------------------------------------------------


def haproxy(place: Place) -> Iterator[Entrant]:
    """Twice: verifying alone, and with what else Portero does."""
    program, key = programs.program("haproxy"), keys.new_key("HS256")
    for name, beyond in (("alone", False), ("also", True)):
        values = {"SECRET": key.signing.decode()}
        started = _Start(place, program, f"haproxy-{name}", values)
        path = started.configured("haproxy.cfg", beyond)
        started.accepts("-c", "-q", "-f", str(path))
        server = started.run("-db", "-q", "-f", str(path))
        words = "identity and log" if beyond else "no log"
        row = f"{program.name} {program.version}, jwt_verify, {words}"
        yield Entrant(row, server, minted(key), wrong_tokens(key), tells=beyond)


def envoy(place: Place) -> Iterator[Entrant]:
    """Twice likewise, with its cache of verified tokens."""
    program, key = programs.program("envoy"), keys.new_key("HS256")
    for name, beyond in (("alone", False), ("also", True)):
        started = _Start(place, program, f"envoy-{name}", {"JWKS": _key_set(key)})
        path = started.configured("envoy.yaml", beyond)
        quiet = ("-l", "critical", "-c", str(path))
        started.accepts("--mode", "validate", *quiet)
        server = started.run("--concurrency", "1", "--disable-hot-restart", *quiet)
        words = "identity and log" if beyond else "no log"
        row = f"{program.name} {program.version}, jwt_authn, {words}"
        yield Entrant(row, server, minted(key), wrong_tokens(key), tells=beyond)


def caddy(place: Place) -> Iterator[Entrant]:
    """A plain proxy: it would take another's module to verify tokens."""
    program = programs.program("caddy")
    started = _Start(place, program, "caddy", {}, {"GOMAXPROCS": "1"})
    path = started.configured("Caddyfile")
    words = ("--config", str(path), "--adapter", "caddyfile")
    started.accepts("validate", *words)
    row = f"{program.name} {program.version}, no authentication"
    token = minted(keys.new_key("HS256"))
    yield Entrant(row, started.run("run", *words), token, tells=True)


def portkey(place: Place) -> Iterator[Entrant]:
    """It authenticates nobody; the key goes on to the LLM server."""
    program = programs.program("portkey")
    started = _Start(place, program, "portkey", {}, {"NODE_ENV": "production"})
    server = started.run("--headless", f"--port={started.port}")
    more = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{place.upstream}/v1",
    }
    row = f"{program.name} {program.version}, no authentication"
    yield Entrant(row, server, "sk-of-the-llm-server", more=more)


def litellm(place: Place) -> Iterator[Entrant]:
    """Its master key, as there is no database: no key of a user's is looked up."""
    program, key = programs.program("litellm"), "sk-" + secrets.token_urlsafe(24)
    asks_nobody = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    started = _Start(place, program, "litellm", {"KEY": key}, asks_nobody)
    path = started.configured("litellm.yaml")
    port = str(started.port)
    words = ("--config", str(path), "--host", "127.0.0.1", "--port", port, "--num_workers", "1")
    row = f"{program.name} {program.version}, master key"
    wrong = {"no key": "", "another key": "sk-" + secrets.token_urlsafe(24)}
    # A key that it does not know it would look for in a database, which it says with a 400.
    yield Entrant(row, started.run(*words), key, wrong, refused=(400, 401))


#: In the table's order.
PEERS: dict[str, Callable[[Place], Iterator[Entrant]]] = {
    "haproxy": haproxy,
    "envoy": envoy,
    "caddy": caddy,
    "portkey": portkey,
    "litellm": litellm,
}


def peers(place: Place, wanted: Sequence[str]) -> Iterator[Entrant | str]:
    """Each that is here, and a line about each that is not."""
    for name in PEERS:
        said = programs.listed()[name]
        if name not in wanted:
            yield f"{said['name']}: {said.get('optional', 'not asked for')}"
            continue
        try:
            yield from PEERS[name](place)
        except AbsentError as error:
            yield f"{said['name']}: {error}"


def _key_set(key: Key) -> str:
    text = base64.urlsafe_b64encode(key.signing).rstrip(b"=").decode()
    one = {"kty": "oct", "alg": key.algorithm, "kid": key.kid, "k": text}
    return json.dumps({"keys": [one]})


class _Start:
    """One peer's start: a port, a private configuration, and a process that ends with the run."""

    def __init__(
        self,
        place: Place,
        program: Program,
        name: str,
        values: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        (self.port,) = free_ports(1)
        self._place, self._program, self._name = place, program, name
        self._folder = place.folder / name
        self._folder.mkdir(mode=0o700)
        self._values = {
            "PORT": str(self.port),
            "UPSTREAM": str(place.upstream),
            "FOLDER": str(self._folder),
            **values,
        }
        home = {"HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder)}
        self._env = {**os.environ, **home, **(settings or {})}

    def configured(self, name: str, beyond: bool = True) -> Path:
        """Its configuration from `conf/`, with this run's values."""
        path = self._folder / name
        path.touch(0o600)
        path.write_text(configuration(name, self._values, beyond))
        return path

    def accepts(self, *words: str) -> None:
        """Have the program itself look at the configuration."""
        command = [*self._program.command, *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True)
        assert done.returncode == 0, f"{self._name}: {done.stdout}{done.stderr}"

    def run(self, *words: str) -> Server:
        """Start it on the gateway's core, and wait until it listens. It writes to files."""
        command = ["taskset", "-c", GATEWAY_CORE, *self._program.command, *words]
        output = self._place.stack.enter_context((self._folder / "output").open("wb"))
        process = subprocess.Popen(
            command, env=self._env, cwd=self._folder, stdout=output, stderr=subprocess.STDOUT
        )
        self._place.stack.callback(_end, process)
        server = Server(self._name, f"http://127.0.0.1:{self.port}", (process.pid,))
        wait_for(partial(self._listens, process), START_SECONDS, f"{self._name} listens")
        return server

    def _listens(self, process: "subprocess.Popen[bytes]") -> bool:
        if process.poll() is not None:
            words = (self._folder / "output").read_text(errors="replace")[-2000:]
            raise AssertionError(f"{self._name} ended by itself: {words}")
        try:
            requests.get(f"http://127.0.0.1:{self.port}/", timeout=5)
        except requests.RequestException:
            return False
        return True


def configuration(name: str, values: Mapping[str, str], beyond: bool = True) -> str:
    """A configuration of `conf/`: with values, and with or without the lines beyond verifying."""
    lines = (CONF / name).read_text().splitlines()
    kept = [line for line in lines if beyond or not line.endswith(BEYOND)]
    text = "\n".join(kept) + "\n"
    # Not strict, as HAProxy's own words have a dollar too; what is left of ours is a mistake.
    filled = Template(text).safe_substitute(values)
    assert "${" not in filled, f"{name} asks for a value that it does not get"
    return filled


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
