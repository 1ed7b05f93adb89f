"""Alembic's environment: it runs on the connection that it is handed, inside that connection's transaction."""

from __future__ import annotations

from alembic import context

from rentgen.store import gateway_schema  # noqa: F401 - its tables belong to the metadata
from rentgen.store.schema import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
