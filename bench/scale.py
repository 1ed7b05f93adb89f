"""How the cost of the road grows with films and with workers, next to what the cost model says.

Films are generated records. Decoding and the network are stubbed: each record has an array that was made before
(a 64 x 64 copy for the audit, 1,280 features for the cache), so what is measured is all that Rentgen does around them,
in its own code: listing files, giving work out, the search for near duplicates, audit, split, certificate, cache, head,
figures, answers. The model is fitted on small sizes and checked on larger ones, never on the same; what is below 10,000
films is shown and not fitted, since it lies in the processor's caches. A ratio outside of [0.8, 1.2] is marked OFF, and
the exit code is then 1.

    python bench/scale.py films                     from 1,000 to 1,000,000 films (10 minutes, 10 GB)
    python bench/scale.py films --most 30000        a quick look
    python bench/scale.py workers                   from 1 to 16 workers, each film a sleep; threads, then Ray
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rentgen.data.audit import Examination, Examined, Numbers, audit
from rentgen.data.duplicates import SIDE, find_duplicates
from rentgen.data.listing import list_images
from rentgen.data.split import certify, keep_together, select, split
from rentgen.deploy.cost import Driver, Job, Pace, shared_seconds
from rentgen.evaluate.measure import evaluate
from rentgen.learn.extractors import Extractor
from rentgen.learn.features import FeatureStore, Film, Half, extract, identify, view_key
from rentgen.learn.head import Features, train_head
from rentgen.learn.settings import AugmentSettings, HeadSettings
from rentgen.parallel.local import cores
from rentgen.parallel.pool import Alone, Pool, Threads, Work, open_nothing
from rentgen.records import Float32, Listing, Prediction, Preprocessing, Split, Status, UInt8

COLUMNS = 1280
BATCH = 8
NO_VIEWS = AugmentSettings(views=0)
ALIKE = 0.70
"""How alike generated copies are: so that as many pairs are looked at closely as among Kermany's films (0.16 %)."""
MEETING_S = 300
LIMIT = 0.20
"""How far measured and modelled may lie apart."""
LEAST = 10_000
"""Films in the smallest set that the model is fitted on."""
REPEATS = 3
"""Of all sizes below a million; the median counts."""


# --- films whose arrays were made before ---------------------------------------------------------------------------


