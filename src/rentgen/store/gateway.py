"""The gateway's durable queue: objects received, studies that close, steps under lease, documents per destination.

Every change is one transaction, so that a process that dies leaves a step either undone or done. A step that was
claimed and not finished comes back when its lease ends; only the holder of the newest lease can finish it.

What was received is on the disk before its sender is told so. The steps are not waited for: after a power cut the last
of them may be undone, and are done again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.records.results import Document, Kind
from rentgen.records.studies import Principal, Role
from rentgen.store import audit, gateway_people, identity
from rentgen.store.database import Database, insert_new
from rentgen.store.gateway_nouns import Batch, Counts, DeadLetter, Held, Job, Receipt, State, Step
from rentgen.store.gateway_rows import (
    CLAIM,
    DUE,
    add_document,
    add_job,
    answer_place,
    complete,
    content_of,
    count_of,
    document_place,
    end,
    open_batch,
    study_of,
)
from rentgen.store.gateway_schema import AnswerRow, BatchRow, ConflictRow, DocumentRow, JobRow, ObjectRow
from rentgen.store.sealing import Sealer

__all__ = ["GATEWAY", "Batch", "Counts", "DeadLetter", "Held", "Job", "Queue", "Receipt", "State", "Step"]

GATEWAY = Principal("gateway", Role.PHYSICIAN)
"""Who brings films and answers, in the audit trail."""
_MOST_NAMED = 500


class Queue:
    """The queue in a store's database. Safe from any thread and process; times are aware datetimes, passed in.

    Every method raises StoreError where the database fails.
    """

    def __init__(self, database: Database, sealer: Sealer, names: identity.Names) -> None:
        self._database = database
        self._sealer = sealer
        self._names = names

    @classmethod
    def open(cls, url: str, *, key: str | None = None) -> Self:
        """Return the queue of a store; arguments and errors as those of `Store.open`."""
        sealer = Sealer.from_text(key)
        database = Database.open(url)
        try:
            names = identity.unlock(database, sealer)
        except BaseException:
            database.close()
            raise
        return cls(database, sealer, names)

    def close(self) -> None:
        """Let the database go."""
        self._database.close()

    # -- objects -------------------------------------------------------------------------------------------------------

    def receive(self, held: Held, now: datetime, *, patient_id: str | None = None) -> Receipt:
        """Return what became of an object, which is kept for good from here on; the same again changes nothing.

        Args:
            held: the object.
            now: the time.
            patient_id: whom it shows, where it says so; kept as a keyed hash alone.
        """
        study_id = self._names.of_study(held.study_instance_uid)
        told = {"patient": self._names.of_patient(patient_id), "origin": held.origin, "received_at": now}
        with self._database.writing() as connection:
            known = content_of(connection, held.sop_instance_uid)
            if known is None:
                batch_id = open_batch(connection, held.study_instance_uid, study_id, now)
                values = {"sop_uid": held.sop_instance_uid, "batch_id": batch_id, "content_hash": held.content_hash}
                if insert_new(connection, ObjectRow, values | told | {"header": dict(held.header)}):
                    return Receipt.RECEIVED
                # Another process has just brought it.
                known = content_of(connection, held.sop_instance_uid)
            if known == held.content_hash:
                return Receipt.DUPLICATE
            values = {"sop_uid": held.sop_instance_uid, "content_hash": held.content_hash, "study_id": study_id}
            insert_new(connection, ConflictRow, values | told)
            return Receipt.CONFLICT

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether an object was received."""
        with self._database.reading() as connection:
            return content_of(connection, sop_instance_uid) is not None

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
        with self._database.reading() as connection:
            # It is asked all the time, and a reader stands in nobody's way.
            if connection.scalar(quiet.limit(1)) is None:
                return 0
        with self._database.writing(lasting=False) as connection:
            closed = connection.scalars(quiet.order_by(BatchRow.id).with_for_update()).all()
            for batch_id in closed:
                connection.execute(sa.update(BatchRow).where(BatchRow.id == batch_id).values(open_uid=None))
                add_job(connection, batch_id, Step.ANALYSE, "", now)
            for batch_id in closed:
                objects = count_of(connection, sa.select(ObjectRow.sop_uid).where(ObjectRow.batch_id == batch_id))
                detail = {"batch": batch_id, "objects": objects}
                self._audit(connection, "gateway.receive", study_of(connection, batch_id), detail)
            return len(closed)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def claim(self, step: Step, now: datetime, lease_s: float, *, without: Sequence[str] = ()) -> Job | None:
        """Return a step that is due, leased for so many seconds; None where there is none.

        Args:
            step: which.
            now: the time.
            lease_s: longer than the step can take.
            without: destinations to leave alone.
        """
        wanted = {"step_": str(step), "now": now, "without": list(without)}
        with self._database.writing(lasting=False) as connection:
            row = connection.execute(DUE, wanted).one_or_none()
            if row is None:
                return None
            lease = secrets.token_urlsafe(16)
            values = {"state": str(State.LEASED), "lease": lease, "attempts": row.attempts + 1}
            connection.execute(CLAIM, values | {"id_": row.id, "due_at": now + timedelta(seconds=lease_s)})
            return Job(row.id, row.batch_id, step, row.destination, row.attempts + 1, lease, row.reason)

    def renew(self, job: Job, now: datetime, lease_s: float) -> bool:
        """Return whether a claimed step is this worker's for so many seconds more; not where the lease was lost."""
        mine = sa.update(JobRow).where(JobRow.id == job.job_id, JobRow.lease == job.lease)
        with self._database.writing(lasting=False) as connection:
            return connection.execute(mine.values(due_at=now + timedelta(seconds=lease_s))).rowcount == 1

    def release(self, now: datetime) -> int:
        """Return how many claimed steps are due again at once: for the only gateway of this database, as it starts."""
        leased = sa.update(JobRow).where(JobRow.state == str(State.LEASED))
        with self._database.writing() as connection:
            freed = leased.values(state=str(State.WAITING), lease=None, due_at=now)
            return connection.execute(freed).rowcount

    def finish_analysis(self, job: Job, answers: Mapping[str, bytes], now: datetime) -> bool:
        """Return whether the answers were kept and the batch goes on to be encoded; not where the lease was lost.

        Args:
            job: that was claimed.
            answers: SOP Instance UID to what the analysis came to.
            now: the time.
        """
        with self._database.writing(lasting=False) as connection:
            if not end(connection, job, State.DONE):
                return False
            for uid, content in answers.items():
                sealed = self._sealer.seal(content, answer_place(uid))
                insert_new(connection, AnswerRow, {"sop_uid": uid, "content": sealed})
            add_job(connection, job.batch_id, Step.ENCODE, "", now)
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
        return {row.sop_uid: self._sealer.open(row.content, answer_place(row.sop_uid)) for row in rows}

    def finish_encoding(self, job: Job, documents: Mapping[str, Sequence[Document]], now: datetime) -> bool:
        """Return whether the documents were kept and each destination has its delivery; not where the lease was lost.

        Args:
            job: that was claimed.
            documents: destination to what it gets; one that gets nothing has no delivery.
            now: the time.
        """
        with self._database.writing(lasting=False) as connection:
            if not end(connection, job, State.DONE):
                return False
            for destination, those in documents.items():
                for number, document in enumerate(those):
                    add_document(connection, self._sealer, job.batch_id, destination, number, document)
                if those:
                    add_job(connection, job.batch_id, Step.DELIVER, destination, now)
            complete(connection, job.batch_id, now)
            return True

    def documents(self, job: Job) -> tuple[Document, ...]:
        """Return what a delivery hands over."""
        query = sa.select(DocumentRow).where(
            DocumentRow.batch_id == job.batch_id, DocumentRow.destination == job.destination
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(DocumentRow.number)).all()
        return tuple(self._document(row) for row in rows)

    def finish(self, job: Job, now: datetime, *, dry_run: bool = False) -> bool:
        """Return whether a delivery is noted as done; not where the lease was lost.

        Args:
            job: that was claimed.
            now: the time.
            dry_run: nothing was handed over; the audit trail says so.
        """
        mine = (DocumentRow.batch_id == job.batch_id, DocumentRow.destination == job.destination)
        with self._database.writing(lasting=False) as connection:
            if not end(connection, job, State.DONE):
                return False
            complete(connection, job.batch_id, now)
            count = count_of(connection, sa.select(DocumentRow.number).where(*mine))
            detail = {"batch": job.batch_id, "destination": job.destination, "documents": count, "dry_run": dry_run}
            self._audit(connection, "gateway.deliver", study_of(connection, job.batch_id), detail)
            return True

    def postpone(self, job: Job, due_at: datetime, reason: str) -> bool:
        """Return whether a step is noted to be tried again from `due_at` on; not where the lease was lost."""
        with self._database.writing(lasting=False) as connection:
            return end(connection, job, State.WAITING, reason, due_at)

    def bury(self, job: Job, reason: str) -> bool:
        """Return whether a step was given up, until a person says `retry`; not where the lease was lost.

        Args:
            job: that was claimed.
            reason: in words, nothing of a patient.
        """
        with self._database.writing() as connection:
            if not end(connection, job, State.DEAD, reason):
                return False
            # Not the reason: a peer may have put a name into it, and what stands in the trail stays.
            detail = {"batch": job.batch_id, "step": str(job.step), "destination": job.destination}
            self._audit(connection, "gateway.bury", study_of(connection, job.batch_id), detail)
            return True

    # -- for people ----------------------------------------------------------------------------------------------------

    def dead_letters(self, limit: int = 1000) -> tuple[DeadLetter, ...]:
        """Return steps that were given up, the oldest first."""
        query = sa.select(JobRow).where(JobRow.state == str(State.DEAD)).order_by(JobRow.id).limit(limit)
        with self._database.reading() as connection:
            return tuple(
                DeadLetter(row.id, row.batch_id, Step(row.step), row.destination, row.attempts, row.reason)
                for row in connection.execute(query)
            )

    def retry(
        self, now: datetime, *, actor: Principal, job_id: int | None = None, destination: str | None = None
    ) -> int:
        """Return how many dead letters are tried again: all, or one, or those of a destination."""
        which = sa.update(JobRow).where(JobRow.state == str(State.DEAD))
        if job_id is not None:
            which = which.where(JobRow.id == job_id)
        if destination is not None:
            which = which.where(JobRow.destination == destination)
        with self._database.writing() as connection:
            count = connection.execute(which.values(state=str(State.WAITING), due_at=now, attempts=0)).rowcount
            if count:
                detail = {"count": count, "job": job_id, "destination": destination}
                self._audit(connection, "gateway.retry", "gateway", detail, actor)
            return count

    def discard(self, job_id: int, now: datetime, *, actor: Principal) -> int:
        """Return how many dead letters, one or none, are dropped for good; what they were about may then be done."""
        which = sa.select(JobRow).where(JobRow.id == job_id, JobRow.state == str(State.DEAD)).with_for_update()
        with self._database.writing() as connection:
            row = connection.execute(which).one_or_none()
            if row is None:
                return 0
            connection.execute(sa.update(JobRow).where(JobRow.id == job_id).values(state=str(State.DONE)))
            complete(connection, row.batch_id, now)
            detail = {"batch": row.batch_id, "step": row.step, "destination": row.destination}
            self._audit(connection, "gateway.discard", study_of(connection, row.batch_id), detail, actor)
            return 1

    def note(self, action: str, detail: Mapping[str, Any]) -> None:
        """Add a line to the audit trail about the gateway itself, such as `gateway.start`."""
        with self._database.writing() as connection:
            self._audit(connection, action, "gateway", detail)

    # -- keeping house -------------------------------------------------------------------------------------------------

    def clear(self, now: datetime, keep_days: int) -> int:
        """Return how many batches went that were done longer ago, with their objects, answers and documents.

        Objects that were put aside go as soon as they are as old.
        """
        limit = now - timedelta(days=keep_days)
        with self._database.writing() as connection:
            count = connection.execute(sa.delete(BatchRow).where(BatchRow.done_at < limit)).rowcount
            aside = connection.execute(sa.delete(ConflictRow).where(ConflictRow.received_at < limit)).rowcount
        if count or aside:
            self._database.forget()
        return count

    def wanted(self, hashes: Sequence[str]) -> set[str]:
        """Return those of some content hashes that an object or a conflict still has."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(hashes), _MOST_NAMED):
                named = list(hashes[start : start + _MOST_NAMED])
                for row in (ObjectRow, ConflictRow):
                    found |= set(connection.scalars(sa.select(row.content_hash).where(row.content_hash.in_(named))))
        return found

    def finished_since(self, moment: datetime, limit: int = 10_000) -> tuple[tuple[datetime, datetime], ...]:
        """Return when the last object of a batch came and when its last step was done, the oldest first.

        Args:
            moment: of batches that were done after it.
            limit: most of them.
        """
        query = sa.select(BatchRow.last_at, BatchRow.done_at).where(BatchRow.done_at > moment)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(BatchRow.done_at).limit(limit)).all()
        return tuple((row.last_at, row.done_at) for row in rows)

    def batches(self, limit: int = 100) -> tuple[Batch, ...]:
        """Return how far the newest batches are, the newest first."""
        with self._database.snapshot() as connection:
            return gateway_people.newest(connection, limit)

    def counts(self) -> Counts:
        """Return how full the queue is."""
        grouped = sa.select(JobRow.step, JobRow.destination, JobRow.state, sa.func.count())
        grouped = grouped.group_by(JobRow.step, JobRow.destination, JobRow.state)
        unfinished = JobRow.state.in_([str(State.WAITING), str(State.LEASED)])
        with self._database.snapshot() as connection:
            steps = {(Step(a), b, State(c)): int(n) for a, b, c, n in connection.execute(grouped)}
            return Counts(
                objects=count_of(connection, sa.select(ObjectRow.sop_uid)),
                conflicts=count_of(connection, sa.select(ConflictRow.sop_uid)),
                open_batches=count_of(connection, sa.select(BatchRow.id).where(BatchRow.open_uid.is_not(None))),
                steps=steps,
                oldest=connection.scalar(
                    sa.select(sa.func.min(BatchRow.last_at))
                    .join(JobRow, JobRow.batch_id == BatchRow.id)
                    .where(unfinished)
                ),
            )

    def _document(self, row: sa.Row[Any]) -> Document:
        place = document_place(row.batch_id, row.destination, row.number)
        return Document(Kind(row.kind), row.media_type, self._sealer.open(row.content, place), row.uid, row.name)

    def _audit(
        self,
        connection: Connection,
        action: str,
        subject: str | None,
        detail: Mapping[str, Any],
        actor: Principal = GATEWAY,
    ) -> None:
        audit.append(connection, self._sealer, actor, action, subject or "gateway", detail)
