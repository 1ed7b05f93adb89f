"""Traces by OpenTelemetry: one span a request, and spans of what is done to its films. The extra `telemetry`.

Nothing is imported until an endpoint is given, and `span` costs less than a microsecond without one. Spans carry the
route's template, the status, the request id and counts; no path, no query, no file name, and of an error its class.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.errors import MissingExtraError, SettingError
from rentgen.service.metrics import METHODS, OTHER, route_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Value = str | int | float | bool

_tracer: ContextVar[Tracer | None] = ContextVar("rentgen_tracer", default=None)
_OFF: AbstractContextManager[None] = nullcontext()


class Telemetry:
    """Where traces go. Close it, so that the last ones arrive."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("rentgen", version("rentgen"))

    def close(self) -> None:
        """Send what is left; takes seconds at most where nobody listens. Not on an event loop."""
        self._provider.shutdown()


def connect(endpoint: str, *, timeout_s: float = 5.0) -> Telemetry:
    """Return what sends traces to an OTLP endpoint over HTTP, in the background.

    Args:
        endpoint: address of the collector; without a path, `/v1/traces` is added, as the standard has it.
        timeout_s: for one delivery.

    Raises:
        MissingExtraError: the extra `telemetry` is not installed.
        SettingError: the endpoint is no HTTP address.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SettingError("Expected otlp_endpoint to be an address like http://collector:4318, but got another.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "opentelemetry", "telemetry", "tracing") from error
    address = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
    provider = TracerProvider(
        resource=Resource.create({"service.name": "rentgen", "service.version": version("rentgen")}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address, timeout=timeout_s)))
    return Telemetry(provider)


def span(name: str, **attributes: Value) -> AbstractContextManager[Any]:
    """Return a context whose time becomes a span of the request that is being answered; nothing where traces are off.

    In another thread, run in the request's context: `contextvars.copy_context().run(job)`.

    Args:
        name: `read`, `infer`, `store` and the like.
        attributes: counts and names of our own, never of a film or a patient.
    """
    tracer = _tracer.get()
    return _OFF if tracer is None else _spanned(tracer, name, attributes)


def waited(name: str, since_s: float, **attributes: Value) -> None:
    """Write a span that ends now, of a wait that began earlier; nothing where traces are off.

    Args:
        name: `wait`.
        since_s: when it began, of `time.perf_counter()`.
        attributes: as of `span`.
    """
    tracer = _tracer.get()
    if tracer is not None:
        end = time.time_ns()
        began = end - max(0, round((time.perf_counter() - since_s) * 1e9))
        tracer.start_span(name, start_time=began, attributes=attributes).end(end)


@contextmanager
def _spanned(tracer: Tracer, name: str, attributes: Mapping[str, Value]) -> Iterator[Span]:
    # OpenTelemetry would keep the error's message, which may quote a film's header.
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except BaseException as error:
            _failed(current, type(error).__qualname__)
            raise


def _failed(current: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    current.set_attribute("error.type", kind)
    current.set_status(StatusCode.ERROR)


class Trace:
    """Pure ASGI middleware: a span for each request, a child of the caller's where it sends `traceparent` (W3C).

    It belongs inside `AccessLog`, whose request id it writes down.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.app = app
        self.tracer = tracer
        self._kind = SpanKind.SERVER
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on within a span."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER
        headers = Headers(scope=scope)
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        status = 499

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = _tracer.set(self.tracer)
        try:
            with self.tracer.start_as_current_span(
                method,
                context=self._propagator.extract(carrier),
                kind=self._kind,
                record_exception=False,
                set_status_on_exception=False,
            ) as current:
                try:
                    await self.app(scope, receive, watched)
                except BaseException as error:
                    status = 500 if isinstance(error, Exception) else status
                    _failed(current, type(error).__qualname__)
                    raise
                finally:
                    _describe(current, scope, method, status)
        finally:
            _tracer.reset(token)


def _describe(current: Span, scope: Scope, method: str, status: int) -> None:
    """Write down a request by the names of OpenTelemetry's semantic conventions for HTTP."""
    # Only now is it known which route answers.
    route = route_of(scope)
    current.update_name(f"{method} {route}")
    current.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "rentgen.request_id": str(scope.get("state", {}).get("request_id", "")),
        }
    )
    if status >= 500:
        _failed(current, str(status))