@dataclass(frozen=True)
class PreMade(Alone):
    """A pool whose workers neither read nor compute: they wait, and give arrays that were made before.

    Attributes:
        pool: whose workers.
        delay_s: that a film takes.
        gate: a folder where workers meet before the first film: what starting takes is no part of the pace.
        workers: that meet there.
    """

    pool: Pool
    delay_s: float = 0.0
    gate: Path | None = None
    workers: int = 1

    def map(self, work: Work[Any, Any, Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield what was made before for each parcel of films, in order."""
        opened = partial(_open_rows, self.gate, self.workers)
        return self.pool.map(replace(work, open=opened, run=partial(_give_rows, self.delay_s), here=None), items)


def _open_rows(gate: Path | None, workers: int, _: int) -> Half:
    rows = np.random.default_rng(0).random((4096, COLUMNS), np.float32).astype(np.float16)
    if gate is not None:
        (gate / str(time.time_ns())).touch()
        deadline = time.monotonic() + MEETING_S
        while len(list(gate.iterdir())) < workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {workers} workers came within {MEETING_S} s")
            time.sleep(0.02)
    return rows


def _give_rows(delay_s: float, rows: Half, chunk: Sequence[tuple[Film, list[int]]]) -> tuple[list[bytes], Half]:
    keys = [view_key(film.content_hash, view, NO_VIEWS, 0) for film, views in chunk for view in views]
    if delay_s:
        time.sleep(delay_s * len(keys))
    start = int.from_bytes(keys[0][:2], "big") % (len(rows) - len(keys))
    return keys, rows[start : start + len(keys)]


def _run_nothing(images: UInt8) -> Float32:
    raise AssertionError("the network is stubbed")


EXTRACTOR = Extractor(_run_nothing, COLUMNS, {"name": "pre-made"}, 2, BATCH, opened=None)


def digest(text: str) -> str:
    """Return a hash for what would be the bytes of a file."""
    return hashlib.sha256(text.encode()).hexdigest()


def _examined(_: bool, path: Path) -> tuple[Examined, int]:
    """Return what reading would tell of a film, and which copy is its own."""
    name = digest(path.name)
    seed = int(name[:8], 16)
    numbers = Numbers(1000 + seed % 977, 1000 + seed % 499, 1.0, seed % 10**6, seed % 255, 40 + seed % 20, 0.1)
    return Examined(path, name, digest(name), "png", numbers), seed


def copies(count: int) -> UInt8:
    """Return (count, 64, 64) small copies that are as alike as chest films are."""
    rng = np.random.default_rng(0)
    common = np.random.default_rng(5).standard_normal((16, 16), np.float32)
    out = np.empty((count, SIDE, SIDE), np.uint8)
    for start in range(0, count, 4096):
        own = rng.standard_normal((min(4096, count - start), 16, 16), np.float32)
        fields = np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * own
        out[start : start + len(own)] = np.clip(128 + 30 * fields.repeat(4, 1).repeat(4, 2), 0, 255)
    return out


def write_records(folder: Path, count: int) -> None:
    """Write empty files in two class folders, two films a patient, a thousand films a folder."""
    for number in range(count):
        place = folder / ("NORMAL", "PNEUMONIA")[number % 4 // 2] / f"{number // 1000:04d}"
        if number % 1000 < 4:
            place.mkdir(parents=True, exist_ok=True)
        (place / f"p{number // 2:07d}_{number % 2}.png").touch()


# --- stages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Took:
    """Seconds on the clock and of processors."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], Any]) -> tuple[Any, Took]:
    """Return what work gives, and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Took(time.perf_counter() - wall, time.process_time() - cpu)


def road(count: int, place: Path) -> dict[str, Took]:
    """Return how long each stage of training takes for so many films."""
    took: dict[str, Took] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        result, took[name] = timed(work)
        print(f"  {count:>9,} {name:<22} {took[name].wall_s:9.2f} s wall {took[name].cpu_s:9.2f} s cpu", flush=True)
        return result

    write_records(place / "films", count)
    listing: Listing = stage("list", lambda: list_images(place / "films", patient_pattern="^(p[0-9]+)_"))
    work = Work(open_nothing, _examined, grain=8)
    films = stage("give out (threads)", lambda: [film for film, _ in Threads().map(work, paths_of(listing))])
    examination = Examination(tuple(films), {}, ())
    divided = stage("audit, split, certify", lambda: share(listing, examination))
    hashes = examination.hashes
    wanted = [Film(record.path, hashes[record.path]) for record in divided.records]
    preprocessing = Preprocessing()
    arguments = {"cache": place / "cache", "pool": PreMade(Threads())}
    store = stage("cache: write", lambda: extract(wanted, EXTRACTOR, preprocessing, NO_VIEWS, **arguments))  # type: ignore[arg-type]
    del store
    identity = identify(EXTRACTOR, preprocessing)
    store = stage("cache: open", lambda: FeatureStore(place / "cache", identity, COLUMNS))
    keys = {
        part: [view_key(hashes[record.path], 0, NO_VIEWS, 0) for record in select(divided, part).records]
        for part in Split
    }
    rows = stage("cache: gather", lambda: {part: store.gather(keys[part], place) for part in Split})
    labels = {part: np.arange(len(rows[part])) % 2 for part in Split}
    parts = {part: Features((rows[part],), labels[part]) for part in Split}
    settings = HeadSettings(epochs=1)
    stage("head: one epoch", lambda: train_head(parts[Split.TRAIN], parts[Split.VALIDATION], settings, classes=2))
    measured = select(divided, Split.TEST).records
    stage("figures of the test part", lambda: judged(len(measured), [record.patient for record in measured]))
    stage("answers as JSON", lambda: write_answers(place / "answers.jsonl", paths_of(listing)))
    return took


def paths_of(listing: Listing) -> list[Path]:
    """Return the films' paths."""
    return [record.path for record in listing.records]


def share(listing: Listing, examination: Examination) -> Listing:
    """Return the listing with parts, audited before and after, with its certificate made: as training does."""
    copied = [pair for pair in audit(listing, examination).pairs if pair.same_split]
    divided = split(keep_together(listing, copied), rng=np.random.default_rng(0))
    found = audit(divided, examination)
    certificate = certify(divided, examination.hashes, found, "0" * 32, pixels=examination.pixel_hashes)
    size = len(json.dumps(certificate.to_dict()))
    print(f"  {len(listing):>9,} certificate: {size / len(listing):.0f} bytes a film", flush=True)
    return divided


def judged(count: int, patients: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the figures, with intervals, of answers that were made before."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    scores = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0.01, 0.99)
    told = np.stack([1 - scores, scores], axis=1)
    return evaluate(told, labels, patients, ("NORMAL", "PNEUMONIA"), rng=rng)


def write_answers(path: Path, films: Sequence[Path]) -> None:
    """Write a line of JSON for each film, as `rentgen predict --json` does."""
    told = {"NORMAL": 0.75123456789, "PNEUMONIA": 0.24876543211}
    with path.open("w", encoding="utf-8") as stream:
        for film in films:
            answer = Prediction(path=str(film), label="NORMAL", probabilities=told, status=Status.OK)
            print(json.dumps(answer.to_dict(), ensure_ascii=False), file=stream, flush=True)


# --- fit on small, check on large -----------------------------------------------------------------------------------


def fit(sizes: Sequence[float], seconds: Sequence[float], powers: Sequence[int]) -> Callable[[float], float]:
    """Return the sum of powers that lies nearest to the measured seconds, by relative error; no part is negative."""
    from scipy.optimize import nnls

    columns = np.array([[size**power for power in powers] for size in sizes])
    weighted = columns / np.array(seconds)[:, np.newaxis]
    scale = weighted.max(axis=0)
    found, _ = nnls(weighted / scale, np.ones(len(sizes)))
    factors = found / scale
    terms = ", ".join(f"{factor:.3g} x^{power}" for factor, power in zip(factors, powers, strict=True))
    print(f"    fitted on {', '.join(f'{size:,.0f}' for size in sizes)}: {terms}")
    return lambda size: float(sum(factor * size**power for factor, power in zip(factors, powers, strict=True)))


def compare(name: str, size: float, measured: float, model: float) -> bool:
    """Print measured next to modelled, and return whether they agree."""
    ratio = measured / model if model else float("inf")
    good = abs(ratio - 1) <= LIMIT
    print(f"    {name:<26} {size:>10,.0f} measured {measured:9.3f} s  model {model:9.3f} s  ratio {ratio:5.2f}"
          f"{'' if good else '  OFF'}", flush=True)  # fmt: skip
    return good


def grow_films(most: int, fitted: int, most_compared: int) -> bool:
    """Measure each stage at growing sizes; return whether the model held on the larger ones."""
    sizes = [size for size in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000) if size <= most]
    took: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as place:
        road(200, Path(place))  # what is imported and compiled on first use is no part of any size
    for size in sizes:
        runs = []
        for _ in range(REPEATS if size < 1_000_000 else 1):
            with tempfile.TemporaryDirectory(prefix="scale-") as place:
                runs.append(road(size, Path(place)))
        took[size] = {name: float(np.median([run[name].cpu_s for run in runs])) for name in runs[0]}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"  {size:>9,} memory at most {peak / 1e9:.2f} GB", flush=True)
    small = [size for size in sizes if LEAST <= size <= fitted]
    large = [size for size in sizes if size > fitted]
    models = {}
    held = []
    for name in took[sizes[0]]:
        print(f"  {name}")
        models[name] = fit(small, [took[size][name] for size in small], (0, 1))
        held += [compare("processor", size, took[size][name], models[name](size)) for size in large]
    print("  all of it")
    for size in large:
        model = sum(found(size) for found in models.values())
        held.append(compare("processor", size, sum(took[size].values()), model))
    return compare_copies(most_compared) and all(held)


def compare_copies(most: int) -> bool:
    """Measure the search for near duplicates, which grows with the square of the films."""
    sizes = [size for size in (4096, 8192, 16_384, 32_768, 65_536, 131_072) if size <= most]
    seconds = {}
    for size in sizes:
        thumbnails = copies(size)
        names = [str(number) for number in range(size)]
        _, took = timed(partial(find_duplicates, names, thumbnails))
        seconds[size] = took.cpu_s
        print(f"  {size:>9,} near duplicates        {took.wall_s:9.2f} s wall {took.cpu_s:9.2f} s cpu", flush=True)
    print("  near duplicates")
    model = fit(sizes[:3], [seconds[size] for size in sizes[:3]], (1, 2))
    held = [compare("processor", size, seconds[size], model(size)) for size in sizes[3:]]
    return all(held)


# --- workers that wait ----------------------------------------------------------------------------------------------


def shared(pool: Pool, workers: int, count: int, delay_s: float, place: Path) -> float:
    """Return how long the features of so many films take from when all workers are there, into the cache."""
    gate = place / "gate"
    gate.mkdir()
    wanted = [Film(place / f"{number}.png", digest(str(number))) for number in range(count)]
    # Threads open once for all of them.
    meeting = 1 if isinstance(pool, _Threads) else workers
    extract(wanted, EXTRACTOR, Preprocessing(), NO_VIEWS, cache=place, pool=PreMade(pool, delay_s, gate, meeting))
    return time.time() - max(int(mark.name) for mark in gate.iterdir()) / 1e9


@dataclass(frozen=True)
class _Threads(Alone):
    """So many threads of this process, as many as a machine with so many processors would have."""

    workers: int

    def map(self, work: Work[Any, Any, Any], items: Iterable[Any]) -> Iterator[Any]:
        return Threads().map(replace(work, workers=self.workers, ahead=4 * self.workers), items)


def start_ray(workers: int) -> Pool:
    """Start Ray on this machine, let it believe in so many processors, and return its workers; they only sleep."""
    import ray

    from rentgen.parallel.ray import Ray

    ray.shutdown()
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
             _node_ip_address="127.0.0.1")  # fmt: skip
    return Ray()


