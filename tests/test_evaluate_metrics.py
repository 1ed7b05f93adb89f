"""Metrics, curves, operating points and intervals, against scikit-learn's answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from rentgen.errors import DataError
from rentgen.evaluate import metrics
from rentgen.evaluate.intervals import bootstrap, percentile_interval, resample_patients
from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.weighted import Cases, measure
from rentgen.records import Float64, Int64, Interval, Leak, OperatingPoint, PatientSource

NAMES = ("normal", "covid", "pneumonia", "tuberculosis")


def make_cases(rng: np.random.Generator, n: int, count: int, *, decimals: int | None = None) -> tuple[Float64, Int64]:
    """Return probabilities that know something of the labels; rounded ones have ties."""
    labels = np.append(np.arange(count), rng.integers(count, size=n - count))
    odds = np.exp(rng.normal(size=(n, count)) + 1.2 * np.eye(count)[labels])
    scores = odds / odds.sum(axis=1, keepdims=True)
    if decimals is not None:
        scores = np.round(scores, decimals) + 0.1
        scores /= scores.sum(axis=1, keepdims=True)
    return scores, labels


def oracle_metrics(scores: Float64, labels: Int64, weights: Float64 | None = None) -> dict[str, float]:
    """Return scikit-learn's values, for two classes with the last one positive."""
    count = scores.shape[1]
    predicted = scores.argmax(axis=1)
    told = {"sample_weight": weights}
    average = "binary" if count == 2 else "macro"
    binary = [oracle.roc_auc_score(labels == c, scores[:, c], **told) for c in range(count)]
    precise = [oracle.average_precision_score(labels == c, scores[:, c], **told) for c in range(count)]
    specific = [oracle.recall_score(labels != c, predicted != c, **told) for c in range(count)]
    return {
        "accuracy": oracle.accuracy_score(labels, predicted, **told),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted, **told),
        "recall": oracle.recall_score(labels, predicted, average=average, **told),
        "precision": oracle.precision_score(labels, predicted, average=average, zero_division=0, **told),
        "f1": oracle.f1_score(labels, predicted, average=average, **told),
        "specificity": specific[1] if count == 2 else float(np.mean(specific)),
        "macro_recall": oracle.recall_score(labels, predicted, average="macro", **told),
        "macro_precision": oracle.precision_score(labels, predicted, average="macro", zero_division=0, **told),
        "macro_specificity": float(np.mean(specific)),
        "macro_f1": oracle.f1_score(labels, predicted, average="macro", **told),
        "auroc": binary[1] if count == 2 else float(np.mean(binary)),
        "average_precision": precise[1] if count == 2 else float(np.mean(precise)),
        "loss": oracle.log_loss(labels, scores, labels=range(count), **told),
        "brier": oracle.brier_score_loss(labels, scores[:, 1] if count == 2 else scores, labels=range(count), **told),
        "ece": slow_calibration_error(scores, labels, np.ones(len(labels)) if weights is None else weights),
    }


