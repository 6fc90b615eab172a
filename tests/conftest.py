"""What several tests share: the real roles, a key file, good settings."""

import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
from hypothesis import settings as hypothesis_settings

from issuer import config
from issuer.keys.key_file import KeyFile
from issuer.policy.roles import Roles
from tests.support.fake_gateway import SYNC_KEY
from tests.support.policies import shipped_policy
from tests.support.ports import free_ports
from tests.support.waiting import within

SECRET_KEY = "secret-key-of-the-tests-0123456789-" + "abcdefghijklmnopqrstuvwxyz" * 2
DEADLINE_SECONDS = 20.0

#: One user of every role, by the role's name.
USERS = {
    "agent_reasoning": "AGNRtest1",
    "agent_fast": "AGNFtest1",
    "agi": "AGIAtest1",
    "user": "USRStest1",
    "monitoring": "MNTRtest1",
    "admin": "ADMNtest1",
}


def password(username: str) -> str:
    """The secret of one of `USERS`."""
    return f"right secret of {username}"


# `make test` tries the same examples every time, so that a red run tells of the change that it
# tests; `make fuzz` tries many, and new ones. Neither is a matter of how quick the machine is.
hypothesis_settings.register_profile("test", derandomize=True, deadline=None)
hypothesis_settings.register_profile("fuzz", max_examples=5000, deadline=None)
hypothesis_settings.load_profile("fuzz" if os.environ.get("PORTERO_FUZZ") else "test")


#: What the collector finds, at a moment that has nothing to do with the test that runs then: a
#: store's connections end with their threads, for which only Python 3.13 has a word; and a client
#: of the tests that was left in the middle of an answer is collected with its connection.
COLLECTED = ("unclosed database", "unclosed <socket")


def pytest_configure(config: pytest.Config) -> None:
    for message in COLLECTED:
        # The first line is for the tests, the second for what is collected after the last of them.
        config.addinivalue_line("filterwarnings", f"ignore:{message}:ResourceWarning")
        warnings.filterwarnings("ignore", message, ResourceWarning)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    waiting = threading.Event()
    deadline = time.monotonic() + within(DEADLINE_SECONDS)
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        waiting.wait(0.005)


@pytest.fixture(scope="session")
def all_roles() -> Roles:
    """The roles of the repository's own file."""
    return shipped_policy().roles


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    """A key file with one key, HS256, that signs."""
    made = KeyFile(tmp_path / config.KEY_FILE, "HS256", SECRET_KEY.encode(), lambda: 3600)
    made.prepare(int(time.time()))
    return made


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def hashed_users() -> str:
    """The lines of a credentials file with `USERS`."""
    salt = bcrypt.gensalt(10)
    return "".join(
        f"{name}={bcrypt.hashpw(password(name).encode(), salt).decode()}\n"
        for name in USERS.values()
    )


@pytest.fixture
def environ(tmp_path: Path, hashed_users: str, free_port: int) -> dict[str, str]:
    """Good settings, with a gateway that nobody has started."""
    (tmp_path / "credentials.env").write_text(hashed_users)
    return {
        "SECRET_KEY": SECRET_KEY,
        "SYNC_KEY": SYNC_KEY,
        "CREDENTIALS_FILE": str(tmp_path / "credentials.env"),
        "DATABASE_URL": f"sqlite:///{tmp_path}/sessions.db",
        "GATEWAY_URLS": f"http://127.0.0.1:{free_port}",
    }
