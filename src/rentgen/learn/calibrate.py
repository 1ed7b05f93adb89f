"""Probabilities that mean what they say: fitted to films, measured on them, and made a site's own.

All functions but `calibrate` are pure and need NumPy alone. They take `labels` (n,), indices of the true classes, and,
where they take `weights` (n,), count each film so often; `balance_weights` makes films of any mixture stand for a
wished one. A calibration is `softmax(logits * scale + bias)`, as the card holds it and the predictor applies it.

Sources: Guo et al., On calibration of modern neural networks, ICML 2017 (temperature and vector scaling); Cox, Two
further applications of a model for binary regression, Biometrika 45 (1958), 562-565, and Van Calster et al.,
Calibration: the Achilles heel of predictive analytics, BMC Medicine 17 (2019), 230 (slope and intercept); Sadinle, Lei
and Wasserman, Least ambiguous set-valued classifiers with bounded error levels, JASA 114 (2019), 223-234 (prediction
sets); Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural
Computation 14 (2002), 21-41 (prevalence).
"""

from __future__ import annotations

import datetime
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from rentgen.bundle import Bundle
from rentgen.data.split import certify, find_leak
from rentgen.engine.predictor import Predictor, softmax
from rentgen.errors import DataError, LeakError, SettingError
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.judge import judge
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.metrics import check_predictions, choose_operating_points
from rentgen.evaluate.weighted import Bool, Cases, divide, log_losses, measure
from rentgen.records import (
    Audit,
    Calibration,
    Card,
    Conformal,
    Float64,
    ImageRecord,
    Int64,
    Listing,
    OperatingPoint,
    PatientSource,
    Progress,
    Split,
    SplitCertificate,
    Status,
)

RIDGE = 1.0
"""Weight of the pull towards doing little, in films: it fades as films come in."""
SCALES = (1e-3, 1e3)
"""Bounds of a scale; reached where the films are told apart without a mistake and there is no ridge."""
COVERAGE = 0.95
FOLDS = 5
MIN_FILMS = 10
"""Of each class, to calibrate on."""
CERTAIN = 1e-12
"""Distance from 0 and 1 beyond which a probability has no logit of its own."""
STEPS = 200
FIGURES = ("ece", "brier", "loss", "slope", "intercept")


