"""Traces: wanted by OpenTelemetry's own variables, and not there where they are not."""

import subprocess
import sys

import pytest

from issuer import config, traces
from issuer.errors import Faults

Environ = dict[str, str]
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_without_a_collector_there_are_no_traces(environ: Environ) -> None:
    assert config.read(environ).traces_as == ""


@pytest.mark.parametrize("name", [ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_a_collector_is_what_traces_are_made_for(environ: Environ, name: str) -> None:
    given = environ | {name: "http://127.0.0.1:4318"}
    assert config.read(given).traces_as == "portero-issuer"
    assert config.read(given | {"OTEL_SERVICE_NAME": "door"}).traces_as == "door"


@pytest.mark.parametrize("address", ["127.0.0.1:4318", "grpc://x:4317", "http://", "http://u:p@x"])
def test_a_collector_that_cannot_be_one_is_told_without_its_value(
    environ: Environ, address: str
) -> None:
    with pytest.raises(Faults) as found:
        config.read(environ | {ENDPOINT: address, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert found.value.faults == (
        f"{ENDPOINT}: must be http://HOST:PORT of a collector, or https://",
        "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf, the one that there is",
    )


def test_a_step_that_nobody_traces_is_nothing() -> None:
    with traces.step("a step") as span, traces.request("a request", {}) as other:
        assert span is other is None


def test_nothing_of_the_sdk_is_loaded_where_there_is_no_collector() -> None:
    asks = "import issuer.__main__, issuer.web, sys; print('opentelemetry' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
