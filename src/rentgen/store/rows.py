"""Rows to nouns and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import sqlalchemy as sa

from rentgen.errors import StoreError
from rentgen.records import Geometry, Radiograph, Status, UInt8
from rentgen.records.studies import Feedback, Point, StoredImage, StoredPrediction, Urgency
from rentgen.store.sealing import Sealer


def film_values(film: Radiograph | None) -> dict[str, Any]:
    """Return the columns of a film that tell what it is; empty ones for a film that could not be read."""
    if film is None:
        return {"notes": []}
    rows, columns = film.pixels.shape
    down, across = film.spacing_mm or (None, None)
    return {
        "pixel_hash": film.pixel_hash or None,
        "source_format": film.source_format,
        "rows": rows,
        "columns": columns,
        "bits": film.bits,
        "row_spacing_mm": down,
        "column_spacing_mm": across,
        "modality": film.modality,
        "body_part_examined": film.body_part_examined,
        "view_position": film.view_position,
        "notes": list(film.notes),
    }


def to_image(row: sa.Row[Any], sealer: Sealer) -> StoredImage:
    """Return the film of a row of `images`."""
    known = row.row_spacing_mm is not None and row.column_spacing_mm is not None
    return StoredImage(
        image_id=row.id,
        study_id=row.study_id,
        content_hash=row.content_hash,
        pixel_hash=row.pixel_hash,
        name=read_text(row.name, f"images.name {row.id}", sealer),
        source_format=row.source_format,
        rows=row.rows,
        columns=row.columns,
        bits=row.bits,
        spacing_mm=(row.row_spacing_mm, row.column_spacing_mm) if known else None,
        modality=row.modality,
        body_part_examined=row.body_part_examined,
        view_position=row.view_position,
        notes=tuple(row.notes),
        received_at=row.received_at,
        file_kept=row.file_kept,
    )


def prediction_values(prediction: StoredPrediction) -> dict[str, Any]:
    """Return the columns of a prediction.

    Raises:
        StoreError: a number in it is none, or its maps are of another kind.
    """
    numbers = (prediction.score, prediction.distance or 0.0, *prediction.probabilities.values())
    if not np.isfinite(numbers).all():
        raise StoreError(
            "Expected the numbers of a prediction to be finite; check the bundle: rentgen inspect --verify"
        )
    maps = prediction.maps
    if maps is not None and (maps.dtype != np.uint8 or maps.ndim != 3):
        raise StoreError(f"Expected maps of uint8 (classes, rows, columns), but got {maps.dtype} {maps.shape}.")
    return {
        "id": prediction.prediction_id,
        "image_id": prediction.image_id,
        "bundle_id": prediction.bundle_id,
        "model": prediction.model,
        "created_at": prediction.created_at,
        "status": str(prediction.status),
        "label": prediction.label,
        "probabilities": dict(prediction.probabilities),
        "reasons": list(prediction.reasons),
        "prediction_set": list(prediction.prediction_set),
        "distance": prediction.distance,
        "points": [point.to_dict() for point in prediction.points],
        "urgency": int(prediction.urgency),
        "score": float(prediction.score),
        "precision": str(prediction.precision),
        "maps": None if maps is None else maps.tobytes(),
        "maps_shape": None if maps is None else list(maps.shape),
        "geometry": None if prediction.geometry is None else asdict(prediction.geometry),
    }


def to_prediction(row: sa.Row[Any]) -> StoredPrediction:
    """Return the prediction of a row of `predictions`."""
    return StoredPrediction(
        prediction_id=row.id,
        image_id=row.image_id,
        bundle_id=row.bundle_id,
        model=row.model,
        created_at=row.created_at,
        status=Status(row.status),
        label=row.label,
        probabilities=row.probabilities,
        reasons=tuple(row.reasons),
        prediction_set=tuple(row.prediction_set),
        distance=row.distance,
        points=tuple(Point(**point) for point in row.points),
        urgency=Urgency(row.urgency),
        score=row.score,
        precision=row.precision,
        maps=None if row.maps is None else _maps(row.maps, row.maps_shape),
        geometry=None if row.geometry is None else Geometry(**row.geometry),
    )


def to_feedback(row: sa.Row[Any], sealer: Sealer) -> Feedback:
    """Return the feedback of a row of `feedback`."""
    return Feedback(
        feedback_id=row.id,
        image_id=row.image_id,
        prediction_id=row.prediction_id,
        agree=row.agree,
        label=row.label,
        comment=read_text(row.comment, f"feedback.comment {row.id}", sealer),
        actor=row.actor,
        created_at=row.created_at,
        findings=None if row.findings is None else json.loads(read_text(row.findings, findings_place(row.id), sealer)),
    )


def findings_place(feedback_id: str) -> str:
    """Return what the findings of feedback are sealed with."""
    return f"feedback.findings {feedback_id}"


def kept_findings(feedback: Feedback, sealer: Sealer) -> bytes | None:
    """Return what feedback says of several findings as it is kept, in the order in which it was said."""
    if feedback.findings is None:
        return None
    text = json.dumps(dict(feedback.findings), ensure_ascii=False, separators=(",", ":"))
    return kept_text(text, findings_place(feedback.feedback_id), sealer)


def kept_text(text: str, told: str, sealer: Sealer) -> bytes:
    """Return free text as it is kept; names from a foreign file system may hold what is no Unicode."""
    return sealer.seal(text.encode("utf-8", "surrogatepass"), told)


def read_text(kept: bytes, told: str, sealer: Sealer) -> str:
    """Return the text that `kept_text` was given."""
    return sealer.open(kept, told).decode("utf-8", "surrogatepass")


def _maps(raw: bytes, shape: list[int]) -> UInt8:
    if len(raw) != int(np.prod(shape)):
        raise StoreError(f"Expected {int(np.prod(shape))} bytes of maps, but got {len(raw)}: they are damaged.")
    # A copy, because what is read from bytes cannot be written to.
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
