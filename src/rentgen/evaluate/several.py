"""Metrics of several findings: each on the films of which it is known, at its own threshold, as functions of weights.

As in `rentgen.evaluate.weighted`, a resample of the patients is a weight per image, and what cannot be measured is nan.
Accuracy, log loss and Brier score are over all known pairs of film and finding; everything else is measured for each
finding, and averaged over those that some film of the set has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rentgen.evaluate.weighted import (
    BINS,
    Ranking,
    confidence_bins,
    divide,
    log_losses,
    mean_of_measured,
    weighted_auroc,
    weighted_average_precision,
)
from rentgen.records import UNKNOWN, FindingErrors, Float64, Int64

OF_FINDING = ("recall", "precision", "specificity", "f1", "auroc", "average_precision", "ece", "brier")
"""What is measured for each finding."""


@dataclass(frozen=True, slots=True, eq=False)
class FindingCases:
    """Checked predictions of several findings, with everything that does not depend on the weights computed once.

    Attributes:
        count: number of findings, k.
        table: (n, k * (6 + BINS)) whose weighted sums are, for each finding: found, missed, false alarms, rightly
            passed over, log loss, Brier score, and each bin's probability minus share present.
        rankings: one for each finding, of the films of which it is known; None where there is none.
    """

    count: int
    table: Float64
    rankings: tuple[Ranking | None, ...]

    @classmethod
    def of(cls, probabilities: Float64, truth: Int64, thresholds: Float64, weights: Float64 | None = None) -> Self:
        """Return the cases of `probabilities` (n, k) and `truth` (n, k), both already checked, at `thresholds` (k,).

        `weights` (n, k) say how often each pair counts, once by default; not in what is ranked: the areas do not know
        them.
        """
        known, there, called = truth != UNKNOWN, truth == 1, probabilities >= thresholds
        absent = known & ~there
        bins = np.eye(BINS)[confidence_bins(probabilities)] * (probabilities - there)[:, :, np.newaxis]  # (n, k, bins)
        cells = np.stack(
            (
                called & there,
                ~called & there,
                called & absent,
                ~called & absent,
                cell_losses(probabilities, truth),
                (probabilities - there) ** 2,
            ),
            axis=2,
        )
        counts = known if weights is None else known * weights
        table = (np.concatenate((cells, bins), axis=2) * counts[:, :, np.newaxis]).reshape(len(truth), -1)
        rankings = tuple(rank_known(probabilities[:, column], truth[:, column]) for column in range(truth.shape[1]))
        return cls(truth.shape[1], table, rankings)


def rank_known(scores: Float64, truth: Int64) -> Ranking | None:
    """Return the ranking of the films (n,) of which a finding is known, by their places among all; None of none."""
    known = np.flatnonzero(truth != UNKNOWN)
    if not len(known):
        return None
    ranking = Ranking.of(scores[known], truth[known] == 1)
    return Ranking(known[ranking.order], ranking.positive, ranking.ends)


def cell_losses(probabilities: Float64, truth: Int64) -> Float64:
    """Return the cross-entropy (n, k) in nats of each film and finding, 0 where nothing is known."""
    chosen = np.where(truth == 1, probabilities, 1 - probabilities)
    losses = -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0))
    return np.where(truth == UNKNOWN, 0.0, losses)


def measure_findings(cases: FindingCases, weights: Float64) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return all metrics under each row of weights.

    Args:
        cases: what the model said.
        weights: (resamples, n), not negative, not all zero.

    Returns:
        The metrics of `Evaluation.metrics`, each (resamples,), and those of `Evaluation.per_class`, each
        (resamples, k).
    """
    sums = (weights @ cases.table).reshape(len(weights), cases.count, -1)  # (r, k, 6 + bins)
    found, missed, alarms, passed, loss, brier = np.moveaxis(sums[:, :, :6], 2, 0)  # each (r, k)
    present, absent, named = found + missed, alarms + passed, found + alarms
    known = present + absent
    precision = np.where(named > 0, divide(found, named), 0.0)
    per_class = {
        "recall": divide(found, present),
        "precision": np.where(present > 0, precision, np.nan),
        "specificity": divide(passed, absent),
        "f1": np.where(present > 0, divide(2 * found, present + named), np.nan),
        "auroc": _of_rankings(cases, weights, weighted_auroc),
        "average_precision": _of_rankings(cases, weights, weighted_average_precision),
        "ece": divide(np.abs(sums[:, :, 6:]).sum(axis=2), known),
        "brier": divide(brier, known),
    }
    macro = {name: mean_of_measured(np.where(present > 0, values, np.nan)) for name, values in per_class.items()}
    total = known.sum(axis=1)
    metrics = {
        "accuracy": divide((found + passed).sum(axis=1), total),
        "balanced_accuracy": mean_of_measured((per_class["recall"] + per_class["specificity"]) / 2),
        **{name: macro[name] for name in ("recall", "precision", "specificity", "f1")},
        **{f"macro_{name}": macro[name] for name in ("recall", "precision", "specificity", "f1")},
        "auroc": macro["auroc"],
        "average_precision": macro["average_precision"],
        "loss": divide(loss.sum(axis=1), total),
        "brier": divide(brier.sum(axis=1), total),
        "ece": mean_of_measured(per_class["ece"]),
    }
    return metrics, per_class