def grow_workers(kind: str, films: int, delay_s: float) -> bool:
    """Measure shared work with more and more workers; return whether the model held for the larger numbers."""
    print(f"  {kind}: {films} films a worker, each {delay_s * 1000:.0f} ms of sleep")
    seconds: dict[int, float] = {}
    for workers in (1, 2, 4, 8, 16):
        pool = start_ray(workers) if kind == "Ray" else _Threads(workers)
        with tempfile.TemporaryDirectory(prefix="scale-") as place:
            seconds[workers], took = timed(partial(shared, pool, workers, films * workers, delay_s, Path(place)))
        rate = films * workers / seconds[workers]
        print(f"    {workers:>3} workers: {seconds[workers]:7.2f} s, {rate:7.1f} films/s; with the start "
              f"{took.wall_s:7.2f} s", flush=True)  # fmt: skip
    # Two numbers are fitted, on one and two workers: what a film costs its worker beside the sleep, and the tail.
    beside = float(np.mean([seconds[workers] / films for workers in (1, 2)])) - delay_s
    print(f"    fitted on 1 and 2 workers: {beside * 1000:.2f} ms a film beside the sleep")
    pace = Pace(0, 0, 0, delay_s + beside, 1, 0, 0, 0, 0)
    driver = Driver(0, 0, 0, 0, given_seconds(kind), 0)
    held = []
    for workers in (4, 8, 16):
        model, _ = shared_seconds(pace, driver, Job(1, workers), films * workers)
        held.append(compare(f"{kind}, workers", workers, seconds[workers], model))
    return all(held)


