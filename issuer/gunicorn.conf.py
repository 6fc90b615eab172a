"""gunicorn's own settings. Each worker makes its own application; nothing is shared by a fork."""

import logging
import os
import sys
import tempfile

# Set before any worker imports the metrics: they are summed over the processes.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="portero-metrics-"))

bind = os.environ.get("ISSUER_LISTEN", "127.0.0.1:9000")
worker_class = "gthread"
workers = 2
threads = 16
timeout = 30
graceful_timeout = 10
# Longer than the gateway keeps its connections, so that it is never the issuer who hangs up.
keepalive = 75
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Names with an underscore could pass for the gateway's own headers.
header_map = "refuse"
# No way in but the listener.
no_control_socket = True

logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
)


def on_starting(server: object) -> None:
    """Tell every fault once and stop, rather than once a worker and try again."""
    from issuer import assemble, config
    from issuer.errors import PorteroError

    try:
        assemble(config.read(os.environ))
    except PorteroError as error:
        print(f"issuer: cannot start\n{error}", file=sys.stderr)
        sys.exit(1)
