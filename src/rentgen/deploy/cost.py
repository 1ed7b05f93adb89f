"""What a number of films costs: a model of time, storage and money; pure arithmetic on paces that were measured.

A run is one command over at most so many films. Its wall time is

    start + films * (alone + epochs * epoch) + films^2 / 2 * pair + max(films * worker / workers, films * given)

The first three are the one process that leads: what it does once, what it does with each film while nobody else works
(listing, auditing, dividing, the head on cached features), and the search for near duplicates, which compares each film
with every other. The last is the work that is shared out: by the workers, or by the process that gives it out and takes
the results, whichever is slower (Amdahl 1967 with a queue in it). Runs follow one another on the same workers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from rentgen.errors import SettingError

HOUR_S = 3600.0
GB = 1e9


def _require(what: str, holds: bool, expected: str, value: object) -> None:
    if not holds:
        raise SettingError(f"Expected {what} to be {expected}, but got {value!r}.")


@dataclass(frozen=True, slots=True)
class Pace:
    """What one film asks of a worker with one core, and of storage; all per film of the whole set.

    Attributes:
        audit_s: reading, hashing, decoding and measuring it for the audit.
        decode_s: reading it once and preparing it for the network.
        reads: how often it is read for the network; a part of the films is read more than once.
        view_s: one view of it: changing it, and the network, on the worker's core or on a GPU.
        views: of it that the network sees; the film itself is one.
        film_bytes: of its file.
        feature_bytes: kept in the cache for one view.
        scratch_bytes: that lie on the disk while a run lasts.
        answer_bytes: kept of it in the end, in results or in the bundle's certificate.
    """

    audit_s: float
    decode_s: float
    reads: float
    view_s: float
    views: float
    film_bytes: float
    feature_bytes: float
    scratch_bytes: float
    answer_bytes: float

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            _require(item.name, 0 <= value < float("inf"), "a number from 0", value)

    @property
    def worker_s(self) -> float:
        """Seconds of one core for one film, where no GPU takes the views."""
        return self.audit_s + self.reads * self.decode_s + self.views * self.view_s


@dataclass(frozen=True, slots=True)
class Driver:
    """What the one process that leads takes.

    Attributes:
        start_s: a run, before the first film and after the last.
        alone_s: a film, while no worker works.
        epoch_s: a film and epoch of the head on cached features.
        pair_s: a pair of films in the search for near duplicates; 0 where there is none.
        given_s: a film, to give it out and take what comes back, while workers work.
        memory_bytes: a film.
    """

    start_s: float
    alone_s: float
    epoch_s: float
    pair_s: float
    given_s: float
    memory_bytes: float

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            _require(item.name, 0 <= value < float("inf"), "a number from 0", value)


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost, in whatever money. The defaults are round assumptions of 2026-12-01 in dollars, no quotation.

    Attributes:
        core_hour: of a worker's core, with its memory.
        gpu_hour: of a GPU, with the machine that it sits in.
        gb_month: of a gigabyte in an object store.
        million_reads: of a million objects read from it.
    """

    core_hour: float = 0.05
    gpu_hour: float = 1.0
    gb_month: float = 0.02
    million_reads: float = 0.4

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            _require(item.name, 0 <= value < float("inf"), "a number from 0", value)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, and with what.

    Attributes:
        films: in all.
        workers: of one core each.
        run_films: that one run takes at most.
        epochs: of the head.
        gpus: that take the views; each has a worker that reads the films for it, one after another.
        gpu_view_s: seconds of a GPU for one view.
        driver_cores: of the machine that leads, paid for as long as the runs last.
        months: that films, features and answers are stored.
    """

    films: int
    workers: int
    run_films: int = 1_000_000
    epochs: int = 0
    gpus: int = 0
    gpu_view_s: float = 0.0
    driver_cores: int = 8
    months: float = 1.0

    def __post_init__(self) -> None:
        for name in ("films", "workers", "run_films", "driver_cores"):
            _require(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in ("epochs", "gpus", "gpu_view_s", "months"):
            _require(name, 0 <= getattr(self, name) < float("inf"), "a number from 0", getattr(self, name))
        _require("gpu_view_s", not self.gpus or self.gpu_view_s > 0, "above 0 where there are GPUs", self.gpu_view_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes.

    Attributes:
        films: in all.
        workers: of one core each.
        runs: one after another.
        wall_hours: of all runs.
        leading_hours: of these, in which only the process that leads works; its search for near duplicates included.
        pair_hours: of these, the search for near duplicates.
        core_hours: of workers' cores, from when they are asked until they are let go.
        driver_core_hours: of the machine that leads.
        gpu_hours: of GPUs, waiting for films included.
        film_gb: of the films' files.
        feature_gb: in the cache.
        answer_gb: in the end.
        scratch_gb: on a disk while a run lasts.
        read_gb: read of the films' files, all times counted.
        driver_gb: of memory, in the process that leads.
        money: in all, for computing and reading, and for storage while it lasts.
        storage_money: of that, for storage.
    """

    films: int
    workers: int
    runs: int
    wall_hours: float
    leading_hours: float
    pair_hours: float
    core_hours: float
    driver_core_hours: float
    gpu_hours: float
    film_gb: float
    feature_gb: float
    answer_gb: float
    scratch_gb: float
    read_gb: float
    driver_gb: float
    money: float
    storage_money: float

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object."""
        return asdict(self)


def shared_seconds(pace: Pace, driver: Driver, job: Job, films: float) -> tuple[float, float]:
    """Return how long shared work lasts, with the workers' cores and, of that, with the GPUs.

    Args:
        pace: of a worker.
        driver: that gives the work out.
        job: how many workers and GPUs.
        films: of one run.
    """
    given = films * driver.given_s
    if not job.gpus:
        return max(films * pace.worker_s / job.workers, given), 0.0
    # A GPU's worker reads the films that it computes: the GPU waits meanwhile.
    on_gpus = max(films * (pace.decode_s + pace.views * job.gpu_view_s) / job.gpus, given)
    on_cores = max(films * (pace.audit_s + max(0.0, pace.reads - 1) * pace.decode_s) / job.workers, given)
    return on_cores + on_gpus, on_gpus


def leading_seconds(driver: Driver, films: float, epochs: int) -> tuple[float, float]:
    """Return how long a run's one leading process works alone, and of that the search for near duplicates.

    Args:
        driver: that process.
        films: of the run.
        epochs: of the head.
    """
    pairs = films * max(0.0, films - 1) / 2 * driver.pair_s
    return driver.start_s + films * (driver.alone_s + epochs * driver.epoch_s) + pairs, pairs


def plan(pace: Pace, driver: Driver, job: Job, prices: Prices) -> Plan:
    """Return what a job takes.

    Args:
        pace: of a worker, per film.
        driver: of the process that leads.
        job: films and workers.
        prices: of an hour, a gigabyte, a read.
    """
    whole, rest = divmod(job.films, job.run_films)
    sizes = [(job.run_films, whole), (rest, 1 if rest else 0)]
    leading = pairs = shared = on_gpus = 0.0
    for films, times in sizes:
        if times:
            alone, compared = leading_seconds(driver, films, job.epochs)
            together, of_gpus = shared_seconds(pace, driver, job, films)
            leading, pairs = leading + times * alone, pairs + times * compared
            shared, on_gpus = shared + times * together, on_gpus + times * of_gpus
    wall_h = (leading + shared) / HOUR_S
    core_h = job.workers * (shared - on_gpus) / HOUR_S
    gpu_h = job.gpus * on_gpus / HOUR_S
    driver_h = job.driver_cores * wall_h
    reads = (1 if pace.audit_s else 0) + pace.reads
    film_gb, feature_gb, answer_gb = (
        job.films * size / GB for size in (pace.film_bytes, pace.views * pace.feature_bytes, pace.answer_bytes)
    )
    storage = (film_gb + feature_gb + answer_gb) * job.months * prices.gb_month
    computing = (core_h + driver_h) * prices.core_hour + gpu_h * prices.gpu_hour
    return Plan(
        films=job.films,
        workers=job.workers,
        runs=sum(times for _, times in sizes),
        wall_hours=wall_h,
        leading_hours=leading / HOUR_S,
        pair_hours=pairs / HOUR_S,
        core_hours=core_h,
        driver_core_hours=driver_h,
        gpu_hours=gpu_h,
        film_gb=film_gb,
        feature_gb=feature_gb,
        answer_gb=answer_gb,
        scratch_gb=min(job.films, job.run_films) * pace.scratch_bytes / GB,
        read_gb=film_gb * reads,
        driver_gb=min(job.films, job.run_films) * driver.memory_bytes / GB,
        money=computing + job.films * reads / 1e6 * prices.million_reads + storage,
        storage_money=storage,
    )


# Measured by bench/scale.py on 2026-12-01 on 2 cores of an Intel Xeon at 2.60 GHz, per film (docs/scale.md).
TRAINING = Driver(start_s=60.0, alone_s=2.0e-4, epoch_s=4.0e-5, pair_s=1.2e-8, given_s=2.0e-3, memory_bytes=12_000)
"""Of `rentgen train` on cached features, with Ray."""
PREDICTING = Driver(start_s=30.0, alone_s=3.0e-5, epoch_s=0.0, pair_s=0.0, given_s=2.0e-3, memory_bytes=3_000)
"""Of `rentgen predict`, with Ray."""
