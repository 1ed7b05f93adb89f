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

# Statements are built once: building one takes longer than SQLite takes to run it.
_UID: sa.BindParameter[str] = sa.bindparam("uid")
_ID: sa.BindParameter[int] = sa.bindparam("id_")
_CONTENT = sa.select(ObjectRow.content_hash).where(ObjectRow.sop_uid == _UID)
_OPEN = sa.select(BatchRow.id).where(BatchRow.open_uid == _UID)
_TOUCH = sa.update(BatchRow).where(BatchRow.open_uid == _UID)
_STUDY = sa.select(BatchRow.study_id).where(BatchRow.id == _ID)
_LOCK = sa.select(BatchRow.id).where(BatchRow.id == _ID).with_for_update()
_LEFT = sa.select(JobRow.id).where(JobRow.batch_id == _ID, JobRow.state != str(State.DONE)).limit(1)
_DONE = sa.update(BatchRow).where(BatchRow.id == _ID)
_MINE = sa.update(JobRow).where(JobRow.id == _ID, JobRow.lease == sa.bindparam("held"))
DUE = (
    sa.select(JobRow)
    .where(
        JobRow.step == sa.bindparam("step_"),
        JobRow.state.in_([str(State.WAITING), str(State.LEASED)]),
        JobRow.due_at <= sa.bindparam("now"),
        JobRow.destination.not_in(sa.bindparam("without", expanding=True)),
    )
    .order_by(JobRow.due_at, JobRow.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
"""The oldest due step: of `step_`, at `now`, `without` some destinations."""
CLAIM = sa.update(JobRow).where(JobRow.id == _ID)

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
    return connection.scalar(_CONTENT, {"uid": sop_uid})


def open_batch(connection: Connection, study_uid: str, study_id: str, now: datetime) -> int:
    """Return the study's open batch, made where there is none; nobody closes it before this transaction ends."""
    fresh = {"study_uid": study_uid, "study_id": study_id, "open_uid": study_uid, "first_at": now, "last_at": now}
    insert_new(connection, BatchRow, fresh | {"done_at": None})
    # The change locks the row: where another process closes the batch at this moment, none is left, and one is made.
    if not connection.execute(_TOUCH, {"uid": study_uid, "last_at": now}).rowcount:
        insert_new(connection, BatchRow, fresh | {"done_at": None})
    found = connection.scalar(_OPEN, {"uid": study_uid})
    if found is None:
        raise StoreError("Expected an open batch of the study, but it was closed meanwhile. Send the object again.")
    return found


def study_of(connection: Connection, batch_id: int) -> str:
    """Return the store's own name of the study of a batch; empty where the batch is gone."""
    return connection.scalar(_STUDY, {"id_": batch_id}) or ""


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
    return connection.execute(_MINE, values | {"id_": job.job_id, "held": job.lease}).rowcount == 1


def complete(connection: Connection, batch_id: int, now: datetime) -> None:
    """Note when a batch has no step left."""
    # Two last deliveries at once would each see the other's as not yet done: they queue at the batch.
    connection.execute(_LOCK, {"id_": batch_id})
    if connection.scalar(_LEFT, {"id_": batch_id}) is None:
        connection.execute(_DONE, {"id_": batch_id, "done_at": now})


def count_of(connection: Connection, query: sa.Select[Any]) -> int:
    """Return how many rows a question has."""
    return int(connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)