class Method(StrEnum):
    """How logits become probabilities."""

    AUTO = "auto"
    """Of the three below, the one with the lowest log loss on films that did not fit it."""
    NONE = "none"
    """As the bundle has it."""
    TEMPERATURE = "temperature"
    """One scale for all classes: no film changes its class."""
    VECTOR = "vector"
    """A scale and a bias for each class."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """From logits to probabilities: `softmax(logits * scale + bias)`.

    Attributes:
        method: how it was found.
        scale: (k,), positive.
        bias: (k,).
    """

    method: Method
    scale: Float64
    bias: Float64

    def probabilities(self, logits: npt.ArrayLike) -> Float64:
        """Return (n, k) for logits (n, k)."""
        return softmax(np.asarray(logits, np.float64) * self.scale + self.bias)


def fit_temperature(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    prior: npt.ArrayLike | None = None,
    ridge: float = RIDGE,
) -> Scaling:
    """Return the one scale (1 / temperature) that makes the log loss least.

    Args:
        logits: (n, k).
        labels: (n,).
        weights: (n,) how often each film counts; once by default.
        prior: (k,) the class balance that the films shall stand for; their own by default.
        ridge: `ridge / 2 * (scale - 1)**2` is added to the summed loss, so that a few films that are all told apart do
            not make the model boundlessly sure.

    Raises:
        DataError: there is no film, or none of a class of the prior.
        SettingError: the prior or the ridge is not allowed.
        ValueError: shapes or values that cannot be right.

    Example:
        >>> sure = np.array([[4.0, 0.0]] * 100)
        >>> half_right = fit_temperature(sure, [0] * 75 + [1] * 25, ridge=0.0)
        >>> half_right.probabilities(sure[:1]).round(3)
        array([[0.75, 0.25]])
    """
    values, truth, counts = _check_fit(logits, labels, weights, prior, ridge)
    count = values.shape[1]
    spread = np.repeat((1.0, 0.0), count)[:, np.newaxis]  # (2k, 1)
    (scale,) = _minimise(_Task(values, truth, counts, spread, np.ones(1), np.array([ridge])), *SCALES)
    return Scaling(Method.TEMPERATURE, np.full(count, scale), np.zeros(count))


def fit_vector(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    prior: npt.ArrayLike | None = None,
    ridge: float = RIDGE,
) -> Scaling:
    """Return a scale and a bias for each class that make the log loss least, held near the best temperature.

    Args:
        logits: (n, k).
        labels: (n,).
        weights: (n,) how often each film counts; once by default.
        prior: (k,) the class balance that the films shall stand for; their own by default.
        ridge: `ridge / 2 * sum((scale / temperature's scale - 1)**2 + bias**2)` is added to the summed loss.

    Raises:
        DataError: there is no film, or none of a class of the prior.
        SettingError: the prior or the ridge is not allowed.
        ValueError: shapes or values that cannot be right.
    """
    values, truth, counts = _check_fit(logits, labels, weights, prior, ridge)
    count = values.shape[1]
    common = fit_temperature(values, truth, counts, ridge=ridge).scale
    task = _Task(
        values,
        truth,
        counts,
        np.eye(2 * count),
        np.append(common, np.zeros(count)),
        ridge * np.append(common**-2, np.ones(count)),
    )
    low, high = (np.repeat((bound, sign * np.inf), count) for bound, sign in zip(SCALES, (-1, 1), strict=True))
    found = _minimise(task, low, high)
    return Scaling(Method.VECTOR, found[:count], found[count:])


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
    more, it is that the most probable class is right, as in `ece`. Both are nan (None) where all outcomes are the same,
    and the slope where a threshold parts them without a mistake: it has no end there.

    Args:
        probabilities: (n, k).
        labels: (n,).
        patients: (n,) whom each film shows.
        rng: the only source of randomness.
        resamples: of the patients.
        weights: (n,) how often each film counts.
        positive: index of the class that slope and intercept speak of, of two; the last by default.

    Raises:
        DataError: there is no film.
        ValueError: shapes or values that cannot be right.
    """
    scores, truth = check_predictions(probabilities, labels)
    counts = _check_weights(weights, len(truth))
    if len(patients) != len(truth):
        raise ValueError(f"Expected one patient for each of {len(truth)} films, but got {len(patients)}.")
    cases = Cases.of(scores, truth, None)
    if scores.shape[1] == 2:
        chosen = 1 if positive is None else positive
        stated, hits = scores[:, chosen], truth == chosen
    else:
        stated, hits = scores.max(axis=1), scores.argmax(axis=1) == truth

    def statistic(drawn: Float64) -> Float64:
        under = drawn * counts
        metrics, _ = measure(cases, under)
        slope, intercept = recalibration(stated, hits, under)
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
    counts = _check_weights(weights, len(truth))
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
    counts = _check_weights(weights, len(truth))
    sets = prediction_sets(scores, threshold)
    table = np.column_stack((sets[np.arange(len(truth)), truth], sets.sum(axis=1) == 1)).astype(np.float64)

    def statistic(drawn: Float64) -> Float64:
        under = drawn * counts
        return divide(under @ table, under.sum(axis=1, keepdims=True))

    held, single = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    return {"measured": held.to_dict(), "single": single.to_dict()}


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


def patient_folds(labels: Int64, patients: Sequence[str], folds: int, rng: np.random.Generator) -> Int64:
    """Return the fold (n,) of each film: films of one patient together, each class in its proportion."""
    films: dict[str, Counter[int]] = defaultdict(Counter)
    for label, patient in zip(labels.tolist(), patients, strict=True):
        films[patient][label] += 1
    totals = Counter(labels.tolist())
    strata: dict[int, list[str]] = defaultdict(list)
    for patient in sorted(films):
        # By the rarest class, so that a patient with several counts where it is missed most.
        strata[min(films[patient], key=lambda label: (totals[label], label))].append(patient)
    dealt = [strata[label][index] for label in sorted(strata) for index in rng.permutation(len(strata[label]))]
    fold_of = {patient: place % folds for place, patient in enumerate(dealt)}
    return np.array([fold_of[patient] for patient in patients], np.int64)