def slow_calibration_error(scores: Float64, labels: Int64, weights: Float64) -> float:
    """Return the definition, bin by bin."""
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    total = 0.0
    for i in range(15):
        inside = (confidence * 15 > i) & (confidence * 15 <= i + 1)
        held = weights[inside].sum()
        if held:
            gap = np.average(confidence[inside], weights=weights[inside]) - np.average(
                right[inside], weights=weights[inside]
            )
            total += held * abs(gap)
    return float(total / weights.sum())


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("decimals", [None, 1])
def test_every_metric_equals_scikit_learn(count: int, decimals: int | None) -> None:
    scores, labels = make_cases(np.random.default_rng(count), 300, count, decimals=decimals)
    cases = Cases.of(scores, labels, 1 if count == 2 else None)
    found, per_class = measure(cases, np.ones((1, len(labels))))
    expected = oracle_metrics(scores, labels)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-9), name
    recalls = oracle.recall_score(labels, scores.argmax(axis=1), average=None)
    np.testing.assert_allclose(per_class["recall"][0], recalls)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60), count=st.integers(2, 4), decimals=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_weighted_metrics_equal_scikit_learn_under_sample_weights(seed: int, n: int, count: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = make_cases(rng, n, count, decimals=decimals)
    weights = rng.integers(0, 4, size=(2, n)).astype(np.float64)
    weights[:, :count] += 1  # no class without weight: scikit-learn would refuse
    found, _ = measure(Cases.of(scores, labels, 1 if count == 2 else None), weights)
    for row in range(2):
        for name, value in oracle_metrics(scores, labels, weights[row]).items():
            assert found[name][row] == pytest.approx(value, abs=1e-9), name


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(5)
    scores, labels = make_cases(rng, 80, 3, decimals=2)
    weights = rng.integers(0, 3, size=80)
    weighted, _ = measure(Cases.of(scores, labels, None), weights[np.newaxis].astype(np.float64))
    repeated = np.repeat(np.arange(80), weights)
    plain, _ = measure(Cases.of(scores[repeated], labels[repeated], None), np.ones((1, len(repeated))))
    for name, values in plain.items():
        assert weighted[name][0] == pytest.approx(values[0], abs=1e-12), name


@pytest.mark.parametrize("label", [None, 0, 2])
def test_single_functions_agree_with_the_whole(label: int | None) -> None:
    scores, labels = make_cases(np.random.default_rng(3), 120, 3)
    predicted = scores.argmax(axis=1)
    average, only = ("macro", None) if label is None else ("macro", [label])
    told = {"average": average, "labels": only, "zero_division": 0}
    assert metrics.recall(scores, labels, label) == pytest.approx(oracle.recall_score(labels, predicted, **told))
    assert metrics.precision(scores, labels, label) == pytest.approx(oracle.precision_score(labels, predicted, **told))
    assert metrics.f1(scores, labels, label) == pytest.approx(oracle.f1_score(labels, predicted, **told))
    whole, per_class = measure(Cases.of(scores, labels, None), np.ones((1, 120)))
    for name in ("specificity", "auroc", "average_precision"):
        function: Callable[..., float] = getattr(metrics, name)
        expected = whole[name][0] if label is None else per_class[name][0, label]
        assert function(scores, labels, label) == pytest.approx(expected)


def test_scalar_functions_equal_scikit_learn() -> None:
    scores, labels = make_cases(np.random.default_rng(4), 120, 3)
    predicted = scores.argmax(axis=1)
    assert metrics.accuracy(scores, labels) == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert metrics.balanced_accuracy(scores, labels) == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert metrics.log_loss(scores, labels) == pytest.approx(oracle.log_loss(labels, scores))
    assert metrics.brier_score(scores, labels) == pytest.approx(oracle.brier_score_loss(labels, scores))
    assert metrics.calibration_error(scores, labels) == pytest.approx(
        slow_calibration_error(scores, labels, np.ones(120))
    )
    np.testing.assert_array_equal(metrics.confusion_matrix(scores, labels), oracle.confusion_matrix(labels, predicted))


def test_float32_softmax_is_accepted() -> None:
    scores, labels = make_cases(np.random.default_rng(4), 50, 3)
    assert metrics.log_loss(scores.astype(np.float32), labels) == pytest.approx(
        metrics.log_loss(scores, labels), abs=1e-6
    )


def test_log_loss_survives_a_certain_mistake() -> None:
    assert metrics.log_loss([[1.0, 0.0], [0.0, 1.0]], [1, 1]) == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_class_that_no_image_has_is_nan_and_left_out_of_averages() -> None:
    scores, labels = make_cases(np.random.default_rng(6), 90, 4)
    kept = labels != 2
    scores, labels = scores[kept], labels[kept]
    found = evaluate(scores, labels, [str(i) for i in range(len(labels))], NAMES, rng=np.random.default_rng(0))
    lost = found.per_class["pneumonia"]
    assert all(np.isnan(lost[name].value) for name in ("recall", "precision", "f1", "auroc", "average_precision"))
    assert lost["specificity"].value == pytest.approx(np.mean(scores.argmax(axis=1) != 2))
    others = [found.per_class[name]["auroc"].value for name in NAMES if name != "pneumonia"]
    assert found.metrics["auroc"].value == pytest.approx(np.mean(others))
    assert found.metrics["macro_recall"].value == pytest.approx(
        oracle.recall_score(labels, scores.argmax(axis=1), labels=[0, 1, 3], average="macro")
    )
    assert "pneumonia" not in found.precision_recall
    assert "pneumonia" not in found.roc
    assert found.support["pneumonia"] == 0


def test_set_of_one_class_measures_what_it_can() -> None:
    scores = np.array([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    found = evaluate(scores, [0, 0, 0], list("abc"), ("normal", "covid"), rng=np.random.default_rng(0), resamples=50)
    assert found.metrics["specificity"].value == pytest.approx(2 / 3)
    assert np.isnan(found.metrics["recall"].value)
    assert np.isnan(found.metrics["auroc"].low)
    assert found.roc == {}
    json.dumps(found.to_dict(), allow_nan=False)


def test_class_never_predicted_has_precision_zero() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert metrics.precision(scores, [0, 1], 1) == 0.0
    assert metrics.f1(scores, [0, 1], 1) == 0.0


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("COVID", "NORMAL"), "COVID"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("No_Finding", "Nodule"), "Nodule"),
        (("fracture", "no finding"), "fracture"),
        (("COVID", "non-COVID"), "COVID"),
        (("abnormal", "normal"), "abnormal"),
        (("0", "1"), "1"),
        (("positive", "Negative"), "positive"),
        (("Healthy", "Sick"), "Sick"),
        (("норма", "пневмонія"), "пневмонія"),
        (("bacterial", "viral"), "viral"),
        (("NORMAL", "healthy"), "healthy"),
        (("_", "normal"), "_"),
        (("a", "b", "c"), None),
        (("a",), None),
    ],
)
def test_positive_class(classes: tuple[str, ...], expected: str | None) -> None:
    assert metrics.positive_class(classes) == expected


