"""Metrics, thresholds and sets of several findings, against scikit-learn on the films of which each is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, log_loss, recall_score, roc_auc_score

from rentgen.evaluate.measure import evaluate
from rentgen.evaluate.metrics import auroc, average_precision, choose_operating_points, roc_curve
from rentgen.evaluate.sets import choose_finding_sets, measure_finding_sets
from rentgen.evaluate.several import mean_cell_loss
from rentgen.records import (
    Evaluation,
    Float64,
    Int64,
    OperatingPoint,
    Task,
    deciding_thresholds,
    present_findings,
)
from rentgen.records.evaluation import Interval

NAMES = ("Effusion", "Nodule", "Hernia", "No Finding")
FilmsOf = tuple[Float64, Int64, list[str]]


def made(n: int = 400, seed: int = 0, *, unknown: float = 0.2) -> FilmsOf:
    """Return probabilities that say something, truth with gaps, and patients of two films each."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < (0.4, 0.2, 0.08, 0.3)).astype(np.int64)
    logits = rng.standard_normal((n, 4)) + 2 * truth - 1.5
    scores = 1 / (1 + np.exp(-logits))
    truth[rng.random((n, 4)) < unknown] = -1
    return scores, truth, [str(i // 2) for i in range(n)]


def known(scores: Float64, truth: Int64, column: int) -> tuple[npt.NDArray[np.bool_], Float64]:
    there = truth[:, column] >= 0
    return truth[there, column] == 1, scores[there, column]


def measured(resamples: int = 0) -> tuple[Evaluation, FilmsOf, tuple[OperatingPoint, ...]]:
    chooser, chosen, patients = made(seed=1)
    points = choose_operating_points(
        chooser, chosen, NAMES, rng=np.random.default_rng(0), patients=patients, resamples=0
    )
    films = made()
    found = evaluate(*films, NAMES, rng=np.random.default_rng(0), operating_points=points, resamples=resamples)
    return found, films, points


def test_each_finding_is_scikit_learns_on_the_films_where_it_is_known() -> None:
    found, (scores, truth, _), points = measured()
    thresholds = deciding_thresholds(points, NAMES)
    assert found.task is Task.MULTILABEL
    assert found.confusion == ()
    for column, name in enumerate(NAMES):
        there, told = known(scores, truth, column)
        called = told >= thresholds[column]
        values = {metric: interval.value for metric, interval in found.per_class[name].items()}
        assert values["auroc"] == pytest.approx(roc_auc_score(there, told))
        assert values["average_precision"] == pytest.approx(average_precision_score(there, told))
        assert values["recall"] == pytest.approx(recall_score(there, called))
        assert values["specificity"] == pytest.approx(recall_score(~there, ~called))
        assert values["f1"] == pytest.approx(f1_score(there, called))
        assert values["brier"] == pytest.approx(brier_score_loss(there, told))
        assert (found.support[name], found.known[name]) == (there.sum(), len(there))
        assert auroc(scores, truth, column) == pytest.approx(values["auroc"])
        curve = roc_curve(scores, truth, column)
        assert curve is not None
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(values["auroc"], abs=2e-3)
    cells = truth >= 0
    assert found.metrics["loss"].value == pytest.approx(log_loss(truth[cells], scores[cells]))
    assert found.metrics["brier"].value == pytest.approx(brier_score_loss(truth[cells], scores[cells]))
    assert found.metrics["accuracy"].value == pytest.approx(((scores >= thresholds) == (truth == 1))[cells].mean())
    means = np.mean([found.per_class[name]["auroc"].value for name in NAMES])
    assert found.metrics["auroc"].value == pytest.approx(means)
    assert auroc(scores, truth) == pytest.approx(means)
    assert average_precision(scores, truth) == pytest.approx(found.metrics["average_precision"].value)
    assert mean_cell_loss(scores, truth) == pytest.approx(found.metrics["loss"].value)


def test_intervals_resample_patients() -> None:
    scores, truth, patients = made(120)
    area = evaluate(scores, truth, patients, NAMES, rng=np.random.default_rng(0), resamples=400).per_class["Effusion"]
    names, members = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(members == who) for who in rng.integers(len(names), size=len(names))])
        there, told = known(scores[rows], truth[rows], 0)
        draws.append(roc_auc_score(there, told))
    low, high = np.quantile(draws, (0.025, 0.975))
    assert (area["auroc"].low, area["auroc"].high) == pytest.approx((low, high), abs=0.02)


