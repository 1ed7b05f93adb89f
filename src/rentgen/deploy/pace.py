"""What a film costs here: measured on some films of a set, by one worker with one thread, as a worker elsewhere is."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from rentgen.bundle import HASH_BYTES
from rentgen.data.audit import examine
from rentgen.data.listing import find_films, list_images
from rentgen.data.split import split
from rentgen.deploy.cost import Pace
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, InputError
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.learn import backbones
from rentgen.learn.features import Film, extract
from rentgen.learn.fitted import read_fitted
from rentgen.learn.frozen import Start
from rentgen.learn.recipe import Recipe
from rentgen.parallel.pool import Alone, Work
from rentgen.records import Listing, Preprocessing, Progress, Split

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


class Timed(Alone):
    """One worker of one thread in this process, with a state of its own; it counts the seconds that its work takes.

    Attributes:
        seconds: of work, the opening of the state left out.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def map(self, work: Work[S, T, R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result for each item, in order."""
        state = work.open(1)
        for item in items:
            start = time.perf_counter()
            result = work.run(state, item)
            self.seconds += time.perf_counter() - start
            yield result


@dataclass(frozen=True, slots=True)
class Measured:
    """A pace, and what it was measured on.

    Attributes:
        pace: of one film.
        films: that were measured.
        network: that saw them, in words.
    """

    pace: Pace
    films: int
    network: str


def measure_training(
    data: Path,
    recipe: Recipe,
    *,
    weights: str | Path | None = None,
    cache: Path,
    sample: int = 200,
    progress: Progress | None = None,
) -> Measured:
    """Return what a film costs in training on cached features, from the audit to the judgement.

    A film of the training part is read once and seen in all its views; one that is held back is read thrice (for
    features, for temperature and points, for the judgement) and seen twice. Fine-tuning is not measured.

    Args:
        data: folder or CSV.
        recipe: every setting.
        weights: of the backbone, as of `learn.backbones.load`.
        cache: where the exported network is kept; features are computed anew.
        sample: films that are measured, at most, evenly over the set.
        progress: stages `audit`, `films` and `features`.

    Raises:
        DataError: no film could be read.
        WeightsError: as of `learn.backbones.load`.
    """
    whole = list_images(data)
    listing = replace(whole, records=_evenly(whole.records, sample))
    settings = recipe.preprocessing
    backbone = backbones.load(
        recipe.backbone.name,
        weights=weights,
        size=(settings.height, settings.width),
        normalise=recipe.backbone.normalise,
        pooling=recipe.backbone.pooling,
    )
    cache.mkdir(parents=True, exist_ok=True)
    extractor = Start(recipe, backbone).extractor(cache)
    reader, computer = Timed(), Timed()
    examined = examine(
        listing, progress=None if progress is None else lambda done, total: progress("audit", done, total), pool=reader
    )
    if not examined.films:
        raise DataError(f"None of the {len(listing)} films of {data} that were tried could be read.")
    count = len(examined.films)
    hashes = examined.hashes
    decode_s = _time_reading(list(hashes.items()), settings, progress)
    films = [Film(path, content, recipe.augment.views) for path, content in hashes.items()]
    with tempfile.TemporaryDirectory(prefix="pace-") as scratch:
        extract(films, extractor, settings, recipe.augment, cache=Path(scratch), progress=progress, pool=computer)
        stored = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
    seen = len(set(hashes.values())) * (1 + recipe.augment.views)
    held = _held_back(whole, recipe)
    kept = 1.0 if recipe.finetune.epochs or recipe.answer.kept else held
    patients = len({record.patient for record in whole.records}) / len(whole)
    pace = Pace(
        audit_s=reader.seconds / count,
        decode_s=decode_s,
        reads=1 + 2 * held,
        view_s=max(0.0, computer.seconds - len(set(hashes.values())) * decode_s) / seen,
        views=1 + recipe.augment.views * (1 - held) + held,
        film_bytes=sum(film.numbers.bytes for film in examined.films) / count,
        feature_bytes=stored / seen,
        scratch_bytes=kept * settings.height * settings.width,
        # In the certificate a film has two hashes, a patient one.
        answer_bytes=HASH_BYTES * (2 + patients),
    )
    precision = extractor.identity["precision"]
    return Measured(pace, count, f"{backbone.name}, {backbone.weights}, {precision}")


def measure_prediction(
    data: Path, bundle: str | Path, *, sample: int = 200, batch_size: int = 1, progress: Progress | None = None
) -> Measured:
    """Return what a film costs in prediction with a bundle: one reading, one view, one line of JSON.

    Args:
        data: a folder of films, or a CSV.
        bundle: by file or name.
        sample: films that are measured, at most, evenly over the set.
        batch_size: films per call of the engine.
        progress: stages `films` and `predictions`.

    Raises:
        DataError: no film could be read.
        BundleError: as of `Predictor`.
    """
    films = find_films(data) if data.is_dir() else tuple(record.path for record in list_images(data).records)
    if not films:
        raise DataError(f"{data} holds no films. Expected PNG, JPEG, TIFF or DICOM files.")
    predictor = Predictor.load(bundle, batch_size=batch_size)
    readable = [path for path in _evenly(films, sample) if _is_readable(path)]
    if not readable:
        raise DataError(f"None of the films of {data} that were tried could be read.")
    settings = predictor.card.preprocessing
    decode_s = _time_reading([(path, None) for path in readable], settings, progress)
    worker = Timed()
    answers = 0
    for number, prediction in enumerate(predictor.predict_many(readable, pool=worker), start=1):
        answers += len(json.dumps(prediction.to_dict(), ensure_ascii=False).encode()) + 1
        if progress is not None:
            progress("predictions", number, len(readable))
    count = len(readable)
    pace = Pace(
        audit_s=0.0,
        decode_s=decode_s,
        reads=1.0,
        view_s=max(0.0, worker.seconds / count - decode_s),
        views=1.0,
        film_bytes=sum(path.stat().st_size for path in readable) / count,
        feature_bytes=0.0,
        scratch_bytes=0.0,
        answer_bytes=answers / count,
    )
    name = str(predictor.card.backbone.get("name", "a network"))
    return Measured(pace, count, f"{name}, bundle {predictor.card.name}, {predictor.session.precision}")


def _time_reading(
    films: Sequence[tuple[Path, str | None]], settings: Preprocessing, progress: Progress | None
) -> float:
    """Return the seconds that reading and preparing a film take, the mean of them."""
    start = time.perf_counter()
    for number, (path, content) in enumerate(films, start=1):
        if content is None:
            prepare(read(path), settings)
        else:
            read_fitted(path, content, settings)
        if progress is not None:
            progress("films", number, len(films))
    return (time.perf_counter() - start) / len(films)


def _is_readable(path: Path) -> bool:
    try:
        read(path)
    except InputError:
        return False
    return True


def _held_back(listing: Listing, recipe: Recipe) -> float:
    """Return the share of films that do not train: by the source's own parts, or by the recipe's."""
    parts = [record.split for record in listing.records]
    if None in parts or Split.TRAIN not in parts:
        return recipe.data.validation + recipe.data.test
    divided = split(
        listing, validation=recipe.data.validation, test=recipe.data.test, rng=np.random.default_rng(recipe.data.seed)
    )
    return sum(record.split is not Split.TRAIN for record in divided.records) / len(divided)


def _evenly(things: Sequence[T], most: int) -> tuple[T, ...]:
    """Return at most so many, evenly over all of them."""
    if len(things) <= most:
        return tuple(things)
    return tuple(things[index] for index in np.linspace(0, len(things) - 1, most).astype(int))
