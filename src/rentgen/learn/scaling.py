"""From logits to probabilities: temperature and vector scaling, by projected Newton steps in NumPy.

Source: Guo et al., On calibration of modern neural networks, ICML 2017. For several findings, the same on each one's
own logit: Platt, Probabilistic outputs for support vector machines, 1999.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from rentgen.engine.predictor import sigmoid, softmax
from rentgen.errors import SettingError
from rentgen.evaluate.metrics import check_predictions
from rentgen.evaluate.prevalence import balance_weights, check_prior
from rentgen.evaluate.weighted import check_weights
from rentgen.records import UNKNOWN, Float64, Int64, Task

RIDGE = 1.0
"""Weight of the pull towards doing little, in films: it fades as films come in."""
SCALES = (1e-3, 1e3)
"""Bounds of a scale; reached where the films are told apart without a mistake and there is no ridge."""
STEPS = 200


class Method(StrEnum):
    """How logits become probabilities."""

    AUTO = "auto"
    """Of the three below, the one with the lowest log loss on films that did not fit it."""
    NONE = "none"
    """As the bundle has it."""
    TEMPERATURE = "temperature"
    """One scale for all classes: no film changes its class."""
    VECTOR = "vector"
    """A scale and a bias for each class; of several findings this is Platt's scaling of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """From logits to probabilities: `softmax(logits * scale + bias)`, or the sigmoid of it for several findings.

    Attributes:
        method: how it was found.
        scale: (k,), positive.
        bias: (k,).
        task: one class a film, or several findings.
    """

    method: Method
    scale: Float64
    bias: Float64
    task: Task = Task.MULTICLASS

    def probabilities(self, logits: npt.ArrayLike) -> Float64:
        """Return (n, k) for logits (n, k)."""
        values = np.asarray(logits, np.float64) * self.scale + self.bias
        return sigmoid(values) if self.task is Task.MULTILABEL else softmax(values)


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
        labels: (n,), or (n, k) of several findings.
        weights: (n,) how often each film counts, or, of several findings, (n, k) each pair; once by default.
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
    if truth.ndim == 2:
        film, column = np.nonzero(truth != UNKNOWN)
        scale, _ = _fit_binary(values[film, column], truth[film, column], counts[film, column], (1.0, ridge), None)
        return Scaling(Method.TEMPERATURE, np.full(count, scale), np.zeros(count), Task.MULTILABEL)
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
        labels: (n,), or (n, k) of several findings.
        weights: (n,) how often each film counts, or, of several findings, (n, k) each pair; once by default.
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
    if truth.ndim == 2:
        fits = []
        for column, scale in enumerate(common.tolist()):
            known = truth[:, column] != UNKNOWN
            pull = (scale, ridge * scale**-2)
            fits.append(_fit_binary(values[known, column], truth[known, column], counts[known, column], pull, ridge))
        found = np.array(fits)  # (k, 2)
        return Scaling(Method.VECTOR, found[:, 0], found[:, 1], Task.MULTILABEL)
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


def _fit_binary(
    values: Float64, truth: Int64, counts: Float64, pull: tuple[float, float], bias: float | None
) -> tuple[float, float]:
    """Return the scale and bias of one finding's logits that make its log loss least.

    It is the two-class problem in which the other class's logit is 0.

    Args:
        values: (n,) logits.
        truth: (n,) 1 or 0.
        counts: (n,) how often each counts.
        pull: where the scale is pulled to, and how strongly.
        bias: how strongly the bias is pulled to 0; None holds it there.
    """
    if not len(values):
        return pull[0], 0.0
    logits = np.column_stack((np.zeros(len(values)), values))
    spread = np.zeros((4, 1 if bias is None else 2))
    spread[1, 0] = 1.0
    centre, precision = [pull[0]], [pull[1]]
    low, high = [SCALES[0]], [SCALES[1]]
    if bias is not None:
        spread[3, 1] = 1.0
        centre, precision, low, high = [*centre, 0.0], [*precision, bias], [*low, -np.inf], [*high, np.inf]
    task = _Task(logits, truth, counts, spread, np.array(centre), np.array(precision))
    found = _minimise(task, np.array(low), np.array(high))
    return float(found[0]), 0.0 if bias is None else float(found[1])


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


def _check_fit(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    prior: npt.ArrayLike | None,
    ridge: float,
) -> tuple[Float64, Int64, Float64]:
    """Return logits (n, k), labels, and weights that sum to n, or say what is wrong with them.

    Of several findings, labels and weights are (n, k), and the weights of pairs are as they were given.
    """
    values = np.asarray(logits, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"Expected finite logits of shape (n, classes), but got shape {values.shape} or nan.")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise SettingError(f"Expected a ridge of 0 or more, but got {ridge!r}.")
    several = np.ndim(labels) == 2
    told = values if not len(values) else sigmoid(values) if several else softmax(values)
    _, truth = check_predictions(told, labels, several=True)
    if several and prior is not None:
        raise SettingError("Expected no class balance for several findings: weigh the pairs (`balance_findings`).")
    if weights is not None and np.ndim(weights) == 2:
        return values, truth, check_weights(weights, *truth.shape)
    counts = check_weights(weights, len(truth))
    if prior is not None:
        counts = balance_weights(truth, check_prior(prior, values.shape[1]), counts)
    counts = counts * (len(truth) / counts.sum())
    return values, truth, np.repeat(counts[:, np.newaxis], truth.shape[1], axis=1) if several else counts
