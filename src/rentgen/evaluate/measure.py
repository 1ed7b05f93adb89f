"""All that is measured on one set, with patient-wise intervals, in one pass over the resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.metrics import (
    check_classes,
    check_predictions,
    choose_positive,
    confusion_matrix,
    operating_rates,
    operating_table,
    place_intervals,
    precision_recall_curve,
    reliability_curve,
    roc_curve,
)
from rentgen.evaluate.several import FindingCases, count_errors, measure_findings
from rentgen.evaluate.weighted import Cases, measure
from rentgen.records import (
    UNKNOWN,
    Curve,
    Evaluation,
    Float64,
    Int64,
    Leak,
    OperatingPoint,
    Task,
    deciding_thresholds,
    one_against_rest,
)

Measure = Callable[[Float64], tuple[dict[str, Float64], dict[str, Float64]]]
"""From weights (resamples, n) to metrics, each (resamples,), and metrics of each class, each (resamples, k)."""


def evaluate(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    rng: np.random.Generator,
    positive: str | None = None,
    operating_points: Sequence[OperatingPoint] = (),
    resamples: int = RESAMPLES,
    leak: Leak | None = None,
    failed: Mapping[str, str] | None = None,
    statuses: Mapping[str, int] | None = None,
) -> Evaluation:
    """Return every metric with its 95 % interval, the curves, and the operating points measured on this set.

    Args:
        probabilities: (n, k), rows summing to 1; or of several findings.
        labels: (n,) indices of the true classes; or (n, k) of several findings, each at its own operating point.
        patients: (n,) whom each image shows; the intervals resample them.
        classes: names, in the order of the columns.
        rng: the only source of randomness.
        positive: of two classes; None lets `positive_class` choose.
        operating_points: with thresholds chosen on another set.
        resamples: of the patients; 0 leaves the intervals' ends nan.
        leak: what the set shares with the making of the model.
        failed: path to reason of files that could not be read.
        statuses: status to number of images.

    Raises:
        DataError: there is no image, or an operating point is of a class that is not there.
        ValueError: shapes or values that cannot be right.

    Example:
        >>> told = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
        >>> found = evaluate(told, [0, 1, 0, 0], "abcd", ("normal", "pneumonia"), rng=np.random.default_rng(0))
        >>> found.metrics["accuracy"].value, found.positive, found.confusion
        (0.75, 'pneumonia', ((2, 1), (0, 1)))
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    chosen = choose_positive(classes, truth, positive)
    check_classes(classes, scores, chosen)
    if len(patients) != len(truth):
        raise ValueError(f"Expected one patient for each of {len(truth)} images, but got {len(patients)}.")
    measured = measuring(scores, truth, classes, chosen, operating_points)
    table = operating_table(operating_points, scores, truth, classes) if operating_points else np.empty((len(truth), 0))
    names, kinds = (tuple(values) for values in measured(np.ones((1, len(truth)))))

    def statistic(weights: Float64) -> Float64:
        metrics, per_class = measured(weights)
        return np.column_stack((*metrics.values(), *per_class.values(), operating_rates(table, weights)))

    found = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    of_classes = found[len(names) :]
    count = len(classes)
    several = truth.ndim == 2
    against = one_against_rest(truth, count)
    confusion = () if several else confusion_matrix(scores, truth)
    return Evaluation(
        classes=tuple(classes),
        positive=chosen,
        n=len(truth),
        patients=len(set(patients)),
        metrics=dict(zip(names, found, strict=False)),
        per_class={
            label: {name: of_classes[row * count + column] for row, name in enumerate(kinds)}
            for column, label in enumerate(classes)
        },
        support={label: int((against[:, index] == 1).sum()) for index, label in enumerate(classes)},
        confusion=tuple(tuple(int(number) for number in row) for row in confusion),
        roc=_measured({label: roc_curve(scores, truth, index) for index, label in enumerate(classes)}),
        precision_recall=_measured(
            {label: precision_recall_curve(scores, truth, index) for index, label in enumerate(classes)}
        ),
        reliability=reliability_curve(scores, truth),
        operating_points=place_intervals(operating_points, of_classes[len(kinds) * count :]),
        resamples=resamples,
        leak=leak,
        failed=dict(failed or {}),
        statuses=dict(statuses or {}),
        task=Task.MULTILABEL if several else Task.MULTICLASS,
        known={label: int((against[:, index] != UNKNOWN).sum()) for index, label in enumerate(classes)}
        if several
        else {},
        errors=count_errors(scores, truth, deciding_thresholds(operating_points, classes), classes) if several else {},
    )


def measuring(
    scores: Float64,
    truth: Int64,
    classes: Sequence[str],
    positive: str | None,
    points: Sequence[OperatingPoint] = (),
    pairs: Float64 | None = None,
) -> Measure:
    """Return the function from weights to all metrics, of one class a film or of several findings.

    Args:
        scores: (n, k), already checked.
        truth: (n,), or (n, k).
        classes: in the order of the columns.
        positive: of two classes.
        points: at which findings are called; one half where there is none.
        pairs: (n, k) how often each pair of film and finding counts, beside the weights of the films.
    """
    if truth.ndim == 2:
        cases = FindingCases.of(scores, truth, deciding_thresholds(points, classes), pairs)
        return partial(measure_findings, cases)
    return partial(measure, Cases.of(scores, truth, None if positive is None else classes.index(positive)))


def _measured(curves: Mapping[str, Curve | None]) -> dict[str, Curve]:
    """Return the curves that could be drawn."""
    return {label: curve for label, curve in curves.items() if curve is not None}
