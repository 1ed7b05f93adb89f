"""May one bundle take the place of another? Both on the same films: what moved, and whether what was promised holds.

An upgrade passes when, at each operating point of the old bundle, the new one's point of the same name falls below the
old interval neither in sensitivity nor in specificity, and no class is ranked worse beyond chance. What could not be
measured has not passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.judge import Judgement, judge
from rentgen.evaluate.metrics import operating_rates, operating_table, place_intervals
from rentgen.evaluate.paired import Decided, decide, delong_p, mcnemar_p, score_map
from rentgen.evaluate.points import PointChange, Verdict, judge_point
from rentgen.evaluate.ranks import spearman
from rentgen.evaluate.several import area_of, rank_known
from rentgen.evaluate.weighted import divide
from rentgen.records import (
    UNKNOWN,
    Card,
    Curve,
    Evaluation,
    Float64,
    Int64,
    Interval,
    Leak,
    Listing,
    OperatingPoint,
    Progress,
    Status,
    one_against_rest,
    truth_of,
)


@dataclass(frozen=True, slots=True)
class AreaChange:
    """The area under one class's ROC curve, of both bundles.

    Attributes:
        old: with interval.
        new: likewise.
        difference: new minus old, over the same resamples of the patients.
        delong_p: two-sided p of no difference by DeLong's test, which takes films for independent; nan where undefined.
    """

    old: Interval
    new: Interval
    difference: Interval
    delong_p: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "old": self.old.to_dict(),
            "new": self.new.to_dict(),
            "difference": self.difference.to_dict(),
            "delong_p": None if math.isnan(self.delong_p) else self.delong_p,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What changes when one bundle takes the place of another.

    Attributes:
        old_id: of the old bundle; empty where it was not written.
        new_id: of the new one.
        classes: in the old bundle's order.
        n: films that both could read.
        patients: distinct patients among them.
        agreement: share of the films to which both give the same class; of several findings, of all pairs of film and
            finding that both call alike.
        only_old: films that only the old bundle gets right; of several findings, pairs of film and known finding.
        only_new: likewise, that only the new bundle gets right.
        mcnemar_p: two-sided exact p of these two being equally likely; takes films for independent; nan of several
            findings.
        spearman: class to rank correlation of the two scores; nan where one of them is constant.
        score_map: class to the table from old scores (x) to new ones (y) of the same rank (equal percentiles): a
            threshold moved along it calls as many films positive as before.
        auroc: class to areas; of the positive class of two, of each of three or more, or of each finding.
        points: one for each operating point of the old bundle.
        old_accuracy: on these films.
        new_accuracy: likewise.
        old_statuses: status to number of films.
        new_statuses: likewise.
        old_leak: what the films share with the making of the old bundle.
        new_leak: likewise; a bundle that knows the films is flattered by them.
        failed: path to reason of films that one of them could not read.
        resamples: bootstrap resamples of patients.
    """

    old_id: str
    new_id: str
    classes: tuple[str, ...]
    n: int
    patients: int
    agreement: Interval
    only_old: int
    only_new: int
    mcnemar_p: float
    spearman: Mapping[str, float]
    score_map: Mapping[str, Curve]
    auroc: Mapping[str, AreaChange]
    points: tuple[PointChange, ...]
    old_accuracy: Interval
    new_accuracy: Interval
    old_statuses: Mapping[str, int]
    new_statuses: Mapping[str, int]
    old_leak: Leak | None
    new_leak: Leak | None
    failed: Mapping[str, str] = field(default_factory=dict)
    resamples: int = RESAMPLES

    @property
    def passed(self) -> bool:
        """Whether the new bundle may take the old one's place: every point holds and no class is ranked worse.

        Neither can be said of what could not be measured.
        """
        held = all(point.verdict is Verdict.HOLDS for point in self.points)
        return held and bool(self.auroc) and all(change.difference.high >= 0 for change in self.auroc.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the documented JSON object: `passed`, and all else above."""
        return {
            "passed": self.passed,
            "old_id": self.old_id,
            "new_id": self.new_id,
            "classes": list(self.classes),
            "n": self.n,
            "patients": self.patients,
            "agreement": self.agreement.to_dict(),
            "only_old": self.only_old,
            "only_new": self.only_new,
            "mcnemar_p": None if math.isnan(self.mcnemar_p) else self.mcnemar_p,
            "spearman": {label: None if math.isnan(rho) else rho for label, rho in self.spearman.items()},
            "score_map": {label: curve.to_dict() for label, curve in self.score_map.items()},
            "auroc": {label: change.to_dict() for label, change in self.auroc.items()},
            "points": [point.to_dict() for point in self.points],
            "old_accuracy": self.old_accuracy.to_dict(),
            "new_accuracy": self.new_accuracy.to_dict(),
            "old_statuses": dict(self.old_statuses),
            "new_statuses": dict(self.new_statuses),
            "old_leak": None if self.old_leak is None else self.old_leak.to_dict(),
            "new_leak": None if self.new_leak is None else self.new_leak.to_dict(),
            "failed": dict(self.failed),
            "resamples": self.resamples,
        }


def compare(
    old: Predictor,
    new: Predictor,
    listing: Listing,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
) -> Comparison:
    """Return what changes when one bundle takes the place of another, measured on the same labelled films.

    Films that one of the two cannot read are listed and not counted; films that a gate doubts are counted.

    Args:
        old: the bundle in use.
        new: the one that may take its place; with the same classes, in any order.
        listing: films with labels, best of the place where they work, none of which made either of them.
        seed: of the bootstrap.
        resamples: of the patients; 0 leaves every point unmeasured.
        progress: stage `predictions`, films done, films in all; first of the old bundle, then of the new one.

    Raises:
        DataError: the bundles have other classes, a film has no label or an unknown one, or none could be read.
    """
    classes = old.card.classes
    if set(classes) != set(new.card.classes):
        raise DataError(
            f"Expected two bundles with the same classes, but the old one has {', '.join(classes)} and the new one "
            f"{', '.join(new.card.classes)}. Scores of different questions cannot be compared."
        )
    if old.card.task is not new.card.task:
        raise DataError(
            "Expected two bundles that answer the same question, but one gives each film one class and the other "
            "several findings. Evaluate both on the same films: `rentgen evaluate`."
        )
    judged = [judge(bundle, listing, resamples=0, gallery=0, progress=progress) for bundle in (old, new)]
    failed = {path: reason for judgement in judged for path, reason in judgement.evaluation.failed.items()}
    kept = [
        place
        for place in range(len(listing))
        if all(judgement.predictions[place].status is not Status.ERROR for judgement in judged)
    ]
    before, after = (_scores(judgement, kept, classes) for judgement in judged)
    records = [judged[0].records[place] for place in kept]
    truth = truth_of(records, classes, old.card.task)
    patients = [record.patient for record in records]
    # What the positive class is called is the old bundle's to say.
    asked = classes if old.card.positive is None else (old.card.positive,)
    decided = Decided.of(decide(before, old.card, classes), decide(after, new.card, classes), truth)
    measured = _measure(
        before, after, truth, decided, classes, asked, _pairs(old.card, new.card), patients, seed, resamples
    )
    evaluations: list[Evaluation] = [judgement.evaluation for judgement in judged]
    return Comparison(
        old_id=old.bundle.bundle_id,
        new_id=new.bundle.bundle_id,
        classes=classes,
        n=len(truth),
        patients=len(set(patients)),
        agreement=measured.agreement,
        only_old=decided.only_old,
        only_new=decided.only_new,
        # Findings of one film are not independent of each other.
        mcnemar_p=mcnemar_p(decided.only_old, decided.only_new) if truth.ndim == 1 else math.nan,
        spearman={label: spearman(before[:, i], after[:, i]) for i, label in enumerate(classes)},
        score_map={label: score_map(before[:, i], after[:, i]) for i, label in enumerate(classes)},
        auroc=measured.areas,
        points=measured.points,
        old_accuracy=measured.accuracies[0],
        new_accuracy=measured.accuracies[1],
        old_statuses=evaluations[0].statuses,
        new_statuses=evaluations[1].statuses,
        old_leak=evaluations[0].leak,
        new_leak=evaluations[1].leak,
        failed=failed,
        resamples=resamples,
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one pass over the resamples brings."""

    agreement: Interval
    accuracies: tuple[Interval, Interval]
    areas: Mapping[str, AreaChange]
    points: tuple[PointChange, ...]


def _scores(judgement: Judgement, kept: Sequence[int], classes: Sequence[str]) -> Float64:
    """Return probabilities (n, k) of the films that count, in the order of the classes given."""
    chosen = [judgement.predictions[place] for place in kept]
    return np.array([[item.probabilities[label] for label in classes] for item in chosen])


def _pairs(old: Card, new: Card) -> list[tuple[OperatingPoint, OperatingPoint | None]]:
    """Return each operating point of the old card with the new one's of the same name and class."""
    named = {(point.name, point.label): point for point in new.operating_points}
    return [(point, named.get((point.name, point.label))) for point in old.operating_points]


def _measure(
    before: Float64,
    after: Float64,
    truth: Int64,
    decided: Decided,
    classes: Sequence[str],
    asked: Sequence[str],
    pairs: Sequence[tuple[OperatingPoint, OperatingPoint | None]],
    patients: Sequence[str],
    seed: int,
    resamples: int,
) -> _Measured:
    """Return everything that has an interval, over the same resamples."""
    olds = [old for old, _ in pairs]
    news = [new for _, new in pairs if new is not None]
    empty = np.empty((len(truth), 0))
    tables = [
        operating_table(points, scores, truth, classes) if points else empty
        for points, scores in ((olds, before), (news, after))
    ]
    numbers = [classes.index(label) for label in asked]
    against = one_against_rest(truth, len(classes))
    rankings = [[rank_known(scores[:, i], against[:, i]) for i in numbers] for scores in (before, after)]

    def statistic(weights: Float64) -> Float64:
        areas = [np.column_stack([area_of(ranking, weights) for ranking in rows]) for rows in rankings]
        rates = [operating_rates(table, weights) for table in tables]
        shares = divide(weights @ decided.alike, weights @ decided.asked)
        return np.hstack((shares, *areas, areas[1] - areas[0], *rates))

    found = bootstrap(statistic, patients, rng=np.random.default_rng(seed), resamples=resamples)
    agreement, *accuracies = found[:3]
    width = len(asked)
    places = found[3 + 3 * width :]
    measured_olds = place_intervals(olds, places)
    measured_news = iter(place_intervals(news, places[2 * len(olds) :]))
    trials = _trials(against, patients, classes)
    return _Measured(
        agreement=agreement,
        accuracies=(accuracies[0], accuracies[1]),
        areas={
            label: AreaChange(
                found[3 + i],
                found[3 + width + i],
                found[3 + 2 * width + i],
                _delong_known(before[:, number], after[:, number], against[:, number]),
            )
            for i, (label, number) in enumerate(zip(asked, numbers, strict=True))
        },
        points=tuple(
            judge_point(promised, old, None if new is None else next(measured_news), trials[old.label])
            for (promised, new), old in zip(pairs, measured_olds, strict=True)
        ),
    )


def _delong_known(before: Float64, after: Float64, truth: Int64) -> float:
    """Return DeLong's p on the films (n,) of which the class is known."""
    known = truth != UNKNOWN
    return delong_p(before[known], after[known], truth[known] == 1)


def _trials(against: Int64, patients: Sequence[str], classes: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return for each class how many patients have films of it, and how many have others."""
    names: npt.NDArray[np.str_] = np.array(list(patients), dtype=str)
    return {
        label: (len(np.unique(names[against[:, i] == 1])), len(np.unique(names[against[:, i] == 0])))
        for i, label in enumerate(classes)
    }
