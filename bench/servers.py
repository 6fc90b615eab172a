"""The servers that are measured, each pinned to the first core: plain nginx with Portero's own
proxy settings and access log (the limit), and nginx asking a gunicorn validator about every request
(the design Portero replaces). The load and the tiny upstream share the second core.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from issuer.certificates import Made
from tests.support.deployment import answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for

GATEWAY_CORE, LOAD_CORE = "0", "1"
CONF = Path(__file__).resolve().parent.parent / "openresty" / "conf"
#: What the kernel wants to hear (proc(5), clear_refs).
FORGET_PEAK = "5"
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

COMMON = """
daemon off;
worker_processes 1;
pid {folder}/{name}.pid;
error_log stderr crit;
include /etc/nginx/modules-enabled/*.conf;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
    keepalive_requests 100000000;
    {content}
}}
"""

UPSTREAM = """
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        client_max_body_size 64m;
        default_type application/json;
        location / {{ return 200 '{{"ok":true}}'; }}
        location = /v1/models {{ return 200 '{{"data":[{{"id":"tiny"}}]}}'; }}
    }}
"""

#: Portero's own lines, without what decides: the limit of what it could be. It tells the upstream
#: and the log of a user just as Portero does.
PROXY = """
    map "" $auth_user {{ default "AGIATEST01"; }}
    map "" $auth_role {{ default "agi"; }}
    map "" $auth_token_id {{ default "AAAAAAAAAAAAAAAAAAAAAA"; }}
    map "" $client_certificate {{ default ""; }}
    {log_format}
    access_log {folder}/{name}-access.log json buffer=64k flush=1s;
    upstream llm {{
        server 127.0.0.1:{upstream};
        keepalive 128;
        keepalive_requests 100000000;
    }}
    upstream issuer {{ server 127.0.0.1:{issuer}; keepalive 128; }}
    server {{
        listen 127.0.0.1:{port}{speaks} backlog=4096;
        {own_tls}
        add_header x-request-id $request_id always;
        location / {{
            {auth}
            {asking}
        }}
        location = /auth {{
            internal;
            proxy_pass http://issuer/validate;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_http_version 1.1;
        }}
    }}
"""


@dataclass
class Server:
    """One measured server: its address, and the processes whose CPU counts."""

    name: str
    url: str
    roots: tuple[int, ...]

    def cpu_microseconds(self) -> tuple[float, float]:
        """Time of all its processes so far: in all, and in user mode."""
        processes = [pid for root in self.roots for pid in _tree(root)]
        return sum(map(_cpu, processes)), sum(map(_user_mode, processes))

    def forget_peak(self) -> None:
        """From here on its peak of memory is counted anew."""
        for root in self.roots:
            for pid in _tree(root):
                Path(f"/proc/{pid}/clear_refs").write_text(FORGET_PEAK)

    def peak_mebibytes(self) -> float:
        """The most memory that each of its processes had, what they share in each of them."""
        return sum(_peak_kibibytes(pid) for root in self.roots for pid in _tree(root)) / 1024


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in _tree(int(child)))]


def _peak_kibibytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def _cpu(pid: int) -> float:
    """By the scheduler's own clock; ticks are too coarse for a sample of a second."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) / 1000 for one in threads)


def _user_mode(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) * 1e6 / TICKS_A_SECOND


def pin(root: int, core: str) -> None:
    """Pin a process and all it has started."""
    for pid in _tree(root):
        os.sched_setaffinity(pid, {int(core)})


def log_format() -> str:
    """Portero's access log, as its configuration has it."""
    text = (CONF / "nginx.conf").read_text()
    found = re.search(r"map \$request_uri .*?log_format json .*?;\n", text, re.DOTALL)
    assert found
    return found[0]


#: What Portero's settings.conf says beside llm.conf, for the tiny upstream.
BESIDE_LLM_CONF = """
    proxy_pass http://llm;
    proxy_set_header Host x;
    proxy_set_header Authorization "";
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_send_timeout 600s;
    proxy_read_timeout 600s;
"""


def asking() -> str:
    """How Portero asks an LLM server: the path as it came."""
    return BESIDE_LLM_CONF + (CONF / "llm.conf").read_text().replace("include ", f"include {CONF}/")


@contextmanager
def nginx(folder: Path, name: str, content: str, core: str) -> Iterator[int]:
    """An nginx of one worker, and its process id."""
    path = folder / f"{name}.conf"
    path.write_text(COMMON.format(folder=folder, name=name, content=content))
    command = ["nginx", "-c", str(path), "-e", "stderr", "-g", "user nobody nogroup;"]
    process = subprocess.Popen(["taskset", "-c", core, *command])
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def tiny_upstream(folder: Path) -> Iterator[int]:
    """An upstream that answers at once, and its port."""
    (port,) = free_ports(1)
    with nginx(folder, "upstream", UPSTREAM.format(port=port), LOAD_CORE):
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/", 200), 10, "the upstream is up")
        yield port


def own_tls(made: Made) -> str:
    """How Portero speaks TLS, with a certificate that does not change."""
    text = (CONF / "tls.conf").read_text()
    shown = (made.certificate, made.key)
    for name, path in zip(("certificate", "certificate_key"), shown, strict=True):
        text = text.replace(f"ssl_{name} tls.pem", f"ssl_{name} {path}")
    text = re.sub(r"ssl_certificate_by_lua_block .*", "", text)
    return text.replace("include ", f"include {CONF}/")


@contextmanager
def proxy(
    folder: Path, name: str, upstream: int, issuer: int, auth: str = "", tls: Made | None = None
) -> Iterator[Server]:
    """nginx with Portero's proxy settings, and with TLS as it speaks it."""
    (port,) = free_ports(1)
    content = PROXY.format(
        folder=folder,
        name=name,
        port=port,
        upstream=upstream,
        issuer=issuer,
        auth=auth,
        speaks=" ssl http2" if tls else "",
        own_tls=own_tls(tls) if tls else "",
        asking=asking(),
        log_format=log_format(),
    )
    with nginx(folder, name, content, GATEWAY_CORE) as pid:
        time.sleep(0.3)
        yield Server(name, f"{'https' if tls else 'http'}://127.0.0.1:{port}", (pid,))
