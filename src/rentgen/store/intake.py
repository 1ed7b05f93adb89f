"""Films, predictions and feedback on their way in; each function is a step of a transaction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import SettingError, StoreError
from rentgen.records import Radiograph
from rentgen.records.studies import Feedback, Principal, StoredImage, StoredPrediction, Urgency
from rentgen.store import audit
from rentgen.store.database import insert_new
from rentgen.store.identity import random_name
from rentgen.store.rows import (
    film_values,
    kept_findings,
    kept_text,
    prediction_values,
    to_feedback,
    to_image,
    to_prediction,
)
from rentgen.store.schema import FeedbackRow, FileRow, ImageRow, PredictionRow, StudyRow
from rentgen.store.sealing import Sealer
from rentgen.store.worklist import rank

# Statements are built once: building one takes longer than SQLite takes to run it.
_ID: sa.BindParameter[str] = sa.bindparam("id_")
_IMAGE = sa.select(ImageRow).where(ImageRow.id == _ID)
_STUDY_OF = sa.select(ImageRow.study_id).where(ImageRow.id == _ID)
_LOCK = sa.select(StudyRow.id).where(StudyRow.id == _ID).with_for_update()
_PREDICTION = sa.select(PredictionRow).where(
    PredictionRow.image_id == _ID, PredictionRow.bundle_id == sa.bindparam("bundle")
)
_LABEL = sa.select(PredictionRow.label).where(PredictionRow.image_id == _ID, PredictionRow.id == sa.bindparam("said"))
_ADD_PREDICTION, _ADD_FEEDBACK = sa.insert(PredictionRow), sa.insert(FeedbackRow)
_FEEDBACK = sa.select(FeedbackRow).where(FeedbackRow.id == _ID)
_CHANGE_IMAGE = sa.update(ImageRow).where(ImageRow.id == _ID)
_CHANGE_STUDY = sa.update(StudyRow).where(StudyRow.id == _ID)

MOST_NAME, MOST_COMMENT, MOST_LABEL = 1000, 10_000, 200
"""Characters. A longer name keeps its end, where the kind of file stands."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A film that came in.

    Attributes:
        image_id: under which it will be known.
        study_id: of the study that it belongs to, unless it is known already.
        content_hash: SHA-256 of the file's bytes.
        film: None for a file that could not be read.
        name: of the file.
        patient: keyed hash of PatientID, where known.
        data: the file's bytes; None where they shall not be kept.
    """

    image_id: str
    study_id: str
    content_hash: str
    film: Radiograph | None
    name: str = field(repr=False)
    patient: str | None
    data: bytes | None = field(repr=False)


def add_image(connection: Connection, sealer: Sealer, arrival: Arrival, actor: Principal) -> StoredImage:
    """Return the film as it is kept; what was missing of one that is known is filled in: its file, what it shows."""
    known = connection.execute(_IMAGE, {"id_": arrival.image_id}).one_or_none()
    if known is None:
        done = _add_new(connection, sealer, arrival)
        known = connection.execute(_IMAGE, {"id_": arrival.image_id}).one()
    else:
        done = _complete(connection, sealer, arrival, known)
        if done:
            known = connection.execute(_IMAGE, {"id_": arrival.image_id}).one()
    if done:
        detail = {"image": known.id, "file_kept": known.file_kept}
        audit.append(connection, sealer, actor, done, known.study_id, detail)
    return to_image(known, sealer)


def _add_new(connection: Connection, sealer: Sealer, arrival: Arrival) -> str | None:
    """Return what was done; None where another process has just brought the same film."""
    now = datetime.now(UTC)
    fresh = {"state": 0, "urgency": int(Urgency.DOUBT), "negative_score": 0.0}
    if not insert_new(connection, StudyRow, {"id": arrival.study_id, "received_at": now, **fresh}):
        # Nobody has read this film yet.
        _set_read(connection, arrival.study_id, None)
    values = {
        "id": arrival.image_id,
        "study_id": arrival.study_id,
        "content_hash": arrival.content_hash,
        "patient": arrival.patient,
        "name": kept_text(arrival.name[-MOST_NAME:], f"images.name {arrival.image_id}", sealer),
        "received_at": now,
        "file_kept": arrival.data is not None,
    }
    if not insert_new(connection, ImageRow, values | film_values(arrival.film)):
        return None
    _add_file(connection, sealer, arrival)
    return "study.add"


def _complete(connection: Connection, sealer: Sealer, arrival: Arrival, known: sa.Row[Any]) -> str | None:
    """Return what was done; None where nothing was missing."""
    missing: dict[str, Any] = {}
    if known.source_format is None and arrival.film is not None:
        missing |= film_values(arrival.film) | {"patient": arrival.patient}
    if not known.file_kept and arrival.data is not None:
        _add_file(connection, sealer, arrival)
        missing["file_kept"] = True
    if not missing:
        return None
    connection.execute(_CHANGE_IMAGE, missing | {"id_": arrival.image_id})
    return "study.complete"


def _add_file(connection: Connection, sealer: Sealer, arrival: Arrival) -> None:
    if arrival.data is not None:
        sealed = sealer.seal(arrival.data, f"files.data {arrival.image_id}")
        insert_new(connection, FileRow, {"image_id": arrival.image_id, "data": sealed})


def add_prediction(
    connection: Connection, sealer: Sealer, prediction: StoredPrediction, actor: Principal
) -> StoredPrediction:
    """Return the prediction as it is kept: the first of its film and bundle."""
    study_id = lock_study_of(connection, prediction.image_id)
    known = find_prediction(connection, prediction.image_id, prediction.bundle_id)
    if known is not None:
        return known
    if not prediction.prediction_id:
        prediction = replace(prediction, prediction_id=random_name())
    connection.execute(_ADD_PREDICTION, prediction_values(prediction))
    rank(connection, study_id)
    detail = {
        "image": prediction.image_id,
        "prediction": prediction.prediction_id,
        "bundle_id": prediction.bundle_id,
        "status": str(prediction.status),
    }
    audit.append(connection, sealer, actor, "prediction.add", study_id, detail)
    return prediction


def find_prediction(connection: Connection, image_id: str, bundle_id: str) -> StoredPrediction | None:
    """Return what a bundle said of a film; None where it has not spoken."""
    row = connection.execute(_PREDICTION, {"id_": image_id, "bundle": bundle_id}).one_or_none()
    return None if row is None else to_prediction(row)


def add_feedback(connection: Connection, sealer: Sealer, feedback: Feedback, actor: Principal) -> Feedback:
    """Return what a physician said, as it is kept; the study counts as read.

    Raises:
        SettingError: a text is too long, or both a class and findings are said.
        StoreError: there is no such film, or no such prediction of it.
    """
    if feedback.label is not None and feedback.findings is not None:
        raise SettingError("Expected feedback with a class or with findings, but got both.")
    if len(feedback.comment) > MOST_COMMENT or len(feedback.label or "") > MOST_LABEL:
        raise SettingError(f"Expected a comment of at most {MOST_COMMENT} characters and a label of {MOST_LABEL}.")
    study_id = lock_study_of(connection, feedback.image_id)
    label = feedback.label
    if feedback.prediction_id is not None:
        told = _label(connection, feedback.image_id, feedback.prediction_id)
        label = told if feedback.agree and label is None and feedback.findings is None else label
    values: dict[str, Any] = {
        "id": feedback.feedback_id,
        "image_id": feedback.image_id,
        "prediction_id": feedback.prediction_id,
        "agree": feedback.agree,
        "label": label,
        "comment": kept_text(feedback.comment, f"feedback.comment {feedback.feedback_id}", sealer),
        "actor": feedback.actor,
        "created_at": feedback.created_at,
        "findings": kept_findings(feedback, sealer),
    }
    connection.execute(_ADD_FEEDBACK, values)
    _set_read(connection, study_id, feedback.created_at)
    detail = {"image": feedback.image_id, "prediction": feedback.prediction_id, "agree": feedback.agree}
    audit.append(connection, sealer, actor, "feedback.add", study_id, detail)
    kept = connection.execute(_FEEDBACK, {"id_": feedback.feedback_id}).one()
    return to_feedback(kept, sealer)


def mark_read(connection: Connection, sealer: Sealer, study_id: str, read: bool, actor: Principal) -> None:
    """Take a study off the list of those that wait, or put it back."""
    lock_study(connection, study_id)
    _set_read(connection, study_id, datetime.now(UTC) if read else None)
    audit.append(connection, sealer, actor, "study.read" if read else "study.unread", study_id)


def lock_study(connection: Connection, study_id: str) -> None:
    """Let no other transaction change a study until this one ends: every change takes this lock first.

    Raises:
        StoreError: there is none.
    """
    if connection.scalars(_LOCK, {"id_": study_id}).one_or_none() is None:
        raise StoreError(f"There is no study {study_id}; it may have been deleted.")


def lock_study_of(connection: Connection, image_id: str) -> str:
    """Return a film's study, locked.

    Raises:
        StoreError: there is no such film.
    """
    study_id = connection.scalars(_STUDY_OF, {"id_": image_id}).one_or_none()
    if study_id is None:
        raise StoreError(f"There is no film {image_id}; it may have been deleted.")
    lock_study(connection, study_id)
    return study_id


def _label(connection: Connection, image_id: str, prediction_id: str) -> str | None:
    row = connection.execute(_LABEL, {"id_": image_id, "said": prediction_id}).one_or_none()
    if row is None:
        raise StoreError(f"There is no prediction {prediction_id} of film {image_id}.")
    label: str | None = row.label
    return label


def _set_read(connection: Connection, study_id: str, moment: datetime | None) -> None:
    connection.execute(_CHANGE_STUDY, {"id_": study_id, "read_at": moment, "state": int(moment is not None)})
