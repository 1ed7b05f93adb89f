"""Does the model look where a radiologist would? Its AUROC with parts of the films hidden, and where its maps lie.

A model that has learned the scanner, the marker or the table scores as well as one that has learned the disease, on
films from the same place (Zech et al. 2018; DeGrave, Janizek and Lee 2021). Hiding tells them apart: without the thorax
a model should know little, and with nothing else it should know nearly all it knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from rentgen.data.split import patient_folds
from rentgen.engine.predictor import Predictor
from rentgen.evaluate.films import Films, grey_numbers
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.weighted import Ranking, mean_of_measured, weighted_auroc
from rentgen.images.hide import frame, hide
from rentgen.images.overlay import encode_png
from rentgen.images.thorax import find_thorax
from rentgen.parallel.local import imap
from rentgen.records import UNKNOWN, Float32, Float64, Int64, Interval, Progress, UInt8, one_against_rest

LIMIT = 400
"""Films probed, at most."""
HIDDEN = 0.75
"""AUROC below which a model without the thorax knows little: less than half of what a perfect one knows. Films differ
outside of it for honest reasons, too (posture, tubes, age), so that 0.5 cannot be asked for."""
FALL = 0.1
"""By how much the AUROC must fall at least: a model that was never good must not pass for that."""
ABLE = 0.5 + FALL
"""AUROC from which on hiding can tell anything: a model that knows nothing has no shortcut to lose."""
KEPT = 0.75
"""Share of the way from 0.5 that the thorax alone must keep. A hidden background is strange to a network, which costs
something whatever it has learned; more than a quarter means that it was used."""
BORDER = 0.02
"""By how much hiding the outer frame may move the AUROC: no diagnosis stands in it, but markers and collimation do."""
FRAME = 0.08
"""Part of each side that is hidden as border: where markers, dates and collimator edges mostly lie."""
OUTSIDE = 0.4
"""Share of the heat that may lie outside of the thorax on average. Maps are coarse (7 by 7 places, as a rule), so that
heat at the chest wall spills over; a map without any aim would have the outside's share of the film, about a half."""
BLIND = 0.8
"""AUROC that size and grey levels alone may reach: the audit's limit for one such number. From there on, the set lets a
model score well without seeing disease."""
FOLDS = 5
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """One question and what the films answered.

    Attributes:
        name: `as they are`, `thorax hidden`, `only the thorax`, `borders hidden`, `size and grey levels`,
            `grey levels`, `heat outside the thorax` or `heat outside the thorax, 90th percentile`.
        about: `model`, or `set`: what the films themselves make possible, whatever the model does.
        measure: `auroc`, or `share` (of the heat).
        found: what was measured.
        limit: in words; empty where there is none.
        passes: None where there is no limit, or it could not be measured.
        meaning: one sentence.
    """

    name: str
    about: str
    measure: str
    found: Interval
    limit: str
    passes: bool | None
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "about": self.about,
            "measure": self.measure,
            **self.found.to_dict(),
            "limit": self.limit,
            "passes": self.passes,
            "meaning": self.meaning,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A film as the probes showed it to the model, each a PNG.

    Attributes:
        label: its class.
        probabilities: of that class, for the three pictures.
        film_png: as it is.
        hidden_png: with the thorax hidden.
        only_png: with nothing but the thorax.
    """

    label: str
    probabilities: tuple[float, float, float]
    film_png: bytes = field(repr=False)
    hidden_png: bytes = field(repr=False)
    only_png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Shortcuts:
    """What hiding told.

    Attributes:
        n: films probed.
        patients: distinct ones among them.
        resamples: of the patients, behind the intervals.
        thorax_found: share of the films where both lungs were seen; elsewhere an ordinary place was taken.
        maps: films whose heat map has any heat; the others do not count in the shares.
        probes: the answers.
        passed: whether the model passes all that is about it; None where it knows too little to be judged, or the films
            are of one class.
        examples: films as they were shown; not in the plain values, which may travel further than films may.
    """

    n: int
    patients: int
    resamples: int
    thorax_found: float
    maps: int
    probes: tuple[Probe, ...]
    passed: bool | None
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without pictures."""
        return {
            "n": self.n,
            "patients": self.patients,
            "resamples": self.resamples,
            "thorax_found": self.thorax_found,
            "maps": self.maps,
            "passed": self.passed,
            "probes": [probe.to_dict() for probe in self.probes],
        }


