"""Which mixture of classes probabilities stand for, and how to make them stand for another.

Source: Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural
Computation 14 (2002), 21-41.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rentgen.errors import DataError, SettingError
from rentgen.evaluate.metrics import check_predictions
from rentgen.records import Float64


def balance_weights(labels: npt.ArrayLike, prior: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Float64:
    """Return weights (n,) that sum to n and under which the classes come in the proportions of a prior.

    Args:
        labels: (n,).
        prior: (k,) positive, summing to 1.
        weights: (n,) that the films have already.

    Raises:
        DataError: there is no film of a class.
        SettingError: the prior is not allowed.

    Example:
        >>> balance_weights([0, 0, 0, 1], [0.5, 0.5]).round(3)
        array([0.667, 0.667, 0.667, 2.   ])
    """
    shares = check_prior(prior)
    truth = np.asarray(labels)
    counts = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    held = np.bincount(truth, counts, len(shares))
    if not (held > 0).all():
        raise DataError(
            f"Expected films of every class of the prevalence, but there is none of class number "
            f"{int((held <= 0).argmax())}. Add films of it."
        )
    result: Float64 = counts * (shares / held)[truth] * len(truth)
    return result


def check_prior(prior: npt.ArrayLike, count: int | None = None) -> Float64:
    """Return a class balance (k,) as float64.

    Args:
        prior: positive, summing to 1.
        count: how many classes there must be.

    Raises:
        SettingError: it is no class balance.
    """
    shares = np.asarray(prior, np.float64)
    if shares.ndim != 1 or len(shares) < 2 or (count is not None and len(shares) != count):
        raise SettingError(f"Expected a prevalence for each of {count or 'the'} classes, but got shape {shares.shape}.")
    if not ((shares > 0).all() and abs(shares.sum() - 1) <= 1e-6):
        raise SettingError(f"Expected positive prevalences that sum to 1, but got {shares.tolist()}.")
    return shares


def parse_prevalence(prevalence: Mapping[str, float], classes: Sequence[str]) -> Float64:
    """Return the class balance (k,) that names and shares tell; one class may be left out and gets the rest.

    Raises:
        SettingError: a class is unknown, too many are left out, or the shares are not allowed.

    Example:
        >>> parse_prevalence({"pneumonia": 0.25}, ("normal", "pneumonia"))
        array([0.75, 0.25])
    """
    unknown = sorted(set(prevalence) - set(classes))
    missing = [label for label in classes if label not in prevalence]
    if unknown or len(missing) > 1:
        raise SettingError(
            f"Expected the prevalence of all but one of the classes {', '.join(classes)}, but got "
            f"{', '.join(prevalence) or 'none'}."
        )
    rest = 1 - sum(prevalence.values())
    return check_prior([prevalence.get(label, rest) for label in classes], len(classes))


def adapt_prior(probabilities: npt.ArrayLike, prior: npt.ArrayLike, train_prior: npt.ArrayLike) -> Float64:
    """Return the probabilities (n, k) for another prevalence, by Bayes' rule.

    Right where films of one class look alike in both places and only the classes come in other proportions.

    Args:
        probabilities: (n, k), calibrated for `train_prior`.
        prior: (k,) prevalence where the films come from.
        train_prior: (k,) prevalence that the probabilities stand for.

    Raises:
        SettingError: a prevalence is not allowed.
        ValueError: the probabilities cannot be right.

    Example:
        >>> adapt_prior([[0.5, 0.5]], [0.99, 0.01], [0.5, 0.5])
        array([[0.99, 0.01]])
    """
    scores, _ = check_predictions(probabilities, np.zeros(len(np.asarray(probabilities)), np.int64))
    wanted, given = (check_prior(shares, scores.shape[1]) for shares in (prior, train_prior))
    moved = scores * (wanted / given)
    result: Float64 = moved / moved.sum(axis=1, keepdims=True)
    return result


def estimate_prior(probabilities: npt.ArrayLike, train_prior: npt.ArrayLike) -> Float64:
    """Return the prevalence (k,) of films without labels, by expectation maximisation.

    Args:
        probabilities: (n, k), calibrated for `train_prior`.
        train_prior: (k,) prevalence that the probabilities stand for.

    Raises:
        DataError: there is no film.
        SettingError: the prevalence is not allowed.
        ValueError: the probabilities cannot be right.
    """
    scores, _ = check_predictions(probabilities, np.zeros(len(np.asarray(probabilities)), np.int64))
    given = check_prior(train_prior, scores.shape[1])
    prior = given
    for _ in range(10_000):
        moved = scores * (prior / given)
        # Saerens et al. (2002), equation 2.9: the E step's posteriors, averaged.
        found: Float64 = (moved / moved.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(found - prior).max() < 1e-9:
            break
        prior = found
    return prior
