"""How common each of several findings is: worked by hand, against SciPy and scikit-learn, and on drawn findings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from rentgen.errors import DataError, SettingError
from rentgen.evaluate.prevalence import (
    adapt_findings,
    adapt_prior,
    balance_findings,
    estimate_findings,
    estimate_prior,
    parse_findings,
)
from rentgen.evaluate.reliability import reliability_figures
from rentgen.evaluate.several import mean_cell_loss
from rentgen.learn.scaling import fit_vector
from rentgen.records import UNKNOWN, Float64, Int64

TRAIN = np.array([0.5, 0.3, 0.1])
HERE = np.array([0.1, 0.6, 0.02])


def drawn(prevalence: Float64, count: int, seed: int = 0) -> tuple[Float64, Int64]:
    """Return scores (n, k) and truth (n, k): a score is normal around 1 with the finding and around -1 without."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, len(prevalence))) < prevalence).astype(np.int64)
    return rng.normal(2 * truth - 1, 1.0), truth


def posterior(scores: Float64, prevalence: Float64) -> Float64:
    """Return the probabilities of `drawn` scores: the two normals' log ratio is 2 x."""
    probabilities: Float64 = expit(2 * scores + logit(prevalence))
    return probabilities


def test_shares_worked_by_hand() -> None:
    # d/dq [log(0.1 + 0.8 q) + 2 log(0.9 - 0.8 q)] = 0 at q = 0.7 / 2.4.
    found = estimate_findings([[0.9, 0.8], [0.1, 0.2], [0.1, 0.5]], [0.5, 0.5])
    np.testing.assert_allclose(found, [0.7 / 2.4, 0.5], atol=1e-6)
    # Odds of 1 to 1 at a half are 1 to 4 at a fifth; 9 to 1 are 9 to 4.
    np.testing.assert_allclose(adapt_findings([[0.5], [0.9]], [0.2], [0.5]), [[0.2], [9 / 13]])
    assert adapt_findings([[0.4, 0.7]], [np.nan, 0.3], [0.2, 0.3]).tolist() == [[0.4, 0.7]]


def test_shares_make_the_films_most_likely() -> None:
    scores, _ = drawn(HERE, 400, seed=1)
    told = posterior(scores, TRAIN)

    def unlikely(share: float, column: int) -> float:
        p, given = told[:, column], TRAIN[column]
        return -float(np.log(share * p / given + (1 - share) * (1 - p) / (1 - given)).sum())

    found = estimate_findings(told, TRAIN)
    for column, share in enumerate(found):
        best = minimize_scalar(unlikely, bounds=(1e-9, 1 - 1e-9), args=(column,), method="bounded",
                               options={"xatol": 1e-10}).x  # fmt: skip
        assert share == pytest.approx(best, abs=1e-5)


def test_a_shift_is_found_and_undone() -> None:
    scores, truth = drawn(HERE, 30_000)
    told = posterior(scores, TRAIN)
    found = estimate_findings(told, TRAIN)
    np.testing.assert_allclose(found, truth.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(adapt_findings(told, HERE, TRAIN), posterior(scores, HERE), atol=1e-12)
    # Each finding is a problem of two classes.
    two = np.column_stack((1 - told[:, 1], told[:, 1]))
    prior = estimate_prior(two, (0.7, 0.3))
    assert found[1] == prior[1]
    np.testing.assert_allclose(adapt_prior(two, prior, (0.7, 0.3))[:, 1], adapt_findings(told, found, TRAIN)[:, 1])


def test_weights_give_each_finding_its_share() -> None:
    truth = np.array([[1, 1, 0], [0, 1, UNKNOWN], [0, 0, 1], [0, UNKNOWN, 1]])
    weights = balance_findings(truth, [0.5, np.nan, 0.25])
    known = truth != UNKNOWN
    assert (weights[:, 1] == 1).all()
    np.testing.assert_allclose((weights * (truth == 1)).sum(axis=0)[[0, 2]], [2.0, 0.75])
    np.testing.assert_allclose((weights * known).sum(axis=0), known.sum(axis=0))


def test_fits_for_a_prevalence_are_scikit_learns_and_bayes() -> None:
    scores, truth = drawn(TRAIN, 20_000, seed=2)
    truth[::7, 1] = UNKNOWN
    weights = balance_findings(truth, HERE)
    fitted = fit_vector(scores, truth, weights, ridge=0.0)
    for column in range(3):
        known = truth[:, column] != UNKNOWN
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        model.fit(scores[known, column : column + 1], truth[known, column], weights[known, column])
        assert fitted.scale[column] == pytest.approx(model.coef_[0, 0], rel=1e-4)
        assert fitted.bias[column] == pytest.approx(model.intercept_[0], abs=1e-3)
    assert np.abs(fitted.probabilities(scores) - posterior(scores, HERE)).mean() < 0.01
    plain = fit_vector(scores, truth)
    assert fit_vector(scores, truth, np.ones(truth.shape)).bias == pytest.approx(plain.bias)
    assert fit_vector(scores, truth, np.ones(len(truth))).bias == pytest.approx(plain.bias)


def test_weighted_figures_are_those_of_repeated_films() -> None:
    scores, truth = drawn(np.array([0.4]), 60, seed=3)
    told, often = posterior(scores, np.array([0.3])), np.where(truth == 1, 3, 1)
    patients = [str(number) for number in range(60)]
    again = np.repeat(np.arange(60), often[:, 0])
    rng = np.random.default_rng(0)
    weighted = reliability_figures(told, truth, patients, rng, 0, weights=often)
    repeated = reliability_figures(told[again], truth[again], [patients[i] for i in again], rng, 0)
    of_films = reliability_figures(told, truth, patients, rng, 0, weights=often[:, 0])
    for name in weighted:
        assert weighted[name]["value"] == pytest.approx(repeated[name]["value"], abs=1e-6)
        assert weighted[name]["value"] == pytest.approx(of_films[name]["value"], abs=1e-9)
    assert mean_cell_loss(told, truth, often) == pytest.approx(mean_cell_loss(told[again], truth[again]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"Hernia": 0.1}, "findings among Effusion, Nodule, but got Hernia"),
        ({}, "but got none"),
        ({"Nodule": 0.0}, "above 0 and below 1"),
        ({"Nodule": 1.0}, "above 0 and below 1"),
        ({"Effusion": -0.1}, "above 0 and below 1"),
    ],
)
def test_shares_that_cannot_be(given: dict[str, float], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        parse_findings(given, ("Effusion", "Nodule"))


def test_what_cannot_be_said() -> None:
    assert parse_findings({"Effusion": 0.2, "Nodule": 0.9}, ("Effusion", "Nodule")).tolist() == [0.2, 0.9]
    with pytest.raises(DataError, match="finding number 1 there are 2 with and 0 without"):
        balance_findings(np.array([[1, 1], [0, 1]]), [0.5, 0.5])
    with pytest.raises(SettingError, match="each of 2 findings, but got shape"):
        estimate_findings([[0.5, 0.5]], [0.5])
    with pytest.raises(SettingError, match="above 0 and below 1"):
        estimate_findings([[0.5]], [np.nan])
    with pytest.raises(ValueError, match=r"Expected 2 x 1 weights of 0 or more"):
        fit_vector([[0.0], [1.0]], [[0], [1]], [[1.0, 1.0]])
    with pytest.raises(ValueError, match=r"probabilities of shape \(n, findings\)"):
        estimate_findings([0.5], [0.5])
    with pytest.raises(DataError, match="at least one image"):
        estimate_findings(np.empty((0, 1)), [0.5])
