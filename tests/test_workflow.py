"""An answer in the form in which it is kept: operating points, urgency, maps in 8 bits and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from linear import predictor_of, weighing_model
from made import dicom, film, png

from rentgen.engine.predictor import Predictor, heat_map
from rentgen.errors import InputError, UnsupportedImageError
from rentgen.images.prepare import to_native
from rentgen.records import Geometry, Interval, OperatingPoint, Prediction, Preprocessing, ResizeMode, Status
from rentgen.records.results import is_finding
from rentgen.records.studies import StoredPrediction, Urgency
from rentgen.workflow import analyse, belongs_to, describe, grid_to_native, native_map, to_bytes

CLASSES = ("NORMAL", "PNEUMONIA")
SURE = Interval(0.95, 0.9, 1.0)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    weights = np.random.default_rng(0).normal(size=(2, 12, 12))
    return predictor_of(weighing_model(weights, np.full((12, 12), 0.4)), CLASSES)


def _prediction(probability: float, status: Status = Status.OK) -> Prediction:
    values = {"NORMAL": 1 - probability, "PNEUMONIA": probability}
    return Prediction(path="x", status=status, label=max(values, key=lambda name: values[name]), probabilities=values)


def _described(prediction: Prediction, predictor: Predictor, *thresholds: tuple[str, str, float]) -> StoredPrediction:
    points = tuple(OperatingPoint(name, label, value, SURE, SURE) for name, label, value in thresholds)
    card = replace(predictor.card, operating_points=points)
    return describe(prediction, card, bundle_id="ab" * 32, model="m", precision="f32", image_id="film-1")


def test_a_film_is_answered_from_its_bytes(predictor: Predictor) -> None:
    data = dicom(film(300, 280))
    answer = analyse(data, predictor, maps=True)
    assert answer.film is not None
    assert answer.error is None
    assert answer.prediction.probabilities == predictor.predict(data).probabilities


@pytest.mark.parametrize(("data", "kind"), [(b"letter", InputError), (b"GIF89a....", UnsupportedImageError)])
def test_what_is_no_film_is_an_answer_too(data: bytes, kind: type[InputError], predictor: Predictor) -> None:
    answer = analyse(data, predictor)
    assert answer.film is None
    assert type(answer.error) is kind
    stored = _described(answer.prediction, predictor, ("youden", "PNEUMONIA", 0.5))
    assert (stored.status, stored.points, stored.urgency, stored.score) == (Status.ERROR, (), Urgency.DOUBT, 0.0)


@pytest.mark.parametrize(
    ("probability", "status", "urgency"),
    [
        (0.9, Status.OK, Urgency.URGENT),
        (0.4, Status.OK, Urgency.URGENT),
        (0.39, Status.OK, Urgency.ROUTINE),
        (0.99, Status.ABSTAIN, Urgency.DOUBT),
        (0.01, Status.OUT_OF_SCOPE, Urgency.DOUBT),
    ],
)
def test_urgency(probability: float, status: Status, urgency: Urgency, predictor: Predictor) -> None:
    points = (
        ("youden", "PNEUMONIA", 0.6),
        ("sensitivity_0.95", "PNEUMONIA", 0.4),
        ("specificity_0.95", "PNEUMONIA", 0.1),
    )
    stored = _described(_prediction(probability, status), predictor, *points)
    assert stored.urgency is urgency
    assert [point.positive for point in stored.points] == [probability >= value for _, _, value in points]
    assert stored.score == probability


def test_a_normal_film_is_not_urgent_however_sure(predictor: Predictor) -> None:
    stored = _described(_prediction(0.02), predictor, ("youden", "NORMAL", 0.5))
    assert stored.points[0].positive
    assert stored.urgency is Urgency.ROUTINE


@pytest.mark.parametrize("label", ["Normal", "NO_FINDING", "no finding", "healthy"])
def test_classes_that_say_nothing_is_there(label: str) -> None:
    assert not is_finding(label)


@pytest.mark.parametrize("mode", list(ResizeMode))
def test_the_kept_map_is_the_one_of_the_engine(mode: ResizeMode) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 12, 12))
    fed = Preprocessing(96, 96, mode)
    wide = predictor_of(weighing_model(weights, np.full((12, 12), 0.4)), CLASSES, fed)
    answer = analyse(png(film(200, 340, 8).astype(np.uint8)), wide, maps=True)
    stored = belongs_to(_described(answer.prediction, wide), "film-2")
    assert stored.maps is not None
    assert stored.maps.dtype == np.uint8
    assert answer.prediction.activation_maps is not None
    for label, grid in zip(CLASSES, answer.prediction.activation_maps, strict=True):
        expected: npt.NDArray[np.float32] = heat_map(answer.prediction, label)
        got = native_map(stored, label)
        assert got.shape == (200, 340)
        np.testing.assert_allclose(got / 255, expected / grid.max(), atol=1.5 / 255)


def test_a_map_that_is_not_there_is_refused(predictor: Predictor) -> None:
    bare = _described(_prediction(0.5), predictor)
    with pytest.raises(ValueError, match="has none"):
        native_map(bare)
    answer = analyse(png(film(120, 100, 8).astype(np.uint8)), predictor, maps=True)
    with pytest.raises(ValueError, match="one of the classes NORMAL, PNEUMONIA"):
        native_map(_described(answer.prediction, predictor), "FRACTURE")


def test_maps_of_nothing_stay_nothing() -> None:
    assert to_bytes(np.zeros((2, 3, 3), np.float32)).max() == 0


def test_the_grid_lies_on_the_film_as_the_preparation_says() -> None:
    geometry = Geometry(1000, 800, 100, 50, 700, 600, 0.3, 0.2, 5.0, 7.0, 224, 224)
    (xx, _, x0), (_, yy, y0) = grid_to_native(geometry, 7, 8)
    points = np.array([[3.5 * 224 / 7, 2.25 * 224 / 8]])
    row, column = to_native(points, geometry)[0]
    assert (yy * 3.5 + y0, xx * 2.25 + x0) == pytest.approx((row, column))
