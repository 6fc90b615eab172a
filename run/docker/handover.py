"""Keys, users, roles and certificates of the user's own, on their way into containers: over the
standard input of `init`, which keeps them on the volumes as files that only the parts can read.

No secret may ever be in a container's environment, on a command line or in an image; and a setting
that containers cannot honour is a fault.
"""

import stat
from collections.abc import Mapping
from pathlib import Path

from run.plan import Plan
from run.terminal import RunError

KEYS = ("SECRET_KEY", "SYNC_KEY", "LLM_API_KEY")
#: What the gateway alone is told of.
GATEWAYS_OWN = ("LLM_API_KEY_FILE", "LLM_CA_FILE")
#: Where `init --given` puts what it is handed.
PLACES = {
    "SECRET_KEY": "/data/given/secret_key",
    "SYNC_KEY": "/sync/given/sync_key",
    "CREDENTIALS_FILE": "/data/given/credentials.env",
    "ROLES_FILE": "/sync/given/roles.json",
    "LLM_API_KEY": "/sync/given/llm_api_key",
    "LLM_CA_FILE": "/sync/given/llm_ca.pem",
}
INIT = (
    "init",
    "python",
    "-m",
    "issuer",
    "init",
    "--data-dir",
    "/data",
    "--sync-dir",
    "/sync",
)
STORE = "sqlite:////data/"


def given(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """What to hand over, by setting; `RunError` with every fault."""
    faults: list[str] = []
    found = {name: given_key(name, env, faults) for name in KEYS}
    for setting, path in files(plan, env).items():
        found[setting] = text_of(setting, path, faults)
    if faults:
        raise RunError(*faults)
    return {name: text for name, text in found.items() if text}


def files(plan: Plan, env: Mapping[str, str]) -> dict[str, Path]:
    """The user's own users, roles and trusted certificates, by setting: files that may change while
    all runs.
    """
    users = users_file(plan, env)
    found = {"CREDENTIALS_FILE": users} if users else {}
    named = {name: Path(env[name]) for name in ("ROLES_FILE", "LLM_CA_FILE") if name in env}
    return {**found, **named}


def given_key(name: str, env: Mapping[str, str], faults: list[str]) -> str:
    """A key by value or by file, refused where the issuer itself would refuse it."""
    value, path = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and path:
        faults.append(f"{name}: set {name} or {name}_FILE, not both")
    return text_of(f"{name}_FILE", Path(path), faults, private=True) if path else value


def users_file(plan: Plan, env: Mapping[str, str]) -> Path | None:
    """The user's own users, or those that a run as local processes has made in DATA_DIR."""
    if "CREDENTIALS_FILE" in env:
        return Path(env["CREDENTIALS_FILE"])
    made = plan.data_dir / "credentials.env"
    return made if made.exists() else None


def text_of(setting: str, path: Path, faults: list[str], private: bool = False) -> str:
    """The content of the file that a setting names."""
    try:
        if private and stat.S_IMODE(path.stat().st_mode) & 0o077:
            faults.append(f"{setting}: {path} can be read by others; chmod 600 it")
        return path.read_bytes().decode()
    except OSError as error:
        faults.append(f"{setting}: cannot read {path}: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{setting}: {path} is not UTF-8 text")
    return ""


def settings_of_parts(
    given: Mapping[str, str], env: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Service -> what its environment has besides the compose file's: places, never contents."""
    keys = {f"{name}_FILE": PLACES[name] for name in KEYS if name in given}
    files = {name: place for name, place in PLACES.items() if name in given and name not in KEYS}
    store = {name: env[name] for name in ("DATABASE_URL",) if name in env}
    told = {**keys, **files, **store}
    issuer = {name: place for name, place in told.items() if name not in GATEWAYS_OWN}
    # The gateway sees the volume `sync` alone.
    sync = {name: place for name, place in told.items() if place.startswith("/sync/")}
    # The demo users that `init` makes are one of each role.
    roles = {name: place for name, place in files.items() if name == "ROLES_FILE"}
    return {"init": roles, "issuer": issuer, "reconciler": issuer, "gateway": sync}


def impossible(env: Mapping[str, str]) -> str:
    """The setting that containers cannot honour, and why; empty when there is none."""
    if "GATEWAY_URLS" in env:
        return "GATEWAY_URLS is set, and the issuer's network in containers leads to one gateway"
    if "DATABASE_URL_FILE" in env or not env.get("DATABASE_URL", STORE).startswith(STORE):
        return f"DATABASE_URL is set, and containers keep sessions on their volume ({STORE}…)"
    return ""
