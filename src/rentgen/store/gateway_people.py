"""What an operator is shown of the queue."""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rentgen.store.gateway_nouns import Batch, State, Step
from rentgen.store.gateway_schema import BatchRow, JobRow, ObjectRow


def newest(connection: Connection, limit: int) -> tuple[Batch, ...]:
    """Return so many batches, the newest first."""
    rows = connection.execute(sa.select(BatchRow).order_by(BatchRow.id.desc()).limit(limit)).all()
    if not rows:
        return ()
    # Of batches in one stretch of numbers, so that the question stays short.
    stretch = (rows[-1].id, rows[0].id)
    counted = sa.select(ObjectRow.batch_id, sa.func.count()).where(ObjectRow.batch_id.between(*stretch))
    objects = {batch_id: int(count) for batch_id, count in connection.execute(counted.group_by(ObjectRow.batch_id))}
    steps: dict[int, dict[tuple[Step, str], State]] = defaultdict(dict)
    for job in connection.execute(sa.select(JobRow).where(JobRow.batch_id.between(*stretch)).order_by(JobRow.id)):
        steps[job.batch_id][Step(job.step), job.destination] = State(job.state)
    return tuple(
        Batch(row.id, objects.get(row.id, 0), row.first_at, row.last_at, row.done_at, steps[row.id]) for row in rows
    )
