"""An old bundle against a new one: SciPy's and DeLong's own answers, and bundles that changed in known ways."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from rentgen.bundle import Bundle
from rentgen.data.split import select
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError
from rentgen.evaluate.compare import Comparison, compare
from rentgen.evaluate.paired import delong_p, mcnemar_p, score_map, wilson_low
from rentgen.evaluate.points import Verdict, judge_point
from rentgen.evaluate.ranks import spearman
from rentgen.evaluate.weighted import Bool
from rentgen.records import Calibration, Float64, Interval, Listing, OperatingPoint, Split

# Numbers


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_scipys_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_films_is_finite() -> None:
    assert mcnemar_p(4000, 4200) == pytest.approx(stats.binomtest(4000, 8200, 0.5).pvalue, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 50), st.booleans())
def test_spearman_is_scipys(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    first = rng.random(n)
    second = first + rng.random(n)
    if ties:
        first, second = first.round(1), second.round(1)
    if np.ptp(first) and np.ptp(second):
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_a_constant_score_has_no_rank() -> None:
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_the_map_leads_from_rank_to_rank() -> None:
    rng = np.random.default_rng(0)
    old = rng.random(2001)
    found = score_map(old, old**2)
    np.testing.assert_allclose(found.y, np.array(found.x) ** 2, atol=1e-3)
    assert (found.x[0], found.x[-1]) == pytest.approx((old.min(), old.max()), abs=1e-6)
    assert (np.diff(found.y) >= 0).all()


def delong_by_definition(first: Float64, second: Float64, positive: Bool) -> float:
    """Return DeLong's p by the placement values of every pair of films."""
    placed = []
    for scores in (first, second):
        x, y = scores[positive][:, np.newaxis], scores[~positive]
        placed.append((x > y) + (x == y) / 2)
    s10 = np.cov([pairs.mean(axis=1) for pairs in placed])
    s01 = np.cov([pairs.mean(axis=0) for pairs in placed])
    covariance = s10 / positive.sum() + s01 / (~positive).sum()
    contrast = np.array([1.0, -1.0])
    z = (placed[0].mean() - placed[1].mean()) / math.sqrt(contrast @ covariance @ contrast)
    return float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("decimals", [1, 8])
def test_delong_is_its_definition(decimals: int) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(80) < 0.3
    first: Float64 = np.asarray((rng.normal(size=80) + 1.0 * positive).round(decimals), np.float64)
    second: Float64 = np.asarray((rng.normal(size=80) + 0.6 * positive).round(decimals), np.float64)
    assert delong_p(first, second, positive) == pytest.approx(delong_by_definition(first, second, positive), rel=1e-9)


def test_delong_at_its_edges() -> None:
    rng = np.random.default_rng(2)
    scores, positive = rng.random(30), np.arange(30) < 10
    right, wrong = positive.astype(np.float64), (~positive).astype(np.float64)
    assert delong_p(scores, scores, positive) == 1.0
    assert math.isnan(delong_p(scores, scores, np.arange(30) < 1))
    assert delong_p(right, wrong, positive) == 0.0


