"""The alert rules are ones that Prometheus takes, of metrics that there are."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "dashboards" / "alerts.yml"
NAME = re.compile(r"\b(?:portero|gen_ai)_[a-z_]+\b")
LABELS = {"gen_ai_request_model"}


def test_prometheus_takes_the_rules() -> None:
    words = ["promtool", "check", "rules", str(ALERTS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_fires_and_is_silent_as_its_own_tests_say() -> None:
    tests = ALERTS.with_name("alerts_test.yml")
    done = subprocess.run(
        ["promtool", "test", "rules", tests.name],
        cwd=tests.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]:
        assert rule["alert"] in tests.read_text()


def test_every_metric_of_a_rule_is_in_the_api_page() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert len(rules) >= 8
    for rule in rules:
        named = set(NAME.findall(rule["expr"])) - LABELS
        assert named, rule["alert"]
        for metric in named:
            assert f"`{metric.removesuffix('_bucket')}`" in page, metric
