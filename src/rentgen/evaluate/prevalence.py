"""Which mixture of classes probabilities stand for, and how to make them stand for another.

Of several findings each is a problem of its own with two classes, there or not, so that its prevalence is one share.

Source: Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural
Computation 14 (2002), 21-41.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rentgen.errors import DataError, SettingError
from rentgen.evaluate.metrics import check_predictions
from rentgen.records import UNKNOWN, Float64, Int64


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


def parse_findings(prevalence: Mapping[str, float], findings: Sequence[str]) -> Float64:
    """Return each finding's share (k,) that names and shares tell; nan for those that are not named: as they are.

    Raises:
        SettingError: none is named, one is unknown, or a share is not above 0 and below 1.

    Example:
        >>> parse_findings({"Effusion": 0.2}, ("Effusion", "Nodule"))
        array([0.2, nan])
    """
    unknown = sorted(set(prevalence) - set(findings))
    if unknown or not prevalence:
        raise SettingError(
            f"Expected the prevalence of findings among {', '.join(findings)}, but got {', '.join(unknown) or 'none'}."
        )
    return _check_shares([prevalence.get(label, np.nan) for label in findings], len(findings), may_lack=True)


def balance_findings(truth: Int64, prior: npt.ArrayLike) -> Float64:
    """Return weights (n, k) under which each finding has its share of the films of which it is known.

    The weights of a finding's known films sum to their number; of a finding without a share they are 1.

    Args:
        truth: (n, k) of several findings.
        prior: (k,) share in (0, 1), or nan.

    Raises:
        DataError: of a finding with a share there is no film with it, or none without.
        SettingError: a share is not allowed.

    Example:
        >>> balance_findings(np.array([[1], [0], [0], [0]]), [0.5])[:, 0].round(3)
        array([2.   , 0.667, 0.667, 0.667])
    """
    shares = _check_shares(prior, truth.shape[1], may_lack=True)
    there, absent = ((truth == value).sum(axis=0) for value in (1, 0))
    asked = ~np.isnan(shares)
    if ((there == 0) | (absent == 0))[asked].any():
        first = int((asked & ((there == 0) | (absent == 0))).argmax())
        raise DataError(
            f"Expected films with and without every finding that has a prevalence, but of finding number {first} there "
            f"are {there[first]} with and {absent[first]} without. Add films."
        )
    known = there + absent
    with np.errstate(divide="ignore", invalid="ignore"):
        present, missing = shares * known / there, (1 - shares) * known / absent
    weights = np.where(truth == 1, present, np.where(truth == UNKNOWN, 1.0, missing))
    return np.where(asked, weights, 1.0)


def adapt_findings(probabilities: npt.ArrayLike, prior: npt.ArrayLike, train_prior: npt.ArrayLike) -> Float64:
    """Return the probabilities (n, k) of several findings for other prevalences, each by Bayes' rule.

    Right where films with a finding look alike in both places, and films without it do. What else a film shows belongs
    to how it looks: where the other findings go with this one otherwise, it is an approximation.

    Args:
        probabilities: (n, k), each calibrated for its share in `train_prior`.
        prior: (k,) share in (0, 1) where the films come from; nan leaves a finding as it is.
        train_prior: (k,) share that the probabilities stand for.

    Raises:
        SettingError: a share is not allowed.
        ValueError: the probabilities cannot be right.

    Example:
        >>> adapt_findings([[0.5, 0.5]], [0.2, np.nan], [0.5, 0.3])
        array([[0.2, 0.5]])
    """
    scores = _check_scores(probabilities)
    wanted = _check_shares(prior, scores.shape[1], may_lack=True)
    given = _check_shares(train_prior, scores.shape[1])
    wanted = np.where(np.isnan(wanted), given, wanted)
    there, absent = scores * (wanted / given), (1 - scores) * ((1 - wanted) / (1 - given))
    moved: Float64 = there / (there + absent)
    return moved


def estimate_findings(probabilities: npt.ArrayLike, train_prior: npt.ArrayLike) -> Float64:
    """Return each finding's share (k,) among films without labels, by expectation maximisation of each on its own.

    Args:
        probabilities: (n, k), each calibrated for its share in `train_prior`.
        train_prior: (k,) share in (0, 1) that the probabilities stand for.

    Raises:
        DataError: there is no film.
        SettingError: a share is not allowed.
        ValueError: the probabilities cannot be right.
    """
    scores = _check_scores(probabilities)
    given = _check_shares(train_prior, scores.shape[1])
    return np.array(
        [
            estimate_prior(np.column_stack((1 - column, column)), (1 - share, share))[1]
            for column, share in zip(scores.T, given.tolist(), strict=True)
        ]
    )


def _check_scores(probabilities: npt.ArrayLike) -> Float64:
    scores = np.asarray(probabilities, np.float64)
    if scores.ndim != 2:
        raise ValueError(f"Expected probabilities of shape (n, findings), but got {scores.shape}.")
    scores, _ = check_predictions(scores, np.zeros(scores.shape, np.int64), several=True)
    return scores


def _check_shares(shares: npt.ArrayLike, count: int, *, may_lack: bool = False) -> Float64:
    values = np.asarray(shares, np.float64)
    if values.shape != (count,):
        raise SettingError(f"Expected a prevalence for each of {count} findings, but got shape {values.shape}.")
    right = (values > 0) & (values < 1)
    if not (right | (np.isnan(values) & may_lack)).all():
        raise SettingError(f"Expected prevalences of findings above 0 and below 1, but got {values.tolist()}.")
    return values
