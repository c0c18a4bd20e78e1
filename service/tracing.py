"""OpenTelemetry traces, off unless the standard variables name an endpoint: FastAPI's own span of a request, and below
it those of its wait, its batch and the run.

A batch has one span, below the oldest of its requests; it links to all of them, and the waits of the others link to it.
While traces are on every request takes the long way; while they are off nothing here is loaded or asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import InternalError, ServiceError
from service.wire import Header

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from service.batch import Done, Item, Reason

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_QUIET = ("/health/", "/metrics", "/v2/health/")
"""What probes and scrapes ask for is not worth a trace."""


def wanted() -> bool:
    """Whether an endpoint is set, by OpenTelemetry's own variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(os.environ.get(name) for name in _ENDPOINTS) and os.environ.get("OTEL_TRACES_EXPORTER") != "none"


def missing() -> str | None:
    """Why the traces that are wanted cannot be had, or None."""
    if not wanted():
        return None
    name = next(name for name in _ENDPOINTS if os.environ.get(name))
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), _HTTP)
    if protocol != _HTTP:
        return (
            f"{name} is set with the protocol {protocol}; this service speaks {_HTTP} only (port 4318 of a collector)."
        )
    try:
        there = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        there = False
    if there:
        return None
    return f"{name} is set, but OpenTelemetry's exporter is not installed: pip install 'neuroserve[otel]', or unset it."


class Tracing:
    """The traces of one process. Lives on the event loop; spans are sent from a thread of the SDK's."""

    def __init__(self, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = Resource.create({"service.version": version, "process.pid": os.getpid()})
        if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
            named = named.merge(Resource({"service.name": "neuroserve"}))
        self.provider: TracerProvider = TracerProvider(resource=named)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.spans = BatchSpans(self.provider)

    @property
    def config(self) -> TelemetryConfig:
        """What FastAPI is to do: spans of requests, to this provider."""
        return {**OFF, "tracing": True, "tracer_provider": self.provider, "exclude": _is_quiet}

    def close(self) -> None:
        """Send what has not been sent yet."""
        self.provider.shutdown()


OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""What FastAPI is told while traces are off; its own metrics and logs would repeat the service's."""


def _is_quiet(scope: Any) -> bool:
    path: str = scope["path"]
    return path.startswith(_QUIET)


class NameRequest:
    """Puts the request's id into its span, so that a trace can be found from a log line or an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            trace.get_current_span().set_attribute("neuroserve.request_id", scope["state"]["request_id"])
        await self.app(scope, receive, send)


class BatchSpans:
    """Makes the spans of a batch when it has ended; until then its items hold the span of their request."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("neuroserve")

    def request(self) -> Span | None:
        """The span of the request that is being served, if it is recorded."""
        span = trace.get_current_span()
        return span if span.is_recording() else None

    @contextmanager
    def call(self, path: str, headers: Iterable[Header], request_id: str) -> Iterator[None]:
        """The span of a gRPC call, below its client's own; those of HTTP requests are FastAPI's."""
        parent = propagate.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        service, _, method = path.strip("/").rpartition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "neuroserve.request_id": request_id,
        }
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            parent,
            SpanKind.SERVER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as exc:
                error = exc if isinstance(exc, ServiceError) else InternalError()
                span.set_attribute("error.type", error.code)
                if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.set_status(StatusCode.ERROR)
                raise

    def batch(self, model: str, done: Done, sent: float, reason: Reason) -> None:
        """One batch that has ended; `sent` is when it left the queue, in seconds of `perf_counter`."""
        traced = [item for item in done.items if item.span is not None]
        if not traced:
            return
        clock = time_ns() - int(perf_counter() * 1e9)
        engine = traced[0].engine
        attributes: dict[str, Any] = {
            "neuroserve.model": model,
            "neuroserve.version": engine.version,
            "neuroserve.provider": engine.provider,
            "neuroserve.rows": done.rows,
            "neuroserve.requests": len(done.items),
            "neuroserve.padded_rows": engine.padded_rows(done.rows),
            "neuroserve.reason": reason,
        }
        if traced[0].length:
            attributes["neuroserve.length"] = traced[0].length
        batch = self._tracer.start_span(
            "batch", _below(traced[0].span), attributes=attributes, links=_links(traced), start_time=_ns(sent, clock)
        )
        run = self._tracer.start_span("run", _below(batch), start_time=_ns(done.started, clock))
        if isinstance(done.outputs, Exception):
            for span in (batch, run):
                span.set_attribute("error.type", type(done.outputs).__qualname__)
                span.set_status(StatusCode.ERROR)
        run.end(_ns(done.ended, clock))
        for item in traced:
            links = [] if item is traced[0] else [Link(batch.get_span_context())]
            wait = self._tracer.start_span("queue", _below(item.span), links=links, start_time=_ns(item.entered, clock))
            wait.end(_ns(sent, clock))
        batch.end()


def _below(span: Span | None) -> Any:
    return trace.set_span_in_context(span) if span is not None else None


def _links(items: Sequence[Item]) -> list[Link]:
    return [Link(item.span.get_span_context()) for item in items if item.span is not None]


def _ns(seconds: float, clock: int) -> int:
    return int(seconds * 1e9) + clock
