"""Every metric as a function of weights: the one definition behind single values and the bootstrap.

A resample of the patients is a weight per image: how often its patient was drawn. All that depends on the images alone
(the order of the scores, the bins of confidence) is computed once in `Cases`; a block of resamples is then a few matrix
products and cumulative sums. With weights of one, the functions give the plain metrics.

A value that cannot be measured is nan: recall, precision, F1, AUROC and average precision of a class that no image of
the set has; specificity and AUROC of a class that all images have. Precision of a class that is present but never
predicted is 0, as in scikit-learn. Macro averages are taken over the classes that are present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from rentgen.records import Float64, Int64

BINS = 15
"""Equal-width bins of confidence in the expected calibration error."""
PER_CLASS = ("recall", "precision", "specificity", "f1", "auroc", "average_precision")
"""What is measured for each class against the rest."""

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The images sorted by falling score of one class.

    Attributes:
        order: (n,) indices of the images.
        positive: (n,) 1.0 where the image has the class, in that order.
        ends: (groups,) position of the last image of each group of equal scores.
    """

    order: Int64
    positive: Float64
    ends: Int64

    @classmethod
    def of(cls, scores: Float64, positive: Bool) -> Self:
        """Return the ranking of `scores` (n,) with `positive` (n,)."""
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(scores) - 1)
        return cls(order, positive[order].astype(np.float64), ends)

    def counts(self, weights: Float64) -> tuple[Float64, Float64]:
        """Return the weight of true and of false positives at each distinct score as a threshold.

        Args:
            weights: (resamples, n), not negative.

        Returns:
            Two arrays (resamples, groups), rising along the groups.
        """
        ranked = weights[:, self.order]  # (r, n)
        true = np.cumsum(ranked * self.positive, axis=1)
        total = np.cumsum(ranked, axis=1, out=ranked)
        if len(self.ends) < len(self.order):
            true, total = true[:, self.ends], total[:, self.ends]
        return true, total - true


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Checked predictions, with everything that does not depend on the weights computed once.

    Attributes:
        count: number of classes, k.
        positive: index of the class that two-class metrics speak of; None with three or more.
        table: (n, columns) whose weighted sums are the confusion matrix (k * k), the log loss, the Brier score, and
            each bin's confidence minus accuracy.
        rankings: one per class.
    """

    count: int
    positive: int | None
    table: Float64
    rankings: tuple[Ranking, ...]

    @classmethod
    def of(cls, probabilities: Float64, labels: Int64, positive: int | None) -> Self:
        """Return the cases of `probabilities` (n, k) and `labels` (n,), both already checked."""
        count = probabilities.shape[1]
        predicted = probabilities.argmax(axis=1)
        truth = np.eye(count)[labels]
        cells = np.eye(count * count)[labels * count + predicted]
        confidence = probabilities.max(axis=1)
        surplus = confidence - (predicted == labels)
        table = np.column_stack(
            (
                cells,
                log_losses(probabilities, labels),
                ((probabilities - truth) ** 2).sum(axis=1) * (0.5 if count == 2 else 1.0),
                np.eye(BINS)[confidence_bins(confidence)] * surplus[:, np.newaxis],
            )
        )
        rankings = tuple(Ranking.of(probabilities[:, c], labels == c) for c in range(count))
        return cls(count, positive, table, rankings)


def log_losses(probabilities: Float64, labels: Int64) -> Float64:
    """Return the cross-entropy of each image in nats (n,); a probability of 0 counts as float64's epsilon."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0))


