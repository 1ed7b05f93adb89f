"""One trial: a head on cached features, measured on patients that neither taught it nor stopped it.

Each fold in turn is measured; the next one stops the training and fits the calibration; the rest teach. A loss on the
fold that stopped the training would flatter, the more so the more trials there are (Cawley and Talbot 2010).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rentgen.evaluate.prevalence import balance_weights
from rentgen.evaluate.several import mean_cell_loss
from rentgen.evaluate.weighted import log_losses
from rentgen.learn.features import Half
from rentgen.learn.head import Features, Head, train_head
from rentgen.learn.recipe import Recipe
from rentgen.learn.scaling import fit_vector
from rentgen.learn.search.bank import Bank, Inner
from rentgen.learn.search.space import settle
from rentgen.records import UNKNOWN, Float32, Float64, Int64
from rentgen.records.search import Trial


@dataclass(frozen=True, slots=True)
class Measured:
    """What one fold brought.

    Attributes:
        loss: of plain and stressed films, by weight, nats.
        accuracy: of the plain films; of what is known of several findings.
        stressed: of the stressed films.
    """

    loss: float
    accuracy: float
    stressed: float


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a head, or several together, answer in one fold, before calibration.

    Attributes:
        fitted: logits (m, k) of the plain and of the stressed films that stopped the training.
        scored: logits (n, k) of those of the fold that measures.
    """

    fitted: tuple[Float32, Float32]
    scored: tuple[Float32, Float32]


def answer_fold(bank: Bank, inner: Inner, recipe: Recipe, number: int) -> Answers:
    """Train a head on all folds but two, and return what it answers in those.

    Args:
        bank: features.
        inner: films, labels, folds.
        recipe: head and views.
        number: of the fold that measures; the next one stops the training.
    """
    scores, stops = _folds(inner, number)
    teaches = ~(scores | stops)
    views = bank.views[: recipe.augment.views + 1]
    head, _ = train_head(
        Features(tuple(view[teaches] for view in views), inner.labels[teaches]),
        Features((bank.views[0][stops],), inner.labels[stops]),
        recipe.head,
        classes=inner.classes,
    )
    return Answers(
        (_logits(head, bank.views[0], stops), _logits(head, bank.stressed, stops)),
        (_logits(head, bank.views[0], scores), _logits(head, bank.stressed, scores)),
    )


def measure_answers(answers: Answers, inner: Inner, number: int, stress_weight: float) -> Measured:
    """Return how the answers of a fold do; arguments as of `answer_fold` and `measure_head`."""
    scores, stops = _folds(inner, number)
    return measure_head(answers.fitted, inner.labels[stops], answers.scored, inner.labels[scores], stress_weight)


def _folds(inner: Inner, number: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which films measure and which stop the training."""
    return inner.fold == number, inner.fold == (number + 1) % inner.folds


def measure_head(
    fitted: tuple[Float32, Float32],
    fitted_labels: Int64,
    scored: tuple[Float32, Float32],
    labels: Int64,
    stress_weight: float,
) -> Measured:
    """Return how logits do after a calibration on other films.

    Args:
        fitted: logits (m, k) of the plain and of the stressed films that fit the calibration.
        fitted_labels: (m,), or (m, k) of several findings.
        scored: logits (n, k) of the plain and of the stressed films that measure.
        labels: (n,), or (n, k).
        stress_weight: share of the stressed films.
    """
    several = labels.ndim == 2
    weights = np.repeat([1 - stress_weight, stress_weight], len(fitted_labels))
    together = np.concatenate([fitted_labels, fitted_labels])
    if not several:
        weights = _balanced(together, fitted[0].shape[1], weights)
    scaling = fit_vector(np.concatenate(fitted), together, weights)
    plain, worse = (scaling.probabilities(logits) for logits in scored)
    loss = (1 - stress_weight) * _loss(plain, labels) + stress_weight * _loss(worse, labels)
    return Measured(loss, _accuracy(plain, labels), _accuracy(worse, labels))


def _logits(head: Head, features: Half, chosen: npt.NDArray[np.bool_]) -> Float32:
    return head.logits(features[chosen].astype(np.float32))


def _balanced(labels: Int64, classes: int, weights: Float64 | None = None) -> Float64:
    return balance_weights(labels, np.full(classes, 1 / classes), weights)


def _loss(probabilities: Float64, labels: Int64) -> float:
    if labels.ndim == 2:
        return mean_cell_loss(probabilities, labels)
    return float(np.average(log_losses(probabilities, labels), weights=_balanced(labels, probabilities.shape[1])))


def _accuracy(probabilities: Float64, labels: Int64) -> float:
    if labels.ndim == 2:
        known = labels != UNKNOWN
        return float(((probabilities >= 0.5) == labels)[known].mean()) if known.any() else math.nan
    return float((probabilities.argmax(1) == labels).mean())


def run_trial(
    bank: Bank,
    inner: Inner,
    base: Recipe,
    settings: Mapping[str, Any],
    *,
    number: int,
    stress_weight: float,
    behind: Callable[[Trial], bool] | None = None,
) -> Trial:
    """Return what a head brings over the folds.

    Args:
        bank: features.
        inner: films, labels, folds.
        base: recipe of what the trial does not choose.
        settings: of the trial, `table.key` to value.
        number: of the trial.
        stress_weight: share of the stressed films.
        behind: called after each fold with what was found so far; True gives the trial up.
    """
    recipe = settle(base, bank.sight, settings)
    started = time.monotonic()
    found: list[Measured] = []

    def told() -> Trial:
        return Trial(
            number=number,
            films=str(bank.sight),
            settings=dict(settings),
            losses=tuple(one.loss for one in found),
            accuracy=float(np.mean([one.accuracy for one in found])),
            stressed=float(np.mean([one.stressed for one in found])),
            seconds=time.monotonic() - started,
            whole=len(found) == inner.folds,
        )

    for fold in range(inner.folds):
        answers = answer_fold(bank, inner, recipe, fold)
        found.append(measure_answers(answers, inner, fold, stress_weight))
        if behind is not None and behind(told()):
            break
    return told()


def restore_trial(text: str) -> Trial:
    """Return a trial from its fields as JSON."""
    values: dict[str, Any] = json.loads(text)
    return Trial(**values | {"losses": tuple(values["losses"])})


def nested_loss(trials: Sequence[Trial]) -> float:
    """Return the mean loss on each fold of the trial that the other folds choose; nan where there is no choice.

    That is what choosing among so many costs: the winner's own mean flatters it (Varma and Simon 2006).
    """
    if not trials:
        return math.nan
    losses = np.array([trial.losses for trial in trials])  # (trials, folds)
    others = (losses.sum(1, keepdims=True) - losses) / (losses.shape[1] - 1)
    chosen = others.argmin(0)
    return float(losses[chosen, np.arange(losses.shape[1])].mean())