def given_seconds(kind: str) -> float:
    """Return how long a film takes to be given out and taken back, where its worker does nothing."""
    found = {}
    for grain, count in ((1, 4000), (BATCH, 8000)):
        pool = start_ray(2) if kind == "Ray" else _Threads(2)
        films = [Film(Path(f"{number}.png"), digest(str(number))) for number in range(count)]
        parcels = [[(film, [0]) for film in films[start : start + grain]] for start in range(0, count, grain)]
        work = Work(partial(_open_rows, None, 1), partial(_give_rows, 0.0), grain=BATCH)
        rows = PreMade(pool).map(work, parcels)
        next(rows)
        start = time.perf_counter()
        given = sum(1 for _ in rows)
        found[grain] = (time.perf_counter() - start) / given / grain
        print(f"    {kind} gives out parcels of {grain}: {found[grain] * 1e6:.0f} us a film")
    return found[BATCH]


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("films", "workers"))
    parser.add_argument("--most", type=int, default=1_000_000, help="films in the largest set")
    parser.add_argument("--fitted", type=int, default=100_000, help="the model is fitted on sets up to this size")
    parser.add_argument("--compared", type=int, default=65_536, help="films in the largest search for near duplicates")
    parser.add_argument("--films", type=int, default=400, help="for each worker")
    parser.add_argument("--delay-ms", type=float, default=50.0, help="of sleep for each film")
    chosen = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {cores()} processors, Python {platform.python_version()}, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    if chosen.what == "films":
        good = grow_films(chosen.most, chosen.fitted, chosen.compared)
    else:
        held = [grow_workers(kind, chosen.films, chosen.delay_ms / 1000) for kind in ("threads", "Ray")]
        good = all(held)
    print("The model held within 20 %." if good else "OFF: the model did not hold within 20 % everywhere.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