def confidence_bins(confidence: Float64, bins: int = BINS) -> Int64:
    """Return the index (n,) of the bin, open at its lower end and closed at its upper, that holds each confidence."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def divide(numerator: Float64, denominator: Float64) -> Float64:
    """Return the quotient, nan where the denominator is 0."""
    filled = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / filled, np.nan)


def mean_of_measured(values: Float64) -> Float64:
    """Return the mean over the last axis of what is not nan; nan where nothing is left."""
    known = ~np.isnan(values)
    return divide(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def weighted_auroc(true: Float64, false: Float64) -> Float64:
    """Return the area under the ROC curve (resamples,) by the trapezoid rule, which counts ties as one half.

    Args:
        true: (resamples, groups), as `Ranking.counts` gives them.
        false: likewise.
    """
    positives, negatives = true[:, -1], false[:, -1]
    area = true[:, 0] * false[:, 0] / 2
    area = area + np.einsum("rg,rg->r", np.diff(false, axis=1), true[:, 1:] + true[:, :-1]) / 2
    return divide(area, positives * negatives)


def weighted_average_precision(true: Float64, false: Float64) -> Float64:
    """Return the mean of the precisions at each threshold, weighted by the gain in recall (resamples,).

    This is scikit-learn's definition, without interpolation.

    Args:
        true: (resamples, groups), as `Ranking.counts` gives them.
        false: likewise.
    """
    total = true + false
    precision = np.divide(true, total, out=np.zeros_like(true), where=total > 0)
    area = true[:, 0] * precision[:, 0] + np.einsum("rg,rg->r", np.diff(true, axis=1), precision[:, 1:])
    return divide(area, true[:, -1])


def from_confusion(confusion: Float64) -> dict[str, Float64]:
    """Return recall, precision, specificity and F1 of each class.

    Args:
        confusion: (resamples, k, k); rows are the true classes.

    Returns:
        Name to (resamples, k).
    """
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    support = confusion.sum(axis=2)
    predicted = confusion.sum(axis=1)
    negatives = confusion.sum(axis=(1, 2))[:, np.newaxis] - support
    precision = np.where(predicted > 0, divide(hit, predicted), 0.0)
    return {
        "recall": divide(hit, support),
        "precision": np.where(support > 0, precision, np.nan),
        "specificity": divide(negatives - (predicted - hit), negatives),
        "f1": np.where(support > 0, divide(2 * hit, support + predicted), np.nan),
    }


def measure(cases: Cases, weights: Float64) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return all metrics under each row of weights.

    Args:
        cases: what the model said.
        weights: (resamples, n), not negative, not all zero.

    Returns:
        The metrics of `Evaluation.metrics`, each (resamples,), and those of `Evaluation.per_class`, each
        (resamples, k).
    """
    count = cases.count
    total = weights.sum(axis=1)
    sums = weights @ cases.table  # (r, columns)
    confusion = sums[:, : count * count].reshape(-1, count, count)
    support = confusion.sum(axis=2)

    per_class = from_confusion(confusion)
    curves = [ranking.counts(weights) for ranking in cases.rankings]
    per_class["auroc"] = np.stack([weighted_auroc(*curve) for curve in curves], axis=1)
    per_class["average_precision"] = np.stack([weighted_average_precision(*curve) for curve in curves], axis=1)

    present = {name: np.where(support > 0, values, np.nan) for name, values in per_class.items()}
    macro = {name: mean_of_measured(values) for name, values in present.items()}
    headline: Mapping[str, Float64] = macro
    if cases.positive is not None:
        headline = {name: values[:, cases.positive] for name, values in per_class.items()}
    metrics = {
        "accuracy": np.trace(confusion, axis1=1, axis2=2) / total,
        "balanced_accuracy": macro["recall"],
        **{name: headline[name] for name in ("recall", "precision", "specificity", "f1")},
        **{f"macro_{name}": macro[name] for name in ("recall", "precision", "specificity", "f1")},
        "auroc": headline["auroc"],
        "average_precision": headline["average_precision"],
        "loss": sums[:, count * count] / total,
        "brier": sums[:, count * count + 1] / total,
        "ece": np.abs(sums[:, count * count + 2 :]).sum(axis=1) / total,
    }
    return metrics, per_class


def check_weights(weights: npt.ArrayLike | None, *shape: int) -> Float64:
    """Return how often each of n films, or each of n films and k findings, counts; once by default.

    Raises:
        ValueError: not one number of 0 or more for each, or all of them 0.
    """
    counts = np.ones(shape) if weights is None else np.asarray(weights, np.float64)
    if counts.shape != shape or not (np.isfinite(counts).all() and (counts >= 0).all() and counts.sum() > 0):
        size = " x ".join(map(str, shape))
        raise ValueError(f"Expected {size} weights of 0 or more, not all 0, but got shape {counts.shape} or others.")
    return counts
