"""The films that a report probes a model with: a sample by patient, at the network's input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from rentgen.data.findings import align
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, InputError
from rentgen.images.prepare import fit, to_uint8
from rentgen.images.read import read
from rentgen.parallel.local import imap
from rentgen.records import Float64, ImageRecord, Int64, Listing, Progress, Task, UInt8, strata, truth_of

SIZE = ("height", "width", "bytes")
"""What is known of a film before it is opened; `Films.native` may hold them."""


@dataclass(frozen=True, slots=True, eq=False)
class Films:
    """Films with their truth.

    Attributes:
        fitted: (n, height, width) uint8, at the network's input size, not yet smoothed.
        labels: (n,) indices of the true classes, or (n, k) of several findings.
        patients: whom each shows.
        native: `height`, `width` (pixels) and `bytes` of the films as they were stored, each (n,); empty where unknown.
    """

    fitted: UInt8 = field(repr=False)
    labels: Int64 = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    native: Mapping[str, Float64] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.fitted.ndim != 3 or self.fitted.dtype != np.uint8:
            raise ValueError(
                f"Expected films (n, height, width) of uint8, but got {self.fitted.dtype} {self.fitted.shape}."
            )
        counts = {"labels": len(self.labels), "patients": len(self.patients)}
        counts |= {name: len(values) for name, values in self.native.items()}
        for name, count in counts.items():
            if count != len(self.fitted):
                raise ValueError(f"Expected {name} for each of {len(self.fitted)} films, but got {count}.")
        if not len(self.fitted):
            raise DataError("Expected at least one film to probe the model with, but got none.")

    def __len__(self) -> int:
        return len(self.fitted)

    def take(self, rows: Int64) -> Self:
        """Return some of the films, by index."""
        return type(self)(
            self.fitted[rows],
            self.labels[rows],
            tuple(self.patients[row] for row in rows),
            {name: values[rows] for name, values in self.native.items()},
        )

    def sample(self, limit: int, rng: np.random.Generator) -> Self:
        """Return at most `limit` films, whole patients, of each class in turn."""
        return self.take(choose(strata(self.labels).tolist(), self.patients, limit, rng))


def choose(labels: Sequence[object], patients: Sequence[str], limit: int, rng: np.random.Generator) -> Int64:
    """Return the rising indices of a sample: whole patients, of each class in turn, until the limit is reached.

    Args:
        labels: one for each film.
        patients: one for each film.
        limit: films at most; the first patient of each class is taken even where that is more.
        rng: draws the patients.
    """
    if limit < 1:
        raise ValueError(f"Expected a limit of at least 1 film, but got {limit}.")
    if len(labels) <= limit:
        return np.arange(len(labels))
    films: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        films.setdefault(patient, []).append(row)
    names = list(films)
    queues: dict[object, list[str]] = {}
    for index in rng.permutation(len(names)).tolist():
        # A patient with films of two classes stands in the queue of the first.
        queues.setdefault(labels[films[names[index]][0]], []).append(names[index])
    order = sorted(queues, key=str)
    taken: list[int] = []
    for turn in range(max(map(len, queues.values()))):
        for label in order:
            rows = films[queues[label][turn]] if turn < len(queues[label]) else []
            if turn == 0 or len(taken) + len(rows) <= limit:
                taken += rows
    return np.sort(np.array(taken, np.int64))


def load_films(
    predictor: Predictor, listing: Listing, *, limit: int, rng: np.random.Generator, progress: Progress | None = None
) -> Films:
    """Return a sample of a labelled set, read and fitted to the model's input; what cannot be read is left out.

    Args:
        predictor: of the bundle.
        listing: every film with a label that the bundle knows.
        limit: films at most.
        rng: draws the patients.
        progress: stage `films`.

    Raises:
        DataError: a film without label or with one that the bundle does not know; none could be read.
    """
    card = predictor.card
    listing = align(listing, card.classes) if card.task is Task.MULTILABEL else listing
    strangers = sum(record.label not in card.classes for record in listing.records)
    if strangers and card.task is Task.MULTICLASS:
        raise DataError(
            f"Expected a label of {', '.join(card.classes)} for every film, but {strangers} of {len(listing)} have "
            "none or another."
        )
    truth = truth_of(listing.records, card.classes, card.task)
    rows = choose(strata(truth).tolist(), [record.patient for record in listing.records], limit, rng)
    records = [listing.records[row] for row in rows]
    kept: list[tuple[ImageRecord, UInt8, tuple[float, float, float]]] = []
    for done, (record, opened) in enumerate(
        zip(records, imap(lambda one: _open(predictor, one), records), strict=True), 1
    ):
        if opened is not None:
            kept.append((record, *opened))
        if progress is not None:
            progress("films", done, len(records))
    if not kept:
        raise DataError(f"None of the {len(records)} films could be read.")
    sizes = np.array([size for _, _, size in kept], np.float64)
    return Films(
        np.stack([pixels for _, pixels, _ in kept]),
        truth_of([record for record, _, _ in kept], card.classes, card.task),
        tuple(record.patient for record, _, _ in kept),
        {name: sizes[:, column] for column, name in enumerate(SIZE)},
    )


def _open(predictor: Predictor, record: ImageRecord) -> tuple[UInt8, tuple[float, float, float]] | None:
    try:
        film = read(record.path)
    except InputError:
        return None
    height, width = film.pixels.shape
    fitted = fit(film, predictor.card.preprocessing).pixels
    return to_uint8(fitted), (float(height), float(width), float(record.path.stat().st_size))


GREY = ("mean", "contrast", "darkest", "dark", "middle", "bright", "brightest", "sharpness", "border")
"""Columns of `grey_numbers`."""


def grey_numbers(fitted: UInt8) -> Float64:
    """Return numbers that any film has, whatever it shows, one row a film and one column for each name in `GREY`.

    Mean, standard deviation and the 1st, 10th, 50th, 90th and 99th percentile of the grey levels; the mean difference
    of neighbouring pixels by the standard deviation; the mean grey of the outer tenth.
    """
    rows = []
    for image in fitted:
        values = image.astype(np.float32)
        spread = float(values.std())
        steps = float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean()) / 2
        tall, wide = (max(1, side // 10) for side in image.shape)
        rim = np.ones(image.shape, np.bool_)
        rim[tall:-tall, wide:-wide] = False
        percentiles = np.percentile(values, (1, 10, 50, 90, 99)).tolist()
        rows.append([float(values.mean()), spread, *percentiles, steps / max(spread, 1.0), float(values[rim].mean())])
    return np.array(rows, np.float64)
