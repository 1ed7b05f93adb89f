"""Image in, answer out: where reading, the engine and what is kept of an answer meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from rentgen.engine.predictor import Predictor
from rentgen.errors import InputError
from rentgen.images.prepare import map_to_native
from rentgen.images.read import DEFAULT_LIMITS, Limits, read
from rentgen.records import Card, Float32, Geometry, OperatingPoint, Prediction, Radiograph, Status, UInt8
from rentgen.records.results import DECIDING_POINTS, is_finding
from rentgen.records.studies import Point, StoredPrediction, Urgency


@dataclass(frozen=True, slots=True)
class Answer:
    """A film and what a bundle said of it.

    Attributes:
        film: None where the file could not be read.
        prediction: what the engine said; with status `error` where there is no film.
        error: why there is no film; None where there is one.
    """

    film: Radiograph | None
    prediction: Prediction
    error: InputError | None = None


def analyse(
    data: bytes, predictor: Predictor, *, name: str = "film", maps: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Answer:
    """Return the film in a file's bytes and the bundle's answer; a file that cannot be read is an answer, too.

    Args:
        data: of a DICOM, PNG, JPEG or TIFF file.
        predictor: who answers.
        name: what stands for the file in messages; never its own name, which may be a patient's.
        maps: compute activation maps, too.
        limits: on what the file may ask for.
    """
    try:
        film = read(data, name=name, limits=limits)
    except InputError as error:
        refused = Prediction(path=name, status=Status.ERROR, label=None, probabilities={}, reasons=(error.reason,))
        return Answer(None, refused, error)
    return Answer(film, predictor.predict_film(film, name=name, maps=maps))


def describe(
    prediction: Prediction, card: Card, *, bundle_id: str, model: str, precision: str, image_id: str = ""
) -> StoredPrediction:
    """Return an answer in the form in which it is kept and shown: with its operating points and its urgency.

    Args:
        prediction: with maps, where a heat map shall be shown later.
        card: of the bundle that answered.
        bundle_id: likewise.
        model: name of the bundle where it runs.
        precision: of the arithmetic.
        image_id: of the film; empty for one that is not kept.
    """
    points = tuple(hold_against(point, prediction) for point in card.operating_points if prediction.probabilities)
    return StoredPrediction(
        # One answer per film and bundle.
        prediction_id=f"{image_id}-{bundle_id[:12]}",
        image_id=image_id,
        bundle_id=bundle_id,
        model=model,
        created_at=datetime.now(UTC),
        status=prediction.status,
        label=prediction.label,
        probabilities=dict(prediction.probabilities),
        reasons=prediction.reasons,
        prediction_set=prediction.prediction_set,
        distance=prediction.distance,
        points=points,
        urgency=judge_urgency(prediction.status, points),
        score=_score(prediction),
        precision=precision,
        maps=None if prediction.activation_maps is None else to_bytes(prediction.activation_maps),
        geometry=prediction.geometry,
    )


def hold_against(point: OperatingPoint, prediction: Prediction) -> Point:
    """Return on which side of an operating point an answer lies.

    Of several findings, a class that says that there is nothing to find is never positive beside one that is, and in
    doubt where all of those are.
    """
    positive = prediction.probabilities.get(point.label, 0.0) >= point.threshold
    undetermined = None if prediction.findings is None else point.label in prediction.undetermined
    if prediction.findings is not None and not is_finding(point.label):
        found = [label for label in prediction.findings if is_finding(label)]
        undetermined = undetermined or (positive and bool(found) and set(found) <= set(prediction.undetermined))
        positive = positive and not found
    return Point(
        name=point.name,
        label=point.label,
        threshold=point.threshold,
        positive=positive,
        sensitivity=point.sensitivity.to_dict(),
        specificity=point.specificity.to_dict(),
        undetermined=undetermined,
    )


def judge_urgency(status: Status, points: tuple[Point, ...]) -> Urgency:
    """Return how soon a study with this answer should be read; a finding in doubt is one to look for."""
    if status is not Status.OK:
        return Urgency.DOUBT
    found = [point for point in points if point.positive and point.name in DECIDING_POINTS and is_finding(point.label)]
    if any(not point.undetermined for point in found):
        return Urgency.URGENT
    return Urgency.DOUBT if found else Urgency.ROUTINE


def _score(prediction: Prediction) -> float:
    return max((value for label, value in prediction.probabilities.items() if is_finding(label)), default=0.0)


def to_bytes(maps: Float32) -> UInt8:
    """Return activation maps (classes, rows, columns) in 8 bits, each over its own maximum."""
    highest = maps.max(axis=(1, 2), keepdims=True)
    relative = np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)
    eight_bits: UInt8 = np.round(relative * 255).astype(np.uint8)
    return eight_bits


def native_map(stored: StoredPrediction, label: str | None = None) -> UInt8:
    """Return a class's heat map on the native film, (rows, columns), in 8 bits; the predicted class by default.

    Raises:
        ValueError: the answer has no maps, or does not know the class.
    """
    if stored.maps is None or stored.geometry is None:
        raise ValueError("Expected an answer with maps, but it has none.")
    classes = list(stored.probabilities)
    wanted = label if label is not None else stored.label
    if wanted not in classes:
        raise ValueError(f"Expected one of the classes {', '.join(classes)}, but got another.")
    return map_to_native(stored.maps[classes.index(wanted)], stored.geometry)


def grid_to_native(geometry: Geometry, rows: int, columns: int) -> tuple[tuple[float, float, float], ...]:
    """Return the affine ((xx, xy, x0), (yx, yy, y0)) from a map's grid to native pixels.

    Both are continuous coordinates, 0 at the outer edge of the first cell or pixel; the first cell's middle is 0.5.

    Args:
        geometry: of the prepared image.
        rows: of the grid.
        columns: of the grid.
    """
    across = geometry.width / columns / geometry.scale_x
    down = geometry.height / rows / geometry.scale_y
    return (
        (across, 0.0, geometry.left - geometry.offset_x / geometry.scale_x),
        (0.0, down, geometry.top - geometry.offset_y / geometry.scale_y),
    )


def belongs_to(stored: StoredPrediction, image_id: str) -> StoredPrediction:
    """Return an answer as that of a film that is kept."""
    return replace(stored, image_id=image_id, prediction_id=f"{image_id}-{stored.bundle_id[:12]}")