@pytest.mark.parametrize(("hits", "n"), [(36, 36), (30, 36), (0, 36), (1, 2)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson").low
    assert wilson_low(hits / n, n) == pytest.approx(expected, abs=1e-9)


# Points


def point(sensitivity: Interval, specificity: Interval) -> OperatingPoint:
    return OperatingPoint("youden", "effusion", 0.5, sensitivity, specificity)


OLD = point(Interval(0.9, 0.8, 0.95), Interval(0.7, 0.6, 0.8))
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("new", "verdict", "reason"),
    [
        (point(Interval(0.85, 0.7, 0.9), Interval(0.75, 0.6, 0.9)), Verdict.HOLDS, ""),
        (point(Interval(1.0, 1.0, 1.0), Interval(0.95, 0.9, 1.0)), Verdict.HOLDS, ""),
        (
            point(Interval(0.75, 0.7, 0.8), Interval(0.75, 0.6, 0.9)),
            Verdict.LEAVES,
            "sensitivity 0.750 is below the old interval 0.900 (0.800-0.950)",
        ),
        (point(Interval(0.9, 0.8, 1.0), Interval(0.5, 0.4, 0.6)), Verdict.LEAVES, "specificity 0.500 is below"),
        (point(UNKNOWN, Interval(0.7, 0.6, 0.8)), Verdict.UNMEASURED, "sensitivity cannot be measured"),
        (None, Verdict.MISSING, "the new bundle has no operating point youden of effusion"),
    ],
)
def test_a_point_holds_or_leaves(new: OperatingPoint | None, verdict: Verdict, reason: str) -> None:
    found = judge_point(OLD, OLD, new, (1000, 1000))
    assert found.verdict is verdict
    assert reason in "".join(found.reasons)
    assert bool(found.reasons) is (verdict is not Verdict.HOLDS)


def test_one_miss_of_a_few_is_no_fall_from_perfection() -> None:
    perfect = point(Interval(1.0, 1.0, 1.0), Interval(1.0, 1.0, 1.0))
    one_missed = point(Interval(19 / 20, 0.85, 1.0), Interval(1.0, 1.0, 1.0))
    assert judge_point(perfect, perfect, one_missed, (20, 20)).verdict is Verdict.HOLDS
    assert judge_point(perfect, perfect, one_missed, (500, 500)).verdict is Verdict.LEAVES


@pytest.mark.parametrize("trials", [(0, 20), (20, 0)])
def test_without_films_of_a_kind_nothing_is_promised(trials: tuple[int, int]) -> None:
    assert judge_point(OLD, OLD, OLD, trials).verdict is Verdict.UNMEASURED


# Bundles


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Bundle:
    return trained.training.bundle


@pytest.fixture(scope="module")
def old(bundle: Bundle) -> Predictor:
    return Predictor(bundle)


@pytest.fixture(scope="module")
def met(trained: Trained) -> Listing:
    """Return the films that did not teach: few, but honest."""
    listing = trained.training.listing
    return replace(listing, records=select(listing, Split.VALIDATION).records + select(listing, Split.TEST).records)


@pytest.fixture(scope="module")
def same(old: Predictor, bundle: Bundle, met: Listing) -> Comparison:
    return compare(old, Predictor(bundle), met, resamples=100)


def with_scaling(bundle: Bundle, scale: tuple[float, ...], bias: tuple[float, ...]) -> Predictor:
    calibration = Calibration("vector", scale, bias, "nothing", 0)
    return Predictor(replace(bundle, card=replace(bundle.card, calibration=calibration)))


def test_a_bundle_may_take_its_own_place(same: Comparison, bundle: Bundle, met: Listing) -> None:
    assert same.passed
    assert (same.n, same.only_old, same.only_new, same.mcnemar_p) == (len(met), 0, 0, 1.0)
    assert (same.agreement.value, same.old_accuracy) == (1.0, same.new_accuracy)
    assert same.old_id == same.new_id == bundle.bundle_id
    assert same.old_leak is not None
    assert same.old_leak.leaky
    for label in bundle.card.classes:
        assert same.spearman[label] == pytest.approx(1.0)
        assert same.score_map[label].x == same.score_map[label].y
        change = same.auroc[label]
        assert (change.difference, change.delong_p) == (Interval(0.0, 0.0, 0.0), 1.0)
    assert [change.promised for change in same.points] == list(bundle.card.operating_points)
    assert all(change.verdict is Verdict.HOLDS for change in same.points)
    told = same.to_dict()
    assert told["passed"] is True
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_the_areas_are_scikit_learns(same: Comparison, old: Predictor, met: Listing) -> None:
    told = list(old.predict_many([record.path for record in met.records]))
    for label, change in same.auroc.items():
        truth = [record.label == label for record in met.records]
        expected = roc_auc_score(truth, [item.probabilities[label] for item in told])
        assert change.old.value == pytest.approx(expected)
        assert change.old.low <= change.old.value <= change.old.high


def test_moved_probabilities_leave_the_old_thresholds(old: Predictor, bundle: Bundle, met: Listing) -> None:
    """One class gets all: its specificity, and the sensitivity of the others, are gone."""
    count = len(bundle.card.classes)
    loud = with_scaling(bundle, (1.0,) * count, (30.0,) + (0.0,) * (count - 1))
    found = compare(old, loud, met, resamples=100)
    assert not found.passed
    fallen = [change for change in found.points if change.verdict is Verdict.LEAVES]
    assert {change.old.label for change in fallen} == set(bundle.card.classes)
    assert all("is below the old interval" in reason for change in fallen for reason in change.reasons)
    assert found.only_old > 0
    first = sum(record.label == bundle.card.classes[0] for record in met.records)
    assert found.new_accuracy.value == pytest.approx(first / len(met))
    assert found.to_dict()["passed"] is False


def test_sharper_probabilities_with_points_of_their_own_hold(old: Predictor, bundle: Bundle, met: Listing) -> None:
    """The score changes its scale; a map leads from the old to the new one, and ranks stay."""
    count = len(bundle.card.classes)
    sharp = with_scaling(bundle, (2.0,) * count, (0.0,) * count)
    found = compare(old, sharp, met, resamples=100)
    assert found.agreement.value == 1.0
    for label in bundle.card.classes:
        assert found.spearman[label] > 0.9
        assert np.ptp(found.score_map[label].y) > np.ptp(found.score_map[label].x)


def test_a_worse_ranking_does_not_pass(same: Comparison) -> None:
    label = same.classes[0]
    worse = replace(same.auroc[label], difference=Interval(-0.1, -0.2, -0.01))
    assert not replace(same, auroc={**same.auroc, label: worse}).passed
    unknown = replace(same.auroc[label], difference=UNKNOWN, delong_p=math.nan)
    assert not replace(same, auroc={label: unknown}).passed
    assert replace(same, auroc={label: unknown}).to_dict()["auroc"][label]["delong_p"] is None


def test_points_that_the_new_bundle_has_not(old: Predictor, bundle: Bundle, met: Listing) -> None:
    kept = bundle.card.operating_points[1:]
    new = Predictor(replace(bundle, card=replace(bundle.card, operating_points=kept)))
    found = compare(old, new, met, resamples=50)
    assert [change.verdict for change in found.points] == [Verdict.MISSING] + [Verdict.HOLDS] * len(kept)
    assert not found.passed
    assert found.points[0].to_dict()["new"] is None


def test_without_resamples_nothing_is_proven(old: Predictor, met: Listing) -> None:
    found = compare(old, old, met, resamples=0)
    assert all(change.verdict is Verdict.UNMEASURED for change in found.points)
    assert not found.passed


def test_classes_in_another_order_are_the_same_classes(old: Predictor, bundle: Bundle, met: Listing) -> None:
    """Only the order in which the old one names them counts; the graph is not turned here, so labels differ."""
    card = replace(bundle.card, classes=bundle.card.classes[::-1])
    found = compare(old, Predictor(replace(bundle, card=card)), met, resamples=20)
    assert found.classes == bundle.card.classes
    middle = bundle.card.classes[1]
    assert found.spearman[middle] == pytest.approx(1.0)


def test_files_that_are_no_films_are_listed(old: Predictor, met: Listing, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no film")
    listing = replace(met, records=(replace(met.records[0], path=broken), *met.records[1:]))
    found = compare(old, old, listing, resamples=20)
    assert list(found.failed) == [str(broken)]
    assert found.n == len(met) - 1
    assert found.old_statuses["error"] == 1


def test_progress_goes_through_both(old: Predictor, met: Listing) -> None:
    seen: list[tuple[str, int, int]] = []
    compare(old, old, met, resamples=0, progress=lambda stage, done, total, note="": seen.append((stage, done, total)))
    assert len(seen) == 2 * len(met)
    assert seen[-1] == ("predictions", len(met), len(met))


def test_what_cannot_be_compared(old: Predictor, bundle: Bundle, met: Listing) -> None:
    other = replace(bundle.card, classes=("a", "b", "c"), operating_points=())
    with pytest.raises(DataError, match=r"Expected two bundles with the same classes, .* the new one a, b, c"):
        compare(old, Predictor(replace(bundle, card=other)), met)
    bare = replace(met, records=tuple(replace(record, label=None) for record in met.records))
    with pytest.raises(DataError, match="Expected a label for every film"):
        compare(old, old, bare)
    none = replace(met, records=tuple(replace(r, path=r.path.with_suffix(".gone")) for r in met.records[:2]))
    with pytest.raises(DataError, match="None of the 2 films could be read"):
        compare(old, old, none)
