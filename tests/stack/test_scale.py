"""docker-compose.scale.yml as docs/scale.md has it: two of each, and what goes on without one."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests

from tests.engine import COMPOSE
from tests.support import docs
from tests.support.containers import IMAGES, SERVICES, SESSION, USER, Docker
from tests.support.deployment import CHAT, Caller, Deployment, answers
from tests.support.ports import free_ports
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

PAGE = "docs/scale.md"
FILES = ("docker-compose.yml", "docker-compose.scale.yml")
START_SECONDS = 900
#: How many containers each service has.
COUNTS = {"postgresql": 1, "issuer": 2, "reconciler": 2, "gateway": 1, "gateway-2": 1, "front": 1}
GATEWAYS = ("gateway", "gateway-2")
#: Each image by the name that the tests have built it under.
BUILT = {**SERVICES, "gateway-2": "gateway", "front": "gateway"}
LEADS = "this reconciler leads"
#: A lease's time, a look at all gateways, and what a loaded machine adds.
TAKEN_OVER_SECONDS = 15
BACK_SECONDS = 60
SPOOFED = "198.51.100.9"
#: The first waits for all of it.
pytestmark = pytest.mark.timeout(START_SECONDS)


class Scaled:
    """The page's commands, run for a project and a port of the test's own. `gateway` is the front:
    who is told this deployment asks there.
    """

    def __init__(self, docker: Docker, folder: Path, llm_port: int) -> None:
        self.docker = docker
        (port,) = free_ports(1)
        self.gateway = f"http://127.0.0.1:{port}"
        self.project = f"{SESSION}-scale"
        #: By the command that starts it.
        self.printed = ""
        services = {name: {"image": IMAGES[image]} for name, image in BUILT.items()}
        override = folder / "override.json"
        override.write_text(json.dumps({"services": services}))
        self._env = {
            **docker.env,
            "COMPOSE_PROJECT_NAME": self.project,
            "GATEWAY_PORT": str(port),
            "GATEWAY_WORKERS": "2",
            "LLM_UPSTREAM": f"http://host.docker.internal:{llm_port}",
        }
        self._files = ":".join((*FILES, str(override)))

    def run(self, block: str) -> str:
        """All that a block of the page prints."""
        script = docs.block(PAGE, block).replace(":".join(FILES), self._files)
        env = {**self._env, "COMPOSE_FILE": self._files}
        return self.docker.run("sh", "-euc", script, env=env, seconds=START_SECONDS).stdout

    def compose(self, *words: str) -> str:
        """What another compose command prints."""
        env = {**self._env, "COMPOSE_FILE": self._files}
        return self.docker.run(*COMPOSE, *words, env=env, seconds=START_SECONDS).stdout

    def ids(self, service: str) -> list[str]:
        """The containers of a service, whether they run or not."""
        return self.compose("ps", "-aq", "--no-trunc", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        (found,) = json.loads(self.docker("inspect", container))
        return dict(found)

    def address(self, container: str, network: str) -> str:
        """Where this machine reaches a container."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_{network}"]["IPAddress"])

    def output(self, container: str) -> str:
        done = self.docker.run("docker", "logs", container)
        return done.stdout + done.stderr

    def execute(self, container: str, *words: str) -> str:
        return self.docker("exec", container, *words)

    # Parts by themselves, past the front.

    def at(self, url: str) -> Caller:
        """A client who asks there."""
        return Caller(cast(Deployment, SimpleNamespace(gateway=url)))

    def at_gateways(self) -> list[Caller]:
        return [self.at(self.url_of(*self.ids(service))) for service in GATEWAYS]

    def url_of(self, container: str) -> str:
        """The listener of a gateway for clients, or an issuer's."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"]
        is_gateway = f"{self.project}_door" in networks
        network, port = ("door", 8080) if is_gateway else ("sync", 9000)
        return f"http://{self.address(container, network)}:{port}"

    @contextmanager
    def without(self, container: str) -> Iterator[None]:
        """One is killed, and does not come back by itself."""
        self.docker("kill", "--signal", signal.SIGKILL.name, container)
        try:
            yield
        finally:
            self.docker("start", container)
            state = partial(self._health, container)
            wait_for(lambda: state() in ("healthy", ""), BACK_SECONDS, "it is well again")

    def _health(self, container: str) -> str:
        return str(self.inspect(container)["State"].get("Health", {}).get("Status", ""))


@pytest.fixture(scope="module")
def scaled(
    docker: Docker, bridge_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scaled]:
    made = Scaled(docker, tmp_path_factory.mktemp("scale"), bridge_upstream.port)
    try:
        made.printed = made.run("scale")
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "0")


@pytest.fixture(autouse=True)
def upstream(bridge_upstream: Upstream) -> Iterator[Upstream]:
    bridge_upstream.forget()
    yield bridge_upstream
    bridge_upstream.forget()


@dataclass
class Person:
    """One of the users whom `init` has made, at the front or elsewhere."""

    name: str
    secret: str

    def login(self, url: str) -> requests.Response:
        door = "/agi/login" if self.name.startswith("AGIA") else "/llm/login"
        return requests.post(url + door, auth=(self.name, self.secret), timeout=20)

    def token(self, url: str) -> str:
        answer = self.login(url)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])


@pytest.fixture(scope="module")
def people(scaled: Scaled) -> dict[str, Person]:
    """By their role's code."""
    logins = re.findall(r"\b([A-Z]{4}\w+)=(\S+)", scaled.printed)
    return {name[:4]: Person(name, secret) for name, secret in logins}


