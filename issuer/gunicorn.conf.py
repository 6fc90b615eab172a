"""gunicorn's own settings: one worker process of many threads, which all share what they know. The
worker makes the application; by the fork it has the master's memory of secrets that were right.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from typing import Any

bind = os.environ.get("ISSUER_LISTEN", "127.0.0.1:9000")
worker_class = "gthread"
# What logins share, they share as threads: turns at bcrypt, transactions, messages to gateways
# (docs/decisions/0010-one-process-answers-logins.md).
workers = 1
# Those that wait for bcrypt, and twice as many for all others.
threads = 48
timeout = 30
graceful_timeout = 10
# Longer than the gateway keeps its connections, so that it is never the issuer who hangs up.
keepalive = 75
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Names with an underscore could pass for the gateway's own headers.
header_map = "refuse"
# How the client came is the gateway's word alone. gunicorn would refuse a request in which a header
# of a front, such as X-Forwarded-Ssl, says otherwise.
secure_scheme_headers: dict[str, str] = {}
# From another machine by TLS: gunicorn wants to know the files, and `ssl_context` reads them.
certfile = os.environ.get("ISSUER_TLS_CERTIFICATE", "") or None
keyfile = os.environ.get("ISSUER_TLS_CERTIFICATE_KEY", "") or None
# A header may be as long as at the gateway, where it is read too, and there may be more of them.
limit_request_field_size = 16 * 1024
limit_request_fields = 256
# No way in but the listener.
control_socket_disable = True

logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
)


# What happened is a line of JSON, and nothing else in it.
_lines = logging.StreamHandler(sys.stderr)
_lines.setFormatter(logging.Formatter("%(message)s"))
logging.getLogger("portero.audit").addHandler(_lines)
logging.getLogger("portero.audit").propagate = False


#: Private directories that the workers share and the master makes and removes: the metrics, which
#: are summed over the processes, and the last good text of the credentials file.
SHARED = {
    "PROMETHEUS_MULTIPROC_DIR": "portero-metrics-",
    "PORTERO_LAST_GOOD_DIR": "portero-last-good-",
}


#: The memory of `issuer/users/remembered.py`: it outlives the workers, and is in no file.
REMEMBERED = "PORTERO_REMEMBERED_FD"
REMEMBERED_BYTES = 8 * 1024 * 1024
KEY_BYTES = 32


def on_starting(server: object) -> None:
    """Tell every fault once and stop, rather than once a worker and try again.

    In a process of its own: SQLite's locks do not survive a fork, so the master must never have
    the session store open (https://www.sqlite.org/howtocorrupt.html, section 2.6). What it finds
    good is the first that is kept.
    """
    os.environ.update({name: tempfile.mkdtemp(prefix=prefix) for name, prefix in SHARED.items()})
    if subprocess.run([sys.executable, "-m", "issuer", "check", "--start"]).returncode:
        on_exit(server)
        sys.exit(1)
    os.environ[REMEMBERED] = str(_made_memory())


def _made_memory() -> int:
    """Memory that forks share, with a random key at its beginning. A program that a worker starts
    does not get it.
    """
    descriptor = os.memfd_create("portero-remembered")
    os.ftruncate(descriptor, REMEMBERED_BYTES)
    os.pwrite(descriptor, os.urandom(KEY_BYTES), 0)
    return descriptor


def post_worker_init(worker: Any) -> None:
    """A changed file counts within a second."""
    worker.wsgi.extensions["portero"].keep_looking()


def worker_exit(server: object, worker: Any) -> None:
    """What was refused in the last seconds, and what has no line in the log yet, is not lost."""
    # A worker that could not begin has none.
    parts = getattr(worker.wsgi, "extensions", {}).get("portero")
    if parts is not None:
        parts.close()


@cache
def _shown() -> Any:
    """The worker's own, which follows the files."""
    from issuer import config, listener_tls

    pair = config.read_own_tls()
    assert pair, "gunicorn asks for no TLS where there is no certificate"
    return listener_tls.ListenerTls(*pair)


def ssl_context(_config: object, _default: object) -> Any:
    """For a connection that has just come."""
    return _shown().context()


def pre_request(worker: Any, request: Any) -> None:
    """Before WSGI joins the lines of a header with commas."""
    # A worker has loaded it; the master must load nothing of ours.
    from issuer.tokens import presented_token

    request.headers = presented_token.one_of_each(request.headers)


def on_exit(server: object) -> None:
    """Leave nothing behind."""
    for name in SHARED:
        shutil.rmtree(os.environ[name], ignore_errors=True)
