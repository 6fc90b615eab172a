"""What only containers can show: parts that die and come back by themselves, addresses that change,
networks that are cut, disks that are full; and what a container may do and whom it may reach.
"""

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import requests

from run.commands import ROOT
from tests.support.containers import (
    IMAGES,
    SERVICES,
    Containers,
    Docker,
    built_and_composed,
    composed,
    on_a_small_disk,
)
from tests.support.deployment import PARTS, USERS, Caller
from tests.support.waiting import wait_for

#: The issuer waits for the name of a gateway that is gone as long as the C library does.
LOOK_UP_SECONDS = 10
#: It may have to end a look-up first, and then waits a second.
HEALED_SECONDS = LOOK_UP_SECONDS + 5
#: The gateway waits as long on a connection to the issuer that was kept alive and leads nowhere.
KEPT_ALIVE_SECONDS = 8
FOUND_SECONDS = 10
LIMITS = ("Memory", "PidsLimit")
LONG_RUNNING = [service for service in SERVICES if service != "init"]


def status(caller: Caller, token: str) -> int:
    """What a token is worth at this moment; 0 while nobody answers."""
    try:
        return caller.call(token).status_code
    except requests.RequestException:
        return 0


def login_status(caller: Caller, user: str = "AGNRTEST01") -> int:
    """Whether one can log in at this moment; 0 while nobody answers."""
    try:
        return caller.login(user).status_code
    except requests.RequestException:
        return 0


@contextmanager
def watching(caller: Caller, token: str) -> Iterator[set[int]]:
    """Everything a token is answered while the block runs."""
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.add(status(caller, token))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def timed_login(gateway: str) -> tuple[int, float]:
    """The answer's status and how long it took."""
    started = time.monotonic()
    auth = ("AGNRTEST01", USERS["AGNRTEST01"][0])
    answer = requests.post(f"{gateway}/llm/login", auth=auth, timeout=30)
    return answer.status_code, time.monotonic() - started


# Parts that die.


@pytest.mark.parametrize("part", ["issuer", "reconciler"])
def test_a_killed_part_comes_back_by_itself_and_no_request_notices(
    containers: Containers, part: str
) -> None:
    caller = Caller(containers)
    kept, before = caller.token("AGIATEST01"), containers.restarts(part)
    with watching(caller, kept) as seen:
        containers.kill(part)
        wait_for(lambda: containers.restarts(part) > before, 10, f"{part} is started again")
        wait_for(lambda: login_status(caller) == 200, 10, "logins work again")
    assert seen == {200}


def test_a_killed_gateway_comes_back_by_itself_with_what_it_knew(containers: Containers) -> None:
    caller = Caller(containers)
    kept, revoked = caller.token("AGIATEST01"), caller.token("AGIATEST01")
    assert caller.call(revoked, "/logout").status_code == 204
    before = containers.restarts("gateway")
    with watching(caller, kept) as seen:
        containers.kill("gateway")
        wait_for(lambda: containers.restarts("gateway") > before, 10, "it is started again")
        wait_for(lambda: status(caller, kept) == 200, HEALED_SECONDS, "the token is served")
    assert seen <= {0, 200, 503}, "never 401 for an active token"
    assert status(caller, revoked) == 401


