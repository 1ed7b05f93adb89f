"""Prediction sets: the classes that cannot be ruled out, with the true one among them as often as was asked for.

Source: Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error levels, JASA 114 (2019),
223-234.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from rentgen.errors import DataError, SettingError
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.metrics import check_predictions, of_class
from rentgen.evaluate.weighted import Bool, check_weights, divide
from rentgen.records import UNKNOWN, FindingSet, Float64

COVERAGE = 0.95


def films_needed(coverage: float) -> int:
    """Return how many films it takes to choose a threshold for a coverage.

    Raises:
        SettingError: the coverage is not in (0, 1).

    Example:
        >>> films_needed(0.95)
        19
    """
    if not 0 < coverage < 1:
        raise SettingError(f"Expected coverage in (0, 1), such as 0.95, but got {coverage!r}.")
    return max(1, math.ceil(coverage / (1 - coverage) - 1e-9))


def conformal_threshold(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    coverage: float = COVERAGE,
    *,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Return the threshold above which the classes of a new film hold the true one with the probability asked for.

    Split conformal prediction with the score `1 - probability of the true class`. With n films, the threshold is the
    `ceil((n + 1) * coverage)`-th highest probability of the true class, so that coverage is at least what was asked
    for over films that come from the same source as these. With weights, the new film is given the largest of them
    (after Tibshirani et al., Conformal prediction under covariate shift, NeurIPS 2019): rather larger sets than wrong.

    Args:
        probabilities: (n, k), of films that did not fit the model.
        labels: (n,).
        coverage: in (0, 1).
        weights: (n,) how often each film counts.

    Raises:
        DataError: there are too few films for the coverage.
        SettingError: the coverage is not in (0, 1).
        ValueError: shapes or values that cannot be right.

    Example:
        >>> told = np.linspace(0.5, 1.0, 20)
        >>> conformal_threshold(np.column_stack((told, 1 - told)), [0] * 20, 0.9).__round__(3)
        0.526
    """
    needed = films_needed(coverage)
    scores, truth = check_predictions(probabilities, labels)
    counts = check_weights(weights, len(truth))
    of_truth = scores[np.arange(len(truth)), truth]
    order = np.argsort(-of_truth, kind="stable")
    reached = np.cumsum(counts[order])
    wanted = coverage * (counts.sum() + counts.max())
    place = int(np.searchsorted(reached, wanted * (1 - 1e-12)))
    if place >= len(truth):
        more = "" if weights is None else ", or more where films count for several"
        raise DataError(
            f"Expected at least {needed} films to promise a coverage of {coverage:g}{more}, but got {len(truth)}. "
            "Add films, or ask for less."
        )
    return float(of_truth[order[place]])


def prediction_sets(probabilities: npt.ArrayLike, threshold: float | Float64) -> Bool:
    """Return (n, k): which classes cannot be ruled out.

    Args:
        probabilities: (n, k).
        threshold: of `conformal_threshold`; or (n,), one for each film.
    """
    sets: Bool = np.asarray(probabilities, np.float64) >= np.asarray(threshold, np.float64)[..., np.newaxis]
    return sets


def measure_coverage(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    threshold: float | Float64,
    patients: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    weights: npt.ArrayLike | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return how often prediction sets hold the true class and how often they hold exactly one, as `Conformal` has it.

    Args:
        probabilities: (n, k), of films that did not choose the threshold.
        labels: (n,).
        threshold: of `conformal_threshold`; or (n,), one for each film.
        patients: (n,) whom each film shows; the intervals resample them.
        rng: the only source of randomness.
        resamples: of the patients.
        weights: (n,) how often each film counts.

    Returns:
        `measured` and `single`, each as `Interval.to_dict` gives it.
    """
    scores, truth = check_predictions(probabilities, labels)
    counts = check_weights(weights, len(truth))
    sets = prediction_sets(scores, threshold)
    table = np.column_stack((sets[np.arange(len(truth)), truth], sets.sum(axis=1) == 1)).astype(np.float64)

    def statistic(drawn: Float64) -> Float64:
        under = drawn * counts
        return divide(under @ table, under.sum(axis=1, keepdims=True))

    held, single = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    return {"measured": held.to_dict(), "single": single.to_dict()}


def choose_finding_sets(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str], coverage: float = COVERAGE
) -> tuple[FindingSet, ...]:
    """Return for each finding when it can be neither ruled out nor confirmed; none where it has too few films.

    Films with the finding and films without are each promised the coverage on their own, for a rare finding could be
    missed every time and the two together still be covered.

    Args:
        probabilities: (n, k), of films that did not fit the model.
        labels: (n, k).
        classes: names of the findings.
        coverage: in (0, 1).

    Raises:
        SettingError: the coverage is not in (0, 1).
    """
    needed = films_needed(coverage)
    scores, truth = check_predictions(probabilities, labels, several=True)
    found = []
    for index, label in enumerate(classes):
        told, there = of_class(scores, truth, index)
        both = np.column_stack((1 - told, told))
        counts = [int((there == value).sum()) for value in (False, True)]
        if min(counts) >= needed:
            absent, present = (
                conformal_threshold(both[there == bool(value)], np.full(counts[value], value), coverage)
                for value in (0, 1)
            )
            found.append(FindingSet(label, coverage, present, absent, counts[1], counts[0]))
    return tuple(found)


def measure_finding_sets(
    sets: Sequence[FindingSet],
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    patients: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[FindingSet, ...]:
    """Return the sets with how often they hold the truth, and how often they hold one answer, on other films.

    Args:
        sets: of `choose_finding_sets`.
        probabilities: (n, k), of films that did not choose them.
        labels: (n, k).
        classes: in the order of the columns.
        patients: (n,) whom each film shows; the intervals resample them.
        rng: the only source of randomness.
        resamples: of the patients.
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    if not sets:
        return ()
    tables, known = [], []
    for item in sets:
        index = classes.index(item.label)
        may, may_not = scores[:, index] >= item.present, 1 - scores[:, index] >= item.absent
        there = truth[:, index] == 1
        known.append((truth[:, index] != UNKNOWN).astype(np.float64))
        tables += [np.where(there, may, may_not) * known[-1], (may != may_not) * known[-1]]
    table, base = np.column_stack(tables), np.column_stack(known)

    def statistic(drawn: Float64) -> Float64:
        return divide(drawn @ table, np.repeat(drawn @ base, 2, axis=1))

    found = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    return tuple(
        replace(item, measured=found[2 * place].to_dict(), single=found[2 * place + 1].to_dict())
        for place, item in enumerate(sets)
    )
