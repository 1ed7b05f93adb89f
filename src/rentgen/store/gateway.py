"""The gateway's durable queue: objects received, studies that close, steps under lease, documents per destination.

Every change is one transaction, so that a process that dies leaves a step either undone or done. A step that was
claimed and not finished comes back when its lease ends; only the holder of the newest lease can finish it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.errors import StoreError
from rentgen.records.results import Document, Kind
from rentgen.store import identity
from rentgen.store.database import Database, insert_new
from rentgen.store.gateway_schema import AnswerRow, BatchRow, ConflictRow, DocumentRow, JobRow, ObjectRow
from rentgen.store.sealing import Sealer

MOST_REASON = 500
"""Characters that are kept of a reason."""


class Receipt(StrEnum):
    """What became of an object that was received."""

    RECEIVED = "received"
    """It is new."""
    DUPLICATE = "duplicate"
    """The same content is here already."""
    CONFLICT = "conflict"
    """Other content with its SOP Instance UID is here; the first counts, this one is noted."""


class Step(StrEnum):
    """What is done with a closed batch, in this order; each destination has a delivery of its own."""

    ANALYSE = "analyse"
    ENCODE = "encode"
    DELIVER = "deliver"


class State(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Held:
    """An object that was received.

    Attributes:
        sop_instance_uid: of the object.
        study_instance_uid: of its study.
        content_hash: SHA-256 of its file, under which the spool has it.
        origin: who sent it.
        header: what it says of itself, as plain JSON values; nothing of whom it shows.
    """

    sop_instance_uid: str
    study_instance_uid: str
    content_hash: str
    origin: str
    header: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed step.

    Attributes:
        job_id: of the step.
        batch_id: of the objects that it is about.
        step: what to do.
        destination: of a delivery; empty for other steps.
        attempts: how often it was claimed, this time counted.
        lease: proves that the step is this worker's.
    """

    job_id: int
    batch_id: int
    step: Step
    destination: str
    attempts: int
    lease: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A step that was given up; a person must look.

    Attributes:
        job_id: for `retry`.
        batch_id: of the objects that it is about.
        step: that failed.
        destination: of a delivery; empty for other steps.
        attempts: how often it was tried.
        reason: of the last failure.
    """

    job_id: int
    batch_id: int
    step: Step
    destination: str
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How full the queue is.

    Attributes:
        objects: that were received.
        conflicts: that were noted.
        open_batches: that still wait for more objects.
        steps: (step, destination, state) to how many.
        oldest: when the oldest step that is not finished is or was due; None where all are.
    """

    objects: int
    conflicts: int
    open_batches: int
    steps: Mapping[tuple[Step, str, State], int]
    oldest: datetime | None