def calibrate(
    bundle: Bundle,
    listing: Listing,
    *,
    method: Method | str = Method.AUTO,
    coverage: float = COVERAGE,
    prevalence: Mapping[str, float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
    command: str = "",
) -> tuple[Bundle, dict[str, Any]]:
    """Return the bundle calibrated on a site's own films, and what came of it in plain JSON values.

    The network stays as it is. Probabilities, operating points and the threshold of the prediction sets are fitted to
    the films anew, and the certificate remembers these films, their pixels and their patients as ones that chose: an
    evaluation on them is stamped LEAKY from then on. The card's figures of the old test part go, for they were another
    bundle's; `Card.parent` leads to it.

    `before` is what the bundle said as it came. `after`, the choice of `auto` and the measured coverage are
    cross-fitted: each film is judged by a calibration that was fitted without its patient. Operating points are chosen
    on these films with the final calibration, and flatter as such points do.

    Films that the gate doubts or that cannot be read are left out and counted.

    Args:
        bundle: as it was read or trained; it is not changed.
        listing: films with labels that the bundle knows, none of which trained it.
        method: how logits become probabilities.
        coverage: of the prediction sets, in (0, 1).
        prevalence: class to its share where the model will work; the class that is left out gets the rest. By default
            the films' own.
        seed: of the folds and of the bootstrap.
        resamples: of the patients.
        progress: stage `predictions`, films done, films in all.
        command: that is noted in the card.

    Raises:
        DataError: a film without label or with one that the bundle does not know, or too few films of a class.
        LeakError: films or patients of the set trained the model.
        SettingError: the method, the coverage or the prevalence is not allowed.
        BundleError: the graph does not answer as it did where it was made.
    """
    if method not in tuple(Method):
        raise SettingError(f"Expected the method to be one of {', '.join(Method)}, but got {str(method)!r}.")
    classes = bundle.card.classes
    needed = films_needed(coverage)
    prior = None if prevalence is None else parse_prevalence(prevalence, classes)
    site = _look(bundle, listing, needed, progress)
    patients = [record.patient for record in site.records]
    counts = np.ones(len(site.truth)) if prior is None else balance_weights(site.truth, prior)

    folds = patient_folds(site.truth, patients, _fold_count(site.truth, patients), np.random.default_rng(seed))
    outside = _cross_fit(site, folds, counts, Method(method))
    losses = {
        name: float(np.average(log_losses(values, site.truth), weights=counts)) for name, values in outside.items()
    }
    chosen = min(losses, key=lambda name: losses[name])
    scaling = _fit(chosen, site.logits, site.truth, counts)
    final = site.told if scaling is None else scaling.probabilities(site.logits)

    positive = None if bundle.card.positive is None else classes.index(bundle.card.positive)
    before, after = (
        reliability_figures(
            values, site.truth, patients, np.random.default_rng(seed), resamples, weights=counts, positive=positive
        )
        for values in (site.told, outside[chosen])
    )
    points = choose_operating_points(
        final,
        site.truth,
        classes,
        rng=np.random.default_rng(seed),
        patients=patients,
        positive=bundle.card.positive,
        resamples=resamples,
    )
    # Of probabilities that their films did not fit: the final ones know the films a little too well.
    weights = None if prior is None else counts
    conformal = Conformal(
        coverage, conformal_threshold(outside[chosen], site.truth, coverage, weights=weights), len(site.truth)
    )
    calibration = bundle.card.calibration
    if scaling is not None:
        calibration = Calibration(
            method=str(chosen),
            scale=tuple(scaling.scale.tolist()),
            bias=tuple(scaling.bias.tolist()),
            fitted_on=_describe(site, patients, prevalence),
            n=len(site.truth),
            before=before,
            after=after,
        )
    result = _assemble(bundle, listing, site, final, _Chosen(calibration, conformal, points), seed, resamples, command)
    return result, {
        "parent": bundle.bundle_id or None,
        "method": str(chosen),
        "losses": {str(name): loss for name, loss in losses.items()},
        "n": len(site.truth),
        "patients": len(set(patients)),
        "support": {label: int((site.truth == index).sum()) for index, label in enumerate(classes)},
        "left_out": dict(site.left_out),
        "failed": dict(site.failed),
        "folds": int(folds.max()) + 1,
        "prevalence": None if prior is None else dict(zip(classes, prior.tolist(), strict=True)),
        "calibration": None if calibration is None else calibration.to_dict(),
        "before": before,
        "after": after,
        "conformal": conformal.to_dict()
        | (_cross_coverage(outside[chosen], site.truth, folds, coverage, patients, seed, resamples, weights) or {}),
        "operating_points": [point.to_dict() for point in points],
    }


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


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A log loss to be made least over parameters t: scale and bias together are `spread @ t`.

    Attributes:
        logits: (n, k).
        truth: (n,).
        counts: (n,) summing to n.
        spread: (2k, m).
        centre: (m,) where the ridge pulls to; also the start.
        precision: (m,) how strongly.
    """

    logits: Float64
    truth: Int64
    counts: Float64
    spread: Float64
    centre: Float64
    precision: Float64

    def value(self, t: Float64) -> float:
        """Return the summed loss with the ridge."""
        logs = self._log_probabilities(t)
        loss = -float(self.counts @ logs[np.arange(len(self.truth)), self.truth])
        return loss + float(self.precision @ (t - self.centre) ** 2) / 2

    def slopes(self, t: Float64) -> tuple[Float64, Float64]:
        """Return gradient (m,) and Hessian (m, m)."""
        count = self.logits.shape[1]
        p = np.exp(self._log_probabilities(t))
        under = self.counts[:, np.newaxis]
        residual = under * (p - np.eye(count)[self.truth])
        gradient = np.append((residual * self.logits).sum(axis=0), residual.sum(axis=0))  # (2k,)
        both = np.hstack((p * self.logits, p))  # (n, 2k)
        hessian = -(both * under).T @ both
        s, b = np.arange(count), np.arange(count, 2 * count)
        hessian[s, s] += (under * p * self.logits**2).sum(axis=0)
        across = (under * p * self.logits).sum(axis=0)
        hessian[s, b] += across
        hessian[b, s] += across
        hessian[b, b] += (under * p).sum(axis=0)
        pull = self.precision * (t - self.centre)
        return self.spread.T @ gradient + pull, self.spread.T @ hessian @ self.spread + np.diag(self.precision)

    def _log_probabilities(self, t: Float64) -> Float64:
        count = self.logits.shape[1]
        parameters = self.spread @ t
        values = self.logits * parameters[:count] + parameters[count:]
        values -= values.max(axis=1, keepdims=True)
        logs: Float64 = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
        return logs


def _minimise(task: _Task, low: float | Float64, high: float | Float64) -> Float64:
    """Return the parameters between bounds with the least loss, by Newton steps on those that no bound holds.

    The loss is convex. Source: Bertsekas, Projected Newton methods for optimization problems with simple constraints,
    SIAM J. Control Optim. 20 (1982), 221-246.
    """
    t = np.clip(task.centre, low, high)
    value = task.value(t)
    for _ in range(STEPS):
        gradient, hessian = task.slopes(t)
        free = ~(((t <= low) & (gradient > 0)) | ((t >= high) & (gradient < 0)))
        if np.abs(gradient[free]).max(initial=0) <= 1e-9 * len(task.truth):
            break
        step = np.zeros_like(t)
        # The pseudo-inverse, because without a ridge all biases may move together at no cost.
        step[free] = -np.linalg.pinv(hessian[np.ix_(free, free)], hermitian=True) @ gradient[free]
        size = 1.0
        while size > 1e-12:
            trial = np.clip(t + size * step, low, high)
            reached = task.value(trial)
            if reached <= value + 1e-4 * float(gradient @ (trial - t)):
                break
            size /= 2
        else:
            break
        t, value = trial, reached
    return t


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


def _check_fit(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    prior: npt.ArrayLike | None,
    ridge: float,
) -> tuple[Float64, Int64, Float64]:
    """Return logits (n, k), labels (n,), and weights (n,) that sum to n, or say what is wrong with them."""
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"Expected finite logits of shape (n, classes), but got shape {values.shape} or nan.")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise SettingError(f"Expected a ridge of 0 or more, but got {ridge!r}.")
    _, truth = check_predictions(softmax(values) if len(values) else values, labels)
    counts = _check_weights(weights, len(truth))
    if prior is not None:
        counts = balance_weights(truth, check_prior(prior, values.shape[1]), counts)
    return values, truth, counts * (len(truth) / counts.sum())


def _check_weights(weights: npt.ArrayLike | None, n: int) -> Float64:
    counts = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if counts.shape != (n,) or not (np.isfinite(counts).all() and (counts >= 0).all() and counts.sum() > 0):
        raise ValueError(f"Expected {n} weights of 0 or more, not all 0, but got shape {counts.shape} or others.")
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """The films that calibrate.

    Attributes:
        records: n films.
        truth: (n,).
        logits: (n, k).
        told: (n, k) probabilities of the bundle as it came.
        hashes: (n,) of the content and of the pixels.
        left_out: status to number of films.
        failed: path to reason of films that could not be read.
    """

    records: tuple[ImageRecord, ...]
    truth: Int64
    logits: Float64
    told: Float64
    hashes: tuple[tuple[str, str], ...] = field(repr=False)
    left_out: Mapping[str, int]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the films chose."""

    calibration: Calibration | None
    conformal: Conformal
    points: tuple[OperatingPoint, ...]


def _look(bundle: Bundle, listing: Listing, needed: int, progress: Progress | None) -> _Site:
    """Return what the bundle says of the films that it was made for, after checking that they may calibrate it."""
    card = bundle.card
    judged = judge(Predictor(bundle), listing, resamples=0, gallery=0, progress=progress)
    kept = [
        (record, prediction)
        for record, prediction in zip(judged.records, judged.predictions, strict=True)
        # A film of which the model is not sure is one of its films.
        if prediction.status in (Status.OK, Status.ABSTAIN)
    ]
    left_out = Counter(str(item.status) for item in judged.predictions) - Counter(str(item.status) for _, item in kept)
    _check_enough([record for record, _ in kept], card.classes, needed, left_out)
    site = _Site(
        records=tuple(record for record, _ in kept),
        truth=np.array([card.classes.index(str(record.label)) for record, _ in kept], np.int64),
        logits=np.array([item.logits for _, item in kept], np.float64),
        told=np.array([[item.probabilities[label] for label in card.classes] for _, item in kept]),
        hashes=tuple((item.content_hash or "", item.pixel_hash or "") for _, item in kept),
        left_out=left_out,
        failed=judged.evaluation.failed,
    )
    made = bundle.split
    taught = replace(
        made,
        images={Split.TRAIN: made.images.get(Split.TRAIN, ())},
        pixels={Split.TRAIN: made.pixels.get(Split.TRAIN, ())},
        patients={Split.TRAIN: made.patients.get(Split.TRAIN, ())},
    )
    leak = find_leak(
        taught,
        [content for content, _ in site.hashes],
        [record.patient for record in site.records],
        listing.patient_source,
        pixels=[pixels for _, pixels in site.hashes],
    )
    if leak.leaky:
        raise LeakError(
            f"{leak.images} of the films and {leak.patients} of their patients trained this model: it is surer of them "
            "than of any others. Calibrate on films that did not."
        )
    return site


def _check_enough(
    records: Sequence[ImageRecord], classes: Sequence[str], needed: int, left_out: Mapping[str, int]
) -> None:
    counts = Counter(str(record.label) for record in records)
    without = ", ".join(f"{number} {status}" for status, number in left_out.items())
    told = f" ({sum(left_out.values())} were left out: {without})" if left_out else ""
    for label in classes:
        if counts[label] < MIN_FILMS:
            raise DataError(
                f"Expected at least {MIN_FILMS} films of each class to calibrate on, but got {counts[label]} of "
                f"{label!r}{told}. Add films of it."
            )
        if len({record.patient for record in records if record.label == label}) < 2:
            raise DataError(
                f"Expected films of at least 2 patients of each class, but all of {label!r} are of one. Add films of "
                "others, or give the patients, so that a calibration can be tried on patients that did not fit it."
            )
    if len(records) < needed:
        raise DataError(
            f"Expected at least {needed} films to promise the coverage that was asked for, but got {len(records)}"
            f"{told}. Add films, or ask for less."
        )


def _fold_count(truth: Int64, patients: Sequence[str]) -> int:
    """Return how many folds there can be so that each class's patients reach all of them."""
    of_class: dict[int, set[str]] = defaultdict(set)
    for label, patient in zip(truth.tolist(), patients, strict=True):
        of_class[label].add(patient)
    return min(FOLDS, *(len(members) for members in of_class.values()))


def _fit(method: Method, logits: Float64, truth: Int64, counts: Float64) -> Scaling | None:
    if method is Method.TEMPERATURE:
        return fit_temperature(logits, truth, counts)
    return fit_vector(logits, truth, counts) if method is Method.VECTOR else None


def _cross_fit(site: _Site, folds: Int64, counts: Float64, method: Method) -> dict[Method, Float64]:
    """Return, for each method that is in question, the probabilities (n, k) by fits without the film's patient."""
    tried = (Method.NONE, Method.TEMPERATURE, Method.VECTOR) if method is Method.AUTO else (method,)
    outside = {name: site.told.copy() for name in tried}
    for name in tried:
        for fold in np.unique(folds):
            held = folds == fold
            scaling = _fit(name, site.logits[~held], site.truth[~held], counts[~held])
            if scaling is not None:
                outside[name][held] = scaling.probabilities(site.logits[held])
    return outside


def _cross_coverage(
    outside: Float64,
    truth: Int64,
    folds: Int64,
    coverage: float,
    patients: Sequence[str],
    seed: int,
    resamples: int,
    weights: Float64 | None,
) -> dict[str, dict[str, float | None]] | None:
    """Return `measure_coverage` with thresholds of the other folds; None where these have too few films for one."""
    thresholds = np.empty(len(truth))
    for fold in np.unique(folds):
        held = folds == fold
        try:
            thresholds[held] = conformal_threshold(
                outside[~held], truth[~held], coverage, weights=None if weights is None else weights[~held]
            )
        except DataError:
            return None
    return measure_coverage(
        outside, truth, thresholds, patients, np.random.default_rng(seed), resamples, weights=weights
    )


def _describe(site: _Site, patients: Sequence[str], prevalence: Mapping[str, float] | None) -> str:
    balance = "" if prevalence is None else ", weighted to the prevalence where it will work"
    return (
        f"{len(site.truth)} films of {len(set(patients))} patients of the site's own{balance}; the figures with it are "
        "of films that did not fit it (cross-fitted by patient)"
    )


def _assemble(
    bundle: Bundle,
    listing: Listing,
    site: _Site,
    final: Float64,
    chosen: _Chosen,
    seed: int,
    resamples: int,
    command: str,
) -> Bundle:
    """Return the bundle with what was chosen, and with a certificate and figures of the films that chose."""
    certificate = _remember(bundle.split, listing, site)
    patients = [record.patient for record in site.records]
    old: Card = bundle.card
    evaluation = evaluate(
        final,
        site.truth,
        patients,
        old.classes,
        rng=np.random.default_rng(seed),
        positive=old.positive,
        operating_points=chosen.points,
        resamples=resamples,
        leak=find_leak(
            certificate,
            [content for content, _ in site.hashes],
            patients,
            listing.patient_source,
            pixels=[pixels for _, pixels in site.hashes],
        ),
        failed=site.failed,
    )
    added = Counter(str(record.label) for record in site.records)
    validation = Counter(old.counts.get(str(Split.VALIDATION), {})) + added
    card = replace(
        old,
        name=f"{old.name}-calibrated",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        operating_points=chosen.points,
        validation=evaluation.to_dict(),
        test=None,
        counts={**old.counts, str(Split.VALIDATION): dict(validation)},
        command=command,
        calibration=chosen.calibration,
        conformal=chosen.conformal,
        parent=bundle.bundle_id or None,
    )
    return replace(bundle, card=card, split=certificate, bundle_id="")


def _remember(certificate: SplitCertificate, listing: Listing, site: _Site) -> SplitCertificate:
    """Return the certificate with the site's films among those that chose."""
    records = tuple(replace(record, split=Split.VALIDATION) for record in site.records)
    pairs = tuple(zip(records, site.hashes, strict=True))
    new = certify(
        replace(listing, records=records),
        {record.path: content for record, (content, _) in pairs},
        _NO_AUDIT,
        certificate.salt,
        pixels={record.path: pixels for record, (_, pixels) in pairs},
    )
    part = Split.VALIDATION
    # Names of files prove nothing; among identities from a table or a header they would pass for proof.
    proven = certificate.patient_source in (PatientSource.CSV, PatientSource.DICOM)
    weaker = proven and listing.patient_source is PatientSource.NAME
    return replace(
        certificate,
        images={**certificate.images, part: _joined(certificate.images, new.images)},
        pixels={**certificate.pixels, part: _joined(certificate.pixels, new.pixels)},
        patients=certificate.patients
        if weaker
        else {**certificate.patients, part: _joined(certificate.patients, new.patients)},
    )


def _joined(old: Mapping[Split, tuple[str, ...]], new: Mapping[Split, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({*old.get(Split.VALIDATION, ()), *new.get(Split.VALIDATION, ())}))


_NO_AUDIT = Audit(
    n=0,
    unreadable={},
    pairs=(),
    counts={},
    patients={},
    patient_source=PatientSource.NONE,
    shared_patients=0,
    heights=(0, 0, 0),
    widths=(0, 0, 0),
    formats={},
    shortcuts={},
    findings=(),
)
"""Stands in where only the hashes of a certificate are wanted."""