def shortcut_report(
    predictor: Predictor,
    films: Films,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> Shortcuts:
    """Return how far a model's answers hang on what is not disease.

    Args:
        predictor: of the bundle.
        films: with their truth; `evaluate.films.load_films` reads them.
        rng: of the sample, the folds and the bootstrap.
        resamples: of the patients.
        limit: films probed, at most.
        progress: stage `shortcuts`, steps done, steps in all.
    """
    films = films.sample(limit, rng)
    tell = _teller(progress, 6)
    thoraxes = list(imap(find_thorax, films.fitted))
    tell()
    height, width = films.fitted.shape[1:]
    rim = frame((height, width), FRAME)
    pairs = list(zip(films.fitted, thoraxes, strict=True))
    views: dict[str, UInt8] = {
        "as they are": films.fitted,
        "thorax hidden": np.stack(list(imap(lambda pair: hide(pair[0], pair[1].mask), pairs))),
        "only the thorax": np.stack(list(imap(lambda pair: hide(pair[0], ~pair[1].mask), pairs))),
        "borders hidden": np.stack(list(imap(lambda film: hide(film, rim), films.fitted))),
    }
    told: dict[str, Float64] = {}
    maps: Float32 = np.empty(0, np.float32)
    for name, view in views.items():
        answers = predictor.run(view, ("logits", "activation_maps") if name == "as they are" else ("logits",))
        told[name] = predictor.probabilities(answers["logits"])
        maps = answers.get("activation_maps", maps)
        tell()
    blind = _blind(films, len(predictor.card.classes), rng)
    areas = _areas(told | blind, films, rng, resamples)
    outside = _outside(maps, predictor.leading(told["as they are"]), np.stack([thorax.mask for thorax in thoraxes]))
    spilled = _spread(outside, films.patients, rng, resamples)
    tell()
    empty = 1 - float(np.mean([thorax.mask.mean() for thorax in thoraxes]))
    probes = (*_hidden_probes(areas), *_blind_probes(areas, blind), *_heat_probes(spilled, empty))
    verdicts = [probe.passes for probe in probes if probe.about == "model" and probe.passes is not None]
    return Shortcuts(
        n=len(films),
        patients=len(set(films.patients)),
        resamples=resamples,
        thorax_found=float(np.mean([thorax.found for thorax in thoraxes])),
        maps=int((~np.isnan(outside)).sum()),
        probes=probes,
        passed=all(verdicts) if areas["as they are"].value >= ABLE else None,
        examples=_examples(predictor, films, views, told),
    )


def _teller(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("shortcuts", done, total)

    return tell


def _areas(
    scores: Mapping[str, Float64], films: Films, rng: np.random.Generator, resamples: int
) -> dict[str, Interval]:
    """Return the macro AUROC of each set of scores (n, classes), and its fall from `as they are` as `<name>, change`.

    All are measured on the same resamples, so that a fall has an interval of its own.
    """
    rankings = {name: rank(values, films.labels) for name, values in scores.items()}

    def statistic(weights: Float64) -> Float64:
        areas = np.stack([macro_auroc(ranking, weights) for ranking in rankings.values()], axis=1)
        return np.concatenate((areas, areas - areas[:, :1]), axis=1)

    found = bootstrap(statistic, films.patients, rng=rng, resamples=resamples)
    return dict(zip((*rankings, *(f"{name}, change" for name in rankings)), found, strict=True))


def rank(scores: Float64, labels: Int64) -> tuple[Ranking, ...]:
    """Return the ranking of each class that some, but not all films have; (n, classes) scores, of any scale.

    Of several findings, the films of which one is known are ranked, by their places among all.
    """
    against = one_against_rest(labels, scores.shape[1])
    found = []
    for column, truth in zip(scores.T, against.T, strict=True):
        known = np.flatnonzero(truth != UNKNOWN)
        if 0 < (truth == 1).sum() < len(known):
            ranking = Ranking.of(column[known], truth[known] == 1)
            found.append(Ranking(known[ranking.order], ranking.positive, ranking.ends))
    return tuple(found)


def macro_auroc(rankings: tuple[Ranking, ...], weights: Float64) -> Float64:
    """Return the mean one-against-the-rest AUROC (resamples,) under each row of weights; nan without two classes."""
    if not rankings:
        return np.full(len(weights), np.nan)
    return mean_of_measured(np.stack([weighted_auroc(*one.counts(weights)) for one in rankings], axis=1))


def _blind(films: Films, classes: int, rng: np.random.Generator) -> dict[str, Float64]:
    """Return scores of small models that never see a film, each patient scored by one that did not know him."""
    grey = grey_numbers(films.fitted)
    folds = patient_folds(films.labels, films.patients, FOLDS, rng)
    scores = {"grey levels": fit_blind(grey, films.labels, folds, classes)}
    if films.native:
        sizes = np.log(np.maximum(np.column_stack(list(films.native.values())), 1))
        if {"height", "width"} <= set(films.native):
            tall, wide = (np.log(np.maximum(films.native[name], 1)) for name in ("height", "width"))
            sizes = np.column_stack((sizes, wide - tall))
        scores["size and grey levels"] = fit_blind(np.column_stack((grey, sizes)), films.labels, folds, classes)
    return scores


def fit_blind(numbers: Float64, labels: Int64, folds: Int64, classes: int, *, ridge: float = 1.0) -> Float64:
    """Return out-of-fold scores (n, classes): ridge regression on the numbers, their squares and products.

    Args:
        numbers: (n, columns).
        labels: (n,) class indices, or (n, k) of several findings; what is unknown counts as absent.
        folds: (n,); each is scored by a fit on all the others.
        classes: how many.
        ridge: penalty, relative to the number of films by a hundredth.
    """
    truth = (one_against_rest(labels, classes) == 1).astype(np.float64)
    scores: Float64 = np.zeros_like(truth)
    for fold in np.unique(folds):
        held = folds == fold
        if held.all():
            return np.full_like(truth, np.nan)
        middle, spread = numbers[~held].mean(axis=0), numbers[~held].std(axis=0) + 1e-9
        # Ranks would be safer still; a bound keeps one odd film from deciding the fit.
        plain = np.clip((numbers - middle) / spread, -3, 3)
        left, right = np.triu_indices(plain.shape[1])
        table = np.column_stack((plain, plain[:, left] * plain[:, right]))
        mean, target = table[~held].mean(axis=0), truth[~held].mean(axis=0)
        centred = table[~held] - mean
        penalty = ridge * 0.01 * len(centred) + 1.0
        gram = centred.T @ centred + penalty * np.eye(table.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (truth[~held] - target))
        scores[held] = (table[held] - mean) @ weights + target
    return scores


def _outside(maps: Float32, named: Int64, masks: np.ndarray[Any, np.dtype[np.bool_]]) -> Float64:
    """Return the share (n,) of the named class's heat that lies outside of the masks; nan where there is no heat."""
    shares = np.full(len(maps), np.nan)
    for number, (label, mask) in enumerate(zip(named, masks, strict=True)):
        heat = upsample(maps[number, label], mask.shape)
        total = float(heat.sum())
        if np.isfinite(total) and total > 0:
            shares[number] = float(heat[~mask].sum()) / total
    return shares


def upsample(heat: Float32, shape: tuple[int, ...]) -> Float32:
    """Return a coarse map (rows, columns) at a film's size, not negative."""
    painted = Image.fromarray(np.asarray(heat, np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    large: Float32 = np.maximum(np.asarray(painted, np.float32), 0)
    return large


def _spread(
    shares: Float64, patients: tuple[str, ...], rng: np.random.Generator, resamples: int
) -> tuple[Interval, Interval]:
    """Return the mean and the 90th percentile of the known shares, with intervals."""
    known = ~np.isnan(shares)
    if not known.any():
        nothing = Interval(np.nan, np.nan, np.nan)
        return nothing, nothing
    values = shares[known]
    order = np.argsort(values)

    def statistic(weights: Float64) -> Float64:
        total = weights.sum(axis=1)
        rising = np.cumsum(weights[:, order], axis=1)
        place = (rising < 0.9 * total[:, None]).sum(axis=1)
        return np.column_stack((weights @ values / total, values[order][np.minimum(place, len(values) - 1)]))

    of = [patient for patient, is_known in zip(patients, known, strict=True) if is_known]
    mean, high = bootstrap(statistic, of, rng=rng, resamples=resamples)
    return mean, high


def _judge(value: float, fine: bool) -> bool | None:
    return None if np.isnan(value) else bool(fine)


def _hidden_probes(areas: Mapping[str, Interval]) -> tuple[Probe, ...]:
    base, hidden = areas["as they are"].value, areas["thorax hidden"].value
    only, moved = areas["only the thorax"].value, areas["borders hidden, change"].value
    kept = 0.5 + KEPT * (base - 0.5)
    ceiling = min(HIDDEN, base - FALL)
    limits = (f"below {ceiling:.2f}", f"at least {kept:.2f}", f"moved by less than {BORDER:.2f}")
    verdicts: tuple[bool | None, ...] = (hidden < ceiling, only >= kept, abs(moved) < BORDER)
    # Also where it is not a number.
    if not base >= ABLE:
        limits, verdicts = ("", "", ""), (None, None, None)
    return (
        Probe(
            "as they are", "model", "auroc", areas["as they are"], "", None,
            "What the model reaches on these films; the next three are measured against it.",
        ),
        Probe(
            "thorax hidden", "model", "auroc", areas["thorax hidden"], limits[0], verdicts[0],
            "Without lungs and heart there is no disease to see: what it still knows, it knows from something else.",
        ),
        Probe(
            "only the thorax", "model", "auroc", areas["only the thorax"], limits[1], verdicts[1],
            "With all else hidden, it should know nearly all that it knew; what it lost came from outside.",
        ),
        Probe(
            "borders hidden", "model", "auroc", areas["borders hidden"], limits[2], verdicts[2],
            "Markers, dates and collimator edges lie in the outer frame; without it, nothing should change.",
        ),
    )  # fmt: skip


def _blind_probes(areas: Mapping[str, Interval], blind: Mapping[str, Float64]) -> tuple[Probe, ...]:
    meanings = {
        "size and grey levels": "What a small model reaches that knows the file's size and the grey levels, and never "
        "sees a film: so much a model could score on this set without seeing disease.",
        "grey levels": "The same without the size, which a film at the network's input has lost.",
    }
    return tuple(
        Probe(
            name, "set", "auroc", areas[name], f"below {BLIND:.2f}",
            _judge(areas[name].value, areas[name].value < BLIND), meaning,
        )
        for name, meaning in meanings.items()
        if name in blind
    )  # fmt: skip


def _heat_probes(spilled: tuple[Interval, Interval], empty: float) -> tuple[Probe, ...]:
    mean, high = spilled
    return (
        Probe(
            "heat outside the thorax", "model", "share", mean, f"below {OUTSIDE:.2f}",
            _judge(mean.value, mean.value < OUTSIDE),
            f"Where the evidence for the named class lies; a map without aim would have {empty:.2f} outside.",
        ),
        Probe(
            "heat outside the thorax, 90th percentile", "model", "share", high, "", None,
            "One film in ten has more than this share of its heat outside.",
        ),
    )  # fmt: skip


def _examples(
    predictor: Predictor, films: Films, views: Mapping[str, UInt8], told: Mapping[str, Float64]
) -> tuple[Example, ...]:
    """Return one film of each class, of those that the model was neither surest nor least sure of."""
    names = ("as they are", "thorax hidden", "only the thorax")
    against = one_against_rest(films.labels, len(predictor.card.classes))
    chosen = []
    for number, label in enumerate(predictor.card.classes):
        rows = np.flatnonzero(against[:, number] == 1)
        if len(rows):
            row = int(rows[np.argsort(told["as they are"][rows, number], kind="stable")[len(rows) // 2]])
            sure = tuple(float(told[name][row, number]) for name in names)
            pictures = [encode_png(views[name][row]) for name in names]
            chosen.append(Example(label, (sure[0], sure[1], sure[2]), *pictures))
    return tuple(chosen[:EXAMPLES])
