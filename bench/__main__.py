"""`make bench`: what a judged request costs, in one run, against plain nginx and against asking a
validator about every request.

All servers are loaded in turn, several rounds; each figure is the median, with the least and the
most. A row's base is plain nginx with the same body; where the model is looked for it is Portero
without that. The gateway's processes have a core of their own. Ratios hold across machines,
seconds do not.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import denial, logins, pages
from bench.load import H2LOAD, Sample, measure, measure_tls, write_script
from bench.servers import GATEWAY_CORE, Server, pin, proxy, tiny_upstream
from issuer import certificates, tokens
from issuer.keys import key_file
from issuer.sync.gateways import Changes, Gateway
from run.commands import ROOT
from tests.promises.stores import insert
from tests.support import fleet
from tests.support.deployment import Caller, Local, deployed
from tests.support.policies import shipped_policy, write_policy

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "12"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "1"))
ALGORITHMS = os.environ.get("BENCH_ALGORITHMS", "HS256,ES256,EdDSA,RS256").split(",")
#: More than the workers remember: in turn, each is seen for the first time whenever it comes.
FIRST_SEEN = 2_500
PLAIN = "plain nginx, no auth"


#: Two users whose tokens live longest: one without limits, and one whose models are limited.
USER, LIMITED = "AGIATEST01", "ADMNTEST01"
#: The bodies whose model is looked for.
SIZES = {"4 KiB": 4 * 1024, "1 MiB": 1024 * 1024}


@dataclass(frozen=True)
class Row:
    """A server under one kind of load; `base` names the row that it is compared with."""

    name: str
    server: Server
    script: Path
    base: str = PLAIN
    load: Callable[[Server, Path, int], Sample] = measure


def main() -> int:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o777)
        rows = list(_rows(folder, stack))
        samples: dict[str, list[Sample]] = {row.name: [] for row in rows}
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for row in rows:
                samples[row.name].append(row.load(row.server, row.script, SECONDS))
    _print_table(rows, samples)
    print(f"\nroute and role, without what surrounds them: {_policy_nanoseconds()} ns a request")
    return logins.main() or denial.main() or pages.main()


def _rows(folder: Path, stack: ExitStack) -> Iterator[Row]:
    upstream = stack.enter_context(tiny_upstream(folder))
    porteros = {one: stack.enter_context(_portero(folder, upstream, one)) for one in ALGORITHMS}
    first = porteros[ALGORITHMS[0]]
    issuer = int(first.issuer.rpartition(":")[2])
    plain = stack.enter_context(proxy(folder, "plain", upstream, issuer))
    known = write_script(folder, "known", _active_tokens(first, ALGORITHMS[0], 1))
    yield Row(PLAIN, plain, known)
    for algorithm, portero in porteros.items():
        print(f"minting {FIRST_SEEN} tokens, {algorithm}", file=sys.stderr, flush=True)
        minted = _active_tokens(portero, algorithm, FIRST_SEEN)
        again = write_script(folder, f"known-{algorithm}", minted[:1])
        yield Row(f"Portero, known token, {algorithm}", _server(portero), again)
        if portero is first:
            script = write_script(folder, "api-key", [_api_key(portero)])
            yield Row("Portero, known API key", _server(portero), script)
        script = write_script(folder, algorithm, minted)
        yield Row(f"Portero, first-seen token, {algorithm}", _server(portero), script)
    # A gateway of its own: thousands of tokens that another row brings would be its collector's
    # work here. And behind those rows, whose caches a megabyte would empty.
    yield from _model_rows(
        folder, plain, stack.enter_context(_portero(folder, upstream, ALGORITHMS[0]))
    )
    yield from _usage_rows(folder, upstream, stack)
    yield from _server_rows(folder, upstream, stack)
    yield from _tls_rows(folder, upstream, stack)
    asking = stack.enter_context(
        proxy(folder, "asking", upstream, issuer, auth="auth_request /auth;")
    )
    asking.roots += (first.pid("issuer"),)
    yield Row("nginx auth_request to gunicorn", asking, known)


def _model_rows(folder: Path, plain: Server, portero: Local) -> Iterator[Row]:
    """What it costs to know which model is asked for, by the size of the body."""
    free = _active_tokens(portero, ALGORITHMS[0], 1)
    limited = [Caller(portero).token(LIMITED)]
    for size, length in SIZES.items():
        script = write_script(folder, f"free-{length}", free, length)
        base = f"plain nginx, {size}"
        yield Row(base, plain, script, base)
        without = f"Portero, {size}, models not limited"
        yield Row(without, _server(portero), script, base)
        script = write_script(folder, f"limited-{length}", limited, length)
        yield Row(f"Portero, {size}, models limited", _server(portero), script, without)


def _usage_rows(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What it costs to count what is used; all other rows count nothing."""
    counting = stack.enter_context(_portero(folder, upstream, ALGORITHMS[0], usage="on"))
    free = _active_tokens(counting, ALGORITHMS[0], 1)
    script = write_script(folder, "usage-small", free)
    base = f"Portero, known token, {ALGORITHMS[0]}"
    yield Row("Portero, known token, usage counted", _server(counting), script, base)
    script = write_script(folder, "usage-4096", free, SIZES["4 KiB"])
    base = "Portero, 4 KiB, models not limited"
    yield Row("Portero, 4 KiB, usage counted", _server(counting), script, base)