GOOD = [[0.4, 0.6], [0.7, 0.3]]


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        ([0.4, 0.6], [0, 1], ValueError, r"shape \(n, 2 or more classes\), but got \(2,\)"),
        ([[1.0], [1.0]], [0, 0], ValueError, r"but got \(2, 1\)"),
        (GOOD, [0], ValueError, r"one label for each of 2 images, but got labels of shape \(1,\)"),
        (np.empty((0, 2)), np.empty(0, dtype=int), DataError, "at least one image"),
        (GOOD, [0.0, 1.0], ValueError, "labels to be whole numbers, but got float64"),
        ([[np.nan, 0.6], [0.7, 0.3]], [0, 1], ValueError, "finite probabilities, but got 1 that are not"),
        ([[-0.4, 1.4], [0.7, 0.3]], [0, 1], ValueError, r"in \[0, 1\], but got \[-0.4, 1.4\]"),
        ([[0.4, 0.5], [0.7, 0.3]], [0, 1], ValueError, "sum to 1, but got a sum of 0.9"),
        (GOOD, [0, 2], ValueError, r"labels in \[0, 1\], but got \[0, 2\]"),
        (GOOD, [-1, 1], ValueError, r"labels in \[0, 1\], but got \[-1, 1\]"),
    ],
)
def test_nonsense_is_refused(
    scores: npt.ArrayLike, labels: npt.ArrayLike, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metrics.accuracy(scores, labels)


def test_evaluate_refuses_what_does_not_fit() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="one patient for each of 2 images, but got 1"):
        evaluate(GOOD, [0, 1], ["p"], ("a", "b"), rng=rng)
    with pytest.raises(ValueError, match="one patient for each of 2 images, but got 1"):
        metrics.choose_operating_points(GOOD, [0, 1], ("a", "b"), rng=rng, patients=["p"])
    with pytest.raises(ValueError, match="2 distinct class names"):
        evaluate(GOOD, [0, 1], ["p", "q"], ("a", "a"), rng=rng)
    with pytest.raises(ValueError, match="positive class to be one of two classes, but got 'c'"):
        evaluate(GOOD, [0, 1], ["p", "q"], ("a", "b"), rng=rng, positive="c")
    nothing = Interval(np.nan, np.nan, np.nan)
    stray = OperatingPoint("youden", "c", 0.5, nothing, nothing)
    with pytest.raises(DataError, match="operating point of one of a, b, but got 'c'"):
        evaluate(GOOD, [0, 1], ["p", "q"], ("a", "b"), rng=rng, operating_points=[stray])
    with pytest.raises(ValueError, match="resamples to be at least 0, but got -1"):
        evaluate(GOOD, [0, 1], ["p", "q"], ("a", "b"), rng=rng, resamples=-1)
    with pytest.raises(DataError, match="at least one image"):
        bootstrap(lambda weights: weights, [], rng=rng)


@pytest.mark.parametrize("decimals", [None, 2])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_short_curves_equal_scikit_learn(label: int, decimals: int | None) -> None:
    scores, labels = make_cases(np.random.default_rng(8), 200, 3, decimals=decimals)
    truth = labels == label
    x, y, _ = oracle.roc_curve(truth, scores[:, label], drop_intermediate=False)
    curve = metrics.roc_curve(scores, labels, label)
    assert curve is not None
    assert set(zip(curve.x, curve.y, strict=True)) <= set(zip(x.round(5), y.round(5), strict=True))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(oracle.auc(x, y), abs=1e-4)
    precisions, recalls, _ = oracle.precision_recall_curve(truth, scores[:, label])
    found = metrics.precision_recall_curve(scores, labels, label)
    assert found is not None
    pairs = set(zip(recalls.round(5), precisions.round(5), strict=True))
    assert set(zip(found.x, found.y, strict=True)) <= pairs
    assert (found.x[0], found.y[0], found.x[-1]) == (0, 1, 1)


