"""What heat maps are worth: does the model's answer fall when the hot places go, and did training make them?

Deletion and insertion after Petsiuk, Das and Saenko, RISE, BMVC 2018; shuffled weights after Adebayo et al., Sanity
checks for saliency maps, NeurIPS 2018. A map that does no better than one drawn by chance, or than pointing to the
middle each time, tells nothing of the film; one that stays the same when the weights are shuffled tells nothing of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from rentgen.engine.predictor import Predictor
from rentgen.engine.session import Session
from rentgen.evaluate.films import Films
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.ranks import spearman
from rentgen.evaluate.shortcuts import upsample
from rentgen.images.hide import blurred
from rentgen.images.prepare import smooth
from rentgen.records import Float32, Float64, Int64, Interval, Progress, UInt8

LIMIT = 100
"""Films graded, at most: each is run some fifty times."""
STEPS = 10
"""Steps from the whole film to the blurred one."""
BLUR = 1 / 10
"""Standard deviation of the blur that stands for nothing, relative to the film's longer side."""
ALIKE = 0.5
"""Similarity of the maps before and after the weights are shuffled that is not allowed: Adebayo et al. find near to 0
for maps that follow the model, and 0.5 or more for those that follow the film's edges."""
LEAD = 0.02
"""By how much the named class's mean probability must tell the map from a baseline: less, nobody could see."""
BASELINES = ("random", "centre")
"""Maps to compare with: chance of the same coarseness, and a bump in the middle of the film."""

Maps = Callable[[UInt8], Float32]
"""From films (n, height, width), not smoothed, to activation maps (n, classes, rows, columns)."""


class Grade(StrEnum):
    """What the maps are worth."""

    PASSED = "passed"
    """They follow the film and the model: regions may be shown."""
    WEAK = "weak"
    """Better than chance, but not than pointing to the middle each time; or not checked with shuffled weights."""
    FAILED = "failed"
    """They tell nothing that could be shown."""


@dataclass(frozen=True, slots=True, eq=False)
class HeatMapGrade:
    """The grade and what led to it.

    Attributes:
        grade: in one word.
        reasons: in sentences.
        n: films graded.
        empty: films left out, whose map is zero everywhere: as a rule, those named normal.
        patients: distinct ones among the films graded.
        scores: `map`, `random` and `centre` to `deletion` (the smaller the better) and `insertion` (the larger the
            better), the mean probability of the named class over the steps; and `ahead`: by how much the map's
            insertion less deletion is above the baseline's, on the same films.
        curves: `deletion` and `insertion` to `map`, `random` and `centre` to the mean probability at each step.
        steps: share of the film deleted or inserted at each step.
        similarity: `spearman` and `ssim` of the maps before and after the weights were shuffled; empty if not checked.
    """

    grade: Grade
    reasons: tuple[str, ...]
    n: int
    empty: int
    patients: int
    scores: Mapping[str, Mapping[str, Interval]]
    curves: Mapping[str, Mapping[str, tuple[float, ...]]]
    steps: tuple[float, ...]
    similarity: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "grade": str(self.grade),
            "reasons": list(self.reasons),
            "n": self.n,
            "empty": self.empty,
            "patients": self.patients,
            "scores": {
                name: {kind: interval.to_dict() for kind, interval in values.items()}
                for name, values in self.scores.items()
            },
            "curves": {
                kind: {name: list(values) for name, values in lines.items()} for kind, lines in self.curves.items()
            },
            "steps": list(self.steps),
            "similarity": {name: interval.to_dict() for name, interval in self.similarity.items()},
        }


def graph_maps(model: bytes, predictor: Predictor) -> Maps:
    """Return how another graph draws maps, run as the predictor runs its own: such as one with shuffled weights.

    Args:
        model: ONNX; it need not replay the bundle's golden vectors.
        predictor: gives the smoothing and the arithmetic.
    """
    session = Session(model, engine=predictor.session.engine, precision=predictor.session.precision, streams=1)
    radius = predictor.card.preprocessing.smooth_px

    def maps(fitted: UInt8) -> Float32:
        smoothed = np.stack([smooth(image, radius) for image in fitted])
        return session.run(smoothed, ("activation_maps",))["activation_maps"]

    return maps


