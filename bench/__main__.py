"""`make bench`: what a judged request costs, in one run, against plain nginx and against asking a
validator about every request. It takes about four minutes.

One small chat in all rows, so that each has plain nginx for its base, over TLS one that speaks it
alike. The other measurements have names of their own (docs/performance.md).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import portero, table
from bench.load import H2LOAD, measure_tls, write_script
from bench.portero import COUNTED, LIMITED, LISTED, USER
from bench.servers import GATEWAY_CORE, pin, proxy, tiny_upstream
from bench.table import PLAIN, Row
from issuer import certificates
from run.commands import ROOT
from tests.support import fleet
from tests.support.deployment import Caller
from tests.support.policies import shipped_policy

ALGORITHMS = os.environ.get("BENCH_ALGORITHMS", "HS256,ES256,EdDSA,RS256").split(",")
#: More than the workers remember: in turn, each is seen for the first time whenever it comes.
FIRST_SEEN = 2_500
LIMITS = {
    "requests a minute and at once": COUNTED,
    "a list of models": LISTED,
    "every one, tokens too": LIMITED,
}


def main() -> int:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        rows = list(_rows(folder, stack))
        taken = table.take(rows)
    table.print_rows(rows, taken)
    print(f"\nroute and role, without what surrounds them: {_policy_nanoseconds()} ns a request")
    return 0


def _rows(folder: Path, stack: ExitStack) -> Iterator[Row]:
    upstream = stack.enter_context(tiny_upstream(folder))
    running = stack.enter_context(portero.portero(folder, upstream))
    issuer = int(running.issuer.rpartition(":")[2])
    plain = stack.enter_context(proxy(folder, "plain", upstream, issuer))
    known = write_script(folder, "known", portero.active_tokens(running, "HS256", 1))
    yield Row(PLAIN, plain, known)
    yield Row("Portero, known token", portero.server(running), known)
    script = write_script(folder, "api-key", [portero.api_key(running)])
    yield Row("Portero, known API key", portero.server(running), script)
    for name, user in LIMITS.items():
        script = write_script(folder, f"limits-{user}", [Caller(running).token(user)])
        yield Row(f"Portero, limits: {name}", portero.server(running), script)
    yield from _rows_of_usage(folder, upstream, stack)
    yield from _rows_of_servers(folder, upstream, stack)
    yield from _rows_of_tls(folder, upstream, stack)
    for algorithm in ALGORITHMS:
        yield _first_seen(folder, upstream, algorithm, stack)
    asking = stack.enter_context(
        proxy(folder, "asking", upstream, issuer, auth="auth_request /auth;")
    )
    asking.roots += (running.pid("issuer"),)
    yield Row("nginx auth_request to gunicorn", asking, known)


def _first_seen(folder: Path, upstream: int, algorithm: str, stack: ExitStack) -> Row:
    """A gateway of its own: thousands of tokens would be its collector's work in other rows."""
    print(f"minting {FIRST_SEEN} tokens, {algorithm}", file=sys.stderr, flush=True)
    running = stack.enter_context(portero.portero(folder, upstream, algorithm))
    minted = portero.active_tokens(running, algorithm, FIRST_SEEN)
    script = write_script(folder, algorithm, minted)
    return Row(f"Portero, first-seen token, {algorithm}", portero.server(running), script)


def _rows_of_usage(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What it costs to count what is used; all other rows count nothing."""
    counting = stack.enter_context(portero.portero(folder, upstream, USAGE="on"))
    for name, user in (("usage counted", USER), ("usage counted, every limit", LIMITED)):
        script = write_script(folder, f"usage-{user}", [Caller(counting).token(user)])
        yield Row(f"Portero, {name}", portero.server(counting), script)


def _rows_of_servers(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What it costs where the policy names servers: by the model, and by an alias of it."""
    listed = [fleet.row(name, upstream) for name in ("one", "two", "three")]
    policy = fleet.compiled(listed, [{"name": "fast", "models": ["tiny"]}])
    running = stack.enter_context(fleet.fleet(policy, GATEWAY_WORKERS="1", USAGE="off"))
    pin(running.deployment.pid("gateway"), GATEWAY_CORE)
    for name, model in (("three servers", "tiny"), ("three servers, an alias", "fast")):
        script = write_script(folder, f"servers-{model}", [running.token(USER)], model=model)
        yield Row(f"Portero, {name}", portero.server(running.deployment), script)


def _rows_of_tls(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What TLS 1.3 leaves of the difference, against plain nginx that speaks it alike."""
    made = certificates.make(folder / "tls", ("127.0.0.1",))
    os.environ["REQUESTS_CA_BUNDLE"] = str(made.authority)
    stack.callback(os.environ.pop, "REQUESTS_CA_BUNDLE")
    own = {"TLS_CERTIFICATE": str(made.certificate), "TLS_CERTIFICATE_KEY": str(made.key)}
    running = stack.enter_context(portero.portero(folder, upstream, COOKIE_SECURE="true", **own))
    plain = stack.enter_context(proxy(folder, "plain-tls", upstream, 1, tls=made))
    token = folder / "tls.token"
    token.write_text(portero.active_tokens(running, "HS256", 1)[0])
    for protocol in H2LOAD:
        load = partial(measure_tls, protocol=protocol)
        base = f"plain nginx, TLS 1.3, {protocol}"
        yield Row(base, plain, token, base, load)
        name = f"Portero, known token, TLS 1.3, {protocol}"
        yield Row(name, portero.server(running), token, base, load)


def _policy_nanoseconds() -> str:
    return subprocess.run(
        ["luajit", "bench/policy.lua"],
        input=json.dumps(shipped_policy().compiled),
        cwd=ROOT,
        env={**os.environ, "LUA_PATH": "openresty/lua/?.lua;;"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
