"""How a model bears worse films, and films of another make: the same metrics under each corruption, and by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rentgen.engine.predictor import Predictor
from rentgen.evaluate.films import GREY, Films, grey_numbers
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.measure import Measure, measuring
from rentgen.images.corrupt import CORRUPTIONS, corrupt
from rentgen.parallel.local import imap
from rentgen.records import Card, Float64, Int64, Interval, Progress, UInt8

LIMIT = 400
"""Films corrupted, at most: each is run once for each corruption."""
GROUPS = 4
"""Groups of films that look as if they were made alike."""
NONE = "none"
"""The films as they are."""
MEASURED = ("accuracy", "auroc", "ece")
WORDS: Mapping[str, tuple[str, str]] = {
    "height": ("shorter", "taller"),
    "width": ("narrower", "wider"),
    "bytes": ("smaller files", "larger files"),
    "mean": ("darker", "brighter"),
    "contrast": ("flat contrast", "strong contrast"),
    "middle": ("dark middle tones", "bright middle tones"),
    "sharpness": ("soft", "sharp or noisy"),
    "border": ("dark borders", "bright borders"),
}
"""What a group is named by, below and above the set's mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured on one kind of film.

    Attributes:
        name: of the corruption, `none`, or of the group in words.
        n: films.
        patients: distinct ones among them.
        metrics: `accuracy`, `auroc` (of the positive class, or macro) and `ece`.
    """

    name: str
    n: int
    patients: int
    metrics: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"name": self.name, "n": self.n, "patients": self.patients} | {
            name: interval.to_dict() for name, interval in self.metrics.items()
        }


@dataclass(frozen=True, slots=True)
class Robustness:
    """What stress told.

    Attributes:
        n: films corrupted.
        patients: distinct ones among them.
        resamples: of the patients, behind the intervals.
        rows: `none` first, then each corruption.
        mean: over the corruptions, `none` left out, each resample taken as a whole.
        worst: the corruption with the lowest AUROC (the lowest accuracy, where that is the same or there is none).
        groups: of films that look as if they were made alike, the largest first.
    """

    n: int
    patients: int
    resamples: int
    rows: tuple[Row, ...]
    mean: Mapping[str, Interval]
    worst: str
    groups: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "n": self.n,
            "patients": self.patients,
            "resamples": self.resamples,
            "rows": [row.to_dict() for row in self.rows],
            "mean": {name: interval.to_dict() for name, interval in self.mean.items()},
            "worst": self.worst,
            "groups": [row.to_dict() for row in self.groups],
        }


def stress_report(
    predictor: Predictor,
    films: Films,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> Robustness:
    """Return what a model does on worse films, and on groups of films that were made alike.

    Args:
        predictor: of the bundle.
        films: with their truth; `evaluate.films.load_films` reads them.
        rng: of the sample, the corruptions, the groups and the bootstrap.
        resamples: of the patients.
        limit: films, at most.
        progress: stage `stress`, corruptions done, corruptions in all.
    """
    films = films.sample(limit, rng)
    seed = int(rng.integers(2**62))
    kinds = (NONE, *CORRUPTIONS)
    told: dict[str, Float64] = {}
    for done, kind in enumerate(kinds, 1):
        worse = films.fitted if kind == NONE else _corrupted(films, kind, seed)
        told[kind] = predictor.probabilities(predictor.run(worse)["logits"])
        if progress is not None:
            progress("stress", done, len(kinds), kind)
    card = predictor.card
    cases = [_measuring(card, told[kind], films.labels) for kind in kinds]

    def statistic(weights: Float64) -> Float64:
        values = np.stack([_measure(case, weights) for case in cases], axis=1)  # (resamples, kinds, measured)
        return np.concatenate((values.reshape(len(weights), -1), values[:, 1:].mean(axis=1)), axis=1)

    found = bootstrap(statistic, films.patients, rng=rng, resamples=resamples)
    step = len(MEASURED)
    patients = len(set(films.patients))
    rows = tuple(
        Row(kind, len(films), patients, dict(zip(MEASURED, found[index * step : (index + 1) * step], strict=True)))
        for index, kind in enumerate(kinds)
    )
    ranked = "accuracy" if np.isnan(rows[0].metrics["auroc"].value) else "auroc"
    return Robustness(
        n=len(films),
        patients=patients,
        resamples=resamples,
        rows=rows,
        mean=dict(zip(MEASURED, found[-step:], strict=True)),
        worst=min(rows[1:], key=lambda row: (row.metrics[ranked].value, row.metrics["accuracy"].value)).name,
        groups=_group_rows(films, told[NONE], card, rng, resamples),
    )


def _corrupted(films: Films, kind: str, seed: int) -> UInt8:
    numbered = list(enumerate(films.fitted))
    return np.stack(list(imap(lambda one: corrupt(one[1], kind, np.random.default_rng((seed, one[0]))), numbered)))


def _measuring(card: Card, told: Float64, truth: Int64) -> Measure:
    return measuring(told, truth, card.classes, card.positive, card.operating_points)


def _measure(measured: Measure, weights: Float64) -> Float64:
    metrics, _ = measured(weights)
    return np.stack([metrics[name] for name in MEASURED], axis=1)


def _group_rows(films: Films, told: Float64, card: Card, rng: np.random.Generator, resamples: int) -> tuple[Row, ...]:
    """Return the metrics of each group of films that look as if they were made alike."""
    numbers, names = _make(films)
    spread = numbers.std(axis=0)
    scaled = (numbers - numbers.mean(axis=0)) / np.where(spread > 1e-9, spread, 1)
    groups = cluster(scaled, GROUPS, rng)
    rows: list[Row] = []
    for group in sorted(np.unique(groups).tolist(), key=lambda group: -int((groups == group).sum())):
        members = np.flatnonzero(groups == group)
        part = films.take(members)
        statistic = partial(_measure, _measuring(card, told[members], part.labels))
        found = bootstrap(statistic, part.patients, rng=rng, resamples=resamples)
        name = f"{chr(ord('A') + len(rows))}: {_words(scaled[members].mean(axis=0), names, part)}"
        rows.append(Row(name, len(part), len(set(part.patients)), dict(zip(MEASURED, found, strict=True))))
    return tuple(rows)


def _make(films: Films) -> tuple[Float64, tuple[str, ...]]:
    """Return numbers (n, columns) that tell how a film was made, and their names; sizes by their logarithm."""
    grey = grey_numbers(films.fitted)
    chosen = [name for name in GREY if name in WORDS]
    columns = [grey[:, GREY.index(name)] for name in chosen]
    sizes = [name for name in films.native if name in WORDS]
    columns += [np.log(np.maximum(films.native[name], 1)) for name in sizes]
    return np.column_stack(columns), (*chosen, *sizes)


def _words(middle: Float64, names: tuple[str, ...], part: Films) -> str:
    """Return what sets a group apart, as `darker, soft, about 1,320 by 1,040 pixels`."""
    order = np.argsort(-np.abs(middle), kind="stable")
    told = [WORDS[names[index]][int(middle[index] > 0)] for index in order[:2] if abs(middle[index]) >= 0.3]
    words = ", ".join(told) or "ordinary"
    if {"height", "width"} <= set(part.native):
        wide, tall = (float(np.median(part.native[name])) for name in ("width", "height"))
        words += f", about {wide:,.0f} by {tall:,.0f} pixels"
    return words


def cluster(values: Float64, count: int, rng: np.random.Generator, *, rounds: int = 50) -> Int64:
    """Return the group (n,) of each row by k-means, the first middles chosen far apart (k-means++).

    Args:
        values: (n, columns), each column on a like scale.
        count: groups at most; fewer where rows are alike.
        rng: of the first middles.
        rounds: at most.

    Source: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    middles = values[rng.integers(len(values))][None]
    while len(middles) < count:
        far = ((values[:, None] - middles) ** 2).sum(axis=2).min(axis=1)
        if far.sum() <= 1e-12:
            break
        middles = np.concatenate((middles, values[rng.choice(len(values), p=far / far.sum())][None]))
    groups = np.full(len(values), -1)
    for _ in range(rounds):
        nearest = ((values[:, None] - middles) ** 2).sum(axis=2).argmin(axis=1)
        if (nearest == groups).all():
            break
        groups = nearest
        middles = np.stack(
            [
                values[groups == number].mean(axis=0) if (groups == number).any() else middle
                for number, middle in enumerate(middles)
            ]
        )
    return groups.astype(np.int64)
