"""Two models on the same films: tests and tables of paired answers.

Sources: McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
Psychometrika 12 (1947), 153-157 (here the exact binomial test); DeLong et al., Comparing the areas under two or more
correlated receiver operating characteristic curves, Biometrics 44 (1988), 837-845; Wilson, Probable inference, the law
of succession, and statistical inference, JASA 22 (1927), 209-212.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rentgen.evaluate.ranks import rank
from rentgen.evaluate.weighted import Bool
from rentgen.records import UNKNOWN, Card, Curve, Float64, Int64, Task, deciding_thresholds

LEVELS = 41
"""Rows of a table from old scores to new ones: every 2.5th percentile, with both ends."""
Z = 1.959963984540054
"""Of a normal distribution, 95 % lie within so many standard deviations."""


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """How often two models decide alike, and rightly: once a film, or once for each finding of it.

    Attributes:
        alike: (n, 3) decisions on which both agree; that the first gets right; that the second does.
        asked: (n, 3) of how many: all of them; of each model, those of which the truth is known.
        only_old: decisions that only the first gets right.
        only_new: that only the second does.
    """

    alike: Float64
    asked: Float64
    only_old: int
    only_new: int

    @classmethod
    def of(cls, old: Int64, new: Int64, truth: Int64) -> Self:
        """Return the comparison of decisions with each other and with `truth`, all (n,), or (n, k) of findings."""
        old, new, truth = (values.reshape(len(values), -1) for values in (old, new, truth))
        known = truth != UNKNOWN
        right_old, right_new = known & (old == truth), known & (new == truth)
        return cls(
            np.column_stack([found.sum(axis=1) for found in (old == new, right_old, right_new)]).astype(np.float64),
            np.column_stack([np.full(len(truth), truth.shape[1]), *[known.sum(axis=1)] * 2]).astype(np.float64),
            int((right_old & ~right_new).sum()),
            int((right_new & ~right_old).sum()),
        )


def decide(scores: Float64, card: Card, classes: Sequence[str]) -> Int64:
    """Return what a model calls films: (n,) the class with the highest score, or (n, k) 1 where it calls a finding.

    Args:
        scores: (n, k).
        card: of the model; its operating points say from which score on a finding is called.
        classes: the columns.
    """
    if card.task is Task.MULTILABEL:
        return (scores >= deciding_thresholds(card.operating_points, classes)).astype(np.int64)
    return np.asarray(scores.argmax(axis=1), np.int64)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided p of the exact McNemar test.

    Args:
        only_first: films that only the first model gets right.
        only_second: films that only the second model gets right.

    Example:
        >>> mcnemar_p(1, 7), mcnemar_p(0, 0)
        (0.0703125, 1.0)
    """
    total = only_first + only_second
    term = tail = 1  # Whole numbers: exact for any number of films.
    for i in range(min(only_first, only_second)):
        term = term * (total - i) // (i + 1)
        tail += term
    return float(min(1.0, 2 * tail / (1 << total)))


def score_map(old: Float64, new: Float64, levels: int = LEVELS) -> Curve:
    """Return the table from old scores (x) to new scores (y) of the same percentile; both rise.

    Args:
        old: (n,).
        new: (n,), of the same films.
        levels: rows of the table, from the lowest score to the highest.

    Example:
        >>> score_map(np.array([0.1, 0.3, 0.5]), np.array([0.2, 0.6, 1.0]), levels=3)
        Curve(x=(0.1, 0.3, 0.5), y=(0.2, 0.6, 1.0), count=())
    """
    shares = np.linspace(0, 1, levels)
    x, y = (tuple(round(float(value), 6) for value in np.quantile(scores, shares)) for scores in (old, new))
    return Curve(x, y)


def delong_p(first: Float64, second: Float64, positive: Bool) -> float:
    """Return the two-sided p of two correlated AUROCs being equal; nan where a class is missing or has one film.

    By midranks: Sun and Xu, Fast implementation of DeLong's algorithm, IEEE Signal Process. Lett. 21 (2014), 1389-1393.

    Args:
        first: (n,) scores.
        second: (n,) scores of the same films.
        positive: (n,).
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        return math.nan
    areas, of_positives, of_negatives = [], [], []
    for scores in (first, second):
        together = rank(scores)
        of_positives.append((together[positive] - rank(scores[positive])) / n)
        of_negatives.append(1 - (together[~positive] - rank(scores[~positive])) / m)
        areas.append(float(of_positives[-1].mean()))
    # The variance of a difference is that of the differences.
    variance = float(
        np.var(of_positives[0] - of_positives[1], ddof=1) / m + np.var(of_negatives[0] - of_negatives[1], ddof=1) / n
    )
    difference = abs(areas[0] - areas[1])
    if variance < 1e-20:
        return 1.0 if difference < 1e-12 else 0.0
    return math.erfc(difference / math.sqrt(2 * variance))


def wilson_low(rate: float, n: int) -> float:
    """Return the lower end of Wilson's 95 % interval of a rate over n trials.

    Example:
        >>> round(wilson_low(1.0, 36), 3)
        0.904
    """
    middle = rate + Z**2 / (2 * n)
    half = Z * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    return max(0.0, (middle - half) / (1 + Z**2 / n))
