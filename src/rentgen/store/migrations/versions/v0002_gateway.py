"""The gateway's queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    _objects()
    _work()


def _objects() -> None:
    op.create_table(
        "gateway_batches",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("open_uid", sa.Text(), nullable=True),
        sa.Column("first_at", MOMENT, nullable=False),
        sa.Column("last_at", MOMENT, nullable=False),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_batches"),
        sa.UniqueConstraint("open_uid", name="uq_gateway_batches_open_uid"),
    )
    op.create_index("ix_gateway_batches_study_uid", "gateway_batches", ["study_uid"])
    op.create_table(
        "gateway_objects",
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        _batch("gateway_objects"),
        sa.PrimaryKeyConstraint("sop_uid", name="pk_gateway_objects"),
    )
    op.create_index("ix_gateway_objects_batch_id", "gateway_objects", ["batch_id"])
    op.create_table(
        "gateway_conflicts",
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sop_uid", "content_hash", name="pk_gateway_conflicts"),
    )


def _work() -> None:
    op.create_table(
        "gateway_jobs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        _batch("gateway_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_jobs"),
        sa.UniqueConstraint("batch_id", "step", "destination", name="uq_gateway_jobs_batch_id"),
    )
    op.create_index("ix_gateway_jobs_due", "gateway_jobs", ["step", "state", "due_at", "id"])
    op.create_table(
        "gateway_answers",
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sop_uid"], ["gateway_objects.sop_uid"], name="fk_gateway_answers_sop_uid", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sop_uid", name="pk_gateway_answers"),
    )
    op.create_table(
        "gateway_documents",
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        _batch("gateway_documents"),
        sa.PrimaryKeyConstraint("batch_id", "destination", "number", name="pk_gateway_documents"),
    )


def _batch(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["batch_id"], ["gateway_batches.id"], name=f"fk_{table}_batch_id", ondelete="CASCADE"
    )
