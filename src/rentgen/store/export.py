"""What is known, in plain values: for a person who asks, and for training."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from rentgen.records.studies import AuditEntry, Feedback, StoredImage, StoredPrediction, Study
from rentgen.store.rows import to_feedback, to_image, to_prediction
from rentgen.store.schema import FeedbackRow, ImageRow, PredictionRow
from rentgen.store.sealing import Sealer

PAGE = 200

Judged = tuple[StoredImage, StoredPrediction | None, Feedback]


def plain(study: Study, entries: Iterable[AuditEntry]) -> dict[str, Any]:
    """Return a study and its lines of the audit trail as plain JSON values."""
    return {
        "study_id": study.study_id,
        "received_at": _moment(study.received_at),
        "urgency": study.urgency.name.lower(),
        "score": study.score,
        "read_at": None if study.read_at is None else _moment(study.read_at),
        "images": [_fields(image) for image in study.images],
        "predictions": [_prediction(found) for found in study.predictions],
        "feedback": [_fields(said) for said in study.feedback],
        "audit": [_fields(entry) for entry in entries],
    }


def base64_of(data: bytes | None) -> str | None:
    """Return bytes as JSON can hold them."""
    return None if data is None else base64.b64encode(data).decode()


def feedback_page(connection: Connection, sealer: Sealer, after: int) -> tuple[int | None, list[Judged]]:
    """Return the number of the last feedback of a page, None where there is none, and what it judged.

    Only the newest feedback of each film counts.
    """
    newer = aliased(FeedbackRow)
    superseded = sa.exists().where(newer.image_id == FeedbackRow.image_id, newer.number > FeedbackRow.number)
    rows = connection.execute(
        sa.select(FeedbackRow).where(FeedbackRow.number > after, ~superseded).order_by(FeedbackRow.number).limit(PAGE)
    ).all()
    images = {
        row.id: to_image(row, sealer)
        for row in connection.execute(sa.select(ImageRow).where(ImageRow.id.in_([row.image_id for row in rows])))
    }
    wanted = [row.prediction_id for row in rows if row.prediction_id is not None]
    predictions = {
        row.id: to_prediction(row)
        for row in connection.execute(sa.select(PredictionRow).where(PredictionRow.id.in_(wanted)))
    }
    judged = [
        (images[row.image_id], predictions.get(row.prediction_id), to_feedback(row, sealer))
        for row in rows
        # Deleted between two questions.
        if row.image_id in images
    ]
    return (rows[-1].number if rows else None), judged


def _prediction(found: StoredPrediction) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in found.__dataclass_fields__}
    maps = found.maps
    return {
        **values,
        "created_at": _moment(found.created_at),
        "status": str(found.status),
        "reasons": list(found.reasons),
        "prediction_set": list(found.prediction_set),
        "points": [point.to_dict() for point in found.points],
        "urgency": found.urgency.name.lower(),
        "maps": None if maps is None else {"shape": list(maps.shape), "uint8": base64_of(maps.tobytes())},
        "geometry": None if found.geometry is None else asdict(found.geometry),
    }


def _fields(noun: StoredImage | Feedback | AuditEntry) -> dict[str, Any]:
    return {name: _plain(value) for name, value in asdict(noun).items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field of a noun
    if isinstance(value, datetime):
        return _moment(value)
    return list(value) if isinstance(value, tuple) else value


def _moment(value: datetime) -> str:
    return value.isoformat(timespec="microseconds")
