"""Which studies go, and how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import StoreError
from rentgen.store.schema import ImageRow, StudyRow


def delete(connection: Connection, study_id: str, *, must: bool = True) -> bool:
    """Return whether a study was deleted, and with it, by foreign keys, its films, predictions and feedback.

    Raises:
        StoreError: it must be there, and is not.
    """
    gone = connection.execute(sa.delete(StudyRow).where(StudyRow.id == study_id)).rowcount == 1
    if must and not gone:
        raise StoreError(f"There is no study {study_id}; it may have been deleted.")
    return gone


def of_patient(connection: Connection, patient: str) -> tuple[str, ...]:
    """Return the studies with a film of a patient, given by keyed hash, in the order of arrival."""
    query = (
        sa.select(ImageRow.study_id)
        .where(ImageRow.patient == patient)
        .group_by(ImageRow.study_id)
        .order_by(sa.func.min(ImageRow.number))
    )
    return tuple(connection.scalars(query))


def older_than(connection: Connection, days: int) -> tuple[str, ...]:
    """Return the studies that came more than so many days ago, the oldest first."""
    limit = datetime.now(UTC) - timedelta(days=days)
    query = sa.select(StudyRow.id).where(StudyRow.received_at < limit).order_by(StudyRow.received_at)
    return tuple(connection.scalars(query))
