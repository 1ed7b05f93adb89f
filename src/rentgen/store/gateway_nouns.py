"""The nouns of the gateway's queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


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
        reason: of the last failure; empty where there was none.
    """

    job_id: int
    batch_id: int
    step: Step
    destination: str
    attempts: int
    lease: str = field(repr=False)
    reason: str = ""


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
        oldest: when the last object came of the oldest batch with a step that is neither done nor given up; None
            where there is none. A failure that is tried again later does not make it younger.
    """

    objects: int
    conflicts: int
    open_batches: int
    steps: Mapping[tuple[Step, str, State], int]
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Batch:
    """How far objects of one study that came together are; nothing of whom they show.

    Attributes:
        batch_id: as in `DeadLetter`.
        objects: how many they are.
        first_at: when the first came.
        last_at: when the last came.
        done_at: when their last step was done; None before.
        steps: (step, destination) to where it stands; none while more objects may come.
    """

    batch_id: int
    objects: int
    first_at: datetime
    last_at: datetime
    done_at: datetime | None
    steps: Mapping[tuple[Step, str], State]
