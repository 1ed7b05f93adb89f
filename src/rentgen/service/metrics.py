"""Metrics for Prometheus: what a service does, in numbers that name no patient and no address.

Every label is one of a few: routes are templates (`/v1/studies/{study_id}`), never what was asked for; methods and
codes that are not known count as `other`. So the number of series is bounded, and none can hold what a caller wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rentgen.records import Prediction
from rentgen.records.studies import StoredPrediction
from rentgen.service.drift import Report
from rentgen.service.problems import CODES, MEDIA_TYPE

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram, seconds."""
FILM_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histograms of one film's time, seconds."""

_LARGEST_PROBLEM = 64 * 1024


class BundleInfo(NamedTuple):
    """A model as `/metrics` names it.

    Attributes:
        model: its name in the service.
        bundle_id: of the bundle; empty unless it is ready.
        title: the bundle's own name.
        ready: whether it answers.
    """

    model: str
    bundle_id: str
    title: str
    ready: bool


class Metrics:
    """What one service counts, in a registry of its own. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self._requests = Counter(
            "rentgen_requests", "HTTP requests answered.", ("route", "method", "status"), registry=own
        )
        self._request_s = Histogram(
            "rentgen_request_seconds",
            "From a request's first byte to the answer's last.",
            ("route",),
            buckets=REQUEST_S,
            registry=own,
        )
        self._in_flight = Gauge("rentgen_requests_in_flight", "HTTP requests that are being answered.", registry=own)
        self._errors = Counter("rentgen_errors", "Error answers by their stable code.", ("code",), registry=own)
        self._films = Counter(
            "rentgen_films", "Films answered, by what the answer is worth.", ("model", "status"), registry=own
        )
        self._classes = Counter(
            "rentgen_film_classes",
            "Films by most probable class; of answers with status ok only.",
            ("model", "label"),
            registry=own,
        )
        self._engine_s = Histogram(
            "rentgen_film_engine_seconds",
            "Reading, preparing and computing one film.",
            ("model",),
            buckets=FILM_S,
            registry=own,
        )
        self._wait_s = Histogram(
            "rentgen_film_wait_seconds", "From arrival to a free thread.", buckets=FILM_S, registry=own
        )
        build = Gauge("rentgen_build_info", "1, with the version.", ("version",), registry=own)
        build.labels(version("rentgen")).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            route: its template.
            method: of HTTP; one that is not usual counts as `other`.
            status: of HTTP.
            seconds: that it took.
        """
        self._requests.labels(route, method if method in METHODS else OTHER, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def observe_film(
        self, model: str, prediction: Prediction | StoredPrediction, engine_s: float, wait_s: float
    ) -> None:
        """Count a film that was answered.

        Args:
            model: who answered.
            prediction: the answer.
            engine_s: for reading, preparing and computing.
            wait_s: until a thread was free.
        """
        self._films.labels(model, str(prediction.status)).inc()
        self._engine_s.labels(model).observe(engine_s)
        self._wait_s.observe(wait_s)
        if prediction.status == "ok" and prediction.label is not None:
            self._classes.labels(model, prediction.label).inc()

    def observe_error(self, code: str) -> None:
        """Count an error answer; a code that is not one of ours counts as `other`."""
        self._errors.labels(code if code in CODES else OTHER).inc()

    def enter(self) -> None:
        """Say that a request has come."""
        self._in_flight.inc()

    def leave(self) -> None:
        """Say that it is answered."""
        self._in_flight.dec()

    def watch_queue(self, look: Callable[[], tuple[int, int]]) -> None:
        """Ask for (films that wait, how many may) whenever metrics are read."""
        self._watch(
            lambda: (
                _gauge("rentgen_queue_films", "Films that wait for the engine.", look()[0]),
                _gauge("rentgen_queue_limit", "Films that may wait; beyond it comes 429.", look()[1]),
            )
        )

    def watch_films(self, look: Callable[[], tuple[int, int]]) -> None:
        """Ask for (films, bytes) in memory whenever metrics are read."""
        self._watch(
            lambda: (
                _gauge("rentgen_films_in_memory", "Films in memory that can be looked at.", look()[0]),
                _gauge("rentgen_films_in_memory_bytes", "Their pixels, bytes.", look()[1]),
            )
        )

    def watch_models(self, look: Callable[[], Iterable[BundleInfo]]) -> None:
        """Ask for the models whenever metrics are read."""
        self._watch(lambda: _model_families(tuple(look())))

    def watch_drift(self, look: Callable[[], Mapping[str, Report]]) -> None:
        """Ask for each model's drift whenever metrics are read."""
        self._watch(lambda: _drift_families(look()))

    def _watch(self, look: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        self.registry.register(_Watched(look))

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Watched(Collector):
    """Values that are looked at when metrics are read."""

    def __init__(self, look: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what there is to see now."""
        yield from self._look()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield nothing: a registry would otherwise look before there is anything."""
        return iter(())


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value)


def _model_families(models: tuple[BundleInfo, ...]) -> tuple[GaugeMetricFamily, ...]:
    ready = GaugeMetricFamily("rentgen_model_ready", "1 where a model answers.", labels=("model",))
    info = GaugeMetricFamily("rentgen_bundle_info", "1, with what answers.", labels=("model", "bundle_id", "title"))
    for model in models:
        ready.add_metric((model.model,), float(model.ready))
        if model.bundle_id:
            info.add_metric((model.model, model.bundle_id, model.title), 1.0)
    return ready, info


def _drift_families(reports: Mapping[str, Report]) -> tuple[GaugeMetricFamily, ...]:
    by_measure = ("model", "measure")
    value = GaugeMetricFamily("rentgen_drift_value", "A measure over the last answers.", labels=by_measure)
    expected = GaugeMetricFamily("rentgen_drift_expected", "What the card lets expect.", labels=by_measure)
    moved = GaugeMetricFamily("rentgen_drift_moved", "1 where a measure has moved, 0 where not.", labels=by_measure)
    films = GaugeMetricFamily("rentgen_drift_films", "Answers that a measure rests on.", labels=by_measure)
    for model, report in reports.items():
        for measure in report.measures:
            labels = (model, measure.name)
            films.add_metric(labels, float(measure.n))
            moved.add_metric(labels, float(measure.verdict == "moved"))
            if measure.value is not None:
                value.add_metric(labels, measure.value)
            if measure.expected is not None:
                expected.add_metric(labels, measure.expected)
    return value, expected, moved, films


def route_of(scope: Scope) -> str:
    """Return the template of the route that answered, never what was asked for.

    It is `other` where no route did: a path that does not exist, or a request that a middleware refused. What lies
    below a mounted folder is told by the folder: `/assets/*`.
    """
    # A router within a router: the route knows the inner prefix only, FastAPI's own entry knows the whole path.
    nested = scope.get("fastapi")
    whole = nested.get("effective_route_context") if isinstance(nested, Mapping) else None
    for route in (whole, scope.get("route")):
        path = getattr(route, "path", None)
        if isinstance(path, str) and path:
            return path
    if "endpoint" not in scope:
        return OTHER
    # Plain Starlette routes do not say which they are; one without parameters is known by its path.
    asked: str = scope["path"]
    if any(getattr(each, "path", None) == asked for each in getattr(scope.get("app"), "routes", ())):
        return asked
    mounted = scope.get("root_path")
    return f"{mounted}/*" if mounted else OTHER


class CountRequests:
    """Pure ASGI middleware that counts requests, their time, and the errors among the answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A request whose client left before the answer began: nginx's code for it.
        status, problem = 499, False

        async def watched(message: Message) -> None:
            nonlocal status, problem
            if message["type"] == "http.response.start":
                status = message["status"]
                problem = status >= 400 and _is_problem(message)
            elif problem:
                problem = False
                self.metrics.observe_error(_code(message.get("body", b"")))
            await send(message)

        began = time.perf_counter()
        self.metrics.enter()
        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self.metrics.leave()
            self.metrics.observe_request(route_of(scope), scope["method"], status, time.perf_counter() - began)


def _is_problem(message: Message) -> bool:
    return any(name == b"content-type" and text.startswith(MEDIA_TYPE.encode()) for name, text in message["headers"])


def _code(body: bytes) -> str:
    """Return the code that a problem document says; `other` where it cannot be told."""
    if len(body) > _LARGEST_PROBLEM:
        return OTHER
    try:
        document = json.loads(body)
    except ValueError:
        return OTHER
    return str(document.get("code", OTHER)) if isinstance(document, dict) else OTHER
