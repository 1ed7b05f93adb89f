"""Studies put together from their rows, and the order in which they should be read."""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import SettingError
from rentgen.records.studies import Study, Urgency
from rentgen.store.rows import to_feedback, to_image, to_prediction
from rentgen.store.schema import FeedbackRow, ImageRow, PredictionRow, StudyRow
from rentgen.store.sealing import Sealer

MOST = 500
"""Largest page."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ORDER = (StudyRow.state, StudyRow.urgency, StudyRow.negative_score, StudyRow.received_at, StudyRow.id)

_STUDY = ImageRow.study_id.label("study")
_BY_AGE = (
    sa.select(PredictionRow.image_id, PredictionRow.urgency, PredictionRow.score)
    .join(ImageRow, ImageRow.id == PredictionRow.image_id)
    .where(ImageRow.study_id == sa.bindparam("study"))
    # The newest comes last.
    .order_by(PredictionRow.created_at, PredictionRow.number)
)
_MOVE = sa.update(StudyRow).where(StudyRow.id == sa.bindparam("study"))


class Place(NamedTuple):
    """Where a study stands in the order; the columns of the index, in its order."""

    state: int
    urgency: int
    negative_score: float
    received_at: datetime
    study_id: str


def page(
    connection: Connection, *, waiting: bool | None, limit: int, cursor: str | None
) -> tuple[list[sa.Row[Any]], str | None]:
    """Return rows of studies in order, and where the next page begins; None behind the last.

    Raises:
        SettingError: the limit or the cursor is not allowed.
    """
    if not 1 <= limit <= MOST:
        raise SettingError(f"Expected a limit in [1, {MOST}], but got {limit}.")
    query = sa.select(StudyRow).order_by(*_ORDER).limit(limit + 1)
    if waiting is not None:
        query = query.where(StudyRow.state == int(not waiting))
    if cursor is not None:
        # Both databases compare rows of values as the index orders them, so that no page is slower than the first.
        after = [sa.literal(value, column.type) for value, column in zip(decode(cursor), _ORDER, strict=True)]
        query = query.where(sa.tuple_(*_ORDER) > sa.tuple_(*after))
    rows = list(connection.execute(query))
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    place = Place(last.state, last.urgency, last.negative_score, last.received_at, last.id)
    return rows[:limit], encode(place)


def encode(place: Place) -> str:
    """Return a cursor."""
    moment = (place.received_at - _EPOCH) // timedelta(microseconds=1)
    plain = json.dumps(place._replace(received_at=moment), separators=(",", ":"))  # type: ignore[arg-type]
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode(cursor: str) -> Place:
    """Return what `encode` was given.

    Raises:
        SettingError: it is no cursor.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        state, urgency, score, moment, study_id = json.loads(base64.b64decode(padded, b"-_", validate=True))
        if not (isinstance(study_id, str) and len(cursor) <= 200):
            raise ValueError
        place = Place(int(state), int(urgency), float(score), _EPOCH + timedelta(microseconds=int(moment)), study_id)
        if not (0 <= place.state <= 1 and 0 <= place.urgency <= 2 and -1 <= place.negative_score <= 0):
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise SettingError("Expected the cursor that came with the page before, but got something else.") from error
    return place


def assemble(connection: Connection, sealer: Sealer, studies: Sequence[sa.Row[Any]]) -> tuple[Study, ...]:
    """Return studies with all that is known of them, in the order of their rows."""
    mine = ImageRow.study_id.in_([row.id for row in studies])
    images = _grouped(connection, sa.select(ImageRow, _STUDY).where(mine).order_by(ImageRow.number))
    predictions = _grouped(
        connection,
        sa.select(PredictionRow, _STUDY)
        .join(ImageRow, ImageRow.id == PredictionRow.image_id)
        .where(mine)
        .order_by(PredictionRow.created_at.desc(), PredictionRow.number.desc()),
    )
    feedback = _grouped(
        connection,
        sa.select(FeedbackRow, _STUDY)
        .join(ImageRow, ImageRow.id == FeedbackRow.image_id)
        .where(mine)
        .order_by(FeedbackRow.number.desc()),
    )
    return tuple(
        Study(
            study_id=row.id,
            received_at=row.received_at,
            urgency=Urgency(row.urgency),
            score=0.0 - row.negative_score,
            read_at=row.read_at,
            images=tuple(to_image(image, sealer) for image in images[row.id]),
            predictions=tuple(to_prediction(found) for found in predictions[row.id]),
            feedback=tuple(to_feedback(said, sealer) for said in feedback[row.id]),
        )
        for row in studies
    )


def _grouped(connection: Connection, query: sa.Executable) -> dict[str, list[sa.Row[Any]]]:
    """Return the rows of each study, in the order of the query, which names it `study`."""
    found: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.study].append(row)
    return found


def rank(connection: Connection, study_id: str) -> None:
    """Put a study where its films' newest predictions belong."""
    newest = {row.image_id: (row.urgency, -row.score) for row in connection.execute(_BY_AGE, {"study": study_id})}
    urgency, negative_score = min(newest.values(), default=(int(Urgency.DOUBT), 0.0))
    connection.execute(_MOVE, {"study": study_id, "urgency": urgency, "negative_score": negative_score})
