"""What a physician says of each of several findings, where a film has no one class."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is here already names a class, or nothing."""
    op.add_column("feedback", sa.Column("findings", sa.LargeBinary(), nullable=True))