ORDERS = [
    ("gateway", "reconciler", "issuer"),
    ("reconciler", "gateway", "issuer"),
    ("reconciler", "issuer", "gateway"),
    ("issuer", "gateway", "reconciler"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_in_whatever_order_the_parts_start_the_active_tokens_work_again(
    containers: Containers, order: tuple[str, ...]
) -> None:
    caller = Caller(containers)
    kept = caller.token("AGIATEST01")
    containers.docker("kill", *(containers.id(part) for part in PARTS))
    for part in order:
        containers.start(part)
    containers.wait_ready()
    assert status(caller, kept) == 200
    wait_for(lambda: login_status(caller) == 200, FOUND_SECONDS, "logins work")


# Addresses and networks.


def test_an_issuer_with_another_address_is_found_within_ten_seconds(
    containers: Containers,
) -> None:
    caller = Caller(containers)
    kept, old = caller.token("AGIATEST01"), containers.address("issuer", "sync")
    containers.stop("issuer")
    with containers.taken("sync", old):
        containers.start("issuer")
        started = time.monotonic()
        assert containers.address("issuer", "sync") != old
        wait_for(lambda: login_status(caller) == 200, FOUND_SECONDS, "the issuer is found")
        assert time.monotonic() - started < FOUND_SECONDS
    assert status(caller, kept) == 200


def test_a_gateway_that_starts_with_another_address_is_found_and_filled(
    containers: Containers,
) -> None:
    caller = Caller(containers)
    kept, old = caller.token("AGIATEST01"), containers.address("gateway", "sync")
    containers.stop("gateway")
    with containers.taken("sync", old):
        containers.start("gateway")
        assert containers.address("gateway", "sync") != old
        wait_for(lambda: status(caller, kept) == 200, HEALED_SECONDS, "the token is served")
        assert login_status(caller) == 200


def test_while_issuer_and_gateway_are_apart_tokens_work_and_what_was_revoked_arrives_later(
    containers: Containers,
) -> None:
    # A container gets the lowest free address: started now, it has the one it gets again.
    containers.stop("gateway")
    containers.start("gateway")
    containers.wait_ready()
    address = containers.address("gateway", "sync")
    caller = Caller(containers)
    kept, doomed = caller.token("AGIATEST01"), caller.token("AGNRTEST02")
    with containers.cut("gateway", "sync", "gateway-sync"), ThreadPoolExecutor(4) as pool:
        logins = [pool.submit(timed_login, containers.gateway) for _ in range(4)]
        # Not waited for: it ends when it has given the gateway up.
        revoke = ("python", "-m", "issuer", "revoke", "--user", "AGNRTEST02")
        containers.docker("exec", "-d", containers.id("issuer"), *revoke)
        wait_for(lambda: caller.validate(doomed) == 401, 5, "it is revoked in the store")
        assert (status(caller, kept), status(caller, doomed)) == (200, 200)
        answers = [login.result() for login in logins]
        assert {code for code, _ in answers} == {503}
        assert max(seconds for _, seconds in answers) < KEPT_ALIVE_SECONDS + 1
        code, seconds = timed_login(containers.gateway)
        assert (code, seconds < 1.0) == (503, True), "a new connection is given up at once"
    assert containers.address("gateway", "sync") == address
    wait_for(lambda: status(caller, doomed) == 401, HEALED_SECONDS, "the revocation arrives")
    assert status(caller, kept) == 200
    assert login_status(caller) == 200


def test_a_gateway_whose_network_comes_back_with_another_address_is_found(
    containers: Containers,
) -> None:
    caller = Caller(containers)
    old = containers.address("gateway", "sync")
    try:
        with ExitStack() as others:
            with containers.cut("gateway", "sync", "gateway-sync"):
                others.enter_context(containers.taken("sync", old))
            assert containers.address("gateway", "sync") != old
            wait_for(lambda: login_status(caller) == 200, FOUND_SECONDS, "the gateway is found")
    finally:
        for part in ("gateway", "issuer"):  # whose connections lead to where it was
            containers.stop(part, signal.SIGKILL)


# A full disk.


def test_a_full_disk_stops_logins_alone_and_heals_when_there_is_room(docker: Docker) -> None:
    with on_a_small_disk(docker, kilobytes=2048) as containers:
        caller = Caller(containers)
        kept = caller.token("AGIATEST01")
        assert count_sessions(containers) == ("ok", 1)
        fill = "cat /dev/zero >/data/filler; test -s /data/filler"
        containers.execute("issuer", "sh", "-c", fill)
        for user in ("AGNRTEST01", "USRSTEST01", "AGNRTEST01"):
            answer = caller.login(user)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert caller.call(kept, "/v1/models", "GET").status_code == 502  # let through: no LLM
        assert caller.validate(kept) == 200
        containers.execute("issuer", "rm", "/data/filler")
        assert count_sessions(containers) == ("ok", 1), "nothing is half-written"
        wait_for(lambda: login_status(caller) == 200, 5, "logins work again")
        assert caller.call(kept, "/logout").status_code == 204
        assert caller.validate(kept) == 401
        assert all(containers.restarts(part) == 0 for part in PARTS)


def count_sessions(containers: Containers) -> tuple[str, int]:
    """What SQLite says of the store's integrity, and how many sessions are in it."""
    script = (
        "import json, sqlite3; store = sqlite3.connect('/data/sessions.db');"
        "ask = lambda query: store.execute(query).fetchone()[0];"
        "print(json.dumps([ask('PRAGMA integrity_check'), ask('SELECT count(*) FROM sessions')]))"
    )
    integrity, count = json.loads(containers.execute("issuer", "python", "-c", script).stdout)
    return integrity, count


# `docker compose up` on empty volumes, with the bundled LLM.


@pytest.mark.parametrize(("llm", "there"), [("", True), ("http://host.docker.internal:1", False)])
def test_the_bundled_llm_is_there_unless_another_is_named_p6(
    docker: Docker, llm: str, there: bool
) -> None:
    containers = Containers(docker, {"LLM_UPSTREAM": llm})
    assert ("llm" in containers.compose("config", "--services").split()) is there


@pytest.fixture(scope="module")
def demo(docker: Docker) -> Iterator[Containers]:
    with composed(docker) as running:
        yield running


def printed_logins(demo: Containers) -> dict[str, str]:
    """The users and secrets that `init` printed last."""
    printed = demo.output("init").rpartition("demo logins")[2]
    return dict(re.findall(r"^([A-Z]{4}\w+)=(\S+)$", printed, re.MULTILINE))


def demo_token(demo: Containers) -> str:
    (name, secret), *_ = printed_logins(demo).items()
    answer = requests.post(f"{demo.gateway}/llm/login", auth=(name, secret), timeout=10)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def chat_events(demo: Containers, token: str) -> list[str]:
    """The events of a streamed chat; empty while there is no answer."""
    content = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 8,
        "stream": True,
    }
    url, headers = f"{demo.gateway}/v1/chat/completions", {"Authorization": f"Bearer {token}"}
    try:
        answer = requests.post(url, json=content, headers=headers, timeout=30)
    except requests.RequestException:
        return []
    return re.findall(r"^data: (.*)$", answer.text, re.MULTILINE)


def test_the_printed_logins_stream_a_chat_from_the_bundled_model(demo: Containers) -> None:
    assert {name[:4] for name in printed_logins(demo)} == {user[:4] for user in USERS}
    token = demo_token(demo)
    events = wait_for(lambda: chat_events(demo, token), 60, "the model is loaded")
    assert len(events) > 3
    assert events[-1] == "[DONE]"


def test_an_llm_with_another_address_is_found_within_ten_seconds(demo: Containers) -> None:
    token, old = demo_token(demo), demo.address("llm", "llm")
    wait_for(lambda: chat_events(demo, token), 60, "the model is loaded")
    demo.stop("llm")
    with demo.taken("llm", old):
        demo.start("llm")
        assert demo.address("llm", "llm") != old
        wait_for(lambda: chat_events(demo, token), FOUND_SECONDS, "the LLM is found")


def test_a_killed_llm_comes_back_by_itself(demo: Containers) -> None:
    token, before = demo_token(demo), demo.restarts("llm")
    demo.kill("llm")
    wait_for(lambda: demo.restarts("llm") > before, 10, "it is started again")
    wait_for(lambda: chat_events(demo, token), FOUND_SECONDS, "chats work again")


def test_a_second_up_keeps_logins_keys_and_tokens(demo: Containers) -> None:
    token, logins = demo_token(demo), printed_logins(demo)
    demo.up()
    demo.wait_ready()
    assert printed_logins(demo) == logins
    assert wait_for(lambda: chat_events(demo, token), 60, "the old token is good")
    demo_token(demo)


# What a container may do.


@pytest.mark.parametrize("service", SERVICES)
def test_k4_the_engine_is_told_to_grant_a_container_as_little_as_it_needs(
    demo: Containers, service: str
) -> None:
    container = demo.inspect(service)
    host, config = container["HostConfig"], container["Config"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert config["User"] == "10001:10001"
    for limit in LIMITS:
        assert host[limit] > 0, limit
    binds = [bind for bind in host["Binds"] or [] if bind.startswith("/")]
    has_policy = service in ("init", "issuer", "reconciler")
    assert binds == ([f"{ROOT}/policy:/policy:ro"] if has_policy else [])
    published = [bind for binds in (host["PortBindings"] or {}).values() for bind in binds]
    only = ["127.0.0.1"] if service == "gateway" else []
    assert [bind["HostIp"] for bind in published] == only


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_the_kernel_grants_a_container_as_little_as_it_needs(
    demo: Containers, service: str
) -> None:
    text = demo.execute(service, "cat", "/proc/1/status").stdout
    state = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert set(state["Uid"].split()) == {"10001"}
    assert set(state["Gid"].split()) == {"10001"}
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(state[capabilities], 16) == 0, capabilities
    assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_container_can_write_to_its_volumes_and_memory_alone(
    demo: Containers, service: str
) -> None:
    look = (
        "for folder in / /portero /etc /usr /home /root /var/tmp /sync; do"
        ' (: >"$folder/x") 2>/dev/null && echo "$folder"; done; : >/tmp/x && rm /tmp/x'
    )
    assert demo.execute(service, "sh", "-c", look).stdout == ""
    # Mount points that the engine makes.
    made = {"C /run", "A /run/secrets", "A /policy"}
    assert set(demo.docker("diff", demo.id(service)).splitlines()) <= made


def test_no_secret_is_in_an_environment_or_on_a_command_line(demo: Containers) -> None:
    keys = demo.execute(
        "issuer", "sh", "-c", "cat /data/secrets/secret_key; echo; cat /sync/sync_key"
    )
    words = [*keys.stdout.split(), *printed_logins(demo).values(), demo_token(demo)]
    assert len(words) == 2 + 6 + 1
    for service in SERVICES:
        config = json.dumps(demo.inspect(service)["Config"])
        seen = [config]
        if service in LONG_RUNNING:
            seen += demo.command_lines(service)
            read = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; true"
            seen.append(demo.execute(service, "sh", "-c", read).stdout)
            assert "PATH=" in seen[-1]
        for word in words:
            assert not any(word in text for text in seen), service


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_code_and_no_key_credential_or_history_of_one(
    docker: Docker, image: str
) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGES[image])
    assert not re.search(r"(SECRET|SYNC|API)_?KEY=|PASSWORD|\$2[aby]\$", history)
    options = ("--rm", "--network", "none", "--user", "0", "--entrypoint", "find")
    named = ("-name", "*.env", "-o", "-name", "*.db*", "-o", "-name", "*_key", "-o")
    dotted = ("-name", "demo-logins", "-o", "-name", ".*", "-o", "-path", "*/tests*")
    where = ("/portero", "/sync", "/data", "/home", "/root", "/tmp", "-mindepth", "1")
    own = docker.run(
        "docker", "run", *options, IMAGES[image], *where, "(", *named, *dotted, ")", check=False
    )
    found = [name for name in own.stdout.split() if not name.startswith("/root/.")]
    assert found == []


# Whom a container may reach.

REACH = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reach(target):
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        return target
    except OSError:
        return ""
with ThreadPoolExecutor(32) as pool:
    print(*filter(None, pool.map(reach, sys.argv[1:])))
"""


def targets(demo: Containers) -> set[str]:
    """Every listener there is, by every name and address it has."""
    ports = {"gateway": (8080, 8081), "issuer": (9000,), "llm": (11435,)}
    names = {"gateway": ["gateway", "gateway-sync"], "issuer": ["issuer"], "llm": ["llm"]}
    for service, known in names.items():
        networks = demo.inspect(service)["NetworkSettings"]["Networks"]
        known += [network["IPAddress"] for network in networks.values()]
    return {
        f"{name}:{port}" for service in names for name in names[service] for port in ports[service]
    }


def test_from_the_clients_network_only_the_gateways_door_can_be_reached(demo: Containers) -> None:
    reached = set(demo.try_from("front", REACH, *sorted(targets(demo))).split())
    assert "gateway:8080" in reached
    assert {target.rpartition(":")[2] for target in reached} == {"8080"}


def test_the_llm_reaches_nothing_but_the_gateways_door(demo: Containers) -> None:
    everything = sorted(targets(demo))
    own = {"llm:11435", f"{demo.address('llm', 'llm')}:11435"}
    reached = set(demo.try_from("llm", REACH, *everything).split()) - own
    assert {target.rpartition(":")[2] for target in reached} <= {"8080"}


def test_the_networks_of_issuer_and_llm_lead_nowhere_else(demo: Containers) -> None:
    form = "{{.Internal}}"
    internal = {
        name: demo.docker("network", "inspect", demo.network(name), "--format", form)
        for name in ("front", "sync", "llm")
    }
    assert internal == {"front": "false", "sync": "true", "llm": "true"}


def test_compose_builds_and_brings_up_a_stack_whose_printed_logins_last(docker: Docker) -> None:
    with built_and_composed(docker) as stack:
        token, logins = demo_token(stack), printed_logins(stack)
        assert wait_for(lambda: chat_events(stack, token), 60, "the model is loaded")
        stack.up()
        stack.wait_ready()
        assert printed_logins(stack) == logins
        assert wait_for(lambda: chat_events(stack, token), 60, "the old token is good")
        demo_token(stack)