def test_operating_points_are_chosen_on_known_films_and_measured_on_them() -> None:
    scores, truth, patients = made()
    points = choose_operating_points(scores, truth, NAMES, rng=np.random.default_rng(0), patients=patients, resamples=0)
    assert len(points) == 3 * len(NAMES)
    for point in points:
        there, told = known(scores, truth, NAMES.index(point.label))
        called = told >= point.threshold
        assert point.sensitivity.value == pytest.approx(recall_score(there, called))
        assert point.specificity.value == pytest.approx(recall_score(~there, ~called))
    assert min(p.sensitivity.value for p in points if p.name == "sensitivity_0.95") >= 0.95


def test_finding_that_no_film_has_is_not_measured() -> None:
    scores, truth, patients = made(60)
    truth[:, 2] = np.minimum(truth[:, 2], 0)
    truth[:, 3] = -1
    found = evaluate(scores, truth, patients, NAMES, rng=np.random.default_rng(0), resamples=20)
    assert np.isnan(found.per_class["Hernia"]["auroc"].value)
    assert found.per_class["Hernia"]["specificity"].value > 0
    assert np.isnan(found.per_class["No Finding"]["brier"].value)
    assert found.metrics["auroc"].value == pytest.approx(
        np.mean([found.per_class[name]["auroc"].value for name in NAMES[:2]])
    )
    points = choose_operating_points(scores, truth, NAMES, rng=np.random.default_rng(0), resamples=0)
    assert {point.label for point in points} == {"Effusion", "Nodule"}


def test_labels_of_findings_are_checked() -> None:
    scores, truth, patients = made(20)
    with pytest.raises(ValueError, match="labels of findings to be 1, 0 or -1"):
        evaluate(scores, truth + 2, patients, NAMES, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"Expected a label for each probability, but got shapes \(20, 3\)"):
        evaluate(scores, truth[:, :3], patients, NAMES, rng=np.random.default_rng(0))


def test_sets_hold_the_truth_of_films_with_and_of_films_without() -> None:
    told, chosen, _ = made(8000, seed=2)
    sets = choose_finding_sets(told, chosen, NAMES, 0.9)
    scores, truth, patients = made(8000, seed=3)
    measured = measure_finding_sets(sets, scores, truth, NAMES, patients, np.random.default_rng(0), resamples=10)
    assert [item.label for item in measured] == list(NAMES)
    for column, item in enumerate(measured):
        there, value = known(scores, truth, column)
        may, may_not = value >= item.present, 1 - value >= item.absent
        assert may[there].mean() == pytest.approx(0.9, abs=0.05)
        assert may_not[~there].mean() == pytest.approx(0.9, abs=0.03)
        assert item.measured is not None
        assert item.measured["value"] == pytest.approx(np.where(there, may, may_not).mean())
        assert item.single is not None
        assert item.single["value"] == pytest.approx((may != may_not).mean())


def test_finding_with_too_few_films_promises_nothing() -> None:
    told, chosen, _ = made(100)
    assert {item.label for item in choose_finding_sets(told, chosen, NAMES, 0.95)} == {"Effusion", "No Finding"}


def test_nothing_is_found_beside_a_finding() -> None:
    unmeasured = Interval(np.nan, np.nan, np.nan)
    points = [
        OperatingPoint(name, label, threshold, unmeasured, unmeasured)
        for name, label, threshold in (
            ("youden", "Effusion", 0.4), ("sensitivity_0.95", "Effusion", 0.2), ("specificity_0.95", "Effusion", 0.1),
            ("youden", "Nodule", 0.5), ("youden", "No Finding", 0.3),
        )
    ]  # fmt: skip
    told = {"Effusion": 0.25, "Nodule": 0.4, "Hernia": 0.9, "No Finding": 0.6}
    assert present_findings(points, told) == ("Effusion",)
    assert present_findings(points, told | {"Effusion": 0.15}) == ("No Finding",)
    assert present_findings(points, told | {"Effusion": 0.15, "No Finding": 0.1}) == ()
