"""`make run` as a newcomer meets it: a real LLM, two lines to paste, one end for all."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import requests

from run import machine
from tests.deployment import free_ports
from tests.upstream import wait_for

READY_SECONDS = 240
STREAM_EVENTS = 3


class Run:
    """One `make run`, with ports and data of its own."""

    def __init__(self, data: Path) -> None:
        self.gateway, internal, issuer = free_ports(3)
        self.data = data
        self._output = (data / "make-run.log").open("w+")
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            "RUNTIME": "local",
            "GATEWAY_PORT": str(self.gateway),
            "INTERNAL_PORT": str(internal),
            "ISSUER_PORT": str(issuer),
            "DATA_DIR": str(data),
        }
        self.process = subprocess.Popen(
            ["make", "run"],
            cwd=machine.ROOT,
            env=env,
            stdout=self._output,
            stderr=self._output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def output(self) -> str:
        """All it has printed so far."""
        return (self.data / "make-run.log").read_text()

    def wait_ready(self) -> None:
        """Wait for the line that begins `ready`."""
        wait_for(
            lambda: self.process.poll() is not None or "\nready " in self.output(),
            READY_SECONDS,
            "make run is ready",
        )
        assert self.process.poll() is None, self.output()

    def pid(self, part: str) -> int:
        """The process id of a part."""
        return int((self.data / "run" / f"{part}.pid").read_text())

    def close(self) -> None:
        """End it as a terminal that goes away would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self._output.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="portero-run-") as folder:
        run = Run(Path(folder))
        try:
            run.wait_ready()
            yield run
        finally:
            run.close()


def curl_lines(run: Run) -> str:
    lines = run.output().partition("\nready ")[2].splitlines()
    commands = [line for line in lines if "curl " in line]
    assert len(commands) == 2, lines
    return "\n".join(commands)


def agent_token(run: Run) -> str:
    name, _, secret = (run.data / "demo-logins").read_text().splitlines()[0].partition("=")
    url = f"http://127.0.0.1:{run.gateway}/llm/login"
    return str(requests.post(url, auth=(name, secret), timeout=10).json()["token"])


def test_the_two_printed_lines_stream_an_answer_when_pasted(running: Run) -> None:
    assert f"ready http://127.0.0.1:{running.gateway}" in running.output()
    pasted = subprocess.run(
        ["bash", "-c", curl_lines(running)], capture_output=True, text=True, timeout=60
    )
    events = re.findall(r"^data: (.*)$", pasted.stdout, re.MULTILINE)
    assert len(events) > STREAM_EVENTS, pasted.stderr
    assert events[-1] == "[DONE]"


def test_the_openai_client_streams_a_real_answer(running: Run) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{running.gateway}/v1", api_key=agent_token(running)
    ) as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > STREAM_EVENTS
    assert "Paris" in "".join(pieces)


def test_the_openai_client_raises_its_own_exception_for_a_bad_token(running: Run) -> None:
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{running.gateway}/v1", api_key="bad") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_plain_requests_get_a_whole_answer(running: Run) -> None:
    answer = requests.post(
        f"http://127.0.0.1:{running.gateway}/llm/chat/completions",
        headers={"Authorization": f"Bearer {agent_token(running)}"},
        json={
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 8,
        },
        timeout=60,
    )
    assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("part", ["gateway", "issuer", "reconciler", "llm"])
def test_the_death_of_any_part_ends_all_and_is_told(tmp_path: Path, part: str) -> None:
    run = Run(tmp_path)
    try:
        run.wait_ready()
        os.kill(run.pid(part), signal.SIGKILL)
        assert run.process.wait(20) != 0
        assert re.search(
            rf"{part} ended: killed by SIGKILL; its log is .*{part}\.log", run.output()
        )
        assert not list((tmp_path / "run").glob("*.pid"))
    finally:
        run.close()


def test_a_taken_port_is_told_in_one_line(running: Run, tmp_path: Path) -> None:
    answer = subprocess.run(
        ["make", "run"],
        cwd=machine.ROOT,
        env={
            **os.environ,
            "RUNTIME": "local",
            "GATEWAY_PORT": str(running.gateway),
            "DATA_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode != 0
    assert f"{running.gateway}" in answer.stderr
    assert "GATEWAY_PORT" in answer.stderr
