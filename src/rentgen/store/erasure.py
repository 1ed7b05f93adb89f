"""Which studies go, and how: what was kept of them, and what the gateway has in hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import StoreError
from rentgen.store.gateway_schema import BatchRow, ConflictRow, JobRow, ObjectRow
from rentgen.store.schema import ImageRow, StudyRow


@dataclass(frozen=True, slots=True)
class Gone:
    """What was deleted of a study.

    Attributes:
        study: whether it was there.
        batches: of the gateway.
        conflicts: objects that the gateway had put aside.
    """

    study: bool
    batches: int
    conflicts: int

    def __bool__(self) -> bool:
        return self.study or self.batches > 0 or self.conflicts > 0

    def detail(self) -> dict[str, int]:
        """Return what the trail tells of it."""
        return {"batches": self.batches} if self.batches else {}


def delete(connection: Connection, study_id: str, *, before: datetime | None = None, must: bool = False) -> Gone:
    """Return what was deleted: a study with all that refers to it, and the gateway's batches of it.

    A batch goes altogether, also where it still had something to do: its documents speak of all its films.

    Args:
        connection: of the transaction.
        study_id: of the study.
        before: only what came before it.
        must: it must be there.

    Raises:
        StoreError: it must be there, and is not.
    """
    old = StudyRow.received_at < before if before is not None else sa.true()
    # First the gateway's, which are found by the films, too.
    batches, conflicts = _delete_batches(connection, study_id, before)
    study = connection.execute(sa.delete(StudyRow).where(StudyRow.id == study_id, old)).rowcount == 1
    gone = Gone(study, batches, conflicts)
    if must and not gone:
        raise StoreError(f"There is no study {study_id}; it may have been deleted.")
    return gone


def of_patient(connection: Connection, patient: str | None) -> tuple[str, ...]:
    """Return the studies with a film of a patient, given by keyed hash, in the order of arrival; the gateway's last.

    A film that could not be read is the patient's, too, where the gateway knows it by its header.
    """
    if patient is None:
        return ()
    received = sa.select(ObjectRow.content_hash).where(ObjectRow.patient == patient)
    kept = (
        sa.select(ImageRow.study_id)
        .where(sa.or_(ImageRow.patient == patient, ImageRow.content_hash.in_(received)))
        .group_by(ImageRow.study_id)
        .order_by(sa.func.min(ImageRow.number))
    )
    coming = (
        sa.select(BatchRow.study_id)
        .join(ObjectRow, ObjectRow.batch_id == BatchRow.id)
        .where(ObjectRow.patient == patient)
        .order_by(BatchRow.id)
    )
    return _each_once(connection, kept, coming)


def older_than(connection: Connection, limit: datetime) -> tuple[str, ...]:
    """Return the studies that came before a moment, or of which the gateway has something so old; the oldest first."""
    return _each_once(
        connection,
        sa.select(StudyRow.id).where(StudyRow.received_at < limit).order_by(StudyRow.received_at),
        sa.select(BatchRow.study_id).where(BatchRow.last_at < limit).order_by(BatchRow.last_at),
        sa.select(ConflictRow.study_id).where(ConflictRow.received_at < limit).order_by(ConflictRow.received_at),
    )


def forget_conflicts(connection: Connection, patient: str | None) -> int:
    """Return how many objects of a patient went that were put aside; the study whose place they wanted is another's."""
    if patient is None:
        return 0
    return connection.execute(sa.delete(ConflictRow).where(ConflictRow.patient == patient)).rowcount


def batches_of(study_id: str) -> sa.ColumnElement[bool]:
    """Return the condition under which the gateway's batch is of a study: by its name, or by a film in it."""
    films = sa.select(ImageRow.content_hash).where(ImageRow.study_id == study_id)
    holding = sa.select(ObjectRow.batch_id).where(ObjectRow.content_hash.in_(films))
    return sa.or_(BatchRow.study_id == study_id, BatchRow.id.in_(holding))


def _delete_batches(connection: Connection, study_id: str, before: datetime | None) -> tuple[int, int]:
    """Return how many batches and how many conflicts went."""
    conflict, batch = ConflictRow.study_id == study_id, batches_of(study_id)
    if before is not None:
        conflict, batch = sa.and_(conflict, ConflictRow.received_at < before), sa.and_(batch, BatchRow.last_at < before)
    those = connection.scalars(sa.select(BatchRow.id).where(batch).order_by(BatchRow.id)).all()
    # A worker takes the step first and its batch afterwards: who takes them the other way round would wait for ever.
    mine = sa.select(JobRow.id).where(JobRow.batch_id.in_(those)).order_by(JobRow.id)
    connection.execute(mine.with_for_update()).all()
    conflicts = connection.execute(sa.delete(ConflictRow).where(conflict)).rowcount
    return connection.execute(sa.delete(BatchRow).where(BatchRow.id.in_(those))).rowcount, conflicts


def _each_once(connection: Connection, *queries: sa.Select[Any]) -> tuple[str, ...]:
    found = (name for query in queries for name in connection.scalars(query))
    return tuple(dict.fromkeys(name for name in found if name is not None))
