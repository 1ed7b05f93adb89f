"""Heat maps that point to the cause pass; maps that point elsewhere, or nowhere, do not."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from linear import GRID, SIDE, fitted_model, normal_films, predictor_of, weighing_model, with_spot
from scipy.stats import spearmanr

from rentgen.engine.predictor import Predictor
from rentgen.evaluate.explain import (
    STEPS,
    Grade,
    grade_heat_maps,
    graph_maps,
    judge_maps,
    similarity,
)
from rentgen.evaluate.films import Films
from rentgen.evaluate.ranks import spearman
from rentgen.learn.randomise import randomise
from rentgen.records import Float32, Interval, UInt8

N = 40
LABELS = np.arange(N) % 2
PATIENTS = tuple(f"p{i // 2}" for i in range(N))


@cache
def spotted() -> UInt8:
    return with_spot(normal_films(N), LABELS, 42, 26, 16)


@cache
def good() -> Predictor:
    return predictor_of(fitted_model(spotted(), LABELS))


def films() -> Films:
    # Only what has the finding: the other class is known by what is not there, which no map shows.
    return Films(spotted(), LABELS, PATIENTS).take(np.flatnonzero(LABELS == 1))


def test_a_map_of_the_cause_passes() -> None:
    steps: list[tuple[int, int]] = []
    found = grade_heat_maps(
        good(),
        films(),
        rng=np.random.default_rng(0),
        randomised=graph_maps(randomise(good().bundle.model, np.random.default_rng(1)), good()),
        resamples=50,
        progress=lambda stage, done, total, note="": steps.append((done, total)),
    )
    assert found.grade is Grade.PASSED, found.reasons
    assert found.n == 20
    assert found.empty == 0
    assert steps[-1] == (20, 20)
    scores = found.scores
    assert scores["map"]["deletion"].value < scores["random"]["deletion"].value
    assert scores["map"]["insertion"].value > scores["random"]["insertion"].value
    assert found.similarity["spearman"].value < 0.5
    for kind in ("deletion", "insertion"):
        assert {len(line) for line in found.curves[kind].values()} == {STEPS + 1}
        starts = {round(line[0], 9) for line in found.curves[kind].values()}
        assert len(starts) == 1
    assert found.curves["deletion"]["map"][0] == pytest.approx(found.curves["insertion"]["map"][-1])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["grade"] == "passed"


def test_without_shuffled_weights_the_grade_is_weak() -> None:
    found = grade_heat_maps(good(), films(), rng=np.random.default_rng(0), resamples=50)
    assert found.grade is Grade.WEAK
    assert "not checked" in found.reasons[-1]


def test_a_map_that_does_not_follow_the_weights_fails() -> None:
    found = grade_heat_maps(good(), films(), rng=np.random.default_rng(0), randomised=good(), resamples=50)
    assert found.grade is Grade.FAILED
    assert found.similarity["spearman"].value == pytest.approx(1)
    assert found.similarity["ssim"].value == pytest.approx(1)


def test_a_model_that_hardly_answers_has_no_good_map() -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 1e-3, (2, GRID, GRID))
    found = grade_heat_maps(
        predictor_of(weighing_model(weights, np.zeros((GRID, GRID)))), films(), rng=rng, resamples=50
    )
    assert found.grade is Grade.FAILED
    assert "do not carry the answer better than a map drawn by chance" in found.reasons[0]


def test_empty_maps_are_left_out_and_counted() -> None:
    weights = np.zeros((2, GRID, GRID))
    nothing = grade_heat_maps(
        predictor_of(weighing_model(weights, weights[0])), films(), rng=np.random.default_rng(0), randomised=good()
    )
    assert nothing.grade is Grade.FAILED
    assert (nothing.n, nothing.empty) == (0, 20)
    assert "nothing to show" in nothing.reasons[0]
    # One class has a map, the other none.
    weights[1, 5, 3] = 40.0
    mean = np.full((GRID, GRID), spotted()[LABELS == 0][:, 42:52, 26:36].mean() / 255 + 0.2)
    some = grade_heat_maps(
        predictor_of(weighing_model(weights, mean)),
        Films(spotted(), LABELS, PATIENTS),
        rng=np.random.default_rng(0),
        resamples=0,
    )
    assert some.empty > 0
    assert some.n + some.empty == N


def test_maps_that_overflow_are_taken_as_nothing() -> None:
    def broken(fitted: UInt8) -> Float32:
        return np.full((len(fitted), 2, GRID, GRID), np.nan, np.float32)

    found = grade_heat_maps(good(), films(), rng=np.random.default_rng(0), randomised=broken, resamples=20)
    assert found.similarity["spearman"].value == 0


def test_at_most_so_many_films() -> None:
    found = grade_heat_maps(good(), films(), rng=np.random.default_rng(0), resamples=0, limit=5)
    assert found.n <= 5


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.maximum(rng.normal(size=(7, 7)), 0).astype(np.float32) for _ in range(2))
    assert spearman(first, second) == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert np.isnan(spearman(first, np.zeros((7, 7), np.float32)))
    assert similarity(first, 3 * first) == pytest.approx(1)
    assert similarity(first, first.max() - first) < 0


@pytest.mark.parametrize(
    ("random", "centre", "alike", "grade"),
    [
        (0.2, 0.1, 0.1, Grade.PASSED),
        (0.2, -0.1, 0.1, Grade.WEAK),
        (0.2, 0.1, None, Grade.WEAK),
        (-0.2, 0.1, 0.1, Grade.FAILED),
        (0.01, 0.1, 0.1, Grade.FAILED),
        (0.2, 0.1, 0.8, Grade.FAILED),
        (0.2, -0.1, 0.8, Grade.FAILED),
    ],
)
def test_grades(random: float, centre: float, alike: float | None, grade: Grade) -> None:
    scores = {
        name: {"ahead": Interval(lead, lead - 0.005, lead + 0.005)}
        for name, lead in (("random", random), ("centre", centre))
    }
    same = {} if alike is None else {"spearman": Interval(alike, alike - 0.1, alike + 0.1)}
    found, reasons = judge_maps(scores, same)
    assert found is grade
    assert len(reasons) == 3


def test_size_of_the_films_is_that_of_the_model() -> None:
    assert spotted().shape == (N, SIDE, SIDE)