def count_errors(
    probabilities: Float64, truth: Int64, thresholds: Float64, findings: Sequence[str]
) -> dict[str, FindingErrors]:
    """Return how each finding was called, and which others the films of its errors show.

    Args:
        probabilities: (n, k), already checked.
        truth: (n, k).
        thresholds: (k,) called from here on.
        findings: (k,) names.
    """
    there, absent, called = truth == 1, truth == 0, probabilities >= thresholds
    kinds = {"found": called & there, "missed": ~called & there, "false": called & absent, "passed": ~called & absent}
    totals = {name: cells.sum(axis=0).tolist() for name, cells in kinds.items()}
    unknown = (truth == UNKNOWN).sum(axis=0).tolist()
    shown = there.astype(np.int64)
    # Row: the finding that was called wrongly. Column: the one that the films show.
    beside = {name: (cells.T.astype(np.int64) @ shown).tolist() for name, cells in kinds.items()}

    def pairs(wrong: str, right: str, row: int) -> dict[str, tuple[int, int]]:
        cells = zip(findings, beside[wrong][row], beside[right][row], strict=True)
        return {name: (n, n + rest) for column, (name, n, rest) in enumerate(cells) if column != row}

    return {
        label: FindingErrors(
            found=totals["found"][row],
            missed=totals["missed"][row],
            false_alarms=totals["false"][row],
            passed=totals["passed"][row],
            unknown=unknown[row],
            missed_beside=pairs("missed", "found", row),
            false_alarms_beside=pairs("false", "passed", row),
        )
        for row, label in enumerate(findings)
    }


def area_of(
    ranking: Ranking | None, weights: Float64, area: Callable[[Float64, Float64], Float64] = weighted_auroc
) -> Float64:
    """Return the area (resamples,) under a curve of the films that are ranked; nan where there are none."""
    return np.full(len(weights), np.nan) if ranking is None else area(*ranking.counts(weights))


def _of_rankings(cases: FindingCases, weights: Float64, area: Callable[[Float64, Float64], Float64]) -> Float64:
    return np.stack([area_of(one, weights, area) for one in cases.rankings], axis=1)


def mean_cell_loss(probabilities: Float64, truth: Int64, weights: Float64 | None = None) -> float:
    """Return the mean cross-entropy in nats over the known pairs of film and finding.

    Args:
        probabilities: (n, k).
        truth: (n, k).
        weights: (n,) how often each film counts, or (n, k) each pair; once by default.
    """
    under = np.ones(len(truth)) if weights is None else weights
    under = under if under.ndim == 2 else under[:, np.newaxis]
    losses = under * cell_losses(probabilities, truth)
    return float(losses.sum() / max(float((under * (truth != UNKNOWN)).sum()), np.finfo(np.float64).tiny))


def mean_loss(probabilities: Float64, truth: Int64, weights: Float64) -> float:
    """Return the mean cross-entropy in nats, over films or over known pairs of film and finding."""
    if truth.ndim == 2:
        return mean_cell_loss(probabilities, truth, weights)
    return float(np.average(log_losses(probabilities, truth), weights=weights))