class Queue:
    """The queue in a store's database. Safe from any thread and process; times are aware datetimes, passed in.

    Every method raises StoreError where the database fails.
    """

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    @classmethod
    def open(cls, url: str, *, key: str | None = None) -> Self:
        """Return the queue of a store; arguments and errors as those of `Store.open`."""
        sealer = Sealer.from_text(key)
        database = Database.open(url)
        try:
            identity.unlock(database, sealer)
        except BaseException:
            database.close()
            raise
        return cls(database, sealer)

    def close(self) -> None:
        """Let the database go."""
        self._database.close()

    # -- objects -------------------------------------------------------------------------------------------------------

    def receive(self, held: Held, now: datetime) -> Receipt:
        """Return what became of an object, which is kept for good from here on; the same again changes nothing."""
        with self._database.writing() as connection:
            known = _content_of(connection, held.sop_instance_uid)
            if known is None:
                batch_id = _open_batch(connection, held.study_instance_uid, now)
                values = {"sop_uid": held.sop_instance_uid, "batch_id": batch_id, "content_hash": held.content_hash}
                values |= {"origin": held.origin, "header": dict(held.header), "received_at": now}
                if insert_new(connection, ObjectRow, values):
                    return Receipt.RECEIVED
                # Another process has just brought it.
                known = _content_of(connection, held.sop_instance_uid)
            if known == held.content_hash:
                return Receipt.DUPLICATE
            values = {"sop_uid": held.sop_instance_uid, "content_hash": held.content_hash}
            insert_new(connection, ConflictRow, values | {"origin": held.origin, "received_at": now})
            return Receipt.CONFLICT

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was received."""
        with self._database.reading() as connection:
            return _content_of(connection, sop_instance_uid) is not None

    def objects(self, batch_id: int) -> tuple[Held, ...]:
        """Return the objects of a batch, in the order of their UIDs."""
        query = (
            sa.select(ObjectRow, BatchRow.study_uid)
            .join(BatchRow, BatchRow.id == ObjectRow.batch_id)
            .where(ObjectRow.batch_id == batch_id)
            .order_by(ObjectRow.sop_uid)
        )
        with self._database.reading() as connection:
            return tuple(
                Held(row.sop_uid, row.study_uid, row.content_hash, row.origin, row.header)
                for row in connection.execute(query)
            )

    def close_quiet(self, now: datetime, quiet_s: float) -> int:
        """Return how many batches were closed, and so became steps: those without a new object for so many seconds."""
        limit = now - timedelta(seconds=quiet_s)
        quiet = sa.select(BatchRow.id).where(BatchRow.open_uid.is_not(None), BatchRow.last_at <= limit)
        with self._database.writing() as connection:
            found = connection.scalars(quiet.with_for_update()).all()
            for batch_id in found:
                connection.execute(sa.update(BatchRow).where(BatchRow.id == batch_id).values(open_uid=None))
                _add_job(connection, batch_id, Step.ANALYSE, "", now)
            return len(found)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def claim(
        self, step: Step, now: datetime, lease_s: float, *, without: Sequence[str] = (), first: Sequence[int] = ()
    ) -> Job | None:
        """Return a step that is due, leased for so many seconds; None where there is none.

        Args:
            step: which.
            now: the time.
            lease_s: longer than the step can take.
            without: destinations to leave alone.
            first: batches to prefer; the oldest due step otherwise.
        """
        due = sa.select(JobRow).where(
            JobRow.step == str(step),
            JobRow.state.in_([str(State.WAITING), str(State.LEASED)]),
            JobRow.due_at <= now,
            JobRow.destination.not_in(list(without)),
        )
        preferred = sa.case((JobRow.batch_id.in_(list(first)), 0), else_=1)
        due = due.order_by(preferred, JobRow.due_at, JobRow.id).limit(1).with_for_update(skip_locked=True)
        with self._database.writing() as connection:
            row = connection.execute(due).one_or_none()
            if row is None:
                return None
            lease = secrets.token_urlsafe(16)
            values = {"state": str(State.LEASED), "lease": lease, "attempts": row.attempts + 1}
            values["due_at"] = now + timedelta(seconds=lease_s)
            connection.execute(sa.update(JobRow).where(JobRow.id == row.id).values(**values))
            return Job(row.id, row.batch_id, step, row.destination, row.attempts + 1, lease)

    def finish_analysis(self, job: Job, answers: Mapping[str, bytes], now: datetime) -> bool:
        """Return whether the answers were kept and the batch goes on to be encoded; not where the lease was lost.

        Args:
            job: that was claimed.
            answers: SOP Instance UID to what the analysis came to.
            now: the time.
        """
        with self._database.writing() as connection:
            if not _end(connection, job, State.DONE, ""):
                return False
            for uid, content in answers.items():
                sealed = self._sealer.seal(content, f"gateway_answers.content {uid}")
                insert_new(connection, AnswerRow, {"sop_uid": uid, "content": sealed})
            _add_job(connection, job.batch_id, Step.ENCODE, "", now)
            return True

    def answers(self, batch_id: int) -> dict[str, bytes]:
        """Return SOP Instance UID to what the analysis came to, for the objects of a batch."""
        query = (
            sa.select(AnswerRow)
            .join(ObjectRow, ObjectRow.sop_uid == AnswerRow.sop_uid)
            .where(ObjectRow.batch_id == batch_id)
            .order_by(AnswerRow.sop_uid)
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {row.sop_uid: self._sealer.open(row.content, f"gateway_answers.content {row.sop_uid}") for row in rows}

    def finish_encoding(self, job: Job, documents: Mapping[str, Sequence[Document]], now: datetime) -> bool:
        """Return whether the documents were kept and each destination has its delivery; not where the lease was lost.

        Args:
            job: that was claimed.
            documents: destination to what it gets; one that gets nothing has no delivery.
            now: the time.
        """
        with self._database.writing() as connection:
            if not _end(connection, job, State.DONE, ""):
                return False
            for destination, those in documents.items():
                for number, document in enumerate(those):
                    insert_new(connection, DocumentRow, self._document(job.batch_id, destination, number, document))
                if those:
                    _add_job(connection, job.batch_id, Step.DELIVER, destination, now)
            _complete(connection, job.batch_id, now)
            return True

    def documents(self, job: Job) -> tuple[Document, ...]:
        """Return what a delivery hands over."""
        query = sa.select(DocumentRow).where(
            DocumentRow.batch_id == job.batch_id, DocumentRow.destination == job.destination
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(DocumentRow.number)).all()
        return tuple(
            Document(Kind(row.kind), row.media_type, self._sealer.open(row.content, _place(row)), row.uid, row.name)
            for row in rows
        )

    def finish(self, job: Job, now: datetime) -> bool:
        """Return whether a delivery is noted as done; not where the lease was lost."""
        with self._database.writing() as connection:
            ended = _end(connection, job, State.DONE, "")
            if ended:
                _complete(connection, job.batch_id, now)
            return ended

    def postpone(self, job: Job, due_at: datetime, reason: str) -> bool:
        """Return whether a step is noted to be tried again from `due_at` on; not where the lease was lost."""
        with self._database.writing() as connection:
            return _end(connection, job, State.WAITING, reason, due_at)

    def bury(self, job: Job, reason: str) -> bool:
        """Return whether a step was given up, until a person says `retry`; not where the lease was lost.

        Args:
            job: that was claimed.
            reason: in words, nothing of a patient.
        """
        with self._database.writing() as connection:
            return _end(connection, job, State.DEAD, reason)

    # -- for people ----------------------------------------------------------------------------------------------------

    def dead_letters(self, limit: int = 1000) -> tuple[DeadLetter, ...]:
        """Return steps that were given up, the oldest first."""
        query = sa.select(JobRow).where(JobRow.state == str(State.DEAD)).order_by(JobRow.id).limit(limit)
        with self._database.reading() as connection:
            return tuple(
                DeadLetter(row.id, row.batch_id, Step(row.step), row.destination, row.attempts, row.reason)
                for row in connection.execute(query)
            )

    def retry(self, now: datetime, *, job_id: int | None = None, destination: str | None = None) -> int:
        """Return how many dead letters are tried again: all, or one, or those of a destination."""
        which = sa.update(JobRow).where(JobRow.state == str(State.DEAD))
        if job_id is not None:
            which = which.where(JobRow.id == job_id)
        if destination is not None:
            which = which.where(JobRow.destination == destination)
        with self._database.writing() as connection:
            return connection.execute(which.values(state=str(State.WAITING), due_at=now, attempts=0)).rowcount

    def counts(self) -> Counts:
        """Return how full the queue is."""
        grouped = sa.select(JobRow.step, JobRow.destination, JobRow.state, sa.func.count())
        grouped = grouped.group_by(JobRow.step, JobRow.destination, JobRow.state)
        unfinished = JobRow.state.in_([str(State.WAITING), str(State.LEASED)])
        with self._database.snapshot() as connection:
            steps = {(Step(a), b, State(c)): int(n) for a, b, c, n in connection.execute(grouped)}
            return Counts(
                objects=_count(connection, sa.select(ObjectRow.sop_uid)),
                conflicts=_count(connection, sa.select(ConflictRow.sop_uid)),
                open_batches=_count(connection, sa.select(BatchRow.id).where(BatchRow.open_uid.is_not(None))),
                steps=steps,
                oldest=connection.scalar(sa.select(JobRow.due_at).where(unfinished).order_by(JobRow.due_at).limit(1)),
            )

    def _document(self, batch_id: int, destination: str, number: int, document: Document) -> dict[str, Any]:
        place = f"gateway_documents.content {batch_id} {destination} {number}"
        return {
            "batch_id": batch_id,
            "destination": destination,
            "number": number,
            "kind": str(document.kind),
            "media_type": document.media_type,
            "uid": document.uid,
            "name": document.name,
            "content": self._sealer.seal(document.content, place),
        }


def _place(row: sa.Row[Any]) -> str:
    return f"gateway_documents.content {row.batch_id} {row.destination} {row.number}"


def _content_of(connection: Connection, sop_uid: str) -> str | None:
    return connection.scalar(sa.select(ObjectRow.content_hash).where(ObjectRow.sop_uid == sop_uid))


def _open_batch(connection: Connection, study_uid: str, now: datetime) -> int:
    """Return the study's open batch, made where there is none; nobody closes it before this transaction ends."""
    fresh = {"study_uid": study_uid, "open_uid": study_uid, "first_at": now, "last_at": now, "done_at": None}
    insert_new(connection, BatchRow, fresh)
    mine = BatchRow.open_uid == study_uid
    # The change locks the row: where another process closes the batch at this moment, none is left, and one is made.
    if not connection.execute(sa.update(BatchRow).where(mine).values(last_at=now)).rowcount:
        insert_new(connection, BatchRow, fresh)
    found = connection.scalar(sa.select(BatchRow.id).where(mine))
    if found is None:
        raise StoreError("Expected an open batch of the study, but it was closed meanwhile. Send the object again.")
    return found


