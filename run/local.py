"""`make run` as local processes: starts gateway, issuer, reconciler and the bundled LLM, waits
until a chat comes through, and ends all of them together.

It owns DATA_DIR/run and DATA_DIR/log while it runs. It must never put a secret on a command line or
into a log, and never leave a process, a pid file or a runtime directory behind.
"""

import base64
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from run import machine
from run.machine import PYTHON, ROOT, VENV, RunError, say, signals

HOST = "127.0.0.1"
DEFAULT_PORTS = {"GATEWAY_PORT": 8080, "INTERNAL_PORT": 8081, "ISSUER_PORT": 9000}
DEFAULT_DATA_DIR = "var"
#: Settings that hold a path. The user's are relative to where make ran; the parts run elsewhere.
PATH_SETTINGS = ("CREDENTIALS_FILE", "SECRET_KEY_FILE", "SYNC_KEY_FILE")
#: Secrets go to the parts as files, unless the user gave them by value.
SECRET_FILES = ("SECRET_KEY_FILE", "SYNC_KEY_FILE")
#: make's own, of no use to the parts.
MAKE_SETTINGS = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")

READY_SECONDS = 60
CHAT_SECONDS = 120
REQUEST_SECONDS = 30
STOP_SECONDS = 5
#: What a part that is still starting, or a limit, may answer; any other status will not change.
PASSING_STATUSES = (429, 500, 502, 503, 504)
LAST_LINES = 12
LAST_BYTES = 8192

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_QUESTION = "What is the capital of France?"
#: Takes the token out of the login's JSON with what every machine has.
READ_JSON = r"""sed -n 's/.*"token": *"\([^"]*\)".*/\1/p'"""
LOGIN_TO_FILL_IN, MODEL_TO_FILL_IN = "USERNAME:SECRET", "MODEL"


@dataclass(frozen=True)
class Plan:
    """What the user asked for, read once from the environment."""

    gateway_port: int
    internal_port: int
    issuer_port: int
    data_dir: Path
    own_credentials: bool
    own_llm: bool

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.gateway_port}"

    @property
    def ports(self) -> dict[str, int]:
        numbers = (self.gateway_port, self.internal_port, self.issuer_port)
        return dict(zip(DEFAULT_PORTS, numbers, strict=True))


@dataclass(frozen=True)
class Service:
    """One of the processes: its name is that of its log and its pid file."""

    name: str
    command: tuple[str, ...]


@dataclass
class Child:
    service: Service
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int


def main() -> int:
    return machine.guarded(lambda: run(clean_environment(os.environ)))


def run(env: Mapping[str, str]) -> None:
    plan = read_plan(env, Path.cwd())
    with data_dir_in_use(plan.data_dir):
        prepare(plan)
        make_secrets(plan, env)
        with stack(plan, env) as children:
            wait_until_ready(plan, children)
            announce(plan)
            watch(children)


# --- what is asked for ---------------------------------------------------------------------------


def clean_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Empty means not set, as in `make run LLM_UPSTREAM=`; paths become absolute."""
    kept = {name: value for name, value in env.items() if value and name not in MAKE_SETTINGS}
    paths = {name: str(Path(kept[name]).absolute()) for name in PATH_SETTINGS if name in kept}
    path = machine.search_path(env.get("PATH", ""))
    return {**kept, **paths, "PATH": path, "PYTHONUNBUFFERED": "1"}


def read_plan(env: Mapping[str, str], folder: Path) -> Plan:
    ports, faults = read_ports(env)
    if faults:
        raise RunError(*faults)
    return Plan(
        gateway_port=ports["GATEWAY_PORT"],
        internal_port=ports["INTERNAL_PORT"],
        issuer_port=ports["ISSUER_PORT"],
        data_dir=folder / env.get("DATA_DIR", DEFAULT_DATA_DIR),
        own_credentials="CREDENTIALS_FILE" in env,
        own_llm="LLM_UPSTREAM" in env,
    )


def read_ports(env: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """The ports, or one line for each fault."""
    written = {setting: env.get(setting, str(port)) for setting, port in DEFAULT_PORTS.items()}
    wrong = [f"{name} is '{text}'" for name, text in written.items() if not is_port(text)]
    if wrong:
        return {}, [f"{fault}; it must be a port number from 1 to 65535" for fault in wrong]
    ports = {setting: int(text) for setting, text in written.items()}
    if len(set(ports.values())) < len(ports):
        numbers = ", ".join(str(port) for port in ports.values())
        return {}, [f"{', '.join(ports)} must differ; they are {numbers}"]
    return ports, []


def is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


# --- before the start ----------------------------------------------------------------------------


@contextmanager
def data_dir_in_use(data_dir: Path) -> Iterator[None]:
    """One stack for one DATA_DIR. The lock goes with this process, however it ends."""
    handle = open_lock(data_dir)
    try:
        if not machine.try_lock(handle):
            raise RunError(in_use(data_dir, os.pread(handle, 20, 0)))
        remove_leftovers(data_dir)
        with written_pid(handle):
            yield
    finally:
        os.close(handle)


@contextmanager
def written_pid(handle: int) -> Iterator[None]:
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    try:
        yield
    finally:
        os.ftruncate(handle, 0)


def remove_leftovers(data_dir: Path) -> None:
    """Of a stack whose supervisor was killed: the lock was free, so they are nobody else's."""
    for path in (data_dir / "run").glob("*.pid"):
        path.unlink(missing_ok=True)
    link = runtime_link(data_dir)
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()


