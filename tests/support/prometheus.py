"""A real Prometheus of the tests' own, in a folder, on a free port of loopback."""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.support.deployment import answers
from tests.support.ports import free_ports
from tests.support.waiting import wait_for


@dataclass
class Prometheus:
    """A running one."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression is at the moment; fails where it is none."""
        answer = requests.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=10
        ).json()
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = requests.get(f"{self.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@contextmanager
def prometheus(rules: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """One that asks these targets and judges by these rules once a second."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="portero-test-prometheus-") as folder:
        places = [urlsplit(target).netloc for target in targets]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "portero", "static_configs": [{"targets": places}]}],
        }
        # JSON is YAML.
        written = Path(folder, "prometheus.yml")
        written.write_text(json.dumps(settings))
        command = [
            "prometheus",
            f"--config.file={written}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            one = Prometheus(f"http://127.0.0.1:{port}")
            wait_for(lambda: answers(f"{one.url}/-/ready", 200), 20, "Prometheus is ready")
            yield one
        finally:
            process.terminate()
            process.wait(20)