def _add_job(connection: Connection, batch_id: int, step: Step, destination: str, now: datetime) -> None:
    values = {"batch_id": batch_id, "step": str(step), "destination": destination, "state": str(State.WAITING)}
    insert_new(connection, JobRow, values | {"attempts": 0, "due_at": now, "lease": None, "reason": ""})


def _end(connection: Connection, job: Job, state: State, reason: str, due_at: datetime | None = None) -> bool:
    """Return whether a step got a new state: only while the lease is the newest."""
    values: dict[str, Any] = {"state": str(state), "lease": None, "reason": reason[:MOST_REASON]}
    if due_at is not None:
        values["due_at"] = due_at
    mine = sa.update(JobRow).where(JobRow.id == job.job_id, JobRow.lease == job.lease)
    return connection.execute(mine.values(**values)).rowcount == 1


def _complete(connection: Connection, batch_id: int, now: datetime) -> None:
    """Note when a batch has no step left."""
    # Two last deliveries at once would each see the other's as not yet done: they queue at the batch.
    connection.execute(sa.select(BatchRow.id).where(BatchRow.id == batch_id).with_for_update())
    left = sa.select(JobRow.id).where(JobRow.batch_id == batch_id, JobRow.state != str(State.DONE)).limit(1)
    if connection.scalar(left) is None:
        connection.execute(sa.update(BatchRow).where(BatchRow.id == batch_id).values(done_at=now))


def _count(connection: Connection, query: sa.Select[Any]) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)
