"""How far probabilities mean what they say: calibration error, scores, slope and intercept, with intervals.

Sources: Cox, Two further applications of a model for binary regression, Biometrika 45 (1958), 562-565; Van Calster et
al., Calibration: the Achilles heel of predictive analytics, BMC Medicine 17 (2019), 230.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.measure import measuring
from rentgen.evaluate.metrics import check_predictions
from rentgen.evaluate.weighted import Bool, check_weights
from rentgen.records import UNKNOWN, Float64

CERTAIN = 1e-12
"""Distance from 0 and 1 beyond which a probability has no logit of its own."""
STEPS = 200
FIGURES = ("ece", "brier", "loss", "slope", "intercept")


def reliability_figures(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    weights: npt.ArrayLike | None = None,
    positive: int | None = None,
) -> dict[str, dict[str, float | None]]:
    """Return `ece`, `brier`, `loss`, `slope` and `intercept` with 95 % intervals over patients, as plain JSON values.

    The slope is that of a logistic regression of the outcome on the logit of the probability; 1 is right, less is too
    sure. The intercept is that of the same regression with the slope held at 1 (calibration in the large); 0 is right,
    less means that the outcome is rarer than was said. Of two classes, the outcome is the positive one; of three or
    more, it is that the most probable class is right, as in `ece`; of several findings, that one is present, over all
    pairs of film and finding of which something is known. Both are nan (None) where all outcomes are the same,
    and the slope where a threshold parts them without a mistake: it has no end there.

    Args:
        probabilities: (n, k).
        labels: (n,), or (n, k) of several findings.
        patients: (n,) whom each film shows.
        rng: the only source of randomness.
        resamples: of the patients.
        weights: (n,) how often each film counts; or, of several findings, (n, k) each pair.
        positive: index of the class that slope and intercept speak of, of two; the last by default.

    Raises:
        DataError: there is no film.
        ValueError: shapes or values that cannot be right.
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    pairs = check_weights(weights, *truth.shape) if weights is not None and np.ndim(weights) == 2 else None
    counts = check_weights(weights if pairs is None else None, len(truth))
    if len(patients) != len(truth):
        raise ValueError(f"Expected one patient for each of {len(truth)} films, but got {len(patients)}.")
    measured = measuring(scores, truth, [str(number) for number in range(scores.shape[1])], None, pairs=pairs)
    film, often = np.arange(len(truth)), np.ones(len(truth))  # of each outcome
    if truth.ndim == 2:
        film, column = np.nonzero(truth != UNKNOWN)
        stated, hits = scores[film, column], truth[film, column] == 1
        often = np.ones(len(film)) if pairs is None else pairs[film, column]
    elif scores.shape[1] == 2:
        chosen = 1 if positive is None else positive
        stated, hits = scores[:, chosen], truth == chosen
    else:
        stated, hits = scores.max(axis=1), scores.argmax(axis=1) == truth

    def statistic(drawn: Float64) -> Float64:
        under = drawn * counts
        metrics, _ = measured(under)
        slope, intercept = recalibration(stated, hits, under[:, film] * often)
        return np.column_stack((metrics["ece"], metrics["brier"], metrics["loss"], slope, intercept))

    found = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    return {name: interval.to_dict() for name, interval in zip(FIGURES, found, strict=True)}


def recalibration(stated: Float64, hits: Bool, weights: Float64) -> tuple[Float64, Float64]:
    """Return the calibration slope and, with the slope held at 1, the intercept under each row of weights.

    Args:
        stated: (n,) probability of the outcome.
        hits: (n,) whether it came.
        weights: (r, n), not negative.

    Returns:
        Two arrays (r,); nan where undefined, as `reliability_figures` says.
    """
    bounded = np.clip(stated, CERTAIN, 1 - CERTAIN)
    logit = np.log(bounded) - np.log1p(-bounded)
    came, missed = weights @ hits.astype(np.float64), weights @ (~hits).astype(np.float64)
    mixed = (came > 0) & (missed > 0)
    # A class's lowest and highest logit among the films that were drawn.
    low = {hit: np.where((weights > 0) & (hits == hit), logit, np.inf).min(axis=1) for hit in (True, False)}
    high = {hit: np.where((weights > 0) & (hits == hit), logit, -np.inf).max(axis=1) for hit in (True, False)}
    overlap = mixed & (high[False] > low[True]) & (high[True] > low[False])
    slope, intercept = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    ones = np.ones((len(logit), 1))
    intercept[mixed] = _logistic(ones, logit, hits, weights[mixed])[:, 0]
    # In units of its own spread, the logit's slope is of the order of 1.
    unit = max(float(np.abs(logit).max()), CERTAIN)
    design = np.column_stack((ones, logit / unit))
    slope[overlap] = _logistic(design, np.zeros(len(logit)), hits, weights[overlap])[:, 1] / unit
    return slope, intercept


def _logistic(design: Float64, offset: Float64, hits: Bool, weights: Float64) -> Float64:
    """Return the coefficients (r, m) of a logistic regression under each row of weights, by damped Newton steps.

    Args:
        design: (n, m).
        offset: (n,) added to each linear predictor.
        hits: (n,).
        weights: (r, n), under each row of which the maximum exists.
    """
    came = hits.astype(np.float64)
    size = design.shape[1]
    squares = np.einsum("ni,nj->nij", design, design).reshape(len(design), size * size)
    found = np.zeros((len(weights), size))

    def loss(coefficients: Float64) -> Float64:
        told = coefficients @ design.T + offset  # (r, n)
        total: Float64 = (weights * (np.logaddexp(0.0, told) - came * told)).sum(axis=1)
        return total

    value = loss(found)
    for _ in range(STEPS):
        p = 0.5 * (1 + np.tanh((found @ design.T + offset) / 2))
        gradient = (weights * (came - p)) @ design  # (r, m)
        curvature = ((weights * p * (1 - p)) @ squares).reshape(-1, size, size)
        # So little that it only keeps a flat place solvable.
        curvature += 1e-12 * np.eye(size) * weights.sum(axis=1)[:, np.newaxis, np.newaxis]
        step = np.linalg.solve(curvature, gradient[:, :, np.newaxis])[:, :, 0]
        reached = loss(found + step)
        for _ in range(40):
            worse = reached > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
            reached = loss(found + step)
        found, value = found + step, reached
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return found