def runtime_link(data_dir: Path) -> Path:
    return data_dir / "run" / "runtime"


def in_use(data_dir: Path, pid: bytes) -> str:
    process = pid.decode(errors="replace").strip() or "unknown"
    return (
        f"a stack runs on {data_dir} already (process {process}); "
        "stop it, or choose another DATA_DIR and other ports"
    )


def open_lock(data_dir: Path) -> int:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("run", "log"):
            (data_dir / name).mkdir(mode=0o700, exist_ok=True)
        return os.open(data_dir / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(f"DATA_DIR {data_dir} cannot be written: {error.strerror}") from error


def prepare(plan: Plan) -> None:
    """All checks first, so that nothing is installed for a stack that cannot start."""
    packages = [*machine.gateway_packages(), *machine.python_packages()]
    files = [machine.PRODUCT]
    if not plan.own_llm:
        packages += machine.demo_packages()
        files += [machine.DEMO]
    faults = [*machine.port_faults(plan.ports), *machine.package_faults(packages)]
    if faults:
        raise RunError(*faults)
    machine.prepare(packages, files)


def make_secrets(plan: Plan, env: Mapping[str, str]) -> None:
    """It sees the user's settings, not those made here: a CREDENTIALS_FILE would be the user's."""
    command = [str(PYTHON), "-m", "issuer", "init", "--data-dir", str(plan.data_dir)]
    if machine.call(command, env):
        raise RunError("secrets and demo credentials could not be made, the reason is above")


# --- the parts -----------------------------------------------------------------------------------


def services(plan: Plan) -> list[Service]:
    """In the order they start; the LLM needs longest."""
    python = str(PYTHON)
    gunicorn = (
        str(VENV / "bin" / "gunicorn"),
        "--config",
        "issuer/gunicorn.conf.py",
        "issuer:create_app()",
    )
    llm = () if plan.own_llm else (Service("llm", (python, "demo/llm.py")),)
    return [
        *llm,
        Service("gateway", ("sh", "openresty/gateway.sh")),
        Service("issuer", gunicorn),
        Service("reconciler", (python, "-m", "issuer", "reconcile")),
    ]


def settings(plan: Plan, env: Mapping[str, str], llm_port: int, runtime_dir: str) -> dict[str, str]:
    """The environment of the parts: the user's settings win over what is made here."""
    llm, data_dir = f"{HOST}:{llm_port}", plan.data_dir
    defaults = {
        "SECRET_KEY_FILE": str(data_dir / "secrets" / "secret_key"),
        "SYNC_KEY_FILE": str(data_dir / "secrets" / "sync_key"),
        "CREDENTIALS_FILE": str(data_dir / "credentials.env"),
        "DATABASE_URL": f"sqlite:///{data_dir / 'sessions.db'}",
        "GATEWAY_URLS": f"http://{HOST}:{plan.internal_port}",
        "LLM_UPSTREAM": f"http://{llm}",
        "COOKIE_SECURE": "false",
    }
    wiring = {
        "ISSUER_LISTEN": f"{HOST}:{plan.issuer_port}",
        "ISSUER_URL": f"http://{HOST}:{plan.issuer_port}",
        "GATEWAY_LISTEN": f"{HOST}:{plan.gateway_port}",
        "INTERNAL_LISTEN": f"{HOST}:{plan.internal_port}",
        "GATEWAY_RUNTIME_DIR": runtime_dir,
        "TMPDIR": str(Path(runtime_dir) / "tmp"),
        "LLM_LISTEN": llm,
    }
    return {
        **{name: value for name, value in defaults.items() if not is_given(name, env)},
        **env,
        **wiring,
    }


def is_given(setting: str, env: Mapping[str, str]) -> bool:
    """By value or through NAME_FILE: with both there would be two answers to one question."""
    by_value = setting.removesuffix("_FILE") if setting in SECRET_FILES else setting
    return setting in env or by_value in env or f"{setting}_FILE" in env


@contextmanager
def stack(plan: Plan, env: Mapping[str, str]) -> Iterator[list[Child]]:
    """All parts, from the first started to the last ended."""
    with ExitStack() as at_the_end:
        runtime_dir = at_the_end.enter_context(runtime_directory(plan.data_dir))
        parts_env = settings(plan, env, port_for_llm(plan), runtime_dir)
        children: list[Child] = []
        at_the_end.callback(stop_all, children, plan.data_dir)
        with signals.held():  # or a child could be running and not yet in the list
            for service in services(plan):
                children.append(start(service, plan.data_dir, parts_env))
        yield children


def port_for_llm(plan: Plan) -> int:
    """Any free one, as only the gateway calls it; not one that this stack will take in a moment."""
    while (port := machine.free_port()) in plan.ports.values():
        pass
    return port


@contextmanager
def runtime_directory(data_dir: Path) -> Iterator[str]:
    """Outside DATA_DIR: the gateway's workers are nobody, and must get in. What the other parts
    make for the time they run goes into its `tmp`, and with it.
    """
    path = Path(tempfile.mkdtemp(prefix="portero-"))
    try:
        runtime_link(data_dir).symlink_to(path)  # so that the next start finds it if we are killed
        path.chmod(0o711)
        (path / "tmp").mkdir(mode=0o700)
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        runtime_link(data_dir).unlink(missing_ok=True)


def start(service: Service, data_dir: Path, env: Mapping[str, str]) -> Child:
    """In a process group of its own: the terminal's Ctrl-C reaches the supervisor alone, which ends
    it in order. If the supervisor is killed the kernel sends SIGTERM; not SIGKILL, which would
    leave nginx's workers behind.
    """
    log = data_dir / "log" / f"{service.name}.log"
    with log.open("ab") as output:
        log_start = output.tell()
        process = subprocess.Popen(
            service.command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=machine.tied_to_us(signal.SIGTERM),
        )
    pid_file(service, data_dir).write_text(f"{process.pid}\n")
    return Child(service, process, log, log_start)


def pid_file(service: Service, data_dir: Path) -> Path:
    return data_dir / "run" / f"{service.name}.pid"


def stop_all(children: Sequence[Child], data_dir: Path) -> None:
    """SIGTERM to each; at the deadline, or when the user insists, SIGKILL to all that is left."""
    with signals.held():
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while any_alive(children) and time.monotonic() < deadline and not signals.insisted:
            time.sleep(machine.TICK_SECONDS / 2)
        for child in children:
            kill_group(child.process)
            pid_file(child.service, data_dir).unlink(missing_ok=True)


def any_alive(children: Sequence[Child]) -> bool:
    return any(child.process.poll() is None for child in children)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # the usual case: all of the group is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- while it runs -------------------------------------------------------------------------------


def watch(children: Sequence[Child]) -> None:
    while True:
        check_alive(children)
        time.sleep(machine.TICK_SECONDS)


def check_alive(children: Sequence[Child]) -> None:
    signals.look()
    for child in children:
        status = child.process.poll()
        if status is not None:
            raise RunError(obituary(child, status))


def obituary(child: Child, status: int) -> str:
    ended = f"{child.service.name} ended: {exit_words(status)}; its log is {child.log}"
    return "\n  | ".join([ended, *last_lines(child.log, child.log_start)])


def exit_words(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def last_lines(log: Path, start: int) -> list[str]:
    """Of this run, not of an earlier one in the same file."""
    with log.open("rb") as text:
        size = text.seek(0, os.SEEK_END)
        text.seek(max(start, size - LAST_BYTES))
        return text.read().decode(errors="replace").splitlines()[-LAST_LINES:]


# --- until it is ready ---------------------------------------------------------------------------


def wait_until_ready(plan: Plan, children: Sequence[Child]) -> None:
    say("Starting.")
    logs = f"logs are in {plan.data_dir / 'log'}"
    fault = wait_while(lambda: gateway_fault(plan), children, READY_SECONDS)
    if fault:
        raise RunError(f"the gateway is not ready after {READY_SECONDS} s ({fault}); {logs}")
    login = demo_login(plan)
    if plan.own_llm or login is None:
        return
    fault = wait_while(lambda: chat_fault(plan, login), children, CHAT_SECONDS)
    if fault:
        raise RunError(f"no chat came through in {CHAT_SECONDS} s ({fault}); {logs}")


def wait_while(find_fault: Callable[[], str], children: Sequence[Child], seconds: float) -> str:
    """Ask until there is no fault; the last one when the time is over."""
    deadline = time.monotonic() + seconds
    while fault := passing_fault(find_fault):
        check_alive(children)
        if time.monotonic() > deadline:
            return fault
        time.sleep(machine.TICK_SECONDS)
    return ""


def passing_fault(find_fault: Callable[[], str]) -> str:
    try:
        return find_fault()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


def gateway_fault(plan: Plan) -> str:
    status, _ = ask(plan, "GET", "/readyz")
    return "" if status == 200 else f"/readyz answers {status}"


def chat_fault(plan: Plan, login: str) -> str:
    """A real login and a real answer of the LLM through the gateway; the fault if it may pass."""
    basic = base64.b64encode(login.encode()).decode()
    status, answer = ask(plan, "POST", "/llm/login", {"Authorization": f"Basic {basic}"})
    if status == 200:
        headers = {"Authorization": f"Bearer {token_in(answer)}"}
        body = {**question(DEMO_MODEL), "max_tokens": 4}
        status, answer = ask(plan, "POST", "/v1/chat/completions", headers, body)
    if status in PASSING_STATUSES:
        return f"status {status}"
    check_answer(status, answer)
    return ""


def token_in(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["token"])
    except (ValueError, KeyError, TypeError):
        return ""  # the gateway will say what it thinks of that


def check_answer(status: int, answer: bytes) -> None:
    try:
        if status == 200 and json.loads(answer)["choices"][0]["message"]["content"]:
            return
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    words = answer[:200].decode(errors="replace")
    raise RunError(
        f"the first chat with the demo login failed: status {status}, {words!r}",
        "if you changed the generated credentials, name them: make run CREDENTIALS_FILE=...",
    )


def question(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": DEMO_QUESTION}]}


def ask(
    plan: Plan,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
) -> tuple[int, bytes]:
    """Not through urllib: it would send this to the proxy that the environment names."""
    connection = http.client.HTTPConnection(HOST, plan.gateway_port, timeout=REQUEST_SECONDS)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, json.dumps(body) if body else None, sent)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


# --- what the user sees --------------------------------------------------------------------------


def demo_login(plan: Plan) -> str | None:
    """The first demo login as USERNAME:SECRET; None when the credentials are the user's own."""
    if plan.own_credentials:
        return None
    lines = machine.read_text(plan.data_dir / "demo-logins").splitlines()
    logins = [line.strip() for line in lines if "=" in line and not line.lstrip().startswith("#")]
    return logins[0].replace("=", ":", 1) if logins else None


def announce(plan: Plan) -> None:
    say("")
    say(f"ready {plan.url}")
    say("")
    model = MODEL_TO_FILL_IN if plan.own_llm else DEMO_MODEL
    for line in curl_lines(plan.url, demo_login(plan) or LOGIN_TO_FILL_IN, model):
        say(line)
    say("")
    say(f"Logs are in {plan.data_dir / 'log'}. Ctrl-C stops it all.")


def curl_lines(url: str, login: str, model: str) -> list[str]:
    body = json.dumps({**question(model), "stream": True})
    return [
        f"TOKEN=$(curl -sS -u {shlex.quote(login)} -X POST {url}/llm/login | {READ_JSON})",
        f'curl -sSN {url}/v1/chat/completions -H "Authorization: Bearer $TOKEN"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(body)}",
    ]
