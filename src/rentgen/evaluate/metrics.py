"""Metrics of a classifier: pure functions of probabilities and labels, in NumPy alone.

All take `probabilities` (n, k), rows summing to 1, and `labels` (n,), indices of the true classes. What looks at one
class against the rest (areas, curves, operating points) takes several findings, too: probabilities of each and `labels`
(n, k) of `records.truth`, and looks at the films of which the finding is known. What cannot be measured is nan;
`rentgen.evaluate.weighted` says when, and defines each metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rentgen.errors import DataError
from rentgen.evaluate.intervals import RESAMPLES, bootstrap
from rentgen.evaluate.weighted import (
    BINS,
    Bool,
    Ranking,
    confidence_bins,
    divide,
    from_confusion,
    log_losses,
    mean_of_measured,
    weighted_auroc,
    weighted_average_precision,
)
from rentgen.records import UNKNOWN, Curve, Float64, Int64, Interval, OperatingPoint, one_against_rest

CURVE_POINTS = 400
"""Points kept of a ROC or precision-recall curve."""
TARGET = 0.95
"""Sensitivity, and specificity, that the named operating points reach."""

NORMAL_NAMES = frozenset(
    {"0", "absent", "clear", "control", "controls", "false", "neg", "negative", "nil", "none", "unremarkable"}
    | {"nofinding", "nofindings", "здоровий", "здорові", "негативний"}
)
"""Class names that read as normal: in lower case, letters and digits only."""
NORMAL_BEGINNINGS = frozenset({"healthy", "no", "non", "normal", "not", "without", "без", "норма"})
"""First words of class names that read as normal: `no finding`, `non-covid`, `without tuberculosis`."""


def positive_class(classes: Sequence[str]) -> str | None:
    """Return the class that recall, precision and specificity speak of; None unless there are two classes.

    Of two, it is the one that does not read as normal; where both or neither do, the last.

    Example:
        >>> positive_class(("COVID", "NORMAL")), positive_class(("No_Finding", "Nodule")), positive_class("abc")
        ('COVID', 'Nodule', None)
    """
    if len(classes) != 2:
        return None
    first, last = classes
    return first if _reads_normal(last) and not _reads_normal(first) else last


def _reads_normal(name: str) -> bool:
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return bool(words) and ("".join(words) in NORMAL_NAMES or words[0] in NORMAL_BEGINNINGS)


def check_predictions(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, several: bool = False
) -> tuple[Float64, Int64]:
    """Return probabilities (n, k) as float64 and labels (n,) as int64, or say what is wrong with them.

    Args:
        probabilities: of one class a film, or of several findings.
        labels: (n,), or (n, k).
        several: accept labels (n, k) of several findings.

    Raises:
        DataError: there is no image.
        ValueError: a shape, a probability or a label that cannot be right.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels)
    if several and truth.ndim == 2:
        return _check_findings(scores, truth)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"Expected probabilities of shape (n, 2 or more classes), but got {scores.shape}.")
    if truth.shape != scores.shape[:1]:
        raise ValueError(f"Expected one label for each of {len(scores)} images, but got labels of shape {truth.shape}.")
    if not len(scores):
        raise DataError("Expected at least one image to measure, but got none.")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"Expected labels to be whole numbers, but got {truth.dtype}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"Expected finite probabilities, but got {int((~np.isfinite(scores)).sum())} that are not.")
    if scores.min() < 0 or scores.max() > 1 + 1e-6:
        raise ValueError(f"Expected probabilities in [0, 1], but got [{scores.min():.6g}, {scores.max():.6g}].")
    sums = scores.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > 1e-4:
        raise ValueError(f"Expected the probabilities of each image to sum to 1, but got a sum of {worst:.6g}.")
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"Expected labels in [0, {scores.shape[1] - 1}], but got [{truth.min()}, {truth.max()}].")
    return scores, truth.astype(np.int64)


def _check_findings(scores: Float64, truth: npt.NDArray[np.generic]) -> tuple[Float64, Int64]:
    if scores.shape != truth.shape or not scores.shape[1]:
        raise ValueError(f"Expected a label for each probability, but got shapes {truth.shape} and {scores.shape}.")
    if not len(scores):
        raise DataError("Expected at least one image to measure, but got none.")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1 + 1e-6):
        raise ValueError("Expected finite probabilities in [0, 1], but got others.")
    if not (np.issubdtype(truth.dtype, np.integer) and np.isin(truth, (UNKNOWN, 0, 1)).all()):
        raise ValueError(f"Expected labels of findings to be 1, 0 or {UNKNOWN}, but got others.")
    return scores, truth.astype(np.int64)