def test_long_curves_are_thinned_without_changing_shape() -> None:
    scores, labels = make_cases(np.random.default_rng(9), 20_000, 2)
    curve = metrics.roc_curve(scores, labels, 1)
    found = metrics.precision_recall_curve(scores, labels, 1)
    assert curve is not None
    assert found is not None
    assert max(len(curve.x), len(found.x)) <= metrics.CURVE_POINTS
    x, y, _ = oracle.roc_curve(labels == 1, scores[:, 1], drop_intermediate=False)
    # Along x + y, which never stands still, the polylines can be compared in their steep parts too.
    way, kept = x + y, np.array(curve.x) + np.array(curve.y)
    assert np.abs(np.interp(way, kept, curve.y) - y).max() < 0.005
    precisions, recalls, _ = oracle.precision_recall_curve(labels == 1, scores[:, 1])
    later = recalls[::-1] > 0.02
    assert np.abs(np.interp(recalls[::-1], found.x, found.y) - precisions[::-1])[later].max() < 0.01


def test_reliability_curve_counts_every_image() -> None:
    scores, labels = make_cases(np.random.default_rng(10), 500, 3)
    curve = metrics.reliability_curve(scores, labels)
    assert sum(curve.count) == 500
    shares = np.array(curve.count) / 500
    gap = np.abs(np.array(curve.x) - np.array(curve.y))
    assert float((shares * gap).sum()) == pytest.approx(metrics.calibration_error(scores, labels), abs=1e-4)


def test_operating_points_of_two_classes() -> None:
    rng = np.random.default_rng(11)
    scores, labels = make_cases(rng, 400, 2)
    points = metrics.choose_operating_points(scores, labels, ("normal", "covid"), rng=rng)
    assert [(point.name, point.label) for point in points] == [
        ("youden", "covid"),
        ("sensitivity_0.95", "covid"),
        ("specificity_0.95", "covid"),
    ]
    x, y, _ = oracle.roc_curve(labels, scores[:, 1], drop_intermediate=False)
    best, sensitive, specific = points
    assert best.sensitivity.value + best.specificity.value - 1 == pytest.approx((y - x).max())
    assert sensitive.sensitivity.value == pytest.approx(y[y >= 0.95].min())
    assert specific.specificity.value == pytest.approx((1 - x[1 - x >= 0.95]).min())
    ordered = np.unique(scores[:, 1])
    for point in points:
        assert point.threshold not in ordered
        nearest = np.searchsorted(ordered, point.threshold)
        assert point.threshold == pytest.approx((ordered[nearest - 1] + ordered[nearest]) / 2)
        assert point.sensitivity.low <= point.sensitivity.value <= point.sensitivity.high
    # Any higher threshold misses the goal; any lower one overshoots the other.
    above = ordered[np.searchsorted(ordered, sensitive.threshold)]
    assert np.mean(scores[labels == 1, 1] > above) < 0.95
    below = ordered[np.searchsorted(ordered, specific.threshold) - 1]
    assert np.mean(scores[labels == 0, 1] < below) < 0.95


def test_operating_points_of_many_classes_skip_the_missing() -> None:
    rng = np.random.default_rng(12)
    scores, labels = make_cases(rng, 200, 4)
    kept = labels != 0
    points = metrics.choose_operating_points(scores[kept], labels[kept], NAMES, rng=rng, resamples=20)
    assert [point.label for point in points[::3]] == ["covid", "pneumonia", "tuberculosis"]


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.2, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]
)
def test_operating_points_of_extreme_scores_keep_their_word(scores: list[float]) -> None:
    table = np.column_stack((1 - np.array(scores), scores))
    points = metrics.choose_operating_points(table, [0, 0, 1, 1], ("normal", "covid"), rng=np.random.default_rng(0))
    named = {point.name: point for point in points}
    assert named["sensitivity_0.95"].sensitivity.value >= 0.95
    assert named["specificity_0.95"].specificity.value >= 0.95