def grade_heat_maps(
    predictor: Predictor,
    films: Films,
    *,
    rng: np.random.Generator,
    randomised: Predictor | Maps | None = None,
    resamples: int = RESAMPLES,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> HeatMapGrade:
    """Return what the maps of the class that the model names are worth.

    Args:
        predictor: of the bundle.
        films: truth is not needed, only patients; `evaluate.films.load_films` reads them.
        rng: of the sample, the random maps and the bootstrap.
        randomised: the maps of the same graph with shuffled weights (`learn.randomise`, `graph_maps`); without them the
            grade is `weak` at best.
        resamples: of the patients.
        limit: films, at most.
        progress: stage `heat maps`, films done, films in all.
    """
    films = films.sample(limit, rng)
    answers = predictor.run(films.fitted, ("logits", "activation_maps"))
    named = predictor.leading(predictor.probabilities(answers["logits"]))
    maps = _finite(answers["activation_maps"][np.arange(len(films)), named])
    warm = np.flatnonzero(maps.max(axis=(1, 2)) > 0)
    empty = len(films) - len(warm)
    if not len(warm):
        reason = f"All maps of {len(films)} films are empty: there is nothing to show."
        return HeatMapGrade(Grade.FAILED, (reason,), 0, empty, 0, {}, {}, (), {})
    part, named, maps = films.take(warm), named[warm], maps[warm]
    curves = np.stack(
        [
            _follow(predictor, film, int(label), heat, rng, progress, (number, len(part)))
            for number, (film, label, heat) in enumerate(zip(part.fitted, named, maps, strict=True), 1)
        ]
    )  # (n, deletion and insertion, map and baselines, steps)
    scores = _scores(curves, part.patients, rng, resamples)
    similarity: dict[str, Interval] = {}
    if randomised is not None:
        shuffled = _maps_of(randomised)(part.fitted)[np.arange(len(part)), named]
        similarity = _compare(maps, _finite(shuffled), part.patients, rng, resamples)
    grade, reasons = judge_maps(scores, similarity)
    lines = curves.mean(axis=0)
    return HeatMapGrade(
        grade=grade,
        reasons=reasons,
        n=len(part),
        empty=empty,
        patients=len(set(part.patients)),
        scores=scores,
        curves={
            kind: {name: tuple(lines[row, column].tolist()) for column, name in enumerate(("map", *BASELINES))}
            for row, kind in enumerate(("deletion", "insertion"))
        },
        steps=tuple((np.arange(STEPS + 1) / STEPS).tolist()),
        similarity=similarity,
    )


def _finite(maps: Float32) -> Float32:
    """Return maps without what is not a number: shuffled weights may overflow."""
    finite: Float32 = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    return finite


def _maps_of(source: Predictor | Maps) -> Maps:
    if isinstance(source, Predictor):
        return lambda fitted: source.run(fitted, ("activation_maps",))["activation_maps"]
    return source


def _follow(
    predictor: Predictor,
    film: UInt8,
    label: int,
    heat: Float32,
    rng: np.random.Generator,
    progress: Progress | None,
    done: tuple[int, int],
) -> Float64:
    """Return the probability of a class as a film is deleted and inserted, (2, 1 + baselines, steps + 1)."""
    nothing = np.rint(blurred(film.astype(np.float32), BLUR * max(film.shape))).astype(np.uint8)
    orders = [_order(one, film.shape) for one in (heat, *_baselines(heat.shape, rng))]
    counts = [round(film.size * step / STEPS) for step in range(1, STEPS)]
    pictures = [film, nothing]
    for start, end in ((film, nothing), (nothing, film)):
        for order in orders:
            for count in counts:
                picture = start.copy()
                picture.ravel()[order[:count]] = end.ravel()[order[:count]]
                pictures.append(picture)
    told = predictor.probabilities(predictor.run(np.stack(pictures))["logits"])[:, label]
    between = told[2:].reshape(2, len(orders), STEPS - 1)
    whole, gone = (np.full((1, len(orders), 1), value) for value in told[:2])
    first, last = np.concatenate((whole, gone)), np.concatenate((gone, whole))
    if progress is not None:
        progress("heat maps", *done)
    return np.concatenate((first, between, last), axis=2)


def _baselines(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Return a map by chance and one of the middle, as coarse as the model's."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) if side > 1 else np.zeros(1) for side in shape)
    middle = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2)).astype(np.float32)
    return rng.random(shape, np.float32), middle


