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
from rentgen.store import erasure
from rentgen.store.gateway_rows import answer_place, document_place
from rentgen.store.gateway_schema import AnswerRow, BatchRow, ConflictRow, DocumentRow, ObjectRow
from rentgen.store.rows import to_feedback, to_image, to_prediction
from rentgen.store.schema import FeedbackRow, ImageRow, PredictionRow
from rentgen.store.sealing import Sealer

PAGE = 200

Judged = tuple[StoredImage, StoredPrediction | None, Feedback]


def plain(study_id: str, study: Study | None, entries: Iterable[AuditEntry]) -> dict[str, Any]:
    """Return a study and its lines of the audit trail as plain JSON values; None is one that only the gateway has."""
    read_at = None if study is None else study.read_at
    return {
        "study_id": study_id,
        "received_at": None if study is None else _moment(study.received_at),
        "urgency": None if study is None else study.urgency.name.lower(),
        "score": None if study is None else study.score,
        "read_at": None if read_at is None else _moment(read_at),
        "images": [] if study is None else [_fields(image) for image in study.images],
        "predictions": [] if study is None else [_prediction(found) for found in study.predictions],
        "feedback": [] if study is None else [_fields(said) for said in study.feedback],
        "audit": [_fields(entry) for entry in entries],
    }


def gateway(connection: Connection, sealer: Sealer, study_id: str, *, files: bool) -> dict[str, list[dict[str, Any]]]:
    """Return what the gateway has of a study, as plain JSON values.

    Args:
        connection: of the transaction.
        sealer: of the store.
        study_id: of the study.
        files: with the bytes, base64, of answers and documents.
    """
    batches = connection.execute(sa.select(BatchRow).where(erasure.batches_of(study_id)).order_by(BatchRow.id)).all()
    aside = sa.select(ConflictRow).where(ConflictRow.study_id == study_id).order_by(ConflictRow.received_at)
    return {
        "batches": [_batch(connection, sealer, row, files) for row in batches],
        "conflicts": [
            _picked(row, "sop_uid", "content_hash", "origin", "received_at") for row in connection.execute(aside)
        ],
    }


def _batch(connection: Connection, sealer: Sealer, batch: sa.Row[Any], files: bool) -> dict[str, Any]:
    objects = connection.execute(sa.select(ObjectRow).where(ObjectRow.batch_id == batch.id).order_by(ObjectRow.sop_uid))
    key = (DocumentRow.destination, DocumentRow.number)
    documents = connection.execute(sa.select(DocumentRow).where(DocumentRow.batch_id == batch.id).order_by(*key))
    told = _picked(batch, "study_uid", "first_at", "last_at", "done_at")
    told["objects"] = [_picked(row, "sop_uid", "content_hash", "origin", "header", "received_at") for row in objects]
    if files:
        answers = {row.sop_uid: row.content for row in connection.execute(_answers(batch.id))}
        for known in told["objects"]:
            content, place = answers.get(known["sop_uid"]), answer_place(known["sop_uid"])
            known["answer"] = None if content is None else base64_of(sealer.open(content, place))
    told["documents"] = []
    for row in documents:
        document = _picked(row, "destination", "kind", "media_type", "uid", "name")
        if files:
            place = document_place(batch.id, row.destination, row.number)
            document["content"] = base64_of(sealer.open(row.content, place))
        told["documents"].append(document)
    return told


def _answers(batch_id: int) -> sa.Select[Any]:
    mine = sa.select(ObjectRow.sop_uid).where(ObjectRow.batch_id == batch_id)
    return sa.select(AnswerRow).where(AnswerRow.sop_uid.in_(mine))


def _picked(row: sa.Row[Any], *names: str) -> dict[str, Any]:
    return {name: _plain(getattr(row, name)) for name in names}


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
