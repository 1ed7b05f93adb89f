"""Stress is measured as any other set is; groups are what they say."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from conftest import Trained
from linear import fitted_model, normal_films, predictor_of, with_spot
from sklearn.metrics import roc_auc_score

from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.evaluate.films import Films, load_films
from rentgen.evaluate.metrics import calibration_error
from rentgen.evaluate.stress import NONE, cluster, stress_report
from rentgen.images.corrupt import CORRUPTIONS, corrupt
from rentgen.records import UInt8

N = 60
LABELS = np.arange(N) % 2
PATIENTS = tuple(f"p{i // 4}-{i % 2}" for i in range(N))


@cache
def spotted() -> UInt8:
    return with_spot(normal_films(N, 5), LABELS, 42, 26, 16)


def test_films_as_they_are_are_measured_as_anywhere() -> None:
    predictor = predictor_of(fitted_model(spotted()[:30], LABELS[:30]))
    told = predictor.probabilities(predictor.run(spotted())["logits"])
    steps: list[str] = []
    found = stress_report(
        predictor,
        Films(spotted(), LABELS, PATIENTS),
        rng=np.random.default_rng(0),
        resamples=40,
        progress=lambda stage, done, total, note="": steps.append(note),
    )
    plain = found.rows[0]
    assert plain.name == NONE
    assert plain.metrics["accuracy"].value == pytest.approx((told.argmax(axis=1) == LABELS).mean())
    assert plain.metrics["auroc"].value == pytest.approx(roc_auc_score(LABELS, told[:, 1]))
    assert plain.metrics["ece"].value == pytest.approx(calibration_error(told, LABELS))
    assert [row.name for row in found.rows] == [NONE, *CORRUPTIONS] == steps
    areas = [row.metrics["auroc"].value for row in found.rows[1:]]
    assert found.mean["auroc"].value == pytest.approx(np.mean(areas))
    assert found.mean["auroc"].low <= found.mean["auroc"].value <= found.mean["auroc"].high
    assert found.worst == found.rows[1 + int(np.argmin(areas))].name
    assert found.n == N
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["worst"] == found.worst


def test_the_same_seed_corrupts_alike() -> None:
    predictor = predictor_of(fitted_model(spotted()[:30], LABELS[:30]))
    films = Films(spotted(), LABELS, PATIENTS)
    first, second = (
        stress_report(predictor, films, rng=np.random.default_rng(4), resamples=10).to_dict() for _ in range(2)
    )
    assert first == second
    image = spotted()[0]
    assert (corrupt(image, "noise", np.random.default_rng(1)) != image).any()


def test_groups_tell_films_of_another_make_apart() -> None:
    films = spotted().copy()
    films[:20] //= 3
    native = {"height": np.where(np.arange(N) < 20, 400.0, 1600.0), "width": np.where(np.arange(N) < 20, 500.0, 1900.0)}
    # On the dark films the labels mean nothing to the model.
    labels = LABELS.copy()
    labels[:20] = labels[:20][::-1]
    predictor = predictor_of(fitted_model(spotted()[20:], LABELS[20:]))
    found = stress_report(predictor, Films(films, labels, PATIENTS, native), rng=np.random.default_rng(0), resamples=20)
    dark = [row for row in found.groups if "500 by 400" in row.name]
    other = [row for row in found.groups if "1,900 by 1,600" in row.name]
    assert sum(row.n for row in dark) == 20
    assert sum(row.n for row in other) == 40
    assert max(row.metrics["accuracy"].value for row in dark) < min(row.metrics["accuracy"].value for row in other)
    assert [row.name[:2] for row in found.groups] == ["A:", "B:", "C:", "D:"][: len(found.groups)]
    assert [row.n for row in found.groups] == sorted((row.n for row in found.groups), reverse=True)


def test_clusters_are_found_and_alike_rows_make_one() -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [10, 0], [0, 10.0]])
    values = np.concatenate([middle + rng.normal(size=(30, 2)) for middle in middles])
    groups = cluster(values, 3, rng)
    assert sorted(np.bincount(groups).tolist()) == [30, 30, 30]
    assert all(len(set(groups[start : start + 30])) == 1 for start in (0, 30, 60))
    assert set(cluster(np.ones((5, 2)), 4, rng)) == {0}


def test_one_class_is_measured_by_accuracy() -> None:
    predictor = predictor_of(fitted_model(spotted(), LABELS))
    films = Films(spotted()[:8], np.ones(8, np.int64), PATIENTS[:8])
    found = stress_report(predictor, films, rng=np.random.default_rng(0), resamples=5)
    assert np.isnan(found.rows[0].metrics["auroc"].value)
    assert found.worst in CORRUPTIONS
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_trained_bundle_of_three_classes_is_stressed(trained: Trained) -> None:
    predictor = Predictor.load(trained.bundle)
    films = load_films(predictor, list_images(trained.data), limit=24, rng=np.random.default_rng(0))
    found = stress_report(predictor, films, rng=np.random.default_rng(0), resamples=10, limit=12)
    assert found.n <= 12
    assert sum(row.n for row in found.groups) == found.n
