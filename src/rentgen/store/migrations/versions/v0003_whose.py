"""Whose the gateway's objects are, so that they can be found when a study or a patient is to be forgotten.

What is here already gets its study's name when the store is opened, for the secret of the names is sealed; whose it is
cannot be told any more: it is found by its film.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = {
    "gateway_batches": ("study_id",),
    "gateway_objects": ("patient",),
    "gateway_conflicts": ("study_id", "patient"),
}


def upgrade() -> None:
    """Add the columns."""
    for table, columns in COLUMNS.items():
        for column in columns:
            op.add_column(table, sa.Column(column, sa.Text(), nullable=True))
            op.create_index(f"ix_{table}_{column}", table, [column])
    op.create_index("ix_gateway_objects_content_hash", "gateway_objects", ["content_hash"])