def _order(heat: Float32, shape: tuple[int, ...]) -> Int64:
    """Return the pixels of a film, the hottest first; where a map is flat, those nearer to its heat first."""
    large = upsample(heat, shape)
    # A map that is zero over most of the film says nothing of the order there: let it fall off from what is hot.
    wide = blurred(large, 0.25 * max(shape))
    return np.argsort(-(large + 1e-3 * wide).ravel(), kind="stable").astype(np.int64)


def _scores(
    curves: Float64, patients: tuple[str, ...], rng: np.random.Generator, resamples: int
) -> dict[str, dict[str, Interval]]:
    areas = (curves[..., 1:] + curves[..., :-1]).mean(axis=3) / 2  # (n, deletion and insertion, maps)
    gain = areas[:, 1] - areas[:, 0]  # (n, maps)
    table = np.concatenate((areas[:, 0], areas[:, 1], gain[:, :1] - gain[:, 1:]), axis=1)
    found = _means(table, patients, rng, resamples)
    names = ("map", *BASELINES)
    count = len(names)
    scores = {name: {"deletion": found[index], "insertion": found[count + index]} for index, name in enumerate(names)}
    for index, name in enumerate(BASELINES):
        scores[name]["ahead"] = found[2 * count + index]
    return scores


def _means(table: Float64, patients: tuple[str, ...], rng: np.random.Generator, resamples: int) -> tuple[Interval, ...]:
    """Return the mean of each column (n, columns), with intervals."""
    return bootstrap(
        lambda weights: weights @ table / weights.sum(axis=1, keepdims=True), patients, rng=rng, resamples=resamples
    )


def _compare(
    before: Float32, after: Float32, patients: tuple[str, ...], rng: np.random.Generator, resamples: int
) -> dict[str, Interval]:
    # A map beside a flat one repeats nothing.
    table = np.array([[np.nan_to_num(spearman(a, b)), similarity(a, b)] for a, b in zip(before, after, strict=True)])
    return dict(zip(("spearman", "ssim"), _means(table, patients, rng, resamples), strict=True))


def similarity(first: Float32, second: Float32) -> float:
    """Return the structural similarity of two coarse maps over their whole, each by its own maximum.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004, equation 13.
    """
    a, b = (one.astype(np.float64) / max(float(one.max()), 1e-12) for one in (first, second))
    means, spreads = (a.mean(), b.mean()), (a.var(), b.var())
    shared = float(((a - means[0]) * (b - means[1])).mean())
    light = (2 * means[0] * means[1] + 1e-4) / (means[0] ** 2 + means[1] ** 2 + 1e-4)
    return float(light * (2 * shared + 9e-4) / (spreads[0] + spreads[1] + 9e-4))


def judge_maps(
    scores: Mapping[str, Mapping[str, Interval]], alike: Mapping[str, Interval]
) -> tuple[Grade, tuple[str, ...]]:
    """Return the grade and its reasons.

    A baseline is beaten where the lead is at least `LEAD` and its interval's lower end, if it has one, above 0.
    Failed: not better than chance, or as good as the same with shuffled weights. Weak: not better than the middle of
    the film, or never checked with shuffled weights. Passed: neither.
    """
    grade, reasons = Grade.PASSED, []
    against = {"random": "a map drawn by chance", "centre": "always pointing to the middle of the film"}
    for name, words in against.items():
        lead = scores[name]["ahead"]
        low = lead.value if np.isnan(lead.low) else lead.low
        if low > 0 and lead.value >= LEAD:
            reasons.append(f"The hot places carry the answer better than {words}: {lead} ahead.")
            continue
        reasons.append(
            f"The hot places do not carry the answer better than {words}: {lead} ahead, {LEAD:g} is asked for."
        )
        grade = Grade.FAILED if name == "random" else _worse(grade, Grade.WEAK)
    if not alike:
        reasons.append("Whether the maps follow the model's weights was not checked.")
        return _worse(grade, Grade.WEAK), tuple(reasons)
    same = max(alike.values(), key=lambda interval: interval.value)
    if same.value < ALIKE:
        reasons.append(f"With shuffled weights the maps are others: similarity {same}, below {ALIKE:g} is asked for.")
    else:
        grade = Grade.FAILED
        reasons.append(f"With shuffled weights the maps stay alike: similarity {same}, below {ALIKE:g} is asked for.")
    return grade, tuple(reasons)


def _worse(first: Grade, second: Grade) -> Grade:
    order = list(Grade)
    return max(first, second, key=order.index)