def test_operating_points_are_measured_on_another_set() -> None:
    rng = np.random.default_rng(13)
    points = metrics.choose_operating_points(*make_cases(rng, 300, 2), ("normal", "covid"), rng=rng, resamples=0)
    assert np.isnan(points[0].sensitivity.low)
    scores, labels = make_cases(rng, 500, 2)
    measured = metrics.measure_operating_points(points, scores, labels, ("normal", "covid"), rng=rng)
    for old, new in zip(points, measured, strict=True):
        assert (new.name, new.label, new.threshold) == (old.name, old.label, old.threshold)
        assert new.sensitivity.value == pytest.approx(np.mean(scores[labels == 1, 1] >= old.threshold))
        assert new.specificity.value == pytest.approx(np.mean(scores[labels == 0, 1] < old.threshold))
        assert new.sensitivity.low < new.sensitivity.value < new.sensitivity.high
    assert metrics.measure_operating_points((), scores, labels, ("normal", "covid"), rng=rng) == ()
    together = evaluate(
        scores, labels, [str(i) for i in range(500)], ("normal", "covid"), rng=rng, operating_points=points
    )
    assert together.operating_points[1].sensitivity.value == measured[1].sensitivity.value


def test_resamples_draw_patients_whole() -> None:
    patients = ["a", "a", "b", "c", "c", "c"]
    blocks = list(resample_patients(patients, np.random.default_rng(0), 500))
    weights = np.concatenate(blocks)
    assert weights.shape == (500, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, [0, 2, 3]].sum(axis=1), 3)
    assert weights.mean(axis=0) == pytest.approx(np.ones(6), abs=0.15)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    patients = [str(i) for i in range(7)]
    whole = np.concatenate(list(resample_patients(patients, np.random.default_rng(1), 50)))
    monkeypatch.setattr("rentgen.evaluate.intervals.BLOCK_WEIGHTS", 21)
    parts = list(resample_patients(patients, np.random.default_rng(1), 50))
    assert len(parts) == 17
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_undefined_resamples_are_left_out() -> None:
    interval = percentile_interval(0.5, np.array([np.nan, 0.4, 0.6, np.nan]))
    assert 0.4 <= interval.low < interval.high <= 0.6
    assert np.isnan(percentile_interval(np.nan, np.array([0.4])).low)
    assert np.isnan(percentile_interval(0.5, np.array([np.nan])).high)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(200):
        right = rng.random(150) < 0.85
        scores = np.where(right[:, np.newaxis], [0.9, 0.1], [0.1, 0.9])

        cases = Cases.of(scores, np.zeros(len(scores), dtype=np.int64), None)

        def share(weights: Float64, cases: Cases = cases) -> Float64:
            return measure(cases, weights)[0]["accuracy"][:, np.newaxis]

        (interval,) = bootstrap(share, [str(i) for i in range(len(scores))], rng=rng, resamples=400)
        hits += interval.low <= 0.85 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_clustered_patients_widen_the_interval() -> None:
    rng = np.random.default_rng(15)
    labels = np.repeat(rng.integers(2, size=60), 8)
    sure = np.repeat(rng.random(60) < 0.8, 8)  # all films of a patient stand or fall together
    score = np.where(sure, labels, 1 - labels) * 0.8 + 0.1
    scores = np.column_stack((1 - score, score))
    width = {}
    for name, patients in (("patient", np.repeat(np.arange(60), 8)), ("image", np.arange(480))):
        found = evaluate(scores, labels, [str(p) for p in patients], ("normal", "covid"), rng=np.random.default_rng(1))
        width[name] = found.metrics["accuracy"].high - found.metrics["accuracy"].low
    assert width["patient"] > 2 * width["image"]


def test_evaluate_repeats_with_the_same_seed_and_hands_everything_on() -> None:
    scores, labels = make_cases(np.random.default_rng(16), 100, 3)
    patients = [str(i // 2) for i in range(100)]
    told: dict[str, Any] = {
        "leak": Leak(3, 2, PatientSource.CSV),
        "failed": {"x.png": "truncated"},
        "statuses": {"ok": 100},
    }
    first, second = (
        evaluate(scores, labels, patients, NAMES[:3], rng=np.random.default_rng(7), resamples=100, **told)
        for _ in range(2)
    )
    assert first.to_dict() == second.to_dict()
    assert (first.n, first.patients, first.resamples, first.positive) == (100, 50, 100, None)
    assert first.to_dict()["leaky"] is True
    assert (first.failed, first.statuses) == ({"x.png": "truncated"}, {"ok": 100})
    assert sum(map(sum, first.confusion)) == 100
    for interval in first.metrics.values():
        assert interval.low <= interval.high


def test_a_thousand_resamples_of_a_large_set_take_seconds() -> None:
    rng = np.random.default_rng(17)
    scores, labels = make_cases(rng, 5216, 3)
    patients = [str(i) for i in rng.integers(2800, size=5216)]
    start = time.process_time()
    evaluate(scores, labels, patients, NAMES[:3], rng=rng)
    assert time.process_time() - start < 5
