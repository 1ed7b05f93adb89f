"""The tables. A change here needs a revision in `migrations/versions` and its name in `HEAD`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

HEAD = "0004"
"""The newest revision of `migrations/versions`."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC, also where the database keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the database is given."""
        if value is None:
            return None
        moved = value.astimezone(UTC)
        return moved.replace(tzinfo=None) if dialect.name == "sqlite" else moved

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the program is given."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def clean(text: str) -> str:
    """Return text that any database takes: PostgreSQL knows no NUL, and neither knows half a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class CleanText(TypeDecorator[str]):
    """Text from outside."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what the database is given."""
        return None if value is None else clean(value)


class Base(DeclarativeBase):
    """The root of the tables, and how their constraints are named."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - the declarative base reads it from here
        str: CleanText,
        datetime: UtcDateTime,
        float: Double,
        bytes: LargeBinary,
        bool: Boolean,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class FactRow(Base):
    """What the store knows of itself: the secret of its hashes, the check of its key."""

    __tablename__ = "facts"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


class StudyRow(Base):
    """A study, with what orders the worklist."""

    __tablename__ = "studies"

    id: Mapped[str] = mapped_column(primary_key=True)
    received_at: Mapped[datetime]
    read_at: Mapped[datetime | None]
    state: Mapped[int] = mapped_column(SmallInteger)
    """0 while it waits, 1 once read: first in the order of the worklist."""
    urgency: Mapped[int] = mapped_column(SmallInteger)
    negative_score: Mapped[float]
    """So that one ascending index gives the order."""

    __table_args__ = (Index("ix_studies_worklist", "state", "urgency", "negative_score", "received_at", "id"),)


class ImageRow(Base):
    """A film; `number` is the order of arrival."""

    __tablename__ = "images"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    content_hash: Mapped[str] = mapped_column(unique=True)
    pixel_hash: Mapped[str | None]
    patient: Mapped[str | None] = mapped_column(index=True)
    """Keyed hash of PatientID."""
    name: Mapped[bytes]
    """Sealed where the store has a key."""
    source_format: Mapped[str | None]
    rows: Mapped[int | None]
    columns: Mapped[int | None]
    bits: Mapped[int | None]
    row_spacing_mm: Mapped[float | None]
    column_spacing_mm: Mapped[float | None]
    modality: Mapped[str | None]
    body_part_examined: Mapped[str | None]
    view_position: Mapped[str | None]
    notes: Mapped[list[Any]]
    received_at: Mapped[datetime]
    file_kept: Mapped[bool]


class FileRow(Base):
    """A film's own bytes, always sealed."""

    __tablename__ = "files"

    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    data: Mapped[bytes]


class PredictionRow(Base):
    """What one bundle said of one film."""

    __tablename__ = "predictions"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    bundle_id: Mapped[str]
    model: Mapped[str]
    created_at: Mapped[datetime]
    status: Mapped[str]
    label: Mapped[str | None]
    probabilities: Mapped[dict[str, Any]]
    reasons: Mapped[list[Any]]
    prediction_set: Mapped[list[Any]]
    distance: Mapped[float | None]
    points: Mapped[list[Any]]
    urgency: Mapped[int] = mapped_column(SmallInteger)
    score: Mapped[float]
    precision: Mapped[str]
    maps: Mapped[bytes | None]
    """uint8, row-major."""
    maps_shape: Mapped[list[Any] | None]
    geometry: Mapped[dict[str, Any] | None]

    __table_args__ = (UniqueConstraint("image_id", "bundle_id"),)


class FeedbackRow(Base):
    """What a physician said of a film's prediction."""

    __tablename__ = "feedback"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    prediction_id: Mapped[str | None] = mapped_column(ForeignKey("predictions.id", ondelete="CASCADE"), index=True)
    agree: Mapped[bool]
    label: Mapped[str | None]
    comment: Mapped[bytes]
    """Sealed where the store has a key."""
    actor: Mapped[str]
    created_at: Mapped[datetime]
    findings: Mapped[bytes | None]
    """Of several findings, what is present and what is absent: JSON, sealed where the store has a key."""


class KeyRow(Base):
    """An API key: its SHA-256, never itself."""

    __tablename__ = "api_keys"

    name: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """One line of the audit trail; triggers forbid to change or delete it."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    detail: Mapped[str]
    """Canonical JSON, as it was hashed."""
    previous: Mapped[str]
    hash: Mapped[str]


class AuditHeadRow(Base):
    """The trail's last line, once more: a cut end is missed here, and writers queue at this row."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str]
    proof: Mapped[bytes | None]
    """The hash, sealed with the store's key."""
