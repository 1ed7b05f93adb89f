"""What the REST interface takes and gives, as OpenAPI shows it."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from rentgen.images.overlay import heatmap_png
from rentgen.records import DISCLAIMER
from rentgen.records.studies import Feedback, StoredImage, StoredPrediction, Study
from rentgen.workflow import grid_to_native

HASH = "94a1" * 16
MAX_FINDINGS = 1000
_EXAMPLE: dict[str, Any] = {
    "content_hash": HASH,
    "status": "ok",
    "label": "PNEUMONIA",
    "probabilities": {"NORMAL": 0.04, "PNEUMONIA": 0.96},
    "reasons": [],
    "prediction_set": ["PNEUMONIA"],
    "distance": 0.3,
    "points": [
        {
            "name": "sensitivity_0.95",
            "label": "PNEUMONIA",
            "threshold": 0.8,
            "positive": True,
            "sensitivity": {"value": 0.95, "low": 0.93, "high": 0.97},
            "specificity": {"value": 0.99, "low": 0.97, "high": 1.0},
        }
    ],
    "urgency": "urgent",
}
_KEPT: dict[str, Any] = {
    "prediction_id": "ydivgkak442hryvb2wk2yzm7ey-310e02c37386",
    "image_id": "ydivgkak442hryvb2wk2yzm7ey",
    "model": "pneumonia",
    "bundle_id": "310e" * 16,
    "created_at": "2025-06-01T10:00:00+00:00",
    "heatmap_url": "/v1/images/ydivgkak442hryvb2wk2yzm7ey/heatmap.png",
}


class Shape(BaseModel):
    """A JSON object with exactly these members."""

    model_config = ConfigDict(extra="forbid")


class IntervalOut(Shape):
    """A measured value and its 95 % interval; null where it could not be measured."""

    value: float | None
    low: float | None
    high: float | None


class PointOut(Shape):
    """The film held against one operating point of the bundle."""

    name: str = Field(description="Of the operating point.")
    label: str = Field(description="The class whose probability is compared.")
    threshold: float = Field(description="Positive from here on.")
    positive: bool
    sensitivity: IntervalOut
    specificity: IntervalOut
    undetermined: bool | None = Field(
        None, description="Of several findings: neither ruled out nor confirmed; null where a film has one class."
    )


class HeatmapOut(Shape):
    """A heat map on the model's grid; small, whatever the film's size."""

    label: str = Field(description="The class it is of.")
    content: str = Field(description="Base64 of an 8-bit grey PNG; 255 is its maximum.")
    rows: int
    columns: int
    affine: list[list[float]] = Field(
        description="[[xx, xy, x0], [yx, yy, y0]]: from grid to native pixels; both continuous, 0 at the outer edge."
    )


class FilmError(Shape):
    """Why a film has no answer."""

    code: str = Field(examples=["unreadable_film"])
    detail: str


class PredictionOut(BaseModel):
    """What a model says of one film."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str | None = Field(None, description="As the instance gave it.")
    content_hash: str | None = Field(description="SHA-256 of the file's bytes; null where it could not be read.")
    status: Literal["ok", "out_of_scope", "abstain", "error"]
    label: str | None = Field(description="The most probable class; null on an error.")
    probabilities: dict[str, float] = Field(description="Class to calibrated probability.")
    reasons: list[str] = Field(description="Why the status is not ok, in words.")
    prediction_set: list[str] = Field(description="Classes that cannot be ruled out.")
    distance: float | None = Field(description="From the films that taught the model.")
    points: list[PointOut]
    urgency: Literal["urgent", "doubt", "routine"]
    heatmap: HeatmapOut | None = Field(None, description="Where it was asked for.")
    error: FilmError | None = Field(None, description="Where the status is error.")


class ModelRef(Shape):
    """Which bundle answered."""

    name: str
    bundle_id: str


class PredictOut(Shape):
    """Answers, one a film, in order."""

    model: ModelRef
    predictions: list[PredictionOut]
    disclaimer: str = DISCLAIMER


class ImageOut(Shape):
    """A film of a study."""

    id: str
    name: str = Field(description="Of the file, as it was given.")
    source_format: str | None
    rows: int | None
    columns: int | None
    bits: int | None
    spacing_mm: list[float] | None
    modality: str | None
    body_part_examined: str | None
    view_position: str | None
    notes: list[str]
    received_at: datetime
    viewable: bool = Field(description="Whether its pixels can be had.")