@pytest.fixture
def agent(people: dict[str, Person]) -> Person:
    return people["AGIA"]


def statuses(callers: list[Caller], token: str) -> list[int]:
    return [caller.call(token).status_code for caller in callers]


def test_all_parts_are_there_and_well_when_the_command_has_ended(scaled: Scaled) -> None:
    for service, count in COUNTS.items():
        states = [scaled.inspect(one)["State"] for one in scaled.ids(service)]
        assert [state["Status"] for state in states] == ["running"] * count, service
        health = {state["Health"]["Status"] for state in states if "Health" in state}
        assert health == (set() if service == "reconciler" else {"healthy"}), service
    assert answers(f"{scaled.gateway}/readyz", 200)


def test_a_token_of_the_front_is_served_by_both_gateways_and_ended_at_one_it_is_refused_at_both(
    scaled: Scaled, agent: Person
) -> None:
    token, gateways = agent.token(scaled.gateway), scaled.at_gateways()
    assert statuses(gateways, token) == [200, 200]
    assert gateways[1].call(token, "/logout").status_code == 204
    assert statuses([*gateways, scaled.at(scaled.gateway)], token) == [401, 401, 401]


def test_both_gateways_know_at_once_what_either_issuer_grants_and_takes(
    scaled: Scaled, agent: Person
) -> None:
    gateways = scaled.at_gateways()
    for issuer in scaled.ids("issuer"):
        token = agent.token(scaled.url_of(issuer))
        assert statuses(gateways, token) == [200, 200]
        bearer = {"Authorization": f"Bearer {token}"}
        left = requests.post(f"{scaled.url_of(issuer)}/logout", headers=bearer, timeout=20)
        assert left.status_code == 204
        assert statuses(gateways, token) == [401, 401]


def test_requests_go_to_both_gateways_and_the_llm_server_is_told_the_clients_own_address(
    scaled: Scaled, agent: Person, upstream: Upstream
) -> None:
    token, client = agent.token(scaled.gateway), client_address(scaled)
    before = [asked(scaled, service) for service in GATEWAYS]
    for _ in range(20):
        forged = {"X-Forwarded-For": SPOOFED, "X-Real-Ip": SPOOFED}
        assert scaled.at(scaled.gateway).call(token, headers=forged).status_code == 200
    told = {address for one in upstream.seen for address in one.values("x-forwarded-for")}
    assert told == {client}
    wait_for(
        lambda: all(asked(scaled, one) > was for one, was in zip(GATEWAYS, before, strict=True)),
        10,
        "both were asked",
    )


