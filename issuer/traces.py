"""Traces of what the issuer does, by OpenTelemetry's SDK, where the environment names a collector.

Without one nothing of the SDK is loaded, and a step costs a call. It must never put into a span who
asks, what was shown, a path or a query: spans have the names of routes and steps, methods, statuses
and the request's ID, by which the access log has the rest. The SDK reads its own variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

#: Spans that nobody has taken when a process ends are given so long.
LAST_MILLISECONDS = 2_000

_provider: "TracerProvider | None" = None


def begin(service: str) -> None:
    """Send what this process does to the collector, under the service's name."""
    global _provider
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({SERVICE_NAME: service})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def end() -> None:
    """Send what is left, and no more."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.force_flush(LAST_MILLISECONDS)
        provider.shutdown()


def step(name: str) -> AbstractContextManager[object]:
    """A part of a request, such as its write to the store."""
    if _provider is None:
        return nullcontext()
    return _provider.get_tracer(__name__).start_as_current_span(name, record_exception=False)


@contextmanager
def request(name: str, headers: Mapping[str, str]) -> Iterator["Span | None"]:
    """A request from the client's own span on, where its `traceparent` (W3C Trace Context) tells of
    one.
    """
    if _provider is None:
        yield None
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    with _provider.get_tracer(__name__).start_as_current_span(
        name, extract(headers), SpanKind.SERVER, record_exception=False
    ) as span:
        yield span
