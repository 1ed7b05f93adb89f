"""What a gateway counts, for Prometheus; no label holds what a peer wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from rentgen.errors import StoreError
from rentgen.store.gateway import Queue, State

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of the histograms."""


class Metrics:
    """What one gateway counts, in a registry of its own. Safe from any thread."""

    def __init__(self, queue: Queue, doors: Mapping[str, Callable[[], Mapping[str, int]]]) -> None:
        """Count nothing yet.

        Args:
            queue: whose depth is told.
            doors: name of a door or source to what it counts.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="rentgen", registry=self.registry)
        self.registry.register(_Depth(queue, doors))
        self._step_s = Histogram(
            "rentgen_gateway_step_seconds",
            "What a step of a batch takes.",
            ("step",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._whole_s = Histogram(
            "rentgen_gateway_batch_seconds",
            "From a batch's last object to its last delivery, the quiet time included.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._films = Counter(
            "rentgen_gateway_films",
            "Images analysed, by what the answer is worth; not_analysed where there is none.",
            ("status",),
            registry=self.registry,
        )
        self._faults = Counter(
            "rentgen_gateway_faults", "Times that a part of the gateway failed.", ("part",), registry=self.registry
        )

    def step(self, name: str, seconds: float) -> None:
        """Note how long a step took."""
        self._step_s.labels(name).observe(seconds)

    def done(self, seconds: float) -> None:
        """Note how long a batch took in all."""
        self._whole_s.observe(max(0.0, seconds))

    def film(self, status: str) -> None:
        """Note what came of an image.

        Args:
            status: of the prediction, or `not_analysed`.
        """
        self._films.labels(status).inc()

    def fault(self, part: str) -> None:
        """Note that a part failed, and goes on."""
        self._faults.labels(part).inc()

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)


class _Depth(Collector):
    """Asks the queue and the doors when Prometheus asks."""

    def __init__(self, queue: Queue, doors: Mapping[str, Callable[[], Mapping[str, int]]]) -> None:
        self._queue = queue
        self._doors = doors

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: what is told is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield what there is; a database that does not answer is told of, too."""
        events = CounterMetricFamily("rentgen_gateway_events", "What happened at a door.", labels=("door", "event"))
        for door, told in self._doors.items():
            for event, count in sorted(told().items()):
                events.add_metric((door, event), count)
        yield events
        up = GaugeMetricFamily("rentgen_gateway_database_up", "Whether the database answers.")
        try:
            counts = self._queue.counts()
        except StoreError:
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        yield up
        yield _gauge("rentgen_gateway_objects", "Objects in the queue.", counts.objects)
        yield _gauge("rentgen_gateway_conflicts", "Objects put aside: another has their UID.", counts.conflicts)
        yield _gauge("rentgen_gateway_open_batches", "Studies that wait for more objects.", counts.open_batches)
        steps = GaugeMetricFamily("rentgen_gateway_steps", "Steps by state.", labels=("step", "destination", "state"))
        for (step, destination, state), count in sorted(counts.steps.items()):
            steps.add_metric((step, destination, state), count)
        yield steps
        dead = sum(count for (_, _, state), count in counts.steps.items() if state is State.DEAD)
        yield _gauge("rentgen_gateway_dead_letters", "Steps that were given up: a person must look.", dead)
        age = 0.0 if counts.oldest is None else max(0.0, (datetime.now(UTC) - counts.oldest).total_seconds())
        yield _gauge("rentgen_gateway_oldest_seconds", "How long the oldest unfinished step has been due.", age)


def _gauge(name: str, words: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, words)
    family.add_metric((), value)
    return family
