"""All that is measured on one set, with patient-wise intervals, in one pass over the resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.metrics import (
    check_classes,
    check_predictions,
    confusion_matrix,
    operating_rates,
    operating_table,
    place_intervals,
    positive_class,
    precision_recall_curve,
    reliability_curve,
    roc_curve,
)
from rentgen.evaluate.weighted import PER_CLASS, Cases, measure
from rentgen.records import Curve, Evaluation, Float64, Leak, OperatingPoint


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
        probabilities: (n, k), rows summing to 1.
        labels: (n,) indices of the true classes.
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
    scores, truth = check_predictions(probabilities, labels)
    chosen = positive if positive is not None else positive_class(classes)
    check_classes(classes, scores, chosen)
    if len(patients) != len(truth):
        raise ValueError(f"Expected one patient for each of {len(truth)} images, but got {len(patients)}.")
    cases = Cases.of(scores, truth, None if chosen is None else classes.index(chosen))
    table = operating_table(operating_points, scores, truth, classes) if operating_points else np.empty((len(truth), 0))
    names = tuple(measure(cases, np.ones((1, len(truth))))[0])

    def statistic(weights: Float64) -> Float64:
        metrics, per_class = measure(cases, weights)
        return np.column_stack(
            (*metrics.values(), *(per_class[name] for name in PER_CLASS), operating_rates(table, weights))
        )

    found = bootstrap(statistic, patients, rng=rng, resamples=resamples)
    of_classes = found[len(names) :]
    count = len(classes)
    return Evaluation(
        classes=tuple(classes),
        positive=chosen,
        n=len(truth),
        patients=len(set(patients)),
        metrics=dict(zip(names, found, strict=False)),
        per_class={
            label: {name: of_classes[row * count + column] for row, name in enumerate(PER_CLASS)}
            for column, label in enumerate(classes)
        },
        support={label: int((truth == index).sum()) for index, label in enumerate(classes)},
        confusion=tuple(tuple(int(number) for number in row) for row in confusion_matrix(scores, truth)),
        roc=_measured({label: roc_curve(scores, truth, index) for index, label in enumerate(classes)}),
        precision_recall=_measured(
            {label: precision_recall_curve(scores, truth, index) for index, label in enumerate(classes)}
        ),
        reliability=reliability_curve(scores, truth),
        operating_points=place_intervals(operating_points, of_classes[len(PER_CLASS) * count :]),
        resamples=resamples,
        leak=leak,
        failed=dict(failed or {}),
        statuses=dict(statuses or {}),
    )


def _measured(curves: Mapping[str, Curve | None]) -> dict[str, Curve]:
    """Return the curves that could be drawn."""
    return {label: curve for label, curve in curves.items() if curve is not None}