def client_address(scaled: Scaled) -> str:
    """What a client of the published port looks like from inside."""
    form = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
    network = f"{scaled.project}_front"
    return scaled.docker("network", "inspect", network, "--format", form).split()[0]


def asked(scaled: Scaled, service: str) -> int:
    """How many chats a gateway has logged."""
    (container,) = scaled.ids(service)
    return scaled.output(container).count('"path":"/v1/chat/completions"')


def test_events_pass_the_front_as_they_come(
    scaled: Scaled, agent: Person, upstream: Upstream
) -> None:
    upstream.events, upstream.gap = 100, 0.1
    with scaled.at(scaled.gateway).call(
        agent.token(scaled.gateway), body={**CHAT, "stream": True}, stream=True
    ) as answer:
        assert answer.raw.read1(65536).startswith(b"data: ")
        assert len(upstream.sent) < 100, "the first was held back"
    wait_for(lambda: upstream.departures, 10, "who leaves the front stops the LLM server")


# Without one of each.


def test_without_one_issuer_logins_go_on_through_the_other(scaled: Scaled, agent: Person) -> None:
    (issuer, _) = scaled.ids("issuer")
    with scaled.without(issuer):
        # In less time than the gateways take to find that it is gone.
        assert [agent.login(scaled.gateway).status_code for _ in range(12)] == [200] * 12


def test_without_one_gateway_requests_and_logins_go_on_and_it_comes_back_with_all_it_must_know(
    scaled: Scaled, agent: Person
) -> None:
    front = scaled.at(scaled.gateway)
    kept, revoked = agent.token(scaled.gateway), agent.token(scaled.gateway)
    (second,) = scaled.ids("gateway-2")
    with scaled.without(second):
        assert [front.call(kept).status_code for _ in range(20)] == [200] * 20
        later = agent.token(scaled.gateway)
        assert front.call(revoked, "/logout").status_code == 202, "one has not acknowledged it"
    told = scaled.at(scaled.url_of(second))
    assert [told.call(token).status_code for token in (kept, later, revoked)] == [200, 200, 401]


def test_without_the_reconciler_that_leads_another_takes_what_a_user_has_who_is_no_more(
    scaled: Scaled, people: dict[str, Person]
) -> None:
    fast, gateways = people["AGNF"], scaled.at_gateways()
    token, (issuer, _) = fast.token(scaled.gateway), scaled.ids("issuer")
    other, leader = sorted(scaled.ids("reconciler"), key=partial(led_last, scaled))
    with scaled.without(leader):
        # By hand, so that no command tells the gateways: the one that leads does.
        scaled.execute(issuer, "sed", "-i", f"/^{fast.name}=/d", "/data/credentials.env")
        wait_for(
            lambda: statuses(gateways, token) == [401, 401], TAKEN_OVER_SECONDS, "it is refused"
        )
        assert led_last(scaled, other) > ""


def led_last(scaled: Scaled, reconciler: str) -> str:
    """When it began to lead, as its log has it; empty if it never did."""
    lines = scaled.output(reconciler).splitlines()
    return max((line[:23] for line in lines if LEADS in line), default="")


def test_of_a_database_that_crashes_nothing_acknowledged_is_lost(
    scaled: Scaled, agent: Person
) -> None:
    front = scaled.at(scaled.gateway)
    revoked = agent.token(scaled.gateway)
    assert front.call(revoked, "/logout").status_code == 204
    (database,) = scaled.ids("postgresql")
    with logging_in(agent, scaled.gateway) as granted:
        wait_for(lambda: len(granted) > 2, 20, "logins are under way")
        with scaled.without(database):
            assert front.call(granted[0]).status_code == 200, "gateways judge by themselves"
        before = len(granted)
        wait_for(lambda: len(granted) > before + 2, BACK_SECONDS, "logins are answered again")
    for issuer in map(scaled.url_of, scaled.ids("issuer")):
        assert {validated(issuer, token) for token in granted} == {200}
        assert validated(issuer, revoked) == 401
    for gateway in scaled.at_gateways():
        assert {gateway.call(token).status_code for token in granted} == {200}
        assert gateway.call(revoked).status_code == 401