class StudyPredictionOut(PredictionOut):
    """A prediction that is kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE | _KEPT]})

    prediction_id: str
    image_id: str
    model: str
    bundle_id: str
    created_at: datetime
    heatmap_url: str | None


class FeedbackOut(Shape):
    """What a physician said."""

    id: str
    image_id: str
    prediction_id: str | None
    agree: bool
    label: str | None = Field(description="The right class; null of several findings, and where none was named.")
    findings: dict[str, bool] | None = Field(
        description="Of several, each that is present (true) or absent (false); null where a film has one class."
    )
    comment: str
    actor: str
    created_at: datetime


class StudyOut(Shape):
    """A study with all that is known of it."""

    id: str
    received_at: datetime
    urgency: Literal["urgent", "doubt", "routine"]
    score: float
    read_at: datetime | None
    images: list[ImageOut]
    predictions: list[StudyPredictionOut] = Field(description="Newest first.")
    feedback: list[FeedbackOut] = Field(description="Newest first.")


class FailedOut(Shape):
    """A file that could not be read as a film; it is not kept."""

    name: str
    code: str
    detail: str


class AddedOut(Shape):
    """What became of the files."""

    studies: list[StudyOut]
    failed: list[FailedOut]


class WorklistOut(Shape):
    """Studies by urgency."""

    studies: list[StudyOut]
    next: str | None = Field(description="Cursor of the next page; null on the last one.")


class ReadIn(Shape):
    """Whether a study is read."""

    read: StrictBool


class FeedbackIn(Shape):
    """What a physician says of a prediction."""

    agree: StrictBool = Field(description="Whether the model's class is right, or all that it says of its findings.")
    label: str | None = Field(None, min_length=1, max_length=100, description="The right class, where it is not.")
    findings: dict[str, StrictBool] | None = Field(
        None,
        max_length=MAX_FINDINGS,
        description="Instead of a label, where a film may have several findings: each that is present (true) or absent "
        "(false); of one that is left out you cannot tell. Left out where agree is true: all that the model says.",
    )
    comment: str = Field("", max_length=2000)
    prediction_id: str | None = Field(None, max_length=100)


class ModelOut(Shape):
    """A bundle that the service answers with."""

    name: str
    bundle_id: str | None
    state: Literal["loading", "ready", "failed"]
    error: str | None
    title: str | None
    classes: list[str]
    positive: str | None
    task: Literal["multiclass", "multilabel"] | None = Field(description="One class a film, or several findings.")
    created: str | None
    default: bool


class ModelsOut(Shape):
    """The bundles that the service answers with."""

    models: list[ModelOut]


class CardOut(Shape):
    """A bundle's card."""

    name: str
    bundle_id: str
    card: dict[str, Any]


class QueueOut(Shape):
    """The place in front of the engine."""

    waiting: int
    limit: int


class HealthOut(Shape):
    """How the service is."""

    status: Literal["ready", "loading", "draining"]
    version: str
    models: int
    queue: QueueOut
    store: Literal["ok", "off", "failed"]


def prediction_out(
    stored: StoredPrediction, *, content_hash: str | None, heatmap: bool = False, **more: object
) -> dict[str, Any]:
    """Return a prediction as `PredictionOut` has it.

    Args:
        stored: what is said.
        content_hash: of the film.
        heatmap: put the predicted class's map in.
        more: members beside those: `id`, `error`.
    """
    body: dict[str, Any] = {
        "content_hash": content_hash,
        "status": str(stored.status),
        "label": stored.label,
        "probabilities": dict(stored.probabilities),
        "reasons": list(stored.reasons),
        "prediction_set": list(stored.prediction_set),
        "distance": stored.distance,
        "points": [point.to_dict() for point in stored.points],
        "urgency": stored.urgency.name.lower(),
    }
    if heatmap and stored.maps is not None and stored.geometry is not None and stored.label is not None:
        grid = stored.maps[list(stored.probabilities).index(stored.label)]
        body["heatmap"] = {
            "label": stored.label,
            "content": base64.b64encode(heatmap_png(grid.astype("float32"))).decode(),
            "rows": grid.shape[0],
            "columns": grid.shape[1],
            "affine": [list(row) for row in grid_to_native(stored.geometry, *grid.shape)],
        }
    return body | more


def study_out(study: Study, *, viewable: frozenset[str]) -> dict[str, Any]:
    """Return a study as `StudyOut` has it.

    Args:
        study: what is known of it.
        viewable: ids of the films whose pixels can be had.
    """
    hashes = {image.image_id: image.content_hash for image in study.images}
    return {
        "id": study.study_id,
        "received_at": study.received_at.isoformat(),
        "urgency": study.urgency.name.lower(),
        "score": study.score,
        "read_at": None if study.read_at is None else study.read_at.isoformat(),
        "images": [_image_out(image, image.image_id in viewable) for image in study.images],
        "predictions": [
            prediction_out(
                stored,
                content_hash=hashes[stored.image_id],
                prediction_id=stored.prediction_id,
                image_id=stored.image_id,
                model=stored.model,
                bundle_id=stored.bundle_id,
                created_at=stored.created_at.isoformat(),
                heatmap_url=None if stored.maps is None else f"/v1/images/{stored.image_id}/heatmap.png",
            )
            for stored in study.predictions
        ],
        "feedback": [feedback_out(feedback) for feedback in study.feedback],
    }


def _image_out(image: StoredImage, viewable: bool) -> dict[str, Any]:
    return {
        "id": image.image_id,
        "name": image.name,
        "source_format": image.source_format,
        "rows": image.rows,
        "columns": image.columns,
        "bits": image.bits,
        "spacing_mm": None if image.spacing_mm is None else list(image.spacing_mm),
        "modality": image.modality,
        "body_part_examined": image.body_part_examined,
        "view_position": image.view_position,
        "notes": list(image.notes),
        "received_at": image.received_at.isoformat(),
        "viewable": viewable,
    }


def feedback_out(feedback: Feedback) -> dict[str, Any]:
    """Return feedback as `FeedbackOut` has it."""
    return {
        "id": feedback.feedback_id,
        "image_id": feedback.image_id,
        "prediction_id": feedback.prediction_id,
        "agree": feedback.agree,
        "label": feedback.label,
        "findings": None if feedback.findings is None else dict(feedback.findings),
        "comment": feedback.comment,
        "actor": feedback.actor,
        "created_at": feedback.created_at.isoformat(),
    }


class MeasureOut(Shape):
    """One measure of drift."""

    name: str
    n: int
    value: float | None
    expected: float | None
    low: float | None
    high: float | None
    p: float | None
    limit: float | None
    verdict: str


class DriftOut(Shape):
    """The last answers of a model against its card."""

    verdict: str
    n: int
    window: int
    first: datetime | None
    last: datetime | None
    measures: list[MeasureOut]
