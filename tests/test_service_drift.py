"""Drift: exact where chance is exact (SciPy is the judge), quiet where nothing moved, loud where something did."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest, chi2

from rentgen import bundle
from rentgen.evaluate.metrics import reliability_curve
from rentgen.records import Card, Domain, Prediction, Status
from rentgen.records.studies import StoredPrediction, Urgency
from rentgen.service.chance import binomial_interval, binomial_p, chi_square_quantile
from rentgen.service.drift import (
    MIN_FILMS,
    Answer,
    Drift,
    Drifts,
    Measure,
    Reference,
    Verdict,
    compare,
    merge_bins,
    stability_index,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)


@cache
def card() -> Card:
    """Return the card of the bundle that ships."""
    return bundle.read("pneumonia").card


def stated(rng: np.random.Generator, n: int, share: float = 0.74, spread: float = 4.0) -> npt.NDArray[np.float64]:
    """Return probabilities (n, 2) of a model that is sure of most films."""
    pneumonia = rng.random(n) < share
    confidence = 1 - 0.5 * rng.random(n) ** spread
    return np.stack(
        [np.where(pneumonia, 1 - confidence, confidence), np.where(pneumonia, confidence, 1 - confidence)], 1
    )


def reference(rng: np.random.Generator, n: int = 5000, **more: float) -> Reference:
    """Return what a card would say that was measured on n films of `stated`."""
    scores = stated(rng, n, **more)
    labels = scores.argmax(axis=1)
    confusion = np.diag(np.bincount(labels, minlength=2)).tolist()
    curve = reliability_curve(scores, labels).to_dict()
    return Reference.of(
        replace(card(), validation={"reliability": curve, "confusion": confusion}, domain=Domain(1.0, 0.96, n))
    )


def answers(rng: np.random.Generator, n: int, *, beyond: float = 0.04, **more: float) -> list[Answer]:
    scores = stated(rng, n, **more)
    far = rng.random(n) < beyond
    return [
        Answer(float(row.max()), card().classes[int(row.argmax())], 2.0 if out else 0.5, AT)
        for row, out in zip(scores, far, strict=True)
    ]


def named(measures: tuple[Measure, ...]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


@pytest.mark.parametrize("n", [1, 7, 100, 500, 4000])
@pytest.mark.parametrize("share", [0.0, 0.04, 0.5, 0.97, 1.0])
def test_binomial_figures_are_those_of_scipy(n: int, share: float) -> None:
    for count in sorted({0, 1, n // 25, n // 3, n // 2, n - 1, n}):
        expected = binomtest(count, n, share)
        assert binomial_p(count, n, share) == pytest.approx(expected.pvalue, abs=1e-12)
        for level in (0.95, 0.999):
            interval = expected.proportion_ci(level, "exact")
            assert binomial_interval(count, n, level) == pytest.approx((interval.low, interval.high), abs=1e-10)


def test_chi_square_quantiles_are_near_those_of_scipy() -> None:
    for degrees in range(1, 15):
        for level in (0.9, 0.95, 0.99, 0.999):
            assert chi_square_quantile(level, degrees) == pytest.approx(chi2.ppf(level, degrees), rel=0.02)


def test_figures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected a count of 0 to n and n of at least 1, but got 3 of 2"):
        binomial_interval(3, 2)
    with pytest.raises(ValueError, match="Expected `level` to lie between 0 and 1, but got 1"):
        binomial_interval(1, 2, 1)
    with pytest.raises(ValueError, match=r"Expected `share` to lie in \[0, 1\], but got 1.5"):
        binomial_p(1, 2, 1.5)
    with pytest.raises(ValueError, match="Expected `degrees` to be at least 1, but got 0"):
        chi_square_quantile(0.9, 0)


def test_the_index_is_the_formula_and_nothing_without_change() -> None:
    now, then = np.array([30, 20, 50]), np.array([100, 300, 600])
    p, q = (now + 0.5) / (now.sum() + 1.5), (then + 0.5) / (then.sum() + 1.5)
    assert stability_index(now.tolist(), then.tolist()) == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert stability_index([50, 100], [50, 100]) == 0
    assert np.isfinite(stability_index([0, 10], [90, 0]))


def test_small_bins_are_merged_and_no_film_is_lost() -> None:
    bins, counts = merge_bins({"x": [0.51, 0.7, 0.9, 0.97], "count": [1, 1, 97, 1]})
    assert counts == (2, 98)
    assert bins[-1] == 1.0
    assert merge_bins({}) == ((), ())


def test_the_shipped_card_gives_a_reference() -> None:
    found = Reference.of(card())
    assert sum(found.counts) == 522
    assert min(found.counts) >= 0.02 * 522
    assert found.shares is not None
    # 132 + 14 of the validation part's 522 films were called normal.
    assert found.shares["NORMAL"] == pytest.approx(146 / 522)
    assert found.threshold == pytest.approx(1.0854, abs=1e-4)
    assert found.kept == 0.96


def test_without_drift_the_alarm_is_rare() -> None:
    rng = np.random.default_rng(0)
    expected = reference(rng)
    moved = [
        measure.name
        for _ in range(120)
        for measure in compare(answers(rng, 300), expected)
        if measure.verdict is Verdict.MOVED
    ]
    # Four judged measures, each at a level of 0.001 or less: half an alarm is expected in 480.
    assert len(moved) <= 3


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ({"beyond": 0.15}, "beyond_distance"),
        ({"spread": 1.0}, "confidence"),
        ({"share": 0.4}, "class:PNEUMONIA"),
    ],
)
def test_drift_is_noticed_where_it_is(change: dict[str, Any], measure: str) -> None:
    rng = np.random.default_rng(1)
    found = named(compare(answers(rng, 400, **change), reference(rng)))
    assert found[measure].verdict is Verdict.MOVED
    others = {name for name, each in found.items() if each.verdict is Verdict.MOVED}
    assert others <= {measure, "class:NORMAL"}


def test_few_answers_tell_nothing_and_a_card_without_figures_less() -> None:
    rng = np.random.default_rng(2)
    found = compare(answers(rng, MIN_FILMS - 1, beyond=0.9), reference(rng))
    assert {measure.verdict for measure in found} == {Verdict.TOO_FEW, Verdict.NO_REFERENCE}
    bare = named(compare(answers(rng, 200), Reference()))
    assert {measure.verdict for measure in bare.values()} == {Verdict.NO_REFERENCE}
    assert bare["class:PNEUMONIA"].value is not None


def test_a_share_comes_with_its_exact_interval() -> None:
    rng = np.random.default_rng(3)
    found = named(compare(answers(rng, 200), reference(rng)))["beyond_distance"]
    assert found.value is not None
    exact = binomtest(round(found.value * 200), 200).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.expected == pytest.approx(0.04)


def prediction(confidence: float = 0.9, distance: float | None = 0.5, bundle_id: str = "a" * 64) -> StoredPrediction:
    return StoredPrediction(
        "p", "", bundle_id, "chest", AT, Status.OK, "PNEUMONIA", {"NORMAL": 1 - confidence, "PNEUMONIA": confidence},
        (), ("PNEUMONIA",), distance, (), Urgency.URGENT, confidence, "f32",
    )  # fmt: skip


def test_the_window_is_bounded_and_forgets() -> None:
    drift = Drift(Reference.of(card()), window=150, now=lambda: AT)
    assert drift.report().to_dict()["verdict"] == "too few"
    assert drift.report().first is None
    for _ in range(300):
        drift.observe(prediction(distance=9.0))
    assert named(drift.report().measures)["beyond_distance"].value == 1
    assert drift.report().verdict is Verdict.MOVED
    for _ in range(150):
        drift.observe(prediction(distance=0.1))
    report = drift.report()
    assert (report.n, report.first, report.last) == (150, AT, AT)
    assert named(report.measures)["beyond_distance"].value == 0


def test_a_file_that_cannot_be_read_is_passed_over() -> None:
    drift = Drift(Reference.of(card()))
    drift.observe(Prediction("film", Status.ERROR, None, {}))
    assert drift.report().n == 0


def test_the_report_is_plain_json() -> None:
    drift = Drift(Reference.of(card()), now=lambda: AT)
    for _ in range(120):
        drift.observe(prediction())
    told = json.loads(json.dumps(drift.report().to_dict(), allow_nan=False))
    assert told["n"] == 120
    assert [measure["name"] for measure in told["measures"]] == [
        "confidence", "beyond_distance", "class:NORMAL", "class:PNEUMONIA", "distance",
    ]  # fmt: skip
    assert told["first"] == "2026-01-02T00:00:00+00:00"


def test_another_bundle_under_the_name_begins_anew() -> None:
    drifts = Drifts()
    drifts.observe("chest", card(), prediction())
    drifts.observe("chest", card(), prediction())
    assert drifts.reports()["chest"].n == 2
    drifts.observe("chest", card(), prediction(bundle_id="b" * 64))
    assert drifts.reports()["chest"].n == 1


def test_many_threads_lose_nothing() -> None:
    drift = Drift(Reference.of(card()), window=1000)

    def work() -> None:
        for _ in range(100):
            drift.observe(prediction())
            if drift.report().n == 0:
                raise RuntimeError("a report without the answer that was just given")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drift.report().n == 400