@contextmanager
def logging_in(agent: Person, url: str) -> Iterator[list[str]]:
    """Somebody logs in again and again: the tokens that were granted so far."""
    granted: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            answer = agent.login(url)
            granted.extend([answer.json()["token"]] if answer.status_code == 200 else [])

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield granted
    finally:
        stop.set()
        worker.join()


def validated(issuer: str, token: str) -> int:
    """An issuer's verdict."""
    return requests.post(f"{issuer}/validate", json={"token": token}, timeout=20).status_code


def test_all_that_is_restarted_knows_what_it_knew(scaled: Scaled, agent: Person) -> None:
    front = scaled.at(scaled.gateway)
    kept, revoked = agent.token(scaled.gateway), agent.token(scaled.gateway)
    assert front.call(revoked, "/logout").status_code == 204
    scaled.run("restart")
    for service in GATEWAYS:
        url = scaled.url_of(*scaled.ids(service))
        wait_for(partial(answers, f"{url}/readyz", 200), BACK_SECONDS, "it is told all")
        assert scaled.at(url).call(kept).status_code == 200
        assert scaled.at(url).call(revoked).status_code == 401
    wait_for(lambda: agent.login(scaled.gateway).status_code == 200, BACK_SECONDS, "logins work")


def test_the_pages_backup_has_the_tables(scaled: Scaled) -> None:
    assert "CREATE TABLE public.sessions" in scaled.run("backup")


# What each part may see and do.


def test_no_secret_is_in_what_the_engine_shows_and_each_is_where_it_is_needed_alone(
    scaled: Scaled,
) -> None:
    (issuer, _), (database,) = scaled.ids("issuer"), scaled.ids("postgresql")
    each = "for one in /data/secrets/*; do cat $one; echo; done"
    words = scaled.execute(issuer, "sh", "-c", each)
    password = scaled.execute(database, "cat", "/database/password")
    secrets = {*words.split(), password}
    assert f"postgresql://portero:{password}@postgresql/portero" in secrets
    assert len(secrets) == 4, "a key that signs, one that seals, a URL, its password"
    for service in COUNTS:
        for one in scaled.ids(service):
            shown = json.dumps(scaled.inspect(one)) + scaled.docker("top", one, "-eo", "pid,args")
            assert not any(secret in shown + scaled.output(one) for secret in secrets), service
    assert volumes(scaled, "postgresql") == {"postgresql", "password"}
    assert volumes(scaled, "gateway-2") == {"sync"}
    assert volumes(scaled, "front") == set()


def volumes(scaled: Scaled, service: str) -> set[str]:
    (one,) = scaled.ids(service)
    named = (mount.get("Name", "") for mount in scaled.inspect(one)["Mounts"])
    return {name.removeprefix(f"{scaled.project}_") for name in named}


def test_each_part_may_do_as_little_as_it_needs_and_the_front_alone_is_reached(
    scaled: Scaled,
) -> None:
    for service in COUNTS:
        for one in map(scaled.inspect, scaled.ids(service)):
            host = one["HostConfig"]
            assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"]), service
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert min(host["Memory"], host["PidsLimit"]) > 0
            assert one["Config"]["User"] == f"{USER}:{USER}"
            published = [bind for binds in (host["PortBindings"] or {}).values() for bind in binds]
            only = ["127.0.0.1"] if service == "front" else []
            assert [bind["HostIp"] for bind in published] == only, service


def test_nobody_but_the_front_reaches_a_gateways_listener_for_clients(scaled: Scaled) -> None:
    (gateway,) = scaled.ids("gateway-2")
    reach = "exec 3<>/dev/tcp/{}/8080"
    for network, is_reached in {"door": True, "front": False, "llm": False, "sync": False}.items():
        address = scaled.address(gateway, network)
        words = ("docker", "exec", gateway, "bash", "-c", reach.format(address))
        done: subprocess.CompletedProcess[str] = scaled.docker.run(*words, check=False)
        assert (done.returncode == 0) is is_reached, network
