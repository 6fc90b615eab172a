"""`make run` as local processes: starts gateway, issuer, reconciler and the bundled LLM, waits
until a chat comes through, and ends all of them together.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from run import llm_servers, set_up
from run.commands import RunError, ask, call, say, stop_signals
from run.data_dir import data_dir_in_use, runtime_directory
from run.plan import HOST, OWN_HOSTS, Plan, clean_environment, free_port, port_faults, read_plan
from run.processes import Child, Service, start, stop_all, watch
from run.ready import SERVERS, announce, first_example, wait_for_issuer, wait_until_ready
from run.set_up import DEMO, PRODUCT, PYTHON, VENV

#: Secrets go to the parts as files, unless the user gave them by value.
SECRET_FILES = ("SECRET_KEY_FILE", "SYNC_KEY_FILE")
#: The gateway is sent what verifies, and cannot sign.
ISSUERS_OWN = ("SECRET_KEY", "SECRET_KEY_FILE", "CREDENTIALS_FILE", "DATABASE_URL")
#: What the LLM server asks for is said by the gateway alone.
GATEWAYS_OWN = ("LLM_API_KEY", "LLM_API_KEY_FILE", "TLS_CERTIFICATE_KEY")


def main() -> None:
    """`RUNTIME=local make run`."""
    run(clean_environment(os.environ))


def run(env: Mapping[str, str]) -> None:
    """The whole story, from the plan to the end of all processes."""
    plan = read_plan(env, Path.cwd())
    with data_dir_in_use(plan.data_dir):
        prepare(plan)
        make_secrets(plan, env)
        say("Starting.")
        with stack(plan, env) as (children, parts_env):
            wait_until_ready(plan, children)
            tell_servers = partial(ask, [str(PYTHON), "-m", "issuer", *SERVERS], parts_env)
            announce(plan, first_example(plan, env, llm_servers.find_all, tell_servers))
            watch(children)


def prepare(plan: Plan) -> None:
    """All checks first, so that nothing is installed for a stack that cannot start."""
    extra, files = set_up.demo_packages(), [PRODUCT, DEMO]
    if not plan.has_bundled_llm:
        extra, files = [], [PRODUCT]
    set_up.prepare(extra, files, port_faults(plan.ports))


def make_secrets(plan: Plan, env: Mapping[str, str]) -> None:
    """It sees the user's settings, not those made here: a CREDENTIALS_FILE would be the user's."""
    command = [str(PYTHON), "-m", "issuer", "init", "--data-dir", str(plan.data_dir)]
    command += [word for host in OWN_HOSTS * plan.self_signed for word in ("--tls-host", host)]
    if call(command, env):
        raise RunError("secrets and demo credentials could not be made, the reason is above")


@contextmanager
def stack(plan: Plan, env: Mapping[str, str]) -> Iterator[tuple[list[Child], dict[str, str]]]:
    """All parts, from the first started to the last ended, and the environment they have."""
    with ExitStack() as at_the_end:
        runtime_dir = at_the_end.enter_context(runtime_directory(plan.data_dir))
        parts_env = settings(plan, env, port_for_llm(plan), runtime_dir)
        children: list[Child] = []
        at_the_end.callback(stop_all, children, plan.data_dir)
        for service in services(plan):
            if service.name == "reconciler":
                wait_for_issuer(plan, children)
            with stop_signals.held():  # or a child could be running and not yet in the list
                children.append(start(service, plan.data_dir, parts_env))
        yield children, parts_env


def port_for_llm(plan: Plan) -> int:
    """Any free one, as only the gateway calls it; not one that this stack will take in a moment."""
    while (port := free_port()) in plan.ports.values():
        pass
    return port


def services(plan: Plan) -> list[Service]:
    """In the order they start; the LLM needs longest."""
    python, gunicorn = str(PYTHON), str(VENV / "bin" / "gunicorn")
    serve = (gunicorn, "--config", "issuer/gunicorn.conf.py", "issuer:create_app()")
    llm = (Service("llm", (python, "demo/llm.py"), GATEWAYS_OWN),) if plan.has_bundled_llm else ()
    # The bundled LLM gives way to servers of the policy; one that the user named does not.
    withheld = GATEWAYS_OWN if plan.own_llm else (*GATEWAYS_OWN, "LLM_UPSTREAM")
    return [
        *llm,
        Service("gateway", ("sh", "openresty/gateway.sh"), withheld=ISSUERS_OWN),
        Service("issuer", serve, withheld),
        Service("reconciler", (python, "-m", "issuer", "reconcile"), withheld),
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
        **({} if plan.trusted else {"COOKIE_SECURE": "false"}),
        **({"LLM_UPSTREAM": f"http://{llm}"} if plan.has_bundled_llm else {}),
    }
    if plan.self_signed:
        tls = data_dir / "tls"
        defaults |= {
            "TLS_CERTIFICATE": str(tls / "cert.pem"),
            "TLS_CERTIFICATE_KEY": str(tls / "key.pem"),
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
