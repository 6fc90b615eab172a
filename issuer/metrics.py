"""The issuer's metrics, in Prometheus' form. Labels come from fixed tables only.

It must never use a user, a path or a token as a label: series would grow without bound.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess

LOGINS = Counter(
    "portero_logins", "Logins, by login endpoint and outcome.", ["endpoint", "outcome"]
)
REVOCATIONS = Counter("portero_revocations", "Revocations asked for, by way.", ["way"])
REFUSALS = Counter("portero_refusals", "Logins that could not be granted now, by code.", ["code"])
#: What is worth an alarm is there from the start: of a series that begins at 1 no one sees a rise.
REFUSALS.labels("capacity")

SECRETS = Counter(
    "portero_secrets_checked",
    "Secrets checked: remembered ones at once, all others by bcrypt.",
    ["way"],
)


def exposition(active: int) -> bytes:
    """The text of `/metrics`, summed over the worker processes."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for counter in (LOGINS, REVOCATIONS, REFUSALS, SECRETS):
            registry.register(counter)
    Gauge("portero_sessions_active", "Active tokens in the store.", registry=registry).set(active)
    return generate_latest(registry)
