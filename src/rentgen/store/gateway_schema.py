"""The tables of the gateway's queue. A change here needs a revision in `migrations/versions`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from rentgen.store.schema import Base


class BatchRow(Base):
    """Objects of one study that came together; what comes after it was closed makes another batch."""

    __tablename__ = "gateway_batches"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    study_uid: Mapped[str] = mapped_column(index=True)
    study_id: Mapped[str | None] = mapped_column(index=True)
    """The store's own name of the study; None only in rows of an older version that nobody has opened since."""
    open_uid: Mapped[str | None] = mapped_column(unique=True)
    """The study's UID while the batch is open: a study has one open batch at most."""
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class ObjectRow(Base):
    """An object that was received; the first of its SOP Instance UID."""

    __tablename__ = "gateway_objects"

    sop_uid: Mapped[str] = mapped_column(primary_key=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("gateway_batches.id", ondelete="CASCADE"), index=True)
    content_hash: Mapped[str] = mapped_column(index=True)
    patient: Mapped[str | None] = mapped_column(index=True)
    """As in `images`; None also in rows of an older version."""
    origin: Mapped[str]
    header: Mapped[dict[str, Any]]
    received_at: Mapped[datetime]


class ConflictRow(Base):
    """An object whose SOP Instance UID another object has; a person must look."""

    __tablename__ = "gateway_conflicts"

    sop_uid: Mapped[str] = mapped_column(primary_key=True)
    content_hash: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str | None] = mapped_column(index=True)
    patient: Mapped[str | None] = mapped_column(index=True)
    origin: Mapped[str]
    received_at: Mapped[datetime]


class JobRow(Base):
    """One step of a batch that is to be done."""

    __tablename__ = "gateway_jobs"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("gateway_batches.id", ondelete="CASCADE"))
    step: Mapped[str]
    destination: Mapped[str]
    """Empty for a step that has none."""
    state: Mapped[str]
    attempts: Mapped[int]
    due_at: Mapped[datetime]
    """When it may be claimed: while it is leased, when the lease ends."""
    lease: Mapped[str | None]
    reason: Mapped[str]

    __table_args__ = (
        UniqueConstraint("batch_id", "step", "destination"),
        Index("ix_gateway_jobs_due", "step", "state", "due_at", "id"),
    )


class AnswerRow(Base):
    """What the analysis of an object came to, sealed where the store has a key."""

    __tablename__ = "gateway_answers"

    sop_uid: Mapped[str] = mapped_column(ForeignKey("gateway_objects.sop_uid", ondelete="CASCADE"), primary_key=True)
    content: Mapped[bytes]


class DocumentRow(Base):
    """A document for a destination, sealed where the store has a key."""

    __tablename__ = "gateway_documents"

    batch_id: Mapped[int] = mapped_column(ForeignKey("gateway_batches.id", ondelete="CASCADE"), primary_key=True)
    destination: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    media_type: Mapped[str]
    uid: Mapped[str]
    name: Mapped[str]
    content: Mapped[bytes]
