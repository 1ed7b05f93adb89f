"""Planted shortcuts are caught; a model that looks at the lung is not blamed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import Trained
from linear import GRID, fitted_model, normal_films, predictor_of, weighing_model, with_spot
from made import film8
from PIL import Image
from sklearn.metrics import roc_auc_score

from rentgen.data.listing import list_images
from rentgen.data.split import patient_folds
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError
from rentgen.evaluate.films import Films, choose, grey_numbers, load_films
from rentgen.evaluate.shortcuts import Shortcuts, fit_blind, macro_auroc, rank, shortcut_report

N = 80
LABELS = np.arange(N) % 2
PATIENTS = tuple(f"p{i // 2 // 2}-{i % 2}" for i in range(N))


@cache
def bare() -> np.ndarray:
    return normal_films(N)


def judged(row: int, column: int, **native: np.ndarray) -> Shortcuts:
    films = with_spot(bare(), LABELS, row, column)
    predictor = predictor_of(fitted_model(films[:40], LABELS[:40]))
    probed = Films(films, LABELS, PATIENTS, native)
    return shortcut_report(predictor, probed, rng=np.random.default_rng(0), resamples=60)


def probes(found: Shortcuts) -> dict[str, bool | None]:
    return {probe.name: probe.passes for probe in found.probes}


def test_a_marker_in_the_corner_is_caught() -> None:
    found = judged(1, 2)
    told = probes(found)
    assert found.passed is False
    assert told["thorax hidden"] is False
    assert told["only the thorax"] is False
    assert told["borders hidden"] is False
    assert told["heat outside the thorax"] is False


def test_a_finding_in_the_lung_passes() -> None:
    found = judged(42, 26)
    told = probes(found)
    values = {probe.name: probe.found for probe in found.probes}
    assert values["as they are"].value > 0.95
    assert values["thorax hidden"].value < 0.7
    assert found.passed is True, values
    assert told["heat outside the thorax"] is True
    assert found.n == N
    assert found.patients == len(set(PATIENTS))
    assert found.maps == N
    assert found.thorax_found > 0.9


def test_areas_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 3)).round(1), rng.integers(3, size=50)
    expected = np.mean([roc_auc_score(labels == number, scores[:, number]) for number in range(3)])
    assert macro_auroc(rank(scores, labels), np.ones((1, 50)))[0] == pytest.approx(expected)
    films = with_spot(bare(), LABELS, 42, 26)
    predictor = predictor_of(fitted_model(films[:40], LABELS[:40]))
    found = shortcut_report(predictor, Films(films, LABELS, PATIENTS), rng=rng, resamples=20)
    told = predictor.probabilities(predictor.run(films)["logits"])[:, 1]
    first = found.probes[0].found
    assert first.value == pytest.approx(roc_auc_score(LABELS, told))
    assert first.low <= first.value <= first.high


def test_a_set_that_size_gives_away_is_told_but_not_the_models_fault() -> None:
    rng = np.random.default_rng(1)
    height = 400.0 + 200 * LABELS + rng.normal(0, 20, N)
    native = {"height": height, "width": height + rng.normal(0, 20, N), "bytes": rng.uniform(1e5, 2e5, N)}
    found = judged(42, 26, **native)
    told = {probe.name: probe for probe in found.probes}
    assert told["size and grey levels"].found.value > 0.9
    assert told["size and grey levels"].passes is False
    assert told["size and grey levels"].about == "set"
    assert told["grey levels"].found.value < told["size and grey levels"].found.value
    assert found.passed is True


def test_a_model_that_knows_nothing_gets_no_verdict() -> None:
    predictor = predictor_of(weighing_model(np.zeros((2, GRID, GRID)), np.zeros((GRID, GRID))))
    found = shortcut_report(predictor, Films(bare(), LABELS, PATIENTS), rng=np.random.default_rng(0), resamples=0)
    assert found.passed is None
    assert found.maps == 0
    assert probes(found)["thorax hidden"] is None


def test_one_class_measures_nothing_and_says_so() -> None:
    films = Films(bare()[:10], np.ones(10, np.int64), PATIENTS[:10])
    found = shortcut_report(predictor_of(fitted_model(bare(), LABELS)), films, rng=np.random.default_rng(0))
    assert found.passed is None
    values = found.to_dict()
    assert values["probes"][0]["value"] is None


def test_plain_values_are_strict_json_without_pictures() -> None:
    found = judged(1, 2)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "png" not in text
    assert all(example.film_png.startswith(b"\x89PNG") for example in found.examples)
    assert {example.label for example in found.examples} == {"normal", "covid"}


def test_the_small_model_never_scores_a_patient_it_knows() -> None:
    rng = np.random.default_rng(0)
    folds = patient_folds(LABELS, PATIENTS, 5, rng)
    for patient in set(PATIENTS):
        assert len({fold for fold, one in zip(folds, PATIENTS, strict=True) if one == patient}) == 1
    # Each patient has a number of his own: learned by heart, it would tell his class.
    numbers = np.eye(len(set(PATIENTS)))[np.unique(PATIENTS, return_inverse=True)[1]][:, :8]
    scores = fit_blind(numbers, LABELS, folds, 2)
    assert roc_auc_score(LABELS, scores[:, 1]) < 0.75
    alone = fit_blind(numbers, LABELS, np.zeros(N, np.int64), 2)
    assert np.isnan(alone).all()


def test_the_small_model_sees_what_lies_between_and_in_products() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(300, 2))
    labels = ((numbers[:, 0] * numbers[:, 1]) > 0).astype(np.int64)
    patients = tuple(map(str, range(300)))
    scores = fit_blind(numbers, labels, patient_folds(labels, patients, 5, rng), 2)
    assert roc_auc_score(labels, scores[:, 1]) > 0.95


def test_a_sample_takes_whole_patients_of_each_class() -> None:
    labels, patients = [0] * 90 + [1] * 10, [f"p{i // 3}" for i in range(90)] + [f"q{i // 2}" for i in range(10)]
    rows = choose(labels, patients, 30, np.random.default_rng(0))
    assert len(rows) <= 30
    assert (np.diff(rows) > 0).all()
    taken = [patients[row] for row in rows]
    for patient in set(taken):
        assert taken.count(patient) == patients.count(patient)
    assert sum(labels[row] for row in rows) == 10
    again = choose(labels, patients, 30, np.random.default_rng(0))
    assert (rows == again).all()
    with pytest.raises(ValueError, match="limit of at least 1"):
        choose(labels, patients, 0, np.random.default_rng(0))


def test_films_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected labels for each of 2 films, but got 1"):
        Films(bare()[:2], np.zeros(1, np.int64), ("a", "b"))
    with pytest.raises(ValueError, match="of uint8, but got float64"):
        Films(bare()[:2].astype(float), np.zeros(2, np.int64), ("a", "b"))
    with pytest.raises(DataError, match="at least one film"):
        Films(bare()[:0], np.zeros(0, np.int64), ())


def test_films_are_read_from_a_set(tmp_path: Path) -> None:
    for label in ("normal", "covid"):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.fromarray(film8(60, 50, number)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "covid" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    predictor = predictor_of(fitted_model(bare(), LABELS))
    listing = list_images(tmp_path)
    films = load_films(predictor, listing, limit=50, rng=np.random.default_rng(0))
    assert len(films) == 6
    assert set(films.native["height"]) == {60.0}
    assert set(films.native["width"]) == {50.0}
    assert sorted(films.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert np.isfinite(grey_numbers(films.fitted)).all()
    strange = predictor_of(fitted_model(bare(), LABELS), ("normal", "flu"))
    with pytest.raises(DataError, match="of 7 have none or another"):
        load_films(strange, listing, limit=50, rng=np.random.default_rng(0))


def test_a_trained_bundle_of_three_classes_is_probed(trained: Trained) -> None:
    predictor = Predictor.load(trained.bundle)
    steps: list[tuple[str, int, int]] = []
    films = load_films(predictor, list_images(trained.data), limit=30, rng=np.random.default_rng(0))
    found = shortcut_report(
        predictor,
        films,
        rng=np.random.default_rng(0),
        resamples=20,
        progress=lambda stage, done, total, note="": steps.append((stage, done, total)),
    )
    assert steps[-1] == ("shortcuts", 6, 6)
    assert len(found.examples) == 3
    assert {probe.name for probe in found.probes} >= {"thorax hidden", "size and grey levels"}
