"""Rows of the gateway's queue: small steps of its transactions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import StoreError
from rentgen.records.results import Document
from rentgen.store.database import insert_new
from rentgen.store.gateway_nouns import Job, State, Step
from rentgen.store.gateway_schema import BatchRow, DocumentRow, JobRow, ObjectRow
from rentgen.store.sealing import Sealer

MOST_REASON = 500
"""Characters that are kept of a reason."""


def answer_place(sop_uid: str) -> str:
    """Return what an object's answer is sealed with."""
    return f"gateway_answers.content {sop_uid}"


def document_place(batch_id: int, destination: str, number: int) -> str:
    """Return what a document is sealed with."""
    return f"gateway_documents.content {batch_id} {destination} {number}"


def content_of(connection: Connection, sop_uid: str) -> str | None:
    """Return the content hash of an object; None where it was not received."""
    return connection.scalar(sa.select(ObjectRow.content_hash).where(ObjectRow.sop_uid == sop_uid))


def open_batch(connection: Connection, study_uid: str, study_id: str, now: datetime) -> int:
    """Return the study's open batch, made where there is none; nobody closes it before this transaction ends."""
    fresh = {"study_uid": study_uid, "study_id": study_id, "open_uid": study_uid, "first_at": now, "last_at": now}
    insert_new(connection, BatchRow, fresh | {"done_at": None})
    mine = BatchRow.open_uid == study_uid
    # The change locks the row: where another process closes the batch at this moment, none is left, and one is made.
    if not connection.execute(sa.update(BatchRow).where(mine).values(last_at=now)).rowcount:
        insert_new(connection, BatchRow, fresh | {"done_at": None})
    found = connection.scalar(sa.select(BatchRow.id).where(mine))
    if found is None:
        raise StoreError("Expected an open batch of the study, but it was closed meanwhile. Send the object again.")
    return found


def study_of(connection: Connection, batch_id: int) -> str:
    """Return the store's own name of the study of a batch; empty where the batch is gone."""
    return connection.scalar(sa.select(BatchRow.study_id).where(BatchRow.id == batch_id)) or ""


def add_job(connection: Connection, batch_id: int, step: Step, destination: str, now: datetime) -> None:
    """Add a step that may be claimed from now on."""
    values = {"batch_id": batch_id, "step": str(step), "destination": destination, "state": str(State.WAITING)}
    insert_new(connection, JobRow, values | {"attempts": 0, "due_at": now, "lease": None, "reason": ""})


def add_document(
    connection: Connection, sealer: Sealer, batch_id: int, destination: str, number: int, document: Document
) -> None:
    """Add a document that a destination is to get."""
    values = {
        "batch_id": batch_id,
        "destination": destination,
        "number": number,
        "kind": str(document.kind),
        "media_type": document.media_type,
        "uid": document.uid,
        "name": document.name,
        "content": sealer.seal(document.content, document_place(batch_id, destination, number)),
    }
    insert_new(connection, DocumentRow, values)


def end(connection: Connection, job: Job, state: State, reason: str = "", due_at: datetime | None = None) -> bool:
    """Return whether a step got a new state: only while the lease is the newest."""
    values: dict[str, Any] = {"state": str(state), "lease": None, "reason": reason[:MOST_REASON]}
    if due_at is not None:
        values["due_at"] = due_at
    mine = sa.update(JobRow).where(JobRow.id == job.job_id, JobRow.lease == job.lease)
    return connection.execute(mine.values(**values)).rowcount == 1


def complete(connection: Connection, batch_id: int, now: datetime) -> None:
    """Note when a batch has no step left."""
    # Two last deliveries at once would each see the other's as not yet done: they queue at the batch.
    connection.execute(sa.select(BatchRow.id).where(BatchRow.id == batch_id).with_for_update())
    left = sa.select(JobRow.id).where(JobRow.batch_id == batch_id, JobRow.state != str(State.DONE)).limit(1)
    if connection.scalar(left) is None:
        connection.execute(sa.update(BatchRow).where(BatchRow.id == batch_id).values(done_at=now))


def count_of(connection: Connection, query: sa.Select[Any]) -> int:
    """Return how many rows a question has."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)
