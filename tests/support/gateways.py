"""A deployment with a second gateway, as local processes."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from run import processes
from tests.support.deployment import Local, answers, deployed, free_ports, wait_ready
from tests.support.upstream import Upstream, wait_for


@contextmanager
def another_gateway(deployment: Local) -> Iterator[tuple[str, int]]:
    """A second gateway of the same deployment: its address, and its internal port."""
    public, internal = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="portero-gw2-") as runtime:
        Path(runtime).chmod(0o711)
        env = {
            **deployment.env,
            "GATEWAY_LISTEN": f"127.0.0.1:{public}",
            "INTERNAL_LISTEN": f"127.0.0.1:{internal}",
            "GATEWAY_RUNTIME_DIR": runtime,
        }
        service = processes.Service("gateway-2", ("sh", "openresty/gateway.sh"))
        child = processes.start(service, deployment.data, env)
        try:
            yield f"http://127.0.0.1:{public}", internal
        finally:
            child.process.send_signal(signal.SIGTERM)
            child.process.wait(10)
            processes.kill_group(child.process)


@contextmanager
def two_gateways(upstream: Upstream, **settings: str) -> Iterator[tuple[Local, str]]:
    """A deployment with two gateways, and where the second listens."""
    with (
        deployed(upstream.url, **settings) as deployment,
        another_gateway(deployment) as (second, internal),
    ):
        push_to(deployment, second, f"http://127.0.0.1:{internal}")
        yield deployment, second


def push_to(deployment: Local, second: str, internal: str) -> None:
    """Have the issuer push to one more gateway, at that internal address; it is ready after."""
    deployment.env["GATEWAY_URLS"] += f",{internal}"
    for part in ("issuer", "reconciler"):
        deployment.stop(part)
        deployment.start(part)
    wait_ready(deployment)
    wait_for(lambda: answers(f"{second}/readyz", 200), 10, "the second gateway is ready")