def _tls_rows(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What TLS 1.3 leaves of the difference, against plain nginx that speaks it alike."""
    made = certificates.make(folder / "tls", ("127.0.0.1",))
    os.environ["REQUESTS_CA_BUNDLE"] = str(made.authority)
    stack.callback(os.environ.pop, "REQUESTS_CA_BUNDLE")
    own = {"TLS_CERTIFICATE": str(made.certificate), "TLS_CERTIFICATE_KEY": str(made.key)}
    tls = {**own, "COOKIE_SECURE": "true"}
    portero = stack.enter_context(_portero(folder, upstream, ALGORITHMS[0], **tls))
    plain = stack.enter_context(proxy(folder, "plain-tls", upstream, 1, tls=made))
    token = folder / "tls.token"
    token.write_text(_active_tokens(portero, ALGORITHMS[0], 1)[0])
    for protocol in H2LOAD:
        load = partial(measure_tls, protocol=protocol)
        base = f"plain nginx, TLS 1.3, {protocol}"
        yield Row(base, plain, token, base, load)
        yield Row(f"Portero, known token, TLS 1.3, {protocol}", _server(portero), token, base, load)


def _server_rows(folder: Path, upstream: int, stack: ExitStack) -> Iterator[Row]:
    """What it costs where the policy names servers: by the model, and by an alias of it."""
    listed = [fleet.row(name, upstream) for name in ("one", "two", "three")]
    policy = fleet.compiled(listed, [{"name": "fast", "models": ["tiny"]}])
    running = stack.enter_context(fleet.fleet(policy, GATEWAY_WORKERS="1", USAGE="off"))
    pin(running.deployment.pid("gateway"), GATEWAY_CORE)
    for name, model in (("three servers", "tiny"), ("three servers, an alias", "fast")):
        script = write_script(
            folder, f"servers-{model}", [running.token(USER)], SIZES["4 KiB"], model
        )
        base = "Portero, 4 KiB, models not limited"
        yield Row(f"Portero, 4 KiB, {name}", _server(running.deployment), script, base)


def _limit_models(content: dict[str, Any]) -> None:
    content["users"][LIMITED] = {"models": ["other", "tiny", "llama*"]}


@contextmanager
def _portero(
    folder: Path, upstream: int, algorithm: str, usage: str = "off", **more: str
) -> Iterator[Local]:
    url = f"http://127.0.0.1:{upstream}"
    settings = {
        "GATEWAY_WORKERS": "1",
        "USAGE": usage,
        "JWT_ALGORITHM": algorithm,
        "POLICY_FILE": str(write_policy(folder / "policy.yaml", _limit_models)),
        **more,
    }
    with deployed(url, **settings) as running:
        pin(running.pid("gateway"), GATEWAY_CORE)
        Caller(running).token(USER)
        # What keeps the other gateways in order would interrupt the one that is measured.
        running.stop("reconciler")
        yield running


def _server(deployment: Local) -> Server:
    return Server("portero", deployment.gateway, (deployment.pid("gateway"),))


def _active_tokens(deployment: Local, algorithm: str, count: int) -> list[str]:
    """Tokens that the deployment's gateway and store know."""
    role = shipped_policy().roles.of(USER)
    assert role is not None
    path = deployment.data / "signing-keys.json"
    key = key_file.KeyFile(path, algorithm, b"", lambda: 0).read().in_force()[-1].key()
    now = int(time.time())
    claims = [tokens.new_claims(USER, role, now) for _ in range(count)]
    _activate(deployment, claims)
    return [tokens.mint(one, key) for one in claims]


def _api_key(deployment: Local) -> str:
    """One that the deployment's gateway and store know, of the same user."""
    caller = Caller(deployment)
    body = {"name": "bench", "days": 1}
    made = caller.call(caller.token(USER), "/account/keys", body=body).json()
    return str(made["key"])


def _activate(deployment: Local, claims: Sequence[tokens.Claims]) -> None:
    """In the gateway, and for the validator in the store, as a login would have."""
    insert(deployment, claims)
    gateway = Gateway(deployment.internal, deployment.sync_key.encode())
    for start in range(0, len(claims), 2_000):
        entries = [(one.jti, one.expires_at) for one in claims[start : start + 2_000]]
        assert gateway.apply(Changes(activate=entries)).ok


def _print_table(rows: Sequence[Row], samples: dict[str, list[Sample]]) -> None:
    print(f"\n{_machine()}; medians of {ROUNDS} rounds of {SECONDS} s (least-most)\n")
    print(
        "| gateway | requests/s | of base | CPU us a request | over base | of it in user mode "
        "| p50 ms | p99 ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        base = _of_each(statistics.median, samples[row.base])
        least, middle, most = (
            _of_each(one, samples[row.name]) for one in (min, statistics.median, max)
        )
        print(
            f"| {row.name} | {middle.requests_a_second:,.0f} "
            f"({least.requests_a_second:,.0f}-{most.requests_a_second:,.0f}) "
            f"| {middle.requests_a_second / base.requests_a_second:.2f} "
            f"| {middle.cpu_microseconds:.1f} "
            f"({least.cpu_microseconds:,.1f}-{most.cpu_microseconds:,.1f}) "
            f"| {middle.cpu_microseconds - base.cpu_microseconds:+.1f} "
            f"| {middle.user_microseconds - base.user_microseconds:+.1f} "
            f"| {middle.p50_milliseconds:.2f} | {middle.p99_milliseconds:.2f} |"
        )


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


def _of_each(choose: Callable[[Iterable[float]], float], taken: Sequence[Sample]) -> Sample:
    columns = zip(*(astuple(one) for one in taken), strict=True)
    return Sample(*map(choose, columns))


def _machine() -> str:
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
    return f"{os.cpu_count()} cores, {version.partition(': ')[2]}, one worker"


if __name__ == "__main__":
    sys.exit(main())
