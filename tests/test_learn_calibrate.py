"""Calibration, prediction sets and prevalence, against scikit-learn, SciPy, MAPIE and simulation; and a site's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import Trained
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from PIL import Image
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from rentgen import bundle as bundles
from rentgen.bundle import Bundle
from rentgen.data.listing import list_images
from rentgen.data.split import patient_folds
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError, LeakError, SettingError
from rentgen.evaluate.judge import judge
from rentgen.evaluate.prevalence import adapt_prior, balance_weights, estimate_prior, parse_prevalence
from rentgen.evaluate.reliability import recalibration, reliability_figures
from rentgen.evaluate.sets import conformal_threshold, films_needed, measure_coverage, prediction_sets
from rentgen.images.phantom import write_set
from rentgen.learn.calibrate import calibrate
from rentgen.learn.scaling import Method, Scaling, fit_temperature, fit_vector
from rentgen.records import Card, Float64, Int64, Listing, PatientSource, Split


def make_logits(
    rng: np.random.Generator, n: int, count: int, *, scale: float = 1.0, prior: npt.ArrayLike | None = None
) -> tuple[Float64, Int64]:
    """Return logits that are calibrated for the prior when divided by `scale`: a Gaussian for each class."""
    shares = np.full(count, 1 / count) if prior is None else np.asarray(prior)
    labels = np.append(np.arange(count), rng.choice(count, size=n - count, p=shares))
    seen = rng.normal(size=(n, count)) + 1.5 * np.eye(count)[labels]
    # log p(x | c) + log prior, up to what all classes share.
    logits = 1.5 * seen + np.log(shares)
    return scale * logits, labels.astype(np.int64)


def nll(logits: Float64, labels: Int64, weights: Float64) -> float:
    return -float(weights @ log_softmax(logits, axis=1)[np.arange(len(labels)), labels])


# Fitting


@pytest.mark.parametrize("ridge", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("count", [2, 4])
def test_temperature_is_scipys_optimum(count: int, ridge: float) -> None:
    rng = np.random.default_rng(count)
    logits, labels = make_logits(rng, 150, count, scale=3.0)
    weights = rng.uniform(0, 2, len(labels))
    weights *= len(labels) / weights.sum()
    found = fit_temperature(logits, labels, weights, ridge=ridge)
    oracle = minimize_scalar(
        lambda scale: nll(logits * scale, labels, weights) + ridge / 2 * (scale - 1) ** 2,
        bounds=(1e-3, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found.method is Method.TEMPERATURE
    np.testing.assert_allclose(found.scale, oracle.x, rtol=1e-6)
    np.testing.assert_array_equal(found.bias, 0)


@pytest.mark.parametrize("ridge", [0.5, 20.0])
@pytest.mark.parametrize("count", [2, 4])
def test_vector_is_scipys_optimum(count: int, ridge: float) -> None:
    logits, labels = make_logits(np.random.default_rng(count), 150, count, scale=3.0)
    logits += np.arange(count)
    ones = np.ones(len(labels))
    found = fit_vector(logits, labels, ridge=ridge)
    centre = fit_temperature(logits, labels, ridge=ridge).scale

    def loss(t: Float64) -> float:
        pull = ((t[:count] / centre - 1) ** 2).sum() + (t[count:] ** 2).sum()
        return nll(logits * t[:count] + t[count:], labels, ones) + ridge / 2 * float(pull)

    oracle = minimize(loss, np.append(centre, np.zeros(count)), method="BFGS", options={"gtol": 1e-6})
    assert loss(np.append(found.scale, found.bias)) <= oracle.fun + 1e-7
    np.testing.assert_allclose(np.append(found.scale, found.bias), oracle.x, atol=1e-4)


def test_two_class_vector_without_a_ridge_is_a_logistic_regression() -> None:
    """Of two logits, the regression has one weight for each and an intercept."""
    logits, labels = make_logits(np.random.default_rng(0), 300, 2, scale=2.0)
    found = fit_vector(logits, labels, ridge=0.0)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(logits, labels)
    np.testing.assert_allclose(found.probabilities(logits), oracle.predict_proba(logits), atol=1e-6)


def test_temperature_finds_what_was_done() -> None:
    logits, labels = make_logits(np.random.default_rng(1), 20_000, 3, scale=4.0)
    np.testing.assert_allclose(fit_temperature(logits, labels).scale, 1 / 4, rtol=0.05)


def test_vector_finds_a_bias_that_temperature_cannot() -> None:
    logits, labels = make_logits(np.random.default_rng(2), 20_000, 3, prior=(0.6, 0.3, 0.1))
    moved = logits + np.array((2.0, 0.0, -1.0))
    found = fit_vector(moved, labels)
    np.testing.assert_allclose(found.bias - found.bias.mean(), (-5 / 3, 1 / 3, 4 / 3), atol=0.1)
    assert nll(moved * found.scale + found.bias, labels, np.ones(len(labels))) < nll(
        moved * fit_temperature(moved, labels).scale, labels, np.ones(len(labels))
    )


def test_the_prior_moves_a_vector_fit_as_bayes_says() -> None:
    logits, labels = make_logits(np.random.default_rng(3), 20_000, 2)
    wished = (0.9, 0.1)
    found = fit_vector(logits, labels, prior=wished).probabilities(logits)
    assert np.abs(found - adapt_prior(scipy_softmax(logits, axis=1), wished, (0.5, 0.5))).mean() < 0.01


def test_few_films_without_a_mistake_make_no_boundless_certainty() -> None:
    logits = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 2.5], [0.0, 1.5]])
    labels = [0, 0, 1, 1]
    assert 1 < fit_temperature(logits, labels).scale[0] < 3
    assert fit_vector(logits, labels).probabilities(logits).max() < 0.9999
    assert fit_temperature(logits, labels, ridge=0.0).scale[0] <= 1e3


def test_logits_that_mislead_keep_a_positive_scale() -> None:
    logits, labels = make_logits(np.random.default_rng(4), 200, 3)
    for found in (fit_temperature(-logits, labels, ridge=0.0), fit_vector(-logits, labels, ridge=0.0)):
        assert (found.scale > 0).all()
        assert np.isfinite(found.bias).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(8, 60), st.floats(0.05, 20))
def test_fits_keep_their_promises(seed: int, count: int, n: int, scale: float) -> None:
    logits, labels = make_logits(np.random.default_rng(seed), n, count, scale=scale)
    temperature, vector = fit_temperature(logits, labels), fit_vector(logits, labels)
    for found in (temperature, vector):
        told = found.probabilities(logits)
        np.testing.assert_allclose(told.sum(axis=1), 1)
        assert (found.scale > 0).all()
    np.testing.assert_array_equal(temperature.probabilities(logits).argmax(axis=1), logits.argmax(axis=1))
    ones = np.ones(n)

    def loss(s: Float64, b: Float64) -> float:
        pull = ((s / temperature.scale - 1) ** 2).sum() + (b**2).sum()
        return nll(logits * s + b, labels, ones) + float(pull) / 2

    assert loss(vector.scale, vector.bias) <= loss(temperature.scale, temperature.bias) + 1e-9


GOOD = np.array([[1.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], [0, 1]), ValueError, r"Expected finite logits of shape \(n, classes\), but got shape \(2,\)"),
        (([[np.nan, 0.0]], [0]), ValueError, "Expected finite logits"),
        ((GOOD, [0, 2]), ValueError, r"Expected labels in \[0, 1\], but got \[0, 2\]"),
        ((np.empty((0, 2)), np.empty(0, int)), DataError, "at least one image"),
        ((GOOD, [0, 1], [1.0]), ValueError, r"Expected 2 weights of 0 or more, not all 0, but got shape \(1,\)"),
        ((GOOD, [0, 1], [-1.0, 1.0]), ValueError, "Expected 2 weights of 0 or more"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    fit: Callable[..., Scaling], arguments: tuple[npt.ArrayLike, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(*arguments)


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ridge": -1.0}, SettingError, r"Expected a ridge of 0 or more, but got -1\.0"),
        ({"ridge": np.inf}, SettingError, "Expected a ridge of 0 or more, but got inf"),
        (
            {"prior": (0.5, 0.2, 0.3)},
            SettingError,
            r"Expected a prevalence for each of 2 classes, but got shape \(3,\)",
        ),
        ({"prior": (0.9, 0.9)}, SettingError, "Expected positive prevalences that sum to 1"),
        ({"prior": (1.0, 0.0)}, SettingError, "Expected positive prevalences that sum to 1"),
    ],
)
def test_settings_that_are_not_allowed(
    fit: Callable[..., Scaling], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(GOOD, [0, 1], **options)


def test_a_class_of_the_prior_must_be_there() -> None:
    with pytest.raises(DataError, match=r"there is none of class number 1\. Add films"):
        fit_vector(GOOD, [0, 0], prior=(0.5, 0.5))


def test_balance_weights_balance() -> None:
    labels = np.array([0] * 70 + [1] * 20 + [2] * 10)
    weights = balance_weights(labels, (0.2, 0.3, 0.5), np.random.default_rng(0).uniform(1, 2, 100))
    np.testing.assert_allclose(np.bincount(labels, weights), (20, 30, 50))


# Slope and intercept


def logit(p: Float64) -> Float64:
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("weighted", [False, True])
def test_slope_and_intercept_are_those_of_a_logistic_regression(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    p = rng.uniform(0.01, 0.99, 400)
    hits = rng.random(400) < expit(0.5 * logit(p) - 0.7)
    weights = rng.integers(0, 4, (3, 400)).astype(float) if weighted else np.ones((1, 400))
    slope, intercept = recalibration(p, hits, weights)
    for row, counts in enumerate(weights):
        oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, np.newaxis], hits, sample_weight=counts)
        assert slope[row] == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
        surplus = brentq(lambda a, counts=counts: float(counts @ (hits - expit(a + logit(p)))), -10, 10, xtol=1e-12)
        assert intercept[row] == pytest.approx(surplus, abs=1e-8)


def test_a_known_distortion_is_found() -> None:
    rng = np.random.default_rng(6)
    true = rng.uniform(0.02, 0.98, 40_000)
    hits = rng.random(40_000) < true
    too_sure = expit(2 * logit(true))
    slope, _ = recalibration(too_sure, hits, np.ones((1, len(true))))
    assert slope[0] == pytest.approx(0.5, abs=0.02)
    too_high = expit(logit(true) + 1)
    slope, intercept = recalibration(too_high, hits, np.ones((1, len(true))))
    assert (slope[0], intercept[0]) == pytest.approx((1.0, -1.0), abs=0.04)


@pytest.mark.parametrize(
    ("p", "hits", "known"),
    [
        ([0.2, 0.4, 0.6, 0.8], [False, False, True, True], (False, True)),
        ([0.2, 0.4, 0.6, 0.8], [True, True, False, False], (False, True)),
        ([0.2, 0.4, 0.4, 0.8], [False, True, False, True], (False, True)),
        ([0.2, 0.4, 0.6, 0.8], [True, True, True, True], (False, False)),
        ([0.5, 0.5, 0.5, 0.5], [True, False, True, True], (False, True)),
        ([0.0, 1.0, 0.6, 0.8], [True, True, False, True], (True, True)),
    ],
)
def test_what_has_no_end_is_undefined(p: list[float], hits: list[bool], known: tuple[bool, bool]) -> None:
    found = recalibration(np.array(p), np.array(hits), np.ones((1, 4)))
    assert tuple(bool(np.isfinite(value[0])) for value in found) == known


@pytest.mark.parametrize("count", [2, 3])
def test_figures_have_intervals_that_hold_the_truth(count: int) -> None:
    logits, labels = make_logits(np.random.default_rng(7), 600, count)
    told = scipy_softmax(logits, axis=1)
    patients = [str(i // 2) for i in range(600)]
    found = reliability_figures(told, labels, patients, np.random.default_rng(0), 200)
    again = reliability_figures(told, labels, patients, np.random.default_rng(0), 200)
    assert found == again
    assert list(found) == ["ece", "brier", "loss", "slope", "intercept"]
    for name, ideal in (("slope", 1.0), ("intercept", 0.0)):
        low, high = found[name]["low"], found[name]["high"]
        assert low is not None
        assert high is not None
        assert low < ideal < high
    json.dumps(found, allow_nan=False)


def test_weights_count_films_as_often() -> None:
    logits, labels = make_logits(np.random.default_rng(8), 60, 2)
    told = scipy_softmax(logits, axis=1)
    times = np.random.default_rng(8).integers(1, 4, 60)
    rng = np.random.default_rng(0)
    weighted = reliability_figures(told, labels, ["a"] * 60, rng, 0, weights=times)
    repeated = reliability_figures(told.repeat(times, axis=0), labels.repeat(times), ["a"] * int(times.sum()), rng, 0)
    for name, interval in weighted.items():
        assert interval["value"] == pytest.approx(repeated[name]["value"], rel=1e-6)


def test_the_other_class_turns_the_intercept_about() -> None:
    logits, labels = make_logits(np.random.default_rng(9), 200, 2)
    told = scipy_softmax(logits + np.array((1.0, 0.0)), axis=1)
    patients = [str(i) for i in range(200)]
    first, last = (
        reliability_figures(told, labels, patients, np.random.default_rng(0), 0, positive=positive)
        for positive in (0, 1)
    )
    assert first["slope"]["value"] == pytest.approx(last["slope"]["value"])
    assert first["intercept"]["value"] == pytest.approx(-float(last["intercept"]["value"] or 0))


def test_figures_need_a_patient_for_each_film() -> None:
    with pytest.raises(ValueError, match="Expected one patient for each of 2 films, but got 1"):
        reliability_figures(GOOD, [0, 1], ["a"], np.random.default_rng(0))


# Prediction sets


class Told(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn's kind whose inputs are its answers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.classes_ = np.arange(count)

    def fit(self, x: Float64, y: Int64) -> Told:
        return self

    def predict_proba(self, x: Float64) -> Float64:
        return np.asarray(x)

    def predict(self, x: Float64) -> Int64:
        return np.asarray(x.argmax(axis=1), np.int64)

    def __sklearn_is_fitted__(self) -> bool:
        return True


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [2, 4])
def test_sets_are_mapies(count: int, coverage: float) -> None:
    rng = np.random.default_rng(10)
    logits, labels = make_logits(rng, 137, count)
    fresh = scipy_softmax(make_logits(rng, 200, count)[0], axis=1)
    told = scipy_softmax(logits, axis=1)
    oracle = SplitConformalClassifier(
        Told(count), confidence_level=coverage, conformity_score="lac", prefit=True
    ).conformalize(told, labels)
    _, sets = oracle.predict_set(fresh)
    np.testing.assert_array_equal(prediction_sets(fresh, conformal_threshold(told, labels, coverage)), sets[:, :, 0])


@pytest.mark.parametrize(("n", "coverage"), [(40, 0.9), (200, 0.95)])
def test_coverage_is_what_was_asked_for(n: int, coverage: float) -> None:
    """Over many calibration sets, mean coverage lies in [coverage, coverage + 1 / (n + 1)]."""
    rng = np.random.default_rng(11)
    held = []
    for _ in range(400):
        logits, labels = make_logits(rng, n + 503, 3, scale=2.0)
        told = scipy_softmax(logits, axis=1)[3:]
        labels = labels[3:]
        sets = prediction_sets(told[n:], conformal_threshold(told[:n], labels[:n], coverage))
        held.append(sets[np.arange(500), labels[n:]].mean())
    error = 3 * float(np.std(held)) / 20
    assert coverage - error <= np.mean(held) <= coverage + 1 / (n + 1) + error


def test_weights_give_coverage_under_another_prevalence() -> None:
    rng = np.random.default_rng(12)
    logits, labels = make_logits(rng, 4000, 2)
    told = scipy_softmax(logits * np.array((1.0, 0.3)), axis=1)
    elsewhere, there = make_logits(rng, 20_000, 2, prior=(0.05, 0.95))
    # The same films of each class; the model knows nothing of the other place.
    elsewhere = scipy_softmax((elsewhere - np.log((0.05, 0.95)) + np.log(0.5)) * np.array((1.0, 0.3)), axis=1)
    covered = {
        name: prediction_sets(elsewhere, conformal_threshold(told, labels, 0.9, weights=weights))[
            np.arange(len(there)), there
        ].mean()
        for name, weights in (("own", None), ("wished", balance_weights(labels, (0.05, 0.95))))
    }
    assert covered["wished"] == pytest.approx(0.9, abs=0.02)
    assert abs(covered["own"] - 0.9) > 0.02


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 80), st.floats(0.3, 0.95), st.floats(0.3, 0.95))
def test_more_coverage_never_makes_sets_smaller(seed: int, n: int, first: float, second: float) -> None:
    logits, labels = make_logits(np.random.default_rng(seed), n, 3)
    told = scipy_softmax(logits, axis=1)
    low, high = sorted((first, second))
    less, more = (prediction_sets(told, conformal_threshold(told, labels, value)) for value in (low, high))
    assert (less <= more).all()
    assert less[np.arange(n), labels].mean() >= low - 1e-9


def test_measured_coverage() -> None:
    told = np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8]])
    found = measure_coverage(told, [0, 0, 1, 0], 0.42, "abcd", np.random.default_rng(0), 50)
    assert (found["measured"]["value"], found["single"]["value"]) == (0.75, 0.75)
    each = measure_coverage(told, [0, 0, 1, 0], np.array([0.0, 0.95, 0.5, 0.1]), "abcd", np.random.default_rng(0), 0)
    assert (each["measured"]["value"], each["single"]["value"]) == (0.5, 0.25)
    weighted = measure_coverage(told, [0, 0, 1, 0], 0.42, "abcd", np.random.default_rng(0), 50, weights=[1, 1, 1, 5])
    assert weighted["measured"]["value"] == pytest.approx(3 / 8)


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_as_many_films_as_the_coverage_needs(coverage: float, needed: int) -> None:
    assert films_needed(coverage) == needed
    told = np.full((needed, 2), 0.5)
    labels = np.zeros(needed, int)
    assert conformal_threshold(told, labels, coverage) == 0.5
    if needed > 1:
        with pytest.raises(DataError, match=f"Expected at least {needed} films .* but got {needed - 1}. Add films"):
            conformal_threshold(told[1:], labels[1:], coverage)
        with pytest.raises(DataError, match="or more where films count for several"):
            conformal_threshold(told, labels, coverage, weights=np.append(np.ones(needed), 500.0)[1:])


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, np.nan])
def test_a_coverage_that_nobody_can_promise(coverage: float) -> None:
    with pytest.raises(SettingError, match=r"Expected coverage in \(0, 1\)"):
        films_needed(coverage)


# Prevalence


@pytest.mark.parametrize("prior", [(0.95, 0.05), (0.2, 0.8), (0.5, 0.3, 0.2)])
def test_a_prevalence_is_recovered(prior: tuple[float, ...]) -> None:
    count = len(prior)
    rng = np.random.default_rng(13)
    logits, labels = make_logits(rng, 20_000, count, prior=prior)
    even = np.full(count, 1 / count)
    told = scipy_softmax(logits - np.log(prior), axis=1)
    found = estimate_prior(told, even)
    np.testing.assert_allclose(found, np.bincount(labels) / len(labels), atol=0.01)
    np.testing.assert_allclose(adapt_prior(told, prior, even), scipy_softmax(logits, axis=1), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_bayes_there_and_back(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    told = scipy_softmax(rng.normal(size=(20, count)), axis=1)
    first, second = rng.dirichlet(np.full(count, 5.0), 2).clip(1e-3)
    first, second = first / first.sum(), second / second.sum()
    there = adapt_prior(told, second, first)
    np.testing.assert_allclose(there.sum(axis=1), 1)
    np.testing.assert_allclose(adapt_prior(there, first, second), told, atol=1e-9)
    np.testing.assert_allclose(adapt_prior(told, first, first), told)
    assert estimate_prior(told, first).sum() == pytest.approx(1)


def test_prevalences_that_are_none() -> None:
    with pytest.raises(SettingError, match="Expected a prevalence for each of 2 classes"):
        adapt_prior(GOOD, (0.2, 0.3, 0.5), (0.5, 0.5))
    with pytest.raises(SettingError, match="Expected positive prevalences that sum to 1"):
        estimate_prior(GOOD, (0.5, 0.6))
    with pytest.raises(SettingError, match="Expected the prevalence of all but one of the classes a, b, c, but got a"):
        parse_prevalence({"a": 0.5}, "abc")
    with pytest.raises(SettingError, match="Expected the prevalence of all but one of the classes a, b, but got x"):
        parse_prevalence({"x": 0.5}, "ab")
    with pytest.raises(SettingError, match="Expected positive prevalences that sum to 1"):
        parse_prevalence({"a": 1.5}, "ab")


# Folds


def test_folds_keep_patients_together_and_classes_in_proportion() -> None:
    labels = np.array([0] * 60 + [1] * 40)
    patients = [str(i // 2) for i in range(100)]
    folds = patient_folds(labels, patients, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(folds[::2], folds[1::2])
    for fold in range(5):
        np.testing.assert_array_equal(np.bincount(labels[folds == fold]), (12, 8))


# A site's own


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """Return films that the model never saw, of its classes, three of which are no films."""
    folder = tmp_path_factory.mktemp("site")
    write_set(folder, films=40, rng=np.random.default_rng(99))
    listing = list_images(folder, patient_pattern=r"person(\d+)")
    broken = [record for record in listing.records if record.label == "normal"][:2]
    broken[0].path.write_bytes(b"not a film")
    Image.new("L", (200, 200), 128).save(broken[1].path)
    # As a table of the site would name them.
    records = tuple(replace(record, patient=f"site-{record.label}-{record.patient}") for record in listing.records)
    return replace(listing, records=records, patient_source=PatientSource.CSV)


@pytest.fixture(scope="module")
def proven(trained: Trained) -> Bundle:
    """Return the small bundle as if a table had named its patients."""
    bundle = trained.training.bundle
    return replace(bundle, split=replace(bundle.split, patient_source=PatientSource.CSV))


@pytest.fixture(scope="module")
def calibrated(proven: Bundle, site: Listing) -> tuple[Bundle, dict[str, Any]]:
    return calibrate(proven, site, coverage=0.9, resamples=50, command="rentgen calibrate")


def test_a_site_calibrates_a_bundle(
    calibrated: tuple[Bundle, dict[str, Any]], proven: Bundle, site: Listing, tmp_path: Path
) -> None:
    bundle, summary = calibrated
    assert summary["left_out"] == {"error": 1, "out_of_scope": 1}
    assert len(summary["failed"]) == 1
    assert summary["n"] == len(site) - 2
    assert summary["method"] == min(summary["losses"], key=lambda name: summary["losses"][name])
    assert set(summary["losses"]) == {"none", "temperature", "vector"}
    assert summary["after"]["loss"]["value"] <= summary["before"]["loss"]["value"]
    assert summary["conformal"]["measured"]["value"] > 0.75
    assert summary["folds"] == 5
    json.dumps(summary, allow_nan=False)

    card = bundle.card
    assert card.parent == proven.bundle_id
    assert card.name.endswith("-calibrated")
    assert card.command == "rentgen calibrate"
    assert card.calibration is not None
    assert "cross-fitted" in card.calibration.fitted_on
    assert card.calibration.to_dict() == summary["calibration"]
    assert card.conformal is not None
    assert (card.conformal.coverage, card.conformal.n) == (0.9, summary["n"])
    assert {(point.name, point.label) for point in card.operating_points} == {
        (point.name, point.label) for point in proven.card.operating_points
    }
    assert card.test is None
    assert (card.validation["n"], card.validation["leaky"]) == (summary["n"], True)
    grown = sum(card.counts["validation"].values()) - sum(proven.card.counts["validation"].values())
    assert grown == summary["n"]
    assert bundle.model is proven.model

    where = tmp_path / "site.rentgen"
    bundle_id = bundles.write(where, bundle)
    read = bundles.read(where)
    assert read.card.to_dict() == card.to_dict()
    assert read.bundle_id == bundle_id != proven.bundle_id


def test_the_new_bundle_answers_by_its_calibration(
    calibrated: tuple[Bundle, dict[str, Any]], proven: Bundle, site: Listing
) -> None:
    bundle, summary = calibrated
    films = [record.path for record in site.records[-6:]]
    old, new = (list(Predictor(one).predict_many(films)) for one in (proven, bundle))
    calibration = summary["calibration"]
    for before, after in zip(old, new, strict=True):
        assert before.logits == after.logits
        expected = scipy_softmax(np.array(after.logits) * calibration["scale"] + calibration["bias"])
        np.testing.assert_allclose(list(after.probabilities.values()), expected, rtol=1e-6)
        threshold = summary["conformal"]["threshold"]
        assert after.prediction_set == tuple(label for label, p in after.probabilities.items() if p >= threshold)


def test_films_that_calibrated_are_leaky_and_others_are_not(
    calibrated: tuple[Bundle, dict[str, Any]], proven: Bundle, site: Listing, tmp_path: Path
) -> None:
    bundle, summary = calibrated
    before = judge(Predictor(proven), site, resamples=0, gallery=0).evaluation.leak
    after = judge(Predictor(bundle), site, resamples=0, gallery=0).evaluation.leak
    assert before is not None
    assert after is not None
    assert (before.leaky, before.images, before.patients) == (False, 0, 0)
    assert (after.leaky, after.images, after.patients) == (True, summary["n"], summary["patients"])
    # Another film of a patient who calibrated.
    write_set(tmp_path, films=3, rng=np.random.default_rng(5))
    fresh = list_images(tmp_path)
    for patient, leaky in ((site.records[-1].patient, True), ("a stranger", False)):
        records = tuple(replace(record, patient=patient) for record in fresh.records)
        listing = replace(fresh, records=records, patient_source=PatientSource.CSV)
        leak = judge(Predictor(bundle), listing, resamples=0, gallery=0).evaluation.leak
        assert leak is not None
        assert (leak.leaky, leak.images) == (leaky, 0)


def test_the_certificate_keeps_what_it_knew(calibrated: tuple[Bundle, dict[str, Any]], proven: Bundle) -> None:
    bundle, summary = calibrated
    for name in ("images", "pixels", "patients"):
        old, new = getattr(proven.split, name), getattr(bundle.split, name)
        assert set(old[Split.VALIDATION]) < set(new[Split.VALIDATION])
        assert (old[Split.TRAIN], old[Split.TEST]) == (new[Split.TRAIN], new[Split.TEST])
    assert len(bundle.split.images[Split.VALIDATION]) == len(proven.split.images[Split.VALIDATION]) + summary["n"]
    assert bundle.split.salt == proven.split.salt


@pytest.mark.parametrize("source", [PatientSource.NAME, PatientSource.NONE])
def test_names_of_files_do_not_mix_with_proven_patients(source: PatientSource, proven: Bundle, site: Listing) -> None:
    bundle, _ = calibrate(proven, replace(site, patient_source=source), coverage=0.9, resamples=0)
    assert bundle.split.patients == proven.split.patients
    assert len(bundle.split.images[Split.VALIDATION]) > len(proven.split.images[Split.VALIDATION])


def test_none_keeps_the_probabilities(proven: Bundle, site: Listing) -> None:
    bundle, summary = calibrate(proven, site, method="none", coverage=0.9, resamples=0)
    assert bundle.card.calibration is proven.card.calibration
    assert summary["before"] == summary["after"]
    assert bundle.card.conformal is not None


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_a_prevalence_lowers_what_is_said_of_a_rare_class(method: str, proven: Bundle, site: Listing) -> None:
    rare = {"effusion": 0.02, "consolidation": 0.02}
    _, even = calibrate(proven, site, method=method, coverage=0.8, resamples=0)
    _, seldom = calibrate(proven, site, method=method, coverage=0.8, resamples=0, prevalence=rare)
    assert seldom["prevalence"] == pytest.approx({"consolidation": 0.02, "effusion": 0.02, "normal": 0.96})
    assert even["prevalence"] is None
    assert "weighted to the prevalence" in seldom["calibration"]["fitted_on"]
    if method == "vector":
        normal = proven.card.classes.index("normal")
        assert seldom["calibration"]["bias"][normal] > even["calibration"]["bias"][normal]


def test_the_same_seed_gives_the_same(calibrated: tuple[Bundle, dict[str, Any]], proven: Bundle, site: Listing) -> None:
    _, again = calibrate(proven, site, coverage=0.9, resamples=50)
    assert again == calibrated[1]


def test_an_unwritten_bundle_has_no_child(proven: Bundle, site: Listing) -> None:
    bundle, summary = calibrate(replace(proven, bundle_id=""), site, method="none", coverage=0.9, resamples=0)
    assert bundle.card.parent is summary["parent"] is None


def without(listing: Listing, label: str, keep: int) -> Listing:
    """Return the listing with so many films of a class, the last ones."""
    of_label = [record for record in listing.records if record.label == label]
    gone = of_label[: len(of_label) - keep]
    return replace(listing, records=tuple(record for record in listing.records if record not in gone))


def refused(
    bundle: Bundle,
    listing: Listing,
    error: type[Exception],
    message: str,
    *,
    method: str = "auto",
    coverage: float = 0.95,
    prevalence: dict[str, float] | None = None,
) -> None:
    with pytest.raises(error, match=message):
        calibrate(bundle, listing, resamples=0, method=method, coverage=coverage, prevalence=prevalence)


def test_what_a_site_cannot_calibrate_on(trained: Trained, proven: Bundle, site: Listing) -> None:
    refused(
        proven, without(site, "effusion", 9), DataError, "at least 10 films of each class .* but got 9 of 'effusion'"
    )
    refused(proven, without(site, "effusion", 0), DataError, "but got 0 of 'effusion' .2 were left out: 1 error, 1 out")
    bare = replace(site, records=tuple(replace(record, label=None) for record in site.records))
    refused(proven, bare, DataError, "Expected a label for every film, but 120 of 120 have none")
    foreign = replace(site, records=(replace(site.records[0], label="fracture"), *site.records[1:]))
    refused(proven, foreign, DataError, "but the set also has fracture")
    one = tuple(replace(record, patient="one") if record.label == "effusion" else record for record in site.records)
    refused(proven, replace(site, records=one), DataError, "at least 2 patients of each class, but all of 'effusion'")
    refused(proven, site, DataError, "Expected at least 999 films .* but got 118 .2 were left out", coverage=0.999)
    refused(proven, site, SettingError, r"Expected coverage in \(0, 1\)", coverage=95.0)
    refused(proven, site, SettingError, "one of auto, none, temperature, vector, but got 'platt'", method="platt")
    refused(proven, site, SettingError, "all but one of the classes", prevalence={"effusion": 0.5})
    refused(
        trained.training.bundle,
        trained.training.listing,
        LeakError,
        "of the films and .* of their patients trained this model",
    )


def test_calibrating_needs_numpy_alone() -> None:
    code = "import sys, rentgen.learn.calibrate; print({'torch', 'scipy', 'sklearn', 'mapie'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_card_of_the_new_bundle_reads_back(calibrated: tuple[Bundle, dict[str, Any]]) -> None:
    card = calibrated[0].card
    assert Card.from_dict(json.loads(json.dumps(card.to_dict()))).to_dict() == card.to_dict()