def of_class(scores: Float64, truth: Int64, label: int) -> tuple[Float64, Bool]:
    """Return the scores of a class, and whether each film has it, of the films of which that is known."""
    if truth.ndim == 1:
        return scores[:, label], truth == label
    known = truth[:, label] != UNKNOWN
    return scores[known, label], truth[known, label] == 1


def accuracy(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the share of images whose most probable class is the true one."""
    scores, truth = check_predictions(probabilities, labels)
    return float((scores.argmax(axis=1) == truth).mean())


def balanced_accuracy(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the mean of the recalls of the classes present."""
    return recall(probabilities, labels)


def recall(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the recall (sensitivity) of class index `label`, or the macro average."""
    return _of_confusion("recall", probabilities, labels, label)


def precision(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the precision (positive predictive value) of class index `label`, or the macro average."""
    return _of_confusion("precision", probabilities, labels, label)


def specificity(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the specificity of class index `label` against the rest, or the macro average."""
    return _of_confusion("specificity", probabilities, labels, label)


def f1(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the harmonic mean of precision and recall of class index `label`, or the macro average."""
    return _of_confusion("f1", probabilities, labels, label)


def confusion_matrix(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Int64:
    """Return (k, k) counts: rows are the true classes, columns the most probable ones."""
    scores, truth = check_predictions(probabilities, labels)
    count = scores.shape[1]
    cells = np.bincount(truth * count + scores.argmax(axis=1), minlength=count * count)
    return cells.reshape(count, count).astype(np.int64)


def auroc(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the area under the ROC curve of class index `label` against the rest, or the macro average; ties right."""
    return _of_ranking(weighted_auroc, probabilities, labels, label)


def average_precision(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None = None) -> float:
    """Return the average precision of class index `label` against the rest, or the macro average.

    The definition is scikit-learn's: precisions weighted by the gain in recall, without interpolation.
    """
    return _of_ranking(weighted_average_precision, probabilities, labels, label)


def log_loss(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the mean cross-entropy in nats; a probability of 0 counts as float64's epsilon."""
    return float(log_losses(*check_predictions(probabilities, labels)).mean())


def brier_score(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the mean squared distance to the truth, summed over classes; halved for two classes, as in scikit-learn.

    Source: Brier, Verification of forecasts expressed in terms of probability, Mon. Weather Rev. 78 (1950), 1-3.
    """
    scores, truth = check_predictions(probabilities, labels)
    count = scores.shape[1]
    return float(((scores - np.eye(count)[truth]) ** 2).sum(axis=1).mean()) * (0.5 if count == 2 else 1.0)


def calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS) -> float:
    """Return the expected calibration error of the most probable class, over equal-width bins.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    scores, truth = check_predictions(probabilities, labels)
    confidence = scores.max(axis=1)
    surplus = confidence - (scores.argmax(axis=1) == truth)
    return float(np.abs(np.bincount(confidence_bins(confidence, bins), surplus, bins)).sum() / len(truth))


def roc_curve(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int) -> Curve | None:
    """Return sensitivity (y) over 1 - specificity (x) from (0, 0) to (1, 1); None where it cannot be measured."""
    true, false = _threshold_counts(*of_class(*check_predictions(probabilities, labels, several=True), label))
    if not (true[-1] and false[-1]):
        return None
    return _thin(np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1]))


def precision_recall_curve(probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int) -> Curve | None:
    """Return precision (y) over recall (x), from (0, 1) on; None where the class is not in the set.

    The first point is a convention, as in scikit-learn: with no image called positive there is no precision.
    """
    true, false = _threshold_counts(*of_class(*check_predictions(probabilities, labels, several=True), label))
    if not true[-1]:
        return None
    # Past full recall the curve only falls down a vertical line.
    last = int(np.searchsorted(true, true[-1])) + 1
    rise = true[:last]
    return _thin(np.append(0.0, rise / true[-1]), np.append(1.0, rise / (rise + false[:last])))


def reliability_curve(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS) -> Curve:
    """Return the share that was right (y) over the mean confidence (x) of each bin that holds an image.

    Of several findings, it is the share present over the mean probability, of all pairs of film and finding.
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    if truth.ndim == 2:
        confidence, right = scores[truth != UNKNOWN], truth[truth != UNKNOWN] == 1
    else:
        confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    where = confidence_bins(confidence, bins)
    count = np.bincount(where, minlength=bins)
    held = count > 0
    x = np.bincount(where, confidence, bins)[held] / count[held]
    y = np.bincount(where, right, bins)[held] / count[held]
    return Curve(_rounded(x), _rounded(y), tuple(int(number) for number in count[held]))


def choose_operating_points(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    *,
    rng: np.random.Generator,
    patients: Sequence[str] | None = None,
    positive: str | None = None,
    resamples: int = RESAMPLES,
) -> tuple[OperatingPoint, ...]:
    """Return thresholds with names, and what they reach on this set.

    For the positive class of two, each of three or more against the rest, or each of several findings: `youden`, the
    largest sum of sensitivity and specificity (of equals, the more sensitive); `sensitivity_0.95`, the highest
    threshold that reaches it; `specificity_0.95`, the lowest. A threshold lies midway between two neighbouring
    scores, so that rounding elsewhere does not move an image across it. A class that no image or every image has gets
    none.

    Source: Youden, Index for rating diagnostic tests, Cancer 3 (1950), 32-35.

    Args:
        probabilities: (n, k).
        labels: (n,).
        classes: names, in the order of the columns.
        rng: for the intervals.
        patients: (n,) whom each image shows; None counts each image as a patient of its own.
        positive: of two classes; None lets `positive_class` choose.
        resamples: for the intervals.
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    chosen = choose_positive(classes, truth, positive)
    check_classes(classes, scores, chosen)
    unmeasured = Interval(np.nan, np.nan, np.nan)
    points = [
        OperatingPoint(name, label, threshold, unmeasured, unmeasured)
        for label in (classes if chosen is None else (chosen,))
        for name, threshold in _thresholds(*of_class(scores, truth, classes.index(label))).items()
    ]
    return measure_operating_points(points, scores, truth, classes, rng=rng, patients=patients, resamples=resamples)


def measure_operating_points(
    points: Sequence[OperatingPoint],
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    *,
    rng: np.random.Generator,
    patients: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> tuple[OperatingPoint, ...]:
    """Return the same thresholds with sensitivity and specificity measured on another set.

    Args:
        points: with thresholds chosen elsewhere.
        probabilities: (n, k).
        labels: (n,).
        classes: names, in the order of the columns.
        rng: for the intervals.
        patients: (n,) whom each image shows; None counts each image as a patient of its own.
        resamples: for the intervals.
    """
    scores, truth = check_predictions(probabilities, labels, several=True)
    check_classes(classes, scores, None)
    if not points:
        return ()
    table = operating_table(points, scores, truth, classes)
    names = [str(i) for i in range(len(truth))] if patients is None else patients
    if len(names) != len(truth):
        raise ValueError(f"Expected one patient for each of {len(truth)} images, but got {len(names)}.")
    found = bootstrap(lambda weights: operating_rates(table, weights), names, rng=rng, resamples=resamples)
    return place_intervals(points, found)


def operating_table(points: Sequence[OperatingPoint], scores: Float64, truth: Int64, classes: Sequence[str]) -> Float64:
    """Return (n, 4 * points): for each point, whether an image is found, positive, rightly passed over, negative."""
    columns: list[Bool] = []
    against = one_against_rest(truth, len(classes))
    for point in points:
        if point.label not in classes:
            raise DataError(f"Expected an operating point of one of {', '.join(classes)}, but got {point.label!r}.")
        index = classes.index(point.label)
        called, actual, absent = scores[:, index] >= point.threshold, against[:, index] == 1, against[:, index] == 0
        columns += [called & actual, actual, ~called & absent, absent]
    return np.column_stack(columns).astype(np.float64)


def operating_rates(table: Float64, weights: Float64) -> Float64:
    """Return (resamples, 2 * points): sensitivity and specificity of each point in turn, nan where undefined."""
    sums = weights @ table
    return divide(sums[:, ::2], sums[:, 1::2])


def place_intervals(points: Sequence[OperatingPoint], found: Sequence[Interval]) -> tuple[OperatingPoint, ...]:
    """Return the points with the intervals of `operating_rates`' columns."""
    return tuple(
        OperatingPoint(point.name, point.label, point.threshold, found[2 * i], found[2 * i + 1])
        for i, point in enumerate(points)
    )


def choose_positive(classes: Sequence[str], truth: Int64, positive: str | None = None) -> str | None:
    """Return the class that two-class metrics speak of: the one given or `positive_class`'s; None of findings."""
    if truth.ndim == 2:
        return None
    return positive if positive is not None else positive_class(classes)


def check_classes(classes: Sequence[str], scores: Float64, positive: str | None) -> None:
    """Refuse class names that repeat, that do not fit the columns, or a positive class that is not among them."""
    if len(classes) != scores.shape[1] or len(set(classes)) != len(classes):
        raise ValueError(f"Expected {scores.shape[1]} distinct class names, but got {list(classes)}.")
    if positive is not None and (positive not in classes or len(classes) != 2):
        raise ValueError(
            f"Expected the positive class to be one of two classes, but got {positive!r} of {list(classes)}."
        )


def _of_confusion(name: str, probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None) -> float:
    scores, truth = check_predictions(probabilities, labels)
    values = from_confusion(confusion_matrix(scores, truth)[np.newaxis].astype(np.float64))[name][0]
    return _pick(values, truth, label)


def _of_ranking(
    area: Callable[[Float64, Float64], Float64], probabilities: npt.ArrayLike, labels: npt.ArrayLike, label: int | None
) -> float:
    scores, truth = check_predictions(probabilities, labels, several=True)
    columns = [of_class(scores, truth, index) for index in range(scores.shape[1])]
    rankings = [Ranking.of(*column) if len(column[0]) else None for column in columns]
    values = [
        np.nan if ranking is None else area(*ranking.counts(np.ones((1, len(column[0])))))[0]
        for ranking, column in zip(rankings, columns, strict=True)
    ]
    return _pick(np.array(values), truth, label)


def _pick(values: Float64, truth: Int64, label: int | None) -> float:
    """Return one class's value, or the mean over the classes present."""
    if label is not None:
        return float(values[label])
    present = (one_against_rest(truth, len(values)) == 1).any(axis=0)
    return float(mean_of_measured(np.where(present, values, np.nan)))


def _threshold_counts(scores: Float64, positive: Bool) -> tuple[Float64, Float64]:
    if not len(scores):
        return np.zeros(1), np.zeros(1)
    true, false = Ranking.of(scores, positive).counts(np.ones((1, len(scores))))
    return true[0], false[0]


def _thresholds(scores: Float64, positive: Bool) -> dict[str, float]:
    """Return name to threshold; empty where sensitivity or specificity is undefined."""
    true, false = _threshold_counts(scores, positive)
    positives, negatives = true[-1], false[-1]
    if not (positives and negatives):
        return {}
    # Candidate i calls the i highest distinct scores positive; 0 calls none, and may lie above 1 to do so.
    true, false = np.append(0.0, true), np.append(0.0, false)
    levels = np.unique(scores)[::-1]
    above = np.append(max(1.0, levels[0]), levels)
    below = np.append(levels, 0.0)
    middle = (above + below) / 2
    middle = np.where(middle > below, middle, above)
    middle[0] = middle[0] if middle[0] > levels[0] else np.nextafter(levels[0], np.inf)
    # Whole numbers: equal sums must compare as equal.
    gain = true * negatives - false * positives
    best = len(gain) - 1 - int(gain[::-1].argmax())
    sensitive = int(np.flatnonzero(true / positives >= TARGET)[0])
    specific = int(np.flatnonzero((negatives - false) / negatives >= TARGET)[-1])
    named = {"youden": best, f"sensitivity_{TARGET}": sensitive, f"specificity_{TARGET}": specific}
    return {name: float(middle[index]) for name, index in named.items()}


def _thin(x: Float64, y: Float64) -> Curve:
    """Return at most `CURVE_POINTS` points: the corners, or, of too many, some at even distances along the curve."""
    turns = np.diff(x)[:-1] * np.diff(y)[1:] != np.diff(x)[1:] * np.diff(y)[:-1]
    corners = np.concatenate(([True], turns, [True]))
    x, y = x[corners], y[corners]
    if len(x) > CURVE_POINTS:
        way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS)).clip(0, len(way) - 1))
        x, y = x[kept], y[kept]
    return Curve(_rounded(x), _rounded(y))


def _rounded(values: Float64) -> tuple[float, ...]:
    # Five digits are finer than a printed page, and keep the bundle's card small.
    return tuple(round(float(value), 5) for value in values)
