"""Two bundles of several findings on the same films, against scikit-learn and counting by hand."""

from __future__ import annotations

import csv
from dataclasses import replace

import linear
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from rentgen.data.listing import list_images
from rentgen.engine.predictor import Predictor
from rentgen.errors import DataError
from rentgen.evaluate.compare import compare
from rentgen.evaluate.points import Verdict
from rentgen.records import UNKNOWN, Calibration, Interval, Listing, OperatingPoint, Task, truth_of

NAMES = ("upper", "lower")
NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """Return 60 films, two a patient, with a bright square above, below, at both places or at none; some unknown."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(3)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient", *NAMES])
        for film in range(60):
            there = rng.integers(0, 2, 2)
            pixels = rng.integers(60, 140, (96, 96))
            for place, row in zip(there, (24, 64), strict=True):
                pixels[row : row + 8, 40:48] += 60 * int(place) + int(rng.integers(-30, 30))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{film}.png")
            told = ["" if rng.random() < 0.1 else str(value) for value in there]
            writer.writerow([f"{film}.png", f"p{film // 2}", *told])
    return list_images(folder / "table.csv")


@pytest.fixture(scope="module")
def old() -> Predictor:
    """Return a bundle that looks at the two places."""
    weights = np.zeros((2, linear.GRID, linear.GRID))
    weights[0, 3, 5], weights[1, 8, 5] = 12.0, 12.0
    made = linear.predictor_of(linear.weighing_model(weights, np.full((linear.GRID, linear.GRID), 0.5)), NAMES)
    points = tuple(OperatingPoint("balanced", label, 0.5, NOTHING, NOTHING) for label in NAMES)
    card = replace(made.card, task=Task.MULTILABEL, positive=None, operating_points=points)
    return Predictor(replace(made.bundle, card=card, split=replace(made.bundle.split, salt="00" * 16)))


def test_a_bundle_may_take_its_own_place(old: Predictor, listing: Listing) -> None:
    same = compare(old, old, listing, resamples=100)
    assert (same.agreement.value, same.only_old, same.only_new) == (1.0, 0, 0)
    assert same.to_dict()["mcnemar_p"] is None
    assert same.passed
    truth = truth_of(listing.records, NAMES, Task.MULTILABEL)
    told = list(old.predict_many([record.path for record in listing.records]))
    for place, label in enumerate(NAMES):
        known = truth[:, place] != UNKNOWN
        scores = np.array([each.probabilities[label] for each in told])
        assert same.auroc[label].old.value == pytest.approx(roc_auc_score(truth[known, place], scores[known]))


def test_what_moved_is_counted_by_film_and_finding(old: Predictor, listing: Listing) -> None:
    """The new one calls every film `lower`; its ranks stay."""
    card = replace(old.card, calibration=Calibration("vector", (1.0, 1.0), (0.0, 30.0), "", 1, {}, {}))
    found = compare(old, Predictor(replace(old.bundle, card=card)), listing, resamples=100)
    truth = truth_of(listing.records, NAMES, Task.MULTILABEL)
    told = old.predict_many([record.path for record in listing.records])
    called = np.array([[each.probabilities[label] >= 0.5 for label in NAMES] for each in told])
    now = called.copy()
    now[:, 1] = True
    known = truth != UNKNOWN
    right, right_now = known & (called == truth), known & (now == truth)
    assert (found.only_old, found.only_new) == ((right & ~right_now).sum(), (right_now & ~right).sum())
    assert found.agreement.value == pytest.approx((called == now).mean())
    assert found.old_accuracy.value == pytest.approx(right.sum() / known.sum())
    assert found.new_accuracy.value == pytest.approx(right_now.sum() / known.sum())
    assert {each.old.label for each in found.points if each.verdict is Verdict.LEAVES} == {"lower"}
    assert not found.passed


def test_a_finding_that_no_film_tells_of_is_not_measured(old: Predictor, listing: Listing) -> None:
    silent = replace(listing, records=tuple(replace(r, findings=(r.findings[0], None)) for r in listing.records))
    found = compare(old, old, silent, resamples=20)
    assert {each.old.label: each.verdict for each in found.points} == {
        "upper": Verdict.HOLDS,
        "lower": Verdict.UNMEASURED,
    }
    assert np.isnan(found.auroc["lower"].old.value)
    assert not found.passed
    # Nor would it without a single operating point: the area alone is missed.
    assert not replace(found, points=()).passed
    assert replace(found, points=(), auroc={"upper": found.auroc["upper"]}).passed


def test_one_class_is_not_compared_with_several_findings(old: Predictor, listing: Listing) -> None:
    single = Predictor(replace(old.bundle, card=replace(old.card, task=Task.MULTICLASS, operating_points=())))
    with pytest.raises(DataError, match="one gives each film one class"):
        compare(old, single, listing)
