"""A deployment with a second gateway, as local processes."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from run import processes
from tests.support.deployment import Local, answers, deployed, wait_ready
from tests.support.ports import free_ports
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for


@dataclass
class Second:
    """A second gateway of a deployment, that runs or not; `runtime` is its folder."""

    deployment: Local
    runtime: str
    url: str
    internal: str
    _child: processes.Child | None = None

    def start(self) -> None:
        env = {
            **self.deployment.env,
            "GATEWAY_LISTEN": self.url.removeprefix("http://"),
            "INTERNAL_LISTEN": self.internal.removeprefix("http://"),
            "GATEWAY_RUNTIME_DIR": self.runtime,
        }
        service = processes.Service("gateway-2", ("sh", "openresty/gateway.sh"))
        self._child = processes.start(service, self.deployment.data, env)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """A killed master leaves no worker behind."""
        child, self._child = self._child, None
        if child:
            child.process.send_signal(how)
            child.process.wait(10)
            processes.kill_group(child.process)


@contextmanager
def second_gateway(deployment: Local) -> Iterator[Second]:
    """One that runs; the issuer is not told of it."""
    public, internal = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory(prefix="portero-gw2-") as runtime:
        Path(runtime).chmod(0o711)
        second = Second(deployment, runtime, public, internal)
        second.start()
        try:
            yield second
        finally:
            second.stop()


@contextmanager
def another_gateway(deployment: Local) -> Iterator[tuple[str, int]]:
    """A second gateway of the same deployment: its address, and its internal port."""
    with second_gateway(deployment) as second:
        yield second.url, int(second.internal.rpartition(":")[2])


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
