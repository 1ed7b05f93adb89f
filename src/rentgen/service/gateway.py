"""For the operator: what the gateway has in hand, what it could not deliver, and whether it shall try again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from rentgen.service.api import STORE, Admin
from rentgen.service.problems import Problem
from rentgen.service.schemas import Shape
from rentgen.settings import Settings
from rentgen.store.gateway import Queue, State, Step

router = APIRouter(prefix="/v1/gateway", tags=["gateway"])

MOST_LETTERS = 200
"""Dead letters that are shown, the oldest first; `steps` counts all of them."""

Number = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]


class StepsOut(Shape):
    """How many steps of a kind are in a state."""

    step: Step
    destination: str = Field(description="Of a delivery; empty for other steps.")
    state: State
    count: int


class LetterOut(Shape):
    """A step that was given up until a person says otherwise."""

    job_id: int
    step: Step
    destination: str = Field(description="Of a delivery; empty for other steps.")
    attempts: int
    reason: str = Field(description="Of the last failure.")


class GatewayOut(Shape):
    """What the gateway has in hand."""

    objects: int = Field(description="That were received and are not cleared away yet.")
    conflicts: int = Field(description="Objects whose SOP Instance UID another object has.")
    open_batches: int = Field(description="Studies that still wait for more objects.")
    oldest_s: float | None = Field(description="For how long the oldest unfinished step is due; null where all are.")
    steps: list[StepsOut]
    dead_letters: list[LetterOut] = Field(description=f"The oldest first, at most {MOST_LETTERS}.")


class RetryIn(Shape):
    """Which dead letters to try again: those that are all that is said; all of them where nothing is."""

    job_id: Number | None = None
    destination: str | None = Field(None, pattern=r"^[^\x00]+$", max_length=2000)


class RetriedOut(Shape):
    """How many are tried again."""

    retried: int


class DiscardIn(Shape):
    """Which dead letter to give up for good."""

    job_id: Number


class DiscardedOut(Shape):
    """How many were given up."""

    discarded: int


def open_queue(settings: Settings) -> Queue | None:
    """Return the gateway's queue in the service's store; None where the service keeps nothing.

    Raises:
        RentgenError: the store cannot be opened.
    """
    if not settings.store:
        return None
    key = None if settings.key is None else settings.key.get_secret_value()
    return Queue.open(settings.database.get_secret_value(), key=key)


def _queue_of(request: Request) -> Queue:
    queue: Queue | None = request.app.state.gateway
    if queue is None:
        raise Problem(404, "not_found", "This service keeps nothing, and so has no gateway's queue; leave store on.")
    return queue


QueueOf = Annotated[Queue, Depends(_queue_of)]


@router.get("", summary="What the gateway has in hand", response_model=GatewayOut, responses=STORE)
async def overview(_: Admin, queue: QueueOf) -> Response:
    """Return counts, how long the oldest step waits, and dead letters; it names nothing of a patient."""
    return JSONResponse(await asyncio.to_thread(_overview, queue, datetime.now(UTC)))


def _overview(queue: Queue, now: datetime) -> dict[str, object]:
    counts = queue.counts()
    letters = queue.dead_letters(MOST_LETTERS)
    # A step that is tried again later is due in the future: it is not late.
    oldest_s = None if counts.oldest is None else max(0.0, (now - counts.oldest).total_seconds())
    return {
        "objects": counts.objects,
        "conflicts": counts.conflicts,
        "open_batches": counts.open_batches,
        "oldest_s": oldest_s,
        "steps": [
            {"step": step, "destination": destination, "state": state, "count": count}
            for (step, destination, state), count in sorted(counts.steps.items())
        ],
        "dead_letters": [
            {
                "job_id": letter.job_id,
                "step": letter.step,
                "destination": letter.destination,
                "attempts": letter.attempts,
                "reason": letter.reason,
            }
            for letter in letters
        ],
    }


@router.post("/retry", summary="Try dead letters again", response_model=RetriedOut, responses=STORE)
async def retry(who: Admin, queue: QueueOf, body: RetryIn) -> Response:
    """Return how many are tried again: one, those of a destination, or all; noted in the audit trail."""
    retried = await asyncio.to_thread(
        queue.retry, datetime.now(UTC), job_id=body.job_id, destination=body.destination, actor=who
    )
    if body.job_id is not None and not retried:
        raise _gone()
    return JSONResponse({"retried": retried})


@router.post("/discard", summary="Give a dead letter up for good", response_model=DiscardedOut, responses=STORE)
async def discard(who: Admin, queue: QueueOf, body: DiscardIn) -> Response:
    """Return 1: nothing tries it again, and its study can be finished without it; noted in the audit trail."""
    discarded = await asyncio.to_thread(queue.discard, body.job_id, datetime.now(UTC), actor=who)
    if not discarded:
        raise _gone()
    return JSONResponse({"discarded": discarded})


def _gone() -> Problem:
    return Problem(404, "not_found", "There is no such dead letter; it may be under way again, or be given up.")
